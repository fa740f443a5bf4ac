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

// Package squash merges image layers that lie directly above each other into
// one. What the merged layer makes of the layers below it is what the layers
// make of them one after the other.
//
// It reads tar archives and writes one, member by member: content is never held,
// headers pass as they are. Each path takes some fifty bytes of memory, so that layers
// of too many paths are not merged (TooLargeError).
package squash

import (
	"archive/tar"
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"strings"
	"time"

	"github.com/opencontainers/go-digest"
)

// The names that delete.
// https://github.com/opencontainers/image-spec/blob/main/layer.md#whiteouts
const (
	whiteoutPrefix = ".wh."
	opaqueName     = ".wh..wh..opq"
)

// MaxLayers is how many layers can be merged at once.
const MaxLayers = none

// Layer is a layer to be merged.
type Layer struct {
	// DiffID is what its bytes have to amount to.
	DiffID digest.Digest
	// Open reads it, uncompressed, from its beginning.
	Open func(context.Context) (io.ReadCloser, error)
}

// Below is what lies below the layers: directories that hold it unpacked, say.
type Below interface {
	// Has is whether something shows at the path.
	Has(path string) (bool, error)
}

// Merge is how some layers become one.
type Merge struct {
	layers []source // the newest first
	index  *index
	// bequests are of one writing.
	bequests bequests
	below    Below
	moved    int // the bytes of what is moved
}

// source is a layer on its way into the merged one.
type source struct {
	Layer
	// moved are files of which only further names, hard links, are left: by the key
	// of the name that has the content, the name that gets it.
	moved map[key]string
	homes map[string]bool // those names
}

// MaxPaths bounds what a merge remembers; a million paths take some 50 MiB. Tests take less.
var MaxPaths = 1 << 20

// maxMoved bounds the bytes of the names of hard links whose first name is gone.
const maxMoved = 16 << 20

// TooLargeError is what Plan fails with for layers of so many paths that they would not fit
// into memory.
type TooLargeError struct {
	// Fits is how many of the newest layers can be merged without the others.
	Fits int
}

func (e *TooLargeError) Error() string {
	return fmt.Sprintf("%v: there are more than %d paths in the layers, or links, of which the newest %d have less", ErrNotMergeable, MaxPaths, e.Fits)
}

func (e *TooLargeError) Unwrap() error { return ErrNotMergeable }

var errTooLarge = errors.New("too many paths")

// Plan reads the layers, the lowest first as in a manifest, and decides what is
// left of each. A deletion is left where there is something below to be deleted: in
// a directory that no lower layer has, the kernel's overlay would list its name.
func Plan(ctx context.Context, layers []Layer, below Below) (*Merge, error) {
	if len(layers) > MaxLayers {
		return nil, fmt.Errorf("%d layers are too many to be merged at once", len(layers))
	}
	m := &Merge{index: newIndex(), below: below}
	for i := len(layers) - 1; i >= 0; i-- {
		m.layers = append(m.layers, source{Layer: layers[i], moved: map[key]string{}, homes: map[string]bool{}})
	}
	for i := range m.layers {
		err := m.learn(ctx, uint8(i)) //nolint:gosec // bounded above
		if errors.Is(err, errTooLarge) {
			return nil, &TooLargeError{Fits: i}
		}
		if err != nil {
			return nil, fmt.Errorf("layer %s: %w", m.layers[i].DiffID, err)
		}
	}
	m.index.last = lastAbove{} // which may be of a moment when not all was known
	return m, nil
}

// learn takes a layer into the index, and verifies it on the way.
func (m *Merge) learn(ctx context.Context, layer uint8) error {
	s := &m.layers[layer]
	content, err := s.Open(ctx)
	if err != nil {
		return err
	}
	defer func() { _ = content.Close() }()
	verifier := s.DiffID.Verifier()
	all := io.TeeReader(content, verifier)
	err = each(ctx, all, func(f *member, _ io.Reader) error {
		path, what := f.meaning()
		if len(m.index.places) > MaxPaths || m.moved > maxMoved {
			return errTooLarge
		}
		if what == 0 {
			m.index.addOpaque(layer, path)
			return nil
		}
		m.index.add(layer, path, what)
		// Whether the first name is still there is known by now: it comes before its
		// links, and only newer layers can have taken it.
		if f.kind == typeLink && m.index.wins(layer, path, aFile) && !m.index.wins(layer, f.target, aFile) {
			if k := m.index.key(f.target); s.moved[k] == "" {
				s.moved[k], s.homes[path] = path, true
				m.moved += len(path) + 64
			}
		}
		return nil
	})
	if err != nil {
		return err
	}
	return verify(all, verifier)
}

// verify reads what comes after the end of an archive, which belongs to its digest.
func verify(rest io.Reader, verifier digest.Verifier) error {
	if _, err := io.Copy(io.Discard, rest); err != nil {
		return err
	}
	if !verifier.Verified() {
		return fmt.Errorf("%w: its content is not what its digest says", ErrNotMergeable)
	}
	return nil
}

func (m *member) meaning() (path string, what says) { return meaning(m.name, m.kind == typeDir) }

// meaning is the path that a member of a clean name speaks of and what it says; 0 is
// that the directory is opaque.
func meaning(name string, isDir bool) (path string, what says) {
	parent, base := name[:strings.LastIndexByte(name, '/')+1], name[strings.LastIndexByte(name, '/')+1:]
	if base == opaqueName {
		return strings.TrimSuffix(parent, "/"), 0
	}
	if name, ok := strings.CutPrefix(base, whiteoutPrefix); ok {
		return parent + name, aWhiteout
	}
	if isDir {
		return name, aDir
	}
	return name, aFile
}

// Write writes the merged layer, the same bytes each time. Newer layers come
// first, so that no directory comes after what is in it.
func (m *Merge) Write(ctx context.Context, w io.Writer) error {
	buf := make([]byte, 256<<10)
	m.bequests = bequests{}
	for i := range m.layers {
		layer := uint8(i) //nolint:gosec // bounded by Plan
		if err := m.keep(ctx, w, layer, buf); err != nil {
			return fmt.Errorf("layer %s: %w", m.layers[i].DiffID, err)
		}
		if len(m.layers[i].moved) == 0 {
			continue
		}
		// In a further pass: the directories of their new names are there by then.
		if err := m.move(ctx, w, layer, buf); err != nil {
			return fmt.Errorf("layer %s: %w", m.layers[i].DiffID, err)
		}
	}
	_, err := w.Write(zeros[:])
	return err
}

// keep writes what is left of a layer as it was.
func (m *Merge) keep(ctx context.Context, w io.Writer, layer uint8, buf []byte) error {
	s := &m.layers[layer]
	return s.each(ctx, func(f *member, content io.Reader) error {
		path, what := f.meaning()
		switch {
		case what == 0 && m.index.unnamed(path):
		case what == 0, !m.index.wins(layer, path, what):
			return nil
		case what == aWhiteout && m.index.covered(layer, path):
			return nil // there is nothing that it could delete
		case f.kind == typeLink && s.moved[m.index.key(f.target)] != "":
			return nil
		case f.kind == typeLink && s.homes[f.target]:
			return fmt.Errorf("%w: it has a hard link to a hard link", ErrNotMergeable)
		}
		if what == aWhiteout {
			if needed, err := m.below.Has(path); err != nil || !needed {
				return err
			}
		}
		if what == aFile || what == aDir {
			m.bequests.disown(f)
		}
		if what == aDir {
			m.bequests.note(f)
		}
		if err := f.writeTo(w, content, buf); err != nil {
			return err
		}
		if what == aDir && m.index.opaque(path) {
			marker, err := opaqueMarker(path)
			if err != nil {
				return err
			}
			_, err = w.Write(marker)
			return err
		}
		return nil
	})
}

// move writes the files of a layer whose first name is gone, under the next.
func (m *Merge) move(ctx context.Context, w io.Writer, layer uint8, buf []byte) error {
	s := &m.layers[layer]
	found := 0
	err := s.each(ctx, func(f *member, content io.Reader) error {
		if f.kind != typeLink {
			home := s.moved[m.index.key(f.name)]
			if _, what := f.meaning(); home == "" || what != aFile {
				return nil
			}
			found++
			f.rename(home)
			m.bequests.disown(f)
			return f.writeTo(w, content, buf)
		}
		home := s.moved[m.index.key(f.target)]
		if home == "" || home == f.name || !m.index.wins(layer, f.name, aFile) {
			return nil
		}
		f.retarget(home)
		return f.writeTo(w, content, buf)
	})
	if err == nil && found < len(s.moved) {
		err = fmt.Errorf("%w: it has a hard link to a file that is not in it", ErrNotMergeable)
	}
	return err
}

func (s *source) each(ctx context.Context, do func(*member, io.Reader) error) error {
	content, err := s.Open(ctx)
	if err != nil {
		return err
	}
	defer func() { _ = content.Close() }()
	return each(ctx, content, do)
}

func each(ctx context.Context, r io.Reader, do func(*member, io.Reader) error) error {
	members := newMemberReader(r)
	for {
		if err := ctx.Err(); err != nil {
			return err
		}
		f, err := members.next()
		if errors.Is(err, io.EOF) {
			return nil
		}
		if err != nil {
			return err
		}
		if err := do(f, members); err != nil {
			return err
		}
	}
}

func opaqueMarker(dir string) ([]byte, error) {
	if dir != "" {
		dir += "/"
	}
	var b bytes.Buffer
	w := tar.NewWriter(&b)
	err := w.WriteHeader(&tar.Header{Typeflag: tar.TypeReg, Name: dir + opaqueName, ModTime: time.Unix(0, 0), Format: tar.FormatPAX})
	return b.Bytes(), err
}
