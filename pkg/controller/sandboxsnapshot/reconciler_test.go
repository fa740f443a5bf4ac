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
	"fmt"
	"slices"
	"strings"
	"testing"

	batchv1 "k8s.io/api/batch/v1"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime/schema"
	clocktesting "k8s.io/utils/clock/testing"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/opensandbox-io/sandbox-apiserver/apis/lifecycle/v1alpha1"
	"github.com/opensandbox-io/sandbox-apiserver/pkg/controller/commitjob"
)

const (
	committing = "Committing Ready=False/Committing"
	succeeded  = "Succeed Ready=True/Succeeded Failed=False/Succeeded"

	commit  = commitjob.ComponentCommit
	unpause = commitjob.ComponentUnpause

	lastWord = `{"error":{"reason":"RegistryUnavailable","message":"it does not answer"},"thawed":true}`
)

// report is what a committer says that pushed the container main of a snapshot.
func report(snapshot *v1alpha1.SandboxSnapshot) string {
	return fmt.Sprintf(`{"containers":[{"name":"main","image":%q,"digest":"sha256:abc","layerBytes":123,"layers":2}],"frozenMillis":150}`,
		snapshot.Status.Containers[0].ImageURI)
}

func TestCommit(t *testing.T) {
	f := newFixture(t, pausing("demo"), podOf("demo"), attemptOf("demo"))

	snapshot := f.visits("demo-gen1")
	f.is(snapshot, committing)
	job := f.hasJobs(commit)
	status := snapshot.Status
	if status.JobUID != job.UID || status.SandboxUID != "demo-uid" || status.SourcePodName != "demo" || status.SourcePodUID != "demo-pod" ||
		status.SourceNodeName != "node-1" || status.StartTime == nil || status.Template == nil || snapshot.Status.ObservedGeneration != 1 {
		t.Errorf("recorded %+v", status)
	}
	want := v1alpha1.ContainerSnapshot{ContainerName: "main", ContainerID: "c1", ImageURI: "registry.example.com/default/demo-main:snap-gen1-demogen1"}
	if len(status.Containers) != 1 || status.Containers[0] != want {
		t.Errorf("containers %+v, want %+v", status.Containers, want)
	}
	if !slices.Contains(job.Spec.Template.Spec.Containers[0].Args, "--leave-frozen") {
		t.Error("the commit of a pause thaws when it has succeeded")
	}

	pod := f.runs(job)
	f.is(f.visits("demo-gen1"), committing)
	f.ends(pod, 0, report(snapshot))
	snapshot = f.visits("demo-gen1")
	f.is(snapshot, succeeded)
	want.ImageDigest, want.LayerBytes, want.Layers, want.Differ = "sha256:abc", 123, 2, v1alpha1.DifferOverlay
	if snapshot.Status.Containers[0] != want || snapshot.Status.FrozenDuration.Milliseconds() != 150 || !snapshot.Status.CompletionTime.Time.Equal(epoch) {
		t.Errorf("recorded %+v", snapshot.Status)
	}
	f.hasJobs(commit)

	before := snapshot.ResourceVersion
	if snapshot = f.visits("demo-gen1"); snapshot.ResourceVersion != before {
		t.Error("a final snapshot was written again")
	}
}

func TestCommitForAUser(t *testing.T) {
	f := newFixture(t, pausing("demo"), podOf("demo"), snapshotOf("demo", "mine"))
	f.is(f.visits("mine"), "Pending Ready=False/Queued")
	f.hasJobs()

	f.change("demo", running)
	f.is(f.visits("mine"), committing)
	if slices.Contains(f.hasJobs(commit).Spec.Template.Spec.Containers[0].Args, "--leave-frozen") {
		t.Error("the commit of a running sandbox leaves it frozen")
	}
}

func TestACrashBetweenJobAndStatus(t *testing.T) {
	f := newFixture(t, pausing("demo"), podOf("demo"), attemptOf("demo"))
	f.refuseStatus = true
	if err := f.visit("demo-gen1"); err == nil {
		t.Fatal("the status was written")
	}
	job := f.hasJobs(commit)

	// What the Job commits counts, not what would be chosen now.
	f.restart()
	f.change("demo", func(s *v1alpha1.Sandbox) { s.Status.PodUID = "another" })
	snapshot := f.visits("demo-gen1")
	f.is(snapshot, committing)
	if snapshot.Status.JobUID != job.UID || snapshot.Status.SourcePodUID != "demo-pod" || snapshot.Status.SandboxUID != "demo-uid" || len(snapshot.Status.Containers) != 1 {
		t.Errorf("recorded %+v", snapshot.Status)
	}
	f.hasJobs(commit)
}

func TestACrashAndACancel(t *testing.T) {
	f := newFixture(t, pausing("demo"), podOf("demo"), attemptOf("demo"))
	f.refuseStatus = true
	if err := f.visit("demo-gen1"); err == nil {
		t.Fatal("the status was written")
	}
	f.restart()
	f.change("demo", canceling)
	f.is(f.visits("demo-gen1"), committing)
	f.is(f.visits("demo-gen1"), "Committing Ready=False/Thawing Failed=Unknown/Canceled")
}

func TestAFailureThatThawed(t *testing.T) {
	f := newFixture(t, pausing("demo"), podOf("demo"), attemptOf("demo"))
	f.visits("demo-gen1")
	f.ends(f.runs(f.hasJobs(commit)), 1, lastWord)
	f.is(f.visits("demo-gen1"), "Failed Ready=False/RegistryUnavailable Failed=True/RegistryUnavailable")
	f.hasJobs(commit)
}

func TestAFailureThatMayHaveLeftSomethingFrozen(t *testing.T) {
	for name, report := range map[string]string{
		"without a report":   "",
		"with garbage":       "panic: runtime error",
		"that says it froze": `{"error":{"reason":"CommitJobFailed","message":"could not thaw"}}`,
	} {
		t.Run(name, func(t *testing.T) {
			const ending = "Committing Ready=False/Thawing Failed=Unknown/CommitJobFailed"
			f := newFixture(t, pausing("demo"), podOf("demo"), attemptOf("demo"))
			f.visits("demo-gen1")
			f.ends(f.runs(f.hasJobs(commit)), 137, report)

			// The reason is written before anything is done about it.
			f.refuseJob = apierrors.NewServiceUnavailable("not now")
			f.is(f.visits("demo-gen1"), ending)
			f.hasJobs(commit)
			f.later(longestWait)
			f.is(f.visits("demo-gen1"), ending)
			job := f.hasJobs(commit, unpause)
			f.is(f.visits("demo-gen1"), ending)
			pod := f.runs(job)
			f.is(f.visits("demo-gen1"), ending)
			f.ends(pod, 0, `{"thawed":true}`)
			f.is(f.visits("demo-gen1"), "Failed Ready=False/CommitJobFailed Failed=True/CommitJobFailed")
		})
	}
}

func TestAThawThatFailsIsTriedAgain(t *testing.T) {
	f := newFixture(t, pausing("demo"), podOf("demo"), attemptOf("demo"))
	f.visits("demo-gen1")
	f.ends(f.runs(f.hasJobs(commit)), 137, "")
	f.visits("demo-gen1")
	first := f.hasJobs(commit, unpause)
	f.ends(f.runs(first), 1, "")
	if said := f.visits("demo-gen1").Status.Conditions[0].Message; !strings.Contains(said, "thaw the containers of Pod default/demo on node node-1") {
		t.Errorf("the snapshot says %q", said)
	}
	f.hasJobs(commit)
	f.visits("demo-gen1")
	f.hasJobs(commit) // not at once
	f.later(longestWait)
	f.is(f.visits("demo-gen1"), "Committing Ready=False/Thawing Failed=Unknown/CommitJobFailed")
	if again := f.hasJobs(commit, unpause); again.UID == first.UID {
		t.Error("the Job that failed is still there")
	}
}

// A Pod that was deleted without grace is gone from the API before its processes are, and what is frozen of them cannot be
// killed: the attempt has failed only when its node says that nothing is, or nobody answers for the node.
func TestNothingStaysFrozenOfAPodThatIsGone(t *testing.T) {
	for name, nodeGone := range map[string]bool{"its node is there": false, "and so is its node": true} {
		t.Run(name, func(t *testing.T) {
			f := newFixture(t, pausing("demo"), podOf("demo"), attemptOf("demo"))
			f.visits("demo-gen1")
			f.ends(f.runs(f.hasJobs(commit)), 137, "")
			f.visits("demo-gen1")
			gone := []client.Object{podOf("demo")}
			if nodeGone {
				gone = append(gone, &corev1.Node{ObjectMeta: metav1.ObjectMeta{Name: podOf("demo").Spec.NodeName}})
			}
			for _, object := range gone {
				if err := f.host.Delete(t.Context(), object); err != nil {
					t.Fatal(err)
				}
			}
			if !nodeGone {
				f.is(f.visits("demo-gen1"), "Committing Ready=False/Thawing Failed=Unknown/CommitJobFailed")
				f.ends(f.runs(f.hasJobs(commit, unpause)), 0, `{"thawed":true}`)
			}
			f.is(f.visits("demo-gen1"), "Failed Ready=False/CommitJobFailed Failed=True/CommitJobFailed")
		})
	}
}

func TestASuccessWithoutItsResult(t *testing.T) {
	for name, report := range map[string]string{
		"nothing":           "",
		"another container": `{"containers":[{"name":"other","image":"registry.example.com/default/demo-main:snap-gen1-demogen1","digest":"sha256:abc"}]}`,
		"another image":     `{"containers":[{"name":"main","image":"registry.example.com/other/demo-main:latest","digest":"sha256:abc"}]}`,
		"no digest":         `{"containers":[{"name":"main","image":"registry.example.com/default/demo-main:snap-gen1-demogen1"}]}`,
	} {
		t.Run(name, func(t *testing.T) {
			f := newFixture(t, pausing("demo"), podOf("demo"), attemptOf("demo"))
			f.visits("demo-gen1")
			f.ends(f.runs(f.hasJobs(commit)), 0, report)
			f.is(f.visits("demo-gen1"), "Committing Ready=False/Thawing Failed=Unknown/ResultMissing")
			f.visits("demo-gen1")
			f.hasJobs(commit, unpause)
		})
	}
}

func TestACommitPodThatDoesNotStart(t *testing.T) {
	f := newFixture(t, pausing("demo"), podOf("demo"), attemptOf("demo"))
	f.visits("demo-gen1")
	pod := f.runs(f.hasJobs(commit))
	pod.Status.Phase = corev1.PodPending
	pod.Status.ContainerStatuses[0].State = corev1.ContainerState{Waiting: &corev1.ContainerStateWaiting{Reason: "ImagePullBackOff", Message: "no such image"}}
	f.shows(pod)
	snapshot := f.visits("demo-gen1")
	f.is(snapshot, "Committing Ready=False/HeldUp")
	if !strings.Contains(snapshot.Status.Conditions[0].Message, "no such image") {
		t.Errorf("the snapshot says %q", snapshot.Status.Conditions[0].Message)
	}
}

// refuses makes kube-controller-manager tell that the API refuses the Job's Pod.
func (f *fixture) refuses(job *batchv1.Job) {
	f.Helper()
	if err := f.host.Create(f.Context(), &corev1.Event{
		ObjectMeta:     metav1.ObjectMeta{Namespace: job.Namespace, Name: job.Name + ".1"},
		InvolvedObject: corev1.ObjectReference{Kind: "Job", Namespace: job.Namespace, Name: job.Name, UID: job.UID},
		Reason:         "FailedCreate", Message: "pods is forbidden: exceeded quota: small",
	}); err != nil {
		f.Fatal(err)
	}
}

// failsLate makes kube-controller-manager end a Job at its deadline, with so many Pods behind it.
func (f *fixture) failsLate(job *batchv1.Job, pods int32) {
	f.Helper()
	job.Status.Failed = pods
	job.Status.Conditions = []batchv1.JobCondition{{Type: batchv1.JobFailed, Status: corev1.ConditionTrue, Reason: batchv1.JobReasonDeadlineExceeded}}
	if err := f.host.Status().Update(f.Context(), job); err != nil {
		f.Fatal(err)
	}
}

func TestACommitPodThatIsRefused(t *testing.T) {
	const refused = "Committing Ready=False/CommitPodRejected"
	start := func(t *testing.T) *fixture {
		f := newFixture(t, pausing("demo"), podOf("demo"), attemptOf("demo"))
		f.visits("demo-gen1")
		f.refuses(f.hasJobs(commit))
		return f
	}
	t.Run("at once it is told", func(t *testing.T) {
		f := start(t)
		snapshot := f.visits("demo-gen1")
		f.is(snapshot, refused)
		if message := snapshot.Status.Conditions[0].Message; !strings.Contains(message, "exceeded quota: small") {
			t.Errorf("the snapshot says %q", message)
		}
		if job := f.hasJobs(commit); *job.Spec.ActiveDeadlineSeconds == 1 {
			t.Error("the Job is given up at once")
		}
	})
	t.Run("the Pod is taken after all", func(t *testing.T) {
		f := start(t)
		f.is(f.visits("demo-gen1"), refused)
		f.runs(f.hasJobs(commit))
		f.is(f.visits("demo-gen1"), committing)
	})
	t.Run("in the end it fails, and nothing is thawed", func(t *testing.T) {
		f := start(t)
		f.r.Clock = clocktesting.NewFakePassiveClock(epoch.Add(refusedLimit))
		f.is(f.visits("demo-gen1"), refused)
		job := f.hasJobs(commit)
		if *job.Spec.ActiveDeadlineSeconds != 1 {
			t.Fatalf("the Job's deadline is %d s after its start", *job.Spec.ActiveDeadlineSeconds)
		}
		f.failsLate(job, 0)
		f.is(f.visits("demo-gen1"), "Failed Ready=False/CommitPodRejected Failed=True/CommitPodRejected")
		f.hasJobs(commit)
	})
	t.Run("there was a Pod after all", func(t *testing.T) {
		f := start(t)
		f.failsLate(f.hasJobs(commit), 1)
		f.is(f.visits("demo-gen1"), "Committing Ready=False/Thawing Failed=Unknown/DeadlineExceeded")
		f.visits("demo-gen1")
		f.refuses(f.hasJobs(commit, unpause))
		snapshot := f.visits("demo-gen1")
		f.is(snapshot, "Committing Ready=False/Thawing Failed=Unknown/DeadlineExceeded")
		if message := snapshot.Status.Conditions[0].Message; !strings.Contains(message, "-unpause-") || !strings.Contains(message, "gets no Pod") {
			t.Errorf("of the Job that thaws the snapshot says %q", message)
		}
	})
	t.Run("a cancelled one needs no thaw", func(t *testing.T) {
		f := start(t)
		f.change("demo", canceling)
		f.visits("demo-gen1") // says so
		f.visits("demo-gen1") // gives the Job up
		job := f.hasJobs(commit)
		f.failsLate(job, 0)
		f.is(f.visits("demo-gen1"), "Failed Ready=False/Canceled Failed=True/Canceled")
	})
}

func TestCancelWhileCommitting(t *testing.T) {
	const ending = "Committing Ready=False/Thawing Failed=Unknown/Canceled"
	f := newFixture(t, pausing("demo"), podOf("demo"), attemptOf("demo"))
	f.visits("demo-gen1")
	f.runs(f.hasJobs(commit))
	f.change("demo", canceling)

	f.is(f.visits("demo-gen1"), ending)
	f.hasJobs() // stopped
	f.is(f.visits("demo-gen1"), ending)
	f.ends(f.runs(f.hasJobs(unpause)), 0, `{"thawed":true}`)
	f.is(f.visits("demo-gen1"), "Failed Ready=False/Canceled Failed=True/Canceled")
}

func TestCancelBeforeTheCommit(t *testing.T) {
	f := newFixture(t, pausing("demo", canceling), podOf("demo"), attemptOf("demo"))
	f.is(f.visits("demo-gen1"), "Failed Ready=False/Canceled Failed=True/Canceled")
	f.hasJobs()
}

func TestDeleteWhileCommitting(t *testing.T) {
	f := newFixture(t, pausing("demo"), podOf("demo"), attemptOf("demo"))
	f.visits("demo-gen1")
	f.runs(f.hasJobs(commit))
	f.deletes(attemptOf("demo"))

	const ending = "Committing Ready=False/Thawing Failed=Unknown/Canceled"
	f.is(f.visits("demo-gen1"), ending)
	f.hasJobs() // stopped
	f.is(f.visits("demo-gen1"), ending)
	f.ends(f.runs(f.hasJobs(unpause)), 0, `{"thawed":true}`)
	f.is(f.visits("demo-gen1"), "Failed Ready=False/Canceled Failed=True/Canceled")
	f.is(f.visits("demo-gen1"), "gone")
	f.hasJobs()
}

func TestDelete(t *testing.T) {
	tests := map[string]struct {
		sandbox  *v1alpha1.Sandbox
		snapshot *v1alpha1.SandboxSnapshot
		want     string
		jobs     []string
	}{
		"pending": {pausing("demo"), attemptOf("demo"), "gone", nil},
		// A sandbox whose finalizer was taken away leaves its Pod behind.
		"succeeded, of no sandbox any more":             {pausing("other"), attemptOf("demo", committed), "Succeed", []string{unpause}},
		"succeeded, of no sandbox any more, and no Pod": {pausing("other"), attemptOf("demo", committed, func(s *v1alpha1.SandboxSnapshot) { s.Status.SourcePodUID = "before" }), "gone", nil},
		"succeeded, and its sandbox is not here":        {pausing("demo", running), attemptOf("demo", committed), "gone", nil},
		"succeeded, and a later attempt goes on":        {pausing("demo", func(s *v1alpha1.Sandbox) { s.Status.SnapshotAttempts = 2 }), attemptOf("demo", committed), "gone", nil},
		"succeeded, of a user":                          {pausing("demo"), snapshotOf("demo", "mine", committed), "gone", nil},
		// What it froze would stay frozen without anybody who knows of it.
		"succeeded, and its containers are frozen": {pausing("demo"), attemptOf("demo", committed), "Succeed", []string{unpause}},
		"succeeded, and its pause is cancelled":    {pausing("demo", canceling), attemptOf("demo", committed), "Succeed", []string{unpause}},
		"in use": {
			pausing("demo", func(s *v1alpha1.Sandbox) { s.Status.SnapshotName = "demo-gen1" }), attemptOf("demo", committed),
			"Succeed Ready=True/InUse", nil,
		},
		"in use by one that is to start from it": {
			pausing("other", func(s *v1alpha1.Sandbox) {
				s.Status.Phase = v1alpha1.SandboxPending
				s.Spec.RestoreFrom = &v1alpha1.SandboxRestoreSource{SnapshotName: "demo-gen1"}
			}), attemptOf("demo"), "Pending Ready=False/InUse", nil,
		},
	}
	for name, test := range tests {
		t.Run(name, func(t *testing.T) {
			f := newFixture(t, test.sandbox, podOf("demo"), test.snapshot)
			f.deletes(test.snapshot)
			f.is(f.visits(test.snapshot.Name), test.want)
			f.hasJobs(test.jobs...)
		})
	}
}

// What the cache does not know yet is asked of the API.
func TestDeleteOfASnapshotThatIsInUseSinceJustNow(t *testing.T) {
	f := newFixture(t, pausing("demo", func(s *v1alpha1.Sandbox) { s.Status.SnapshotName = "demo-gen1" }), attemptOf("demo", saved))
	behind := newFixture(t, pausing("demo"))
	f.r.Client = reader{Client: f.own, lists: behind.own}
	asked := &album{}
	f.r.Registry = asked
	f.deletes(attemptOf("demo"))
	f.is(f.visits("demo-gen1"), "Succeed Ready=True/InUse")
	if len(asked.asked) > 0 {
		t.Errorf("the registry was asked to %q", asked.asked)
	}
}

// reader lists from another store than it reads and writes.
type reader struct {
	client.Client
	lists client.Reader
}

func (r reader) List(ctx context.Context, list client.ObjectList, options ...client.ListOption) error {
	return r.lists.List(ctx, list, options...)
}

func TestFreed(t *testing.T) {
	uses := func(name string) *v1alpha1.Sandbox {
		return pausing("clone", func(s *v1alpha1.Sandbox) { s.Status.SnapshotName = name })
	}
	starts := func(phase v1alpha1.SandboxPhase) *v1alpha1.Sandbox {
		return pausing("clone", func(s *v1alpha1.Sandbox) {
			s.Status.Phase = phase
			s.Spec.RestoreFrom = &v1alpha1.SandboxRestoreSource{SnapshotName: "mine"}
		})
	}
	deleted := uses("mine")
	deleted.DeletionTimestamp = &metav1.Time{Time: epoch}
	for name, test := range map[string]struct {
		before, now client.Object
		want        string
	}{
		"it uses the same":           {uses("mine"), uses("mine"), ""},
		"it was paused on its own":   {uses("mine"), uses("clone-gen1"), "mine"},
		"it begins to use one":       {uses(""), uses("mine"), ""},
		"it goes":                    {uses("mine"), deleted, "mine"},
		"it is gone":                 {uses("mine"), nil, "mine"},
		"it is gone, told before":    {deleted, nil, ""},
		"it has still to start":      {starts(v1alpha1.SandboxPending), starts(v1alpha1.SandboxPending), ""},
		"it gave up what it started": {starts(v1alpha1.SandboxPending), starts(v1alpha1.SandboxResuming), "mine"},
	} {
		t.Run(name, func(t *testing.T) {
			var got []string
			for _, request := range freed(test.before, test.now) {
				got = append(got, request.Name)
			}
			if strings.Join(got, " ") != test.want {
				t.Errorf("freed %q, want %q", got, test.want)
			}
		})
	}
}

func TestDeleteThawsWhatTheCommitFroze(t *testing.T) {
	f := newFixture(t, pausing("demo"), podOf("demo"), attemptOf("demo", committed))
	f.deletes(attemptOf("demo"))
	f.visits("demo-gen1")
	f.ends(f.runs(f.hasJobs(unpause)), 0, `{"thawed":true}`)
	f.is(f.visits("demo-gen1"), "Succeed Ready=False/Canceled")
	f.is(f.visits("demo-gen1"), "gone")
	f.hasJobs()
}

// That a Pod is removed and that it is thawed are decided by two controllers, and never both.
func TestAThawAndARemovalDoNotCross(t *testing.T) {
	read := func(f *fixture) *v1alpha1.Sandbox {
		f.Helper()
		sandbox := &v1alpha1.Sandbox{}
		if err := f.own.Get(f.Context(), client.ObjectKey{Namespace: namespace, Name: "demo"}, sandbox); err != nil {
			f.Fatal(err)
		}
		return sandbox
	}
	t.Run("the removal was decided before", func(t *testing.T) {
		f := newFixture(t, pausing("demo"), podOf("demo"), attemptOf("demo", committed))
		decided := read(f)
		f.deletes(attemptOf("demo"))
		f.visits("demo-gen1")
		f.hasJobs(unpause)
		marked(decided)
		if err := f.own.Status().Update(t.Context(), decided); !apierrors.IsConflict(err) {
			t.Errorf("the Pod that is thawed is marked for removal: %v", err)
		}
		told := read(f)
		if !strings.Contains(told.Status.Conditions[0].Message, "snapshot demo-gen1 is being deleted") {
			t.Errorf("the sandbox says %q", told.Status.Conditions[0].Message)
		}
		f.visits("demo-gen1")
		if again := read(f); again.ResourceVersion != told.ResourceVersion {
			t.Error("the sandbox is written at each visit")
		}
	})
	t.Run("the removal comes between", func(t *testing.T) {
		f := newFixture(t, pausing("demo"), podOf("demo"), attemptOf("demo", committed))
		f.deletes(attemptOf("demo"))
		f.r.Live = &after{Reader: f.own, do: func() { f.change("demo", marked) }}
		if err := f.visit("demo-gen1"); !apierrors.IsConflict(err) {
			t.Errorf("the visit ends with %v", err)
		}
		f.hasJobs()
		f.is(f.visits("demo-gen1"), "Succeed Ready=True/InUse")
		f.hasJobs()
	})
}

// after runs a function when the sandbox has been read for the second time: when it is decided on.
type after struct {
	client.Reader
	do    func()
	reads int
}

func (a *after) Get(ctx context.Context, key client.ObjectKey, object client.Object, options ...client.GetOption) error {
	err := a.Reader.Get(ctx, key, object, options...)
	if _, is := object.(*v1alpha1.Sandbox); is {
		if a.reads++; a.reads == 2 {
			a.do()
		}
	}
	return err
}

func TestQueue(t *testing.T) {
	f := newFixture(t, pausing("one"), podOf("one"), attemptOf("one"), pausing("two"), podOf("two"), attemptOf("two"))
	f.is(f.visits("one-gen1"), committing)
	f.is(f.visits("two-gen1"), "Pending Ready=False/Queued")
	job := f.hasJobs(commit)

	// A commit that was there before the controller counts as well.
	f.restart()
	f.is(f.visits("two-gen1"), "Pending Ready=False/Queued")
	f.is(f.visits("one-gen1"), committing)

	f.ends(f.runs(job), 1, lastWord)
	f.visits("one-gen1")
	select {
	case woken := <-f.r.wake:
		if woken.Object.GetName() != "two-gen1" {
			t.Errorf("%s was woken", woken.Object.GetName())
		}
	default:
		t.Fatal("nobody was woken")
	}
	f.is(f.visits("two-gen1"), committing)
}

func TestAJobThatIsRefused(t *testing.T) {
	f := newFixture(t, pausing("demo"), podOf("demo"), attemptOf("demo"))
	f.refuseJob = apierrors.NewForbidden(schema.GroupResource{Resource: "jobs"}, "x", nil)
	f.is(f.visits("demo-gen1"), "Failed Ready=False/CommitPodRejected Failed=True/CommitPodRejected")
	f.hasJobs()
}

func TestAJobOfThatNameServesAnother(t *testing.T) {
	f := newFixture(t, pausing("demo"), podOf("demo"), attemptOf("demo"))
	f.visits("demo-gen1")
	job := f.hasJobs(commit)
	job.Labels[v1alpha1.LabelSnapshotUID] = "another"
	if err := f.host.Update(t.Context(), job); err != nil {
		t.Fatal(err)
	}
	f.restart()
	if _, err := f.r.Jobs.Find(t.Context(), job.Name, attemptOf("demo")); err == nil {
		t.Error("the Job of another snapshot was taken for this one's")
	}
}

func TestServed(t *testing.T) {
	job := &batchv1.Job{ObjectMeta: metav1.ObjectMeta{Namespace: jobs, Annotations: map[string]string{
		v1alpha1.AnnotationNamespace: namespace, v1alpha1.AnnotationSnapshot: "demo-gen1",
	}}}
	if got := served(job); len(got) != 1 || got[0].NamespacedName != (client.ObjectKey{Namespace: namespace, Name: "demo-gen1"}) {
		t.Errorf("a Job brings %v", got)
	}
	if got := served(podOf("demo")); got != nil {
		t.Errorf("a Pod of no snapshot brings %v", got)
	}
}
