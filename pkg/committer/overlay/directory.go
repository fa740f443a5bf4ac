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
	"slices"

	"golang.org/x/sys/unix"
)

// listed is an open directory and its names.
type listed struct {
	*directory
	names names
	below []*directory
	own   *header // what would be written of it, where it is not because it is equal
}

// directory writes a directory itself and returns it opened.
func (t *writer) directory(parent *directory, name, path []byte) (*listed, error) {
	dir, _, err := parent.open(name)
	if err != nil {
		return nil, vanished(path, err)
	}
	below := t.belowName(name)
	entered, err := t.enter(dir, below, len(below) == 0 && t.hidesNew(name), name, path)
	if err != nil {
		dir.close()
		return nil, err
	}
	return entered, nil
}

// enter lists a directory and writes it. In this order: listing waits for
// whoever is just changing it, as Copy needs it.
// below is what lies below it, and hides whether that is to be hidden whatever it says itself.
func (t *writer) enter(dir *directory, below []*directory, hides bool, name, path []byte) (_ *listed, err error) {
	l := &listed{directory: dir, below: below}
	defer func() {
		if err != nil {
			closeAll(l.below)
		}
	}()
	if l.names, err = dir.list(t.buf); err != nil {
		return nil, vanished(path, err)
	}
	var st unix.Stat_t
	if err := unix.Fstat(dir.fd, &st); err != nil {
		return nil, vanished(path, err)
	}
	if err := t.keeping.unchanged(path, &st); err != nil {
		return nil, err
	}
	attrs, err := t.xattrs(fdXattrs(dir.fd), path)
	if err != nil {
		return nil, err
	}
	deleted, err := t.deletedBelow(l, path)
	if err != nil {
		return nil, vanished(path, err)
	}
	// The root is in every layer.
	if dir.parent != nil && len(deleted) == 0 && t.equalDirectory(below, &st, attrs, path) {
		l.own = directoryHeader(dir, &st, attrs, path, t.volumes.inherits)
		return l, t.remember(equalDirectory, name, &st)
	}
	t.recent.begin(t, &st)
	kind := directoryEntry
	if hides = hides || attrs.opaque; hides {
		kind = opaqueEntry
		closeAll(l.below)
		l.below = nil
	}
	if err := t.writeDirectory(dir, &st, attrs, path, hides); err != nil {
		return nil, err
	}
	if err := t.remember(kind, name, &st); err != nil {
		return nil, err
	}
	for _, name := range deleted {
		if err := t.whiteout(join(path, []byte(name))); err != nil {
			return nil, err
		}
	}
	return l, nil
}

// writeDirectory writes a directory, and that it hides what is below it.
func (t *writer) writeDirectory(dir *directory, st *unix.Stat_t, attrs attributes, path []byte, hides bool) error {
	h := directoryHeader(dir, st, attrs, path, t.volumes.inherits)
	if err := t.header(h); err != nil || !hides {
		return err
	}
	inside := h.name
	if len(path) == 0 {
		inside = nil
	}
	// Before the children: an unpacker that works by deleting must not delete them.
	t.stats.Whiteouts++
	return t.marker(slices.Concat(inside, []byte(opaqueName)))
}

// directoryHeader takes in what a directory's attributes mean for what is in it. rootInherits
// is whether the branch's own root is in a directory with a default ACL.
func directoryHeader(dir *directory, st *unix.Stat_t, attrs attributes, path []byte, rootInherits bool) *header {
	dir.bequeaths = attrs.has(defaultACL)
	dir.opaque = attrs.opaque || dir.parent != nil && dir.parent.opaque
	if dir.parent != nil && dir.parent.bequeaths || dir.parent == nil && rootInherits {
		attrs.inheritNothing(accessACL, defaultACL)
	}
	h := newHeader(st, slices.Concat(path, []byte("/")), attrs.kept)
	if len(path) == 0 {
		h.name = []byte("./")
	}
	h.typeflag = tar.TypeDir
	return h
}
