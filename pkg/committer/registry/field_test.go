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
	"errors"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"strconv"
	"strings"
	"sync/atomic"
	"testing"

	"github.com/google/go-containerregistry/pkg/v1/static"
	"github.com/google/go-containerregistry/pkg/v1/types"

	"github.com/opensandbox-io/sandbox-apiserver/pkg/committer/layer"
	"github.com/opensandbox-io/sandbox-apiserver/pkg/committer/result"
)

// What other tools' users met at their registries, tried here.

// TestATokenThatExpires in the middle of a push, as GitLab's and Docker Hub's do after five minutes: before each
// request the last token has just expired. (https://github.com/moby/moby/issues/33558)
func TestATokenThatExpires(t *testing.T) {
	ctx := context.Background()
	for _, method := range []string{http.MethodPost, http.MethodPatch, http.MethodPut} {
		t.Run(method, func(t *testing.T) {
			inner := inMemory()
			var token, expired atomic.Int32
			s := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
				if r.URL.Path == "/token" {
					_, _ = io.WriteString(w, `{"token":"`+strconv.Itoa(int(token.Add(1)))+`","expires_in":300}`)
					return
				}
				of := strings.TrimPrefix(r.Header.Get("Authorization"), "Bearer ")
				valid := of == strconv.Itoa(int(token.Load()))
				if r.Method == method && expired.Add(1) == 1 {
					valid = false
				}
				if !valid {
					answer(http.StatusUnauthorized, `{"errors":[{"code":"UNAUTHORIZED","message":"authentication required"}]}`,
						"WWW-Authenticate", `Bearer realm="http://`+r.Host+`/token",service="s",scope="repository:a:pull,push",error="invalid_token"`)(w, r)
					return
				}
				inner.ServeHTTP(w, r)
			}))
			defer s.Close()
			to := target(t, Options{Insecure: true}, host(s)+"/a:t")
			err := to.Upload(InAHurry(ctx), layer.New(ctx, noise(2<<20)))
			if err == nil {
				err = to.Publish(ctx, []byte("{}"))
			}
			if err != nil {
				t.Error(err)
			}
		})
	}
}

// TestAReplicaThatDoesNotKnowYet what another took: https://github.com/goharbor/harbor/issues/22417
func TestAReplicaThatDoesNotKnowYet(t *testing.T) {
	const unknown = `{"errors":[{"code":"MANIFEST_BLOB_UNKNOWN","message":"blob unknown to registry"}]}`
	for times, want := range map[int]result.Reason{2: "", 3: result.RegistryUnavailable} {
		for _, code := range []int{http.StatusBadRequest, http.StatusNotFound} {
			m := misbehave(t, fault{method: http.MethodPut, path: "/manifests/", times: times, do: answer(code, unknown)})
			if err := target(t, Options{Insecure: true}, host(m.Server)+"/a:t").Publish(context.Background(), []byte("{}")); reasonOf(err) != want {
				t.Errorf("%d times %d: %v (%s), want %q", times, code, err, reasonOf(err), want)
			}
		}
	}
}

// TestARegistryThatDoesNotKnowItsProxy answers with addresses without TLS, or without the proxy's port:
// https://github.com/distribution/distribution/issues/996. What it leads elsewhere with stays refused.
func TestARegistryThatDoesNotKnowItsProxy(t *testing.T) {
	ctx := context.Background()
	tests := map[string]struct {
		location func(r *http.Request, path string) string
		want     result.Reason
	}{
		"relative":    {func(_ *http.Request, path string) string { return path }, ""},
		"without TLS": {func(r *http.Request, path string) string { return "http://" + r.Host + path }, ""},
		"without the port": {func(r *http.Request, path string) string {
			h, _, _ := net.SplitHostPort(r.Host)
			return "http://" + h + path
		}, ""},
		"another, without TLS": {func(_ *http.Request, path string) string { return "http://registry.invalid" + path }, result.RegistryUnavailable},
		"inside":               {func(_ *http.Request, path string) string { return "https://169.254.169.254" + path }, result.CommitJobFailed},
	}
	for name, test := range tests {
		t.Run(name, func(t *testing.T) {
			inner := inMemory()
			s := httptest.NewTLSServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
				recorded := httptest.NewRecorder()
				inner.ServeHTTP(recorded, r)
				for key, values := range recorded.Header() {
					w.Header()[key] = values
				}
				if path := recorded.Header().Get("Location"); path != "" {
					w.Header().Set("Location", test.location(r, path))
				}
				w.WriteHeader(recorded.Code)
				_, _ = w.Write(recorded.Body.Bytes())
			}))
			defer s.Close()
			to := target(t, Options{CAFile: caFile(t, s)}, host(s)+"/a:t")
			err := to.Upload(ctx, layer.New(ctx, noise(1<<20)))
			if reasonOf(err) != test.want {
				t.Errorf("got %v (%s), want %q", err, reasonOf(err), test.want)
			}
		})
	}
}

// TestMountsThatAreRefused are no failure: the layer is uploaded. Registries refuse the request, with 403
// (https://github.com/containerd/containerd/issues/14086) or 401 (https://github.com/moby/buildkit/issues/2454), or the
// token for both repositories (https://github.com/osscontainertools/kaniko/issues/1007).
func TestMountsThatAreRefused(t *testing.T) {
	ctx := context.Background()
	content := []byte("a base layer")
	blob := static.NewLayer(content, types.OCILayer)
	digest, _ := blob.Digest()
	for name, refused := range map[string]func(r *http.Request) int{
		"the request with 403": func(r *http.Request) int {
			if r.URL.Query().Has("mount") {
				return http.StatusForbidden
			}
			return 0
		},
		"the request with 401": func(r *http.Request) int {
			if r.URL.Query().Has("mount") {
				return http.StatusUnauthorized
			}
			return 0
		},
		"the token": func(r *http.Request) int {
			if r.URL.Path == "/token" && len(r.URL.Query()["scope"]) > 1 {
				return http.StatusForbidden
			}
			return 0
		},
	} {
		t.Run(name, func(t *testing.T) {
			inner := inMemory()
			s := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
				challenge := []string{"WWW-Authenticate", `Bearer realm="http://` + r.Host + `/token",service="s"`}
				switch code := refused(r); {
				case code == http.StatusUnauthorized:
					answer(code, "", challenge...)(w, r)
				case code != 0:
					answer(code, "")(w, r)
				case r.URL.Path == "/token":
					_, _ = io.WriteString(w, `{"token":"t"}`)
				case r.Header.Get("Authorization") != "Bearer t":
					answer(http.StatusUnauthorized, "", challenge...)(w, r)
				default:
					inner.ServeHTTP(w, r)
				}
			}))
			defer s.Close()
			to := target(t, Options{Insecure: true}, host(s)+"/a:t")
			sources, err := NewSources(Options{}, nil, "")
			if err != nil {
				t.Fatal(err)
			}
			base := BaseLayer{
				Digest: digest, Size: int64(len(content)), MediaType: types.OCILayer, Repositories: []string{host(s) + "/base"},
				Local: func(context.Context) (io.ReadCloser, error) { return io.NopCloser(bytes.NewReader(content)), nil },
			}
			if _, err := to.EnsureBaseLayer(ctx, base, sources); err != nil {
				t.Fatal(err)
			}
			if there, err := to.has(ctx, digest); !there || err != nil {
				t.Errorf("the layer is there: %v, %v", there, err)
			}
		})
	}
}

// TestARegistryThatAnswersEarly says no while the layer is still sent, and reads no more of it.
func TestARegistryThatAnswersEarly(t *testing.T) {
	ctx := context.Background()
	for name, start := range map[string]func(*httptest.Server){
		"HTTP/1": func(s *httptest.Server) { s.StartTLS() },
		"HTTP/2": func(s *httptest.Server) { s.EnableHTTP2 = true; s.StartTLS() },
	} {
		t.Run(name, func(t *testing.T) {
			m := startMisbehaving(t, start)
			m.with(fault{method: http.MethodPatch, path: "/uploads/", do: func(w http.ResponseWriter, r *http.Request) {
				_, _ = io.CopyN(io.Discard, r.Body, 1<<20)
				answer(http.StatusRequestEntityTooLarge, "<html><title>413 Request Entity Too Large</title></html>")(w, r)
				w.(http.Flusher).Flush()
				_, _ = io.CopyN(io.Discard, r.Body, 4<<20) // as nginx lingers
			}})
			l := layer.New(ctx, noise(64<<20))
			err := target(t, Options{CAFile: caFile(t, m.Server), Patience: short}, host(m.Server)+"/a:t").Upload(InAHurry(ctx), l)
			if reasonOf(err) != result.RegistryDenied || !strings.HasPrefix(err.Error(), "413 Request Entity Too Large") || errors.Is(err, layer.ErrReplayed) {
				t.Errorf("got %v (%s)", err, reasonOf(err))
			}
		})
	}
}
