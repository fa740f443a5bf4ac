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

package expiry

import (
	"strings"
	"testing"
	"time"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/opensandbox-io/sandbox-apiserver/apis/lifecycle/v1alpha1"
)

// noon is when the sandboxes of these tests expire.
var noon = time.Date(2026, time.December, 1, 12, 0, 0, 0, time.UTC)

func sandbox(action v1alpha1.SandboxExpireAction, changes ...func(*v1alpha1.Sandbox)) *v1alpha1.Sandbox {
	s := &v1alpha1.Sandbox{
		ObjectMeta: metav1.ObjectMeta{Namespace: "team", Name: "demo", UID: "uid", ResourceVersion: "7"},
		Spec:       v1alpha1.SandboxSpec{DesiredState: v1alpha1.DesiredStateRunning, ExpireTime: &metav1.Time{Time: noon}, ExpireAction: action},
		Status:     v1alpha1.SandboxStatus{Phase: v1alpha1.SandboxRunning, PodName: "demo", PodUID: "pod"},
	}
	for _, change := range changes {
		change(s)
	}
	return s
}

func in(phase v1alpha1.SandboxPhase) func(*v1alpha1.Sandbox) {
	return func(s *v1alpha1.Sandbox) { s.Status.Phase = phase }
}

func withoutPod(s *v1alpha1.Sandbox) { s.Status.PodName, s.Status.PodUID = "", "" }

func wanted(state v1alpha1.SandboxDesiredState) func(*v1alpha1.Sandbox) {
	return func(s *v1alpha1.Sandbox) { s.Spec.DesiredState = state }
}

func asked(after time.Duration) func(*v1alpha1.Sandbox) {
	return func(s *v1alpha1.Sandbox) { s.Status.LastRequestTime = &metav1.MicroTime{Time: noon.Add(after)} }
}

func TestDecide(t *testing.T) {
	const ms = time.Millisecond
	never := func(s *v1alpha1.Sandbox) { s.Spec.ExpireTime = nil }
	deleting := func(s *v1alpha1.Sandbox) { s.DeletionTimestamp = &metav1.Time{Time: noon} }
	paused := wanted(v1alpha1.DesiredStatePaused)
	for name, test := range map[string]struct {
		sandbox []func(*v1alpha1.Sandbox)
		// deletes and pauses are what is done at its time, by the two actions.
		deletes, pauses Deed
	}{
		"runs":                           {nil, Delete, Pause},
		"never expires":                  {list(never), Nothing, Nothing},
		"is being deleted":               {list(deleting), Nothing, Nothing},
		"was made by an old client":      {list(wanted("")), Delete, Pause},
		"has just been made":             {list(in(""), withoutPod), Delete, Pause},
		"is Pending":                     {list(in(v1alpha1.SandboxPending), withoutPod), Delete, Pause},
		"is Pending, for good":           {list(in(v1alpha1.SandboxPending), withoutPod, paused), Delete, Nothing},
		"is Pausing":                     {list(in(v1alpha1.SandboxPausing), paused), Delete, Nothing},
		"is Pausing, to be moved":        {list(in(v1alpha1.SandboxPausing)), Delete, Pause},
		"is Paused":                      {list(in(v1alpha1.SandboxPaused), paused, withoutPod), Delete, Nothing},
		"runs, its pause waits":          {list(paused), Delete, Nothing},
		"is Resuming":                    {list(in(v1alpha1.SandboxResuming), asked(-ms)), Delete, Pause},
		"is Failed, its Pod is there":    {list(in(v1alpha1.SandboxFailed)), Delete, Pause},
		"is Failed, without a Pod":       {list(in(v1alpha1.SandboxFailed), withoutPod), Delete, Nothing},
		"is what a newer server has":     {list(in("Hibernated")), Delete, Pause},
		"was resumed before":             {list(asked(-ms)), Delete, Pause},
		"was resumed at that time":       {list(asked(0)), Delete, Nothing},
		"was resumed since":              {list(asked(ms)), Delete, Nothing},
		"was resumed since, and starts":  {list(asked(ms), in(v1alpha1.SandboxResuming), withoutPod), Delete, Nothing},
		"its pause was taken back since": {list(asked(ms), in(v1alpha1.SandboxPausing)), Delete, Nothing},
	} {
		t.Run(name, func(t *testing.T) {
			for action, want := range map[v1alpha1.SandboxExpireAction]Deed{
				v1alpha1.ExpireActionDelete: test.deletes, v1alpha1.ExpireActionPause: test.pauses, "Hibernate": Nothing,
			} {
				s := sandbox(action, test.sandbox...)
				for _, after := range []time.Duration{0, ms, 24 * time.Hour} {
					if got, left := Decide(s, noon.Add(after)); got != want || left != 0 {
						t.Errorf("%s, %s after its time: %q for %s, want %q", action, after, got, left, want)
					}
				}
				if got, left := Decide(s, noon.Add(-ms)); got == Wait && left != ms || got != Wait && got != Nothing || got == Nothing && want != Nothing {
					t.Errorf("%s, a millisecond before its time: %q for %s", action, got, left)
				}
			}
		})
	}
}

func list(changes ...func(*v1alpha1.Sandbox)) []func(*v1alpha1.Sandbox) { return changes }

// TestNotice tells of an end a minute before, or halfway, and of none that is put off in time.
func TestNotice(t *testing.T) {
	begun := noon.Add(-24 * time.Hour)
	type step struct {
		at     time.Duration // since the begin
		expire time.Duration // as it is set by then, since the begin
		tells  bool
		next   time.Duration // until it is told; zero: not any more
	}
	for name, steps := range map[string][]step{
		"an hour":              {{0, time.Hour, false, 59 * time.Minute}, {59 * time.Minute, time.Hour, true, 0}, {59*time.Minute + time.Second, time.Hour, false, 0}},
		"a minute":             {{0, time.Minute, false, 30 * time.Second}, {30 * time.Second, time.Minute, true, 0}},
		"a second":             {{0, time.Second, false, 500 * time.Millisecond}, {500 * time.Millisecond, time.Second, true, 0}},
		"after a restart":      {{time.Hour - 4*time.Second, time.Hour, false, 2 * time.Second}, {time.Hour - 2*time.Second, time.Hour, true, 0}},
		"renewed when told":    {{0, time.Hour, false, 59 * time.Minute}, {59 * time.Minute, time.Hour, true, 0}, {59*time.Minute + 30*time.Second, 2 * time.Hour, false, 59*time.Minute + 30*time.Second}, {119 * time.Minute, 2 * time.Hour, true, 0}},
		"kept alive":           {{0, 30 * time.Second, false, 15 * time.Second}, {10 * time.Second, 40 * time.Second, false, 15 * time.Second}, {20 * time.Second, 50 * time.Second, false, 15 * time.Second}},
		"shortened":            {{0, time.Hour, false, 59 * time.Minute}, {time.Minute, 2 * time.Minute, false, 30 * time.Second}, {90 * time.Second, 2 * time.Minute, true, 0}},
		"the same, seen twice": {{0, 30 * time.Second, false, 15 * time.Second}, {10 * time.Second, 30 * time.Second, false, 5 * time.Second}, {15 * time.Second, 30 * time.Second, true, 0}},
	} {
		t.Run(name, func(t *testing.T) {
			var m memory
			for i, step := range steps {
				s := sandbox(v1alpha1.ExpireActionDelete)
				s.Spec.ExpireTime = &metav1.Time{Time: begun.Add(step.expire)}
				if tells, next := m.notice(s, begun.Add(step.at)); tells != step.tells || next != step.next {
					t.Errorf("step %d: tells %t, next %s; want %t, %s", i, tells, next, step.tells, step.next)
				}
			}
		})
	}
}

func TestWhatIsToldNamesTheTimeAndTheRemedy(t *testing.T) {
	for action, want := range map[v1alpha1.SandboxExpireAction][]string{
		v1alpha1.ExpireActionDelete: {"deleted", "2026-12-01T12:00:00Z", "spec.expireAction Pause"},
		v1alpha1.ExpireActionPause:  {"paused", "2026-12-01T12:00:00Z", "a later time"},
	} {
		for _, word := range want {
			if told := announcement(sandbox(action)); !strings.Contains(told, word) {
				t.Errorf("%s: %q does not say %q", action, told, word)
			}
		}
	}
}

// TestWallGoesByWhatIsSet: a time with a reading of Go's even clock is compared by that, which a clock that is set does not move.
func TestWallGoesByWhatIsSet(t *testing.T) {
	if now := (Wall{}).Now(); strings.Contains(now.String(), "m=") {
		t.Errorf("%s is a reading of the even clock as well", now)
	}
}
