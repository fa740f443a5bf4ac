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
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"io"
	"os"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"
)

// Entry is what there is to say about one file, directory or other thing. Names are quoted as Go does it, for they may
// be of any bytes.
//
// Left out is what no image carries and nobody can set: the times of access and of the change of the inode. A
// directory's size and number of links are its file system's.
type Entry struct {
	Path   string            `json:"path"`
	Type   string            `json:"type"`
	Mode   uint32            `json:"mode"`
	Owner  string            `json:"owner"`
	Time   string            `json:"time"`
	Size   int64             `json:"size,omitempty"`
	Sum    string            `json:"sum,omitempty"`
	Target string            `json:"target,omitempty"`
	Device string            `json:"device,omitempty"`
	Links  uint64            `json:"links,omitempty"`
	Same   string            `json:"same,omitempty"` // the first name of the same file
	Xattrs map[string]string `json:"xattrs,omitempty"`
}

// String has one line for everything.
func (e Entry) String() string {
	return fmt.Sprintf("%s %s %04o %s %s size=%d sum=%.12s target=%.40s device=%s links=%d same=%s %v",
		e.Path, e.Type, e.Mode, e.Owner, e.Time, e.Size, e.Sum, e.Target, e.Device, e.Links, e.Same, e.Xattrs)
}

// Inventory describes everything below root, but for what is mounted there.
func Inventory(root string) ([]Entry, error) {
	var entries []Entry
	first := map[uint64]string{}
	err := walk(root, func(path string, st *unix.Stat_t) error {
		if path == "" {
			return nil
		}
		e, err := describe(root+"/"+path, path, st)
		if err != nil {
			return fmt.Errorf("%q: %w", path, err)
		}
		if e.Links > 1 {
			if first[st.Ino] == "" {
				first[st.Ino] = e.Path
			}
			e.Same = first[st.Ino]
		}
		entries = append(entries, e)
		return nil
	})
	return entries, err
}

var types = map[uint32]string{
	unix.S_IFREG: Regular, unix.S_IFDIR: Directory, unix.S_IFLNK: "link", unix.S_IFIFO: "fifo",
	unix.S_IFCHR: "character", unix.S_IFBLK: "block", unix.S_IFSOCK: Socket,
}

// Some of the types.
const (
	Regular   = "file"
	Directory = "directory"
	Socket    = "socket"
)

func describe(file, path string, st *unix.Stat_t) (Entry, error) {
	format := st.Mode & unix.S_IFMT
	e := Entry{
		Path:  strconv.QuoteToASCII(path),
		Type:  types[format],
		Mode:  st.Mode & 0o7777,
		Owner: fmt.Sprintf("%d:%d", st.Uid, st.Gid),
		Time:  fmt.Sprintf("%d.%09d", st.Mtim.Sec, st.Mtim.Nsec),
	}
	if format != unix.S_IFDIR {
		e.Links = uint64(st.Nlink)
	}
	var err error
	switch format {
	case unix.S_IFREG:
		e.Size = st.Size
		e.Sum, err = sum(file)
	case unix.S_IFLNK:
		var target string
		target, err = os.Readlink(file)
		e.Target = strconv.QuoteToASCII(target)
	case unix.S_IFCHR, unix.S_IFBLK:
		e.Device = fmt.Sprintf("%d:%d", unix.Major(uint64(st.Rdev)), unix.Minor(uint64(st.Rdev)))
	}
	if err != nil {
		return e, err
	}
	e.Xattrs, err = xattrs(file)
	return e, err
}

func sum(path string) (string, error) {
	file, err := os.Open(path)
	if err != nil {
		return "", err
	}
	defer file.Close()
	hash := sha256.New()
	if _, err := io.Copy(hash, file); err != nil {
		return "", err
	}
	return hex.EncodeToString(hash.Sum(nil)), nil
}

func xattrNames(path string) ([]string, error) {
	list := make([]byte, 64<<10)
	n, err := unix.Llistxattr(path, list)
	if err != nil || n == 0 {
		return nil, err
	}
	return strings.Split(strings.TrimSuffix(string(list[:n]), "\x00"), "\x00"), nil
}

func xattrs(path string) (map[string]string, error) {
	names, err := xattrNames(path)
	if err != nil || len(names) == 0 {
		return nil, err
	}
	values := map[string]string{}
	buf := make([]byte, 64<<10)
	for _, name := range names {
		n, err := unix.Lgetxattr(path, name, buf)
		if err != nil {
			return nil, fmt.Errorf("%s: %w", name, err)
		}
		values[name] = hex.EncodeToString(buf[:n])
	}
	return values, nil
}
