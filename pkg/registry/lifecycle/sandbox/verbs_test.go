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
	"testing"
	"time"
	"unicode"

	corev1 "k8s.io/api/core/v1"
	apiequality "k8s.io/apimachinery/pkg/api/equality"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"

	"github.com/opensandbox-io/sandbox-apiserver/apis/lifecycle"
	"github.com/opensandbox-io/sandbox-apiserver/apis/lifecycle/v1alpha1"
)

var (
	earlier = time.Date(2026, 1, 1, 0, 0, 0, 0, time.UTC)
	now     = earlier.Add(time.Hour)
)

const (
	running = lifecycle.DesiredStateRunning
	paused  = lifecycle.DesiredStatePaused
)

// in makes a sandbox in a state of the table, as verbs and controller leave it.
func in(at state, desired lifecycle.SandboxDesiredState) *lifecycle.Sandbox {
	s := &lifecycle.Sandbox{
		ObjectMeta: metav1.ObjectMeta{Name: "demo", Namespace: "ns", UID: "uid", Generation: 7},
		Spec:       lifecycle.SandboxSpec{DesiredState: desired, Template: &corev1.PodTemplateSpec{}},
		Status:     lifecycle.SandboxStatus{SnapshotName: "demo-gen3", SnapshotAttempts: 4, FailedAttempts: 2},
	}
	set := func(phase lifecycle.SandboxPhase, ready, paused string) {
		s.Status.Phase = phase
		setCondition(s, v1alpha1.ConditionReady, ready, "", earlier)
		setCondition(s, v1alpha1.ConditionPaused, paused, "", earlier)
	}
	switch at {
	case statePending:
		set(lifecycle.SandboxPending, v1alpha1.ReasonPending, v1alpha1.ReasonPending)
	case stateRunning:
		set(lifecycle.SandboxRunning, v1alpha1.ReasonPodReady, v1alpha1.ReasonRunning)
	case stateEnded:
		set(lifecycle.SandboxRunning, v1alpha1.ReasonContainersEnded, v1alpha1.ReasonRunning)
	case statePausing:
		set(lifecycle.SandboxPausing, v1alpha1.ReasonPausing, v1alpha1.ReasonQueued)
	case stateMoving:
		set(lifecycle.SandboxPausing, v1alpha1.ReasonPodReady, v1alpha1.ReasonMoving)
		moved(s)
	case stateCanceling:
		set(lifecycle.SandboxPausing, v1alpha1.ReasonCanceling, v1alpha1.ReasonCanceling)
	case stateMarked:
		set(lifecycle.SandboxPausing, v1alpha1.ReasonPausing, v1alpha1.ReasonRemovingPod)
	case statePaused:
		set(lifecycle.SandboxPaused, v1alpha1.ReasonPaused, v1alpha1.ReasonPaused)
	case stateResuming:
		set(lifecycle.SandboxResuming, v1alpha1.ReasonResuming, v1alpha1.ReasonResuming)
	case stateFailed:
		set(lifecycle.SandboxFailed, v1alpha1.ReasonNoSnapshot, v1alpha1.ReasonNoSnapshot)
	case stateUnknown:
		set("Hibernating", "Hibernating", "Hibernating")
	case stateDeleting:
		set(lifecycle.SandboxRunning, v1alpha1.ReasonPodReady, v1alpha1.ReasonRunning)
		s.DeletionTimestamp = &metav1.Time{Time: earlier}
	}
	return s
}

// moved: the Pod is to go.
func moved(s *lifecycle.Sandbox) {
	s.Status.PodName, s.Status.PodUID = "demo", "pod"
	s.Status.Move = &lifecycle.SandboxMove{PodUID: "pod", NodeName: "node", Reason: v1alpha1.ReasonEvicted}
}

// outcome is what a row of the table says.
type outcome struct {
	// refused: 409 with this cause. Nothing else counts then.
	refused metav1.CauseType
	// asItIs: the same object.
	asItIs bool

	desired       lifecycle.SandboxDesiredState
	phase         lifecycle.SandboxPhase
	ready, paused string
	snapshot      string
	attempts      int64
	failed        int32
	// prior is what the sandbox goes back to where a resume is taken back.
	prior string
}

func refused(cause metav1.CauseType) outcome { return outcome{refused: cause} }

var asItIs = outcome{asItIs: true}

func (want outcome) check(t *testing.T, before, original, got *lifecycle.Sandbox, refusal *Refusal) {
	t.Helper()
	if !apiequality.Semantic.DeepEqual(before, original) {
		t.Errorf("changed its argument")
	}
	if want.refused != "" {
		if got != nil || refusal == nil || refusal.Cause.Type != want.refused || refusal.Cause.Message == "" || refusal.Cause.Field == "" {
			t.Errorf("got %+v and refusal %+v, want cause %s", got, refusal, want.refused)
		}
		return
	}
	if refusal != nil {
		t.Fatalf("refused: %+v", refusal)
	}
	if want.asItIs {
		if got != before {
			t.Errorf("not as it is: %+v", got)
		}
		return
	}
	is := outcome{
		desired: got.Spec.DesiredState, phase: got.Status.Phase,
		ready: reasonOf(got, v1alpha1.ConditionReady), paused: reasonOf(got, v1alpha1.ConditionPaused),
		snapshot: got.Status.SnapshotName, attempts: got.Status.SnapshotAttempts, failed: got.Status.FailedAttempts,
		prior: got.Status.PriorSnapshotName,
	}
	if is != want {
		t.Errorf("got  %+v\nwant %+v", is, want)
	}
	if requested := got.Status.LastRequestTime; requested == nil || !requested.Time.Equal(now) {
		t.Errorf("lastRequestTime is %v", requested)
	}
	generation := before.Generation
	if before.Spec.DesiredState != got.Spec.DesiredState {
		generation++
	}
	if got.Generation != generation {
		t.Errorf("the generation is %d, want %d", got.Generation, generation)
	}
	for i, condition := range got.Status.Conditions {
		if i < len(before.Status.Conditions) && condition == before.Status.Conditions[i] {
			continue
		}
		if condition.ObservedGeneration != generation || condition.Status != metav1.ConditionFalse {
			t.Errorf("condition %+v", condition)
		}
		// As those of the controllers, with which they stand in one table.
		if message := condition.Message; message == "" || strings.HasSuffix(message, ".") || unicode.IsUpper([]rune(message)[0]) {
			t.Errorf("the message of condition %s is no part of a sentence: %q", condition.Type, message)
		}
	}
}

func TestPause(t *testing.T) {
	starts := outcome{
		desired: paused, phase: lifecycle.SandboxPausing, ready: v1alpha1.ReasonPausing, paused: v1alpha1.ReasonPausing,
		snapshot: "demo-gen3", attempts: 5, failed: 2,
	}
	takenBack := func(phase lifecycle.SandboxPhase) outcome {
		return outcome{
			desired: paused, phase: phase, ready: v1alpha1.ReasonWithdrawing, paused: v1alpha1.ReasonWithdrawing,
			snapshot: "demo-gen3", attempts: 4, failed: 2,
		}
	}
	// unchanged but for the desired state.
	wanted := func(at state) outcome {
		s := in(at, paused)
		return outcome{
			desired: paused, phase: s.Status.Phase,
			ready: reasonOf(s, v1alpha1.ConditionReady), paused: reasonOf(s, v1alpha1.ConditionPaused),
			snapshot: "demo-gen3", attempts: 4, failed: 2,
		}
	}
	for _, row := range []struct {
		at   state
		when string
		with func(*lifecycle.Sandbox)
		want outcome
	}{
		{at: statePending, want: takenBack(lifecycle.SandboxPending)},
		{at: statePending, when: "again", with: desire(paused), want: asItIs},
		{at: statePending, when: "before the controller saw it", with: func(s *lifecycle.Sandbox) { s.Status = lifecycle.SandboxStatus{} }, want: outcome{
			desired: paused, ready: v1alpha1.ReasonWithdrawing, paused: v1alpha1.ReasonWithdrawing,
		}},
		{at: stateRunning, want: starts},
		{at: stateRunning, when: "after a failed pause", with: desire(paused), want: starts},
		{at: stateEnded, want: starts},
		{at: statePausing, with: desire(paused), want: asItIs},
		{at: statePausing, when: "an update asked for Running", want: wanted(statePausing)},
		{at: stateMoving, want: outcome{
			desired: paused, phase: lifecycle.SandboxPausing, ready: v1alpha1.ReasonPausing, paused: v1alpha1.ReasonPausing,
			snapshot: "demo-gen3", attempts: 4, failed: 2,
		}},
		{at: stateMoving, when: "its commit waits", with: func(s *lifecycle.Sandbox) {
			setCondition(s, v1alpha1.ConditionPaused, v1alpha1.ReasonQueued, "", earlier)
		}, want: outcome{
			desired: paused, phase: lifecycle.SandboxPausing, ready: v1alpha1.ReasonPausing, paused: v1alpha1.ReasonPausing,
			snapshot: "demo-gen3", attempts: 4, failed: 2,
		}},
		{at: stateRunning, when: "to be moved", with: moved, want: starts},
		{at: stateMarked, when: "moved", with: moved, want: wanted(stateMarked)},
		{at: stateCanceling, want: refused(CauseCanceling)},
		{at: stateMarked, with: desire(paused), want: asItIs},
		{at: stateMarked, when: "a resume waits for it", want: wanted(stateMarked)},
		{at: statePaused, with: desire(paused), want: asItIs},
		{at: statePaused, when: "an update asked for Running", want: wanted(statePaused)},
		{at: stateResuming, want: takenBack(lifecycle.SandboxResuming)},
		{at: stateResuming, when: "again", with: desire(paused), want: asItIs},
		{at: stateResuming, when: "while the Pod of before is still being removed", with: removesPod, want: outcome{
			desired: paused, phase: lifecycle.SandboxResuming, ready: v1alpha1.ReasonWithdrawing, paused: v1alpha1.ReasonRemovingPod,
			snapshot: "demo-gen3", attempts: 4, failed: 2,
		}},
		{at: stateUnknown, want: refused(CausePhase)},
		{at: stateFailed, want: refused(CausePhase)},
		{at: stateFailed, when: "its Pod is there", with: func(s *lifecycle.Sandbox) { s.Status.PodUID = "pod" }, want: starts},
		{at: stateFailed, when: "its Pod was lost before its files were saved", with: filesLost, want: outcome{
			desired: paused, phase: lifecycle.SandboxPaused, ready: v1alpha1.ReasonFilesLost, paused: v1alpha1.ReasonFilesLost, snapshot: "demo-gen3", attempts: 4, failed: 2,
		}},
		{at: stateFailed, when: "its Pod was lost before its files were ever saved", with: func(s *lifecycle.Sandbox) {
			filesLost(s)
			s.Status.SnapshotName = ""
		}, want: refused(CausePhase)},
		{at: stateRunning, when: "after a pause that saw files go", with: func(s *lifecycle.Sandbox) {
			desire(paused)(s)
			filesLost(s)
		}, want: starts},
		{at: stateDeleting, want: refused(CauseDeleting)},
	} {
		t.Run(string(row.at)+" "+row.when, func(t *testing.T) {
			before := in(row.at, running)
			if row.with != nil {
				row.with(before)
			}
			original := before.DeepCopy()
			got, refusal := Pause(before, now)
			row.want.check(t, before, original, got, refusal)
		})
	}
}

func removesPod(s *lifecycle.Sandbox) {
	setCondition(s, v1alpha1.ConditionPaused, v1alpha1.ReasonRemovingPod, "", earlier)
}

func onPod(s *lifecycle.Sandbox) { s.Status.PodName, s.Status.PodUID = "demo", "pod" }

func filesLost(s *lifecycle.Sandbox) {
	setCondition(s, v1alpha1.ConditionPaused, v1alpha1.ReasonFilesLost, "", earlier)
}

func desire(state lifecycle.SandboxDesiredState) func(*lifecycle.Sandbox) {
	return func(s *lifecycle.Sandbox) { s.Spec.DesiredState = state }
}

// Whoever asks for something does not wait for what failed before.
func TestARequestEndsTheWait(t *testing.T) {
	later := metav1.NewMicroTime(now.Add(time.Minute))
	waits := func(at state, desired lifecycle.SandboxDesiredState) *lifecycle.Sandbox {
		s := in(at, desired)
		s.Status.FailedPods, s.Status.RetryTime = 3, &later
		return s
	}
	pause := func(s *lifecycle.Sandbox) (*lifecycle.Sandbox, *Refusal) { return Pause(s, now) }
	resume := func(s *lifecycle.Sandbox) (*lifecycle.Sandbox, *Refusal) {
		return Resume(s, &lifecycle.SandboxResume{}, nil, now)
	}
	for name, test := range map[string]struct {
		before *lifecycle.Sandbox
		verb   func(*lifecycle.Sandbox) (*lifecycle.Sandbox, *Refusal)
	}{
		"a pause that failed is asked for again": {waits(stateRunning, paused), pause},
		// https://github.com/kubevirt/kubevirt/pull/8836: there, what a person asks for waited as what had failed before.
		"a move that failed, and a pause is asked for": {func() *lifecycle.Sandbox {
			s := waits(stateRunning, running)
			moved(s)
			return s
		}(), pause},
		"a pause that failed is given up": {waits(stateRunning, paused), resume},
		"a first Pod that was refused":    {waits(statePending, running), resume},
		"a resume whose Pod was refused":  {waits(stateResuming, running), resume},
		"a resume":                        {waits(statePaused, paused), resume},
	} {
		got, refusal := test.verb(test.before)
		if refusal != nil || got.Status.RetryTime != nil || got.Status.FailedPods != 0 || !got.Status.LastRequestTime.Time.Equal(now) {
			t.Errorf("%s: %+v, refused: %+v", name, got, refusal)
		}
	}
}

func TestResume(t *testing.T) {
	resumes := func(snapshot string) outcome {
		return outcome{
			desired: running, phase: lifecycle.SandboxResuming, ready: v1alpha1.ReasonResuming, paused: v1alpha1.ReasonResuming,
			snapshot: snapshot, attempts: 4,
		}
	}
	replaces := func(snapshot string) outcome {
		want := resumes(snapshot)
		want.paused = v1alpha1.ReasonRemovingPod
		return want
	}
	withdrawn := func(at state) outcome {
		s := in(at, running)
		return outcome{
			desired: running, phase: s.Status.Phase, ready: reasonOf(s, v1alpha1.ConditionReady), paused: v1alpha1.ReasonRunning,
			snapshot: "demo-gen3", attempts: 4,
		}
	}
	// unchanged but for the desired state and the time.
	wanted := func(at state) outcome {
		s := in(at, running)
		return outcome{
			desired: running, phase: s.Status.Phase,
			ready: reasonOf(s, v1alpha1.ConditionReady), paused: reasonOf(s, v1alpha1.ConditionPaused),
			snapshot: "demo-gen3", attempts: 4, failed: 2,
		}
	}
	cancels := outcome{
		desired: running, phase: lifecycle.SandboxPausing, ready: v1alpha1.ReasonCanceling, paused: v1alpha1.ReasonCanceling,
		snapshot: "demo-gen3", attempts: 4, failed: 2,
	}
	// elsewhere is a resume from another source than the sandbox would have come from.
	elsewhere := func(want outcome) outcome {
		want.prior = "demo-gen3"
		return want
	}
	keepsPrior := func(s *lifecycle.Sandbox) { s.Status.PriorSnapshotName = "demo-gen2" }
	started := withdrawn(statePending)
	started.ready = v1alpha1.ReasonPending
	again := wanted(stateResuming)
	again.snapshot = ""
	older := lifecycle.SandboxResume{SnapshotName: "demo-gen1"}
	same := lifecycle.SandboxResume{SnapshotName: "demo-gen3"}
	fresh := lifecycle.SandboxResume{FromTemplate: true}
	noSnapshot := func(s *lifecycle.Sandbox) { s.Status.SnapshotName = "" }

	for _, row := range []struct {
		at      state
		when    string
		with    func(*lifecycle.Sandbox)
		request lifecycle.SandboxResume
		want    outcome
	}{
		{at: statePending, want: asItIs},
		{at: statePending, when: "a pause has kept it from starting", with: desire(paused), want: started},
		{at: statePending, when: "to the template", request: fresh, want: elsewhere(resumes(""))},
		{at: statePending, when: "to the template, in place of a Pod that hangs", with: onPod, request: fresh, want: elsewhere(replaces(""))},
		{at: stateRunning, want: asItIs},
		{at: stateRunning, when: "a pause waits for its next try", with: desire(paused), want: withdrawn(stateRunning)},
		{at: stateRunning, when: "to a snapshot", request: older, want: refused(CausePhase)},
		{at: stateRunning, when: "to the template", request: fresh, want: refused(CausePhase)},
		{at: stateEnded, want: refused(CauseContainersEnded)},
		{at: stateEnded, when: "a pause waits for its next try", with: desire(paused), want: refused(CauseContainersEnded)},
		{at: stateEnded, when: "to a snapshot", with: onPod, request: older, want: elsewhere(replaces("demo-gen1"))},
		{at: stateEnded, when: "to the template", with: onPod, request: fresh, want: elsewhere(replaces(""))},
		{at: statePausing, with: desire(paused), want: cancels},
		{at: statePausing, when: "an update asked for Running", want: cancels},
		{at: statePausing, when: "to a snapshot", with: desire(paused), request: older, want: refused(CausePhase)},
		{at: statePausing, when: "though its Pod is to go", with: func(s *lifecycle.Sandbox) {
			moved(s)
			s.Spec.DesiredState = paused
		}, want: outcome{
			desired: running, phase: lifecycle.SandboxPausing, ready: v1alpha1.ReasonMoving, paused: v1alpha1.ReasonMoving,
			snapshot: "demo-gen3", attempts: 4, failed: 2,
		}},
		{at: statePausing, when: "a Pod before it was to go", with: func(s *lifecycle.Sandbox) {
			moved(s)
			s.Status.PodUID, s.Spec.DesiredState = "another", paused
		}, want: cancels},
		{at: stateMoving, want: asItIs},
		{at: stateMoving, when: "to a snapshot", request: older, want: refused(CausePhase)},
		{at: stateMoving, when: "to the template", request: fresh, want: refused(CausePhase)},
		{at: stateRunning, when: "to be moved", with: moved, want: asItIs},
		{at: stateCanceling, want: asItIs},
		{at: stateCanceling, when: "an update asked for Paused", with: desire(paused), want: wanted(stateCanceling)},
		{at: stateCanceling, when: "to the template", request: fresh, want: refused(CausePhase)},
		{at: stateMarked, with: desire(paused), want: wanted(stateMarked)},
		{at: stateMarked, when: "again", want: wanted(stateMarked)},
		{at: stateMarked, when: "to a snapshot", request: older, want: refused(CausePhase)},
		{at: statePaused, with: desire(paused), want: resumes("demo-gen3")},
		{at: statePaused, when: "an update asked for Running", want: resumes("demo-gen3")},
		{at: statePaused, when: "to a snapshot", with: desire(paused), request: older, want: elsewhere(resumes("demo-gen1"))},
		{at: statePaused, when: "to the template", with: desire(paused), request: fresh, want: elsewhere(resumes(""))},
		{
			at: statePaused, when: "to a template that it has not", with: func(s *lifecycle.Sandbox) { s.Spec.Template = nil },
			request: fresh, want: refused(CauseNoTemplate),
		},
		{at: stateResuming, want: wanted(stateResuming)},
		{at: stateResuming, when: "it is being taken back", with: desire(paused), want: resumes("demo-gen3")},
		{at: stateResuming, when: "to the same snapshot", request: same, want: wanted(stateResuming)},
		{at: stateResuming, when: "to the same snapshot, in place of a Pod that hangs", with: func(s *lifecycle.Sandbox) {
			onPod(s)
			setCondition(s, v1alpha1.ConditionReady, v1alpha1.ReasonPodUnschedulable, "", earlier)
		}, request: same, want: replaces("demo-gen3")},
		{at: stateResuming, when: "to another snapshot", request: older, want: elsewhere(resumes("demo-gen1"))},
		{at: stateResuming, when: "to yet another snapshot", with: keepsPrior, request: older, want: func() outcome {
			want := resumes("demo-gen1")
			want.prior = "demo-gen2"
			return want
		}()},
		{at: stateResuming, when: "to the template", request: fresh, want: elsewhere(resumes(""))},
		{at: stateResuming, when: "to another snapshot, in place of a Pod that hangs", with: onPod, request: older, want: elsewhere(replaces("demo-gen1"))},
		{at: stateResuming, when: "to another snapshot, the ended Pod still being removed", with: removesPod, request: older, want: elsewhere(replaces("demo-gen1"))},
		{at: stateResuming, when: "from the template to the template", with: noSnapshot, request: fresh, want: again},
		{at: stateFailed, want: resumes("demo-gen3")},
		{at: stateFailed, when: "without a snapshot", with: noSnapshot, want: refused(CauseNoSnapshot)},
		{at: stateFailed, when: "without one, to the template", with: noSnapshot, request: fresh, want: resumes("")},
		{at: stateFailed, when: "without one, to an older one", with: noSnapshot, request: older, want: resumes("demo-gen1")},
		{at: stateDeleting, want: refused(CauseDeleting)},
		{at: stateUnknown, want: refused(CausePhase)},
		{at: stateUnknown, when: "to the template", request: fresh, want: refused(CausePhase)},
	} {
		t.Run(string(row.at)+" "+row.when, func(t *testing.T) {
			before := in(row.at, running)
			if row.with != nil {
				row.with(before)
			}
			var snapshot *lifecycle.SandboxSnapshot
			if row.request.SnapshotName != "" {
				snapshot = snapshotOf(before.UID)
			}
			original := before.DeepCopy()
			got, refusal := Resume(before, &row.request, snapshot, now)
			row.want.check(t, before, original, got, refusal)
		})
	}
}

func TestResumeRefusesSnapshots(t *testing.T) {
	for _, row := range []struct {
		name     string
		snapshot *lifecycle.SandboxSnapshot
		cause    metav1.CauseType
	}{
		{"missing", nil, CauseSnapshotNotFound},
		{"of another sandbox", snapshotOf("another"), CauseSnapshotOfAnother},
		{"failed", inPhase(lifecycle.SnapshotFailed), CauseSnapshotNotReady},
		{"committing", inPhase(lifecycle.SnapshotCommitting), CauseSnapshotNotReady},
		{"not yet seen", inPhase(""), CauseSnapshotNotReady},
		{"being deleted", deleting(snapshotOf("uid")), CauseSnapshotNotFound},
	} {
		t.Run(row.name, func(t *testing.T) {
			before := in(statePaused, paused)
			got, refusal := Resume(before, &lifecycle.SandboxResume{SnapshotName: "demo-gen1"}, row.snapshot, now)
			refused(row.cause).check(t, before, before.DeepCopy(), got, refusal)
			if refusal != nil && refusal.Cause.Field != "snapshotName" {
				t.Errorf("blames %s", refusal.Cause.Field)
			}
		})
	}
}

func snapshotOf(uid types.UID) *lifecycle.SandboxSnapshot {
	s := inPhase(lifecycle.SnapshotSucceed)
	s.Status.SandboxUID = uid
	return s
}

func inPhase(phase lifecycle.SandboxSnapshotPhase) *lifecycle.SandboxSnapshot {
	return &lifecycle.SandboxSnapshot{Status: lifecycle.SandboxSnapshotStatus{Phase: phase, SandboxUID: "uid"}}
}

func deleting(s *lifecycle.SandboxSnapshot) *lifecycle.SandboxSnapshot {
	s.DeletionTimestamp = &metav1.Time{Time: earlier}
	return s
}
