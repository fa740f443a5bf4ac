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
	"bufio"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/opensandbox-io/sandbox-apiserver/pkg/gateway/answer"
	"github.com/opensandbox-io/sandbox-apiserver/pkg/gateway/identity"
)

// echo answers with what it got.
func echo(w http.ResponseWriter, r *http.Request) {
	body, _ := io.ReadAll(r.Body)
	w.Header().Set("X-Method", r.Method)
	w.Header().Set("X-Uri", r.RequestURI)
	_, _ = w.Write(body)
}

// answered is an answer without its body.
type answered struct {
	Status          string
	StatusCode      int
	Header, Trailer http.Header
}

func do(t *testing.T, r *http.Request) (answered, string) {
	t.Helper()
	client := http.Client{Timeout: time.Minute, CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse }}
	t.Cleanup(client.CloseIdleConnections)
	response, err := client.Do(r)
	if err != nil {
		t.Fatal(err)
	}
	got, body, err := whole(response)
	if err != nil {
		t.Fatal(err)
	}
	return got, body
}

// next reads the next answer of a connection.
func next(t *testing.T, reader *bufio.Reader) (answered, string) {
	t.Helper()
	response, err := http.ReadResponse(reader, nil)
	if err != nil {
		t.Fatal(err)
	}
	got, body, err := whole(response)
	if err != nil {
		t.Fatal(err)
	}
	return got, body
}

func whole(response *http.Response) (answered, string, error) {
	defer response.Body.Close()
	body, err := io.ReadAll(response.Body)
	return answered{response.Status, response.StatusCode, response.Header, response.Trailer}, string(body), err
}

// mustRefuse has a request be answered by the gateway itself.
func mustRefuse(t *testing.T, r *http.Request, status int, code, says string) {
	t.Helper()
	response, body := do(t, r)
	var said struct{ Code, Message string }
	if err := json.Unmarshal([]byte(body), &said); err != nil {
		t.Errorf("%s %s: %s %q is no error of the gateway's: %v", r.Method, r.URL, response.Status, body, err)
	}
	if response.StatusCode != status || said.Code != code || !strings.Contains(said.Message, says) {
		t.Errorf("%s %s:\n got %s %q\nwant %d %s: …%s…", r.Method, r.URL, response.Status, body, status, code, says)
	}
	if again := response.Header.Get("Retry-After"); (status == http.StatusServiceUnavailable) != (again != "") {
		t.Errorf("%s %s: %s with Retry-After %q", r.Method, r.URL, response.Status, again)
	}
}

func TestEveryMethod(t *testing.T) {
	w := newWorld(t)
	w.sandbox("demo", nil)
	w.serves(echo)
	for _, method := range []string{"GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS", "TRACE", "PROPFIND", "MKCOL", "REPORT", "QUERY"} {
		body := "what is sent"
		if method == "HEAD" || method == "TRACE" {
			body = ""
		}
		response, got := do(t, w.request(method, "/x", body))
		if response.StatusCode != http.StatusOK || response.Header.Get("X-Method") != method || got != body {
			t.Errorf("%s: %s %v %q", method, response.Status, response.Header, got)
		}
	}
}

// What follows the port arrives as it was sent: https://github.com/jupyterhub/jupyter-server-proxy/issues/510 (%2F became a
// slash), https://github.com/jupyterhub/jupyter-server-proxy/issues/185 (@ became %40),
// https://github.com/kubernetes/kubernetes/issues/52022 (the first slash was lost).
func TestThePathArrivesAsItCame(t *testing.T) {
	w := newWorld(t)
	w.sandbox("demo", nil)
	w.serves(echo)
	for sent, want := range map[string]string{
		"":                                   "/",
		"/":                                  "/",
		"?a=b":                               "/?a=b",
		"/?":                                 "/?",
		"/a":                                 "/a",
		"/a/":                                "/a/",
		"//a//b//":                           "//a//b//",
		"/a%2Fb%2f":                          "/a%2Fb%2f",
		"/%41%20%25%3F%23":                   "/%41%20%25%3F%23",
		"/@org/package/$x!*'(),;:=&+~":       "/@org/package/$x!*'(),;:=&+~",
		"/a|b^c\"d`e{f}":                     "/a|b^c\"d`e{f}",
		"/caf%C3%A9/%FF":                     "/caf%C3%A9/%FF",
		"/café":                              "/café",
		"/x?b=2&a=1;c&%zz&d=%2F+ü&&e=a/../b": "/x?b=2&a=1;c&%zz&d=%2F+ü&&e=a/../b",
		"//evil.example.com/x?y":             "//evil.example.com/x?y",
		"/./a/.b/...":                        "/./a/.b/...",
		"/http://elsewhere/":                 "/http://elsewhere/",
		"/v1/sandboxes/other/proxy/1/":       "/v1/sandboxes/other/proxy/1/",
	} {
		connection := w.raw()
		fmt.Fprint(connection, w.head("GET", sent, "Connection: close"))
		response, body := next(t, bufio.NewReader(connection))
		if got := response.Header.Get("X-Uri"); response.StatusCode != http.StatusOK || got != want {
			t.Errorf("%s: %s\n got %s\nwant %s\n%s", sent, response.Status, got, want, body)
		}
	}
}

func TestBadPaths(t *testing.T) {
	w := newWorld(t)
	w.sandbox("demo", nil)
	w.serves(echo)
	for path, code := range map[string]string{
		"/v1/sandboxes/demo/proxy/0":                 answer.CodeInvalidPort,
		"/v1/sandboxes/demo/proxy/65536/x":           answer.CodeInvalidPort,
		"/sandboxes/demo/proxy/x":                    answer.CodeInvalidPort,
		"/v1/sandboxes/demo/proxy/8080/../x":         answer.CodeInvalidParameter,
		"/v1/sandboxes/demo/proxy/8080/%2e%2e/x":     answer.CodeInvalidParameter,
		"/v1/sandboxes/demo/proxy/8080/x/..%2f..%2f": answer.CodeInvalidParameter,
	} {
		r := w.request("GET", "", "")
		var err error
		if r.URL, err = r.URL.Parse(w.url); err != nil {
			t.Fatal(err)
		}
		r.URL.Opaque = path
		mustRefuse(t, r, http.StatusBadRequest, code, "")
	}
	if len(w.dialled) > 0 {
		t.Errorf("dialled %v", w.dialled)
	}
}

// What a client shows the gateway, others could use as it: https://github.com/kubernetes-sigs/agent-sandbox/pull/922 hands
// Authorization on. That the prefix is said: https://github.com/tbrandenburg/cade/issues/83.
func TestRequestHeaders(t *testing.T) {
	w := newWorld(t)
	w.sandbox("demo", nil)
	var got *http.Request
	w.serves(func(_ http.ResponseWriter, r *http.Request) { got = r })
	r := w.request("GET", "/x", "")
	for name, value := range map[string]string{
		"Authorization": "Bearer secret", "Cookie": "session=secret", HeaderRouteToken: "", "Proxy-Authorization": "Basic secret",
		"Keep-Alive": "timeout=5", "Te": "gzip", "Connection": "close, X-Hop", "X-Hop": "1", "Proxy-Connection": "keep-alive",
		"X-Forwarded-For": "192.0.2.1", "X-Forwarded-Proto": "https", "Origin": w.url, "X-Own": "kept", "X-Request-Id": "the-clients",
		"Forwarded": "for=192.0.2.9",
	} {
		r.Header.Set(name, value)
	}
	do(t, r)
	for _, gone := range []string{identity.HeaderKey, HeaderRouteToken, "Authorization", "Cookie", "Proxy-Authorization", "Keep-Alive", "Te", "Connection", "X-Hop", "Proxy-Connection", "Forwarded", "Accept-Encoding-"} {
		if values := got.Header.Values(gone); len(values) > 0 {
			t.Errorf("the sandbox gets %s: %v", gone, values)
		}
	}
	host := strings.TrimPrefix(w.url, "http://")
	for name, want := range map[string]string{
		"X-Forwarded-For": "192.0.2.1, 127.0.0.1", "X-Forwarded-Proto": "https", "X-Forwarded-Host": host,
		"X-Forwarded-Prefix": "/v1/sandboxes/demo/proxy/8080", "Origin": w.url, "X-Own": "kept", "X-Request-Id": "the-gateways",
	} {
		if values := got.Header.Values(name); len(values) != 1 || values[0] != want {
			t.Errorf("%s: %q, want %q", name, values, want)
		}
	}
	if got.Host != host {
		t.Errorf("Host %q, want %q: programs compare it with Origin", got.Host, host)
	}
}

func TestResponseHeaders(t *testing.T) {
	w := newWorld(t)
	w.sandbox("demo", nil)
	w.serves(func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("Set-Cookie", "session=1; Path=/")
		w.Header().Set("Strict-Transport-Security", "max-age=1")
		w.Header().Set("Service-Worker-Allowed", "/")
		w.Header().Set("Clear-Site-Data", `"*"`)
		w.Header().Set("X-Request-Id", "the-sandboxes")
		w.Header().Set("Etag", `"1"`)
		w.Header().Set("Location", r.URL.Query().Get("to"))
		w.WriteHeader(http.StatusFound)
	})
	const base = "/v1/sandboxes/demo/proxy/8080"
	for to, want := range map[string]string{
		"/login":                    base + "/login",
		"/login?next=/":             base + "/login?next=/",
		"/":                         base + "/",
		w.url + "/login":            base + "/login",
		w.url:                       base + "/",
		base + "/login":             base + "/login",
		base:                        base,
		base + "0/login":            base + base + "0/login",
		"login":                     "login",
		"../x":                      "../x",
		"https://example.com/login": "https://example.com/login",
		"//example.com/login":       "//example.com/login",
		"?x":                        "?x",
		"#x":                        "#x",
		"":                          "",
	} {
		response, _ := do(t, w.request("GET", "/x?to="+strings.NewReplacer("?", "%3F", "#", "%23", "&", "%26").Replace(to), ""))
		if got := response.Header.Get("Location"); got != want {
			t.Errorf("Location %q became %q, want %q", to, got, want)
		}
		for _, name := range originWide {
			if response.Header.Get(name) != "" {
				t.Errorf("the client gets %s: %q, which is for all that the gateway serves", name, response.Header.Get(name))
			}
		}
		if ids := response.Header.Values("X-Request-Id"); len(ids) != 1 || ids[0] != "the-gateways" {
			t.Errorf("X-Request-Id: %q", ids)
		}
		if response.Header.Get("Etag") != `"1"` {
			t.Errorf("Etag: %q", response.Header.Get("Etag"))
		}
	}
}
