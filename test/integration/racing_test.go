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
	"encoding/json"
	"fmt"
	"sync"
	"testing"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/opensandbox-io/sandbox-apiserver/apis/lifecycle/v1alpha1"
)

// standing is what of a sandbox the table of the verbs is about.
type standing struct {
	phase   v1alpha1.SandboxPhase
	desired v1alpha1.SandboxDesiredState
	// reasons of the conditions
	ready, paused string
	attempts      int64
}

func standingOf(s *v1alpha1.Sandbox) standing {
	return standing{
		s.Status.Phase, s.Spec.DesiredState,
		reasonOf(s, v1alpha1.ConditionReady), reasonOf(s, v1alpha1.ConditionPaused), s.Status.SnapshotAttempts,
	}
}

// The states that the verbs, and an actor that does the controller's part, can make of a sandbox.
const (
	isRunning   = "Running"
	isPausing   = "Pausing"
	isCanceling = "Pausing, cancelling"
	isMarked    = "Pausing, Pod marked for removal"
	isRevived   = "Pausing, Pod marked for removal, to be resumed"
	isPaused    = "Paused"
	isWanted    = "Paused, to be resumed"
	isResuming  = "Resuming"
	isWithdrawn = "Resuming, being taken back"
	isUnknown   = ""
)

// state names the standing; isUnknown for one that must not be.
func (s standing) state() string {
	const running, paused = v1alpha1.DesiredStateRunning, v1alpha1.DesiredStatePaused
	s.attempts = 0
	switch s {
	case standing{v1alpha1.SandboxRunning, running, v1alpha1.ReasonPodReady, v1alpha1.ReasonRunning, 0}:
		return isRunning
	case standing{v1alpha1.SandboxPausing, paused, v1alpha1.ReasonPausing, v1alpha1.ReasonPausing, 0}:
		return isPausing
	case standing{v1alpha1.SandboxPausing, running, v1alpha1.ReasonCanceling, v1alpha1.ReasonCanceling, 0}:
		return isCanceling
	case standing{v1alpha1.SandboxPausing, paused, v1alpha1.ReasonRemovingPod, v1alpha1.ReasonRemovingPod, 0}:
		return isMarked
	case standing{v1alpha1.SandboxPausing, running, v1alpha1.ReasonRemovingPod, v1alpha1.ReasonRemovingPod, 0}:
		return isRevived
	case standing{v1alpha1.SandboxPaused, paused, v1alpha1.ReasonPaused, v1alpha1.ReasonPaused, 0}:
		return isPaused
	case standing{v1alpha1.SandboxPaused, running, v1alpha1.ReasonPaused, v1alpha1.ReasonPaused, 0}:
		return isWanted
	case standing{v1alpha1.SandboxResuming, running, v1alpha1.ReasonResuming, v1alpha1.ReasonResuming, 0}:
		return isResuming
	case standing{v1alpha1.SandboxResuming, paused, v1alpha1.ReasonWithdrawing, v1alpha1.ReasonWithdrawing, 0}:
		return isWithdrawn
	}
	return isUnknown
}

// transitions are every way from one stored state to the next, and who goes it.
var transitions = map[[2]string]string{
	{isRunning, isPausing}:   "pause",
	{isPausing, isCanceling}: "resume",
	{isMarked, isRevived}:    "resume",
	{isRevived, isMarked}:    "pause",
	{isPaused, isResuming}:   "resume",
	{isWanted, isResuming}:   "resume",
	{isWanted, isPaused}:     "pause",

	{isResuming, isWithdrawn}: "pause",
	{isWithdrawn, isResuming}: "resume",
	// A repeat asks for another try, and the time of it is stored.
	{isRevived, isRevived}:   "resume",
	{isResuming, isResuming}: "resume",

	{isPausing, isMarked}:    "actor",
	{isCanceling, isRunning}: "actor",
	{isMarked, isPaused}:     "actor",
	{isRevived, isWanted}:    "actor",
	{isResuming, isRunning}:  "actor",
	{isWithdrawn, isPaused}:  "actor",
}

// act does one step of the controller's part, where there is one.
func act(s *v1alpha1.Sandbox) bool {
	set := func(phase v1alpha1.SandboxPhase, ready, paused string) bool {
		s.Status.Phase = phase
		for condition, reason := range map[string]string{v1alpha1.ConditionReady: ready, v1alpha1.ConditionPaused: paused} {
			setCondition(&s.Status, condition, metav1.ConditionFalse, reason)
		}
		return true
	}
	switch standingOf(s).state() {
	case isPausing:
		return set(v1alpha1.SandboxPausing, v1alpha1.ReasonRemovingPod, v1alpha1.ReasonRemovingPod)
	case isCanceling, isResuming:
		return set(v1alpha1.SandboxRunning, v1alpha1.ReasonPodReady, v1alpha1.ReasonRunning)
	case isWithdrawn:
		return set(v1alpha1.SandboxPaused, v1alpha1.ReasonPaused, v1alpha1.ReasonPaused)
	case isMarked, isRevived:
		s.Status.SnapshotName = fmt.Sprintf("demo-gen%d", s.Status.SnapshotAttempts)
		return set(v1alpha1.SandboxPaused, v1alpha1.ReasonPaused, v1alpha1.ReasonPaused)
	}
	return false
}

// A hundred clients pause and resume one sandbox at once, while its state moves on under them.
// Every state that is ever stored is one of the table's, every step to it is one that the table
// has, and every answer is such a state or a refusal with a cause.
func TestAHundredClientsRace(t *testing.T) {
	f := newFixture(t)
	f.create(sandbox("demo"))
	f.asRunning("demo")
	at := f.get("demo").ResourceVersion
	w := f.watch("sandboxes", "watch=true&resourceVersion="+at)

	// Each client does, after each call, a step of the controller's part too, as far as others let it.
	actors := f.controller.Sandboxes(f.namespace)
	step := func() {
		s, err := actors.Get(context.Background(), "demo", metav1.GetOptions{})
		if err == nil && act(s) {
			_, err = actors.UpdateStatus(context.Background(), s, metav1.UpdateOptions{})
		}
		if err != nil && !apierrors.IsConflict(err) {
			t.Errorf("an actor: %v", err)
		}
	}
	var clients sync.WaitGroup
	var mu sync.Mutex
	refusals := map[metav1.CauseType]int{}
	for i := range 100 {
		clients.Go(func() {
			for turn := range 3 {
				var s *v1alpha1.Sandbox
				var err error
				if (i+turn)%2 == 0 {
					s, err = f.sandboxes.Pause(context.Background(), "demo", &v1alpha1.SandboxPause{}, metav1.CreateOptions{})
				} else {
					s, err = f.sandboxes.Resume(context.Background(), "demo", &v1alpha1.SandboxResume{}, metav1.CreateOptions{})
				}
				step()
				if err == nil {
					if standingOf(s).state() == isUnknown {
						t.Errorf("answered with %+v", standingOf(s))
					}
					continue
				}
				// Being cancelled: then a pause is refused, and nothing else ever is.
				cause, _ := apierrors.StatusCause(err, "PauseCanceling")
				if !apierrors.IsConflict(err) || cause.Type == "" || (i+turn)%2 != 0 {
					t.Errorf("%v", err)
				}
				mu.Lock()
				refusals[cause.Type]++
				mu.Unlock()
			}
		})
	}
	clients.Wait()

	before, attempts, taken := isRunning, int64(0), map[string]int{}
	for last := f.get("demo").ResourceVersion; ; {
		var s v1alpha1.Sandbox
		e, open := w.receive(f)
		if !open {
			// It was read too slowly for the server, which ended it: a client goes on from where it was.
			w = f.watch("sandboxes", "watch=true&resourceVersion="+at)
			e = w.next(f)
		}
		f.must(json.Unmarshal(e.Object, &s))
		at = s.ResourceVersion
		after := standingOf(&s)
		who := transitions[[2]string{before, after.state()}]
		if after.state() == isUnknown || who == "" {
			t.Fatalf("went from %q to %+v", before, after)
		}
		if before == isRunning {
			attempts++
		}
		if after.attempts != attempts {
			t.Fatalf("from %q to %q with %d attempts, want %d", before, after.state(), after.attempts, attempts)
		}
		taken[who]++
		before = after.state()
		if s.ResourceVersion == last {
			break
		}
	}
	t.Logf("%v steps, %d attempts, refusals %v", taken, attempts, refusals)
	if taken["pause"] == 0 || taken["resume"] == 0 || taken["actor"] == 0 {
		t.Errorf("there was no race: %v", taken)
	}
}
