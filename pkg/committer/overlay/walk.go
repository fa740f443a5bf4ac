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
	"fmt"
	"slices"
	"unsafe"

	"golang.org/x/sys/unix"
)

// maxOpen is how many directories of the path to the current entry are held
// open. A tree can be deeper than the limit of open files; what lies further up
// is closed and found again through "..".
const maxOpen = 64

// frame is a directory of the path from the root to the current entry.
type frame struct {
	dir   *directory
	names names
	next  int // the next of names
	path  int // the length of this directory's path

	// below are the directories that it lies on, the topmost first; none where it hides them,
	// or where nothing may be left out for being equal to what is in them.
	below []*directory

	// compared is whether the first pass of a second one wrote this directory.
	compared bool
	// written is whether the directory itself is in the layer; as long as it is
	// not, own is what would be written, once it was read, and whole its path.
	written bool
	own     *header
	whole   []byte
}

func (f *frame) close() {
	f.dir.close()
	closeAll(f.below)
}

// join returns the path of an entry of f.
func (f *frame) join(path, name []byte) []byte {
	path = path[:f.path]
	if f.path > 0 {
		path = append(path, '/')
	}
	return append(path, name...)
}

// walk writes the tree below root, depth first. It keeps its own stack: depth
// is bounded by nothing that a container could not choose.
func (t *writer) walk(root *branch) (err error) {
	top, _, err := openRoot(root.dir)
	if err != nil {
		return err
	}
	path := t.volumes.prefix()
	var stack []*frame
	t.ahead = newAhead(t.ctx)
	defer func() {
		t.here, t.above, t.below = nil, nil, nil
		t.ahead.close()
		top.close()
		for _, f := range stack {
			f.close()
		}
		t.closeLower()
	}()
	if err := t.lead(); err != nil {
		return err
	}
	below := t.lowerBelow()
	entered, err := t.enter(top, below, t.volumes.now != nil && len(below) == 0, nil, path)
	if err != nil {
		return err
	}
	stack = append(stack, t.frameOf(entered))
	stack[0].path = len(path)

	for len(stack) > 0 {
		if err := t.ctx.Err(); err != nil {
			return err
		}
		f := stack[len(stack)-1]
		if f.next == f.names.len() {
			if t.record != nil {
				if err := t.record.leave(); err != nil {
					return err
				}
			}
			if stack, err = t.pop(stack, path); err != nil {
				return err
			}
			continue
		}

		name, kind := f.names.raw(f.next), f.names.types[f.next]
		f.next++
		t.here = f
		path = f.join(path, name)
		if t.volumes.elsewhere(path) {
			continue
		}
		t.above, t.below, t.shown, t.depth = stack, f.below, f.below, len(stack)
		dir, err := t.entry(f.dir, name, kind, path)
		if t.tolerable(err) {
			// Of a volume the second pass has to know that this one did not take it for deleted.
			if t.volumes.now != nil && len(f.below) > 0 {
				if err := t.remember(otherEntry, name, &unix.Stat_t{Mode: unix.S_IFREG}); err != nil {
					return err
				}
			}
			continue
		}
		if err != nil {
			return err
		}
		if dir == nil {
			continue
		}
		child := t.frameOf(dir)
		if t.keeping != nil {
			child.whole = slices.Clone(path)
		}
		if stack, err = t.push(stack, child, path); err != nil {
			return err
		}
	}
	return nil
}

func (t *writer) frameOf(l *listed) *frame {
	return &frame{dir: l.directory, names: l.names, below: l.below, own: l.own, written: t.keeping == nil && l.own == nil}
}

// push enters a directory, whose names are listed where they were not yet.
func (t *writer) push(stack []*frame, child *frame, path []byte) (_ []*frame, err error) {
	child.path = len(path)
	stack = append(stack, child)
	if child.dir.id.dev != stack[0].dir.id.dev {
		return stack, fmt.Errorf("%q is another file system: only the container's own layer is read", "/"+string(path))
	}
	if far := len(stack) - 1 - maxOpen; far >= 0 {
		if err := t.prepare(stack[far]); err != nil {
			return stack, err
		}
		stack[far].dir.close()
	}
	return stack, nil
}

// pop goes back from a directory to the one that it is in.
func (t *writer) pop(stack []*frame, path []byte) ([]*frame, error) {
	f := stack[len(stack)-1]
	if len(stack) > 1 {
		if err := stack[len(stack)-2].dir.reopen(f.dir); err != nil {
			return stack, vanished(path[:f.path], err)
		}
	}
	f.close()
	return stack[:len(stack)-1], nil
}

// directory is an open directory, or one that was closed and whose identity is
// remembered.
type directory struct {
	fd int // -1 when closed
	id inode
	// parent is nil for the root; name is valid while the parent is being walked.
	parent *directory
	name   []byte
	number uint32 // among those of links
	// bequeaths is whether it has a default ACL, which what is made in it inherits. It
	// is known once the directory was written, or prepared to be. So is opaque: whether it, or one that it is
	// in, hides the layers below.
	bequeaths, opaque bool
}

const openDirectory = unix.O_RDONLY | unix.O_DIRECTORY | unix.O_NOFOLLOW | unix.O_CLOEXEC

func openRoot(path string) (*directory, *unix.Stat_t, error) {
	d, st, err := openAt(unix.AT_FDCWD, zeroEnded(path))
	if err != nil {
		return nil, nil, fmt.Errorf("opening the container's layer %s: %w", path, err)
	}
	return d, st, nil
}

// open opens a child directory, whose name has a zero behind its end; it fails when
// the name is anything else.
func (d *directory) open(name []byte) (*directory, *unix.Stat_t, error) {
	dir, st, err := openAt(d.fd, name)
	if err == nil {
		dir.parent, dir.name = d, name
	}
	return dir, st, err
}

func openAt(fd int, name []byte) (*directory, *unix.Stat_t, error) {
	dirfd, err := openat(fd, name, openDirectory)
	if err != nil {
		return nil, nil, err
	}
	var st unix.Stat_t
	if err := unix.Fstat(dirfd, &st); err != nil {
		_ = unix.Close(dirfd)
		return nil, nil, err
	}
	return &directory{fd: dirfd, id: inodeOf(&st)}, &st, nil
}

var dot, dotDot = zeroEnded("."), zeroEnded("..")

// zeroEnded is a name as open takes it.
func zeroEnded(name string) []byte { return append([]byte(name), 0)[:len(name)] }

// reopen opens d again from its child, when it was closed.
func (d *directory) reopen(child *directory) error {
	if d.fd >= 0 {
		return nil
	}
	again, _, err := child.open(dotDot)
	if err != nil {
		return err
	}
	if again.id != d.id {
		again.close()
		return errors.New("the parent directory is no longer the one that it was entered from")
	}
	d.fd = again.fd
	return nil
}

func (d *directory) close() {
	if d.fd >= 0 {
		_ = unix.Close(d.fd)
		d.fd = -1
	}
}

// openat is openat(2) for a name that has a zero behind its end: a string would
// be copied for each file.
func openat(dirfd int, name []byte, flags int) (int, error) {
	return retry(func() (int, error) {
		fd, _, errno := unix.Syscall6(unix.SYS_OPENAT, uintptr(dirfd), uintptr(unsafe.Pointer(unsafe.SliceData(name))), uintptr(flags|unix.O_LARGEFILE), 0, 0, 0)
		if errno != 0 {
			return -1, errno
		}
		return int(fd), nil
	})
}

// retry repeats a system call that a signal interrupted.
func retry(call func() (int, error)) (int, error) {
	for {
		n, err := call()
		if !errors.Is(err, unix.EINTR) {
			return n, err
		}
	}
}
