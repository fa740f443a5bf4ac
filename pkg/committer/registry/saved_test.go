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
	"strconv"
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
	if there, err := c.Exists(context.Background(), image, digest); there || err != nil {
		t.Fatalf("there: %t, error %v", there, err)
	}
	if err := c.Delete(context.Background(), host(s)+"/never/pushed:t", ""); err != nil {
		t.Fatal(err)
	}
}

func TestExists(t *testing.T) {
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
			there, err := c.Exists(context.Background(), image, digest)
			got := strconv.FormatBool(there)
			if err != nil {
				got = string(reasonOf(err))
			}
			if got != test.want {
				t.Fatalf("got %s (%v), want %s", got, err, test.want)
			}
		})
	}
}

func TestExistsIsPaced(t *testing.T) {
	asked := 0
	s := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		asked++
		if r.Method == http.MethodHead {
			w.Header().Set("Content-Type", "application/vnd.oci.image.manifest.v1+json")
			w.Header().Set("Content-Length", "2")
			w.Header().Set("Docker-Content-Digest", "sha256:"+strings.Repeat("a", 64))
		}
	}))
	defer s.Close()
	tooMany := errors.New("too many")
	allowed := 3 // a greeting over TLS, which fails, one without, and the question
	c, err := New(Options{Insecure: true, Pace: func(context.Context) error {
		if allowed == 0 {
			return tooMany
		}
		allowed--
		return nil
	}})
	if err != nil {
		t.Fatal(err)
	}
	image, digest := host(s)+"/a/b:t", "sha256:"+strings.Repeat("a", 64)
	if there, err := c.Exists(context.Background(), image, digest); !there || err != nil {
		t.Fatal(there, err)
	}
	if _, err := c.Exists(context.Background(), image, digest); !errors.Is(err, tooMany) || asked != 2 {
		t.Fatalf("got %v after %d requests", err, asked)
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
