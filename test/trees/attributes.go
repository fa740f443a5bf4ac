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

package trees

import (
	"encoding/binary"
	"errors"

	"golang.org/x/sys/unix"
)

// dress gives something new its owner, mode, extended attributes and time, at random.
func (m *Maker) dress(path string, format uint32) error {
	if err := m.chown(path); err != nil {
		return err
	}
	if format != unix.S_IFLNK {
		if err := m.chmod(path); err != nil {
			return err
		}
	}
	for range m.rand.IntN(3) {
		if err := m.setXattr(path, format); err != nil {
			return err
		}
	}
	return m.touch(path)
}

// chown takes the set-uid bit and the capabilities of a file, as it does in a container.
func (m *Maker) chown(path string) error {
	owners := []int{0, 0, 0, 1, 1000, 65534, 12345678, 4000000000, 4294967294}
	return unix.Lchown(m.at(path), owners[m.rand.IntN(len(owners))], owners[m.rand.IntN(len(owners))])
}

func (m *Maker) chmod(path string) error {
	modes := []uint32{0o644, 0o755, 0o600, 0o000, 0o777, 0o1777, 0o4755, 0o2755, 0o6711, 0o7777, uint32(m.rand.IntN(0o10000))}
	return unix.Fchmodat(unix.AT_FDCWD, m.at(path), modes[m.rand.IntN(len(modes))], 0)
}

// touch sets the time of modification, with nanoseconds.
func (m *Maker) touch(path string) error {
	seconds := []int64{0, 1, 1_700_000_000, 1<<31 - 1, 1 << 31, 1 << 32, 1 << 33, m.rand.Int64N(1 << 33)}
	at := unix.Timespec{Sec: seconds[m.rand.IntN(len(seconds))], Nsec: m.rand.Int64N(1_000_000_000)}
	return unix.UtimesNanoAt(unix.AT_FDCWD, m.at(path), []unix.Timespec{at, at}, unix.AT_SYMLINK_NOFOLLOW)
}

// setXattr sets one of the attributes that the kernel allows for the type.
func (m *Maker) setXattr(path string, format uint32) error {
	value := m.content(m.rand.IntN(200))
	attributes := map[string][]byte{}
	var names []string
	offer := func(name string, value []byte) { names, attributes[name] = append(names, name), value }

	offer("trusted.mine", value)
	offer("security.mine", value)
	if format != unix.S_IFLNK {
		offer("system.posix_acl_access", m.acl())
	}
	if format == unix.S_IFREG || format == unix.S_IFDIR {
		offer("user.mine", value)
		offer("user.two words", value)
		// What overlay calls its own elsewhere: here it is the container's.
		offer("user.overlay.opaque", []byte("y"))
	}
	if format == unix.S_IFREG {
		offer("security.capability", m.capability())
	}
	if format == unix.S_IFDIR {
		offer("system.posix_acl_default", m.acl())
	}
	name := names[m.rand.IntN(len(names))]
	err := unix.Lsetxattr(m.at(path), name, attributes[name], 0)
	if errors.Is(err, unix.ENOSPC) || errors.Is(err, unix.E2BIG) {
		return nil // they share one block of the file system
	}
	return err
}

// acl is a list for the owner, one other user, the group, the mask and others, in the kernel's form.
// https://man7.org/linux/man-pages/man5/acl.5.html
func (m *Maker) acl() []byte {
	acl := binary.LittleEndian.AppendUint32(nil, 2)
	for _, tag := range []struct {
		tag uint16
		id  uint32
	}{{0x01, ^uint32(0)}, {0x02, uint32(1000 + m.rand.IntN(5))}, {0x04, ^uint32(0)}, {0x10, ^uint32(0)}, {0x20, ^uint32(0)}} {
		acl = binary.LittleEndian.AppendUint16(acl, tag.tag)
		acl = binary.LittleEndian.AppendUint16(acl, uint16(m.rand.IntN(8)))
		acl = binary.LittleEndian.AppendUint32(acl, tag.id)
	}
	return acl
}

// capability is a set of permitted capabilities in the form of revision 2 (struct vfs_cap_data).
func (m *Maker) capability() []byte {
	capability := binary.LittleEndian.AppendUint32(nil, 0x02000001)
	capability = binary.LittleEndian.AppendUint32(capability, 1<<m.rand.IntN(30))
	return append(capability, make([]byte, 12)...)
}
