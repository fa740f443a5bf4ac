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
	"iter"
	"math"

	"golang.org/x/sys/unix"
)

// links are the files with several names, some of which were not met yet. A
// container can have a million of them, each with a path of 4 KiB: so a path is
// kept as one name in a directory, which has a name in another.
type links struct {
	dev   uint64               // all files are of one file system
	first map[uint64]firstName // by inode number
	dirs  []place              // the directories that have any; the root is the first
	names []byte

	prefix string // the root's path
}

// place is where something is: a name, and a directory's number.
type place struct {
	dir, start uint32
	size       uint8
}

// firstName is the name that a file was written under.
type firstName struct {
	place
	old  bool   // of a second pass: the file itself has not changed
	left uint32 // how many more it has
}

var errLinks = errors.New("the names of files with several names take more than 4 GiB")

func newLinks() links { return links{first: map[uint64]firstName{}, dirs: make([]place, 1)} }

// met counts one name of the file. It returns the path that the file was written
// under, nil when this is the first.
func (l *links) met(dir *directory, name []byte, st *unix.Stat_t, old bool) ([]byte, error) {
	f, ok := l.first[st.Ino]
	if !ok {
		at, err := l.place(dir, name)
		if err != nil {
			return nil, err
		}
		l.dev = uint64(st.Dev)
		l.first[st.Ino] = firstName{place: at, old: old, left: uint32(st.Nlink) - 1}
		return nil, nil
	}
	// A file whose names were all met needs no memory any more.
	if f.left--; f.left == 0 {
		delete(l.first, st.Ino)
	} else {
		l.first[st.Ino] = f
	}
	return l.path(f.place), nil
}

// forget is for a file that could not be written: no other name may lead to it.
func (l *links) forget(st *unix.Stat_t) { delete(l.first, st.Ino) }

// old are the files of a second pass that have not changed, and have names that
// were not met.
func (l *links) old() iter.Seq[inode] {
	return func(yield func(inode) bool) {
		for ino, f := range l.first {
			if f.old && !yield(inode{l.dev, ino}) {
				return
			}
		}
	}
}

func (l *links) place(dir *directory, name []byte) (place, error) {
	number, err := l.number(dir)
	if err != nil {
		return place{}, err
	}
	if len(l.names) > math.MaxUint32-len(name) {
		return place{}, errLinks
	}
	at := place{dir: number, start: uint32(len(l.names)), size: uint8(len(name))}
	l.names = append(l.names, name...)
	return at, nil
}

// number is the directory's number; it gets one, and so do its parents, when the
// first such file is found in it.
func (l *links) number(dir *directory) (uint32, error) {
	if dir.parent == nil || dir.number > 0 {
		return dir.number, nil
	}
	at, err := l.place(dir.parent, dir.name)
	if err != nil {
		return 0, err
	}
	l.dirs = append(l.dirs, at)
	dir.number = uint32(len(l.dirs) - 1)
	return dir.number, nil
}

func (l *links) path(at place) []byte {
	var path []byte
	switch {
	case at.dir > 0:
		path = append(l.path(l.dirs[at.dir]), '/')
	case l.prefix != "":
		path = append([]byte(l.prefix), '/')
	}
	return append(path, l.names[at.start:at.start+uint32(at.size)]...)
}
