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

package sandbox

import (
	"fmt"
	"strings"
	"testing"

	"k8s.io/utils/ptr"

	"github.com/opensandbox-io/sandbox-apiserver/apis/lifecycle/v1alpha1"
)

func TestBeyond(t *testing.T) {
	tests := map[string]struct {
		limit *int32
		// attempts are the phases of demo-gen1, demo-gen2 …, by first letter; the list is shuffled.
		attempts, saved string
		want            string
	}{
		"none":                            {nil, "", "", ""},
		"as many as are kept":             {nil, "SSS", "demo-gen3", ""},
		"the oldest go":                   {nil, "SSSSS", "demo-gen5", "demo-gen2 demo-gen1"},
		"one is kept":                     {ptr.To[int32](1), "SSS", "demo-gen3", "demo-gen2 demo-gen1"},
		"the one that is needed stays":    {ptr.To[int32](1), "SSS", "demo-gen1", "demo-gen2"},
		"failed ones do not count":        {ptr.To[int32](2), "SSFFSF", "demo-gen5", "demo-gen4 demo-gen3 demo-gen1"},
		"the last failed one stays":       {nil, "FFF", "", "demo-gen2 demo-gen1"},
		"the order is that of numbers":    {ptr.To[int32](1), "SSSSSSSSSS", "demo-gen10", "demo-gen9 demo-gen8 demo-gen7 demo-gen6 demo-gen5 demo-gen4 demo-gen3 demo-gen2 demo-gen1"},
		"what is under way is left alone": {ptr.To[int32](1), "CPSPC", "demo-gen3", ""},
	}
	phases := map[rune]v1alpha1.SandboxSnapshotPhase{
		'S': v1alpha1.SnapshotSucceed, 'F': v1alpha1.SnapshotFailed, 'C': v1alpha1.SnapshotCommitting, 'P': v1alpha1.SnapshotPending,
	}
	for name, test := range tests {
		t.Run(name, func(t *testing.T) {
			var snapshots []v1alpha1.SandboxSnapshot
			for i, phase := range test.attempts {
				snapshot := *snapshotIn(phases[phase], named(fmt.Sprintf("demo-gen%d", i+1)))
				if i%2 == 0 {
					snapshots = append(snapshots, snapshot)
				} else {
					snapshots = append([]v1alpha1.SandboxSnapshot{snapshot}, snapshots...)
				}
			}
			sandbox := sandboxIn(v1alpha1.SandboxPaused, saved(test.saved))
			sandbox.Spec.Snapshot.HistoryLimit = test.limit
			var got []string
			for _, snapshot := range beyond(snapshots, sandbox) {
				got = append(got, snapshot.Name)
			}
			if strings.Join(got, " ") != test.want {
				t.Errorf("goes %q, want %q", got, test.want)
			}
		})
	}
}
