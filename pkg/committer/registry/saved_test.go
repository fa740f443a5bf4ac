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
	"encoding/json"
	"errors"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"

	"github.com/google/go-containerregistry/pkg/name"
	"github.com/google/go-containerregistry/pkg/v1/random"
	"github.com/google/go-containerregistry/pkg/v1/remote"
)

// saved pushes an image and returns its reference and digest.
func saved(t *testing.T, s *httptest.Server, image string) (string, string) {
	t.Helper()
	tag, err := name.NewTag(host(s)+"/"+image, name.Insecure)
	if err != nil {
		t.Fatal(err)
	}
	img, err := random.Image(1024, 2)
	if err != nil {
		t.Fatal(err)
	}
	if err := remote.Write(tag, img); err != nil {
		t.Fatal(err)
	}
	digest, err := img.Digest()
	if err != nil {
		t.Fatal(err)
	}
	return tag.String(), digest.String()
}

func TestDelete(t *testing.T) {
	unsupported := http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.Method == http.MethodDelete {
			w.WriteHeader(http.StatusMethodNotAllowed)
		}
	})
	for name, test := range map[string]struct {
		handler     http.Handler
		push        bool
		fails       bool
		unsupported bool
	}{
		"there":                    {handler: inMemory(), push: true},
		"gone already":             {handler: inMemory()},
		"never deletes":            {handler: unsupported, fails: true, unsupported: true},
		"down":                     {handler: answering(http.StatusServiceUnavailable, nil), fails: true},
		"wants other credentials":  {handler: answering(http.StatusUnauthorized, nil), fails: true},
		"forbids it to this login": {handler: answering(http.StatusForbidden, nil), fails: true},
		// It would pass for deleted, and stay.
		"is no registry": {handler: http.NotFoundHandler(), fails: true},
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
			err = c.Delete(context.Background(), image, digest)
			if (err != nil) != test.fails || errors.Is(err, ErrDeleteUnsupported) != test.unsupported {
				t.Fatalf("got %v, want failure %v, unsupported %v", err, test.fails, test.unsupported)
			}
			if !test.push {
				return
			}
			ref, err := c.byDigest(image, digest)
			if err != nil {
				t.Fatal(err)
			}
			if _, err := remote.Head(ref); statusOf(err) != http.StatusNotFound {
				t.Fatalf("the manifest is still there: %v", err)
			}
		})
	}
}

func TestDeleteByTag(t *testing.T) {
	s := httptest.NewServer(inMemory())
	defer s.Close()
	image, digest := saved(t, s, "a/b:t")
	c, err := New(Options{Insecure: true})
	if err != nil {
		t.Fatal(err)
	}
	for range 2 { // the second time there is no such tag, or it names what is gone
		if err := c.Delete(context.Background(), image, ""); err != nil {
			t.Fatal(err)
		}
	}
	if found, err := c.Look(context.Background(), image, digest); found.Manifest || err != nil {
		t.Fatalf("found %+v, error %v", found, err)
	}
	if err := c.Delete(context.Background(), host(s)+"/never/pushed:t", ""); err != nil {
		t.Fatal(err)
	}
}

func TestDuplicate(t *testing.T) {
	s := httptest.NewServer(inMemory())
	defer s.Close()
	image, digest := saved(t, s, "a/b:t")
	c, err := New(Options{Insecure: true})
	if err != nil {
		t.Fatal(err)
	}
	for _, target := range []string{"a/b:u", "c/d:u"} {
		twin, err := c.Duplicate(context.Background(), image, digest, host(s)+"/"+target, map[string]string{"uid": target})
		if err != nil {
			t.Fatal(err)
		}
		if twin == digest {
			t.Fatalf("%s shares its manifest with the original: deleting one would delete both", target)
		}
		repository, _, _ := strings.Cut(target, ":")
		var manifest struct {
			Annotations map[string]string
			Layers      []struct{ Digest string }
		}
		if err := json.Unmarshal(get(t, s.URL+"/v2/"+repository+"/manifests/"+twin), &manifest); err != nil {
			t.Fatal(err)
		}
		if manifest.Annotations["uid"] != target || len(manifest.Layers) != 2 {
			t.Fatalf("got %+v, want 2 layers and uid=%s", manifest, target)
		}
		for _, layer := range manifest.Layers {
			get(t, s.URL+"/v2/"+repository+"/blobs/"+layer.Digest)
		}
	}
	if err := c.Delete(context.Background(), image, digest); err != nil {
		t.Fatal(err)
	}
	if _, err := c.Duplicate(context.Background(), image, digest, host(s)+"/a/b:v", nil); err == nil {
		t.Fatal("an image that is gone was duplicated")
	}
}
