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

package server

import (
	"context"
	"fmt"
	"os"

	corev1 "k8s.io/api/core/v1"
	genericapiserver "k8s.io/apiserver/pkg/server"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/opensandbox-io/sandbox-apiserver/pkg/registry/lifecycle/evictionreview"
)

// answering are the connections by which requests are answered, on every replica and past every cache: to this server, and to
// the cluster around it; nil where there is none. Their requests count apart from those of the controllers, so that neither can
// hold up the other.
func (s *Server) answering(config *genericapiserver.RecommendedConfig) (own, host client.Client, err error) {
	known, err := controllerScheme()
	if err != nil {
		return nil, nil, err
	}
	// Nothing is sent before the server serves.
	own, err = client.New(speakingJSON(config.LoopbackClientConfig), client.Options{Scheme: known, Mapper: ownMapper()})
	if err != nil {
		return nil, nil, fmt.Errorf("connecting to this server: %w", err)
	}
	if s.options.Standalone != nil {
		return own, s.options.Standalone.Host, nil
	}
	host, err = client.New(s.controllers.host, client.Options{Scheme: known})
	if err != nil {
		return nil, nil, fmt.Errorf("connecting to the kube-apiserver: %w", err)
	}
	return own, host, nil
}

// newEvictions connects the answers to evictions with the cluster around the server.
func (s *Server) newEvictions(own, host client.Client) evictionreview.Surroundings {
	around := evictionreview.Surroundings{
		Own:          own,
		Self:         evictionreview.Self{Namespace: s.options.Namespace, Pod: os.Getenv("POD_NAME")},
		JobNamespace: s.options.Controller.CommitJobNamespace,
	}
	if host != nil {
		around.Cluster = hostPods{host}
	}
	return around
}

// hostPods reads what answers to evictions are made of.
type hostPods struct{ client.Reader }

func (h hostPods) Pod(ctx context.Context, namespace, name string) (*corev1.Pod, error) {
	pod := &corev1.Pod{}
	return pod, h.Get(ctx, client.ObjectKey{Namespace: namespace, Name: name}, pod)
}

func (h hostPods) Node(ctx context.Context, name string) (*corev1.Node, error) {
	node := &corev1.Node{}
	return node, h.Get(ctx, client.ObjectKey{Name: name}, node)
}
