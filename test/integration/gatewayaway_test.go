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

package integration

import (
	"fmt"
	"net/http"
	"strconv"
	"testing"
	"time"

	httpgateway "github.com/opensandbox-io/sandbox-apiserver/pkg/gateway"
)

// readsAndWrites are requests of every kind that needs the cluster, each answered with a 2xx while all is well.
func (g *gatewayFixture) readsAndWrites() []answer {
	g.Helper()
	var answers []answer
	for _, r := range []struct{ method, path, body string }{
		{http.MethodGet, "/v1/sandboxes", ""},
		{http.MethodGet, "/v1/sandboxes/demo", ""},
		{http.MethodPatch, "/v1/sandboxes/demo/metadata", `{"seen":"yes"}`},
		{http.MethodPost, "/v1/sandboxes/demo/resume", ""},
		{http.MethodGet, "/v1/snapshots", ""},
		{http.MethodPost, "/v1/sandboxes/demo/snapshots", "{}"},
		{http.MethodGet, "/v1/sandboxes/demo/diagnostics/events?scope=all", ""},
		{http.MethodGet, "/v1/sandboxes/demo/diagnostics/inspect", ""},
	} {
		answers = append(answers, g.asks(r.method, r.path, r.body))
	}
	return answers
}

// TestAClusterThatIsAway: every request is a 503 that says when to try again, in time for a client that waits, and nobody has to do
// anything for the gateway to work again.
func TestAClusterThatIsAway(t *testing.T) {
	for _, test := range []struct {
		name   string
		leaves func(*aggregating) (comes func())
	}{
		{"kube-apiserver", func(h *aggregating) func() { h.leave(); return h.arrive }},
		{"a kube-apiserver that does not answer", func(h *aggregating) func() { h.leave(); end := h.hang(); return func() { end(); h.arrive() } }},
		{"the Sandbox API", func(h *aggregating) func() { h.without(true); return func() { h.without(false) } }},
	} {
		t.Run(test.name, func(t *testing.T) {
			t.Parallel()
			g := newGateway(t, func(c *httpgateway.Config) { c.RequestTimeout = 2 * time.Second })
			g.create(sandbox("demo"))
			g.asRunning("demo")
			for i, got := range g.readsAndWrites() {
				if got.code > 299 {
					t.Fatalf("request %d before: %d %s", i, got.code, got.body)
				}
			}
			comes := test.leaves(g.host)
			began := time.Now()
			for i, got := range g.readsAndWrites() {
				again, err := strconv.Atoi(got.header.Get("Retry-After"))
				if got.code != http.StatusServiceUnavailable || err != nil || again < 1 {
					t.Errorf("request %d without: %d %s, Retry-After %q", i, got.code, got.body, got.header.Get("Retry-After"))
				}
			}
			if took := time.Since(began); took > 25*time.Second {
				t.Errorf("the refusals took %s", took)
			}
			// It is alive, and takes requests: that it ends or is left out of its Service helps nobody.
			for _, path := range []string{"/health", "/readyz", "/openapi.json"} {
				g.is(g.call(http.MethodGet, path, "", ""), 200, "")
			}
			// Whom it does not know it need not ask about.
			g.is(g.call(http.MethodGet, "/v1/sandboxes", "another key", ""), 401, "INVALID_API_KEY")

			comes()
			g.eventually(func() error {
				for i, got := range g.readsAndWrites() {
					if got.code > 299 {
						return fmt.Errorf("request %d after: %d %s", i, got.code, got.body)
					}
				}
				return nil
			})
			// What is watched is watched again.
			g.setKeys(map[string]string{"new": keyOf("a new key", tenants+g.namespace, g.namespace)})
			g.eventually(func() error {
				if got := g.call(http.MethodGet, "/v1/sandboxes/demo", "a new key", ""); got.code != http.StatusOK {
					return fmt.Errorf("the new key: %d %s", got.code, got.body)
				}
				if got := g.call(http.MethodGet, "/v1/sandboxes/demo", g.key, ""); got.code != http.StatusUnauthorized {
					return fmt.Errorf("the key that was removed: %d %s", got.code, got.body)
				}
				return nil
			})
		})
	}
}
