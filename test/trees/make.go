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
	"os"
	"path/filepath"
	"strings"

	"golang.org/x/sys/unix"
)

// kinds is one step for each kind of thing.
func (m *Maker) kinds() []step {
	return []step{
		{"directory", m.makeDirectory},
		{"file", func() error { return m.makeFile(m.content(1 + m.rand.IntN(100_000))) }},
		{"empty file", func() error { return m.makeFile(nil) }},
		{"sparse file", m.makeSparse},
		{"hard link", m.makeHardlink},
		{"absolute link", func() error { return m.makeSymlink("/etc/shadow") }},
		{"relative link", m.makeRelativeLink},
		{"dangling link", func() error { return m.makeSymlink("nowhere/" + m.name()) }},
		{"long link", func() error { return m.makeSymlink(strings.Repeat("x/", 1500+m.rand.IntN(500))) }},
		{"FIFO", func() error { return m.makeNode(unix.S_IFIFO, 0) }},
		{"character device", func() error { return m.makeNode(unix.S_IFCHR, m.device()) }},
		{"block device", func() error { return m.makeNode(unix.S_IFBLK, m.device()) }},
		{"socket", func() error { return m.makeNode(unix.S_IFSOCK, 0) }},
		{"directory tree", m.makeDeep},
		{"second hard link", m.makeHardlink},
	}
}

// place is a new path in a random directory.
func (m *Maker) place() (string, error) {
	for {
		dir := ""
		if m.rand.IntN(4) > 0 {
			f, err := m.pick(func(f found) bool { return directory(f) && len(f.path) < 2500 })
			if err != nil && !errors.Is(err, errNothing) {
				return "", err
			}
			dir = f.path
		}
		path := strings.TrimPrefix(dir+"/"+m.name(), "/")
		var st unix.Stat_t
		if err := unix.Lstat(m.at(path), &st); errors.Is(err, unix.ENOENT) {
			return path, nil
		}
	}
}

// oddNames trip up what quotes, splits, trims or decodes names.
var oddNames = []string{
	"new\nline", " leading", "trailing ", "two  spaces", "\xff\xfe", "cut\xc3", "-rf", "'quote\"", `back\slash`, "*?[a]", "%s%n", "a=b",
	"..x", ".hidden", ".wh", ".whx", "wh.x", "...", "ü", "u\u0308", "名前", "\x01\x1b[31m", "tab\t", "~", "#", "$(x)", "PaxHeaders.0", "a:b", "@LongLink", "con.", "\u202e",
}

func (m *Maker) name() string {
	switch m.rand.IntN(6) {
	case 0:
		return oddNames[m.rand.IntN(len(oddNames))]
	case 1:
		return strings.Repeat(string(rune('a'+m.rand.IntN(26))), 255)
	default:
		name := make([]byte, 1+m.rand.IntN(12))
		for i := range name {
			name[i] = byte('a' + m.rand.IntN(26))
		}
		return string(name)
	}
}

func (m *Maker) content(size int) []byte {
	content := make([]byte, size)
	// Half of it compresses, as files do.
	for i := 0; i+8 <= size; i += 8 {
		if i/4096%2 == 0 {
			binary.LittleEndian.PutUint64(content[i:], m.rand.Uint64())
		}
	}
	return content
}

func (m *Maker) makeDirectory() error {
	path, err := m.place()
	if err != nil {
		return err
	}
	if err := os.Mkdir(m.at(path), 0o755); err != nil {
		return err
	}
	return m.dress(path, unix.S_IFDIR)
}

func (m *Maker) makeFile(content []byte) error {
	path, err := m.place()
	if err != nil {
		return err
	}
	if err := os.WriteFile(m.at(path), content, 0o600); err != nil {
		return err
	}
	return m.dress(path, unix.S_IFREG)
}

func (m *Maker) makeSparse() error {
	path, err := m.place()
	if err != nil {
		return err
	}
	file, err := os.Create(m.at(path))
	if err != nil {
		return err
	}
	defer file.Close()
	// With holes on either side of what a layer writes as zeros.
	size := int64(1+m.rand.IntN(10)) << 18
	for range m.rand.IntN(3) {
		if _, err := file.WriteAt(m.content(1+m.rand.IntN(5000)), m.rand.Int64N(size)); err != nil {
			return err
		}
	}
	// Past the last byte there may be a hole too.
	info, err := file.Stat()
	if err != nil {
		return err
	}
	if err := file.Truncate(max(size, info.Size())); err != nil {
		return err
	}
	return m.dress(path, unix.S_IFREG)
}

// makeHardlink gives something that is there a second name, in any directory.
func (m *Maker) makeHardlink() error {
	f, err := m.pick(func(f found) bool { return !directory(f) && !f.is(unix.S_IFSOCK) })
	if err != nil {
		return err
	}
	path, err := m.place()
	if err != nil {
		return err
	}
	return os.Link(m.at(f.path), m.at(path))
}

func (m *Maker) makeSymlink(target string) error {
	path, err := m.place()
	if err != nil {
		return err
	}
	err = os.Symlink(target, m.at(path))
	if errors.Is(err, unix.ENAMETOOLONG) && len(target) > 1000 { // XFS takes no more than 1,023 bytes
		err = os.Symlink(target[:1000], m.at(path))
	}
	if err != nil {
		return err
	}
	return m.dress(path, unix.S_IFLNK)
}

func (m *Maker) makeRelativeLink() error {
	f, err := m.pick(anything)
	if err != nil {
		return err
	}
	return m.makeSymlink("../" + filepath.Base(f.path))
}

func (m *Maker) makeNode(format uint32, device uint64) error {
	path, err := m.place()
	if err != nil {
		return err
	}
	if err := unix.Mknod(m.at(path), format|0o600, int(device)); err != nil {
		return err
	}
	return m.dress(path, format)
}

// device is a number that means nothing on most machines, and that XFS takes; a character device 0:0 is a deletion to the overlay.
func (m *Maker) device() uint64 {
	return unix.Mkdev(uint32(m.rand.IntN(1<<9)), uint32(1+m.rand.IntN(1<<18-1)))
}

// makeDeep makes directories in each other whose path is longer than a name may be.
func (m *Maker) makeDeep() error {
	path, err := m.place()
	if err != nil {
		return err
	}
	for range 3 + m.rand.IntN(3) {
		if err := os.Mkdir(m.at(path), 0o755); err != nil {
			return err
		}
		if err := m.dress(path, unix.S_IFDIR); err != nil {
			return err
		}
		path += "/" + strings.Repeat(string(rune('A'+m.rand.IntN(26))), 100+m.rand.IntN(100))
	}
	if err := os.WriteFile(m.at(path), m.content(100), 0o600); err != nil {
		return err
	}
	return m.dress(path, unix.S_IFREG)
}
