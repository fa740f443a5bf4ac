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

package template

import (
	"errors"
	"testing"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"sigs.k8s.io/controller-runtime/pkg/client/fake"

	"github.com/opensandbox-io/sandbox-apiserver/apis/lifecycle/v1alpha1"
)

func TestRead(t *testing.T) {
	own, brought := &corev1.PodTemplateSpec{}, &corev1.PodTemplateSpec{}
	own.Name, brought.Name = "own", "brought"
	tests := map[string]struct {
		template *corev1.PodTemplateSpec
		from     string
		want     string
		fails    func(error) bool
	}{
		"its own":                          {own, "", "own", nil},
		"its own before a snapshot's":      {own, "base", "own", nil},
		"a snapshot's":                     {nil, "base", "brought", nil},
		"none":                             {nil, "", "", func(err error) bool { return errors.Is(err, ErrNone) }},
		"none that comes with a snapshot":  {nil, "empty", "", func(err error) bool { return errors.Is(err, ErrNone) }},
		"a snapshot's, which is not there": {nil, "gone", "", apierrors.IsNotFound},
	}
	known := runtime.NewScheme()
	if err := v1alpha1.AddToScheme(known); err != nil {
		t.Fatal(err)
	}
	snapshot := func(name string, template *corev1.PodTemplateSpec) *v1alpha1.SandboxSnapshot {
		return &v1alpha1.SandboxSnapshot{
			ObjectMeta: metav1.ObjectMeta{Namespace: "default", Name: name},
			Status:     v1alpha1.SandboxSnapshotStatus{Template: template},
		}
	}
	reader := fake.NewClientBuilder().WithScheme(known).WithObjects(snapshot("base", brought), snapshot("empty", nil)).Build()
	for name, test := range tests {
		t.Run(name, func(t *testing.T) {
			sandbox := &v1alpha1.Sandbox{
				ObjectMeta: metav1.ObjectMeta{Namespace: "default", Name: "demo"},
				Spec:       v1alpha1.SandboxSpec{Template: test.template},
				Status:     v1alpha1.SandboxStatus{SnapshotName: test.from},
			}
			got, err := Read(t.Context(), reader, sandbox)
			if test.fails != nil {
				if err == nil || !test.fails(err) {
					t.Fatalf("error %v", err)
				}
				return
			}
			if err != nil || got.Name != test.want {
				t.Errorf("read %v (%v), want %s", got, err, test.want)
			}
		})
	}
}
