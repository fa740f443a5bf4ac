//go:build e2e

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

package e2e

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"testing"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"

	"github.com/opensandbox-io/sandbox-apiserver/apis/lifecycle/v1alpha1"
)

// takeSnapshot asks for a snapshot of a sandbox, as a user does.
func (r *room) takeSnapshot(name, sandbox string) {
	r.t.Helper()
	if _, err := r.snapshots().Create(r.t.Context(), &v1alpha1.SandboxSnapshot{
		ObjectMeta: metav1.ObjectMeta{Name: name},
		Spec:       v1alpha1.SandboxSnapshotSpec{SandboxName: sandbox},
	}, metav1.CreateOptions{}); err != nil {
		r.t.Fatalf("create snapshot %s: %v", name, err)
	}
}

// awaitSnapshot waits until a snapshot is as wanted and returns it.
func (r *room) awaitSnapshot(name, what string, wanted func(*v1alpha1.SandboxSnapshot) bool) *v1alpha1.SandboxSnapshot {
	r.t.Helper()
	var snapshot *v1alpha1.SandboxSnapshot
	eventually(r.t, fmt.Sprintf("snapshot %s is %s", name, what), patience, func(ctx context.Context) (bool, string) {
		var err error
		if snapshot, err = r.snapshots().Get(ctx, name, metav1.GetOptions{}); err != nil {
			return false, err.Error()
		}
		return wanted(snapshot), describeSnapshot(snapshot)
	})
	return snapshot
}

// awaitSucceed waits for a snapshot to succeed, and fails at once where it fails.
func (r *room) awaitSucceed(name string) *v1alpha1.SandboxSnapshot {
	r.t.Helper()
	snapshot := r.awaitSnapshot(name, "Succeed", func(s *v1alpha1.SandboxSnapshot) bool {
		return s.Status.Phase == v1alpha1.SnapshotSucceed || s.Status.Phase == v1alpha1.SnapshotFailed
	})
	if snapshot.Status.Phase != v1alpha1.SnapshotSucceed {
		r.t.Fatalf("snapshot %s: %s", name, describeSnapshot(snapshot))
	}
	return snapshot
}

func (r *room) awaitSnapshotReason(name, condition, reason string) *v1alpha1.SandboxSnapshot {
	r.t.Helper()
	return r.awaitSnapshot(name, condition+" with reason "+reason, func(s *v1alpha1.SandboxSnapshot) bool {
		return reasonOf(s.Status.Conditions, condition) == reason
	})
}

func (r *room) awaitSnapshotGone(name string) {
	r.t.Helper()
	eventually(r.t, "snapshot "+name+" is gone", patience, func(ctx context.Context) (bool, string) {
		snapshot, err := r.snapshots().Get(ctx, name, metav1.GetOptions{})
		if err != nil {
			return apierrors.IsNotFound(err), err.Error()
		}
		return false, describeSnapshot(snapshot)
	})
}

func (r *room) deleteSnapshot(name string) {
	r.t.Helper()
	if err := r.snapshots().Delete(r.t.Context(), name, metav1.DeleteOptions{}); err != nil {
		r.t.Fatalf("delete snapshot %s: %v", name, err)
	}
}

func (r *room) deleteSandbox(name string) {
	r.t.Helper()
	if err := r.sandboxes().Delete(r.t.Context(), name, metav1.DeleteOptions{}); err != nil {
		r.t.Fatalf("delete sandbox %s: %v", name, err)
	}
	eventually(r.t, "sandbox "+name+" is gone", patience, func(ctx context.Context) (bool, string) {
		_, err := r.sandboxes().Get(ctx, name, metav1.GetOptions{})
		return apierrors.IsNotFound(err), fmt.Sprint(err)
	})
}

// describeSnapshot is the snapshot's state in one line.
func describeSnapshot(s *v1alpha1.SandboxSnapshot) string {
	line := fmt.Sprintf("phase %s, deleted %v", s.Status.Phase, s.DeletionTimestamp)
	for _, condition := range s.Status.Conditions {
		line += fmt.Sprintf("; %s=%s/%s: %s", condition.Type, condition.Status, condition.Reason, condition.Message)
	}
	return line
}

// restoring makes a sandbox start from a snapshot, with nothing else of its own.
func restoring(snapshot string) func(*v1alpha1.Sandbox) {
	return func(s *v1alpha1.Sandbox) {
		s.Spec.Template = nil
		s.Spec.RestoreFrom = &v1alpha1.SandboxRestoreSource{SnapshotName: snapshot}
	}
}

// commits names the snapshots for which there are Jobs.
func (r *room) commits() []string {
	r.t.Helper()
	jobs, err := r.jobs(r.t.Context())
	if err != nil {
		r.t.Fatal(err)
	}
	var names []string
	for _, job := range jobs {
		names = append(names, job.Annotations[v1alpha1.AnnotationSnapshot])
	}
	return names
}

func TestASnapshotOfARunningSandboxDoesNotStopIt(t *testing.T) {
	t.Parallel()
	r := newRoom(t)
	before := r.start("demo")
	r.sh("demo", bigFile)
	w := r.startWriter("demo")

	r.takeSnapshot("mine", "demo")
	r.awaitFrozen("demo/main")
	if now := r.get("demo"); now.Status.Phase != v1alpha1.SandboxRunning || now.Spec.DesiredState != v1alpha1.DesiredStateRunning {
		t.Errorf("while it is committed the sandbox is %s", describe(now))
	}
	snapshot := r.awaitSucceed("mine")
	r.mustNotBeFrozen()
	atEnd := w.acknowledged.Load()
	r.awaitWrites(w, 50) // the same process goes on
	if frozen := snapshot.Status.FrozenDuration; frozen == nil || frozen.Duration <= 0 || frozen.Duration > snapshot.Status.CompletionTime.Sub(snapshot.CreationTimestamp.Time)+1e9 {
		t.Errorf("frozenDuration is %v", frozen)
	}
	t.Logf("frozen for %s of %s", snapshot.Status.FrozenDuration.Duration, snapshot.Status.CompletionTime.Sub(snapshot.Status.StartTime.Time))
	if now := r.get("demo"); now.Status.PodUID != before.Status.PodUID || now.Status.SnapshotName != "" || now.Status.SnapshotAttempts != 0 {
		t.Errorf("after it was committed the sandbox is %s", describe(now))
	}
	if !meta.IsStatusConditionTrue(snapshot.Status.Conditions, v1alpha1.ConditionImageAvailable) || len(snapshot.OwnerReferences) != 0 {
		t.Errorf("the snapshot is %s, of %v", describeSnapshot(snapshot), snapshot.OwnerReferences)
	}
	r.mustBeInRegistry(snapshot.Status.Containers[0])

	// What it holds is what there was at the freeze, beside its source.
	r.start("copy", restoring("mine"))
	r.sh("copy", checkBigFile)
	if line := r.lastLine("copy"); line < 50 || line > atEnd+1 {
		t.Errorf("the copy's last line is %d, %d were acknowledged when the snapshot was ready", line, atEnd)
	}
	r.awaitWrites(w, 20)
	r.lastLine("demo")
}

func TestASnapshotOfAPausedSandboxCopiesNothing(t *testing.T) {
	t.Parallel()
	r := newRoom(t)
	r.start("demo")
	r.sh("demo", "echo kept > /root/file")
	r.pause("demo")
	_, paused := r.awaitPaused("demo")
	original := paused.Status.Containers[0]

	r.takeSnapshot("mine", "demo")
	mine := r.awaitSucceed("mine")
	twin := mine.Status.Containers[0]
	if slices.Contains(r.commits(), "mine") || mine.Status.JobUID != "" {
		t.Errorf("a Job has made it: %v", r.commits())
	}
	if twin.ImageDigest == original.ImageDigest || twin.ImageURI == original.ImageURI {
		t.Errorf("it shares its image with the pause's: %+v", twin)
	}
	if got, want := r.layers(twin), r.layers(original); !slices.Equal(got, want) {
		t.Errorf("its layers are %v, those of the pause %v", got, want)
	}

	// Its life is its own: neither the sandbox nor its pauses are needed any more.
	r.deleteSandbox("demo")
	r.awaitSnapshotGone("demo-gen1")
	r.mustNotBeInRegistry(original)
	r.start("demo", restoring("mine"))
	if got := r.sh("demo", "cat /root/file"); got != "kept\n" {
		t.Errorf("the file holds %q", got)
	}
}

func TestASnapshotDuringAPauseWaitsForItsEnd(t *testing.T) {
	t.Parallel()
	t.Run("the sandbox is paused", func(t *testing.T) {
		t.Parallel()
		r := newRoom(t)
		// A finalizer holds the Pod between its mark and its end for as long as the test needs.
		r.start("demo", func(s *v1alpha1.Sandbox) { s.Spec.Template.Finalizers = []string{holdPod} })
		r.sh("demo", "echo kept > /root/file")
		r.pause("demo")
		r.awaitReason("demo", v1alpha1.ConditionPaused, v1alpha1.ReasonRemovingPod)
		r.takeSnapshot("mine", "demo")
		r.awaitSnapshotReason("mine", v1alpha1.ConditionReady, v1alpha1.ReasonQueued)
		// The resume is faster than the snapshot's turn: it is what the pause saved all the same.
		r.takeSnapshot("late", "demo")
		r.awaitSnapshotReason("late", v1alpha1.ConditionReady, v1alpha1.ReasonQueued)
		r.resume("demo")
		if _, err := r.kube.CoreV1().Pods(r.namespace).Patch(t.Context(), "demo", types.MergePatchType, []byte(`{"metadata":{"finalizers":null}}`), metav1.PatchOptions{}); err != nil {
			t.Fatalf("let the Pod go: %v", err)
		}
		for _, name := range []string{"mine", "late"} {
			r.awaitSucceed(name)
		}
		for _, name := range r.commits() {
			if name == "mine" || name == "late" {
				t.Logf("snapshot %s was committed from the resumed Pod", name)
			}
		}
		r.awaitReady("demo")
		if _, err := r.kube.CoreV1().Pods(r.namespace).Patch(t.Context(), "demo", types.MergePatchType, []byte(`{"metadata":{"finalizers":null}}`), metav1.PatchOptions{}); err != nil {
			t.Fatalf("let the Pod go: %v", err)
		}
	})
	t.Run("the pause is cancelled", func(t *testing.T) {
		t.Parallel()
		r := newRoom(t)
		before := r.start("demo")
		r.sh("demo", bigFile)
		w := r.startWriter("demo")
		r.pause("demo")
		r.awaitFrozen("demo/main")
		release := r.holdCommit("demo-gen1")
		r.takeSnapshot("mine", "demo")
		r.awaitSnapshotReason("mine", v1alpha1.ConditionReady, v1alpha1.ReasonQueued)
		r.resume("demo")
		release()
		snapshot := r.awaitSucceed("mine")
		if snapshot.Status.SourcePodUID != before.Status.PodUID || snapshot.Status.JobUID == "" {
			t.Errorf("it was made of Pod %q by Job %q", snapshot.Status.SourcePodUID, snapshot.Status.JobUID)
		}
		r.awaitReady("demo")
		r.mustNotBeFrozen()
		r.awaitWrites(w, 50)
		r.lastLine("demo")
	})
}

func TestASnapshotOfWhatHasNoFilesSaysWhatToDo(t *testing.T) {
	t.Parallel()
	r := newRoom(t)
	r.create("homeless", nowhere)
	r.awaitReason("homeless", v1alpha1.ConditionReady, v1alpha1.ReasonPodUnschedulable)
	for name, test := range map[string]struct{ sandbox, reason, remedy string }{
		"of-none":    {"unknown", v1alpha1.ReasonSandboxNotFound, "create the snapshot where the sandbox is"},
		"of-pending": {"homeless", v1alpha1.ReasonSourcePodNotFound, "once it is Running"},
	} {
		r.takeSnapshot(name, test.sandbox)
		snapshot := r.awaitSnapshotReason(name, v1alpha1.ConditionFailed, test.reason)
		if message := messageOf(snapshot.Status.Conditions, v1alpha1.ConditionFailed); snapshot.Status.Phase != v1alpha1.SnapshotFailed || !strings.Contains(message, test.remedy) {
			t.Errorf("snapshot %s: %s", name, describeSnapshot(snapshot))
		}
	}
}
