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
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"

	"github.com/google/go-containerregistry/pkg/v1/static"
	"github.com/google/go-containerregistry/pkg/v1/types"
)

// guarded is a registry that wants a password, and notes each that it is shown.
type guarded struct {
	*httptest.Server
	mu    sync.Mutex
	shown map[string]bool
}

func newGuarded(t *testing.T, password string, start func(http.Handler) *httptest.Server) *guarded {
	g := &guarded{shown: map[string]bool{}}
	inner := inMemory()
	g.Server = start(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		_, shown, ok := r.BasicAuth()
		g.mu.Lock()
		g.shown[shown] = true
		g.mu.Unlock()
		if !ok || shown != password {
			w.Header().Set("WWW-Authenticate", `Basic realm="test"`)
			w.WriteHeader(http.StatusUnauthorized)
			return
		}
		inner.ServeHTTP(w, r)
	}))
	t.Cleanup(g.Close)
	return g
}

func credentialsFile(t *testing.T, passwords map[string]string) string {
	t.Helper()
	var entries []string
	for host, password := range passwords {
		entries = append(entries, fmt.Sprintf(`%q:{"username":"u","password":%q}`, host, password))
	}
	path := filepath.Join(t.TempDir(), "config.json")
	if err := os.WriteFile(path, []byte(`{"auths":{`+strings.Join(entries, ",")+`}}`), 0o600); err != nil {
		t.Fatal(err)
	}
	return path
}

// TestSources has a private registry for the base and another for the snapshots, and
// every secret has a word for both: each registry must only be shown its own.
func TestSources(t *testing.T) {
	content := []byte("a base layer of a private registry")
	blob := static.NewLayer(content, types.OCILayer)
	digest, _ := blob.Digest()
	for name, test := range map[string]struct {
		pullSecrets func(base, target string) []map[string]string
		fails       string
	}{
		"the second secret is right": {func(base, target string) []map[string]string {
			return []map[string]string{{base: "wrong", target: "pull"}, {"elsewhere.example.com": "x"}, {base: "base", target: "pull"}}
		}, ""},
		"no secret is right": {func(base, _ string) []map[string]string {
			return []map[string]string{{base: "wrong"}}
		}, "401"},
		"there is no secret": {func(string, string) []map[string]string { return nil }, "please bind the role"},
	} {
		t.Run(name, func(t *testing.T) {
			base := newGuarded(t, "base", httptest.NewTLSServer)
			snapshots := newGuarded(t, "push", httptest.NewTLSServer)
			pool := filepath.Join(t.TempDir(), "ca.crt")
			both := ""
			for _, s := range []*guarded{base, snapshots} {
				pem, err := os.ReadFile(caFile(t, s.Server))
				if err != nil {
					t.Fatal(err)
				}
				both += string(pem)
			}
			if err := os.WriteFile(pool, []byte(both), 0o600); err != nil {
				t.Fatal(err)
			}
			filler := Options{CAFile: pool, ConfigFile: credentialsFile(t, map[string]string{host(base.Server): "base"})}
			if err := target(t, filler, host(base.Server)+"/private/base:t").Upload(context.Background(), blob); err != nil {
				t.Fatal(err)
			}
			base.shown = map[string]bool{}

			push := Options{CAFile: pool, ConfigFile: credentialsFile(t, map[string]string{host(base.Server): "push", host(snapshots.Server): "push"})}
			var files []string
			for _, secret := range test.pullSecrets(host(base.Server), host(snapshots.Server)) {
				files = append(files, credentialsFile(t, secret))
			}
			sources, err := NewSources(push, files, "please bind the role")
			if err != nil {
				t.Fatal(err)
			}
			layer := BaseLayer{Digest: digest, Size: int64(len(content)), MediaType: types.OCILayer,
				Local:        func(context.Context) (io.ReadCloser, error) { return nil, errors.New("discarded") },
				Repositories: []string{host(base.Server) + "/private/base"},
			}
			to := target(t, push, host(snapshots.Server)+"/sandboxes/a:t")
			_, err = to.EnsureBaseLayer(context.Background(), layer, sources)
			if test.fails != "" {
				if !errors.Is(err, ErrNowhere) || !strings.Contains(err.Error(), test.fails) {
					t.Errorf("got %v, want it to say %q", err, test.fails)
				}
			} else if err != nil {
				t.Fatal(err)
			} else if got, err := to.OpenBaseLayer(context.Background(), layer); err != nil {
				t.Error(err)
			} else if read, err := io.ReadAll(got); err != nil || !bytes.Equal(read, content) {
				t.Errorf("read %q, %v", read, err)
			}
			if base.shown["push"] {
				t.Error("the push secret was shown to the base's registry")
			}
			if snapshots.shown["pull"] || snapshots.shown["base"] || snapshots.shown["wrong"] {
				t.Error("a pull secret was shown to the snapshot registry")
			}
		})
	}
}

func TestUselessPullSecrets(t *testing.T) {
	bad := filepath.Join(t.TempDir(), "config.json")
	if err := os.WriteFile(bad, []byte("s3cret"), 0o600); err != nil {
		t.Fatal(err)
	}
	sources, err := NewSources(Options{}, []string{bad, credentialsFile(t, nil)}, "")
	if err == nil || !strings.Contains(err.Error(), bad) || strings.Contains(err.Error(), "s3cret") {
		t.Errorf("got %v", err)
	}
	if len(sources.clients) != 2 {
		t.Errorf("%d clients", len(sources.clients))
	}
}
