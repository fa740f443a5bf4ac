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
	"errors"
	"net"
	"os"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

func TestKeep(t *testing.T) {
	asRoot(t)
	lower := newTree(t)
	lower.file("hidden", "of the image", 0o600)
	upper := func() tree {
		f := newTree(t)
		f.dir("d", 0o755)
		f.file("d/f", "x", 0o600)
		for _, socket := range []string{"hidden", "d/s"} {
			l, err := net.ListenUnix("unix", &net.UnixAddr{Name: f.path(socket), Net: "unix"})
			must(t, err)
			l.SetUnlinkOnClose(false)
			must(t, l.Close())
		}
		must(t, os.Chtimes(f.path("d"), time.Time{}, time.Unix(1000, 7)))
		return f
	}
	o := Options{Lowerdirs: []string{lower.root}}

	t.Run("what a layer leaves out", func(t *testing.T) {
		f := upper()
		stats, err := Keep(t.Context(), f.root, time.Now(), o)
		must(t, err)
		if stats.Sockets != 2 {
			t.Errorf("stats %+v", stats)
		}
		var st unix.Stat_t
		if err := unix.Lstat(f.path("d/s"), &st); !errors.Is(err, unix.ENOENT) {
			t.Errorf("the socket is still there (%v)", err)
		}
		must(t, unix.Lstat(f.path("hidden"), &st))
		if st.Mode&unix.S_IFMT != unix.S_IFCHR || st.Rdev != 0 {
			t.Errorf("what the socket hid is not hidden: mode %o", st.Mode)
		}
		must(t, unix.Lstat(f.path("d"), &st))
		if st.Mtim.Sec != 1000 || st.Mtim.Nsec != 7 {
			t.Errorf("the directory's time is %v", st.Mtim)
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
			if _, err := Keep(t.Context(), f.root, committed, o); !errors.Is(err, ErrChanged) {
				t.Errorf("%s: %v", name, err)
			}
		}
	})
	t.Run("what is no layer by itself", func(t *testing.T) {
		f := upper()
		f.xattr("d", "trusted.overlay.redirect", "/other")
		if _, err := Keep(t.Context(), f.root, time.Now(), o); !errors.Is(err, ErrNotSelfContained) {
			t.Errorf("got %v", err)
		}
		if _, err := Keep(t.Context(), f.root, time.Now(), Options{Owners: Owners{Users: []IDs{{0, 1000, 1}}}}); err == nil {
			t.Error("owners of a user namespace were kept")
		}
	})
}
