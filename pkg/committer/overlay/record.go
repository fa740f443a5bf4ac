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
	"bufio"
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"io"

	"github.com/klauspost/compress/zstd"
	"golang.org/x/sys/unix"
)

// maxRecord bounds the memory that remembering a first pass takes; a million
// files of ordinary names need about half of it.
var maxRecord = 32 << 20

var errManyFiles = errors.New("it has too many files to remember them all")

// What a first pass wrote under a name.
const (
	endOfDirectory byte = iota
	otherEntry
	whiteoutEntry
	directoryEntry
	opaqueEntry // a directory that hides what the layers below have in it
	// What was left out, for it is equal to what lies below; a directory possibly.
	equalEntry
	equalDirectory

	withSum byte = 1 << 7 // beside one of them
)

// known is what a first pass found under a name.
type known struct {
	kind      byte
	name      []byte
	ino       uint64
	sec, nsec int64 // the change time
	size      int64
	sum       uint64 // of what was written, 0 without one
}

func (k *known) isDirectory() bool {
	return k.kind == directoryEntry || k.kind == opaqueEntry || k.kind == equalDirectory
}

// is tells whether st is still the same entry in the same state. A change since
// the first pass shows in the change time alone; size and number cost nothing.
func (k *known) is(st *unix.Stat_t) bool {
	sec, nsec := st.Ctim.Unix()
	return k.ino == st.Ino && k.sec == sec && k.nsec == nsec && (k.isDirectory() || k.size == st.Size)
}

// recording remembers a first pass, compressed, in the order of the walk: each
// directory is followed by its entries and their end.
type recording struct {
	chunks  chunks
	encoder *zstd.Encoder
	buf     []byte
	last    uint64 // inode number; neighbours often have near ones
}

func newRecording() (*recording, error) {
	r := &recording{}
	var err error
	r.encoder, err = zstd.NewWriter(&r.chunks, zstd.WithEncoderLevel(zstd.SpeedFastest),
		zstd.WithEncoderConcurrency(1), zstd.WithWindowSize(128<<10), zstd.WithLowerEncoderMem(true))
	return r, err
}

func (r *recording) add(kind byte, name []byte, st *unix.Stat_t, sum uint64) error {
	sec, nsec := st.Ctim.Unix()
	b := r.buf[:0]
	if sum != 0 {
		kind |= withSum
	}
	b = append(b, kind, byte(len(name)))
	b = append(b, name...)
	b = binary.AppendVarint(b, int64(st.Ino-r.last))
	b = binary.AppendVarint(b, sec)
	b = binary.AppendUvarint(b, uint64(nsec))
	b = binary.AppendUvarint(b, uint64(st.Size))
	if sum != 0 {
		b = binary.NativeEndian.AppendUint64(b, sum)
	}
	r.buf, r.last = b, st.Ino
	_, err := r.encoder.Write(b)
	return err
}

// leave ends the entries of a directory.
func (r *recording) leave() error {
	_, err := r.encoder.Write([]byte{endOfDirectory})
	return err
}

func (r *recording) close() error { return r.encoder.Close() }

// open starts to read the recording from its beginning.
func (r *recording) open() (*recall, error) {
	parts := make([]io.Reader, 0, len(r.chunks))
	for _, c := range r.chunks {
		parts = append(parts, bytes.NewReader(c))
	}
	decoder, err := zstd.NewReader(io.MultiReader(parts...), zstd.WithDecoderConcurrency(1), zstd.WithDecoderLowmem(true))
	if err != nil {
		return nil, err
	}
	return &recall{decoder: decoder, in: bufio.NewReaderSize(decoder, 64<<10)}, nil
}

// recall reads a recording.
type recall struct {
	decoder *zstd.Decoder
	in      *bufio.Reader
	next    known
	peeked  bool
	last    uint64
}

// peek returns the next entry of the current directory, nil at its end. It is
// valid until the next call.
func (r *recall) peek() (*known, error) {
	if !r.peeked {
		if err := r.read(); err != nil {
			return nil, fmt.Errorf("the record of the first pass is broken: %w", err)
		}
		r.peeked = true
	}
	if r.next.kind == endOfDirectory {
		return nil, nil
	}
	return &r.next, nil
}

// take goes on behind the entry that peek returned: for a directory that is into
// it.
func (r *recall) take() { r.peeked = false }

// skip goes on behind a directory that was just taken.
func (r *recall) skip() error {
	for depth := 1; depth > 0; {
		k, err := r.peek()
		if err != nil {
			return err
		}
		r.take()
		switch {
		case k == nil:
			depth--
		case k.isDirectory():
			depth++
		}
	}
	return nil
}

func (r *recall) read() error {
	kind, err := r.in.ReadByte()
	if err != nil {
		return err
	}
	r.next.kind, r.next.sum = kind&^withSum, 0
	if kind == endOfDirectory {
		return nil
	}
	length, err := r.in.ReadByte()
	if err != nil {
		return err
	}
	r.next.name = append(r.next.name[:0], make([]byte, length)...)
	if _, err := io.ReadFull(r.in, r.next.name); err != nil {
		return err
	}
	ino, err := binary.ReadVarint(r.in)
	if err != nil {
		return err
	}
	r.last += uint64(ino)
	r.next.ino = r.last
	if r.next.sec, err = binary.ReadVarint(r.in); err != nil {
		return err
	}
	nsec, err := binary.ReadUvarint(r.in)
	if err != nil {
		return err
	}
	size, err := binary.ReadUvarint(r.in)
	r.next.nsec, r.next.size = int64(nsec), int64(size)
	if err != nil || kind&withSum == 0 {
		return err
	}
	var sum [8]byte
	_, err = io.ReadFull(r.in, sum[:])
	r.next.sum = binary.NativeEndian.Uint64(sum[:])
	return err
}

func (r *recall) close() { r.decoder.Close() }

// chunks is memory that grows without being copied.
type chunks [][]byte

func (c *chunks) Write(p []byte) (int, error) {
	const size = 256 << 10
	if len(*c) >= maxRecord/size {
		return 0, errManyFiles
	}
	for rest := p; len(rest) > 0; {
		if len(*c) == 0 || len((*c)[len(*c)-1]) == size {
			*c = append(*c, make([]byte, 0, size))
		}
		last := &(*c)[len(*c)-1]
		n := min(len(rest), size-len(*last))
		*last = append(*last, rest[:n]...)
		rest = rest[n:]
	}
	return len(p), nil
}
