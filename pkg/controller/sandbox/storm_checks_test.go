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
	"strings"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/opensandbox-io/sandbox-apiserver/apis/lifecycle/v1alpha1"
	"github.com/opensandbox-io/sandbox-apiserver/pkg/controller/sandboxsnapshot"
)

// check is what holds at any time.
func (s *storm) check() {
	status := &s.stored.sandbox.Status
	ready := meta.IsStatusConditionTrue(status.Conditions, v1alpha1.ConditionReady)
	paused := meta.IsStatusConditionTrue(status.Conditions, v1alpha1.ConditionPaused)
	lost := meta.IsStatusConditionTrue(status.Conditions, v1alpha1.ConditionDataLost)
	switch {
	case s.frozen && s.stored.pod != nil && status.Phase != v1alpha1.SandboxPausing:
		s.fail("containers are frozen, and nothing is being committed")
	case paused && status.Phase != v1alpha1.SandboxPaused, !paused && status.Phase == v1alpha1.SandboxPaused && s.reason(v1alpha1.ConditionPaused) != v1alpha1.ReasonFilesLost:
		s.fail("the condition Paused and the phase disagree")
	case paused && status.PodName != "":
		s.fail("Paused, and has a Pod")
	case ready && status.Phase != v1alpha1.SandboxRunning && (status.Phase != v1alpha1.SandboxPausing || status.Move == nil):
		s.fail("Ready, and not Running")
	case ready && s.reason(v1alpha1.ConditionPaused) == v1alpha1.ReasonRemovingPod:
		s.fail("Ready, and its Pod is being removed")
	case status.Move != nil && (status.Phase == v1alpha1.SandboxPaused || status.Phase == v1alpha1.SandboxFailed):
		s.fail("is moved, and does not come back")
	case status.Phase == v1alpha1.SandboxRunning && status.PodUID == "":
		s.fail("Running without a Pod")
	case lost && s.told == 0 && s.losses == 0:
		s.fail("says that files are lost which nobody ever had")
	}
	if lost {
		s.told = s.losses
	}
	s.checkRescues()
}

// checkRescues: one at a time, a few in all, and what is told of one is true.
func (s *storm) checkRescues() {
	underWay, kept := 0, 0
	for name, snapshot := range s.stored.snapshots {
		if sandboxsnapshot.RescueOf(snapshot) == nil || snapshot.DeletionTimestamp != nil {
			continue
		}
		if !finished(snapshot) {
			underWay++
		} else if name != s.stored.sandbox.Status.SnapshotName && name != s.stored.sandbox.Status.PriorSnapshotName {
			kept++
		}
	}
	switch {
	case underWay > 1:
		s.fail("has %d rescues under way", underWay)
	case kept > keptRescues+keptFailedRescues+3: // the first, and one of each kind that ended since the last was created
		s.fail("keeps %d rescues", kept)
	}
	lost := meta.FindStatusCondition(s.stored.sandbox.Status.Conditions, v1alpha1.ConditionDataLost)
	if lost == nil || lost.Status != metav1.ConditionTrue {
		return
	}
	if _, told, is := strings.Cut(lost.Message, " is in snapshot "); is {
		if _, holds := s.content[strings.Split(told, ",")[0]]; !holds {
			s.fail("tells that files are in a snapshot that never had them: %s", lost.Message)
		}
	}
}

// What the controller does.

// makePod is the creation of the Pod.
func (s *storm) makePod(pod *corev1.Pod) {
	status := &s.stored.sandbox.Status
	switch {
	case status.PodName == "":
		s.fail("creates a Pod before its name is written")
	case s.now.Sub(s.made) < firstRetry && !s.asked:
		s.fail("makes a Pod %s after the last one", s.now.Sub(s.made))
	}
	from := pod.Annotations[v1alpha1.AnnotationRestoredFrom]
	s.base = s.content[from]
	if s.base < s.owed && !s.gaveUp && !meta.IsStatusConditionTrue(status.Conditions, v1alpha1.ConditionDataLost) {
		s.fail("the Pod comes back with %d of %d writes, and DataLost does not say so", s.base, s.owed)
	}
	s.made, s.asked, s.gaveUp, s.owed = s.now, false, false, s.base
	s.files, s.runs, s.known, s.frozen, s.killed = s.base, false, false, false, false
	pod.UID, pod.ResourceVersion = s.uid("pod"), s.version()
	pod.Status = corev1.PodStatus{Phase: corev1.PodPending}
	s.stored.pod = pod.DeepCopy()
	s.sees()
	s.note("  made of %q, %s", from, pod.Labels["fate"])
}

// controllerDeletes checks the deletion of a Pod by the controller.
func (s *storm) controllerDeletes(pod *corev1.Pod) {
	status := &s.stored.sandbox.Status
	shown := len(pod.Status.ContainerStatuses) > 0 && pod.Status.ContainerStatuses[0].State.Running != nil
	attempt := s.attempt()
	saved := attempt != nil && attempt.Status.Phase == v1alpha1.SnapshotSucceed && attempt.Status.SourcePodUID == pod.UID
	switch {
	case status.Phase == v1alpha1.SandboxPausing && !saved:
		s.fail("deletes a Pod that is not saved")
	case status.Phase == v1alpha1.SandboxPausing && s.reason(v1alpha1.ConditionPaused) != v1alpha1.ReasonRemovingPod:
		s.fail("deletes a Pod before it says so")
	case status.Phase == v1alpha1.SandboxPausing, pod.Status.Phase == corev1.PodFailed, s.gaveUp:
	case shown:
		s.fail("deletes a Pod with files")
	}
}
