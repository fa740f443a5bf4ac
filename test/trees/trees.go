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

// Package trees makes directories at random that hold every kind of thing a Linux file system can hold, changes them at
// random, and describes what is there. The same seed always makes the same: so one process can make a tree in a
// container, and another say what it must look like after it went through an image.
//
// Two things are not made. Names that begin with ".wh." mean deletions in an image layer: a commit refuses them. And
// nothing is done to the root itself, which image unpackers take for their own.
package trees

import (
	"errors"
	"fmt"
	"io/fs"
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"golang.org/x/sys/unix"
)

// Maker makes and changes one tree.
type Maker struct {
	root string
	// keep are paths below the root that must stay as they are.
	keep []string
	rand *rand.Rand
	// Done counts what was done, by its name.
	Done map[string]int
}

// New returns a maker for the directory root, which has to be there. What is mounted below it is
// never touched, nor are the paths in keep.
func New(root string, seed uint64, keep ...string) *Maker {
	return &Maker{root: filepath.Clean(root), keep: keep, rand: rand.New(rand.NewPCG(seed, 0x7265657)), Done: map[string]int{}}
}

// Make fills the root with count things, and at least one of each kind.
func (m *Maker) Make(count int) error {
	kinds := m.kinds()
	for i := range max(count, len(kinds)) {
		k := kinds[m.rand.IntN(len(kinds))]
		if i < len(kinds) {
			k = kinds[i]
		}
		if err := m.do(k); err != nil {
			return err
		}
	}
	return m.settle()
}

// Change does count random changes to what is there, and at least one of each kind.
func (m *Maker) Change(count int) error {
	changes := m.changes()
	for i := range max(count, len(changes)) {
		c := changes[m.rand.IntN(len(changes))]
		if i < len(changes) {
			c = changes[i]
		}
		if err := m.do(c); err != nil {
			return err
		}
	}
	return nil
}

// step is one thing to make or change.
type step struct {
	name string
	run  func() error
}

// errNothing is what a step returns that found nothing to do it to.
var errNothing = errors.New("nothing to do this to")

func (m *Maker) do(s step) error {
	err := s.run()
	if errors.Is(err, errNothing) {
		return nil
	}
	if err != nil {
		return fmt.Errorf("%s: %w", s.name, err)
	}
	m.Done[s.name]++
	return nil
}

// found is an entry of the tree.
type found struct {
	path string // from the root
	mode uint32
}

func (f found) is(format uint32) bool { return f.mode&unix.S_IFMT == format }

// all are the entries that may be changed, in the order of their names.
func (m *Maker) all() ([]found, error) {
	var entries []found
	err := walk(m.root, func(path string, st *unix.Stat_t) error {
		if path != "" && !slices.Contains(m.keep, path) {
			entries = append(entries, found{path, st.Mode})
		}
		return nil
	})
	return entries, err
}

// pick chooses one of the entries that fit.
func (m *Maker) pick(fits func(found) bool) (found, error) {
	entries, err := m.all()
	if err != nil {
		return found{}, err
	}
	entries = slices.DeleteFunc(entries, func(f found) bool { return !fits(f) })
	if len(entries) == 0 {
		return found{}, errNothing
	}
	return entries[m.rand.IntN(len(entries))], nil
}

func anything(found) bool { return true }

func regular(f found) bool { return f.is(unix.S_IFREG) }

func directory(f found) bool { return f.is(unix.S_IFDIR) }

// held is whether a path cannot be moved or removed: it, or something below it, is to be kept or is mounted on.
func (m *Maker) held(path string) (bool, error) {
	for _, k := range m.keep {
		if k == path || strings.HasPrefix(k, path+"/") {
			return true, nil
		}
	}
	root, err := mountOf(m.root)
	if err != nil {
		return false, err
	}
	held := false
	err = filepath.WalkDir(m.at(path), func(below string, _ fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		mount, err := mountOf(below)
		if err != nil {
			return err
		}
		if mount != root {
			held = true
			return filepath.SkipAll
		}
		return nil
	})
	return held, err
}

// mountOf tells one mount from another, also where both are of one file system.
func mountOf(path string) (uint64, error) {
	var st unix.Statx_t
	if err := unix.Statx(unix.AT_FDCWD, path, unix.AT_SYMLINK_NOFOLLOW|unix.AT_NO_AUTOMOUNT, unix.STATX_MNT_ID, &st); err != nil {
		return 0, fmt.Errorf("%q: %w", path, err)
	}
	return st.Mnt_id, nil
}

// free is like pick, for entries that can be moved or removed.
func (m *Maker) free(fits func(found) bool) (found, error) {
	for range 8 {
		f, err := m.pick(fits)
		if err != nil {
			return f, err
		}
		held, err := m.held(f.path)
		if err != nil || !held {
			return f, err
		}
	}
	return found{}, errNothing
}

func (m *Maker) at(path string) string { return m.root + "/" + path }

// settle gives every directory a time of its own: making what is in it has set it to now.
func (m *Maker) settle() error {
	entries, err := m.all()
	if err != nil {
		return err
	}
	for _, f := range slices.Backward(entries) {
		if f.is(unix.S_IFDIR) {
			if err := m.touch(f.path); err != nil {
				return err
			}
		}
	}
	return nil
}

// walk visits everything below root that is in root's own mount, parents first, in the order of names. The root's
// path is empty.
func walk(root string, visit func(path string, st *unix.Stat_t) error) error {
	var top unix.Stat_t
	if err := unix.Lstat(root, &top); err != nil {
		return fmt.Errorf("%s: %w", root, err)
	}
	own, err := mountOf(root)
	if err != nil {
		return err
	}
	var descend func(path string, st *unix.Stat_t) error
	descend = func(path string, st *unix.Stat_t) error {
		if err := visit(path, st); err != nil || st.Mode&unix.S_IFMT != unix.S_IFDIR {
			return err
		}
		entries, err := os.ReadDir(root + "/" + path) // sorted
		if err != nil {
			return err
		}
		for _, e := range entries {
			child := strings.TrimPrefix(path+"/"+e.Name(), "/")
			var st unix.Stat_t
			if err := unix.Lstat(root+"/"+child, &st); err != nil {
				return fmt.Errorf("%q: %w", child, err)
			}
			mount, err := mountOf(root + "/" + child)
			if err != nil {
				return err
			}
			if mount != own {
				continue
			}
			if err := descend(child, &st); err != nil {
				return err
			}
		}
		return nil
	}
	return descend("", &top)
}
