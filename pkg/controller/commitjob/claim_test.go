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

package commitjob

import (
	"errors"
	"slices"
	"strings"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	clocktesting "k8s.io/utils/clock/testing"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/opensandbox-io/sandbox-apiserver/apis/lifecycle/v1alpha1"
)

// begins is a commit that this process begins, at a time of its clock.
func begins(t *testing.T, pods ...*corev1.Pod) (*Runner, *clocktesting.FakePassiveClock) {
	t.Helper()
	r := runnerWith(t, nil, pods...)
	clock := clocktesting.NewFakePassiveClock(time.Date(2026, 1, 1, 0, 0, 0, 0, time.UTC))
	r.Clock = clock
	return r, clock
}

// What has just been frozen stays so, and for half of the time that its node waits that is certain.
func TestStaysFrozen(t *testing.T) {
	r, clock := begins(t, beside(waits))
	snapshot := committedSnapshot()
	if r.StaysFrozen(snapshot) {
		t.Error("certain of what another process has begun")
	}
	job := commitOf(t, config(), "demo-gen1", true)
	if err := r.Begin(t.Context(), job, demoSource()); err != nil {
		t.Fatal(err)
	}
	uid := snapshot.UID
	for after, want := range map[time.Duration]bool{0: true, DefaultThawAfter/2 - time.Second: true, DefaultThawAfter / 2: false, DefaultThawAfter: false} {
		at := clock.Now()
		clock.SetTime(at.Add(after))
		if r.StaysFrozen(snapshot) != want {
			t.Errorf("after %s: %t", after, !want)
		}
		clock.SetTime(at)
	}
	// A Job that was there before has begun nobody knows when.
	other, _ := begins(t, beside(waits))
	other.Client = r.Client
	job.ResourceVersion = ""
	if err := other.Begin(t.Context(), job, demoSource()); !apierrors.IsAlreadyExists(err) {
		t.Fatal(err)
	}
	if other.StaysFrozen(snapshot) {
		t.Error("certain of a Job that was there already")
	}

	clock.SetTime(clock.Now().Add(DefaultThawAfter / 2))
	exec := &executor{said: "{}"}
	r.Exec = exec
	if outcome := r.Claim(t.Context(), snapshot); outcome.State != Succeeded || !r.StaysFrozen(snapshot) {
		t.Errorf("%+v, certain: %t", outcome, r.StaysFrozen(snapshot))
	}
	if want := []string{"/image-committer", "claim", "--termination-log=-", "--lock=/dev/termination-log"}; !slices.Equal(exec.command, want) || exec.container != "kill" {
		t.Errorf("%q in container %s", exec.command, exec.container)
	}
	// What is too old to be of use is not kept.
	clock.SetTime(clock.Now().Add(2 * DefaultThawAfter))
	r.Note("another", clock.Now())
	if _, known := r.frozen.of(uid); known {
		t.Error("it is kept for ever")
	}
}

func TestClaimsThatFail(t *testing.T) {
	for name, test := range map[string]struct {
		pods []*corev1.Pod
		exec executor
		says string
	}{
		"it is being thawed":   {[]*corev1.Pod{beside(waits)}, executor{said: `{"error":{"reason":"CommitJobFailed","message":"the container is about to end"}}`, err: errors.New("exit code 1")}, "about to end"},
		"the API says no":      {[]*corev1.Pod{beside(waits)}, executor{err: errors.New("no exec here")}, "no exec here"},
		"it says nothing":      {[]*corev1.Pod{beside(waits)}, executor{said: "oops"}, "not a result"},
		"its Pod is not there": {nil, executor{said: "{}"}, "the commit Pod is gone"},
	} {
		t.Run(name, func(t *testing.T) {
			r, _ := begins(t, test.pods...)
			r.Exec = &test.exec
			if outcome := r.Claim(t.Context(), committedSnapshot()); outcome.State != Failed || !strings.Contains(outcome.Message, test.says) {
				t.Errorf("%+v", outcome)
			}
			if r.StaysFrozen(committedSnapshot()) {
				t.Error("certain without an answer")
			}
		})
	}
}

// A commit begins when nobody is there any more who could thaw what it freezes.
func TestACommitComesAfterTheEarlierOnes(t *testing.T) {
	earlier := func(options ...func(*corev1.Pod)) *corev1.Pod {
		return beside(waits, append([]func(*corev1.Pod){func(p *corev1.Pod) {
			p.Labels[v1alpha1.LabelSnapshotUID], p.Labels[v1alpha1.LabelSandboxUID] = "snapshot-0", "sandbox-1"
			p.Spec.NodeName = demoSource().NodeName
		}}, options...)...)
	}
	for name, test := range map[string]struct {
		pod            *corev1.Pod
		waits, deletes bool
	}{
		"it is there":              {earlier(), true, true},
		"it is being deleted":      {earlier(deleted), true, false},
		"it has ended":             {earlier(in(corev1.PodSucceeded)), false, false},
		"it has failed":            {earlier(in(corev1.PodFailed)), false, false},
		"it is on another node":    {earlier(func(p *corev1.Pod) { p.Spec.NodeName = "elsewhere" }), false, false},
		"it is another sandbox's":  {earlier(func(p *corev1.Pod) { p.Labels[v1alpha1.LabelSandboxUID] = "sandbox-2" }), false, false},
		"it is this commit's":      {earlier(func(p *corev1.Pod) { p.Labels[v1alpha1.LabelSnapshotUID] = "snapshot-1" }), false, false},
		"it thaws, and is no more": {earlier(func(p *corev1.Pod) { p.Labels[v1alpha1.LabelComponent] = ComponentUnpause }), false, false},
	} {
		t.Run(name, func(t *testing.T) {
			r, _ := begins(t, test.pod)
			job := commitOf(t, config(), "demo-gen1", true)
			job.Labels[v1alpha1.LabelSandboxUID] = "sandbox-1"
			err := r.Begin(t.Context(), job, demoSource())
			if (err != nil) != test.waits || err != nil && !strings.Contains(err.Error(), "earlier commit") {
				t.Errorf("begins with %v", err)
			}
			gone := apierrors.IsNotFound(r.Client.Get(t.Context(), client.ObjectKeyFromObject(test.pod), &corev1.Pod{}))
			if gone != test.deletes {
				t.Errorf("deleted: %t", gone)
			}
		})
	}
}
