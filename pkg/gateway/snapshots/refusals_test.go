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
	"net/http"
	"strings"
	"testing"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/opensandbox-io/sandbox-apiserver/apis/lifecycle/v1alpha1"
	"github.com/opensandbox-io/sandbox-apiserver/pkg/gateway/answer"
)

// sandbox makes one in a phase; options change it.
func sandbox(phase v1alpha1.SandboxPhase, options ...func(*v1alpha1.Sandbox)) *v1alpha1.Sandbox {
	s := &v1alpha1.Sandbox{ObjectMeta: metav1.ObjectMeta{Name: "demo"}, Status: v1alpha1.SandboxStatus{Phase: phase}}
	for _, option := range options {
		option(s)
	}
	return s
}

func sandboxReady(reason, message string) func(*v1alpha1.Sandbox) {
	return func(s *v1alpha1.Sandbox) {
		s.Status.Conditions = []metav1.Condition{{Type: v1alpha1.ConditionReady, Status: metav1.ConditionFalse, Reason: reason, Message: message}}
	}
}

func leaving(s *v1alpha1.Sandbox) { s.DeletionTimestamp = &deleted }

// check compares a refusal with what it is to say; no code: there is to be none.
func check(t *testing.T, got *answer.Error, code string, says ...string) {
	t.Helper()
	if code == "" {
		if got != nil {
			t.Errorf("refused: %v", got)
		}
		return
	}
	if got == nil {
		t.Fatalf("not refused, want %s", code)
	}
	if got.Status != http.StatusConflict || got.Code != code {
		t.Errorf("got %v, want 409 %s", got, code)
	}
	for _, word := range says {
		if !strings.Contains(got.Message, word) {
			t.Errorf("the message does not say %q: %s", word, got.Message)
		}
	}
}

// TestWhatASnapshotIsMadeOf: the reference takes a Running sandbox alone. Ours has the files of a paused one as well.
func TestWhatASnapshotIsMadeOf(t *testing.T) {
	const refused = "SNAPSHOT::INVALID_SOURCE_STATE"
	for _, test := range []struct {
		name    string
		sandbox *v1alpha1.Sandbox
		code    string
		says    []string
	}{
		{"running", sandbox("Running"), "", nil},
		{"running after a pause that failed", sandbox("Running", func(s *v1alpha1.Sandbox) {
			s.Status.Conditions = []metav1.Condition{{Type: v1alpha1.ConditionPaused, Status: metav1.ConditionFalse, Reason: v1alpha1.ReasonRegistryDenied}}
		}), "", nil},
		{"pausing", sandbox("Pausing"), "", nil},
		{"paused", sandbox("Paused"), "", nil},
		{"not looked at", sandbox(""), refused, []string{"sandbox demo is Pending", "once it is Running"}},
		{"pending", sandbox("Pending", sandboxReady("ImagePullFailed", "no such image a:b")), refused, []string{"is Pending", "(ImagePullFailed: no such image a:b)", "once it is Running"}},
		{"pending, for no reason", sandbox("Pending", sandboxReady("Pending", "")), refused, []string{"is Pending and has no files yet: create"}},
		{"resuming", sandbox("Resuming", sandboxReady("PodUnschedulable", "0/3 nodes")), refused, []string{"is Resuming (PodUnschedulable: 0/3 nodes)", "once it is Running"}},
		{"failed", sandbox("Failed", sandboxReady("NoSnapshot", "its Pod was lost")), refused, []string{"is Failed (NoSnapshot: its Pod was lost)", "resume it first"}},
		{"a phase that a newer server knows", sandbox("Moving"), refused, []string{"is Moving"}},
		{"being deleted", sandbox("Running", leaving), refused, []string{"is being deleted"}},
	} {
		t.Run(test.name, func(t *testing.T) {
			check(t, refuseSource(test.sandbox), test.code, test.says...)
		})
	}
}

func TestWhichSnapshotsGo(t *testing.T) {
	const conflict, state = "SNAPSHOT::DELETE_CONFLICT", "SNAPSHOT::INVALID_STATE"
	ofPause := func(s *v1alpha1.SandboxSnapshot) { s.Spec.Pause = &v1alpha1.SnapshotPause{Attempt: 1} }
	ofRescue := func(s *v1alpha1.SandboxSnapshot) { s.Spec.Rescue = &v1alpha1.SnapshotRescue{} }
	for _, test := range []struct {
		name     string
		snapshot *v1alpha1.SandboxSnapshot
		users    []string
		code     string
		says     []string
	}{
		{"done", snapshot("Succeed"), nil, "", nil},
		{"failed", snapshot("Failed"), nil, "", nil},
		{"of a rescue", snapshot("Succeed", ofRescue), nil, "", nil},
		{"not looked at", snapshot(""), nil, state, []string{"snapshot snap is still being made", "Ready or Failed"}},
		{"pending", snapshot("Pending"), nil, state, nil},
		{"committing", snapshot("Committing"), nil, state, nil},
		{"being deleted", snapshot("Succeed", beingDeleted), nil, "", nil},
		{"being deleted while it is made", snapshot("Committing", beingDeleted), nil, "", nil},
		{"being deleted and needed", snapshot("Succeed", beingDeleted), []string{"demo"}, "", nil},
		{"needed", snapshot("Succeed"), []string{"demo"}, conflict, []string{"sandbox demo starts from", "pause that again", "delete it"}},
		{"needed by many", snapshot("Succeed"), []string{"a", "b", "c", "d", "e"}, conflict, []string{"a, b, c and 2 more"}},
		{"a pause's", snapshot("Succeed", ofPause), nil, conflict, []string{"sandbox demo", "historyLimit"}},
		{"a pause's under way", snapshot("Committing", ofPause), nil, conflict, []string{"is that of a pause"}},
	} {
		t.Run(test.name, func(t *testing.T) {
			check(t, refuseDeletion(test.snapshot, test.users), test.code, test.says...)
		})
	}
}

func TestWhichSandboxNeedsASnapshot(t *testing.T) {
	next := func(name string) func(*v1alpha1.Sandbox) {
		return func(s *v1alpha1.Sandbox) { s.Status.SnapshotName = name }
	}
	from := func(s *v1alpha1.Sandbox) { s.Spec.RestoreFrom = &v1alpha1.SandboxRestoreSource{SnapshotName: "snap"} }
	for _, test := range []struct {
		name    string
		sandbox *v1alpha1.Sandbox
		needs   bool
	}{
		{"any", sandbox("Running"), false},
		{"that starts from it", sandbox("Pending", from), true},
		{"that was just made from it", sandbox("", from), true},
		{"that was started from it", sandbox("Running", from, next("snap")), true},
		{"that was started from it, and paused", sandbox("Running", from, next("demo-gen1")), false},
		{"whose next resume is from it", sandbox("Paused", next("snap")), true},
		{"that may go back to it", sandbox("Resuming", next("demo-gen1"), func(s *v1alpha1.Sandbox) { s.Status.PriorSnapshotName = "snap" }), true},
		{"that is being deleted", sandbox("Paused", next("snap"), leaving), false},
	} {
		if got := needs(test.sandbox, "snap"); got != test.needs {
			t.Errorf("a sandbox %s: %t", test.name, got)
		}
	}
}

func TestWantedStates(t *testing.T) {
	states, err := wantedStates([]string{"ready", "FAILED", "Creating"})
	if err != nil || join(states) != "Ready, Failed, Creating" {
		t.Errorf("%v, %v", states, err)
	}
	for _, name := range []string{"Succeed", " Ready", "Ready,Failed", "", "ready\x00"} {
		if states, err := wantedStates([]string{name}); err == nil || !strings.Contains(err.Error(), "state: ") || !strings.Contains(err.Error(), "Creating, Deleting, Ready, Failed") {
			t.Errorf("%q: %v, %v", name, states, err)
		}
	}
}
