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
	"maps"
	"slices"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/utils/ptr"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/controller-runtime/pkg/event"

	"github.com/opensandbox-io/sandbox-apiserver/apis/lifecycle/v1alpha1"
	"github.com/opensandbox-io/sandbox-apiserver/pkg/controller/answer"
)

// A sandbox is the controller of its Pod, so that drains and autoscalers know that somebody brings it back, no ReplicaSet
// takes it for one of its own, and tools draw the line from the one to the other.
//
// The garbage collector deletes what belongs to an owner that is not there, and to a store that was lost or replaced by
// an older one no sandbox is there. What keeps it from Pods are policies of the cluster (artifacts/base/collector.yaml).
// Where these are not known to be installed the Namespace is the controller instead: that cannot be gone while the Pod is
// there. docs/ownership.md has the whole of it.

// safeToEvict tells cluster-autoscaler that it may end the Pod, which it otherwise does to those of Kubernetes' own controllers
// alone. https://github.com/kubernetes/autoscaler/blob/master/cluster-autoscaler/FAQ.md
const safeToEvict = "cluster-autoscaler.kubernetes.io/safe-to-evict"

// controllerOf is the reference that makes a sandbox the controller of its Pod.
func controllerOf(sandbox *v1alpha1.Sandbox) metav1.OwnerReference {
	return metav1.OwnerReference{
		APIVersion: v1alpha1.SchemeGroupVersion.String(), Kind: "Sandbox", Name: sandbox.Name, UID: sandbox.UID,
		// The sandbox's finalizer waits for the Pod. The collector has nothing to wait for.
		Controller: ptr.To(true), BlockOwnerDeletion: ptr.To(false),
	}
}

// adopter names the controller that has taken the Pod for one of its own, empty where none has. Pods of older versions had
// no controller, and were anybody's whose selector fits their labels.
func adopter(pod *corev1.Pod) string {
	if by := metav1.GetControllerOf(pod); by != nil && !isNamespace(by) && string(by.UID) != pod.Labels[v1alpha1.LabelSandboxUID] {
		return by.Kind + " " + by.Name
	}
	return ""
}

func isNamespace(ref *metav1.OwnerReference) bool {
	return ref.APIVersion == "v1" && ref.Kind == "Namespace"
}

// owning makes a Pod that is there the sandbox's, as newPod does with a new one, and tells of another controller that
// has taken it.
func (o *observed) owning() (action, bool) {
	if o.pod == nil {
		return action{}, false
	}
	if by := adopter(o.pod); by != "" {
		next := o.next()
		message := fmt.Sprintf("%s has taken a Pod of this sandbox for one of its own, because its selector fits the labels of the template, and may have deleted it: "+
			"change the one or the other. The Pod is taken back, and nobody takes the next one", by)
		if before := meta.FindStatusCondition(next.Conditions, v1alpha1.ConditionPodAdopted); before == nil || before.Message != message {
			next.set(v1alpha1.ConditionPodAdopted, true, v1alpha1.ReasonPodAdopted, "%s", message)
			return o.write(next, &note{warning: true, reason: v1alpha1.ReasonPodAdopted, message: message}), true
		}
	}
	if o.pod.DeletionTimestamp != nil || o.claimed || o.owned() {
		return action{}, false
	}
	return action{do: claimPod}, true
}

// owned says whether the Pod is as a new one would be: in the right hands, and open to autoscalers as the spec says.
func (o *observed) owned() bool {
	by := metav1.GetControllerOf(o.pod)
	right := by != nil && (o.unguarded && isNamespace(by) || !o.unguarded && by.UID == o.sandbox.UID)
	return right && maps.Equal(o.pod.Annotations, openToAutoscalers(o.sandbox, o.pod.Annotations))
}

// openToAutoscalers are the annotations of a Pod with the one that lets cluster-autoscaler evict it, as an eviction saves
// its files; a user's own word stands.
func openToAutoscalers(sandbox *v1alpha1.Sandbox, annotations map[string]string) map[string]string {
	said, is := annotations[safeToEvict]
	switch {
	case savesEvicted(sandbox) && !is:
		annotations = maps.Clone(annotations)
		if annotations == nil {
			annotations = map[string]string{}
		}
		annotations[safeToEvict] = "true"
	case !savesEvicted(sandbox) && said == "true" && sandbox.Spec.Template != nil && sandbox.Spec.Template.Annotations[safeToEvict] != "true":
		annotations = maps.Clone(annotations)
		delete(annotations, safeToEvict)
	}
	return annotations
}

// savesEvicted says whether an eviction keeps the sandbox's files.
func savesEvicted(sandbox *v1alpha1.Sandbox) bool {
	return sandbox.Spec.EvictionPolicy != v1alpha1.EvictionPolicyNone
}

// claimPod makes a Pod that is there the sandbox's. That it is refused holds up nothing else.
func (r *Reconciler) claimPod(ctx context.Context, seen *observed) error {
	pod := seen.pod.DeepCopy()
	pod.Annotations = openToAutoscalers(seen.sandbox, pod.Annotations)
	if err := r.own(ctx, seen.sandbox, pod); err != nil {
		return err
	}
	err := r.Host.Patch(ctx, pod, client.MergeFromWithOptions(seen.pod, client.MergeFromWithOptimisticLock{}))
	switch answer.Of(err) {
	case answer.Done:
		return nil
	case answer.Final, answer.Passing:
		r.tell(seen.sandbox, &note{warning: true, reason: v1alpha1.EventPodNotOwned, message: fmt.Sprintf(
			"Pod %s cannot be made this sandbox's, which is tried again: until then drains refuse it, and other controllers may take it: %v", pod.Name, err)})
		return nil
	}
	return fmt.Errorf("make Pod %s/%s its sandbox's: %w", pod.Namespace, pod.Name, err)
}

// own makes the sandbox the Pod's controller, in place of any other; its Namespace where the collector is not kept from it.
func (r *Reconciler) own(ctx context.Context, sandbox *v1alpha1.Sandbox, pod *corev1.Pod) error {
	by := controllerOf(sandbox)
	if r.unguarded() {
		namespace := &corev1.Namespace{}
		if err := r.HostLive.Get(ctx, client.ObjectKey{Name: pod.Namespace}, namespace); err != nil {
			return fmt.Errorf("read Namespace %s, which is to hold Pod %s: %w", pod.Namespace, pod.Name, err)
		}
		by = metav1.OwnerReference{APIVersion: "v1", Kind: "Namespace", Name: namespace.Name, UID: namespace.UID, Controller: ptr.To(true)}
	}
	pod.OwnerReferences = slices.DeleteFunc(pod.OwnerReferences, func(ref metav1.OwnerReference) bool { return ptr.Deref(ref.Controller, false) })
	pod.OwnerReferences = append(pod.OwnerReferences, by)
	return nil
}

// unguarded says whether the garbage collector may delete the Pods of sandboxes.
func (r *Reconciler) unguarded() bool { return r.Guard != nil && !r.Guard.Holds() }

// Guard knows whether the garbage collector is kept from the Pods of sandboxes.
type Guard interface {
	Holds() bool
	// Changed is closed when Holds says something else than now.
	Changed() <-chan struct{}
}

// regards has all sandboxes visited when that has changed: their Pods have to change hands, and nothing else may ever happen
// to them.
type regards struct {
	guard     Guard
	sandboxes client.Reader
	woken     chan event.GenericEvent
}

// NeedLeaderElection says that only who leads has anybody visited.
func (r *regards) NeedLeaderElection() bool { return true }

// Start implements manager.Runnable.
func (r *regards) Start(ctx context.Context) error {
	for {
		changed := r.guard.Changed()
		select {
		case <-changed:
		case <-ctx.Done():
			return nil
		}
		all := &v1alpha1.SandboxList{}
		if err := r.sandboxes.List(ctx, all); err != nil { // from the cache
			return fmt.Errorf("list the sandboxes whose Pods change hands: %w", err)
		}
		for i := range all.Items {
			select {
			case r.woken <- event.GenericEvent{Object: &all.Items[i]}:
			case <-ctx.Done():
				return nil
			}
		}
	}
}
