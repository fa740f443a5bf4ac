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
	"os/user"
	"strconv"
)

// names are those of the image's users and groups. Each is looked up once, as a listing has thousands of files of few owners.
type names struct {
	users, groups map[uint32]string
}

func newNames() *names { return &names{map[uint32]string{}, map[uint32]string{}} }

// user returns the number of a user who has no name.
func (n *names) user(id uint32) string {
	name, known := n.users[id]
	if !known {
		name = strconv.FormatUint(uint64(id), 10)
		if found, err := user.LookupId(name); err == nil {
			name = found.Username
		}
		n.users[id] = name
	}
	return name
}

func (n *names) group(id uint32) string {
	name, known := n.groups[id]
	if !known {
		name = strconv.FormatUint(uint64(id), 10)
		if found, err := user.LookupGroupId(name); err == nil {
			name = found.Name
		}
		n.groups[id] = name
	}
	return name
}

func (n *names) uid(name string) (int, bool) {
	if found, err := user.Lookup(name); err == nil {
		name = found.Uid
	}
	return id(name)
}

func (n *names) gid(name string) (int, bool) {
	if found, err := user.LookupGroup(name); err == nil {
		name = found.Gid
	}
	return id(name)
}

func id(text string) (int, bool) {
	const none = 1<<32 - 1 // chown(2) takes it for "as it is"
	n, err := strconv.ParseUint(text, 10, 32)
	return int(n), err == nil && n != none
}
