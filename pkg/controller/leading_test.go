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

package controller

import (
	"context"
	"testing"
	"time"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/opensandbox-io/sandbox-apiserver/apis/lifecycle/v1alpha1"
	"github.com/opensandbox-io/sandbox-apiserver/pkg/metrics"
)

var noon = time.Date(2026, 11, 30, 12, 0, 0, 0, time.UTC)

// ago makes a sandbox that was created, asked for something, and not Ready since, so long before noon; zero: not so.
func ago(phase v1alpha1.SandboxPhase, created, asked, unready time.Duration) v1alpha1.Sandbox {
	sandbox := v1alpha1.Sandbox{
		ObjectMeta: metav1.ObjectMeta{CreationTimestamp: metav1.NewTime(noon.Add(-created))},
		Status:     v1alpha1.SandboxStatus{Phase: phase},
	}
	if asked > 0 {
		sandbox.Status.LastRequestTime = &metav1.MicroTime{Time: noon.Add(-asked)}
	}
	ready := metav1.Condition{Type: v1alpha1.ConditionReady, Status: metav1.ConditionTrue, Reason: v1alpha1.ReasonPodReady}
	if unready > 0 {
		ready.Status, ready.Reason = metav1.ConditionFalse, v1alpha1.ReasonPodPending
		ready.LastTransitionTime = metav1.NewTime(noon.Add(-unready))
	}
	sandbox.Status.Conditions = []metav1.Condition{ready}
	return sandbox
}

func TestWorld(t *testing.T) {
	going := ago(v1alpha1.SandboxRunning, time.Hour, 0, 0)
	going.DeletionTimestamp = &metav1.Time{Time: noon.Add(-7 * time.Second)}
	refused := ago(v1alpha1.SandboxRunning, time.Hour, time.Minute, 0)
	refused.Spec.DesiredState = v1alpha1.DesiredStatePaused
	refused.Status.Conditions = append(refused.Status.Conditions,
		metav1.Condition{Type: v1alpha1.ConditionPaused, Status: metav1.ConditionFalse, Reason: v1alpha1.ReasonRegistryDenied},
		metav1.Condition{Type: v1alpha1.ConditionDataLost, Status: metav1.ConditionTrue, Reason: v1alpha1.ReasonPodLost})
	forged := ago("Whatever", time.Minute, 0, 20*time.Second)
	forged.Status.Conditions[0].Reason = "demo-7f9c"
	waiting := func(since time.Duration, reason string) v1alpha1.SandboxSnapshot {
		return v1alpha1.SandboxSnapshot{
			ObjectMeta: metav1.ObjectMeta{CreationTimestamp: metav1.NewTime(noon.Add(-since))},
			Status:     v1alpha1.SandboxSnapshotStatus{Conditions: []metav1.Condition{{Type: v1alpha1.ConditionReady, Status: metav1.ConditionFalse, Reason: reason}}},
		}
	}
	never := ago(v1alpha1.SandboxPending, time.Hour, time.Hour, time.Hour)
	never.Status.Conditions[0].Reason = v1alpha1.ReasonNeverRan
	world := worldOf([]v1alpha1.Sandbox{
		ago(v1alpha1.SandboxRunning, time.Hour, 0, 0),
		ago(v1alpha1.SandboxPausing, time.Hour, 9*time.Second, 9*time.Second),
		ago(v1alpha1.SandboxResuming, 24*time.Hour, 8*time.Second, time.Hour),     // paused an hour ago, resumed eight seconds ago
		ago(v1alpha1.SandboxResuming, 24*time.Hour, 23*time.Hour, 30*time.Second), // its Pod was lost thirty seconds ago
		ago("", 3*time.Second, 0, 3*time.Second),
		going, refused, forged, never,
	}, []v1alpha1.SandboxSnapshot{
		waiting(40*time.Second, v1alpha1.ReasonQueued), waiting(50*time.Second, v1alpha1.ReasonQueued), waiting(time.Hour, v1alpha1.ReasonRegistryUnavailable),
		{Status: v1alpha1.SandboxSnapshotStatus{Phase: v1alpha1.SnapshotSucceed}},
		{ObjectMeta: metav1.ObjectMeta{DeletionTimestamp: &metav1.Time{Time: noon}}, Status: v1alpha1.SandboxSnapshotStatus{Phase: v1alpha1.SnapshotSucceed}},
	}, noon)

	for phase, want := range map[string]int{"Pending": 3, "Running": 2, "Pausing": 1, "Paused": 0, "Resuming": 2, "Failed": 0, "Terminating": 1} {
		if got, is := world.Sandboxes[phase]; got != want || !is {
			t.Errorf("%d sandboxes are %s (%v), want %d", got, phase, is, want)
		}
	}
	if len(world.Sandboxes) != 7 {
		t.Errorf("there are other phases: %v", world.Sandboxes)
	}
	for at, want := range map[metrics.PhaseReason]int{{Phase: "Running", Reason: "PodReady"}: 1, {Phase: "Running", Reason: "RegistryDenied"}: 1, {Phase: "Pending", Reason: "Other"}: 1} {
		if world.Reasons[at] != want {
			t.Errorf("%v: %d, want %d", at, world.Reasons[at], want)
		}
	}
	for phase, want := range map[string]time.Duration{"Pending": 20 * time.Second, "Pausing": 9 * time.Second, "Resuming": 30 * time.Second, "Terminating": 7 * time.Second} {
		if world.Longest[phase] != want {
			t.Errorf("the longest has been %s for %s, want %s", phase, world.Longest[phase], want)
		}
	}
	for phase, want := range map[string]int{"Pending": 3, "Committing": 0, "Succeed": 1, "Failed": 0, "Terminating": 1} {
		if got, is := world.Snapshots[phase]; got != want || !is {
			t.Errorf("%d snapshots are %s (%v), want %d", got, phase, is, want)
		}
	}
	if world.DataLost != 1 || world.Waiting != 2 || world.LongestWait != 50*time.Second {
		t.Errorf("%d have lost data, %d wait, the longest for %s", world.DataLost, world.Waiting, world.LongestWait)
	}
}

// unsynced is a cache that does not know yet.
type unsynced struct{ client.Reader }

func (unsynced) List(context.Context, client.ObjectList, ...client.ListOption) error {
	return context.DeadlineExceeded
}

// TestAnUnknownWorldIsNotAnEmptyOne: no alert may come of a replica that has just begun to lead.
func TestAnUnknownWorldIsNotAnEmptyOne(t *testing.T) {
	if world, known := (&leading{own: unsynced{}}).look(); known {
		t.Errorf("it knows of %+v", world)
	}
}
