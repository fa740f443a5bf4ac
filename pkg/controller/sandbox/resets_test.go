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
	"fmt"
	"slices"
	"testing"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/utils/ptr"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/opensandbox-io/sandbox-apiserver/apis/lifecycle/v1alpha1"
)

// container makes the status of one, with so many restarts.
func container(name string, restarts int32, options ...func(*corev1.ContainerStatus)) corev1.ContainerStatus {
	status := corev1.ContainerStatus{Name: name, RestartCount: restarts, ContainerID: "containerd://" + name}
	for _, option := range options {
		option(&status)
	}
	return status
}

func isRunning(s *corev1.ContainerStatus) {
	s.State.Running = &corev1.ContainerStateRunning{StartedAt: metav1.Time{Time: epoch}}
}

func startFailed(s *corev1.ContainerStatus) {
	s.LastTerminationState.Terminated = &corev1.ContainerStateTerminated{Reason: "StartError", ExitCode: 128, StartedAt: metav1.Unix(0, 0), ContainerID: "containerd://x"}
}

func crashed(s *corev1.ContainerStatus) {
	s.LastTerminationState.Terminated = &corev1.ContainerStateTerminated{Reason: "OOMKilled", ExitCode: 137, StartedAt: metav1.Time{Time: epoch}, FinishedAt: metav1.Time{Time: epoch}}
}

func waits(s *corev1.ContainerStatus) { s.State.Waiting = &corev1.ContainerStateWaiting{} }

// notFound: the kubelet looked for the container, which had been running, and did not find it.
func notFound(s *corev1.ContainerStatus) {
	s.LastTerminationState.Terminated = &corev1.ContainerStateTerminated{Reason: "ContainerStatusUnknown", ExitCode: 137}
}

// endedUnseen: the Pod has ended, and nobody knows how the container did.
func endedUnseen(s *corev1.ContainerStatus) {
	s.State = corev1.ContainerState{Terminated: &corev1.ContainerStateTerminated{Reason: "ContainerStatusUnknown", ExitCode: 137}}
}

func neverMade(s *corev1.ContainerStatus) { s.ContainerID = "" }

// TestWhoMayHaveFiles: nobody has written into what never ran, and nobody was promised what others have put into the Pod.
func TestWhoMayHaveFiles(t *testing.T) {
	tests := map[string]struct {
		containers []corev1.ContainerStatus
		named      []string
		want       bool
	}{
		"nothing was started":                   {nil, nil, false},
		"waits for its image":                   {[]corev1.ContainerStatus{container("main", 0, waits, neverMade)}, nil, false},
		"runs":                                  {[]corev1.ContainerStatus{container("main", 0, isRunning)}, nil, true},
		"could not be started":                  {[]corev1.ContainerStatus{container("main", 7, waits, startFailed)}, nil, false},
		"could be started at last":              {[]corev1.ContainerStatus{container("main", 7, isRunning, startFailed)}, nil, true},
		"ran, and waits to be restarted":        {[]corev1.ContainerStatus{container("main", 1, waits, crashed)}, nil, true},
		"ran before its node did not know it":   {[]corev1.ContainerStatus{container("main", 1, waits, notFound)}, nil, true},
		"was never made, and the Pod has ended": {[]corev1.ContainerStatus{container("main", 0, endedUnseen, neverMade)}, nil, false},
		"was made, and the Pod has ended":       {[]corev1.ContainerStatus{container("main", 0, endedUnseen)}, nil, true},
		"only a webhook's container runs":       {[]corev1.ContainerStatus{container("main", 0, waits, neverMade), container("proxy", 0, isRunning)}, nil, false},
		"and it is named":                       {[]corev1.ContainerStatus{container("main", 0, waits, neverMade), container("proxy", 0, isRunning)}, []string{"proxy"}, true},
		"only one runs that is not kept":        {[]corev1.ContainerStatus{container("main", 0, isRunning), container("other", 0, waits, neverMade)}, []string{"other"}, false},
	}
	for name, test := range tests {
		t.Run(name, func(t *testing.T) {
			pod := podOf(func(p *corev1.Pod) { p.Status.ContainerStatuses = test.containers })
			sandbox := sandboxIn(v1alpha1.SandboxRunning, onPod, func(s *v1alpha1.Sandbox) { s.Spec.Snapshot.Containers = test.named })
			memory := ranMemory{}
			memory.see(pod)
			runs := memory.of(sandbox).firstRuns
			for how, o := range map[string]*observed{
				"the Pod is there": {sandbox: sandbox, pod: pod},
				"the Pod is gone":  {sandbox: sandbox, runs: runs},
			} {
				if may, seen := o.mayHaveFiles(), o.seenToRun(); may != test.want || seen != test.want {
					t.Errorf("%s: may have files %t, was seen to run %t", how, may, seen)
				}
			}
			if o := (&observed{sandbox: sandbox}); !o.mayHaveFiles() || o.seenToRun() {
				t.Error("of a Pod that nobody has seen something else is said than that it may have files")
			}
		})
	}
}

func TestResets(t *testing.T) {
	tests := map[string]struct {
		containers []corev1.ContainerStatus
		sidecars   []corev1.ContainerStatus
		seen       map[string]int32 // of an earlier look
		kept       []string
		want       []string // container and restart
	}{
		"none":                                {containers: []corev1.ContainerStatus{container("a", 0, isRunning)}},
		"of two":                              {containers: []corev1.ContainerStatus{container("a", 1, isRunning), container("b", 0), container("c", 7)}, want: []string{"a 1", "c 7"}},
		"of those that are kept":              {containers: []corev1.ContainerStatus{container("a", 1), container("b", 0), container("c", 7)}, kept: []string{"b", "c"}, want: []string{"c 7"}},
		"init containers come again and ago":  {sidecars: []corev1.ContainerStatus{container("init", 3)}},
		"of a sidecar":                        {sidecars: []corev1.ContainerStatus{container("side", 3, isRunning, crashed)}, want: []string{"side 3"}},
		"never started":                       {containers: []corev1.ContainerStatus{container("a", 3, startFailed)}},
		"started at last":                     {containers: []corev1.ContainerStatus{container("a", 3, startFailed, isRunning)}},
		"started at last, and restarted":      {containers: []corev1.ContainerStatus{container("a", 4, crashed, isRunning)}, seen: map[string]int32{"a": 3}, want: []string{"a 4"}},
		"started at last, as was seen before": {containers: []corev1.ContainerStatus{container("a", 3, startFailed, isRunning)}, seen: map[string]int32{"a": 3}},
		"ran before its node did not know it": {containers: []corev1.ContainerStatus{container("a", 1, isRunning, notFound)}, want: []string{"a 1"}},
		"ran, and does not start any more":    {containers: []corev1.ContainerStatus{container("a", 2, startFailed)}, seen: map[string]int32{"a": 0}, want: []string{"a 2"}},
		"beside one that never started":       {containers: []corev1.ContainerStatus{container("a", 0, isRunning), container("b", 5, startFailed)}},
	}
	for name, test := range tests {
		t.Run(name, func(t *testing.T) {
			pod := podOf(func(p *corev1.Pod) {
				p.Spec.InitContainers = []corev1.Container{{Name: "init"}, {Name: "side", RestartPolicy: ptr.To(corev1.ContainerRestartPolicyAlways)}}
				p.Status.ContainerStatuses, p.Status.InitContainerStatuses = test.containers, test.sidecars
			})
			var got []string
			for _, r := range resetsOf(pod, firstRuns{uid: pod.UID, since: test.seen}, test.kept) {
				got = append(got, fmt.Sprintf("%s %d", r.container, r.restarts))
			}
			if !slices.Equal(got, test.want) {
				t.Errorf("reset: %q, want %q", got, test.want)
			}
		})
	}
}

func TestAResetTellsHowItCame(t *testing.T) {
	pod := podOf(restartedPod)
	if got, want := list(resetsOf(pod, firstRuns{}, nil)), "main (restart 1, container c1-1: OOMKilled, exit code 137, 2026-01-02T03:05:05Z)"; got != want {
		t.Errorf("%q, want %q", got, want)
	}
	pod.Status.ContainerStatuses[0].LastTerminationState.Terminated = nil
	if got, want := list(resetsOf(pod, firstRuns{}, nil)), "main (restart 1, container c1-1: how it ended is not known)"; got != want {
		t.Errorf("%q, want %q", got, want)
	}
}

// What a container's status shows no more is remembered, and only of the Pod that it was seen of.
func TestRuns(t *testing.T) {
	memory := ranMemory{}
	look := func(statuses ...corev1.ContainerStatus) firstRuns {
		pod := podOf(func(p *corev1.Pod) { p.Status.ContainerStatuses = statuses })
		memory.see(pod)
		return memory.of(sandboxIn("", onPod)).firstRuns
	}
	none := func(runs firstRuns, pod types.UID) bool { return runs.uid == pod && len(runs.since) == 0 }
	if runs := look(container("a", 0, waits)); !none(runs, podUID) {
		t.Errorf("before it ran: %+v", runs)
	}
	if runs := look(container("a", 2, waits, startFailed)); !none(runs, podUID) || none(runs, "pod-2") {
		t.Errorf("as it could not start: %+v", runs)
	}
	if runs := look(container("a", 3, isRunning, startFailed)); none(runs, podUID) || runs.since["a"] != 3 {
		t.Errorf("as it runs: %+v", runs)
	}
	if runs := look(container("a", 5, waits, startFailed)); runs.since["a"] != 3 {
		t.Errorf("as it starts no more: %+v", runs)
	}
	memory.forget(client.ObjectKeyFromObject(podOf()))
	if runs := memory.of(sandboxIn("", onPod)).firstRuns; none(runs, podUID) {
		t.Error("what was never looked at counts as never run")
	}
}

func TestALossTellsWhatThePodSaid(t *testing.T) {
	lost := decide(observation(sandboxIn(v1alpha1.SandboxRunning, onPod, func(s *v1alpha1.Sandbox) {
		s.Status.Conditions = append(s.Status.Conditions, metav1.Condition{Type: v1alpha1.ConditionReady, Status: metav1.ConditionFalse, Reason: v1alpha1.ReasonPodLost, Message: "the Pod was ended: Evicted: out of disk"})
	})))
	if want := "Pod demo was lost (the Pod was ended: Evicted: out of disk): there is no snapshot, all its files are gone"; lost.event == nil || lost.event.message != want {
		t.Errorf("told: %+v, want %q", lost.event, want)
	}
}

// TestWhoseRestartsCount: nobody was promised the files of what a webhook has put into the Pod.
func TestWhoseRestartsCount(t *testing.T) {
	always := ptr.To(corev1.ContainerRestartPolicyAlways)
	pod := podOf(func(p *corev1.Pod) {
		p.Spec.InitContainers = []corev1.Container{{Name: "ide", RestartPolicy: always}, {Name: "proxy", RestartPolicy: always}}
		again := func(name string) corev1.ContainerStatus { return corev1.ContainerStatus{Name: name, RestartCount: 1} }
		p.Status.ContainerStatuses = []corev1.ContainerStatus{again("main"), again("injected")}
		p.Status.InitContainerStatuses = []corev1.ContainerStatus{again("ide"), again("proxy")}
	})
	for name, test := range map[string]struct {
		named []string
		want  []string
	}{
		"all of the template's": {nil, []string{"ide", "main"}},
		"those that are named":  {[]string{"main", "proxy"}, []string{"proxy", "main"}},
	} {
		t.Run(name, func(t *testing.T) {
			o := &observed{pod: pod, sandbox: sandboxIn(v1alpha1.SandboxRunning, withTemplate(func(template *corev1.PodTemplateSpec) {
				template.Spec.InitContainers = []corev1.Container{{Name: "ide", RestartPolicy: always}}
			}), func(s *v1alpha1.Sandbox) { s.Spec.Snapshot.Containers = test.named })}
			var got []string
			for _, r := range o.resets() {
				got = append(got, r.container)
			}
			if !slices.Equal(got, test.want) {
				t.Errorf("reset: %q, want %q", got, test.want)
			}
		})
	}
}
