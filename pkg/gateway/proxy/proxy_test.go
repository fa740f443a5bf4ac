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
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/json"
	"errors"
	"fmt"
	"hash"
	"io"
	"math/rand/v2"
	"net"
	"net/http"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/gorilla/websocket"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/opensandbox-io/sandbox-apiserver/apis/lifecycle/v1alpha1"
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

func TestWebSocket(t *testing.T) {
	w := newWorld(t)
	w.sandbox("demo", nil)
	upgrader := websocket.Upgrader{Subprotocols: []string{"two", "three"}} // checks that Origin is Host
	w.serves(func(rw http.ResponseWriter, r *http.Request) {
		connection, err := upgrader.Upgrade(rw, r, nil)
		if err != nil {
			return
		}
		defer connection.Close()
		for {
			kind, message, err := connection.ReadMessage()
			if err != nil {
				return
			}
			if err := connection.WriteMessage(kind, message); err != nil {
				return
			}
		}
	})
	header := http.Header{identity.HeaderKey: {goodKey}, "Origin": {w.url}}
	dialer := websocket.Dialer{Subprotocols: []string{"one", "two"}, HandshakeTimeout: time.Minute}
	connection, response, err := dialer.Dial(strings.Replace(w.url, "http", "ws", 1)+"/sandboxes/demo/proxy/8080/ws?x=y", header) //nolint:bodyclose // the WebSocket has the connection
	if err != nil {
		t.Fatalf("%v (%+v)", err, response)
	}
	defer connection.Close()
	// A subprotocol is the program's choice: https://github.com/jupyterhub/jupyter-server-proxy/issues/442.
	if got := connection.Subprotocol(); got != "two" {
		t.Errorf("subprotocol %q", got)
	}
	for _, size := range []int{0, 1, 125, 70_000, 3 << 20} {
		sent := bytes.Repeat([]byte{byte(size)}, size)
		if err := connection.WriteMessage(websocket.BinaryMessage, sent); err != nil {
			t.Fatal(err)
		}
		_, got, err := connection.ReadMessage()
		if err != nil || !bytes.Equal(got, sent) {
			t.Fatalf("message of %d bytes: %d bytes came back, %v", size, len(got), err)
		}
	}
	_ = connection.WriteControl(websocket.CloseMessage, websocket.FormatCloseMessage(4001, "bye"), time.Now().Add(time.Minute))
	var closed *websocket.CloseError
	if _, _, err := connection.ReadMessage(); !errors.As(err, &closed) || closed.Code != 4001 {
		t.Errorf("after a close with 4001: %v", err)
	}
}

// switched answers an upgrade on a raw connection.
func switched(connection *net.TCPConn) *bufio.Reader {
	reader := bufio.NewReader(connection)
	if _, err := http.ReadRequest(reader); err != nil {
		return nil
	}
	fmt.Fprint(connection, "HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: raw\r\n\r\n")
	return reader
}

func upgrade(t *testing.T, w *world, early string) (*net.TCPConn, *bufio.Reader) {
	t.Helper()
	connection := w.raw()
	fmt.Fprint(connection, w.head("GET", "/", "Connection: Upgrade", "Upgrade: raw")+early)
	reader := bufio.NewReader(connection)
	if response, body := next(t, reader); response.StatusCode != http.StatusSwitchingProtocols || response.Header.Get("Upgrade") != "raw" {
		t.Fatalf("upgrade: %+v, %s", response, body)
	}
	return connection, reader
}

// Either side may end while the other goes on: https://github.com/golang/go/issues/35892,
// https://github.com/caddyserver/caddy/issues/8026.
func TestHalfClosedUpgrades(t *testing.T) {
	w := newWorld(t)
	w.sandbox("demo", nil)
	t.Run("by the client", func(t *testing.T) {
		w.speaks(func(connection *net.TCPConn) {
			all, err := io.ReadAll(switched(connection))
			fmt.Fprintf(connection, "got %q, %v", all, err)
		})
		connection, reader := upgrade(t, w, "")
		fmt.Fprint(connection, "everything")
		_ = connection.CloseWrite()
		if got, err := io.ReadAll(reader); string(got) != `got "everything", <nil>` || err != nil {
			t.Errorf("after the client closed its side: %q, %v", got, err)
		}
	})
	t.Run("by the sandbox", func(t *testing.T) {
		got := make(chan string, 1)
		w.speaks(func(connection *net.TCPConn) {
			reader := switched(connection)
			fmt.Fprint(connection, "all that I say")
			_ = connection.CloseWrite()
			all, err := io.ReadAll(reader)
			got <- fmt.Sprintf("%q, %v", all, err)
		})
		connection, reader := upgrade(t, w, "")
		if said, err := io.ReadAll(reader); string(said) != "all that I say" || err != nil {
			t.Errorf("the sandbox said %q, %v", said, err)
		}
		fmt.Fprint(connection, "still here")
		_ = connection.CloseWrite()
		if got := <-got; got != `"still here", <nil>` {
			t.Errorf("after the sandbox closed its side it got %s", got)
		}
	})
	// https://github.com/golang/go/issues/80875
	t.Run("by a client that did not wait", func(t *testing.T) {
		w.speaks(func(connection *net.TCPConn) {
			all, err := io.ReadAll(switched(connection))
			fmt.Fprintf(connection, "got %q, %v", all, err)
		})
		connection := w.raw()
		fmt.Fprint(connection, w.head("GET", "/", "Connection: Upgrade", "Upgrade: raw")+"sent before it was told")
		_ = connection.CloseWrite()
		got, err := io.ReadAll(connection)
		if !strings.HasPrefix(string(got), "HTTP/1.1 101 ") || !strings.HasSuffix(string(got), `got "sent before it was told", <nil>`) || err != nil {
			t.Errorf("got %q, %v", got, err)
		}
	})
}

// A program that switches to what nobody asked for is no way around HTTP.
func TestUnaskedUpgrades(t *testing.T) {
	w := newWorld(t)
	w.sandbox("demo", nil)
	ended := make(chan error, 2)
	w.speaks(func(connection *net.TCPConn) {
		_, err := io.ReadAll(switched(connection))
		ended <- err
	})
	mustRefuse(t, w.request("GET", "/", ""), http.StatusBadGateway, answer.CodeBackendConnectionFailed, "switched protocols")
	r := w.request("GET", "/", "")
	r.Header.Set("Connection", "Upgrade")
	r.Header.Set("Upgrade", "websocket")
	mustRefuse(t, r, http.StatusBadGateway, answer.CodeBackendConnectionFailed, "switched protocols")
	for range 2 {
		select {
		case <-ended:
		case <-time.After(30 * time.Second):
			t.Fatal("the connection to the sandbox is kept")
		}
	}
}

// BusyBox's wget closes its side behind its request: https://github.com/envoyproxy/envoy/issues/17160.
func TestHalfClosedRequests(t *testing.T) {
	w := newWorld(t)
	w.sandbox("demo", nil)
	for _, c := range []struct {
		name, request string
		serve         http.HandlerFunc
		want          string
	}{
		{"that is answered later", w.head("GET", "/", "Connection: close"), func(w http.ResponseWriter, r *http.Request) {
			select {
			case <-r.Context().Done():
			case <-time.After(1500 * time.Millisecond):
				fmt.Fprint(w, "here it is")
			}
		}, "here it is"},
		{"with a body", w.head("POST", "/", "Connection: close", "Content-Length: 4") + "body", func(w http.ResponseWriter, r *http.Request) {
			body, err := io.ReadAll(r.Body)
			time.Sleep(200 * time.Millisecond)
			fmt.Fprintf(w, "got %q, %v", body, err)
		}, `got "body", <nil>`},
		{"that is answered while it is sent", w.head("POST", "/", "Connection: close", "Transfer-Encoding: chunked") + "4\r\nbody\r\n0\r\n\r\n",
			func(w http.ResponseWriter, r *http.Request) {
				_ = http.NewResponseController(w).EnableFullDuplex()
				_ = http.NewResponseController(w).Flush()
				body, err := io.ReadAll(r.Body)
				time.Sleep(200 * time.Millisecond)
				fmt.Fprintf(w, "got %q, %v", body, err)
			}, `got "body", <nil>`},
	} {
		t.Run(c.name, func(t *testing.T) {
			w.serves(c.serve)
			connection := w.raw()
			fmt.Fprint(connection, c.request)
			_ = connection.CloseWrite()
			if response, body := next(t, bufio.NewReader(connection)); response.StatusCode != http.StatusOK || body != c.want {
				t.Errorf("%s %q, want %q", response.Status, body, c.want)
			}
		})
	}
}

// A sandbox is told soon that nobody listens any more, though a client that has left looks like one that only has nothing
// more to send.
func TestClientsThatLeave(t *testing.T) {
	w := newWorld(t)
	w.sandbox("demo", nil)
	for _, c := range []struct {
		name  string
		begin bool
	}{{"before the answer", false}, {"in the middle of the answer", true}} {
		t.Run(c.name, func(t *testing.T) {
			began, left := make(chan struct{}), make(chan struct{})
			w.serves(func(w http.ResponseWriter, r *http.Request) {
				if c.begin {
					fmt.Fprint(w, "something")
					_ = http.NewResponseController(w).Flush()
				}
				close(began)
				<-r.Context().Done()
				close(left)
			})
			connection := w.raw()
			fmt.Fprint(connection, w.head("GET", "/"))
			<-began
			if c.begin {
				// All that came is read: what closes with something unread sends a reset.
				_ = connection.SetReadDeadline(time.Now().Add(200 * time.Millisecond))
				if got, err := io.ReadAll(connection); !strings.Contains(string(got), "something") {
					t.Fatalf("%q, %v", got, err)
				}
			}
			since := time.Now()
			connection.Close()
			select {
			case <-left:
				t.Logf("told after %s", time.Since(since))
			case <-time.After(30 * time.Second):
				t.Fatal("the sandbox still answers nobody after 30 s")
			}
		})
	}
}

// Events arrive one by one, however long the next takes: https://github.com/incidentfox/incidentfox/pull/244,
// https://github.com/docker/sbx-releases/issues/480.
func TestServerSentEvents(t *testing.T) {
	for _, kind := range []string{"text/event-stream", "application/x-ndjson", ""} {
		w := newWorld(t)
		w.sandbox("demo", nil)
		next := make(chan string)
		w.serves(func(rw http.ResponseWriter, _ *http.Request) {
			rw.Header().Set("Content-Type", kind)
			_ = http.NewResponseController(rw).Flush()
			for event := range next {
				fmt.Fprintf(rw, "data: %s\n\n", event)
				_ = http.NewResponseController(rw).Flush()
			}
		})
		response, err := http.DefaultClient.Do(w.request("GET", "/", ""))
		if err != nil {
			t.Fatal(err)
		}
		lines := bufio.NewReader(response.Body)
		for i := range 3 {
			next <- fmt.Sprint(i) // the next is written only once this one has been read
			line, err := lines.ReadString('\n')
			if want := fmt.Sprintf("data: %d\n", i); line != want || err != nil {
				t.Fatalf("%s: %q, %v; want %q", kind, line, err, want)
			}
			_, _ = lines.ReadString('\n')
		}
		close(next)
		response.Body.Close()
	}
}

// A program may answer while it is still being sent to.
func TestBothWaysAtOnce(t *testing.T) {
	w := newWorld(t)
	w.sandbox("demo", nil)
	w.serves(func(rw http.ResponseWriter, r *http.Request) {
		_ = http.NewResponseController(rw).EnableFullDuplex()
		_ = http.NewResponseController(rw).Flush()
		lines := bufio.NewScanner(r.Body)
		for lines.Scan() {
			fmt.Fprintln(rw, "got", lines.Text())
			_ = http.NewResponseController(rw).Flush()
		}
	})
	in, out := io.Pipe()
	r := w.request("POST", "/", "")
	r.Body = in
	response, err := http.DefaultClient.Do(r)
	if err != nil {
		t.Fatal(err)
	}
	defer response.Body.Close()
	lines := bufio.NewReader(response.Body)
	for _, word := range []string{"one", "two"} {
		fmt.Fprintln(out, word)
		if line, err := lines.ReadString('\n'); line != "got "+word+"\n" || err != nil {
			t.Fatalf("%q, %v", line, err)
		}
	}
	out.Close()
	if rest, err := io.ReadAll(lines); len(rest) > 0 || err != nil {
		t.Errorf("%q, %v", rest, err)
	}
}

// A refusal before the body has been sent reaches who waits for leave to send it.
func TestExpectContinue(t *testing.T) {
	w := newWorld(t)
	w.sandbox("demo", nil)
	w.serves(func(rw http.ResponseWriter, r *http.Request) {
		if r.URL.Path == "/full" {
			rw.WriteHeader(http.StatusInsufficientStorage)
			return
		}
		echo(rw, r)
	})
	connection := w.raw()
	fmt.Fprint(connection, w.head("PUT", "/full", "Expect: 100-continue", "Content-Length: 1000000", "Connection: close"))
	if response, _ := next(t, bufio.NewReader(connection)); response.StatusCode != http.StatusInsufficientStorage {
		t.Errorf("to a PUT that waits: %+v", response)
	}
	connection = w.raw()
	fmt.Fprint(connection, w.head("PUT", "/", "Expect: 100-continue", "Content-Length: 4", "Connection: close"))
	reader := bufio.NewReader(connection)
	if response, _ := next(t, reader); response.StatusCode != http.StatusContinue {
		t.Fatalf("to a PUT that waits: %+v", response)
	}
	fmt.Fprint(connection, "body")
	if response, body := next(t, reader); response.StatusCode != http.StatusOK || body != "body" {
		t.Errorf("%s %q", response.Status, body)
	}
}

// An answer that comes before the request has ended ends it: the rest of the body is not waited for, and nobody reads it at
// the same time as the next request.
func TestAnswersBeforeTheEndOfTheRequest(t *testing.T) {
	w := newWorld(t)
	w.sandbox("demo", nil)
	w.speaks(func(connection *net.TCPConn) {
		_, _ = http.ReadRequest(bufio.NewReader(connection))
		fmt.Fprint(connection, "HTTP/1.1 413 Content Too Large\r\nContent-Length: 7\r\n\r\nenough!")
		_ = connection.CloseWrite()
		_, _ = io.Copy(io.Discard, connection)
	})
	for i := range 20 {
		connection := w.raw()
		fmt.Fprint(connection, w.head("POST", "/", "Content-Length: 1000000")+strings.Repeat("x", i*100))
		if response, body := next(t, bufio.NewReader(connection)); response.StatusCode != http.StatusRequestEntityTooLarge || body != "enough!" {
			t.Fatalf("%s %q", response.Status, body)
		}
		connection.Close()
	}
	client := http.Client{Timeout: time.Minute}
	defer client.CloseIdleConnections()
	for range 300 { // on one connection, as far as it is kept
		response, err := client.Do(w.request("POST", "/", "a body that is sent while it is refused"))
		if err != nil {
			t.Fatal(err)
		}
		_, _ = io.Copy(io.Discard, response.Body)
		response.Body.Close()
	}
}

func TestTrailersAndInterimResponses(t *testing.T) {
	w := newWorld(t)
	w.sandbox("demo", nil)
	w.serves(func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Link", "</style.css>")
		w.WriteHeader(http.StatusEarlyHints)
		w.Header().Set("Trailer", "X-Sum")
		fmt.Fprint(w, "body")
		w.Header().Set("X-Sum", "1")
	})
	connection := w.raw()
	fmt.Fprint(connection, w.head("GET", "/", "Connection: close", "TE: trailers"))
	reader := bufio.NewReader(connection)
	if response, _ := next(t, reader); response.StatusCode != http.StatusEarlyHints || response.Header.Get("Link") == "" {
		t.Fatalf("%+v", response)
	}
	if response, body := next(t, reader); body != "body" || response.Trailer.Get("X-Sum") != "1" {
		t.Errorf("%q, trailer %v", body, response.Trailer)
	}
}

// A program that has just ended an idle connection does not cost a request: that one gets a connection of its own, or is
// sent again where nothing can have happened.
func TestConnectionsThatEndWhileIdle(t *testing.T) {
	w := newWorld(t)
	w.sandbox("demo", nil)
	var answered atomic.Int32
	w.speaks(func(connection *net.TCPConn) {
		r, err := http.ReadRequest(bufio.NewReader(connection))
		if err != nil {
			return
		}
		_, _ = io.ReadAll(r.Body)
		answered.Add(1)
		fmt.Fprint(connection, "HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok")
		// Says nothing of closing, and closes.
	})
	const rounds = 200
	for i := range rounds {
		method := []string{"GET", "POST", "PUT", "DELETE"}[i%4]
		body := map[string]string{"POST": "x", "PUT": "x"}[method]
		if response, got := do(t, w.request(method, "/", body)); response.StatusCode != http.StatusOK || got != "ok" {
			t.Fatalf("request %d, %s: %s %q", i, method, response.Status, got)
		}
	}
	if answered.Load() != rounds {
		t.Errorf("%d requests were received as %d", rounds, answered.Load())
	}
}

// endless is pseudo-random, and known by its sum.
type endless struct {
	source *rand.ChaCha8
	left   int64
	sum    hash.Hash
}

func newEndless(size int64) *endless {
	return &endless{source: rand.NewChaCha8([32]byte{1}), left: size, sum: sha256.New()}
}

func (e *endless) Read(p []byte) (int, error) {
	if e.left == 0 {
		return 0, io.EOF
	}
	p = p[:min(int64(len(p)), e.left)]
	_, _ = e.source.Read(p)
	e.left -= int64(len(p))
	e.sum.Write(p)
	return len(p), nil
}

// What is large goes through as it comes: neither the gateway's memory nor its patience ends it.
func TestLargeBodies(t *testing.T) {
	size := int64(16 << 20)
	w := newWorld(t)
	w.sandbox("demo", nil)
	w.serves(func(rw http.ResponseWriter, r *http.Request) {
		if r.Method == http.MethodGet {
			if r.URL.Path == "/known" {
				rw.Header().Set("Content-Length", fmt.Sprint(size))
			}
			_, _ = io.Copy(rw, newEndless(size))
			return
		}
		sum := sha256.New()
		n, err := io.Copy(sum, r.Body)
		fmt.Fprintf(rw, "%d %x %v", n, sum.Sum(nil), err)
	})
	var want string
	for _, path := range []string{"/known", "/chunked"} {
		body := newEndless(size)
		r := w.request("POST", path, "")
		r.Body = io.NopCloser(body)
		if path == "/known" {
			r.ContentLength = size
		}
		_, got := do(t, r)
		want = fmt.Sprintf("%x", body.sum.Sum(nil))
		if got != fmt.Sprintf("%d %s <nil>", size, want) {
			t.Errorf("up, %s: %s, want %s", path, got, want)
		}
		response, err := http.DefaultClient.Do(w.request("GET", path, ""))
		if err != nil {
			t.Fatal(err)
		}
		sum := sha256.New()
		if n, err := io.Copy(sum, response.Body); n != size || err != nil || fmt.Sprintf("%x", sum.Sum(nil)) != want {
			t.Errorf("down, %s: %d bytes, %x, %v; want %s", path, n, sum.Sum(nil), err, want)
		}
		response.Body.Close()
	}
}

// What has come with the headers, and what the kernel moves after it, are one body, wherever in a buffer that begins.
func TestWhereALargeBodyBegins(t *testing.T) {
	w := newWorld(t)
	w.sandbox("demo", nil)
	body := make([]byte, spliceFrom+5)
	_, _ = rand.NewChaCha8([32]byte{2}).Read(body)
	w.speaks(func(connection *net.TCPConn) {
		reader := bufio.NewReader(connection)
		for {
			r, err := http.ReadRequest(reader)
			if err != nil {
				return
			}
			var padding, apart int
			_, _ = fmt.Sscanf(r.URL.Path, "/%d/%d", &padding, &apart)
			head := fmt.Sprintf("HTTP/1.1 200 OK\r\nContent-Length: %d\r\nX-Padding: %s\r\n\r\n", len(body), strings.Repeat("x", padding))
			_, _ = connection.Write(append([]byte(head), body[:apart]...))
			if apart < transportBuffer {
				time.Sleep(time.Millisecond) // so that it is likely read by itself
			}
			_, _ = connection.Write(body[apart:])
		}
	})
	for _, padding := range []int{0, 1, 1000, 3900, 4000, 4020, 4040, 5000, 9000} {
		for _, apart := range []int{0, 1, 100, len(body)} {
			response, got := do(t, w.request("GET", fmt.Sprintf("/%d/%d", padding, apart), ""))
			if response.StatusCode != http.StatusOK || got != string(body) {
				t.Errorf("%d bytes of padding, %d bytes of the body with the headers: %s, %d bytes", padding, apart, response.Status, len(got))
			}
		}
	}
}

// A download that the sandbox breaks off is not called whole.
func TestBrokenOffDownloads(t *testing.T) {
	w := newWorld(t)
	w.sandbox("demo", nil)
	for name, begun := range map[string]string{
		"chunked":           "Transfer-Encoding: chunked\r\n\r\n4\r\nhalf\r\n",
		"of a known length": "Content-Length: 8\r\n\r\nhalf",
		"large":             fmt.Sprintf("Content-Length: %d\r\n\r\n%s", 4*spliceFrom, strings.Repeat("half", spliceFrom/2)),
	} {
		w.speaks(func(connection *net.TCPConn) {
			_, _ = http.ReadRequest(bufio.NewReader(connection))
			fmt.Fprint(connection, "HTTP/1.1 200 OK\r\n"+begun)
			_ = connection.CloseWrite()
			_, _ = io.Copy(io.Discard, connection)
		})
		response, err := http.DefaultClient.Do(w.request("POST", "/", ""))
		if err != nil {
			t.Fatal(err)
		}
		if body, err := io.ReadAll(response.Body); err == nil || len(body)%4 != 0 || len(body) == 0 {
			t.Errorf("%s: %d bytes are told to be everything: %v", name, len(body), err)
		}
		response.Body.Close()
	}
}

// Nobody would hear for minutes that a Pod is gone: its address is silent.
func TestStreamsEndWithThePod(t *testing.T) {
	w := newWorld(t)
	w.sandbox("demo", nil)
	began := make(chan struct{}, 2)
	w.speaks(func(connection *net.TCPConn) {
		reader := bufio.NewReader(connection)
		r, err := http.ReadRequest(reader)
		if err != nil {
			return
		}
		if r.Header.Get("Upgrade") != "" {
			fmt.Fprint(connection, "HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: raw\r\n\r\n")
		} else {
			fmt.Fprint(connection, "HTTP/1.1 200 OK\r\n\r\nsomething")
		}
		began <- struct{}{}
		_, _ = io.ReadAll(reader) // until the gateway closes
	})
	_, switchedReader := upgrade(t, w, "")
	stream, err := http.DefaultClient.Do(w.request("GET", "/", ""))
	if err != nil {
		t.Fatal(err)
	}
	defer stream.Body.Close()
	<-began
	<-began
	if err := w.kube.CoreV1().Pods(tenant).Delete(context.Background(), "demo", metav1.DeleteOptions{}); err != nil {
		t.Fatal(err)
	}
	var ends sync.WaitGroup
	ends.Go(func() { _, _ = io.ReadAll(switchedReader) })
	ends.Go(func() {
		if _, err := io.ReadAll(stream.Body); err == nil {
			t.Error("what there was of the stream is told to be everything")
		}
	})
	done := make(chan struct{})
	go func() { ends.Wait(); close(done) }()
	select {
	case <-done:
	case <-time.After(25 * time.Second):
		t.Fatal("25 s after its Pod was deleted a stream goes on")
	}
	mustRefuse(t, w.request("GET", "/", ""), http.StatusServiceUnavailable, answer.CodePodIPNotAvailable, "Running")
	if len(w.cluster.lives.uids) > 0 {
		t.Errorf("kept: %v", w.cluster.lives.uids)
	}
}

// What cannot be connected to is told in the gateway's words: https://github.com/opensandbox-group/OpenSandbox/issues/1665.
func TestNothingListens(t *testing.T) {
	w := newWorld(t)
	sandbox := w.sandbox("demo", nil)
	mustRefuse(t, w.request("GET", "/", ""), http.StatusBadGateway, answer.CodeBackendConnectionFailed, "nothing listens on port 8080")
	mustRefuse(t, w.request("POST", "/", "body"), http.StatusBadGateway, answer.CodeBackendConnectionFailed, "nothing listens on port 8080")
	w.speaks(func(connection *net.TCPConn) { _, _ = connection.Read(make([]byte, 1)) })
	mustRefuse(t, w.request("POST", "/", "body"), http.StatusBadGateway, answer.CodeBackendConnectionFailed, "without an HTTP answer")
	// It was paused while the request went out.
	w.speaks(func(connection *net.TCPConn) {
		w.set(sandbox, func(s *v1alpha1.SandboxStatus) { s.Phase = v1alpha1.SandboxPausing })
	})
	mustRefuse(t, w.request("GET", "/", ""), http.StatusServiceUnavailable, answer.CodePodIPNotAvailable, "Pausing")
}

func TestStates(t *testing.T) {
	w := newWorld(t)
	sandbox := w.sandbox("demo", nil)
	w.serves(echo)
	for _, phase := range []v1alpha1.SandboxPhase{v1alpha1.SandboxPaused, v1alpha1.SandboxPausing, v1alpha1.SandboxResuming, v1alpha1.SandboxPending} {
		w.set(sandbox, func(s *v1alpha1.SandboxStatus) { s.Phase = phase })
		mustRefuse(t, w.request("GET", "/ping", ""), http.StatusServiceUnavailable, answer.CodePodIPNotAvailable, string(phase))
	}
	w.set(sandbox, func(s *v1alpha1.SandboxStatus) { s.Phase = v1alpha1.SandboxRunning })
	if response, body := do(t, w.request("GET", "/ping", "")); response.StatusCode != http.StatusOK {
		t.Errorf("%s %s", response.Status, body)
	}
	// Back as another Pod, which is not in the cache yet.
	w.set(sandbox, func(s *v1alpha1.SandboxStatus) { s.PodUID = "the next" })
	mustRefuse(t, w.request("GET", "/ping", ""), http.StatusServiceUnavailable, answer.CodePodIPNotAvailable, "not been seen")
}

// Nobody gets anywhere but to programs of the sandbox's own Pod:
// https://github.com/kubernetes-sigs/agent-sandbox/pull/755 (the client named the address).
func TestOnlyThePodsOwnAddress(t *testing.T) {
	for name, c := range map[string]struct {
		change func(*v1alpha1.Sandbox, *corev1.Pod)
		status int
		code   string
	}{
		"host network":       {func(_ *v1alpha1.Sandbox, p *corev1.Pod) { p.Spec.HostNetwork = true }, 403, answer.CodeInvalidState},
		"the node's address": {func(_ *v1alpha1.Sandbox, p *corev1.Pod) { p.Status.PodIP = nodeIP }, 403, answer.CodeInvalidState},
		"a node's other": {func(_ *v1alpha1.Sandbox, p *corev1.Pod) {
			p.Status.HostIPs = append(p.Status.HostIPs, corev1.HostIP{IP: podIP})
		}, 403, answer.CodeInvalidState},
		"loopback":          {func(_ *v1alpha1.Sandbox, p *corev1.Pod) { p.Status.PodIP = "127.0.0.1" }, 403, answer.CodeInvalidState},
		"loopback, IPv6":    {func(_ *v1alpha1.Sandbox, p *corev1.Pod) { p.Status.PodIP = "::1" }, 403, answer.CodeInvalidState},
		"loopback, as IPv6": {func(_ *v1alpha1.Sandbox, p *corev1.Pod) { p.Status.PodIP = "::ffff:127.0.0.1" }, 403, answer.CodeInvalidState},
		"link-local":        {func(_ *v1alpha1.Sandbox, p *corev1.Pod) { p.Status.PodIP = "169.254.169.254" }, 403, answer.CodeInvalidState},
		"link-local, IPv6":  {func(_ *v1alpha1.Sandbox, p *corev1.Pod) { p.Status.PodIP = "fe80::1" }, 403, answer.CodeInvalidState},
		"unspecified":       {func(_ *v1alpha1.Sandbox, p *corev1.Pod) { p.Status.PodIP = "0.0.0.0" }, 403, answer.CodeInvalidState},
		"multicast":         {func(_ *v1alpha1.Sandbox, p *corev1.Pod) { p.Status.PodIP = "224.0.0.1" }, 403, answer.CodeInvalidState},
		"a name":            {func(_ *v1alpha1.Sandbox, p *corev1.Pod) { p.Status.PodIP = "kubernetes.default.svc" }, 502, answer.CodeBackendConnectionFailed},
		"no address":        {func(_ *v1alpha1.Sandbox, p *corev1.Pod) { p.Status.PodIP = "" }, 503, answer.CodePodIPNotAvailable},
		"ended":             {func(_ *v1alpha1.Sandbox, p *corev1.Pod) { p.Status.Phase = corev1.PodSucceeded }, 502, answer.CodeBackendConnectionFailed},
		"failed":            {func(_ *v1alpha1.Sandbox, p *corev1.Pod) { p.Status.Phase = corev1.PodFailed }, 502, answer.CodeBackendConnectionFailed},
		"ending": {func(_ *v1alpha1.Sandbox, p *corev1.Pod) {
			p.DeletionTimestamp = &metav1.Time{Time: time.Now()}
			p.Finalizers = []string{"x/y"}
		}, 503, answer.CodePodIPNotAvailable},
		"another sandbox's":    {func(_ *v1alpha1.Sandbox, p *corev1.Pod) { p.Labels[v1alpha1.LabelSandboxUID] = "another" }, 503, answer.CodePodIPNotAvailable},
		"another Pod, by name": {func(s *v1alpha1.Sandbox, _ *corev1.Pod) { s.Status.PodUID = "another" }, 503, answer.CodePodIPNotAvailable},
		"no Pod yet":           {func(s *v1alpha1.Sandbox, _ *corev1.Pod) { s.Status.PodUID = "" }, 503, answer.CodePodIPNotAvailable},
		"failed without a Pod": {func(s *v1alpha1.Sandbox, _ *corev1.Pod) {
			s.Status = v1alpha1.SandboxStatus{Phase: v1alpha1.SandboxFailed}
		}, 502, answer.CodeBackendConnectionFailed},
		"being deleted":     {func(s *v1alpha1.Sandbox, _ *corev1.Pod) { s.DeletionTimestamp = &metav1.Time{Time: time.Now()} }, 503, answer.CodePodIPNotAvailable},
		"its own":           {func(*v1alpha1.Sandbox, *corev1.Pod) {}, 0, ""},
		"its own, IPv6":     {func(_ *v1alpha1.Sandbox, p *corev1.Pod) { p.Status.PodIP = "fd00:10::5" }, 0, ""},
		"failed with a Pod": {func(s *v1alpha1.Sandbox, _ *corev1.Pod) { s.Status.Phase = v1alpha1.SandboxFailed }, 0, ""},
	} {
		sandbox := aSandbox("demo")
		pod := podFor(sandbox)
		c.change(sandbox, pod)
		slimmed, _ := slimPod(pod)
		slim, _ := slimSandbox(sandbox)
		got, err := target(slim.(*v1alpha1.Sandbox), slimmed.(*corev1.Pod))
		var refusal *answer.Error
		errors.As(err, &refusal)
		switch {
		case c.status == 0 && (err != nil || got == nil):
			t.Errorf("%s: %v", name, err)
		case c.status != 0 && (refusal == nil || refusal.Status != c.status || refusal.Code != c.code || got != nil):
			t.Errorf("%s: %v, %+v; want %d %s", name, got, refusal, c.status, c.code)
		}
	}
}

// The address is looked at again when it is dialled.
func TestTheDialledAddress(t *testing.T) {
	w := newWorld(t)
	w.sandbox("demo", nil)
	w.serves(echo)
	do(t, w.request("GET", "/", ""))
	if len(w.dialled) != 1 || w.dialled[0] != podIP+":8080" {
		t.Errorf("dialled %v", w.dialled)
	}
	for _, address := range []string{"uid-of-another:8080", "127.0.0.1:8080", podIP + ":8080"} {
		if connection, err := w.forwarder.connect(context.Background(), "tcp", address); err == nil {
			connection.Close()
			t.Errorf("%s was dialled", address)
		}
	}
}
