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

// Package layer makes an image layer of a tar stream in one pass: the bytes are
// hashed, compressed (with zstd, unless told otherwise) and hashed again while the registry takes them.
// Nothing is spooled to disk, and memory does not grow with the size.
package layer

import (
	"context"
	"encoding/hex"
	"errors"
	"fmt"
	"hash"
	"io"
	"sync"
	"sync/atomic"
	"time"

	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/stream"
	"github.com/google/go-containerregistry/pkg/v1/types"
)

// ErrReplayed is what a read from a closed stream fails with. An HTTP transport
// that sends a request again after it has closed its body gets this error
// instead of half a layer.
var ErrReplayed = errors.New("the layer's stream was closed; it has to be read from its beginning")

// Source writes the uncompressed layer. It is called once for each attempt to
// upload it, and has to write the same bytes each time. The writer also lends
// its buffers, as overlay.Lender says.
type Source func(ctx context.Context, w io.Writer) error

// Layer is a v1.Layer that is made while it is uploaded. Digest, DiffID and
// Size answer stream.ErrNotComputed until one attempt was read to its end; each
// call of Compressed starts from the beginning.
type Layer struct {
	ctx         context.Context
	source      Source
	compression Compression

	mu     sync.Mutex
	latest *attempt
}

var _ v1.Layer = (*Layer)(nil)

// New returns the layer that source writes. Cancelling ctx ends its streams.
func New(ctx context.Context, source Source) *Layer {
	return NewAs(ctx, Zstd, source)
}

// NewAs is New with another compression.
func NewAs(ctx context.Context, compression Compression, source Source) *Layer {
	return &Layer{ctx: ctx, source: source, compression: compression}
}

// Digest is the digest of the compressed bytes.
func (l *Layer) Digest() (v1.Hash, error) {
	a, err := l.done()
	if err != nil {
		return v1.Hash{}, err
	}
	return a.digest, nil
}

// DiffID is the digest of the uncompressed bytes.
func (l *Layer) DiffID() (v1.Hash, error) {
	a, err := l.done()
	if err != nil {
		return v1.Hash{}, err
	}
	return a.diffID, nil
}

// Size is the number of compressed bytes.
func (l *Layer) Size() (int64, error) {
	a, err := l.done()
	if err != nil {
		return 0, err
	}
	return a.size, nil
}

// MediaType is OCI's for a layer of its compression.
func (l *Layer) MediaType() (types.MediaType, error) { return l.compression.MediaType(), nil }

// Uncompressed is part of v1.Layer; nobody needs it of a layer that is only
// uploaded.
func (l *Layer) Uncompressed() (io.ReadCloser, error) {
	return nil, errors.New("a streamed layer has no uncompressed form")
}

// Compressed starts to make the layer from its beginning. An attempt that is
// still under way is ended first, so that no two read the source at once.
func (l *Layer) Compressed() (io.ReadCloser, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.latest != nil {
		_ = l.latest.Close()
	}
	latest, err := start(l.ctx, l.source, l.compression)
	if err != nil {
		return nil, err
	}
	l.latest = latest
	return latest, nil
}

// Err is why making the layer failed, nil when it did not or when only its
// reader gave up. Transports do not always pass their body's error on.
func (l *Layer) Err() error {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.latest == nil {
		return nil
	}
	select {
	case <-l.latest.finished:
		if errors.Is(l.latest.err, ErrReplayed) {
			return nil
		}
		return l.latest.err
	default:
		return nil
	}
}

// Took is how long the latest attempt needed from its first byte to its last.
func (l *Layer) Took() time.Duration {
	a, err := l.done()
	if err != nil {
		return 0
	}
	return a.took
}

func (l *Layer) done() (*attempt, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.latest == nil {
		return nil, stream.ErrNotComputed
	}
	select {
	case <-l.latest.finished:
		if l.latest.err == nil {
			return l.latest, nil
		}
	default:
	}
	return nil, stream.ErrNotComputed
}

// attempt is one pass over the source; it is the body of one request.
type attempt struct {
	frames *frames
	abort  context.CancelCauseFunc
	closed atomic.Bool
	// current is the frame that is read, rest what is left of it.
	current *frame
	rest    []byte

	finished       chan struct{} // closed when the fields below are set
	err            error
	digest, diffID v1.Hash
	size           int64
	took           time.Duration
}

func start(ctx context.Context, source Source, compression Compression) (*attempt, error) {
	ctx, abort := context.WithCancelCause(ctx)
	f, err := newFrames(ctx, abort, compression)
	if err != nil {
		abort(err)
		return nil, err
	}
	a := &attempt{frames: f, abort: abort, finished: make(chan struct{})}
	go a.run(ctx, source)
	return a, nil
}

// run moves the bytes and says what came of it.
func (a *attempt) run(ctx context.Context, source Source) {
	began := time.Now()
	if err := a.produce(ctx, source); err != nil {
		a.abort(err)
	}
	a.frames.end()
	<-a.frames.sealed
	switch {
	case a.frames.complete:
		a.digest, a.size = hashOf(a.frames.digest), a.frames.size
		a.diffID = hashOf(a.frames.diffID)
	case a.closed.Load():
		a.err = ErrReplayed // whatever the closing made fail first
	default:
		a.err = context.Cause(ctx)
	}
	a.took = time.Since(began)
	a.abort(nil)
	close(a.finished)
}

// produce calls the source. The goroutine has no caller to recover: a panic
// here would end the process while containers are frozen.
func (a *attempt) produce(ctx context.Context, source Source) (err error) {
	defer func() {
		if p := recover(); p != nil {
			err = fmt.Errorf("making the layer panicked: %v", p)
		}
	}()
	return source(ctx, a.frames)
}

func hashOf(h hash.Hash) v1.Hash {
	return v1.Hash{Algorithm: "sha256", Hex: hex.EncodeToString(h.Sum(nil))}
}

// next waits for a frame. Its error is io.EOF after the last one; then the
// digests are there, for the reader asks for them right after.
func (a *attempt) next() error {
	if a.current != nil {
		a.frames.release(a.current)
		a.current, a.rest = nil, nil
	}
	b, more := <-a.frames.out
	if a.closed.Load() {
		return ErrReplayed
	}
	if !more {
		<-a.finished
		if a.err != nil {
			return a.err
		}
		return io.EOF
	}
	a.current, a.rest = b, b.packed
	return nil
}

// Read implements io.Reader.
func (a *attempt) Read(p []byte) (int, error) {
	for len(a.rest) == 0 {
		if err := a.next(); err != nil {
			return 0, err
		}
	}
	n := copy(p, a.rest)
	a.rest = a.rest[n:]
	return n, nil
}

// WriteTo implements io.WriterTo, by which HTTP/1 takes a whole frame as one
// chunk, without copying it.
func (a *attempt) WriteTo(w io.Writer) (written int64, err error) {
	for {
		n, err := w.Write(a.rest) // nothing, the first time
		written += int64(n)
		if err != nil {
			return written, err
		}
		if err := a.next(); err != nil {
			if errors.Is(err, io.EOF) {
				return written, nil
			}
			return written, err
		}
	}
}

// Close ends the attempt and waits until the source is no longer read.
func (a *attempt) Close() error {
	a.closed.Store(true)
	a.abort(ErrReplayed)
	<-a.finished
	return nil
}
