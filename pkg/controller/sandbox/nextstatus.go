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
	"time"

	corev1 "k8s.io/api/core/v1"
	apiequality "k8s.io/apimachinery/pkg/api/equality"
	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/opensandbox-io/sandbox-apiserver/apis/lifecycle/v1alpha1"
	"github.com/opensandbox-io/sandbox-apiserver/pkg/controller/answer"
)

// nextStatus is the status that a decision arrives at.
type nextStatus struct {
	*v1alpha1.SandboxStatus
	generation int64
	now        time.Time
}

func (o *observed) next() *nextStatus {
	next := &nextStatus{SandboxStatus: o.sandbox.Status.DeepCopy(), generation: o.sandbox.Generation, now: o.now}
	if o.edited() {
		next.noWait()
	}
	return next
}

// write is the action that stores the status, or none where it is stored already.
func (o *observed) write(next *nextStatus, event *note) action {
	next.ObservedGeneration = next.generation
	for i := range next.Conditions {
		next.Conditions[i].ObservedGeneration = next.generation
	}
	if apiequality.Semantic.DeepEqual(next.SandboxStatus, &o.sandbox.Status) {
		return action{do: wait}
	}
	return action{do: writeStatus, status: next.SandboxStatus, event: event}
}

func (n *nextStatus) set(kind string, is bool, reason, format string, args ...any) {
	status := metav1.ConditionFalse
	if is {
		status = metav1.ConditionTrue
	}
	condition := metav1.Condition{Type: kind, Status: status, Reason: reason, Message: answer.Condition(fmt.Sprintf(format, args...)), ObservedGeneration: n.generation}
	if before := meta.FindStatusCondition(n.Conditions, kind); before == nil || before.Status != status {
		condition.LastTransitionTime = metav1.NewTime(n.now)
	}
	meta.SetStatusCondition(&n.Conditions, condition)
}

// show takes over what the Pod looks like.
func (n *nextStatus) show(pod *corev1.Pod, view podView) {
	n.PodName, n.PodUID, n.PodIP = pod.Name, pod.UID, pod.Status.PodIP
	if pod.Spec.NodeName != "" {
		n.NodeName = pod.Spec.NodeName
	}
	n.set(v1alpha1.ConditionReady, view.ready, view.reason, "%s", view.message)
}

// forgetPod unlocks the template. The node stays: the next Pod prefers it.
func (n *nextStatus) forgetPod() {
	n.PodName, n.PodUID, n.PodIP = "", "", ""
}

func (n *nextStatus) pausedOn(snapshot string) {
	n.Phase = v1alpha1.SandboxPaused
	n.Move = nil
	n.set(v1alpha1.ConditionReady, false, v1alpha1.ReasonPaused, "the sandbox is paused")
	n.set(v1alpha1.ConditionPaused, true, v1alpha1.ReasonPaused, "the files are in snapshot %s and the Pod is gone", snapshot)
}

func (n *nextStatus) resuming() {
	from := "its template"
	if n.SnapshotName != "" {
		from = "snapshot " + n.SnapshotName
	}
	n.Phase = v1alpha1.SandboxResuming
	n.set(v1alpha1.ConditionReady, false, v1alpha1.ReasonResuming, "the Pod is coming back from %s", from)
	n.set(v1alpha1.ConditionPaused, false, v1alpha1.ReasonResuming, "the Pod is coming back from %s", from)
}

// loseData says that files are gone, and returns an event where that is news.
func (n *nextStatus) loseData(reason, format string, args ...any) *note {
	message := answer.Condition(fmt.Sprintf(format, args...))
	before := meta.FindStatusCondition(n.Conditions, v1alpha1.ConditionDataLost)
	if before != nil && before.Status == metav1.ConditionTrue && before.Reason == reason && before.Message == message {
		return nil
	}
	n.set(v1alpha1.ConditionDataLost, true, reason, "%s", message)
	return &note{warning: true, reason: reason, message: message}
}

// noticeReset says that a container was restarted in place, and returns an event where that is news.
// A restart that the condition tells of already is none, whatever else has changed since.
func (o *observed) noticeReset(n *nextStatus, resets []reset) *note {
	before := meta.FindStatusCondition(n.Conditions, v1alpha1.ConditionDataLost)
	if before != nil && (before.Status != metav1.ConditionTrue || before.Reason != v1alpha1.ReasonFilesystemReset) {
		before = nil
	}
	if !slices.ContainsFunc(resets, func(r reset) bool { return before == nil || !r.toldIn(before.Message) }) {
		return nil
	}
	since := "the sandbox was started"
	if n.SnapshotName != "" {
		since = "snapshot " + n.SnapshotName
	}
	return n.loseData(v1alpha1.ReasonFilesystemReset, "restarted in place, with a fresh root filesystem: %s%s%s%s", list(resets), v1alpha1.MessageWrittenSince, since, o.fateOf(resets))
}

// keepData takes the complaint back: somebody who could know of the loss has asked for a pause since,
// and that has succeeded. What was lost is still told.
func (n *nextStatus) keepData() {
	if lost := meta.FindStatusCondition(n.Conditions, v1alpha1.ConditionDataLost); lost != nil && lost.Status == metav1.ConditionTrue {
		n.set(v1alpha1.ConditionDataLost, false, v1alpha1.ReasonFilesSaved, "what was there when this pause was asked for is in snapshot %s; lost before that, as was seen at %s: %s",
			n.SnapshotName, lost.LastTransitionTime.UTC().Format(time.RFC3339), lost.Message)
	}
}
