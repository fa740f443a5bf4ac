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
	"errors"
	"fmt"
	"os"
	"slices"
	"strconv"
	"strings"
	"unsafe"

	"golang.org/x/sys/unix"
)

// schily is the prefix of extended attributes in PAX records, as star, GNU tar,
// bsdtar and containerd write and read them.
const schily = "SCHILY.xattr."

// The ACLs of a file, and of what is made in a directory.
const (
	accessACL  = "system.posix_acl_access"
	defaultACL = "system.posix_acl_default"

	// emptyACL is a list without entries (struct posix_acl_xattr_header): setting it
	// removes the list that is there.
	emptyACL = "\x02\x00\x00\x00"
)

// attributes are an entry's extended attributes: what overlay says by them, and
// what the container keeps in them, as PAX records.
type attributes struct {
	opaque, whiteout bool
	kept             []record
}

// inheritNothing makes explicit that there is no ACL. Unpackers make a directory
// with its default ACL first and then what is in it, which inherits it: what was
// there before the default ACL would come back with it.
func (a *attributes) inheritNothing(acls ...string) {
	for _, name := range acls {
		if !a.has(name) {
			a.kept = append(a.kept, record{schily + name, emptyACL})
		}
	}
}

func (a *attributes) has(name string) bool {
	return slices.ContainsFunc(a.kept, func(r record) bool { return r.key == schily+name })
}

// xattrSource reads extended attributes. Both calls answer as the system calls
// do: the size, and ERANGE for a buffer that is too small.
type xattrSource struct {
	list func(buf []byte) (int, error)
	get  func(name string, buf []byte) (int, error)
}

func fdXattrs(fd int) xattrSource {
	return xattrSource{
		list: func(buf []byte) (int, error) { return unix.Flistxattr(fd, buf) },
		get:  func(name string, buf []byte) (int, error) { return unix.Fgetxattr(fd, name, buf) },
	}
}

// nameXattrs reads those of an entry that must not be opened. There is no
// lgetxattrat before Linux 6.13; the directory's link in /proc does the same.
func nameXattrs(dirfd int, name []byte) xattrSource {
	path := "/proc/self/fd/" + strconv.Itoa(dirfd) + "/" + string(name)
	return xattrSource{
		list: func(buf []byte) (int, error) { return unix.Llistxattr(path, buf) },
		get:  func(name string, buf []byte) (int, error) { return unix.Lgetxattr(path, name, buf) },
	}
}

func (t *writer) xattrs(source xattrSource, path []byte) (attributes, error) {
	var a attributes
	list, err := t.read(source.list)
	if errors.Is(err, unix.ENOTSUP) || err == nil && len(list) == 0 {
		return a, nil
	}
	if err != nil {
		return a, vanished(path, err)
	}
	for _, name := range strings.FieldsFunc(string(list), func(r rune) bool { return r == 0 }) {
		mark, isMark := strings.CutPrefix(name, t.marks)
		if !isMark && !belongsToContainer(name) {
			continue
		}
		value, err := t.read(func(buf []byte) (int, error) { return source.get(name, buf) })
		if err != nil {
			return a, fmt.Errorf("reading the attribute %q of %q: %w", name, "/"+string(path), err)
		}
		if isMark && t.volumes.now != nil {
			// The container's own, which an overlay shows only in an escaped form: unescaped in
			// a layer it would speak of that.
			name = t.marks + "overlay." + mark
		} else if isMark {
			keep, err := a.mark(mark, string(value), string(path))
			if err != nil {
				return a, err
			}
			if !keep {
				continue
			}
		}
		if strings.Contains(name, "=") {
			return a, fmt.Errorf("the attribute %q of %q %w: its name has an equals sign", name, "/"+string(path), ErrUnrepresentable)
		}
		if value, err = t.owners.attribute(name, value); err != nil {
			return a, fmt.Errorf("the attribute %q of %q %w: %w", name, "/"+string(path), ErrUnrepresentable, err)
		}
		a.kept = append(a.kept, record{schily + name, string(value)})
	}
	return a, nil
}

// mark takes in one of overlay's own attributes and says whether it is to be
// kept all the same.
// https://docs.kernel.org/filesystems/overlayfs.html
func (a *attributes) mark(name, value, path string) (keep bool, err error) {
	switch {
	case name == "opaque":
		a.opaque = value == "y" // "x" says only that whiteouts of the other form may be inside
	case name == "whiteout":
		a.whiteout = true
	case name == "redirect", name == "metacopy":
		return false, fmt.Errorf("%q %w (overlay's %s): the node's overlay file systems need redirect_dir=off and metacopy=off", "/"+path, ErrNotSelfContained, name)
	case strings.HasPrefix(name, "overlay."):
		// An attribute that the container itself set with overlay's prefix, for an
		// overlay of its own; the kernel stores it escaped by a second prefix, and it
		// has to go back in the same form.
		return true, nil
	}
	// origin, impure, nlink, uuid, protattr, xwhiteouts, upper: bookkeeping of this mount.
	return false, nil
}

// belongsToContainer is whether an attribute is the file's rather than the
// node's. SELinux labels carry the categories of this very Pod, EVM's signature
// is bound to this very inode, and what file systems show of themselves
// (btrfs.compression, system.ntfs_acl, …) means nothing elsewhere.
func belongsToContainer(name string) bool {
	switch name {
	case "security.selinux", "security.evm":
		return false
	case "trusted.SGI_ACL_FILE", "trusted.SGI_ACL_DEFAULT":
		return false // how XFS keeps the lists, which it shows by their own names as well
	case accessACL, defaultACL:
		return true
	}
	return strings.HasPrefix(name, "user.") || strings.HasPrefix(name, "security.") || strings.HasPrefix(name, "trusted.")
}

// seesTrusted is whether the kernel shows trusted.* attributes to this process.
// To others it does not refuse them, it acts as if there were none: opaque
// directories would look like ordinary ones, and deleted files would come back.
func seesTrusted() bool {
	header := unix.CapUserHeader{Version: unix.LINUX_CAPABILITY_VERSION_3}
	var sets [2]unix.CapUserData
	if err := unix.Capget(&header, &sets[0]); err != nil {
		return false
	}
	if sets[unix.CAP_SYS_ADMIN/32].Effective&(1<<(unix.CAP_SYS_ADMIN%32)) == 0 {
		return false
	}
	// The capability counts only in the initial user namespace, the one that maps
	// all users to themselves.
	users, err := os.ReadFile("/proc/self/uid_map")
	return err == nil && slices.Equal(strings.Fields(string(users)), []string{"0", "0", "4294967295"})
}

// read calls with the writer's buffer, which is as large as the largest
// extended attribute and list of names (XATTR_SIZE_MAX, XATTR_LIST_MAX).
func (t *writer) read(call func(buf []byte) (int, error)) ([]byte, error) {
	n, err := retry(func() (int, error) { return call(t.buf) })
	if err != nil {
		return nil, err
	}
	return t.buf[:n], nil
}

// mayHaveXattrs is false for an entry without extended attributes. It costs a third of
// asking for their names, where the kernel has listxattrat(2), as since Linux 6.13.
func mayHaveXattrs(dirfd int, name []byte) bool {
	size, _, errno := unix.Syscall6(unix.SYS_LISTXATTRAT, uintptr(dirfd), uintptr(unsafe.Pointer(unsafe.SliceData(name))), unix.AT_SYMLINK_NOFOLLOW, 0, 0, 0)
	return errno != 0 || size > 0
}
