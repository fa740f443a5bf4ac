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
	"time"

	corev1 "k8s.io/api/core/v1"

	"github.com/opensandbox-io/sandbox-apiserver/apis/lifecycle/contents"
	"github.com/opensandbox-io/sandbox-apiserver/apis/lifecycle/v1alpha1"
)

// podView is what a Pod's status means for its sandbox.
type podView struct {
	// started: its containers run or have run, so that there are files to keep.
	started bool
	// ready, with reason and message of the sandbox's Ready condition.
	ready           bool
	reason, message string
	// lost: its containers were ended from outside and will not come back.
	lost bool
}

func viewPod(pod *corev1.Pod) podView {
	view := podView{}
	switch pod.Status.Phase {
	case corev1.PodSucceeded, corev1.PodFailed:
		if reason, why := evicted(pod); why != "" {
			return podView{lost: true, reason: reason, message: why}
		}
		// One that is deleted before it ran ends as Failed, and has written nothing. One that ended by
		// itself is left to whoever made its template, though nothing of it ever ran.
		view.started = pod.DeletionTimestamp == nil || !neverRan(pod)
		view.reason = v1alpha1.ReasonContainersEnded
		view.message = "all containers have ended" + endings(pod) + "; a pause keeps their files"
	case corev1.PodRunning:
		view.started = true
		view.reason, view.message = v1alpha1.ReasonPodNotReady, notReady(pod)
		for _, condition := range pod.Status.Conditions {
			if condition.Type == corev1.PodReady && condition.Status == corev1.ConditionTrue {
				view.ready = true
				view.reason, view.message = v1alpha1.ReasonPodReady, "the Pod is ready"
			}
		}
	default:
		view.reason, view.message = pending(pod)
	}
	if pod.DeletionTimestamp != nil {
		view.ready = false
		view.reason, view.message = v1alpha1.ReasonPodTerminating, "the Pod is being deleted"
		if why := disruption(pod); why != "" {
			view.message += ": " + why
		} else if by := adopter(pod); by != "" {
			view.message += ": " + by + " has taken it for one of its own"
		}
		if why := silent(pod); why != "" {
			view.message += "; " + why
		}
	}
	return view
}

// evicted says why a failed Pod was ended from outside, or never begun; empty where its containers ended by
// themselves.
func evicted(pod *corev1.Pod) (reason, why string) {
	said := pod.Status.Reason + ": " + pod.Status.Message
	if why := disruption(pod); why != "" {
		if pod.Status.Reason != "" && pod.Status.Message != "" {
			why = said // which says more: how much of what was used
		}
		return v1alpha1.ReasonPodLost, "the Pod was ended: " + why
	}
	switch pod.Status.Reason {
	case "", "DeadlineExceeded":
		// The kubelet sets a reason where it ends a Pod, and never when containers end by themselves. A Pod that ran
		// into the activeDeadlineSeconds of its own template has ended as its owner wanted.
		return "", ""
	}
	if neverRan(pod) {
		// OutOfcpu, NodeAffinity, TopologyAffinityError, UnexpectedAdmissionError …
		return v1alpha1.ReasonPodNotAdmitted, fmt.Sprintf("node %s does not take the Pod: %s", pod.Spec.NodeName, said)
	}
	return v1alpha1.ReasonPodLost, "the Pod was ended: " + said // Evicted, NodeShutdown, Terminated …
}

// endings are how the containers have ended, in brackets, where the Pod says it.
func endings(pod *corev1.Pod) string {
	var all []string
	if pod.Status.Reason != "" {
		all = append(all, pod.Status.Reason+": "+pod.Status.Message)
	}
	for _, status := range contents.Statuses(pod) {
		if ended := status.State.Terminated; ended != nil {
			all = append(all, status.Name+": "+howEnded(ended))
		}
	}
	if len(all) == 0 {
		return ""
	}
	return " (" + strings.Join(all, "; ") + ")"
}

// disruption is why others end the Pod, empty where they do not say that they do.
func disruption(pod *corev1.Pod) string {
	for _, condition := range pod.Status.Conditions {
		if condition.Type == corev1.DisruptionTarget && condition.Status == corev1.ConditionTrue {
			return fmt.Sprintf("%s: %s", condition.Reason, condition.Message)
		}
	}
	return ""
}

func notReady(pod *corev1.Pod) string {
	for i := range pod.Status.ContainerStatuses {
		status := &pod.Status.ContainerStatuses[i]
		if waiting := status.State.Waiting; waiting != nil {
			return fmt.Sprintf("container %s waits: %s: %s", status.Name, waiting.Reason, waiting.Message)
		}
	}
	if why := silent(pod); why != "" {
		return why
	}
	for _, condition := range pod.Status.Conditions {
		if condition.Type != corev1.PodReady || condition.Status == corev1.ConditionTrue {
			continue
		}
		if condition.Reason != "" && condition.Reason != "ContainersNotReady" {
			return fmt.Sprintf("the Pod runs and is not ready: %s: %s", condition.Reason, condition.Message)
		}
	}
	return "the Pod runs and is not ready yet"
}

// silent says that the node of a Pod has gone silent, since when. The control plane sets such a Pod's Ready condition to
// False and leaves the rest; the kubelet would give a reason.
// https://github.com/kubernetes/kubernetes/blob/v1.37.0/pkg/controller/util/node/controller_utils.go (MarkPodsNotReady)
func silent(pod *corev1.Pod) string {
	for _, condition := range pod.Status.Conditions {
		ended := slices.ContainsFunc(pod.Status.ContainerStatuses, func(status corev1.ContainerStatus) bool { return !status.Ready })
		if condition.Type == corev1.PodReady && condition.Status != corev1.ConditionTrue && condition.Reason == "" &&
			len(pod.Status.ContainerStatuses) > 0 && !ended && !condition.LastTransitionTime.IsZero() {
			return fmt.Sprintf("node %s has not been heard of since %s", pod.Spec.NodeName, condition.LastTransitionTime.UTC().Format(time.RFC3339))
		}
	}
	return ""
}

// wordsOf are what a Pod says of why it ends, or may end soon; empty where it says nothing.
func wordsOf(pod *corev1.Pod) string {
	view := viewPod(pod)
	switch {
	case view.lost, pod.DeletionTimestamp != nil && (disruption(pod) != "" || adopter(pod) != ""):
		return view.message
	}
	return silent(pod)
}

// pullProblems are the kubelet's reasons of a container that waits for an image it may not get.
// https://github.com/kubernetes/kubernetes/blob/master/pkg/kubelet/images/types.go
var pullProblems = map[string]bool{
	"ErrImagePull": true, "ImagePullBackOff": true, "InvalidImageName": true, "ErrImageNeverPull": true,
	"RegistryUnavailable": true, "ImageInspectError": true, "SignatureValidationFailed": true,
}

func pending(pod *corev1.Pod) (reason, message string) {
	for _, statuses := range [][]corev1.ContainerStatus{pod.Status.InitContainerStatuses, pod.Status.ContainerStatuses} {
		for i := range statuses {
			waiting := statuses[i].State.Waiting
			if waiting == nil || waiting.Reason == "ContainerCreating" || waiting.Reason == "PodInitializing" {
				continue
			}
			reason = v1alpha1.ReasonPodPending
			if pullProblems[waiting.Reason] {
				reason = v1alpha1.ReasonImagePullFailed
			}
			// ErrImagePull and ImagePullBackOff alternate for as long as the trouble lasts: the
			// message leaves the word out, or each turn would be a write.
			return reason, strings.TrimSpace(fmt.Sprintf("container %s (image %s) cannot start: %s", statuses[i].Name, statuses[i].Image, steady(waiting)))
		}
	}
	for _, condition := range pod.Status.Conditions {
		if condition.Type == corev1.PodScheduled && condition.Status == corev1.ConditionFalse {
			return v1alpha1.ReasonPodUnschedulable, condition.Message
		}
	}
	return v1alpha1.ReasonPodPending, "the Pod is being started"
}

func steady(waiting *corev1.ContainerStateWaiting) string {
	switch waiting.Reason {
	case "ErrImagePull", "ImagePullBackOff":
		return "its image cannot be pulled, the kubelet goes on trying; see the events of the Pod"
	}
	return waiting.Reason + ": " + waiting.Message
}
