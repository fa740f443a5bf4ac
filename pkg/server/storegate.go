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
	"errors"
	"net/http"
	"sync"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apiserver/pkg/endpoints/handlers/responsewriters"
	"k8s.io/apiserver/pkg/endpoints/request"
	"k8s.io/apiserver/pkg/server/healthz"

	"github.com/opensandbox-io/sandbox-apiserver/apis/lifecycle/v1alpha1"
	"github.com/opensandbox-io/sandbox-apiserver/pkg/apiserver/scheme"
)

// storeGate keeps requests for our resources out until the store is confirmed. Discovery and
// health pass, so that the APIService stays and its answers let the reason reach the user. That spares no
// namespace: their controller lists what is in one, and deletes none while a list is answered with an error.
// https://github.com/kubernetes/kubernetes/blob/v1.37.1/pkg/controller/namespace/deletion/namespaced_resources_deleter.go
type storeGate struct {
	opened chan struct{}

	mu      sync.RWMutex
	reason  string
	refused bool
}

func newStoreGate() *storeGate {
	return &storeGate{opened: make(chan struct{}), reason: "the identity of the store is not yet confirmed"}
}

// open lets requests pass, for good.
func (g *storeGate) open() { close(g.opened) }

// wait says why it is not open yet; refuse, why it will not open by itself.
func (g *storeGate) wait(reason string)   { g.set(reason, false) }
func (g *storeGate) refuse(reason string) { g.set(reason, true) }

func (g *storeGate) set(reason string, refused bool) {
	g.mu.Lock()
	defer g.mu.Unlock()
	g.reason, g.refused = reason, refused
}

// closed returns why requests do not pass; ok where they do.
func (g *storeGate) closed() (reason string, refused, ok bool) {
	select {
	case <-g.opened:
		return "", false, true
	default:
	}
	g.mu.RLock()
	defer g.mu.RUnlock()
	return g.reason, g.refused, false
}

// confirmed is closed once requests pass.
func (g *storeGate) confirmed() <-chan struct{} { return g.opened }

// withStoreGate answers 503 to requests for our resources while the gate is closed.
func withStoreGate(handler http.Handler, gate *storeGate) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, req *http.Request) {
		reason, refused, ok := gate.closed()
		info, found := request.RequestInfoFrom(req.Context())
		if ok || !found || !info.IsResourceRequest || info.APIGroup != v1alpha1.GroupName {
			handler.ServeHTTP(w, req)
			return
		}
		err := apierrors.NewServiceUnavailable(reason)
		if !refused {
			// It will pass in a moment: clients wait and repeat by themselves.
			w.Header().Set("Retry-After", "1")
		}
		responsewriters.ErrorNegotiated(err, scheme.Codecs, v1alpha1.SchemeGroupVersion, w, req)
	})
}

// readyzCheck fails until the store is confirmed or refused: a server that refuses is as ready
// as it will get.
func (g *storeGate) readyzCheck() healthz.HealthChecker {
	return healthz.NamedCheck("store-identity", func(*http.Request) error {
		if reason, refused, ok := g.closed(); !ok && !refused {
			return errors.New(reason)
		}
		return nil
	})
}
