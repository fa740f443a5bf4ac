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
	"io"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-containerregistry/pkg/v1/validate"
	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
	"golang.org/x/sys/unix"

	"github.com/opensandbox-io/sandbox-apiserver/pkg/committer/result"
	"github.com/opensandbox-io/sandbox-apiserver/pkg/committer/runtime"
)

// declare gives a container a volume of its image, with one file.
func (s *scene) declare(c *fakeContainer, path, content string) runtime.Volume {
	s.t.Helper()
	v := runtime.Volume{Path: path, Dir: s.t.TempDir()}
	if err := os.WriteFile(filepath.Join(v.Dir, "file"), []byte(content), 0o600); err != nil {
		s.t.Fatal(err)
	}
	c.volumes = append(c.volumes, v)
	return v
}

// TestVolumes: what is in the volumes that an image declares is in the image that is pushed; of a
// large one only what changed since a first pass waits for the freeze.
func TestVolumes(t *testing.T) {
	for _, leave := range []bool{true, false} {
		s := newScene(t)
		s.options.LeaveFrozen, s.options.SpoolDir = leave, t.TempDir()
		main, side := s.node.containers["main-id"], s.node.containers["side-id"]
		large := s.declare(main, "/data", "in the first pass")
		if err := os.WriteFile(filepath.Join(large.Dir, "large"), make([]byte, largeBytes), 0o600); err != nil {
			t.Fatal(err)
		}
		s.declare(side, "/var/lib/data/", "of the side")
		main.onPause = func() error {
			return os.WriteFile(filepath.Join(large.Dir, "file"), []byte("at the last moment"), 0o600)
		}
		if err := s.commit(context.Background()); err != nil {
			t.Fatal(err)
		}
		for i, want := range []map[string]string{
			{"file": "of main", "data/file": "at the last moment"}, {"file": "of side", "var/lib/data/file": "of the side"},
		} {
			c := s.last().Containers[i]
			img := pull(t, c)
			if err := validate.Image(img, validate.Fast); err != nil {
				t.Error(err)
			}
			files := unpack(t, baseOf(t, img, strings.TrimSuffix(c.Image, ":tag")))
			for name, content := range want {
				if files[name] != content {
					t.Errorf("leaveFrozen=%v: %s has %q at %q, want %q", leave, c.Name, files[name], name, content)
				}
			}
			if layers := 2 - i; c.Layers != layers {
				t.Errorf("leaveFrozen=%v: %s has %d layers of ours, want %d", leave, c.Name, c.Layers, layers)
			}
		}
		if warnings := s.last().Warnings; len(warnings) > 0 {
			t.Errorf("warnings %+v", warnings)
		}
	}
}

// TestComparedVolumes: containerd's comparison knows nothing of volumes.
func TestComparedVolumes(t *testing.T) {
	s := newScene(t)
	s.options.LeaveFrozen = true
	c := s.node.containers["side-id"]
	c.upper = ""
	s.declare(c, "/data", "in the volume")
	empty := make([]byte, 1024)
	c.compare = func() (*runtime.Compared, error) {
		return &runtime.Compared{
			Descriptor: ocispec.Descriptor{MediaType: ocispec.MediaTypeImageLayerZstd, Digest: digest.FromBytes(empty), Size: int64(len(empty))},
			DiffID:     digest.FromBytes(empty),
			Open:       func(context.Context) (io.ReadCloser, error) { return io.NopCloser(bytes.NewReader(empty)), nil },
		}, nil
	}
	if err := s.commit(context.Background()); err != nil {
		t.Fatal(err)
	}
	side := s.last().Containers[1]
	base := baseOf(t, pull(t, side), strings.TrimSuffix(side.Image, ":tag"))
	last := len(base.Manifest.Layers) - 1
	if got := string(plainLayer(t, base, last)); side.Layers != 2 || side.Differ != result.DifferContainerd || !strings.Contains(got, "data/file") || !strings.Contains(got, "in the volume") {
		t.Errorf("result %+v; the last of %d layers is %q", side, last+1, got)
	}

	// A volume that cannot be read is found out before anything is frozen.
	s.node.calls, s.reports = nil, nil
	c.volumes[0].Dir += "/gone"
	c.state = runtime.Running
	if err := s.commit(context.Background()); err == nil || !strings.Contains(err.Error(), "--containerd-root") || s.froze() {
		t.Errorf("got %v; calls %v", err, s.node.calls)
	}
}

// TestWhatOfVolumesIsNotKept is told with the success.
func TestWhatOfVolumesIsNotKept(t *testing.T) {
	if os.Geteuid() != 0 {
		t.Skip("needs root, for device nodes")
	}
	s := newScene(t)
	c := s.node.containers["main-id"]
	v := s.declare(c, "/data", "kept")
	s.declare(c, "/file/below", "in the place of a file")
	for _, name := range []string{"a", "b"} {
		if err := unix.Mknod(filepath.Join(v.Dir, name), unix.S_IFCHR, 0); err != nil {
			t.Skip("cannot make device nodes here:", err)
		}
	}
	if err := s.commit(context.Background()); err != nil {
		t.Fatal(err)
	}
	got := s.last().Warnings
	if len(got) != 2 || got[0].Reason != result.MountNotKept || got[0].Container != "main" || got[0].Path != "/file/below" || !strings.Contains(got[0].Message, `"/file" is no directory`) ||
		got[1].Reason != result.MountNotKept || got[1].Path != "/data/a" || !strings.Contains(got[1].Message, "2 deletions") {
		t.Errorf("warnings %+v", got)
	}
	if files := unpack(t, baseOf(t, pull(t, s.last().Containers[0]), strings.TrimSuffix(s.last().Containers[0].Image, ":tag"))); files["data/file"] != "kept" {
		t.Errorf("files %v", files)
	}
}

// TestWhatAContainerHasMountedItselfIsTold with the success, and is no failure where it cannot be seen.
func TestWhatAContainerHasMountedItselfIsTold(t *testing.T) {
	s := newScene(t)
	s.node.containers["main-id"].mounted = func() ([]runtime.Mounted, error) {
		return []runtime.Mounted{{Path: "/work", Type: "tmpfs"}, {Path: "/home/u/remote", Type: "fuse.sshfs"}}, nil
	}
	s.node.containers["side-id"].mounted = func() ([]runtime.Mounted, error) { return nil, os.ErrPermission }
	if err := s.commit(context.Background()); err != nil {
		t.Fatal(err)
	}
	got := s.last().Warnings
	if len(got) != 2 || got[0].Reason != result.MountNotKept || got[0].Container != "main" || got[0].Path != "/work" || !strings.Contains(got[0].Message, "tmpfs") || got[1].Path != "/home/u/remote" {
		t.Errorf("warnings %+v", got)
	}
}
