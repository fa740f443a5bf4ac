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
