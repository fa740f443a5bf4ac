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

package registry

import (
	"bytes"
	"context"
	"encoding/pem"
	"errors"
	"io"
	"log"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	memory "github.com/google/go-containerregistry/pkg/registry"
	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/static"
	"github.com/google/go-containerregistry/pkg/v1/types"

	"github.com/opensandbox-io/sandbox-apiserver/pkg/committer/layer"
	"github.com/opensandbox-io/sandbox-apiserver/pkg/committer/result"
)

func inMemory() http.Handler {
	return memory.New(memory.Logger(log.New(io.Discard, "", 0)))
}

func host(s *httptest.Server) string { return s.Listener.Addr().String() }

func target(t *testing.T, o Options, image string) *Target {
	t.Helper()
	c, err := New(o)
	if err != nil {
		t.Fatal(err)
	}
	to, err := c.Target(image)
	if err != nil {
		t.Fatal(err)
	}
	return to
}

func reasonOf(err error) result.Reason {
	if err == nil {
		return ""
	}
	return result.From(err).Reason
}

// answering answers everything but the first request for the API's version.
func answering(code int, header http.Header) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.URL.Path == "/v2/" && code != http.StatusServiceUnavailable {
			return
		}
		for k, v := range header {
			w.Header()[k] = v
		}
		w.WriteHeader(code)
	})
}

func TestFaults(t *testing.T) {
	closed := httptest.NewServer(inMemory())
	closed.Close()
	untrusted := httptest.NewTLSServer(inMemory())
	defer untrusted.Close()
	untrusted.Config.ErrorLog = log.New(io.Discard, "", 0)
	tests := map[string]struct {
		handler  http.Handler
		address  string
		insecure bool
		reason   result.Reason
		says     string
	}{
		"fine":                      {inMemory(), "", true, "", ""},
		"401":                       {answering(401, nil), "", true, result.PushSecretInvalid, "401"},
		"403":                       {answering(403, nil), "", true, result.RegistryDenied, "no push secret"},
		"404":                       {answering(404, nil), "", true, result.RegistryDenied, "404"},
		"429":                       {answering(429, nil), "", true, result.RegistryUnavailable, "429"},
		"503":                       {answering(503, nil), "", true, result.RegistryUnavailable, "503"},
		"connection refused":        {nil, host(closed), true, result.RegistryUnavailable, "refused"},
		"no such host":              {nil, "registry.invalid", false, result.RegistryUnavailable, "registry.invalid"},
		"plain HTTP is not allowed": {inMemory(), "", false, result.RegistryUnavailable, "--snapshot-registry-insecure"},
		"unknown CA":                {nil, host(untrusted), false, result.RegistryUnavailable, "--snapshot-registry-ca"},
		"unknown CA, insecure":      {nil, host(untrusted), true, "", ""},
	}
	for name, test := range tests {
		t.Run(name, func(t *testing.T) {
			address := test.address
			if test.handler != nil {
				s := httptest.NewServer(test.handler)
				defer s.Close()
				address = host(s)
			}
			_, err := target(t, Options{Insecure: test.insecure}, address+"/a/b:t").Begin(context.Background())
			if reasonOf(err) != test.reason {
				t.Fatalf("got %v (%s), want %s", err, reasonOf(err), test.reason)
			}
			if err != nil && (!strings.Contains(err.Error(), test.says) || !strings.Contains(err.Error(), address+"/a/b:t") || strings.Contains(err.Error(), "\n")) {
				t.Errorf("got %q, want it to say %q", err, test.says)
			}
		})
	}
}

// TestNoDowngrade has a registry at an address that go-containerregistry takes
// for a reason to try plain HTTP: nothing at all may reach it that way.
func TestNoDowngrade(t *testing.T) {
	var plain atomic.Int32
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	s := &http.Server{Handler: http.HandlerFunc(func(http.ResponseWriter, *http.Request) { plain.Add(1) }), ReadHeaderTimeout: time.Second}
	go func() { _ = s.Serve(listener) }()
	defer func() { _ = s.Close() }()
	_, port, _ := net.SplitHostPort(listener.Addr().String())
	config := filepath.Join(t.TempDir(), "config.json")
	if err := os.WriteFile(config, []byte(`{"auths":{"127.0.0.1:`+port+`":{"username":"u","password":"p"}}}`), 0o600); err != nil {
		t.Fatal(err)
	}
	for _, address := range []string{"127.0.0.1:" + port, "localhost:" + port} {
		to := target(t, Options{ConfigFile: config}, address+"/a:t")
		if to.tag.Scheme() != "http" {
			t.Errorf("the library does not downgrade for %s any more; is this test of use?", address)
		}
		_, begin := to.Begin(context.Background())
		for what, err := range map[string]error{
			"Begin":   begin,
			"Upload":  to.Upload(context.Background(), static.NewLayer([]byte("x"), types.OCILayer)),
			"Publish": to.Publish(context.Background(), []byte("{}")),
		} {
			if reasonOf(err) != result.RegistryUnavailable {
				t.Errorf("%s to %s: %v", what, address, err)
			}
		}
	}
	// Nor by a redirect of a registry with TLS.
	redirecting := httptest.NewTLSServer(http.RedirectHandler("http://127.0.0.1:"+port+"/", http.StatusTemporaryRedirect))
	defer redirecting.Close()
	to := target(t, Options{CAFile: caFile(t, redirecting)}, host(redirecting)+"/a:t")
	if _, err := to.Begin(context.Background()); !errors.Is(err, ErrPlainHTTP) {
		t.Errorf("redirected: %v", err)
	}
	if n := plain.Load(); n > 0 {
		t.Errorf("%d requests came without TLS", n)
	}
}

func caFile(t *testing.T, s *httptest.Server) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), "ca.crt")
	block := pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: s.Certificate().Raw})
	if err := os.WriteFile(path, block, 0o600); err != nil {
		t.Fatal(err)
	}
	return path
}

func TestCAFile(t *testing.T) {
	s := httptest.NewTLSServer(inMemory())
	defer s.Close()
	if _, err := target(t, Options{CAFile: caFile(t, s)}, host(s)+"/a:t").Begin(context.Background()); err != nil {
		t.Error(err)
	}
	empty := filepath.Join(t.TempDir(), "ca.crt")
	if err := os.WriteFile(empty, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := New(Options{CAFile: empty}); err == nil {
		t.Error("a CA file without certificates was accepted")
	}
}

func TestBasicAuth(t *testing.T) {
	registry := inMemory()
	s := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if user, password, _ := r.BasicAuth(); user != "u" || password != "p" {
			w.Header().Set("WWW-Authenticate", `Basic realm="test"`)
			w.WriteHeader(http.StatusUnauthorized)
			return
		}
		registry.ServeHTTP(w, r)
	}))
	defer s.Close()
	for password, want := range map[string]result.Reason{"p": "", "wrong": result.PushSecretInvalid} {
		config := filepath.Join(t.TempDir(), "config.json")
		if err := os.WriteFile(config, []byte(`{"auths":{"`+host(s)+`":{"username":"u","password":"`+password+`"}}}`), 0o600); err != nil {
			t.Fatal(err)
		}
		_, err := target(t, Options{ConfigFile: config, Insecure: true}, host(s)+"/a:t").Begin(context.Background())
		if reasonOf(err) != want {
			t.Errorf("with the password %q: %v", password, err)
		}
	}
}

// TestUploadReadsAgain breaks the first upload half way; the second attempt
// has to carry the whole layer.
func TestUploadReadsAgain(t *testing.T) {
	tests := map[string]func(w http.ResponseWriter, r *http.Request){
		"the registry is unavailable for a moment": func(w http.ResponseWriter, r *http.Request) {
			_, _ = io.CopyN(io.Discard, r.Body, 1000)
			w.WriteHeader(http.StatusServiceUnavailable)
		},
		"the connection breaks": func(w http.ResponseWriter, r *http.Request) {
			_, _ = io.CopyN(io.Discard, r.Body, 1000)
			c, _, _ := http.NewResponseController(w).Hijack()
			_ = c.(*net.TCPConn).SetLinger(0)
			_ = c.Close()
		},
	}
	for name, breaks := range tests {
		t.Run(name, func(t *testing.T) {
			registry := inMemory()
			var patches, walks atomic.Int32
			s := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
				if r.Method == http.MethodPatch && patches.Add(1) == 1 {
					breaks(w, r)
					return
				}
				registry.ServeHTTP(w, r)
			}))
			defer s.Close()
			content := make([]byte, 20<<20)
			l := layer.New(context.Background(), func(_ context.Context, w io.Writer) error {
				walks.Add(1)
				_, err := io.Copy(w, bytes.NewReader(content))
				return err
			})
			if err := target(t, Options{Insecure: true}, host(s)+"/a:t").Upload(context.Background(), l); err != nil {
				t.Fatal(err)
			}
			if n := walks.Load(); n != 2 {
				t.Errorf("the source was read %d times", n)
			}
			digest, err := l.Digest()
			if err != nil {
				t.Fatal(err)
			}
			if got := get(t, s.URL+"/v2/a/blobs/"+digest.String()); len(got) == 0 {
				t.Error("the blob is not there")
			}
		})
	}
}

// TestReplayedStream is a registry that wants a new token in the middle: the
// library sends the request again with a body that it has closed.
func TestReplayedStream(t *testing.T) {
	registry := inMemory()
	var tokens, patches atomic.Int32
	s := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		switch {
		case r.URL.Path == "/token":
			tokens.Add(1)
			_, _ = io.WriteString(w, `{"token":"t"}`)
			return
		case r.Header.Get("Authorization") == "", r.Method == http.MethodPatch && patches.Add(1) == 1:
			w.Header().Set("WWW-Authenticate", `Bearer realm="http://`+r.Host+`/token",service="s"`)
			w.WriteHeader(http.StatusUnauthorized)
			return
		}
		registry.ServeHTTP(w, r)
	}))
	defer s.Close()
	walks := 0
	l := layer.New(context.Background(), func(_ context.Context, w io.Writer) error {
		walks++
		_, err := w.Write(make([]byte, 10<<20))
		return err
	})
	if err := target(t, Options{Insecure: true}, host(s)+"/a:t").Upload(context.Background(), l); err != nil || walks != 2 || tokens.Load() != 2 {
		t.Errorf("got %v after reading %d times with %d tokens", err, walks, tokens.Load())
	}
}

func TestBaseLayers(t *testing.T) {
	content := []byte("a base layer")
	blob := static.NewLayer(content, types.OCILayer)
	digest, _ := blob.Digest()
	none := func(context.Context) (io.ReadCloser, error) { return nil, errors.New("not found") }
	local := func(context.Context) (io.ReadCloser, error) { return io.NopCloser(bytes.NewReader(content)), nil }

	tests := map[string]struct {
		prepare func(t *testing.T, target, other *httptest.Server) // puts the blob somewhere
		local   func(context.Context) (io.ReadCloser, error)
		from    func(target, other *httptest.Server) []string
		fails   string
	}{
		"there already": {
			func(t *testing.T, target, _ *httptest.Server) { put(t, target, "a", blob) }, none, nil, ""},
		"in another repository of the same registry": {
			func(t *testing.T, target, _ *httptest.Server) { put(t, target, "base", blob) }, none,
			func(target, _ *httptest.Server) []string { return []string{host(target) + "/base"} }, ""},
		"on the node": {
			nil, local, nil, ""},
		"in the base's registry, which needs no TLS trick": {
			func(t *testing.T, _, other *httptest.Server) { put(t, other, "base", blob) }, none,
			func(_, other *httptest.Server) []string {
				return []string{"unreachable.invalid/x", host(other) + "/base"}
			}, ""},
		"nowhere": {
			nil, none,
			func(_, other *httptest.Server) []string { return []string{host(other) + "/base"} }, "the node has no copy"},
	}
	for name, test := range tests {
		t.Run(name, func(t *testing.T) {
			to, other := httptest.NewServer(inMemory()), httptest.NewTLSServer(inMemory())
			defer to.Close()
			defer other.Close()
			if test.prepare != nil {
				test.prepare(t, to, other)
			}
			sources, err := NewSources(Options{CAFile: caFile(t, other)}, nil, "")
			if err != nil {
				t.Fatal(err)
			}
			base := BaseLayer{Digest: digest, Size: int64(len(content)), MediaType: types.OCILayer, Local: test.local}
			if test.from != nil {
				base.Repositories = test.from(to, other)
			}
			_, err = target(t, Options{Insecure: true}, host(to)+"/a:t").EnsureBaseLayer(context.Background(), base, sources)
			if test.fails != "" {
				if err == nil || !strings.Contains(err.Error(), test.fails) || reasonOf(err) != result.CommitJobFailed {
					t.Errorf("got %v", err)
				}
				return
			}
			if err != nil {
				t.Fatal(err)
			}
			if got := get(t, to.URL+"/v2/a/blobs/"+digest.String()); !bytes.Equal(got, content) {
				t.Errorf("the repository has %q", got)
			}
		})
	}
}

// get returns the body of a successful answer, else nothing.
func get(t *testing.T, url string) []byte {
	t.Helper()
	answer, err := http.Get(url)
	if err != nil {
		t.Fatal(err)
	}
	defer answer.Body.Close()
	body, err := io.ReadAll(answer.Body)
	if err != nil || answer.StatusCode != http.StatusOK {
		return nil
	}
	return body
}

func put(t *testing.T, s *httptest.Server, repo string, l v1.Layer) {
	t.Helper()
	if err := target(t, Options{Insecure: true}, host(s)+"/"+repo+":t").Upload(context.Background(), l); err != nil {
		t.Fatal(err)
	}
}

func TestTargetsAreSpelledOut(t *testing.T) {
	c, err := New(Options{})
	if err != nil {
		t.Fatal(err)
	}
	for _, image := range []string{"", "a", "a:t", "a/b", "r.example.com/a", "r.example.com/a@sha256:" + strings.Repeat("0", 64), "r.example.com/A:t", "https://r.example.com/a:t"} {
		if to, err := c.Target(image); err == nil {
			t.Errorf("%q was taken for %s", image, to)
		}
	}
}
