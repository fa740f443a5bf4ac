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
	"crypto/rand"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"

	"golang.org/x/sys/unix"
)

// The ballast is a file that holds nothing but space, next to the store: a start that finds the
// volume full deletes it and has room for the log that it begins, whoever has filled the volume.
// While the server runs it stays, or others would take its place as well.

func ballastPath(dataDir string) string { return filepath.Join(dataDir, "ballast") }

// makeBallast makes the ballast where it is missing.
func makeBallast(dataDir string, size int64) error {
	path := ballastPath(dataDir)
	if info, err := os.Stat(path); err == nil && info.Size() == size {
		return nil
	}
	// Under another name until it is whole.
	part := path + ".tmp"
	file, err := os.OpenFile(part, os.O_CREATE|os.O_WRONLY|os.O_TRUNC, 0o600)
	if err != nil {
		return fmt.Errorf("making the ballast: %w", err)
	}
	err = fallocate(file, 0, size)
	if errors.Is(err, unix.EOPNOTSUPP) || errors.Is(err, unix.ENOSYS) {
		// What cannot be compressed takes its room on any file system.
		_, err = io.CopyN(file, rand.Reader, size)
	}
	err = errors.Join(err, file.Close())
	if err == nil {
		err = os.Rename(part, path)
	}
	if err != nil {
		if removed := os.Remove(part); removed != nil && !errors.Is(removed, fs.ErrNotExist) {
			err = errors.Join(err, removed)
		}
		return fmt.Errorf("making the ballast: %w", err)
	}
	return nil
}
