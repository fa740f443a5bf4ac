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
	"bytes"
	"context"
	"errors"
	"fmt"
	"runtime"
	"sync"
	"time"

	"golang.org/x/sys/unix"
)

// Found is what a look at a directory tells before anything of it is read.
type Found struct {
	// Bytes is what its files take on the disk, with the holes that are written as zeros, and
	// Entries how many there are.
	Bytes, Entries int64
	// Holes is by how much its regular files are longer than what they take, and Largest the
	// path of the one that has most of it.
	Holes   int64
	Largest string
	// Recent is how much of Bytes is in files that a copy which begins before Settled would have
	// to read again at its end: they were changed within the grace.
	Recent  int64
	Settled time.Time

	largest int64
	names   int64 // the bytes of all names
	// refused are entries that Write would refuse; the first of them says why.
	refused int64
	first   error
	// apart is the first that is stored by reference.
	apart error
}

// Survey looks at all entries of the directory at path and of the volumes, without opening a
// file; without a path at the volumes alone. What a container does meanwhile makes it less exact, and nothing else.
//
// It fails for what Write would fail for at whatever moment: with ErrUnrepresentable,
// for the first such entry and with their number, else with ErrNotSelfContained.
func Survey(ctx context.Context, path string, o Options) (Found, error) {
	s := &surveyor{ctx: ctx}
	// A second more: what the coarsest file systems stamp in.
	now := time.Now()
	s.found.Settled = now.Add(grace + time.Second)
	for range min(runtime.GOMAXPROCS(0), maxSurveyors) {
		// What is written goes nowhere: it is for being refused.
		w, _ := newWriter(ctx, nowhere{}, path, o)
		w.recentSince = now.Add(-grace - time.Second).UnixNano()
		s.writers = append(s.writers, w)
	}
	for _, one := range o.branches(path) {
		if err := s.branch(one); err != nil {
			return s.found, err
		}
	}
	return s.found, s.found.err()
}

func (s *surveyor) branch(one *branch) error {
	top, _, err := openRoot(one.dir)
	if err != nil {
		return err
	}
	defer top.close()
	for _, w := range s.writers {
		w.on(one)
	}
	_, err = s.writers[0].xattrs(fdXattrs(top.fd), []byte(one.at))
	s.found.note(err)
	s.found.Entries++
	return s.into(top, []byte(one.at), 0)
}

func (f *Found) note(err error) {
	switch {
	case errors.Is(err, ErrUnrepresentable):
		f.refused++
		if f.first == nil {
			f.first = err
		}
	case errors.Is(err, ErrNotSelfContained) && f.apart == nil:
		f.apart = err
	}
}

func (f *Found) err() error {
	switch {
	case f.refused > 1:
		return fmt.Errorf("%w (one of %d entries that cannot be kept)", f.first, f.refused)
	case f.refused == 1:
		return f.first
	}
	return f.apart
}

func (f *Found) add(o *Found) {
	f.Bytes += o.Bytes
	f.Entries += o.Entries
	f.Holes += o.Holes
	f.Recent += o.Recent
	f.names += o.names
	f.refused += o.refused
	if o.largest > f.largest {
		f.largest, f.Largest = o.largest, o.Largest
	}
	if f.first == nil {
		f.first = o.first
	}
	if f.apart == nil {
		f.apart = o.apart
	}
}

// maxSurveyors look at the names of one directory at once, surveyed are how many each of
// them takes.
const maxSurveyors, surveyed = 4, 128

type surveyor struct {
	ctx     context.Context
	writers []*writer // one for each that looks at once
	found   Found
}

// into looks at a directory and at what is below it.
func (s *surveyor) into(dir *directory, path []byte, depth int) error {
	if err := s.ctx.Err(); err != nil || len(path) > s.writers[0].maxPath {
		return err // what is deeper is refused for the same
	}
	all, err := dir.list(s.writers[0].buf)
	if err != nil {
		return nil //nolint:nilerr // it is gone, or will be met again when it is read
	}
	s.look(dir, &all, path)
	for i := range all.len() {
		if all.types[i] != unix.DT_DIR {
			continue
		}
		child, _, err := dir.open(all.raw(i))
		if err != nil {
			continue // it is gone
		}
		if child.id.dev != dir.id.dev {
			child.close()
			continue // which is refused when it is read
		}
		if depth >= maxOpen {
			dir.close()
		}
		err = s.into(child, join(path, all.raw(i)), depth+1)
		reopened := dir.reopen(child)
		child.close()
		if err != nil {
			return err
		}
		if reopened != nil {
			return nil //nolint:nilerr // it was moved elsewhere
		}
	}
	return nil
}

func join(path, name []byte) []byte {
	joined := make([]byte, 0, len(path)+1+len(name))
	if joined = append(joined, path...); len(path) > 0 {
		joined = append(joined, '/')
	}
	return append(joined, name...)
}

// look looks at the names of one directory, and puts right which of them are directories.
func (s *surveyor) look(dir *directory, all *names, path []byte) {
	if all.len() <= surveyed {
		s.found.add(s.writers[0].look(s.ctx, dir, all, path, 0, all.len()))
		return
	}
	var next int
	var mu sync.Mutex
	var looking sync.WaitGroup
	for _, w := range s.writers {
		looking.Go(func() {
			for {
				mu.Lock()
				from := next
				next += surveyed
				mu.Unlock()
				if from >= all.len() {
					return
				}
				found := w.look(s.ctx, dir, all, path, from, min(from+surveyed, all.len()))
				mu.Lock()
				s.found.add(found)
				mu.Unlock()
			}
		})
	}
	looking.Wait()
}

// look looks at the names from from up to to.
func (t *writer) look(ctx context.Context, dir *directory, all *names, path []byte, from, to int) *Found {
	f, since := &Found{}, t.recentSince
	whole := join(path, nil)
	parent := len(whole)
	for i := from; i < to && ctx.Err() == nil; i++ {
		name := all.raw(i)
		var st unix.Stat_t
		if err := unix.Fstatat(dir.fd, string(name), &st, unix.AT_SYMLINK_NOFOLLOW); err != nil {
			all.types[i] = unix.DT_UNKNOWN
			continue // it is gone
		}
		whole = append(whole[:parent], name...)
		if t.volumes.elsewhere(whole) {
			all.types[i] = unix.DT_UNKNOWN
			continue
		}
		f.Entries++
		f.names += int64(len(name))
		f.Bytes += st.Blocks * 512
		if st.Ctim.Nano() >= since {
			f.Recent += st.Blocks * 512
		}
		format := st.Mode & unix.S_IFMT
		all.types[i] = uint8(format >> 12)
		if hole := st.Size - st.Blocks*512; format == unix.S_IFREG && hole > 0 {
			hole /= int64(max(st.Nlink, 1)) // each of its names has its part
			f.Holes += hole
			if hole < sparseLeast {
				f.Bytes += hole
			}
			if hole > f.largest {
				f.largest, f.Largest = hole, "/"+string(whole)
			}
		}
		f.note(t.represent(dir, name, whole, &st))
	}
	return f
}

// represent fails for an entry that cannot be written, whatever else happens to it.
func (t *writer) represent(dir *directory, name, path []byte, st *unix.Stat_t) error {
	format := st.Mode & unix.S_IFMT
	if err := t.nameable(name, path, format); err != nil || format == unix.S_IFSOCK || format == unix.S_IFCHR && st.Rdev == 0 {
		return err
	}
	if !t.owners.mapped() && !mayHaveXattrs(dir.fd, name) {
		return nil
	}
	attrs, err := t.xattrs(nameXattrs(dir.fd, name), path)
	if err != nil || len(attrs.kept) == 0 && !t.owners.mapped() {
		return err
	}
	return t.header(newHeader(st, path, attrs.kept))
}

// nameable fails for a name that a layer cannot have. Sockets have none there.
func (t *writer) nameable(name, path []byte, format uint32) error {
	if format == unix.S_IFSOCK {
		return nil
	}
	if bytes.HasPrefix(name, []byte(whiteoutPrefix)) {
		return fmt.Errorf("%q %w: names that begin with %q mean deletions there%s", "/"+string(path), ErrUnrepresentable, whiteoutPrefix, whoMakes(name))
	}
	if len(path) > t.maxPath {
		return fmt.Errorf("%q… (%d bytes) %w: unpackers cannot create paths of more than %d bytes", "/"+string(path[:min(len(path), 64)]), len(path), ErrUnrepresentable, t.maxPath)
	}
	return nil
}

// whoMakes is what a person should know of who makes such names.
func whoMakes(name []byte) string {
	if string(name) == opaqueName {
		return "; fuse-overlayfs makes them, which podman and buildah use in a container: mount a volume at /var/lib/containers"
	}
	return ""
}

// Remembers is whether what a first pass has to remember of the directory at path and of the
// volumes fits into the memory for it. What is known of it may be enough to say so.
func (f *Found) Remembers(ctx context.Context, path string, volumes ...Volume) (bool, error) {
	// Beside its name an entry has a kind, a length, and numbers of which most are small.
	const beside = 40
	if f.names+f.Entries*beside < int64(maxRecord) {
		return true, nil
	}
	record, err := newRecording()
	if err != nil {
		return false, err
	}
	for _, one := range (Options{Volumes: volumes}).branches(path) {
		if err = record.root(ctx, one.dir); err != nil {
			break
		}
	}
	err = errors.Join(err, record.close())
	if errors.Is(err, errManyFiles) {
		return false, nil
	}
	return err == nil, err
}

// root adds a directory and what is in it, as a first pass would.
func (r *recording) root(ctx context.Context, path string) error {
	top, st, err := openRoot(path)
	if err != nil {
		return err
	}
	defer top.close()
	if err := r.add(directoryEntry, nil, st, 0); err != nil {
		return err
	}
	return r.all(ctx, top, make([]byte, 64<<10), 0)
}

// all adds what is in a directory, as a first pass would.
func (r *recording) all(ctx context.Context, dir *directory, buf []byte, depth int) error {
	if err := ctx.Err(); err != nil {
		return err
	}
	all, err := dir.list(buf)
	if err != nil || depth > MaxPath/2 {
		return r.leave() // it is gone
	}
	for i := range all.len() {
		var st unix.Stat_t
		if err := unix.Fstatat(dir.fd, string(all.raw(i)), &st, unix.AT_SYMLINK_NOFOLLOW); err != nil {
			continue // it is gone
		}
		if st.Mode&unix.S_IFMT != unix.S_IFDIR {
			if err := r.add(otherEntry, all.raw(i), &st, 0); err != nil {
				return err
			}
			continue
		}
		if err := r.add(directoryEntry, all.raw(i), &st, 0); err != nil {
			return err
		}
		child, _, err := dir.open(all.raw(i))
		if err != nil {
			continue
		}
		if depth >= maxOpen {
			dir.close()
		}
		err = r.all(ctx, child, buf, depth+1)
		reopened := dir.reopen(child)
		child.close()
		if err != nil || reopened != nil {
			return err
		}
	}
	return r.leave()
}
