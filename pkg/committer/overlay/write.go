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

// Package overlay writes the upper directory of an overlay mount as an OCI
// layer: what a container changed above its image, in one pass, without
// looking at the image.
//
// The caller sees to it that nothing changes the directory meanwhile (the
// container is frozen or has ended). The directory's content is hostile all the
// same: every entry is reached by one name relative to an open directory,
// symbolic links are never followed, and devices, FIFOs and sockets are never
// opened, so nothing outside the directory can be read.
package overlay

import (
	"archive/tar"
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"slices"

	"golang.org/x/sys/unix"
)

const (
	// whiteoutPrefix marks a deletion, opaqueName a directory that hides what
	// the layers below have in it.
	// https://github.com/opencontainers/image-spec/blob/main/layer.md#whiteouts
	whiteoutPrefix = ".wh."
	opaqueName     = ".wh..wh..opq"

	// What overlay's own extended attributes begin with.
	trustedMarks, userMarks = "trusted.overlay.", "user.overlay."

	// MaxPath is the longest path that a snapshot may carry. Tar has no limit, but
	// the unpackers join it to the directory they unpack into and hand it to the
	// kernel, whose PATH_MAX is 4096 with the terminating zero; 256 bytes are left
	// for that directory. Better no snapshot than one that cannot be resumed.
	MaxPath = 4096 - 256
)

var (
	// ErrUnrepresentable is what Write fails with for an entry that no OCI layer
	// can carry, or that the unpackers would refuse.
	ErrUnrepresentable = errors.New("cannot be kept in an image layer")

	// ErrNotSelfContained is what Write fails with for an entry whose content or
	// name is partly in the layers below (overlay's redirect_dir and metacopy).
	ErrNotSelfContained = errors.New("is stored by reference to a lower layer")

	// ErrChanged is what Write fails with when the directory changed under it.
	ErrChanged = errors.New("changed while it was being read")
)

// Options say how the directory is to be read.
type Options struct {
	// UserXattr is whether the overlay was mounted with "userxattr": its own
	// marks are then user.overlay.*, else trusted.overlay.*. What has the other
	// prefix belongs to the container.
	UserXattr bool

	// Owners are the container's, where they are others than the node's.
	Owners Owners

	// Lowerdirs are the directories below, the topmost first, as far as they are known:
	// a socket that lies over something of theirs is left out as its deletion.
	Lowerdirs []string

	// Volumes are to be written as well, as Place has placed them.
	Volumes []Volume

	// MaxPath is the longest path in bytes; 0 stands for the constant MaxPath.
	MaxPath int

	// Clock is what a Copy tells changes by; nil stands for the kernel's.
	Clock Clock
}

// Stats count what was written.
type Stats struct {
	// Entries are all tar entries, Whiteouts those among them that delete.
	Entries, Whiteouts int64
	// Bytes is the content of regular files, large holes not included.
	Bytes int64
	// Sockets were left out: a socket without its process is of no use, and tar
	// cannot carry it.
	Sockets int64
	// Equal were left out because the layers below show the same.
	Equal int64
	// LeftOut are entries of volumes that no layer can hold, and FirstLeftOut is one of them.
	LeftOut      int64
	FirstLeftOut string
}

// Write writes the upper directory at path as an uncompressed OCI layer to w,
// in the order of names, so that the same directory always gives the same
// bytes.
func Write(ctx context.Context, w io.Writer, path string, o Options) (Stats, error) {
	if err := Check(path, o); err != nil {
		return Stats{}, err
	}
	return writeBranches(ctx, w, path, o)
}

func writeBranches(ctx context.Context, w io.Writer, upper string, o Options) (Stats, error) {
	t, flush := newWriter(ctx, w, upper, o)
	if err := t.eachBranch(t.walk); err != nil {
		return t.stats, err
	}
	return t.stats, errors.Join(t.finish(), flush())
}

// Check fails when the directory at path or a volume could not be read, or only wrongly. It
// is cheap, and for before anybody is frozen.
func Check(path string, o Options) error {
	for _, one := range o.branches(path) {
		dir, _, err := openRoot(one.dir)
		if err != nil {
			return fmt.Errorf("%w; containerd's root (--containerd-root) has to be mounted at its own path", err)
		}
		dir.close()
	}
	if o.UserXattr || seesTrusted() {
		return nil
	}
	return errors.New("CAP_SYS_ADMIN, outside of a user namespace, is needed to see what the overlay hides")
}

type writer struct {
	ctx     context.Context
	out     *sink
	encoder encoder
	marks   string // the prefix of overlay's own extended attributes
	owners  Owners
	maxPath int
	links   links
	buf     []byte
	stats   Stats
	// written is how much of the current file's content was, data where it has any, and
	// mapping that as a sparse file's map: both are used again.
	written int64
	data    []extent
	mapping []byte

	lowerdirs []string
	lower     *Lower // they are opened when they are needed
	// above are the directories that lead to the current entry: those that are not in the layer
	// are written before it. flushing is whether they are just being written, or not to be.
	above    []*frame
	flushing bool
	summing  bool // whether what is written goes nowhere
	// below is what lies below the directory of the current entry, where the entry may be left
	// out for being equal to it, and depth how deep that is; sides are for comparing.
	below []*directory
	shown []*directory // what lies below it whether or not it may be
	depth int
	sides [2][]byte

	// here is where the walk is, and what is next there may be read ahead; nil where only
	// a few files are read.
	here  *frame
	ahead *ahead

	// Of a first pass, while the container runs; writeBack is whether each file is to
	// be written back before it is read.
	record    *recording
	writeBack bool
	// recentSince is of a survey.
	recentSince int64
	// recent is whether what an entry is written as is summed up; see recent.go.
	recent *recent
	// volumes are those that are written as well; wrote are directories that lead to them.
	volumes volumes
	wrote   map[string]bool
	// Of a second pass.
	changes *changes
	// Of a directory that is kept as the layer that it would be.
	keeping *keeping
}

func newWriter(ctx context.Context, w io.Writer, upper string, o Options) (*writer, func() error) {
	out, flush := lenderOf(w)
	t := &writer{
		ctx:     ctx,
		out:     &sink{to: out},
		owners:  o.Owners,
		marks:   trustedMarks,
		maxPath: MaxPath,
		links:   newLinks(),
		buf:     make([]byte, 64<<10),

		lowerdirs: o.Lowerdirs,
		volumes:   newVolumes(o.branches(upper)),
	}
	if o.UserXattr {
		t.marks = userMarks
	}
	if o.MaxPath != 0 {
		t.maxPath = o.MaxPath
	}
	return t, flush
}

// finish writes the end of a tar: two empty blocks.
func (t *writer) finish() error { return t.zeros(2 * blockSize) }

// inode is the identity of a file.
type inode struct{ dev, ino uint64 }

func inodeOf(st *unix.Stat_t) inode { return inode{uint64(st.Dev), st.Ino} }

// entry writes what dir holds under name, whose whole path is path and whose
// type is kind as far as the listing told. For a directory it returns the opened
// directory with its names, to be walked next.
func (t *writer) entry(dir *directory, name []byte, kind uint8, path []byte) (*listed, error) {
	var st unix.Stat_t
	// Most entries are regular files, and tell all the rest once they are open.
	if kind == unix.DT_REG {
		st.Mode = unix.S_IFREG
	} else if err := unix.Fstatat(dir.fd, string(name), &st, unix.AT_SYMLINK_NOFOLLOW); err != nil {
		return nil, vanished(path, err)
	}
	format := st.Mode & unix.S_IFMT
	if format != unix.S_IFDIR {
		if err := t.volumes.leadsOn(path); err != nil {
			return nil, err
		}
	}
	if format == unix.S_IFSOCK {
		return nil, t.socket(dir, name, path)
	}
	if t.isInnerWhiteout(&st) {
		t.leaveOut(path)
		if t.shows(name) {
			if err := t.whiteout(path); err != nil {
				return nil, err
			}
		}
		return nil, t.remember(whiteoutEntry, name, &st)
	}
	if err := t.nameable(name, path, format); err != nil {
		return nil, err
	}
	switch {
	case format == unix.S_IFREG:
		return nil, t.regular(dir, name, path)
	// Whiteouts come before hard links: the kernel makes all whiteouts of a mount
	// links of one inode (ovl_whiteout in fs/overlayfs/dir.c).
	case format == unix.S_IFCHR && st.Rdev == 0:
		return nil, errors.Join(t.whiteout(path), t.remember(whiteoutEntry, name, &st))
	case format == unix.S_IFDIR:
		return t.directory(dir, name, path)
	}
	return nil, t.special(dir, name, path, &st)
}

// remember records an entry that a first pass has written.
func (t *writer) remember(kind byte, name []byte, st *unix.Stat_t) error {
	if t.record == nil {
		return nil
	}
	return t.record.add(kind, name, st, t.recent.take(t, st))
}

// socket leaves a socket out, and what it hides.
func (t *writer) socket(dir *directory, name, path []byte) error {
	t.stats.Sockets++
	if t.keeping != nil {
		return t.cover(path)
	}
	if t.shows(name) {
		return t.whiteout(path)
	}
	// In a directory that hides what is below, a deletion would be a name that is listed and is not there, and
	// the directory could not be removed.
	if len(t.lowerdirs) == 0 || t.volumes.now != nil || dir.opaque {
		return nil
	}
	lower, err := t.openLower()
	if err != nil {
		return err
	}
	if hides, err := lower.Has(string(path)); err != nil || !hides {
		return err
	}
	return t.whiteout(path)
}

// whiteout writes the deletion of path.
func (t *writer) whiteout(path []byte) error {
	slash := bytes.LastIndexByte(path, '/') + 1
	t.stats.Whiteouts++
	return t.marker(slices.Concat(path[:slash], []byte(whiteoutPrefix), path[slash:]))
}

// marker writes an empty file that only its name speaks for.
func (t *writer) marker(path []byte) error {
	return t.put(&header{typeflag: tar.TypeReg, name: path})
}

// hardlink writes a further name of a file that was written before.
func (t *writer) hardlink(dir *directory, name, path []byte, st *unix.Stat_t, attrs attributes) (done bool, err error) {
	if st.Nlink < 2 {
		return false, nil
	}
	first, err := t.links.met(dir, name, st, t.changes != nil && t.changes.old(st))
	if err != nil || first == nil {
		return false, err
	}
	// Unpackers chown what they have just linked, and a chown takes a file's
	// capabilities: so every name brings all attributes, not only the first.
	h := newHeader(st, path, attrs.kept)
	h.typeflag, h.link = tar.TypeLink, first
	return true, t.header(h)
}

// special writes what has no content: symbolic links, FIFOs and devices.
func (t *writer) special(dir *directory, name, path []byte, st *unix.Stat_t) error {
	if err := t.keeping.unchanged(path, st); err != nil {
		return err
	}
	attrs, err := t.xattrs(nameXattrs(dir.fd, name), path)
	if err != nil {
		return err
	}
	t.recent.begin(t, st)
	if t.equalSpecial(dir, name, st, attrs, path) {
		t.stats.Equal++
		return t.remember(equalEntry, name, st)
	}
	if done, err := t.hardlink(dir, name, path, st, attrs); err != nil {
		return err
	} else if done {
		return t.remember(otherEntry, name, st)
	}
	if dir.bequeaths && st.Mode&unix.S_IFMT != unix.S_IFLNK {
		attrs.inheritNothing(accessACL)
	}
	h := newHeader(st, path, attrs.kept)
	switch st.Mode & unix.S_IFMT {
	case unix.S_IFLNK:
		h.typeflag = tar.TypeSymlink
		if h.link, err = readlink(dir.fd, string(name), t.buf); err != nil {
			return vanished(path, err)
		}
	case unix.S_IFIFO:
		h.typeflag = tar.TypeFifo
	case unix.S_IFCHR, unix.S_IFBLK:
		h.typeflag = tar.TypeChar
		if st.Mode&unix.S_IFMT == unix.S_IFBLK {
			h.typeflag = tar.TypeBlock
		}
		h.major, h.minor = unix.Major(uint64(st.Rdev)), unix.Minor(uint64(st.Rdev))
	default:
		return fmt.Errorf("%q %w: unknown file type %#o", "/"+string(path), ErrUnrepresentable, st.Mode&unix.S_IFMT)
	}
	if err := t.header(h); err != nil {
		t.links.forget(st) // no other name may lead to it
		return err
	}
	return t.remember(otherEntry, name, st)
}

// newHeader has what all types share. Owners are numbers only: the names are
// the container's /etc/passwd's business. Access and change times are left
// out: reading would change them.
func newHeader(st *unix.Stat_t, path []byte, xattrs []record) *header {
	sec, nsec := st.Mtim.Unix()
	return &header{
		name:    path,
		mode:    st.Mode & 0o7777,
		uid:     st.Uid,
		gid:     st.Gid,
		sec:     sec,
		nsec:    nsec,
		records: xattrs,
	}
}

// header writes a header of a file that is there, whose owner is the node's.
func (t *writer) header(h *header) (err error) {
	if h.uid, err = inContainer(t.owners.Users, h.uid); err == nil {
		h.gid, err = inContainer(t.owners.Groups, h.gid)
	}
	if err != nil {
		return fmt.Errorf("%q %w: %w", "/"+string(h.name), ErrUnrepresentable, err)
	}
	t.note(h)
	return t.put(h)
}

func (t *writer) put(h *header) error {
	if t.keeping != nil && !t.keeping.covers {
		return nil // it is there already
	}
	if err := t.flush(); err != nil {
		return err
	}
	// Only PAX keeps nanoseconds, names of any bytes, and extended attributes.
	blocks, err := t.encoder.encode(h)
	if err != nil {
		return fmt.Errorf("%q %w: %w", "/"+string(h.name), ErrUnrepresentable, err)
	}
	if _, err := t.out.Write(blocks); err != nil {
		return err
	}
	t.stats.Entries++
	return nil
}

// readlink reads into buf, which is larger than any target (PATH_MAX).
func readlink(dirfd int, name string, buf []byte) ([]byte, error) {
	n, err := unix.Readlinkat(dirfd, name, buf)
	if err != nil {
		return nil, err
	}
	return buf[:n], nil
}

// vanished words a failed system call on an entry that was just listed.
func vanished(path []byte, err error) error {
	if errors.Is(err, unix.ENOENT) || errors.Is(err, unix.ESTALE) || errors.Is(err, unix.ELOOP) || errors.Is(err, unix.ENOTDIR) {
		return fmt.Errorf("%q %w: %w", "/"+string(path), ErrChanged, err)
	}
	return fmt.Errorf("reading %q: %w", "/"+string(path), err)
}
