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

package layer

import (
	"context"
	"crypto/sha256"
	"fmt"
	"hash"
	"runtime"
	"sync/atomic"
)

const (
	// frameSize is how much of the layer becomes one zstd frame, or gzip member. They know
	// nothing of each other, so that as many are compressed at once as there are cores, and
	// a sequence of them is one valid stream (RFC 8878, section 3.1). Twice the
	// window of "zstd -1", so that the borders cost nothing worth mentioning.
	frameSize = 1 << 20

	// maxWorkers bounds memory on nodes with many cores: four of them already
	// compress more than the hash, which is one sequence, can take.
	maxWorkers = 4
)

// frame is a piece of the layer on its way: filled, hashed and compressed at
// once, hashed again, written to the registry, and filled anew.
type frame struct {
	raw, packed []byte
	compressed  chan struct{} // has one value when packed is there
	users       atomic.Int32  // of raw: the hash; of packed: the reader
}

// frames makes a layer of what is written to it. One goroutine writes, one
// takes from out; between them one hashes what comes, some compress it, and one
// hashes what they give, in order.
type frames struct {
	// quit ends everything; its cause is the error.
	quit  context.Context
	abort context.CancelCauseFunc

	current *frame
	free    chan *frame
	// All channels have room for all frames: only waiting for a free one blocks.
	toHash, toCompress, toSeal chan *frame
	// out has the compressed frames in order; it is closed after the last.
	out chan *frame

	hashed, sealed chan struct{} // closed when the sums below are there
	diffID, digest hash.Hash
	size           int64
	complete       bool // whether nothing is missing; valid once sealed is closed
}

func newFrames(quit context.Context, abort context.CancelCauseFunc, compression Compression) (*frames, error) {
	workers := min(runtime.GOMAXPROCS(0), maxWorkers)
	count := 2*workers + 4
	f := &frames{
		quit:       quit,
		abort:      abort,
		free:       make(chan *frame, count),
		toHash:     make(chan *frame, count),
		toCompress: make(chan *frame, count),
		toSeal:     make(chan *frame, count),
		out:        make(chan *frame, count),
		hashed:     make(chan struct{}),
		sealed:     make(chan struct{}),
		diffID:     sha256.New(),
		digest:     sha256.New(),
	}
	for range count {
		f.free <- &frame{compressed: make(chan struct{}, 1)}
	}
	encoders := make([]encoder, workers)
	for i := range encoders {
		var err error
		if encoders[i], err = compression.encoder(); err != nil {
			return nil, err
		}
	}
	for _, e := range encoders {
		go f.compress(e)
	}
	go f.hash()
	go f.seal()
	return f, nil
}

// Lend returns room for bytes of the layer, at least one. It is the caller's
// until Fill: what is read from a file lands where it is compressed from.
func (f *frames) Lend() ([]byte, error) {
	if f.current == nil {
		select {
		case f.current = <-f.free:
		case <-f.quit.Done():
			return nil, context.Cause(f.quit)
		}
		if f.current.raw == nil {
			f.current.raw = make([]byte, 0, frameSize)
		}
		f.current.raw = f.current.raw[:0]
	}
	return f.current.raw[len(f.current.raw):cap(f.current.raw)], nil
}

// Fill takes the first n bytes of what was lent.
func (f *frames) Fill(n int) {
	f.current.raw = f.current.raw[:len(f.current.raw)+n]
	if len(f.current.raw) == cap(f.current.raw) {
		f.submit()
	}
}

// Write implements io.Writer.
func (f *frames) Write(p []byte) (int, error) {
	for rest := p; len(rest) > 0; {
		room, err := f.Lend()
		if err != nil {
			return len(p) - len(rest), err
		}
		n := copy(room, rest)
		f.Fill(n)
		rest = rest[n:]
	}
	return len(p), nil
}

func (f *frames) submit() {
	f.current.users.Store(2)
	f.toHash <- f.current
	f.toCompress <- f.current
	f.toSeal <- f.current
	f.current = nil
}

// release is called by each user of a frame when it is done with it.
func (f *frames) release(b *frame) {
	if b.users.Add(-1) == 0 {
		f.free <- b
	}
}

// end is called once, by the writer.
func (f *frames) end() {
	if f.current != nil && len(f.current.raw) > 0 {
		f.submit()
	}
	close(f.toHash)
	close(f.toCompress)
	close(f.toSeal)
}

func (f *frames) hash() {
	defer close(f.hashed)
	for b := range f.toHash {
		_, _ = f.diffID.Write(b.raw) // never fails
		f.release(b)
	}
}

func (f *frames) compress(e encoder) {
	defer f.recovered()
	for b := range f.toCompress {
		b.packed = e.EncodeAll(b.raw, b.packed[:0])
		b.compressed <- struct{}{}
	}
}

// seal puts the frames back into their order.
func (f *frames) seal() {
	defer close(f.sealed)
	defer close(f.out)
	for b := range f.toSeal {
		select {
		case <-b.compressed:
		case <-f.quit.Done():
			return
		}
		_, _ = f.digest.Write(b.packed) // never fails
		f.size += int64(len(b.packed))
		f.out <- b
	}
	<-f.hashed
	f.complete = f.quit.Err() == nil
}

// recovered ends the layer when a goroutine panics that has no caller to
// recover: the process must not end while containers are frozen.
func (f *frames) recovered() {
	if p := recover(); p != nil {
		f.abort(fmt.Errorf("compressing the layer panicked: %v", p))
	}
}
