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

package execd

import (
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"syscall"
)

// noexec is ST_NOEXEC of statfs(2).
const noexec = 0x8

// install copies the program that runs to DIRECTORY/execd, for the init container that brings it into a sandbox. The copy
// may be run by any user, whatever the umask is, and replaces one that runs.
func install(directory string) (err error) {
	if err := os.MkdirAll(directory, 0o755); err != nil {
		return fmt.Errorf("install to %s: %w", directory, err)
	}
	var mount syscall.Statfs_t
	if err := syscall.Statfs(directory, &mount); err == nil && mount.Flags&noexec != 0 {
		return fmt.Errorf("install to %s: it is mounted noexec, so nothing there can be run; use another volume", directory)
	}
	source, err := os.Open("/proc/self/exe")
	if err != nil {
		return fmt.Errorf("install: read the program that runs: %w", err)
	}
	defer source.Close()
	// Written beside and renamed: a program that runs cannot be written to, and half a program is never found.
	part, err := os.CreateTemp(directory, ".execd-")
	if err != nil {
		return fmt.Errorf("install to %s: %w", directory, err)
	}
	defer func() {
		if err != nil {
			err = fmt.Errorf("install to %s: %w", directory, errors.Join(err, os.Remove(part.Name())))
		}
	}()
	_, err = io.Copy(part, source)
	if err := errors.Join(err, part.Chmod(0o755), part.Close()); err != nil {
		return err
	}
	return os.Rename(part.Name(), filepath.Join(directory, "execd"))
}
