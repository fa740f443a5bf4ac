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

package metrics

import (
	"strings"
	"time"

	apimeta "k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/opensandbox-io/sandbox-apiserver/apis/lifecycle"
	"github.com/opensandbox-io/sandbox-apiserver/apis/lifecycle/v1alpha1"
)

// ended is how something ended, and where it failed why.
type ended struct {
	outcome, reason string
}

// sandboxChange is what a write of a sandbox has made so.
type sandboxChange struct {
	attempt, resume *ended
	// pauseTook and resumeTook are the times from the request, where it has been fulfilled.
	pauseTook, resumeTook *time.Duration
	// lost is the reason of a loss of files that is news.
	lost string
	// move is the end of one, by the reason that it had; moveTook is from its record until the next Pod ran.
	move     *ended
	moveTook *time.Duration
}

// snapshotChange is what a write of a snapshot has made so.
type snapshotChange struct {
	purpose string
	end     *ended
	// waited is from its creation until its Job, took from there until its end, frozen what the commit
	// reports; nil: not known, or not so.
	waited, took, frozen *time.Duration
	bytes                int64
}

// SandboxWritten counts what has become true with a write that the store has taken. before is nil for a
// sandbox that was not there.
func SandboxWritten(before, after *lifecycle.Sandbox, now time.Time) {
	change := ofSandbox(before, after, now)
	if change.attempt != nil {
		pauseAttempts.WithLabelValues(change.attempt.outcome, change.attempt.reason).Inc()
	}
	if change.pauseTook != nil {
		pauseDuration.WithLabelValues().Observe(change.pauseTook.Seconds())
	}
	if change.resume != nil {
		resumes.WithLabelValues(change.resume.outcome, change.resume.reason).Inc()
	}
	if change.resumeTook != nil {
		resumeDuration.WithLabelValues().Observe(change.resumeTook.Seconds())
	}
	if change.lost != "" {
		dataLosses.WithLabelValues(change.lost).Inc()
	}
	if change.move != nil {
		moves.WithLabelValues(change.move.outcome, change.move.reason).Inc()
	}
	if change.moveTook != nil {
		moveDuration.WithLabelValues().Observe(change.moveTook.Seconds())
	}
}

// SnapshotWritten is SandboxWritten for snapshots.
func SnapshotWritten(before, after *lifecycle.SandboxSnapshot) {
	change := ofSnapshot(before, after)
	if change.waited != nil {
		commitWait.WithLabelValues(change.purpose).Observe(change.waited.Seconds())
	}
	if change.end != nil {
		snapshotsEnded.WithLabelValues(change.purpose, change.end.outcome, change.end.reason).Inc()
	}
	if change.took != nil {
		commitDuration.WithLabelValues(change.purpose).Observe(change.took.Seconds())
	}
	if change.frozen != nil {
		commitFrozen.WithLabelValues(change.purpose).Observe(change.frozen.Seconds())
	}
	if change.bytes > 0 {
		commitBytes.WithLabelValues(change.purpose).Add(float64(change.bytes))
	}
}

func ofSandbox(before, after *lifecycle.Sandbox, now time.Time) sandboxChange {
	var change sandboxChange
	if before == nil {
		return change
	}
	if lost := condition(after, v1alpha1.ConditionDataLost); lost.Status == metav1.ConditionTrue {
		if known := condition(before, v1alpha1.ConditionDataLost); known.Status != lost.Status || known.Reason != lost.Reason || loss(known.Message) != loss(lost.Message) {
			change.lost = BoundedReason(lost.Reason)
		}
	}
	was, is := before.Status.Phase, after.Status.Phase
	if was == lifecycle.SandboxPausing && is != was {
		change.attempt = endOfAttempt(before, after)
		if is == lifecycle.SandboxPaused && change.attempt.outcome == succeeded {
			change.pauseTook = sinceRequest(after, now)
		}
	}
	if was == lifecycle.SandboxResuming && is != was {
		change.resume = endOfResume(after)
	}
	if resumed(before, after) {
		change.resumeTook = sinceRequest(after, now)
	}
	if before.Status.Move != nil && after.Status.Move == nil {
		change.move = endOfMove(before, after, change.lost)
		if change.move.outcome == succeeded {
			change.moveTook = between(before.Status.Move.RequestTime.Time, now)
		}
	}
	return change
}

// loss is what a message tells of that was lost: what became of that is no other loss.
func loss(message string) string {
	lost, _, _ := strings.Cut(message, v1alpha1.MessageWrittenSince)
	return lost
}

// endOfMove is what came of a move: its record goes when a container of the next Pod has run, or there is nothing left to
// move.
func endOfMove(before, after *lifecycle.Sandbox, lost string) *ended {
	end := &ended{outcome: canceled, reason: BoundedReason(before.Status.Move.Reason)}
	switch {
	case lost != "" || after.Status.Phase == lifecycle.SandboxFailed:
		end.outcome = failed
	case after.Status.Phase == lifecycle.SandboxRunning && after.Status.PodUID != before.Status.Move.PodUID:
		end.outcome = succeeded
	}
	return end
}

// endOfAttempt is how a pause ended that is not under way any more.
func endOfAttempt(before, after *lifecycle.Sandbox) *ended {
	paused := condition(after, v1alpha1.ConditionPaused)
	marked := condition(before, v1alpha1.ConditionPaused).Reason == v1alpha1.ReasonRemovingPod
	switch {
	case after.Status.Phase == lifecycle.SandboxPaused:
		return &ended{outcome: succeeded}
	case after.Status.Phase == lifecycle.SandboxResuming && (marked || after.Status.Move != nil):
		// A resume was asked for after the point of no return, or it was moved.
		return &ended{outcome: succeeded}
	case after.Spec.DesiredState != lifecycle.DesiredStatePaused && (after.Status.Move == nil || paused.Reason == v1alpha1.ReasonRunning):
		return &ended{outcome: canceled}
	}
	return &ended{outcome: failed, reason: BoundedReason(paused.Reason)}
}

// endOfResume is how a resume ended that is not under way any more.
func endOfResume(after *lifecycle.Sandbox) *ended {
	switch after.Status.Phase {
	case lifecycle.SandboxRunning:
		return &ended{outcome: succeeded}
	case lifecycle.SandboxFailed:
		return &ended{outcome: failed, reason: BoundedReason(condition(after, v1alpha1.ConditionReady).Reason)}
	}
	return &ended{outcome: canceled}
}

// resumed says whether the sandbox is Ready for the first time since its resume was asked for. While it was
// paused it was not, since before that request; a readiness that comes and goes is younger.
func resumed(before, after *lifecycle.Sandbox) bool {
	was, is := condition(before, v1alpha1.ConditionReady), condition(after, v1alpha1.ConditionReady)
	switch {
	case is.Status != metav1.ConditionTrue || was.Status != metav1.ConditionFalse || after.Status.LastRequestTime == nil:
		return false
	case before.Status.Phase == lifecycle.SandboxPausing || after.Spec.DesiredState != lifecycle.DesiredStateRunning:
		return false // a pause that was cancelled, or has failed
	}
	return !was.LastTransitionTime.After(after.Status.LastRequestTime.Time)
}

// sinceRequest is the time since a verb, or an update of desiredState, has asked for what is now so.
func sinceRequest(sandbox *lifecycle.Sandbox, now time.Time) *time.Duration {
	if sandbox.Status.LastRequestTime == nil {
		return nil
	}
	return between(sandbox.Status.LastRequestTime.Time, now)
}

func ofSnapshot(before, after *lifecycle.SandboxSnapshot) snapshotChange {
	change := snapshotChange{purpose: purpose(after)}
	if before == nil {
		return change
	}
	was, is := &before.Status, &after.Status
	if was.JobUID == "" && is.JobUID != "" && is.StartTime != nil {
		change.waited = between(after.CreationTimestamp.Time, is.StartTime.Time)
	}
	if was.Phase == is.Phase {
		return change
	}
	switch is.Phase {
	case lifecycle.SnapshotFailed:
		why := apimeta.FindStatusCondition(is.Conditions, v1alpha1.ConditionFailed)
		if why == nil {
			why = &metav1.Condition{}
		}
		change.end = &ended{outcome: failed, reason: BoundedReason(why.Reason)}
	case lifecycle.SnapshotSucceed:
		change.end = &ended{outcome: succeeded}
		if is.JobUID == "" || is.StartTime == nil || is.CompletionTime == nil {
			break // nothing was committed: it is a copy, or was made of existing images
		}
		change.took = between(is.StartTime.Time, is.CompletionTime.Time)
		if is.FrozenDuration != nil {
			change.frozen = &is.FrozenDuration.Duration
		}
		for i := range is.Containers {
			change.bytes += max(0, is.Containers[i].LayerBytes)
		}
	}
	return change
}

// purpose is what a snapshot was made for.
func purpose(snapshot *lifecycle.SandboxSnapshot) string {
	switch {
	case snapshot.Spec.Pause != nil:
		return ofPause
	case snapshot.Spec.Rescue != nil:
		return ofRescue
	}
	return ofUser
}

// between is never less than nothing: two machines' clocks may differ.
func between(from, to time.Time) *time.Duration {
	took := max(0, to.Sub(from))
	return &took
}

func condition(sandbox *lifecycle.Sandbox, kind string) metav1.Condition {
	if found := apimeta.FindStatusCondition(sandbox.Status.Conditions, kind); found != nil {
		return *found
	}
	return metav1.Condition{}
}

// other stands for every reason that is none of this API's: whoever may write a status could make up as many
// as they like, and each would be a series of its own.
const other = "Other"

// BoundedReason is the reason, where it is one of this API's.
func BoundedReason(reason string) string {
	if v1alpha1.IsReason(reason) {
		return reason
	}
	return other
}
