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

package snapshots

import (
	"strings"
	"testing"
	"time"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/opensandbox-io/sandbox-apiserver/apis/lifecycle/v1alpha1"
	"github.com/opensandbox-io/sandbox-apiserver/pkg/gateway/httpapi"
)

var (
	created   = metav1.Date(2026, time.December, 1, 8, 0, 0, 0, time.FixedZone("", 3600))
	completed = metav1.NewTime(created.Add(40 * time.Second))
	noticed   = metav1.NewTime(created.Add(41 * time.Second))
	deleted   = metav1.NewTime(created.Add(time.Hour))
)

// snapshot makes one of sandbox demo, in a phase; options change it.
func snapshot(phase v1alpha1.SandboxSnapshotPhase, options ...func(*v1alpha1.SandboxSnapshot)) *v1alpha1.SandboxSnapshot {
	s := &v1alpha1.SandboxSnapshot{
		ObjectMeta: metav1.ObjectMeta{Name: "snap", CreationTimestamp: created},
		Spec:       v1alpha1.SandboxSnapshotSpec{SandboxName: "demo"},
		Status:     v1alpha1.SandboxSnapshotStatus{Phase: phase},
	}
	for _, option := range options {
		option(s)
	}
	return s
}

func says(condition string, value metav1.ConditionStatus, reason, message string) func(*v1alpha1.SandboxSnapshot) {
	return func(s *v1alpha1.SandboxSnapshot) {
		s.Status.Conditions = append(s.Status.Conditions, metav1.Condition{Type: condition, Status: value, Reason: reason, Message: message, LastTransitionTime: noticed})
	}
}

func ready(value metav1.ConditionStatus, reason, message string) func(*v1alpha1.SandboxSnapshot) {
	return says(v1alpha1.ConditionReady, value, reason, message)
}

func complete(s *v1alpha1.SandboxSnapshot) { s.Status.CompletionTime = &completed }
func beingDeleted(s *v1alpha1.SandboxSnapshot) {
	s.DeletionTimestamp = &deleted
}

// TestStates: what the Sandbox API knows of a snapshot, and what the HTTP API says of it.
func TestStates(t *testing.T) {
	terminating := "the snapshot is being deleted, and its images with it unless they are to be kept"
	for _, test := range []struct {
		name            string
		snapshot        *v1alpha1.SandboxSnapshot
		state           httpapi.SnapshotState
		reason, message string
		since           metav1.Time
	}{
		{"stored, and not looked at", snapshot(""), "Creating", "", "", created},
		{"accepted", snapshot("Pending", ready("False", "Pending", "the snapshot has been accepted")), "Creating", "Pending", "the snapshot has been accepted", created},
		{"waiting for its turn", snapshot("Pending", ready("False", "Queued", "2 commits run")), "Creating", "Queued", "2 commits run", created},
		{"held up", snapshot("Pending", ready("False", "HeldUp", "no room on node a")), "Creating", "HeldUp", "no room on node a", created},
		{"committing", snapshot("Committing", ready("False", "Committing", "Job x runs")), "Creating", "Committing", "Job x runs", created},
		{"copying a pause's images", snapshot("Pending", ready("False", "Copying", "")), "Creating", "Copying", "", created},
		{"a phase that a newer server knows", snapshot("Verifying", ready("False", "Verifying", "")), "Creating", "Verifying", "", created},

		{"done", snapshot("Succeed", ready("True", "Succeeded", "1 image"), complete), "Ready", "Succeeded", "1 image", completed},
		{"done, says an older server", snapshot("Succeed", ready("True", "Succeeded", "")), "Ready", "Succeeded", "", noticed},
		{"done, without conditions", snapshot("Succeed"), "Ready", "", "", metav1.Time{}},
		{"images seen", snapshot("Succeed", ready("True", "Succeeded", "1 image"), complete, says("ImageAvailable", "True", "ImageAvailable", "seen")), "Ready", "Succeeded", "1 image", completed},
		{"images not known of", snapshot("Succeed", ready("True", "Succeeded", "1 image"), complete, says("ImageAvailable", "Unknown", "RegistryUnavailable", "refused")), "Ready", "Succeeded", "1 image", completed},
		{"images lost", snapshot("Succeed", ready("True", "Succeeded", "1 image"), complete, says("ImageAvailable", "False", "ImageUnavailable", "the registry has no a@sha256:b")), "Ready", "ImageUnavailable", "the registry has no a@sha256:b", completed},

		{"failed", snapshot("Failed", ready("False", "RegistryDenied", ""), says("Failed", "True", "RegistryDenied", "quota exceeded: free some"), complete), "Failed", "RegistryDenied", "quota exceeded: free some", completed},
		{"failed, without conditions", snapshot("Failed"), "Failed", "", "", metav1.Time{}},

		{"being deleted", snapshot("Succeed", ready("True", "Succeeded", "1 image"), complete, beingDeleted), "Deleting", "Terminating", terminating, deleted},
		{"deleted while it was made", snapshot("Committing", ready("False", "Committing", "Job x runs"), beingDeleted), "Deleting", "Terminating", terminating, deleted},
		{"deleted after it had failed", snapshot("Failed", says("Failed", "True", "Canceled", ""), beingDeleted), "Deleting", "Terminating", terminating, deleted},
		{"deleted and needed", snapshot("Succeed", ready("True", "InUse", "the deletion waits until sandbox x needs it no more"), beingDeleted), "Deleting", "InUse", "the deletion waits until sandbox x needs it no more", deleted},
		{"deleted, the registry is away", snapshot("Succeed", ready("False", "ImageDeletionFailed", "connection refused"), beingDeleted), "Deleting", "ImageDeletionFailed", "connection refused", deleted},
	} {
		t.Run(test.name, func(t *testing.T) {
			got := statusOf(test.snapshot)
			if got.State != test.state || got.Reason.Value != test.reason || got.Message.Value != test.message || !got.LastTransitionAt.Value.Equal(test.since.Time) {
				t.Errorf("got %+v, want %s %s %q since %s", got, test.state, test.reason, test.message, test.since)
			}
			if got.Reason.Set != (test.reason != "") || got.Message.Set != (test.message != "") || got.LastTransitionAt.Set != !test.since.IsZero() {
				t.Errorf("what is not known is sent, or what is is not: %+v", got)
			}
			if at := got.LastTransitionAt; at.Set && at.Value.Location() != time.UTC {
				t.Errorf("a time in %s", at.Value.Location())
			}
		})
	}
}

func TestShown(t *testing.T) {
	s := shown(snapshot("Pending"))
	if s.ID != "snap" || s.SandboxId != "demo" || s.Name.Set || !s.CreatedAt.Equal(created.Time) || s.CreatedAt.Location() != time.UTC {
		t.Errorf("%+v", s)
	}
	s = shown(snapshot("Pending", func(s *v1alpha1.SandboxSnapshot) {
		s.Annotations = map[string]string{v1alpha1.AnnotationDisplayName: "before the upgrade"}
	}))
	if s.Name.Value != "before the upgrade" {
		t.Errorf("%+v", s.Name)
	}
}

// TestWhatASnapshotDoesNotHoldIsSaid: nobody else tells a caller of this API.
func TestWhatASnapshotDoesNotHoldIsSaid(t *testing.T) {
	with := func(n int) *v1alpha1.SandboxSnapshot {
		return snapshot("Succeed", ready("True", "Succeeded", "1 image"), func(s *v1alpha1.SandboxSnapshot) {
			for range n {
				s.Status.Warnings = append(s.Status.Warnings, v1alpha1.SnapshotWarning{Reason: "MountNotKept", Message: "/data is an emptyDir"})
			}
		})
	}
	if got := statusOf(with(1)).Message.Value; got != "1 image; MountNotKept: /data is an emptyDir" {
		t.Errorf("one: %q", got)
	}
	if got := statusOf(with(32)).Message.Value; strings.Count(got, "MountNotKept") != maxWarnings || !strings.Contains(got, "and 29 more: kubectl get sbxsnap snap") {
		t.Errorf("many: %q", got)
	}
}
