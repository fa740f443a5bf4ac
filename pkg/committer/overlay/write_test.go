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
	"context"
	"errors"
	"io"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"golang.org/x/sys/unix"
)

// asRoot skips what only root may make: device nodes, owners, trusted.*.
func asRoot(t *testing.T) {
	t.Helper()
	if os.Geteuid() != 0 {
		t.Skip("needs root, for device nodes and trusted extended attributes")
	}
}

func must(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

// entry is what a test says about a tar entry.
type entry struct {
	Type     byte
	Name     string
	Link     string
	Mode     int64
	UID, GID int
	Content  string
	Device   [2]int64
	Xattrs   map[string]string
}

func read(t *testing.T, data []byte) []entry {
	t.Helper()
	var all []entry
	for r := tar.NewReader(bytes.NewReader(data)); ; {
		h, err := r.Next()
		if errors.Is(err, io.EOF) {
			return all
		}
		must(t, err)
		content, err := io.ReadAll(r)
		must(t, err)
		e := entry{Type: h.Typeflag, Name: h.Name, Link: h.Linkname, Mode: h.Mode, UID: h.Uid, GID: h.Gid, Content: string(content), Device: [2]int64{h.Devmajor, h.Devminor}}
		for k, v := range h.PAXRecords {
			if name, ok := strings.CutPrefix(k, schily); ok {
				if e.Xattrs == nil {
					e.Xattrs = map[string]string{}
				}
				e.Xattrs[name] = v
			}
		}
		all = append(all, e)
	}
}

func write(t *testing.T, dir string, o Options) ([]byte, Stats) {
	t.Helper()
	var b bytes.Buffer
	stats, err := Write(context.Background(), &b, dir, o)
	must(t, err)
	return b.Bytes(), stats
}

// tree helps to make a directory; every path is below it.
type tree struct {
	t    *testing.T
	root string
}

func newTree(t *testing.T) tree {
	root := t.TempDir()
	must(t, os.Chmod(root, 0o755))
	return tree{t, root}
}

func (f tree) path(name string) string { return f.root + "/" + name }

func (f tree) dir(name string, mode uint32) {
	f.t.Helper()
	must(f.t, unix.Mkdir(f.path(name), mode))
	must(f.t, unix.Chmod(f.path(name), mode))
}

func (f tree) file(name, content string, mode uint32) {
	f.t.Helper()
	must(f.t, os.WriteFile(f.path(name), []byte(content), 0o600))
	must(f.t, unix.Chmod(f.path(name), mode))
}

func (f tree) node(name string, mode uint32, major, minor uint32) {
	f.t.Helper()
	must(f.t, unix.Mknod(f.path(name), mode, int(unix.Mkdev(major, minor))))
	must(f.t, unix.Chmod(f.path(name), mode&0o7777))
}

func (f tree) xattr(name, key, value string) {
	f.t.Helper()
	if err := unix.Lsetxattr(f.path(name), key, []byte(value), 0); err != nil {
		if errors.Is(err, unix.ENOTSUP) {
			f.t.Skipf("this file system has no %s attributes", key)
		}
		f.t.Fatalf("%s on %s: %v", key, name, err)
	}
}

var rootDir = entry{Type: tar.TypeDir, Name: "./", Mode: 0o755}

func TestEntries(t *testing.T) {
	asRoot(t)
	const raw = "a \n\xff\xfe\"'\\=%"
	tests := []struct {
		name    string
		options Options
		make    func(tree)
		want    []entry
	}{
		{"nothing", Options{}, func(tree) {}, nil},
		{"files and modes", Options{}, func(f tree) {
			f.file("b", "hello", 0o4755)
			f.file("a", "", 0o000)
			f.dir("c", 0o1777)
			f.file("c/x", "in c", 0o640)
			must(f.t, os.Lchown(f.path("c/x"), 12345678, 4000000000))
		}, []entry{
			{Type: tar.TypeReg, Name: "a"},
			{Type: tar.TypeReg, Name: "b", Mode: 0o4755, Content: "hello"},
			{Type: tar.TypeDir, Name: "c/", Mode: 0o1777},
			{Type: tar.TypeReg, Name: "c/x", Mode: 0o640, Content: "in c", UID: 12345678, GID: 4000000000},
		}},
		{"symbolic links are not followed", Options{}, func(f tree) {
			must(f.t, os.Symlink("/etc/shadow", f.path("absolute")))
			must(f.t, os.Symlink("..", f.path("directory")))
			must(f.t, os.Symlink("loop", f.path("loop")))
			must(f.t, os.Symlink(strings.Repeat("x", 4000), f.path("long")))
		}, []entry{
			{Type: tar.TypeSymlink, Name: "absolute", Link: "/etc/shadow", Mode: 0o777},
			{Type: tar.TypeSymlink, Name: "directory", Link: "..", Mode: 0o777},
			{Type: tar.TypeSymlink, Name: "long", Link: strings.Repeat("x", 4000), Mode: 0o777},
			{Type: tar.TypeSymlink, Name: "loop", Link: "loop", Mode: 0o777},
		}},
		{"special files, without sockets", Options{}, func(f tree) {
			f.node("block", unix.S_IFBLK|0o660, 7, 300)
			f.node("char", unix.S_IFCHR|0o666, 1, 3)
			f.node("fifo", unix.S_IFIFO|0o600, 0, 0)
			f.node("socket", unix.S_IFSOCK|0o600, 0, 0)
		}, []entry{
			{Type: tar.TypeBlock, Name: "block", Mode: 0o660, Device: [2]int64{7, 300}},
			{Type: tar.TypeChar, Name: "char", Mode: 0o666, Device: [2]int64{1, 3}},
			{Type: tar.TypeFifo, Name: "fifo", Mode: 0o600},
		}},
		{"whiteouts", Options{}, func(f tree) {
			f.dir("d", 0o755)
			f.node("d/gone", unix.S_IFCHR, 0, 0)
			// The kernel makes all whiteouts of a mount one inode.
			must(f.t, os.Link(f.path("d/gone"), f.path("top")))
			f.node(strings.Repeat("n", 255), unix.S_IFCHR, 0, 0)
		}, []entry{
			{Type: tar.TypeDir, Name: "d/", Mode: 0o755},
			{Type: tar.TypeReg, Name: "d/.wh.gone"},
			{Type: tar.TypeReg, Name: ".wh." + strings.Repeat("n", 255)},
			{Type: tar.TypeReg, Name: ".wh.top"},
		}},
		{"whiteouts as attributes", Options{}, func(f tree) {
			f.file("gone", "", 0o600)
			f.xattr("gone", "trusted.overlay.whiteout", "y")
			f.xattr(".", "trusted.overlay.opaque", "x")
		}, []entry{{Type: tar.TypeReg, Name: ".wh.gone"}}},
		{"opaque directories", Options{}, func(f tree) {
			f.dir("o", 0o755)
			f.xattr("o", "trusted.overlay.opaque", "y")
			f.xattr("o", "trusted.overlay.origin", "x")
			f.file("o/kept", "1", 0o600)
		}, []entry{
			{Type: tar.TypeDir, Name: "o/", Mode: 0o755},
			{Type: tar.TypeReg, Name: "o/.wh..wh..opq"},
			{Type: tar.TypeReg, Name: "o/kept", Mode: 0o600, Content: "1"},
		}},
		{"opaque directories of a userxattr mount", Options{UserXattr: true}, func(f tree) {
			f.dir("o", 0o755)
			f.xattr("o", "user.overlay.opaque", "y")
		}, []entry{
			{Type: tar.TypeDir, Name: "o/", Mode: 0o755},
			{Type: tar.TypeReg, Name: "o/.wh..wh..opq"},
		}},
		{"the other prefix is the container's own", Options{}, func(f tree) {
			f.dir("o", 0o755)
			f.xattr("o", "user.overlay.opaque", "y")
			f.xattr("o", "trusted.overlay.overlay.opaque", "y")
		}, []entry{{Type: tar.TypeDir, Name: "o/", Mode: 0o755, Xattrs: map[string]string{
			"user.overlay.opaque": "y", "trusted.overlay.overlay.opaque": "y"}}}},
		{"hard links", Options{}, func(f tree) {
			f.dir("a", 0o755)
			f.dir("b", 0o755)
			f.file("b/first", "same", 0o600)
			must(f.t, os.Link(f.path("b/first"), f.path("b/second")))
			must(f.t, os.Link(f.path("b/first"), f.path("a/before")))
			must(f.t, os.Symlink("x", f.path("b/s1")))
			must(f.t, os.Link(f.path("b/s1"), f.path("b/s2")))
		}, []entry{
			{Type: tar.TypeDir, Name: "a/", Mode: 0o755},
			{Type: tar.TypeReg, Name: "a/before", Mode: 0o600, Content: "same"},
			{Type: tar.TypeDir, Name: "b/", Mode: 0o755},
			{Type: tar.TypeLink, Name: "b/first", Link: "a/before", Mode: 0o600},
			{Type: tar.TypeSymlink, Name: "b/s1", Link: "x", Mode: 0o777},
			{Type: tar.TypeLink, Name: "b/s2", Link: "b/s1", Mode: 0o777},
			{Type: tar.TypeLink, Name: "b/second", Link: "a/before", Mode: 0o600},
		}},
		{"extended attributes", Options{}, func(f tree) {
			f.file("f", "x", 0o600)
			f.xattr("f", "user.empty", "")
			f.xattr("f", "user.binary", "\x00\n=\xff")
			f.xattr("f", "trusted.mine", "1")
			f.xattr("f", "security.mine", "2")
			must(f.t, os.Symlink("f", f.path("l")))
			f.xattr("l", "trusted.link", "3")
			f.xattr("f", "system.posix_acl_access", acl)
		}, []entry{
			{Type: tar.TypeReg, Name: "f", Mode: 0o660, Content: "x", Xattrs: map[string]string{
				"user.empty": "", "user.binary": "\x00\n=\xff", "trusted.mine": "1", "security.mine": "2", "system.posix_acl_access": acl}},
			{Type: tar.TypeSymlink, Name: "l", Link: "f", Mode: 0o777, Xattrs: map[string]string{"trusted.link": "3"}},
		}},
		{"nothing inherits a default ACL that it did not have", Options{}, func(f tree) {
			f.dir("d", 0o755)
			f.dir("d/dir", 0o755)
			f.node("d/fifo", unix.S_IFIFO|0o600, 0, 0)
			f.file("d/file", "x", 0o600)
			f.file("d/own", "x", 0o600)
			must(f.t, os.Symlink("x", f.path("d/link")))
			f.xattr("d/own", accessACL, acl)
			f.xattr("d", defaultACL, acl)
			f.file("d/dir/far", "x", 0o600)
		}, []entry{
			{Type: tar.TypeDir, Name: "d/", Mode: 0o755, Xattrs: map[string]string{defaultACL: acl}},
			{Type: tar.TypeDir, Name: "d/dir/", Mode: 0o755, Xattrs: map[string]string{accessACL: emptyACL, defaultACL: emptyACL}},
			{Type: tar.TypeReg, Name: "d/dir/far", Mode: 0o600, Content: "x"},
			{Type: tar.TypeFifo, Name: "d/fifo", Mode: 0o600, Xattrs: map[string]string{accessACL: emptyACL}},
			{Type: tar.TypeReg, Name: "d/file", Mode: 0o600, Content: "x", Xattrs: map[string]string{accessACL: emptyACL}},
			{Type: tar.TypeSymlink, Name: "d/link", Link: "x", Mode: 0o777},
			{Type: tar.TypeReg, Name: "d/own", Mode: 0o660, Content: "x", Xattrs: map[string]string{accessACL: acl}},
		}},
		{"names of any bytes", Options{}, func(f tree) {
			f.file(raw, "1", 0o600)
			f.file(strings.Repeat("é", 127), "2", 0o600)
			must(f.t, os.Symlink(raw, f.path("l")))
		}, []entry{
			{Type: tar.TypeReg, Name: raw, Mode: 0o600, Content: "1"},
			{Type: tar.TypeSymlink, Name: "l", Link: raw, Mode: 0o777},
			{Type: tar.TypeReg, Name: strings.Repeat("é", 127), Mode: 0o600, Content: "2"},
		}},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			f := newTree(t)
			test.make(f)
			data, _ := write(t, f.root, test.options)
			got := read(t, data)
			if diff := cmp.Diff(append([]entry{rootDir}, test.want...), got); diff != "" {
				t.Errorf("entries (-want +got):\n%s", diff)
			}
			again, _ := write(t, f.root, test.options)
			if !bytes.Equal(data, again) {
				t.Error("a second pass wrote other bytes")
			}
		})
	}
}

// acl is user::rw-, user:1000:rw-, group::r--, mask::rw-, other::--- in the
// kernel's form.
const acl = "\x02\x00\x00\x00" +
	"\x01\x00\x06\x00\xff\xff\xff\xff" + "\x02\x00\x06\x00\xe8\x03\x00\x00" +
	"\x04\x00\x04\x00\xff\xff\xff\xff" + "\x10\x00\x06\x00\xff\xff\xff\xff" + "\x20\x00\x00\x00\xff\xff\xff\xff"

func TestTimesKeepNanoseconds(t *testing.T) {
	asRoot(t)
	f := newTree(t)
	f.file("f", "", 0o600)
	for _, want := range []time.Time{time.Unix(1700000000, 123456789), time.Unix(-1, 1), time.Unix(1<<33, 999999999)} {
		must(t, os.Chtimes(f.path("f"), want, want))
		data, _ := write(t, f.root, Options{})
		r := tar.NewReader(bytes.NewReader(data))
		_, err := r.Next()
		must(t, err)
		h, err := r.Next()
		must(t, err)
		if !h.ModTime.Equal(want) {
			t.Errorf("got %v, want %v", h.ModTime, want)
		}
	}
}

func TestRefusals(t *testing.T) {
	asRoot(t)
	tests := []struct {
		name    string
		options Options
		make    func(tree)
		want    error
		says    string
	}{
		{"a file with the name of a whiteout", Options{}, func(f tree) { f.file(".wh.x", "", 0o600) }, ErrUnrepresentable, `"/.wh.x"`},
		{"a directory with the name of a whiteout", Options{}, func(f tree) { f.dir("d", 0o700); f.dir("d/.wh..wh..opq", 0o700) }, ErrUnrepresentable, `"/d/.wh..wh..opq"`},
		{"an attribute that tar cannot name", Options{}, func(f tree) { f.file("f", "", 0o600); f.xattr("f", "user.a=b", "1") }, ErrUnrepresentable, "user.a=b"},
		{"a path that cannot be unpacked", Options{MaxPath: 10}, func(f tree) { f.dir("123456", 0o700); f.file("123456/789a", "", 0o600) }, ErrUnrepresentable, "11 bytes"},
		{"a directory with such an attribute", Options{}, func(f tree) { f.dir("d", 0o700); f.xattr("d", "user.a=b", "1") }, ErrUnrepresentable, "user.a=b"},
		{"the root with such an attribute", Options{}, func(f tree) { f.xattr(".", "user.a=b", "1") }, ErrUnrepresentable, "user.a=b"},
		{"an owner of the node", Options{Owners: Owners{Users: []IDs{{0, 1000, 10}}, Groups: []IDs{{0, 0, 1 << 16}}}}, func(f tree) {
			must(f.t, os.Chown(f.root, 1000, 0))
			f.file("f", "", 0o600)
		}, ErrUnrepresentable, "owner 0 of the node"},
		{"a renamed directory of the base", Options{}, func(f tree) { f.dir("d", 0o700); f.xattr("d", "trusted.overlay.redirect", "old") }, ErrNotSelfContained, "redirect"},
		{"a file without its content", Options{}, func(f tree) { f.file("f", "", 0o600); f.xattr("f", "trusted.overlay.metacopy", "") }, ErrNotSelfContained, "metacopy"},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			f := newTree(t)
			test.make(f)
			_, err := Write(context.Background(), io.Discard, f.root, test.options)
			_, before := Survey(context.Background(), f.root, test.options)
			for _, err := range []error{err, before} {
				if !errors.Is(err, test.want) || !strings.Contains(err.Error(), test.says) {
					t.Errorf("got %v, want %v that says %s", err, test.want, test.says)
				}
			}
		})
	}
}

func TestStopsWhenCancelled(t *testing.T) {
	asRoot(t)
	f := newTree(t)
	f.file("f", "", 0o600)
	must(t, os.WriteFile(f.path("f"), make([]byte, 8<<20), 0o600))
	ctx, cancel := context.WithCancel(context.Background())
	reads := 0
	stops := writerFunc(func(p []byte) (int, error) {
		if reads++; reads == 2 {
			cancel()
		}
		return len(p), nil
	})
	if _, err := Write(ctx, stops, f.root, Options{}); !errors.Is(err, context.Canceled) {
		t.Errorf("got %v", err)
	}
}

func TestStaysInItsFileSystem(t *testing.T) {
	asRoot(t)
	f := newTree(t)
	f.dir("m", 0o755)
	if err := unix.Mount("tmpfs", f.path("m"), "tmpfs", 0, ""); err != nil {
		t.Skip("cannot mount a tmpfs:", err)
	}
	defer func() { must(t, unix.Unmount(f.path("m"), 0)) }()
	if _, err := Write(context.Background(), io.Discard, f.root, Options{}); err == nil || !strings.Contains(err.Error(), "another file system") {
		t.Errorf("got %v", err)
	}
}

// TestWithoutCapability is a process that the kernel hides trusted.* attributes
// from: it must not write a layer without them.
func TestWithoutCapability(t *testing.T) {
	asRoot(t)
	f := newTree(t)
	f.dir("o", 0o755)
	f.xattr("o", "trusted.overlay.opaque", "y")
	errs := make(chan error)
	go func() {
		// Capabilities are the thread's; it ends with this goroutine.
		runtime.LockOSThread()
		header := unix.CapUserHeader{Version: unix.LINUX_CAPABILITY_VERSION_3}
		var sets [2]unix.CapUserData
		err := unix.Capget(&header, &sets[0])
		if err == nil {
			sets[0].Effective &^= 1 << unix.CAP_SYS_ADMIN
			err = unix.Capset(&header, &sets[0])
		}
		if err != nil {
			errs <- nil
			return
		}
		_, err = Write(context.Background(), io.Discard, f.root, Options{})
		errs <- err
	}()
	if err := <-errs; err == nil || !strings.Contains(err.Error(), "CAP_SYS_ADMIN") {
		t.Errorf("got %v", err)
	}
	if err := Check(f.root, Options{}); err != nil {
		t.Errorf("with the capability: %v", err)
	}
}

// TestDeep has more directories above each other than are held open, and paths
// too long for the kernel.
func TestDeep(t *testing.T) {
	asRoot(t)
	f := newTree(t)
	fd, err := unix.Open(f.root, openDirectory, 0)
	must(t, err)
	const depth = 1500
	for range depth {
		must(t, unix.Mkdirat(fd, "dd", 0o755))
		file, err := unix.Openat(fd, "file", unix.O_CREAT|unix.O_WRONLY, 0o600)
		must(t, err)
		must(t, unix.Close(file))
		next, err := unix.Openat(fd, "dd", openDirectory, 0)
		must(t, err)
		must(t, unix.Close(fd))
		fd = next
	}
	must(t, unix.Close(fd))
	data, stats := write(t, f.root, Options{MaxPath: 1 << 20})
	if want := int64(1 + 2*depth); stats.Entries != want {
		t.Errorf("%d entries, want %d", stats.Entries, want)
	}
	// "dd" comes before "file": each file is met on the way back up.
	all := read(t, data)
	if last := all[len(all)-1].Name; last != "file" {
		t.Errorf("the last entry is %q", last)
	}
	if first := all[depth+1].Name; first != strings.Repeat("dd/", depth-1)+"file" {
		t.Errorf("the first file has a path of %d bytes", len(first))
	}
}

func TestManyFilesInOneDirectory(t *testing.T) {
	asRoot(t)
	f := newTree(t)
	const many = 2000
	for i := range many {
		must(t, os.Symlink("x", filepath.Join(f.root, strings.Repeat("n", 1+i%200)+string(rune('a'+i%26))+time.Duration(i).String())))
	}
	data, stats := write(t, f.root, Options{})
	if stats.Entries != many+1 {
		t.Errorf("%d entries", stats.Entries)
	}
	all := read(t, data)[1:]
	for i := 1; i < len(all); i++ {
		if all[i-1].Name >= all[i].Name {
			t.Fatalf("%q comes before %q", all[i-1].Name, all[i].Name)
		}
	}
}
