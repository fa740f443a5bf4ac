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

package committer

import (
	"bytes"
	"context"
	"errors"
	"io"
	"math/rand/v2"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"

	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/opensandbox-io/sandbox-apiserver/pkg/committer/image"
	"github.com/opensandbox-io/sandbox-apiserver/pkg/committer/runtime"
)

// linked makes of the scene's registry one whose repositories have blobs of their own, as real ones have, and counts what
// is uploaded.
type linked struct {
	mu       sync.Mutex
	blobs    map[string]bool // repository@digest
	uploaded atomic.Int64
	// noMounts is a registry that wants the bytes, denied one that lets nobody touch the repository of bases.
	noMounts, denied bool
}

func (s *scene) links() *linked {
	l := &linked{blobs: map[string]bool{}}
	s.before = l.answers
	return l
}

func (l *linked) forget(repository string) {
	l.mu.Lock()
	defer l.mu.Unlock()
	for blob := range l.blobs {
		if strings.HasPrefix(blob, repository+"@") {
			delete(l.blobs, blob)
		}
	}
}

func (l *linked) answers(w http.ResponseWriter, r *http.Request) bool {
	path := strings.TrimPrefix(r.URL.Path, "/v2/")
	repository, what, ok := strings.Cut(path, "/blobs/")
	if !ok {
		repository, _, _ = strings.Cut(path, "/manifests/")
	}
	if l.denied && repository == "bases" {
		w.WriteHeader(http.StatusForbidden)
		return true
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	query := r.URL.Query()
	switch {
	case r.Method == http.MethodPost && query.Get("mount") != "":
		blob := query.Get("mount")
		if !l.noMounts && l.blobs[query.Get("from")+"@"+blob] {
			l.blobs[repository+"@"+blob] = true // which all of them share there
			w.WriteHeader(http.StatusCreated)
			return true
		}
		r.URL.RawQuery = ""
	case r.Method == http.MethodPut && query.Get("digest") != "":
		l.blobs[repository+"@"+query.Get("digest")] = true
		l.uploaded.Add(max(r.ContentLength, 0))
	case r.Method == http.MethodPatch:
		r.Body = &counted{r.Body, &l.uploaded}
	case ok && strings.HasPrefix(what, "sha256:") && !l.blobs[repository+"@"+what]:
		w.WriteHeader(http.StatusNotFound)
		return true
	}
	return false
}

// counted counts what is read of it.
type counted struct {
	io.ReadCloser
	bytes *atomic.Int64
}

func (c *counted) Read(p []byte) (int, error) {
	n, err := c.ReadCloser.Read(p)
	c.bytes.Add(int64(n))
	return n, err
}

// bigBase is an image of two layers that no compressor makes smaller.
func bigBase() *Base {
	var layers [2][]byte
	base := &image.Base{Digest: digest.FromString("a manifest")}
	config := `{"config":{"Cmd":["x"]},"rootfs":{"type":"layers","diff_ids":[`
	for i := range layers {
		layers[i] = bytes.Repeat([]byte{byte(i), 'x'}, 256<<10)
		d := digest.FromBytes(layers[i])
		base.Manifest.Layers = append(base.Manifest.Layers, ocispec.Descriptor{MediaType: ocispec.MediaTypeImageLayer, Digest: d, Size: int64(len(layers[i]))})
		config += `"` + d.String() + `",`
	}
	base.RawConfig = []byte(strings.TrimSuffix(config, ",") + `]}}`)
	base.Config.RootFS.DiffIDs = []digest.Digest{base.Manifest.Layers[0].Digest, base.Manifest.Layers[1].Digest}
	return &Base{Base: base, Open: func(_ context.Context, d ocispec.Descriptor) (io.ReadCloser, error) {
		for i := range layers {
			if digest.FromBytes(layers[i]) == d.Digest {
				return io.NopCloser(bytes.NewReader(layers[i])), nil
			}
		}
		return nil, errors.New("not there")
	}}
}

// another commits the container main once more, to a sandbox of its own, and returns how many bytes were uploaded.
func (s *scene) another(l *linked, sandbox string) int64 {
	s.t.Helper()
	before := l.uploaded.Load()
	host, _, _ := strings.Cut(s.options.Containers[0].Image, "/")
	s.options.Containers[0].Image = host + "/" + sandbox + ":tag"
	s.options.SnapshotUID = sandbox
	s.reports = nil
	if err := s.commit(s.t.Context()); err != nil {
		s.t.Fatal(err)
	}
	s.states(runtime.Running)
	return l.uploaded.Load() - before
}

// unpackOnly takes the bytes of the base's layers away. What is unpacked of them no compressor makes smaller.
func (c *fakeContainer) unpackOnly(t *testing.T) {
	t.Helper()
	c.base.Open = func(context.Context, ocispec.Descriptor) (io.ReadCloser, error) { return nil, errors.New("not there") }
	for i := range c.base.Manifest.Layers {
		dir, data := t.TempDir(), make([]byte, 512<<10)
		_, _ = rand.NewChaCha8([32]byte{byte(i)}).Read(data) // never fails
		if err := os.WriteFile(filepath.Join(dir, "data"), data, 0o644); err != nil {
			t.Fatal(err)
		}
		c.lower = append([]string{dir}, c.lower...)
	}
}

func mustShareAllButTheTopmost(t *testing.T, a, b v1.Image) {
	t.Helper()
	var digests [2][]v1.Hash
	for i, img := range []v1.Image{a, b} {
		manifest, err := img.Manifest()
		if err != nil {
			t.Fatal(err)
		}
		for _, d := range manifest.Layers {
			digests[i] = append(digests[i], d.Digest)
		}
	}
	if len(digests[0]) != 3 || !slices.Equal(digests[0][:2], digests[1][:2]) {
		t.Errorf("layers %v and %v", digests[0], digests[1])
	}
}

func TestTheBaseIsUploadedOnce(t *testing.T) {
	const whole, little = 1 << 20, 1 << 20 / 50
	for name, test := range map[string]struct {
		repository bool
		prepare    func(l *linked)
		// between is what happens before the second sandbox.
		between func(l *linked)
		// other is whether the second, and the third, are of an image that shares the layers alone.
		other bool
		// unpacked is whether the layers are only unpacked on the node.
		unpacked bool
		// second and third are what those sandboxes upload.
		second, third int64
	}{
		"as it should be":                    {repository: true, second: 0, third: 0},
		"images that share their layers":     {repository: true, other: true, second: 0, third: 0},
		"layers that are only unpacked":      {repository: true, unpacked: true, second: 0, third: 0},
		"without a repository for bases":     {second: whole, third: whole},
		"the first sandbox is gone":          {repository: true, between: func(l *linked) { l.forget("one") }, second: 0, third: 0},
		"the repository was emptied":         {repository: true, between: func(l *linked) { l.forget("bases") }, second: whole, third: 0},
		"a registry that does not mount":     {repository: true, prepare: func(l *linked) { l.noMounts = true }, second: whole, third: whole},
		"an account that may not push there": {repository: true, prepare: func(l *linked) { l.denied = true }, second: whole, third: whole},
	} {
		t.Run(name, func(t *testing.T) {
			s := newScene(t)
			l := s.links()
			s.options.Containers = s.options.Containers[:1]
			delete(s.node.containers, "side-id")
			s.node.containers["main-id"].base = bigBase()
			c := s.node.containers["main-id"]
			if test.unpacked {
				c.unpackOnly(t)
			}
			if test.repository {
				host, _, _ := strings.Cut(s.options.Containers[0].Image, "/")
				s.options.BaseRepository = host + "/bases"
			}
			if test.prepare != nil {
				test.prepare(l)
			}
			if first := s.another(l, "one"); first < whole || first > whole+little {
				t.Errorf("the first sandbox uploads %d bytes", first)
			}
			if test.other {
				s.node.containers["main-id"].base.Digest = digest.FromString("another manifest")
			}
			if test.between != nil {
				test.between(l)
			}
			first := pull(t, s.last().Containers[0])
			if got := s.another(l, "two"); got < test.second-little || got > test.second+little {
				t.Errorf("the second sandbox uploads %d bytes, about %d were expected", got, test.second)
			}
			if got := s.another(l, "three"); got < test.third-little || got > test.third+little {
				t.Errorf("the third sandbox uploads %d bytes, about %d were expected", got, test.third)
			}
			if test.unpacked {
				mustShareAllButTheTopmost(t, first, pull(t, s.last().Containers[0]))
			}
			for _, sandbox := range []string{"two", "three"} {
				for _, d := range c.base.Manifest.Layers {
					if !test.unpacked && !l.blobs[sandbox+"@"+d.Digest.String()] {
						t.Errorf("the repository of %s does not have the base's layer %s", sandbox, d.Digest)
					}
				}
			}
		})
	}
}
