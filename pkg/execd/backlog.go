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

package execd

import (
	"bytes"
	"errors"
	"io"
	"os"
	"sync"
	"syscall"
)

const (
	// keptOnDisk is how much of a background command's output is kept, of the newest, in an unnamed file.
	keptOnDisk = 1 << 30
	// keptInMemory is how much where no file can be written.
	keptInMemory = 4 << 20
	// step is how much of the oldest is given up at once.
	step = 16 << 20
)

// backlog keeps what a background command prints. Its places are counted from the first byte on, also of what is not kept
// any more.
type backlog struct {
	mu     sync.Mutex
	file   *os.File // without a name, so that no snapshot has it; nil: in memory
	memory []byte
	start  int64
	end    int64
	full   bool // nothing more can be kept
}

func newBacklog() *backlog {
	b := &backlog{}
	for _, directory := range []string{os.TempDir(), "/tmp", "/var/tmp"} {
		file, err := os.CreateTemp(directory, "execd-log-")
		if err != nil {
			continue
		}
		if err := os.Remove(file.Name()); err != nil {
			file.Close()
			continue
		}
		b.file = file
		break
	}
	return b
}

func (b *backlog) append(chunk []byte) {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.full {
		return
	}
	if b.file == nil {
		b.memory = append(b.memory, chunk...)
		b.end += int64(len(chunk))
		if surplus := len(b.memory) - keptInMemory; surplus > keptInMemory/4 {
			b.memory = append(b.memory[:0], b.memory[surplus:]...)
			b.start += int64(surplus)
		}
		return
	}
	n, err := b.file.WriteAt(chunk, b.end)
	b.end += int64(n)
	if err == nil && b.end-b.start > keptOnDisk+step {
		const keepSize, punchHole = 0x1, 0x2 // FALLOC_FL_ of fallocate(2)
		if err = syscall.Fallocate(int(b.file.Fd()), keepSize|punchHole, 0, b.end-keptOnDisk); err == nil {
			b.start = b.end - keptOnDisk
		}
	}
	// A full disk ends the log, and never the command.
	b.full = err != nil
}

// from returns what is kept from a place on, and the place to go on from. Of a command that runs on it leaves out a
// character that has only begun: half of it would be no text.
func (b *backlog) from(cursor int64, ended bool) (io.Reader, int64) {
	b.mu.Lock()
	defer b.mu.Unlock()
	cursor = min(max(cursor, b.start), b.end)
	end := b.end
	if !ended {
		end -= int64(b.incomplete())
	}
	end = max(cursor, end)
	if b.file == nil {
		part := append([]byte(nil), b.memory[cursor-b.start:end-b.start]...)
		return bytes.NewReader(part), end
	}
	return io.NewSectionReader(b.file, cursor, end-cursor), end
}

// incomplete is how many bytes at the end are a part of a character.
func (b *backlog) incomplete() int {
	tail := make([]byte, min(4, b.end-b.start))
	if b.file == nil {
		copy(tail, b.memory[len(b.memory)-len(tail):])
	} else if _, err := b.file.ReadAt(tail, b.end-int64(len(tail))); err != nil && !errors.Is(err, io.EOF) {
		return 0
	}
	return len(tail) - wholeRunes(tail)
}

func (b *backlog) close() {
	if b == nil || b.file == nil {
		return
	}
	b.file.Close()
}
