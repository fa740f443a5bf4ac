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
	"strings"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/opensandbox-io/sandbox-apiserver/apis/lifecycle/v1alpha1"
)

func inPhase(phase corev1.PodPhase, reason string) func(*corev1.Pod) {
	return func(p *corev1.Pod) { p.Status.Phase, p.Status.Reason = phase, reason }
}

func disrupted(p *corev1.Pod) {
	p.Status.Conditions = []corev1.PodCondition{{Type: corev1.DisruptionTarget, Status: corev1.ConditionTrue, Reason: "PreemptionByScheduler"}}
}

func waitsFor(reason, message string) func(*corev1.Pod) {
	return func(p *corev1.Pod) {
		p.Status.ContainerStatuses[0].State = corev1.ContainerState{Waiting: &corev1.ContainerStateWaiting{Reason: reason, Message: message}}
	}
}

func initWaitsFor(reason string) func(*corev1.Pod) {
	return func(p *corev1.Pod) {
		p.Status.InitContainerStatuses = []corev1.ContainerStatus{{Name: "init", State: corev1.ContainerState{Waiting: &corev1.ContainerStateWaiting{Reason: reason}}}}
	}
}

func unscheduled(p *corev1.Pod) {
	p.Status.Conditions = []corev1.PodCondition{{Type: corev1.PodScheduled, Status: corev1.ConditionFalse, Message: "no node has 9 CPUs"}}
}

func TestViewPod(t *testing.T) {
	type view struct {
		started, ready, lost bool
		reason, message      string
	}
	tests := map[string]struct {
		pod  *corev1.Pod
		want view
	}{
		"ready":               {podOf(), view{true, true, false, v1alpha1.ReasonPodReady, "ready"}},
		"not ready":           {podOf(notReadyPod), view{true, false, false, v1alpha1.ReasonPodNotReady, "not ready yet"}},
		"crash loop":          {podOf(notReadyPod, waitsFor("CrashLoopBackOff", "back-off 5m0s")), view{true, false, false, v1alpha1.ReasonPodNotReady, "container main waits: CrashLoopBackOff"}},
		"being deleted":       {podOf(terminating(30)), view{true, false, false, v1alpha1.ReasonPodTerminating, "being deleted"}},
		"about to be evicted": {podOf(disrupted), view{true, false, false, v1alpha1.ReasonPodNotReady, "not ready yet"}},

		"ended":                        {podOf(ended), view{true, false, false, v1alpha1.ReasonContainersEnded, "a pause keeps their files"}},
		"ended badly":                  {podOf(inPhase(corev1.PodFailed, "")), view{true, false, false, v1alpha1.ReasonContainersEnded, "a pause keeps their files"}},
		"past its own deadline":        {podOf(inPhase(corev1.PodFailed, "DeadlineExceeded")), view{true, false, false, v1alpha1.ReasonContainersEnded, "a pause keeps their files"}},
		"evicted":                      {podOf(evictedPod), view{false, false, true, v1alpha1.ReasonPodLost, "Evicted: the node was low on memory"}},
		"preempted":                    {podOf(inPhase(corev1.PodFailed, ""), disrupted), view{false, false, true, v1alpha1.ReasonPodLost, "PreemptionByScheduler"}},
		"refused by the kubelet":       {podOf(inPhase(corev1.PodFailed, "OutOfcpu")), view{false, false, true, v1alpha1.ReasonPodLost, "OutOfcpu"}},
		"ended by the node's shutdown": {podOf(inPhase(corev1.PodFailed, "NodeShutdown")), view{false, false, true, v1alpha1.ReasonPodLost, "NodeShutdown"}},

		"just created":           {podOf(pendingPod, func(p *corev1.Pod) { p.Status.ContainerStatuses = nil }), view{false, false, false, v1alpha1.ReasonPodPending, "being started"}},
		"unschedulable":          {podOf(pendingPod, unscheduled), view{false, false, false, v1alpha1.ReasonPodUnschedulable, "no node has 9 CPUs"}},
		"containers are made":    {podOf(pendingPod, waitsFor("ContainerCreating", "")), view{false, false, false, v1alpha1.ReasonPodPending, "being started"}},
		"image cannot be had":    {podOf(pendingPod, waitsFor("ErrImagePull", "401")), view{false, false, false, v1alpha1.ReasonImagePullFailed, "container main (image busybox) cannot start: its image cannot be pulled"}},
		"image is not to be had": {podOf(pendingPod, waitsFor("ErrImageNeverPull", "not here")), view{false, false, false, v1alpha1.ReasonImagePullFailed, "ErrImageNeverPull: not here"}},
		"config is missing":      {podOf(pendingPod, waitsFor("CreateContainerConfigError", "no secret")), view{false, false, false, v1alpha1.ReasonPodPending, "CreateContainerConfigError: no secret"}},
		"init image is missing":  {podOf(pendingPod, initWaitsFor("InvalidImageName")), view{false, false, false, v1alpha1.ReasonImagePullFailed, "container init"}},
	}
	for name, test := range tests {
		t.Run(name, func(t *testing.T) {
			got := viewPod(test.pod)
			if (view{got.started, got.ready, got.lost, got.reason, test.want.message}) != test.want || !strings.Contains(got.message, test.want.message) {
				t.Errorf("seen as %+v, want %+v", got, test.want)
			}
		})
	}
}

func TestPullTroubleIsSaidOnce(t *testing.T) {
	// The kubelet alternates between the two for as long as the trouble lasts.
	one := viewPod(podOf(pendingPod, waitsFor("ErrImagePull", "401 Unauthorized")))
	other := viewPod(podOf(pendingPod, waitsFor("ImagePullBackOff", "Back-off pulling image")))
	if one != other {
		t.Errorf("%+v is not %+v", one, other)
	}
}

func TestAPodThatIsDeletedBeforeItRan(t *testing.T) {
	// As kubelets leave it since 1.27: the containers that never were end with a code of 137.
	gone := func(p *corev1.Pod) {
		p.Status.Phase = corev1.PodFailed
		p.Status.ContainerStatuses[0] = corev1.ContainerStatus{Name: "main", State: corev1.ContainerState{
			Terminated: &corev1.ContainerStateTerminated{Reason: "ContainerStatusUnknown", ExitCode: 137},
		}}
	}
	if got := viewPod(podOf(gone, terminating(30))); got.started || got.reason != v1alpha1.ReasonPodTerminating {
		t.Errorf("seen as %+v", got)
	}
	if got := viewPod(podOf(inPhase(corev1.PodFailed, ""), terminating(30))); !got.started {
		t.Errorf("one that ran is seen as %+v", got)
	}
}

// What the Pod says of its end is all that anybody will know of it.
func TestPodsTellWhyTheyEnd(t *testing.T) {
	since := metav1.Time{Time: epoch}
	target := func(reason, message string) func(*corev1.Pod) {
		return func(p *corev1.Pod) {
			p.Status.Conditions = append(p.Status.Conditions, corev1.PodCondition{Type: corev1.DisruptionTarget, Status: corev1.ConditionTrue, Reason: reason, Message: message})
		}
	}
	nodeSilent := func(p *corev1.Pod) {
		p.Status.Conditions = []corev1.PodCondition{{Type: corev1.PodReady, Status: corev1.ConditionFalse, LastTransitionTime: since}}
		p.Status.ContainerStatuses[0].Ready = true
	}
	unready := func(p *corev1.Pod) {
		p.Status.Conditions = []corev1.PodCondition{{Type: corev1.PodReady, Status: corev1.ConditionFalse, Reason: "ContainersNotReady", LastTransitionTime: since}}
	}
	gateClosed := func(p *corev1.Pod) {
		nodeSilent(p)
		p.Status.Conditions[0].Reason, p.Status.Conditions[0].Message = "ReadinessGatesNotReady", "the status of pod readiness gate x is not True"
	}
	outOfMemory := func(p *corev1.Pod) {
		ended(p)
		p.Status.Phase = corev1.PodFailed
		p.Status.ContainerStatuses[0].State.Terminated = &corev1.ContainerStateTerminated{Reason: "OOMKilled", ExitCode: 137, FinishedAt: since, StartedAt: since, ContainerID: "containerd://c1"}
	}
	const disk = "Pod ephemeral local storage usage exceeds the total limit of containers 20Mi."
	for name, test := range map[string]struct {
		pod     *corev1.Pod
		reason  string
		message string
		// words are what is remembered of it once it is gone.
		words string
	}{
		"evicted by the kubelet": {
			podOf(runs, inPhase(corev1.PodFailed, "Evicted"), func(p *corev1.Pod) { p.Status.Message = disk }, target("TerminationByKubelet", "again")),
			v1alpha1.ReasonPodLost, "the Pod was ended: Evicted: " + disk, "Evicted: " + disk,
		},
		"preempted": {podOf(target("PreemptionByScheduler", "default-scheduler: preempting to accommodate a higher priority pod"), terminating(30)), v1alpha1.ReasonPodTerminating,
			"the Pod is being deleted: PreemptionByScheduler: default-scheduler: preempting", "PreemptionByScheduler"},
		"its node was lost": {podOf(nodeSilent, target("DeletionByTaintManager", "Taint manager: deleting due to NoExecute taint"), terminating(30)), v1alpha1.ReasonPodTerminating,
			"DeletionByTaintManager: Taint manager: deleting due to NoExecute taint; node node-1 has not been heard of since 2026-01-02T03:04:05Z", "has not been heard of since"},
		"its node is silent":         {podOf(nodeSilent), v1alpha1.ReasonPodNotReady, "node node-1 has not been heard of since 2026-01-02T03:04:05Z", "node node-1 has not been heard of"},
		"its node speaks":            {podOf(unready), v1alpha1.ReasonPodNotReady, "the Pod runs and is not ready yet", ""},
		"a readiness gate":           {podOf(gateClosed), v1alpha1.ReasonPodNotReady, "is not ready: ReadinessGatesNotReady: the status of pod readiness gate x", ""},
		"out of memory, and no more": {podOf(outOfMemory), v1alpha1.ReasonContainersEnded, "all containers have ended (main: OOMKilled, exit code 137, 2026-01-02T03:04:05Z)", ""},
		"its own deadline": {podOf(inPhase(corev1.PodFailed, "DeadlineExceeded"), func(p *corev1.Pod) {
			p.Status.Message = "Pod was active on the node longer than the specified deadline"
		}),
			v1alpha1.ReasonContainersEnded, "all containers have ended (DeadlineExceeded: Pod was active on the node longer than", ""},
		"its node has no room": {podOf(notAdmitted), v1alpha1.ReasonPodNotAdmitted, "node node-1 does not take the Pod: OutOfcpu: Pod was rejected", "OutOfcpu"},
		"somebody deletes it":  {podOf(terminating(30)), v1alpha1.ReasonPodTerminating, "the Pod is being deleted", ""},
		"it is well":           {podOf(), v1alpha1.ReasonPodReady, "the Pod is ready", ""},
	} {
		got, words := viewPod(test.pod), wordsOf(test.pod)
		if got.reason != test.reason || !strings.Contains(got.message, test.message) {
			t.Errorf("%s: %s: %q, want %s: %q", name, got.reason, got.message, test.reason, test.message)
		}
		if !strings.Contains(words, test.words) || test.words == "" && words != "" {
			t.Errorf("%s: its last words are %q, want %q", name, words, test.words)
		}
	}
}

// The Pod may be gone before anybody has visited its sandbox since it was evicted; the watch has shown it.
func TestALossTellsWhatOnlyTheWatchHasSeen(t *testing.T) {
	f := newFixture(t, sandboxIn(v1alpha1.SandboxRunning, onPod, says(v1alpha1.ConditionReady, metav1.ConditionTrue, v1alpha1.ReasonPodReady)))
	f.r.ran.see(podOf(runs))
	f.r.ran.see(podOf(runs, evictedPod))
	f.visits("Pending Ready=False/Pending Paused=False/Running DataLost=True/PodLost pod=demo")
	f.tells("Warning PodLost Pod demo was lost (the Pod was ended: Evicted: the node was low on memory): there is no snapshot, all its files are gone",
		"Normal PodCreated created Pod demo from the template")
}

// A sandbox that loses its files again and again at the same place says so.
func TestALossIsNotTheFirst(t *testing.T) {
	lost := decide(observation(sandboxIn(v1alpha1.SandboxRunning, onPod, retries(0), func(s *v1alpha1.Sandbox) {
		s.Status.Conditions = append(s.Status.Conditions, metav1.Condition{Type: v1alpha1.ConditionDataLost, Status: metav1.ConditionTrue, Reason: v1alpha1.ReasonPodLost, LastTransitionTime: metav1.Time{Time: epoch}})
	}), after(time.Minute)))
	if want := "this is not the first loss since the last pause: the first was seen at 2026-01-02T03:04:05Z"; lost.event == nil || !strings.Contains(lost.event.message, want) {
		t.Errorf("told: %+v, want %q", lost.event, want)
	}
}

func TestAPodThatOthersEndSaysWhy(t *testing.T) {
	got := viewPod(podOf(terminating(30), func(p *corev1.Pod) {
		p.Status.Conditions = append(p.Status.Conditions, corev1.PodCondition{
			Type: corev1.DisruptionTarget, Status: corev1.ConditionTrue, Reason: "EvictionByEvictionAPI", Message: "Eviction API: evicting",
		})
	}))
	if want := "the Pod is being deleted: EvictionByEvictionAPI: Eviction API: evicting"; got.message != want {
		t.Errorf("%q, want %q", got.message, want)
	}
}
