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
	"time"

	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/opensandbox-io/sandbox-apiserver/apis/lifecycle/v1alpha1"
)

// lost goes on after a Pod that went away by itself, with whatever is saved; nil: the template.
func (o *observed) lost(next *nextStatus, saved *v1alpha1.SandboxSnapshot) action {
	if !o.mayHaveFiles() {
		return o.neverRan(next)
	}
	gone := fmt.Sprintf("Pod %s was lost%s", next.PodName, o.lastWords())
	next.podEnds()
	next.forgetPod()
	next.Move = nil // there is nothing left to move
	age := "there is no snapshot, all its files are gone"
	if saved != nil && next.SnapshotName != "" && saved.Status.CompletionTime != nil {
		age = fmt.Sprintf("it falls back on snapshot %s, made %s before", next.SnapshotName, o.now.Sub(saved.Status.CompletionTime.Time).Round(time.Second))
	} else if next.SnapshotName != "" {
		age = fmt.Sprintf("it falls back on snapshot %s", next.SnapshotName)
	}
	if before := meta.FindStatusCondition(next.Conditions, v1alpha1.ConditionDataLost); before != nil && before.Status == metav1.ConditionTrue {
		age += fmt.Sprintf("; this is not the first loss since the last pause: the first was seen at %s", before.LastTransitionTime.UTC().Format(time.RFC3339))
	}
	event := next.loseData(v1alpha1.ReasonPodLost, "%s: %s", gone, age)
	switch {
	case o.wants(v1alpha1.DesiredStateRunning) && (next.SnapshotName != "" || o.sandbox.Spec.RestoreFrom != nil):
		// One that once started from a snapshot and has none now was resumed from its template: it
		// comes back from there, not from what it gave up.
		next.resuming()
	case o.wants(v1alpha1.DesiredStateRunning):
		next.Phase = v1alpha1.SandboxPending
		next.set(v1alpha1.ConditionReady, false, v1alpha1.ReasonPending, "the Pod was lost and is created anew")
		next.set(v1alpha1.ConditionPaused, false, v1alpha1.ReasonRunning, "the sandbox is not paused")
	case next.SnapshotName != "":
		// It is as it was asked to be, and yet it has not what was to be saved.
		next.Phase = v1alpha1.SandboxFailed
		next.FailedAttempts = 0
		message := fmt.Sprintf("%s, before its files were saved: %s; another pause takes that for the state to keep, a resume starts from it", gone, age)
		next.set(v1alpha1.ConditionReady, false, v1alpha1.ReasonFilesLost, "%s", message)
		next.set(v1alpha1.ConditionPaused, false, v1alpha1.ReasonFilesLost, "%s", message)
	default:
		next.Phase = v1alpha1.SandboxFailed
		message := "the Pod was lost while it was being paused and there is no snapshot: resume with fromTemplate to start afresh, or delete the sandbox"
		next.set(v1alpha1.ConditionReady, false, v1alpha1.ReasonNoSnapshot, "%s", message)
		next.set(v1alpha1.ConditionPaused, false, v1alpha1.ReasonNoSnapshot, "%s", message)
	}
	o.awaitNext(next, gone)
	return o.write(next, event)
}

// awaitNext says why there is no Pod, and when there will be one, where that takes a while.
func (o *observed) awaitNext(next *nextStatus, gone string) {
	if starts := next.Phase == v1alpha1.SandboxPending || next.Phase == v1alpha1.SandboxResuming; starts && next.RetryTime != nil && next.RetryTime.After(o.now) {
		next.set(v1alpha1.ConditionReady, false, v1alpha1.ReasonPodLost, "%s; %s", gone, next.again())
	}
}

// neverRan goes on after a Pod of which no container ever ran whose files a pause keeps: nothing is lost with it.
func (o *observed) neverRan(next *nextStatus) action {
	gone := fmt.Sprintf("Pod %s went away before it ran%s", next.PodName, o.lastWords())
	next.podEnds()
	next.forgetPod()
	next.FailedAttempts = 0
	next.Move = nil
	switch {
	case o.wants(v1alpha1.DesiredStatePaused) && next.SnapshotName != "":
		next.pausedOn(next.SnapshotName)
	case next.SnapshotName != "" || o.sandbox.Spec.RestoreFrom != nil:
		next.resuming()
	default:
		next.Phase = v1alpha1.SandboxPending
		next.set(v1alpha1.ConditionReady, false, v1alpha1.ReasonPending, "the Pod went away before it ran and is created anew")
		next.set(v1alpha1.ConditionPaused, false, v1alpha1.ReasonRunning, "the sandbox is not paused")
	}
	o.awaitNext(next, gone)
	return o.write(next, nil)
}

// heldByLoss ends a pause that has seen files go, which were there when it was asked for: whoever asked is to
// know before what is left is called saved. It goes on when it is asked for again, by the verb or by
// another desiredState in between. event tells of the loss, nil where that was told before.
func (o *observed) heldByLoss(next *nextStatus, event *note) action {
	next.Phase = v1alpha1.SandboxRunning
	o.showSame(next)
	if lost := meta.FindStatusCondition(next.Conditions, v1alpha1.ConditionDataLost); lost != nil {
		next.set(v1alpha1.ConditionPaused, false, v1alpha1.ReasonFilesLost, "files were lost after the pause was asked for: %s; the sandbox runs on and is not paused by itself: "+
			"another pause, or desiredState Running and then Paused, saves what is there now", lost.Message)
	}
	return o.write(next, event)
}

// savedAfterLoss is heldByLoss for a sandbox whose Pod is gone: what was left is in the attempt's snapshot.
func (o *observed) savedAfterLoss(next *nextStatus, event *note) action {
	next.SnapshotName = o.attempt.Name
	next.forgetPod()
	next.Move = nil
	next.Phase = v1alpha1.SandboxFailed
	next.FailedAttempts = 0
	message := fmt.Sprintf("files were lost after the pause was asked for: %s; snapshot %s has what was there after that, and the Pod is gone: another pause takes that for the state to keep, a resume starts from it",
		event.message, next.SnapshotName)
	next.set(v1alpha1.ConditionReady, false, v1alpha1.ReasonFilesLost, "%s", message)
	next.set(v1alpha1.ConditionPaused, false, v1alpha1.ReasonFilesLost, "%s", message)
	return o.write(next, event)
}

// failed waits for a verb, unless what was missing has come back.
func (o *observed) failed() action {
	next := o.next()
	switch {
	case o.pod != nil && o.pod.DeletionTimestamp == nil && o.view().started:
		next.Phase = v1alpha1.SandboxRunning
		next.show(o.pod, o.view())
		next.set(v1alpha1.ConditionPaused, false, v1alpha1.ReasonRunning, "the sandbox is not paused")
	case o.wants(v1alpha1.DesiredStateRunning) && next.SnapshotName != "" && o.fromIsThere():
		next.resuming()
	case badSource(o.sandbox) && (o.from == nil || o.from.Status.Phase != v1alpha1.SnapshotFailed):
		// Another one is named now, or it was made anew.
		next.Phase = v1alpha1.SandboxPending
		next.set(v1alpha1.ConditionReady, false, v1alpha1.ReasonPending, "the sandbox is started from what it names now")
		next.set(v1alpha1.ConditionPaused, false, v1alpha1.ReasonPending, "the sandbox is started from what it names now")
	}
	return o.write(next, nil)
}

// badSource says whether the sandbox is Failed because of the snapshot that it was to start from.
func badSource(sandbox *v1alpha1.Sandbox) bool {
	ready := meta.FindStatusCondition(sandbox.Status.Conditions, v1alpha1.ConditionReady)
	return sandbox.Status.SnapshotName == "" && ready != nil && ready.Reason == v1alpha1.ReasonSnapshotNotReady
}
