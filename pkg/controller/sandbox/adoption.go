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
	"slices"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/utils/ptr"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/opensandbox-io/sandbox-apiserver/apis/lifecycle/v1alpha1"
	"github.com/opensandbox-io/sandbox-apiserver/pkg/controller/answer"
)

// A Pod without a controller is anybody's: ReplicaSets, DaemonSets and others take it for one of their
// own where their selector fits its labels, and delete it as one too many. A reference to a controller
// keeps them away. To one of our objects there must be none, for if our store is lost the garbage
// collector would delete every Pod; but the Namespace that a Pod is in cannot be gone while the Pod is there.
//
// It is set only on Pods of sandboxes that this has happened to: with it, `+"`kubectl drain`"+` and cluster
// autoscalers no longer hesitate to end a Pod, which without a snapshot costs its files.

// adopter names the controller that has taken the Pod for one of its own, empty where none has.
func adopter(pod *corev1.Pod) string {
	if by := metav1.GetControllerOf(pod); by != nil && !isNamespace(by) {
		return by.Kind + " " + by.Name
	}
	return ""
}

func isNamespace(ref *metav1.OwnerReference) bool {
	return ref.APIVersion == "v1" && ref.Kind == "Namespace"
}

// adoption tells of a Pod that another controller has taken, and then takes it back.
func (o *observed) adoption() (action, bool) {
	by := o.taken
	if o.pod != nil {
		by = adopter(o.pod)
	}
	if by == "" {
		return action{}, false
	}
	next := o.next()
	message := fmt.Sprintf("%s has taken a Pod of this sandbox for one of its own, because its selector fits the labels of the template, and may have deleted it: "+
		"change the one or the other. The Pods of this sandbox are held by their Namespace from now on, so that nobody takes them", by)
	if before := meta.FindStatusCondition(next.Conditions, v1alpha1.ConditionPodAdopted); before == nil || before.Message != message {
		next.set(v1alpha1.ConditionPodAdopted, true, v1alpha1.ReasonPodAdopted, "%s", message)
		next.noWait() // the next Pod is nobody's to take
		return o.write(next, &note{warning: true, reason: v1alpha1.ReasonPodAdopted, message: message}), true
	}
	if o.pod != nil && o.pod.DeletionTimestamp == nil && !o.claimed {
		return action{do: claimPod}, true
	}
	return action{}, false
}

// claimPod takes a Pod back. That it is refused holds up nothing else.
func (r *Reconciler) claimPod(ctx context.Context, seen *observed) error {
	pod := seen.pod.DeepCopy()
	if err := r.holdByNamespace(ctx, pod); err != nil {
		return err
	}
	err := r.Host.Patch(ctx, pod, client.MergeFromWithOptions(seen.pod, client.MergeFromWithOptimisticLock{}))
	switch answer.Of(err) {
	case answer.Done:
		return nil
	case answer.Final, answer.Passing:
		r.tell(seen.sandbox, &note{warning: true, reason: v1alpha1.ReasonPodAdopted, message: fmt.Sprintf("Pod %s cannot be taken back from %s: %v", pod.Name, adopter(seen.pod), err)})
		return nil
	}
	return fmt.Errorf("take Pod %s/%s back from %s: %w", pod.Namespace, pod.Name, adopter(seen.pod), err)
}

// holdByNamespace makes the Namespace the Pod's controller, in place of any other.
func (r *Reconciler) holdByNamespace(ctx context.Context, pod *corev1.Pod) error {
	namespace := &corev1.Namespace{}
	if err := r.HostLive.Get(ctx, client.ObjectKey{Name: pod.Namespace}, namespace); err != nil {
		return fmt.Errorf("read Namespace %s, which is to hold Pod %s: %w", pod.Namespace, pod.Name, err)
	}
	pod.OwnerReferences = slices.DeleteFunc(pod.OwnerReferences, func(ref metav1.OwnerReference) bool { return ptr.Deref(ref.Controller, false) })
	pod.OwnerReferences = append(pod.OwnerReferences, metav1.OwnerReference{
		APIVersion: "v1", Kind: "Namespace", Name: namespace.Name, UID: namespace.UID, Controller: ptr.To(true),
	})
	return nil
}
