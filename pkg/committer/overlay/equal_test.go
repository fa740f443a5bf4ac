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
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"golang.org/x/sys/unix"
)

const userACL = "\x02\x00\x00\x00\x01\x00\x07\x00\xff\xff\xff\xff\x02\x00\x05\x00\x07\x00\x00\x00\x04\x00\x05\x00\xff\xff\xff\xff\x10\x00\x05\x00\xff\xff\xff\xff\x20\x00\x04\x00\xff\xff\xff\xff"

// base is what the image of TestEqual has, in a directory "image" of its own.
func (m *mounted) base() {
	base := tree{m.t, m.lower}
	for _, dir := range []string{"image", "image/d", "image/d/e", "image/acl"} {
		base.dir(dir, 0o755)
	}
	for _, name := range []string{"f", "g", "h", "d/f", "d/e/f", "acl/f"} {
		base.file("image/"+name, "of the image: "+name, 0o644)
		must(m.t, os.Lchown(base.path("image/"+name), 1000, 1000))
		base.xattr("image/"+name, "user.k", "v")
	}
	base.xattr("image/acl/f", accessACL, userACL)
	base.xattr("image/acl", defaultACL, userACL)
	base.file("image/linked", "two names", 0o644)
	must(m.t, os.Link(base.path("image/linked"), base.path("image/linked2")))
	must(m.t, os.Symlink("/somewhere", base.path("image/s")))
	base.node("image/null", unix.S_IFCHR|0o666, 1, 3)
	base.node("image/fifo", unix.S_IFIFO|0o600, 0, 0)
	// Times that no tick of the clock has in common.
	must(m.t, filepath.WalkDir(base.path("image"), func(path string, _ os.DirEntry, err error) error {
		must(m.t, err)
		at := []unix.Timespec{{Sec: 1e9, Nsec: 5}, {Sec: 1e9 + int64(len(path)), Nsec: 7}}
		return unix.UtimesNanoAt(unix.AT_FDCWD, path, at, unix.AT_SYMLINK_NOFOLLOW)
	}))
}

// touched copies everything up: a chown to the owner that it has.
func (m *mounted) chownAll() {
	must(m.t, filepath.WalkDir(m.merged+"/image", func(path string, _ os.DirEntry, err error) error {
		must(m.t, err)
		var st unix.Stat_t
		must(m.t, unix.Lstat(path, &st))
		return os.Lchown(path, int(st.Uid), int(st.Gid))
	}))
}

func (m *mounted) timeOf(name string) (at []unix.Timespec) {
	var st unix.Stat_t
	must(m.t, unix.Lstat(m.merged+"/"+name, &st))
	return []unix.Timespec{st.Atim, st.Mtim}
}

func (m *mounted) setTime(name string, at []unix.Timespec) {
	must(m.t, unix.UtimesNanoAt(unix.AT_FDCWD, m.merged+"/"+name, at, unix.AT_SYMLINK_NOFOLLOW))
}

// rewrite writes a file anew, and gives it the time that it had.
func (m *mounted) rewrite(name, content string) {
	at := m.timeOf(name)
	must(m.t, os.WriteFile(m.merged+"/"+name, []byte(content), 0o644))
	m.setTime(name, at)
}

// TestEqual changes nothing, or hardly anything, and says what a layer has of it: in one pass, and in two, the first of
// which meets what before does. The layers of both have to give what the container saw.
func TestEqual(t *testing.T) {
	nothing := func(*mounted) {}
	for _, test := range []struct {
		name           string
		before, change func(m *mounted)
		first, second  []string // beside the root
	}{
		{"a chown of everything to whom it belongs", (*mounted).chownAll, nothing,
			// A name that was one of two is one of its own since.
			[]string{"image/", "image/linked", "image/linked2"}, nil},
		{"the same between the passes", nothing, (*mounted).chownAll, nil, []string{"image/", "image/linked", "image/linked2"}},
		{"the same again", (*mounted).chownAll, (*mounted).chownAll, []string{"image/", "image/linked", "image/linked2"}, []string{"image/", "image/linked", "image/linked2"}},
		{"another owner", func(m *mounted) { must(m.t, os.Chown(m.merged+"/image/f", 7, 1000)) }, nothing, []string{"image/", "image/f"}, nil},
		{"another group", func(m *mounted) { must(m.t, os.Chown(m.merged+"/image/f", 1000, 7)) }, nothing, []string{"image/", "image/f"}, nil},
		{"another mode", func(m *mounted) { must(m.t, os.Chmod(m.merged+"/image/f", 0o640)) }, nothing, []string{"image/", "image/f"}, nil},
		{"another time", func(m *mounted) { must(m.t, os.Chtimes(m.merged+"/image/f", time.Time{}, time.Unix(5, 0))) }, nothing, []string{"image/", "image/f"}, nil},
		{"an attribute more", func(m *mounted) { tree{m.t, m.merged}.xattr("image/f", "user.x", "") }, nothing, []string{"image/", "image/f"}, nil},
		{"an attribute less", func(m *mounted) { must(m.t, unix.Lremovexattr(m.merged+"/image/f", "user.k")) }, nothing, []string{"image/", "image/f"}, nil},
		{"another attribute", func(m *mounted) { tree{m.t, m.merged}.xattr("image/f", "user.k", "w") }, nothing, []string{"image/", "image/f"}, nil},
		{"no list any more", func(m *mounted) {
			at := m.timeOf("image/acl/f")
			must(m.t, unix.Lremovexattr(m.merged+"/image/acl/f", accessACL))
			must(m.t, os.Chmod(m.merged+"/image/acl/f", 0o755))
			m.setTime("image/acl/f", at)
		}, nothing, []string{"image/", "image/acl/", "image/acl/f"}, nil},
		{"other content of the same size and time", func(m *mounted) { m.rewrite("image/f", "OF the image: f") }, nothing, []string{"image/", "image/f"}, nil},
		{"the same content, written again", func(m *mounted) { m.rewrite("image/f", "of the image: f") }, nothing, nil, nil},
		{"the same in the place of what was removed", func(m *mounted) {
			here, at := tree{m.t, m.merged}, m.timeOf("image")
			file := m.timeOf("image/f")
			must(m.t, os.Remove(here.path("image/f")))
			here.file("image/f", "of the image: f", 0o644)
			must(m.t, os.Chown(here.path("image/f"), 1000, 1000))
			here.xattr("image/f", "user.k", "v")
			m.setTime("image/f", file)
			m.setTime("image", at)
		}, nothing, nil, nil},
		{"the same in a directory that was removed and made again", func(m *mounted) {
			here, at := tree{m.t, m.merged}, m.timeOf("image/d/e")
			file := m.timeOf("image/d/e/f")
			must(m.t, os.RemoveAll(here.path("image/d/e")))
			here.dir("image/d/e", 0o755)
			here.file("image/d/e/f", "of the image: d/e/f", 0o644)
			must(m.t, os.Chown(here.path("image/d/e/f"), 1000, 1000))
			here.xattr("image/d/e/f", "user.k", "v")
			m.setTime("image/d/e/f", file)
			m.setTime("image/d/e", at)
		}, nothing, []string{"image/", "image/d/", "image/d/e/", "image/d/e/.wh..wh..opq", "image/d/e/f"}, nil},
		{"one more name", func(m *mounted) {
			m.rewrite("image/f", "of the image: f")
			must(m.t, os.Link(m.merged+"/image/f", m.merged+"/image/f2"))
		}, nothing, []string{"image/", "image/f", "image/f2"}, nil},
		{"another target", func(m *mounted) {
			at := m.timeOf("image/s")
			must(m.t, os.Remove(m.merged+"/image/s"))
			must(m.t, os.Symlink("/elsewhere", m.merged+"/image/s"))
			m.setTime("image/s", at)
		}, nothing, []string{"image/", "image/s"}, nil},
		{"another device", func(m *mounted) {
			at := m.timeOf("image/null")
			must(m.t, os.Remove(m.merged+"/image/null"))
			tree{m.t, m.merged}.node("image/null", unix.S_IFCHR|0o666, 1, 5)
			m.setTime("image/null", at)
		}, nothing, []string{"image/", "image/null"}, nil},
		{"a directory's mode", func(m *mounted) { must(m.t, os.Chmod(m.merged+"/image/d", 0o700)) }, nothing, []string{"image/", "image/d/"}, nil},
		{"a change far below", func(m *mounted) { m.chownAll(); tree{m.t, m.merged}.file("image/d/e/new", "1", 0o644) }, nothing,
			[]string{"image/", "image/d/", "image/d/e/", "image/d/e/new", "image/linked", "image/linked2"}, nil},

		{"equal, then changed", (*mounted).chownAll, func(m *mounted) { m.rewrite("image/f", "OF the image: f") },
			[]string{"image/", "image/linked", "image/linked2"}, []string{"image/", "image/f"}},
		{"changed, then equal", func(m *mounted) { m.rewrite("image/f", "OF the image: f") }, func(m *mounted) { m.rewrite("image/f", "of the image: f") },
			[]string{"image/", "image/f"}, []string{"image/", "image/f"}},
		{"removed, then equal", func(m *mounted) {
			at := m.timeOf("image")
			must(m.t, os.Remove(m.merged+"/image/f"))
			m.setTime("image", at)
		}, func(m *mounted) {
			at := m.timeOf("image")
			here := tree{m.t, m.merged}
			here.file("image/f", "of the image: f", 0o644)
			must(m.t, os.Chown(here.path("image/f"), 1000, 1000))
			here.xattr("image/f", "user.k", "v")
			var st unix.Stat_t
			must(m.t, unix.Lstat(m.lower+"/image/f", &st))
			m.setTime("image/f", []unix.Timespec{st.Atim, st.Mtim})
			m.setTime("image", at)
		}, []string{"image/", "image/.wh.f"}, []string{"image/", "image/f"}},
		{"equal, then removed", (*mounted).chownAll, func(m *mounted) { must(m.t, os.Remove(m.merged+"/image/f")) },
			[]string{"image/", "image/linked", "image/linked2"}, []string{"image/", "image/.wh.f"}},
		{"equal, then with one more name", (*mounted).chownAll, func(m *mounted) { must(m.t, os.Link(m.merged+"/image/f", m.merged+"/image/d/f2")) },
			[]string{"image/", "image/linked", "image/linked2"}, []string{"image/", "image/d/", "image/d/f2", "image/f"}},
		{"equal, then a directory", (*mounted).chownAll, func(m *mounted) {
			must(m.t, os.Remove(m.merged+"/image/f"))
			must(m.t, os.Mkdir(m.merged+"/image/f", 0o755))
		}, []string{"image/", "image/linked", "image/linked2"}, []string{"image/", "image/f/", "image/f/.wh..wh..opq"}},
		{"equal, then a socket", (*mounted).chownAll, func(m *mounted) {
			must(m.t, os.Remove(m.merged+"/image/f"))
			tree{m.t, m.merged}.node("image/f", unix.S_IFSOCK|0o600, 0, 0)
		}, []string{"image/", "image/linked", "image/linked2"}, []string{"image/", "image/.wh.f"}},
		{"an equal directory, then its mode", (*mounted).chownAll, func(m *mounted) { must(m.t, os.Chmod(m.merged+"/image/d", 0o700)) },
			[]string{"image/", "image/linked", "image/linked2"}, []string{"image/", "image/d/"}},
		{"a directory's mode, then as it was", func(m *mounted) { must(m.t, os.Chmod(m.merged+"/image/d", 0o700)) },
			func(m *mounted) { must(m.t, os.Chmod(m.merged+"/image/d", 0o755)) }, []string{"image/", "image/d/"}, []string{"image/", "image/d/"}},
		{"an equal directory, then removed and made again", (*mounted).chownAll, func(m *mounted) {
			must(m.t, os.RemoveAll(m.merged+"/image/d"))
			must(m.t, os.Mkdir(m.merged+"/image/d", 0o755))
		}, []string{"image/", "image/linked", "image/linked2"}, []string{"image/", "image/d/", "image/d/.wh..wh..opq"}},
		{"an equal directory, then deleted", (*mounted).chownAll, func(m *mounted) { must(m.t, os.RemoveAll(m.merged+"/image/d")) },
			[]string{"image/", "image/linked", "image/linked2"}, []string{"image/", "image/.wh.d"}},
	} {
		for _, at := range []string{"", ", at once"} {
			t.Run(test.name+at, func(t *testing.T) {
				m := newMounted(t)
				m.base()
				test.before(m)
				m.outlive()
				clock, err := watchClock()
				must(t, err)
				if at == "" {
					clock.(*kernelClock).grace, clock.(*kernelClock).unit = 0, 1
				}
				c := m.beginWith(clock)
				layers := []*bytes.Buffer{m.first(c), nil}
				m.mustHave("the first layer", layers[0], test.first)
				m.compareOne(test.first)
				test.change(m)
				layers[1], _ = m.changes(c)
				m.mustHave("the second layer", layers[1], test.second)
				m.compare(layers...)
			})
		}
	}
}

// compareOne is all in one pass.
func (m *mounted) compareOne(want []string) {
	m.t.Helper()
	layer, _ := write(m.t, m.upper, Options{Lowerdirs: []string{m.lower}})
	buffer := bytes.NewBuffer(layer)
	m.mustHave("the layer of one pass", buffer, want)
	m.compare(buffer)
}

// mustHave compares the names in a layer but for the root, and for the directory of the image, whose time the changes move.
func (m *mounted) mustHave(which string, layer *bytes.Buffer, want []string) {
	m.t.Helper()
	trim := func(all []string) (rest []string) {
		for _, name := range all {
			if name != "./" && name != "image/" {
				rest = append(rest, name)
			}
		}
		return rest
	}
	var got []string
	for _, e := range read(m.t, layer.Bytes()) {
		got = append(got, e.Name)
	}
	if diff := cmp.Diff(trim(want), trim(got)); diff != "" {
		m.t.Errorf("%s (-want +got):\n%s", which, diff)
	}
}

// TestEqualBelow has layers that hide each other's files: what is compared with is what shows.
func TestEqualBelow(t *testing.T) {
	asRoot(t)
	top, middle, bottom := newTree(t), newTree(t), newTree(t)
	upper := newTree(t)
	at := []unix.Timespec{{Sec: 1e9}, {Sec: 1e9}}
	file := func(f tree, name, content string) {
		must(t, os.MkdirAll(filepath.Dir(f.path(name)), 0o755))
		f.file(name, content, 0o644)
		must(t, unix.UtimesNanoAt(unix.AT_FDCWD, f.path(name), at, 0))
	}
	deep := strings.Repeat("x/", maxCompared+3)
	for _, name := range []string{"bottom", "middle", "hidden", "opaque/f", "d/bottom", "changed", "dir/f", deep + "f", deep[:20] + "f", "small/f"} {
		file(bottom, name, name)
		file(upper, name, name)
	}
	file(middle, "middle", "middle")
	file(middle, "changed", "CHANGED")
	file(middle, "d/middle", "1")
	top.node("hidden", unix.S_IFCHR, 0, 0)
	top.dir("opaque", 0o755)
	top.xattr("opaque", "trusted.overlay.opaque", "y")
	file(middle, "dir", "no directory")
	// What has its content elsewhere.
	file(bottom, "partly", "partly")
	file(upper, "partly", "partly")
	bottom.xattr("partly", "trusted.overlay.metacopy", "")
	layer, stats := write(t, upper.root, Options{Lowerdirs: []string{top.root, middle.root, bottom.root}})
	var got []string
	for _, e := range read(t, layer) {
		if e.Type == tar.TypeReg {
			got = append(got, e.Name)
		}
	}
	want := []string{"changed", "dir/f", "hidden", "opaque/f", "partly", deep + "f"}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("the layer (-want +got):\n%s", diff)
	}
	if stats.Equal != 5 {
		t.Errorf("%+v", stats)
	}
}

// TestEqualInAUserNamespace compares owners as the container has them with the image's.
func TestEqualInAUserNamespace(t *testing.T) {
	asRoot(t)
	lower, upper := newTree(t), newTree(t)
	o := Options{Lowerdirs: []string{lower.root}, Owners: Owners{Users: []IDs{{0, 100000, 65536}}, Groups: []IDs{{0, 100000, 65536}}}}
	must(t, os.Chown(upper.root, 100000, 100000))
	at := []unix.Timespec{{Sec: 1e9}, {Sec: 1e9}}
	for name, owners := range map[string][2]int{"same": {7, 100007}, "another": {7, 100008}, "of the node": {100007, 100007}} {
		for i, f := range []tree{lower, upper} {
			f.file(name, name, 0o644)
			must(t, os.Chown(f.path(name), owners[i], owners[i]))
			must(t, unix.UtimesNanoAt(unix.AT_FDCWD, f.path(name), at, 0))
		}
	}
	layer, _ := write(t, upper.root, o)
	var got []string
	for _, e := range read(t, layer) {
		got = append(got, fmt.Sprint(e.Name, " ", e.UID))
	}
	if diff := cmp.Diff([]string{"./ 0", "another 8", "of the node 7"}, got); diff != "" {
		t.Errorf("the layer (-want +got):\n%s", diff)
	}
}

// TestEqualSparse is written, for what is below has zeros where it has a hole.
func TestEqualSparse(t *testing.T) {
	asRoot(t)
	lower, upper := newTree(t), newTree(t)
	at := []unix.Timespec{{Sec: 1e9}, {Sec: 1e9}}
	for _, f := range []tree{lower, upper} {
		f.holed("f", 1<<32, 5)
		must(t, unix.UtimesNanoAt(unix.AT_FDCWD, f.path("f"), at, 0))
	}
	layer, stats := write(t, upper.root, Options{Lowerdirs: []string{lower.root}})
	if len(layer) > 64<<10 || stats.Entries != 2 || stats.Equal != 0 {
		t.Errorf("%d bytes, %+v", len(layer), stats)
	}
}
