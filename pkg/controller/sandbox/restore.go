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
	"strings"
	"time"

	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/opensandbox-io/sandbox-apiserver/apis/lifecycle/v1alpha1"
	"github.com/opensandbox-io/sandbox-apiserver/pkg/move"
)

// With spec.onExit Restore a container that has ended is a reason to move: the Pod is saved, the container as it has ended
// and what runs in its place not, and the sandbox comes back from that. One that goes on failing waits each time for as long
// as a Pod does that does not last.

// bringsBack says whether a container that ends is such a reason.
func (o *observed) bringsBack() bool {
	return o.canRescue && o.sandbox.Spec.OnExit == v1alpha1.ExitPolicyRestore && o.wants(v1alpha1.DesiredStateRunning)
}

// restorable says whether what a container has left is brought back: for a while only where another runs in its place, whose
// files go for it. After that it is rescued.
func (o *observed) restorable(left remains) bool {
	return o.bringsBack() && !o.settled(left) && (!left.replaced || o.now.Sub(left.at) < podLasts)
}

// toBringBack are the containers that have ended and whose files are wanted. What ended well and does not run again is done.
func (o *observed) toBringBack() []remains {
	return slices.DeleteFunc(remainsOf(o.pod, o.runs, o.keeps(), true), func(left remains) bool { return !o.restorable(left) })
}

// noteEnd has the status say that the Pod is to be brought back because a container of it has ended, or returns how
// long that waits; zero: there is nothing to wait for.
func (o *observed) noteEnd(next *nextStatus, view podView) time.Duration {
	if !o.bringsBack() || view.lost || next.Move != nil || o.pod.DeletionTimestamp != nil || o.pod.UID != o.sandbox.Status.PodUID {
		return 0
	}
	ended := o.toBringBack()
	if len(ended) == 0 {
		return 0
	}
	if left := o.retryIn(); left > 0 {
		return left
	}
	next.Move, _ = move.Next(o.sandbox, move.Request{PodUID: o.pod.UID, NodeName: o.pod.Spec.NodeName, Reason: v1alpha1.ReasonContainerEnded, Message: endsOf(ended)}, o.now)
	return 0
}

func endsOf(ended []remains) string {
	var all []string
	for _, left := range ended {
		words := "container " + left.container + " ended"
		if !left.at.IsZero() {
			words += " at " + left.at.UTC().Format(time.RFC3339)
		}
		all = append(all, words)
	}
	return strings.Join(all, ", ")
}

// restoresEnded says whether the attempt under way is to bring back what has ended.
func (o *observed) restoresEnded() bool {
	return o.moves() && o.sandbox.Status.Move.Reason == v1alpha1.ReasonContainerEnded
}

// attemptToMake is the attempt, with the containers that are committed as they have ended: also where the Pod is to go for
// another reason by now.
func (o *observed) attemptToMake() *v1alpha1.SandboxSnapshot {
	made := Attempt(o.sandbox)
	if !o.moves() || o.pod == nil {
		return made
	}
	var ended []v1alpha1.RescuedContainer
	for _, left := range o.toBringBack() {
		ended = append(ended, v1alpha1.RescuedContainer{ContainerName: left.container, ContainerID: left.id})
	}
	if len(ended) > 0 {
		made.Spec.Rescue = &v1alpha1.SnapshotRescue{SandboxUID: o.sandbox.UID, PodUID: o.sandbox.Status.PodUID, Containers: ended}
	}
	return made
}

// broughtBack takes back what was told of files that are in the attempt now. What was written after the container had ended
// is not, and that is told.
func (o *observed) broughtBack(next *nextStatus) {
	lost := meta.FindStatusCondition(next.Conditions, v1alpha1.ConditionDataLost)
	if lost == nil || lost.Status != metav1.ConditionTrue || lost.Reason != v1alpha1.ReasonFilesystemReset || o.attempt == nil || o.attempt.Spec.Rescue == nil {
		return
	}
	for _, r := range o.lastResets {
		covers := slices.Contains(o.attempt.Spec.Rescue.Containers, v1alpha1.RescuedContainer{ContainerName: r.container, ContainerID: r.before})
		if kept := o.keeps(); !covers && (len(kept) == 0 || slices.Contains(kept, r.container)) {
			return
		}
	}
	told, _, _ := strings.Cut(lost.Message, v1alpha1.MessageWrittenSince)
	next.set(v1alpha1.ConditionDataLost, false, v1alpha1.ReasonFilesSaved, "the sandbox comes back from snapshot %s, with the files as they were when the container ended; what was written after that is not there: %s",
		o.attempt.Name, told)
}

// notBroughtBack ends a move of which nothing can come any more: what the container had left is gone. The sandbox runs on.
func (o *observed) notBroughtBack(next *nextStatus, why metav1.Condition) action {
	next.Move, next.FailedAttempts = nil, 0
	next.Phase = v1alpha1.SandboxRunning
	o.showSame(next)
	next.set(v1alpha1.ConditionPaused, false, v1alpha1.ReasonRunning, "the sandbox is not paused")
	return o.write(next, &note{warning: true, reason: v1alpha1.EventRescueFailed,
		message: fmt.Sprintf("%s, and its files cannot be brought back (%s: %s): the sandbox runs on", o.sandbox.Status.Move.Message, why.Reason, why.Message)})
}
