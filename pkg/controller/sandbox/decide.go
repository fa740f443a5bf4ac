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

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/utils/ptr"

	"github.com/opensandbox-io/sandbox-apiserver/apis/lifecycle/v1alpha1"
	"github.com/opensandbox-io/sandbox-apiserver/pkg/controller/naming"
)

// observed is everything that a decision is made of.
type observed struct {
	sandbox *v1alpha1.Sandbox
	// pod is the sandbox's own Pod; nil means that the API said it is not there.
	pod *corev1.Pod
	// attempt is the snapshot of the last pause attempt, whoever's it is; nil where there is none.
	attempt *v1alpha1.SandboxSnapshot
	// from is the snapshot that the next Pod comes from; nil where none is named or it is gone.
	from *v1alpha1.SandboxSnapshot
	// thawed says that nothing which the attempt's commit froze is frozen.
	thawed bool
	// killing is how far the end of what it left frozen has come.
	killing killing
	// checked says that the registry was asked for the images of from at this visit.
	checked bool
	// held says that the last creation of the Pod was refused and its time has not come again.
	held bool
	// pauseHeld is how long the next attempt has to wait because the API refused the snapshot of
	// the last one.
	pauseHeld time.Duration
	now       time.Time
}

// verb is one thing that the controller does to the world.
type verb string

const (
	wait           verb = "wait"
	writeStatus    verb = "write status"
	createPod      verb = "create pod"
	deletePod      verb = "delete pod"
	createSnapshot verb = "create snapshot"
	thaw           verb = "thaw"
	kill           verb = "kill"
	checkImages    verb = "check images"
)

// action is what to do next.
type action struct {
	do verb
	// status is what writeStatus writes.
	status *v1alpha1.SandboxStatus
	// grace is what deletePod gives the Pod to end, in seconds; nil: what the Pod asks for.
	grace *int64
	// event tells of a write once it has been done.
	event *note
	// after is when to look again though no watch tells of anything; zero: never.
	after time.Duration
}

// note is an event to record.
type note struct {
	warning         bool
	reason, message string
}

const (
	firstRetry = 10 * time.Second
	lastRetry  = 5 * time.Minute
	// removalGrace is what a Pod gets to end, in seconds, whose processes are frozen or nobody's
	// concern any more. The kubelet makes two of it.
	removalGrace = 1
	// queuedLag is how long a sandbox goes on saying that its commit waits. Most commits are over by
	// then, and the sandbox says what came of it: a write less, which everybody who watches it sees.
	queuedLag = 5 * time.Second
	// imageRetry is how soon a resume asks again for an image that the registry does not have.
	imageRetry = 30 * time.Second
)

// decide is the sandbox's state machine: no I/O, one action at a time. The reconciler acts and
// asks again.
func decide(o observed) action {
	switch o.sandbox.Status.Phase {
	case v1alpha1.SandboxRunning:
		return o.running()
	case v1alpha1.SandboxPausing:
		return o.pausing()
	case v1alpha1.SandboxPaused:
		return o.paused()
	case v1alpha1.SandboxFailed:
		return o.failed()
	default: // Pending, Resuming
		return o.starting()
	}
}

// starting brings the Pod up: the first one, or the one of a resume.
func (o *observed) starting() action {
	next := o.next()
	if o.sandbox.Spec.RestoreFrom != nil && next.SnapshotName == "" && next.Phase != v1alpha1.SandboxResuming && o.pod == nil {
		return o.restoring(next)
	}
	if o.pausedReason() == v1alpha1.ReasonRemovingPod {
		// A resume from elsewhere, of a sandbox whose containers have ended.
		if o.pod != nil {
			return o.remove(nil)
		}
		next.forgetPod()
		next.set(v1alpha1.ConditionPaused, false, v1alpha1.ReasonResuming, "the Pod is coming back")
		return o.write(next, nil)
	}
	if o.pod == nil {
		return o.creating(next)
	}

	unseen := o.sandbox.Status.PodUID == "" || next.Phase == v1alpha1.SandboxResuming
	if unseen && o.pod.Annotations[v1alpha1.AnnotationRestoredFrom] != next.SnapshotName {
		// Left over from before, or from a resume that was asked to come from elsewhere since: its
		// files are not those that are wanted.
		return o.remove(ptr.To[int64](removalGrace))
	}
	view := o.view()
	if view.lost {
		return o.remove(nil)
	}
	next.show(o.pod, view)
	if !view.started {
		return o.write(next, nil)
	}
	next.Phase = v1alpha1.SandboxRunning
	next.set(v1alpha1.ConditionPaused, false, v1alpha1.ReasonRunning, "the sandbox is not paused")
	return o.write(next, &note{reason: v1alpha1.ReasonRunning, message: fmt.Sprintf("Pod %s runs on node %s", next.PodName, next.NodeName)})
}

// restoring finds the snapshot that a new sandbox starts from.
func (o *observed) restoring(next *nextStatus) action {
	name := o.sandbox.Spec.RestoreFrom.SnapshotName
	switch {
	case o.from == nil:
		next.set(v1alpha1.ConditionReady, false, v1alpha1.ReasonSnapshotNotFound, "snapshot %s (spec.restoreFrom) does not exist", name)
	case o.from.Status.Phase != v1alpha1.SnapshotSucceed:
		next.set(v1alpha1.ConditionReady, false, v1alpha1.ReasonSnapshotNotReady, "snapshot %s (spec.restoreFrom) is %s, not %s", name, o.from.Status.Phase, v1alpha1.SnapshotSucceed)
	case o.wants(v1alpha1.DesiredStatePaused):
		next.SnapshotName = name
		next.pausedOn(name)
	default:
		next.SnapshotName = name
	}
	return o.write(next, nil)
}

// creating writes the Pod's name before it creates the Pod: from then on the template is locked.
func (o *observed) creating(next *nextStatus) action {
	if next.SnapshotName != "" && (o.from == nil || o.from.Status.Phase != v1alpha1.SnapshotSucceed) {
		next.Phase = v1alpha1.SandboxFailed
		next.forgetPod()
		message := fmt.Sprintf("snapshot %s, which the sandbox comes from, does not exist: resume it from another one (snapshotName) or from its template (fromTemplate)", next.SnapshotName)
		next.set(v1alpha1.ConditionReady, false, v1alpha1.ReasonSnapshotNotFound, "%s", message)
		return o.write(next, &note{warning: true, reason: v1alpha1.ReasonSnapshotNotFound, message: message})
	}
	if o.held {
		return o.write(next, nil)
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
	if next.PodName == "" || next.PodUID != "" {
		next.forgetPod()
		next.PodName = o.sandbox.Name
		if before := meta.FindStatusCondition(next.Conditions, v1alpha1.ConditionReady); before != nil && before.Reason == v1alpha1.ReasonImageUnavailable {
			next.set(v1alpha1.ConditionReady, false, v1alpha1.ReasonPodPending, "the images of snapshot %s are there again, the Pod is being started", next.SnapshotName)
		}
		return o.write(next, nil)
	}
	return action{do: createPod}
}

func (o *observed) running() action {
	if o.pod == nil {
		return o.lost()
	}
	view := o.view()
	if view.lost {
		return o.remove(nil)
	}
	next := o.next()
	var event *note
	if next.PodUID != "" && next.PodUID != o.pod.UID {
		event = next.loseData(v1alpha1.ReasonPodLost, "Pod %s was replaced by one with UID %s", o.pod.Name, o.pod.UID)
	}
	next.show(o.pod, view)
	if reset := next.noticeReset(view); reset != nil {
		event = reset
	}
	if o.wants(v1alpha1.DesiredStateRunning) {
		next.FailedAttempts = 0
		next.set(v1alpha1.ConditionPaused, false, v1alpha1.ReasonRunning, "the sandbox is not paused")
		return o.write(next, event)
	}
	if o.pod.DeletionTimestamp != nil {
		return o.write(next, event)
	}
	if left := o.retryIn(); left > 0 {
		again := o.write(next, event)
		again.after = left
		return again
	}
	next.Phase = v1alpha1.SandboxPausing
	next.SnapshotAttempts++
	next.set(v1alpha1.ConditionReady, false, v1alpha1.ReasonPausing, "the sandbox is being paused")
	next.set(v1alpha1.ConditionPaused, false, v1alpha1.ReasonPausing, "attempt %d commits the root filesystems", next.SnapshotAttempts)
	return o.write(next, event)
}

// retryIn is how long the next attempt of a pause that failed has to wait.
func (o *observed) retryIn() time.Duration {
	if o.pauseHeld > 0 {
		return o.pauseHeld
	}
	failed := o.sandbox.Status.FailedAttempts
	if failed == 0 || !o.attemptIsOurs() || o.attempt.Status.CompletionTime == nil {
		return 0
	}
	return o.attempt.Status.CompletionTime.Add(backoff(failed)).Sub(o.now)
}

// backoff is the wait after so many failed attempts.
func backoff(failed int32) time.Duration {
	delay := firstRetry
	for i := int32(1); i < failed && delay < lastRetry; i++ {
		delay *= 2
	}
	return min(delay, lastRetry)
}

func (o *observed) pausing() action {
	next := o.next()
	if o.pausedReason() == v1alpha1.ReasonRemovingPod {
		if o.pod != nil {
			return o.removing()
		}
		return o.finishPause(next)
	}

	canceling := o.pausedReason() == v1alpha1.ReasonCanceling
	if !canceling && o.wants(v1alpha1.DesiredStateRunning) {
		// By an update of desiredState: what the resume verb writes by itself.
		next.set(v1alpha1.ConditionReady, false, v1alpha1.ReasonCanceling, "the pause is being cancelled")
		next.set(v1alpha1.ConditionPaused, false, v1alpha1.ReasonCanceling, "the pause is being cancelled")
		return o.write(next, nil)
	}
	switch {
	case o.attempt == nil && canceling:
		return o.canceled(next)
	case o.attempt == nil && o.pod == nil:
		return o.lost()
	case o.attempt == nil:
		return action{do: createSnapshot}
	case !o.attemptIsOurs() && canceling:
		return o.canceled(next)
	case !o.attemptIsOurs():
		next.SnapshotAttempts++
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
			return o.lost()
		}
		return o.attemptFailed(next, reasonOf(o.attempt))
	}
	ready := meta.FindStatusCondition(o.attempt.Status.Conditions, v1alpha1.ConditionReady)
	switch {
	case canceling:
		return action{do: wait}
	case ready != nil && ready.Reason == v1alpha1.ReasonQueued:
		next.set(v1alpha1.ConditionPaused, false, v1alpha1.ReasonQueued, "%s", ready.Message)
	case o.pausedReason() == v1alpha1.ReasonQueued:
		if left := o.queuedStays(); left > 0 {
			return action{do: wait, after: left}
		}
		next.set(v1alpha1.ConditionPaused, false, v1alpha1.ReasonPausing, "attempt %d commits the root filesystems", next.SnapshotAttempts)
	default:
		return action{do: wait}
	}
	return o.write(next, nil)
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
	switch {
	case o.attempt.DeletionTimestamp != nil && !canceling:
		// Somebody deletes what was just made. When it is gone, the attempt is made again; the
		// containers are frozen until then.
		return action{do: wait}
	case o.pod == nil:
		// Gone before it was removed, and after everything was saved.
		return o.finishPause(next)
	case canceling && !o.thawed:
		return action{do: thaw}
	case canceling:
		return o.canceled(next)
	case o.pod.UID != o.attempt.Status.SourcePodUID:
		return o.attemptFailed(next, metav1.Condition{Reason: v1alpha1.ReasonSourcePodReplaced, Message: fmt.Sprintf("Pod %s is not the one that was committed", o.pod.Name)})
	}
	// The last look at this Pod: a restart that came just before the commit was not seen yet.
	reset := next.noticeReset(o.view())
	next.SnapshotName = o.attempt.Name
	next.set(v1alpha1.ConditionReady, false, v1alpha1.ReasonPausing, "the sandbox is being paused")
	next.set(v1alpha1.ConditionPaused, false, v1alpha1.ReasonRemovingPod, "snapshot %s is ready, Pod %s is being removed", o.attempt.Name, o.pod.Name)
	return o.write(next, reset)
}

func (o *observed) finishPause(next *nextStatus) action {
	if o.attemptIsOurs() && o.attempt.Status.Phase == v1alpha1.SnapshotSucceed {
		next.SnapshotName = o.attempt.Name
	}
	next.forgetPod()
	next.FailedAttempts = 0
	next.keepData()
	event := &note{reason: v1alpha1.ReasonPaused, message: fmt.Sprintf("saved in snapshot %s; Pod %s is gone", next.SnapshotName, o.sandbox.Name)}
	if o.wants(v1alpha1.DesiredStateRunning) {
		next.resuming()
	} else {
		next.pausedOn(next.SnapshotName)
	}
	return o.write(next, event)
}

// attemptFailed lets the sandbox run on: the snapshot says Failed only when nothing is frozen.
func (o *observed) attemptFailed(next *nextStatus, why metav1.Condition) action {
	next.Phase = v1alpha1.SandboxRunning
	next.FailedAttempts++
	o.showSame(next)
	next.set(v1alpha1.ConditionPaused, false, why.Reason, "attempt %d failed: %s; the sandbox runs on, the next attempt follows in %s, or at once with another pause",
		next.SnapshotAttempts, why.Message, backoff(next.FailedAttempts))
	return o.write(next, &note{warning: true, reason: v1alpha1.EventPauseRetry, message: fmt.Sprintf("%s: %s", why.Reason, why.Message)})
}

func (o *observed) canceled(next *nextStatus) action {
	if o.pod == nil {
		return o.lost()
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

// lost goes on after a Pod that went away by itself, with whatever is saved.
func (o *observed) lost() action {
	next := o.next()
	podName := next.PodName
	next.forgetPod()
	age := "there is no snapshot, all its files are gone"
	if o.from != nil && next.SnapshotName != "" && o.from.Status.CompletionTime != nil {
		age = fmt.Sprintf("it falls back on snapshot %s, made %s before", next.SnapshotName, o.now.Sub(o.from.Status.CompletionTime.Time).Round(time.Second))
	} else if next.SnapshotName != "" {
		age = fmt.Sprintf("it falls back on snapshot %s", next.SnapshotName)
	}
	event := next.loseData(v1alpha1.ReasonPodLost, "Pod %s was lost: %s", podName, age)
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
		next.FailedAttempts = 0
		next.pausedOn(next.SnapshotName)
	default:
		next.Phase = v1alpha1.SandboxFailed
		message := "the Pod was lost while it was being paused and there is no snapshot: resume with fromTemplate to start afresh, or delete the sandbox"
		next.set(v1alpha1.ConditionReady, false, v1alpha1.ReasonNoSnapshot, "%s", message)
		next.set(v1alpha1.ConditionPaused, false, v1alpha1.ReasonNoSnapshot, "%s", message)
	}
	return o.write(next, event)
}

func (o *observed) paused() action {
	if o.pod != nil && o.pod.DeletionTimestamp == nil {
		// Created by a step that was decided before the pause ended.
		return o.remove(ptr.To[int64](removalGrace))
	}
	next := o.next()
	if o.wants(v1alpha1.DesiredStateRunning) {
		next.resuming()
		return o.write(next, nil)
	}
	next.pausedOn(next.SnapshotName)
	var event *note
	if imagesMissing(o.from) {
		event = o.missImages(next)
	}
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
	case o.wants(v1alpha1.DesiredStateRunning) && next.SnapshotName != "" && o.from != nil && o.from.Status.Phase == v1alpha1.SnapshotSucceed:
		next.resuming()
	}
	return o.write(next, nil)
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

func (o *observed) wants(state v1alpha1.SandboxDesiredState) bool {
	if o.sandbox.Spec.DesiredState == "" {
		return state == v1alpha1.DesiredStateRunning
	}
	return o.sandbox.Spec.DesiredState == state
}

func (o *observed) view() podView {
	return viewPod(o.pod, o.sandbox.Spec.Snapshot.Containers...)
}

func (o *observed) pausedReason() string {
	if condition := meta.FindStatusCondition(o.sandbox.Status.Conditions, v1alpha1.ConditionPaused); condition != nil {
		return condition.Reason
	}
	return ""
}

// attemptIsOurs says whether the snapshot of the attempt's name is this sandbox's.
func (o *observed) attemptIsOurs() bool {
	return o.attempt != nil && metav1.IsControlledBy(o.attempt, o.sandbox) &&
		o.attempt.Name == naming.PauseSnapshot(o.sandbox.Name, o.sandbox.Status.SnapshotAttempts)
}

func (o *observed) remove(grace *int64) action {
	if o.pod.DeletionTimestamp != nil {
		given := o.pod.DeletionGracePeriodSeconds
		if grace == nil || given != nil && *given <= *grace {
			return action{do: wait}
		}
	}
	return action{do: deletePod, grace: grace}
}

// reasonOf is why a snapshot failed.
func reasonOf(snapshot *v1alpha1.SandboxSnapshot) metav1.Condition {
	if condition := meta.FindStatusCondition(snapshot.Status.Conditions, v1alpha1.ConditionFailed); condition != nil {
		return *condition
	}
	return metav1.Condition{Reason: v1alpha1.ReasonCommitJobFailed, Message: "snapshot " + snapshot.Name + " does not say why"}
}
