/*
Copyright The Sandbox API Server Authors.

Licensed under the Apache License, Version 2.0 (the "License");
you may not use this file except in compliance with the License.
You may obtain a copy of the License at

    http://www.apache.org/licenses/LICENSE-2.0

Unless required by applicable law or agreed to in writing, software
distributed under the License is distributed on an "AS IS" BASIS,
WITHOUT WARRANTIES OR CONDITIONS OF ANY KIND, either express or implied.
See the License for the specific language governing permissions and
limitations under the License.
*/

// Package apiserver assembles the server of the lifecycle API from a configuration: nothing
// half-configured can be started.
package apiserver

import (
	"fmt"

	"k8s.io/apiserver/pkg/registry/generic"
	genericapiserver "k8s.io/apiserver/pkg/server"
	"k8s.io/utils/clock"

	"github.com/opensandbox-io/sandbox-apiserver/pkg/apiserver/scheme"
	"github.com/opensandbox-io/sandbox-apiserver/pkg/registry/lifecycle/evictionreview"
	"github.com/opensandbox-io/sandbox-apiserver/pkg/registry/lifecycle/rest"
	sandboxstorage "github.com/opensandbox-io/sandbox-apiserver/pkg/registry/lifecycle/sandbox/storage"
)

// Config is what a server is made from. Its generic part is filled in by the options of the
// program, or by a test.
type Config struct {
	GenericConfig *genericapiserver.RecommendedConfig
	ExtraConfig   ExtraConfig
}

// ExtraConfig is the part of the configuration that is this server's own.
type ExtraConfig struct {
	// Preflight answers dry runs of a pause. Nil: they look at the sandbox alone.
	Preflight sandboxstorage.Preflight
	// Evictions is what answers to evictions look at, but for the sandboxes. Without a Cluster all of them are allowed.
	Evictions evictionreview.Surroundings
	// Room knows whether the store takes more. Nil: only etcd does, when it refuses.
	Room Room
	// Clock tells the time of conditions and requests. Nil: the real one.
	Clock clock.PassiveClock
}

type completedConfig struct {
	genericConfig genericapiserver.CompletedConfig
	extraConfig   *ExtraConfig
}

// CompletedConfig is a configuration with every default filled in. It cannot be made but by
// Config.Complete.
type CompletedConfig struct {
	*completedConfig
}

// Complete fills in what is not set and can be derived from the rest.
func (c *Config) Complete() CompletedConfig {
	if c.GenericConfig.OpenAPIConfig == nil {
		c.GenericConfig.OpenAPIConfig = OpenAPIConfig()
	}
	if c.GenericConfig.OpenAPIV3Config == nil {
		c.GenericConfig.OpenAPIV3Config = OpenAPIV3Config()
	}
	if c.GenericConfig.AdmissionControl != nil {
		c.GenericConfig.AdmissionControl = admitsReviews{c.GenericConfig.AdmissionControl}
	}
	if c.ExtraConfig.Clock == nil {
		c.ExtraConfig.Clock = clock.RealClock{}
	}
	return CompletedConfig{&completedConfig{
		genericConfig: c.GenericConfig.Complete(),
		extraConfig:   &c.ExtraConfig,
	}}
}

// stores is what all stores of the API have around etcd, from the outside to the inside.
func (c CompletedConfig) stores() generic.RESTOptionsGetter {
	room := c.extraConfig.Room
	return refusesWhenFull(pacedWrites(writesInTurn(resumableWatches{sharedHistory{c.genericConfig.RESTOptionsGetter}}), room), room)
}

// Server serves the lifecycle API.
type Server struct {
	*genericapiserver.GenericAPIServer
}

// New makes the server and installs the API group. It does not listen yet.
func (c CompletedConfig) New() (*Server, error) {
	served, err := c.genericConfig.New("sandbox-apiserver", genericapiserver.NewEmptyDelegate())
	if err != nil {
		return nil, fmt.Errorf("making the generic server: %w", err)
	}
	typeConverter, err := newTypeConverter(c.genericConfig.OpenAPIV3Config)
	if err != nil {
		return nil, err
	}
	group, err := rest.StorageProvider{
		Scheme:         scheme.Scheme,
		ParameterCodec: scheme.ParameterCodec,
		Codecs:         scheme.Codecs,
		TypeConverter:  typeConverter,
		Authorizer:     c.genericConfig.Authorization.Authorizer,
		Preflight:      c.extraConfig.Preflight,
		Evictions:      c.extraConfig.Evictions,
		Clock:          c.extraConfig.Clock,
	}.NewAPIGroup(c.stores())
	if err != nil {
		return nil, err
	}
	if err := served.InstallAPIGroup(group); err != nil {
		return nil, fmt.Errorf("installing the API group: %w", err)
	}
	return &Server{GenericAPIServer: served}, nil
}
