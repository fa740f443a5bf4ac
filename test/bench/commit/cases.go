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
	"fmt"
	"io"
	"math/rand/v2"
	"os"
	"path/filepath"
	"time"
)

// testCase is a container's changes.
type testCase struct {
	name string
	// baseFiles is how many files the image has.
	baseFiles int
	// busy is whether the container goes on writing small files.
	busy bool
	// fill makes the changes, once; root is the container's.
	fill func(root string) error
	// touch makes some more before each run.
	touch func(root string, run int) error
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
