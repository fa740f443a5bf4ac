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
	"errors"
	"slices"
	"strconv"

	"golang.org/x/sys/unix"
)

// sparseLeast is how large a file's holes are together when they are left out of the layer.
//
// Written as zeros they take no room, for they compress to nothing, but they belong to the
// layer's digest: 20 GB of them took two minutes, for which the container was frozen. The
// image specification advises against sparse members, because not all readers of tar know
// them (https://github.com/opencontainers/image-spec/blob/main/layer.md); those of layers
// do, since they are archive/tar or libarchive. Smaller holes are written as zeros, so
// that few images have any.
const sparseLeast = 1 << 20

// maxMap is how long the map of a sparse file may be. Readers take 1 MiB of it at most.
var maxMap = 1<<20 - 64<<10

// extent is a part of a file that has data.
type extent struct{ offset, end int64 }

// extents are the parts of a file that have data, in order, and how much of it has none.
// Holes that are too many to be told of each count as data, the smallest first.
func (t *writer) extents(fd int, size int64) (all []extent, holes int64, err error) {
	const entry = 40 // the bytes that two numbers and their line ends take at most
	all, least := t.data[:0], int64(0)
	defer func() { t.data = all }()
	for offset := int64(0); offset < size; {
		if err := t.ctx.Err(); err != nil {
			return nil, 0, err
		}
		data, err := unix.Seek(fd, offset, unix.SEEK_DATA)
		switch {
		case errors.Is(err, unix.ENXIO): // no data from here to the end
			data = size
		case errors.Is(err, unix.EINVAL): // a file system that does not tell
			data = offset
		case err != nil:
			return nil, 0, err
		}
		if data >= size {
			break
		}
		hole := size
		if !errors.Is(err, unix.EINVAL) {
			if hole, err = unix.Seek(fd, data, unix.SEEK_HOLE); err != nil {
				return nil, 0, err
			}
		}
		offset = min(hole, size)
		if n := len(all); n > 0 && data-all[n-1].end < least {
			all[n-1].end = offset
		} else {
			all = append(all, extent{data, offset})
		}
		for len(all) > maxMap/entry {
			least = max(2*least, 4096)
			all = joined(all, least)
		}
	}
	holes = size
	for _, e := range all {
		holes -= e.end - e.offset
	}
	return all, holes, nil
}

// joined takes what lies between two extents for data where it is less than least.
func joined(all []extent, least int64) []extent {
	kept := all[:1]
	for _, e := range all[1:] {
		if last := &kept[len(kept)-1]; e.offset-last.end < least {
			last.end = e.end
		} else {
			kept = append(kept, e)
		}
	}
	return kept
}

// sparse writes a file as its data and a map of it: GNU's sparse format 1.0, in PAX.
// https://www.gnu.org/software/tar/manual/html_node/PAX-1.html
func (t *writer) sparse(fd int, h *header, path []byte, data []extent) error {
	size := h.size
	if n := len(data); n == 0 || data[n-1].end < size {
		data = append(data, extent{size, size}) // which says where the file ends
	}
	t.mapping = strconv.AppendInt(t.mapping[:0], int64(len(data)), 10)
	t.mapping = append(t.mapping, '\n')
	content := int64(0)
	for _, e := range data {
		t.mapping = append(strconv.AppendInt(t.mapping, e.offset, 10), '\n')
		t.mapping = append(strconv.AppendInt(t.mapping, e.end-e.offset, 10), '\n')
		content += e.end - e.offset
	}
	t.mapping = append(t.mapping, zeroBlock[:padding(int64(len(t.mapping)))]...)
	h.sparse, h.size = size, int64(len(t.mapping))+content
	return t.whole(h, func() error {
		n, err := t.out.Write(t.mapping)
		t.written += int64(n)
		if err != nil {
			return err
		}
		for _, e := range data {
			if err := t.copy(fd, path, e.offset, e.end); err != nil {
				return err
			}
		}
		return nil
	})
}

// Of a sparse file the name is in a record; in its place is this directory's.
const sparseDirectory = "GNUSparseFile.0/"

func sparseName(name []byte) []byte {
	slash := bytes.LastIndexByte(name, '/') + 1
	return slices.Concat(name[:slash], []byte(sparseDirectory), name[slash:])
}
