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
	"time"

	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/opensandbox-io/sandbox-apiserver/apis/lifecycle/v1alpha1"
	"github.com/opensandbox-io/sandbox-apiserver/pkg/controller/answer"
)

// No Pod and no attempt is made again without a wait, whatever became of the last one: the API did not take it, nor did its
// node, a webhook has changed it beyond use, somebody deletes each at once. How long it is, the status says, so that
// a server that is restarted waits as well: it is written together with what is written anyway. Whoever asks for
// something, or edits the spec, does not wait.

const (
	firstRetry, lastRetry = answer.FirstWait, answer.LastWait
	// podLasts is how long a Pod has to live, beyond the wait for the next one, until it counts as one that lasts:
	// what kubelets say of containers as well.
	podLasts = 2 * answer.LastWait
	// maxWait is longer than any wait: where a status tells of a longer one, the clock that it was written by was wrong.
	maxWait = lastingFactor*answer.LastWait + time.Minute
)

// retryIn is how long the next Pod, or while it runs the next attempt of a pause that failed, has to wait. Zero or
// less: not at all.
func (o *observed) retryIn() time.Duration {
	until := o.sandbox.Status.RetryTime
	if until == nil || o.edited() || o.unblocked {
		return 0
	}
	left := until.Sub(o.now)
	if left > maxWait {
		return 0
	}
	return left
}

// edited says whether nothing has been decided yet on the spec as it is.
func (o *observed) edited() bool { return o.sandbox.Status.ObservedGeneration != o.sandbox.Generation }

// blocked says whether a Pod of another has the name of the sandbox's.
func blocked(status *v1alpha1.SandboxStatus) bool {
	ready := meta.FindStatusCondition(status.Conditions, v1alpha1.ConditionReady)
	return ready != nil && ready.Reason == v1alpha1.ReasonPodNameConflict
}

// countPod is written before a Pod is created: when there may be another, should this one not last.
func (n *nextStatus) countPod() {
	if n.RetryTime != nil && n.now.Before(n.RetryTime.Add(podLasts)) {
		n.FailedPods++
	} else {
		n.FailedPods = 0
	}
	n.wait(answer.Backoff(n.FailedPods + 1))
}

func (n *nextStatus) wait(d time.Duration) {
	n.RetryTime = &metav1.MicroTime{Time: n.now.Add(d)}
}

func (n *nextStatus) noWait() { n.FailedPods, n.RetryTime = 0, nil }

// podLasts notes that the Pod has lasted.
func (n *nextStatus) podLasts() {
	if n.FailedPods > 0 && n.RetryTime != nil && n.now.After(n.RetryTime.Add(podLasts)) {
		n.noWait()
	}
}

// podEnds notes that there is no Pod any more. Where the time to wait for was a pause's, it becomes that of the next Pod.
func (n *nextStatus) podEnds() {
	if n.FailedAttempts > 0 {
		n.wait(answer.Backoff(n.FailedPods + 1))
	}
}

// again says when another Pod is made, for the end of a sentence.
func (n *nextStatus) again() string {
	if n.RetryTime == nil || !n.RetryTime.After(n.now) {
		return "it is made anew"
	}
	text := fmt.Sprintf("the next one is made at %s, or at once after a resume or an edit of the spec", n.RetryTime.UTC().Format(time.RFC3339))
	if n.FailedPods > 0 {
		text = fmt.Sprintf("%d Pods in a row have not lasted, %s", n.FailedPods+1, text)
	}
	return text
}

// podGone notes that the Pod is gone which was being started, and that nobody has asked for that. It returns an event
// where that is news.
func (o *observed) podGone(next *nextStatus) *note {
	ready := meta.FindStatusCondition(next.Conditions, v1alpha1.ConditionReady)
	gone := ""
	switch {
	case next.PodUID != "" && ready != nil && shown[ready.Reason]:
		gone = fmt.Sprintf("Pod %s went away before it ran%s", next.PodName, o.lastWords())
	case next.PodUID == "" && next.PodName != "" && !o.named && o.retryIn() > 0:
		gone = fmt.Sprintf("Pod %s is not there: it was deleted at once, or the server ended before it was created", next.PodName)
	default:
		next.forgetPod() // there was none, or it was removed, and why is said already
		return nil
	}
	next.forgetPod()
	message := gone + "; " + next.again()
	next.set(v1alpha1.ConditionReady, false, v1alpha1.ReasonPodLost, "%s", message)
	return &note{warning: true, reason: v1alpha1.ReasonPodLost, message: message}
}

// shown are the reasons of Ready that a Pod which does not run yet has shown.
var shown = map[string]bool{
	v1alpha1.ReasonPodPending: true, v1alpha1.ReasonPodUnschedulable: true, v1alpha1.ReasonPodTerminating: true, v1alpha1.ReasonImagePullFailed: true,
}

// lastWords are what the Pod that is gone has said of its end, in brackets; empty where nobody has seen it.
func (o *observed) lastWords() string {
	if o.words != "" {
		return " (" + o.words + ")"
	}
	ready := meta.FindStatusCondition(o.sandbox.Status.Conditions, v1alpha1.ConditionReady)
	if ready != nil && (ready.Reason == v1alpha1.ReasonPodLost || ready.Reason == v1alpha1.ReasonPodTerminating) {
		return " (" + ready.Message + ")"
	}
	return ""
}

// ended removes a Pod that others have ended, once it is written down why: with the Pod that would be gone. One of
// which nothing has run stays for as long as the next has to wait, for people to look at.
func (o *observed) ended(next *nextStatus, view podView) action {
	said := meta.FindStatusCondition(next.Conditions, v1alpha1.ConditionReady)
	left := o.retryIn()
	if o.seenToRun() || o.pod.DeletionTimestamp != nil {
		left = 0
	}
	if left <= 0 && said != nil && said.Reason == view.reason && next.PodUID == o.pod.UID {
		return o.remove(nil)
	}
	next.PodName, next.PodUID = o.pod.Name, o.pod.UID
	message := view.message
	if left > 0 {
		message += "; " + next.again()
	}
	next.set(v1alpha1.ConditionReady, false, view.reason, "%s", message)
	var told *note
	if !o.seenToRun() { // else the loss of its files tells of it
		told = &note{warning: true, reason: view.reason, message: message}
	}
	act := o.write(next, told)
	if left > 0 {
		act.after = left
	}
	return act
}
