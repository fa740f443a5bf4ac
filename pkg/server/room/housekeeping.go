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

package room

import "time"

// Times of the housekeeping.
const (
	// compactWhenFull is how often in a store that is full, where each deletion of an object with finalizers
	// writes it once more before it goes, or where writers wait.
	compactWhenFull = 2 * time.Second
	// compactAnyway is how often in a full store that does not grow: for what was deleted.
	compactAnyway = 30 * time.Second
	// defragmentEvery bounds how often the database is copied: nothing is answered meanwhile.
	defragmentEvery = 5 * time.Minute
	// defragmentAlarmed is how often where nothing is written anyhow.
	defragmentAlarmed = 10 * time.Second
	// defragmentAtOnce is what is copied within a second or two.
	defragmentAtOnce = 256 << 20
)

// facts are what the housekeeping goes by.
type facts struct {
	Usage
	level Level
	// crowded says that writers wait for room.
	crowded bool
	// bound is what etcd refuses all writes beyond.
	bound int64
	// sinceCompaction and sinceDefragmentation are how long ago those were begun last.
	sinceCompaction, sinceDefragmentation time.Duration
	// least is the least that was in use since the last compaction: what that could not free.
	least int64
	// written says whether anything was written since the last compaction, and older whether any of that is older than
	// what watches and lists can still go back to.
	written, older bool
}

// chores are what the store needs to have done.
type chores struct {
	// compact gives up history but for the last seconds.
	compact bool
	// defragment gives the free pages of the database's file back to the volume.
	defragment bool
	// disarm has etcd take writes again.
	disarm bool
	// touch writes next to nothing. The pages that a compaction gives free count as used until the next
	// write, and in a full store, or where all writers wait, there might be none.
	touch bool
}

// decide says what to do. etcd compacts by itself what is older than minutes; where those minutes
// are more than the store can hold, history is given up earlier. What is freed by that is used
// again for what is written next; the file is made smaller only where its size itself is in the way.
func decide(f facts) chores {
	var c chores
	full := f.level == Full || f.Alarmed
	switch grown := f.InUse - f.least; {
	case !f.written:
	case full && f.sinceCompaction >= compactAnyway:
		c.compact = true
	case (full || f.crowded) && grown >= f.Quota/50:
		c.compact = f.sinceCompaction >= compactWhenFull
	case f.older && f.InUse >= f.Quota/2 && grown >= f.Quota/10:
		c.compact = f.sinceCompaction >= compactEvery(f.Quota)
	}

	free := f.Size - f.InUse
	worthIt := free >= max(f.Size/2, 2*Segment) || f.Alarmed && free >= f.Size/4
	inTheWay := f.Alarmed || f.Size >= f.Quota || f.level > Ample
	quick := f.InUse <= defragmentAtOnce || f.Alarmed
	fits := f.Volume.Total <= 0 || f.Volume.Available >= f.InUse+f.InUse/8+Segment
	due := f.sinceDefragmentation >= defragmentEvery || f.Alarmed && f.sinceDefragmentation >= defragmentAlarmed
	c.defragment = worthIt && inTheWay && quick && fits && due
	c.touch = f.crowded || f.level == Full && !f.Alarmed && f.InUse >= f.Quota/100*90
	c.disarm = f.Alarmed && f.Size < f.bound-f.bound/20
	return c
}
