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
	"errors"
	"strings"
	"testing"
	"time"

	batchv1 "k8s.io/api/batch/v1"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/types"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/opensandbox-io/sandbox-apiserver/apis/lifecycle/v1alpha1"
)

const heldUp = "Pending Ready=False/HeldUp"

// A commit that cannot begin because of an API says so, takes nobody's slot, and fails after a while with the answer.
func TestAnAPIThatDoesNotDoWhatACommitNeeds(t *testing.T) {
	away := apierrors.NewInternalError(errors.New(`failed calling webhook "x"`))
	forbidden := apierrors.NewForbidden(schema.GroupResource{Resource: "secrets"}, secret, errors.New("RBAC: no"))
	for name, test := range map[string]struct {
		answers map[string]error
		says    string
	}{
		"the push Secret may not be read": {map[string]error{"get *v1.Secret": forbidden}, "RBAC: no"},
		"Secrets answer 500":              {map[string]error{"get *v1.Secret": away}, `failed calling webhook "x"`},
		"the Pod cannot be read":          {map[string]error{"get *v1.Pod": away}, `failed calling webhook "x"`},
		"the node cannot be read":         {map[string]error{"get *v1.Node": away}, `failed calling webhook "x"`},
		"the Job cannot be looked for":    {map[string]error{"get *v1.Job": away}, `failed calling webhook "x"`},
		"no connection":                   {map[string]error{"get *v1.Node": errors.New("connection refused")}, "connection refused"},
		"an answer of 152 kB":             {map[string]error{"get *v1.Node": errors.New("begins " + strings.Repeat("x", 152_000))}, "begins xxx"},
	} {
		t.Run(name, func(t *testing.T) {
			f := newFixture(t, pausing("demo"), podOf("demo"), attemptOf("demo"), pausing("next"), podOf("next"), attemptOf("next"))
			f.hostAnswers = test.answers
			snapshot := f.visits("demo-gen1")
			f.is(snapshot, heldUp)
			if said := snapshot.Status.Conditions[0].Message; !strings.Contains(said, test.says) || len(said) > 5000 {
				t.Errorf("it says %.200q (%d bytes)", said, len(said))
			}
			// Others are not held up by it.
			f.hostAnswers = nil
			f.is(f.visits("next-gen1"), committing)
			f.r.MaxPerNode = 2
			f.hostAnswers = test.answers
			for range 20 {
				f.later(5 * time.Second)
				if snapshot = f.visits("demo-gen1"); snapshot.Status.Phase == v1alpha1.SnapshotFailed {
					break
				}
			}
			f.is(snapshot, "Failed Ready=False/HeldUp Failed=True/HeldUp")
			if said := snapshot.Status.Conditions[0].Message; !strings.Contains(said, test.says) {
				t.Errorf("it says %.200q", said)
			}
			if f.r.slots.has(client.ObjectKeyFromObject(snapshot)) {
				t.Error("it keeps a slot")
			}
			f.hasJobs(commit)
		})
	}
}

func TestAnAPIThatIsBack(t *testing.T) {
	f := newFixture(t, pausing("demo"), podOf("demo"), attemptOf("demo"))
	f.hostAnswers = map[string]error{"get *v1.Node": errors.New("connection refused")}
	f.is(f.visits("demo-gen1"), heldUp)
	f.hostAnswers = nil
	f.is(f.visits("demo-gen1"), heldUp) // not before its time, whatever brings the visit
	f.later(longestWait)
	f.is(f.visits("demo-gen1"), committing)
	if past := f.r.memory.get(client.ObjectKey{Namespace: namespace, Name: "demo-gen1"}); past != (troubles{}) {
		t.Errorf("it remembers %+v", past)
	}
}

// A cancel is heard while an API is away.
func TestACancelWhileHeldUp(t *testing.T) {
	f := newFixture(t, pausing("demo"), podOf("demo"), attemptOf("demo"))
	f.hostAnswers = map[string]error{"get *v1.Node": errors.New("connection refused")}
	f.is(f.visits("demo-gen1"), heldUp)
	f.change("demo", canceling)
	f.is(f.visits("demo-gen1"), "Failed Ready=False/Canceled Failed=True/Canceled")
}

// A Job whose creation was answered with an error may have been created, now or in a while. It is not created
// again and again, no other commit of the Pod begins before that is known, and others do not wait for it.
func TestACreationWithoutAnAnswer(t *testing.T) {
	start := func(t *testing.T) *fixture {
		f := newFixture(t, pausing("demo"), podOf("demo"), attemptOf("demo"), pausing("next"), podOf("next"), attemptOf("next"))
		f.hostAnswers = map[string]error{"create Job": apierrors.NewTimeoutError("etcd is slow", 0)}
		f.is(f.visits("demo-gen1"), heldUp)
		return f
	}
	pod := slot{pod: "demo-pod", node: "elsewhere"}
	t.Run("it was not", func(t *testing.T) {
		f := start(t)
		for range 6 {
			f.visits("demo-gen1")
		}
		if f.created != 1 {
			t.Errorf("it was created %d times without a wait", f.created)
		}
		elapsed := time.Duration(0)
		for ; f.visits("demo-gen1").Status.Phase != v1alpha1.SnapshotFailed && elapsed < time.Hour; elapsed += time.Second {
			if free, _ := f.r.slots.acquire(client.ObjectKey{Name: "another"}, pod, f.r.limits()); free {
				t.Fatalf("after %s another commit of the Pod may begin", elapsed)
			}
			f.r.slots.release(client.ObjectKey{Name: "another"}, f.r.limits())
			f.later(time.Second)
		}
		if elapsed > 2*patience+lateness || f.created > 8 {
			t.Errorf("given up after %s and %d creations", elapsed, f.created)
		}
		if free, why := f.r.slots.acquire(client.ObjectKey{Name: "another"}, pod, f.r.limits()); !free {
			t.Errorf("the Pod is not free: %s", why)
		}
	})
	t.Run("it was", func(t *testing.T) {
		f := start(t)
		f.hostAnswers = nil
		f.lateJob.UID = "late"
		if err := f.host.Create(t.Context(), f.lateJob); err != nil {
			t.Fatal(err)
		}
		f.is(f.visits("demo-gen1"), committing)
		f.hasJobs(commit)
	})
	t.Run("it was, when it was given up", func(t *testing.T) {
		f := start(t)
		for f.visits("demo-gen1").Status.Phase != v1alpha1.SnapshotFailed {
			f.later(time.Second)
		}
		f.hostAnswers = nil
		if err := f.host.Create(t.Context(), f.lateJob); err != nil {
			t.Fatal(err)
		}
		f.is(f.visits("demo-gen1"), "Failed Ready=False/HeldUp Failed=True/HeldUp")
		if job := f.hasJobs(commit); *job.Spec.ActiveDeadlineSeconds != 1 {
			t.Error("the Job goes on")
		}
		if free, _ := f.r.slots.acquire(client.ObjectKey{Name: "another"}, pod, f.r.limits()); free {
			t.Error("another commit of the Pod may begin")
		}
	})
	t.Run("others do not wait", func(t *testing.T) {
		f := start(t)
		f.hostAnswers = nil
		f.is(f.visits("next-gen1"), committing)
	})
}

// A Pod that is lost while its commit waits for a turn is noticed at once.
func TestAPodThatIsLostInTheQueue(t *testing.T) {
	f := newFixture(t, pausing("one"), podOf("one"), attemptOf("one"), pausing("two"), podOf("two"), attemptOf("two"))
	f.is(f.visits("one-gen1"), committing)
	f.is(f.visits("two-gen1"), "Pending Ready=False/Queued")
	f.is(f.visits("two-gen1"), "Pending Ready=False/Queued")
	if got := f.r.awaiting(t.Context(), podOf("two")); len(got) != 1 || got[0].Name != "two-gen1" {
		t.Errorf("the Pod's events bring %v", got)
	}
	if got := f.r.awaiting(t.Context(), podOf("one", func(p *corev1.Pod) { p.Labels[v1alpha1.LabelComponent] = commit })); got != nil {
		t.Errorf("those of a commit Pod bring %v", got)
	}
	if err := f.host.Delete(t.Context(), podOf("two")); err != nil {
		t.Fatal(err)
	}
	f.is(f.visits("two-gen1"), "Failed Ready=False/SourcePodNotFound Failed=True/SourcePodNotFound")
}

// A commit whose Pod does not start is told, for a while; it has frozen nothing, and where its Pod found no node none is
// sent after it to thaw.
func TestACommitPodThatFindsNoRoom(t *testing.T) {
	start := func(t *testing.T) (*fixture, *corev1.Pod) {
		f := newFixture(t, pausing("demo"), podOf("demo"), attemptOf("demo"))
		f.visits("demo-gen1")
		pod := f.runs(f.hasJobs(commit))
		pod.Spec.NodeName = ""
		if err := f.host.Update(t.Context(), pod); err != nil {
			t.Fatal(err)
		}
		pod.Status = corev1.PodStatus{Phase: corev1.PodPending, Conditions: []corev1.PodCondition{
			{Type: corev1.PodScheduled, Status: corev1.ConditionFalse, Message: "0/1 nodes are available: Too many pods"}}}
		f.shows(pod)
		snapshot := f.visits("demo-gen1")
		f.is(snapshot, "Committing Ready=False/HeldUp")
		if said := snapshot.Status.Conditions[0].Message; !strings.Contains(said, "Too many pods") {
			t.Errorf("it says %q", said)
		}
		return f, pod
	}
	t.Run("it fails in the end", func(t *testing.T) {
		f, _ := start(t)
		f.later(startLimit - time.Second)
		f.is(f.visits("demo-gen1"), "Committing Ready=False/HeldUp")
		f.later(time.Second)
		f.is(f.visits("demo-gen1"), "Failed Ready=False/HeldUp Failed=True/HeldUp")
		f.hasJobs()
	})
	t.Run("a cancel is over at once", func(t *testing.T) {
		f, _ := start(t)
		f.change("demo", canceling)
		f.is(f.visits("demo-gen1"), "Failed Ready=False/Canceled Failed=True/Canceled")
		f.hasJobs()
	})
	t.Run("it has room after all", func(t *testing.T) {
		f, pod := start(t)
		pod.Status = corev1.PodStatus{Phase: corev1.PodRunning, ContainerStatuses: []corev1.ContainerStatus{{
			Name: "image-committer", State: corev1.ContainerState{Running: &corev1.ContainerStateRunning{}}}}}
		f.shows(pod)
		f.is(f.visits("demo-gen1"), committing)
	})
}

// What cannot be thawed now keeps its Pod, and nobody's room.
func TestAThawThatCannotBeKeepsNobodyFromCommitting(t *testing.T) {
	f := newFixture(t, pausing("demo"), podOf("demo"), attemptOf("demo"), pausing("next"), podOf("next"), attemptOf("next"))
	f.visits("demo-gen1")
	f.ends(f.runs(f.hasJobs(commit)), 137, "")
	f.is(f.visits("next-gen1"), "Pending Ready=False/Queued")
	f.hostAnswers = map[string]error{"create Job": apierrors.NewForbidden(batchv1.Resource("jobs"), "x", errors.New("exceeded quota"))}
	snapshot := f.visits("demo-gen1")
	f.is(snapshot, "Committing Ready=False/Thawing Failed=Unknown/CommitJobFailed")
	if said := snapshot.Status.Conditions[0].Message; !strings.Contains(said, "exceeded quota") {
		t.Errorf("it says %q", said)
	}
	f.hostAnswers = nil
	f.is(f.visits("next-gen1"), committing)
	if free, _ := f.r.slots.acquire(client.ObjectKey{Name: "another"}, slot{pod: "demo-pod", node: "elsewhere"}, limits{10, 10}); free {
		t.Error("another commit of the Pod may begin")
	}
	f.later(longestWait)
	f.visits("demo-gen1")
	f.hasJobs(commit, commit, unpause)
}

// A clock that was turned back makes no wait longer.
func TestAClockThatWasTurnedBack(t *testing.T) {
	f := newFixture(t, pausing("demo"), podOf("demo"), attemptOf("demo"))
	f.later(time.Hour)
	f.visits("demo-gen1")
	f.refuses(f.hasJobs(commit))
	f.later(-time.Hour)
	if again := f.reconciles("demo-gen1").RequeueAfter; again > refusedLimit {
		t.Errorf("it is looked at again in %s", again)
	}
}

// One Job that cannot be read keeps nobody from committing, and is ended.
func TestAJobThatCannotBeRead(t *testing.T) {
	for name, test := range map[string]struct{ unrecorded bool }{"its snapshot knows it": {false}, "its snapshot does not know it yet": {true}} {
		t.Run(name, func(t *testing.T) {
			f := newFixture(t, pausing("demo"), podOf("demo"), attemptOf("demo"), pausing("next"), podOf("next"), attemptOf("next"))
			f.refuseStatus = test.unrecorded
			if err := f.visit("demo-gen1"); (err != nil) != test.unrecorded {
				t.Fatal(err)
			}
			job := f.hasJobs(commit)
			job.Annotations[v1alpha1.AnnotationSource] = "edited"
			if err := f.host.Update(t.Context(), job); err != nil {
				t.Fatal(err)
			}
			f.restart()
			f.r.MaxPerNode = 2
			f.is(f.visits("next-gen1"), committing)
			if !test.unrecorded {
				return
			}
			if free, _ := f.r.slots.acquire(client.ObjectKey{Name: "another"}, slot{pod: "demo-pod", node: "elsewhere"}, limits{10, 10}); free {
				t.Error("another commit of the Pod may begin")
			}
			snapshot := f.visits("demo-gen1")
			f.is(snapshot, "Committing Ready=False/Thawing Failed=Unknown/CommitJobFailed")
			if snapshot.Status.SourcePodUID != "demo-pod" || len(snapshot.Status.Containers) != 1 {
				t.Errorf("it thaws %+v", snapshot.Status)
			}
		})
	}
}

func TestStrays(t *testing.T) {
	// gone: the snapshot went under its commit, as by force.
	gone := func(t *testing.T) (*fixture, *batchv1.Job) {
		f := newFixture(t, pausing("demo"), podOf("demo"), attemptOf("demo"))
		f.visits("demo-gen1")
		job := f.hasJobs(commit)
		f.edits("demo-gen1", func(s *v1alpha1.SandboxSnapshot) { s.Finalizers = nil })
		f.deletes(attemptOf("demo"))
		return f, job
	}
	// isBusy checks that the attempt that is made again waits.
	isBusy := func(f *fixture) {
		f.Helper()
		again := attemptOf("demo", func(s *v1alpha1.SandboxSnapshot) { s.UID = types.UID("again") })
		if err := f.own.Create(f.Context(), again); err != nil {
			f.Fatal(err)
		}
		f.is(f.visits("demo-gen1"), "Pending Ready=False/Queued")
	}
	t.Run("ended, thawed, and then another", func(t *testing.T) {
		f, job := gone(t)
		pod := f.runs(job)
		if f.visits("demo-gen1") != nil {
			t.Fatal("the snapshot is there")
		}
		if job := f.hasJobs(commit); *job.Spec.ActiveDeadlineSeconds != 1 {
			t.Error("the Job goes on")
		}
		isBusy(f)
		f.ends(pod, 137, "")
		f.is(f.visits("demo-gen1"), "Pending Ready=False/Queued")
		f.ends(f.runs(f.hasJobs(commit, unpause)), 0, `{"thawed":true}`)
		f.is(f.visits("demo-gen1"), committing)
		f.hasJobs(commit)
	})
	t.Run("it had succeeded, and left its Pod frozen", func(t *testing.T) {
		f, job := gone(t)
		pod := f.runs(job)
		snapshot := attemptOf("demo")
		snapshot.Status.Containers = []v1alpha1.ContainerSnapshot{{ImageURI: "registry.example.com/default/demo-main:snap-gen1-demogen1"}}
		f.ends(pod, 0, report(snapshot))
		f.visits("demo-gen1")
		f.hasJobs(commit, unpause)
	})
	t.Run("after a restart", func(t *testing.T) {
		f, _ := gone(t)
		f.restart()
		isBusy(f)
	})
	t.Run("its Pod is being removed", func(t *testing.T) {
		f, job := gone(t)
		f.ends(f.runs(job), 137, "")
		held := podOf("demo")
		if err := f.host.Get(t.Context(), client.ObjectKeyFromObject(held), held); err != nil {
			t.Fatal(err)
		}
		held.Finalizers = []string{"example.com/x"}
		if err := errors.Join(f.host.Update(t.Context(), held), f.host.Delete(t.Context(), held)); err != nil {
			t.Fatal(err)
		}
		f.visits("demo-gen1")
		f.hasJobs(commit) // what is saved does not run on
	})
	t.Run("it has thawed by itself", func(t *testing.T) {
		f, job := gone(t)
		f.ends(f.runs(job), 1, lastWord)
		f.visits("demo-gen1")
		f.hasJobs()
	})
}
