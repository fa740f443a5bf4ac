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

package finalizer

import (
	"context"
	"errors"
	"slices"
	"testing"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/controller-runtime/pkg/client/fake"
	"sigs.k8s.io/controller-runtime/pkg/client/interceptor"

	"github.com/opensandbox-io/sandbox-apiserver/apis/lifecycle/v1alpha1"
)

// TestRemove writes nothing but the finalizers: here the reader did not even keep the template.
func TestRemove(t *testing.T) {
	known := runtime.NewScheme()
	if err := v1alpha1.AddToScheme(known); err != nil {
		t.Fatal(err)
	}
	stored := &v1alpha1.Sandbox{
		ObjectMeta: metav1.ObjectMeta{Namespace: "ns", Name: "demo", Finalizers: []string{"example.com/other", v1alpha1.SandboxFinalizer}},
		Spec:       v1alpha1.SandboxSpec{Template: &corev1.PodTemplateSpec{}},
	}
	c := fake.NewClientBuilder().WithScheme(known).WithObjects(stored).WithInterceptorFuncs(interceptor.Funcs{
		Update: func(context.Context, client.WithWatch, client.Object, ...client.UpdateOption) error {
			return errors.New("it is written whole")
		},
	}).Build()
	get := func() *v1alpha1.Sandbox {
		sandbox := &v1alpha1.Sandbox{}
		if err := c.Get(t.Context(), client.ObjectKeyFromObject(stored), sandbox); err != nil {
			t.Fatal(err)
		}
		return sandbox
	}

	read := get()
	labelled := read.DeepCopy()
	labelled.Labels = map[string]string{"team": "a"}
	if err := c.Patch(t.Context(), labelled, client.MergeFrom(read)); err != nil {
		t.Fatal(err)
	}
	if err := Remove(t.Context(), c, read, v1alpha1.SandboxFinalizer); !apierrors.IsConflict(err) {
		t.Errorf("of one that has changed since: %v", err)
	}

	read = get()
	read.Spec.Template = nil
	if err := Remove(t.Context(), c, read, v1alpha1.SandboxFinalizer); err != nil {
		t.Fatal(err)
	}
	if now := get(); !slices.Equal(now.Finalizers, []string{"example.com/other"}) || now.Spec.Template == nil {
		t.Errorf("it has the finalizers %q, and a template: %t", now.Finalizers, now.Spec.Template != nil)
	}
	if err := Remove(t.Context(), c, get(), v1alpha1.SandboxFinalizer); err != nil {
		t.Errorf("of one that has it no more: %v", err)
	}
	unknown := stored.DeepCopy()
	unknown.Name, unknown.ResourceVersion = "gone", "1"
	if err := Remove(t.Context(), c, unknown, v1alpha1.SandboxFinalizer); err != nil {
		t.Errorf("of one that is gone: %v", err)
	}
}
