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
	"strings"

	"golang.org/x/sys/unix"
)

// Lower are the directories below an overlay's upper one. Like that one they are
// hostile, and nothing outside of them can be reached.
type Lower struct {
	roots []*directory // the topmost first
	marks string

	// parent is the directory that was asked about last, shown what there is of it.
	parent string
	shown  []*directory
	known  bool
}

// OpenLower opens the directories at paths, the topmost first.
func OpenLower(paths []string, o Options) (*Lower, error) {
	l := &Lower{marks: trustedMarks}
	if o.UserXattr {
		l.marks = userMarks
	}
	for _, path := range paths {
		dir, _, err := openRoot(path)
		if err != nil {
			l.Close()
			return nil, err
		}
		l.roots = append(l.roots, dir)
	}
	return l, nil
}

// Close closes the directories.
func (l *Lower) Close() {
	l.forget()
	for _, dir := range l.roots {
		dir.close()
	}
	l.roots = nil
}

func (l *Lower) forget() {
	for _, dir := range l.shown {
		dir.close()
	}
	l.shown, l.known = nil, false
}

// Has is whether the lower directories together show something at path, which is
// relative and clean. Questions about one directory are best asked in a row.
func (l *Lower) Has(path string) (bool, error) {
	parent, name := "", path
	if slash := strings.LastIndexByte(path, '/'); slash >= 0 {
		parent, name = path[:slash], path[slash+1:]
	}
	if !l.known || parent != l.parent {
		l.forget()
		shown, err := l.show(parent)
		if err != nil {
			return false, fmt.Errorf("looking for %q in the layers below: %w", "/"+path, err)
		}
		l.parent, l.shown, l.known = parent, shown, true
	}
	for _, dir := range l.shown {
		found, err := l.look(dir, name)
		if err != nil {
			return false, fmt.Errorf("looking for %q in the layers below: %w", "/"+path, err)
		}
		if found != missing {
			return found != hidden, nil
		}
	}
	return false, nil
}

// at is what the topmost directory has at a path.
func (l *Lower) at(path string) (sight, error) {
	dir, _, err := l.roots[0].open(dot)
	if err != nil {
		return missing, err
	}
	defer func() { dir.close() }()
	for {
		name, rest, more := strings.Cut(path, "/")
		found, err := l.look(dir, name)
		if err != nil || !more || !found.isDir() {
			return found, err
		}
		next, _, err := dir.open(zeroEnded(name))
		if err != nil {
			return missing, err
		}
		dir.close()
		dir, path = next, rest
	}
}

// show opens the directories that make up path, from the roots down.
func (l *Lower) show(path string) ([]*directory, error) {
	var shown []*directory
	for _, root := range l.roots {
		dir, _, err := root.open(dot)
		if err != nil {
			closeAll(shown)
			return nil, err
		}
		shown = append(shown, dir)
	}
	if path == "" {
		return shown, nil
	}
	for name := range strings.SplitSeq(path, "/") {
		next, err := l.into(shown, name)
		closeAll(shown)
		if err != nil {
			return nil, err
		}
		shown = next
	}
	return shown, nil
}

// into opens the directories that make up the one of that name in a directory.
func (l *Lower) into(shown []*directory, name string) ([]*directory, error) {
	var next []*directory
	for _, dir := range shown {
		found, err := l.look(dir, name)
		var child *directory
		if err == nil && found.isDir() {
			child, _, err = dir.open(zeroEnded(name))
		}
		if err != nil {
			closeAll(next)
			return nil, err
		}
		if child != nil {
			child.parent = nil // it may be closed before this one
			next = append(next, child)
		}
		if found != missing && found != aDirectory {
			break
		}
	}
	return next, nil
}

// find is what a directory has under a name, and in which of those that make it up; nil where
// there is nothing.
func (l *Lower) find(shown []*directory, name string) (*directory, unix.Stat_t, error) {
	for _, dir := range shown {
		found, st, err := l.sees(dir, name)
		if err != nil || found == hidden {
			return nil, st, err
		}
		if found != missing {
			return dir, st, nil
		}
	}
	return nil, unix.Stat_t{}, nil
}

func closeAll(dirs []*directory) {
	for _, dir := range dirs {
		dir.close()
	}
}

// sight is what one lower directory has under a name.
type sight int

const (
	missing    sight = iota // nothing: what is below shows
	hidden                  // a whiteout
	aDirectory              // together with those below
	anOpaque                // a directory that hides those below
	something               // anything else
)

func (s sight) isDir() bool { return s == aDirectory || s == anOpaque }

func (l *Lower) look(dir *directory, name string) (sight, error) {
	found, _, err := l.sees(dir, name)
	return found, err
}

func (l *Lower) sees(dir *directory, name string) (sight, unix.Stat_t, error) {
	var st unix.Stat_t
	err := unix.Fstatat(dir.fd, name, &st, unix.AT_SYMLINK_NOFOLLOW)
	switch {
	case errors.Is(err, unix.ENOENT), errors.Is(err, unix.ENAMETOOLONG):
		return missing, st, nil
	case err != nil:
		return missing, st, err
	}
	marked := func(mark string) (string, error) {
		var value [8]byte
		n, err := nameXattrs(dir.fd, []byte(name)).get(l.marks+mark, value[:])
		if errors.Is(err, unix.ENODATA) || errors.Is(err, unix.ENOTSUP) {
			return "", nil
		}
		if err != nil {
			return "", err
		}
		return "is " + string(value[:n]), nil
	}
	switch format := st.Mode & unix.S_IFMT; {
	case format == unix.S_IFCHR && st.Rdev == 0:
		return hidden, st, nil
	case format == unix.S_IFREG && st.Size == 0:
		if mark, err := marked("whiteout"); err != nil || mark != "" {
			return hidden, st, err
		}
	case format == unix.S_IFDIR:
		mark, err := marked("opaque")
		if err != nil {
			return missing, st, err
		}
		if mark == "is y" {
			return anOpaque, st, nil
		}
		return aDirectory, st, nil
	}
	return something, st, nil
}
