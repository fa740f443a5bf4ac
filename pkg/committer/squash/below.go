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

package squash

import (
	"archive/tar"
	"bufio"
	"context"
	"errors"
	"fmt"
	"hash/maphash"
	"io"
	"strings"
)

// PlanOnLayers is Plan where no directories hold what lies below. It reads the layers
// there, whoever made them, but for nothing that it knows without them: a path that is
// deleted, and that none of the older layers has made, lies below, or there had been
// nothing to delete.
//
// They are read from the newest on, until all that is asked for is found. That something
// is not there is said only when every one of them was read to its end and is what its
// digest says: then nothing that was deleted can come back. What is found in a layer that
// is not read to its end is not verified. If that were wrong, a deletion of nothing would
// be left, whose name an overlay lists in a directory that no layer below has.
func PlanOnLayers(ctx context.Context, layers, lower []Layer) (*Merge, error) {
	below := &lowerLayers{}
	m, err := Plan(ctx, layers, below)
	if err != nil {
		return nil, err
	}
	below.index = m.index
	if err := below.read(ctx, lower); err != nil {
		return nil, err
	}
	return m, nil
}

// lowerLayers are a Below that is read before anything is asked. What they say is kept in
// the index, in the places of the paths that are asked for and of the directories above
// those: it grows with what is merged, never with what lies below.
type lowerLayers struct {
	*index
	left int // how many paths were not found yet
	// unsure is whether a layer has something in a directory that it does not name. The
	// unpacker goes there by what older layers have in that place, a symbolic link
	// perhaps: it may be any of the paths.
	unsure bool
}

func (b *lowerLayers) Has(path string) (bool, error) {
	p := b.places[b.key(path)]
	return b.unsure || p.found || !p.made, nil
}

func (b *lowerLayers) read(ctx context.Context, lower []Layer) error {
	if len(lower) > MaxLayers {
		return fmt.Errorf("%w: there are %d layers below", ErrNotMergeable, len(lower))
	}
	for _, p := range b.places {
		if p.asked() {
			b.left++
		}
	}
	named := newNamedDirs()
	for i := 0; i < len(lower) && b.left > 0 && !b.unsure; i++ {
		l := lower[len(lower)-1-i]
		if err := b.readLayer(ctx, uint8(i), l, named); err != nil { //nolint:gosec // bounded above
			return fmt.Errorf("layer %s, below: %w", l.DiffID, err)
		}
		named.forget()
	}
	return nil
}

func (b *lowerLayers) readLayer(ctx context.Context, layer uint8, l Layer, named *namedDirs) error {
	if err := l.DiffID.Validate(); err != nil {
		return fmt.Errorf("%w: %w", ErrNotMergeable, err)
	}
	content, err := l.Open(ctx)
	if err != nil {
		return err
	}
	defer func() { _ = content.Close() }()
	verifier := l.DiffID.Verifier()
	all := bufio.NewReaderSize(io.TeeReader(content, verifier), 256<<10)
	for archive := tar.NewReader(all); b.left > 0 && !b.unsure; {
		if err := ctx.Err(); err != nil {
			return err
		}
		h, err := archive.Next()
		if errors.Is(err, io.EOF) {
			return verify(all, verifier)
		}
		if err != nil {
			return err
		}
		name := clean(h.Name)
		path, what := meaning(name, h.Typeflag == tar.TypeDir)
		if h.Typeflag == tar.TypeXGlobalHeader || path == "" && what != 0 {
			continue // it is of no file, or of the root, which is always there
		}
		if b.addBelow(layer, path, what) {
			b.left--
		}
		b.unsure = !named.has(above(name))
		if what == aDir {
			named.add(path)
		}
	}
	return nil
}

// addBelow notes what a layer below says of a path, 0 that it is an opaque directory, and
// returns whether it was looked for. All of a newer layer has to be added before anything
// of an older one. Within a layer what deletes and what stands there do not meet.
func (x *index) addBelow(layer uint8, path string, what says) (found bool) {
	k := x.key(path)
	p, ok := x.places[k]
	if !ok {
		return false
	}
	if there := what == aFile || what == aDir; there && p.asked() && !p.found && x.showsBelow(layer, path) {
		p.found, found = true, true
	}
	if what != aDir {
		p.hidden = min(p.hidden, layer)
	}
	x.places[k] = p
	return found
}

// showsBelow is whether nothing in the newer ones of the layers below hides what this one
// has at the path.
func (x *index) showsBelow(layer uint8, path string) bool {
	for at := path; ; at = above(at) {
		if p, ok := x.places[x.key(at)]; ok && p.hidden < layer {
			return false
		}
		if at == "" {
			return true
		}
	}
}

// namedDirs are directories that a layer names. The last one and those above it are known
// however many there are, for that is the order that archives are mostly written in: what
// comes next is in one of them. Of the others the last to be named are.
type namedDirs struct {
	last   string
	seed   maphash.Seed
	hashes [1 << 16]uint64 // by their uppermost bits
}

func newNamedDirs() *namedDirs { return &namedDirs{seed: maphash.MakeSeed()} }

func (n *namedDirs) add(path string) {
	h := maphash.String(n.seed, path)
	n.last, n.hashes[h>>48] = path, h
}

func (n *namedDirs) has(path string) bool {
	if path == "" || path == n.last || len(path) < len(n.last) && n.last[len(path)] == '/' && strings.HasPrefix(n.last, path) {
		return true
	}
	h := maphash.String(n.seed, path)
	return n.hashes[h>>48] == h
}

func (n *namedDirs) forget() {
	n.last = ""
	clear(n.hashes[:])
}
