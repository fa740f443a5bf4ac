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
	"encoding/binary"
	"fmt"
	"os"
	"os/exec"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"golang.org/x/sys/unix"
)

// onFileSystem makes a file system in a file and mounts it.
func onFileSystem(t *testing.T, mkfs string, args ...string) string {
	t.Helper()
	asRoot(t)
	if _, err := exec.LookPath(mkfs); err != nil {
		t.Skip(err)
	}
	image, dir := t.TempDir()+"/image", t.TempDir()
	must(t, os.WriteFile(image, nil, 0o600))
	must(t, os.Truncate(image, 400<<20)) // XFS takes no less than 300 MiB
	if out, err := exec.Command(mkfs, append(args, image)...).CombinedOutput(); err != nil {
		t.Fatalf("%s: %v\n%s", mkfs, err, out)
	}
	if out, err := exec.Command("mount", "-o", "loop", image, dir).CombinedOutput(); err != nil {
		t.Skipf("cannot mount what %s makes: %v\n%s", mkfs, err, out)
	}
	t.Cleanup(func() { must(t, unix.Unmount(dir, 0)) })
	return dir
}

// TestRecent has entries that are stamped after the limit, and all of which have the same stamp when they are looked at
// again. Those that did not change are not written again, in whatever they lie.
func TestRecent(t *testing.T) {
	m := newMountedAt(t, onFileSystem(t, "mkfs.ext4", "-q", "-I", "128"))
	here := tree{t, m.merged}
	now := time.Now()
	time.Sleep(now.Truncate(time.Second).Add(time.Second + 50*time.Millisecond).Sub(now)) // what is waited for is time itself
	for _, dir := range []string{"acl", "acl/d", "kept", "kept/d", "hidden", "mode"} {
		here.dir(dir, 0o755)
		if dir == "acl" {
			here.xattr(dir, defaultACL, "\x02\x00\x00\x00\x01\x00\x07\x00\xff\xff\xff\xff\x04\x00\x05\x00\xff\xff\xff\xff\x20\x00\x04\x00\xff\xff\xff\xff")
		}
	}
	must(t, os.RemoveAll(m.merged+"/b"))
	here.dir("b", 0o755)
	for _, name := range []string{"acl/f", "acl/d/f", "acl/content", "kept/f", "kept/d/f", "b/f", "mode/f", "attribute", "link"} {
		here.file(name, "old "+name, 0o644)
	}
	must(t, os.Link(m.merged+"/link", m.merged+"/kept/link"))
	must(t, os.Symlink("one", m.merged+"/s"))
	here.file("sparse", "", 0o644)
	must(t, os.Truncate(m.merged+"/sparse", 1<<20))
	c := m.beginWith(nil)
	layers := []*bytes.Buffer{m.first(c), nil}
	must(t, os.WriteFile(m.merged+"/acl/content", []byte("new acl/content"), 0o644))
	must(t, os.Chmod(m.merged+"/mode", 0o700))
	here.xattr("attribute", "user.x", "1")
	layers[1], _ = m.changes(c)
	var got []string
	for _, e := range read(t, layers[1].Bytes()) {
		got = append(got, e.Name)
	}
	if diff := cmp.Diff([]string{"./", "acl/", "acl/content", "attribute", "kept/", "kept/link", "link", "mode/"}, got); diff != "" {
		t.Errorf("the second layer (-want +got):\n%s", diff)
	}
	m.compare(layers...)
}

// TestWholeSeconds has a file system that stamps whole seconds, as ext2 and ext3 do, too: what is written again in the
// second in which the first pass has read it bears the stamp that it had.
func TestWholeSeconds(t *testing.T) {
	for _, size := range []string{"128", "256"} {
		t.Run("inodes of "+size, func(t *testing.T) {
			m := newMountedAt(t, onFileSystem(t, "mkfs.ext4", "-q", "-I", size))
			now := time.Now()
			time.Sleep(now.Truncate(time.Second).Add(time.Second + 50*time.Millisecond).Sub(now)) // what is waited for is time itself
			tree{t, m.merged}.file("f", "old", 0o644)
			c := m.beginWith(nil)
			first := m.first(c)
			must(t, os.WriteFile(m.merged+"/f", []byte("new"), 0o644))
			second, _ := m.changes(c)
			m.compare(first, second)
		})
	}
}

// TestGrace is how far the beginning is put back.
func TestGrace(t *testing.T) {
	clock, err := watchClock()
	must(t, err)
	defer clock.Close()
	before := time.Now()
	past, err := clock.Past()
	must(t, err)
	if past.Nanosecond() != 0 || before.Sub(past) < grace || time.Since(past) > grace+time.Second+time.Minute {
		t.Errorf("the beginning at %v is put back to %v", before, past)
	}
}

// TestNamesThatComeAgain rebuilds a part of a directory on XFS while it is listed for the first time: of the names around
// the place where the listing has come to, some get the room of others that are still to be listed.
func TestNamesThatComeAgain(t *testing.T) {
	m := newMountedAt(t, onFileSystem(t, "mkfs.xfs", "-q"))
	const files, around = 4000, 100
	name := func(i int) string { return fmt.Sprintf("%s/busy/file-%06d", m.merged, i) }
	must(t, os.Mkdir(m.merged+"/busy", 0o755))
	for i := range files {
		must(t, os.WriteFile(name(i), []byte("before"), 0o644))
	}
	m.outlive()
	rebuilt, repeated := false, map[string]int{}
	getdents = func(fd int, buf []byte) (int, error) {
		n, err := unix.Getdents(fd, buf)
		if n <= 0 {
			return n, err
		}
		var all names
		all.add(buf[:n])
		last := 0
		for i := range all.len() {
			repeated[string(all.raw(i))]++
			if number, ok := strings.CutPrefix(string(all.raw(i)), "file-"); ok {
				last, _ = strconv.Atoi(number)
			}
		}
		if !rebuilt && last > around {
			rebuilt = true
			for i := last - around; i < last+around; i++ {
				must(t, os.Remove(name(i)))
			}
			for i := last + around - 1; i >= last-around; i-- {
				must(t, os.WriteFile(name(i), []byte("after"), 0o644))
			}
		}
		return n, err
	}
	defer func() { getdents = unix.Getdents }()
	c := m.begin()
	layers := []*bytes.Buffer{m.first(c), nil}
	getdents = unix.Getdents
	again := 0
	for _, times := range repeated {
		again += times - 1
	}
	if again == 0 {
		t.Skip("this XFS lists no name twice")
	}
	t.Logf("%d names were listed again", again)
	seen := map[string]bool{}
	for _, e := range read(t, layers[0].Bytes()) {
		if seen[e.Name] {
			t.Fatalf("the first layer has %s twice", e.Name)
		}
		seen[e.Name] = true
	}
	layers[1], _ = m.changes(c)
	m.compare(layers...)
}

// TestListsOnXFS are in a layer once.
func TestListsOnXFS(t *testing.T) {
	f := tree{t, onFileSystem(t, "mkfs.xfs", "-q")}
	f.dir("d", 0o755)
	f.xattr("d", accessACL, userACL)
	f.xattr("d", defaultACL, userACL)
	layer, _ := write(t, f.root, Options{})
	got := read(t, layer)[1].Xattrs
	if len(got) != 2 || got[accessACL] != userACL || got[defaultACL] != userACL {
		t.Errorf("the layer has %q", got)
	}
}

// TestRepeatedNames is a listing that gives names again.
func TestRepeatedNames(t *testing.T) {
	type given struct {
		name string
		kind uint8
	}
	for _, test := range []struct {
		name        string
		given, want []given
	}{
		{"nothing", nil, nil},
		{"nothing again", []given{{"b", unix.DT_REG}, {"a", unix.DT_DIR}}, []given{{"a", unix.DT_DIR}, {"b", unix.DT_REG}}},
		{"twice", []given{{"a", unix.DT_REG}, {"b", unix.DT_REG}, {"a", unix.DT_REG}}, []given{{"a", unix.DT_REG}, {"b", unix.DT_REG}}},
		{"of another type", []given{{"a", unix.DT_REG}, {"a", unix.DT_DIR}}, []given{{"a", unix.DT_UNKNOWN}}},
		{"and of the first again", []given{{"a", unix.DT_REG}, {"a", unix.DT_DIR}, {"a", unix.DT_REG}}, []given{{"a", unix.DT_UNKNOWN}}},
		{"the last", []given{{"a", unix.DT_REG}, {"b", unix.DT_REG}, {"b", unix.DT_REG}, {"b", unix.DT_REG}}, []given{{"a", unix.DT_REG}, {"b", unix.DT_REG}}},
		{"none that begins alike", []given{{"ab", unix.DT_REG}, {"a", unix.DT_REG}, {"abc", unix.DT_REG}}, []given{{"a", unix.DT_REG}, {"ab", unix.DT_REG}, {"abc", unix.DT_REG}}},
	} {
		t.Run(test.name, func(t *testing.T) {
			var all names
			for _, g := range test.given { // each in a listing of its own
				record := make([]byte, direntName+len(g.name)+1)
				record[0] = 1 // an inode number
				binary.NativeEndian.PutUint16(record[direntLength:], uint16(len(record)))
				record[direntType] = g.kind
				copy(record[direntName:], g.name)
				all.add(record)
			}
			all.settle()
			var got []given
			for i := range all.len() {
				got = append(got, given{string(all.raw(i)), all.types[i]})
			}
			if diff := cmp.Diff(test.want, got, cmp.AllowUnexported(given{})); diff != "" {
				t.Errorf("(-want +got):\n%s", diff)
			}
		})
	}
}

// TestAnEntryThatWasNotedTwice is the last defence: nothing is deleted that stands beside it.
func TestAnEntryThatWasNotedTwice(t *testing.T) {
	m := newMounted(t)
	here := tree{t, m.merged}
	here.dir("d", 0o755)
	here.file("d/x", "1", 0o644)
	here.file("f", "1", 0o644)
	m.outlive()
	c := m.begin()
	layers := []*bytes.Buffer{m.first(c), nil}
	record, err := newRecording()
	must(t, err)
	stat := func(name string) *unix.Stat_t {
		var st unix.Stat_t
		must(t, unix.Lstat(m.upper+"/"+name, &st))
		return &st
	}
	must(t, record.add(directoryEntry, nil, stat("."), 0))
	for range 2 {
		must(t, record.add(directoryEntry, []byte("d"), stat("d"), 0))
		must(t, record.add(otherEntry, []byte("x"), stat("d/x"), 0))
		must(t, record.leave())
	}
	for range 3 {
		must(t, record.add(otherEntry, []byte("f"), stat("f"), 0))
	}
	must(t, record.leave())
	must(t, record.close())
	c.record = record
	layers[1], _ = m.changes(c)
	if got := read(t, layers[1].Bytes()); slices.ContainsFunc(got, func(e entry) bool { return strings.Contains(e.Name, whiteoutPrefix) }) {
		t.Errorf("the second layer deletes: %+v", got)
	}
	m.compare(layers...)
}
