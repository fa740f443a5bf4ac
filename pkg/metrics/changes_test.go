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
	"reflect"
	"testing"
	"time"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"

	"github.com/opensandbox-io/sandbox-apiserver/apis/lifecycle"
	"github.com/opensandbox-io/sandbox-apiserver/apis/lifecycle/v1alpha1"
)

// noon is when the tests' requests are made; what they ask for is so ninety seconds later.
var (
	noon  = time.Date(2026, 11, 30, 12, 0, 0, 250_000_000, time.UTC)
	later = noon.Add(90 * time.Second)
)

// state makes a sandbox that was asked for something at noon.
func state(phase lifecycle.SandboxPhase, wants lifecycle.SandboxDesiredState, conditions ...metav1.Condition) *lifecycle.Sandbox {
	requested := metav1.NewMicroTime(noon)
	return &lifecycle.Sandbox{
		Spec:   lifecycle.SandboxSpec{DesiredState: wants},
		Status: lifecycle.SandboxStatus{Phase: phase, Conditions: conditions, LastRequestTime: &requested},
	}
}

// is makes a condition that became so at a time, which is stored in whole seconds.
func is(kind string, status metav1.ConditionStatus, reason string, since time.Time) metav1.Condition {
	return metav1.Condition{Type: kind, Status: status, Reason: reason, LastTransitionTime: metav1.NewTime(since.Truncate(time.Second))}
}

func paused(status metav1.ConditionStatus, reason string) metav1.Condition {
	return is(v1alpha1.ConditionPaused, status, reason, noon)
}

func ready(status metav1.ConditionStatus, reason string, since time.Time) metav1.Condition {
	return is(v1alpha1.ConditionReady, status, reason, since)
}

func lost(status metav1.ConditionStatus, message string) metav1.Condition {
	return metav1.Condition{Type: v1alpha1.ConditionDataLost, Status: status, Reason: v1alpha1.ReasonPodLost, Message: message}
}

func TestChangesOfASandbox(t *testing.T) {
	const (
		yes, no        = metav1.ConditionTrue, metav1.ConditionFalse
		running, pause = lifecycle.DesiredStateRunning, lifecycle.DesiredStatePaused
	)
	took := 90 * time.Second
	pausing := state(lifecycle.SandboxPausing, pause, paused(no, v1alpha1.ReasonRemovingPod), ready(no, v1alpha1.ReasonPausing, noon))
	canceling := state(lifecycle.SandboxPausing, running, paused(no, v1alpha1.ReasonCanceling), ready(no, v1alpha1.ReasonCanceling, noon))
	// A sandbox that was paused an hour before its resume was asked for at noon.
	resuming := state(lifecycle.SandboxResuming, running, paused(no, v1alpha1.ReasonResuming), ready(no, v1alpha1.ReasonResuming, noon.Add(-time.Hour)))
	started := state(lifecycle.SandboxRunning, running, paused(no, v1alpha1.ReasonRunning), ready(no, v1alpha1.ReasonPodNotReady, noon.Add(-time.Hour)))
	up := state(lifecycle.SandboxRunning, running, paused(no, v1alpha1.ReasonRunning), ready(yes, v1alpha1.ReasonPodReady, later))

	// moves is such a sandbox that is being moved since noon, from the Pod "one".
	moves := func(s *lifecycle.Sandbox) *lifecycle.Sandbox {
		s = s.DeepCopy()
		s.Status.PodUID, s.Status.LastRequestTime = "one", nil
		s.Status.Move = &lifecycle.SandboxMove{PodUID: "one", Reason: v1alpha1.ReasonEvicted, RequestTime: metav1.NewMicroTime(noon)}
		return s
	}
	in := func(pod types.UID, s *lifecycle.Sandbox) *lifecycle.Sandbox {
		s = s.DeepCopy()
		s.Status.PodUID, s.Status.LastRequestTime = pod, nil
		return s
	}
	moving := moves(state(lifecycle.SandboxPausing, running, paused(no, v1alpha1.ReasonRemovingPod), ready(no, v1alpha1.ReasonMoving, noon)))
	back := moves(state(lifecycle.SandboxResuming, running, paused(no, v1alpha1.ReasonResuming), ready(no, v1alpha1.ReasonResuming, noon)))

	for _, test := range []struct {
		name          string
		before, after *lifecycle.Sandbox
		want          sandboxChange
	}{
		{"a move is recorded", up, moves(up), sandboxChange{}},
		{"a move has saved the files", moving, back, sandboxChange{attempt: &ended{outcome: succeeded}}},
		{"a move has saved the files, and the Pod was gone before", moves(state(lifecycle.SandboxPausing, running, paused(no, v1alpha1.ReasonMoving))), back,
			sandboxChange{attempt: &ended{outcome: succeeded}}},
		{"a move succeeds", back, in("two", up), sandboxChange{resume: &ended{outcome: succeeded}, move: &ended{succeeded, v1alpha1.ReasonEvicted}, moveTook: &took}},
		{"an attempt of a move fails", moving, moves(state(lifecycle.SandboxRunning, running, paused(no, v1alpha1.ReasonRegistryUnavailable))),
			sandboxChange{attempt: &ended{outcome: failed, reason: v1alpha1.ReasonRegistryUnavailable}}},
		{"the Pod is lost under a move", moves(state(lifecycle.SandboxPausing, running, paused(no, v1alpha1.ReasonMoving))), in("", state(lifecycle.SandboxResuming, running, paused(no, v1alpha1.ReasonResuming), lost(yes, "gone"))),
			sandboxChange{attempt: &ended{outcome: canceled}, lost: v1alpha1.ReasonPodLost, move: &ended{failed, v1alpha1.ReasonEvicted}}},
		{"a pause takes the place of a move", moves(pausing), in("", state(lifecycle.SandboxPaused, pause, paused(yes, v1alpha1.ReasonPaused))),
			sandboxChange{attempt: &ended{outcome: succeeded}, move: &ended{canceled, v1alpha1.ReasonEvicted}}},
		{"nobody wants it any more", moves(up), in("one", up), sandboxChange{move: &ended{canceled, v1alpha1.ReasonEvicted}}},
		{"a create is nothing yet", nil, up, sandboxChange{}},
		{"nothing has changed", up, up, sandboxChange{}},
		{"a pause begins", up, pausing, sandboxChange{}},
		{"a pause succeeds", pausing, state(lifecycle.SandboxPaused, pause, paused(yes, v1alpha1.ReasonPaused), ready(no, v1alpha1.ReasonPaused, noon)),
			sandboxChange{attempt: &ended{outcome: succeeded}, pauseTook: &took}},
		{"a pause that has succeeded is written once more", state(lifecycle.SandboxPaused, pause, paused(yes, v1alpha1.ReasonPaused)),
			state(lifecycle.SandboxPaused, pause, paused(yes, v1alpha1.ReasonPaused)), sandboxChange{}},
		{"a resume was asked for after the point of no return", pausing, state(lifecycle.SandboxResuming, running, paused(no, v1alpha1.ReasonResuming)),
			sandboxChange{attempt: &ended{outcome: succeeded}}},
		{"an attempt fails", pausing, state(lifecycle.SandboxRunning, pause, paused(no, v1alpha1.ReasonRegistryUnavailable), ready(yes, v1alpha1.ReasonPodReady, later)),
			sandboxChange{attempt: &ended{outcome: failed, reason: v1alpha1.ReasonRegistryUnavailable}}},
		{"an attempt fails for something made up", pausing, state(lifecycle.SandboxRunning, pause, paused(no, "demo-7f9c")),
			sandboxChange{attempt: &ended{outcome: failed, reason: "Other"}}},
		{"the Pod is lost under a pause", pausing, state(lifecycle.SandboxFailed, pause, paused(no, v1alpha1.ReasonNoSnapshot), lost(yes, "gone")),
			sandboxChange{attempt: &ended{outcome: failed, reason: v1alpha1.ReasonNoSnapshot}, lost: v1alpha1.ReasonPodLost}},
		{"a pause is cancelled", canceling, up, sandboxChange{attempt: &ended{outcome: canceled}}},
		{"a resume succeeds at once", resuming, up, sandboxChange{resume: &ended{outcome: succeeded}, resumeTook: &took}},
		{"a resume succeeds, and is not Ready yet", resuming, started, sandboxChange{resume: &ended{outcome: succeeded}}},
		{"and then it is Ready", started, up, sandboxChange{resumeTook: &took}},
		{"a readiness that comes and goes",
			state(lifecycle.SandboxRunning, running, ready(no, v1alpha1.ReasonPodNotReady, noon.Add(time.Minute))), up, sandboxChange{}},
		{"a resume fails", resuming, state(lifecycle.SandboxFailed, running, ready(no, v1alpha1.ReasonSnapshotNotFound, noon)),
			sandboxChange{resume: &ended{outcome: failed, reason: v1alpha1.ReasonSnapshotNotFound}}},
		{"a resume is taken back", resuming, state(lifecycle.SandboxPaused, pause, paused(yes, v1alpha1.ReasonPaused)),
			sandboxChange{resume: &ended{outcome: canceled}}},
		{"files are lost again", state(lifecycle.SandboxRunning, running, lost(yes, "main at noon")), state(lifecycle.SandboxRunning, running, lost(yes, "main at one")),
			sandboxChange{lost: v1alpha1.ReasonPodLost}},
		{"what was lost is still told", state(lifecycle.SandboxRunning, running, lost(yes, "gone")), state(lifecycle.SandboxRunning, running, lost(yes, "gone")), sandboxChange{}},
		{"what was lost is made up for", state(lifecycle.SandboxRunning, running, lost(yes, "gone")), state(lifecycle.SandboxRunning, running, lost(no, "saved")), sandboxChange{}},
	} {
		if got := ofSandbox(test.before, test.after, later); !reflect.DeepEqual(got, test.want) {
			t.Errorf("%s: %s, want %s", test.name, got, test.want)
		}
	}
	unasked := up.DeepCopy()
	unasked.Status.LastRequestTime = nil
	if got := ofSandbox(started, unasked, later); got.resumeTook != nil {
		t.Errorf("a sandbox that nobody has ever resumed took %v to do so", *got.resumeTook)
	}
	if got := ofSandbox(resuming, up, noon.Add(-time.Second)); *got.resumeTook != 0 {
		t.Errorf("with a clock that is behind it took %v", *got.resumeTook)
	}
}

// String is what a failing test shows.
func (c sandboxChange) String() string {
	text := "{"
	for name, end := range map[string]*ended{"attempt": c.attempt, "resume": c.resume, "move": c.move} {
		if end != nil {
			text += " " + name + " " + end.outcome + " " + end.reason
		}
	}
	for name, took := range map[string]*time.Duration{"pause": c.pauseTook, "resume": c.resumeTook, "move": c.moveTook} {
		if took != nil {
			text += " " + name + " took " + took.String()
		}
	}
	return text + " lost " + c.lost + "}"
}

func TestChangesOfASnapshot(t *testing.T) {
	at := func(seconds int) *metav1.Time {
		return &metav1.Time{Time: noon.Truncate(time.Second).Add(time.Duration(seconds) * time.Second)}
	}
	made := func(phase lifecycle.SandboxSnapshotPhase, change func(*lifecycle.SandboxSnapshot)) *lifecycle.SandboxSnapshot {
		snapshot := &lifecycle.SandboxSnapshot{ObjectMeta: metav1.ObjectMeta{CreationTimestamp: *at(0)}, Status: lifecycle.SandboxSnapshotStatus{Phase: phase}}
		if change != nil {
			change(snapshot)
		}
		return snapshot
	}
	begun := func(s *lifecycle.SandboxSnapshot) { s.Status.StartTime, s.Status.JobUID = at(7), "job" }
	done := func(s *lifecycle.SandboxSnapshot) {
		s.Status.JobUID, s.Status.StartTime, s.Status.CompletionTime = "job", at(7), at(12)
		s.Status.FrozenDuration = &metav1.Duration{Duration: 120 * time.Millisecond}
		s.Status.Containers = []lifecycle.ContainerSnapshot{{LayerBytes: 1000}, {LayerBytes: 24}}
	}
	copied := func(s *lifecycle.SandboxSnapshot) {
		done(s)
		s.Status.JobUID, s.Status.FrozenDuration = "", nil
	}
	failedFor := func(reason string) func(*lifecycle.SandboxSnapshot) {
		return func(s *lifecycle.SandboxSnapshot) {
			s.Status.Conditions = []metav1.Condition{{Type: v1alpha1.ConditionFailed, Status: metav1.ConditionTrue, Reason: reason}}
			s.Status.CompletionTime = at(12)
		}
	}
	waited, took, frozen := 7*time.Second, 5*time.Second, 120*time.Millisecond
	for _, test := range []struct {
		name          string
		before, after *lifecycle.SandboxSnapshot
		want          snapshotChange
	}{
		{"it waits", made(lifecycle.SnapshotPending, nil), made(lifecycle.SnapshotPending, nil), snapshotChange{}},
		{"its Job is made", made(lifecycle.SnapshotPending, nil), made(lifecycle.SnapshotCommitting, begun), snapshotChange{waited: &waited}},
		{"it succeeds", made(lifecycle.SnapshotCommitting, begun), made(lifecycle.SnapshotSucceed, done),
			snapshotChange{end: &ended{outcome: succeeded}, took: &took, frozen: &frozen, bytes: 1024}},
		{"it has succeeded, and something else is written", made(lifecycle.SnapshotSucceed, done), made(lifecycle.SnapshotSucceed, done), snapshotChange{}},
		{"it fails before there is a Job", made(lifecycle.SnapshotPending, nil), made(lifecycle.SnapshotFailed, failedFor(v1alpha1.ReasonPushSecretNotFound)),
			snapshotChange{end: &ended{outcome: failed, reason: v1alpha1.ReasonPushSecretNotFound}}},
		{"it fails for something made up", made(lifecycle.SnapshotCommitting, begun), made(lifecycle.SnapshotFailed, failedFor("x")),
			snapshotChange{end: &ended{outcome: failed, reason: "Other"}}},
		{"a copy begins", made(lifecycle.SnapshotPending, nil), made(lifecycle.SnapshotPending, copied), snapshotChange{}},
		{"it is a copy", made(lifecycle.SnapshotPending, copied), made(lifecycle.SnapshotSucceed, copied), snapshotChange{end: &ended{outcome: succeeded}}},
	} {
		test.want.purpose = "user"
		if got := ofSnapshot(test.before, test.after); !reflect.DeepEqual(got, test.want) {
			t.Errorf("%s: %+v, want %+v", test.name, got, test.want)
		}
	}
	ofAPause := made(lifecycle.SnapshotPending, func(s *lifecycle.SandboxSnapshot) { s.Spec.Pause = &lifecycle.SnapshotPause{} })
	if got := ofSnapshot(ofAPause, ofAPause); got.purpose != "pause" {
		t.Errorf("the snapshot of a pause is for %q", got.purpose)
	}
}
