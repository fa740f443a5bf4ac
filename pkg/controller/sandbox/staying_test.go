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

	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/opensandbox-io/sandbox-apiserver/apis/lifecycle/v1alpha1"
	"github.com/opensandbox-io/sandbox-apiserver/pkg/controller/commitjob"
)

func hasStay(how staying) func(*observed) {
	return func(o *observed) { o.staying, o.stayFault = how, "nobody came" }
}

// TestSecured is of what comes before the mark, and before the deletion of a Pod that is marked.
func TestSecured(t *testing.T) {
	const (
		pausing = v1alpha1.SandboxPausing
		succeed = v1alpha1.SnapshotSucceed
		failed  = "Running Ready=True/PodReady Paused=False/ThawedUnattended pod=demo/pod-1 saved=demo-gen1 attempts=1 failed=1"
		runsOn  = "Running Ready=True/PodReady Paused=False/Running pod=demo/pod-1 saved=demo-gen1 attempts=1"
		lost    = "Failed Ready=False/FilesLost Paused=False/FilesLost DataLost=True/PodLost saved=demo-gen1 attempts=1"
	)
	tests := []decision{
		{name: "committed: its node is told first", sees: observation(sandboxIn(pausing, wantsPaused, onPod, attempts(1)), sees(podOf(runs)), sees(snapshotIn(succeed, mainSaved)), hasStay(unclaimed)), do: claim},
		{name: "committed: its node is being told", sees: observation(sandboxIn(pausing, wantsPaused, onPod, attempts(1)), sees(podOf(runs)), sees(snapshotIn(succeed, mainSaved)), hasStay(claiming)), do: wait},
		{name: "committed: its node does not answer", sees: observation(sandboxIn(pausing, wantsPaused, onPod, attempts(1)), sees(podOf(runs)), sees(snapshotIn(succeed, mainSaved)), hasStay(unanswered)), do: wait, after: claimAgain},
		{name: "committed: it may have run on", sees: observation(sandboxIn(pausing, wantsPaused, onPod, attempts(1)), sees(podOf(runs)), sees(snapshotIn(succeed, mainSaved)), hasStay(unknown)), do: thaw},
		{name: "committed: it has run on", sees: observation(sandboxIn(pausing, wantsPaused, onPod, attempts(1)), sees(podOf(runs)), sees(snapshotIn(succeed, mainSaved)), hasStay(ranOn), thawed), do: writeStatus, status: failed, event: v1alpha1.EventPauseRetry},
		{name: "committed: it may have run on before it went", sees: observation(sandboxIn(pausing, wantsPaused, onPod, attempts(1)), sees(snapshotIn(succeed, mainSaved)), hasStay(unknown)), do: writeStatus, status: lost, event: v1alpha1.ReasonPodLost},
		{name: "cancelled: nobody is told", sees: observation(sandboxIn(pausing, onPod, canceling, thawing, attempts(1)), sees(podOf(runs)), sees(snapshotIn(succeed, mainSaved)), hasStay(unclaimed)), do: thaw},
		{name: "removing: its node is told first", sees: observation(sandboxIn(pausing, wantsPaused, onPod, removing, attempts(1), saved("demo-gen1")), sees(podOf(runs)), sees(snapshotIn(succeed, mainSaved)), hasStay(unclaimed)), do: claim},
		{name: "removing: it has run on", sees: observation(sandboxIn(pausing, wantsPaused, onPod, removing, attempts(1), saved("demo-gen1")), sees(podOf(runs)), sees(snapshotIn(succeed, mainSaved)), hasStay(ranOn), thawed), do: writeStatus, status: failed, event: v1alpha1.EventPauseRetry},
		{name: "removing: it has run on, and a resume was asked for meanwhile", sees: observation(sandboxIn(pausing, onPod, removing, attempts(1), saved("demo-gen1")), sees(podOf(runs)), sees(snapshotIn(succeed, mainSaved)), hasStay(ranOn), thawed), do: writeStatus, status: runsOn, event: v1alpha1.ReasonCanceled},
		{name: "removing: what is on its way out is killed", sees: observation(sandboxIn(pausing, wantsPaused, onPod, removing, attempts(1), saved("demo-gen1")), sees(podOf(runs, terminating(30))), sees(snapshotIn(succeed, mainSaved)), hasStay(ranOn)), do: kill},
		{name: "removing: it has run on, and is gone", sees: observation(sandboxIn(pausing, wantsPaused, onPod, removing, attempts(1), saved("demo-gen1")), sees(snapshotIn(succeed, mainSaved)), hasStay(ranOn)), do: writeStatus, status: lost, event: v1alpha1.ReasonPodLost},
		{name: "removing: it is gone, and nobody can say more", sees: observation(sandboxIn(pausing, wantsPaused, onPod, removing, attempts(1), saved("demo-gen1")), sees(snapshotIn(succeed, mainSaved)), hasStay(unknown)), do: writeStatus,
			status: "Paused Ready=False/Paused Paused=True/Paused saved=demo-gen1 attempts=1", event: v1alpha1.ReasonPaused},
	}
	for _, test := range tests {
		t.Run(test.name, test.holds)
	}
}

// A server that was away while a Pod was frozen asks its node whether it is so still, and believes nobody
// else: neither clocks nor the commit's report.
func TestAServerThatWasAway(t *testing.T) {
	const (
		waits   = "Pausing pod=demo/pod-1 attempts=1"
		removed = "Pausing Ready=False/Pausing Paused=False/RemovingPod pod=demo/pod-1 saved=demo-gen1 attempts=1"
		failed  = "Running Ready=True/PodReady Paused=False/ThawedUnattended pod=demo/pod-1 saved=demo-gen1 attempts=1 failed=1"
		nobody  = `{"error":{"reason":"ThawedUnattended","message":"nobody came within 5m0s"},"thawed":true}`
	)
	away := func(t *testing.T, commit ...client.Object) *fixture {
		f := newFixture(t, append(commit, sandboxIn(v1alpha1.SandboxPausing, wantsPaused, onPod, attempts(1)),
			snapshotIn(v1alpha1.SnapshotSucceed, mainSaved), podOf(runs))...)
		f.clock.SetTime(epoch.Add(commitjob.DefaultThawAfter))
		return f
	}
	t.Run("nobody has thawed it", func(t *testing.T) {
		f := away(t, commitPodOf(standsBy))
		f.visits(waits)
		f.visits(waits) // it is being asked
		f.claimEnds("{}")
		f.visits(removed)
		if f.pod() != nil {
			t.Error("the Pod is not deleted")
		}
	})
	t.Run("it is being thawed just now", func(t *testing.T) {
		f := away(t, commitPodOf(standsBy))
		f.visits(waits)
		f.claimEnds(`{"error":{"reason":"CommitJobFailed","message":"about to end"}}`)
		if result := f.visits(waits); result.RequeueAfter != claimAgain {
			t.Errorf("asks again in %s", result.RequeueAfter)
		}
		f.clock.SetTime(f.clock.Now().Add(claimAgain))
		f.visits(waits)
		f.claimEnds("{}")
		f.visits(removed)
	})
	t.Run("its node has thawed it", func(t *testing.T) {
		f := away(t, commitPodOf(standbyEnded(0, nobody)))
		f.visits(failed)
		f.tells("Warning PauseFailed ThawedUnattended: nobody came within 5m0s")
		if f.pod() == nil {
			t.Error("the Pod is deleted")
		}
	})
	t.Run("nobody is there to say", func(t *testing.T) {
		f := away(t)
		f.visits(waits) // a Job thaws it
		if f.pod() == nil {
			t.Error("the Pod is deleted")
		}
	})
	t.Run("it is known from before", func(t *testing.T) {
		f := away(t)
		f.clock.SetTime(epoch.Add(time.Minute))
		f.visits(removed)
	})
}

// claimEnds ends the claim that is under way, and returns when its sandbox is to be visited.
func (f *fixture) claimEnds(said string) {
	f.Helper()
	soon := time.After(10 * time.Second)
	select {
	case f.kills <- killEnd{said: said}:
	case <-soon:
		f.Fatal("no claim has begun")
	}
	select {
	case <-f.r.claims.ended:
	case <-soon:
		f.Fatal("the end of the claim wakes nobody")
	}
}

// TestWalkOfAbsences is TestWalk with a server that is often away, and little else that goes wrong: whatever
// is frozen when it comes back, no Pod that has run on is removed for what was saved before.
func TestWalkOfAbsences(t *testing.T) {
	const steps = 80
	walks, thaws := uint64(1000), 0
	if testing.Short() {
		walks = 100
	}
	for seed := range walks {
		w := newWorld(t, seed)
		happenings := []func(){
			w.visit, w.visit, w.visit, w.node, w.node, w.node, w.commit, w.commit, w.commit, w.write, w.write,
			w.pause, w.pause, w.resume, w.away, w.away,
		}
		for range steps {
			w.now = w.now.Add(time.Duration(w.rand.IntN(20)) * time.Second)
			happenings[w.rand.IntN(len(happenings))]()
			w.check()
			if w.ranOn {
				thaws++
			}
		}
		w.settle()
		if t.Failed() {
			return
		}
	}
	if thaws == 0 {
		t.Error("nothing was ever thawed by its node")
	}
}
