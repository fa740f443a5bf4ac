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
	"sync"
	"sync/atomic"

	"golang.org/x/sys/unix"
)

const (
	// aheadFiles is how many names of a directory are looked at ahead of the writer,
	// aheadReaders how many of them at once.
	aheadFiles, aheadReaders = 256, 8
	// aheadBytes are read of each; further on the kernel reads ahead by itself.
	aheadBytes = 128 << 10
)

// ahead reads files ahead of the writer. The kernel reads ahead within a file, not from
// file to file: small ones that are on the disk alone cost the disk's time to answer
// each. Nothing is done as long as the writer finds what it reads in memory.
type ahead struct {
	quit    context.Context
	stop    context.CancelFunc
	busy    atomic.Bool // whether a window of names is being read
	windows int
	all     sync.WaitGroup
	// dir was read last, up to its name until.
	dir   *directory
	until int
}

func newAhead(ctx context.Context) *ahead {
	a := &ahead{}
	a.quit, a.stop = context.WithCancel(ctx)
	return a
}

// close ends it, and frees what it holds.
func (a *ahead) close() {
	a.stop()
	a.all.Wait()
}

// from reads regular files of dir, from names' next on, while the caller goes on. open
// opens one. It is no more than a hint: errors are the writer's to meet.
func (a *ahead) from(dir *directory, all names, next int, open func(dirfd int, name []byte) (int, error)) {
	if dir == a.dir {
		next = max(next, a.until)
	}
	if next >= all.len() || a.busy.Load() {
		return
	}
	dirfd, err := unix.FcntlInt(uintptr(dir.fd), unix.F_DUPFD_CLOEXEC, 0) // the writer may close its own
	if err != nil {
		return
	}
	end := min(next+aheadFiles, all.len())
	a.dir, a.until = dir, end
	a.busy.Store(true)
	a.windows++
	var at atomic.Int64
	at.Store(int64(next))
	var readers sync.WaitGroup
	for range aheadReaders {
		readers.Go(func() {
			for i := int(at.Add(1)) - 1; i < end && a.quit.Err() == nil; i = int(at.Add(1)) - 1 {
				if all.types[i] == unix.DT_REG {
					willRead(dirfd, all.raw(i), open)
				}
			}
		})
	}
	a.all.Go(func() {
		readers.Wait()
		_ = unix.Close(dirfd)
		a.busy.Store(false)
	})
}

// willRead lets the kernel begin to read a file.
func willRead(dirfd int, name []byte, open func(int, []byte) (int, error)) {
	fd, err := open(dirfd, name)
	if err != nil {
		return
	}
	_ = unix.Fadvise(fd, 0, aheadBytes, unix.FADV_WILLNEED)
	_ = unix.Close(fd)
}

// pread reads from a file, and looks ahead where that would have to wait for the disk.
func (t *writer) pread(fd int, buf []byte, offset int64) (int, error) {
	if t.here != nil && offset == 0 {
		n, err := retry(func() (int, error) { return unix.Preadv2(fd, [][]byte{buf}, offset, unix.RWF_NOWAIT) })
		if err == nil && n > 0 {
			return n, nil
		}
		if errors.Is(err, unix.EAGAIN) {
			t.ahead.from(t.here.dir, t.here.names, t.here.next, t.open)
		}
	}
	return retry(func() (int, error) { return unix.Pread(fd, buf, offset) })
}
