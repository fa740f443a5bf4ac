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
	"k8s.io/utils/ptr"

	"github.com/opensandbox-io/sandbox-apiserver/apis/lifecycle/v1alpha1"
)

// imageRetry is how soon a resume asks again for an image that the registry does not have.
const imageRetry = 30 * time.Second

// starting brings the Pod up: the first one, or the one of a resume. The sandbox leaves this phase when a container of
// its template has run. Until then there is nothing to lose, so whatever is wanted otherwise is done at once.
func (o *observed) starting() action {
	next := o.next()
	switch {
	case o.pausedReason() == v1alpha1.ReasonRemovingPod:
		// A resume from elsewhere, whose Pod is not the one that is there.
		if o.pod != nil {
			return o.remove(nil)
		}
		next.forgetPod()
		next.set(v1alpha1.ConditionPaused, false, v1alpha1.ReasonResuming, "the Pod is coming back")
		return o.write(next, nil)
	case o.pod != nil:
		return o.begun(next)
	case next.PodUID != "" && o.seenToRun(), o.ranUnnoticed():
		return o.ranAfterAll(next)
	case o.restores():
		return o.restoring(next)
	case o.wants(v1alpha1.DesiredStatePaused):
		return o.takenBack(next)
	}
	return o.creating(next)
}

// begun goes on with the Pod that is there.
func (o *observed) begun(next *nextStatus) action {
	ran := o.hasRun()
	unseen := next.PodUID == "" || next.Phase == v1alpha1.SandboxResuming
	if unseen && o.pod.Annotations[v1alpha1.AnnotationRestoredFrom] != next.SnapshotName {
		// Left over from before, or from a resume that was asked to come from elsewhere since: its
		// files are not those that are wanted.
		return o.remove(ptr.To[int64](removalGrace))
	}
	view := o.view()
	if !ran {
		if act, is := o.unrun(next, view); is {
			return act
		}
	}
	if view.lost {
		return o.ended(next, view)
	}
	next.show(o.pod, view)
	if !ran {
		return o.write(next, nil)
	}
	next.Phase = v1alpha1.SandboxRunning
	next.PriorSnapshotName = ""
	moved := next.Move
	if moved != nil && moved.PodUID != o.pod.UID {
		next.Move = nil
	} else {
		moved = nil
	}
	next.set(v1alpha1.ConditionPaused, false, v1alpha1.ReasonRunning, "the sandbox is not paused")
	told := fmt.Sprintf("Pod %s runs on node %s", next.PodName, next.NodeName)
	if o.outdated() {
		return o.write(next, &note{warning: true, reason: v1alpha1.EventTemplateNotApplied,
			message: told + ". It had begun to run before what it is made of was changed, and may have files: the change comes with the next Pod; pause the sandbox and resume it"})
	}
	if moved != nil && moved.Reason == v1alpha1.ReasonContainerEnded {
		return o.write(next, &note{reason: v1alpha1.EventMoved, message: fmt.Sprintf("%s, from snapshot %s, with the files as they were when %s", told, next.SnapshotName, moved.Message)})
	}
	if moved != nil {
		return o.write(next, &note{reason: v1alpha1.EventMoved, message: fmt.Sprintf("%s. It has left node %s (%s)", told, moved.NodeName, whyMoves(moved))})
	}
	return o.write(next, &note{reason: v1alpha1.ReasonRunning, message: told})
}

// restores says whether a sandbox of which nothing has run is to start from another snapshot than it is known to.
func (o *observed) restores() bool {
	if o.phase() != v1alpha1.SandboxPending {
		return false // whatever it starts from, a resume has chosen it
	}
	name := ""
	if o.sandbox.Spec.RestoreFrom != nil {
		name = o.sandbox.Spec.RestoreFrom.SnapshotName
	}
	return o.sandbox.Status.SnapshotName != name
}

// restoring finds the snapshot that a new sandbox starts from.
func (o *observed) restoring(next *nextStatus) action {
	next.forgetPod()
	if next.SnapshotName != "" {
		next.SnapshotName = "" // another one is named now, or none
		return o.write(next, nil)
	}
	name := o.sandbox.Spec.RestoreFrom.SnapshotName
	switch {
	case o.from == nil:
		next.set(v1alpha1.ConditionReady, false, v1alpha1.ReasonSnapshotNotFound, "snapshot %s (spec.restoreFrom) does not exist: create it, name another one, or resume with fromTemplate", name)
	case o.from.Status.Phase == v1alpha1.SnapshotFailed:
		why := reasonOf(o.from)
		next.Phase = v1alpha1.SandboxFailed
		message := fmt.Sprintf("snapshot %s (spec.restoreFrom) has failed (%s: %s): name another one, or resume with fromTemplate", name, why.Reason, why.Message)
		next.set(v1alpha1.ConditionReady, false, v1alpha1.ReasonSnapshotNotReady, "%s", message)
		next.set(v1alpha1.ConditionPaused, false, v1alpha1.ReasonSnapshotNotReady, "%s", message)
		return o.write(next, &note{warning: true, reason: v1alpha1.ReasonSnapshotNotReady, message: message})
	case o.from.Status.Phase != v1alpha1.SnapshotSucceed:
		next.set(v1alpha1.ConditionReady, false, v1alpha1.ReasonSnapshotNotReady, "snapshot %s (spec.restoreFrom) is %s, not %s", name, o.from.Status.Phase, v1alpha1.SnapshotSucceed)
	case goes(o.from):
		next.set(v1alpha1.ConditionReady, false, v1alpha1.ReasonSnapshotNotFound, "snapshot %s (spec.restoreFrom) is being deleted: name another one, or resume with fromTemplate", name)
	case o.wants(v1alpha1.DesiredStatePaused):
		next.SnapshotName = name
		next.pausedOn(name)
	default:
		next.SnapshotName = name
		if said := o.readyReason(); said == v1alpha1.ReasonSnapshotNotFound || said == v1alpha1.ReasonSnapshotNotReady {
			next.set(v1alpha1.ConditionReady, false, v1alpha1.ReasonPending, "the Pod is being made from snapshot %s", name)
		}
	}
	return o.write(next, nil)
}

// goes says whether a snapshot is being deleted, and nobody has said that this waits for those who need it. Its
// images may go at any moment.
func goes(snapshot *v1alpha1.SandboxSnapshot) bool {
	ready := meta.FindStatusCondition(snapshot.Status.Conditions, v1alpha1.ConditionReady)
	return snapshot.DeletionTimestamp != nil && (ready == nil || ready.Reason != v1alpha1.ReasonInUse)
}

// takenBack ends a start of which nothing has run, where a pause is wanted: the sandbox is again what it was before.
func (o *observed) takenBack(next *nextStatus) action {
	next.forgetPod()
	switch {
	case next.PriorSnapshotName != "":
		next.SnapshotName, next.PriorSnapshotName = next.PriorSnapshotName, ""
		return o.write(next, nil)
	case next.SnapshotName == "":
		const message = "no container of the sandbox has ever run, so there are no files to save: it is not started for as long as desiredState is Paused; resume it, or change the template and resume it"
		next.Move = nil // there is nothing left to move
		next.set(v1alpha1.ConditionReady, false, v1alpha1.ReasonNeverRan, message)
		next.set(v1alpha1.ConditionPaused, false, v1alpha1.ReasonNeverRan, message)
		return o.write(next, nil)
	case !o.fromIsThere():
		return o.fromIsGone(next)
	}
	next.FailedAttempts = 0
	next.pausedOn(next.SnapshotName)
	event := &note{reason: v1alpha1.ReasonCanceled, message: fmt.Sprintf("the start was taken back before anything had run; the sandbox is paused on snapshot %s", next.SnapshotName)}
	if imagesMissing(o.from) {
		event = o.missImages(next)
	}
	return o.write(next, event)
}

func (o *observed) fromIsThere() bool {
	return o.from != nil && o.from.Status.Phase == v1alpha1.SnapshotSucceed
}

func (o *observed) fromIsGone(next *nextStatus) action {
	next.Phase = v1alpha1.SandboxFailed
	next.forgetPod()
	next.Move = nil
	message := fmt.Sprintf("snapshot %s, which the sandbox comes from, does not exist: resume it from another one (snapshotName) or from its template (fromTemplate)", next.SnapshotName)
	next.set(v1alpha1.ConditionReady, false, v1alpha1.ReasonSnapshotNotFound, "%s", message)
	return o.write(next, &note{warning: true, reason: v1alpha1.ReasonSnapshotNotFound, message: message})
}

// creating writes the Pod's name before it creates the Pod.
func (o *observed) creating(next *nextStatus) action {
	if next.SnapshotName != "" && !o.fromIsThere() {
		return o.fromIsGone(next)
	}
	told := o.podGone(next)
	if left := o.retryIn(); left > 0 && !o.named {
		next.forgetPod()
		waits := o.write(next, told)
		waits.after = left
		return waits
	}
	if o.from != nil && !o.checked {
		return action{do: checkImages}
	}
	if imagesMissing(o.from) {
		// A Pod would only hang in ImagePullBackOff. The snapshot's own events bring the next visit,
		// when somebody else sees the image first.
		next.forgetPod()
		again := o.write(next, o.missImages(next))
		again.after = imageRetry
		return again
	}
	if !o.named {
		next.countPod()
		next.PodName = o.sandbox.Name
		if before := meta.FindStatusCondition(next.Conditions, v1alpha1.ConditionReady); before != nil && before.Reason == v1alpha1.ReasonImageUnavailable {
			next.set(v1alpha1.ConditionReady, false, v1alpha1.ReasonPodPending, "the images of snapshot %s are there again, the Pod is being started", next.SnapshotName)
		}
		named := o.write(next, told)
		named.creates = true
		return named
	}
	return action{do: createPod}
}

// missImages says that a resume cannot have its images, and returns an event where that is news.
func (o *observed) missImages(next *nextStatus) *note {
	missing := meta.FindStatusCondition(o.from.Status.Conditions, v1alpha1.ConditionImageAvailable)
	next.set(v1alpha1.ConditionReady, false, v1alpha1.ReasonImageUnavailable, "snapshot %s: %s", o.from.Name, missing.Message)
	before := meta.FindStatusCondition(o.sandbox.Status.Conditions, v1alpha1.ConditionReady)
	if before != nil && before.Reason == v1alpha1.ReasonImageUnavailable {
		return nil
	}
	return &note{warning: true, reason: v1alpha1.ReasonImageUnavailable, message: fmt.Sprintf("snapshot %s: %s", o.from.Name, missing.Message)}
}

// imagesMissing says whether the registry is known not to have what the snapshot needs. That it could
// not be asked holds nobody up.
func imagesMissing(snapshot *v1alpha1.SandboxSnapshot) bool {
	return snapshot != nil && meta.IsStatusConditionFalse(snapshot.Status.Conditions, v1alpha1.ConditionImageAvailable)
}
