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
	"context"
	"fmt"
	"time"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/utils/ptr"
	ctrl "sigs.k8s.io/controller-runtime"

	"github.com/opensandbox-io/sandbox-apiserver/apis/lifecycle/v1alpha1"
	"github.com/opensandbox-io/sandbox-apiserver/pkg/controller/answer"
)

// createTimeout bounds the creation of a Pod: a little longer than a kube-apiserver gives its webhooks. The client
// waits by itself where an answer asks for that, which one of a webhook may do for a day.
const createTimeout = 70 * time.Second

// createPod says whether the Pod is there by now. Whatever becomes of it otherwise is told, unlocks the
// template, and the next try waits, unless the sandbox changes before.
func (r *Reconciler) createPod(ctx context.Context, seen *observed) (done bool, result ctrl.Result, err error) {
	sandbox := seen.sandbox
	pod, err := newPod(sandbox, seen.from, r.PullSecret)
	if err != nil {
		return r.tellRefusal(ctx, sandbox, seen.refused(v1alpha1.ReasonPodRejected, err.Error(), seen.backoff()))
	}
	asked, err := r.ask(ctx, sandbox, pod)
	seen.now = r.Clock.Now() // the answer of a webhook may take half a minute
	if apierrors.IsAlreadyExists(err) {
		mine, err := r.pod(ctx, sandbox, false)
		if err != nil {
			return false, ctrl.Result{}, err
		}
		if mine == nil {
			return r.tellRefusal(ctx, sandbox, seen.refused(v1alpha1.ReasonPodNameConflict,
				fmt.Sprintf("a Pod named %s exists and is not this sandbox's: delete it, or choose another name for the sandbox", asked.Name), seen.backoff()))
		}
		return true, ctrl.Result{}, nil
	}
	if err != nil {
		act, told := seen.podNotMade(err)
		if !told {
			return false, ctrl.Result{}, fmt.Errorf("create Pod %s/%s: %w", asked.Namespace, asked.Name, err)
		}
		return r.tellRefusal(ctx, sandbox, act)
	}
	if lost := stripped(asked, pod); lost != "" {
		// Without it nobody would know whose Pod that is, or which files it has.
		if err := r.deletePod(ctx, pod, action{grace: ptr.To[int64](removalGrace)}); err != nil {
			return false, ctrl.Result{}, err
		}
		return r.tellRefusal(ctx, sandbox, seen.refused(v1alpha1.ReasonPodRejected, fmt.Sprintf(
			"the Pod was created without its %s, and is removed: a mutating webhook or policy of the cluster takes that away; except the Pods of sandboxes from it", lost), seen.backoff()))
	}
	source := "the template"
	if seen.from != nil {
		source = "snapshot " + seen.from.Name
	}
	r.tell(sandbox, &note{reason: v1alpha1.EventPodCreated, message: fmt.Sprintf("created Pod %s from %s", pod.Name, source)})
	return false, ctrl.Result{RequeueAfter: backstop}, nil // the Pod's own events bring the next visit
}

// ask creates a Pod, which becomes what the API made of it, and returns what was asked for.
func (r *Reconciler) ask(ctx context.Context, sandbox *v1alpha1.Sandbox, pod *corev1.Pod) (asked *corev1.Pod, err error) {
	if r.unguarded() {
		if err := r.own(ctx, sandbox, pod); err != nil {
			return pod, err
		}
	}
	asked = pod.DeepCopy()
	ctx, cancel := context.WithTimeoutCause(ctx, createTimeout, fmt.Errorf("no answer came within %s", createTimeout))
	defer cancel()
	return asked, r.Host.Create(ctx, pod)
}

// backoff is the wait after the Pod that is being created.
func (o *observed) backoff() time.Duration { return answer.Backoff(o.sandbox.Status.FailedPods + 1) }

// stripped is what we gave to a Pod to know it by, and it has not got.
func stripped(asked, made *corev1.Pod) string {
	for _, key := range []string{v1alpha1.LabelSandbox, v1alpha1.LabelSandboxUID} {
		if made.Labels[key] != asked.Labels[key] {
			return "label " + key
		}
	}
	if key := v1alpha1.AnnotationRestoredFrom; made.Annotations[key] != asked.Annotations[key] {
		return "annotation " + key
	}
	return ""
}

// podNotMade is what follows from an answer to the creation of the Pod, and false where it is nobody's to know of.
func (o *observed) podNotMade(err error) (action, bool) {
	switch answer.OfCreate(err) {
	case answer.Final:
		return o.refused(v1alpha1.ReasonPodRejected, err.Error(), o.backoff()), true
	case answer.Passing:
		return o.refused(v1alpha1.ReasonPodNotCreated, fmt.Sprintf("the Pod could not be created, which is tried again: %v", err), answer.Wait(err, o.sandbox.Status.FailedPods+1)), true
	}
	return action{}, false
}

// refused tells that the Pod is not there, unlocks the template, and waits.
func (o *observed) refused(reason, message string, again time.Duration) action {
	next := o.next()
	next.forgetPod()
	next.wait(again)
	next.set(v1alpha1.ConditionReady, false, reason, "%s", message)
	act := o.write(next, &note{warning: true, reason: reason, message: message})
	act.after = again
	return act
}

func (r *Reconciler) tellRefusal(ctx context.Context, sandbox *v1alpha1.Sandbox, act action) (done bool, result ctrl.Result, err error) {
	if act.do == writeStatus {
		err = r.write(ctx, sandbox, act)
	}
	return false, ctrl.Result{RequeueAfter: act.after}, err
}
