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
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"path"
	"runtime"
	"slices"
	"strings"
	"testing"

	"github.com/opencontainers/go-digest"
)

// deletion is a layer that makes path and the directories above it, and one that deletes
// it again: whether it is below has to be looked for.
func deletion(t *testing.T, paths ...string) []Layer {
	t.Helper()
	var makes, deletes []string
	for _, p := range paths {
		for dir := above(p); dir != ""; dir = above(dir) {
			makes, deletes = append([]string{dir + "/"}, makes...), append([]string{dir + "/"}, deletes...)
		}
		makes, deletes = append(makes, p+"=1"), append(deletes, path.Join(above(p), whiteoutPrefix+path.Base(p)))
	}
	return []Layer{inMemory(layerOf(t, makes...)), inMemory(layerOf(t, deletes...))}
}

func layersOf(t *testing.T, layers [][]string) []Layer {
	t.Helper()
	var all []Layer
	for _, l := range layers {
		all = append(all, inMemory(layerOf(t, l...)))
	}
	return all
}

func TestWhatLiesBelow(t *testing.T) {
	const f = "a/b/f" // which is asked for
	tests := map[string]struct {
		lower [][]string // the lowest first
		want  bool
	}{
		"no layers":                               {nil, false},
		"a layer without it":                      {[][]string{{"a/", "a/b/", "a/b/g=1"}}, false},
		"its directory":                           {[][]string{{"a/", "a/b/"}}, false},
		"a file":                                  {[][]string{{"a/", "a/b/", "a/b/f=1"}}, true},
		"a directory":                             {[][]string{{"a/", "a/b/", "a/b/f/"}}, true},
		"a hard link":                             {[][]string{{"x=1", "a/", "a/b/", "a/b/f->x"}}, true},
		"in the lowest layer":                     {[][]string{{"a/", "a/b/", "a/b/f=1"}, {"a/"}, {"g=1"}}, true},
		"in the topmost layer":                    {[][]string{{"a/"}, {"a/", "a/b/", "a/b/f=1"}}, true},
		"deleted":                                 {[][]string{{"a/", "a/b/", "a/b/f=1"}, {"a/", "a/b/", "a/b/.wh.f"}}, false},
		"deleted and made again":                  {[][]string{{"a/", "a/b/", "a/b/f=1"}, {"a/", "a/b/", "a/b/.wh.f"}, {"a/", "a/b/", "a/b/f=1"}}, true},
		"deleted in the layer that has it":        {[][]string{{"a/", "a/b/", "a/b/f=1", "a/b/.wh.f"}}, true},
		"the same the other way round":            {[][]string{{"a/", "a/b/", "a/b/.wh.f", "a/b/f=1"}}, true},
		"something else is deleted":               {[][]string{{"a/", "a/b/", "a/b/f=1"}, {"a/", "a/b/", "a/b/.wh.g", "a/b/.wh.ff"}}, true},
		"its directory is deleted":                {[][]string{{"a/", "a/b/", "a/b/f=1"}, {"a/", "a/.wh.b"}}, false},
		"the directory above is deleted":          {[][]string{{"a/", "a/b/", "a/b/f=1"}, {".wh.a"}}, false},
		"and made again without it":               {[][]string{{"a/", "a/b/", "a/b/f=1"}, {".wh.a"}, {"a/", "a/b/"}}, false},
		"and made again with it":                  {[][]string{{"a/", "a/b/", "a/b/f=1"}, {".wh.a"}, {"a/", "a/b/", "a/b/f=1"}}, true},
		"deleted and made again in one layer":     {[][]string{{"a/", "a/b/", "a/b/f=1"}, {".wh.a", "a/", "a/b/"}}, false},
		"made again in one layer, with it":        {[][]string{{"a/"}, {".wh.a", "a/", "a/b/", "a/b/f=1"}}, true},
		"its directory is opaque":                 {[][]string{{"a/", "a/b/", "a/b/f=1"}, {"a/", "a/b/", "a/b/.wh..wh..opq"}}, false},
		"the directory above is opaque":           {[][]string{{"a/", "a/b/", "a/b/f=1"}, {"a/", "a/.wh..wh..opq"}}, false},
		"the root is opaque":                      {[][]string{{"a/", "a/b/", "a/b/f=1"}, {".wh..wh..opq"}}, false},
		"in an opaque directory":                  {[][]string{{"a/"}, {"a/", "a/b/", "a/b/f=1", "a/b/.wh..wh..opq"}}, true},
		"another directory is opaque":             {[][]string{{"a/", "a/b/", "a/b/f=1"}, {"a/", "a/c/", "a/c/.wh..wh..opq"}}, true},
		"itself is opaque":                        {[][]string{{"a/", "a/b/", "a/b/f=1"}, {"a/", "a/b/", "a/b/f/", "a/b/f/.wh..wh..opq"}}, true},
		"its directory becomes a file":            {[][]string{{"a/", "a/b/", "a/b/f=1"}, {"a/", "a/b=1"}}, false},
		"its directory becomes a hard link":       {[][]string{{"a/", "a/b/", "a/b/f=1"}, {"x=1", "a/", "a/b->x"}}, false},
		"a file becomes its directory":            {[][]string{{"a/", "a/b=1"}, {"a/", "a/b/", "a/b/f=1"}}, true},
		"a file becomes its directory, without":   {[][]string{{"a/", "a/b=1"}, {"a/", "a/b/"}}, false},
		"the directory becomes a file, and again": {[][]string{{"a/", "a/b/", "a/b/f=1"}, {"a=1"}, {"a/", "a/b/"}}, false},
		"spelled from here":                       {[][]string{{"./", "./a/", "./a/b/", "./a/b/f=1"}}, true},
		"spelled from the root":                   {[][]string{{"/", "/a/", "/a/b/", "/a/b/f=1"}}, true},
		"spelled with detours":                    {[][]string{{"a//", "a/./b/", "../a/x/../b/f=1"}}, true},
		"a deletion of nothing at all":            {[][]string{{"a/", "a/b/", "a/b/f=1"}, {".wh.", "./"}}, true},
		"names that Docker left in old layers":    {[][]string{{"a/", "a/b/", "a/b/f=1"}, {".wh..wh.plnk/", ".wh..wh.plnk/1.2=1", ".wh..wh.aufs=1"}}, true},
		"a directory that is not named":           {[][]string{{"usr/", "usr/x=1"}, {"a/g=1"}}, true}, // it may be a link to a/b
		"a directory that is named too late":      {[][]string{{"c/g=1", "c/"}}, true},
		"a directory that another layer names":    {[][]string{{"c/"}, {"c/g=1"}}, true},
		"a directory that is named first":         {[][]string{{"c/", "c/d/", "c-d/", "c-d/g=1", "c/d/g=1", "c/g=1"}}, false},
		"one that begins as the last one":         {[][]string{{"c/", "c/dd/", "c/d/g=1"}}, true},
	}
	for name, test := range tests {
		t.Run(name, func(t *testing.T) {
			m, err := PlanOnLayers(context.Background(), deletion(t, f), layersOf(t, test.lower))
			must(t, err)
			got, err := m.below.Has(f)
			must(t, err)
			if got != test.want {
				t.Errorf("it is there: %v, want %v", got, test.want)
			}
			var b bytes.Buffer
			must(t, m.Write(context.Background(), &b))
			if kept := slices.Contains(list(t, b.Bytes()), "a/b/.wh.f"); kept != test.want {
				t.Errorf("the deletion is left: %v, want %v", kept, test.want)
			}
		})
	}
}

// TestALinkAboveIsNoDirectory has a symbolic link in the place of the directory.
func TestALinkAboveIsNoDirectory(t *testing.T) {
	link := archiveOf(t, tar.FormatPAX, tar.Header{Typeflag: tar.TypeSymlink, Name: "a", Linkname: "elsewhere"})
	m, err := PlanOnLayers(context.Background(), deletion(t, "a/f"), []Layer{inMemory(layerOf(t, "a/", "a/f=1")), inMemory(link)})
	must(t, err)
	if there, _ := m.below.Has("a/f"); there {
		t.Error("it shows through the link")
	}
}

// TestFormatsBelow has a file with a name that is long and not ASCII, in each format that
// there is.
func TestFormatsBelow(t *testing.T) {
	dir := strings.Repeat("d", 60) + "/" + strings.Repeat("e", 60)
	for name, format := range map[string]tar.Format{"ustar": tar.FormatUSTAR, "PAX": tar.FormatPAX, "GNU": tar.FormatGNU} {
		f := dir + "/" + strings.Repeat("f", 60)
		if format != tar.FormatUSTAR {
			f = dir + "/" + strings.Repeat("ü\n", 70)
		}
		global := []tar.Header{{Typeflag: tar.TypeXGlobalHeader, Name: "pax_global_header", PAXRecords: map[string]string{"comment": "x"}}}
		if format != tar.FormatPAX {
			global = nil
		}
		layer := archiveOf(t, format, append(global,
			tar.Header{Typeflag: tar.TypeDir, Name: path.Dir(dir) + "/"}, tar.Header{Typeflag: tar.TypeDir, Name: dir + "/"},
			tar.Header{Typeflag: tar.TypeReg, Name: dir + "/before", Size: 5000}, tar.Header{Typeflag: tar.TypeReg, Name: f, Size: 3})...)
		m, err := PlanOnLayers(context.Background(), deletion(t, f, "not/there"), []Layer{inMemory(layer)})
		must(t, err)
		if there, _ := m.below.Has(f); !there {
			t.Errorf("%s: it is not found", name)
		}
		if there, _ := m.below.Has("not/there"); there {
			t.Errorf("%s: what is not there is found", name)
		}
	}
}

func archiveOf(t *testing.T, format tar.Format, headers ...tar.Header) []byte {
	t.Helper()
	var b bytes.Buffer
	w := tar.NewWriter(&b)
	for _, h := range headers {
		h.Format = format
		must(t, w.WriteHeader(&h))
		_, err := w.Write(make([]byte, h.Size))
		must(t, err)
	}
	must(t, w.Close())
	return b.Bytes()
}

// TestOnlyWhatIsNeededIsRead counts what is read of the layers below.
func TestOnlyWhatIsNeededIsRead(t *testing.T) {
	big := strings.Repeat("x", 4<<20)
	newer, older := layerOf(t, "d/", "d/f=1", "g="+big), layerOf(t, "d/", "d/h=1", "i="+big)
	tests := map[string]struct {
		merged            [][]string
		ofNewer, ofOlder  bool
		newerWhole, whole bool
	}{
		"nothing is deleted":                    {merged: [][]string{{"d/", "d/f=1"}, {"d/", "d/f=2"}}},
		"what the layers have not made":         {merged: [][]string{{"d/", "d/g=1"}, {"d/", "d/.wh.f"}}},
		"what was deleted, made and deleted":    {merged: [][]string{{"d/", "d/.wh.f"}, {"d/", "d/f=1"}, {"d/", "d/.wh.f"}}},
		"what was deleted and is there again":   {merged: [][]string{{"d/", "d/f=1"}, {"d/", "d/.wh.f"}, {"d/", "d/f=1"}}},
		"what lies in the newer one":            {merged: [][]string{{"d/", "d/f=1"}, {"d/", "d/.wh.f"}}, ofNewer: true},
		"what lies in the older one":            {merged: [][]string{{"d/", "d/f=1", "d/h=1"}, {"d/", "d/.wh.f", "d/.wh.h"}}, ofNewer: true, newerWhole: true, ofOlder: true},
		"what lies nowhere":                     {merged: [][]string{{"d/", "d/z=1"}, {"d/", "d/.wh.z"}}, ofNewer: true, newerWhole: true, ofOlder: true, whole: true},
		"a file in a deleted directory of ours": {merged: [][]string{{"d/", "d/f=1"}, {".wh.d"}}, ofNewer: true},
	}
	for name, test := range tests {
		t.Run(name, func(t *testing.T) {
			read := make([]int, 2)
			_, err := PlanOnLayers(context.Background(), layersOf(t, test.merged), []Layer{counted(older, &read[1]), counted(newer, &read[0])})
			must(t, err)
			for i, want := range []struct{ any, all bool }{{test.ofNewer, test.newerWhole}, {test.ofOlder, test.whole}} {
				if anything, all := read[i] > 0, read[i] > len(big); anything != want.any || all != want.all {
					t.Errorf("of layer %d there were %d bytes read", i, read[i])
				}
			}
		})
	}
}

func counted(data []byte, read *int) Layer {
	l := inMemory(data)
	l.Open = func(context.Context) (io.ReadCloser, error) {
		return struct {
			io.Reader
			io.Closer
		}{io.TeeReader(bytes.NewReader(data), writerFunc(func(p []byte) { *read += len(p) })), io.NopCloser(nil)}, nil
	}
	return l
}

type writerFunc func([]byte)

func (f writerFunc) Write(p []byte) (int, error) { f(p); return len(p), nil }

func TestUnreadableLayersBelow(t *testing.T) {
	good := layerOf(t, "d/", "d/f="+strings.Repeat("x", 5000))
	broken := errors.New("broken")
	tests := map[string]struct {
		layer Layer
		want  error
	}{
		"it cannot be opened":     {Layer{digest.FromBytes(good), func(context.Context) (io.ReadCloser, error) { return nil, broken }}, broken},
		"it is cut off":           {inMemory(good[:3000]), io.ErrUnexpectedEOF},
		"it is no tar":            {inMemory(bytes.Repeat([]byte("0"), 2048)), tar.ErrHeader},
		"it has another digest":   {Layer{digest.FromString("other"), inMemory(good).Open}, ErrNotMergeable},
		"it has bytes at its end": {Layer{digest.FromBytes(good), inMemory(append(slices.Clone(good), "more"...)).Open}, ErrNotMergeable},
		"it has no digest":        {Layer{"sha257:0", inMemory(good).Open}, ErrNotMergeable},
	}
	for name, test := range tests {
		t.Run(name, func(t *testing.T) {
			if _, err := PlanOnLayers(context.Background(), deletion(t, "d/z"), []Layer{test.layer}); !errors.Is(err, test.want) {
				t.Errorf("got %v, want %v", err, test.want)
			}
		})
	}
	if _, err := PlanOnLayers(context.Background(), deletion(t, "d/z"), slices.Repeat([]Layer{inMemory(good)}, MaxLayers+1)); !errors.Is(err, ErrNotMergeable) {
		t.Errorf("too many layers: %v", err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	ended := inMemory(good)
	ended.Open = func(ctx context.Context) (io.ReadCloser, error) { cancel(); return inMemory(good).Open(ctx) }
	if _, err := PlanOnLayers(ctx, deletion(t, "d/z"), []Layer{ended}); !errors.Is(err, context.Canceled) {
		t.Errorf("cancelled: %v", err)
	}
}

// TestMemoryOfWhatLiesBelow has very many deletions, and below even more directories and
// files, of which none is deleted.
func TestMemoryOfWhatLiesBelow(t *testing.T) {
	const deleted, below = 50_000, 200_000
	many := func(count int, header func(i int) tar.Header) Layer {
		write := func(w io.Writer) error {
			archive := tar.NewWriter(w)
			for i := range count {
				h := header(i)
				if err := archive.WriteHeader(&h); err != nil {
					return err
				}
			}
			return archive.Close()
		}
		digester := digest.Canonical.Digester()
		must(t, write(digester.Hash()))
		return Layer{digester.Digest(), func(context.Context) (io.ReadCloser, error) {
			r, w := io.Pipe()
			go func() {
				buffered := bufio.NewWriterSize(w, 64<<10)
				_ = w.CloseWithError(errors.Join(write(buffered), buffered.Flush()))
			}()
			return r, nil
		}}
	}
	named := func(format string) func(int) tar.Header {
		return func(i int) tar.Header { return tar.Header{Typeflag: tar.TypeReg, Name: fmt.Sprintf(format, i)} }
	}
	merged := []Layer{many(deleted, named("file-%d")), many(deleted, named(".wh.file-%d"))}
	lower := []Layer{many(below, func(i int) tar.Header {
		switch {
		case i == 0:
			return tar.Header{Typeflag: tar.TypeDir, Name: "all/"}
		case i%2 == 1:
			return tar.Header{Typeflag: tar.TypeDir, Name: fmt.Sprintf("all/dir-%d/", i)}
		}
		return tar.Header{Typeflag: tar.TypeReg, Name: fmt.Sprintf("all/dir-%d/file", i-1)}
	})}

	used := func() int64 {
		runtime.GC()
		var m runtime.MemStats
		runtime.ReadMemStats(&m)
		return int64(m.HeapAlloc) //nolint:gosec // it is no exabyte
	}
	before := used()
	m, err := PlanOnLayers(context.Background(), merged, lower)
	must(t, err)
	each := (used() - before) / deleted
	if each > 64 {
		t.Errorf("%d bytes for each deletion", each)
	}
	var b bytes.Buffer
	must(t, m.Write(context.Background(), &b))
	if b.Len() > 4<<10 {
		t.Errorf("%d bytes are left of layers that leave nothing", b.Len())
	}
	t.Logf("%d bytes for each of %d deletions", each, deleted)
}

// mergeOn merges layers of which those below are read, and checks that each deletion that
// is left is of something.
func mergeOn(t *testing.T, lower, layers [][]byte) []byte {
	t.Helper()
	all := func(data [][]byte) (all []Layer) {
		for _, d := range data {
			all = append(all, inMemory(d))
		}
		return all
	}
	m, err := PlanOnLayers(context.Background(), all(layers), all(lower))
	must(t, err)
	var b bytes.Buffer
	must(t, m.Write(context.Background(), &b))
	below := apply(t, lower[0], lower[1:]...)
	for _, e := range list(t, b.Bytes()) {
		name, deletes := strings.CutPrefix(path.Base(e), whiteoutPrefix)
		if deletes && path.Base(e) != opaqueName && below[path.Join(path.Dir(e), name)] == "" {
			t.Errorf("%s deletes nothing; below there is %v", e, below)
		}
	}
	return b.Bytes()
}
