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
	"fmt"
	"slices"
	"time"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/meta"

	"github.com/opensandbox-io/sandbox-apiserver/apis/lifecycle/contents"
	"github.com/opensandbox-io/sandbox-apiserver/apis/lifecycle/v1alpha1"
	"github.com/opensandbox-io/sandbox-apiserver/pkg/move"
)

// A move is a pause and a resume that nobody has asked for: the Pod is to go, so its files are saved, it is removed, and
// the sandbox comes back from them, elsewhere where its node is to be left. status.move is all that says so, by the
// Pod's UID, and goes when a container of the next Pod has run.

// leaves says whether the Pod that the status tells of is to go, and its files are to be saved before, whatever is
// wanted of the sandbox.
func (o *observed) leaves() bool { return leaves(o.sandbox, o.sandbox.Status.Move) }

func leaves(sandbox *v1alpha1.Sandbox, record *v1alpha1.SandboxMove) bool {
	return record != nil && record.PodUID == sandbox.Status.PodUID && move.Wanted(sandbox, record.Reason)
}

// moves says whether the sandbox comes back by itself once its Pod is gone.
func (o *observed) moves() bool { return o.leaves() && o.wants(v1alpha1.DesiredStateRunning) }

// noteMove has the status say whether the Pod that is there is to go: because somebody has deleted it, or its kubelet has
// ended it. It returns an event where a record is withdrawn.
func (o *observed) noteMove(next *nextStatus, view podView) *note {
	switch record := next.Move; {
	case record != nil && record.PodUID != o.pod.UID:
		next.Move = nil // of a Pod that is gone
	case record != nil && !move.Wanted(o.sandbox, record.Reason):
		next.Move = nil
		return &note{reason: v1alpha1.EventMoveEnded, message: fmt.Sprintf("Pod %s is to go (%s), and its files are not saved before: the sandbox's policy is another one by now", o.pod.Name, whyMoves(record))}
	case record == nil && o.endsUnsaved(view) && move.Wanted(o.sandbox, v1alpha1.ReasonPodTerminating):
		message := view.message
		if why := disruption(o.pod); why != "" && !view.lost && o.pod.DeletionTimestamp == nil {
			message = "the Pod is to end: " + why
		}
		next.Move, _ = move.Next(o.sandbox, move.Request{PodUID: o.pod.UID, NodeName: o.pod.Spec.NodeName, Reason: endReason(o.pod), Message: message}, o.now)
	}
	return nil
}

// movesInstead has a pause that is taken back save the files all the same, where others end the Pod meanwhile: it does not run
// on, whatever is cancelled. What may be thawed by now has more than the attempt.
func (o *observed) movesInstead(next *nextStatus) bool {
	if o.pod == nil || next.Move != nil || !o.wants(v1alpha1.DesiredStateRunning) || o.attempt != nil && o.mayBeThawed() {
		return false
	}
	view := o.view()
	o.noteMove(next, view)
	if next.Move == nil && (view.lost || o.pod.DeletionTimestamp != nil) && o.hasSaved() && move.Wanted(o.sandbox, v1alpha1.ReasonPodTerminating) {
		// Alive or not, all of it is saved.
		next.Move, _ = move.Next(o.sandbox, move.Request{PodUID: o.pod.UID, NodeName: o.pod.Spec.NodeName, Reason: endReason(o.pod), Message: view.message}, o.now)
	}
	return leaves(o.sandbox, next.Move)
}

// hasSaved says whether the attempt has the files of the Pod that is there.
func (o *observed) hasSaved() bool {
	return o.attemptIsOurs() && o.attempt.Status.Phase == v1alpha1.SnapshotSucceed && o.attempt.DeletionTimestamp == nil && o.attempt.Status.SourcePodUID == o.pod.UID
}

// endsUnsaved says whether the Pod is ended by others, and has files that a commit may still reach.
func (o *observed) endsUnsaved(view podView) bool {
	if o.wants(v1alpha1.DesiredStatePaused) && o.pausedReason() != v1alpha1.ReasonFilesLost {
		return false // a pause saves them
	}
	return (view.lost || disruption(o.pod) != "") && o.seenToRun() && o.pod.DeletionTimestamp == nil || o.pod.DeletionTimestamp != nil && o.endsAlive()
}

// endsAlive says whether a container runs whose files are kept, of a Pod that is being deleted. What has ended its kubelet
// clears away with it; of a node that is silent nothing can be had.
func (o *observed) endsAlive() bool {
	kept := o.keeps()
	return silent(o.pod) == "" && slices.ContainsFunc(contents.Statuses(o.pod), func(status *corev1.ContainerStatus) bool {
		return status.State.Running != nil && (len(kept) == 0 || slices.Contains(kept, status.Name))
	})
}

// endReason is why others end the Pod, as a move says it.
// https://github.com/kubernetes/kubernetes/blob/v1.37.0/pkg/kubelet/nodeshutdown/nodeshutdown_manager.go (NodeShutdownNotAdmittedReason, nodeShutdownReason)
func endReason(pod *corev1.Pod) string {
	switch pod.Status.Reason {
	case "Evicted", "Preempting":
		return v1alpha1.ReasonEvicted
	case "Terminated", "NodeShutdown", "Shutdown":
		return v1alpha1.ReasonNodeShutdown
	}
	for _, condition := range pod.Status.Conditions {
		if condition.Type != corev1.DisruptionTarget || condition.Status != corev1.ConditionTrue {
			continue
		}
		switch condition.Reason {
		case "DeletionByTaintManager":
			return v1alpha1.ReasonNodeTainted
		case "EvictionByEvictionAPI", corev1.PodReasonPreemptionByScheduler, corev1.PodReasonTerminationByKubelet:
			return v1alpha1.ReasonEvicted
		}
	}
	return v1alpha1.ReasonPodTerminating
}

// savesDead says whether the files of a Pod that its kubelet has ended are still to be committed, from its dead containers:
// the kubelet clears those away within a minute or so.
func (o *observed) savesDead(next *nextStatus) bool {
	pauses := o.wants(v1alpha1.DesiredStatePaused) && o.pausedReason() != v1alpha1.ReasonFilesLost
	if o.pod.DeletionTimestamp != nil || !leaves(o.sandbox, next.Move) && !pauses || !o.seenToRun() {
		return false
	}
	if next.FailedAttempts == 0 || !o.attemptIsOurs() || o.attempt.Status.Phase != v1alpha1.SnapshotFailed || o.attempt.Status.SourcePodUID != o.pod.UID {
		return next.FailedAttempts < deadAttempts
	}
	if ended := lastEnd(o.pod); !ended.IsZero() {
		return !inVain[reasonOf(o.attempt).Reason] && o.now.Before(ended.Add(deadPatience))
	}
	return !inVain[reasonOf(o.attempt).Reason] && next.FailedAttempts < deadAttempts
}

const (
	// deadPatience is for how long it is tried to commit dead containers, deadAttempts how often where it is not known since
	// when they are.
	deadPatience = 2 * time.Minute
	deadAttempts = 4
)

// lastEnd is when the last container has ended that the Pod tells of.
func lastEnd(pod *corev1.Pod) time.Time {
	var last time.Time
	for _, status := range contents.Statuses(pod) {
		if ended := status.State.Terminated; ended != nil && ended.FinishedAt.After(last) {
			last = ended.FinishedAt.Time
		}
	}
	return last
}

// inVain are the reasons for which another attempt to commit what has ended fails as well.
var inVain = map[string]bool{
	v1alpha1.ReasonContainerNotFound: true, v1alpha1.ReasonContainerRestarted: true,
	v1alpha1.ReasonSourcePodNotFound: true, v1alpha1.ReasonSourcePodReplaced: true, v1alpha1.ReasonSourceNodeLost: true,
	v1alpha1.ReasonFilesNotSupported: true, v1alpha1.ReasonImageNameInvalid: true,
	v1alpha1.ReasonNoContainers: true, v1alpha1.ReasonRuntimeNotSupported: true, v1alpha1.ReasonRegistryNotConfigured: true,
}

// showAttempt says what an attempt is for that has just begun, or is for something else now.
func (o *observed) showAttempt(next *nextStatus) {
	if !leaves(o.sandbox, next.Move) || !o.wants(v1alpha1.DesiredStateRunning) {
		o.showSaving(next)
		next.set(v1alpha1.ConditionPaused, false, v1alpha1.ReasonPausing, "attempt %d commits the root filesystems", next.SnapshotAttempts)
		return
	}
	next.set(v1alpha1.ConditionPaused, false, v1alpha1.ReasonMoving, "attempt %d commits the root filesystems, for Pod %s is to go (%s)", next.SnapshotAttempts, next.PodName, whyMoves(next.Move))
}

// showSaving says that the sandbox is not there for anybody. Until its commit begins a sandbox that moves is as its Pod is.
func (o *observed) showSaving(next *nextStatus) {
	switch {
	case o.readyReason() == v1alpha1.ReasonFilesLost && o.wants(v1alpha1.DesiredStatePaused): // see lostOnTheWay
	case leaves(o.sandbox, next.Move) && o.wants(v1alpha1.DesiredStateRunning):
		next.set(v1alpha1.ConditionReady, false, v1alpha1.ReasonMoving, "the files are being saved and the sandbox comes back from them, for Pod %s is to go (%s)", next.PodName, whyMoves(next.Move))
	default:
		next.set(v1alpha1.ConditionReady, false, v1alpha1.ReasonPausing, "the sandbox is being paused")
	}
}

// showMoving is what a sandbox that moves shows while its attempt is under way.
func (o *observed) showMoving(next *nextStatus) {
	if o.attempt.Status.Phase == v1alpha1.SnapshotCommitting {
		o.showSaving(next)
	} else if o.pod != nil {
		o.showSame(next)
	}
}

// attemptIsForAnother says whether what is wanted of the attempt has changed: a pause was asked for while the Pod was to be
// moved, or taken back.
func (o *observed) attemptIsForAnother() bool {
	switch o.pausedReason() {
	case v1alpha1.ReasonMoving:
		return !o.moves()
	case v1alpha1.ReasonPausing:
		return o.moves()
	}
	return false
}

// lostOnTheWay tells of a loss in a Pod that is to go. It cannot run on until somebody has heard of that, so what is left is
// saved. Where a pause was asked for before, the sandbox does not call that paused: the reason of Ready keeps it in mind.
func (o *observed) lostOnTheWay(next *nextStatus, reset *note) action {
	if o.wants(v1alpha1.DesiredStatePaused) {
		o.keepInMind(next)
	}
	return o.write(next, reset)
}

func (o *observed) keepInMind(next *nextStatus) {
	next.set(v1alpha1.ConditionReady, false, v1alpha1.ReasonFilesLost, "files were lost after the pause was asked for; Pod %s is to go, so what is left is being saved", o.pod.Name)
}

// hasInMind is the loss of which lostOnTheWay has told, nil where there is none, or somebody has asked for a pause since.
func (o *observed) hasInMind() *note {
	lost := meta.FindStatusCondition(o.sandbox.Status.Conditions, v1alpha1.ConditionDataLost)
	if lost == nil || !o.wants(v1alpha1.DesiredStatePaused) || o.readyReason() != v1alpha1.ReasonFilesLost {
		return nil
	}
	return &note{warning: true, reason: v1alpha1.ReasonFilesLost, message: lost.Message}
}

// hurriedWait is how long an attempt waits after one that has failed, where the files are soon out of reach.
const hurriedWait = 2 * time.Second

// hurries says whether they are: the Pod's time to end runs out, or its containers are dead.
func (o *observed) hurries(view podView) bool {
	return view.lost || o.pod.DeletionTimestamp != nil && o.now.Before(o.pod.DeletionTimestamp.Time)
}

// attemptIn is how long the next attempt waits, where one has failed.
func (o *observed) attemptIn(view podView) time.Duration {
	left := o.retryIn()
	if o.attempt != nil && o.attempt.Status.CompletionTime != nil && o.hurries(view) {
		left = min(left, o.attempt.Status.CompletionTime.Add(hurriedWait).Sub(o.now))
	}
	return left
}

// attemptReason is what Paused says of an attempt that has not come to anything yet.
func (o *observed) attemptReason() string {
	if o.moves() {
		return v1alpha1.ReasonMoving
	}
	return v1alpha1.ReasonPausing
}

// whyMoves is why the Pod is to go, in brackets.
func whyMoves(record *v1alpha1.SandboxMove) string {
	if record.Message == "" {
		return record.Reason
	}
	return record.Reason + ": " + record.Message
}

// leavesNode are the reasons for which the next Pod is better made on another node.
var leavesNode = map[string]bool{
	v1alpha1.ReasonEvicted: true, v1alpha1.ReasonNodeDraining: true, v1alpha1.ReasonNodeTainted: true,
	v1alpha1.ReasonNodeDeleted: true, v1alpha1.ReasonNodeShutdown: true,
}
