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
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"path"
	goruntime "runtime"
	"slices"
	"sort"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/opencontainers/go-digest"
)

// layerOf writes a layer of entries: "dir/", "file=content", "link->target" (a hard
// link), ".wh.x". An "!" at the end gives a directory or file other attributes.
func layerOf(t *testing.T, entries ...string) []byte {
	t.Helper()
	var b bytes.Buffer
	w := tar.NewWriter(&b)
	for _, e := range entries {
		h := &tar.Header{Typeflag: tar.TypeReg, Mode: 0o644, ModTime: time.Unix(0, 5), Format: tar.FormatPAX}
		e, marked := strings.CutSuffix(e, "!")
		if marked {
			h.Mode = 0o600
			h.PAXRecords = map[string]string{"SCHILY.xattr.user.marked": "a\n=\xff"}
		}
		content := ""
		if name, target, ok := strings.Cut(e, "->"); ok {
			h.Name, h.Linkname, h.Typeflag = name, target, tar.TypeLink
		} else if name, text, ok := strings.Cut(e, "="); ok {
			h.Name, content = name, text
		} else if h.Name = e; strings.HasSuffix(e, "/") {
			h.Typeflag = tar.TypeDir
		}
		h.Size = int64(len(content))
		must(t, w.WriteHeader(h))
		_, err := io.WriteString(w, content)
		must(t, err)
	}
	must(t, w.Close())
	return b.Bytes()
}

func must(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

func inMemory(data []byte) Layer {
	return Layer{DiffID: digest.FromBytes(data), Open: func(context.Context) (io.ReadCloser, error) {
		return io.NopCloser(bytes.NewReader(data)), nil
	}}
}

func merge(t *testing.T, layers ...[]byte) []byte {
	t.Helper()
	merged, err := tryMerge(layers...)
	must(t, err)
	return merged
}

// everything is a Below that has whatever is asked for, nothing one that is empty.
type everything struct{}

func (everything) Has(string) (bool, error) { return true, nil }

type nothing struct{}

func (nothing) Has(string) (bool, error) { return false, nil }

func tryMerge(layers ...[]byte) ([]byte, error) {
	var all []Layer
	for _, l := range layers {
		all = append(all, inMemory(l))
	}
	plan, err := Plan(context.Background(), all, everything{})
	if err != nil {
		return nil, err
	}
	var first, second bytes.Buffer
	if err := plan.Write(context.Background(), &first); err != nil {
		return nil, err
	}
	if err := plan.Write(context.Background(), &second); err != nil {
		return nil, err
	}
	if !bytes.Equal(first.Bytes(), second.Bytes()) {
		return nil, errors.New("a second pass wrote other bytes")
	}
	return first.Bytes(), nil
}

// list reads a layer back into layerOf's notation.
func list(t *testing.T, data []byte) []string {
	t.Helper()
	var all []string
	for r := tar.NewReader(bytes.NewReader(data)); ; {
		h, err := r.Next()
		if errors.Is(err, io.EOF) {
			return all
		}
		must(t, err)
		content, err := io.ReadAll(r)
		must(t, err)
		e := h.Name
		switch {
		case h.Typeflag == tar.TypeLink:
			e += "->" + h.Linkname
		case h.Typeflag == tar.TypeReg && !strings.HasPrefix(path.Base(h.Name), whiteoutPrefix):
			e += "=" + string(content)
		}
		if h.Mode == 0o600 {
			if h.PAXRecords["SCHILY.xattr.user.marked"] != "a\n=\xff" {
				t.Errorf("%s lost its attribute: %q", h.Name, h.PAXRecords)
			}
			e += "!"
		}
		all = append(all, e)
	}
}

func TestMerge(t *testing.T) {
	long := strings.Repeat("d/", 150)
	tests := map[string]struct {
		layers [][]string // the lowest first
		want   []string
	}{
		"one layer": {[][]string{{"./", "a/", "a/f=1!", ".wh.b"}}, []string{"./", "a/", "a/f=1!", ".wh.b"}},
		"the newest wins": {[][]string{{"./", "f=old!", "g=1"}, {"./!", "f=new"}},
			[]string{"./!", "f=new", "g=1"}},
		"a deletion hides and stays": {[][]string{{"a/", "a/f=1", "g=1"}, {".wh.a", ".wh.g"}},
			[]string{".wh.a", ".wh.g"}},
		"a deletion of an older layer stays": {[][]string{{".wh.x", "d/", "d/.wh.y"}, {"d/!", "d/z=1"}},
			[]string{"d/!", "d/z=1", ".wh.x", "d/.wh.y"}},
		"what was deleted and made again": {[][]string{{".wh.f"}, {"f=1"}}, []string{"f=1"}},
		"a directory that was deleted and made again shows nothing of the base": {[][]string{{".wh.d"}, {"d/", "d/f=1"}},
			[]string{"d/", "d/.wh..wh..opq", "d/f=1"}},
		"an opaque directory": {[][]string{{"d/", "d/old=1"}, {"d/", "d/.wh..wh..opq", "d/new=1"}},
			[]string{"d/", "d/.wh..wh..opq", "d/new=1"}},
		"an opaque directory below a newer one": {[][]string{{"d/", "d/older=1"}, {"d/", "d/.wh..wh..opq", "d/old=1"}, {"d/!", "d/new=1"}},
			[]string{"d/!", "d/.wh..wh..opq", "d/new=1", "d/old=1"}},
		"no deletions in what is opaque": {[][]string{{"d/", "d/.wh..wh..opq", "d/x=1"}, {"d/", "d/.wh.x", "d/.wh.y"}},
			[]string{"d/", "d/.wh..wh..opq"}},
		"a file becomes a directory": {[][]string{{"p=1"}, {"p/", "p/.wh..wh..opq", "p/f=1"}},
			[]string{"p/", "p/.wh..wh..opq", "p/f=1"}},
		"and back": {[][]string{{"p/", "p/.wh..wh..opq", "p/f=1"}, {"p=2"}}, []string{"p=2"}},
		"a directory in the place of a file, which nothing says is opaque": {[][]string{{"p=1"}, {"p/", "p/f=1"}},
			[]string{"p/", "p/.wh..wh..opq", "p/f=1"}},
		"between, a layer whose files show": {[][]string{{"d/", "d/hidden=1"}, {"d/", "d/.wh..wh..opq", "d/shown=1"}, {"d/", "d/top=1"}},
			[]string{"d/", "d/.wh..wh..opq", "d/top=1", "d/shown=1"}},
		"the root is opaque": {[][]string{{"./", "a=1"}, {"./", ".wh..wh..opq", "b=1"}, {"./", "c=1"}},
			[]string{"./", ".wh..wh..opq", "c=1", "b=1"}},
		"a marker that comes last": {[][]string{{"./", "a=1"}, {"./", "b=1", ".wh..wh..opq"}},
			[]string{"./", ".wh..wh..opq", "b=1"}},
		"a deletion and a directory in one layer": {[][]string{{"d/", "d/x=1"}, {".wh.d", "d/", "d/y=1"}},
			[]string{"d/", "d/.wh..wh..opq", "d/y=1"}},
		"hard links": {[][]string{{"a=1", "b->a", "c->a"}, {"x=1", "y->x"}},
			[]string{"x=1", "y->x", "a=1", "b->a", "c->a"}},
		"a hard link's first name is replaced": {[][]string{{"a=1!", "b->a!", "d/", "d/c->a!"}, {"a=2"}},
			[]string{"a=2", "d/", "b=1!", "d/c->b!"}},
		"a hard link's first name is deleted": {[][]string{{"a=1", "b->a", "c->a"}, {".wh.a", ".wh.b"}},
			[]string{".wh.a", ".wh.b", "c=1"}},
		"a hard link's first name is in a directory that is gone": {[][]string{{"a/", "a/f=1", "z/", "z/f->a/f"}, {".wh.a"}},
			[]string{".wh.a", "z/", "z/f=1"}},
		"a hard link's further name is gone": {[][]string{{"a=1", "b->a"}, {".wh.b"}}, []string{".wh.b", "a=1"}},
		"two files of hard links":            {[][]string{{"a=1", "b=2", "c->b", "d->a"}, {".wh.a", ".wh.b"}}, []string{".wh.a", ".wh.b", "d=1", "c=2"}},
		"a moved hard link with a long name": {[][]string{{"a=1", long + "f->a"}, {".wh.a"}}, []string{".wh.a", long + "f=1"}},
	}
	for name, test := range tests {
		t.Run(name, func(t *testing.T) {
			var layers [][]byte
			for _, l := range test.layers {
				layers = append(layers, layerOf(t, l...))
			}
			got := list(t, merge(t, layers...))
			sort.Strings(got)
			want := slices.Sorted(slices.Values(test.want))
			// A moved link is written in the order of its content.
			if diff := cmp.Diff(want, got); diff != "" {
				t.Errorf("entries (-want +got):\n%s", diff)
			}
		})
	}
}

// TestDeletionsOfNothing has only the first directory below.
func TestDeletionsOfNothing(t *testing.T) {
	plan, err := Plan(context.Background(), []Layer{inMemory(layerOf(t, "d/", ".wh.x", "d/f=1")), inMemory(layerOf(t, "d/", "d/.wh.f"))}, nothing{})
	must(t, err)
	var b bytes.Buffer
	must(t, plan.Write(context.Background(), &b))
	if diff := cmp.Diff([]string{"d/"}, list(t, b.Bytes())); diff != "" {
		t.Errorf("entries (-want +got):\n%s", diff)
	}
}

// TestOrder is what appliers rely on: a directory before what is in it, the target
// of a link before the link.
func TestOrder(t *testing.T) {
	got := list(t, merge(t,
		layerOf(t, "./", "a/", "a/f=1", "a/g->a/f", "z/", "z/y/", "z/y/f->a/f"),
		layerOf(t, "./", "a/", "a/.wh.f", "q/", "q/x=1"),
		layerOf(t, "./!", "z/!", "z/new=1"),
	))
	want := []string{"./!", "z/!", "z/new=1", "a/", "a/.wh.f", "q/", "q/x=1", "z/y/", "a/g=1", "z/y/f->a/g"}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("entries (-want +got):\n%s", diff)
	}
}

// TestBytes is that members pass as they were written, whatever they say.
func TestBytes(t *testing.T) {
	var b bytes.Buffer
	w := tar.NewWriter(&b)
	for _, h := range []*tar.Header{
		{Typeflag: tar.TypeDir, Name: "./", Mode: 0o755},
		{Typeflag: tar.TypeReg, Name: strings.Repeat("n\n\xff", 90), Size: 1000, Uid: 4000000000, ModTime: time.Unix(-5, 7), PAXRecords: map[string]string{"SCHILY.xattr.security.capability": "\x00\x01=\n", "VENDOR.unknown": "kept", "SCHILY.xattr.user.empty": ""}},
		{Typeflag: tar.TypeSymlink, Name: "s", Linkname: strings.Repeat("x", 4000)},
		{Typeflag: tar.TypeFifo, Name: "fifo", Mode: 0o1600},
		{Typeflag: tar.TypeBlock, Name: "block", Devmajor: 7, Devminor: 300},
		{Typeflag: tar.TypeChar, Name: "char", Devmajor: 1, Devminor: 3},
	} {
		h.Format = tar.FormatPAX
		must(t, w.WriteHeader(h))
		_, err := w.Write(make([]byte, h.Size))
		must(t, err)
	}
	must(t, w.Close())
	if got := merge(t, b.Bytes()); !bytes.Equal(got, b.Bytes()) {
		t.Errorf("%d bytes became %d others", b.Len(), len(got))
	}
	// Nor does a layer above change those that it leaves.
	rest := b.Bytes()[512+2*512:] // without the root, which has a PAX header
	if got := merge(t, b.Bytes(), layerOf(t, "./!")); !bytes.HasSuffix(got, rest[len(rest)-2048:]) {
		t.Error("members were changed by a layer above them")
	}
}

// TestSparse has a file as GNU tar writes it with --sparse --format=pax: the map of
// its data stands before the data.
func TestSparse(t *testing.T) {
	sparse := func(name string) []byte {
		m := &member{kind: typeFile, header: make([]byte, blockSize)}
		copy(m.header, "GNUSparseFile.0/x")
		copy(m.header[100:], "0000644\x000000000\x000000000\x00")
		copy(m.header[136:], "00000000000\x00")
		m.header[156] = typeFile
		copy(m.header[257:], "ustar\x0000")
		content := make([]byte, 512+4)
		copy(content, "1\n1048576\n4\n")
		copy(content[512:], "data")
		setNumber(m.header[124:136], int64(len(content)))
		setChecksum(m.header)
		m.stored = int64(len(content))
		for _, r := range []record{{"GNU.sparse.major", "1"}, {"GNU.sparse.minor", "0"}, {paxSparseName, name}, {"GNU.sparse.realsize", "2097152"}} {
			m.set(r.key, r.value)
		}
		var b bytes.Buffer
		must(t, m.writeTo(&b, bytes.NewReader(content), make([]byte, 512)))
		return b.Bytes()
	}
	want := make([]byte, 2<<20)
	copy(want[1<<20:], "data")
	layer := slices.Concat(sparse("dir/holes"), layerOf(t, "dir/also->dir/holes", "g=1"))
	for _, test := range []struct {
		above []string
		name  string
	}{{nil, "dir/holes"}, {[]string{"dir/", "dir/.wh.holes"}, "dir/also"}} {
		merged := merge(t, layer, layerOf(t, test.above...))
		if len(merged) > 16<<10 {
			t.Errorf("the holes were filled: %d bytes", len(merged))
		}
		for r := tar.NewReader(bytes.NewReader(merged)); ; {
			h, err := r.Next()
			must(t, err)
			if h.Name == test.name && h.Typeflag == tar.TypeReg {
				content, err := io.ReadAll(r)
				must(t, err)
				if !bytes.Equal(content, want) {
					t.Errorf("%s has other content", h.Name)
				}
				break
			}
		}
	}
}

func TestRefusals(t *testing.T) {
	good := layerOf(t, "f="+strings.Repeat("x", 5000))
	foreign := func(kind byte) []byte {
		b := layerOf(t, "f=1")
		block := b[len(b)-1024-2*512:][:512]
		block[156] = kind
		setChecksum(block)
		return b
	}
	tests := map[string]struct {
		layer []byte
		want  error
	}{
		"a truncated file":                  {good[:4096], io.ErrUnexpectedEOF},
		"a truncated header":                {good[:700], io.ErrUnexpectedEOF},
		"a GNU long name":                   {foreign('L'), ErrNotMergeable},
		"a global header":                   {foreign('g'), ErrNotMergeable},
		"a header that is none":             {bytes.Repeat([]byte("0"), 2048), ErrNotMergeable},
		"a link to what is not there":       {layerOf(t, "x->y"), ErrNotMergeable},
		"a link to a link that has to move": {layerOf(t, "a=1", "b->a", "c->b"), ErrNotMergeable},
	}
	for name, test := range tests {
		t.Run(name, func(t *testing.T) {
			if _, err := tryMerge(test.layer, layerOf(t, ".wh.a")); !errors.Is(err, test.want) {
				t.Errorf("got %v, want %v", err, test.want)
			}
		})
	}
	wrong := inMemory(good)
	wrong.DiffID = digest.FromString("something else")
	if _, err := Plan(context.Background(), []Layer{wrong}, everything{}); !errors.Is(err, ErrNotMergeable) {
		t.Errorf("another digest: %v", err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	cancel()
	if _, err := Plan(ctx, []Layer{inMemory(good)}, everything{}); !errors.Is(err, context.Canceled) {
		t.Errorf("cancelled: %v", err)
	}
}

// TestRandomTrees compares, for trees that change at random, all layers one after the
// other with some of them merged.
func TestRandomTrees(t *testing.T) {
	const seeds, steps = 150, 8
	for seed := range uint64(seeds) {
		w := newWorld(t, seed)
		var layers [][]byte
		for range steps {
			layers = append(layers, w.layer())
		}
		from := w.random.IntN(steps)
		to := from + 1 + w.random.IntN(steps-from)
		merged := merge(t, layers[from:to]...)
		// Merged once more, with what was merged already.
		again := merge(t, append([][]byte{merged}, layers[to:]...)...)
		want := apply(t, w.base, layers...)
		for what, got := range map[string]map[string]string{
			fmt.Sprintf("%d to %d merged", from, to): apply(t, w.base, slices.Concat(layers[:from], [][]byte{merged}, layers[to:])...),
			"and merged again":                       apply(t, w.base, slices.Concat(layers[:from], [][]byte{again})...),
			"all merged":                             apply(t, w.base, merge(t, layers...)),
			"merged with what lies below being read": apply(t, w.base, slices.Concat(layers[:from], [][]byte{mergeOn(t, slices.Concat([][]byte{w.base}, layers[:from]), layers[from:to])}, layers[to:])...),
		} {
			if diff := cmp.Diff(want, got); diff != "" {
				t.Fatalf("seed %d, %s (-want +got):\n%s", seed, what, diff)
			}
		}
		if seed == 0 && len(want) < 3 {
			t.Errorf("the trees are too small to prove anything: %v", want)
		}
	}
}

// node is a file or directory of a world.
type node struct {
	dir     bool
	content string
	since   int // the layer that it is from
}

// world is a file system that changes as one on an overlay does: the layers that it
// writes are what the kernel would have in the upper directory.
type world struct {
	t      *testing.T
	random *rand.Rand
	base   []byte
	now    int
	nodes  map[string]*node
	below  map[string]*node // what the layers before this one made of it
}

func newWorld(t *testing.T, seed uint64) *world {
	w := &world{t: t, random: rand.New(rand.NewPCG(seed, 1)), nodes: map[string]*node{"": {dir: true}}}
	for range 12 {
		w.change()
	}
	w.base = w.upper()
	return w
}

func (w *world) layer() []byte {
	w.below = map[string]*node{}
	for p, n := range w.nodes {
		w.below[p] = n
	}
	w.now++
	for range 1 + w.random.IntN(6) {
		w.change()
	}
	return w.upper()
}

func (w *world) path() string {
	var parts []string
	for range 1 + w.random.IntN(3) {
		parts = append(parts, string(rune('a'+w.random.IntN(3))))
	}
	return strings.Join(parts, "/")
}

// change does one thing, if it can be done.
func (w *world) change() {
	p := w.path()
	parent := w.nodes[strings.TrimSuffix(path.Dir(p), ".")]
	if parent == nil || !parent.dir {
		return
	}
	n := w.nodes[p]
	switch w.random.IntN(6) {
	case 0, 1:
		if n == nil {
			w.nodes[p] = &node{dir: true, since: w.now}
		}
	case 2, 3:
		switch {
		case n == nil:
			w.nodes[p] = &node{content: fmt.Sprint(w.random.IntN(1000)), since: w.now}
		case !n.dir && n.since == w.now:
			n.content = fmt.Sprint(w.random.IntN(1000)) // through all its names
		case !n.dir:
			w.nodes[p] = &node{content: fmt.Sprint(w.random.IntN(1000)), since: w.now} // copied up
		}
	case 4:
		for at := range w.nodes {
			if at == p || strings.HasPrefix(at, p+"/") {
				delete(w.nodes, at)
			}
		}
	case 5:
		for _, other := range slices.Sorted(keys(w.nodes)) {
			if target := w.nodes[other]; n == nil && !target.dir && w.random.IntN(3) == 0 {
				if target.since != w.now { // copied up
					target = &node{content: target.content, since: w.now}
					w.nodes[other] = target
				}
				w.nodes[p] = target
				return
			}
		}
	}
}

func keys(m map[string]*node) func(func(string) bool) {
	return func(yield func(string) bool) {
		for k := range m {
			if !yield(k) {
				return
			}
		}
	}
}

// upper is the layer of what changed.
func (w *world) upper() []byte {
	entries := map[string][]string{"": {"./"}} // by path, for their order
	need := func(p string) {
		for p = strings.TrimSuffix(path.Dir(p), "."); p != ""; p = strings.TrimSuffix(path.Dir(p), ".") {
			if entries[p] == nil {
				entries[p] = []string{p + "/"}
			}
		}
	}
	first := map[*node]string{}
	for _, p := range slices.Sorted(keys(w.nodes)) {
		n := w.nodes[p]
		if p == "" || n.since != w.now || w.below[p] == n {
			continue
		}
		need(p)
		switch {
		case n.dir:
			entries[p] = []string{p + "/"}
			// As after mkdir where something was; where nothing was, the kernel marks it at times.
			if w.below[p] != nil || w.random.IntN(2) == 0 {
				entries[p] = append(entries[p], p+"/"+opaqueName)
			}
		case first[n] != "":
			entries[p] = []string{p + "->" + first[n]}
		default:
			first[n] = p
			entries[p] = []string{p + "=" + n.content}
		}
	}
	for p := range w.below {
		parent := strings.TrimSuffix(path.Dir(p), ".")
		if w.nodes[p] == nil && w.nodes[parent] != nil && w.nodes[parent] == w.below[parent] {
			need(p)
			entries[p] = []string{path.Join(parent, whiteoutPrefix+path.Base(p))}
		}
	}
	var all []string
	paths := make([]string, 0, len(entries))
	for p := range entries {
		paths = append(paths, p)
	}
	slices.SortFunc(paths, func(a, b string) int { return strings.Compare(a+"/", b+"/") })
	for _, p := range paths {
		all = append(all, entries[p]...)
	}
	return layerOf(w.t, all...)
}

// apply is what the layers make of each other, as paths and what is there. Names of one
// file say so.
func apply(t *testing.T, base []byte, layers ...[]byte) map[string]string {
	t.Helper()
	type file struct{ text string }
	tree := map[string]*file{}
	remove := func(under string, itself bool) {
		for p := range tree {
			if itself && p == under || strings.HasPrefix(p, under+"/") || under == "" {
				delete(tree, p)
			}
		}
	}
	for _, layer := range append([][]byte{base}, layers...) {
		entries := list(t, layer)
		for _, e := range entries { // deletions are of what lies below
			if dir, name := path.Split(e); name == opaqueName {
				remove(strings.TrimSuffix(dir, "/"), false)
			} else if name, ok := strings.CutPrefix(name, whiteoutPrefix); ok {
				remove(dir+name, true)
			}
		}
		for _, e := range entries {
			if strings.HasPrefix(path.Base(e), whiteoutPrefix) {
				continue
			}
			if dir, ok := strings.CutSuffix(strings.TrimSuffix(e, "!"), "/"); ok {
				if old := tree[dir]; old == nil || old.text != "dir" {
					remove(dir, true)
				}
				tree[dir] = &file{"dir"}
			} else if name, target, ok := strings.Cut(e, "->"); ok {
				remove(name, true)
				if tree[target] == nil {
					t.Fatalf("%s comes before its target", e)
				}
				tree[name] = tree[target]
			} else {
				name, content, _ := strings.Cut(e, "=")
				remove(name, true)
				tree[name] = &file{"file " + content}
			}
			at, _, _ := strings.Cut(e, "->")
			for p := path.Dir(strings.TrimSuffix(strings.TrimSuffix(at, "!"), "/")); p != "." && p != "/"; p = path.Dir(p) {
				if parent := tree[strings.TrimSuffix(p, "/")]; parent == nil {
					t.Fatalf("%s comes before its directory", e)
				}
			}
		}
	}
	said := map[string]string{}
	names := map[*file][]string{}
	for p, f := range tree {
		names[f] = append(names[f], p)
	}
	for p, f := range tree {
		sort.Strings(names[f])
		said[p] = fmt.Sprint(f.text, " ", names[f])
	}
	return said
}

// TestTooManyPaths says how many of the newest layers can be merged alone.
func TestTooManyPaths(t *testing.T) {
	most := MaxPaths
	defer func() { MaxPaths = most }()
	MaxPaths = 12
	few := func(name string) Layer { return inMemory(layerOf(t, "d/", "d/"+name+"=1", "d/.wh."+name+"x")) }
	var entries []string
	for i := range 20 {
		entries = append(entries, fmt.Sprintf("%d=1", i))
	}
	many := inMemory(layerOf(t, entries...))
	for _, test := range []struct {
		name   string
		layers []Layer // the lowest first
		fits   int     // all where it is 0
	}{
		{"all fit", []Layer{few("a"), few("b"), few("c")}, 0},
		{"the same paths in each", []Layer{few("a"), few("a"), few("a"), few("a"), few("a"), few("a")}, 0},
		{"the lowest is large", []Layer{many, few("a"), few("b")}, 2},
		{"one between", []Layer{few("a"), many, few("b")}, 1},
		{"the topmost", []Layer{few("a"), many}, 0 - 1},
	} {
		t.Run(test.name, func(t *testing.T) {
			_, err := Plan(t.Context(), test.layers, everything{})
			large := (*TooLargeError)(nil)
			if errors.As(err, &large) != (test.fits != 0) || err != nil && !errors.Is(err, ErrNotMergeable) {
				t.Fatalf("got %v", err)
			}
			if large != nil && large.Fits != max(test.fits, 0) {
				t.Errorf("%d fit, want %d", large.Fits, max(test.fits, 0))
			}
		})
	}
}

// TestMemoryOfPaths is what as many paths take as are merged at most.
func TestMemoryOfPaths(t *testing.T) {
	var before, after goruntime.MemStats
	goruntime.GC()
	goruntime.ReadMemStats(&before)
	x := newIndex()
	for i := range MaxPaths {
		x.add(0, fmt.Sprintf("some/directory/%d", i), aFile)
	}
	goruntime.GC()
	goruntime.ReadMemStats(&after)
	if took := int64(after.HeapAlloc-before.HeapAlloc) >> 20; took > 64 {
		t.Errorf("%d paths take %d MiB", len(x.places), took)
	} else {
		t.Logf("%d paths take %d MiB", len(x.places), took)
	}
}
