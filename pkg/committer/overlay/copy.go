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
	"context"
	"errors"
	"fmt"
	"hash/maphash"
	"io"
	"slices"
	"time"

	"golang.org/x/sys/unix"
)

var (
	// ErrNoPromise is what BeginCopy fails with, and Copy.Valid: what changes from
	// now on could not be told from what does not.
	ErrNoPromise = errors.New("changes cannot be told by their times")

	// ErrAgain is what Changes fails with when it has to be called once more, with
	// a new writer: it found names of files that it had left out.
	ErrAgain = errors.New("names of one file were met apart")
)

// Copy reads a directory twice: First while its container runs, and Changes,
// once it is frozen, only what changed since. The layer of Changes lies upon
// that of First.
//
// What makes that exact:
//
//   - The beginning is a time of the clock that the kernel stamps files with
//     (CLOCK_REALTIME_COARSE, see current_time in fs/inode.c): every later change
//     of a file, its attributes or its names leaves a change time that is not
//     before it. Change times cannot be set. It is put back by some seconds (grace),
//     and to a whole one: see kernelClock. What is stamped after that and is as it was
//     stamped then is compared by what it is written as.
//   - A page that a process has mapped and made dirty before stays writable, and
//     does not move the change time, until it is written back (file_update_time is
//     called when the page is made writable, page_mkwrite). Therefore syncfs after
//     the beginning and before the first read: writing a page back takes its
//     write permission (folio_clear_dirty_for_io, folio_mkclean), and the next
//     write faults and is stamped. Where syncfs takes long, because of what others
//     have written, each file is written back on its own, before it is read.
//   - write(2) stamps a file before it copies the data, so that one which was
//     under way at the beginning has an old stamp and may still be copying when
//     the file is read. It holds the inode's lock meanwhile: asking for the first
//     data with lseek(2) waits for it (ext4_llseek, btrfs_file_llseek; XFS takes
//     the lock to read). Direct writes to allocated blocks share that lock, and
//     syncfs waits for none of them: those that take no longer than the grace have
//     a stamp that counts as new.
//   - A rename stamps what it moves, and all that it moves is compared by name.
//   - While frozen nothing is synced: what processes wrote is in the page cache,
//     from where it is read.
//
// A file that is deleted between the passes is deleted by the second layer; its
// content stays in the first.
type Copy struct {
	path    string
	options Options
	limit   unix.Timespec // who is stamped before has not changed
	seed    maphash.Seed
	clock   Clock
	// eachFile is whether files have still to be written back, one by one.
	eachFile bool

	record *recording
	// together are files of which every name is written again.
	together map[inode]bool
}

// magics are the file systems that keep the promises that Copy needs. tmpfs
// does not: its mapped pages are never made read-only again.
var magics = map[int64]bool{unix.EXT4_SUPER_MAGIC: true, unix.XFS_SUPER_MAGIC: true, unix.BTRFS_SUPER_MAGIC: true}

// syncTime is how long the whole file system may take to be written back. It is
// shared with all that the node's other containers have written.
const syncTime = 2 * time.Second

// BeginCopy marks the beginning. Its error is ErrNoPromise where the directory
// has to be read at once.
func BeginCopy(ctx context.Context, path string, o Options) (_ *Copy, err error) {
	c := &Copy{path: path, options: o, clock: o.Clock, together: map[inode]bool{}, seed: maphash.MakeSeed()}
	disks, err := c.disks()
	if err != nil {
		return nil, err
	}
	defer closeAll(disks)
	if c.clock == nil {
		if c.clock, err = watchClock(); err != nil {
			return nil, fmt.Errorf("%w: %w", ErrNoPromise, err)
		}
	}
	defer func() {
		if err != nil {
			c.Close()
		}
	}()
	// Before the first file is looked at, and after the clock is watched.
	past, err := c.clock.Past()
	if err != nil {
		return nil, fmt.Errorf("%w: asking for the time: %w", ErrNoPromise, err)
	}
	c.limit = unix.NsecToTimespec(past.UnixNano())
	for _, disk := range disks {
		synced, err := syncFS(ctx, disk.fd, syncTime)
		c.eachFile = c.eachFile || !synced
		if err != nil {
			return nil, err
		}
	}
	return c, nil
}

// disks opens one directory of each file system that is read, and fails where one of them does
// not keep the promises.
func (c *Copy) disks() (disks []*directory, err error) {
	defer func() {
		if err != nil {
			closeAll(disks)
		}
	}()
	for _, one := range c.options.branches(c.path) {
		dir, _, err := openRoot(one.dir)
		if err != nil {
			return disks, err
		}
		if slices.ContainsFunc(disks, func(other *directory) bool { return other.id.dev == dir.id.dev }) {
			dir.close()
			continue
		}
		disks = append(disks, dir)
		var fs unix.Statfs_t
		if err := unix.Fstatfs(dir.fd, &fs); err != nil {
			return disks, fmt.Errorf("asking for the file system of %s: %w", one.dir, err)
		}
		if !magics[int64(fs.Type)] {
			return disks, fmt.Errorf("%w: the file system (type %#x) is none of ext4, XFS and Btrfs", ErrNoPromise, fs.Type)
		}
	}
	return disks, nil
}

// syncFS returns whether all was written back in time.
func syncFS(ctx context.Context, fd int, limit time.Duration) (bool, error) {
	own, err := unix.FcntlInt(uintptr(fd), unix.F_DUPFD_CLOEXEC, 0)
	if err != nil {
		return false, err
	}
	done := make(chan error, 1)
	go func() { // it cannot be interrupted
		done <- unix.Syncfs(own)
		_ = unix.Close(own)
	}()
	timer := time.NewTimer(limit)
	defer timer.Stop()
	select {
	case err := <-done:
		if err != nil {
			return false, fmt.Errorf("%w: writing the file system back: %w", ErrNoPromise, err)
		}
		return true, nil
	case <-timer.C:
		return false, nil
	case <-ctx.Done():
		return false, ctx.Err()
	}
}

// Clock is what files are stamped with.
type Clock interface {
	// Past is before every stamp from now on, unless the clock is set.
	Past() (time.Time, error)
	// WasSet fails when the clock was set since it is watched.
	WasSet() error
	Close()
}

// grace is how far a change may lie behind its stamp.
//
// A page fault is stamped before it waits for the journal or for room, and only then may
// the page be written to; a direct or asynchronous write is stamped when it is begun. What
// was stamped before the beginning and is under way for no longer than this is taken for
// changed. It costs that what was written just before the beginning is read twice, but
// not written twice: see recent.go.
const grace = 5 * time.Second

// kernelClock is a timer that the clock's being set ends.
type kernelClock struct {
	timer int
	// grace is taken off, and unit is what the coarsest of the file systems stamps in: ext2,
	// ext3 and ext4 with inodes of 128 bytes (mkfs.ext4 -I 128) know only whole seconds, and
	// all of them have the same magic number.
	grace, unit time.Duration
}

func watchClock() (Clock, error) {
	fd, err := unix.TimerfdCreate(unix.CLOCK_REALTIME, unix.TFD_NONBLOCK|unix.TFD_CLOEXEC)
	if err != nil {
		return nil, fmt.Errorf("timerfd_create: %w", err)
	}
	never := unix.ItimerSpec{Value: unix.Timespec{Sec: 1 << 33}} // the year 2242
	if err := unix.TimerfdSettime(fd, unix.TFD_TIMER_ABSTIME|unix.TFD_TIMER_CANCEL_ON_SET, &never, nil); err != nil {
		_ = unix.Close(fd)
		return nil, fmt.Errorf("timerfd_settime: %w", err)
	}
	return &kernelClock{timer: fd, grace: grace, unit: time.Second}, nil
}

func (k *kernelClock) Past() (time.Time, error) {
	var now, tick unix.Timespec
	err := errors.Join(unix.ClockGettime(unix.CLOCK_REALTIME_COARSE, &now), unix.ClockGetres(unix.CLOCK_REALTIME_COARSE, &tick))
	past := now.Nano() - tick.Nano() - int64(k.grace)
	return time.Unix(0, past-past%int64(k.unit)), err
}

func (k *kernelClock) WasSet() error {
	var buf [8]byte
	_, err := retry(func() (int, error) { return unix.Read(k.timer, buf[:]) })
	if errors.Is(err, unix.EAGAIN) {
		return nil
	}
	return fmt.Errorf("the clock was set: %w", err)
}

func (k *kernelClock) Close() {
	if k.timer >= 0 {
		_ = unix.Close(k.timer)
		k.timer = -1
	}
}

// Valid fails with ErrNoPromise when the clock was set since the beginning.
func (c *Copy) Valid() error {
	if err := c.clock.WasSet(); err != nil {
		return fmt.Errorf("%w: %w", ErrNoPromise, err)
	}
	return nil
}

// Close frees what the copy holds.
func (c *Copy) Close() {
	c.clock.Close()
	c.record = nil
}

// First writes all that is there. What vanishes or changes while it is read is
// not an error: it is left out or wrong in this layer, and right in the second.
// It may be called again.
func (c *Copy) First(ctx context.Context, w io.Writer) (_ Stats, err error) {
	c.record = nil
	t, flush := newWriter(ctx, w, c.path, c.options)
	if t.record, err = newRecording(); err != nil {
		return Stats{}, err
	}
	t.writeBack, t.recent = c.eachFile, &recent{limit: c.limit, seed: c.seed}
	if err := t.eachBranch(t.walk); err != nil {
		return t.stats, err
	}
	if err := errors.Join(t.record.close(), t.finish(), flush()); err != nil {
		return t.stats, err
	}
	c.record = t.record
	return t.stats, nil
}

// Changes writes what is different from what First wrote. The directory must
// not change meanwhile. Its error may be ErrAgain.
func (c *Copy) Changes(ctx context.Context, w io.Writer) (Stats, error) {
	if c.record == nil {
		return Stats{}, errors.New("the first pass is not complete")
	}
	recall, err := c.record.open()
	if err != nil {
		return Stats{}, err
	}
	defer recall.close()
	t, flush := newWriter(ctx, w, c.path, c.options)
	t.changes = &changes{limit: c.limit, seed: c.seed, recall: recall, together: c.together}
	if err := t.eachBranch(t.walkChanges); err != nil {
		return t.stats, err
	}
	return t.stats, errors.Join(t.finish(), flush())
}
