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
	"encoding/binary"
	"hash/maphash"
	"strings"
)

// What a layer says of a path.
type says uint8

const (
	aFile     says = iota + 1 // anything but a directory
	aDir                      // a directory
	aWhiteout                 // that it is deleted
)

const none = 255 // no layer

// place is what is known of one path. Layers are numbered from the newest, 0, to
// older ones, for that is the order in which they are looked at.
type place struct {
	says says
	// from is the layer that this comes from, the newest that mentions the path.
	from uint8
	// closed is the layer from which on everything older is hidden, below the path
	// and at it; none where nothing is.
	closed uint8
	// made is whether the oldest layer that mentions the path has something there. What
	// is deleted without that lies below.
	made bool
	// found is whether the layers below show something at the path, and hidden the one
	// of them from which on older ones show nothing there and below it. They are numbered
	// as the layers are.
	found  bool
	hidden uint8
}

var unmentioned = place{closed: none, hidden: none}

// asked is whether it has to be looked for in the layers below.
func (p place) asked() bool { return p.says == aWhiteout && p.made }

// key stands for a path: 128 bits of a hash that nobody can predict. The paths
// of a million files would take several times the memory.
type key [16]byte

// index is what the layers together say of each path.
type index struct {
	seeds  [2]maphash.Seed
	places map[key]place
	last   lastAbove
}

func newIndex() *index {
	x := &index{seeds: [2]maphash.Seed{maphash.MakeSeed(), maphash.MakeSeed()}, places: map[key]place{}}
	x.places[x.key("")] = unmentioned // not every layer names the root
	return x
}

func (x *index) key(path string) key {
	var k key
	for i, seed := range x.seeds {
		binary.NativeEndian.PutUint64(k[8*i:], maphash.String(seed, path))
	}
	return k
}

// add notes what a layer says of a path. All of a newer layer has to be added
// before anything of an older one; within a layer the order does not matter.
func (x *index) add(layer uint8, path string, what says) {
	if x.hides(layer, path) {
		return
	}
	k := x.key(path)
	p, known := x.places[k]
	if !known {
		p = unmentioned
	}
	p.made = what != aWhiteout
	switch {
	case p.says == 0:
		// The first to mention it, but for an opaque marker that came before.
		p.says, p.from = what, layer
		if what != aDir {
			p.closed = layer
		}
	case p.from == layer && p.says == aWhiteout:
		// A deletion speaks of the layers below, what stands beside it of this one: a
		// directory then shows nothing of theirs.
		p.says = what
	case what != aDir:
		// Below a directory of a newer layer: what lies deeper does not show through.
		// Below anything else it is hidden already.
		p.closed = min(p.closed, layer)
	}
	x.places[k] = p
}

// addOpaque notes that in a layer the directory hides what older ones have in it.
func (x *index) addOpaque(layer uint8, path string) {
	if x.hides(layer, path) {
		return
	}
	k := x.key(path)
	p, known := x.places[k]
	if !known {
		p = unmentioned
	}
	p.closed = min(p.closed, layer)
	x.places[k] = p
}

// hides is whether a directory above the path hides what the layer has there.
func (x *index) hides(layer uint8, path string) bool { return x.closedAbove(layer, path) < layer }

// covered is whether a directory above the path hides all that lies below the
// merged layer. It may be asked when all layers were added.
func (x *index) covered(layer uint8, path string) bool { return x.closedAbove(layer, path) != none }

// closedAbove is the newest layer from which on a directory above the path hides
// older ones. What comes one after the other mostly lies in one directory, whose
// answer is kept: what the layer itself adds meanwhile hides only older ones.
func (x *index) closedAbove(layer uint8, path string) uint8 {
	if path == "" {
		return none
	}
	parent := above(path)
	if x.last.known && x.last.layer == layer && x.last.parent == parent {
		return x.last.closed
	}
	closed := uint8(none)
	look := func(dir string) {
		if p, ok := x.places[x.key(dir)]; ok {
			closed = min(closed, p.closed)
		}
	}
	look("")
	for at := 0; at < len(parent); at++ {
		if parent[at] == '/' {
			look(parent[:at])
		}
	}
	if parent != "" {
		look(parent)
	}
	x.last = lastAbove{layer: layer, parent: parent, closed: closed, known: true}
	return closed
}

type lastAbove struct {
	layer, closed uint8
	parent        string
	known         bool
}

// wins is whether the merged layer has the path as this layer has it.
func (x *index) wins(layer uint8, path string, what says) bool {
	p, ok := x.places[x.key(path)]
	return ok && p.says == what && p.from == layer && !x.hides(layer, path)
}

// unnamed is whether no layer has the directory itself, only that it is opaque.
func (x *index) unnamed(path string) bool {
	p, ok := x.places[x.key(path)]
	return ok && p.says == 0
}

// opaque is whether the merged layer's directory hides what is below it.
func (x *index) opaque(path string) bool {
	p, ok := x.places[x.key(path)]
	return ok && p.says == aDir && p.closed != none
}

// above is the directory that the path is in.
func above(path string) string { return path[:max(strings.LastIndexByte(path, '/'), 0)] }
