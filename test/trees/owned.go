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
	"fmt"
	"os"
	"path/filepath"

	"golang.org/x/sys/unix"
)

// Owned makes a directory with everything that names users and groups, or depends on them: owners, access control lists,
// default ones that are inherited, set-uid bits and capabilities of files. A user namespace of 65,536 users has them all.
func Owned(dir string) error {
	m := New(dir, 1)
	if err := errors.Join(os.Mkdir(dir, 0o755), os.Mkdir(filepath.Join(dir, "heir"), 0o700)); err != nil {
		return err
	}
	for i, owner := range []int{0, 1, 1000, 65534, 65535} {
		name := fmt.Sprint("of ", owner)
		if err := errors.Join(
			os.WriteFile(m.at(name), []byte(name), 0o600),
			unix.Lchown(m.at(name), owner, 65535-owner),
			unix.Fchmodat(unix.AT_FDCWD, m.at(name), []uint32{0o4755, 0o2755, 0o600, 0o6711, 0o640}[i], 0),
			unix.Lsetxattr(m.at(name), "system.posix_acl_access", m.acl(), 0),
		); err != nil {
			return fmt.Errorf("making %q: %w", name, err)
		}
	}
	return errors.Join(
		os.Symlink("of 1000", m.at("link")), unix.Lchown(m.at("link"), 1000, 7),
		os.WriteFile(m.at("capable"), nil, 0o755), unix.Lsetxattr(m.at("capable"), "security.capability", m.capability(), 0),
		unix.Lsetxattr(m.at("heir"), "system.posix_acl_default", m.acl(), 0),
		os.WriteFile(m.at("heir/inherits"), nil, 0o666),
	)
}
