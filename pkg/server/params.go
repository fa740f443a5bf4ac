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
	"fmt"

	"k8s.io/apimachinery/pkg/runtime/schema"
	genericapiserver "k8s.io/apiserver/pkg/server"
	"k8s.io/client-go/informers"
)

// watchParamsApart keeps the parameters of admission policies out of the informers that readiness waits for. The policy
// plugins watch what every policy of the cluster names as its parameters, ConfigMaps for instance, whether the policy is
// about this API or not. The server may not read most of it: with a watch among its own that never succeeds it would never
// be ready again, from the moment that anybody installs such a policy.
func watchParamsApart(config *genericapiserver.RecommendedConfig) {
	if config.SharedInformerFactory != nil {
		config.SharedInformerFactory = paramsApart{config.SharedInformerFactory}
	}
}

// paramsApart knows no informer by resource, which is how the plugins ask for parameters; they fall back to one of their
// own. A policy about this API whose parameters cannot be read fails as its failurePolicy says.
type paramsApart struct {
	informers.SharedInformerFactory
}

// ForResource implements informers.SharedInformerFactory.
func (paramsApart) ForResource(resource schema.GroupVersionResource) (informers.GenericInformer, error) {
	return nil, fmt.Errorf("%s is not among the server's own informers", resource)
}
