//go:build e2e

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

package e2e

import (
	"errors"
	"strings"
	"testing"
	"time"

	batchv1 "k8s.io/api/batch/v1"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/utils/ptr"

	"github.com/opensandbox-io/sandbox-apiserver/apis/lifecycle/v1alpha1"
)

// goodScene has a sandbox that runs while a user's snapshot of it is made, and one that is paused.
func goodScene() *scene {
	condition := func(kind string, is metav1.ConditionStatus, reason string) metav1.Condition {
		return metav1.Condition{Type: kind, Status: is, Reason: reason}
	}
	runs := v1alpha1.Sandbox{ObjectMeta: metav1.ObjectMeta{Name: "runs", UID: "runs"}, Status: v1alpha1.SandboxStatus{
		Phase: v1alpha1.SandboxRunning, PodName: "runs", PodUID: "pod",
		Conditions: []metav1.Condition{condition(v1alpha1.ConditionReady, metav1.ConditionTrue, "Running"), condition(v1alpha1.ConditionPaused, metav1.ConditionFalse, "Running")},
	}}
	rests := v1alpha1.Sandbox{ObjectMeta: metav1.ObjectMeta{Name: "rests", UID: "rests"}, Status: v1alpha1.SandboxStatus{
		Phase: v1alpha1.SandboxPaused, SnapshotName: "rests-gen1",
		Conditions: []metav1.Condition{condition(v1alpha1.ConditionReady, metav1.ConditionFalse, "Paused"), condition(v1alpha1.ConditionPaused, metav1.ConditionTrue, "Paused")},
	}}
	saved := v1alpha1.SandboxSnapshot{
		ObjectMeta: metav1.ObjectMeta{Name: "rests-gen1", UID: "saved"},
		Spec:       v1alpha1.SandboxSnapshotSpec{SandboxName: "rests", Pause: &v1alpha1.SnapshotPause{}},
		Status:     v1alpha1.SandboxSnapshotStatus{Phase: v1alpha1.SnapshotSucceed, Containers: []v1alpha1.ContainerSnapshot{{ContainerName: "main", ImageURI: "r/a:t", ImageDigest: "sha256:a"}}},
	}
	mine := v1alpha1.SandboxSnapshot{
		ObjectMeta: metav1.ObjectMeta{Name: "mine", UID: "mine"}, Spec: v1alpha1.SandboxSnapshotSpec{SandboxName: "runs"},
		Status: v1alpha1.SandboxSnapshotStatus{Phase: v1alpha1.SnapshotCommitting, SourcePodUID: "pod"},
	}
	return &scene{
		now: time.Now(), reset: map[string]bool{}, refusals: map[string]string{}, frozen: []string{"runs/main"}, leases: []string{"mine"},
		sandboxes: []v1alpha1.Sandbox{runs, rests}, snapshots: []v1alpha1.SandboxSnapshot{saved, mine},
		pods: []corev1.Pod{{ObjectMeta: metav1.ObjectMeta{Name: "runs", UID: "pod"}, Status: corev1.PodStatus{
			Conditions:        []corev1.PodCondition{{Type: corev1.PodReady, Status: corev1.ConditionTrue}},
			ContainerStatuses: []corev1.ContainerStatus{{Name: "main"}},
		}}},
		jobs:     []batchv1.Job{{ObjectMeta: metav1.ObjectMeta{Name: "mine-commit", UID: "job"}}},
		jobPods:  []corev1.Pod{commitPodIn("mine-commit-x", corev1.ContainerState{Running: &corev1.ContainerStateRunning{}})},
		readings: []reading{{sandbox: "runs", told: 7, there: 8}},
	}
}

func commitPodIn(name string, state corev1.ContainerState) corev1.Pod {
	return corev1.Pod{
		ObjectMeta: metav1.ObjectMeta{
			Name: name, OwnerReferences: []metav1.OwnerReference{{Kind: "Job", UID: "job", Controller: ptr.To(true)}},
			Labels: map[string]string{v1alpha1.LabelComponent: "commit", v1alpha1.LabelSnapshotUID: "mine", v1alpha1.LabelPodUID: "pod"},
		},
		Status: corev1.PodStatus{ContainerStatuses: []corev1.ContainerStatus{{Name: "image-committer", State: state}}},
	}
}

// TestTheInvariantsSeeWhatIsWrong has what they are to find, one at a time.
func TestTheInvariantsSeeWhatIsWrong(t *testing.T) {
	ended := func(code int32) corev1.ContainerState {
		return corev1.ContainerState{Terminated: &corev1.ContainerStateTerminated{ExitCode: code}}
	}
	restart := func(last *corev1.ContainerStateTerminated) func(*scene) {
		return func(s *scene) {
			status := &s.pods[0].Status.ContainerStatuses[0]
			status.RestartCount, status.LastTerminationState.Terminated = 1, last
		}
	}
	ran := &corev1.ContainerStateTerminated{Reason: "Error", StartedAt: metav1.Now()}
	for name, test := range map[string]struct {
		change func(*scene)
		says   string // nothing is wrong where it is empty
	}{
		"nothing":                        {func(*scene) {}, ""},
		"conditions and phase disagree":  {func(s *scene) { s.sandboxes[1].Status.Phase = v1alpha1.SandboxPausing }, "the condition Paused and the phase disagree"},
		"running without a Pod":          {func(s *scene) { s.pods, s.frozen = nil, nil }, "its Pod is not there"},
		"ready in words":                 {func(s *scene) { s.pods[0].Status.Conditions = nil }, "it says Ready, and its Pod is not"},
		"paused, with a Pod":             {func(s *scene) { s.pods[0].Labels = map[string]string{v1alpha1.LabelSandboxUID: "rests"} }, "it says Paused, and has a Pod"},
		"paused on a failure":            {func(s *scene) { s.snapshots[0].Status.Phase = v1alpha1.SnapshotFailed }, "its snapshot has not succeeded"},
		"paused without a digest":        {func(s *scene) { s.snapshots[0].Status.Containers[0].ImageDigest = "" }, "has no image of container main"},
		"no verb leads on":               {func(s *scene) { s.refusals["rests"] = "409" }, "no verb leads on: 409"},
		"frozen without a commit":        {func(s *scene) { s.snapshots[1].Status.Phase = v1alpha1.SnapshotFailed }, "container runs/main is frozen"},
		"frozen for a pause":             {func(s *scene) { s.snapshots, s.sandboxes = nil, s.sandboxes[:1]; pauses(&s.sandboxes[0]) }, ""},
		"restarted":                      {restart(ran), "container main was restarted 1 times"},
		"restarted, which is said":       {func(s *scene) { restart(ran)(s); s.reset["runs"] = true }, ""},
		"restarted, and never ran":       {restart(&corev1.ContainerStateTerminated{Reason: "StartError", StartedAt: metav1.Now()}), ""},
		"two commits of one Pod":         {func(s *scene) { s.jobPods = append(s.jobPods, commitPodIn("other", corev1.ContainerState{})) }, "mine-commit-x and other commit the same Pod"},
		"two commits, of which one ends": {func(s *scene) { s.jobPods = append(s.jobPods, commitPodIn("other", ended(1))) }, ""},
		"a Pod without its Job":          {func(s *scene) { s.jobs = nil }, "is there without its Job"},
		"a Job beyond its time": {func(s *scene) {
			s.jobs[0].Status.Conditions = []batchv1.JobCondition{{Type: batchv1.JobFailed, Status: corev1.ConditionTrue, LastTransitionTime: metav1.NewTime(s.now.Add(-8 * time.Minute))}}
		}, "Job mine-commit has ended 8m0s ago"},
		"a lease that was forgotten": {func(s *scene) { s.jobPods[0] = commitPodIn("x", ended(1)) }, "its lease in containerd is there"},
		"a lease of who was killed":  {func(s *scene) { s.jobPods[0] = commitPodIn("x", ended(137)) }, ""},
		"an upload":                  {func(s *scene) { s.uploads = []string{"a/_uploads/1"} }, "a/_uploads/1"},
		"lines that are lost":        {func(s *scene) { s.readings[0].there = 6 }, "7 lines were acknowledged and 6 are there"},
		"lines that are said lost":   {func(s *scene) { s.readings[0].there, s.readings[0].moved = 6, "DataLost" }, ""},
		"lines missing in between":   {func(s *scene) { s.readings[0].incomplete = "line 3 is 4" }, "line 3 is 4"},
		"too many snapshots":         {func(s *scene) { s.more(6, v1alpha1.SnapshotSucceed) }, "snapshots of its pauses, of which it keeps 3"},
		"too many attempts":          {func(s *scene) { s.more(3, v1alpha1.SnapshotFailed) }, "there are 3 failed attempts"},
		"two attempts that go on":    {func(s *scene) { s.more(2, v1alpha1.SnapshotCommitting) }, "and 2 that have not ended"},
		"snapshots that are let go":  {func(s *scene) { s.more(6, v1alpha1.SnapshotSucceed); s.letGo() }, ""},
		"all of them, after a loss":  {func(s *scene) { s.more(6, v1alpha1.SnapshotSucceed); s.loses() }, ""},
		"a Pod on its way out": {func(s *scene) {
			s.snapshots[1].Status.Phase = v1alpha1.SnapshotSucceed
			now := metav1.Now()
			s.pods[0].DeletionTimestamp = &now
		}, ""},
		"frozen, of no Pod": {func(s *scene) { s.frozen = []string{"other/main"} }, "its Pod is not there"},
		"files lost, and not restful": {func(s *scene) {
			s.sandboxes[1].Status.Conditions[1] = metav1.Condition{Type: v1alpha1.ConditionPaused, Status: metav1.ConditionFalse, Reason: v1alpha1.ReasonFilesLost}
		}, ""},
	} {
		t.Run(name, func(t *testing.T) {
			s := goodScene()
			test.change(s)
			problems := strings.Join(s.problems(), "\n")
			if test.says == "" && problems != "" || !strings.Contains(problems, test.says) {
				t.Errorf("the problems are %q, want %q", problems, test.says)
			}
		})
	}
}

func pauses(sandbox *v1alpha1.Sandbox) {
	sandbox.Status.Phase = v1alpha1.SandboxPausing
	sandbox.Status.Conditions[0].Status = metav1.ConditionFalse
}

// more are snapshots of pauses of the sandbox that rests.
func (s *scene) more(n int, phase v1alpha1.SandboxSnapshotPhase) {
	for range n {
		another := s.snapshots[0].DeepCopy()
		another.Name, another.UID, another.Status.Phase = another.Name+"1", another.UID+types.UID("1"), phase
		s.snapshots = append(s.snapshots, *another)
	}
}

func (s *scene) letGo() {
	now := metav1.Now()
	for i := range s.snapshots[2:] {
		s.snapshots[i+2].DeletionTimestamp = &now
	}
}

func (s *scene) loses() {
	s.sandboxes[1].Status.Conditions = append(s.sandboxes[1].Status.Conditions, metav1.Condition{Type: v1alpha1.ConditionDataLost, Status: metav1.ConditionTrue})
}

// TestATallySeesWhatIsLost has a sandbox whose second Pod begins with less than the first has told of.
func TestATallySeesWhatIsLost(t *testing.T) {
	began := time.Now()
	for name, test := range map[string]struct {
		change func(*tally)
		lost   bool
	}{
		"nobody says so":             {func(*tally) {}, true},
		"DataLost does":              {func(y *tally) { y.said["second"] = true }, false},
		"DataLost does, of another":  {func(y *tally) { y.said["first"] = true }, true},
		"somebody wanted that":       {func(y *tally) { y.wanted = []time.Time{began.Add(time.Minute)} }, false},
		"somebody wants that since":  {func(y *tally) { y.wanted = []time.Time{began.Add(time.Hour)} }, true},
		"it begins where it was":     {func(y *tally) { y.lives["b"].start = 70 }, false},
		"it says something wrong":    {func(y *tally) { y.lives["b"].start, y.wrong = 70, []string{"ready, and not running"} }, true},
		"nobody has heard how it is": {func(y *tally) { y.lives["b"].start, y.ended = 70, errors.New("410") }, true},
	} {
		y := &tally{sandbox: "demo", said: map[types.UID]bool{}, order: []string{"a", "b"}, lives: map[string]*talliedLife{
			"a": {pod: "first", heard: began, start: 0, last: 70}, "b": {pod: "second", heard: began.Add(2 * time.Minute), start: 50, last: 60},
		}}
		test.change(y)
		if problems := y.problems(); (len(problems) > 0) != test.lost {
			t.Errorf("%s: the problems are %q", name, problems)
		}
	}
}
