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

package command

import (
	"bufio"
	"bytes"
	"errors"
	"fmt"
	"time"

	"golang.org/x/sys/unix"

	"github.com/opensandbox-io/sandbox-apiserver/pkg/committer"
)

// A container that shares the node's PID namespace ends as a whole when its first process does: the
// runtime kills what else is in it (ShouldKillAllOnExit of containerd's shim). So the first waits for
// the other, by a lock that the kernel releases however its holder ends.

// lockShared takes the lock of a file, and returns its descriptor, which is to stay open until this
// process ends: one that let go before might be killed before its end, and exit with 137 for all that
// it has done. It fails where the first process has waited and is about to end. Without a file there
// is none to wait, and no descriptor (-1).
func lockShared(file string) (fd int, err error) {
	if file == "" {
		return -1, nil
	}
	fd, err = lock(file, unix.LOCK_SH|unix.LOCK_NB)
	if errors.Is(err, unix.EWOULDBLOCK) {
		return -1, fmt.Errorf("the container that this runs in is about to end: %w", err)
	}
	return fd, err
}

// lock returns a bare descriptor: an *os.File would let go of the lock when it is collected.
func lock(file string, how int) (fd int, err error) {
	if fd, err = unix.Open(file, unix.O_RDONLY|unix.O_CLOEXEC, 0); err != nil {
		return -1, fmt.Errorf("opening %s to lock it: %w", file, err)
	}
	for err = unix.EINTR; errors.Is(err, unix.EINTR); {
		err = unix.Flock(fd, how)
	}
	if err != nil {
		_ = unix.Close(fd)
		return -1, fmt.Errorf("locking %s: %w", file, err)
	}
	return fd, nil
}

// What a claim and a kill leave in the file, a line each, while they have its lock. The clock is that
// of the node since its start, which nobody sets.
const (
	claimLine = "claimed at %d\n"
	killLine  = "killing at %d\n"
)

// note leaves a line in the file that is locked.
func note(file, line string) error {
	if file == "" {
		return nil
	}
	fd, err := unix.Open(file, unix.O_WRONLY|unix.O_APPEND|unix.O_CLOEXEC, 0)
	if err != nil {
		return fmt.Errorf("opening %s to claim what is frozen: %w", file, err)
	}
	defer func() { _ = unix.Close(fd) }()
	now, err := sinceBoot()
	if err != nil {
		return err
	}
	if _, err := unix.Write(fd, fmt.Appendf(nil, line, now.Nanoseconds())); err != nil {
		return fmt.Errorf("writing to %s to claim what is frozen: %w", file, err)
	}
	return nil
}

// standbyLock is the lock of the first process, on what the others have.
type standbyLock struct {
	file string
	held bool // by a descriptor of this process: another one would wait for it
}

// Close implements committer.Claims.
func (l *standbyLock) Close() (last committer.Claim, reopen func(), err error) {
	if l.file == "" {
		return committer.Claim{}, func() {}, nil
	}
	fd, err := lock(l.file, unix.LOCK_EX)
	if err != nil {
		return committer.Claim{}, nil, err
	}
	l.held = true
	reopen = func() {
		l.held = false
		_ = unix.Close(fd)
	}
	if last, err = lastClaim(fd); err != nil {
		reopen()
		return committer.Claim{}, nil, fmt.Errorf("reading %s for who has claimed what is frozen: %w", l.file, err)
	}
	return last, reopen, nil
}

// end returns when nobody else has the lock, and keeps it to the end of this process.
func (l *standbyLock) end() error {
	if l.file == "" || l.held {
		return nil
	}
	_, err := lock(l.file, unix.LOCK_EX)
	return err
}

// mostClaims is more than is ever written, in bytes.
const mostClaims = 64 << 10

func lastClaim(fd int) (last committer.Claim, err error) {
	content := make([]byte, mostClaims)
	n, err := unix.Pread(fd, content, 0)
	if err != nil {
		return committer.Claim{}, err
	}
	now, err := sinceBoot()
	if err != nil {
		return committer.Claim{}, err
	}
	for lines := bufio.NewScanner(bytes.NewReader(content[:n])); lines.Scan(); {
		line, at := lines.Text()+"\n", int64(0)
		if _, err := fmt.Sscanf(line, killLine, &at); err == nil {
			last.Kills = true
		} else if _, err := fmt.Sscanf(line, claimLine, &at); err != nil {
			continue
		}
		last.Made, last.Age = true, now-time.Duration(at)
	}
	return last, nil
}

func sinceBoot() (time.Duration, error) {
	var now unix.Timespec
	if err := unix.ClockGettime(unix.CLOCK_MONOTONIC, &now); err != nil {
		return 0, fmt.Errorf("reading the clock: %w", err)
	}
	return time.Duration(now.Nano()), nil
}
