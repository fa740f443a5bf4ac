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
	"fmt"
	"os"
	"strings"
	"testing"

	"github.com/containerd/continuity/fs"
	"github.com/google/go-cmp/cmp"
	"golang.org/x/sys/unix"
)

// declare makes a volume at a path of the container, as containerd's CRI plugin does: with what
// the image has there, from before the container runs.
func (m *mounted) declare(path string) Volume {
	m.t.Helper()
	v := Volume{Path: path, Dir: m.work + "/volumes" + strings.ReplaceAll(path, "/", "-")}
	must(m.t, os.MkdirAll(v.Dir, 0o755))
	if _, err := os.Stat(m.lower + path); err == nil {
		must(m.t, fs.CopyDir(v.Dir, m.lower+path, fs.WithXAttrExclude("security.selinux")))
	}
	must(m.t, os.MkdirAll(m.merged+path, 0o755))
	must(m.t, unix.Mount(v.Dir, m.merged+path, "", unix.MS_BIND, ""))
	m.t.Cleanup(func() { must(m.t, unix.Unmount(m.merged+path, unix.MNT_DETACH)) })
	return v
}

// withVolumes are options for the container with those volumes.
func (m *mounted) withVolumes(declared ...Volume) Options {
	m.t.Helper()
	o := Options{Lowerdirs: []string{m.lower}}
	placed, refused, err := Place(m.upper, declared, o)
	must(m.t, err)
	if len(refused) > 0 {
		m.t.Fatal(refused)
	}
	o.Volumes = placed
	return o
}

// TestVolumes: what is in an image's volumes is in the layer, at their paths; a layer alone, and
// two of a first pass and of changes.
func TestVolumes(t *testing.T) {
	m := newMounted(t)
	base := tree{t, m.lower}
	base.dir("data", 0o700)
	must(t, os.Lchown(base.path("data"), 999, 999))
	for _, name := range []string{"kept", "changed", "deleted", "deleted-later", "again"} {
		base.file("data/"+name, "of the image", 0o640)
	}
	base.dir("data/dir", 0o2750)
	base.file("data/dir/f", "of the image", 0o600)
	base.dir("var", 0o755)
	base.dir("var/lib", 0o711)
	must(t, os.Lchown(base.path("var/lib"), 7, 8))
	base.file("var/lib/beside", "of the image", 0o600)
	base.dir("spool", 0o751)
	must(t, os.Lchown(base.path("spool"), 9, 10))
	base.dir("spool/v", 0o700)
	base.dir("spool/w", 0o700)

	data, deep, spool := m.declare("/data"), m.declare("/var/lib/x/deep"), m.declare("/spool/v")
	nested := m.declare("/data/dir/nested")
	o := m.withVolumes(data, spool, m.declare("/spool/w"), nested, deep)

	here := tree{t, m.merged}
	here.file("b/outside", "changed, too", 0o600)
	here.file("data/changed", "by the container", 0o600)
	must(t, os.Remove(here.path("data/deleted")))
	here.dir("data/new", 0o755)
	here.file("data/new/f", "new", 0o644)
	must(t, os.Link(here.path("data/new/f"), here.path("data/link")))
	must(t, os.Symlink("kept", here.path("data/symlink")))
	here.node("data/fifo", unix.S_IFIFO|0o600, 0, 0)
	here.xattr("data/new/f", "user.mine", "1")
	here.file("data/dir/nested/f", "nested", 0o644)
	here.file("var/lib/x/deep/f", "deep", 0o644)
	here.file("spool/v/f", "in a directory of the image", 0o644)
	here.file("spool/w/f", "in a directory of the image", 0o644)

	var whole bytes.Buffer
	_, err := Write(context.Background(), &whole, m.upper, o)
	must(t, err)
	must(t, unix.Chmod(here.path("var/lib/x"), 0o755)) // made by the runtime for the mount
	m.compare(&whole)

	c := m.beginOn(o)
	layers := []*bytes.Buffer{m.first(c), nil}
	here.file("data/changed", "once more", 0o644)
	must(t, os.Remove(here.path("data/deleted-later")))
	must(t, os.Remove(here.path("data/again")))
	here.dir("data/again", 0o711)
	here.file("data/again/f", "now a directory", 0o644)
	must(t, os.Rename(here.path("data/new"), here.path("data/renamed")))
	here.file("data/dir/nested/g", "nested, later", 0o644)
	here.file("var/lib/x/deep/g", "deep, later", 0o644)
	here.file("spool/v/f", "changed", 0o644)
	here.file("spool/w/f", "changed", 0o644)
	layers[1], _ = m.changes(c)
	// What leads to a volume has the owner and mode that it had.
	for i, layer := range layers {
		for _, lead := range []entry{
			{Type: tar.TypeDir, Name: "var/lib/", Mode: 0o711, UID: 7, GID: 8}, {Type: tar.TypeDir, Name: "spool/", Mode: 0o751, UID: 9, GID: 10},
			{Type: tar.TypeDir, Name: "data/dir/", Mode: 0o2750},
		} {
			var found []entry
			for _, e := range read(t, layer.Bytes()) {
				if e.Name == lead.Name {
					found = append(found, e)
				}
			}
			if diff := cmp.Diff([]entry{lead}, found); diff != "" {
				t.Errorf("layer %d, %q:\n%s", i, lead.Name, diff)
			}
		}
	}
	m.compare(layers...)

	// Without a change there is nothing to add.
	c = m.beginOn(o)
	layers[0] = m.first(c)
	var stats Stats
	if layers[1], stats = m.changes(c); stats.Entries > 0 {
		t.Errorf("nothing has changed, and there are %+v", read(t, layers[1].Bytes()))
	}
}

func (m *mounted) beginOn(o Options) *Copy {
	m.t.Helper()
	m.outlive()
	clock, err := watchClock()
	must(m.t, err)
	o.Clock = &kernelClock{timer: clock.(*kernelClock).timer, unit: 1}
	c, err := BeginCopy(context.Background(), m.upper, o)
	if errors.Is(err, ErrNoPromise) {
		m.t.Skip(err)
	}
	must(m.t, err)
	m.t.Cleanup(c.Close)
	return c
}

func TestEntriesOfVolumes(t *testing.T) {
	asRoot(t)
	volume := entry{Type: tar.TypeDir, Name: "v/", Mode: 0o755}
	opaque := entry{Type: tar.TypeReg, Name: "v/.wh..wh..opq"}
	tests := map[string]struct {
		make   func(upper, lower, v tree)
		owners Owners
		stats  Stats
		want   []entry // of the volume and what leads to it
		alone  []entry // the same of the volume without an image below, where that is not as want says
	}{
		"empty": {want: []entry{volume, opaque}},
		"what the upper directory has at its place": {
			make: func(upper, _, _ tree) {
				upper.dir("v", 0o700)
				upper.file("v/hidden", "by the mount", 0o600)
			},
			want: []entry{volume, opaque},
		},
		"owners": {
			make: func(_, _, v tree) {
				v.file("f", "x", 0o600)
				must(v.t, os.Lchown(v.path("f"), 100005, 200006))
				must(v.t, os.Lchown(v.root, 100000, 200000))
			},
			owners: Owners{Users: []IDs{{0, 100000, 1000}}, Groups: []IDs{{0, 200000, 1000}}},
			want:   []entry{volume, opaque, {Type: tar.TypeReg, Name: "v/f", Mode: 0o600, Content: "x", UID: 5, GID: 6}},
		},
		"deletions of an overlay within": {
			make: func(_, _, v tree) {
				v.node("a", unix.S_IFCHR, 0, 0)
				v.node("b", unix.S_IFCHR, 0, 0)
				v.node("null", unix.S_IFCHR|0o666, 1, 3)
			},
			stats: Stats{LeftOut: 2, FirstLeftOut: "/v/a"},
			want:  []entry{volume, opaque, {Type: tar.TypeChar, Name: "v/null", Mode: 0o666, Device: [2]int64{1, 3}}},
		},
		"marks of an overlay within": {
			make: func(_, _, v tree) {
				v.dir("d", 0o755)
				v.xattr("d", "trusted.overlay.opaque", "y")
				v.xattr("d", "trusted.overlay.redirect", "/etc")
			},
			want: []entry{volume, opaque, {Type: tar.TypeDir, Name: "v/d/", Mode: 0o755,
				Xattrs: map[string]string{"trusted.overlay.overlay.opaque": "y", "trusted.overlay.overlay.redirect": "/etc"}}},
		},
		"a socket": {
			make: func(_, lower, v tree) {
				lower.dir("v", 0o755)
				lower.file("v/s", "of the image", 0o644)
				v.node("s", unix.S_IFSOCK|0o600, 0, 0)
			},
			stats: Stats{Sockets: 1},
			want:  []entry{volume, {Type: tar.TypeReg, Name: "v/.wh.s"}},
			alone: []entry{volume, opaque},
		},
		"names of one file": {
			make: func(_, _, v tree) {
				v.file("f", "x", 0o600)
				v.dir("d", 0o755)
				must(v.t, os.Link(v.path("f"), v.path("d/g")))
				must(v.t, os.Link(v.path("f"), v.path("g")))
			},
			want: []entry{volume, opaque, {Type: tar.TypeDir, Name: "v/d/", Mode: 0o755}, {Type: tar.TypeReg, Name: "v/d/g", Mode: 0o600, Content: "x"},
				{Type: tar.TypeLink, Name: "v/f", Link: "v/d/g", Mode: 0o600}, {Type: tar.TypeLink, Name: "v/g", Link: "v/d/g", Mode: 0o600}},
		},
	}
	for name, test := range tests {
		t.Run(name, func(t *testing.T) {
			upper, lower, v := newTree(t), newTree(t), newTree(t)
			if test.make != nil {
				test.make(upper, lower, v)
			}
			got, stats := write(t, upper.root, Options{Lowerdirs: []string{lower.root}, Volumes: []Volume{{Path: "v", Dir: v.root, Owners: test.owners}}})
			if diff := cmp.Diff(append([]entry{rootDir}, test.want...), read(t, got)); diff != "" {
				t.Errorf("layer (-want +got):\n%s", diff)
			}
			if stats.LeftOut != test.stats.LeftOut || stats.FirstLeftOut != test.stats.FirstLeftOut || stats.Sockets != test.stats.Sockets {
				t.Errorf("stats %+v, want %+v", stats, test.stats)
			}
			// By itself it is the same, for where the rest is found in another way.
			var alone bytes.Buffer
			_, err := WriteVolumes(context.Background(), &alone, Options{Volumes: []Volume{{Path: "v", Dir: v.root, Owners: test.owners}}})
			must(t, err)
			if test.alone == nil {
				test.alone = test.want
			}
			if diff := cmp.Diff(test.alone, read(t, alone.Bytes())); diff != "" {
				t.Errorf("a layer of its own (-want +got):\n%s", diff)
			}
		})
	}
}

// What is made below a directory with a default ACL inherits it: a volume there has none.
func TestAVolumeInheritsNoACL(t *testing.T) {
	asRoot(t)
	acl := "\x02\x00\x00\x00\x01\x00\x07\x00\xff\xff\xff\xff\x04\x00\x05\x00\xff\xff\xff\xff\x20\x00\x05\x00\xff\xff\xff\xff"
	upper, v := newTree(t), newTree(t)
	upper.dir("d", 0o755)
	upper.xattr("d", defaultACL, acl)
	got, _ := write(t, upper.root, Options{Volumes: []Volume{{Path: "d/v", Dir: v.root}}})
	for _, e := range read(t, got) {
		if e.Name == "d/v/" && e.Xattrs[accessACL] == emptyACL && e.Xattrs[defaultACL] == emptyACL {
			return
		}
	}
	t.Errorf("nothing says that the volume has no ACL: %+v", read(t, got))
}

// Something else in the place of a directory that leads to a volume makes a layer that no node
// could unpack.
func TestWhatLeadsToAVolumeIsReplaced(t *testing.T) {
	for name, replace := range map[string]func(upper, v tree){
		"by a deletion": func(upper, _ tree) { upper.node("a", unix.S_IFCHR, 0, 0) },
		"by a file":     func(upper, _ tree) { upper.file("a", "", 0o644) },
	} {
		t.Run(name, func(t *testing.T) {
			asRoot(t)
			upper, v := newTree(t), newTree(t)
			replace(upper, v)
			var layer bytes.Buffer
			_, err := Write(context.Background(), &layer, upper.root, Options{Volumes: []Volume{{Path: "a/v", Dir: v.root}}})
			if !errors.Is(err, ErrChanged) {
				t.Errorf("got %v", err)
			}
		})
	}
	t.Run("between the passes", func(t *testing.T) {
		m := newMounted(t)
		here := tree{t, m.merged}
		here.dir("made", 0o755)
		v := m.declare("/made/v")
		c := m.beginOn(m.withVolumes(v))
		m.first(c)
		must(t, os.Rename(here.path("made"), here.path("renamed")))
		t.Cleanup(func() { must(t, os.Rename(here.path("renamed"), here.path("made"))) })
		if _, err := c.Changes(context.Background(), &bytes.Buffer{}); !errors.Is(err, ErrChanged) {
			t.Errorf("got %v", err)
		}
	})
}

func TestPlace(t *testing.T) {
	asRoot(t)
	upper, lower := newTree(t), newTree(t)
	lower.dir("data", 0o755)
	lower.dir("run", 0o755)
	lower.dir("var", 0o755)
	lower.file("file", "", 0o644)
	lower.dir("hidden", 0o755)
	for link, target := range map[string]string{"var/run": "/run", "var/lock": "../run/lock", "loop": "loop", "out": "../../data", "up": "data/.."} {
		must(t, os.Symlink(target, lower.path(link)))
	}
	upper.node("hidden", unix.S_IFCHR, 0, 0)
	upper.dir("replaced", 0o755)
	must(t, os.Symlink("/data", upper.path("link")))
	tests := map[string]struct{ want, why string }{
		"/data":        {want: "data"},
		"data":         {want: "data"},
		"/data/":       {want: "data"},
		"//data/./x":   {want: "data/x"},
		"/data/../run": {want: "run"},
		"/../../data":  {want: "data"},
		"/new/deep":    {want: "new/deep"},
		"/var/run/x":   {want: "run/x"},
		"/var/lock/x":  {want: "run/lock/x"},
		"/out/x":       {want: "data/x"},
		"/link":        {want: "data"},
		"/link/../etc": {want: "etc"},
		"/up/x":        {want: "x"},
		"/":            {why: "it is the root directory"},
		"/data/..":     {why: "it is the root directory"},
		"/file/x":      {why: `"/file" is no directory`},
		"/hidden/x":    {why: `"/hidden" was deleted or renamed`},
		"/loop/x":      {why: "leads through more than 255 symbolic links"},
	}
	for path, test := range tests {
		t.Run(path, func(t *testing.T) {
			dir := newTree(t)
			placed, refused, err := Place(upper.root, []Volume{{Path: path, Dir: dir.root}}, Options{Lowerdirs: []string{lower.root}})
			must(t, err)
			if test.why != "" {
				if len(placed) > 0 || refused[path] == nil || !strings.Contains(refused[path].Error(), test.why) {
					t.Errorf("placed %v, refused %v; want %q", placed, refused, test.why)
				}
				return
			}
			if len(placed) != 1 || placed[0].Path != test.want || len(refused) > 0 {
				t.Errorf("placed %v, refused %v; want %q", placed, refused, test.want)
			}
		})
	}

	outer, inner := newTree(t), newTree(t)
	outer.dir("a", 0o755)
	must(t, os.Symlink("a", outer.path("b")))
	placed, refused, err := Place(upper.root, []Volume{
		{Path: "/data", Dir: outer.root}, {Path: "/data/a/v", Dir: inner.root}, {Path: "/data/b/v", Dir: inner.root}, {Path: "/data/c/v", Dir: inner.root},
	}, Options{Lowerdirs: []string{lower.root}})
	must(t, err)
	got := fmt.Sprint(len(refused))
	for _, v := range placed {
		got += " " + v.Path
	}
	for _, path := range []string{"/data/b/v", "/data/c/v"} {
		if refused[path] == nil {
			t.Errorf("%s was not refused", path)
		}
	}
	if want := "2 data data/a/v"; got != want {
		t.Errorf("placed %q, want %q; refused: %v", got, want, refused)
	}

	// Later mounts hide earlier ones.
	placed, refused, err = Place(upper.root, []Volume{
		{Path: "/data", Dir: inner.root}, {Path: "/run/v", Dir: inner.root}, {Path: "/data/", Dir: outer.root}, {Path: "/var/run", Dir: outer.root}, {Path: "/data-2", Dir: inner.root},
	}, Options{Lowerdirs: []string{lower.root}})
	must(t, err)
	if len(refused) > 0 || len(placed) != 3 || placed[0].Path != "data" || placed[0].Dir != outer.root || placed[1].Path != "data-2" || placed[2].Path != "run" {
		t.Errorf("placed %v, refused %v", placed, refused)
	}
}

// TestWhatTheCopyOfAVolumeLoses: the runtime fills a volume with what the image has at its path.
// docs/files.md tells what does not come through.
func TestWhatTheCopyOfAVolumeLoses(t *testing.T) {
	asRoot(t)
	image := newTree(t)
	image.dir("d", 0o2775)
	must(t, os.Lchown(image.path("d"), 999, 998))
	image.file("d/f", "x", 0o4755)
	image.xattr("d/f", "user.mine", "1")
	image.xattr("d/f", "security.capability", "\x01\x00\x00\x02\x00\x04\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00")
	must(t, os.Link(image.path("d/f"), image.path("link")))
	must(t, os.Symlink("nowhere", image.path("symlink")))
	image.node("fifo", unix.S_IFIFO|0o600, 0, 0)
	image.node("null", unix.S_IFCHR|0o666, 1, 3)
	must(t, os.WriteFile(image.path("sparse"), nil, 0o600))
	must(t, os.Truncate(image.path("sparse"), 64<<20))
	old := []unix.Timespec{{Sec: 1000000000, Nsec: 1}, {Sec: 1000000000, Nsec: 123456789}}
	for _, name := range []string{"d/f", "symlink", "d", "fifo"} {
		must(t, unix.UtimesNanoAt(unix.AT_FDCWD, image.path(name), old, unix.AT_SYMLINK_NOFOLLOW))
	}
	volume := newTree(t)
	must(t, fs.CopyDir(volume.root, image.root, fs.WithXAttrExclude("security.selinux")))
	want, got := listing(t, image.root), listing(t, volume.root)
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("the copy loses more than is documented (-image +volume):\n%s", diff)
	}
	var st unix.Stat_t
	must(t, unix.Lstat(volume.path("sparse"), &st))
	if st.Blocks*512 > 1<<20 {
		t.Errorf("the sparse file takes %d bytes", st.Blocks*512)
	}
	must(t, unix.Lstat(volume.path("d"), &st))
	if st.Mtim.Sec == old[1].Sec {
		t.Error("times of directories are kept; docs/files.md says they are not")
	}
}

// TestSurveyOfVolumes: what a layer cannot hold is found in a volume too, and not in what it hides.
func TestSurveyOfVolumes(t *testing.T) {
	asRoot(t)
	upper, v := newTree(t), newTree(t)
	upper.dir("v", 0o755)
	upper.file("v/.wh.hidden", "", 0o600)
	v.file("f", "x", 0o600)
	v.node("inner", unix.S_IFCHR, 0, 0)
	o := Options{Volumes: []Volume{{Path: "v", Dir: v.root}}}
	found, err := Survey(context.Background(), upper.root, o)
	if err != nil || found.Entries != 4 { // two roots, and two entries of the volume
		t.Errorf("found %+v (%v)", found, err)
	}
	if fits, err := found.Remembers(context.Background(), upper.root, o.Volumes...); err != nil || !fits {
		t.Errorf("it fits: %v (%v)", fits, err)
	}
	v.file(".wh.x", "", 0o600)
	for _, path := range []string{upper.root, ""} {
		if _, err := Survey(context.Background(), path, o); !errors.Is(err, ErrUnrepresentable) || !strings.Contains(err.Error(), `"/v/.wh.x"`) {
			t.Errorf("got %v", err)
		}
	}
}
