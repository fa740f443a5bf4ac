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

package room

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"

	"golang.org/x/sys/unix"
)

// Volume is the file system that the store is on.
type Volume struct {
	// Total is its size without what is kept for root, Available what is left of it, in bytes. A
	// Total of zero: the file system does not say.
	Total, Available int64
	// Files is how many more files it takes; negative: it does not count them.
	Files int64
}

// ReadVolume asks the file system of a directory.
func ReadVolume(dir string) (Volume, error) {
	var stat unix.Statfs_t
	if err := unix.Statfs(dir, &stat); err != nil {
		return Volume{}, fmt.Errorf("asking the file system of %s for its size: %w", dir, err)
	}
	block := int64(stat.Frsize)
	if block == 0 {
		block = int64(stat.Bsize)
	}
	volume := Volume{
		Total:     int64(stat.Blocks-(stat.Bfree-stat.Bavail)) * block,
		Available: int64(stat.Bavail) * block,
		Files:     int64(stat.Ffree),
	}
	if stat.Files == 0 {
		volume.Files = -1
	}
	return volume, nil
}

// hold has the file system set aside blocks for a file as far as length, beyond its end as well:
// what is appended to it then fits, whatever others write. Where the file system cannot do that, or
// has no room left, the file has what it had.
func hold(path string, length int64) error {
	file, err := os.OpenFile(path, os.O_WRONLY, 0)
	if err != nil {
		return err
	}
	defer func() { _ = file.Close() }()
	var stat unix.Stat_t
	if err := unix.Fstat(int(file.Fd()), &stat); err != nil {
		return err
	}
	// Half of it used up is soon enough: each call goes through the whole file.
	if missing := length - stat.Blocks*512; missing < Headroom/2 {
		return nil
	}
	return fallocate(file, unix.FALLOC_FL_KEEP_SIZE, length)
}

// fallocate is fallocate(2) from the beginning of a file, begun anew where a signal ends it.
func fallocate(file *os.File, mode uint32, length int64) error {
	for {
		if err := unix.Fallocate(int(file.Fd()), mode, 0, length); !errors.Is(err, unix.EINTR) {
			return err
		}
	}
}

// Free makes what room it can for the start of an etcd in a full volume: the ballast, and what an
// etcd that ended has left half-done in its directory. It does nothing where there is room.
func Free(dataDir, etcdDir string) (freed bool, err error) {
	volume, err := ReadVolume(dataDir)
	if err != nil || !volume.tight() {
		return false, err
	}
	left := []string{ballastPath(dataDir)}
	for _, pattern := range []string{"member/wal/*.tmp", "member/snap/*.tmp.*", "member/snap/*.tmp"} {
		found, err := filepath.Glob(filepath.Join(etcdDir, pattern))
		if err != nil {
			return freed, err
		}
		left = append(left, found...)
	}
	for _, path := range left {
		switch err := os.Remove(path); {
		case err == nil:
			freed = true
		case !errors.Is(err, fs.ErrNotExist):
			return freed, fmt.Errorf("making room for the start of etcd: %w", err)
		}
	}
	return freed, nil
}

// tight says that there is less than the start of an etcd takes.
func (v Volume) tight() bool {
	return v.Total > 0 && v.Available < startRoom || v.outOfFiles()
}

func (v Volume) outOfFiles() bool { return v.Files >= 0 && v.Files < fewFiles }
