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
	"io"
	"net/http"
	"net/http/httptest"
	"slices"
	"strconv"
	"strings"
	"testing"

	"github.com/google/go-containerregistry/pkg/v1/remote"
)

// TestUpload begins an upload and puts a blob into it, with one request each.
func TestUpload(t *testing.T) {
	var requests []string
	inner := inMemory()
	s := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.URL.Path != "/v2/" {
			requests = append(requests, r.Method)
		}
		inner.ServeHTTP(w, r)
	}))
	defer s.Close()
	to := target(t, Options{Insecure: true}, host(s)+"/a:t")
	u, err := to.Begin(context.Background())
	if err != nil {
		t.Fatal(err)
	}
	if err := u.Put(context.Background(), []byte("content")); err != nil {
		t.Fatal(err)
	}
	if want := []string{http.MethodPost, http.MethodPut}; !slices.Equal(requests, want) {
		t.Errorf("requests %v, want %v", requests, want)
	}
	// echo -n content | sha256sum
	l, err := remote.Layer(to.tag.Context().Digest("sha256:ed7002b439e9ac845f22357d822bac1444730fbdb6016d3ec9432297b9ec9f73"))
	if err != nil {
		t.Fatal(err)
	}
	blob, err := l.Compressed()
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = blob.Close() }()
	if got, err := io.ReadAll(blob); err != nil || string(got) != "content" {
		t.Errorf("the blob has %q, %v", got, err)
	}
}

func TestUploadIsCancelled(t *testing.T) {
	var deleted string
	inner := inMemory()
	s := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.Method == http.MethodDelete {
			deleted = r.URL.Path
			w.WriteHeader(http.StatusNoContent)
			return
		}
		inner.ServeHTTP(w, r)
	}))
	defer s.Close()
	u, err := target(t, Options{Insecure: true}, host(s)+"/a:t").Begin(context.Background())
	if err != nil {
		t.Fatal(err)
	}
	if err := u.Cancel(context.Background()); err != nil || deleted == "" || deleted != u.location.Path {
		t.Errorf("deleted %q of %s: %v", deleted, u.location, err)
	}
}

// TestUploadIsNotLedAway has a registry that redirects uploads to another server.
func TestUploadIsNotLedAway(t *testing.T) {
	asked := false
	inside := httptest.NewServer(http.HandlerFunc(func(http.ResponseWriter, *http.Request) { asked = true }))
	defer inside.Close()
	s := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.Method == http.MethodPost {
			http.Redirect(w, r, inside.URL, http.StatusTemporaryRedirect)
		}
	}))
	defer s.Close()
	_, err := target(t, Options{Insecure: true}, host(s)+"/a:t").Begin(context.Background())
	if err == nil || !strings.Contains(err.Error(), "redirects to") || asked {
		t.Errorf("%v; the other was asked: %v", err, asked)
	}
}

// TestAnUploadThatHasTakenAPartIsCancelled, at the location that it has by then: its registry tells how much it has taken in
// each location, and refuses one that tells of less. It may still take what was sent when it is asked first.
func TestAnUploadThatHasTakenAPartIsCancelled(t *testing.T) {
	for name, test := range map[string]struct {
		moves   int // how often it has moved on when it is asked
		refuses int
		left    bool
	}{
		"nothing was taken":     {0, http.StatusRequestedRangeNotSatisfiable, false},
		"a part was taken":      {1, http.StatusRequestedRangeNotSatisfiable, false},
		"and more meanwhile":    {3, http.StatusRequestedRangeNotSatisfiable, false},
		"told in other words":   {1, http.StatusBadRequest, false},
		"it never stands still": {1000, http.StatusRequestedRangeNotSatisfiable, true},
		"it may not be":         {1, http.StatusForbidden, true},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			taken, deleted := 0, false
			s := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
				w.Header().Set("Location", "/v2/a/blobs/uploads/1?_state="+strconv.Itoa(taken))
				switch r.Method {
				case http.MethodPost:
					w.WriteHeader(http.StatusAccepted)
					taken = min(1, test.moves)
				case http.MethodGet:
					if r.URL.Path != "/v2/" {
						w.WriteHeader(http.StatusNoContent)
						taken = min(taken+1, test.moves)
					}
				case http.MethodDelete:
					if r.URL.Query().Get("_state") != strconv.Itoa(taken) {
						w.WriteHeader(test.refuses)
						return
					}
					deleted = true
					w.WriteHeader(http.StatusNoContent)
				}
			}))
			defer s.Close()
			u, err := target(t, Options{Insecure: true}, host(s)+"/a:t").Begin(context.Background())
			if err != nil {
				t.Fatal(err)
			}
			if err := u.Cancel(context.Background()); (err != nil) != test.left || deleted == test.left {
				t.Errorf("deleted %t, %v", deleted, err)
			}
		})
	}
}
