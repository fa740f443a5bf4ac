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
	"math"
	"strings"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/utils/ptr"

	"github.com/opensandbox-io/sandbox-apiserver/apis/lifecycle/v1alpha1"
)

func TestBeyond(t *testing.T) {
	tests := map[string]struct {
		limit *int32
		// attempts are the phases of demo-gen1, demo-gen2 …, by first letter; the list is shuffled.
		attempts, saved string
		want            string
	}{
		"none":                            {nil, "", "", ""},
		"as many as are kept":             {nil, "SSS", "demo-gen3", ""},
		"the oldest go":                   {nil, "SSSSS", "demo-gen5", "demo-gen2 demo-gen1"},
		"one is kept":                     {ptr.To[int32](1), "SSS", "demo-gen3", "demo-gen2 demo-gen1"},
		"the one that is needed stays":    {ptr.To[int32](1), "SSS", "demo-gen1", "demo-gen2"},
		"failed ones do not count":        {ptr.To[int32](2), "SSFFSF", "demo-gen5", "demo-gen4 demo-gen3 demo-gen1"},
		"the last failed one stays":       {nil, "FFF", "", "demo-gen2 demo-gen1"},
		"the order is that of numbers":    {ptr.To[int32](1), "SSSSSSSSSS", "demo-gen10", "demo-gen9 demo-gen8 demo-gen7 demo-gen6 demo-gen5 demo-gen4 demo-gen3 demo-gen2 demo-gen1"},
		"what is under way is left alone": {ptr.To[int32](1), "CPSPC", "demo-gen3", ""},
	}
	phases := map[rune]v1alpha1.SandboxSnapshotPhase{
		'S': v1alpha1.SnapshotSucceed, 'F': v1alpha1.SnapshotFailed, 'C': v1alpha1.SnapshotCommitting, 'P': v1alpha1.SnapshotPending,
	}
	for name, test := range tests {
		t.Run(name, func(t *testing.T) {
			var snapshots []v1alpha1.SandboxSnapshot
			for i, phase := range test.attempts {
				snapshot := *snapshotIn(phases[phase], named(fmt.Sprintf("demo-gen%d", i+1)))
				if i%2 == 0 {
					snapshots = append(snapshots, snapshot)
				} else {
					snapshots = append([]v1alpha1.SandboxSnapshot{snapshot}, snapshots...)
				}
			}
			sandbox := sandboxIn(v1alpha1.SandboxPaused, saved(test.saved))
			sandbox.Spec.Snapshot.HistoryLimit = test.limit
			var got []string
			for _, snapshot := range beyond(snapshots, sandbox) {
				got = append(got, snapshot.Name)
			}
			if strings.Join(got, " ") != test.want {
				t.Errorf("goes %q, want %q", got, test.want)
			}
		})
	}
}

func TestKept(t *testing.T) {
	at := func(kind string, status metav1.ConditionStatus, seconds int64) metav1.Condition {
		return metav1.Condition{Type: kind, Status: status, LastTransitionTime: metav1.Unix(seconds, 0)}
	}
	const lost, paused = v1alpha1.ConditionDataLost, v1alpha1.ConditionPaused
	tests := map[string]struct {
		limit      *int32
		conditions []metav1.Condition
		want       int32
	}{
		"by default three":                        {nil, nil, 3},
		"as many as it says":                      {ptr.To[int32](1), []metav1.Condition{at(paused, "True", 9)}, 1},
		"all while data is lost":                  {ptr.To[int32](1), []metav1.Condition{at(lost, "True", 5), at(paused, "True", 3)}, math.MaxInt32},
		"one from before with the next pause":     {ptr.To[int32](1), []metav1.Condition{at(lost, "False", 9), at(paused, "True", 9)}, 2},
		"and as long as no other pause succeeds":  {ptr.To[int32](1), []metav1.Condition{at(lost, "False", 9), at(paused, "False", 20)}, 2},
		"not after another pause":                 {ptr.To[int32](1), []metav1.Condition{at(lost, "False", 9), at(paused, "True", 30)}, 1},
		"where it is among the latest none extra": {ptr.To[int32](4), []metav1.Condition{at(lost, "False", 9), at(paused, "True", 9)}, 4},
	}
	for name, test := range tests {
		t.Run(name, func(t *testing.T) {
			sandbox := sandboxIn(v1alpha1.SandboxPaused)
			sandbox.Spec.Snapshot.HistoryLimit = test.limit
			sandbox.Status.Conditions = test.conditions
			if got := kept(sandbox); got != test.want {
				t.Errorf("keeps %d, want %d", got, test.want)
			}
		})
	}
}

func TestThePodOfASandboxThatGoes(t *testing.T) {
	frozen := []v1alpha1.SandboxSnapshot{*snapshotIn(v1alpha1.SnapshotSucceed)}
	others := []v1alpha1.SandboxSnapshot{*snapshotIn(v1alpha1.SnapshotFailed), *snapshotIn(v1alpha1.SnapshotSucceed, func(s *v1alpha1.SandboxSnapshot) { s.Status.SourcePodUID = "pod-0" })}
	tests := map[string]struct {
		pod       *corev1.Pod
		snapshots []v1alpha1.SandboxSnapshot
		do        verb
		grace     *int64
	}{
		"ends as it asks for":              {podOf(), others, deletePod, nil},
		"is ending":                        {podOf(terminating(30)), others, wait, nil},
		"is frozen":                        {podOf(), frozen, deletePod, shortGrace},
		"is frozen and waits for its kill": {podOf(terminating(30)), frozen, deletePod, shortGrace},
		"is frozen and about to be ended":  {podOf(terminating(1)), frozen, wait, nil},
	}
	for name, test := range tests {
		t.Run(name, func(t *testing.T) {
			if got := endOf(test.pod, test.snapshots); got.do != test.do || !ptr.Equal(got.grace, test.grace) {
				t.Errorf("%s with grace %v, want %s with %v", got.do, ptr.Deref(got.grace, -1), test.do, ptr.Deref(test.grace, -1))
			}
		})
	}
}

// The transition times of TestKept are those that a pause writes.
func TestThePauseThatEndsALossKeepsTheSnapshotFromBefore(t *testing.T) {
	sandbox := sandboxIn(v1alpha1.SandboxPausing, wantsPaused, onPod, removing, lostDataBy, attempts(2))
	sandbox.Spec.Snapshot.HistoryLimit = ptr.To[int32](1)
	before, after := *snapshotIn(v1alpha1.SnapshotSucceed), *snapshotIn(v1alpha1.SnapshotSucceed, named("demo-gen2"))
	ended := decide(observed{sandbox: sandbox, attempt: &after, now: epoch.Add(time.Hour)})
	if ended.do != writeStatus || ended.status.Phase != v1alpha1.SandboxPaused {
		t.Fatalf("the pause goes on with %+v", ended)
	}
	sandbox.Status = *ended.status
	if old := beyond([]v1alpha1.SandboxSnapshot{before, after}, sandbox); len(old) != 0 {
		t.Errorf("%s goes", old[0].Name)
	}
}
