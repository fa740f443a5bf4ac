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
	"errors"
	"fmt"

	"golang.org/x/sys/unix"
)

// A container that shares the node's PID namespace ends as a whole when its first process does: the
// runtime kills what else is in it (ShouldKillAllOnExit of containerd's shim). So the first waits for
// the other, by a lock that the kernel releases however its holder ends.

// lockShared holds the lock of a file until unlock is called. It fails where the first process has
// waited and is about to end. Without a file there is none to wait.
func lockShared(file string) (unlock func(), err error) {
	if file == "" {
		return func() {}, nil
	}
	fd, err := lock(file, unix.LOCK_SH|unix.LOCK_NB)
	if errors.Is(err, unix.EWOULDBLOCK) {
		return nil, fmt.Errorf("the container that this runs in is about to end: %w", err)
	}
	if err != nil {
		return nil, err
	}
	return func() { _ = unix.Close(fd) }, nil
}

// awaitUnlocked returns when nobody holds the lock of a file, and keeps it to the end of this process.
func awaitUnlocked(file string) error {
	if file == "" {
		return nil
	}
	_, err := lock(file, unix.LOCK_EX)
	return err
}

// lock returns a bare descriptor: an *os.File would let go of the lock when it is collected.
func lock(file string, how int) (fd int, err error) {
	if fd, err = unix.Open(file, unix.O_RDONLY|unix.O_CLOEXEC, 0); err != nil {
		return 0, fmt.Errorf("opening %s to lock it: %w", file, err)
	}
	for err = unix.EINTR; errors.Is(err, unix.EINTR); {
		err = unix.Flock(fd, how)
	}
	if err != nil {
		_ = unix.Close(fd)
		return 0, fmt.Errorf("locking %s: %w", file, err)
	}
	return fd, nil
}
