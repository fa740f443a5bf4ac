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

// Package rest holds the map of everything that the API group serves.
package rest

import (
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/serializer"
	"k8s.io/apimachinery/pkg/util/managedfields"
	"k8s.io/apiserver/pkg/authorization/authorizer"
	"k8s.io/apiserver/pkg/registry/generic"
	"k8s.io/apiserver/pkg/registry/rest"
	genericapiserver "k8s.io/apiserver/pkg/server"
	"k8s.io/utils/clock"

	"github.com/opensandbox-io/sandbox-apiserver/apis/lifecycle"
	"github.com/opensandbox-io/sandbox-apiserver/apis/lifecycle/v1alpha1"
	"github.com/opensandbox-io/sandbox-apiserver/pkg/registry/lifecycle/evictionreview"
	sandboxstorage "github.com/opensandbox-io/sandbox-apiserver/pkg/registry/lifecycle/sandbox/storage"
	snapshotstorage "github.com/opensandbox-io/sandbox-apiserver/pkg/registry/lifecycle/sandboxsnapshot/storage"
)

// StorageProvider makes the storage of the API group.
type StorageProvider struct {
	Scheme         *runtime.Scheme
	ParameterCodec runtime.ParameterCodec
	Codecs         serializer.CodecFactory
	TypeConverter  managedfields.TypeConverter
	Authorizer     authorizer.Authorizer
	// Preflight answers dry runs of a pause. Nil: they look at the sandbox alone.
	Preflight sandboxstorage.Preflight
	// Evictions is what answers to evictions look at, but for the sandboxes.
	Evictions evictionreview.Surroundings
	Clock     clock.PassiveClock
}

// NewAPIGroup returns the group with its storage, ready to be installed.
func (p StorageProvider) NewAPIGroup(optsGetter generic.RESTOptionsGetter) (*genericapiserver.APIGroupInfo, error) {
	group := genericapiserver.NewDefaultAPIGroupInfo(lifecycle.GroupName, p.Scheme, p.ParameterCodec, p.Codecs)
	storage, err := p.v1alpha1Storage(optsGetter)
	if err != nil {
		return nil, err
	}
	group.NegotiatedSerializer = textOnly{group.NegotiatedSerializer}
	group.VersionedResourcesStorageMap[v1alpha1.SchemeGroupVersion.Version] = storage
	return &group, nil
}

func (p StorageProvider) v1alpha1Storage(optsGetter generic.RESTOptionsGetter) (map[string]rest.Storage, error) {
	snapshots, err := snapshotstorage.New(p.Scheme, optsGetter, p.Authorizer, p.Clock)
	if err != nil {
		return nil, err
	}
	sandboxes, err := sandboxstorage.New(sandboxstorage.Config{
		Scheme:        p.Scheme,
		RESTOptions:   optsGetter,
		Authorizer:    p.Authorizer,
		TypeConverter: p.TypeConverter,
		Snapshots:     snapshots.Snapshot,
		Preflight:     p.Preflight,
		Clock:         p.Clock,
	})
	if err != nil {
		return nil, err
	}

	storage := map[string]rest.Storage{}
	storage["sandboxes"] = sandboxes.Sandbox
	storage["sandboxes/status"] = sandboxes.Status
	storage["sandboxes/pause"] = sandboxes.Pause
	storage["sandboxes/resume"] = sandboxes.Resume
	storage[evictionreview.Resource] = evictionreview.NewREST(evictionreview.Config{
		Sandboxes: sandboxes.Sandbox, Surroundings: p.Evictions, Clock: p.Clock,
	})
	storage["sandboxsnapshots"] = snapshots.Snapshot
	storage["sandboxsnapshots/status"] = snapshots.Status
	return storage, nil
}
