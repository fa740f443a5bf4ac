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

package squash

// Access control lists as PAX records, and a list without entries: setting that removes what is there.
const (
	paxAccessACL  = "SCHILY.xattr.system.posix_acl_access"
	paxDefaultACL = "SCHILY.xattr.system.posix_acl_default"
	emptyACL      = "\x02\x00\x00\x00"
)

// bequests are the directories whose default ACL an unpacker sets before it makes what is in them. What an older layer
// made there, before the directory had that list, would inherit it.
type bequests map[string]bool

// note remembers a directory that is written, and disown makes explicit what a member does not inherit from the one that
// it is in. A hard link makes no file, and a symbolic link has no list.
func (b bequests) note(f *member) {
	if list, ok := f.record(paxDefaultACL); ok && list != emptyACL {
		b[f.name] = true
	}
}

func (b bequests) disown(f *member) {
	if f.name == "" || !b[above(f.name)] || f.kind == typeLink || f.kind == typeSymlink {
		return
	}
	f.addRecord(paxAccessACL, emptyACL)
	if f.kind == typeDir {
		f.addRecord(paxDefaultACL, emptyACL)
	}
}

func (m *member) record(key string) (string, bool) {
	for _, r := range m.records {
		if r.key == key {
			return r.value, true
		}
	}
	return "", false
}

// addRecord adds a record unless there is one of that key.
func (m *member) addRecord(key, value string) {
	if _, ok := m.record(key); !ok {
		m.set(key, value)
	}
}
