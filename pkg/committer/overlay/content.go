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
	"archive/tar"
	"errors"
	"fmt"
	"strconv"

	"golang.org/x/sys/unix"
)

// regular writes a file with its content, or as a further name of one.
func (t *writer) regular(dir *directory, name, path []byte) error {
	fd, err := t.openRegular(dir, name)
	if err != nil {
		return vanished(path, err)
	}
	defer func() { _ = unix.Close(fd) }()
	var st unix.Stat_t
	if err := unix.Fstat(fd, &st); err != nil {
		return vanished(path, err)
	}
	if st.Mode&unix.S_IFMT != unix.S_IFREG {
		return fmt.Errorf("%q %w: it is no regular file any more", "/"+string(path), ErrChanged)
	}
	if err := t.keeping.unchanged(path, &st); err != nil {
		return err
	}
	attrs, err := t.xattrs(fdXattrs(fd), path)
	if err != nil {
		return err
	}
	t.recent.begin(t, &st)
	// The other form of a whiteout, for file systems without device nodes.
	// https://docs.kernel.org/filesystems/overlayfs.html#whiteouts-and-opaque-directories
	if attrs.whiteout && st.Size == 0 {
		return errors.Join(t.whiteout(path), t.remember(whiteoutEntry, name, &st))
	}
	if same, err := t.equalFile(fd, name, &st, attrs, path); err != nil {
		return err
	} else if same {
		t.stats.Equal++
		return t.remember(equalEntry, name, &st)
	}
	if done, err := t.hardlink(dir, name, path, &st, attrs); err != nil {
		return err
	} else if done {
		return t.remember(otherEntry, name, &st)
	}
	if dir.bequeaths {
		attrs.inheritNothing(accessACL)
	}
	h := newHeader(&st, path, attrs.kept)
	h.typeflag, h.size = tar.TypeReg, st.Size
	err = t.file(fd, h, path)
	if t.tolerable(err) && h.promised {
		// The header has promised the bytes. Remembered as no file that can be, it counts
		// as changed; not remembered, its deletion would be forgotten, too.
		torn := unix.Stat_t{Mode: st.Mode}
		return errors.Join(t.zeros(h.size-t.written+padding(h.size)), t.remember(otherEntry, name, &torn))
	}
	if err != nil {
		t.links.forget(&st) // no other name may lead to it
		return err
	}
	return t.remember(otherEntry, name, &st)
}

// file writes a regular file.
func (t *writer) file(fd int, h *header, path []byte) error {
	if t.keeping != nil {
		return t.header(h) // it is there already
	}
	if h.size < sparseLeast {
		return t.whole(h, func() error { return t.copy(fd, path, 0, h.size) })
	}
	data, holes, err := t.extents(fd, h.size)
	if err != nil {
		return vanished(path, err)
	}
	if holes >= sparseLeast {
		return t.sparse(fd, h, path, data)
	}
	return t.whole(h, func() error { return t.copy(fd, path, 0, h.size) })
}

// whole writes a header, what it has promised, and what is missing to a block.
func (t *writer) whole(h *header, content func() error) error {
	if err := t.header(h); err != nil {
		return err
	}
	h.promised, t.written = true, 0
	t.stats.Bytes += h.size
	if err := content(); err != nil {
		return err
	}
	return t.zeros(padding(h.size))
}

const openFile = unix.O_RDONLY | unix.O_NONBLOCK | unix.O_CLOEXEC

func (t *writer) openRegular(dir *directory, name []byte) (int, error) {
	fd, err := t.open(dir.fd, name)
	if err != nil || t.record == nil {
		return fd, err
	}
	if err := t.settle(fd); err != nil {
		_ = unix.Close(fd)
		return -1, err
	}
	return fd, nil
}

// open opens a regular file and nothing else.
func (t *writer) open(dirfd int, name []byte) (int, error) {
	if t.record == nil {
		// Not blocking: should the name have become a FIFO, open must not wait for a writer.
		return openat(dirfd, name, openFile|unix.O_NOFOLLOW)
	}
	// While the container runs it may put a device in the place of what was listed,
	// and opening some devices does things.
	handle, err := openat(dirfd, name, unix.O_PATH|unix.O_NOFOLLOW|unix.O_CLOEXEC)
	if err != nil {
		return -1, err
	}
	defer func() { _ = unix.Close(handle) }()
	var st unix.Stat_t
	if err := unix.Fstat(handle, &st); err != nil {
		return -1, err
	}
	if st.Mode&unix.S_IFMT != unix.S_IFREG {
		return -1, unix.ENOENT
	}
	return retry(func() (int, error) {
		return unix.Open("/proc/self/fd/"+strconv.Itoa(handle), openFile, 0)
	})
}

// settle does what Copy needs before a file is read.
func (t *writer) settle(fd int) error {
	// Waits for whoever is just writing. An empty file has no data.
	if _, err := unix.Seek(fd, 0, unix.SEEK_DATA); err != nil && !errors.Is(err, unix.ENXIO) {
		return err
	}
	if !t.writeBack {
		return nil
	}
	return unix.SyncFileRange(fd, 0, 0, unix.SYNC_FILE_RANGE_WAIT_BEFORE|unix.SYNC_FILE_RANGE_WRITE|unix.SYNC_FILE_RANGE_WAIT_AFTER)
}

// tolerable is whether a first pass goes on after err: not when the layer cannot
// be written, or the container's tree not be walked.
func (t *writer) tolerable(err error) bool {
	var broken *sinkError
	return err != nil && t.record != nil && t.ctx.Err() == nil && !errors.As(err, &broken) && !errors.Is(err, errManyFiles)
}

// copy writes the bytes from offset up to end.
func (t *writer) copy(fd int, path []byte, offset, end int64) error {
	for offset < end {
		if err := t.ctx.Err(); err != nil {
			return err
		}
		room, err := t.out.Lend()
		if err != nil {
			return err
		}
		room = room[:min(int64(len(room)), end-offset)]
		n, err := t.pread(fd, room, offset)
		if err != nil {
			return vanished(path, err)
		}
		if n == 0 {
			return fmt.Errorf("%q %w: it ends at %d of %d bytes", "/"+string(path), ErrChanged, offset, end)
		}
		t.out.Fill(n)
		t.written += int64(n)
		offset += int64(n)
	}
	return nil
}

// zeroBlock is for headers, whose empty fields are zeros.
var zeroBlock [blockSize]byte

func (t *writer) zeros(n int64) error {
	for n > 0 {
		if err := t.ctx.Err(); err != nil {
			return err
		}
		room, err := t.out.Lend()
		if err != nil {
			return err
		}
		room = room[:min(int64(len(room)), n)]
		clear(room)
		t.out.Fill(len(room))
		t.written += int64(len(room))
		n -= int64(len(room))
	}
	return nil
}
