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


package integration

import (
	"context"
	"slices"
	"testing"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/opensandbox-io/sandbox-apiserver/apis/lifecycle/v1alpha1"
)

// kubectl replace sends what the file says, and no file has finalizers.
func TestReplaceKeepsTheFinalizers(t *testing.T) {
	f := newFixture(t)
	s := f.create(sandbox("demo"))
	s.Finalizers = []string{"example.com/mine"}
	s, err := f.sandboxes.Update(context.Background(), s, metav1.UpdateOptions{})
	f.must(err)
	if !slices.Equal(s.Finalizers, []string{"example.com/mine", v1alpha1.SandboxFinalizer}) {
		t.Errorf("the sandbox has the finalizers %q", s.Finalizers)
	}

	snapshot, err := f.snapshots.Create(context.Background(), &v1alpha1.SandboxSnapshot{
		ObjectMeta: metav1.ObjectMeta{Name: "mine"}, Spec: v1alpha1.SandboxSnapshotSpec{SandboxName: "demo"},
	}, metav1.CreateOptions{})
	f.must(err)
	snapshot.Finalizers = nil
	snapshot, err = f.snapshots.Update(context.Background(), snapshot, metav1.UpdateOptions{})
	f.must(err)
	if !slices.Equal(snapshot.Finalizers, []string{v1alpha1.SnapshotFinalizer}) {
		t.Errorf("the snapshot has the finalizers %q", snapshot.Finalizers)
	}
}
