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

// History is what a store keeps beside its objects: each write adds the whole object to it. Where there is much
// room it is bounded by time alone; where there is little it would fill that within seconds. So whatever bounds it follows
// the quota: how much may be written, how far back watches and lists can still go when room is short, and how often what is
// older is given up. With all of it history takes at most a half of the smallest store, and a quarter of a large one.
// Where it takes what is left nevertheless, because there are many objects or the disk is slow, writers wait for the next
// compaction (crowds); they are refused only for what no compaction gives free (Judge).

const (
	// ampleQuota is from where on a quota bounds no history but by time.
	ampleQuota = 512 << 20
	// longest and shortest are how far back watches and lists can go, and how often history is given up.
	longest, shortest = 10 * time.Second, 2 * time.Second
	// settling is how long a compaction takes to be seen, at most, in what is in use.
	settling = 2 * every
)

// Pace is how many bytes may be written to a store of a quota in a second, and how many at once.
func Pace(quota int64) (perSecond, atOnce int64) { return quota / 16, quota / 8 }

// shortHistory is how far back watches and lists can still go when room is short.
func shortHistory(quota int64) time.Duration { return scaled(quota) }

// compactEvery bounds how often history is given up: each time the whole database is read.
func compactEvery(quota int64) time.Duration { return scaled(quota) }

func scaled(quota int64) time.Duration {
	return min(max(longest/time.Duration(ampleQuota>>20)*time.Duration(quota>>20), shortest), longest)
}

// grown is what a compaction may give free: what came into use since the last one. It is none where that would not be
// worth one.
func (f *facts) grown() int64 {
	if grown := f.InUse - f.least; f.written && grown >= f.Quota/50 {
		return grown
	}
	return 0
}

// crowds says whether history has taken so much of the room that writers have to wait until it is given up; before is
// what was said before. It is not what fills a store that was full already.
func crowds(f facts, before bool) bool {
	switch {
	case f.InUse < f.Quota/4*3 || f.level == Full || f.Alarmed:
		return false
	case before && f.sinceCompaction < settling:
		return true
	}
	return f.grown() > 0 && f.grown() >= (f.Quota-f.least)/2
}
