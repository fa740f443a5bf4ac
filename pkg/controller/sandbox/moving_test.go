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
	"slices"
	"strings"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/opensandbox-io/sandbox-apiserver/apis/lifecycle/v1alpha1"
)

// moved: the Pod podUID is to go.
func moved(s *v1alpha1.Sandbox) { movedFor(v1alpha1.ReasonEvicted)(s) }

func movedFor(reason string) func(*v1alpha1.Sandbox) {
	return func(s *v1alpha1.Sandbox) {
		s.Status.Move = &v1alpha1.SandboxMove{PodUID: podUID, NodeName: "node-1", Reason: reason, Message: "somebody drains", RequestTime: metav1.NewMicroTime(epoch)}
	}
}

func notSaved(s *v1alpha1.Sandbox) { s.Spec.EvictionPolicy = v1alpha1.EvictionPolicyNone }

// letGo: that is said on the Pod by now.
func letGo(o *observed) { o.claimed = true }

// silentNode: nobody has heard of the Pod's node.
func silentNode(p *corev1.Pod) {
	p.Status.Conditions = []corev1.PodCondition{{Type: corev1.PodReady, Status: corev1.ConditionFalse, LastTransitionTime: metav1.Time{Time: epoch}}}
	p.Status.ContainerStatuses[0].Ready = true
}

// byTaint: the taint controller deletes the Pod.
func byTaint(p *corev1.Pod) {
	p.Status.Conditions = append(p.Status.Conditions, corev1.PodCondition{Type: corev1.DisruptionTarget, Status: corev1.ConditionTrue, Reason: "DeletionByTaintManager", Message: "Taint manager: deleting due to NoExecute taint"})
}

// diedAt: the kubelet has ended the Pod, whose container is dead since then.
func diedAt(at time.Time) func(*corev1.Pod) {
	return func(p *corev1.Pod) {
		evictedPod(p)
		p.Status.ContainerStatuses[0].State = corev1.ContainerState{Terminated: &corev1.ContainerStateTerminated{ExitCode: 137, Reason: "Error", StartedAt: metav1.Time{Time: epoch}, FinishedAt: metav1.Time{Time: at}, ContainerID: "containerd://c1"}}
	}
}

func TestDecideMoves(t *testing.T) {
	const (
		running  = v1alpha1.SandboxRunning
		pausing  = v1alpha1.SandboxPausing
		resuming = v1alpha1.SandboxResuming

		succeed    = v1alpha1.SnapshotSucceed
		committing = v1alpha1.SnapshotCommitting
		unfinished = v1alpha1.SnapshotPending
		broken     = v1alpha1.SnapshotFailed
	)
	moving := says(v1alpha1.ConditionPaused, metav1.ConditionFalse, v1alpha1.ReasonMoving)
	pauses := says(v1alpha1.ConditionPaused, metav1.ConditionFalse, v1alpha1.ReasonPausing)
	unheard := says(v1alpha1.ConditionReady, metav1.ConditionFalse, v1alpha1.ReasonFilesLost)
	tests := []decision{
		// The record leads to an attempt, as a pause does.
		{name: "running: the Pod is to go, and as long as its commit has not begun it is what it is",
			sees: observation(sandboxIn(running, onPod, moved), sees(podOf())),
			do:   writeStatus, status: "Pausing Ready=True/PodReady Paused=False/Moving move=Evicted pod=demo/pod-1 attempts=1", then: createSnapshot},
		{name: "running: a record of a Pod that is gone is dropped",
			sees: observation(sandboxIn(running, onPod, moved, func(s *v1alpha1.Sandbox) { s.Status.Move.PodUID = "pod-0" }), sees(podOf())),
			do:   writeStatus, status: "Running Ready=True/PodReady Paused=False/Running pod=demo/pod-1", then: wait},
		// https://github.com/kubevirt/kubevirt/issues/9585: there, whoever has begun an eviction cannot call it off.
		{name: "running: nobody wants it saved any more",
			sees: observation(sandboxIn(running, onPod, moved, notSaved), sees(podOf()), letGo),
			do:   writeStatus, status: "Running Ready=True/PodReady Paused=False/Running pod=demo/pod-1", then: wait, event: v1alpha1.EventMoveEnded},
		{name: "running: what has ended is restored by another policy",
			sees: observation(sandboxIn(running, onPod, movedFor(v1alpha1.ReasonContainerEnded), notSaved, func(s *v1alpha1.Sandbox) { s.Spec.OnExit = v1alpha1.ExitPolicyRestore }), sees(podOf(ended)), letGo),
			do:   writeStatus, status: "Pausing Ready=False/ContainersEnded Paused=False/Moving move=ContainerEnded pod=demo/pod-1 attempts=1", then: createSnapshot},
		{name: "running: an attempt of a move has failed, and the next waits",
			sees: observation(sandboxIn(running, onPod, moved, failedPause, attempts(1), failures(1), retries(10*time.Second)), sees(podOf()), sees(snapshotIn(broken)), after(4*time.Second)),
			do:   writeStatus, status: "Running Ready=True/PodReady Paused=False/RegistryUnavailable move=Evicted pod=demo/pod-1 attempts=1 failed=1", then: wait, after: 6 * time.Second},
		{name: "running: its time has come",
			sees: observation(sandboxIn(running, onPod, moved, failedPause, attempts(1), failures(1), retries(10*time.Second)), sees(podOf()), sees(snapshotIn(broken)), after(10*time.Second)),
			do:   writeStatus, status: "Pausing Ready=True/PodReady Paused=False/Moving move=Evicted pod=demo/pod-1 attempts=2 failed=1"},
		{name: "running: a pause waits for a person, and the Pod cannot",
			sees: observation(sandboxIn(running, wantsPaused, onPod, heldByLoss, tellsOf(restartedPod), moved, attempts(1)), sees(podOf(restartedPod))),
			do:   writeStatus, status: "Pausing Ready=False/FilesLost Paused=False/Pausing DataLost=True/FilesystemReset move=Evicted pod=demo/pod-1 attempts=2", then: createSnapshot},
		{name: "running: the Pod that is to go was lost",
			sees: observation(sandboxIn(running, onPod, moved, saved("demo-gen1")), comesFrom(snapshotIn(succeed))),
			do:   writeStatus, status: "Resuming Ready=False/Resuming Paused=False/Resuming DataLost=True/PodLost saved=demo-gen1", then: createPod, event: v1alpha1.ReasonPodLost},

		// Somebody deletes the Pod, and gives it time to end.
		{name: "deleted: what still runs is committed at once",
			sees: observation(sandboxIn(running, onPod), sees(podOf(runs, terminating(30)))),
			do:   writeStatus, status: "Pausing Ready=False/PodTerminating Paused=False/Moving move=PodTerminating pod=demo/pod-1 attempts=1", then: createSnapshot},
		{name: "deleted: because of a taint",
			sees: observation(sandboxIn(running, onPod), sees(podOf(runs, terminating(30), byTaint))),
			do:   writeStatus, status: "Pausing Ready=False/PodTerminating Paused=False/Moving move=NodeTainted pod=demo/pod-1 attempts=1", then: createSnapshot},
		{name: "deleted: nobody wants it saved",
			sees: observation(sandboxIn(running, onPod, notSaved), sees(podOf(runs, terminating(30))), letGo),
			do:   writeStatus, status: "Running Ready=False/PodTerminating Paused=False/Running pod=demo/pod-1", then: wait},
		{name: "deleted: nothing of it runs any more",
			sees: observation(sandboxIn(running, onPod), sees(podOf(terminating(30)))),
			do:   writeStatus, status: "Running Ready=False/PodTerminating Paused=False/Running pod=demo/pod-1", then: wait},
		{name: "deleted: its node is silent",
			sees: observation(sandboxIn(running, onPod), sees(podOf(runs, terminating(30), silentNode))),
			do:   writeStatus, status: "Running Ready=False/PodTerminating Paused=False/Running pod=demo/pod-1", then: wait},
		{name: "deleted: only what something else has put into it runs",
			sees: observation(sandboxIn(running, onPod), sees(podOf(otherRuns, terminating(30)))),
			do:   writeStatus, status: "Running Ready=False/PodTerminating Paused=False/Running pod=demo/pod-1", then: wait},
		{name: "deleted: while it is to be paused, which is tried at once",
			sees: observation(sandboxIn(running, wantsPaused, onPod), sees(podOf(runs, terminating(30)))),
			do:   writeStatus, status: "Pausing Ready=False/Pausing Paused=False/Pausing pod=demo/pod-1 attempts=1", then: createSnapshot},
		{name: "deleted: its time runs out, so the next attempt waits for less",
			sees: observation(sandboxIn(running, onPod, movedFor(v1alpha1.ReasonPodTerminating), failedPause, attempts(1), failures(5), retries(5*time.Minute)), sees(podOf(runs, terminating(30))), sees(snapshotIn(broken)), after(time.Second)),
			do:   writeStatus, status: "Running Ready=False/PodTerminating Paused=False/RegistryUnavailable move=PodTerminating pod=demo/pod-1 attempts=1 failed=5", then: wait, after: time.Second},
		{name: "deleted: its time is over, and it is still there",
			sees: observation(sandboxIn(running, onPod, movedFor(v1alpha1.ReasonPodTerminating), failedPause, attempts(1), failures(5), retries(2*time.Hour)), sees(podOf(runs, terminating(30))), sees(snapshotIn(broken)), after(119*time.Minute)),
			do:   writeStatus, status: "Running Ready=False/PodTerminating Paused=False/RegistryUnavailable move=PodTerminating pod=demo/pod-1 attempts=1 failed=5", after: time.Minute},

		// The kubelet has ended the Pod.
		{name: "evicted by the kubelet: its dead containers are committed",
			sees: observation(sandboxIn(running, onPod), sees(podOf(evictedPod))),
			do:   writeStatus, status: "Pausing Ready=False/PodLost Paused=False/Moving move=Evicted pod=demo/pod-1 attempts=1", then: createSnapshot},
		{name: "evicted by the kubelet: also where a pause is wanted",
			sees: observation(sandboxIn(running, wantsPaused, onPod), sees(podOf(evictedPod))),
			do:   writeStatus, status: "Pausing Ready=False/Pausing Paused=False/Pausing pod=demo/pod-1 attempts=1", then: createSnapshot},
		{name: "evicted by the kubelet: while a pause waits for a person, and nobody wants it saved",
			sees: observation(sandboxIn(running, wantsPaused, onPod, heldByLoss, lostDataBy, notSaved), sees(podOf(evictedPod)), letGo),
			do:   writeStatus, status: "Running Ready=False/PodLost Paused=False/FilesLost DataLost=True/PodLost pod=demo/pod-1", then: deletePod},
		{name: "evicted by the kubelet: they are gone, so the Pod is removed once that is written down",
			sees: observation(sandboxIn(running, onPod, moved, attempts(1), failures(1), retries(2*time.Second)), sees(podOf(diedAt(epoch))), sees(snapshotIn(broken, failedFor(v1alpha1.ReasonContainerNotFound))), after(time.Second)),
			do:   writeStatus, status: "Running Ready=False/PodLost move=Evicted pod=demo/pod-1 attempts=1 failed=1", then: deletePod},
		{name: "evicted by the kubelet: the registry had no answer, and they may be there still",
			sees: observation(sandboxIn(running, onPod, moved, failedPause, attempts(9), failures(9), retries(5*time.Minute)), sees(podOf(diedAt(epoch))), sees(snapshotIn(broken, named("demo-gen9"))), after(2*time.Second)),
			do:   writeStatus, status: "Pausing Ready=False/PodLost Paused=False/Moving move=Evicted pod=demo/pod-1 attempts=10 failed=9"},
		{name: "evicted by the kubelet: that takes too long",
			sees: observation(sandboxIn(running, onPod, moved, attempts(1), failures(1)), sees(podOf(diedAt(epoch))), sees(snapshotIn(broken)), after(deadPatience)),
			do:   writeStatus, status: "Running Ready=False/PodLost move=Evicted pod=demo/pod-1 attempts=1 failed=1", then: deletePod},
		{name: "evicted by the kubelet: before anything ran",
			sees: observation(sandboxIn(running, onPod), sees(podOf(notAdmitted)), sawNothingRun),
			do:   writeStatus, status: "Running Ready=False/PodNotAdmitted pod=demo/pod-1", then: deletePod, event: v1alpha1.ReasonPodNotAdmitted},

		// The attempt.
		{name: "moving: its commit waits for its turn, and the Pod goes on",
			sees: observation(sandboxIn(pausing, onPod, moved, moving, attempts(1)), sees(podOf()), sees(snapshotIn(unfinished, queuedSnapshot))),
			do:   writeStatus, status: "Pausing Ready=True/PodReady Paused=False/Queued move=Evicted pod=demo/pod-1 attempts=1", then: wait},
		{name: "moving: its commit has begun",
			sees: observation(sandboxIn(pausing, onPod, moved, queuedBy, attempts(1)), sees(podOf()), sees(snapshotIn(committing, begun)), after(time.Second)),
			do:   writeStatus, status: "Pausing Ready=False/Moving Paused=False/Moving move=Evicted pod=demo/pod-1 attempts=1", then: wait},
		{name: "moving: a pause was asked for, by an update",
			sees: observation(sandboxIn(pausing, wantsPaused, onPod, moved, moving, attempts(1)), sees(podOf()), sees(snapshotIn(committing))),
			do:   writeStatus, status: "Pausing Ready=False/Pausing Paused=False/Pausing move=Evicted pod=demo/pod-1 attempts=1", then: wait},
		{name: "moving: the pause is taken back, by an update",
			sees: observation(sandboxIn(pausing, onPod, moved, pauses, attempts(1)), sees(podOf()), sees(snapshotIn(committing))),
			do:   writeStatus, status: "Pausing Paused=False/Moving move=Evicted pod=demo/pod-1 attempts=1", then: wait},
		{name: "moving: nobody wants it saved any more",
			sees: observation(sandboxIn(pausing, onPod, moved, moving, notSaved, attempts(1)), sees(podOf()), sees(snapshotIn(committing)), letGo),
			do:   writeStatus, status: "Pausing Ready=False/Canceling Paused=False/Canceling move=Evicted pod=demo/pod-1 attempts=1", then: wait},
		{name: "moving: the attempt has failed",
			sees: observation(sandboxIn(pausing, onPod, moved, moving, attempts(1)), sees(podOf()), sees(snapshotIn(broken)), after(0)),
			do:   writeStatus, status: "Running Ready=True/PodReady Paused=False/RegistryUnavailable move=Evicted pod=demo/pod-1 attempts=1 failed=1", then: wait, event: v1alpha1.EventMoveRetry},
		{name: "moving: a restart in place is told of, and does not stop it",
			sees: observation(sandboxIn(pausing, onPod, moved, moving, attempts(1)), sees(podOf(restartedPod))),
			do:   writeStatus, status: "Pausing Paused=False/Moving DataLost=True/FilesystemReset move=Evicted pod=demo/pod-1 attempts=1", then: createSnapshot, event: v1alpha1.ReasonFilesystemReset},
		{name: "moving: also one that is seen last",
			sees: observation(sandboxIn(pausing, onPod, moved, moving, attempts(1)), sees(podOf(restartedPod)), sees(snapshotIn(succeed, savedAs("c1-1"))), fresh),
			do:   writeStatus, status: "Pausing Paused=False/Moving DataLost=True/FilesystemReset move=Evicted pod=demo/pod-1 attempts=1", then: deletePod, event: v1alpha1.ReasonFilesystemReset},
		{name: "moving: all is saved, which is the point of no return",
			sees: observation(sandboxIn(pausing, onPod, moved, moving, attempts(1)), sees(podOf()), sees(snapshotIn(succeed)), fresh),
			do:   writeStatus, status: "Pausing Ready=False/Moving Paused=False/RemovingPod move=Evicted pod=demo/pod-1 saved=demo-gen1 attempts=1", then: deletePod},
		{name: "moving: all is saved, and the Pod is on its way out by others",
			sees: observation(sandboxIn(pausing, onPod, moved, moving, attempts(1)), sees(podOf(runs, terminating(30))), sees(snapshotIn(succeed, mainSaved)), fresh),
			do:   writeStatus, status: "Pausing Ready=False/Moving Paused=False/RemovingPod move=Evicted pod=demo/pod-1 saved=demo-gen1 attempts=1", then: kill},
		{name: "moving: its node has thawed it before anybody came, so it is saved once more",
			sees: observation(sandboxIn(pausing, onPod, moved, moving, attempts(1)), sees(podOf()), sees(snapshotIn(succeed)), thawed, func(o *observed) { o.staying, o.stayFault = ranOn, "nobody came" }, after(0)),
			do:   writeStatus, status: "Running Ready=True/PodReady Paused=False/ThawedUnattended move=Evicted pod=demo/pod-1 saved=demo-gen1 attempts=1 failed=1", then: wait, event: v1alpha1.EventMoveRetry},
		{name: "moving: the Pod is gone after all was saved, and nothing is lost",
			sees: observation(sandboxIn(pausing, onPod, moved, moving, attempts(1)), sees(snapshotIn(succeed)), comesFrom(snapshotIn(succeed))),
			do:   writeStatus, status: "Resuming Ready=False/Resuming Paused=False/Resuming move=Evicted/pod-1 saved=demo-gen1 attempts=1", then: createPod, event: v1alpha1.ReasonFilesSaved},
		{name: "moving: the Pod is gone, what was lost before is still lost",
			sees: observation(sandboxIn(pausing, onPod, moved, removing, lostDataBy, saved("demo-gen1"), attempts(1)), sees(snapshotIn(succeed)), comesFrom(snapshotIn(succeed))),
			do:   writeStatus, status: "Resuming Ready=False/Resuming Paused=False/Resuming DataLost=True/PodLost move=Evicted/pod-1 saved=demo-gen1 attempts=1", then: createPod, event: v1alpha1.ReasonFilesSaved},
		{name: "moving: the Pod is gone before it was saved",
			sees: observation(sandboxIn(pausing, onPod, moved, moving, saved("demo-gen1"), attempts(1)), sees(snapshotIn(broken)), comesFrom(snapshotIn(succeed))),
			do:   writeStatus, status: "Resuming Ready=False/Resuming Paused=False/Resuming DataLost=True/PodLost saved=demo-gen1 attempts=1", then: createPod, event: v1alpha1.ReasonPodLost},
		{name: "moving: a pause that was asked for before files were lost does not end as one",
			sees: observation(sandboxIn(pausing, wantsPaused, onPod, moved, removing, unheard, tellsOf(restartedPod), saved("demo-gen1"), attempts(1)), sees(snapshotIn(succeed))),
			do:   writeStatus, status: "Failed Ready=False/FilesLost Paused=False/FilesLost DataLost=True/FilesystemReset saved=demo-gen1 attempts=1", then: wait, event: v1alpha1.ReasonFilesLost},
		{name: "moving: files go while a pause is wanted, and the attempt fails: that is kept in mind for the next",
			sees: observation(sandboxIn(pausing, wantsPaused, onPod, moved, pauses, attempts(1)), sees(podOf(restartedPod)), sees(snapshotIn(broken))),
			do:   writeStatus, status: "Running Ready=True/PodReady Paused=False/FilesLost DataLost=True/FilesystemReset move=Evicted pod=demo/pod-1 attempts=1 failed=1", then: wait, event: v1alpha1.ReasonFilesystemReset},
		{name: "moving: another attempt fails, and it is kept in mind still",
			sees: observation(sandboxIn(pausing, wantsPaused, onPod, moved, pauses, unheard, tellsOf(restartedPod), attempts(1)), sees(podOf(restartedPod)), sees(snapshotIn(broken))),
			do:   writeStatus, status: "Running Ready=True/PodReady Paused=False/FilesLost DataLost=True/FilesystemReset move=Evicted pod=demo/pod-1 attempts=1 failed=1", then: wait, event: v1alpha1.EventPauseRetry},
		{name: "moving: a pause that was asked for is one",
			sees: observation(sandboxIn(pausing, wantsPaused, onPod, moved, removing, saved("demo-gen1"), attempts(1)), sees(snapshotIn(succeed))),
			do:   writeStatus, status: "Paused Ready=False/Paused Paused=True/Paused saved=demo-gen1 attempts=1", then: wait, event: v1alpha1.ReasonPaused},
		{name: "moving: a resume that cancelled a pause is over, and the move begins",
			sees: observation(sandboxIn(pausing, onPod, moved, canceling, attempts(1)), sees(podOf()), sees(snapshotIn(broken))),
			do:   writeStatus, status: "Running Ready=True/PodReady Paused=False/Running move=Evicted pod=demo/pod-1 attempts=1", event: v1alpha1.ReasonCanceled},

		// And back.
		{name: "canceling: the Pod is deleted by others meanwhile, so what runs is saved all the same",
			sees: observation(sandboxIn(pausing, onPod, canceling, attempts(1)), sees(podOf(runs, terminating(30))), sees(snapshotIn(committing))),
			do:   writeStatus, status: "Pausing Paused=False/Moving move=PodTerminating pod=demo/pod-1 attempts=1"},
		{name: "canceling: the Pod has ended, and all of it is saved",
			sees: observation(sandboxIn(pausing, onPod, canceling, attempts(1)), sees(podOf(ended, terminating(30))), sees(snapshotIn(succeed))),
			do:   writeStatus, status: "Pausing Paused=False/Moving move=PodTerminating pod=demo/pod-1 attempts=1"},
		{name: "canceling: nobody wants the Pod saved that others end, and what was saved of it is the newest that there is",
			sees: observation(sandboxIn(pausing, onPod, canceling, thawing, attempts(1), notSaved), sees(podOf(runs, terminating(30))), sees(snapshotIn(succeed)), thawed),
			do:   writeStatus, status: "Running Ready=False/PodTerminating Paused=False/Running pod=demo/pod-1 saved=demo-gen1 attempts=1", event: v1alpha1.ReasonCanceled},
		{name: "moved: a container of the next Pod has run",
			sees: observation(sandboxIn(resuming, onPod, moved, saved("demo-gen1"), func(s *v1alpha1.Sandbox) { s.Status.PodUID = "pod-2" }), sees(podOf(replaced, restored("demo-gen1")))),
			do:   writeStatus, status: "Running Ready=True/PodReady Paused=False/Running pod=demo/pod-2 saved=demo-gen1", then: wait, event: v1alpha1.EventMoved},
		{name: "moved: a pause is wanted before anything has run",
			sees: observation(sandboxIn(resuming, wantsPaused, moved, saved("demo-gen1")), comesFrom(snapshotIn(succeed))),
			do:   writeStatus, status: "Paused Ready=False/Paused Paused=True/Paused saved=demo-gen1", then: wait, event: v1alpha1.ReasonCanceled},
		// https://github.com/kubernetes/kubernetes/issues/89067: there, what is evicted is made anew again and again, at once.
		{name: "moved: Pods that do not last are made after longer and longer waits, though each was moved",
			sees: observation(sandboxIn(pausing, onPod, moved, removing, saved("demo-gen1"), attempts(1), retries(20*time.Second), failedPods(1)), sees(snapshotIn(succeed)), comesFrom(snapshotIn(succeed)), after(5*time.Second)),
			do:   writeStatus, status: "Resuming Ready=False/Resuming Paused=False/Resuming move=Evicted/pod-1 saved=demo-gen1 attempts=1 failedPods=1", then: wait, event: v1alpha1.ReasonFilesSaved},
	}
	for _, test := range tests {
		t.Run(test.name, test.holds)
	}
}

func TestAMoveThatFailsSaysWhatToDo(t *testing.T) {
	got := decide(observation(sandboxIn(v1alpha1.SandboxPausing, onPod, moved, attempts(1)), sees(podOf()), sees(snapshotIn(v1alpha1.SnapshotFailed)), after(0)))
	paused := meta.FindStatusCondition(got.status.Conditions, v1alpha1.ConditionPaused)
	for _, part := range []string{"Pod demo is to go (Evicted: somebody drains)", "it does not answer", "the next attempt follows in 10s", "spec.evictionPolicy None"} {
		if !strings.Contains(paused.Message, part) {
			t.Errorf("%q does not say %q", paused.Message, part)
		}
	}
}

func TestTheNextPodLeavesItsNode(t *testing.T) {
	snapshot := snapshotIn(v1alpha1.SnapshotSucceed)
	for reason, want := range map[string]corev1.NodeSelectorOperator{
		"":                              corev1.NodeSelectorOpIn,
		v1alpha1.ReasonEvicted:          corev1.NodeSelectorOpNotIn,
		v1alpha1.ReasonNodeDraining:     corev1.NodeSelectorOpNotIn,
		v1alpha1.ReasonNodeTainted:      corev1.NodeSelectorOpNotIn,
		v1alpha1.ReasonNodeDeleted:      corev1.NodeSelectorOpNotIn,
		v1alpha1.ReasonNodeShutdown:     corev1.NodeSelectorOpNotIn,
		v1alpha1.ReasonPodTerminating:   corev1.NodeSelectorOpIn, // nothing is wrong with it
		v1alpha1.ReasonContainerEnded:   corev1.NodeSelectorOpIn,
		"SomethingOfANewerVersionThere": corev1.NodeSelectorOpIn,
	} {
		sandbox := sandboxIn(v1alpha1.SandboxResuming)
		if reason != "" {
			movedFor(reason)(sandbox)
		}
		pod, err := newPod(sandbox, snapshot, "")
		if err != nil {
			t.Fatal(err)
		}
		terms := pod.Spec.Affinity.NodeAffinity.PreferredDuringSchedulingIgnoredDuringExecution
		if len(terms) != 1 || terms[0].Preference.MatchFields[0].Operator != want || !slices.Equal(terms[0].Preference.MatchFields[0].Values, []string{"node-1"}) ||
			pod.Spec.Affinity.NodeAffinity.RequiredDuringSchedulingIgnoredDuringExecution != nil {
			t.Errorf("%q: %+v", reason, pod.Spec.Affinity.NodeAffinity)
		}
	}
}
