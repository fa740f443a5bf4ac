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
	"bytes"
	"compress/gzip"
	"context"
	"crypto/rand"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"io"
	mathrand "math/rand/v2"
	"runtime"
	"strings"
	"testing"
	"time"

	"github.com/google/go-containerregistry/pkg/v1/stream"
	"github.com/klauspost/compress/zstd"
)

func writing(data []byte) Source {
	return func(_ context.Context, w io.Writer) error {
		_, err := w.Write(data)
		return err
	}
}

func sum(data []byte) string {
	h := sha256.Sum256(data)
	return "sha256:" + hex.EncodeToString(h[:])
}

func TestDigests(t *testing.T) {
	random := make([]byte, 3<<20+17)
	_, _ = rand.Read(random)
	for name, content := range map[string][]byte{"empty": nil, "small": []byte("hello"), "large": random} {
		for _, compression := range []Compression{Zstd, Gzip} {
			if compression == Gzip && content == nil {
				continue // of which there is none: an archive has an end at least
			}
			t.Run(name+" "+string(compression), func(t *testing.T) {
				l := NewAs(context.Background(), compression, writing(content))
				if _, err := l.Digest(); !errors.Is(err, stream.ErrNotComputed) {
					t.Fatalf("a digest before the stream was read: %v", err)
				}
				var first []byte
				// Each attempt starts from the beginning and gives the same bytes.
				for range 2 {
					body, err := l.Compressed()
					if err != nil {
						t.Fatal(err)
					}
					if _, err := l.Size(); !errors.Is(err, stream.ErrNotComputed) {
						t.Fatalf("a size before the stream was read: %v", err)
					}
					// By Read the first time, as HTTP/2 does, then by WriteTo, as HTTP/1 does.
					var buf bytes.Buffer
					var to io.Writer = &buf
					if first == nil {
						to = struct{ io.Writer }{to}
						body = struct{ io.ReadCloser }{body}
					}
					if _, err := io.Copy(to, body); err != nil {
						t.Fatal(err)
					}
					data := buf.Bytes()
					if first != nil && !bytes.Equal(first, data) {
						t.Error("the second attempt gave other bytes")
					}
					first = data
				}
				digest, err := l.Digest()
				if err != nil || digest.String() != sum(first) {
					t.Errorf("digest %v (%v), want %s", digest, err, sum(first))
				}
				diffID, err := l.DiffID()
				if err != nil || diffID.String() != sum(content) {
					t.Errorf("diff ID %v (%v), want %s", diffID, err, sum(content))
				}
				if size, err := l.Size(); err != nil || size != int64(len(first)) {
					t.Errorf("size %d (%v), want %d", size, err, len(first))
				}
				var decoder io.Reader
				if compression == Gzip {
					decoder, err = gzip.NewReader(bytes.NewReader(first))
				} else {
					decoder, err = zstd.NewReader(bytes.NewReader(first))
				}
				if err != nil {
					t.Fatal(err)
				}
				if got, err := io.ReadAll(decoder); err != nil || !bytes.Equal(got, content) {
					t.Errorf("decompressed to %d bytes (%v), want %d", len(got), err, len(content))
				}
			})
		}
	}
}

// TestMemory streams more than could be held.
func TestMemory(t *testing.T) {
	for _, compression := range []Compression{Zstd, Gzip} {
		t.Run(string(compression), func(t *testing.T) { testMemory(t, compression) })
	}
}

func testMemory(t *testing.T, compression Compression) {
	const total, most = 256 << 20, 64 << 20
	var peak uint64
	l := NewAs(context.Background(), compression, func(_ context.Context, w io.Writer) error {
		block := make([]byte, 1<<20)
		random := mathrand.NewChaCha8([32]byte{})
		var stats runtime.MemStats
		for range total >> 20 {
			_, _ = random.Read(block)
			if _, err := w.Write(block); err != nil {
				return err
			}
			runtime.ReadMemStats(&stats)
			peak = max(peak, stats.HeapAlloc)
		}
		return nil
	})
	body, err := l.Compressed()
	if err != nil {
		t.Fatal(err)
	}
	if n, err := io.Copy(io.Discard, body); err != nil || n < total {
		t.Fatalf("read %d bytes, %v", n, err)
	}
	if peak > most {
		t.Errorf("%d MiB of memory for %d MiB of data", peak>>20, total>>20)
	}
}

func TestFailures(t *testing.T) {
	broken := errors.New("the disk is broken")
	tests := map[string]struct {
		source Source
		want   string
	}{
		"at once": {func(context.Context, io.Writer) error { return broken }, "the disk is broken"},
		"on the way": {func(_ context.Context, w io.Writer) error {
			_, _ = w.Write(make([]byte, 10<<20))
			return broken
		}, "the disk is broken"},
		"panic": {func(context.Context, io.Writer) error { panic("oh") }, "panicked: oh"},
	}
	for name, test := range tests {
		t.Run(name, func(t *testing.T) {
			l := New(context.Background(), test.source)
			body, err := l.Compressed()
			if err != nil {
				t.Fatal(err)
			}
			if _, err := io.Copy(io.Discard, body); err == nil || !strings.Contains(err.Error(), test.want) {
				t.Errorf("the reader got %v", err)
			}
			if err := l.Err(); err == nil || !strings.Contains(err.Error(), test.want) {
				t.Errorf("Err is %v", err)
			}
			if _, err := l.Digest(); !errors.Is(err, stream.ErrNotComputed) {
				t.Errorf("a digest of a failed stream: %v", err)
			}
		})
	}
}

// TestGivenUp closes a stream half read: its source ends, and only then does
// the next attempt begin.
func TestGivenUp(t *testing.T) {
	running := 0
	endless := func(ctx context.Context, w io.Writer) error {
		if running++; running > 1 {
			t.Error("two attempts read the source at once")
		}
		defer func() { running-- }()
		block := make([]byte, 1<<20)
		for ctx.Err() == nil {
			_, _ = rand.Read(block)
			if _, err := w.Write(block); err != nil {
				return err
			}
		}
		return ctx.Err()
	}
	before := runtime.NumGoroutine()
	ctx, cancel := context.WithCancel(context.Background())
	l := New(ctx, endless)
	for range 3 {
		body, err := l.Compressed()
		if err != nil {
			t.Fatal(err)
		}
		if _, err := io.ReadFull(body, make([]byte, 100)); err != nil {
			t.Fatal(err)
		}
		if err := l.Err(); err != nil {
			t.Errorf("Err is %v while the source is read", err)
		}
	}
	body, _ := l.Compressed()
	_ = body.Close()
	if _, err := body.Read(make([]byte, 1)); !errors.Is(err, ErrReplayed) {
		t.Errorf("reading after closing: %v", err)
	}
	if err := l.Err(); err != nil {
		t.Errorf("Err is %v, but only the reader gave up", err)
	}

	body, _ = l.Compressed()
	cancel()
	if _, err := io.Copy(io.Discard, body); !errors.Is(err, context.Canceled) {
		t.Errorf("after cancelling: %v", err)
	}
	for range 1000 {
		if runtime.NumGoroutine() <= before {
			return
		}
		time.Sleep(10 * time.Millisecond)
	}
	t.Errorf("%d goroutines, %d before", runtime.NumGoroutine(), before)
}
