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

package draining

import (
	"slices"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/utils/ptr"

	"github.com/opensandbox-io/sandbox-apiserver/apis/lifecycle/v1alpha1"
)

func TestCauses(t *testing.T) {
	tainted := func(taints ...corev1.Taint) func(*corev1.Node) {
		return func(n *corev1.Node) { n.Spec.Taints = taints }
	}
	taint := func(key, value string, effect corev1.TaintEffect) func(*corev1.Node) {
		return tainted(corev1.Taint{Key: key, Value: value, Effect: effect})
	}
	ready := func(status corev1.ConditionStatus, message string) func(*corev1.Node) {
		return func(n *corev1.Node) {
			n.Status.Conditions = []corev1.NodeCondition{{Type: corev1.NodeDiskPressure, Status: corev1.ConditionTrue}, {Type: corev1.NodeReady, Status: status, Message: message}}
		}
	}
	cordoned := func(n *corev1.Node) { n.Spec.Unschedulable = true }
	deleted := func(n *corev1.Node) { n.DeletionTimestamp = &metav1.Time{Time: time.Now()} }
	const draining, ends = v1alpha1.ReasonNodeDraining, v1alpha1.ReasonNodeTainted
	const noSchedule, noExecute = corev1.TaintEffectNoSchedule, corev1.TaintEffectNoExecute
	forAll := []corev1.Toleration{{Operator: corev1.TolerationOpExists}}
	maintenance := taint("example.com/maintenance", "now", noExecute)
	for name, test := range map[string]struct {
		node        []func(*corev1.Node)
		cordons     bool
		tolerations []corev1.Toleration
		want        string
	}{
		"as others":                             {},
		"has not said yet how it is":            {node: []func(*corev1.Node){func(n *corev1.Node) { n.Status.Conditions = nil }, deleted}, want: v1alpha1.ReasonNodeDeleted},
		"cordoned":                              {node: []func(*corev1.Node){cordoned}},
		"cordoned, where that counts":           {node: []func(*corev1.Node){cordoned}, cordons: true, want: draining},
		"cordoned, with its taint":              {node: []func(*corev1.Node){cordoned, taint(corev1.TaintNodeUnschedulable, "", noSchedule)}},
		"to be deleted by the autoscaler":       {node: []func(*corev1.Node){taint("ToBeDeletedByClusterAutoscaler", "1764504000", noSchedule)}, want: draining},
		"a candidate of the autoscaler":         {node: []func(*corev1.Node){taint("DeletionCandidateOfClusterAutoscaler", "1764504000", corev1.TaintEffectPreferNoSchedule)}},
		"disrupted by Karpenter":                {node: []func(*corev1.Node){taint("karpenter.sh/disrupted", "", noSchedule)}, want: draining},
		"disrupted by an older Karpenter":       {node: []func(*corev1.Node){taint("karpenter.sh/disruption", "disrupting", noSchedule)}, want: draining},
		"disrupted, which the Pod tolerates":    {node: []func(*corev1.Node){taint("karpenter.sh/disrupted", "", noSchedule)}, tolerations: forAll, want: draining},
		"not yet taken by Karpenter":            {node: []func(*corev1.Node){taint("karpenter.sh/unregistered", "", noSchedule)}},
		"reclaimed":                             {node: []func(*corev1.Node){taint("aws-node-termination-handler/spot-itn", "x", noSchedule)}, want: draining},
		"preempted by the cloud":                {node: []func(*corev1.Node){taint("cloud.google.com/impending-node-termination", "", noSchedule)}, want: draining},
		"for others":                            {node: []func(*corev1.Node){taint("example.com/gpu", "", noSchedule)}},
		"ends Pods":                             {node: []func(*corev1.Node){maintenance}, want: ends},
		"ends others' Pods":                     {node: []func(*corev1.Node){maintenance}, tolerations: forAll},
		"ends Pods that tolerate another value": {node: []func(*corev1.Node){maintenance}, tolerations: []corev1.Toleration{{Key: "example.com/maintenance", Value: "later"}}, want: ends},
		"ends Pods in a while":                  {node: []func(*corev1.Node){maintenance}, tolerations: []corev1.Toleration{{Operator: corev1.TolerationOpExists, TolerationSeconds: ptr.To[int64](600)}}, want: ends},
		"ends Pods by the second of its taints": {node: []func(*corev1.Node){tainted(corev1.Taint{Key: "a", Effect: noExecute}, corev1.Taint{Key: "b", Effect: noExecute})}, tolerations: []corev1.Toleration{{Key: "a", Operator: corev1.TolerationOpExists}}, want: ends},
		"is not ready for a moment":             {node: []func(*corev1.Node){taint(corev1.TaintNodeNotReady, "", noExecute)}},
		"is not reached":                        {node: []func(*corev1.Node){taint(corev1.TaintNodeUnreachable, "", noExecute), ready(corev1.ConditionUnknown, "Kubelet stopped posting node status.")}},
		"is out of service":                     {node: []func(*corev1.Node){taint(corev1.TaintNodeOutOfService, "nodeshutdown", noExecute), ready(corev1.ConditionUnknown, "")}},
		"is not reached, and is being deleted":  {node: []func(*corev1.Node){deleted, ready(corev1.ConditionUnknown, "")}},
		"is not reached, and ends Pods":         {node: []func(*corev1.Node){maintenance, ready(corev1.ConditionFalse, "container runtime is down")}},
		"is being deleted":                      {node: []func(*corev1.Node){deleted}, want: v1alpha1.ReasonNodeDeleted},
		"is being deleted by Karpenter":         {node: []func(*corev1.Node){deleted, taint("karpenter.sh/disrupted", "", noSchedule)}, want: v1alpha1.ReasonNodeDeleted},
		"is shutting down":                      {node: []func(*corev1.Node){ready(corev1.ConditionFalse, "node is shutting down"), taint(corev1.TaintNodeNotReady, "", noExecute)}, want: v1alpha1.ReasonNodeShutdown},
		"is shutting down, and that is not all": {node: []func(*corev1.Node){ready(corev1.ConditionFalse, "[container runtime is down, node is shutting down]")}, want: v1alpha1.ReasonNodeShutdown},
	} {
		t.Run(name, func(t *testing.T) {
			node := &corev1.Node{ObjectMeta: metav1.ObjectMeta{Name: "node-a"}}
			ready(corev1.ConditionTrue, "kubelet is posting ready status")(node)
			for _, change := range test.node {
				change(node)
			}
			pod := &corev1.Pod{Spec: corev1.PodSpec{Tolerations: slices.Clone(test.tolerations)}}
			got, is := Of(pod, Causes(node, test.cordons))
			if got.Reason != test.want || is != (test.want != "") || is && got.Message == "" {
				t.Errorf("%v: %+v, want %q", is, got, test.want)
			}
		})
	}
}
