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
	"maps"
	"slices"
	"sync"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/types"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/opensandbox-io/sandbox-apiserver/apis/lifecycle/contents"
	"github.com/opensandbox-io/sandbox-apiserver/apis/lifecycle/v1alpha1"
)

// firstRuns says which containers of a Pod have run, and since which restart: a container that never ran has
// written nothing, however often the kubelet has tried to start it.
type firstRuns struct {
	uid   types.UID
	since map[string]int32
}

// seenPod is what the watch has shown of a sandbox's last Pod.
type seenPod struct {
	firstRuns
	sandbox types.UID
	// resets are those of all its containers.
	resets []reset
	// words are what it has said of its end.
	words string
	// settled: the sandbox's status has told of it, or it was removed because somebody wanted it so.
	settled bool
}

// first is the restart count with which the container ran for the first time, and whether it has. A
// status shows no more than the last two containers, so what was seen before counts first.
func (r firstRuns) first(pod types.UID, status *corev1.ContainerStatus) (int32, bool) {
	if since, known := r.since[status.Name]; known && r.uid == pod {
		return since, true
	}
	return firstRun(status)
}

// mayHaveFiles says whether somebody can have written files that a pause of this sandbox would keep: one of the
// containers that it keeps has run in its Pod, which may be gone, or nobody has seen that Pod. Those that something
// else has put into the Pod do not count: they run, though the template's own cannot start.
func (o *observed) mayHaveFiles() bool {
	return o.seenToRun() || o.pod == nil && (o.runs.uid == "" || o.runs.uid != o.sandbox.Status.PodUID)
}

// seenToRun is mayHaveFiles where a Pod that nobody has seen does not count.
func (o *observed) seenToRun() bool {
	kept := o.keeps()
	counts := func(container string) bool { return len(kept) == 0 || slices.Contains(kept, container) }
	if o.pod != nil {
		return slices.ContainsFunc(contents.Statuses(o.pod), func(status *corev1.ContainerStatus) bool {
			_, ran := o.runs.first(o.pod.UID, status)
			return ran && counts(status.Name)
		})
	}
	for container := range o.runs.since {
		if o.runs.uid == o.sandbox.Status.PodUID && counts(container) {
			return true
		}
	}
	return false
}

// ranUnnoticed says whether the Pod is gone that the sandbox was about to tell of, and had run.
func (o *observed) ranUnnoticed() bool {
	if o.pod != nil || o.sandbox.Status.PodUID != "" || o.sandbox.Status.PodName == "" || o.runs.uid == "" {
		return false
	}
	kept := o.keeps()
	for container := range o.runs.since {
		if len(kept) == 0 || slices.Contains(kept, container) {
			return true
		}
	}
	return false
}

func firstRun(status *corev1.ContainerStatus) (int32, bool) {
	last := status.LastTerminationState.Terminated
	switch {
	case last != nil && (!failedToStart(last) || last.Reason == statusUnknown), last == nil && status.RestartCount > 0:
		return 0, true
	case status.State.Waiting != nil, failedToStart(status.State.Terminated) && (status.ContainerID == "" || status.State.Terminated.Reason != statusUnknown):
		return 0, false
	}
	return status.RestartCount, true
}

// statusUnknown is the kubelet's reason of a container that it cannot find. Where one was running before, as the last
// state of it; where the Pod ends, as the state of each that has no other end, the never started among them.
// https://github.com/kubernetes/kubernetes/blob/v1.37.0/pkg/kubelet/kubelet_pods.go (convertToAPIContainerStatuses)
// https://github.com/kubernetes/kubernetes/blob/v1.37.0/pkg/kubelet/status/status_manager.go (TerminatePod)
const statusUnknown = "ContainerStatusUnknown"

// failedToStart says that the runtime made the container and its process never began: then it has an
// end and no beginning (containerd's CRI leaves 0, which the kubelet shows as 1970).
func failedToStart(ended *corev1.ContainerStateTerminated) bool {
	return ended != nil && ended.StartedAt.Unix() <= 0 && (ended.Reason == "StartError" || ended.ContainerID == "")
}

// neverRan says that a Pod's status leaves no doubt that none of its containers has run.
func neverRan(pod *corev1.Pod) bool {
	for _, status := range contents.Statuses(pod) {
		if _, ran := firstRun(status); ran {
			return false
		}
	}
	return true
}

// ranMemory knows the runs of the sandboxes' Pods. It is kept in memory: what an earlier process saw, the
// Pods' statuses mostly still tell, and where they do not, files count as lost rather than as never there.
type ranMemory struct {
	mutex sync.Mutex
	pods  map[client.ObjectKey]seenPod
}

func (m *ranMemory) see(pod *corev1.Pod) {
	key := client.ObjectKey{Namespace: pod.Namespace, Name: pod.Labels[v1alpha1.LabelSandbox]}
	if key.Name == "" || pod.Labels[v1alpha1.LabelSandboxUID] == "" {
		return
	}
	m.mutex.Lock()
	defer m.mutex.Unlock()
	if m.pods == nil {
		m.pods = map[client.ObjectKey]seenPod{}
	}
	seen := m.pods[key]
	if seen.uid != pod.UID {
		seen = seenPod{firstRuns: firstRuns{uid: pod.UID, since: map[string]int32{}}, sandbox: types.UID(pod.Labels[v1alpha1.LabelSandboxUID])}
	}
	for _, status := range contents.Statuses(pod) {
		if _, known := seen.since[status.Name]; known {
			continue
		}
		if since, ran := firstRun(status); ran {
			seen.since[status.Name] = since
		}
	}
	seen.resets = resetsOf(pod, seen.firstRuns, nil)
	seen.words = wordsOf(pod)
	m.pods[key] = seen
}

// of is what is known of the Pod that the sandbox's status tells of, or is yet to tell of.
func (m *ranMemory) of(sandbox *v1alpha1.Sandbox) seenPod {
	m.mutex.Lock()
	defer m.mutex.Unlock()
	seen := m.pods[client.ObjectKeyFromObject(sandbox)]
	if seen.sandbox != sandbox.UID {
		return seenPod{}
	}
	unnoticed := sandbox.Status.PodUID == "" && sandbox.Status.PodName != "" && !seen.settled
	if seen.uid != sandbox.Status.PodUID && !unnoticed {
		return seenPod{}
	}
	seen.since = maps.Clone(seen.since)
	return seen
}

// written notes what the status tells of by now: of that Pod, or of none any more.
func (m *ranMemory) written(sandbox *v1alpha1.Sandbox) {
	if sandbox.Status.PodName == "" || sandbox.Status.PodUID != "" {
		m.settle(client.ObjectKeyFromObject(sandbox), sandbox.Status.PodUID)
	}
}

// settle notes that nobody has to be told any more of what the Pod has run; of any, where the UID is empty.
func (m *ranMemory) settle(key client.ObjectKey, pod types.UID) {
	m.mutex.Lock()
	defer m.mutex.Unlock()
	if seen, known := m.pods[key]; known && (pod == "" || seen.uid == pod) {
		seen.settled = true
		m.pods[key] = seen
	}
}

func (m *ranMemory) forget(key client.ObjectKey) {
	m.mutex.Lock()
	defer m.mutex.Unlock()
	delete(m.pods, key)
}
