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
	"errors"
	"fmt"
	"strings"
	"testing"
	"time"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/client-go/tools/events"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/opensandbox-io/sandbox-apiserver/apis/lifecycle/v1alpha1"
	"github.com/opensandbox-io/sandbox-apiserver/pkg/controller/answer"
)

var snapshotsResource = schema.GroupResource{Group: v1alpha1.GroupName, Resource: "sandboxsnapshots"}

// TestASnapshotThatIsRefused: the sandbox runs on and says why, and the tries are spaced out.
func TestASnapshotThatIsRefused(t *testing.T) {
	f := newFixture(t, sandboxIn(v1alpha1.SandboxPausing, wantsPaused, onPod, attempts(1)), podOf())
	f.snapshotRefusal = apierrors.NewForbidden(snapshotsResource, "demo-gen1", errors.New("exceeded quota: small"))
	const refused = "Running Ready=True/PodReady Paused=False/SnapshotRejected pod=demo/pod-1 attempts=%d failed=%d"

	if result := f.visits(fmt.Sprintf(refused, 1, 1)); result.RequeueAfter != firstRetry {
		t.Errorf("visited again after %s", result.RequeueAfter)
	}
	if message := f.pausedMessage(); !strings.Contains(message, "exceeded quota: small") || !strings.Contains(message, "runs on") {
		t.Errorf("it says %q", message)
	}
	if told := <-f.r.Recorder.(*events.FakeRecorder).Events; !strings.HasPrefix(told, "Warning PauseFailed") || !strings.Contains(told, "exceeded quota: small") {
		t.Errorf("the event is %q", told)
	}

	// What happens to its Pod meanwhile is no reason to try.
	f.r.served(podOf())
	if result := f.visits(fmt.Sprintf(refused, 1, 1)); result.RequeueAfter != firstRetry {
		t.Errorf("visited again after %s", result.RequeueAfter)
	}
	f.clock.SetTime(epoch.Add(firstRetry))
	if result := f.visits(fmt.Sprintf(refused, 2, 2)); result.RequeueAfter != 2*firstRetry {
		t.Errorf("visited again after %s", result.RequeueAfter)
	}

	// Another pause does not wait, and neither does what is possible again.
	f.snapshotRefusal = nil
	f.pausesAgain()
	f.visits("Pausing Ready=True/PodReady Paused=False/Pausing pod=demo/pod-1 attempts=3 failed=2")
	if f.snapshots() != "demo-gen3" {
		t.Errorf("there are the snapshots %q", f.snapshots())
	}
}

func TestAResumeEndsTheTriesOfARefusedPause(t *testing.T) {
	f := newFixture(t, sandboxIn(v1alpha1.SandboxPausing, wantsPaused, onPod, attempts(1)), podOf())
	f.snapshotRefusal = apierrors.NewForbidden(snapshotsResource, "demo-gen1", errors.New("exceeded quota: small"))
	f.visits("Running Ready=True/PodReady Paused=False/SnapshotRejected pod=demo/pod-1 attempts=1 failed=1")
	f.change(func(s *v1alpha1.Sandbox) { s.Spec.DesiredState = v1alpha1.DesiredStateRunning })
	if result := f.visits("Running Ready=True/PodReady Paused=False/Running pod=demo/pod-1 attempts=1"); result.RequeueAfter != 0 {
		t.Errorf("a sandbox at rest is visited again after %s", result.RequeueAfter)
	}
}

// TestATroubleOfTheMoment is told as well, and soon over.
func TestATroubleOfTheMoment(t *testing.T) {
	for name, trouble := range map[string]error{
		"asked too often":          apierrors.NewTooManyRequests("the quotas change too fast", 1),
		"a quota others change":    apierrors.NewConflict(snapshotsResource, "demo-gen1", errors.New("the quota has changed")),
		"a webhook that is away":   apierrors.NewInternalError(errors.New(`failed calling webhook "x": connection refused`)),
		"a webhook that says 409":  &apierrors.StatusError{ErrStatus: metav1.Status{Code: 409, Message: "not today"}},
		"a webhook that says much": &apierrors.StatusError{ErrStatus: metav1.Status{Code: 503, Message: strings.Repeat("x", 152_000)}},
	} {
		t.Run(name, func(t *testing.T) {
			f := newFixture(t, sandboxIn(v1alpha1.SandboxPausing, wantsPaused, onPod, attempts(1)), podOf())
			f.snapshotRefusal = trouble
			result := f.visits("Running Ready=True/PodReady Paused=False/SnapshotRejected pod=demo/pod-1 attempts=1 failed=1")
			if result.RequeueAfter < time.Second || result.RequeueAfter > 2*time.Second {
				t.Errorf("visited again after %s", result.RequeueAfter)
			}
			if message := f.pausedMessage(); !strings.Contains(message, trouble.Error()[:9]) || !strings.Contains(message, "runs on") || len(message) > answer.MaxCondition {
				t.Errorf("it says %d bytes: %.200q", len(message), message)
			}
			f.snapshotRefusal = nil
			f.clock.SetTime(epoch.Add(2 * time.Second))
			f.visits("Pausing Ready=False/Pausing Paused=False/Pausing pod=demo/pod-1 attempts=2 failed=1")
		})
	}
}

func (f *fixture) change(change func(*v1alpha1.Sandbox)) {
	f.Helper()
	sandbox := &v1alpha1.Sandbox{}
	if err := f.own.Get(f.Context(), client.ObjectKey{Namespace: namespace, Name: name}, sandbox); err != nil {
		f.Fatal(err)
	}
	status := sandbox.Status.DeepCopy()
	change(sandbox)
	changed := sandbox.Status.DeepCopy()
	sandbox.Status = *status
	if err := f.own.Update(f.Context(), sandbox); err != nil {
		f.Fatal(err)
	}
	sandbox.Status = *changed
	if err := f.own.Status().Update(f.Context(), sandbox); err != nil {
		f.Fatal(err)
	}
}

// pausesAgain is what the pause verb does with a sandbox that runs.
func (f *fixture) pausesAgain() {
	f.Helper()
	f.change(func(s *v1alpha1.Sandbox) {
		now := metav1.NewMicroTime(f.clock.Now())
		s.Status.Phase, s.Status.LastRequestTime = v1alpha1.SandboxPausing, &now
		s.Status.SnapshotAttempts++
		says(v1alpha1.ConditionPaused, metav1.ConditionFalse, v1alpha1.ReasonPausing)(s)
	})
}

func (f *fixture) pausedMessage() string {
	f.Helper()
	sandbox := &v1alpha1.Sandbox{}
	if err := f.own.Get(f.Context(), client.ObjectKey{Namespace: namespace, Name: name}, sandbox); err != nil {
		f.Fatal(err)
	}
	return meta.FindStatusCondition(sandbox.Status.Conditions, v1alpha1.ConditionPaused).Message
}

// Somebody may delete each snapshot of a pause as soon as it is there.
func TestASnapshotIsNotMadeTwiceWithoutAWait(t *testing.T) {
	f := newFixture(t, sandboxIn(v1alpha1.SandboxPausing, wantsPaused, onPod, attempts(1)), podOf())
	made := 0
	vanishes := func() {
		t.Helper()
		for range 60 {
			f.visit()
			attempt := f.snapshots()
			if attempt == "" {
				continue
			}
			made++
			if err := f.own.Delete(t.Context(), &v1alpha1.SandboxSnapshot{ObjectMeta: metav1.ObjectMeta{Namespace: namespace, Name: attempt}}); err != nil {
				t.Fatal(err)
			}
		}
	}
	for i, wait := range []time.Duration{10 * time.Second, 20 * time.Second, 40 * time.Second} {
		vanishes()
		if _, result := f.visit(); made != i+1 || result.RequeueAfter != wait {
			t.Fatalf("%d snapshots were made, and the next visit is in %s, want %d and %s", made, result.RequeueAfter, i+1, wait)
		}
		f.clock.SetTime(f.clock.Now().Add(wait))
	}
	f.pausesAgain()
	vanishes()
	if made != 4 {
		t.Errorf("%d snapshots were made after another pause, want 4", made)
	}
}
