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
	"testing"
	"time"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	clocktesting "k8s.io/utils/clock/testing"

	"github.com/opensandbox-io/sandbox-apiserver/apis/lifecycle"
)

// TestATimeIsKeptToTheSecondAndNeverBeforeWhatWasAskedFor: what is answered is what is stored, and nobody expires before the
// time that they were promised.
func TestATimeIsKeptToTheSecondAndNeverBeforeWhatWasAskedFor(t *testing.T) {
	second := time.Date(2026, time.December, 1, 12, 0, 0, 0, time.UTC)
	strategy := NewStrategy(nil, clocktesting.NewFakePassiveClock(second))
	for name, test := range map[string]struct{ asked, want time.Duration }{
		"a second":                  {time.Second, time.Second},
		"a millisecond later":       {time.Second + time.Millisecond, 2 * time.Second},
		"a nanosecond later":        {time.Second + 1, 2 * time.Second},
		"the last of a second":      {2*time.Second - 1, 2 * time.Second},
		"the last tenth of seconds": {900 * time.Millisecond, time.Second},
	} {
		t.Run(name, func(t *testing.T) {
			created := &lifecycle.Sandbox{Spec: lifecycle.SandboxSpec{ExpireTime: &metav1.Time{Time: second.Add(test.asked)}}}
			strategy.PrepareForCreate(t.Context(), created)
			updated := &lifecycle.Sandbox{Spec: lifecycle.SandboxSpec{ExpireTime: &metav1.Time{Time: second.Add(test.asked)}}}
			strategy.PrepareForUpdate(t.Context(), updated, &lifecycle.Sandbox{})
			for of, sandbox := range map[string]*lifecycle.Sandbox{"create": created, "update": updated} {
				if got := sandbox.Spec.ExpireTime.Sub(second); got != test.want {
					t.Errorf("%s: stored is %s, want %s", of, got, test.want)
				}
			}
		})
	}
}

// TestARenewalAsksForNothing: the generation stays, so nothing that waits for its next try is tried, and nobody sees the
// controller lag behind.
func TestARenewalAsksForNothing(t *testing.T) {
	now := time.Date(2026, time.December, 1, 12, 0, 0, 0, time.UTC)
	strategy := NewStrategy(nil, clocktesting.NewFakePassiveClock(now))
	old := &lifecycle.Sandbox{
		ObjectMeta: metav1.ObjectMeta{Generation: 7},
		Spec:       lifecycle.SandboxSpec{DesiredState: lifecycle.DesiredStatePaused},
		Status:     lifecycle.SandboxStatus{Phase: lifecycle.SandboxPaused, LastRequestTime: &metav1.MicroTime{Time: now.Add(time.Second)}},
	}
	for name, test := range map[string]struct {
		change func(*lifecycle.SandboxSpec)
		want   int64
	}{
		"a time":    {func(s *lifecycle.SandboxSpec) { s.ExpireTime = &metav1.Time{Time: now.Add(time.Hour)} }, 7},
		"an action": {func(s *lifecycle.SandboxSpec) { s.ExpireAction = lifecycle.ExpireActionPause }, 7},
		"a time and what is asked": {func(s *lifecycle.SandboxSpec) {
			s.ExpireTime, s.DesiredState = &metav1.Time{Time: now.Add(time.Hour)}, "Running"
		}, 8},
		"what is asked":               {func(s *lifecycle.SandboxSpec) { s.DesiredState = "Running" }, 8},
		"what becomes of the files":   {func(s *lifecycle.SandboxSpec) { s.EvictionPolicy = lifecycle.EvictionPolicyNone }, 8},
		"nothing, not even the state": {func(s *lifecycle.SandboxSpec) { s.DesiredState = "" }, 7},
	} {
		t.Run(name, func(t *testing.T) {
			sandbox := old.DeepCopy()
			test.change(&sandbox.Spec)
			strategy.PrepareForUpdate(t.Context(), sandbox, old)
			if sandbox.Generation != test.want {
				t.Errorf("generation %d, want %d", sandbox.Generation, test.want)
			}
			asked, last := sandbox.Status.LastRequestTime, old.Status.LastRequestTime
			if sandbox.Spec.DesiredState == old.Spec.DesiredState && !asked.Equal(last) {
				t.Errorf("it counts as asked for at %s, and nobody has since %s", asked, last)
			}
			if sandbox.Spec.DesiredState != old.Spec.DesiredState && !asked.After(last.Time) {
				t.Errorf("what is asked for now counts as asked for at %s, not after the request before it, which another clock has at %s", asked, last)
			}
		})
	}
}

func TestWhatOfAnExpiryIsShown(t *testing.T) {
	now := time.Date(2026, time.December, 1, 12, 0, 0, 0, time.UTC)
	for want, test := range map[string]struct {
		expire time.Duration // zero: never
		action lifecycle.SandboxExpireAction
	}{
		"Never":         {0, lifecycle.ExpireActionPause},
		"Delete in 10m": {10 * time.Minute, lifecycle.ExpireActionDelete},
		"Pause in 1s":   {time.Second, lifecycle.ExpireActionPause},
		"Pause 3m ago":  {-3 * time.Minute, lifecycle.ExpireActionPause},
		"Delete 2s ago": {-2 * time.Second, lifecycle.ExpireActionDelete},
	} {
		sandbox := &lifecycle.Sandbox{Spec: lifecycle.SandboxSpec{ExpireAction: test.action}}
		if test.expire != 0 {
			sandbox.Spec.ExpireTime = &metav1.Time{Time: now.Add(test.expire)}
		}
		if got := expires(sandbox, now); got != want {
			t.Errorf("%q, want %q", got, want)
		}
	}
}

// TestWhoResumesWhatHasExpiredIsTold that it runs on.
func TestWhoResumesWhatHasExpiredIsTold(t *testing.T) {
	now := time.Date(2026, time.December, 1, 12, 0, 0, 0, time.UTC)
	for name, test := range map[string]struct {
		expire, asked time.Duration // since now
		change        func(*lifecycle.Sandbox)
		told          bool
	}{
		"it has expired":                    {-time.Minute, 0, nil, true},
		"its time is still to come":         {time.Minute, 0, nil, false},
		"it never expires":                  {0, 0, func(s *lifecycle.Sandbox) { s.Spec.ExpireTime = nil }, false},
		"it is to be deleted":               {-time.Minute, 0, func(s *lifecycle.Sandbox) { s.Spec.ExpireAction = lifecycle.ExpireActionDelete }, false},
		"it is to be paused all the same":   {-time.Minute, 0, func(s *lifecycle.Sandbox) { s.Spec.DesiredState = lifecycle.DesiredStatePaused }, false},
		"nothing was asked since, it runs":  {-time.Minute, -time.Hour, nil, false},
		"nobody has ever asked, it runs on": {-time.Minute, 0, func(s *lifecycle.Sandbox) { s.Status.LastRequestTime = nil }, false},
	} {
		t.Run(name, func(t *testing.T) {
			sandbox := &lifecycle.Sandbox{
				Spec:   lifecycle.SandboxSpec{DesiredState: lifecycle.DesiredStateRunning, ExpireTime: &metav1.Time{Time: now.Add(test.expire)}, ExpireAction: lifecycle.ExpireActionPause},
				Status: lifecycle.SandboxStatus{LastRequestTime: &metav1.MicroTime{Time: now.Add(test.asked)}},
			}
			if test.change != nil {
				test.change(sandbox)
			}
			if got := expiryWarnings(sandbox, now); (len(got) > 0) != test.told {
				t.Errorf("told %q", got)
			}
		})
	}
}

// TestAResumeAfterTheTimeCounts, also where it changes nothing else: who asks for a sandbox to run after it has expired, and
// before anybody has paused it, is not to see it paused a moment later.
func TestAResumeAfterTheTimeCounts(t *testing.T) {
	now := time.Date(2026, time.December, 1, 12, 0, 0, 0, time.UTC)
	for name, test := range map[string]struct {
		phase  lifecycle.SandboxPhase
		expire time.Duration // since now; zero: never
		counts bool
	}{
		"runs, and has expired":           {lifecycle.SandboxRunning, -time.Second, true},
		"starts, and has expired":         {lifecycle.SandboxPending, -time.Second, true},
		"runs, and is still to expire":    {lifecycle.SandboxRunning, time.Second, false},
		"runs, and never expires":         {lifecycle.SandboxRunning, 0, false},
		"comes back, and never expires":   {lifecycle.SandboxResuming, 0, true},
		"comes back, and is still to run": {lifecycle.SandboxResuming, time.Second, true},
	} {
		t.Run(name, func(t *testing.T) {
			sandbox := &lifecycle.Sandbox{
				Spec:   lifecycle.SandboxSpec{DesiredState: lifecycle.DesiredStateRunning, ExpireAction: lifecycle.ExpireActionPause},
				Status: lifecycle.SandboxStatus{Phase: test.phase},
			}
			if test.expire != 0 {
				sandbox.Spec.ExpireTime = &metav1.Time{Time: now.Add(test.expire)}
			}
			next, refusal := Resume(sandbox, &lifecycle.SandboxResume{}, nil, now)
			if refusal != nil {
				t.Fatal(refusal.Cause.Message)
			}
			if asked := next.Status.LastRequestTime; (asked != nil) != test.counts || next.Status.Phase != test.phase || next.Spec.DesiredState != lifecycle.DesiredStateRunning {
				t.Errorf("it counts as asked for at %s, and is %s, wanted %s", asked, next.Status.Phase, next.Spec.DesiredState)
			}
		})
	}
}
