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

package proxy

import (
	"context"
	"net/http"

	"k8s.io/apiserver/pkg/authentication/user"
	"k8s.io/apiserver/pkg/authorization/authorizer"

	"github.com/opensandbox-io/sandbox-apiserver/pkg/gateway/answer"
)

// verbs is a set of the verbs that RBAC has for pods/proxy.
type verbs byte

const (
	verbGet verbs = 1 << iota
	verbCreate
	verbUpdate
	verbPatch
	verbDelete
)

var verbNames = []struct {
	verb verbs
	name string
}{{verbGet, "get"}, {verbCreate, "create"}, {verbUpdate, "update"}, {verbPatch, "patch"}, {verbDelete, "delete"}}

// verbOf is what kube-apiserver asks for where a request of this method goes to pods/proxy. It knows no verb for other
// methods, which nobody but an administrator may use then: those that change nothing by their definition are a get here,
// and all others a create.
func verbOf(method string) verbs {
	switch method {
	case http.MethodGet, http.MethodHead, http.MethodOptions, http.MethodTrace:
		return verbGet
	case http.MethodPut:
		return verbUpdate
	case http.MethodPatch:
		return verbPatch
	case http.MethodDelete:
		return verbDelete
	}
	return verbCreate
}

// name of a single verb.
func (v verbs) name() string {
	for _, known := range verbNames {
		if known.verb == v {
			return known.name
		}
	}
	return ""
}

// mayReach asks whether a user may open the ports of a Pod, as for pods/proxy.
func (p *Proxy) mayReach(ctx context.Context, who user.Info, namespace, pod string, verb verbs) (bool, error) {
	decision, _, err := p.authorizer.Authorize(ctx, authorizer.AttributesRecord{
		User: who, Verb: verb.name(), Namespace: namespace, APIVersion: "v1",
		Resource: "pods", Subresource: "proxy", Name: pod, ResourceRequest: true,
	})
	if decision == authorizer.DecisionAllow {
		return true, nil
	}
	if err != nil {
		return false, answer.Unavailable("kube-apiserver could not be asked whether you may open the ports of the sandbox", err)
	}
	return false, nil
}

// mayAny is which verbs a user has on the ports of a Pod.
func (p *Proxy) mayAny(ctx context.Context, who user.Info, namespace, pod string) (verbs, error) {
	var all verbs
	for _, known := range verbNames {
		may, err := p.mayReach(ctx, who, namespace, pod, known.verb)
		if err != nil {
			return 0, err
		}
		if may {
			all |= known.verb
		}
	}
	return all, nil
}
