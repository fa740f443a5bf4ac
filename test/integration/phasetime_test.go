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

package integration

import (
	"context"
	"testing"
	"time"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/opensandbox-io/sandbox-apiserver/apis/lifecycle/v1alpha1"
)

// The time of the phase is the server's to set: it moves with the phase and with nothing else, whoever writes.
func TestPhaseTransitionTime(t *testing.T) {
	f := newFixture(t)
	created := f.create(sandbox("demo"))
	if at := created.Status.PhaseTransitionTime; at == nil || !at.Equal(&created.CreationTimestamp) && at.Sub(created.CreationTimestamp.Time) > time.Minute {
		t.Fatalf("created at %v, in its phase since %v", created.CreationTimestamp, at)
	}

	long := metav1.NewTime(time.Now().Add(-time.Hour).Truncate(time.Second))
	stays := func(what string, before, after *v1alpha1.Sandbox) {
		t.Helper()
		if !before.Status.PhaseTransitionTime.Equal(after.Status.PhaseTransitionTime) {
			t.Errorf("%s: the phase is %s as before, and its time moved from %v to %v", what, after.Status.Phase, before.Status.PhaseTransitionTime, after.Status.PhaseTransitionTime)
		}
	}
	moves := func(what string, since time.Time, after *v1alpha1.Sandbox) {
		t.Helper()
		if at := after.Status.PhaseTransitionTime; at == nil || at.Time.Before(since.Truncate(time.Second)) {
			t.Errorf("%s: the phase became %s after %v, and its time is %v", what, after.Status.Phase, since, at)
		}
	}

	stays("a writer that says another time", created, f.writeStatus("demo", func(status *v1alpha1.SandboxStatus) {
		status.PhaseTransitionTime = &long
	}))
	stays("a writer that does not know of it", created, f.writeStatus("demo", func(status *v1alpha1.SandboxStatus) {
		status.PhaseTransitionTime = nil
		setCondition(status, v1alpha1.ConditionReady, metav1.ConditionFalse, v1alpha1.ReasonPodPending)
	}))

	begun := time.Now()
	running := f.asRunning("demo")
	moves("a status update", begun, running)
	labelled := f.get("demo")
	labelled.Labels = map[string]string{"team": "blue"}
	labelled.Status.PhaseTransitionTime = &long
	labelled, err := f.sandboxes.Update(context.Background(), labelled, metav1.UpdateOptions{})
	f.must(err)
	stays("an update", running, labelled)

	// Seconds are what a time is stored to.
	for time.Now().Before(running.Status.PhaseTransitionTime.Add(time.Second)) {
		time.Sleep(50 * time.Millisecond)
	}
	begun = time.Now()
	pausing, err := f.sandboxes.Pause(context.Background(), "demo", &v1alpha1.SandboxPause{}, metav1.CreateOptions{})
	f.must(err)
	moves("a pause", begun, pausing)
	again, err := f.sandboxes.Pause(context.Background(), "demo", &v1alpha1.SandboxPause{}, metav1.CreateOptions{})
	f.must(err)
	stays("a pause once more", pausing, again)
}
