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

import (
	"context"
	"fmt"
	"slices"
	"testing"
	"time"

	clocktesting "k8s.io/utils/clock/testing"
)

func TestHistoryIsAPartOfTheRoom(t *testing.T) {
	const most, mostAtOnce = 4 << 20, 32 << 20 // of pkg/apiserver
	for _, row := range []struct {
		quota   int64
		percent int64
	}{
		{MinQuota, 50}, {64 << 20, 50}, {Quota(256 << 20), 36}, {256 << 20, 32}, {Quota(1 << 30), 25}, {6 << 30, 5}, {MaxQuota, 5},
	} {
		perSecond, atOnce := Pace(row.quota)
		perSecond, atOnce = min(perSecond, most), min(atOnce, mostAtOnce)
		// What a compaction leaves, what is written until the next, and until that is seen.
		lasts := shortHistory(row.quota) + compactEvery(row.quota) + 2*every
		if history := atOnce + perSecond*int64(lasts/time.Second); history > row.quota/100*row.percent+1<<20 {
			t.Errorf("of %s history may take %s, want at most %d %%", bytes(row.quota), bytes(history), row.percent)
		}
		if perSecond <= 0 || atOnce <= 1536<<10 {
			t.Errorf("of %s %s a second may be written and %s at once, which is less than an object", bytes(row.quota), bytes(perSecond), bytes(atOnce))
		}
	}
}

func TestCrowds(t *testing.T) {
	const mib = 1 << 20
	f := facts{Usage: Usage{Quota: 500 * mib, InUse: 450 * mib}, least: 390 * mib, written: true, sinceCompaction: time.Hour}
	with := func(change func(*facts)) facts {
		f := f
		change(&f)
		return f
	}
	for _, row := range []struct {
		name         string
		facts        facts
		before, want bool
	}{
		{"history takes half of what objects leave", f, false, true},
		{"it takes less", with(func(f *facts) { f.InUse = 440 * mib }), false, false},
		{"there is room", with(func(f *facts) { f.InUse, f.least = 370*mib, 0 }), true, false},
		{"nothing was written", with(func(f *facts) { f.written = false }), false, false},
		{"it was given up, which is not seen yet", with(func(f *facts) { f.least, f.sinceCompaction = 450*mib, time.Second }), true, true},
		{"it was given up, and objects are left", with(func(f *facts) { f.least, f.sinceCompaction = 450*mib, settling }), true, false},
		{"hardly any history, in a store that is nearly full of objects", with(func(f *facts) { f.InUse, f.least = 499*mib, 495*mib }), false, false},
		{"a full store", with(func(f *facts) { f.level = Full }), true, false},
		{"etcd refuses", with(func(f *facts) { f.Alarmed = true }), true, false},
	} {
		if got := crowds(row.facts, row.before); got != row.want {
			t.Errorf("%s: %t", row.name, got)
		}
	}
}

// history is a database that knows what each revision has added to it.
type history struct {
	database
	added map[int64]int64
}

func (h *history) write(bytes int64) {
	h.database.write(bytes)
	h.added[h.revision] = bytes
}

func (h *history) Compact(_ context.Context, revision int64) error {
	h.compactions = append(h.compactions, revision)
	for at, bytes := range h.added {
		if at < revision {
			h.pending += bytes
			delete(h.added, at)
		}
	}
	return nil
}

// TestHistoryNeverFillsAStoreOfAnySize has eight clients change one object as fast as they may, beside others that take more
// or less of the room, for three minutes; the keeper comes to it every second or, on a busy machine, every three.
func TestHistoryNeverFillsAStoreOfAnySize(t *testing.T) {
	const object, controllers = 310 << 10, 64 << 10
	for _, quota := range []int64{MinQuota, 64 << 20, Quota(256 << 20), Quota(1 << 30), MaxQuota} {
		for _, percent := range []int64{1, 50, 75, 88} {
			for _, lag := range []time.Duration{time.Second, 3 * time.Second} {
				t.Run(fmt.Sprintf("%s, %d %% objects, every %s", bytes(quota), percent, lag), func(t *testing.T) {
					k, plain, _ := newKeeper(t, quota)
					db := &history{*plain, map[int64]int64{}}
					clock := clocktesting.NewFakeClock(time.Date(2026, time.November, 30, 0, 0, 0, 0, time.UTC))
					k.Database, k.Clock = db, clock
					db.inUse, db.size = quota/100*percent, quota/100*percent
					perSecond, atOnce := k.Pace()
					perSecond, atOnce = min(perSecond, 4<<20), min(atOnce, 32<<20)
					tokens, written, longest, waits := atOnce, int64(0), time.Duration(0), time.Duration(0)
					for began := clock.Now(); clock.Since(began) < 3*time.Minute; clock.Step(lag) {
						tokens = min(tokens+perSecond*int64(lag/time.Second), atOnce)
						switch crowded := k.Crowded(); {
						case crowded != nil:
							waits += lag
							longest = max(longest, waits)
						default:
							waits = 0
							for ; tokens > 0; tokens -= object {
								db.write(object)
								written += object
							}
						}
						db.write(controllers)
						k.look(t.Context())
						if why, full := k.Full(); full {
							t.Fatalf("full of history after %s and %s, at revisions %v: %s", clock.Since(began), bytes(written), db.compactions, why)
						}
					}
					if longest > 4*time.Second {
						t.Errorf("writers waited for %s", longest)
					}
					if db.size > k.Bound {
						t.Errorf("the file has grown to %s, beyond %s", bytes(db.size), bytes(k.Bound))
					}
					if written < quota/16*10 && written < 100<<20 {
						t.Errorf("only %s were written", bytes(written))
					}
					if at := slices.IndexFunc(db.compactions, func(r int64) bool { return r > db.revision }); at >= 0 {
						t.Errorf("a compaction to revision %d of %d", db.compactions[at], db.revision)
					}
				})
			}
		}
	}
}
