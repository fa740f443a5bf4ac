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

package integration

import (
	"context"
	"errors"
	"fmt"
	"testing"
	"time"

	batchv1 "k8s.io/api/batch/v1"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/controller-runtime/pkg/client/interceptor"

	"github.com/opensandbox-io/sandbox-apiserver/apis/lifecycle/v1alpha1"
)

// life is a process that ends at one of its writes: killed before the API has taken that, or before its answer is there.
type life struct {
	writes, ends int
	taken, over  bool
	// later is how far the clock has been put on.
	later time.Duration
}

// Now and Since are the clock of the process, and of the next.
func (l *life) Now() time.Time                     { return time.Now().Add(l.later) }
func (l *life) Since(then time.Time) time.Duration { return l.Now().Sub(then) }

var errKilled = errors.New("the process has been killed")

// write is one of the process.
func (l *life) write(do func() error) error {
	if l.writes++; l.writes != l.ends {
		return l.read(do)
	}
	if l.taken {
		_ = do()
	}
	l.over = true
	return errKilled
}

func (l *life) read(do func() error) error {
	if l.over {
		return errKilled
	}
	return do()
}

// of is a client of the process.
func (l *life) of(c client.WithWatch) client.Client {
	return interceptor.NewClient(c, interceptor.Funcs{
		Get: func(ctx context.Context, c client.WithWatch, key client.ObjectKey, o client.Object, options ...client.GetOption) error {
			return l.read(func() error { return c.Get(ctx, key, o, options...) })
		},
		List: func(ctx context.Context, c client.WithWatch, o client.ObjectList, options ...client.ListOption) error {
			return l.read(func() error { return c.List(ctx, o, options...) })
		},
		Create: func(ctx context.Context, c client.WithWatch, o client.Object, options ...client.CreateOption) error {
			return l.write(func() error { return c.Create(ctx, o, options...) })
		},
		Delete: func(ctx context.Context, c client.WithWatch, o client.Object, options ...client.DeleteOption) error {
			return l.write(func() error { return c.Delete(ctx, o, options...) })
		},
		Update: func(ctx context.Context, c client.WithWatch, o client.Object, options ...client.UpdateOption) error {
			return l.write(func() error { return c.Update(ctx, o, options...) })
		},
		Patch: func(ctx context.Context, c client.WithWatch, o client.Object, patch client.Patch, options ...client.PatchOption) error {
			return l.write(func() error { return c.Patch(ctx, o, patch, options...) })
		},
		SubResourceUpdate: func(ctx context.Context, c client.Client, of string, o client.Object, options ...client.SubResourceUpdateOption) error {
			return l.write(func() error { return c.SubResource(of).Update(ctx, o, options...) })
		},
		SubResourcePatch: func(ctx context.Context, c client.Client, of string, o client.Object, patch client.Patch, options ...client.SubResourcePatchOption) error {
			return l.write(func() error { return c.SubResource(of).Patch(ctx, o, patch, options...) })
		},
	})
}

// TestAServerThatDiesAtEachOfItsWrites has it killed at the first one of a start, a pause and a resume, at the second, and so
// on: each time the next process comes to the same end, by the same attempt, the same Job and one Pod.
func TestAServerThatDiesAtEachOfItsWrites(t *testing.T) {
	story := func(t *testing.T, its *life) {
		w := newWorkshop(newFixture(t))
		w.life, w.clock, w.commits = its, its, 100 // a process counts those of all namespaces
		w.begin(its.of(w.own), its.of(w.host))
		w.start("demo")
		w.pause("demo")
		w.committer("demo")
		w.is("demo", v1alpha1.SandboxPaused)
		w.wasOneAttempt("demo")
		_, err := w.sandboxes.Resume(t.Context(), "demo", &v1alpha1.SandboxResume{}, metav1.CreateOptions{})
		w.must(err)
		w.settle()
		w.kubelet("demo")
		w.is("demo", v1alpha1.SandboxRunning)
		w.wasOneAttempt("demo")
	}
	whole := &life{}
	t.Run("whole", func(t *testing.T) { story(t, whole) })
	if whole.writes < 10 {
		t.Fatalf("there are only %d writes", whole.writes)
	}
	for ends := range whole.writes {
		for name, taken := range map[string]bool{"before": false, "after": true} {
			t.Run(fmt.Sprintf("%s-%d", name, ends+1), func(t *testing.T) {
				t.Parallel()
				its := &life{ends: ends + 1, taken: taken}
				story(t, its)
				if !its.over {
					t.Errorf("it was not killed: there were %d writes", its.writes)
				}
			})
		}
	}
}

// wasOneAttempt checks that a sandbox has been paused once, by one Job, and has lost nothing.
func (w *workshop) wasOneAttempt(name string) {
	w.Helper()
	status := w.get(name).Status
	if status.SnapshotAttempts != 1 || status.SnapshotName != name+"-gen1" || status.FailedAttempts != 0 || reasonOf(w.get(name), v1alpha1.ConditionDataLost) != "" {
		w.Errorf("attempts %d, failed %d, snapshot %q, conditions %+v", status.SnapshotAttempts, status.FailedAttempts, status.SnapshotName, status.Conditions)
	}
	snapshots, err := w.snapshots.List(w.Context(), metav1.ListOptions{})
	w.must(err)
	if len(snapshots.Items) != 1 || snapshots.Items[0].Status.Phase != v1alpha1.SnapshotSucceed {
		w.Errorf("there are %d snapshots: %+v", len(snapshots.Items), snapshots.Items)
	}
	jobs, pods := &batchv1.JobList{}, &corev1.PodList{}
	w.must(w.host.List(w.Context(), jobs))
	if len(jobs.Items) != 1 {
		w.Errorf("there are %d Jobs", len(jobs.Items))
	}
	w.must(w.host.List(w.Context(), pods, client.InNamespace(w.namespace)))
	want := 1
	if status.Phase == v1alpha1.SandboxPaused {
		want = 0
	}
	if len(pods.Items) != want {
		w.Errorf("sandbox %s is %s, and there are %d Pods", name, status.Phase, len(pods.Items))
	}
}

// TestAJobThatWentWhileTheServerWasDown: five minutes after its end a Job is deleted, and the result with it. By then its node has
// thawed what the commit left frozen; the attempt fails, and the next one saves what was written since.
func TestAJobThatWentWhileTheServerWasDown(t *testing.T) {
	w := newWorkshop(newFixture(t))
	w.start("demo")
	w.pause("demo")
	job := w.onlyJob("commit")
	w.must(w.host.Delete(t.Context(), job))
	w.begin(w.own, w.host)
	w.settle()

	// Nobody knows any more whether it has thawed.
	unpause := w.onlyJob("unpause")
	pod := &corev1.Pod{ObjectMeta: metav1.ObjectMeta{
		Namespace: unpause.Namespace, Name: unpause.Name + "-x", Labels: unpause.Spec.Template.Labels,
		OwnerReferences: []metav1.OwnerReference{*metav1.NewControllerRef(unpause, batchv1.SchemeGroupVersion.WithKind("Job"))},
	}}
	w.must(w.host.Create(t.Context(), pod))
	pod.Status.Phase = corev1.PodSucceeded
	pod.Status.ContainerStatuses = []corev1.ContainerStatus{{Name: "image-committer", State: corev1.ContainerState{Terminated: &corev1.ContainerStateTerminated{Message: `{"thawed":true}`}}}}
	w.must(w.host.Status().Update(t.Context(), pod))
	w.settle()
	now := w.get("demo")
	if now.Status.Phase != v1alpha1.SandboxRunning || now.Status.FailedAttempts != 1 || now.Spec.DesiredState != v1alpha1.DesiredStatePaused {
		t.Errorf("after its Job was gone the sandbox is %s, failed %d, wanted %s: %+v", now.Status.Phase, now.Status.FailedAttempts, now.Spec.DesiredState, now.Status.Conditions)
	}
	w.must(w.host.Delete(t.Context(), unpause))
	w.must(w.host.Delete(t.Context(), pod))
	w.pause("demo")
	w.committer("demo")
	w.is("demo", v1alpha1.SandboxPaused)
	if now := w.get("demo").Status; now.SnapshotName != "demo-gen2" || now.FailedAttempts != 0 {
		t.Errorf("paused at last from %s, failed %d", now.SnapshotName, now.FailedAttempts)
	}
}

// onlyJob is the only one that there is of a component.
func (w *workshop) onlyJob(component string) *batchv1.Job {
	w.Helper()
	jobs := &batchv1.JobList{}
	w.must(w.host.List(w.Context(), jobs, client.MatchingLabels{v1alpha1.LabelComponent: component}))
	if len(jobs.Items) != 1 {
		w.Fatalf("there are %d Jobs to %s", len(jobs.Items), component)
	}
	return &jobs.Items[0]
}
