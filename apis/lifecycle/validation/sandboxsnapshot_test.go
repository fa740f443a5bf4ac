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

package validation

import (
	"strings"
	"testing"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/opensandbox-io/sandbox-apiserver/apis/lifecycle"
)

func TestSnapshotWarnings(t *testing.T) {
	one := func(change func(*lifecycle.SnapshotWarning)) []lifecycle.SnapshotWarning {
		warning := lifecycle.SnapshotWarning{Reason: "MountNotKept", ContainerName: "main", Path: "/dev/shm", Message: "a tmpfs is not kept"}
		change(&warning)
		return []lifecycle.SnapshotWarning{warning}
	}
	many := make([]lifecycle.SnapshotWarning, 33)
	for i := range many {
		many[i].Reason = "MountNotKept"
	}
	tests := map[string]struct {
		warnings []lifecycle.SnapshotWarning
		want     string // the field that is refused
	}{
		"none":                {nil, ""},
		"one":                 {one(func(*lifecycle.SnapshotWarning) {}), ""},
		"of the whole Pod":    {one(func(w *lifecycle.SnapshotWarning) { w.ContainerName, w.Path = "", "" }), ""},
		"as many as may be":   {many[:32], ""},
		"too many":            {many, "status.warnings"},
		"no reason":           {one(func(w *lifecycle.SnapshotWarning) { w.Reason = "" }), "status.warnings[0].reason"},
		"a sentence":          {one(func(w *lifecycle.SnapshotWarning) { w.Reason = "not kept" }), "status.warnings[0].reason"},
		"no container's name": {one(func(w *lifecycle.SnapshotWarning) { w.ContainerName = "Main" }), "status.warnings[0].containerName"},
		"a long path":         {one(func(w *lifecycle.SnapshotWarning) { w.Path = strings.Repeat("x", 1025) }), "status.warnings[0].path"},
		"a long message":      {one(func(w *lifecycle.SnapshotWarning) { w.Message = strings.Repeat("x", 1025) }), "status.warnings[0].message"},
	}
	for name, test := range tests {
		t.Run(name, func(t *testing.T) {
			old := &lifecycle.SandboxSnapshot{ObjectMeta: metav1.ObjectMeta{Name: "s", Namespace: "n", ResourceVersion: "1"}}
			snapshot := old.DeepCopy()
			snapshot.Status.Warnings = test.warnings
			errs := ValidateSandboxSnapshotStatusUpdate(snapshot, old)
			if test.want == "" && len(errs) > 0 || test.want != "" && (len(errs) != 1 || errs[0].Field != test.want) {
				t.Errorf("got %v, want a refusal of %q", errs, test.want)
			}
		})
	}
}
