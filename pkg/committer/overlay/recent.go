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
	"hash/maphash"

	"golang.org/x/sys/unix"
)

// recent sums up what a first pass writes for an entry whose change time is not before the
// limit. When it has the same time at the second pass, nobody knows by that whether it has
// changed; writing it once more and comparing the sums does. That takes a reading from the
// page cache, where it was written just before, and not a second time its bytes in a layer.
//
// The sums are of 64 bits, by a seed that no container knows.
type recent struct {
	limit unix.Timespec
	seed  maphash.Seed
	hash  maphash.Hash
}

// concerns is whether an entry needs a sum. What files with several names are written as
// depends on the others: they are written again.
func (r *recent) concerns(st *unix.Stat_t) bool {
	return r != nil && st.Ctim.Nano() >= r.limit.Nano() && (st.Nlink < 2 || st.Mode&unix.S_IFMT == unix.S_IFDIR)
}

// begin sums up what the writer writes from now on.
func (r *recent) begin(t *writer, st *unix.Stat_t) {
	if !r.concerns(st) {
		return
	}
	r.hash.SetSeed(r.seed)
	t.out.sum = &r.hash
}

// take ends what begin has begun, and returns the sum; 0 without one.
func (r *recent) take(t *writer, st *unix.Stat_t) uint64 {
	if t.out.sum == nil {
		return 0
	}
	t.out.sum = nil
	if !r.concerns(st) {
		return 0
	}
	return r.hash.Sum64()
}

// sumOf is the sum of what write writes, which goes nowhere.
func (t *writer) sumOf(write func() error) (uint64, error) {
	if t.changes.none.buf == nil {
		t.changes.none.buf = make([]byte, 256<<10)
	}
	out, stats := t.out, t.stats
	defer func() { t.out, t.stats, t.summing = out, stats, false }()
	t.summing = true
	var hash maphash.Hash
	hash.SetSeed(t.changes.seed)
	t.out = &sink{to: t.changes.none, sum: &hash}
	err := write()
	return hash.Sum64(), err
}
