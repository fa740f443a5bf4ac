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

package contents

import (
	"testing"

	"github.com/google/go-cmp/cmp"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/resource"
)

// needing makes resources of pairs: "limits.memory", "64Mi".
func needing(pairs ...string) *corev1.ResourceRequirements {
	made := &corev1.ResourceRequirements{}
	for i := 0; i < len(pairs); i += 2 {
		quantity := resource.MustParse(pairs[i+1])
		switch pairs[i] {
		case "limits.memory":
			made.Limits = with(made.Limits, corev1.ResourceMemory, quantity)
		case "limits.cpu":
			made.Limits = with(made.Limits, corev1.ResourceCPU, quantity)
		case "requests.memory":
			made.Requests = with(made.Requests, corev1.ResourceMemory, quantity)
		}
	}
	return made
}

func with(list corev1.ResourceList, name corev1.ResourceName, quantity resource.Quantity) corev1.ResourceList {
	if list == nil {
		list = corev1.ResourceList{}
	}
	list[name] = quantity
	return list
}

func TestResized(t *testing.T) {
	template := corev1.Container{Name: "main", Resources: *needing("limits.memory", "64Mi", "requests.memory", "32Mi")}
	pending := []corev1.PodCondition{{Type: corev1.PodResizePending, Status: corev1.ConditionTrue, Reason: corev1.PodReasonInfeasible}}
	for _, test := range []struct {
		name         string
		spec, status *corev1.ResourceRequirements
		conditions   []corev1.PodCondition
		want         *corev1.ResourceRequirements
	}{
		{"nothing was changed", needing("limits.memory", "64Mi", "requests.memory", "32Mi"), nil, nil, nil},
		{"the same in other words", needing("limits.memory", "65536Ki", "requests.memory", "32Mi"), nil, nil, nil},
		{"one of both", needing("limits.memory", "128Mi", "requests.memory", "32Mi"), nil, nil, needing("limits.memory", "128Mi")},
		{"both, and one that the namespace adds", needing("limits.memory", "128Mi", "limits.cpu", "1", "requests.memory", "64Mi"), nil, nil,
			needing("limits.memory", "128Mi", "requests.memory", "64Mi")},
		{"a resize that no node of this size can take", needing("limits.memory", "999Gi", "requests.memory", "32Mi"),
			needing("limits.memory", "64Mi", "requests.memory", "32Mi"), pending, nil},
		{"such a one after another", needing("limits.memory", "999Gi", "requests.memory", "32Mi"),
			needing("limits.memory", "96Mi", "requests.memory", "32Mi"), pending, needing("limits.memory", "96Mi")},
		{"what it has is not known", needing("limits.memory", "999Gi"), nil, pending, nil},
	} {
		pod := &corev1.Pod{Spec: corev1.PodSpec{Containers: []corev1.Container{{Name: "main", Resources: *test.spec}}}}
		pod.Status.Conditions = test.conditions
		pod.Status.ContainerStatuses = []corev1.ContainerStatus{{Name: "main", Resources: test.status}}
		if diff := cmp.Diff(test.want, Resized(&template, pod)); diff != "" {
			t.Errorf("%s (-want +got):\n%s", test.name, diff)
		}
	}
	if got := Resized(&corev1.Container{Name: "gone"}, &corev1.Pod{}); got != nil {
		t.Errorf("of a container that is not in the Pod: %v", got)
	}

	next := template.DeepCopy()
	Resize(next, needing("limits.memory", "128Mi", "limits.cpu", "2"))
	if diff := cmp.Diff(*needing("limits.memory", "128Mi", "requests.memory", "32Mi"), next.Resources); diff != "" {
		t.Errorf("the next Pod's (-want +got):\n%s", diff)
	}
}
