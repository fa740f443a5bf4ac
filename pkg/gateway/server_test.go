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

package gateway

import (
	"context"
	"encoding/json"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"time"

	"k8s.io/client-go/rest"

	"github.com/opensandbox-io/sandbox-apiserver/pkg/gateway/contract"
)

// newServer returns a gateway whose kube-apiserver is a handler.
func newServer(t *testing.T, cluster http.Handler, change func(*Config)) *Server {
	t.Helper()
	upstream := httptest.NewServer(cluster)
	t.Cleanup(upstream.Close)
	config := Config{
		Cluster: &rest.Config{Host: upstream.URL}, Listen: "127.0.0.1:0",
		DefaultNamespace: "default", OpenAs: "anyone",
		MaxBody: 1 << 20, RequestTimeout: 10 * time.Second, ShutdownGrace: 10 * time.Second,
	}
	if change != nil {
		change(&config)
	}
	server, err := New(config)
	if err != nil {
		t.Fatal(err)
	}
	return server
}

// TestEveryAnswerHasItsShape: whatever is asked, and whoever answers it, what is no 2xx is {"code", "message"}.
func TestEveryAnswerHasItsShape(t *testing.T) {
	open := newServer(t, http.NotFoundHandler(), nil)
	closed := newServer(t, http.NotFoundHandler(), func(c *Config) { c.OpenAs = "" })
	for _, c := range []struct {
		name          string
		server        *Server
		method, path  string
		body          string
		status        int
		code, message string
	}{
		{"health", closed, "GET", "/health", "", 200, "", ""},
		{"health below /v1", closed, "GET", "/v1/health", "", 200, "", ""},
		{"the document", closed, "GET", "/v1/openapi.json", "", 200, "", ""},
		{"health by another method", closed, "POST", "/health", "", 405, "GENERAL::METHOD_NOT_ALLOWED", "GET"},
		{"no key", closed, "GET", "/v1/sandboxes", "", 401, "MISSING_API_KEY", "OPEN-SANDBOX-API-KEY"},
		{"no key, no such path", closed, "GET", "/nothing", "", 401, "MISSING_API_KEY", "OPEN-SANDBOX-API-KEY"},
		{"no such path", open, "GET", "/v1/nothing", "", 404, "GENERAL::NOT_FOUND", `"/v1/nothing"`},
		{"a path with ..", open, "POST", "/v1/sandboxes/../snapshots", "", 404, "KUBERNETES::SANDBOX_NOT_FOUND", "sandboxId"},
		{"an id with ..", open, "GET", "/v1/sandboxes/..%2Fsnapshots", "", 404, "KUBERNETES::SANDBOX_NOT_FOUND", "sandboxId"},
		{"no such method", open, "PUT", "/sandboxes/a", "", 405, "GENERAL::METHOD_NOT_ALLOWED", "DELETE"},
		{"not offered", open, "GET", "/templates", "", 501, "SANDBOX::API_NOT_SUPPORTED", "virtual machines"},
	} {
		t.Run(c.name, func(t *testing.T) {
			r := httptest.NewRequestWithContext(t.Context(), c.method, c.path, strings.NewReader(c.body))
			w := httptest.NewRecorder()
			contract.Handler(t, c.server.Handler()).ServeHTTP(w, r)
			body, _ := io.ReadAll(w.Result().Body)
			if w.Code != c.status || w.Header().Get("X-Request-ID") == "" {
				t.Fatalf("%d %v %s, want %d", w.Code, w.Header(), body, c.status)
			}
			if c.status < 300 {
				return
			}
			var fields map[string]string
			if err := json.Unmarshal(body, &fields); err != nil || len(fields) != 2 || fields["code"] != c.code || !strings.Contains(fields["message"], c.message) {
				t.Errorf("%s, want code %s and a message with %s", body, c.code, c.message)
			}
		})
	}
}

// TestAGatewayServesAndEnds: over a real connection, until it is told to end.
func TestAGatewayServesAndEnds(t *testing.T) {
	s := newServer(t, http.NotFoundHandler(), nil)
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	listener := listen(t)
	ended := make(chan error, 1)
	go func() { ended <- s.Serve(ctx, listener) }()
	response, err := http.Get("http://" + listener.Addr().String() + "/v1/readyz")
	if err != nil || response.StatusCode != http.StatusOK {
		t.Fatalf("%v, %v", response, err)
	}
	response.Body.Close()
	cancel()
	select {
	case err := <-ended:
		if err != nil {
			t.Error(err)
		}
	case <-time.After(30 * time.Second):
		t.Error("it has not ended")
	}
}

func listen(t *testing.T) net.Listener {
	t.Helper()
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	return listener
}
