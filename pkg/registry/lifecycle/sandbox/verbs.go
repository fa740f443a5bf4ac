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

	apimeta "k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/opensandbox-io/sandbox-apiserver/apis/lifecycle"
	"github.com/opensandbox-io/sandbox-apiserver/apis/lifecycle/v1alpha1"
)

// state is a row of the verbs' table: all that a verb's answer depends on, beside the snapshot
// that a resume names.
type state string

const (
	statePending   state = "Pending"
	stateRunning   state = "Running"
	stateEnded     state = "Running, all containers ended"
	statePausing   state = "Pausing"
	stateMoving    state = "Pausing, being moved"
	stateCanceling state = "Pausing, cancelling"
	stateMarked    state = "Pausing, Pod marked for removal"
	statePaused    state = "Paused"
	stateResuming  state = "Resuming"
	stateFailed    state = "Failed"
	stateDeleting  state = "being deleted"
	stateUnknown   state = "in a phase of another version"
)

// State names the row of the verbs' table that the sandbox is in.
func State(sandbox *lifecycle.Sandbox) string { return string(stateOf(sandbox)) }

func stateOf(sandbox *lifecycle.Sandbox) state {
	if sandbox.DeletionTimestamp != nil {
		return stateDeleting
	}
	switch sandbox.Status.Phase {
	case lifecycle.SandboxRunning:
		if reasonOf(sandbox, v1alpha1.ConditionReady) == v1alpha1.ReasonContainersEnded {
			return stateEnded
		}
		return stateRunning
	case lifecycle.SandboxPausing:
		switch reasonOf(sandbox, v1alpha1.ConditionPaused) {
		case v1alpha1.ReasonCanceling:
			return stateCanceling
		case v1alpha1.ReasonRemovingPod:
			return stateMarked
		}
		if sandbox.Spec.DesiredState != lifecycle.DesiredStatePaused && leaves(sandbox) {
			return stateMoving
		}
		return statePausing
	case lifecycle.SandboxPaused:
		return statePaused
	case lifecycle.SandboxResuming:
		return stateResuming
	case lifecycle.SandboxFailed:
		return stateFailed
	case lifecycle.SandboxPending, "":
		return statePending
	}
	return stateUnknown
}

// Pause decides what a pause makes of the sandbox: the sandbox as it shall be, which is the same
// object where nothing changes, or a refusal. It changes nothing that it is given.
func Pause(sandbox *lifecycle.Sandbox, now time.Time) (*lifecycle.Sandbox, *Refusal) {
	switch stateOf(sandbox) {
	case stateDeleting:
		return nil, refuse(CauseDeleting, "the sandbox is being deleted")
	case stateUnknown:
		return nil, refuseUnknown(sandbox)
	case statePending, stateResuming:
		return takeBack(sandbox, now), nil
	case stateRunning, stateEnded:
		return startPause(sandbox, now), nil
	case stateMoving:
		return startPausing(sandbox, now), nil
	case stateCanceling:
		return nil, refuse(CauseCanceling, "the previous pause is being cancelled; pause again once the sandbox is Running")
	case statePausing, stateMarked, statePaused:
		return keepPaused(sandbox, now), nil
	default: // stateFailed
		if sandbox.Status.PodUID == "" {
			if reasonOf(sandbox, v1alpha1.ConditionPaused) == v1alpha1.ReasonFilesLost && sandbox.Status.SnapshotName != "" {
				return acceptLoss(sandbox, now), nil
			}
			return nil, refuse(CausePhase, "the sandbox is Failed and has no Pod to pause; resume it from a snapshot or from its template")
		}
		return startPause(sandbox, now), nil
	}
}

// Resume decides what a resume makes of the sandbox, like Pause. snapshot is the one that the
// request names, nil where there is none of that name.
func Resume(sandbox *lifecycle.Sandbox, request *lifecycle.SandboxResume, snapshot *lifecycle.SandboxSnapshot, now time.Time) (*lifecycle.Sandbox, *Refusal) {
	next, refusal := resume(sandbox, request, snapshot, now)
	if expire := sandbox.Spec.ExpireTime; next == sandbox && expire != nil && !expire.After(now) {
		// Nobody has paused it yet. That this was asked for since is written down, or it would be paused all the same.
		next = requestRunning(sandbox, now)
	}
	return next, refusal
}

func resume(sandbox *lifecycle.Sandbox, request *lifecycle.SandboxResume, snapshot *lifecycle.SandboxSnapshot, now time.Time) (*lifecycle.Sandbox, *Refusal) {
	at := stateOf(sandbox)
	switch at {
	case stateDeleting:
		return nil, refuse(CauseDeleting, "the sandbox is being deleted")
	case stateUnknown:
		return nil, refuseUnknown(sandbox)
	}
	from, refusal := chooseSource(sandbox, request, snapshot)
	if refusal != nil {
		return nil, refusal
	}
	if from.chosen && !choosable(at) {
		return nil, refuseAt(from.field, CausePhase, fmt.Sprintf(
			"the sandbox is %s and its files are those it has; pause it first, then resume it from elsewhere", at))
	}

	switch at {
	case statePending:
		switch {
		case from.chosen:
			return startResume(sandbox, from, now), nil
		case sandbox.Status.RetryTime != nil:
			return requestRunning(keepStarting(sandbox, now), now), nil // its Pod has failed, or is still to prove itself
		}
		return keepStarting(sandbox, now), nil
	case stateRunning:
		return withdrawPause(sandbox, now), nil
	case stateEnded:
		if !from.chosen {
			return nil, refuse(CauseContainersEnded, "all containers have ended, and a start from a snapshot would lose what they wrote since; "+
				"pause the sandbox to keep it, or set snapshotName or fromTemplate to give it up")
		}
		return startResume(sandbox, from, now), nil
	case statePausing:
		if leaves(sandbox) {
			return startMoving(sandbox, now), nil
		}
		return cancelPause(sandbox, now), nil
	case stateMoving:
		return sandbox, nil
	case stateCanceling:
		return keepRunning(sandbox, now), nil
	case stateResuming:
		again := !from.chosen || from.snapshotName == sandbox.Status.SnapshotName && reasonOf(sandbox, v1alpha1.ConditionReady) == v1alpha1.ReasonResuming
		if again && sandbox.Spec.DesiredState != lifecycle.DesiredStatePaused {
			return requestRunning(sandbox, now), nil
		}
		return startResume(sandbox, from, now), nil
	case stateMarked:
		return requestRunning(sandbox, now), nil
	case statePaused:
		return startResume(sandbox, from, now), nil
	default: // stateFailed
		if !from.chosen && sandbox.Status.SnapshotName == "" {
			return nil, refuse(CauseNoSnapshot, "the sandbox is Failed and has no snapshot; set fromTemplate to start afresh from its template")
		}
		return startResume(sandbox, from, now), nil
	}
}

// source is what a resume starts from.
type source struct {
	// chosen says that the request names it; else it is what the sandbox says.
	chosen bool
	// field of the request names it.
	field string
	// snapshotName is empty for the template.
	snapshotName string
}

func chooseSource(sandbox *lifecycle.Sandbox, request *lifecycle.SandboxResume, snapshot *lifecycle.SandboxSnapshot) (source, *Refusal) {
	switch {
	case request.FromTemplate:
		if sandbox.Spec.Template == nil {
			return source{}, refuseAt("fromTemplate", CauseNoTemplate, "the sandbox has no template of its own; set spec.template or resume from a snapshot")
		}
		return source{chosen: true, field: "fromTemplate"}, nil
	case request.SnapshotName != "":
		if refusal := refuseSnapshot(sandbox, request.SnapshotName, snapshot); refusal != nil {
			return source{}, refusal
		}
		return source{chosen: true, field: "snapshotName", snapshotName: request.SnapshotName}, nil
	}
	return source{snapshotName: sandbox.Status.SnapshotName}, nil
}

func refuseSnapshot(sandbox *lifecycle.Sandbox, name string, snapshot *lifecycle.SandboxSnapshot) *Refusal {
	const field = "snapshotName"
	switch {
	case snapshot == nil:
		return refuseAt(field, CauseSnapshotNotFound, fmt.Sprintf("snapshot %q does not exist in this namespace", name))
	case snapshot.Status.Phase != lifecycle.SnapshotSucceed:
		phase := snapshot.Status.Phase
		if phase == "" {
			phase = lifecycle.SnapshotPending
		}
		return refuseAt(field, CauseSnapshotNotReady, fmt.Sprintf("snapshot %q is %s; name one whose phase is %s", name, phase, lifecycle.SnapshotSucceed))
	case snapshot.Status.SandboxUID != sandbox.UID:
		return refuseAt(field, CauseSnapshotOfAnother, fmt.Sprintf(
			"snapshot %q was made of another sandbox; create a sandbox with spec.restoreFrom to start from it", name))
	case snapshot.DeletionTimestamp != nil:
		return refuseAt(field, CauseSnapshotNotFound, fmt.Sprintf("snapshot %q is being deleted", name))
	}
	return nil
}

// choosable says whether a sandbox in this state can start from elsewhere: where it has no files
// of its own that somebody could miss. While it is Pending or Resuming its Pod has not run yet, and may never
// do so: its image may be gone from the registry for good, or the snapshot that it was to start from be none.
func choosable(at state) bool {
	switch at {
	case statePending, stateEnded, statePaused, stateResuming, stateFailed:
		return true
	}
	return false
}

// startPause begins an attempt. The phase Pausing is entered only together with a new attempt,
// so that while it lasts the attempt under way is <sandbox>-gen<snapshotAttempts>.
func startPause(sandbox *lifecycle.Sandbox, now time.Time) *lifecycle.Sandbox {
	next := want(sandbox, lifecycle.DesiredStatePaused, now)
	next.Status.Phase = lifecycle.SandboxPausing
	next.Status.SnapshotAttempts++
	setBoth(next, v1alpha1.ReasonPausing, "a pause has been requested", now)
	return next
}

// leaves says whether the sandbox's Pod is to go, whatever is wanted of the sandbox. A record that its policy does not want
// any more is the controller's to withdraw.
func leaves(sandbox *lifecycle.Sandbox) bool {
	move := sandbox.Status.Move
	return move != nil && move.PodUID == sandbox.Status.PodUID
}

// startPausing answers a pause of a sandbox that is being moved: the attempt under way is the pause's.
func startPausing(sandbox *lifecycle.Sandbox, now time.Time) *lifecycle.Sandbox {
	next := want(sandbox, lifecycle.DesiredStatePaused, now)
	setBoth(next, v1alpha1.ReasonPausing, "a pause has been requested, and what is being saved is saved for it", now)
	return next
}

// startMoving answers a resume of a sandbox that is being paused, and whose Pod is to go: the attempt under way goes on, and
// the sandbox comes back from it.
func startMoving(sandbox *lifecycle.Sandbox, now time.Time) *lifecycle.Sandbox {
	next := want(sandbox, lifecycle.DesiredStateRunning, now)
	setBoth(next, v1alpha1.ReasonMoving, "the pause has been withdrawn; the Pod is to go ("+next.Status.Move.Reason+"), so the files are being saved all the same, and the sandbox comes back from them", now)
	return next
}

// takeBack answers a pause of a sandbox of whose Pod nothing has run: there is nothing to save. The controller
// removes the Pod, and the sandbox is what it was before the start: paused on its snapshot, or Pending where it has none.
// Where a container has begun to run meanwhile, it is a pause as any other.
func takeBack(sandbox *lifecycle.Sandbox, now time.Time) *lifecycle.Sandbox {
	if sandbox.Spec.DesiredState == lifecycle.DesiredStatePaused {
		return sandbox
	}
	next := want(sandbox, lifecycle.DesiredStatePaused, now)
	setCondition(next, v1alpha1.ConditionReady, v1alpha1.ReasonWithdrawing, "a pause has been requested before anything ran: the start is being taken back", now)
	if reasonOf(sandbox, v1alpha1.ConditionPaused) != v1alpha1.ReasonRemovingPod {
		setCondition(next, v1alpha1.ConditionPaused, v1alpha1.ReasonWithdrawing, "a pause has been requested before anything ran: the start is being taken back", now)
	}
	return next
}

// keepPaused answers a pause of a sandbox that is paused or on its way there.
func keepPaused(sandbox *lifecycle.Sandbox, now time.Time) *lifecycle.Sandbox {
	if sandbox.Spec.DesiredState == lifecycle.DesiredStatePaused {
		return sandbox
	}
	return want(sandbox, lifecycle.DesiredStatePaused, now)
}

// acceptLoss pauses a sandbox on the snapshot that it has, after its Pod was lost before another could be
// made. The reason says so to the controller, which knows then that somebody has taken note.
func acceptLoss(sandbox *lifecycle.Sandbox, now time.Time) *lifecycle.Sandbox {
	next := want(sandbox, lifecycle.DesiredStatePaused, now)
	next.Status.Phase = lifecycle.SandboxPaused
	setBoth(next, v1alpha1.ReasonFilesLost, "a pause on snapshot "+next.Status.SnapshotName+" has been requested, after files were lost", now)
	return next
}

// keepRunning answers a resume of a sandbox that is on its way to Running.
func keepRunning(sandbox *lifecycle.Sandbox, now time.Time) *lifecycle.Sandbox {
	if sandbox.Spec.DesiredState == lifecycle.DesiredStateRunning {
		return sandbox
	}
	return requestRunning(sandbox, now)
}

// requestRunning has the controller try at once, even where nothing but the time changes.
func requestRunning(sandbox *lifecycle.Sandbox, now time.Time) *lifecycle.Sandbox {
	return want(sandbox, lifecycle.DesiredStateRunning, now)
}

// keepStarting answers a resume of a sandbox that is Pending: it is started where a pause has kept it from that.
func keepStarting(sandbox *lifecycle.Sandbox, now time.Time) *lifecycle.Sandbox {
	if sandbox.Spec.DesiredState != lifecycle.DesiredStatePaused {
		return sandbox
	}
	next := want(sandbox, lifecycle.DesiredStateRunning, now)
	next.Status.FailedAttempts = 0
	setCondition(next, v1alpha1.ConditionReady, v1alpha1.ReasonPending, "a resume has been requested", now)
	setCondition(next, v1alpha1.ConditionPaused, v1alpha1.ReasonRunning, "the pause has been withdrawn", now)
	return next
}

// withdrawPause takes back a pause that was asked for by an update, or waits for its next try.
func withdrawPause(sandbox *lifecycle.Sandbox, now time.Time) *lifecycle.Sandbox {
	if sandbox.Spec.DesiredState != lifecycle.DesiredStatePaused {
		return sandbox
	}
	next := want(sandbox, lifecycle.DesiredStateRunning, now)
	next.Status.FailedAttempts = 0
	setCondition(next, v1alpha1.ConditionPaused, v1alpha1.ReasonRunning, "the pause has been withdrawn", now)
	return next
}

// cancelPause asks for the end of the commit under way. The phase stays Pausing until the thaw
// is confirmed.
func cancelPause(sandbox *lifecycle.Sandbox, now time.Time) *lifecycle.Sandbox {
	next := want(sandbox, lifecycle.DesiredStateRunning, now)
	setBoth(next, v1alpha1.ReasonCanceling, "the pause is being cancelled", now)
	return next
}

// startResume starts the sandbox. A Pod that is there has other files than those that are wanted, or is
// not to be waited for any longer: it holds the name of the new one, so the controller removes it first.
func startResume(sandbox *lifecycle.Sandbox, from source, now time.Time) *lifecycle.Sandbox {
	next := want(sandbox, lifecycle.DesiredStateRunning, now)
	next.Status.Phase = lifecycle.SandboxResuming
	if from.chosen && from.snapshotName != sandbox.Status.SnapshotName {
		next.Status.SnapshotName = from.snapshotName
		if next.Status.PriorSnapshotName == "" {
			next.Status.PriorSnapshotName = sandbox.Status.SnapshotName
		}
	}
	next.Status.FailedAttempts = 0
	setBoth(next, v1alpha1.ReasonResuming, "a resume has been requested", now)
	if from.chosen && sandbox.Status.PodName != "" || reasonOf(sandbox, v1alpha1.ConditionPaused) == v1alpha1.ReasonRemovingPod {
		setCondition(next, v1alpha1.ConditionPaused, v1alpha1.ReasonRemovingPod, "the Pod of before is being removed", now)
	}
	return next
}

// want copies the sandbox with another desired state and a new time of request. Whoever asks does not wait for
// what failed before.
func want(sandbox *lifecycle.Sandbox, desired lifecycle.SandboxDesiredState, now time.Time) *lifecycle.Sandbox {
	next := sandbox.DeepCopy()
	next.Spec.DesiredState = desired
	next.Status.LastRequestTime = requestedAt(sandbox, now)
	next.Status.FailedPods, next.Status.RetryTime = 0, nil
	// What the strategy will say too; the conditions below need to know it.
	raiseGeneration(next, sandbox)
	return next
}

func setBoth(sandbox *lifecycle.Sandbox, reason, message string, now time.Time) {
	setCondition(sandbox, v1alpha1.ConditionReady, reason, message, now)
	setCondition(sandbox, v1alpha1.ConditionPaused, reason, message, now)
}

// setCondition sets a condition to False: a verb only ever begins something.
func setCondition(sandbox *lifecycle.Sandbox, condition, reason, message string, now time.Time) {
	apimeta.SetStatusCondition(&sandbox.Status.Conditions, metav1.Condition{
		Type:               condition,
		Status:             metav1.ConditionFalse,
		Reason:             reason,
		Message:            message,
		ObservedGeneration: sandbox.Generation,
		LastTransitionTime: metav1.NewTime(now),
	})
}

func refuseUnknown(sandbox *lifecycle.Sandbox) *Refusal {
	return refuse(CausePhase, fmt.Sprintf("the sandbox is in a phase that this server does not know (%s), as one of a newer version has written it; "+
		"ask again when all servers are of that version", sandbox.Status.Phase))
}

func reasonOf(sandbox *lifecycle.Sandbox, condition string) string {
	if found := apimeta.FindStatusCondition(sandbox.Status.Conditions, condition); found != nil {
		return found.Reason
	}
	return ""
}
