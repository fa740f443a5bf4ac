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
	"context"
	"strings"

	batchv1 "k8s.io/api/batch/v1"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"

	"github.com/opensandbox-io/sandbox-apiserver/apis/lifecycle/v1alpha1"
	"github.com/opensandbox-io/sandbox-apiserver/pkg/controller/commitjob"
	"github.com/opensandbox-io/sandbox-apiserver/pkg/controller/sandboxsnapshot"
)

// CheckForResume asks the registry.
func (s *storm) CheckForResume(_ context.Context, snapshot *v1alpha1.SandboxSnapshot) {
	s.askRegistry(snapshot.Name)
}

func (s *storm) askRegistry(name string) {
	if s.stored.snapshots[name] == nil {
		return
	}
	says := inRegistry
	switch {
	case s.chance(4):
		says = notInRegistry
	case s.chance(3):
		says = registryUnknown
	}
	s.changeSnapshot(name, says)
}

// Thaw is the unpause Job.
func (s *storm) Thaw(_ context.Context, attempt *v1alpha1.SandboxSnapshot) (bool, string, error) {
	switch {
	case s.crashed:
		return false, "", errCrash
	case s.chance(3):
		return false, "its Job runs", nil
	}
	s.thaw(attempt)
	return true, "", nil
}

// Standby is there until it has killed.
func (s *storm) OfPod(context.Context, types.UID) ([]batchv1.Job, error) { return nil, nil }

func (s *storm) Standby(context.Context, *v1alpha1.SandboxSnapshot) (commitjob.Outcome, error) {
	switch {
	case s.crashed:
		return commitjob.Outcome{}, errCrash
	case s.chance(6):
		return commitjob.Outcome{State: commitjob.Failed, Message: "it is gone"}, nil
	case s.killed:
		return commitjob.Outcome{State: commitjob.Succeeded}, nil
	}
	return commitjob.Outcome{State: commitjob.Active}, nil
}

// Kill is the exec.
func (s *storm) Kill(context.Context, *v1alpha1.SandboxSnapshot) commitjob.Outcome {
	if s.stored.pod != nil && s.stored.pod.DeletionTimestamp == nil {
		s.fail("has the containers of a Pod killed that stays")
	}
	if s.chance(4) {
		return commitjob.Outcome{State: commitjob.Failed, Message: "no answer"}
	}
	s.killed = true
	return commitjob.Outcome{State: commitjob.Succeeded}
}

// StaysFrozen: who has begun the commit, or has claimed it, knows.
func (s *storm) StaysFrozen(*v1alpha1.SandboxSnapshot) bool { return s.claimed }

// Claim is an exec, too.
func (s *storm) Claim(context.Context, *v1alpha1.SandboxSnapshot) commitjob.Outcome {
	if s.chance(4) {
		return commitjob.Outcome{State: commitjob.Failed, Message: "no answer"}
	}
	s.claimed = true
	return commitjob.Outcome{State: commitjob.Succeeded}
}

// What nodes do.

func (s *storm) node() {
	pod := s.stored.pod
	if pod == nil {
		return
	}
	if pod.DeletionTimestamp != nil {
		switch grace := *pod.DeletionGracePeriodSeconds; {
		case s.frozen && !s.killed && grace > removalGrace && !s.chance(10) && !s.calm:
		case s.runs && pod.Status.Phase != corev1.PodFailed && pod.Status.Phase != corev1.PodSucceeded:
			// What it says last: its containers have ended.
			s.changePod(func(p *corev1.Pod) {
				p.Status.Phase, p.Status.Conditions = corev1.PodFailed, nil
				s.mainStatus(p).State = corev1.ContainerState{Terminated: &corev1.ContainerStateTerminated{
					Reason: "Error", ExitCode: 137, StartedAt: metav1.Time{Time: s.made}, FinishedAt: metav1.Time{Time: s.now}, ContainerID: "containerd://" + string(p.UID),
				}}
			})
		default:
			s.removePod()
		}
		return
	}
	if s.runs {
		if pod.Status.Phase == corev1.PodPending {
			s.tellRuns()
		}
		return
	}
	waits := func(reason string) func(*corev1.Pod) {
		return func(p *corev1.Pod) {
			p.Spec.NodeName = "node-1"
			s.mainStatus(p).State = corev1.ContainerState{Waiting: &corev1.ContainerStateWaiting{Reason: reason}}
		}
	}
	switch pod.Labels["fate"] {
	case "huge":
		s.changePod(func(p *corev1.Pod) {
			p.Status.Conditions = []corev1.PodCondition{{Type: corev1.PodScheduled, Status: corev1.ConditionFalse, Message: "0/1 nodes"}}
		})
	case "typo":
		s.changePod(waits("ImagePullBackOff"))
	case "stuck":
		s.changePod(waits("ContainerCreating"))
	case "command":
		s.changePod(func(p *corev1.Pod) {
			p.Spec.NodeName, p.Status.Phase = "node-1", corev1.PodRunning
			s.mainStatus(p)
			cannotStart(p)
		})
	case "full":
		s.changePod(func(p *corev1.Pod) {
			p.Spec.NodeName, p.Status = "node-1", corev1.PodStatus{Phase: corev1.PodFailed, Reason: "OutOfcpu", Message: "no room"}
		})
	default:
		if from := s.stored.snapshots[pod.Annotations[v1alpha1.AnnotationRestoredFrom]]; from != nil && imagesMissing(from) && !s.calm {
			s.changePod(waits("ImagePullBackOff"))
			return
		}
		s.runs = true
		s.note("node: Pod %s runs", pod.UID)
		if !s.chance(3) {
			s.tellRuns()
		}
	}
}

// tellRuns is the status of a Pod that runs.
func (s *storm) tellRuns() {
	s.changePod(func(p *corev1.Pod) {
		p.Spec.NodeName, p.Status.Phase = "node-1", corev1.PodRunning
		p.Status.Conditions = []corev1.PodCondition{{Type: corev1.PodReady, Status: corev1.ConditionTrue}}
		main := s.mainStatus(p)
		main.ContainerID = "containerd://" + string(p.UID)
		main.State = corev1.ContainerState{Running: &corev1.ContainerStateRunning{}}
	})
}

func (s *storm) mainStatus(p *corev1.Pod) *corev1.ContainerStatus {
	if len(p.Status.ContainerStatuses) == 0 {
		p.Status.ContainerStatuses = []corev1.ContainerStatus{{Name: "main"}}
	}
	return &p.Status.ContainerStatuses[0]
}

func (s *storm) write() {
	if s.mayWrite() {
		s.files++
	}
}

// mayWrite says whether processes run in the Pod.
func (s *storm) mayWrite() bool {
	return s.stored.pod != nil && s.runs && !s.frozen && !s.killed && s.stored.pod.Status.Phase != corev1.PodFailed
}

func (s *storm) removePod() {
	pod := s.stored.pod
	attempt := s.attempt()
	saved := attempt != nil && attempt.Status.Phase == v1alpha1.SnapshotSucceed && attempt.Status.SourcePodUID == pod.UID && s.content[attempt.Name] == s.files
	if s.runs && !saved || s.mayWrite() {
		s.losses++ // what was thawed after its commit may have written since, for all that anybody knows
	}
	s.owed = max(s.owed, s.files)
	if attempt != nil && attempt.Spec.Rescue != nil && attempt.Status.Phase == v1alpha1.SnapshotSucceed && s.reason(v1alpha1.ConditionPaused) == v1alpha1.ReasonRemovingPod {
		s.owed = s.content[attempt.Name] // what was written after the container had ended is given up
	}
	if !s.known && s.runs {
		s.owed = s.base // its node never told of it, or told nobody
	}
	s.stored.pod, s.frozen, s.dead = nil, false, ""
	s.note("node: Pod %s is gone, saved: %t", pod.UID, saved)
}

// commit is the snapshot controller's work, and the committer's.
func (s *storm) commit() {
	for name, snapshot := range s.stored.snapshots {
		if snapshot.DeletionTimestamp != nil && s.stored.sandbox.Status.SnapshotName != name && s.stored.sandbox.Status.PriorSnapshotName != name {
			s.letGo(name)
		}
	}
	s.commitRescue()
	attempt := s.attempt()
	if attempt == nil || attempt.DeletionTimestamp != nil || finished(attempt) {
		return
	}
	pod, status := s.stored.pod, &s.stored.sandbox.Status
	there := pod != nil && pod.UID == attempt.Spec.Pause.PodUID
	switch {
	case status.Phase != v1alpha1.SandboxPausing || s.reason(v1alpha1.ConditionPaused) == v1alpha1.ReasonCanceling:
		s.endCommit(attempt.Name, v1alpha1.ReasonCanceled)
	case !there || s.chance(5):
		s.endCommit(attempt.Name, v1alpha1.ReasonCommitJobFailed)
	case attempt.Status.Phase != v1alpha1.SnapshotCommitting:
		s.changeSnapshot(attempt.Name, func(a *v1alpha1.SandboxSnapshot) {
			a.Status.Phase, a.Status.SandboxUID, a.Status.SourcePodUID = v1alpha1.SnapshotCommitting, s.stored.sandbox.UID, pod.UID
		})
	case !s.runs, attempt.Spec.Rescue != nil && attempt.Spec.Rescue.Containers[0].ContainerID != s.dead:
		s.endCommit(attempt.Name, v1alpha1.ReasonContainerNotFound)
	case attempt.Spec.Rescue != nil:
		s.content[attempt.Name] = s.deadFiles
		s.changeSnapshot(attempt.Name, func(a *v1alpha1.SandboxSnapshot) {
			a.Status.Phase, a.Status.CompletionTime = v1alpha1.SnapshotSucceed, &metav1.Time{Time: s.now}
			a.Status.Containers = []v1alpha1.ContainerSnapshot{{ContainerName: "main", ContainerID: s.dead, ImageURI: "r/a:t", ImageDigest: "sha256:" + strings.Repeat("a", 64)}}
		})
		s.note("snapshot: %s holds %d writes of %s, which has ended", attempt.Name, s.deadFiles, s.dead)
	case pod.Status.Phase == corev1.PodRunning && !s.frozen:
		s.frozen, s.killed, s.claimed = true, false, true
	default:
		s.content[attempt.Name] = s.files
		s.changeSnapshot(attempt.Name, func(a *v1alpha1.SandboxSnapshot) {
			a.Status.Phase, a.Status.CompletionTime = v1alpha1.SnapshotSucceed, &metav1.Time{Time: s.now}
			a.Status.Containers = []v1alpha1.ContainerSnapshot{{ContainerName: "main", ContainerID: bareID(s.mainStatus(pod.DeepCopy()).ContainerID), ImageURI: "r/a:t", ImageDigest: "sha256:" + strings.Repeat("a", 64)}}
		})
		s.note("snapshot: %s holds %d writes", attempt.Name, s.files)
	}
}

// commitRescue commits what a container has left that has ended, where it is still there.
func (s *storm) commitRescue() {
	for name, snapshot := range s.stored.snapshots {
		of := sandboxsnapshot.RescueOf(snapshot)
		if of == nil || finished(snapshot) || snapshot.DeletionTimestamp != nil {
			continue
		}
		switch {
		case s.stored.pod == nil || s.stored.pod.UID != of.PodUID || of.Containers[0].ContainerID != s.dead:
			s.endCommit(name, v1alpha1.ReasonContainerNotFound)
		case s.chance(3):
			s.endCommit(name, v1alpha1.ReasonRegistryUnavailable)
		case snapshot.Status.Phase != v1alpha1.SnapshotCommitting:
			s.changeSnapshot(name, func(r *v1alpha1.SandboxSnapshot) { r.Status.Phase = v1alpha1.SnapshotCommitting })
		default:
			s.content[name] = s.deadFiles
			s.changeSnapshot(name, func(r *v1alpha1.SandboxSnapshot) {
				r.Status.Phase, r.Status.CompletionTime = v1alpha1.SnapshotSucceed, &metav1.Time{Time: s.now}
				r.Status.SandboxUID, r.Status.SourcePodUID = of.SandboxUID, of.PodUID
				r.Status.Containers = []v1alpha1.ContainerSnapshot{{ContainerName: "main", ContainerID: s.dead, ImageURI: "r/a:t", ImageDigest: "sha256:" + strings.Repeat("a", 64)}}
			})
			s.note("snapshot: %s holds %d writes of %s", name, s.deadFiles, s.dead)
		}
	}
}

func (s *storm) endCommit(name, reason string) {
	if sandboxsnapshot.RescueOf(s.stored.snapshots[name]) == nil {
		s.thaw(s.stored.snapshots[name])
	}
	s.changeSnapshot(name, func(a *v1alpha1.SandboxSnapshot) {
		a.Status.Phase, a.Status.CompletionTime = v1alpha1.SnapshotFailed, &metav1.Time{Time: s.now}
		meta.SetStatusCondition(&a.Status.Conditions, metav1.Condition{Type: v1alpha1.ConditionFailed, Status: metav1.ConditionTrue, Reason: reason, Message: "it failed"})
	})
	s.note("snapshot: %s failed: %s", name, reason)
}

func (s *storm) letGo(name string) {
	snapshot := s.stored.snapshots[name]
	if !finished(snapshot) {
		s.endCommit(name, v1alpha1.ReasonCanceled)
		return
	}
	if s.stored.sandbox.Status.Phase == v1alpha1.SandboxPausing && sandboxsnapshot.IsAttemptOf(snapshot, s.stored.sandbox) {
		s.thaw(snapshot)
	}
	delete(s.stored.snapshots, name)
	s.note("snapshot: %s is gone", name)
}

func (s *storm) thaw(snapshot *v1alpha1.SandboxSnapshot) {
	if s.stored.pod != nil && s.stored.pod.UID == snapshot.Status.SourcePodUID && !s.killed {
		s.frozen = false
	}
}

func (s *storm) sweep() { s.askRegistry(s.stored.sandbox.Status.SnapshotName) }

// What people do.
