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

package overlay

import (
	"archive/tar"
	"bytes"
	"errors"
	"io"
	"net"
	"os"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
)

func TestCover(t *testing.T) {
	asRoot(t)
	upper := func() tree {
		f := newTree(t)
		f.dir("d", 0o750)
		f.dir("d/e", 0o755)
		f.file("d/f", "x", 0o600)
		f.dir("other", 0o755)
		must(t, os.Chown(f.path("d"), 3, 4))
		f.xattr("d", "user.mine", "1")
		return f
	}
	listen := func(path string) {
		l, err := net.ListenUnix("unix", &net.UnixAddr{Name: path, Net: "unix"})
		must(t, err)
		l.SetUnlinkOnClose(false)
		must(t, l.Close())
	}

	t.Run("what a layer leaves out", func(t *testing.T) {
		f := upper()
		listen(f.path("d/s1"))
		listen(f.path("d/s2"))
		must(t, os.Chtimes(f.path("d"), time.Time{}, time.Unix(1000, 7)))
		var layer bytes.Buffer
		stats, err := Cover(t.Context(), &layer, f.root, time.Now(), Options{})
		must(t, err)
		if stats.Sockets != 2 || stats.Entries != 4 {
			t.Errorf("stats %+v", stats)
		}
		want := []entry{
			rootDir,
			{Type: tar.TypeDir, Name: "d/", Mode: 0o750, UID: 3, GID: 4, Xattrs: map[string]string{"user.mine": "1"}},
			{Type: tar.TypeReg, Name: "d/.wh.s1"},
			{Type: tar.TypeReg, Name: "d/.wh.s2"},
		}
		if diff := cmp.Diff(want, read(t, layer.Bytes())); diff != "" {
			t.Errorf("layer (-want +got):\n%s", diff)
		}
	})
	t.Run("nothing", func(t *testing.T) {
		f := upper()
		var layer bytes.Buffer
		stats, err := Cover(t.Context(), &layer, f.root, time.Now(), Options{})
		if err != nil || stats.Entries != 0 || layer.Len() > 0 {
			t.Errorf("stats %+v, %d bytes (%v)", stats, layer.Len(), err)
		}
	})
	t.Run("what was changed since", func(t *testing.T) {
		for name, change := range map[string]func(tree) error{
			"a file":      func(f tree) error { return os.WriteFile(f.path("d/f"), []byte("later"), 0o600) },
			"a mode":      func(f tree) error { return os.Chmod(f.path("d"), 0o700) },
			"a new name":  func(f tree) error { return os.Symlink("x", f.path("link")) },
			"a deletion":  func(f tree) error { return os.Remove(f.path("d/f")) },
			"a time back": func(f tree) error { return os.Chtimes(f.path("d/f"), time.Time{}, time.Unix(1, 0)) },
		} {
			f := upper()
			committed := time.Now()
			time.Sleep(20 * time.Millisecond) // longer than a tick of the kernel's clock
			must(t, change(f))
			if _, err := Cover(t.Context(), io.Discard, f.root, committed, Options{}); !errors.Is(err, ErrChanged) {
				t.Errorf("%s: %v", name, err)
			}
		}
	})
	t.Run("what is no layer by itself", func(t *testing.T) {
		f := upper()
		f.xattr("d", "trusted.overlay.redirect", "/other")
		if _, err := Cover(t.Context(), io.Discard, f.root, time.Now(), Options{}); !errors.Is(err, ErrNotSelfContained) {
			t.Errorf("got %v", err)
		}
		if _, err := Cover(t.Context(), io.Discard, f.root, time.Now(), Options{Owners: Owners{Users: []IDs{{0, 1000, 1}}}}); err == nil {
			t.Error("owners of a user namespace were kept")
		}
	})
}
