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
