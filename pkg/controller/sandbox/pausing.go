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
	"cmp"
	"fmt"
	"slices"
	"time"

	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/opensandbox-io/sandbox-apiserver/apis/lifecycle/v1alpha1"
)

// queuedLag is how long a sandbox goes on saying that its commit waits. Most commits are over by
// then, and the sandbox says what came of it: a write less, which everybody who watches it sees.
const queuedLag = 5 * time.Second

func (o *observed) pausing() action {
	next := o.next()
	if o.pausedReason() == v1alpha1.ReasonRemovingPod {
		switch {
		case o.pod != nil:
			return o.lingering(o.removing(next))
		case o.staying == ranOn:
			// Neither its node nor we came to kill it, for longer than it may be frozen.
			return o.lost(next, o.attempt)
		}
		return o.finishPause(next)
	}

	if o.movesInstead(next) {
		o.showAttempt(next)
		return o.write(next, nil)
	}
	canceling := o.pausedReason() == v1alpha1.ReasonCanceling
	switch {
	case !canceling && o.wants(v1alpha1.DesiredStateRunning) && !o.leaves():
		// By an update of desiredState: what the resume verb writes by itself. Or nobody wants the Pod moved any more.
		next.set(v1alpha1.ConditionReady, false, v1alpha1.ReasonCanceling, "the pause is being cancelled")
		next.set(v1alpha1.ConditionPaused, false, v1alpha1.ReasonCanceling, "the pause is being cancelled")
		return o.write(next, nil)
	case o.attemptIsForAnother():
		o.showAttempt(next)
		return o.write(next, nil)
	}
	switch {
	case !o.attemptIsOurs() && canceling && o.pod != nil && o.astray != "":
		return o.awaitsStray(next)
	case o.attempt == nil && canceling:
		return o.canceled(next)
	case o.attempt == nil && o.pod == nil:
		return o.lost(next, o.from)
	case o.pausedReason() == v1alpha1.ReasonFilesLost && o.pod != nil && !o.attemptIsOurs():
		// Somebody has deleted what was to be undone, which has thawed it.
		return o.heldByLoss(next, nil)
	case o.attempt == nil:
		if reset := o.noticeReset(next, o.resets()); reset != nil {
			if o.leaves() {
				return o.lostOnTheWay(next, reset)
			}
			return o.heldByLoss(next, reset)
		}
		if o.attemptHeld > 0 {
			next.set(v1alpha1.ConditionPaused, false, o.attemptReason(), "somebody has deleted the snapshot of attempt %d before it was made; it is created once more after a while", next.SnapshotAttempts)
			waits := o.write(next, nil)
			waits.after = o.attemptHeld
			return waits
		}
		return action{do: createSnapshot}
	case !o.attemptIsOurs() && canceling:
		return o.canceled(next)
	case !o.attemptIsOurs():
		next.SnapshotAttempts = max(next.SnapshotAttempts, o.highest) + 1
		return o.write(next, nil)
	}

	switch o.attempt.Status.Phase {
	case v1alpha1.SnapshotSucceed:
		return o.committed(next, canceling)
	case v1alpha1.SnapshotFailed:
		if canceling {
			return o.canceled(next)
		}
		if o.pod == nil {
			return o.lost(next, o.from)
		}
		return o.attemptFailed(next, reasonOf(o.attempt))
	}
	ready := meta.FindStatusCondition(o.attempt.Status.Conditions, v1alpha1.ConditionReady)
	switch {
	case canceling && ready != nil && ready.Reason == v1alpha1.ReasonThawing:
		next.set(v1alpha1.ConditionPaused, false, v1alpha1.ReasonCanceling, "the pause is being cancelled: %s", ready.Message)
	case canceling:
		return action{do: wait}
	case ready != nil && holdsUp(ready.Reason):
		next.set(v1alpha1.ConditionPaused, false, ready.Reason, "%s", ready.Message)
	case holdsUp(o.pausedReason()):
		if left := o.queuedStays(); left > 0 && !o.moves() {
			return action{do: wait, after: left}
		}
		o.showAttempt(next)
	case !o.moves():
		return action{do: wait}
	}
	if o.moves() {
		o.showMoving(next)
	}
	return o.write(next, nil)
}

// holdsUp is whether a commit that is wanted does not run for that reason.
func holdsUp(reason string) bool {
	return reason == v1alpha1.ReasonQueued || reason == v1alpha1.ReasonCommitPodRejected || reason == v1alpha1.ReasonHeldUp || reason == v1alpha1.ReasonThawing
}

// queuedStays is how long the sandbox may still say that it waits after its commit has begun.
func (o *observed) queuedStays() time.Duration {
	if o.attempt.Status.StartTime == nil {
		return 0
	}
	return o.attempt.Status.StartTime.Add(queuedLag).Sub(o.now)
}

// committed goes on after a successful commit: the containers are frozen, and will be until
// the Pod is removed or the pause is cancelled.
func (o *observed) committed(next *nextStatus, canceling bool) action {
	// A loss was seen too late to stop the commit, so it is undone like one that is cancelled.
	undone := o.pausedReason() == v1alpha1.ReasonFilesLost
	switch {
	case o.attempt.DeletionTimestamp != nil && !canceling && !undone:
		// Somebody deletes what was just made. When it is gone, the attempt is made again; the
		// containers are frozen until then.
		return action{do: wait}
	case o.pod == nil && (undone || canceling && o.mayBeThawed() || o.staying == ranOn || o.staying == unknown):
		// It may have run on for a while.
		next.SnapshotName = o.attempt.Name
		return o.lost(next, o.attempt)
	case o.pod == nil:
		// Gone before it was removed, and after everything was saved that was left.
		kept := slices.DeleteFunc(slices.Clone(o.lastResets), func(r reset) bool { return len(o.keeps()) > 0 && !slices.Contains(o.keeps(), r.container) })
		if reset := o.noticeReset(next, beforeCommit(kept, o.attempt)); reset != nil && !o.moves() {
			return o.savedAfterLoss(next, reset)
		} else if reset != nil {
			return o.write(next, reset)
		}
		return o.finishPause(next)
	case canceling && !o.mayBeThawed():
		// Written down before it is: should the Pod be lost after that, what it wrote since the commit is lost with it.
		next.set(v1alpha1.ConditionReady, false, v1alpha1.ReasonThawing, "the pause is being cancelled, and what attempt %d froze is being thawed", next.SnapshotAttempts)
		return o.write(next, nil)
	case (canceling || undone) && !o.thawed:
		return o.thaws(next)
	case canceling:
		return o.canceled(next)
	case undone:
		next.FailedAttempts++
		return o.heldByLoss(next, nil)
	case o.pod.UID != o.attempt.Status.SourcePodUID:
		return o.attemptFailed(next, metav1.Condition{Reason: v1alpha1.ReasonSourcePodReplaced, Message: fmt.Sprintf("Pod %s is not the one that was committed", o.pod.Name)})
	}
	if first, sure := o.secured(next); !sure {
		return first
	}
	if !o.fresh {
		return action{do: readPod}
	}
	// The last look at this Pod: what was committed may have been the fresh root filesystem of a
	// container that was restarted after the pause was asked for.
	if reset := o.noticeReset(next, beforeCommit(o.resets(), o.attempt)); reset != nil {
		if o.leaves() {
			return o.lostOnTheWay(next, reset)
		}
		// Written down before anything is thawed: from then on the Pod has more than the snapshot.
		next.set(v1alpha1.ConditionPaused, false, v1alpha1.ReasonFilesLost, "files were lost after the pause was asked for; what attempt %d froze is being thawed", next.SnapshotAttempts)
		return o.write(next, reset)
	}
	next.SnapshotName = o.attempt.Name
	o.showSaving(next)
	next.set(v1alpha1.ConditionPaused, false, v1alpha1.ReasonRemovingPod, "snapshot %s is ready, Pod %s is being removed", o.attempt.Name, o.pod.Name)
	return o.write(next, nil)
}

// thaws has what is frozen thawed, and tells what that waits for.
func (o *observed) thaws(next *nextStatus) action {
	if o.thawWaits == "" {
		return action{do: thaw}
	}
	next.set(v1alpha1.ConditionReady, false, o.readyReason(), "what attempt %d froze is being thawed, which waits: %s", next.SnapshotAttempts, o.thawWaits)
	return sooner(o.write(next, nil), backstop)
}

// mayBeThawed says whether anybody has set about thawing what the attempt of a cancelled pause has frozen: the
// sandbox, which says so before it does, or the end of a snapshot that somebody deletes.
func (o *observed) mayBeThawed() bool {
	return o.readyReason() == v1alpha1.ReasonThawing || o.attempt.DeletionTimestamp != nil
}

func (o *observed) finishPause(next *nextStatus) action {
	if o.attemptIsOurs() && o.attempt.Status.Phase == v1alpha1.SnapshotSucceed {
		next.SnapshotName = o.attempt.Name
	}
	if lost := o.hasInMind(); lost != nil {
		return o.savedAfterLoss(next, lost)
	}
	next.forgetPod()
	next.FailedAttempts = 0
	event := &note{reason: v1alpha1.ReasonPaused, message: fmt.Sprintf("saved in snapshot %s; Pod %s is gone", next.SnapshotName, o.sandbox.Name)}
	if o.moves() {
		o.broughtBack(next)
		// Nobody has taken note of what was lost before, and whoever moves again and again waits as after Pods that do not last.
		event.reason = v1alpha1.ReasonFilesSaved
	} else {
		next.noWait()
		next.keepData()
	}
	if o.attempt != nil && o.attempt.Name == next.SnapshotName && len(o.attempt.Status.Warnings) > 0 {
		event.message += fmt.Sprintf("; what is not in it its status.warnings say (%d)", len(o.attempt.Status.Warnings))
	}
	if o.wants(v1alpha1.DesiredStateRunning) {
		next.resuming()
	} else {
		next.pausedOn(next.SnapshotName)
	}
	return o.write(next, event)
}

// attemptFailed lets the sandbox run on: the snapshot says Failed only when nothing is frozen.
func (o *observed) attemptFailed(next *nextStatus, why metav1.Condition) action {
	return o.attemptFailedFor(next, why, 0)
}

// attemptFailedFor is attemptFailed with the wait before the next attempt; zero: as is usual for that reason.
func (o *observed) attemptFailedFor(next *nextStatus, why metav1.Condition, again time.Duration) action {
	if o.restoresEnded() && beyondRescue[why.Reason] {
		return o.notBroughtBack(next, why)
	}
	next.FailedAttempts++
	if again == 0 {
		again = retryAfter(next.FailedAttempts, why.Reason)
	}
	if o.pod != nil && o.hurries(o.view()) {
		again = min(again, hurriedWait)
	}
	next.wait(again)
	reset := o.noticeReset(next, o.resets())
	if reset != nil && !o.leaves() {
		return o.heldByLoss(next, reset)
	}
	next.Phase = v1alpha1.SandboxRunning
	o.showSame(next)
	until := ""
	if lasting[why.Reason] {
		until = "; it will fail as well until that is changed"
	}
	if o.wants(v1alpha1.DesiredStatePaused) && (reset != nil || o.hasInMind() != nil) {
		// For the next attempt: what it saves is not all that was there when somebody asked for it.
		next.set(v1alpha1.ConditionPaused, false, v1alpha1.ReasonFilesLost, "files were lost after the pause was asked for. Pod %s is to go, so what is left is to be saved, and attempt %d failed: %s: %s; the next one follows in %s%s",
			next.PodName, next.SnapshotAttempts, why.Reason, why.Message, again.Round(time.Second), until)
		return o.write(next, cmp.Or(reset, &note{warning: true, reason: v1alpha1.EventPauseRetry, message: fmt.Sprintf("%s: %s", why.Reason, why.Message)}))
	}
	if o.moves() {
		next.set(v1alpha1.ConditionPaused, false, why.Reason, "Pod %s is to go (%s), and attempt %d to save its files failed: %s; it runs on as long as it may, the next attempt follows in %s%s. With spec.evictionPolicy None it goes unsaved",
			next.PodName, whyMoves(next.Move), next.SnapshotAttempts, why.Message, again.Round(time.Second), until)
		return o.write(next, cmp.Or(reset, &note{warning: true, reason: v1alpha1.EventMoveRetry, message: fmt.Sprintf("%s: %s", why.Reason, why.Message)}))
	}
	next.set(v1alpha1.ConditionPaused, false, why.Reason, "attempt %d failed: %s; the sandbox runs on, the next attempt follows in %s, or at once with another pause%s",
		next.SnapshotAttempts, why.Message, again.Round(time.Second), until)
	return o.write(next, cmp.Or(reset, &note{warning: true, reason: v1alpha1.EventPauseRetry, message: fmt.Sprintf("%s: %s", why.Reason, why.Message)}))
}

func (o *observed) canceled(next *nextStatus) action {
	if o.pod == nil {
		return o.lost(next, o.from)
	}
	if o.pod.DeletionTimestamp != nil && o.hasSaved() {
		next.SnapshotName = o.attempt.Name // the newest that there is when the Pod goes
	}
	next.Phase = v1alpha1.SandboxRunning
	next.FailedAttempts = 0
	o.showSame(next)
	next.set(v1alpha1.ConditionPaused, false, v1alpha1.ReasonRunning, "the sandbox is not paused")
	return o.write(next, &note{reason: v1alpha1.ReasonCanceled, message: "the pause was cancelled; the sandbox runs on"})
}

// showSame takes over what the Pod looks like, where it is still the one that was to be paused.
// Another one is a loss, which running tells of.
func (o *observed) showSame(next *nextStatus) {
	if o.pod.UID == next.PodUID {
		next.show(o.pod, o.view())
	}
}

// reasonOf is why a snapshot failed.
func reasonOf(snapshot *v1alpha1.SandboxSnapshot) metav1.Condition {
	if condition := meta.FindStatusCondition(snapshot.Status.Conditions, v1alpha1.ConditionFailed); condition != nil {
		return *condition
	}
	return metav1.Condition{Reason: v1alpha1.ReasonCommitJobFailed, Message: "snapshot " + snapshot.Name + " does not say why"}
}
