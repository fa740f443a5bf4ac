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

package main

import (
	"archive/tar"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"math/rand/v2"
	"os"
	"path/filepath"
	"strconv"
	"time"
)

// testCase is a container's changes.
type testCase struct {
	name string
	// baseFiles is how many files the image has; layers are further layers of it, from below.
	baseFiles int
	layers    []func(*tar.Writer) error
	// busy is whether the container goes on writing small files.
	busy bool
	// fill makes the changes, once; root is the container's.
	fill func(root string) error
	// settled is whether the changes are some seconds old at the first run: what is as new as that is read a second time
	// while the container is frozen, for its times do not tell whether it was changed since.
	settled bool
	// touch makes some more before each run.
	touch func(root string, run int) error
	// alone is a case that only builds of image-committer run: none of the others does that job.
	alone bool
	// second commits each time to where no repository but that of another sandbox has the image's layers.
	second bool
	// volume is a path that the image declares as one, and what fill fills. A second container has the same below its
	// root: that is inUpper, which there is instead of a baseline.
	volume string
	// targets are beside those that every case has.
	targets []target
}

const mib = 1 << 20

var cases = []testCase{
	{name: "empty", baseFiles: 10},
	{name: "empty-base-100k", baseFiles: 100_000},
	{name: "10mb-1000-files", fill: func(root string) error { return files(root, 1000, 10*mib/1000, text) }},
	{name: "500mb-compressible", fill: func(root string) error { return files(root, 1, 500*mib, text) }},
	{name: "500mb-random", fill: func(root string) error { return files(root, 1, 500*mib, noise) }},
	{name: "100mb-20000-files", fill: func(root string) error { return files(root, 20000, 100*mib/20000, text) }},
	{
		name: "1gb-small-change", busy: true,
		fill: func(root string) error { return files(root, 16, 64*mib, text) },
		touch: func(root string, run int) error {
			return files(filepath.Join(root, fmt.Sprintf("run-%d", run)), 20, 10<<10, text)
		},
	},
	{
		// What an entrypoint does that wants its user to own its home, long before the pause.
		name: "chown-home-128mb", alone: true, settled: true,
		layers: []func(*tar.Writer) error{func(w *tar.Writer) error { return home(w, 4000, 32<<10) }},
		fill:   func(root string) error { return chown(filepath.Join(root, "home"), owner) },
		targets: []target{
			{of: uploaded, than: baseline, atMost: 0.1},
			{of: seconds, than: baseline, atMost: 0.5},
		},
	},
	{
		name: "second-of-256mb-base", alone: true, second: true,
		layers: []func(*tar.Writer) error{random(1), random(2), random(3), random(4)},
		targets: []target{
			{of: seconds, than: baseline, atMost: 0.25},
			{of: uploaded, than: baseline, atMost: 0.02},
		},
	},
	{
		name: "20gb-sparse", alone: true,
		fill:    func(root string) error { return sparse(filepath.Join(root, "sparse"), 20<<30) },
		targets: []target{{of: frozen, than: baseline, atMost: 0.02}},
	},
	{
		name: "100mb-volume", alone: true, volume: "/data",
		fill: func(root string) error { return files(root, 200, mib/2, text) },
		targets: []target{
			{of: uploaded, than: inUpper, atLeast: 0.95}, // it is saved
			{of: seconds, than: inUpper, atMost: 1.1},
		},
	},
}

// owner is whose home it is, in the image and after a chown.
const owner = 1000

// home is a layer of files that no compressor makes smaller, at most 100 in a directory.
func home(w *tar.Writer, count int, size int64) error {
	dir := ""
	for i := range count {
		if i%100 == 0 {
			dir = fmt.Sprintf("home/%02d/", i/100)
			if err := w.WriteHeader(&tar.Header{Typeflag: tar.TypeDir, Name: dir, Mode: 0o755, Uid: owner, Gid: owner}); err != nil {
				return err
			}
		}
		if err := w.WriteHeader(&tar.Header{Name: dir + strconv.Itoa(i%100), Mode: 0o644, Size: size, Uid: owner, Gid: owner}); err != nil {
			return err
		}
		if _, err := io.CopyN(w, noise(uint64(i)), size); err != nil {
			return err
		}
	}
	return nil
}

// random is a layer of one file of 64 MiB that no compressor makes smaller.
func random(seed uint64) func(*tar.Writer) error {
	const size = 64 * mib
	return func(w *tar.Writer) error {
		if err := w.WriteHeader(&tar.Header{Name: fmt.Sprintf("random-%d", seed), Mode: 0o644, Size: size}); err != nil {
			return err
		}
		_, err := io.CopyN(w, noise(seed), size)
		return err
	}
}

// chown is chown -R.
func chown(root string, id int) error {
	return filepath.WalkDir(root, func(path string, _ fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		return os.Lchown(path, id, id)
	})
}

// sparse makes a file of nothing but a hole.
func sparse(path string, size int64) error {
	f, err := os.Create(path)
	if err != nil {
		return err
	}
	return errors.Join(f.Truncate(size), f.Close())
}

// files makes count files of size bytes, at most 100 in a directory.
func files(root string, count int, size int64, content func(seed uint64) io.Reader) error {
	for i := range count {
		dir := filepath.Join(root, fmt.Sprintf("data-%03d", i/100))
		if err := os.MkdirAll(dir, 0o755); err != nil {
			return err
		}
		f, err := os.Create(filepath.Join(dir, fmt.Sprintf("file-%02d", i%100)))
		if err != nil {
			return err
		}
		_, err = io.CopyN(f, content(uint64(i)), size)
		if closeErr := f.Close(); err == nil {
			err = closeErr
		}
		if err != nil {
			return err
		}
	}
	return nil
}

// noise is what no compressor makes smaller.
func noise(seed uint64) io.Reader {
	return rand.NewChaCha8([32]byte{byte(seed), byte(seed >> 8)})
}

// text is like logs and sources: "zstd -1" makes it about a quarter.
func text(seed uint64) io.Reader {
	return &textReader{random: rand.New(rand.NewPCG(seed, 1))}
}

type textReader struct {
	random *rand.Rand
	line   []byte
}

var words = []string{"request", "response", "user", "error", "info", "the", "file", "opened", "closed", "after", "milliseconds", "connection", "of", "to", "status"}

func (t *textReader) Read(p []byte) (int, error) {
	if len(t.line) == 0 {
		t.line = fmt.Appendf(t.line[:0], "2026-01-02T03:04:05.%06dZ %x", t.random.IntN(1e6), t.random.Uint32())
		for range 4 + t.random.IntN(12) {
			t.line = append(append(t.line, ' '), words[t.random.IntN(len(words))]...)
		}
		t.line = append(t.line, '\n')
	}
	n := copy(p, t.line)
	t.line = t.line[n:]
	return n, nil
}

const sandboxCommand = "in-sandbox"

// sandbox is the container's process: idle, until a file asks it to be busy.
func sandbox() {
	for i := 0; ; i++ {
		if _, err := os.Stat("/busy"); err == nil {
			_ = os.WriteFile(fmt.Sprintf("/log-%d", i%5), fmt.Appendf(nil, "%d\n", i), 0o644)
		}
		time.Sleep(20 * time.Millisecond)
	}
}
