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
	"archive/tar"
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/containerd/containerd/v2/pkg/archive"
	"github.com/google/go-cmp/cmp"
	"github.com/google/go-containerregistry/pkg/v1/validate"
	"github.com/klauspost/compress/zstd"
	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/opensandbox-io/sandbox-apiserver/pkg/committer/result"
	"github.com/opensandbox-io/sandbox-apiserver/pkg/committer/runtime"
)

// TestMergesWhereContainerdCompares pauses and resumes a container on a snapshotter that
// has no directories for single layers: what lies below is read from the image.
func TestMergesWhereContainerdCompares(t *testing.T) {
	n := newNative(t)
	merged := 0
	for cycle := 1; cycle <= 20; cycle++ {
		got := n.cycle(cycle)
		if got.Layers > 8 {
			t.Errorf("cycle %d: %d layers", cycle, got.Layers)
		}
		if diff := cmp.Diff(n.files, n.unpacked()); diff != "" {
			t.Fatalf("cycle %d: files (-want +got):\n%s", cycle, diff)
		}
		if cycle <= 2 || got.Layers != 2 {
			continue
		}
		merged++
		// The base's file is still to be deleted, nothing of what was made and deleted since.
		if got := deletions(t, plainLayer(t, n.container.base, 1)); !slices.Equal(got, []string{".wh.base of main"}) {
			t.Errorf("cycle %d: the merged layer has the deletions %q", cycle, got)
		}
	}
	if merged < 2 {
		t.Errorf("layers were merged in %d of 20 cycles", merged)
	}
}

// TestABaseThatCannotBeReadIsNoFailure has a registry that serves no layer below those that
// are to be merged.
func TestABaseThatCannotBeReadIsNoFailure(t *testing.T) {
	n := newNative(t)
	base := n.container.base.Manifest.Layers[0].Digest
	asked := 0
	n.before = func(w http.ResponseWriter, r *http.Request) bool {
		refuse := n.committing && r.Method == http.MethodGet && strings.HasSuffix(r.URL.Path, base.String())
		if refuse {
			asked++
			w.WriteHeader(http.StatusForbidden)
		}
		return refuse
	}
	for cycle := 1; cycle <= maxOwnLayers+2; cycle++ {
		if got := n.cycle(cycle); got.Layers != cycle {
			t.Errorf("cycle %d: %d layers", cycle, got.Layers)
		}
	}
	if asked == 0 {
		t.Error("nothing had to be read")
	}
}

// native is a container whose files lie in one directory, with nothing that says which of
// them are of its image.
type native struct {
	*scene
	container  *fakeContainer
	repository string
	below      string            // what its image unpacks to
	files      map[string]string // what it should unpack to
	committing bool
}

func newNative(t *testing.T) *native {
	s := newScene(t)
	delete(s.node.containers, "side-id")
	s.options.Containers = s.options.Containers[:1]
	n := &native{scene: s, container: s.node.containers["main-id"], repository: strings.TrimSuffix(s.options.Containers[0].Image, ":tag"),
		below: t.TempDir(), files: map[string]string{"base of main": ""}}
	n.container.upper = ""
	if err := os.WriteFile(filepath.Join(n.below, "base of main"), nil, 0o644); err != nil {
		t.Fatal(err)
	}
	return n
}

// cycle changes files, commits, and has the image as the base of the next. There is a file
// that stays, one that stays for a cycle, and a directory with another such.
func (n *native) cycle(cycle int) result.Container {
	n.t.Helper()
	dir := n.t.TempDir()
	if out, err := exec.Command("cp", "--archive", n.below+"/.", dir).CombinedOutput(); err != nil {
		n.t.Fatalf("cp: %v\n%s", err, out)
	}
	write := func(name, content string) {
		if err := errors.Join(os.MkdirAll(filepath.Dir(filepath.Join(dir, name)), 0o755), os.WriteFile(filepath.Join(dir, name), []byte(content), 0o600)); err != nil {
			n.t.Fatal(err)
		}
		n.files[name] = content
	}
	remove := func(name string) {
		if err := os.Remove(filepath.Join(dir, name)); err != nil {
			n.t.Fatal(err)
		}
		delete(n.files, name)
	}
	write(fmt.Sprint("kept", cycle), fmt.Sprint("since ", cycle))
	write(fmt.Sprint("once", cycle), "for a cycle")
	write(fmt.Sprint("dir", cycle, "/once"), "for a cycle")
	write("live", fmt.Sprint("in ", cycle))
	if cycle > 1 {
		remove(fmt.Sprint("once", cycle-1))
		remove(fmt.Sprint("dir", cycle-1, "/once"))
	}
	if cycle == 2 {
		remove("base of main")
	}
	n.container.compare = func() (*runtime.Compared, error) { return compareDirs(n.below, dir) }
	n.options.SnapshotUID = fmt.Sprint("uid", cycle)
	n.options.Containers[0].Image = fmt.Sprint(n.repository, ":cycle", cycle)
	n.reports, n.committing = nil, true
	if err := n.commit(context.Background()); err != nil {
		n.t.Fatalf("cycle %d: %v", cycle, err)
	}
	n.committing = false
	got := n.last().Containers[0]
	img := pull(n.t, got)
	if err := validate.Image(img, validate.Fast); err != nil {
		n.t.Fatalf("cycle %d: %v", cycle, err)
	}
	n.container.base = baseOf(n.t, img, n.repository)
	if got.Layers != len(n.container.base.Manifest.Layers)-1 {
		n.t.Errorf("cycle %d: %d layers, said %d", cycle, len(n.container.base.Manifest.Layers)-1, got.Layers)
	}
	n.below = n.t.TempDir()
	for i := range n.container.base.Manifest.Layers {
		layer := bytes.NewReader(plainLayer(n.t, n.container.base, i))
		if _, err := archive.Apply(context.Background(), n.below, layer, archive.WithNoSameOwner()); err != nil {
			n.t.Fatal(err)
		}
	}
	return got
}

// TestADeletionThatIsNoneWhereContainerdCompares: containerd writes what is named like a deletion as it is, beside those that
// it means.
func TestADeletionThatIsNoneWhereContainerdCompares(t *testing.T) {
	for name, make := range map[string]func(dir string) error{
		"a file":            func(dir string) error { return os.WriteFile(dir+"/.wh.x", []byte("x"), 0o600) },
		"an empty one":      func(dir string) error { return os.WriteFile(dir+"/.wh.x", nil, 0o644) },
		"a directory":       func(dir string) error { return os.Mkdir(dir+"/.wh.x", 0o755) },
		"of fuse-overlayfs": func(dir string) error { return os.WriteFile(dir+"/.wh..wh..opq", nil, 0o600) },
		"none":              func(string) error { return nil },
	} {
		t.Run(name, func(t *testing.T) {
			s := newScene(t)
			s.options.LeaveFrozen = true
			c := s.node.containers["side-id"]
			lower, upper := t.TempDir(), t.TempDir()
			if err := os.WriteFile(lower+"/deleted", nil, 0o600); err != nil {
				t.Fatal(err)
			}
			if err := make(upper); err != nil {
				t.Fatal(err)
			}
			c.upper = ""
			c.compare = func() (*runtime.Compared, error) { return compareDirs(lower, upper) }
			err := s.commit(context.Background())
			if name == "none" {
				if err != nil {
					t.Error(err)
				}
				return
			}
			if r := s.last(); err == nil || r.Error.Reason != result.FilesNotSupported || !strings.Contains(r.Error.Message, `"/.wh.`) || !r.Thawed {
				t.Errorf("got %v", err)
			}
		})
	}
}

// compareDirs is what containerd does where there is no overlay.
func compareDirs(lower, upper string) (*runtime.Compared, error) {
	var plain, compressed bytes.Buffer
	if err := archive.WriteDiff(context.Background(), &plain, lower, upper); err != nil {
		return nil, err
	}
	w, err := zstd.NewWriter(&compressed)
	if err != nil {
		return nil, err
	}
	if _, err := w.Write(plain.Bytes()); err != nil {
		return nil, err
	}
	if err := w.Close(); err != nil {
		return nil, err
	}
	return &runtime.Compared{
		Descriptor: ocispec.Descriptor{MediaType: ocispec.MediaTypeImageLayerZstd, Digest: digest.FromBytes(compressed.Bytes()), Size: int64(compressed.Len())},
		DiffID:     digest.FromBytes(plain.Bytes()),
		Open: func(context.Context) (io.ReadCloser, error) {
			return io.NopCloser(bytes.NewReader(compressed.Bytes())), nil
		},
	}, nil
}

// unpacked are the files that the image unpacks to.
func (n *native) unpacked() map[string]string {
	n.t.Helper()
	files := map[string]string{}
	err := filepath.WalkDir(n.below, func(path string, d fs.DirEntry, err error) error {
		if err != nil || d.IsDir() {
			return err
		}
		content, err := os.ReadFile(path)
		files[strings.TrimPrefix(path, n.below+"/")] = string(content)
		return err
	})
	if err != nil {
		n.t.Fatal(err)
	}
	return files
}

func deletions(t *testing.T, layer []byte) (all []string) {
	t.Helper()
	for r := tar.NewReader(bytes.NewReader(layer)); ; {
		h, err := r.Next()
		if errors.Is(err, io.EOF) {
			return all
		}
		if err != nil {
			t.Fatal(err)
		}
		if strings.HasPrefix(filepath.Base(h.Name), ".wh.") {
			all = append(all, h.Name)
		}
	}
}
