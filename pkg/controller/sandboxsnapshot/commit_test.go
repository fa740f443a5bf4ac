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
	"context"
	"strings"
	"testing"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/opensandbox-io/sandbox-apiserver/apis/lifecycle/v1alpha1"
)

func inPhase(phase v1alpha1.SandboxPhase) func(*v1alpha1.Sandbox) {
	return func(s *v1alpha1.Sandbox) { s.Status.Phase = phase }
}

func leaving(s *v1alpha1.Sandbox) {
	s.DeletionTimestamp, s.Finalizers = &metav1.Time{Time: epoch}, []string{v1alpha1.SandboxFinalizer}
}

// marked: the pause is saved and its Pod is about to go.
func marked(s *v1alpha1.Sandbox) {
	s.Status.SnapshotName = "demo-gen1"
	s.Status.Conditions[0].Reason = v1alpha1.ReasonRemovingPod
}

// resuming: the sandbox demo comes back from its first attempt.
func resuming(s *v1alpha1.Sandbox) {
	paused(s)
	s.Status.Phase = v1alpha1.SandboxResuming
}

func waiting(s *v1alpha1.SandboxSnapshot) {
	s.Status.Conditions = []metav1.Condition{{Type: v1alpha1.ConditionReady, Status: metav1.ConditionFalse, Reason: v1alpha1.ReasonQueued}}
}

func TestASnapshotThatAUserAskedFor(t *testing.T) {
	const (
		noPod     = "Failed Ready=False/SourcePodNotFound Failed=True/SourcePodNotFound"
		noSandbox = "Failed Ready=False/SandboxNotFound Failed=True/SandboxNotFound"
		queued    = "Pending Ready=False/Queued"
	)
	for name, test := range map[string]struct {
		sandbox *v1alpha1.Sandbox
		was     func(*v1alpha1.SandboxSnapshot)
		want    string
		// remedy is what the message says to do.
		remedy string
		jobs   []string
	}{
		"running":                         {sandbox: pausing("demo", running), want: committing, jobs: []string{commit}},
		"running, after it waited":        {sandbox: pausing("demo", running), was: waiting, want: committing, jobs: []string{commit}},
		"being paused":                    {sandbox: pausing("demo"), want: queued},
		"being paused, cancelling":        {sandbox: pausing("demo", canceling), want: queued},
		"being paused, Pod about to go":   {sandbox: pausing("demo", marked), want: queued},
		"paused":                          {sandbox: pausing("demo", paused), want: succeeded},
		"paused, after it waited":         {sandbox: pausing("demo", paused), was: waiting, want: succeeded},
		"resuming, after it waited":       {sandbox: pausing("demo", resuming), was: waiting, want: succeeded},
		"resuming":                        {sandbox: pausing("demo", resuming), want: noPod, remedy: "once it is Running"},
		"pending":                         {sandbox: pausing("demo", inPhase(v1alpha1.SandboxPending)), want: noPod, remedy: "once it is Running"},
		"never seen":                      {sandbox: pausing("demo", inPhase("")), want: noPod, remedy: "once it is Running"},
		"failed":                          {sandbox: pausing("demo", inPhase(v1alpha1.SandboxFailed)), want: noPod, remedy: "resume it from a snapshot or from its template"},
		"missing":                         {sandbox: pausing("other"), want: noSandbox, remedy: "create the snapshot where the sandbox is"},
		"being deleted":                   {sandbox: pausing("demo", running, leaving), want: noSandbox, remedy: "is being deleted"},
		"being deleted, paused":           {sandbox: pausing("demo", paused, leaving), want: noSandbox, remedy: "is being deleted"},
		"created anew while it waited":    {sandbox: pausing("demo", running), was: ofAnother, want: noSandbox, remedy: "create another snapshot of the new one"},
		"paused, and its snapshot is not": {sandbox: pausing("demo", paused, func(s *v1alpha1.Sandbox) { s.Status.SnapshotName = "gone" }), want: noPod, remedy: "does not exist"},
	} {
		t.Run(name, func(t *testing.T) {
			mine := snapshotOf("demo", "mine")
			if test.was != nil {
				test.was(mine)
			}
			f := newFixture(t, test.sandbox, podOf("demo"), attemptOf("demo", saved), mine)
			snapshot := f.visits("mine")
			f.is(snapshot, test.want)
			f.hasJobs(test.jobs...)
			if test.remedy != "" && !strings.Contains(snapshot.Status.Conditions[0].Message, test.remedy) {
				t.Errorf("it says %q, want %q in it", snapshot.Status.Conditions[0].Message, test.remedy)
			}
		})
	}
}

// ofAnother: it waited for a sandbox of this name that is gone.
func ofAnother(s *v1alpha1.SandboxSnapshot) {
	waiting(s)
	s.Status.SandboxUID = "demo-uid-before"
}

func TestASnapshotThatWaitsKnowsItsSandbox(t *testing.T) {
	f := newFixture(t, pausing("demo"), podOf("demo"), snapshotOf("demo", "mine"))
	if snapshot := f.visits("mine"); snapshot.Status.SandboxUID != "demo-uid" {
		t.Errorf("it waits for the sandbox with UID %q", snapshot.Status.SandboxUID)
	}
}

// between runs a function when the controller reads from the host cluster, after it has read the
// sandbox and before it takes a slot.
type between struct {
	client.Reader
	do func()
}

func (b *between) Get(ctx context.Context, key client.ObjectKey, object client.Object, options ...client.GetOption) error {
	if do := b.do; do != nil {
		b.do = nil
		do()
	}
	return b.Reader.Get(ctx, key, object, options...)
}

func TestASandboxThatMovesOnWhileItsSnapshotIsChecked(t *testing.T) {
	for name, test := range map[string]struct {
		becomes func(*v1alpha1.Sandbox)
		want    string
	}{
		// A thaw by this commit would lose what is written between it and the end of the Pod.
		"its pause has committed": {func(s *v1alpha1.Sandbox) { s.Status.Phase = v1alpha1.SandboxPausing; marked(s) }, "Pending Ready=False/Queued"},
		"it is paused":            {paused, succeeded},
		"it runs in another Pod":  {func(s *v1alpha1.Sandbox) { s.Status.PodUID = "another" }, "Failed Ready=False/SourcePodReplaced Failed=True/SourcePodReplaced"},
		"it is being resumed":     {resuming, "Failed Ready=False/SourcePodNotFound Failed=True/SourcePodNotFound"},
	} {
		t.Run(name, func(t *testing.T) {
			f := newFixture(t, pausing("demo", running), podOf("demo"), attemptOf("demo", saved), snapshotOf("demo", "mine"))
			f.r.HostLive = &between{Reader: f.host, do: func() { f.change("demo", test.becomes) }}
			f.is(f.visits("mine"), test.want)
			f.hasJobs()
			// The slot is free again.
			f.change("demo", func(s *v1alpha1.Sandbox) { pausing("demo").Status.DeepCopyInto(&s.Status) })
			if free, why := f.r.slots.acquire(client.ObjectKey{Name: "another"}, slot{pod: "demo-pod", node: "node-1"}, limits{perNode: 1, total: 1}); !free {
				t.Errorf("the slot is taken: %s", why)
			}
		})
	}
}

// A pause that begins while a user's snapshot is committed waits for its end: neither thaws what
// the other froze.
func TestAPauseDuringAUsersCommit(t *testing.T) {
	f := newFixture(t, pausing("demo", running), podOf("demo"), snapshotOf("demo", "mine"), attemptOf("demo"))
	f.is(f.visits("mine"), committing)
	f.change("demo", func(s *v1alpha1.Sandbox) { s.Status.Phase = v1alpha1.SandboxPausing })
	f.is(f.visits("demo-gen1"), "Pending Ready=False/Queued")
	job := f.hasJobs(commit)
	snapshot := f.visits("mine")
	f.ends(f.runs(job), 0, report(snapshot))
	f.is(f.visits("mine"), succeeded)
	if woken := (<-f.r.wake).Object.GetName(); woken != "demo-gen1" {
		t.Errorf("%s was woken", woken)
	}
	f.is(f.visits("demo-gen1"), committing)
	f.hasJobs(commit, commit)
}
