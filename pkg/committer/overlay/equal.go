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
	"cmp"
	"slices"
	"sort"
	"strings"

	"golang.org/x/sys/unix"
)

// What is in the upper directory is not always a change: a chown to the owner that a file has
// copies it up, a directory is there for what is in it. An entry that is in all a layer holds
// equal to what the layers below show under its name is left out. Only these are: what the
// container sees stays the same, to the byte and to the number of a file's names.
//
// Its content is read last, when all else is equal, and times prove nothing. In a second pass
// an entry may be left out only where the first pass has left it out, too, or has not met it:
// else there is another one in the layer of the first.

// maxCompared is how deep directories are compared. Those below are held open on the way; what
// is deeper is written.
const maxCompared = 32

// A volume is a plain directory: what is below it and not in it was deleted, which is written
// where it is found missing. What may have been written so by a first pass is not left out by
// a second.

// lowerBelow opens what the branch lies on; nothing where that cannot be read or does not show,
// and all is written.
func (t *writer) lowerBelow() []*directory {
	at := string(t.volumes.prefix())
	if t.keeping != nil || len(t.lowerdirs) == 0 || !t.showsThrough(at) {
		return nil
	}
	lower, err := t.openLower()
	if err != nil {
		return nil
	}
	below, err := lower.show(at)
	if err != nil {
		return nil
	}
	return below
}

// showsThrough is whether the layers below are seen where a volume lies. Of a volume that is in
// another nothing is known.
func (t *writer) showsThrough(volume string) bool {
	if volume == "" {
		return true
	}
	if t.volumes.all[0].at != "" {
		return false
	}
	for _, other := range t.volumes.all[1:] {
		if strings.HasPrefix(volume, other.at+"/") {
			return false
		}
	}
	upper, err := OpenLower([]string{t.volumes.all[0].dir}, Options{UserXattr: t.marks == userMarks})
	if err != nil {
		return false
	}
	defer upper.Close()
	for at := above(volume); at != ""; at = above(at) {
		found, err := upper.at(at)
		if err != nil || found != missing && found != aDirectory {
			return false
		}
	}
	return true
}

// deletedBelow are the names that are below a directory of a volume and not in it.
func (t *writer) deletedBelow(l *listed, path []byte) (all []string, err error) {
	if t.volumes.now == nil {
		return nil, nil
	}
	for _, dir := range l.below {
		// Listing moves where its descriptor is.
		again, _, err := dir.open(dot)
		if err != nil {
			return nil, err
		}
		names, err := again.list(t.buf)
		again.close()
		if err != nil {
			return nil, err
		}
		for i := range names.len() {
			name := names.raw(i)
			if _, there := sort.Find(l.names.len(), func(at int) int { return bytes.Compare(name, l.names.raw(at)) }); there {
				continue
			}
			whole := join(path, name)
			if t.volumes.elsewhere(whole) || t.volumes.leads[string(whole)] {
				continue
			}
			shows, _, err := t.lower.find(l.below, string(name))
			if err != nil {
				return nil, err
			}
			if shows == dir {
				all = append(all, string(name))
			}
		}
	}
	return all, nil
}

// hidesNew is whether a directory of a volume has to hide what lies below, for its names are not
// compared with that.
func (t *writer) hidesNew(name []byte) bool {
	if t.volumes.now == nil || len(t.shown) == 0 {
		return false
	}
	dir, st, err := t.lower.find(t.shown, string(name))
	return err != nil || dir != nil && st.Mode&unix.S_IFMT == unix.S_IFDIR
}

// shows is whether the layers below show something under a name of a volume.
func (t *writer) shows(name []byte) bool {
	if t.volumes.now == nil || len(t.shown) == 0 {
		return false
	}
	dir, _, err := t.lower.find(t.shown, string(name))
	return err != nil || dir != nil
}

// openLower opens the layers below, once.
func (t *writer) openLower() (_ *Lower, err error) {
	if t.lower == nil {
		t.lower, err = OpenLower(t.lowerdirs, Options{UserXattr: t.marks == userMarks})
	}
	return t.lower, err
}

func (t *writer) closeLower() {
	if t.lower != nil {
		t.lower.Close()
		t.lower = nil
	}
}

// belowName opens what lies below a directory of a name; nothing where that is not known.
func (t *writer) belowName(name []byte) []*directory {
	if len(t.below) == 0 || t.depth >= maxCompared {
		return nil
	}
	all, err := t.lower.into(t.below, string(name))
	if err != nil {
		return nil // then all is written
	}
	return all
}

// equal is whether what is below shows the same entry, but for its content. That is then in
// the directory that is returned.
func (t *writer) equal(name []byte, st *unix.Stat_t, attrs attributes, path []byte) *directory {
	if len(t.below) == 0 || st.Nlink > 1 {
		return nil
	}
	dir, lower, err := t.lower.find(t.below, string(name))
	if err != nil || dir == nil || lower.Nlink > 1 || lower.Size != st.Size || lower.Rdev != st.Rdev || !t.sameOwner(st, &lower) {
		return nil
	}
	if !t.sameAttributes(attrs, nameXattrs(dir.fd, name), path) {
		return nil
	}
	return dir
}

// sameOwner compares type, mode, owner and time.
func (t *writer) sameOwner(st, lower *unix.Stat_t) bool {
	if st.Mode != lower.Mode || st.Mtim != lower.Mtim {
		return false
	}
	// The layers below are as the image has them.
	uid, err := inContainer(t.owners.Users, st.Uid)
	if err != nil || uid != lower.Uid {
		return false
	}
	gid, err := inContainer(t.owners.Groups, st.Gid)
	return err == nil && gid == lower.Gid
}

// sameAttributes compares attributes with those of an entry below.
func (t *writer) sameAttributes(attrs attributes, source xattrSource, path []byte) bool {
	owners, now := t.owners, t.volumes.now
	defer func() { t.owners, t.volumes.now = owners, now }()
	t.on(nil)
	lower, err := t.xattrs(source, path)
	if err != nil || len(lower.kept) != len(attrs.kept) {
		return false
	}
	byKey := func(a, b record) int { return cmp.Compare(a.key, b.key) }
	return slices.Equal(slices.SortedFunc(slices.Values(lower.kept), byKey), slices.SortedFunc(slices.Values(attrs.kept), byKey))
}

// equalFile is whether a regular file is no change.
func (t *writer) equalFile(fd int, name []byte, st *unix.Stat_t, attrs attributes, path []byte) (bool, error) {
	dir := t.equal(name, st, attrs, path)
	if dir == nil {
		return false, nil
	}
	// What has large holes costs nothing to write, and much to read below, where they are zeros.
	if st.Size >= sparseLeast {
		if _, holes, err := t.extents(fd, st.Size); err != nil || holes >= sparseLeast {
			return false, nil // who writes it will meet it again
		}
	}
	lower, err := openat(dir.fd, name, openFile|unix.O_NOFOLLOW)
	if err != nil {
		return false, nil // then it is written
	}
	defer func() { _ = unix.Close(lower) }()
	if t.sides[0] == nil {
		t.sides = [2][]byte{make([]byte, 256<<10), make([]byte, 256<<10)}
	}
	for offset := int64(0); offset < st.Size; {
		if err := t.ctx.Err(); err != nil {
			return false, err
		}
		n, err := t.pread(fd, t.sides[0][:min(int64(len(t.sides[0])), st.Size-offset)], offset)
		if err != nil {
			return false, vanished(path, err)
		}
		if n == 0 || !sameBytes(lower, t.sides[0][:n], t.sides[1], offset) {
			return false, nil
		}
		offset += int64(n)
	}
	return true, nil
}

// sameBytes is whether a file has want at an offset.
func sameBytes(fd int, want, buf []byte, offset int64) bool {
	for len(want) > 0 {
		n, err := retry(func() (int, error) { return unix.Pread(fd, buf[:len(want)], offset) })
		if err != nil || n == 0 || !bytes.Equal(buf[:n], want[:n]) {
			return false
		}
		want, offset = want[n:], offset+int64(n)
	}
	return true
}

// equalSpecial is whether a symbolic link, FIFO or device is no change.
func (t *writer) equalSpecial(from *directory, name []byte, st *unix.Stat_t, attrs attributes, path []byte) bool {
	dir := t.equal(name, st, attrs, path)
	if dir == nil || st.Mode&unix.S_IFMT != unix.S_IFLNK {
		return dir != nil
	}
	target, err := readlink(from.fd, string(name), make([]byte, unix.PathMax))
	if err != nil {
		return false
	}
	lower, err := readlink(dir.fd, string(name), make([]byte, unix.PathMax))
	return err == nil && bytes.Equal(target, lower)
}

// equalDirectory is whether a directory itself is no change, whatever may have changed in it.
func (t *writer) equalDirectory(below []*directory, st *unix.Stat_t, attrs attributes, path []byte) bool {
	if len(below) == 0 || attrs.opaque {
		return false
	}
	var lower unix.Stat_t
	if err := unix.Fstat(below[0].fd, &lower); err != nil || !t.sameOwner(st, &lower) {
		return false
	}
	return t.sameAttributes(attrs, fdXattrs(below[0].fd), path)
}
