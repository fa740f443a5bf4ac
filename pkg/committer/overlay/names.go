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

// getdents is replaced by tests, to change a directory while it is listed.
var getdents = unix.Getdents

// list reads the directory's names, each once.
func (d *directory) list(buf []byte) (names, error) {
	var all names
	for {
		n, err := retry(func() (int, error) { return getdents(d.fd, buf) })
		if err != nil {
			return names{}, err
		}
		if n == 0 {
			all.settle()
			return all, nil
		}
		all.add(buf[:n])
	}
}

// add takes in what one getdents64 gave.
func (n *names) add(records []byte) {
	for rest := records; len(rest) > 0; {
		length := binary.NativeEndian.Uint16(rest[direntLength:])
		record := rest[:length]
		rest = rest[length:]
		name, _, _ := bytes.Cut(record[direntName:], []byte{0})
		if binary.NativeEndian.Uint64(record) == 0 || string(name) == "." || string(name) == ".." {
			continue
		}
		n.starts = append(n.starts, uint32(len(n.bytes)))
		n.size = append(n.size, uint8(len(name)))
		n.types = append(n.types, record[direntType])
		n.bytes = append(append(n.bytes, name...), 0)
	}
}

// settle brings the names into their order, and drops those that were given before: a
// name that is removed and made anew while the directory is listed may be given again
// (readdir(3p) leaves it open; XFS does), and then of another type. A name that comes or
// goes meanwhile, by a rename too, may be missing; who lists a directory that is in use
// has to list it once more when it is not.
func (n *names) settle() {
	sort.Sort(n)
	kept := 0
	for i := range n.len() {
		if kept > 0 && bytes.Equal(n.raw(kept-1), n.raw(i)) {
			if n.types[kept-1] != n.types[i] {
				n.types[kept-1] = unix.DT_UNKNOWN
			}
			continue
		}
		n.starts[kept], n.size[kept], n.types[kept] = n.starts[i], n.size[i], n.types[i]
		kept++
	}
	n.starts, n.size, n.types = n.starts[:kept], n.size[:kept], n.types[:kept]
}
