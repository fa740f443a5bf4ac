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
	"strings"
	"testing"

	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/opensandbox-io/sandbox-apiserver/apis/lifecycle/v1alpha1"
)

// TestASandboxThatIsBeingDeletedIsNotReady, says so for the generation that the deletion has made, says what it waits for,
// and says it once.
func TestASandboxThatIsBeingDeletedIsNotReady(t *testing.T) {
	for _, test := range []struct {
		name      string
		snapshots []v1alpha1.SandboxSnapshot
		want      string
	}{
		{"its Pod runs", nil, "Pod demo is being removed"},
		{"a pause was under way", []v1alpha1.SandboxSnapshot{*snapshotIn(v1alpha1.SnapshotSucceed), *snapshotIn(v1alpha1.SnapshotCommitting, named("demo-gen2"))},
			"the commit of snapshot demo-gen2 is being ended"},
	} {
		sandbox := sandboxIn(v1alpha1.SandboxRunning, func(s *v1alpha1.Sandbox) {
			s.Generation, s.DeletionTimestamp = 7, &metav1.Time{Time: epoch}
			s.Status.ObservedGeneration = 6
			meta.SetStatusCondition(&s.Status.Conditions, metav1.Condition{Type: v1alpha1.ConditionReady, Status: metav1.ConditionTrue, Reason: v1alpha1.ReasonPodReady, ObservedGeneration: 6})
		})
		seen := &observed{sandbox: sandbox, pod: podOf(), now: epoch}
		next := seen.terminating(test.snapshots)
		if next.do != writeStatus {
			t.Fatalf("%s: it would %s", test.name, next.do)
		}
		ready := meta.FindStatusCondition(next.status.Conditions, v1alpha1.ConditionReady)
		if ready.Status != metav1.ConditionFalse || ready.Reason != v1alpha1.ReasonTerminating || ready.ObservedGeneration != 7 || next.status.ObservedGeneration != 7 ||
			!ready.LastTransitionTime.Equal(&metav1.Time{Time: epoch}) || !strings.Contains(ready.Message, test.want) {
			t.Errorf("%s: observed generation %d, %+v, want that %s", test.name, next.status.ObservedGeneration, ready, test.want)
		}
		sandbox.Status = *next.status
		if again := seen.terminating(test.snapshots); again.do != wait {
			t.Errorf("%s: said already, and it would %s", test.name, again.do)
		}
	}
}
