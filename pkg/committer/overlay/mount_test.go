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
	"bytes"
	"context"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/containerd/containerd/v2/pkg/archive"
	"github.com/google/go-cmp/cmp"
	"golang.org/x/sys/unix"
)

// TestAgainstOverlayfs changes files through a real overlay mount and checks
// that the layer, unpacked over the base by containerd's own code, gives what the
// mount showed.
func TestAgainstOverlayfs(t *testing.T) {
	asRoot(t)
	work := t.TempDir()
	dir := func(name string) string {
		path := filepath.Join(work, name)
		must(t, os.MkdirAll(path, 0o755))
		return path
	}
	lower, upper, merged := dir("lower"), dir("upper"), dir("merged")
	base := tree{t, lower}
	base.dir("etc", 0o755)
	base.file("etc/passwd", "root", 0o644)
	base.file("etc/removed", "x", 0o644)
	base.dir("removed", 0o755)
	base.file("removed/f", "x", 0o644)
	base.dir("again", 0o755)
	base.file("again/old", "x", 0o644)
	base.file("to-dir", "file", 0o644)
	base.dir("to-file", 0o755)
	base.file("to-file/f", "x", 0o644)
	base.dir("renamed", 0o755)
	base.file("renamed/f", "moved", 0o644)
	base.dir("chmod", 0o755)
	base.file("linked", "two names", 0o644)
	must(t, os.Link(lower+"/linked", lower+"/linked2"))
	must(t, os.Symlink("etc", lower+"/link"))

	options := fmt.Sprintf("index=off,lowerdir=%s,upperdir=%s,workdir=%s", lower, upper, dir("work"))
	if err := unix.Mount("overlay", merged, "overlay", 0, options); err != nil {
		t.Skip("cannot mount an overlay here:", err)
	}
	mounted := true
	unmount := func() {
		if mounted {
			must(t, unix.Unmount(merged, 0))
			mounted = false
		}
	}
	defer unmount()

	m := tree{t, merged}
	m.file("etc/passwd", "root and more", 0o600)
	must(t, os.Remove(m.path("etc/removed")))
	must(t, os.RemoveAll(m.path("removed")))
	must(t, os.RemoveAll(m.path("again")))
	m.dir("again", 0o700)
	m.file("again/new", "y", 0o644)
	must(t, os.Remove(m.path("to-dir")))
	m.dir("to-dir", 0o755)
	m.file("to-dir/f", "now inside", 0o644)
	must(t, os.RemoveAll(m.path("to-file")))
	m.file("to-file", "now a file", 0o644)
	if err := os.Rename(m.path("renamed"), m.path("renamed2")); err != nil {
		// Without redirect_dir the kernel answers EXDEV, and mv copies.
		m.dir("renamed2", 0o755)
		m.file("renamed2/f", "moved", 0o644)
		must(t, os.RemoveAll(m.path("renamed")))
	}
	must(t, os.Chmod(m.path("chmod"), 0o1777))
	must(t, os.Lchown(m.path("chmod"), 7, 8))
	m.file("linked", "one changed", 0o644)
	must(t, os.Remove(m.path("link")))
	must(t, os.Symlink("/proc/self/root/etc", m.path("link")))
	m.node("null", unix.S_IFCHR|0o666, 1, 3)
	m.node("fifo", unix.S_IFIFO|0o644, 0, 0)
	m.file("h1", "hard", 0o644)
	must(t, os.Link(m.path("h1"), m.path("etc/h2")))
	m.xattr("etc/passwd", "user.mine", "1")
	m.xattr("h1", "security.capability", "\x01\x00\x00\x02\x00\x04\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00")

	want := listing(t, merged)
	unmount()

	var layer bytes.Buffer
	_, err := Write(context.Background(), &layer, upper, Options{})
	must(t, err)
	unpacked := filepath.Join(work, "unpacked")
	must(t, os.CopyFS(unpacked, os.DirFS(lower)))
	// CopyFS keeps neither hard links nor times; they are the base's business.
	_, err = archive.Apply(context.Background(), unpacked, &layer)
	must(t, err)
	got := listing(t, unpacked)
	for _, ofBase := range []string{"linked2", "."} {
		delete(want, ofBase)
		delete(got, ofBase)
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("the container saw (-), the image has (+):\n%s", diff)
	}
}

// listing describes every entry below root in one line.
func listing(t *testing.T, root string) map[string]string {
	t.Helper()
	all := map[string]string{}
	must(t, filepath.WalkDir(root, func(path string, d fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		name, err := filepath.Rel(root, path)
		if err != nil {
			return err
		}
		var st unix.Stat_t
		if err := unix.Lstat(path, &st); err != nil {
			return err
		}
		line := fmt.Sprintf("%o %d:%d", st.Mode, st.Uid, st.Gid)
		switch {
		case d.Type().IsRegular():
			content, err := os.ReadFile(path)
			if err != nil {
				return err
			}
			line += fmt.Sprintf(" links=%d mtime=%d.%09d %q", st.Nlink, st.Mtim.Sec, st.Mtim.Nsec, content)
		case d.Type()&fs.ModeSymlink != 0:
			target, err := os.Readlink(path)
			if err != nil {
				return err
			}
			line += " -> " + target
		case d.Type()&fs.ModeDevice != 0:
			line += fmt.Sprintf(" device=%d", st.Rdev)
		}
		buf := make([]byte, 4096)
		n, err := unix.Llistxattr(path, buf)
		if err != nil {
			return err
		}
		keys := strings.Split(strings.TrimSuffix(string(buf[:n]), "\x00"), "\x00")
		slices.Sort(keys)
		for _, key := range keys {
			if key == "" || strings.HasPrefix(key, "trusted.overlay.") {
				continue
			}
			value := make([]byte, 4096)
			n, err := unix.Lgetxattr(path, key, value)
			if err != nil {
				return err
			}
			line += fmt.Sprintf(" %s=%x", key, value[:n])
		}
		all[name] = line
		return nil
	}))
	return all
}
