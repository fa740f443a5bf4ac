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

package evictionreview

import (
	"fmt"
	"net/http"
	"time"

	corev1 "k8s.io/api/core/v1"
	apimeta "k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/opensandbox-io/sandbox-apiserver/apis/lifecycle/contents"
	"github.com/opensandbox-io/sandbox-apiserver/apis/lifecycle/v1alpha1"
	"github.com/opensandbox-io/sandbox-apiserver/pkg/move"
)

// seen is all that the answer to the eviction of a sandbox's Pod is made of.
type seen struct {
	eviction eviction
	// sandbox is the one of the Pod's name.
	sandbox *v1alpha1.Sandbox
	// pod is the Pod of that name; nil: there is none.
	pod *corev1.Pod
	// emptied says that somebody empties the Pod's node. It is looked at of a Pod that a move has led to alone.
	emptied bool
	// unread is why that could not be found out.
	unread error
	now    time.Time
}

// answer is what is said to an eviction.
type answer struct {
	// code is of the refusal; zero: the eviction goes on.
	code int32
	// message says why it is refused; of an eviction that goes on it is a warning, where there is something to say.
	message string
	// saves says that the Pod is to be saved: the answer is one of who has noted it.
	saves bool
}

// movedFor is how long after a container runs in the next Pod of a sandbox an eviction by name is taken for one of the Pod
// before. Who drains a node asks again after 5 s (kubectl) to 10 s (cluster-autoscaler).
const movedFor = time.Minute

// decide answers the eviction of a Pod of a sandbox's name. A dry run is never told to ask again: nothing would be another
// the next time, and kubectl drain --dry-run=server would ask for ever.
func decide(s seen) answer {
	answered := s.decide()
	if s.eviction.dryRun && answered.code == http.StatusTooManyRequests {
		return answer{message: "this eviction would be answered with 429 (TooManyRequests): " + answered.message}
	}
	return answered
}

// decide is the table. What is refused with 429 is asked for again: by kubectl drain every 5 seconds, by the name of the Pod and
// without its UID (https://github.com/kubernetes/kubernetes/issues/138229). Once the sandbox has moved that name is that of the
// next Pod, on another node: it is answered 404, the one word that ends such a wait.
func (s *seen) decide() answer {
	sandbox := s.sandbox
	switch {
	case sandbox.DeletionTimestamp != nil, !move.Wanted(sandbox, v1alpha1.ReasonEvicted):
		return answer{}
	case s.unread != nil:
		return later("it is not known what would be lost: %v", s.unread)
	case s.pod == nil, s.pod.Labels[v1alpha1.LabelSandboxUID] != string(sandbox.UID), s.pod.DeletionTimestamp != nil:
		return answer{}
	case !s.eviction.means(s.pod):
		return answer{} // the API says that itself
	case s.meansTheLast():
		return answer{code: http.StatusNotFound, message: fmt.Sprintf(
			"the Pod of sandbox %s that was to be evicted is gone: its files were saved, and the sandbox has come back in a Pod of the same name on %s. To evict that one, name its UID in the preconditions",
			sandbox.Name, where(s.pod))}
	case !ran(s.pod):
		return answer{}
	}
	switch move.Decide(sandbox, s.request()) {
	case move.Moves:
		begun := move.IsOf(sandbox, s.pod.UID)
		next := s.saving("its files are being saved, and it comes back on another node by itself")
		next.saves = !begun
		return next
	case move.Pauses:
		return s.saving("it is being paused, and its Pod goes by itself when its files are saved")
	case move.NothingToSave, move.OtherPod:
		if sandbox.Status.Phase == v1alpha1.SandboxPaused {
			return answer{} // a Pod of before, which is being removed
		}
		return later("sandbox %s has just begun to run", sandbox.Name)
	case move.Deleting, move.NotWanted:
	}
	return answer{}
}

// request is what a move would be of.
func (s *seen) request() move.Request {
	return move.Request{
		PodUID: s.pod.UID, NodeName: s.pod.Spec.NodeName, Reason: v1alpha1.ReasonEvicted,
		Message: fmt.Sprintf("%s asked to evict it", s.eviction.by),
	}
}

// meansTheLast says whether an eviction by name is one of the Pod that the sandbox was moved from. It is not where the node of
// the next one is being emptied as well: the Pod is to go from there, and nobody would ask again.
func (s *seen) meansTheLast() bool {
	if s.eviction.uid != "" || s.eviction.resourceVersion != "" {
		return false
	}
	from, ok := s.pod.Annotations[v1alpha1.AnnotationMovedFrom]
	if !ok || from == s.pod.Spec.NodeName || s.emptied {
		return false
	}
	began, runs := startOf(s.pod)
	return !runs || s.now.Sub(began) < movedFor
}

// later refuses an eviction without beginning anything.
func later(format string, args ...any) answer {
	return answer{code: http.StatusTooManyRequests, message: fmt.Sprintf(format, args...) + "; ask again in a few seconds"}
}

// saving refuses an eviction while the sandbox's files are saved. Its first words are those that the descheduler knows for
// an eviction that goes on in the background
// (https://github.com/kubernetes-sigs/descheduler/blob/v0.33.0/pkg/descheduler/evictions/evictions.go).
func (s *seen) saving(what string) answer {
	message := fmt.Sprintf("Eviction triggered evacuation of sandbox %q: %s. Ask again in a few seconds, as kubectl drain does", s.sandbox.Namespace+"/"+s.sandbox.Name, what)
	if condition := apimeta.FindStatusCondition(s.sandbox.Status.Conditions, v1alpha1.ConditionPaused); condition != nil && s.sandbox.Status.FailedAttempts > 0 {
		message += fmt.Sprintf(". So far it has failed %d times, last with %s: %s. Where its files may be lost, set spec.evictionPolicy to None",
			s.sandbox.Status.FailedAttempts, condition.Reason, condition.Message)
	}
	return answer{code: http.StatusTooManyRequests, message: message}
}

// ran says whether a container of the Pod has run.
func ran(pod *corev1.Pod) bool {
	if pod.Status.Phase == corev1.PodRunning {
		return true
	}
	_, runs := startOf(pod)
	return runs
}

// startOf is when a container of the Pod ran first, as far as it says so.
func startOf(pod *corev1.Pod) (first time.Time, ok bool) {
	note := func(at metav1.Time) {
		if !ok || at.Time.Before(first) {
			first, ok = at.Time, true
		}
	}
	for _, status := range contents.Statuses(pod) {
		for _, state := range []corev1.ContainerState{status.State, status.LastTerminationState} {
			switch {
			case state.Running != nil:
				note(state.Running.StartedAt)
			case state.Terminated != nil && !state.Terminated.StartedAt.IsZero():
				note(state.Terminated.StartedAt)
			}
		}
	}
	return first, ok
}

func where(pod *corev1.Pod) string {
	if pod.Spec.NodeName == "" {
		return "a node that is not chosen yet"
	}
	return "node " + pod.Spec.NodeName
}

// refusal is the answer as the one who evicts gets it.
func (a answer) refusal(pod string) *metav1.Status {
	status := &metav1.Status{Status: metav1.StatusFailure, Code: a.code, Message: a.message, Reason: metav1.StatusReasonTooManyRequests}
	if a.code == http.StatusNotFound {
		status.Reason = metav1.StatusReasonNotFound
		status.Details = &metav1.StatusDetails{Name: pod, Kind: "pods"}
	}
	// No RetryAfterSeconds: clients would wait and repeat by themselves, and show nothing of it.
	// https://github.com/kubernetes/kubernetes/issues/36409
	return status
}
