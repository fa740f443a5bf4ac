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
	"fmt"
	"maps"
	"strings"
)

// Kept is what a tree looks like after it went through an image and containerd has unpacked it: everything, but for the
// losses that docs/files.md names. Each has its line here.
func Kept(entries []Entry) []Entry {
	var kept []Entry
	for _, e := range entries {
		// Sockets are left out: without its process one is of no use.
		if e.Type == Socket {
			continue
		}
		// containerd's unpacking sets no attributes of the administrator.
		e.Xattrs = maps.Clone(e.Xattrs)
		maps.DeleteFunc(e.Xattrs, func(name, _ string) bool { return strings.HasPrefix(name, "trusted.") })
		kept = append(kept, e)
	}
	return kept
}

// Copied is what is left of a tree when containerd has copied it from an image into a new volume, as it does where an image
// declares one. Besides what Kept leaves out, directories get the time of the copy, only regular files stay one file under
// several names, and where a directory has a default ACL all that is copied into it gets one.
// https://github.com/containerd/continuity/blob/main/fs/copy.go
func Copied(entries []Entry) []Entry {
	copied := Kept(entries)
	for i := range copied {
		e := &copied[i]
		switch e.Type {
		case Directory:
			e.Time = ""
		case Regular:
		default:
			e.Links, e.Same = 0, ""
		}
		maps.DeleteFunc(e.Xattrs, func(name, _ string) bool { return strings.HasPrefix(name, "system.posix_acl_") })
	}
	return copied
}

// Differences lists what is not the same, a line for each side of an entry; empty when all is.
func Differences(before, after []Entry) []string {
	was, is := map[string]string{}, map[string]string{}
	for _, e := range before {
		was[e.Path] = e.String()
	}
	for _, e := range after {
		is[e.Path] = e.String()
	}
	var lines []string
	for _, e := range before {
		if is[e.Path] != was[e.Path] {
			lines = append(lines, "- "+was[e.Path])
			if is[e.Path] != "" {
				lines = append(lines, "+ "+is[e.Path])
			}
		}
	}
	for _, e := range after {
		if was[e.Path] == "" {
			lines = append(lines, "+ "+e.String())
		}
	}
	return lines
}

// Shorten is for messages.
func Shorten(lines []string) string {
	const most = 40
	if len(lines) > most {
		lines = append(lines[:most:most], fmt.Sprintf("… and %d more", len(lines)-most))
	}
	return strings.Join(lines, "\n")
}
