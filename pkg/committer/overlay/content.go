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

	"golang.org/x/sys/unix"
)

// regular writes a file with its content.
func (t *writer) regular(dir *directory, name, path string, listed *unix.Stat_t) error {
	// Not blocking: should the name have become a FIFO, open must not wait for a writer.
	fd, err := retry(func() (int, error) {
		return unix.Openat(dir.fd, name, unix.O_RDONLY|unix.O_NOFOLLOW|unix.O_NONBLOCK|unix.O_CLOEXEC, 0)
	})
	if err != nil {
		return vanished(path, err)
	}
	defer func() { _ = unix.Close(fd) }()
	var st unix.Stat_t
	if err := unix.Fstat(fd, &st); err != nil {
		return vanished(path, err)
	}
	if inodeOf(&st) != inodeOf(listed) || st.Mode&unix.S_IFMT != unix.S_IFREG {
		return fmt.Errorf("%q %w: it is another file now", "/"+path, ErrChanged)
	}

	attrs, err := t.xattrs(fdXattrs(fd), path)
	if err != nil {
		return err
	}
	// The other form of a whiteout, for file systems without device nodes.
	// https://docs.kernel.org/filesystems/overlayfs.html#whiteouts-and-opaque-directories
	if attrs.whiteout && st.Size == 0 {
		return t.whiteout(path)
	}
	h := newHeader(&st, path, attrs.kept)
	h.Typeflag, h.Size = tar.TypeReg, st.Size
	if err := t.header(h); err != nil {
		return err
	}
	t.stats.Bytes += st.Size
	if st.Blocks*512 >= st.Size {
		return t.copy(fd, path, 0, st.Size)
	}
	return t.copySparse(fd, path, st.Size)
}

// copySparse writes a file that occupies less than its size. Holes are written
// as zeros without being read.
func (t *writer) copySparse(fd int, path string, size int64) error {
	for offset := int64(0); offset < size; {
		data, err := unix.Seek(fd, offset, unix.SEEK_DATA)
		switch {
		case errors.Is(err, unix.ENXIO): // no data from here to the end
			data = size
		case errors.Is(err, unix.EINVAL): // a file system that does not tell
			return t.copy(fd, path, offset, size)
		case err != nil:
			return vanished(path, err)
		}
		data = min(data, size)
		if err := t.zeros(data - offset); err != nil {
			return err
		}
		if data == size {
			return nil
		}
		hole, err := unix.Seek(fd, data, unix.SEEK_HOLE)
		if err != nil {
			return vanished(path, err)
		}
		offset = min(hole, size)
		if err := t.copy(fd, path, data, offset); err != nil {
			return err
		}
	}
	return nil
}

// copy writes the bytes from offset up to end.
func (t *writer) copy(fd int, path string, offset, end int64) error {
	for offset < end {
		if err := t.ctx.Err(); err != nil {
			return err
		}
		buf := t.buf[:min(int64(len(t.buf)), end-offset)]
		n, err := retry(func() (int, error) { return unix.Pread(fd, buf, offset) })
		if err != nil {
			return vanished(path, err)
		}
		if n == 0 {
			return fmt.Errorf("%q %w: it ends at %d of %d bytes", "/"+path, ErrChanged, offset, end)
		}
		if _, err := t.tar.Write(buf[:n]); err != nil {
			return err
		}
		offset += int64(n)
	}
	return nil
}

var zeroBlock [256 << 10]byte

func (t *writer) zeros(n int64) error {
	for n > 0 {
		if err := t.ctx.Err(); err != nil {
			return err
		}
		block := zeroBlock[:min(int64(len(zeroBlock)), n)]
		if _, err := t.tar.Write(block); err != nil {
			return err
		}
		n -= int64(len(block))
	}
	return nil
}
