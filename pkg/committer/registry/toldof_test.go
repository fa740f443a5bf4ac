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
	"net/http"
	"net/http/httptest"
	"strings"
	"sync/atomic"
	"testing"

	"github.com/google/go-containerregistry/pkg/v1/static"
	"github.com/google/go-containerregistry/pkg/v1/types"
)

// TestABaseLayerThatIsOnlyToldOf has a registry whose HEAD says that a layer is there, and which has lost it. Pushed
// anew it is there again. So it is with one that such a registry mounts, and one that nobody has any more is no success.
func TestABaseLayerThatIsOnlyToldOf(t *testing.T) {
	content := []byte("a base layer")
	blob := static.NewLayer(content, types.OCILayer)
	digest, _ := blob.Digest()
	for name, answer := range broken {
		for _, where := range []string{"in the target's repository", "mounted", "and nobody has it"} {
			t.Run(name+" "+where, func(t *testing.T) {
				registry := &forgetful{inner: inMemory()}
				var mounts atomic.Int32
				s := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
					if r.URL.Query().Get("mount") != "" {
						mounts.Add(1)
						w.WriteHeader(http.StatusCreated)
						return
					}
					registry.ServeHTTP(w, r)
				}))
				defer s.Close()
				put(t, s, "a", blob)
				var pushed atomic.Bool
				inner := registry.inner
				registry.inner = http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
					if r.Method == http.MethodPut && strings.Contains(r.URL.Path, "/a/blobs/uploads/") {
						pushed.Store(true)
					}
					inner.ServeHTTP(w, r)
				})
				registry.lost = func(w http.ResponseWriter, r *http.Request) bool {
					if pushed.Load() {
						return false
					}
					answer(w, r)
					return true
				}
				base := BaseLayer{Digest: digest, Size: int64(len(content)), MediaType: types.OCILayer,
					Local: func(context.Context) (io.ReadCloser, error) { return io.NopCloser(bytes.NewReader(content)), nil }}
				switch where {
				case "mounted":
					base.Repositories = []string{host(s) + "/other"}
				case "and nobody has it":
					base.Local = func(context.Context) (io.ReadCloser, error) { return nil, errors.New("not on the node") }
				}
				sources, err := NewSources(Options{}, nil, "")
				if err != nil {
					t.Fatal(err)
				}
				uploaded, err := target(t, Options{Insecure: true}, host(s)+"/a:t").EnsureBaseLayer(context.Background(), base, sources)
				if where == "and nobody has it" {
					if !errors.Is(err, ErrNowhere) {
						t.Errorf("got %v", err)
					}
					return
				}
				if err != nil || !uploaded || !pushed.Load() {
					t.Errorf("uploaded %t, pushed %t (%v)", uploaded, pushed.Load(), err)
				}
				if where == "mounted" && mounts.Load() == 0 {
					t.Error("it was not even tried to mount it")
				}
				if got := get(t, s.URL+"/v2/a/blobs/"+digest.String()); !bytes.Equal(got, content) {
					t.Errorf("the repository has %q", got)
				}
			})
		}
	}
}
