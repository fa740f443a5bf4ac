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
	"slices"
	"strings"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/opensandbox-io/sandbox-apiserver/apis/lifecycle/v1alpha1"
)

var restores = onExit(v1alpha1.ExitPolicyRestore)

// attemptOfEnded is a pause's attempt that has the container main as it ended, with that ID.
func attemptOfEnded(id string, phase v1alpha1.SandboxSnapshotPhase, options ...func(*v1alpha1.SandboxSnapshot)) v1alpha1.SandboxSnapshot {
	return *snapshotIn(phase, append([]func(*v1alpha1.SandboxSnapshot){func(s *v1alpha1.SandboxSnapshot) {
		s.Spec.Rescue = &v1alpha1.SnapshotRescue{SandboxUID: "sandbox-1", PodUID: podUID, Containers: []v1alpha1.RescuedContainer{{ContainerName: "main", ContainerID: id}}}
	}}, options...)...)
}

// TestWhatIsBroughtBack: what has ended not long ago, and not faster than Pods are made.
func TestWhatIsBroughtBack(t *testing.T) {
	const always, onFailure, never = corev1.RestartPolicyAlways, corev1.RestartPolicyOnFailure, corev1.RestartPolicyNever
	for name, test := range map[string]struct {
		sandbox []func(*v1alpha1.Sandbox)
		pod     []func(*corev1.Pod)
		tried   []v1alpha1.SandboxSnapshot
		after   time.Duration
		// ids is what is brought back, wait how long it waits; rescued is what is saved for itself instead.
		ids     string
		wait    time.Duration
		rescued bool
	}{
		"nothing has ended":                   {},
		"it was restarted in place":           {pod: []func(*corev1.Pod){restartedPod, runs}, ids: "c1"},
		"it waits to be run again":            {pod: []func(*corev1.Pod){restarts(always), backsOff}, ids: "c1"},
		"it has failed, and stays so":         {pod: []func(*corev1.Pod){restarts(never), endsWith(1)}, ids: "c1"},
		"the Pod has failed":                  {pod: []func(*corev1.Pod){restarts(never), endsWith(1), func(p *corev1.Pod) { p.Status.Phase = corev1.PodFailed }}, ids: "c1"},
		"it has ended well, and stays so":     {pod: []func(*corev1.Pod){restarts(onFailure), endsWith(0)}},
		"it has ended well, and is run again": {pod: []func(*corev1.Pod){restarts(always), endsWith(0)}, ids: "c1"},
		"it never ran":                        {pod: []func(*corev1.Pod){cannotStart}},
		"nothing is left of it":               {pod: []func(*corev1.Pod){resetAll}},
		"the Pod is new":                      {sandbox: []func(*v1alpha1.Sandbox){retries(2 * time.Minute)}, pod: []func(*corev1.Pod){restartedPod, runs}, wait: time.Minute},
		"the Pod is new, and asked for":       {sandbox: []func(*v1alpha1.Sandbox){retries(2 * time.Minute), edited}, pod: []func(*corev1.Pod){restartedPod, runs}, ids: "c1"},
		"another has written for long":        {pod: []func(*corev1.Pod){restartedPod, runs}, after: podLasts, rescued: true},
		"a pause is wanted":                   {sandbox: []func(*v1alpha1.Sandbox){wantsPaused, heldByLoss}, pod: []func(*corev1.Pod){restartedPod, runs}, rescued: true},
		"the Pod is on its way out":           {pod: []func(*corev1.Pod){restartedPod, runs, terminating(30)}},
		"it was in vain":                      {pod: []func(*corev1.Pod){restartedPod, runs}, tried: []v1alpha1.SandboxSnapshot{attemptOfEnded("c1", v1alpha1.SnapshotFailed, failedFor(v1alpha1.ReasonContainerNotFound))}},
		"the registry was away":               {pod: []func(*corev1.Pod){restartedPod, runs}, tried: []v1alpha1.SandboxSnapshot{attemptOfEnded("c1", v1alpha1.SnapshotFailed)}, ids: "c1"},
		"an earlier one was in vain":          {pod: []func(*corev1.Pod){restartedTwice, runs}, tried: []v1alpha1.SandboxSnapshot{attemptOfEnded("c1", v1alpha1.SnapshotFailed, failedFor(v1alpha1.ReasonContainerNotFound))}, ids: "c1-1"},
	} {
		t.Run(name, func(t *testing.T) {
			o := observation(sandboxIn(v1alpha1.SandboxRunning, append([]func(*v1alpha1.Sandbox){onPod, restores}, test.sandbox...)...), sees(podOf(test.pod...)))
			o.canRescue, o.tried, o.now = true, test.tried, epoch.Add(time.Minute+test.after)
			next := o.next()
			wait := o.noteEnd(next, o.view())
			if (next.Move != nil) != (test.ids != "") || wait != test.wait {
				t.Fatalf("moves %+v, or after %s", next.Move, wait)
			}
			act := decide(o)
			if (act.do == createRescue) != test.rescued {
				t.Errorf("it is to %s", act.do)
			}
			if test.wait > 0 && act.after != test.wait {
				t.Errorf("again after %s", act.after)
			}
			if test.ids == "" {
				return
			}
			if next.Move.Reason != v1alpha1.ReasonContainerEnded || next.Move.PodUID != podUID || !strings.Contains(next.Move.Message, "container main ended") {
				t.Errorf("moves %+v", next.Move)
			}
			o.sandbox.Status = *next.SandboxStatus
			made := o.attemptToMake()
			if made.Spec.Pause == nil || made.Spec.Rescue == nil || !slices.Equal(made.Spec.Rescue.Containers, []v1alpha1.RescuedContainer{{ContainerName: "main", ContainerID: test.ids}}) {
				t.Errorf("the attempt is %+v", made.Spec)
			}
			o.sandbox.Status.Move.Reason = v1alpha1.ReasonNodeDraining
			if made := o.attemptToMake(); made.Spec.Rescue == nil {
				t.Errorf("where its node is drained meanwhile the attempt is %+v", made.Spec)
			}
		})
	}
}

// TestRestore brings back a sandbox whose container has ended, and waits before it does so again.
func TestRestore(t *testing.T) {
	f := newFixture(t, sandboxIn(v1alpha1.SandboxRunning, onPod, restores), podOf(restartedPod, runs))
	f.visits("Pausing Ready=True/PodReady Paused=False/Moving DataLost=True/FilesystemReset move=ContainerEnded pod=demo/pod-1 attempts=1")
	attempt := &v1alpha1.SandboxSnapshot{}
	if err := f.own.Get(t.Context(), client.ObjectKey{Namespace: namespace, Name: "demo-gen1"}, attempt); err != nil {
		t.Fatal(err)
	}
	if attempt.Spec.Rescue == nil || attempt.Spec.Rescue.Containers[0].ContainerID != "c1" {
		t.Fatalf("it saves %+v", attempt.Spec)
	}
	made := snapshotIn(v1alpha1.SnapshotSucceed, savedAs("c1"), inRegistry, func(s *v1alpha1.SandboxSnapshot) {
		s.Status.Containers[0].ImageURI, s.Status.Containers[0].ImageDigest = "registry.example.com/demo:tag", "sha256:"+strings.Repeat("a", 64)
	})
	made.Status.DeepCopyInto(&attempt.Status)
	if err := f.own.Status().Update(t.Context(), attempt); err != nil {
		t.Fatal(err)
	}
	f.visits("Pausing Ready=False/Moving Paused=False/RemovingPod DataLost=True/FilesystemReset move=ContainerEnded pod=demo/pod-1 saved=demo-gen1 attempts=1")
	if f.pod() != nil {
		t.Fatal("the Pod is still there")
	}
	f.visits("Resuming Ready=False/Resuming Paused=False/Resuming DataLost=False/FilesSaved move=ContainerEnded/pod-1 pod=demo saved=demo-gen1 attempts=1")
	sandbox := &v1alpha1.Sandbox{}
	if err := f.own.Get(t.Context(), client.ObjectKey{Namespace: namespace, Name: name}, sandbox); err != nil {
		t.Fatal(err)
	}
	lost := meta.FindStatusCondition(sandbox.Status.Conditions, v1alpha1.ConditionDataLost)
	if !strings.Contains(lost.Message, "comes back from snapshot demo-gen1, with the files as they were when the container ended; what was written after that is not there: restarted in place") {
		t.Errorf("DataLost says %q", lost.Message)
	}

	// It runs, and ends at once: the next waits as after a Pod that does not last.
	f.podIs(runs)
	f.visits("Running Ready=True/PodReady Paused=False/Running DataLost=False/FilesSaved pod=demo/made-1 saved=demo-gen1 attempts=1")
	f.clock.SetTime(f.clock.Now().Add(2 * time.Second))
	f.podIs(restartedTwice, runs)
	const waits = "Running Ready=True/PodReady Paused=False/Running DataLost=True/FilesystemReset pod=demo/made-1 saved=demo-gen1 attempts=1"
	if again := f.visits(waits); again.RequeueAfter != 8*time.Second {
		t.Errorf("again after %s", again.RequeueAfter)
	}
	f.clock.SetTime(f.clock.Now().Add(8 * time.Second))
	f.visits("Pausing Ready=True/PodReady Paused=False/Moving DataLost=True/FilesystemReset move=ContainerEnded pod=demo/made-1 saved=demo-gen1 attempts=2")
	if got := f.snapshots(); got != "demo-gen1 demo-gen2" {
		t.Errorf("snapshots %q", got)
	}
}

// TestWhatCannotBeBroughtBack: the kubelet was faster. The sandbox runs on, and says so.
func TestWhatCannotBeBroughtBack(t *testing.T) {
	attempt := attemptOfEnded("c1", v1alpha1.SnapshotFailed, failedFor(v1alpha1.ReasonContainerNotFound))
	moved := func(s *v1alpha1.Sandbox) {
		s.Status.Move = &v1alpha1.SandboxMove{PodUID: podUID, NodeName: "node-1", Reason: v1alpha1.ReasonContainerEnded, Message: "container main ended"}
	}
	sandbox := sandboxIn(v1alpha1.SandboxPausing, onPod, restores, moved, attempts(1), tellsOf(restartedPod))
	o := observation(sandbox, sees(podOf(restartedPod, runs)), sees(&attempt))
	o.canRescue, o.tried = true, []v1alpha1.SandboxSnapshot{attempt}
	act := decide(o)
	if act.do != writeStatus || act.status.Phase != v1alpha1.SandboxRunning || act.status.Move != nil || act.event == nil || act.event.reason != v1alpha1.EventRescueFailed {
		t.Fatalf("it is to %s %+v, %+v", act.do, act.status, act.event)
	}
	lost := meta.FindStatusCondition(act.status.Conditions, v1alpha1.ConditionDataLost)
	if lost == nil || lost.Status != metav1.ConditionTrue {
		t.Errorf("DataLost is %+v", lost)
	}
}

// TestAPodThatItsKubeletIsAboutToEnd is saved as soon as it says so: it has a second, and what is dead another.
func TestAPodThatItsKubeletIsAboutToEnd(t *testing.T) {
	doomed := func(p *corev1.Pod) {
		p.Status.Conditions = append(p.Status.Conditions, corev1.PodCondition{
			Type: corev1.DisruptionTarget, Status: corev1.ConditionTrue, Reason: corev1.PodReasonTerminationByKubelet, Message: "Container main exceeded its local ephemeral storage limit",
		})
	}
	for policy, saves := range map[v1alpha1.SandboxEvictionPolicy]bool{v1alpha1.EvictionPolicySave: true, v1alpha1.EvictionPolicyNone: false} {
		o := observation(sandboxIn(v1alpha1.SandboxRunning, onPod, func(s *v1alpha1.Sandbox) { s.Spec.EvictionPolicy = policy }), sees(podOf(runs, doomed)))
		o.claimed = true
		act := decide(o)
		if act.do != writeStatus || (act.status.Phase == v1alpha1.SandboxPausing) != saves || (act.status.Move != nil) != saves {
			t.Fatalf("%s: it is to %s %+v", policy, act.do, act.status)
		}
		if saves && (act.status.Move.Reason != v1alpha1.ReasonEvicted || !strings.Contains(act.status.Move.Message, "ephemeral storage limit")) {
			t.Errorf("it moves for %+v", act.status.Move)
		}
	}
}
