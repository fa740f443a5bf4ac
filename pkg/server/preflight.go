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
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/opensandbox-io/sandbox-apiserver/pkg/controller"
	sandboxstorage "github.com/opensandbox-io/sandbox-apiserver/pkg/registry/lifecycle/sandbox/storage"
)

// newPreflight connects the dry runs of pauses with the cluster around the server, on every
// replica; nil where there is no cluster.
func (s *Server) newPreflight(own, host client.Client) (sandboxstorage.Preflight, error) {
	if host == nil {
		return nil, nil
	}
	preflight, err := controller.NewPreflight(own, host, s.options.Controller)
	if err == nil && s.host != nil {
		preflight.OfCluster = s.host.warning
	}
	return preflight, err
}
