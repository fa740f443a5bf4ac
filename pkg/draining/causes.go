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

// Package draining tells from a Node whether the Pods on it are to go, and why.
package draining

import (
	"fmt"
	"strings"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/klog/v2"

	"github.com/opensandbox-io/sandbox-apiserver/apis/lifecycle/v1alpha1"
)

// Cause is why a node's Pods are to go.
type Cause struct {
	// Reason is that of a sandbox's move, and Message a sentence for its message.
	Reason, Message string
	// Taint is the taint that ends Pods which do not tolerate it; nil: all Pods are to go.
	Taint *corev1.Taint
}

// Causes are all that a node says, what leaves the least time first. None is told of a node that is not ready: nothing can be
// saved from there, and what becomes of its Pods is the control plane's to decide. With cordons, a cordon is one, too.
func Causes(node *corev1.Node, cordons bool) []Cause {
	var causes []Cause
	shuts := shuttingDown(node)
	switch {
	case shuts:
		causes = append(causes, Cause{Reason: v1alpha1.ReasonNodeShutdown, Message: fmt.Sprintf("node %s is shutting down", node.Name)})
	case !ready(node):
		return nil
	}
	if node.DeletionTimestamp != nil {
		causes = append(causes, Cause{Reason: v1alpha1.ReasonNodeDeleted, Message: fmt.Sprintf("node %s is being deleted", node.Name)})
	}
	for i := range node.Spec.Taints {
		taint := &node.Spec.Taints[i]
		if who, is := announcements[taint.Key]; is && taint.Effect != corev1.TaintEffectPreferNoSchedule {
			causes = append(causes, Cause{Reason: v1alpha1.ReasonNodeDraining, Message: fmt.Sprintf("%s is taking node %s away (taint %s)", who, node.Name, taint.ToString())})
		}
	}
	for i := range node.Spec.Taints {
		taint := &node.Spec.Taints[i]
		if taint.Effect == corev1.TaintEffectNoExecute && !conditions[taint.Key] {
			causes = append(causes, Cause{Reason: v1alpha1.ReasonNodeTainted, Message: fmt.Sprintf("node %s has the taint %s", node.Name, taint.ToString()), Taint: taint})
		}
	}
	if node.Spec.Unschedulable && cordons {
		causes = append(causes, Cause{Reason: v1alpha1.ReasonNodeDraining, Message: fmt.Sprintf("node %s is cordoned", node.Name)})
	}
	return causes
}

// Of is the first cause that ends the Pod; ok where there is one.
func Of(pod *corev1.Pod, causes []Cause) (cause Cause, ok bool) {
	for _, cause := range causes {
		if cause.Taint == nil || !stays(pod, cause.Taint) {
			return cause, true
		}
	}
	return Cause{}, false
}

// announcements are the taints by which others say that a node will be gone in a moment, and who they are. Their owners
// leave Pods alone that tolerate them, and take the node away all the same.
//
//   - https://github.com/kubernetes/autoscaler/blob/cluster-autoscaler-1.33.0/cluster-autoscaler/utils/taints/taints.go:
//     DeletionCandidateOfClusterAutoscaler, beside it, says only that it might come to that
//   - https://github.com/kubernetes-sigs/karpenter/blob/v1.6.0/pkg/apis/v1/taints.go, and .../v0.37.0/pkg/apis/v1beta1/taints.go
//   - https://github.com/aws/aws-node-termination-handler/blob/v1.25.0/pkg/node/node.go
//   - https://cloud.google.com/kubernetes-engine/docs/concepts/spot-vms
var announcements = map[string]string{
	"ToBeDeletedByClusterAutoscaler":                         "the cluster autoscaler",
	"karpenter.sh/disrupted":                                 "Karpenter",
	"karpenter.sh/disruption":                                "Karpenter",
	"aws-node-termination-handler/spot-itn":                  "the node termination handler",
	"aws-node-termination-handler/asg-lifecycle-termination": "the node termination handler",
	"cloud.google.com/impending-node-termination":            "the cloud",
}

// conditions are the taints that say how a node is: it is not to be reached, or not now.
var conditions = map[string]bool{
	corev1.TaintNodeNotReady:     true,
	corev1.TaintNodeUnreachable:  true,
	corev1.TaintNodeOutOfService: true,
}

// stays says whether a Pod tolerates a taint for good. One that tolerates it for a while is ended all the same, and
// to save it takes time.
func stays(pod *corev1.Pod, taint *corev1.Taint) bool {
	for i := range pod.Spec.Tolerations {
		toleration := &pod.Spec.Tolerations[i]
		if toleration.TolerationSeconds == nil && toleration.ToleratesTaint(klog.Background(), taint, true) {
			return true
		}
	}
	return false
}

func ready(node *corev1.Node) bool {
	for i := range node.Status.Conditions {
		if condition := &node.Status.Conditions[i]; condition.Type == corev1.NodeReady {
			return condition.Status == corev1.ConditionTrue
		}
	}
	return true // it has not said anything yet
}

// shuttingDown says whether the kubelet ends its Pods because the node shuts down. It has no other way to say so than these
// words in its Ready condition.
// https://github.com/kubernetes/kubernetes/blob/v1.37.2/pkg/kubelet/nodeshutdown/nodeshutdown_manager_linux.go (ShutdownStatus)
func shuttingDown(node *corev1.Node) bool {
	for i := range node.Status.Conditions {
		condition := &node.Status.Conditions[i]
		if condition.Type == corev1.NodeReady && condition.Status == corev1.ConditionFalse && strings.Contains(condition.Message, "node is shutting down") {
			return true
		}
	}
	return false
}
