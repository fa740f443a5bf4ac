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

package overlay

import (
	"os"
	"testing"

	"golang.org/x/sys/unix"
)

func TestLower(t *testing.T) {
	asRoot(t)
	top, middle, bottom := newTree(t), newTree(t), newTree(t)
	bottom.file("f", "1", 0o600)
	bottom.dir("d", 0o755)
	bottom.file("d/x", "1", 0o600)
	bottom.dir("gone", 0o755)
	bottom.file("gone/x", "1", 0o600)
	bottom.dir("opaque", 0o755)
	bottom.file("opaque/x", "1", 0o600)
	bottom.dir("replaced", 0o755)
	bottom.file("replaced/x", "1", 0o600)
	bottom.dir("etc", 0o755)
	bottom.file("etc/hosts", "1", 0o600)

	middle.node("gone", unix.S_IFCHR, 0, 0)
	middle.dir("opaque", 0o755)
	middle.xattr("opaque", "trusted.overlay.opaque", "y")
	middle.file("opaque/y", "1", 0o600)
	middle.file("replaced", "1", 0o600)
	middle.file("attribute", "", 0o600)
	middle.xattr("attribute", "trusted.overlay.whiteout", "y")
	middle.dir("d", 0o755)
	middle.node("d/x", unix.S_IFCHR, 0, 0)
	middle.node("device", unix.S_IFCHR, 1, 3)
	must(t, os.Symlink("/etc", middle.path("link")))

	top.dir("gone", 0o755) // made again; what was in it is not
	top.file("gone/new", "1", 0o600)
	top.dir("opaque", 0o755)
	top.dir("d", 0o755)
	top.file("attribute", "", 0o600)
	must(t, os.Remove(top.path("attribute")))

	l, err := OpenLower([]string{top.root, middle.root, bottom.root}, Options{})
	must(t, err)
	defer l.Close()
	for path, want := range map[string]bool{
		"f": true, "missing": false, "d": true, "d/x": false, "d/missing": false, "gone": true, "gone/x": false, "gone/new": true,
		"opaque/x": false, "opaque/y": true, "replaced": true, "replaced/x": false, "attribute": false, "device": true,
		"link": true, "link/hosts": false, "etc/hosts": true, "f/below": false, "missing/deep/x": false,
	} {
		if got, err := l.Has(path); err != nil || got != want {
			t.Errorf("%s: %v (%v), want %v", path, got, err, want)
		}
	}
	if _, err := OpenLower([]string{top.root, "/nonexistent"}, Options{}); err == nil {
		t.Error("a missing directory was opened")
	}
}
