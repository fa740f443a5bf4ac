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
	"crypto/sha256"
	"encoding/hex"
	"sync"

	v1 "github.com/google/go-containerregistry/pkg/v1"
)

// digester hashes what is written to it beside the writer, on another core.
type digester struct {
	blocks chan []byte
	done   chan struct{}
	once   sync.Once
	hash   v1.Hash
	size   int64
	buf    []byte
}

// digestBlock is large enough for the hand-over to cost nothing against the
// hashing, and small enough to stay in the cache.
const digestBlock = 256 << 10

var digestBlocks = sync.Pool{New: func() any { b := make([]byte, 0, digestBlock); return &b }}

func newDigester() *digester {
	d := &digester{blocks: make(chan []byte, 4), done: make(chan struct{})}
	go d.run()
	return d
}

func (d *digester) run() {
	defer close(d.done)
	h := sha256.New()
	for block := range d.blocks {
		_, _ = h.Write(block) // never fails
		d.size += int64(len(block))
		block = block[:0]
		digestBlocks.Put(&block)
	}
	d.hash = v1.Hash{Algorithm: "sha256", Hex: hex.EncodeToString(h.Sum(nil))}
}

// Write copies p: its owner goes on using it.
func (d *digester) Write(p []byte) (int, error) {
	n := len(p)
	for len(p) > 0 {
		if d.buf == nil {
			d.buf = *digestBlocks.Get().(*[]byte)
		}
		take := min(len(p), digestBlock-len(d.buf))
		d.buf = append(d.buf, p[:take]...)
		p = p[take:]
		if len(d.buf) == digestBlock {
			d.flush()
		}
	}
	return n, nil
}

func (d *digester) flush() {
	if len(d.buf) > 0 {
		d.blocks <- d.buf
	}
	d.buf = nil
}

// stop ends the goroutine; it may be called more than once.
func (d *digester) stop() { d.once.Do(func() { close(d.blocks) }) }

// sum ends the writing and returns the digest and the number of bytes.
func (d *digester) sum() (v1.Hash, int64) {
	d.flush()
	d.stop()
	<-d.done
	return d.hash, d.size
}
