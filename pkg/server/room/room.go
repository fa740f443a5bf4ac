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

// Package room keeps an embedded etcd within its volume: how large its database may grow, when
// writes are refused and what is done before, and what a start can free. A full volume ends etcd, and
// it does not start in one.
package room

import (
	"fmt"

	"k8s.io/apimachinery/pkg/api/resource"
)

const (
	// MaxQuota is the largest database that etcd recommends.
	MaxQuota = 8 << 30
	// MinQuota is for volumes that are too small to be of use.
	MinQuota = 32 << 20
	// unknownQuota is for file systems that do not say how large they are: etcd's own default.
	unknownQuota = 2 << 30
	// Segment is the size of a file of etcd's log. Small ones bound what the log takes: each is
	// allocated whole, one ahead, and goes whole.
	Segment = 16 << 20
	// logRoom is what the log takes: the file that is written, one ahead, one that is kept, and one
	// that is about to go.
	logRoom = 4 * Segment
	// Headroom is what is set aside for the database beyond its end.
	Headroom = 32 << 20
	// startRoom is what a start takes: two files of the log, and what it writes to the database.
	startRoom = 2*Segment + 8<<20
	// fewFiles are too few for what etcd makes anew all the time.
	fewFiles = 64
)

// Quota is how much the database may hold on a volume: three fifths of what the log and the ballast
// leave. The rest is for what the controllers write when it is used up, and for a copy of the
// database while it is defragmented.
func Quota(total int64) int64 {
	if total <= 0 {
		return unknownQuota
	}
	return min(max((total-logRoom-ballastSize(total))/10*6, MinQuota), MaxQuota)
}

// Bound is what etcd itself refuses all writes beyond. It is above the quota, and above the size that
// its file has at the start: what frees room can still be written when nothing else is accepted.
func Bound(quota, size int64) int64 { return max(quota+quota/4, quota+2*Headroom, size+2*Headroom) }

func ballastSize(total int64) int64 { return min(total/16, 4*Segment) }

// reserve is what has to be left of a volume for writes that grow the store to be accepted.
func reserve(total int64) int64 { return min(max(total/16, 16<<20), 512<<20) }

// Usage is how much of what it may have a store uses.
type Usage struct {
	// Quota is what the database may hold, InUse what it holds, with the history that watches and
	// lists can go back to, and Size the size of its file, which never shrinks by itself.
	Quota, InUse, Size int64
	// Grown is what of InUse a compaction may give free. It fills no store: its writers wait for that compaction.
	Grown  int64
	Volume Volume
	// Alarmed says that etcd refuses all writes.
	Alarmed bool
}

// Level says how things are.
type Level int

// The levels.
const (
	Ample Level = iota
	// Low is told to administrators.
	Low
	// Full has writes refused that grow the store.
	Full
)

// Verdict is what usage comes to.
type Verdict struct {
	Level Level
	// Message says of what there is little, and what to do. Empty where there is enough.
	Message string
}

// Judge says how things are, after what they were said to be before: a level that has been reached
// is left a little lower, so that nothing changes to and fro at its edge.
func Judge(u Usage, before Level) Verdict {
	slack := func(level Level, percent int64) int64 {
		if before >= level {
			return percent - 5
		}
		return percent
	}
	database := fmt.Sprintf("its database holds %s of %s", bytes(u.InUse), bytes(u.Quota))
	volume := fmt.Sprintf("%s of %s are left in its volume", bytes(u.Volume.Available), bytes(u.Volume.Total))
	files := fmt.Sprintf("its volume has room for %d more files", u.Volume.Files)
	left, least := u.Volume.Available, reserve(u.Volume.Total)
	// A volume is judged by what is left: what others have on it is not ours to count.
	under := func(level Level, bound int64) bool {
		if before >= level {
			bound += bound / 4
		}
		return u.Volume.Total > 0 && left < bound
	}
	switch {
	case u.InUse-u.Grown >= u.Quota/100*slack(Full, 100):
		return Verdict{Full, database + ". " + remedyDatabase}
	case u.Alarmed:
		return Verdict{Full, "etcd refuses all writes (NOSPACE): " + database + ". " + remedyDatabase}
	case u.Volume.outOfFiles():
		return Verdict{Full, files + ". " + remedyVolume}
	case under(Full, least):
		return Verdict{Full, volume + ". " + remedyVolume}
	case u.InUse >= u.Quota/100*slack(Low, 70):
		return Verdict{Low, database + ". " + remedyDatabase}
	case under(Low, 3*least):
		return Verdict{Low, volume + ". " + remedyVolume}
	}
	return Verdict{}
}

const (
	remedyDatabase = "Delete sandboxes and snapshots that nobody needs, or give the server a larger volume"
	remedyVolume   = "Remove what else is in the volume, or give the server a larger one"
)

// bytes writes a number of bytes for people.
func bytes(n int64) string {
	for _, unit := range []struct {
		size int64
		name string
	}{{1 << 30, "GiB"}, {1 << 20, "MiB"}} {
		if n >= unit.size {
			return fmt.Sprintf("%.1f %s", float64(n)/float64(unit.size), unit.name)
		}
	}
	return resource.NewQuantity(max(n, 0)>>10, resource.DecimalSI).String() + " KiB"
}
