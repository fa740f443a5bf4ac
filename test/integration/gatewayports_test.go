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
	"strings"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/opensandbox-io/sandbox-apiserver/apis/lifecycle/v1alpha1"
)

// endpoint asks where a port is.
func (g *gatewayFixture) endpoint(path string) string {
	g.Helper()
	var endpoint struct{ Endpoint string }
	g.is(g.asks(http.MethodGet, path, ""), 200, "").decode(g.fixture, &endpoint)
	return endpoint.Endpoint
}

// path is what of an endpoint follows the gateway's host.
func (g *gatewayFixture) path(endpoint string) string {
	g.Helper()
	path, ok := strings.CutPrefix(endpoint, strings.TrimPrefix(g.url, "http://"))
	if !ok {
		g.Fatalf("endpoint %s is not the gateway's, %s", endpoint, g.url)
	}
	return path
}

// TestPortsOverHTTP: addresses are handed out whatever a sandbox does, and lead into it as soon as it runs, and nowhere else.
// What goes through is tested beside the proxy.
func TestPortsOverHTTP(t *testing.T) {
	g := newGateway(t)
	g.create(sandbox("demo"))
	// What SDKs ask at once, before there is a Pod.
	for _, base := range []string{"", "/v1"} {
		for _, port := range []int{44772, 18080} {
			for _, query := range []string{"", "?use_server_proxy=false", "?use_server_proxy=true"} {
				path := fmt.Sprintf("%s/sandboxes/demo/endpoints/%d%s", base, port, query)
				if got, want := g.path(g.endpoint(path)), fmt.Sprintf("%s/sandboxes/demo/proxy/%d", base, port); got != want {
					t.Errorf("%s: %s, want %s", path, got, want)
				}
			}
		}
	}
	for _, port := range []string{"0", "65536", "-1", "99999999999999999999", "http"} {
		g.is(g.asks(http.MethodGet, "/v1/sandboxes/demo/endpoints/"+port, ""), 400, "DOCKER::INVALID_PORT", "port")
		g.is(g.asks(http.MethodGet, "/v1/sandboxes/demo/proxy/"+port+"/x", ""), 400, "DOCKER::INVALID_PORT", "port")
	}
	for _, expires := range []string{"1", "-1", "soon", fmt.Sprint(time.Now().Add(-time.Minute).Unix()), "99999999999999999999999"} {
		g.is(g.asks(http.MethodGet, "/v1/sandboxes/demo/endpoints/8080?expires="+expires, ""), 400, "DOCKER::INVALID_EXPIRATION", "expires")
	}
	g.is(g.asks(http.MethodGet, "/v1/sandboxes/other/endpoints/8080", ""), 404, "KUBERNETES::SANDBOX_NOT_FOUND", "other")
	g.is(g.call(http.MethodGet, "/v1/sandboxes/demo/endpoints/8080", "", ""), 401, "MISSING_API_KEY")

	// The proxy.
	const ping = "/v1/sandboxes/demo/proxy/44772/ping"
	g.is(g.asks(http.MethodGet, "/v1/sandboxes/demo/proxy/8080/../x", ""), 400, "SANDBOX::INVALID_PARAMETER", "..")
	g.is(g.call(http.MethodGet, ping, "", ""), 401, "MISSING_API_KEY")
	g.is(g.call(http.MethodGet, ping, "nobody's", ""), 401, "INVALID_API_KEY")
	g.is(g.asks(http.MethodGet, "/v1/sandboxes/other/proxy/44772/ping", ""), 404, "KUBERNETES::SANDBOX_NOT_FOUND", "other")
	g.mustWait(ping, "Pending")
	demo := g.asRunning("demo")
	g.eventually(func() error { return g.says(ping, 503, "has not been seen") })

	// A Pod whose address is one of the machine's own.
	g.host.put(t, "pods", &corev1.Pod{
		ObjectMeta: metav1.ObjectMeta{Namespace: g.namespace, Name: "demo", UID: "pod-uid", Labels: map[string]string{v1alpha1.LabelSandboxUID: string(demo.UID)}},
		Status:     corev1.PodStatus{Phase: corev1.PodRunning, PodIP: "127.0.0.1"},
	})
	g.eventually(func() error { return g.says(ping, 403, "127.0.0.1") })

	g.asPaused("demo", "demo-gen1")
	g.eventually(func() error { return g.says(ping, 503, "Paused") })
	g.mustWait(ping, "Paused")

	// A route token, which needs no key, and is for one port until it expires. What signs it is made after the start.
	g.eventually(func() error {
		if got := g.asks(http.MethodGet, fmt.Sprintf("/v1/sandboxes/demo/endpoints/8080?expires=%d", time.Now().Add(time.Hour).Unix()), ""); got.code != 200 {
			return fmt.Errorf("%d %s", got.code, got.body)
		}
		return nil
	})
	signed := g.path(g.endpoint(fmt.Sprintf("/v1/sandboxes/demo/endpoints/8080?expires=%d", time.Now().Add(time.Hour).Unix())))
	g.is(g.call(http.MethodGet, signed+"/x", "", ""), 503, "KUBERNETES::POD_IP_NOT_AVAILABLE", "Paused")
	g.is(g.call(http.MethodGet, strings.Replace(signed, "/8080/", "/8081/", 1), "", ""), 401, "INVALID_API_KEY", "token")
	g.is(g.call(http.MethodGet, signed[:len(signed)-1], "", ""), 401, "INVALID_API_KEY", "token")
	soon := g.path(g.endpoint(fmt.Sprintf("/v1/sandboxes/demo/endpoints/8080?expires=%d", time.Now().Add(2*time.Second).Unix())))
	g.eventually(func() error {
		if got := g.call(http.MethodGet, soon, "", ""); got.code != 401 || !strings.Contains(string(got.body), "expired") {
			return fmt.Errorf("%d %s", got.code, got.body)
		}
		return nil
	})

	// Another tenant's key opens nothing, in its namespace or in this one.
	g.setKeys(map[string]string{
		"tenant":  keyOf(g.key, tenants+g.namespace, g.namespace),
		"away":    keyOf("a key elsewhere", tenants+"elsewhere", "elsewhere"),
		"another": keyOf("another key", tenants+"elsewhere", g.namespace),
	})
	for _, key := range []string{"a key elsewhere", "another key"} {
		g.eventually(func() error {
			if got := g.call(http.MethodGet, ping, key, ""); got.code != 404 || !strings.Contains(string(got.body), "KUBERNETES::SANDBOX_NOT_FOUND") {
				return fmt.Errorf("%s: %d %s", key, got.code, got.body)
			}
			return nil
		})
	}

	// kube-apiserver is away: whoever's rights cannot be asked for is told to come again.
	g.host.leave()
	got := g.is(g.call(http.MethodDelete, ping, "another key", ""), 503, "GENERAL::UNAVAILABLE", "kube-apiserver")
	if got.header.Get("Retry-After") == "" {
		t.Errorf("%v has no Retry-After", got.header)
	}
	g.host.arrive()
	g.eventually(func() error { return g.says(ping, 503, "Paused") })
}

// mustWait has the proxy say that a sandbox cannot be reached in its state, and when to come again.
func (g *gatewayFixture) mustWait(path, state string) {
	g.Helper()
	got := g.is(g.asks(http.MethodGet, path, ""), 503, "KUBERNETES::POD_IP_NOT_AVAILABLE", state)
	if got.header.Get("Retry-After") == "" {
		g.Errorf("%v has no Retry-After", got.header)
	}
}

func (g *gatewayFixture) says(path string, status int, what string) error {
	if got := g.asks(http.MethodGet, path, ""); got.code != status || !strings.Contains(string(got.body), what) {
		return fmt.Errorf("got %d %s, want %d and %q", got.code, got.body, status, what)
	}
	return nil
}
