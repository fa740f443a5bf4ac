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
	"errors"
	"os"
	"path/filepath"
	"testing"
	"time"

	clocktesting "k8s.io/utils/clock/testing"
)

// database is one in memory.
type database struct {
	path                  string
	size, inUse, revision int64
	// history is what a compaction gives free, pending what it has given free and the next write takes
	// from it.
	history, pending int64
	alarmed          bool
	compactions      []int64
	defragmented     int
}

func (d *database) Path() string                     { return d.path }
func (d *database) Sizes() (int64, int64)            { return d.size, d.inUse + d.history }
func (d *database) Revision() int64                  { return d.revision }
func (d *database) Alarmed() bool                    { return d.alarmed }
func (d *database) Disarm(ctx context.Context) error { d.alarmed = false; return d.Touch(ctx) }
func (d *database) Defragment() error {
	d.defragmented++
	d.history -= d.pending
	d.pending, d.size = 0, d.inUse+d.history
	return nil
}

func (d *database) Touch(context.Context) error {
	d.revision++
	d.history -= d.pending
	d.pending = 0
	return nil
}

func (d *database) Compact(_ context.Context, revision int64) error {
	if len(d.compactions) > 0 && d.compactions[len(d.compactions)-1] >= revision {
		return errors.New("compacted already")
	}
	d.compactions = append(d.compactions, revision)
	d.pending = d.history
	return nil
}

// write adds history, in a file that grows where it has no free pages.
func (d *database) write(bytes int64) {
	d.revision++
	d.history += bytes - d.pending
	d.pending = 0
	d.size = max(d.size, d.inUse+d.history)
}

func newKeeper(t *testing.T, quota int64) (*Keeper, *database, *clocktesting.FakeClock) {
	dir := t.TempDir()
	path := filepath.Join(dir, "db")
	if err := os.WriteFile(path, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	db := &database{path: path, size: 10 << 20, inUse: 10 << 20, revision: 1}
	clock := clocktesting.NewFakeClock(time.Date(2026, time.November, 30, 0, 0, 0, 0, time.UTC))
	return &Keeper{DataDir: dir, Database: db, Quota: quota, Bound: Bound(quota, 0), Clock: clock}, db, clock
}

// TestHistoryNeverFillsAStore writes one object for ten minutes, as fast as a small disk does.
func TestHistoryNeverFillsAStore(t *testing.T) {
	k, db, clock := newKeeper(t, 500<<20)
	for range 600 {
		db.write(20 << 20)
		k.look(t.Context())
		clock.Step(time.Second)
		if why, full := k.Full(); full {
			t.Fatalf("full of history, after %d compactions: %s", len(db.compactions), why)
		}
	}
	if db.size > k.Bound {
		t.Errorf("the file has grown to %s", bytes(db.size))
	}
	if len(db.compactions) < 10 {
		t.Errorf("%d compactions", len(db.compactions))
	}
}

func TestAdministratorsAreTold(t *testing.T) {
	k, db, clock := newKeeper(t, 500<<20)
	var told []string
	k.Tell = func(_ context.Context, reason, _ string) { told = append(told, reason) }
	// As if nothing were history.
	look := func(inUse int64, rounds int) {
		db.inUse = inUse << 20
		for range rounds {
			k.look(t.Context())
			clock.Step(time.Second)
		}
	}
	want := func(reasons ...string) {
		t.Helper()
		if len(told) != len(reasons) {
			t.Fatalf("told %v, want %v", told, reasons)
		}
		for i := range told {
			if told[i] != reasons[i] {
				t.Fatalf("told %v, want %v", told, reasons)
			}
		}
	}
	look(300, 100)
	want()
	look(400, 20)
	want()
	look(400, 20)
	want(ReasonLow)
	look(500, 1)
	want(ReasonLow, ReasonFull)
	look(500, 1800)
	want(ReasonLow, ReasonFull)
	look(500, 1800)
	want(ReasonLow, ReasonFull, ReasonFull)
	look(100, 10)
	if _, full := k.Full(); full {
		t.Error("still full")
	}
	want(ReasonLow, ReasonFull, ReasonFull)
}

// TestAFullStoreThatNobodyMayWriteToBecomesFree: what was deleted is given free by a compaction, and
// counts as free only after a write.
func TestAFullStoreThatNobodyMayWriteToBecomesFree(t *testing.T) {
	k, db, clock := newKeeper(t, 500<<20)
	db.inUse = 510 << 20
	// Twice: what of it is history the first compaction says.
	k.look(t.Context())
	k.look(t.Context())
	if _, full := k.Full(); !full {
		t.Fatal("not full")
	}
	db.inUse, db.history = 10<<20, 500<<20
	db.revision += 100
	for range 60 {
		clock.Step(time.Second)
		k.look(t.Context())
	}
	if why, full := k.Full(); full {
		t.Errorf("still full: %s", why)
	}
	if len(db.compactions) > 3 {
		t.Errorf("%d compactions", len(db.compactions))
	}
}

func TestAnAlarmEnds(t *testing.T) {
	k, db, clock := newKeeper(t, 500<<20)
	db.size, db.history, db.alarmed = k.Bound, 400<<20, true
	for range 60 {
		db.revision++
		k.look(t.Context())
		clock.Step(time.Second)
	}
	if db.alarmed || db.defragmented != 1 {
		t.Errorf("alarmed: %t; defragmented %d times, to %s", db.alarmed, db.defragmented, bytes(db.size))
	}
}

func TestTheBallastIsMadeOnce(t *testing.T) {
	k, _, _ := newKeeper(t, 500<<20)
	for range 3 {
		k.look(t.Context())
	}
	info, err := os.Stat(ballastPath(k.DataDir))
	if err != nil {
		t.Fatal(err)
	}
	if want := ballastSize(k.usage.Volume.Total); info.Size() != want {
		t.Errorf("it has %d bytes, want %d", info.Size(), want)
	}
}
