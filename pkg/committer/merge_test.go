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

package committer

import (
	"archive/tar"
	"bytes"
	"compress/gzip"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-containerregistry/pkg/name"
	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/remote"
	"github.com/google/go-containerregistry/pkg/v1/validate"
	"github.com/klauspost/compress/zstd"
	"github.com/opencontainers/go-digest"
	"github.com/opencontainers/image-spec/identity"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
	"golang.org/x/sys/unix"

	"github.com/opensandbox-io/sandbox-apiserver/pkg/committer/image"
	"github.com/opensandbox-io/sandbox-apiserver/pkg/committer/result"
	"github.com/opensandbox-io/sandbox-apiserver/pkg/committer/squash"
)

func TestToMerge(t *testing.T) {
	tests := map[string]struct {
		sizes []int64
		want  int
	}{
		"none yet":                         {nil, 0},
		"there is room":                    {[]int64{9, 9, 9, 9, 9, 9}, 0},
		"all alike":                        {[]int64{9, 9, 9, 9, 9, 9, 9}, 7},
		"a large one below small ones":     {[]int64{900, 9, 9, 9, 9, 9, 9}, 6},
		"small ones that have grown":       {[]int64{900, 300, 50, 50, 50, 50, 50}, 7},
		"large ones everywhere":            {[]int64{100, 1000, 1000, 100, 10, 1, 1}, 7},
		"each much larger than the next":   {[]int64{100000, 10000, 1000, 100, 10, 1, 0}, 5},
		"more than there should have been": {[]int64{900, 9, 9, 9, 9, 9, 9, 9, 9}, 8},
	}
	for name, test := range tests {
		t.Run(name, func(t *testing.T) {
			got := toMerge(test.sizes, 7)
			if got != test.want {
				t.Errorf("got %d, want %d", got, test.want)
			}
			if left := len(test.sizes) - got + min(got, 1); len(test.sizes) > 0 && left+1 > 7 {
				t.Errorf("with the new one there are %d", left+1)
			}
		})
	}
}

// TestCyclesStayBounded pauses and resumes a container again and again: each commit
// is upon the image of the last. What is kept, deleted and replaced is there in the
// end, and the image stays as small as its content.
func TestCyclesStayBounded(t *testing.T) {
	s := newScene(t)
	delete(s.node.containers, "side-id")
	s.options.Containers = s.options.Containers[:1]
	c := s.node.containers["main-id"]
	repository := strings.TrimSuffix(s.options.Containers[0].Image, ":tag")

	files := map[string]string{"base of main": ""}
	sizes := map[int]int64{}
	most := 0
	for cycle := 1; cycle <= 40; cycle++ {
		// What the kernel would have in the upper directory of this cycle.
		c.upper = t.TempDir()
		write := func(name, content string) {
			if err := os.WriteFile(filepath.Join(c.upper, name), []byte(content), 0o600); err != nil {
				t.Fatal(err)
			}
			files[name] = content
		}
		for i := range 3 { // the same live data in each cycle
			write(fmt.Sprint("data", i), noise(cycle*10+i, 8<<10))
		}
		write(fmt.Sprint("once", cycle%4), fmt.Sprint("cycle ", cycle))
		if cycle == 1 {
			write("kept", "from the first cycle")
		}
		s.options.SnapshotUID = fmt.Sprint("uid", cycle)
		s.options.Containers[0].Image = fmt.Sprint(repository, ":cycle", cycle)
		s.reports = nil
		if err := s.commit(context.Background()); err != nil {
			t.Fatalf("cycle %d: %v", cycle, err)
		}
		got := s.last().Containers[0]
		img := pull(t, got)
		if err := validate.Image(img, validate.Fast); err != nil {
			t.Fatalf("cycle %d: %v", cycle, err)
		}
		manifest, err := img.Manifest()
		if err != nil {
			t.Fatal(err)
		}
		if got.Layers != len(manifest.Layers)-1 || got.Layers > 8 {
			t.Errorf("cycle %d: %d layers, said %d", cycle, len(manifest.Layers)-1, got.Layers)
		}
		most = max(most, got.Layers)
		for _, l := range manifest.Layers {
			sizes[cycle] += l.Size
		}
		c.base = baseOf(t, img, repository)
		c.lower = slices.Repeat([]string{t.TempDir()}, len(manifest.Layers))
		if n := nonEmptyHistory(c.base); n != len(manifest.Layers) {
			t.Errorf("cycle %d: %d layers and %d entries of history", cycle, len(manifest.Layers), n)
		}
	}
	if diff := cmp.Diff(files, unpack(t, c.base)); diff != "" {
		t.Errorf("files (-want +got):\n%s", diff)
	}
	if most != maxOwnLayers {
		t.Errorf("there were never more than %d layers: nothing was merged, or too early", most)
	}
	for cycle := 6; cycle <= 40; cycle++ {
		if sizes[cycle] > sizes[5]*3/2 {
			t.Errorf("at cycle %d the image has %d bytes, at 5 %d", cycle, sizes[cycle], sizes[5])
		}
	}
}

// TestAMergeOfTooManyPathsTakesTheNewest has a first snapshot of more files than a merge can remember: those above it are
// merged all the same, and it stays what it is.
func TestAMergeOfTooManyPathsTakesTheNewest(t *testing.T) {
	most := squash.MaxPaths
	defer func() { squash.MaxPaths = most }()
	squash.MaxPaths = 50
	s := newScene(t)
	delete(s.node.containers, "side-id")
	s.options.Containers = s.options.Containers[:1]
	c := s.node.containers["main-id"]
	repository := strings.TrimSuffix(s.options.Containers[0].Image, ":tag")
	files := map[string]string{"base of main": ""}
	var first v1.Hash
	for cycle := range 20 {
		c.upper = t.TempDir()
		write := func(name, content string) {
			if err := os.WriteFile(filepath.Join(c.upper, name), []byte(content), 0o600); err != nil {
				t.Fatal(err)
			}
			files[name] = content
		}
		for i := 0; cycle == 0 && i < 100; i++ {
			write(fmt.Sprint("many", i), "")
		}
		write(fmt.Sprint("data", cycle%3), noise(cycle, 8<<10))
		s.options.SnapshotUID = fmt.Sprint("uid", cycle)
		s.options.Containers[0].Image = fmt.Sprint(repository, ":cycle", cycle)
		s.reports = nil
		if err := s.commit(context.Background()); err != nil {
			t.Fatalf("cycle %d: %v", cycle, err)
		}
		got := s.last().Containers[0]
		img := pull(t, got)
		manifest, err := img.Manifest()
		if err != nil {
			t.Fatal(err)
		}
		if cycle == 0 {
			first = manifest.Layers[1].Digest
		}
		if got.Layers > 8 || manifest.Layers[1].Digest != first {
			t.Fatalf("cycle %d: %d layers, the first of which is %s, want %s", cycle, got.Layers, manifest.Layers[1].Digest, first)
		}
		c.base = baseOf(t, img, repository)
		c.lower = slices.Repeat([]string{t.TempDir()}, len(manifest.Layers))
	}
	if diff := cmp.Diff(files, unpack(t, c.base)); diff != "" {
		t.Errorf("files (-want +got):\n%s", diff)
	}
}

// TestMergedLayersTellTheirContent commits the same files again and again until layers are
// merged: the merged layer is the same where all is the same, and another where one file
// of one merged layer was another, however small.
func TestMergedLayersTellTheirContent(t *testing.T) {
	one, imageOne := mergedLayer(t, "a", "x")
	again, imageAgain := mergedLayer(t, "b", "x")
	other, imageOther := mergedLayer(t, "c", "y")
	if one != again {
		t.Errorf("of the same content there are the merged layers %s and %s", one, again)
	}
	if one == other {
		t.Errorf("of different content there is one merged layer, %s", one)
	}
	if imageOne == imageAgain || imageOne == imageOther || imageAgain == imageOther {
		t.Errorf("of three snapshots the images are %s, %s and %s", imageOne, imageAgain, imageOther)
	}
}

// mergedLayer is the layer that the first merge made, and the image with it. What tells it
// is in a file of the second layer.
func mergedLayer(t *testing.T, uid, tells string) (merged digest.Digest, img v1.Hash) {
	t.Helper()
	s := newScene(t)
	delete(s.node.containers, "side-id")
	s.options.Containers = s.options.Containers[:1]
	c := s.node.containers["main-id"]
	repository := strings.TrimSuffix(s.options.Containers[0].Image, ":tag")
	then := time.Unix(1_700_000_000, 0)
	for layers, cycle := 0, 1; cycle <= 2*maxOwnLayers; cycle++ {
		c.upper = t.TempDir()
		for name, content := range map[string]string{"live": fmt.Sprint("of cycle ", cycle), fmt.Sprint("of", cycle): tells} {
			if content == tells && cycle != 2 {
				content = "-"
			}
			path := filepath.Join(c.upper, name)
			if err := errors.Join(os.WriteFile(path, []byte(content), 0o600), os.Chtimes(path, then, then)); err != nil {
				t.Fatal(err)
			}
		}
		if err := os.Chtimes(c.upper, then, then); err != nil {
			t.Fatal(err)
		}
		s.options.SnapshotUID = fmt.Sprint(uid, cycle)
		s.options.Containers[0].Image = fmt.Sprint(repository, ":cycle", cycle)
		s.reports = nil
		if err := s.commit(context.Background()); err != nil {
			t.Fatal(err)
		}
		got := s.last().Containers[0]
		pulled := pull(t, got)
		c.base = baseOf(t, pulled, repository)
		c.lower = slices.Repeat([]string{t.TempDir()}, len(c.base.Manifest.Layers))
		if got.Layers < layers {
			hash, err := pulled.Digest()
			if err != nil {
				t.Fatal(err)
			}
			return c.base.Manifest.Layers[1].Digest, hash
		}
		layers = got.Layers
	}
	t.Fatal("nothing was merged")
	return "", v1.Hash{}
}

// TestAMergeThatCannotBeIsNoFailure has as many layers as there may be, and one of the
// directories below cannot be had.
func TestAMergeThatCannotBeIsNoFailure(t *testing.T) {
	s := newScene(t)
	delete(s.node.containers, "side-id")
	s.options.Containers = s.options.Containers[:1]
	c := s.node.containers["main-id"]
	repository := strings.TrimSuffix(s.options.Containers[0].Image, ":tag")
	for cycle := 1; cycle <= maxOwnLayers+2; cycle++ {
		s.options.SnapshotUID = fmt.Sprint("uid", cycle)
		s.options.Containers[0].Image = fmt.Sprint(repository, ":cycle", cycle)
		s.reports = nil
		if err := s.commit(context.Background()); err != nil {
			t.Fatalf("cycle %d: %v", cycle, err)
		}
		got := s.last().Containers[0]
		if got.Layers != cycle {
			t.Errorf("cycle %d: %d layers", cycle, got.Layers)
		}
		c.base = baseOf(t, pull(t, got), repository)
		c.lower = slices.Repeat([]string{t.TempDir()}, len(c.base.Manifest.Layers))
		c.lower[len(c.lower)-1] += "/none"
	}
}

// TestAForeignLayerIsNotMerged has layers that claim to be ours and are no tar as we
// write them.
func TestAForeignLayerIsNotMerged(t *testing.T) {
	s := newScene(t)
	for _, c := range s.node.containers {
		c.lower = slices.Repeat([]string{t.TempDir()}, maxOwnLayers+1)
		for i := range maxOwnLayers {
			content := fmt.Appendf(nil, "%0512d", i)
			d := ocispec.Descriptor{MediaType: ocispec.MediaTypeImageLayer, Digest: digest.FromBytes(content), Size: int64(len(content))}
			addLayer(t, c.base, d, d.Digest, func() (io.ReadCloser, error) { return io.NopCloser(bytes.NewReader(content)), nil })
		}
	}
	if err := s.commit(context.Background()); err != nil {
		t.Fatal(err)
	}
	if r := s.last(); r.Containers[0].Layers != maxOwnLayers+1 {
		t.Errorf("result %+v", r)
	}
}

// addLayer has a layer more in a base, as one that an earlier snapshot added.
func addLayer(t *testing.T, base *Base, d ocispec.Descriptor, diffID digest.Digest, open func() (io.ReadCloser, error)) {
	t.Helper()
	extended, err := image.Extend(base.Base, []image.Layer{{Descriptor: d, DiffID: diffID}}, "x")
	if err != nil {
		t.Fatal(err)
	}
	base.RawConfig = extended.Config
	base.Manifest.Layers = append(base.Manifest.Layers, d)
	if err := json.Unmarshal(extended.Config, &base.Config); err != nil {
		t.Fatal(err)
	}
	below := base.Open
	base.Open = func(ctx context.Context, asked ocispec.Descriptor) (io.ReadCloser, error) {
		if asked.Digest == d.Digest {
			return open()
		}
		return below(ctx, asked)
	}
}

// TestLayersOfOneDirectoryAreMergedTogether has an image of which a resume cache has put two
// layers into one directory, just where a merge would begin. A deletion in the upper one says
// nothing any more there, but has to work on the lower one.
func TestLayersOfOneDirectoryAreMergedTogether(t *testing.T) {
	s := newScene(t)
	delete(s.node.containers, "side-id")
	s.options.Containers = s.options.Containers[:1]
	c := s.node.containers["main-id"]
	repository := strings.TrimSuffix(s.options.Containers[0].Image, ":tag")
	for cycle := 1; cycle < maxOwnLayers+1; cycle++ {
		c.upper = t.TempDir()
		content := noise(cycle, 4<<10)
		if cycle == 1 {
			content = noise(cycle, 1<<20) // too large to be merged by itself
		}
		if err := os.WriteFile(filepath.Join(c.upper, fmt.Sprint("of", cycle)), []byte(content), 0o600); err != nil {
			t.Fatal(err)
		}
		if cycle == 2 {
			if err := unix.Mknod(filepath.Join(c.upper, "of1"), unix.S_IFCHR, 0); err != nil {
				t.Fatal(err)
			}
		}
		s.options.SnapshotUID = fmt.Sprint("uid", cycle)
		s.options.Containers[0].Image = fmt.Sprint(repository, ":cycle", cycle)
		s.reports = nil
		if err := s.commit(context.Background()); err != nil {
			t.Fatalf("cycle %d: %v", cycle, err)
		}
		c.base = baseOf(t, pull(t, s.last().Containers[0]), repository)
	}
	// The base, cycles 1 and 2 together with nothing above, the others.
	ids := identity.ChainIDs(slices.Clone(c.base.Config.RootFS.DiffIDs))
	c.chain = []string{ids[0].String(), "cycles 1 and 2", ids[2].String()}
	for _, id := range ids[3:] {
		c.chain = append(c.chain, id.String())
	}
	slices.Reverse(c.chain)
	for range c.chain {
		c.lower = append(c.lower, t.TempDir())
	}
	c.upper = t.TempDir()
	s.options.SnapshotUID, s.reports = "last", nil
	s.options.Containers[0].Image = repository + ":last"
	if err := s.commit(context.Background()); err != nil {
		t.Fatal(err)
	}
	got := s.last().Containers[0]
	if got.Layers != 2 {
		t.Errorf("%d layers, want the merged one and the new one", got.Layers)
	}
	files := unpack(t, baseOf(t, pull(t, got), repository))
	if _, ok := files["of1"]; ok || len(files) != maxOwnLayers {
		t.Errorf("files %v", slices.Sorted(maps.Keys(files)))
	}
}

// TestALayerThatIsNowhereIsMadeAgain has a base of which the node has only what it
// unpacked.
func TestALayerThatIsNowhereIsMadeAgain(t *testing.T) {
	s := newScene(t)
	c := s.node.containers["main-id"]
	before := c.base
	c.base.Open = func(context.Context, ocispec.Descriptor) (io.ReadCloser, error) { return nil, errors.New("discarded") }
	c.lower = []string{t.TempDir()}
	if err := os.WriteFile(filepath.Join(c.lower[0], "base of main"), []byte("unpacked"), 0o600); err != nil {
		t.Fatal(err)
	}
	if err := s.commit(context.Background()); err != nil {
		t.Fatal(err)
	}
	got := s.last().Containers[0]
	img := pull(t, got)
	if err := validate.Image(img, validate.Fast); err != nil {
		t.Error(err)
	}
	after := baseOf(t, img, strings.TrimSuffix(got.Image, ":tag"))
	if diff := cmp.Diff(map[string]string{"base of main": "unpacked", "file": "of main"}, unpack(t, after)); diff != "" {
		t.Errorf("files (-want +got):\n%s", diff)
	}
	if got.Layers != 1 || len(after.Manifest.Layers) != 2 || after.Manifest.Layers[0].Digest == before.Manifest.Layers[0].Digest {
		t.Errorf("%d own layers of %v", got.Layers, after.Manifest.Layers)
	}
}

func TestDecompress(t *testing.T) {
	content := bytes.Repeat([]byte("layer "), 1000)
	zstandard := func(window int, content []byte) []byte {
		var b bytes.Buffer
		w, err := zstd.NewWriter(&b, zstd.WithWindowSize(window))
		if err != nil {
			t.Fatal(err)
		}
		for range 2 { // at once it would know the size, and ask for no more
			if _, err := w.Write(content); err != nil {
				t.Fatal(err)
			}
		}
		if err := w.Close(); err != nil {
			t.Fatal(err)
		}
		return b.Bytes()
	}
	var zipped bytes.Buffer
	w := gzip.NewWriter(&zipped)
	if _, err := w.Write(slices.Concat(content, content)); err != nil {
		t.Fatal(err)
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	for name, data := range map[string][]byte{"nothing": slices.Concat(content, content), "gzip": zipped.Bytes(), "zstd": zstandard(8<<20, content)} {
		r, err := decompress(bytes.NewReader(data))
		if err != nil {
			t.Fatal(err)
		}
		if got, err := io.ReadAll(r); err != nil || !bytes.Equal(got, slices.Concat(content, content)) {
			t.Errorf("%s: %d bytes, %v", name, len(got), err)
		}
		if err := r.Close(); err != nil {
			t.Error(err)
		}
	}
	// Nothing but zeros, which asks for more memory than a commit may take.
	r, err := decompress(bytes.NewReader(zstandard(128<<20, make([]byte, 80<<20))))
	if err != nil {
		t.Fatal(err)
	}
	if _, err := io.Copy(io.Discard, r); !errors.Is(err, zstd.ErrWindowSizeExceeded) {
		t.Errorf("a window of 128 MiB: %v", err)
	}
}

// noise is what does not compress.
func noise(seed, size int) string {
	var b strings.Builder
	for h := digest.FromString(fmt.Sprint(seed)); b.Len() < size; h = digest.FromString(string(h)) {
		b.WriteString(h.Encoded())
	}
	return b.String()[:size]
}

func pull(t *testing.T, c result.Container) v1.Image {
	t.Helper()
	ref, err := name.ParseReference(c.Image, name.Insecure)
	if err != nil {
		t.Fatal(err)
	}
	img, err := remote.Image(ref)
	if err != nil {
		t.Fatal(err)
	}
	return img
}

// baseOf is what a resume makes of an image: the base of the next commit. Its blobs are
// in the registry alone.
func baseOf(t *testing.T, img v1.Image, repository string) *Base {
	t.Helper()
	base := &image.Base{}
	raw, err := img.RawManifest()
	if err != nil {
		t.Fatal(err)
	}
	if base.RawConfig, err = img.RawConfigFile(); err != nil {
		t.Fatal(err)
	}
	if err := errors.Join(json.Unmarshal(raw, &base.Manifest), json.Unmarshal(base.RawConfig, &base.Config)); err != nil {
		t.Fatal(err)
	}
	base.Digest = digest.FromBytes(raw)
	return &Base{Base: base, Repositories: []string{repository}, Open: func(context.Context, ocispec.Descriptor) (io.ReadCloser, error) {
		return nil, errors.New("discarded")
	}}
}

func nonEmptyHistory(b *Base) (n int) {
	for _, h := range b.Config.History {
		if !h.EmptyLayer {
			n++
		}
	}
	return n
}

// plainLayer is a layer of the image as the registry has it, uncompressed. Its diff ID is
// checked.
func plainLayer(t *testing.T, base *Base, at int) []byte {
	t.Helper()
	d := base.Manifest.Layers[at]
	ref, err := name.NewDigest(base.Repositories[0]+"@"+d.Digest.String(), name.Insecure)
	if err != nil {
		t.Fatal(err)
	}
	l, err := remote.Layer(ref)
	if err != nil {
		t.Fatal(err)
	}
	compressed, err := l.Compressed()
	if err != nil {
		t.Fatal(err)
	}
	plain, err := decompress(compressed)
	if err != nil {
		t.Fatal(err)
	}
	data, err := io.ReadAll(plain)
	if err != nil {
		t.Fatal(err)
	}
	if digest.FromBytes(data) != base.Config.RootFS.DiffIDs[at] {
		t.Errorf("layer %d has another diff ID than the configuration says", at)
	}
	return data
}

// unpack applies the layers of an image that only ever adds and replaces files.
func unpack(t *testing.T, base *Base) map[string]string {
	t.Helper()
	files := map[string]string{}
	for i := range base.Manifest.Layers {
		for r := tar.NewReader(bytes.NewReader(plainLayer(t, base, i))); ; {
			h, err := r.Next()
			if errors.Is(err, io.EOF) {
				break
			}
			if err != nil {
				t.Fatal(err)
			}
			if content, err := io.ReadAll(r); err == nil && h.Typeflag == tar.TypeReg {
				files[h.Name] = string(content)
			}
		}
	}
	return files
}
