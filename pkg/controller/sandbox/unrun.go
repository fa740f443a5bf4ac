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
	"strings"
	"sync"
	"time"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/meta"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/utils/ptr"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/opensandbox-io/sandbox-apiserver/apis/lifecycle/contents"
	"github.com/opensandbox-io/sandbox-apiserver/apis/lifecycle/v1alpha1"
)

// hasRun says whether a container of the template has run in the Pod, by its status or by what the watch has shown
// before: from then on there are files in it that somebody may miss. It goes by the template that the Pod was made of,
// which may be another one by now.
func (o *observed) hasRun() bool {
	made, of := o.pod.Annotations[v1alpha1.AnnotationContainers]
	names := append(strings.Split(made, ","), o.sandbox.Spec.Snapshot.Containers...)
	return slices.ContainsFunc(contents.Statuses(o.pod), func(status *corev1.ContainerStatus) bool {
		_, ran := o.runs.first(o.pod.UID, status)
		return ran && (!of || slices.Contains(names, status.Name))
	})
}

// outdated says whether the next Pod would be made of something else than this one was. One of an older server does
// not say what it was made of.
func (o *observed) outdated() bool {
	made, says := o.pod.Annotations[v1alpha1.AnnotationTemplate]
	return o.restores() || says && made != o.template
}

// unrun goes on with a Pod of which nothing has run, where it shall not be waited for as it is.
func (o *observed) unrun(next *nextStatus, view podView) (action, bool) {
	said := o.readyReason()
	switch {
	case o.wants(v1alpha1.DesiredStatePaused) && o.startLeft > 0 && aboutToStart(o.pod):
		next.show(o.pod, view)
		next.set(v1alpha1.ConditionPaused, false, v1alpha1.ReasonWithdrawing, "a pause is wanted while Pod %s starts: it is paused once it runs, or removed if it has not begun to within %s", o.pod.Name, startPatience)
		again := o.write(next, nil)
		again.after = o.startLeft
		return again, true
	case o.wants(v1alpha1.DesiredStatePaused):
		return o.replace(next, v1alpha1.ReasonWithdrawing, "a pause is wanted before anything has run: the start is taken back, Pod %s is being removed", o.pod.Name), true
	case o.outdated():
		return o.replace(next, v1alpha1.ReasonTemplateChanged, "what Pod %s is made of was changed before any container of it has run: it is being replaced", o.pod.Name), true
	case o.pod.DeletionTimestamp != nil && (said == v1alpha1.ReasonWithdrawing || said == v1alpha1.ReasonTemplateChanged):
		return action{do: wait}, true
	case o.pod.Status.Phase == corev1.PodFailed && !view.lost:
		next.show(o.pod, view)
		next.set(v1alpha1.ConditionReady, false, v1alpha1.ReasonContainersEnded, "the Pod has ended, and none of its containers could be started: %s; change the template, and it is made anew", notStarted(o.pod))
		return o.write(next, nil), true
	}
	return o.pulling(next, view)
}

// startPatience is for how long a Pod that is wanted no more is left alone where its node has it and tells of no
// trouble: its containers may have begun to run, and the node not have told of that yet. Paused as any other it loses nothing.
const startPatience = 30 * time.Second

// aboutToStart says whether the containers of a Pod may run at any moment.
func aboutToStart(pod *corev1.Pod) bool {
	if pod.Spec.NodeName == "" || pod.Status.Phase != corev1.PodPending || pod.DeletionTimestamp != nil {
		return false
	}
	return !slices.ContainsFunc(contents.Statuses(pod), func(status *corev1.ContainerStatus) bool {
		waiting := status.State.Waiting
		return waiting != nil && waiting.Reason != "ContainerCreating" && waiting.Reason != "PodInitializing"
	})
}

// starts are the Pods that are wanted no more while they start, since when. They are kept in memory: after a restart
// their time begins anew.
type starts struct {
	mutex sync.Mutex
	since map[client.ObjectKey]start
}

type start struct {
	pod types.UID
	at  time.Time
}

// left is how long the Pod is left alone, from the first call on.
func (s *starts) left(key client.ObjectKey, pod types.UID, now time.Time) time.Duration {
	s.mutex.Lock()
	defer s.mutex.Unlock()
	if s.since == nil {
		s.since = map[client.ObjectKey]start{}
	}
	if s.since[key].pod != pod {
		s.since[key] = start{pod, now}
	}
	return s.since[key].at.Add(startPatience).Sub(now)
}

func (s *starts) forget(key client.ObjectKey) {
	s.mutex.Lock()
	defer s.mutex.Unlock()
	delete(s.since, key)
}

// ranAfterAll goes on after a Pod that was to have run nothing, and was seen to have as it went.
func (o *observed) ranAfterAll(next *nextStatus) action {
	if said := o.readyReason(); said != v1alpha1.ReasonWithdrawing && said != v1alpha1.ReasonTemplateChanged && said != v1alpha1.ReasonImageUnavailable {
		return o.lost(next, o.from)
	}
	event := next.loseData(v1alpha1.ReasonPodLost, "Pod %s was removed before any container of it was known to run, and had just begun to: what it wrote in that moment is gone", next.PodName)
	next.forgetPod()
	return o.write(next, event)
}

func (o *observed) readyReason() string {
	if ready := meta.FindStatusCondition(o.sandbox.Status.Conditions, v1alpha1.ConditionReady); ready != nil {
		return ready.Reason
	}
	return ""
}

// replace removes a Pod of which nothing has run. Why is written down first: with the Pod it would be gone.
func (o *observed) replace(next *nextStatus, reason, format string, args ...any) action {
	next.PodName, next.PodUID = o.pod.Name, o.pod.UID
	next.noWait() // somebody has asked for it
	next.set(v1alpha1.ConditionReady, false, reason, format, args...)
	if reason == v1alpha1.ReasonWithdrawing {
		next.set(v1alpha1.ConditionPaused, false, reason, format, args...)
	}
	if write := o.write(next, nil); write.do != wait {
		return write
	}
	return o.removeUnrun()
}

// notStarted is why the first container that could not be started was not.
func notStarted(pod *corev1.Pod) string {
	for _, status := range contents.Statuses(pod) {
		if ended := status.State.Terminated; ended != nil && ended.Reason != "" {
			return fmt.Sprintf("%s: %s: %s", status.Name, ended.Reason, ended.Message)
		}
	}
	return "its status does not say why"
}

// removeUnrun removes a Pod of which no container has run. It is read past the cache before, and
// deleted only as it was read: a container that starts meanwhile keeps it.
func (o *observed) removeUnrun() action {
	switch {
	case o.pod.DeletionTimestamp != nil:
		return action{do: wait}
	case !o.fresh:
		return action{do: readPod}
	}
	return action{do: deletePod, grace: ptr.To[int64](removalGrace), asSeen: true}
}

// pulling goes on where the Pod may lack an image of the snapshot. The registry may have been out of reach
// before the Pod was made, or have lost the image since: then the kubelet would try for ever.
func (o *observed) pulling(next *nextStatus, view podView) (action, bool) {
	if o.from == nil {
		return action{}, false
	}
	if o.pod.DeletionTimestamp != nil {
		return action{do: wait}, imagesMissing(o.from) // why is said already
	}
	fails := lacksImage(o.pod, o.from)
	switch {
	case imagesMissing(o.from) && (fails || o.pod.Spec.NodeName == ""):
		// Why is written down first: with the Pod it would be gone.
		next.show(o.pod, view)
		if write := o.write(next, o.missImages(next)); write.do != wait {
			return write, true
		}
		return o.removeUnrun(), true
	case fails && o.from.Spec.Source == nil && !o.checked && o.looksAgain <= 0:
		return action{do: checkImages}, true
	case fails:
		next.show(o.pod, view)
		again := o.write(next, nil)
		again.after = max(o.looksAgain, 0)
		return again, true
	}
	return action{}, false
}

// pullingBeside is pulling where another container of the Pod has run, and has files: then the Pod stays.
func (o *observed) pullingBeside(next *nextStatus) (action, bool) {
	switch {
	case o.from == nil || o.pod.DeletionTimestamp != nil || !lacksImage(o.pod, o.from):
	case imagesMissing(o.from):
		missing := meta.FindStatusCondition(o.from.Status.Conditions, v1alpha1.ConditionImageAvailable)
		next.set(v1alpha1.ConditionReady, false, v1alpha1.ReasonImageUnavailable, "snapshot %s: %s. Other containers of the Pod have run, and have files, so it stays: "+
			"to keep them, name those containers in spec.snapshot.containers and pause the sandbox", o.from.Name, missing.Message)
	case o.from.Spec.Source == nil && !o.checked && o.looksAgain <= 0:
		return action{do: checkImages}, true
	}
	return action{}, false
}

// lacksImage says whether the kubelet cannot pull the image of a container that comes from the snapshot.
func lacksImage(pod *corev1.Pod, from *v1alpha1.SandboxSnapshot) bool {
	return slices.ContainsFunc(contents.Statuses(pod), func(status *corev1.ContainerStatus) bool {
		return status.State.Waiting != nil && pullProblems[status.State.Waiting.Reason] &&
			slices.ContainsFunc(from.Status.Containers, func(saved v1alpha1.ContainerSnapshot) bool { return saved.ContainerName == status.Name })
	})
}
