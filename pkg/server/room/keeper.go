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
	"fmt"
	"math"
	"sync/atomic"
	"time"

	"golang.org/x/sys/unix"
	"k8s.io/klog/v2"
	"k8s.io/utils/clock"
)

// Database is the etcd that is kept.
type Database interface {
	// Path is its file.
	Path() string
	// Sizes are those of its file and of what that holds.
	Sizes() (size, inUse int64)
	// Revision is the newest.
	Revision() int64
	// Alarmed says whether it refuses all writes for want of room; Disarm ends that.
	Alarmed() bool
	Disarm(ctx context.Context) error
	// Touch writes next to nothing.
	Touch(ctx context.Context) error
	// Compact gives up all history before a revision.
	Compact(ctx context.Context, revision int64) error
	// Defragment makes its file as small as what it holds. Nothing is answered meanwhile.
	Defragment() error
}

// Keeper looks after the room of a store.
type Keeper struct {
	// DataDir has the ballast, and is on the volume.
	DataDir  string
	Database Database
	// Quota is what the database may hold.
	Quota int64
	// Bound is what etcd refuses all writes beyond.
	Bound int64
	Clock clock.WithTicker
	// Tell leaves word where administrators look. Nil: only the log has it.
	Tell func(ctx context.Context, reason, message string)

	verdict atomic.Pointer[Verdict]
	// crowded is closed when writers need not wait any more; nil where they need not.
	crowded atomic.Pointer[chan struct{}]
	usage   Usage

	// history are revisions of the last seconds, the oldest first.
	history []moment
	// compacted is the revision that the last compaction went to, least the least that was in use
	// since.
	compacted, least int64
	// touches are revisions since then that are the keeper's own.
	touches                     int64
	compactedAt, defragmentedAt time.Time
	// since is when the level was reached, told when somebody was told last, complained when
	// something was logged last that goes wrong each time.
	since, told, complained time.Time
}

type moment struct {
	at       time.Time
	revision int64
}

const (
	// every is how often the volume is looked at. Whoever fills it needs longer for the reserve.
	every = time.Second
	// patience is for how long there has to be little room before anybody is told: history may
	// have taken it, which goes by itself.
	patience = 30 * time.Second
	// tellEvery is how often somebody is told again: events are kept for an hour.
	tellEvery = time.Hour
)

// Reasons of events.
const (
	ReasonLow  = "StoreLow"
	ReasonFull = "StoreFull"
)

// Full says why writes that grow the store are refused; ok where they are not.
func (k *Keeper) Full() (message string, full bool) {
	if verdict := k.verdict.Load(); verdict != nil && verdict.Level == Full {
		return verdict.Message, true
	}
	return "", false
}

// Pace is how many bytes may be written in a second, and how many at once.
func (k *Keeper) Pace() (perSecond, atOnce int64) { return Pace(k.Quota) }

// Crowded is what writers wait for: closed once there is room; nil where there is some.
func (k *Keeper) Crowded() <-chan struct{} {
	if crowded := k.crowded.Load(); crowded != nil {
		return *crowded
	}
	return nil
}

// haveWait has writers wait, or go on.
func (k *Keeper) haveWait(crowded bool) {
	switch before := k.crowded.Load(); {
	case crowded && before == nil:
		room := make(chan struct{})
		k.crowded.Store(&room)
	case !crowded && before != nil:
		k.crowded.Store(nil)
		close(*before)
	}
}

// Run keeps house until ctx ends.
func (k *Keeper) Run(ctx context.Context) {
	defer k.haveWait(false)
	ticker := k.Clock.NewTicker(every)
	defer ticker.Stop()
	for {
		k.look(ctx)
		select {
		case <-ticker.C():
		case <-ctx.Done():
			return
		}
	}
}

// look does one round.
func (k *Keeper) look(ctx context.Context) {
	now := k.Clock.Now()
	if err := k.measure(); err != nil {
		k.haveWait(false)
		k.complain(err)
		return
	}
	k.remember(now)
	before := k.level()
	seen := k.facts(now)
	if before != Full {
		k.usage.Grown = seen.grown()
	}
	verdict := Judge(k.usage, before)
	if before != verdict.Level || k.since.IsZero() {
		k.since = now
		if before == Full || verdict.Level == Full {
			klog.InfoS("The room of the store has changed", "full", verdict.Level == Full, "why", verdict.Message)
		}
	}
	k.verdict.Store(&verdict)
	observe(k.usage, verdict.Level)
	k.announce(ctx, now, verdict)

	seen = k.facts(now)
	seen.crowded = crowds(seen, k.Crowded() != nil)
	k.haveWait(seen.crowded)
	k.act(ctx, now, decide(seen))
	k.setAside()
}

func (k *Keeper) level() Level {
	if verdict := k.verdict.Load(); verdict != nil {
		return verdict.Level
	}
	return Ample
}

func (k *Keeper) measure() error {
	volume, err := ReadVolume(k.DataDir)
	if err != nil {
		return err
	}
	size, inUse := k.Database.Sizes()
	k.usage = Usage{Quota: k.Quota, InUse: inUse, Size: size, Volume: volume, Alarmed: k.Database.Alarmed()}
	return nil
}

// announce tells those who can do something about it, once an hour while it lasts.
func (k *Keeper) announce(ctx context.Context, now time.Time, verdict Verdict) {
	reason := ""
	switch {
	case verdict.Level == Full:
		reason = ReasonFull
	case verdict.Level == Low && now.Sub(k.since) >= patience:
		reason = ReasonLow
	}
	// What has become worse is told at once.
	if reason == "" || now.Sub(k.told) < tellEvery && (verdict.Level != Full || !k.told.Before(k.since)) {
		return
	}
	k.told = now
	message := "The store of the sandboxes has little room: " + verdict.Message
	if verdict.Level == Full {
		message = "The store of the sandboxes is full, and takes only deletions and what frees room: " + verdict.Message
	}
	klog.ErrorS(nil, message)
	if k.Tell != nil {
		k.Tell(ctx, reason, message)
	}
}

// remember notes the revision of this moment, and forgets those that are no longer needed.
func (k *Keeper) remember(now time.Time) {
	k.history = append(k.history, moment{now, k.Database.Revision()})
	for len(k.history) > 1 && now.Sub(k.history[1].at) >= shortHistory(k.Quota) {
		k.history = k.history[1:]
	}
	if k.usage.InUse < k.least {
		k.least = k.usage.InUse
	}
}

// target is the revision that a compaction would go to: that of some seconds ago, or the newest known
// where writes are refused anyhow, or wait.
func (k *Keeper) target() int64 {
	if k.level() == Full || k.usage.Alarmed || k.Crowded() != nil {
		return k.history[len(k.history)-1].revision
	}
	return k.history[0].revision
}

func (k *Keeper) facts(now time.Time) facts {
	since := func(t time.Time) time.Duration {
		if t.IsZero() {
			return math.MaxInt64
		}
		return now.Sub(t)
	}
	return facts{
		Usage:                k.usage,
		level:                k.level(),
		bound:                k.Bound,
		sinceCompaction:      since(k.compactedAt),
		sinceDefragmentation: since(k.defragmentedAt),
		least:                k.least,
		written:              k.history[len(k.history)-1].revision > k.compacted+k.touches,
		older:                k.history[0].revision > k.compacted+k.touches,
	}
}

func (k *Keeper) act(ctx context.Context, now time.Time, c chores) {
	if c.compact {
		revision := k.target()
		k.compactedAt, k.compacted, k.least, k.touches = now, revision, k.usage.InUse, 0
		if err := k.Database.Compact(ctx, revision); err != nil {
			k.complain(fmt.Errorf("giving up the store's history before revision %d: %w", revision, err))
		}
	}
	if c.touch {
		k.touches++
		if err := k.Database.Touch(ctx); err != nil {
			k.complain(fmt.Errorf("writing to the store: %w", err))
		}
	}
	if c.defragment {
		k.defragmentedAt = now
		before := k.usage.Size
		began := k.Clock.Now()
		if err := k.Database.Defragment(); err != nil {
			k.complain(fmt.Errorf("defragmenting the store: %w", err))
		} else {
			after, _ := k.Database.Sizes()
			klog.InfoS("Defragmented the store", "before", bytes(before), "after", bytes(after), "took", k.Clock.Since(began))
		}
	}
	if c.disarm {
		if err := k.Database.Disarm(ctx); err != nil {
			k.complain(fmt.Errorf("having etcd take writes again: %w", err))
		} else {
			klog.InfoS("There is room again: etcd takes writes", "size", bytes(k.usage.Size))
		}
	}
}

// setAside takes room for the database beyond its end, and for the next start, while there is some.
func (k *Keeper) setAside() {
	if err := hold(k.Database.Path(), k.usage.Size+Headroom); err != nil && !errors.Is(err, unix.ENOSPC) && !errors.Is(err, unix.EOPNOTSUPP) {
		k.complain(fmt.Errorf("setting room aside for the store: %w", err))
	}
	volume := k.usage.Volume
	size := ballastSize(volume.Total)
	if volume.Total <= 0 || volume.Available-size < 2*reserve(volume.Total) {
		return
	}
	if err := makeBallast(k.DataDir, size); err != nil {
		k.complain(err)
	}
}

// complain logs what goes wrong each second once a minute.
func (k *Keeper) complain(err error) {
	if now := k.Clock.Now(); now.Sub(k.complained) >= time.Minute {
		k.complained = now
		klog.ErrorS(err, "Cannot keep house in the store")
	}
}
