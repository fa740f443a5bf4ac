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
	"errors"
	"fmt"
	"strings"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/util/validation/field"
	ctrl "sigs.k8s.io/controller-runtime"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/opensandbox-io/sandbox-apiserver/apis/lifecycle/v1alpha1"
	"github.com/opensandbox-io/sandbox-apiserver/pkg/controller/answer"
)

// invalid is the answer to a Pod with a thousand variables of wrong names.
func invalid() error {
	var errs field.ErrorList
	for i := range 1000 {
		errs = append(errs, field.Invalid(field.NewPath("spec", "containers").Index(0).Child("env").Index(i).Child("name"), fmt.Sprintf("=%d", i), strings.Repeat("a valid name is another. ", 4)))
	}
	return apierrors.NewInvalid(schema.GroupKind{Kind: "Pod"}, name, errs)
}

// hopeless are the ways in which Pods come to nothing: what the API answers, what webhooks do, and what
// becomes of the Pod before the next visit.
var hopeless = map[string]struct {
	refusal error
	admits  func(*corev1.Pod)
	// comes is what the Pod comes to, nil where it is deleted.
	comes func(*corev1.Pod)
	gone  bool
	// reason is that of Ready, and words are in its message.
	reason, words string
}{
	"invalid, at 152 kB":        {refusal: invalid(), reason: v1alpha1.ReasonPodRejected, words: "bytes left out"},
	"a full quota":              {refusal: apierrors.NewForbidden(schema.GroupResource{Resource: "pods"}, name, errors.New("exceeded quota: small")), reason: v1alpha1.ReasonPodRejected, words: "exceeded quota"},
	"a webhook that is away":    {refusal: apierrors.NewInternalError(errors.New(`failed calling webhook "x": connection refused`)), reason: v1alpha1.ReasonPodNotCreated, words: "failed calling webhook"},
	"a webhook that says 409":   {refusal: &apierrors.StatusError{ErrStatus: metav1.Status{Code: 409, Message: "not today"}}, reason: v1alpha1.ReasonPodNotCreated, words: "not today"},
	"a webhook that asks a day": {refusal: apierrors.NewTooManyRequests("not today", 86400), reason: v1alpha1.ReasonPodNotCreated, words: "not today"},
	"an API that is away":       {refusal: errors.New("connection refused"), reason: v1alpha1.ReasonPodNotCreated, words: "connection refused"},
	"a namespace that ends":     {refusal: apierrors.NewForbidden(schema.GroupResource{Resource: "pods"}, name, errors.New("because it is being terminated")), reason: v1alpha1.ReasonPodRejected, words: "being terminated"},

	"our label is taken away":        {admits: func(p *corev1.Pod) { p.Labels = nil }, gone: true, reason: v1alpha1.ReasonPodRejected, words: "without its label " + v1alpha1.LabelSandbox},
	"our second label is taken away": {admits: func(p *corev1.Pod) { delete(p.Labels, v1alpha1.LabelSandboxUID) }, gone: true, reason: v1alpha1.ReasonPodRejected, words: v1alpha1.LabelSandboxUID},
	"our annotation is taken away":   {admits: func(p *corev1.Pod) { p.Annotations = nil }, gone: true, reason: v1alpha1.ReasonPodRejected, words: v1alpha1.AnnotationRestoredFrom},

	"no room on its node":      {comes: notAdmitted, reason: v1alpha1.ReasonPodNotAdmitted, words: "OutOfcpu: Pod was rejected"},
	"its node does not fit":    {comes: rejected("NodeAffinity", "Predicate NodeAffinity failed"), reason: v1alpha1.ReasonPodNotAdmitted, words: "NodeAffinity"},
	"its node has no devices":  {comes: rejected("UnexpectedAdmissionError", "Allocate failed"), reason: v1alpha1.ReasonPodNotAdmitted, words: "Allocate failed"},
	"its node has no topology": {comes: rejected("TopologyAffinityError", "Resources cannot be allocated with Topology locality"), reason: v1alpha1.ReasonPodNotAdmitted, words: "TopologyAffinityError"},
	"evicted at once":          {comes: evictedAtOnce, gone: true, reason: v1alpha1.ReasonPodLost, words: "Evicted: the node was low on memory"},
	"somebody deletes it":      {gone: true, reason: v1alpha1.ReasonPodLost, words: "is not there"},
	"it runs, and is deleted":  {comes: func(p *corev1.Pod) { podOf(runs).Status.DeepCopyInto(&p.Status) }, reason: v1alpha1.ReasonPodReady},
}

func rejected(reason, message string) func(*corev1.Pod) {
	return func(p *corev1.Pod) {
		p.Status = corev1.PodStatus{Phase: corev1.PodFailed, Reason: reason, Message: message}
	}
}

// evictedAtOnce: the containers had begun to run.
func evictedAtOnce(p *corev1.Pod) {
	podOf(runs).Status.DeepCopyInto(&p.Status)
	evictedPod(p)
}

// visit visits the sandbox, whatever comes of it.
func (f *fixture) visit() (*v1alpha1.Sandbox, ctrl.Result) {
	f.Helper()
	key := client.ObjectKey{Namespace: namespace, Name: name}
	result, err := f.r.Reconcile(f.Context(), ctrl.Request{NamespacedName: key})
	if err != nil {
		f.Fatal(err)
	}
	sandbox := &v1alpha1.Sandbox{}
	if err := f.own.Get(f.Context(), key, sandbox); err != nil {
		f.Fatal(err)
	}
	return sandbox, result
}

// forgets is what a process loses that is started anew.
func (f *fixture) forgets() { f.r.ran, f.r.looks = ranMemory{}, holds{} }

// TestNoPodIsMadeTwiceWithoutAWait: whatever becomes of the Pods, sixty visits at one instant make one of them, the next
// is made ten seconds later, then after twice as long each time; also by servers that are restarted between the visits.
func TestNoPodIsMadeTwiceWithoutAWait(t *testing.T) {
	for name, fate := range hopeless {
		for how, forgets := range map[string]bool{"": false, ", and the server is restarted again and again": true} {
			t.Run(name+how, func(t *testing.T) {
				f := newFixture(t, sandboxIn(v1alpha1.SandboxResuming, saved("demo-gen1")), snapshotIn(v1alpha1.SnapshotSucceed))
				f.refusal, f.admits = fate.refusal, fate.admits
				next := epoch
				for pods := 1; pods <= 4; pods++ {
					f.clock.SetTime(next)
					for range 60 {
						sandbox, result := f.visit()
						if f.created > pods {
							t.Fatalf("%d Pods at the %d. instant", f.created, pods)
						}
						f.meets(fate.comes, name == "it runs, and is deleted")
						if sandbox.Status.RetryTime != nil {
							next = sandbox.Status.RetryTime.Time
						}
						if result.RequeueAfter > answer.LastWait {
							t.Fatalf("left alone for %s", result.RequeueAfter)
						}
						if forgets {
							f.forgets()
						}
					}
					sandbox, _ := f.visit()
					least := answer.Backoff(int32(pods))
					if fate.reason == v1alpha1.ReasonPodNotCreated {
						least = time.Second
					}
					if wait := next.Sub(f.clock.Now()); f.created != pods || wait < least || wait > answer.LastWait {
						t.Fatalf("%d Pods, the next in %s, want %d and at least %s; the sandbox: %s", f.created, wait, pods, least, summary(&sandbox.Status))
					}
					if fate.reason != v1alpha1.ReasonPodReady {
						f.saysWhy(sandbox, fate.reason, fate.words)
					}
					if fate.gone && f.pod() != nil {
						t.Error("the Pod is still there")
					}
				}

				// Whoever changes something does not wait.
				f.change(func(s *v1alpha1.Sandbox) { s.Generation++ })
				for range 10 {
					f.visit()
				}
				if f.created != 5 {
					t.Errorf("%d Pods after an edit of the spec, want 5", f.created)
				}
			})
		}
	}
}

// meets has the Pod meet its fate, where there is one.
func (f *fixture) meets(comes func(*corev1.Pod), then bool) {
	f.Helper()
	pod := f.pod()
	switch {
	case pod == nil || f.refusal != nil:
	case comes == nil, then && pod.Status.Phase != "":
		if err := f.host.Delete(f.Context(), pod); err != nil {
			f.Fatal(err)
		}
	case pod.Status.Phase == "":
		comes(pod)
		if err := f.host.Status().Update(f.Context(), pod); err != nil {
			f.Fatal(err)
		}
	}
}

// saysWhy checks what a person reads who waits for the sandbox, and that the template is free.
func (f *fixture) saysWhy(sandbox *v1alpha1.Sandbox, reason, words string) {
	f.Helper()
	ready := meta.FindStatusCondition(sandbox.Status.Conditions, v1alpha1.ConditionReady)
	if ready == nil || ready.Status != metav1.ConditionFalse || ready.Reason != reason || !strings.Contains(ready.Message, words) || len(ready.Message) > answer.MaxCondition {
		f.Errorf("it says %.300v, want %s and %q", ready, reason, words)
	}
	if reason != v1alpha1.ReasonPodNotAdmitted && sandbox.Status.PodName != "" {
		f.Errorf("the template is locked by Pod %s", sandbox.Status.PodName)
	}
}

// A Pod that is in the way may go at any time, and nobody waits longer then.
func TestTheWaitEndsWithThePodThatIsInTheWay(t *testing.T) {
	others := podOf(func(p *corev1.Pod) { p.Labels[v1alpha1.LabelSandboxUID] = "an earlier one" })
	f := newFixture(t, sandboxIn(v1alpha1.SandboxPending), others)
	const waits = "Pending Ready=False/PodNameConflict"
	f.visits(waits)
	f.visits(waits)
	if err := f.host.Delete(t.Context(), others); err != nil {
		t.Fatal(err)
	}
	f.visits("Pending Ready=False/PodNameConflict pod=demo failedPods=1")
	if f.created != 2 {
		t.Errorf("%d were tried to be made", f.created)
	}
}

// What an earlier server left is no reason to wait: it knew of no waits.
func TestAPodThatHasLastedIsMadeAnewAtOnce(t *testing.T) {
	for how, sandbox := range map[string]*v1alpha1.Sandbox{
		"of an earlier server": sandboxIn(v1alpha1.SandboxRunning, onPod, says(v1alpha1.ConditionReady, metav1.ConditionTrue, v1alpha1.ReasonPodReady)),
		"that lasted":          sandboxIn(v1alpha1.SandboxRunning, onPod, retries(-time.Hour), failedPods(4)),
	} {
		f := newFixture(t, sandbox)
		f.visits("Pending Ready=False/Pending Paused=False/Running DataLost=True/PodLost pod=demo")
		if f.created != 1 {
			t.Errorf("%s: %d Pods were made", how, f.created)
		}
	}
}

// Sandboxes come to rest: a Pod that lasts is the end of it, and costs one write.
func TestCountsOfAPodThatLasts(t *testing.T) {
	f := newFixture(t, sandboxIn(v1alpha1.SandboxRunning, onPod, retries(0), failedPods(3)), podOf())
	const running = "Running Ready=True/PodReady Paused=False/Running pod=demo/pod-1"
	f.visits(running + " failedPods=3")
	f.clock.SetTime(epoch.Add(podLasts + time.Second))
	f.visits(running)
}

// The wait begins with the answer: a webhook that lets everybody wait is not asked all of the time.
func TestTheWaitBeginsWithTheAnswer(t *testing.T) {
	f := newFixture(t, sandboxIn(v1alpha1.SandboxPending))
	f.refusal, f.takes = apierrors.NewInternalError(errors.New(`failed calling webhook "x": context deadline exceeded`)), 30*time.Second
	f.visit()
	sandbox, result := f.visit()
	if wait := sandbox.Status.RetryTime.Sub(epoch.Add(f.takes)); f.created != 1 || wait < time.Second || wait > 2*time.Second || result.RequeueAfter > 2*time.Second {
		t.Errorf("asked %d times, and again %s after the answer; the next visit is in %s", f.created, wait, result.RequeueAfter)
	}
}
