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
	"strings"
	"testing"
	"time"
)

func TestQuota(t *testing.T) {
	for _, row := range []struct {
		total, want int64
	}{
		{0, 2 << 30},
		{64 << 20, MinQuota},
		{1 << 30, 540 << 20},
		{10 << 30, 6 << 30},
		{100 << 30, MaxQuota},
	} {
		got := Quota(row.total)
		if got > row.want || got < row.want/100*90 {
			t.Errorf("of %s: %s, want a little less than %s", bytes(row.total), bytes(got), bytes(row.want))
		}
		// All that etcd may take, beside one another.
		if all := Bound(got, 0) + logRoom + ballastSize(row.total); row.total >= 512<<20 && all > row.total/100*95 {
			t.Errorf("of %s: database, log and ballast may take %s", bytes(row.total), bytes(all))
		}
	}
}

func TestThereIsAlwaysRoomForDeletions(t *testing.T) {
	for _, row := range []struct{ quota, size int64 }{{MinQuota, 0}, {500 << 20, 400 << 20}, {500 << 20, 900 << 20}, {MaxQuota, 9 << 30}} {
		if left := Bound(row.quota, row.size) - max(row.quota, row.size); left < 2*Headroom {
			t.Errorf("of a file of %s with a quota of %s: %s", bytes(row.size), bytes(row.quota), bytes(left))
		}
	}
}

func TestJudge(t *testing.T) {
	const gib = 1 << 30
	ample := Usage{Quota: 6 * gib, InUse: gib, Size: 2 * gib, Volume: Volume{Total: 10 * gib, Available: 7 * gib, Files: -1}}
	with := func(change func(*Usage)) Usage {
		u := ample
		change(&u)
		return u
	}
	for _, row := range []struct {
		name   string
		usage  Usage
		before Level
		want   Level
		says   string
	}{
		{"there is room", ample, Ample, Ample, ""},
		{"there is room again", ample, Full, Ample, ""},
		{"the database fills", with(func(u *Usage) { u.InUse = 6 * gib / 10 * 7 }), Ample, Low, "4.2 GiB of 6.0 GiB"},
		{"a little below", with(func(u *Usage) { u.InUse = 6 * gib / 100 * 67 }), Ample, Ample, ""},
		{"a little below again", with(func(u *Usage) { u.InUse = 6 * gib / 100 * 67 }), Low, Low, "Delete sandboxes"},
		{"the database is full", with(func(u *Usage) { u.InUse = 6 * gib }), Low, Full, "6.0 GiB of 6.0 GiB"},
		{"nearly full again", with(func(u *Usage) { u.InUse = 6 * gib / 100 * 96 }), Full, Full, ""},
		{"history fills it", with(func(u *Usage) { u.InUse, u.Grown = 6*gib, gib/2 }), Ample, Low, "6.0 GiB of 6.0 GiB"},
		{"its file was full once", with(func(u *Usage) { u.Size = 7 * gib }), Ample, Ample, ""},
		{"etcd refuses", with(func(u *Usage) { u.Alarmed = true }), Ample, Full, "NOSPACE"},
		{"others fill the volume", with(func(u *Usage) { u.Volume.Available = gib }), Ample, Low, "1.0 GiB of 10.0 GiB are left"},
		{"others have filled it", with(func(u *Usage) { u.Volume.Available = 500 << 20 }), Ample, Full, "Remove what else"},
		{"others give a little back", with(func(u *Usage) { u.Volume.Available = 600 << 20 }), Full, Full, ""},
		{"others have taken all files", with(func(u *Usage) { u.Volume.Files = 3 }), Ample, Full, "3 more files"},
		{"a file system that does not say", with(func(u *Usage) { u.Volume = Volume{Files: -1} }), Ample, Ample, ""},
	} {
		t.Run(row.name, func(t *testing.T) {
			got := Judge(row.usage, row.before)
			if got.Level != row.want || !strings.Contains(got.Message, row.says) || (got.Level == Ample) != (got.Message == "") {
				t.Errorf("got %+v, want level %d and %q", got, row.want, row.says)
			}
		})
	}
}

func TestDecide(t *testing.T) {
	const mib = 1 << 20
	quiet := facts{
		Usage: Usage{Quota: 500 * mib, InUse: 100 * mib, Size: 110 * mib, Volume: Volume{Total: 1 << 30, Available: 700 * mib}},
		bound: 625 * mib, sinceCompaction: time.Hour, sinceDefragmentation: time.Hour, least: 90 * mib, written: true, older: true,
	}
	with := func(change func(*facts)) facts {
		f := quiet
		change(&f)
		return f
	}
	for _, row := range []struct {
		name  string
		facts facts
		want  chores
	}{
		{"nothing to do", quiet, chores{}},
		{"history takes half of the quota", with(func(f *facts) { f.InUse, f.Size = 260*mib, 270*mib }), chores{compact: true}},
		{"it was given up just now", with(func(f *facts) { f.InUse, f.Size, f.sinceCompaction = 260*mib, 270*mib, time.Second }), chores{}},
		{"all of it is of the last seconds", with(func(f *facts) { f.InUse, f.Size, f.older = 260*mib, 270*mib, false }), chores{}},
		{"writers wait for it", with(func(f *facts) { f.InUse, f.Size, f.older, f.crowded = 440*mib, 450*mib, false, true }), chores{compact: true, touch: true}},
		{"writers wait, and it was given up just now", with(func(f *facts) { f.InUse, f.Size, f.crowded, f.sinceCompaction = 440*mib, 450*mib, true, time.Second }), chores{touch: true}},
		{"what is left is no history", with(func(f *facts) { f.InUse, f.Size, f.least = 260*mib, 270*mib, 250*mib }), chores{}},
		{"full, and somebody has deleted", with(func(f *facts) { f.InUse, f.Size, f.least, f.level = 500*mib, 510*mib, 500*mib, Full }), chores{compact: true, touch: true}},
		{"full, and nothing was written", with(func(f *facts) { f.InUse, f.Size, f.least, f.level, f.written = 500*mib, 510*mib, 500*mib, Full, false }), chores{touch: true}},
		{"a large file with little in it", with(func(f *facts) { f.InUse, f.Size = 100*mib, 510*mib }), chores{defragment: true}},
		{"the same a while ago", with(func(f *facts) { f.InUse, f.Size, f.sinceDefragmentation = 100*mib, 510*mib, time.Minute }), chores{}},
		{"a large file in a volume with room", with(func(f *facts) { f.InUse, f.Size = 100*mib, 400*mib }), chores{}},
		{"a large file in a volume that fills", with(func(f *facts) { f.InUse, f.Size, f.level, f.Volume.Available = 50*mib, 400*mib, Low, 100*mib }), chores{defragment: true}},
		{"no room for a copy", with(func(f *facts) { f.InUse, f.Size, f.level, f.Volume.Available = 100*mib, 400*mib, Low, 100*mib }), chores{}},
		{"too much to copy while others wait", with(func(f *facts) {
			f.Quota, f.InUse, f.Size, f.least, f.Volume = 6000*mib, 2500*mib, 6100*mib, 2500*mib, Volume{Total: 10 << 30, Available: 3 << 30}
		}), chores{}},
		{"etcd takes nothing, so nobody waits", with(func(f *facts) {
			f.Quota, f.bound, f.InUse, f.Size, f.least, f.Volume = 6000*mib, 7500*mib, 2500*mib, 7500*mib, 2500*mib, Volume{Total: 10 << 30, Available: 3 << 30}
			f.Alarmed = true
		}), chores{compact: true, defragment: true}},
		{"etcd takes nothing, and could", with(func(f *facts) { f.Alarmed, f.Size, f.written = true, 120*mib, false }), chores{disarm: true}},
	} {
		t.Run(row.name, func(t *testing.T) {
			if got := decide(row.facts); got != row.want {
				t.Errorf("got %+v, want %+v", got, row.want)
			}
		})
	}
}
