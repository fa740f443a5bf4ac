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
	"encoding/binary"
	"sort"

	"golang.org/x/sys/unix"
)

// names are the entries of one directory in the order of their bytes. They
// lie in one buffer: a container can put a million files into a directory, and
// a million strings would cost several times as much.
type names struct {
	bytes  []byte   // each with a zero at its end, as the kernel wants them
	starts []uint32 // where each name begins
	size   []uint8  // and how long it is; NAME_MAX is 255
	types  []uint8  // DT_…, DT_UNKNOWN where the file system does not tell
}

func (n *names) len() int { return len(n.starts) }

// raw is a name; the byte after its end is a zero.
func (n *names) raw(i int) []byte {
	return n.bytes[n.starts[i] : n.starts[i]+uint32(n.size[i])]
}

// Len, Less and Swap are for sort.
func (n *names) Len() int           { return n.len() }
func (n *names) Less(i, j int) bool { return bytes.Compare(n.raw(i), n.raw(j)) < 0 }
func (n *names) Swap(i, j int) {
	n.starts[i], n.starts[j] = n.starts[j], n.starts[i]
	n.size[i], n.size[j] = n.size[j], n.size[i]
	n.types[i], n.types[j] = n.types[j], n.types[i]
}

// Of struct linux_dirent64, see getdents64(2): inode number, offset, length of
// the record, type, name with a terminating zero.
const (
	direntLength = 16
	direntType   = 18
	direntName   = 19
)

// list reads the directory's names.
func (d *directory) list(buf []byte) (names, error) {
	var all names
	for {
		n, err := retry(func() (int, error) { return unix.Getdents(d.fd, buf) })
		if err != nil {
			return names{}, err
		}
		if n == 0 {
			sort.Sort(&all)
			return all, nil
		}
		for rest := buf[:n]; len(rest) > 0; {
			length := binary.NativeEndian.Uint16(rest[direntLength:])
			record := rest[:length]
			rest = rest[length:]
			name, _, _ := bytes.Cut(record[direntName:], []byte{0})
			if binary.NativeEndian.Uint64(record) == 0 || string(name) == "." || string(name) == ".." {
				continue
			}
			all.starts = append(all.starts, uint32(len(all.bytes)))
			all.size = append(all.size, uint8(len(name)))
			all.types = append(all.types, record[direntType])
			all.bytes = append(append(all.bytes, name...), 0)
		}
	}
}
