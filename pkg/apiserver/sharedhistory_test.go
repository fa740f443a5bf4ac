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

package apiserver

import (
	"testing"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"

	"github.com/opensandbox-io/sandbox-apiserver/apis/lifecycle"
	"github.com/opensandbox-io/sandbox-apiserver/pkg/registry/lifecycle/sandbox"
)

func TestVersionsOfAnObjectShareWhatIsTheSame(t *testing.T) {
	attributes := sharing(sandbox.GetAttrs)
	seen := func(uid types.UID, label, cpu, owned string) *lifecycle.Sandbox {
		t.Helper()
		s := &lifecycle.Sandbox{
			ObjectMeta: metav1.ObjectMeta{
				Name: "demo", UID: uid, Labels: map[string]string{"n": label}, Annotations: map[string]string{"note": "long"},
				ManagedFields: []metav1.ManagedFieldsEntry{{Manager: "m", FieldsV1: metav1.NewFieldsV1(owned)}},
			},
			Spec: lifecycle.SandboxSpec{Template: &corev1.PodTemplateSpec{Spec: corev1.PodSpec{Containers: []corev1.Container{{
				Name: "main", Resources: corev1.ResourceRequirements{Requests: corev1.ResourceList{"cpu": resource.MustParse(cpu)}},
			}}}}},
		}
		if got, _, err := attributes(s); err != nil || got["n"] != label {
			t.Fatalf("its labels are %v (%v)", got, err)
		}
		return s
	}
	first := seen("one", "1", "1", `{"f:metadata":{}}`)
	second := seen("one", "2", "1", `{"f:metadata":{}}`)
	if second.Spec.Template != first.Spec.Template {
		t.Error("the template is there twice")
	}
	if second.ManagedFields[0].FieldsV1 != first.ManagedFields[0].FieldsV1 {
		t.Error("what its manager owns is there twice")
	}
	if second.Labels["n"] != "2" || first.Labels["n"] != "1" {
		t.Errorf("the labels are %v, and were %v", second.Labels, first.Labels)
	}
	// The same quantity in other words is another to those who read it.
	third := seen("one", "3", "1000m", `{"f:spec":{}}`)
	if third.Spec.Template == second.Spec.Template || third.ManagedFields[0].FieldsV1 == second.ManagedFields[0].FieldsV1 {
		t.Error("it shares what is not the same")
	}
	if fourth := seen("other", "4", "1000m", `{"f:spec":{}}`); fourth.Spec.Template == third.Spec.Template {
		t.Error("it shares with another object")
	}
}
