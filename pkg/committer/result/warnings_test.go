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

package result

import (
	"fmt"
	"strings"
	"testing"
	"unicode/utf8"
)

func TestWarningsAreBounded(t *testing.T) {
	const escape = "a\x1b[2Jb\nc"
	if data, err := (Result{Warnings: []Warning{{Reason: MountNotKept, Path: escape, Message: escape}}}).Encode(); err != nil || strings.Contains(string(data), "u001b") || !strings.Contains(string(data), "a\ufffd[2Jb\ufffdc") {
		t.Errorf("%s (%v)", data, err)
	}
	containers := func(n int) (all []Container) {
		for i := range n {
			all = append(all, Container{Name: fmt.Sprintf("c%02d", i), Image: "r/a:" + strings.Repeat("t", 60), Digest: "sha256:" + strings.Repeat("0", 64)})
		}
		return all
	}
	warnings := func(n int, path, message string) (all []Warning) {
		for range n {
			all = append(all, Warning{Reason: MountNotKept, Container: "main", Path: path, Message: message})
		}
		return all
	}
	tests := map[string]struct {
		result Result
		kept   int // warnings, the one that tells of more included
		more   string
	}{
		"none":                    {Result{Containers: containers(2)}, 0, ""},
		"few":                     {Result{Containers: containers(1), Warnings: warnings(3, "/dev/shm", "a tmpfs is not kept")}, 3, ""},
		"as many as there may be": {Result{Containers: containers(1), Warnings: warnings(maxWarnings, "/dev/shm", "a tmpfs is not kept")}, maxWarnings, ""},
		"many":                    {Result{Containers: containers(1), Warnings: warnings(1000, "/dev/shm", "a tmpfs is not kept")}, maxWarnings, "989 more warnings are in the commit's log"},
		"long ones":               {Result{Containers: containers(1), Warnings: warnings(2, strings.Repeat("/é", 2000), strings.Repeat("x", 5000))}, 2, ""},
		"of any bytes":            {Result{Containers: containers(1), Warnings: warnings(2, strings.Repeat("\xff\"", 2000), "")}, 2, ""},
		"beside many containers":  {Result{Containers: containers(40), Warnings: warnings(100, "/p", strings.Repeat("x", 200))}, 10, "91 more warnings are in the commit's log"},
	}
	for name, test := range tests {
		t.Run(name, func(t *testing.T) {
			data, err := test.result.Encode()
			if err != nil {
				t.Fatal(err)
			}
			if len(data) > MaxBytes {
				t.Errorf("%d bytes", len(data))
			}
			r, err := Decode(data)
			if err != nil {
				t.Fatal(err)
			}
			var refs []Ref
			for _, c := range test.result.Containers {
				refs = append(refs, Ref{c.Name, c.Image})
			}
			if err := r.Unpack(refs); err != nil {
				t.Fatal(err)
			}
			if len(r.Containers) != len(test.result.Containers) {
				t.Errorf("%d containers of %d are told", len(r.Containers), len(test.result.Containers))
			}
			if len(r.Warnings) != test.kept {
				t.Fatalf("%d warnings, %d were expected: %+v", len(r.Warnings), test.kept, r.Warnings)
			}
			for i, w := range r.Warnings {
				if len(w.Path) > maxWarningBytes || len(w.Message) > maxWarningBytes || !utf8.ValidString(w.Path) {
					t.Errorf("too long: %+v", w)
				}
				if last := i == len(r.Warnings)-1 && test.more != ""; last != (w.Reason == WarningsOmitted) || last && w.Message != test.more {
					t.Errorf("warning %d of %d is %+v", i, len(r.Warnings), w)
				}
			}
		})
	}
}
