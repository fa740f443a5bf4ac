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

package node

import (
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/opensandbox-io/sandbox-apiserver/apis/lifecycle/v1alpha1"
	"github.com/opensandbox-io/sandbox-apiserver/pkg/draining"
	"github.com/opensandbox-io/sandbox-apiserver/pkg/move"
)

// due is the move of a sandbox that its node asks for; nil where it asks for none, or there is one already.
func due(sandbox *v1alpha1.Sandbox, pod *corev1.Pod, causes []draining.Cause) *move.Request {
	if pod == nil || pod.DeletionTimestamp != nil || pod.Labels[v1alpha1.LabelSandboxUID] != string(sandbox.UID) || move.IsOf(sandbox, pod.UID) {
		return nil
	}
	cause, is := draining.Of(pod, causes)
	if !is {
		return nil
	}
	request := move.Request{PodUID: pod.UID, NodeName: pod.Spec.NodeName, Reason: cause.Reason, Message: cause.Message}
	if move.Decide(sandbox, request) != move.Moves {
		return nil
	}
	return &request
}

// moot says whether a move that a node has asked for is asked for no longer, and has not begun to cost anything: the node is as
// others again, and no commit is under way.
func moot(sandbox *v1alpha1.Sandbox, pod *corev1.Pod, causes []draining.Cause) bool {
	if pod == nil || pod.DeletionTimestamp != nil || !move.IsOf(sandbox, pod.UID) || !waits(sandbox) {
		return false
	}
	switch sandbox.Status.Move.Reason {
	case v1alpha1.ReasonNodeDraining, v1alpha1.ReasonNodeTainted:
	default:
		return false
	}
	_, still := draining.Of(pod, causes)
	return !still
}

// waits says whether a sandbox that is to move is not being saved yet: it waits for its turn, or for its next try.
func waits(sandbox *v1alpha1.Sandbox) bool {
	switch sandbox.Status.Phase {
	case v1alpha1.SandboxRunning:
		return true
	case v1alpha1.SandboxPausing:
		paused := meta.FindStatusCondition(sandbox.Status.Conditions, v1alpha1.ConditionPaused)
		return sandbox.Spec.DesiredState != v1alpha1.DesiredStatePaused && paused != nil && paused.Reason == v1alpha1.ReasonQueued
	}
	return false
}

// Keep is what is kept of Nodes in memory: what a decision looks at. The rest of one, images and all, is many times as much.
func Keep(object any) (any, error) {
	node, is := object.(*corev1.Node)
	if !is {
		return object, nil // what a watch has missed of a deletion
	}
	kept := &corev1.Node{
		ObjectMeta: metav1.ObjectMeta{Name: node.Name, UID: node.UID, ResourceVersion: node.ResourceVersion, DeletionTimestamp: node.DeletionTimestamp},
		Spec:       corev1.NodeSpec{Unschedulable: node.Spec.Unschedulable, Taints: node.Spec.Taints},
	}
	for i := range node.Status.Conditions {
		if condition := &node.Status.Conditions[i]; condition.Type == corev1.NodeReady {
			// Without the time of the heartbeat, which would make each one another.
			kept.Status.Conditions = []corev1.NodeCondition{{Type: condition.Type, Status: condition.Status, Message: condition.Message}}
		}
	}
	return kept, nil
}
