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
	"time"

	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/utils/clock"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/controller-runtime/pkg/manager"

	"github.com/opensandbox-io/sandbox-apiserver/apis/lifecycle/v1alpha1"
	"github.com/opensandbox-io/sandbox-apiserver/pkg/metrics"
	"github.com/opensandbox-io/sandbox-apiserver/pkg/move"
)

// scrape bounds how long a scrape waits for the caches, which are in memory.
const scrape = 5 * time.Second

// terminating is the phase that kubectl get shows of what is being deleted.
const terminating = "Terminating"

// leading tells the metrics of the world for as long as this replica runs the controllers.
type leading struct {
	// own reads sandboxes and snapshots from the cache.
	own        client.Reader
	slotsInUse func() int
	slots      int
	clock      clock.PassiveClock
}

var (
	_ manager.Runnable               = &leading{}
	_ manager.LeaderElectionRunnable = &leading{}
)

// NeedLeaderElection is true: two that count the same would make it twice as many.
func (*leading) NeedLeaderElection() bool { return true }

// Start tells of the world until ctx ends.
func (l *leading) Start(ctx context.Context) error {
	defer metrics.Lead(l.look)()
	<-ctx.Done()
	return nil
}

func (l *leading) look() (metrics.World, bool) {
	ctx, cancel := context.WithTimeout(context.Background(), scrape)
	defer cancel()
	sandboxes, snapshots := &v1alpha1.SandboxList{}, &v1alpha1.SandboxSnapshotList{}
	// They are only looked at: thousands need not be copied for each scrape.
	if err := l.own.List(ctx, sandboxes, client.UnsafeDisableDeepCopy); err != nil {
		return metrics.World{}, false
	}
	if err := l.own.List(ctx, snapshots, client.UnsafeDisableDeepCopy); err != nil {
		return metrics.World{}, false
	}
	world := worldOf(sandboxes.Items, snapshots.Items, l.clock.Now())
	world.SlotsInUse, world.Slots = l.slotsInUse(), l.slots
	return world, true
}

// worldOf counts. Each phase has a number, also where it is zero.
func worldOf(sandboxes []v1alpha1.Sandbox, snapshots []v1alpha1.SandboxSnapshot, now time.Time) metrics.World {
	world := metrics.World{
		Sandboxes: map[string]int{}, Snapshots: map[string]int{},
		Reasons: map[metrics.PhaseReason]int{}, Longest: map[string]time.Duration{},
	}
	for _, phase := range []v1alpha1.SandboxPhase{
		v1alpha1.SandboxPending, v1alpha1.SandboxRunning, v1alpha1.SandboxPausing, v1alpha1.SandboxPaused, v1alpha1.SandboxResuming, v1alpha1.SandboxFailed, terminating,
	} {
		world.Sandboxes[string(phase)] = 0
		if passing(phase) {
			world.Longest[string(phase)] = 0
		}
	}
	for _, phase := range []v1alpha1.SandboxSnapshotPhase{
		v1alpha1.SnapshotPending, v1alpha1.SnapshotCommitting, v1alpha1.SnapshotSucceed, v1alpha1.SnapshotFailed, terminating,
	} {
		world.Snapshots[string(phase)] = 0
	}
	for i := range sandboxes {
		countSandbox(&world, &sandboxes[i], now)
	}
	for i := range snapshots {
		countSnapshot(&world, &snapshots[i], now)
	}
	return world
}

// passing says whether a sandbox is not to stay in a phase.
func passing(phase v1alpha1.SandboxPhase) bool {
	switch phase {
	case v1alpha1.SandboxPending, v1alpha1.SandboxPausing, v1alpha1.SandboxResuming, terminating:
		return true
	}
	return false
}

func countSandbox(world *metrics.World, sandbox *v1alpha1.Sandbox, now time.Time) {
	phase := sandbox.Status.Phase
	switch {
	case sandbox.DeletionTimestamp != nil:
		phase = terminating
	case !knownPhase(phase):
		phase = v1alpha1.SandboxPending // as the controller takes it
	}
	world.Sandboxes[string(phase)]++
	if reason := reasonShown(sandbox); reason != "" {
		world.Reasons[metrics.PhaseReason{Phase: string(phase), Reason: metrics.BoundedReason(reason)}]++
	}
	if meta.IsStatusConditionTrue(sandbox.Status.Conditions, v1alpha1.ConditionDataLost) {
		world.DataLost++
	}
	if passing(phase) && reasonShown(sandbox) != v1alpha1.ReasonNeverRan { // that is to stay so
		world.Longest[string(phase)] = max(world.Longest[string(phase)], now.Sub(since(sandbox)))
	}
}

func countSnapshot(world *metrics.World, snapshot *v1alpha1.SandboxSnapshot, now time.Time) {
	phase := snapshot.Status.Phase
	switch {
	case snapshot.DeletionTimestamp != nil:
		phase = terminating
	case phase != v1alpha1.SnapshotCommitting && phase != v1alpha1.SnapshotSucceed && phase != v1alpha1.SnapshotFailed:
		phase = v1alpha1.SnapshotPending
	}
	world.Snapshots[string(phase)]++
	ready := meta.FindStatusCondition(snapshot.Status.Conditions, v1alpha1.ConditionReady)
	if phase == v1alpha1.SnapshotPending && ready != nil && ready.Reason == v1alpha1.ReasonQueued {
		world.Waiting++
		world.LongestWait = max(world.LongestWait, now.Sub(snapshot.CreationTimestamp.Time))
	}
}

func knownPhase(phase v1alpha1.SandboxPhase) bool {
	switch phase {
	case v1alpha1.SandboxPending, v1alpha1.SandboxRunning, v1alpha1.SandboxPausing, v1alpha1.SandboxPaused, v1alpha1.SandboxResuming, v1alpha1.SandboxFailed:
		return true
	}
	return false
}

// since is when a sandbox that is on its way began to be so: nobody has asked anything else of it since, and
// it has not been Ready.
func since(sandbox *v1alpha1.Sandbox) time.Time {
	if sandbox.DeletionTimestamp != nil {
		return sandbox.DeletionTimestamp.Time
	}
	begun := sandbox.CreationTimestamp.Time
	if asked := sandbox.Status.LastRequestTime; asked != nil && asked.After(begun) {
		begun = asked.Time
	}
	ready := meta.FindStatusCondition(sandbox.Status.Conditions, v1alpha1.ConditionReady)
	if ready != nil && ready.Status == metav1.ConditionFalse && ready.LastTransitionTime.After(begun) {
		begun = ready.LastTransitionTime.Time
	}
	return begun
}

// reasonShown is what kubectl get shows as REASON: that of Ready, or why a sandbox runs that is to be paused or moved.
func reasonShown(sandbox *v1alpha1.Sandbox) string {
	shown := v1alpha1.ConditionReady
	if sandbox.DeletionTimestamp == nil && sandbox.Status.Phase == v1alpha1.SandboxRunning && (sandbox.Spec.DesiredState == v1alpha1.DesiredStatePaused || move.IsOf(sandbox, sandbox.Status.PodUID)) {
		shown = v1alpha1.ConditionPaused
	}
	if condition := meta.FindStatusCondition(sandbox.Status.Conditions, shown); condition != nil {
		return condition.Reason
	}
	return ""
}
