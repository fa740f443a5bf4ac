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
	"slices"
	"testing"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"

	"github.com/opensandbox-io/sandbox-apiserver/apis/lifecycle/v1alpha1"
)

func TestPauseOf(t *testing.T) {
	recorded := func(s *v1alpha1.SandboxSnapshot) {
		s.Spec.Pause = &v1alpha1.SnapshotPause{SandboxUID: "demo-uid", PodUID: "demo-pod", Attempt: 3}
	}
	owned := func(s *v1alpha1.SandboxSnapshot) {
		s.OwnerReferences = []metav1.OwnerReference{*metav1.NewControllerRef(pausing("demo"), v1alpha1.SchemeGroupVersion.WithKind("Sandbox"))}
	}
	labelled := func(uid string) func(*v1alpha1.SandboxSnapshot) {
		return func(s *v1alpha1.SandboxSnapshot) { s.Labels = map[string]string{v1alpha1.LabelSandboxUID: uid} }
	}
	began := func(sandbox, pod types.UID) func(*v1alpha1.SandboxSnapshot) {
		return func(s *v1alpha1.SandboxSnapshot) { s.Status.SandboxUID, s.Status.SourcePodUID = sandbox, pod }
	}
	named := func(name string, options ...func(*v1alpha1.SandboxSnapshot)) *v1alpha1.SandboxSnapshot {
		return snapshotOf("demo", name, options...)
	}
	for name, test := range map[string]struct {
		snapshot *v1alpha1.SandboxSnapshot
		want     *v1alpha1.SnapshotPause
	}{
		"recorded": {named("demo-gen3", recorded), &v1alpha1.SnapshotPause{SandboxUID: "demo-uid", PodUID: "demo-pod", Attempt: 3}},
		"recorded, and somebody gave it elsewhere": {named("demo-gen3", recorded, labelled("other"), began("other", "other-pod")), &v1alpha1.SnapshotPause{SandboxUID: "demo-uid", PodUID: "demo-pod", Attempt: 3}},

		"a user's":                                 {named("mine"), nil},
		"a user's that belongs to the sandbox":     {named("mine", owned, labelled("demo-uid"), began("demo-uid", "demo-pod")), nil},
		"another's of a pause's name":              {named("other-gen3", owned), nil},
		"of images, from before the name was kept": {named("demo-gen3", func(s *v1alpha1.SandboxSnapshot) { s.Spec.Source = &v1alpha1.SnapshotSource{} }), nil},
		"a number that nothing counts":             {named("demo-gen007", owned), nil},

		"an older server's, finished":                       {named("demo-gen3", owned, began("demo-uid", "demo-pod")), &v1alpha1.SnapshotPause{SandboxUID: "demo-uid", PodUID: "demo-pod", Attempt: 3}},
		"an older server's, begun, and disowned":            {named("demo-gen3", began("demo-uid", "demo-pod")), &v1alpha1.SnapshotPause{SandboxUID: "demo-uid", PodUID: "demo-pod", Attempt: 3}},
		"an older server's, begun, and given to another":    {named("demo-gen3", labelled("other"), began("demo-uid", "demo-pod")), &v1alpha1.SnapshotPause{SandboxUID: "demo-uid", PodUID: "demo-pod", Attempt: 3}},
		"an older server's, not begun":                      {named("demo-gen3", owned), &v1alpha1.SnapshotPause{SandboxUID: "demo-uid", Attempt: 3}},
		"an older server's, not begun, orphaned by kubectl": {named("demo-gen3", labelled("demo-uid")), &v1alpha1.SnapshotPause{SandboxUID: "demo-uid", Attempt: 3}},
		"an older server's, of nobody any more":             {named("demo-gen3"), &v1alpha1.SnapshotPause{Attempt: 3}},
	} {
		t.Run(name, func(t *testing.T) {
			got := PauseOf(test.snapshot)
			if (got == nil) != (test.want == nil) || got != nil && *got != *test.want {
				t.Errorf("it is the attempt %+v, want %+v", got, test.want)
			}
		})
	}
}

// What an older server has begun is gone on with.
func TestAnAttemptOfAnOlderServerIsGoneOnWith(t *testing.T) {
	withoutRecord := func(s *v1alpha1.SandboxSnapshot) { s.Spec.Pause = nil }
	f := newFixture(t, pausing("demo"), podOf("demo"), attemptOf("demo", withoutRecord))
	snapshot := f.visits("demo-gen1")
	f.is(snapshot, committing)
	if pause := PauseOf(snapshot); pause.PodUID != "demo-pod" || !IsAttemptOf(snapshot, pausing("demo")) {
		t.Errorf("it is taken for %+v", pause)
	}
	f.change("demo", canceling)
	f.is(f.visits("demo-gen1"), "Committing Ready=False/Thawing Failed=Unknown/Canceled")
}

// Clients give what they create an owner, for it to be deleted with it; the documentation recommends that.
func TestAUsersSnapshotThatBelongsToTheSandbox(t *testing.T) {
	mine := snapshotOf("demo", "mine", func(s *v1alpha1.SandboxSnapshot) {
		s.OwnerReferences = []metav1.OwnerReference{*metav1.NewControllerRef(pausing("demo"), v1alpha1.SchemeGroupVersion.WithKind("Sandbox"))}
	})
	f := newFixture(t, pausing("demo", running), podOf("demo"), mine)
	snapshot := f.visits("mine")
	f.is(snapshot, committing)
	job := f.hasJobs(commit)
	if args := job.Spec.Template.Spec.Containers[0].Args; slices.Contains(args, "--leave-frozen") {
		t.Errorf("it leaves the Pod frozen: %v", args)
	}
}

// Who may edit snapshots takes the owner away, or gives another: the attempt stays the sandbox's.
func TestAnAttemptThatIsDisowned(t *testing.T) {
	f := newFixture(t, pausing("demo"), podOf("demo"), attemptOf("demo"))
	f.is(f.visits("demo-gen1"), committing)
	f.edits("demo-gen1", func(s *v1alpha1.SandboxSnapshot) { s.OwnerReferences, s.Labels = nil, nil })
	f.is(f.visits("demo-gen1"), committing)
	f.change("demo", canceling)
	f.is(f.visits("demo-gen1"), "Committing Ready=False/Thawing Failed=Unknown/Canceled")
}

// An attempt commits the Pod that it was made for, and no other that the sandbox has got since.
func TestAnAttemptIsOfOnePod(t *testing.T) {
	f := newFixture(t, pausing("demo", func(s *v1alpha1.Sandbox) { s.Status.PodUID = "another" }),
		podOf("demo", func(p *corev1.Pod) { p.UID = "another" }), attemptOf("demo"))
	f.is(f.visits("demo-gen1"), "Failed Ready=False/SourcePodReplaced Failed=True/SourcePodReplaced")
	f.hasJobs()
}
