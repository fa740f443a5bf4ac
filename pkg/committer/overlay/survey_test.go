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
	"context"
	"fmt"
	"hash/maphash"
	"io"
	"os"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// TestSurvey counts what is there.
func TestSurvey(t *testing.T) {
	asRoot(t)
	began := time.Now()
	f := newTree(t)
	f.dir("d", 0o755)
	deep := "d"
	for range 2*maxOpen + 3 { // deeper than directories are held open
		deep += "/d"
		f.dir(deep, 0o755)
	}
	f.file(deep+"/f", strings.Repeat("x", 10000), 0o600)
	for i := range 5*surveyed + 1 {
		f.file(fmt.Sprintf("d/%d", i), "x", 0o600)
	}
	f.file("sparse", "", 0o600)
	must(t, os.Truncate(f.path("sparse"), 1<<40))
	must(t, os.Link(f.path("sparse"), f.path("d/again")))
	f.node("socket", unix.S_IFSOCK|0o600, 0, 0)
	got, err := Survey(context.Background(), f.root, Options{})
	must(t, err)
	if want := int64(2 + 2*maxOpen + 3 + 1 + 5*surveyed + 1 + 3); got.Entries != want {
		t.Errorf("%d entries, want %d", got.Entries, want)
	}
	small := int64(sparseLeast - 4096)
	f.holed("d/small", small)
	more, err := Survey(context.Background(), f.root, Options{})
	must(t, err)
	if more.Bytes-got.Bytes < small || more.Bytes-got.Bytes > small+64<<10 || more.Holes-got.Holes != small {
		t.Errorf("with a hole that is written as zeros: %+v, without: %+v", more, got)
	}
	if got.Holes != 1<<40 || got.Largest != "/sparse" && got.Largest != "/d/again" {
		t.Errorf("holes of %d, %s the most", got.Holes, got.Largest)
	}
	if got.Recent != got.Bytes || got.Settled.Before(began.Add(grace)) {
		t.Errorf("all is new, and of %d bytes %d are; settled at %v", got.Bytes, got.Recent, got.Settled)
	}
	if got.Bytes < 12000 {
		t.Errorf("%d bytes on the disk", got.Bytes)
	}
	for name, kind := range map[string]int{"few": 1000, "many": maxRecord / 30} {
		found := Found{Entries: int64(kind), names: int64(10 * kind)}
		if fits, err := found.Remembers(context.Background(), f.root); err != nil || !fits {
			t.Errorf("%s entries: %v, %v", name, fits, err)
		}
	}
}

// TestRemembers has more names than a first pass can remember; the names compress to nothing.
func TestRemembers(t *testing.T) {
	most := maxRecord
	defer func() { maxRecord = most }()
	maxRecord = 1 << 20
	f := newTree(t)
	for i := range 6000 {
		f.file(fmt.Sprintf("%d-%s", i, randomName(uint64(i))), "", 0o600)
	}
	found, err := Survey(context.Background(), f.root, Options{})
	must(t, err)
	fits, err := found.Remembers(context.Background(), f.root)
	must(t, err)
	if fits {
		t.Errorf("%d names of %d bytes fit into %d", found.Entries, found.names, maxRecord)
	}
	c := &Copy{path: f.root, clock: &kernelClock{timer: -1, unit: 1}, seed: maphash.MakeSeed()}
	if _, err := c.First(context.Background(), io.Discard); err == nil {
		t.Error("the first pass remembers them")
	}
	must(t, os.RemoveAll(f.root))
	must(t, os.Mkdir(f.root, 0o755))
	if fits, err := found.Remembers(context.Background(), f.root); err != nil || !fits {
		t.Errorf("when they are gone: %v, %v", fits, err)
	}
}

// BenchmarkSurvey is the look at what BenchmarkWarm writes.
func BenchmarkSurvey(b *testing.B) {
	root := manyFiles(b, 200, 100)
	for b.Loop() {
		if _, err := Survey(b.Context(), root, Options{}); err != nil {
			b.Fatal(err)
		}
	}
}

// BenchmarkWarm is a layer of small files that are in memory.
func BenchmarkWarm(b *testing.B) {
	root := manyFiles(b, 200, 100)
	for b.Loop() {
		if _, err := Write(b.Context(), io.Discard, root, Options{}); err != nil {
			b.Fatal(err)
		}
	}
}

// TestAttributesOfOverAMebibyte are more than readers take; only some file systems hold them.
func TestAttributesOfOverAMebibyte(t *testing.T) {
	dir := onFileSystem(t, "mkfs.xfs", "-q")
	f := tree{t, dir}
	f.file("f", "", 0o600)
	for i := range 17 {
		f.xattr("f", fmt.Sprintf("user.%d", i), strings.Repeat("x", 64<<10))
	}
	_, err := Survey(context.Background(), dir, Options{})
	if err == nil || !strings.Contains(err.Error(), "1 MiB") {
		t.Errorf("got %v", err)
	}
}

func randomName(seed uint64) string {
	name := make([]byte, 200)
	for i := range name {
		seed = seed*6364136223846793005 + 1442695040888963407
		name[i] = "0123456789abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ_-"[seed>>58]
	}
	return string(name)
}
