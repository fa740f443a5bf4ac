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
	"fmt"
	"hash/maphash"
	"slices"

	"golang.org/x/sys/unix"
)

// changes is what a second pass compares with.
type changes struct {
	limit    unix.Timespec
	seed     maphash.Seed
	recall   *recall
	together map[inode]bool
	none     nowhere
}

// old is whether st has not changed since the beginning of the first pass.
func (c *changes) old(st *unix.Stat_t) bool { return st.Ctim.Nano() < c.limit.Nano() }

// unchanged is whether the first pass wrote what is there. Where the times cannot tell,
// again writes it, and what that gives is compared.
func (t *writer) unchanged(stack []*frame, was *known, st *unix.Stat_t, again func() error) (bool, error) {
	switch c := t.changes; {
	case was == nil || !was.is(st) || c.together[inodeOf(st)]:
		return false, nil
	case c.old(st):
		return true, nil
	case was.sum == 0:
		return false, nil
	}
	if err := t.prepareAll(stack); err != nil {
		return false, err
	}
	sum, err := t.sumOf(again)
	return sum == was.sum, err
}

// walkChanges walks the tree below root and the record of the first pass side by
// side: both are in the same order, so no more of either is in memory than the
// current directories.
func (t *writer) walkChanges(root *branch) (err error) {
	top, st, err := openRoot(root.dir)
	if err != nil {
		return err
	}
	path := t.volumes.prefix()
	stack := []*frame{{dir: top, compared: true, path: len(path), whole: slices.Clone(path)}}
	defer func() {
		t.above, t.below = nil, nil
		for _, f := range stack {
			f.close()
		}
		t.closeLower()
	}()
	was, err := t.changes.recall.peek()
	if err != nil {
		return err
	}
	hides := was != nil && was.kind == opaqueEntry
	if !hides {
		stack[0].below = t.lowerBelow()
	}
	if t.volumes.now != nil && !hides && len(stack[0].below) == 0 {
		return fmt.Errorf("what leads to the volume %q %w", "/"+string(path), ErrChanged)
	}
	attrs, err := t.xattrs(fdXattrs(top.fd), path)
	if err != nil {
		return err
	}
	same, err := t.unchanged(stack, was, st, func() error { return t.writeDirectory(top, st, attrs, path, hides) })
	if err != nil {
		return err
	}
	t.changes.recall.take()
	t.above = stack
	if !same {
		if err := t.flush(); err != nil {
			return err
		}
	}
	if stack[0].names, err = top.list(t.buf); err != nil {
		return vanished(path, err)
	}

	for len(stack) > 0 {
		if err := t.ctx.Err(); err != nil {
			return err
		}
		f := stack[len(stack)-1]
		if f.next == f.names.len() {
			t.above = stack
			if err := t.gone(stack, path[:f.path], nil); err != nil {
				return err
			}
			if stack, err = t.pop(stack, path); err != nil {
				return err
			}
			continue
		}
		name := f.names.raw(f.next)
		t.above, t.depth = stack, len(stack)
		if err := t.gone(stack, path[:f.path], name); err != nil {
			return err
		}
		path = f.join(path, name)
		if t.volumes.elsewhere(path) {
			f.next++
			continue
		}
		child, err := t.compare(stack, name, f.names.types[f.next], path)
		if err != nil {
			return err
		}
		f.next++
		if child == nil {
			continue
		}
		child.whole = slices.Clone(path)
		if stack, err = t.push(stack, child, path); err != nil {
			return err
		}
	}
	return t.apart()
}

// gone writes the deletion of what the first pass wrote before name, or up to
// the directory's end, and is not there any more.
func (t *writer) gone(stack []*frame, dir, before []byte) error {
	f, recall := stack[len(stack)-1], t.changes.recall
	if !f.compared {
		return nil
	}
	for {
		was, err := recall.peek()
		if err != nil {
			return err
		}
		if was == nil {
			if before == nil {
				recall.take()
			}
			return nil
		}
		if before != nil && bytes.Compare(was.name, before) >= 0 {
			return nil
		}
		recall.take()
		// Whatever a first pass may have noted twice: the deletion of what stands beside it in
		// the same layer makes a layer that no node can unpack.
		if f.next > 0 && bytes.Equal(was.name, f.names.raw(f.next-1)) {
			if err := t.forget(was); err != nil {
				return err
			}
			continue
		}
		if err := t.deleted(dir, was); err != nil {
			return err
		}
	}
}

// forget goes on behind an entry that was just taken, with all that is in it.
func (t *writer) forget(was *known) error {
	if was.isDirectory() {
		return t.changes.recall.skip()
	}
	return nil
}

// deleted writes the deletion of an entry that was just taken.
func (t *writer) deleted(dir []byte, was *known) error {
	// A deletion that is itself no longer there deletes nothing that could be seen:
	// an overlay takes a whiteout away only with the directory around it. And where an equal
	// file is gone from an upper directory without a whiteout, the one below shows.
	if was.kind != whiteoutEntry && (was.kind != equalEntry || t.volumes.now != nil) {
		path := slices.Clone(dir)
		if len(dir) > 0 {
			path = append(path, '/')
		}
		path = append(path, was.name...)
		if err := t.volumes.leadsOn(path); err != nil {
			return err
		}
		if err := t.whiteout(path); err != nil {
			return err
		}
	}
	return t.forget(was)
}

// compare writes what is under name when it is not what the first pass wrote.
// It returns a directory that is to be walked next.
func (t *writer) compare(stack []*frame, name []byte, kind uint8, path []byte) (*frame, error) {
	f, recall := stack[len(stack)-1], t.changes.recall
	var was *known
	if f.compared {
		next, err := recall.peek()
		if err != nil {
			return nil, err
		}
		if next != nil && bytes.Equal(next.name, name) {
			was = &known{kind: next.kind, ino: next.ino, sec: next.sec, nsec: next.nsec, size: next.size, sum: next.sum}
			recall.take()
		}
	}
	// What the first pass wrote may not be left out by the second, whatever is below.
	// Nor what it found deleted in a volume.
	t.below, t.shown = nil, f.below
	if was == nil && t.volumes.now == nil || was != nil && was.kind == equalEntry {
		t.below = f.below
	}
	if was == nil {
		return t.anew(stack, name, kind, path)
	}
	var st unix.Stat_t
	if err := unix.Fstatat(f.dir.fd, string(name), &st, unix.AT_SYMLINK_NOFOLLOW); err != nil {
		return nil, vanished(path, err)
	}
	format := st.Mode & unix.S_IFMT
	if was.isDirectory() && format == unix.S_IFDIR {
		return t.compareDirectory(stack, name, path, was)
	}
	isWhiteout := format == unix.S_IFCHR && st.Rdev == 0
	// All whiteouts are one inode, which each new one changes.
	if was.kind == whiteoutEntry && isWhiteout {
		return nil, nil
	}
	same, err := t.unchanged(stack, was, &st, func() error {
		_, err := t.entry(f.dir, name, kind, path)
		return err
	})
	if same || err != nil {
		return nil, err
	}
	if err := t.forget(was); err != nil {
		return nil, err
	}
	if format == unix.S_IFSOCK || t.isInnerWhiteout(&st) {
		// It is left out, but what was in its place is not there any more.
		if format == unix.S_IFSOCK {
			t.stats.Sockets++
		} else {
			t.leaveOut(path)
		}
		if was.kind == whiteoutEntry {
			return nil, nil
		}
		return nil, t.whiteout(path)
	}
	return t.anew(stack, name, kind, path)
}

// anew writes an entry whole, a directory with all that is in it.
func (t *writer) anew(stack []*frame, name []byte, kind uint8, path []byte) (*frame, error) {
	if err := t.prepareAll(stack); err != nil {
		return nil, err
	}
	dir, err := t.entry(stack[len(stack)-1].dir, name, kind, path)
	if dir == nil || err != nil {
		return nil, err
	}
	return t.frameOf(dir), nil
}

// compareDirectory opens a directory that the first pass wrote under the same
// name, and writes it when it is another one or has changed.
func (t *writer) compareDirectory(stack []*frame, name, path []byte, was *known) (*frame, error) {
	dir, st, err := stack[len(stack)-1].dir.open(name)
	if err != nil {
		return nil, vanished(path, err)
	}
	child := &frame{dir: dir, compared: true}
	if was.kind != opaqueEntry {
		t.below = stack[len(stack)-1].below
		child.below = t.belowName(name)
	}
	err = func() error {
		var err error
		if child.names, err = dir.list(t.buf); err != nil {
			return vanished(path, err)
		}
		if t.changes.old(st) && was.is(st) && !t.changes.together[child.dir.id] {
			return nil
		}
		attrs, err := t.xattrs(fdXattrs(dir.fd), path)
		if err != nil {
			return err
		}
		same, err := t.unchanged(stack, was, st, func() error { return t.writeDirectory(dir, st, attrs, path, attrs.opaque) })
		if same || err != nil {
			return err
		}
		if was.kind == equalDirectory && t.equalDirectory(child.below, st, attrs, path) {
			return nil
		}
		if err := t.prepareAll(stack); err != nil {
			return err
		}
		// A directory that began to hide what is below it is a new one. Written as
		// hiding a second time, it would hide the first layer's entries, too.
		hides := attrs.opaque && was.kind != opaqueEntry
		child.written = true
		if err := t.writeDirectory(dir, st, attrs, path, hides); err != nil || !hides {
			return err
		}
		child.compared = false
		closeAll(child.below)
		child.below = nil
		return t.changes.recall.skip()
	}()
	if err != nil {
		child.close()
		return nil, err
	}
	return child, nil
}

// flush writes the directories above the current entry that were not, because nothing in
// them had changed up to now: unpackers would change their times.
func (t *writer) flush() error {
	if t.flushing || t.summing {
		return nil
	}
	t.flushing = true
	sum := t.out.sum
	t.out.sum = nil // which is of the entry alone
	defer func() { t.flushing, t.out.sum = false, sum }()
	if err := t.lead(); err != nil {
		return err
	}
	for _, f := range t.above {
		if f.written {
			continue
		}
		if err := t.prepare(f); err != nil {
			return err
		}
		if err := t.header(f.own); err != nil {
			return err
		}
		f.written, f.own = true, nil
	}
	return nil
}

// prepareAll is prepare for a path of directories. What an entry inherits from them is a part of
// how it is written.
func (t *writer) prepareAll(stack []*frame) error {
	for _, f := range stack {
		if err := t.prepare(f); err != nil {
			return err
		}
	}
	return nil
}

// prepare reads what is needed to write the directory later.
func (t *writer) prepare(f *frame) error {
	if f.written || f.own != nil {
		return nil
	}
	var st unix.Stat_t
	if err := unix.Fstat(f.dir.fd, &st); err != nil {
		return vanished(f.whole, err)
	}
	attrs, err := t.xattrs(fdXattrs(f.dir.fd), f.whole)
	if err != nil {
		return err
	}
	f.own = directoryHeader(f.dir, &st, attrs, f.whole, t.volumes.inherits)
	return nil
}

// apart looks for files that were written because they are new under a name,
// and that have other names which were not: a renamed directory does that. All of
// them have to be in this layer to stay one file.
func (t *writer) apart() error {
	again := false
	for id := range t.links.old() {
		if !t.changes.together[id] {
			t.changes.together[id] = true
			again = true
		}
	}
	if again {
		return fmt.Errorf("reading the changes once more: %w", ErrAgain)
	}
	return nil
}
