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
	"fmt"
	"net/http"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"

	"github.com/opensandbox-io/sandbox-apiserver/apis/lifecycle/v1alpha1"
	"github.com/opensandbox-io/sandbox-apiserver/pkg/gateway/answer"
	"github.com/opensandbox-io/sandbox-apiserver/pkg/gateway/httpapi"
)

// The ports of a sandbox that was made with secureAccess open to whoever has the token of its endpoint, and to nobody else.
func TestSecureAccess(t *testing.T) {
	w := newWorld(t)
	w.sandbox("demo", func(s *v1alpha1.Sandbox, _ *corev1.Pod) {
		s.Annotations = map[string]string{v1alpha1.AnnotationSecureAccess: "true", "another": "x"}
	})
	w.sandbox("other", func(_ *v1alpha1.Sandbox, p *corev1.Pod) { p.Name = "" })
	w.serves(func(rw http.ResponseWriter, r *http.Request) {
		fmt.Fprintf(rw, "[%s]", r.Header.Get(HeaderSecureAccess))
	})

	told, err := w.ask(httpapi.GetSandboxEndpointParams{SandboxId: "demo", Port: 8080})
	if err != nil {
		t.Fatal(err)
	}
	token := told.Headers.Value[HeaderSecureAccess]
	if token == "" {
		t.Fatalf("the endpoint has no token: %+v", told)
	}
	if plain, err := w.ask(httpapi.GetSandboxEndpointParams{SandboxId: "other", Port: 8080}); err != nil || plain.Headers.Set {
		t.Errorf("a sandbox without: %+v, %v", plain, err)
	}
	of := func(port int32) string {
		t.Helper()
		endpoint, err := w.ask(httpapi.GetSandboxEndpointParams{SandboxId: "demo", Port: port})
		if err != nil {
			t.Fatal(err)
		}
		return endpoint.Headers.Value[HeaderSecureAccess]
	}

	mustRefuse(t, w.request("GET", "/", ""), http.StatusUnauthorized, answer.CodeInvalidKey, HeaderSecureAccess)
	for name, test := range map[string]string{"made up": "AAAA", "of another port": of(9090)} {
		t.Run(name, func(t *testing.T) {
			r := w.request("GET", "/", "")
			r.Header.Set(HeaderSecureAccess, test)
			mustRefuse(t, r, http.StatusUnauthorized, answer.CodeInvalidKey, "token")
		})
	}
	for name, r := range map[string]*http.Request{"with the key": w.request("GET", "/", ""), "without": get(t, "GET", "http://"+told.Endpoint)} {
		t.Run(name, func(t *testing.T) {
			r.Header.Set(HeaderSecureAccess, token)
			response, body := do(t, r)
			if response.StatusCode != http.StatusOK || string(body) != "[]" {
				t.Errorf("%d %s, want 200, and the token kept from the sandbox", response.StatusCode, body)
			}
		})
	}
	response, _ := do(t, get(t, "GET", w.endpoint(time.Hour)))
	if response.StatusCode != http.StatusOK {
		t.Errorf("a route token opens it with %d", response.StatusCode)
	}
}
