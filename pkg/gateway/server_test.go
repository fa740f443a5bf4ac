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
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"time"

	"github.com/getkin/kin-openapi/openapi3"
	"github.com/spf13/pflag"
	"k8s.io/client-go/rest"

	"github.com/opensandbox-io/sandbox-apiserver/pkg/gateway/clustertest"
	"github.com/opensandbox-io/sandbox-apiserver/pkg/gateway/contract"
	"github.com/opensandbox-io/sandbox-apiserver/pkg/gateway/identity"
)

// newServer returns a gateway whose kube-apiserver is a handler.
func newServer(t *testing.T, cluster http.Handler, change func(*Config)) *Server {
	t.Helper()
	config := Config{Listen: "127.0.0.1:0",
		DefaultNamespace: "default", OpenAs: "anyone", RouteKeyNamespace: "sandbox-system", RouteKeyName: "route-key",
		MaxBody: 1 << 20, RequestTimeout: 10 * time.Second, ShutdownGrace: 10 * time.Second,
	}
	if cluster != nil {
		upstream := httptest.NewServer(cluster)
		t.Cleanup(upstream.Close)
		config.Cluster = &rest.Config{Host: upstream.URL}
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

// TestEveryAnswerHasItsShape: whatever is asked, and whoever answers it, what is no 2xx is {"code", "message"}; also where a
// router answers itself (https://github.com/manyminds/api2go/issues/143).
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
	s := newServer(t, http.HandlerFunc(serveNothing), nil)
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	listener := listen(t)
	ended := make(chan error, 1)
	go func() { ended <- s.Serve(ctx, listener) }()
	for deadline := time.Now().Add(30 * time.Second); ; time.Sleep(10 * time.Millisecond) {
		response, err := http.Get("http://" + listener.Addr().String() + "/v1/readyz")
		if err != nil {
			t.Fatal(err)
		}
		response.Body.Close()
		if response.StatusCode == http.StatusOK {
			break
		}
		if time.Now().After(deadline) {
			t.Fatalf("not ready after 30 s: %s", response.Status)
		}
	}
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

// serveNothing is a kube-apiserver that has no objects, and never will.
func serveNothing(w http.ResponseWriter, r *http.Request) {
	switch {
	case r.Method != http.MethodGet, r.URL.Query().Get("sendInitialEvents") != "":
		http.Error(w, "not here", http.StatusBadRequest)
	case r.URL.Query().Get("watch") != "":
		_ = http.NewResponseController(w).Flush()
		<-r.Context().Done()
	default:
		w.Header().Set("Content-Type", "application/json")
		version := "v1"
		if strings.HasPrefix(r.URL.Path, "/apis/lifecycle") {
			version = "lifecycle.opensandbox.io/v1alpha1"
		}
		kind := map[string]string{"pods": "PodList", "secrets": "SecretList", "sandboxes": "SandboxList"}[r.URL.Path[strings.LastIndex(r.URL.Path, "/")+1:]]
		_, _ = fmt.Fprintf(w, `{"kind": %q, "apiVersion": %q, "metadata": {"resourceVersion": "1"}, "items": []}`, kind, version)
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

// TestARequestKeepsItsID, if it can be written into headers and logs as it is
// (https://github.com/getnora-io/nora/issues/539, https://github.com/afreidah/s3-orchestrator/issues/64).
func TestARequestKeepsItsID(t *testing.T) {
	s := newServer(t, http.NotFoundHandler(), nil)
	for sent, kept := range map[string]bool{
		"":                                     false,
		"b0b7d1a6-8ee7-4c4f-9a6c-1f1f6a1e8f11": true,
		"trace:1/2=3":                          true,
		strings.Repeat("a", 128):               true,
		strings.Repeat("a", 129):               false,
		"a b":                                  false,
		"a\r\nSet-Cookie: b":                   false,
		"a\x1b[2J":                             false,
		`a","level":"error`:                    false,
		"ä":                                    false,
	} {
		r := httptest.NewRequestWithContext(t.Context(), "GET", "/health", http.NoBody)
		r.Header["X-Request-Id"] = []string{sent}
		w := httptest.NewRecorder()
		s.Handler().ServeHTTP(w, r)
		if got := w.Header().Values("X-Request-Id"); len(got) != 1 || got[0] == "" || (got[0] == sent) != kept {
			t.Errorf("%q: %q", sent, got)
		}
	}
}

// TestAPanicIsAnAnswer, unless one has begun: then the connection is cut, so that nobody takes the half of it for the whole.
func TestAPanicIsAnAnswer(t *testing.T) {
	for _, begun := range []bool{false, true} {
		server := httptest.NewServer(withRequest(recovered(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
			if begun {
				w.Header().Set("Content-Length", "100")
				_, _ = w.Write([]byte("half"))
				_ = http.NewResponseController(w).Flush()
			}
			panic("oh")
		}))))
		client := &http.Client{}
		if !begun {
			client.Transport = contract.Transport(t, nil)
		}
		response, err := client.Get(server.URL + "/v1/sandboxes")
		if err != nil {
			t.Fatal(err)
		}
		_, err = io.ReadAll(response.Body)
		response.Body.Close()
		if begun != (err != nil) || !begun && response.StatusCode != http.StatusInternalServerError {
			t.Errorf("begun %v: %s, %v", begun, response.Status, err)
		}
		server.Close()
	}
}

// TestALargeBodyIsRefused, whether it says beforehand how large it is or not; and nothing is created of it.
func TestALargeBodyIsRefused(t *testing.T) {
	cluster := clustertest.New(t, nil)
	s := newServer(t, http.NotFoundHandler(), func(c *Config) { c.Cluster = cluster.Config() })
	server := httptest.NewServer(s.Handler())
	defer server.Close()
	client := &http.Client{Transport: contract.Transport(t, nil)}
	large := `{"env":{"a":"` + strings.Repeat("b", 10<<20) + `"}}`
	for _, body := range []io.Reader{strings.NewReader(large), io.MultiReader(strings.NewReader(large))} {
		response, err := client.Post(server.URL+"/v1/sandboxes", "application/json", body)
		if err != nil {
			t.Fatal(err)
		}
		response.Body.Close()
		if response.StatusCode != http.StatusRequestEntityTooLarge {
			t.Errorf("%s", response.Status)
		}
	}
	if seen := cluster.Seen(); len(seen) > 0 {
		t.Errorf("kube-apiserver was asked %v", seen)
	}
}

// TestAGatewayWithoutKeysDoesNotStart, and says what to do; one without its cluster waits for it, and serves 503 meanwhile.
func TestAGatewayWithoutKeysDoesNotStart(t *testing.T) {
	cluster := clustertest.New(t, nil)
	cluster.Down(true)
	s := newServer(t, nil, func(c *Config) {
		c.Cluster, c.OpenAs, c.KeysNamespace, c.KeysName = cluster.Config(), "", "sandbox-system", "keys"
	})
	listener := listen(t)
	ended := make(chan error, 1)
	go func() { ended <- s.Serve(t.Context(), listener) }()
	client := &http.Client{Transport: contract.Transport(t, nil)}
	for _, path := range []string{"/readyz", "/v1/sandboxes"} {
		r, _ := http.NewRequestWithContext(t.Context(), http.MethodGet, "http://"+listener.Addr().String()+path, http.NoBody)
		r.Header.Set("OPEN-SANDBOX-API-KEY", "a")
		response, err := client.Do(r)
		if err != nil {
			t.Fatal(err)
		}
		response.Body.Close()
		if response.StatusCode != http.StatusServiceUnavailable {
			t.Errorf("%s: %s", path, response.Status)
		}
	}
	cluster.Down(false)
	select {
	case err := <-ended:
		if !errors.Is(err, identity.ErrNoKeys) || !strings.Contains(err.Error(), "--open-as") {
			t.Error(err)
		}
	case <-time.After(30 * time.Second):
		t.Error("it serves without keys")
	}
}

// TestFlags is the table of what is refused.
func TestFlags(t *testing.T) {
	for _, c := range []struct{ flags, says string }{
		{"", ""},
		{"--keys-secret=", ""},
		{"--open-as=anyone", ""},
		{"--keys-secret=keys", "--keys-secret"},
		{"--keys-secret=A/b", "--keys-secret"},
		{"--listen=8080", "--listen"},
		{"--default-namespace=A", "--default-namespace"},
		{"--open-as=system:admin", "--open-as"},
		{"--max-body=1", "--max-body"},
		{"--request-timeout=1ms", "--request-timeout"},
		{"--shutdown-delay=-1s", "--shutdown-delay"},
		{"--v=7 --vmodule=keys=5", ""},
		{"--v=8", "tokens"},
		{"--vmodule=request=10", "tokens"},
	} {
		o := NewOptions()
		flags := pflag.NewFlagSet("", pflag.ContinueOnError)
		for _, set := range o.Flags().FlagSets {
			flags.AddFlagSet(set)
		}
		if err := flags.Parse(strings.Fields(c.flags)); err != nil {
			t.Fatal(err)
		}
		if err := o.Validate(); (err == nil) != (c.says == "") || err != nil && !strings.Contains(err.Error(), c.says) {
			t.Errorf("%s: %v", c.flags, err)
		}
	}
}

// TestHelp: every flag is in it, and what a caller of the program needs to know first.
func TestHelp(t *testing.T) {
	command := NewCommand("v1")
	var out strings.Builder
	command.SetOut(&out)
	command.SetArgs([]string{"--help"})
	if err := command.Execute(); err != nil {
		t.Fatal(err)
	}
	for _, want := range []string{"--keys-secret", "--open-as", "--kubeconfig", "sha256", "Lifecycle API"} {
		if !strings.Contains(out.String(), want) {
			t.Errorf("--help does not have %q:\n%s", want, out.String())
		}
	}
}

// TestEveryRouteOfTheDocumentIsServed, below /v1 and at the root; and /openapi.json is the document.
func TestEveryRouteOfTheDocumentIsServed(t *testing.T) {
	s := newServer(t, nil, func(c *Config) {
		c.Cluster = &rest.Config{Host: "http://cluster.invalid", Transport: &plenty{}}
	})
	w := httptest.NewRecorder()
	s.Handler().ServeHTTP(w, httptest.NewRequestWithContext(t.Context(), "GET", "/openapi.json", http.NoBody))
	served, err := openapi3.NewLoader().LoadFromData(w.Body.Bytes())
	if err != nil || served.OpenAPI != "3.1.0" {
		t.Fatalf("%s: %v", w.Body, err)
	}
	routes := 0
	for path, item := range served.Paths.Map() {
		if strings.Contains(path, "/proxy/") {
			continue
		}
		for method := range item.Operations() {
			for _, base := range []string{"", "/v1"} {
				routes++
				target := base + strings.NewReplacer("{port}", "80", "{", "", "}", "").Replace(strings.ToLower(path))
				r := httptest.NewRequestWithContext(t.Context(), method, target, strings.NewReader("{}"))
				r.Header.Set("Content-Type", "application/json")
				w := httptest.NewRecorder()
				contract.Handler(t, s.Handler()).ServeHTTP(w, r)
				if strings.Contains(w.Body.String(), "GENERAL::") && w.Code != http.StatusServiceUnavailable {
					t.Errorf("%s %s: %d %s", method, target, w.Code, w.Body)
				}
			}
		}
	}
	if routes < 60 {
		t.Errorf("the document has %d routes", routes/2)
	}
}

// TestABodyThatDoesNotComeIsNotWaitedFor: it is told, in the shape of every error.
func TestABodyThatDoesNotComeIsNotWaitedFor(t *testing.T) {
	s := newServer(t, http.NotFoundHandler(), func(c *Config) { c.RequestTimeout = 200 * time.Millisecond })
	server := httptest.NewServer(s.Handler())
	defer server.Close()
	connection, err := net.Dial("tcp", server.Listener.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	defer connection.Close()
	fmt.Fprint(connection, "POST /v1/sandboxes HTTP/1.1\r\nHost: a\r\nContent-Type: application/json\r\nContent-Length: 10\r\n\r\n{")
	_ = connection.SetDeadline(time.Now().Add(30 * time.Second))
	response, err := http.ReadResponse(bufio.NewReader(connection), nil)
	if err != nil {
		t.Fatal(err)
	}
	defer response.Body.Close()
	body, _ := io.ReadAll(response.Body)
	if response.StatusCode != http.StatusRequestTimeout || !strings.Contains(string(body), "GENERAL::REQUEST_TIMEOUT") {
		t.Errorf("%s %s", response.Status, body)
	}
}
