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
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"os"
	"os/exec"
	"path/filepath"
	"runtime/debug"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/klauspost/compress/zstd"
	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
	"golang.org/x/sys/unix"

	"github.com/opensandbox-io/sandbox-apiserver/pkg/committer/registry"
	"github.com/opensandbox-io/sandbox-apiserver/pkg/committer/result"
	"github.com/opensandbox-io/sandbox-apiserver/pkg/committer/runtime"
)

const (
	// These make the test binary the process that is measured.
	upperVariable  = "TEST_MEMORY_UPPERDIR"
	imageVariable  = "TEST_MEMORY_IMAGE"
	layersVariable = "TEST_MEMORY_LAYERS" // a directory with those of earlier snapshots

	peakLine = "the most memory in bytes was"

	mostMemory = 128 << 20
)

// TestMemory commits what hostile containers write, each in a process of its own, and asks the kernel for its
// peak of memory. NIGHTLY makes a million files out of fifty thousand.
func TestMemory(t *testing.T) {
	if upper := os.Getenv(upperVariable); upper != "" {
		commitHere(t, upper, os.Getenv(imageVariable), os.Getenv(layersVariable))
		return
	}
	if os.Geteuid() != 0 {
		t.Skip("needs root, as a commit does")
	}
	many := 50_000
	if os.Getenv("NIGHTLY") != "" {
		many = 1_000_000
	}
	for name, hostile := range map[string]struct {
		fill func(t *testing.T, dir string)
		most time.Duration
		// layers are of earlier snapshots, and are merged.
		layers func(t *testing.T, dir string)
	}{
		"nothing": {func(*testing.T, string) {}, 10 * time.Second, nil},
		"tiny files in one directory": {func(t *testing.T, dir string) {
			tinyFiles(t, dir, many)
		}, 10*time.Second + time.Duration(many)*200*time.Microsecond, nil},
		"files with two names far apart": {func(t *testing.T, dir string) {
			hardlinks(t, dir, many/2) // as many names
		}, 10*time.Second + time.Duration(many)*400*time.Microsecond, nil},
		// A hole is never read; it costs the hashing of its zeros, for the digest is that of the whole content.
		"10 GB of hole": {func(t *testing.T, dir string) {
			sparse(t, filepath.Join(dir, "sparse"), 10<<30)
		}, 90 * time.Second, nil},
		"a thousand directories in each other": {func(t *testing.T, dir string) {
			deep(t, dir, 1000)
		}, 10 * time.Second, nil},
		"64 MiB that do not compress": {func(t *testing.T, dir string) {
			random(t, filepath.Join(dir, "random"), 64<<20)
		}, 30 * time.Second, nil},
		// Whether they are below is looked for in the image.
		"files that an earlier snapshot made and a later one deleted": {func(*testing.T, string) {},
			10*time.Second + time.Duration(many)*200*time.Microsecond, func(t *testing.T, dir string) { madeAndDeleted(t, dir, many) }},
	} {
		t.Run(name, func(t *testing.T) {
			s := newScene(t)
			dir := inMemory(t)
			began := time.Now()
			hostile.fill(t, dir)
			layers := ""
			if hostile.layers != nil {
				layers = t.TempDir()
				hostile.layers(t, layers)
			}
			filled := time.Since(began)
			process := exec.Command(os.Args[0], "-test.run=^TestMemory$")
			process.Env = append(os.Environ(), upperVariable+"="+dir, imageVariable+"="+s.options.Containers[0].Image, layersVariable+"="+layers)
			output, err := process.CombinedOutput()
			_, told, ok := strings.Cut(string(output), peakLine)
			var peak int64
			if _, scanErr := fmt.Sscan(told, &peak); err != nil || !ok || scanErr != nil {
				t.Fatalf("%v %v\n%s", err, scanErr, output)
			}
			// Not by the clock: the machine does other things too.
			took := process.ProcessState.UserTime() + process.ProcessState.SystemTime()
			t.Logf("%d MiB, %s, after %s to make the files", peak>>20, took.Round(time.Millisecond), filled.Round(time.Millisecond))
			if merged := strings.Contains(string(output), "layers merged"); merged != (layers != "") {
				t.Errorf("layers were merged: %v; it logged:\n%s", merged, output)
			}
			if peak > mostMemory || peak == 0 {
				t.Errorf("it took %d MiB of memory, more than %d", peak>>20, mostMemory>>20)
			}
			if took > hostile.most {
				t.Errorf("it took %s of the processor, more than %s", took, hostile.most)
			}
		})
	}
}

// commitHere is the measured process: a commit of one container with the directory as its files.
func commitHere(t *testing.T, upper, image, layers string) {
	debug.SetMemoryLimit(MemoryLimit)
	node := &fakeNode{containers: map[string]*fakeContainer{}}
	base := fakeBase(t, "main")
	if layers != "" {
		addStored(t, base, layers)
	}
	node.containers["id"] = &fakeContainer{node: node, name: "main", state: runtime.Running, upper: upper, base: base}
	err := Commit(context.Background(), node, CommitOptions{
		PodUID: "pod", SnapshotUID: "snap", LeaseTTL: time.Minute, LeaveFrozen: true,
		Containers: []ContainerImage{{Ref: runtime.Ref{Name: "main", ID: "id"}, Image: image}},
		Registry:   registry.Options{Insecure: true},
		Log:        slog.New(slog.NewTextHandler(os.Stderr, nil)),
	}, func(result.Result) error { return nil })
	if err != nil {
		t.Fatal(err)
	}
	fmt.Println(peakLine, PeakMemory())
}

// madeAndDeleted writes as many layers as one of our images can have. The topmost deletes the files that the one below it
// makes.
func madeAndDeleted(t *testing.T, dir string, many int) {
	t.Helper()
	for i := range maxOwnLayers {
		format, count := "tiny-file-%d", 0
		if i >= maxOwnLayers-2 {
			count = many
		}
		if i == maxOwnLayers-1 {
			format = ".wh." + format
		}
		file, err := os.Create(filepath.Join(dir, strconv.Itoa(i)))
		if err != nil {
			t.Fatal(err)
		}
		compressed, err := zstd.NewWriter(file)
		if err != nil {
			t.Fatal(err)
		}
		w := tar.NewWriter(compressed)
		for n := range count {
			if err := w.WriteHeader(&tar.Header{Typeflag: tar.TypeReg, Name: fmt.Sprintf(format, n), Mode: 0o600}); err != nil {
				t.Fatal(err)
			}
		}
		if err := errors.Join(w.Close(), compressed.Close(), file.Close()); err != nil {
			t.Fatal(err)
		}
	}
}

// addStored has the layers in the directory as those that earlier snapshots added.
func addStored(t *testing.T, base *Base, dir string) {
	t.Helper()
	for i := range maxOwnLayers {
		path := filepath.Join(dir, strconv.Itoa(i))
		open := func() (io.ReadCloser, error) { return os.Open(path) }
		sum := func(wrap func(io.Reader) (io.ReadCloser, error)) digest.Digest {
			file, err := open()
			if err != nil {
				t.Fatal(err)
			}
			defer file.Close()
			r, err := wrap(file)
			if err != nil {
				t.Fatal(err)
			}
			defer r.Close()
			sum, err := digest.FromReader(r)
			if err != nil {
				t.Fatal(err)
			}
			return sum
		}
		info, err := os.Stat(path)
		if err != nil {
			t.Fatal(err)
		}
		d := ocispec.Descriptor{MediaType: ocispec.MediaTypeImageLayerZstd, Size: info.Size(),
			Digest: sum(func(r io.Reader) (io.ReadCloser, error) { return io.NopCloser(r), nil })}
		addLayer(t, base, d, sum(decompress), open)
	}
}

// inMemory is a directory that makes files faster than a disk.
func inMemory(t *testing.T) string {
	t.Helper()
	dir := t.TempDir()
	if err := unix.Mount("tmpfs", dir, "tmpfs", 0, "mode=755,nr_inodes=0"); err != nil {
		t.Skip("cannot mount a tmpfs:", err)
	}
	t.Cleanup(func() {
		if err := unix.Unmount(dir, unix.MNT_DETACH); err != nil {
			t.Error(err)
		}
	})
	return dir
}

func tinyFiles(t *testing.T, dir string, many int) {
	t.Helper()
	fd, err := unix.Open(dir, unix.O_DIRECTORY, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = unix.Close(fd) }()
	for i := range many {
		file, err := unix.Openat(fd, "tiny-file-"+strconv.Itoa(i), unix.O_CREAT|unix.O_WRONLY, 0o600)
		if err != nil {
			t.Fatal(err)
		}
		_, err = unix.Write(file, []byte("x"))
		_ = unix.Close(file)
		if err != nil {
			t.Fatal(err)
		}
	}
}

// hardlinks makes files whose second names all come after the first name of the last, below paths as long as they can be.
func hardlinks(t *testing.T, dir string, many int) {
	t.Helper()
	first, second := dir, dir
	for i := range 12 {
		first += fmt.Sprintf("/%0250d", i)
		second += fmt.Sprintf("/%0250d", 9000+i)
	}
	for _, d := range []string{first, second} {
		if err := os.MkdirAll(d, 0o700); err != nil {
			t.Fatal(err)
		}
	}
	tinyFiles(t, first, many)
	from, err := unix.Open(first, unix.O_DIRECTORY, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = unix.Close(from) }()
	to, err := unix.Open(second, unix.O_DIRECTORY, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = unix.Close(to) }()
	for i := range many {
		if err := unix.Linkat(from, "tiny-file-"+strconv.Itoa(i), to, strconv.Itoa(i), 0); err != nil {
			t.Fatal(err)
		}
	}
}

func sparse(t *testing.T, path string, size int64) {
	t.Helper()
	file, err := os.Create(path)
	if err != nil {
		t.Fatal(err)
	}
	defer file.Close()
	if _, err := file.WriteAt([]byte("in the middle"), size/2); err != nil {
		t.Fatal(err)
	}
	if err := file.Truncate(size); err != nil {
		t.Fatal(err)
	}
}

func deep(t *testing.T, dir string, depth int) {
	t.Helper()
	if err := os.MkdirAll(dir+strings.Repeat("/d", depth), 0o700); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(dir+strings.Repeat("/d", depth)+"/file", []byte("down here"), 0o600); err != nil {
		t.Fatal(err)
	}
}

func random(t *testing.T, path string, size int64) {
	t.Helper()
	source, err := os.Open("/dev/urandom")
	if err != nil {
		t.Fatal(err)
	}
	defer source.Close()
	file, err := os.Create(path)
	if err != nil {
		t.Fatal(err)
	}
	defer file.Close()
	if _, err := io.CopyN(file, source, size); err != nil {
		t.Fatal(err)
	}
}
