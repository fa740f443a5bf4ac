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
	"errors"
	"os"
	"path/filepath"
	"strings"

	"golang.org/x/sys/unix"
)

// changes is one step for each way to change a tree.
func (m *Maker) changes() []step {
	to := func(pick func(func(found) bool) (found, error), fits func(found) bool, change func(found) error) func() error {
		return func() error {
			f, err := pick(fits)
			if err != nil {
				return err
			}
			return change(f)
		}
	}
	steps := []step{
		{"overwrite", to(m.pick, regular, m.overwrite)},
		{"append", to(m.pick, regular, m.appendTo)},
		{"truncate", to(m.pick, regular, m.truncate)},
		{"punch a hole", to(m.pick, regular, m.punch)},
		{"chown", to(m.pick, anything, func(f found) error { return m.chown(f.path) })},
		{"chmod a file", to(m.pick, regular, func(f found) error { return m.chmod(f.path) })},
		{"chmod a directory", to(m.pick, directory, func(f found) error { return m.chmod(f.path) })},
		{"touch", to(m.pick, anything, func(f found) error { return m.touch(f.path) })},
		{"set an attribute", to(m.pick, anything, func(f found) error { return m.setXattr(f.path, f.mode&unix.S_IFMT) })},
		{"remove attributes", to(m.pick, anything, m.removeXattrs)},
		{"delete a file", to(m.free, func(f found) bool { return !directory(f) }, m.remove)},
		{"delete a directory", to(m.free, directory, m.remove)},
		{"delete and make again", to(m.free, directory, m.again)},
		{"file to directory", to(m.free, func(f found) bool { return !directory(f) }, m.fileToDirectory)},
		{"directory to file", to(m.free, directory, m.directoryToFile)},
		{"directory to link", to(m.free, directory, m.directoryToLink)},
		{"anything to socket", to(m.free, anything, m.toSocket)},
		{"file to directory and back", to(m.free, regular, m.thereAndBack)},
		{"rename a file", to(m.free, func(f found) bool { return !directory(f) }, m.rename)},
		{"rename a directory", to(m.free, directory, m.rename)},
		{"replace by rename", to(m.free, regular, m.replace)},
		{"chown to the same", to(m.pick, anything, m.chownToTheSame)},
		{"chown all to the same", m.chownAllToTheSame},
		{"rewrite the same", to(m.pick, regular, m.rewriteTheSame)},
		{"rebuild the same", to(m.free, directory, m.rebuildTheSame)},
	}
	return append(steps, m.kinds()...)
}

func (m *Maker) overwrite(f found) error {
	return os.WriteFile(m.at(f.path), m.content(m.rand.IntN(50_000)), 0)
}

func (m *Maker) appendTo(f found) error {
	file, err := os.OpenFile(m.at(f.path), os.O_APPEND|os.O_WRONLY, 0)
	if err != nil {
		return err
	}
	defer file.Close()
	_, err = file.Write(m.content(1 + m.rand.IntN(5000)))
	return err
}

// truncate makes a file shorter, or longer with a hole at its end.
func (m *Maker) truncate(f found) error { return os.Truncate(m.at(f.path), m.rand.Int64N(200_000)) }

func (m *Maker) punch(f found) error {
	file, err := os.OpenFile(m.at(f.path), os.O_WRONLY, 0)
	if err != nil {
		return err
	}
	defer file.Close()
	err = unix.Fallocate(int(file.Fd()), unix.FALLOC_FL_PUNCH_HOLE|unix.FALLOC_FL_KEEP_SIZE, m.rand.Int64N(50_000), 1+m.rand.Int64N(50_000))
	if errors.Is(err, unix.ENOTSUP) {
		return errNothing
	}
	return err
}

func (m *Maker) removeXattrs(f found) error {
	names, err := xattrNames(m.at(f.path))
	if err != nil {
		return err
	}
	if len(names) == 0 {
		return errNothing
	}
	for _, name := range names {
		// XFS lists an ACL under two names.
		if err := unix.Lremovexattr(m.at(f.path), name); err != nil && !errors.Is(err, unix.ENODATA) {
			return err
		}
	}
	return nil
}

func (m *Maker) remove(f found) error { return os.RemoveAll(m.at(f.path)) }

// again deletes a directory and makes it anew with something else in it: what the base has there must not show through.
func (m *Maker) again(f found) error {
	if err := m.remove(f); err != nil {
		return err
	}
	if err := os.Mkdir(m.at(f.path), 0o700); err != nil {
		return err
	}
	if err := os.WriteFile(m.at(f.path+"/"+m.name()), m.content(50), 0o644); err != nil && !errors.Is(err, unix.ENAMETOOLONG) {
		return err
	}
	return m.dress(f.path, unix.S_IFDIR)
}

func (m *Maker) fileToDirectory(f found) error { return m.again(f) }

func (m *Maker) directoryToFile(f found) error {
	if err := m.remove(f); err != nil {
		return err
	}
	if err := os.WriteFile(m.at(f.path), m.content(500), 0o600); err != nil {
		return err
	}
	return m.dress(f.path, unix.S_IFREG)
}

func (m *Maker) directoryToLink(f found) error {
	if err := m.remove(f); err != nil {
		return err
	}
	if err := os.Symlink("/proc/self/root/etc", m.at(f.path)); err != nil {
		return err
	}
	return m.dress(f.path, unix.S_IFLNK)
}

// toSocket leaves nothing that an image can keep under a name of the base.
func (m *Maker) toSocket(f found) error {
	if err := m.remove(f); err != nil {
		return err
	}
	return unix.Mknod(m.at(f.path), unix.S_IFSOCK|0o600, 0)
}

func (m *Maker) thereAndBack(f found) error {
	if err := m.fileToDirectory(f); err != nil {
		return err
	}
	return m.directoryToFile(f)
}

// rename moves something into another directory or to another name.
func (m *Maker) rename(f found) error {
	path, err := m.place()
	if err != nil {
		return err
	}
	if path == f.path || strings.HasPrefix(path, f.path+"/") || len(path)+len(f.path) > 3000 {
		return errNothing
	}
	return m.move(f.path, path)
}

// move does what mv does where an overlay refuses to rename a directory of its base (EXDEV): it moves what is inside.
func (m *Maker) move(from, to string) error {
	err := os.Rename(m.at(from), m.at(to))
	if !errors.Is(err, unix.EXDEV) {
		return err
	}
	entries, err := os.ReadDir(m.at(from))
	if err != nil {
		return err
	}
	if err := os.Mkdir(m.at(to), 0o755); err != nil {
		return err
	}
	for _, e := range entries {
		if err := m.move(from+"/"+e.Name(), to+"/"+e.Name()); err != nil {
			return err
		}
	}
	if err := os.Remove(m.at(from)); err != nil {
		return err
	}
	return m.dress(to, unix.S_IFDIR)
}

// replace puts a new file in the place of an old one as editors do.
func (m *Maker) replace(f found) error {
	next := filepath.Dir(m.at(f.path)) + "/.next"
	if err := os.WriteFile(next, m.content(700), 0o640); err != nil {
		return err
	}
	return os.Rename(next, m.at(f.path))
}

// chownToTheSame copies something up on an overlay, and changes nothing but what a chown takes.
func (m *Maker) chownToTheSame(f found) error {
	var st unix.Stat_t
	if err := unix.Lstat(m.at(f.path), &st); err != nil {
		return err
	}
	return unix.Lchown(m.at(f.path), int(st.Uid), int(st.Gid))
}

// chownAllToTheSame is the chown -R of many an entrypoint.
func (m *Maker) chownAllToTheSame() error {
	entries, err := m.all()
	if err != nil {
		return err
	}
	for _, f := range entries {
		if err := m.chownToTheSame(f); err != nil {
			return err
		}
	}
	return nil
}

// rewriteTheSame writes what a file has, and gives it the time that it had.
func (m *Maker) rewriteTheSame(f found) error {
	var st unix.Stat_t
	if err := unix.Lstat(m.at(f.path), &st); err != nil {
		return err
	}
	content, err := os.ReadFile(m.at(f.path))
	if err != nil {
		return err
	}
	if err := os.WriteFile(m.at(f.path), content, 0); err != nil {
		return err
	}
	return m.setTime(f.path, &st)
}

// rebuildTheSame removes a directory, and makes it again with its own files.
func (m *Maker) rebuildTheSame(f found) error {
	type file struct {
		name    string
		st      unix.Stat_t
		content []byte
	}
	var dir unix.Stat_t
	if err := unix.Lstat(m.at(f.path), &dir); err != nil {
		return err
	}
	entries, err := os.ReadDir(m.at(f.path))
	if err != nil {
		return err
	}
	var files []file
	for _, e := range entries {
		one := file{name: f.path + "/" + e.Name()}
		if err := unix.Lstat(m.at(one.name), &one.st); err != nil {
			return err
		}
		if one.st.Mode&unix.S_IFMT != unix.S_IFREG {
			continue
		}
		if one.content, err = os.ReadFile(m.at(one.name)); err != nil {
			return err
		}
		files = append(files, one)
	}
	if err := m.remove(f); err != nil {
		return err
	}
	if err := os.Mkdir(m.at(f.path), 0o700); err != nil {
		return err
	}
	for _, one := range files {
		if err := os.WriteFile(m.at(one.name), one.content, 0o600); err != nil {
			return err
		}
		if err := m.restore(one.name, &one.st); err != nil {
			return err
		}
	}
	return m.restore(f.path, &dir)
}

// restore gives something owner, mode and time.
func (m *Maker) restore(path string, st *unix.Stat_t) error {
	if err := unix.Lchown(m.at(path), int(st.Uid), int(st.Gid)); err != nil {
		return err
	}
	if err := unix.Fchmodat(unix.AT_FDCWD, m.at(path), st.Mode&0o7777, 0); err != nil {
		return err
	}
	return m.setTime(path, st)
}

func (m *Maker) setTime(path string, st *unix.Stat_t) error {
	return unix.UtimesNanoAt(unix.AT_FDCWD, m.at(path), []unix.Timespec{st.Atim, st.Mtim}, unix.AT_SYMLINK_NOFOLLOW)
}
