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
	"context"
	"errors"
	"fmt"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync/atomic"
	"testing"
)

// forgetful is a registry that knows of what it does not have: its HEAD of a blob says that it is there. lost tells
// which blobs are not, and how that shows.
type forgetful struct {
	inner http.Handler
	lost  func(w http.ResponseWriter, r *http.Request) bool
}

func (f *forgetful) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	if r.Method == http.MethodGet && strings.Contains(r.URL.Path, "/blobs/sha256:") && f.lost != nil && f.lost(w, r) {
		return
	}
	f.inner.ServeHTTP(w, r)
}

// broken are the ways of a registry to have lost a blob that HEAD says is there.
var broken = map[string]func(w http.ResponseWriter, r *http.Request){
	// distribution 3 with a cache of blobs, after its garbage collection.
	"206 and no byte": func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("Content-Length", "1")
		w.WriteHeader(http.StatusPartialContent)
	},
	"200 and no byte":   func(w http.ResponseWriter, _ *http.Request) { w.Header().Set("Content-Length", "1068809") },
	"200 and no length": func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(http.StatusOK) },
	"404":               func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(http.StatusNotFound) },
	"416":               func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(http.StatusRequestedRangeNotSatisfiable) },
	"404 of the blob store": func(w http.ResponseWriter, r *http.Request) {
		http.Redirect(w, r, "/elsewhere", http.StatusTemporaryRedirect)
	},
}

func TestLook(t *testing.T) {
	inner := inMemory()
	for name, test := range map[string]struct {
		handler http.Handler
		push    bool
		want    string
	}{
		"there":                   {handler: inMemory(), push: true, want: "true"},
		"not there":               {handler: inMemory(), want: "false"},
		"down":                    {handler: answering(http.StatusServiceUnavailable, nil), want: "RegistryUnavailable"},
		"broken":                  {handler: answering(http.StatusInternalServerError, nil), want: "RegistryUnavailable"},
		"wants other credentials": {handler: answering(http.StatusUnauthorized, nil), want: "PushSecretInvalid"},
		"forbids it":              {handler: answering(http.StatusForbidden, nil), want: "RegistryDenied"},
		// A proxy whose upstream is away, or a wrong address.
		"is no registry": {handler: http.NotFoundHandler(), want: "RegistryUnavailable"},
		"leaves out what it need not say": {handler: http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			inner.ServeHTTP(silent{w}, r)
		}), push: true, want: "true"},
	} {
		t.Run(name, func(t *testing.T) {
			s := httptest.NewServer(test.handler)
			defer s.Close()
			image, digest := host(s)+"/a/b:t", "sha256:"+strings.Repeat("a", 64)
			if test.push {
				image, digest = saved(t, s, "a/b:t")
			}
			c, err := New(Options{Insecure: true})
			if err != nil {
				t.Fatal(err)
			}
			found, err := c.Look(context.Background(), image, digest)
			got := fmt.Sprint(found.Manifest, found.Lost)
			if err != nil {
				got = string(reasonOf(err))
			}
			if got != test.want {
				t.Fatalf("got %q (%v), want %q", got, err, test.want)
			}
		})
	}
}

var whole = Found{Manifest: true}

// silent is an answer without the headers that the specification only recommends.
type silent struct{ http.ResponseWriter }

func (s silent) WriteHeader(code int) {
	s.Header().Del("Docker-Content-Digest")
	s.Header().Del("Content-Length")
	s.ResponseWriter.WriteHeader(code)
}

func TestLostBlobs(t *testing.T) {
	for name, answer := range broken {
		t.Run(name, func(t *testing.T) {
			registry := &forgetful{inner: inMemory()}
			s := httptest.NewServer(registry)
			defer s.Close()
			image, digest := saved(t, s, "a/b:t")
			c, err := New(Options{Insecure: true})
			if err != nil {
				t.Fatal(err)
			}
			var lost atomic.Value // the third blob that is asked for; it stays lost
			var asked atomic.Int32
			registry.lost = func(w http.ResponseWriter, r *http.Request) bool {
				if asked.Add(1) == 3 {
					lost.Store(r.URL.Path)
				}
				if r.URL.Path != lost.Load() {
					return false
				}
				answer(w, r)
				return true
			}
			found, err := c.Look(context.Background(), image, digest)
			path, _ := lost.Load().(string)
			if err != nil || !found.Manifest || found.Lost != path[strings.LastIndex(path, "/")+1:] {
				t.Errorf("got %+v (%v), lost is %s", found, err, path)
			}
		})
	}
}

// TestABrokenConnectionIsNoLoss has an answer that ends before its first byte, once.
func TestABrokenConnectionIsNoLoss(t *testing.T) {
	registry := &forgetful{inner: inMemory()}
	s := httptest.NewServer(registry)
	defer s.Close()
	image, digest := saved(t, s, "a/b:t")
	c, err := New(Options{Insecure: true})
	if err != nil {
		t.Fatal(err)
	}
	var asked atomic.Int32
	registry.lost = func(w http.ResponseWriter, r *http.Request) bool {
		if asked.Add(1) != 2 {
			return false
		}
		w.Header().Set("Content-Length", "5")
		return true
	}
	if found, err := c.Look(context.Background(), image, digest); found != whole || err != nil {
		t.Errorf("got %+v (%v)", found, err)
	}
}

func TestLookIsPaced(t *testing.T) {
	var asked atomic.Int32
	tooMany := errors.New("too many")
	registry := inMemory()
	s := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		asked.Add(1)
		registry.ServeHTTP(w, r)
	}))
	defer s.Close()
	image, digest := saved(t, s, "a/b:t")
	var allowed atomic.Int32
	c, err := New(Options{Insecure: true, Pace: func(context.Context) error {
		if allowed.Add(-1) < 0 {
			return tooMany
		}
		return nil
	}})
	if err != nil {
		t.Fatal(err)
	}
	// A greeting over TLS, which fails, one without, the manifest, the configuration and two layers.
	allowed.Store(6)
	asked.Store(0)
	if found, err := c.Look(context.Background(), image, digest); found != whole || err != nil || asked.Load() != 5 {
		t.Fatal(found, err, asked.Load())
	}
	if found, err := c.Look(context.Background(), image, digest); !errors.Is(err, tooMany) || asked.Load() != 5 {
		t.Fatalf("got %+v, %v after %d requests", found, err, asked.Load())
	}
}
