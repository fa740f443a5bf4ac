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

package sandboxsnapshot

import (
	"strings"
	"testing"

	"github.com/opensandbox-io/sandbox-apiserver/apis/lifecycle/v1alpha1"
	"github.com/opensandbox-io/sandbox-apiserver/pkg/committer/result"
)

func TestWarningsAreAdopted(t *testing.T) {
	many := make([]result.Warning, 40)
	for i := range many {
		many[i] = result.Warning{Reason: result.MountNotKept, Container: "main", Path: "/p", Message: "m"}
	}
	tests := map[string]struct {
		known    []v1alpha1.SnapshotWarning
		reported []result.Warning
		want     int
		last     v1alpha1.SnapshotWarning
	}{
		"none": {},
		"the node's": {nil, []result.Warning{{Reason: result.WrittenWhileRead, Container: "main", Path: "/root/log", Message: "m"}}, 1,
			v1alpha1.SnapshotWarning{Reason: v1alpha1.ReasonWrittenWhileRead, ContainerName: "main", Path: "/root/log", Message: "m"}},
		"beside those that were known": {[]v1alpha1.SnapshotWarning{{Reason: v1alpha1.ReasonContainerNotKept, ContainerName: "side", Message: "m"}},
			[]result.Warning{{Reason: result.BaseRebuilt, Container: "main", Message: "m"}}, 2,
			v1alpha1.SnapshotWarning{Reason: v1alpha1.ReasonBaseRebuilt, ContainerName: "main", Message: "m"}},
		"more than there may be": {nil, many, maxWarnings, v1alpha1.SnapshotWarning{Reason: v1alpha1.ReasonWarningsOmitted, Message: "9 more warnings were left out"}},
		"longer than they may be": {nil, []result.Warning{{Reason: result.MountNotKept, Path: "/" + strings.Repeat("é", 5000), Message: "m"}}, 1,
			v1alpha1.SnapshotWarning{Reason: v1alpha1.ReasonMountNotKept, Path: "/" + strings.Repeat("é", 510) + ellipsis, Message: "m"}},
	}
	for name, test := range tests {
		t.Run(name, func(t *testing.T) {
			status := v1alpha1.SandboxSnapshotStatus{Warnings: test.known}
			if err := adopt(&status, result.Result{Warnings: test.reported}); err != nil {
				t.Fatal(err)
			}
			if len(status.Warnings) != test.want {
				t.Fatalf("%d warnings, want %d: %+v", len(status.Warnings), test.want, status.Warnings)
			}
			if test.want > 0 && status.Warnings[test.want-1] != test.last {
				t.Errorf("the last is %+v, want %+v", status.Warnings[test.want-1], test.last)
			}
		})
	}
}
