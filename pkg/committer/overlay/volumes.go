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
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"slices"
	"strings"

	"golang.org/x/sys/unix"
)

// Volume is a directory of the node that is mounted over a path of the container, and whose
// content belongs there: the runtime makes one for each path that an image declares as a
// volume, fills it with what the image has at that path, and removes it with the container.
//
// In a layer it lies at its path: then it is what the next container's is filled with.
type Volume struct {
	// Path is where it is mounted: absolute, or relative to the root.
	Path string
	// Dir is the directory on the node.
	Dir string
	// Owners are the container's, where those in Dir are others.
	Owners Owners
}

// Place finds where in a layer the volumes, in the order that they are mounted in, belong: the runtime follows symbolic links of the
// root filesystem, and ".." of the path, when it fills and mounts them. What upper and the
// lower directories of o show is the root filesystem; without an upper directory the paths
// are taken as they are.
//
// A volume that has no place any more, because the container has put something else where a
// directory led to it, is in refused, with why.
func Place(upper string, volumes []Volume, o Options) (placed []Volume, refused map[string]error, err error) {
	refused = map[string]error{}
	declared := map[string]string{}
	var rootfs *Lower
	if upper != "" {
		if rootfs, err = OpenLower(append([]string{upper}, o.Lowerdirs...), o); err != nil {
			return nil, nil, err
		}
		defer rootfs.Close()
	}
	for _, v := range volumes {
		at := clean(v.Path)
		if rootfs != nil {
			if at, err = rootfs.resolve(v.Path); err != nil {
				refused[v.Path] = err
				continue
			}
		}
		if at == "" {
			refused[v.Path] = errors.New("it is the root directory")
			continue
		}
		// What is mounted later hides what was there before: the same path in other words, or a way
		// there through a symbolic link.
		placed = slices.DeleteFunc(placed, func(other Volume) bool { return other.Path == at || strings.HasPrefix(other.Path, at+"/") })
		declared[at], v.Path = v.Path, at
		placed = append(placed, v)
	}
	// What is in another comes after it.
	slices.SortFunc(placed, func(a, b Volume) int { return strings.Compare(a.Path, b.Path) })
	placed = slices.DeleteFunc(placed, func(v Volume) bool {
		why := inOthers(placed, v)
		if why != nil {
			refused[declared[v.Path]] = why
		}
		return why != nil
	})
	return placed, refused, nil
}

// inOthers fails where the volume that another one is in has no directory for it.
func inOthers(all []Volume, v Volume) error {
	for _, other := range slices.Backward(all) {
		below, ok := strings.CutPrefix(v.Path, other.Path+"/")
		if !ok {
			continue
		}
		dir, err := openBelow(other.Dir, above(below))
		if err != nil {
			return fmt.Errorf("nothing leads to it in the volume %q any more: %w", "/"+other.Path, err)
		}
		dir.close()
		return nil
	}
	return nil
}

// above is the directory that a path is in.
func above(path string) string { return path[:max(strings.LastIndexByte(path, '/'), 0)] }

// clean is a path relative to the root, without "..".
func clean(path string) string {
	var parts []string
	for part := range strings.SplitSeq(path, "/") {
		switch part {
		case "", ".":
		case "..":
			parts = parts[:max(len(parts)-1, 0)]
		default:
			parts = append(parts, part)
		}
	}
	return strings.Join(parts, "/")
}

// maxLinks is how many symbolic links a path may lead through.
const maxLinks = 255

// resolve follows path as a process would whose root directory the lower directories make up.
// What is not there is taken as it is.
func (l *Lower) resolve(path string) (string, error) {
	at, rest, followed := []string{}, strings.Split(path, "/"), 0
	for len(rest) > 0 {
		part := rest[0]
		rest = rest[1:]
		switch part {
		case "", ".":
			continue
		case "..":
			at = at[:max(len(at)-1, 0)]
			continue
		}
		found, link, err := l.peek(strings.Join(at, "/"), part)
		if err != nil {
			return "", err
		}
		switch {
		case link != "":
			if followed++; followed > maxLinks {
				return "", fmt.Errorf("%q leads through more than %d symbolic links", path, maxLinks)
			}
			if strings.HasPrefix(link, "/") {
				at = at[:0]
			}
			rest = append(strings.Split(link, "/"), rest...)
		case found == hidden:
			// With a deletion beside it in its layer, no node could unpack that.
			return "", fmt.Errorf("%q was deleted or renamed", "/"+strings.Join(append(at, part), "/"))
		case found == something:
			return "", fmt.Errorf("%q is no directory", "/"+strings.Join(append(at, part), "/"))
		default:
			at = append(at, part)
		}
	}
	return strings.Join(at, "/"), nil
}

// peek is what the directories show under a name; a symbolic link with where it leads. Only the
// topmost directory's deletions are told: below it they are as if there was nothing.
func (l *Lower) peek(parent, name string) (sight, string, error) {
	shown, err := l.show(parent)
	if err != nil {
		return missing, "", err
	}
	defer closeAll(shown)
	for i, dir := range shown {
		found, err := l.look(dir, name)
		if err != nil {
			return missing, "", err
		}
		switch found {
		case missing:
			continue
		case hidden:
			if i > 0 || dir.id.dev != l.roots[0].id.dev {
				return missing, "", nil
			}
			return hidden, "", nil
		case something:
			link, err := readlink(dir.fd, name, make([]byte, unix.PathMax))
			if errors.Is(err, unix.EINVAL) {
				return something, "", nil
			}
			return something, string(link), err
		}
		return found, "", nil
	}
	return missing, "", nil
}

// branch is a directory that is walked, and where in the layer it lies: the upper directory at
// the root, or a volume.
type branch struct {
	dir    string
	at     string // relative; empty for the root
	owners Owners
}

func (o Options) branches(upper string) []*branch {
	var all []*branch
	if upper != "" {
		all = append(all, &branch{dir: upper, owners: o.Owners})
	}
	for _, v := range o.Volumes {
		all = append(all, &branch{dir: v.Dir, at: v.Path, owners: v.Owners})
	}
	return all
}

// volumes are what the writer knows of those that it has to write.
type volumes struct {
	all []*branch
	// now is the one that is walked, nil for the upper directory.
	now *branch
	// at are the paths of all of them, and leads the directories that lead to them.
	at, leads map[string]bool
	// above are the directories above the one that is walked that are not in the layer yet,
	// the uppermost first. Something in the layer has to be in them.
	above []lead
	// inherits is whether the directory above has a default ACL.
	inherits bool
}

// lead is a directory that leads to a volume.
type lead struct {
	path    string
	written bool
	// inherits is whether the one above it has a default ACL.
	inherits bool
}

func newVolumes(all []*branch) volumes {
	v := volumes{all: all}
	for _, one := range all {
		if one.at == "" {
			continue
		}
		if v.at == nil {
			v.at, v.leads = map[string]bool{}, map[string]bool{}
		}
		v.at[one.at] = true
		for at := above(one.at); at != ""; at = above(at) {
			v.leads[at] = true
		}
	}
	return v
}

// elsewhere is whether a volume is mounted at path, so that what the current branch has there is
// not what the container sees.
func (v *volumes) elsewhere(path []byte) bool { return len(v.at) > 0 && v.at[string(path)] }

// leadsOn fails where something else than a directory is in the place of one that leads to a
// volume: the layer cannot have both.
func (v *volumes) leadsOn(path []byte) error {
	if len(v.leads) > 0 && v.leads[string(path)] {
		return fmt.Errorf("%q, which led to a volume, %w: it is no directory any more", "/"+string(path), ErrChanged)
	}
	return nil
}

// eachBranch walks the upper directory, and then the volumes.
func (t *writer) eachBranch(walk func(*branch) error) error {
	for _, one := range t.volumes.all {
		t.on(one)
		t.links = newLinks()
		t.links.prefix = one.at
		t.volumes.above, t.volumes.inherits = nil, false
		if err := t.lookAbove(one.at); err != nil {
			return err
		}
		if err := walk(one); err != nil {
			return err
		}
	}
	return nil
}

// on is for what is read of a branch: nil for the layers below.
func (t *writer) on(of *branch) {
	t.owners, t.volumes.now = Owners{}, nil
	if of == nil {
		return
	}
	t.owners = of.owners
	if of.at != "" {
		t.volumes.now = of
	}
}

// prefix is the path of the branch that is walked.
func (v *volumes) prefix() []byte {
	if v.now == nil {
		return nil
	}
	return []byte(v.now.at)
}

// lookAbove finds the directories that lead to a volume.
func (t *writer) lookAbove(volume string) error {
	for i := range volume {
		if volume[i] != '/' {
			continue
		}
		above := lead{path: volume[:i], inherits: t.volumes.inherits}
		err := t.inLead(above.path, func(dir *directory, _ *branch) error {
			attrs, err := t.xattrs(fdXattrs(dir.fd), []byte(above.path))
			t.volumes.inherits = attrs.has(defaultACL)
			above.written = t.wrote[above.path]
			return err
		})
		if err != nil {
			return err
		}
		t.volumes.above = append(t.volumes.above, above)
	}
	return nil
}

// inLead opens a directory that leads to the volume that is walked, and does something as if what
// it is in was walked: another volume, the upper directory, or (nil) the layers below. Where
// nothing is known of it nothing is done.
func (t *writer) inLead(path string, do func(dir *directory, of *branch) error) error {
	dir, of, err := t.openLead(path)
	if dir == nil || err != nil {
		return err
	}
	defer dir.close()
	dir.parent = nil
	owners, now := t.owners, t.volumes.now
	defer func() { t.owners, t.volumes.now = owners, now }()
	t.on(of)
	return do(dir, of)
}

func (t *writer) openLead(path string) (dir *directory, of *branch, err error) {
	// The last that it is in is the innermost.
	for _, one := range slices.Backward(t.volumes.all) {
		below, ok := strings.CutPrefix(path, one.at)
		if !ok || one.at != "" && below != "" && below[0] != '/' {
			continue
		}
		found, err := openBelow(one.dir, strings.Trim(below, "/"))
		if err == nil {
			return found, one, nil
		}
		if !errors.Is(err, unix.ENOENT) || one.at != "" {
			return nil, nil, vanished([]byte(path), err)
		}
	}
	if len(t.lowerdirs) == 0 {
		return nil, nil, nil
	}
	lower, err := OpenLower(t.lowerdirs, Options{UserXattr: t.marks == userMarks})
	if err != nil {
		return nil, nil, err
	}
	defer lower.Close()
	shown, err := lower.show(path)
	if err != nil || len(shown) == 0 {
		return nil, nil, err
	}
	closeAll(shown[1:])
	return shown[0], nil, nil
}

// openBelow opens a directory by names, following nothing.
func openBelow(root, path string) (*directory, error) {
	dir, _, err := openRoot(root)
	if err != nil || path == "" {
		return dir, err
	}
	for name := range strings.SplitSeq(path, "/") {
		next, _, err := dir.open(zeroEnded(name))
		dir.close()
		if err != nil {
			return nil, err
		}
		next.parent = nil
		dir = next
	}
	return dir, nil
}

// lead writes the directories that lead to the volume that is walked and that were not: what
// makes them by itself would not know their owners and modes.
func (t *writer) lead() error {
	for i := range t.volumes.above {
		above := &t.volumes.above[i]
		if above.written || t.wrote[above.path] {
			continue
		}
		if err := t.writeLead(above); err != nil {
			return err
		}
		if t.wrote == nil {
			t.wrote = map[string]bool{}
		}
		above.written, t.wrote[above.path] = true, true
	}
	return nil
}

func (t *writer) writeLead(above *lead) error {
	path := []byte(above.path)
	return t.inLead(above.path, func(dir *directory, _ *branch) error {
		var st unix.Stat_t
		if err := unix.Fstat(dir.fd, &st); err != nil {
			return vanished(path, err)
		}
		attrs, err := t.xattrs(fdXattrs(dir.fd), path)
		if err != nil {
			return err
		}
		return t.header(directoryHeader(dir, &st, attrs, path, above.inherits))
	})
}

// note remembers that a directory was written that leads to a volume.
func (t *writer) note(h *header) {
	if len(t.volumes.leads) == 0 || h.typeflag != tar.TypeDir || t.summing {
		return
	}
	if path := string(bytes.TrimSuffix(h.name, []byte("/"))); t.volumes.leads[path] {
		if t.wrote == nil {
			t.wrote = map[string]bool{}
		}
		t.wrote[path] = true
	}
}

// isInnerWhiteout is whether an entry of a volume is a character device of the numbers 0, 0. In a
// volume it is the whiteout of an overlay that something in the container has made there, and a
// layer cannot hold it: unpacked it would be one of the layer's own.
func (t *writer) isInnerWhiteout(st *unix.Stat_t) bool {
	return t.volumes.now != nil && st.Mode&unix.S_IFMT == unix.S_IFCHR && st.Rdev == 0
}

// leaveOut notes an entry that a layer cannot hold, and that does not keep all the rest from
// being in it.
func (t *writer) leaveOut(path []byte) {
	if t.stats.LeftOut == 0 {
		t.stats.FirstLeftOut = "/" + string(path)
	}
	t.stats.LeftOut++
}

// WriteVolumes writes the volumes of o alone, as a layer of their own.
func WriteVolumes(ctx context.Context, w io.Writer, o Options) (Stats, error) {
	return writeBranches(ctx, w, "", o)
}
