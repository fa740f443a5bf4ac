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
	"strings"
	"testing"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"

	"github.com/opensandbox-io/sandbox-apiserver/apis/lifecycle/v1alpha1"
)

func TestCreate(t *testing.T) {
	f := newFixture(t)
	s := f.create(sandbox("demo", func(s *v1alpha1.Sandbox) {
		s.Status = v1alpha1.SandboxStatus{Phase: v1alpha1.SandboxPaused, SnapshotName: "stolen"}
	}))
	if s.Spec.DesiredState != v1alpha1.DesiredStateRunning || *s.Spec.Snapshot.HistoryLimit != 3 || s.Spec.Snapshot.DeletionPolicy != v1alpha1.DeletionPolicyDelete {
		t.Errorf("defaults: %+v", s.Spec)
	}
	if s.Status.Phase != v1alpha1.SandboxPending || s.Status.SnapshotName != "" || s.Generation != 1 || !slices.Contains(s.Finalizers, v1alpha1.SandboxFinalizer) {
		t.Errorf("%+v %+v", s.ObjectMeta, s.Status)
	}
	for _, condition := range []string{v1alpha1.ConditionReady, v1alpha1.ConditionPaused} {
		if reasonOf(s, condition) != v1alpha1.ReasonPending {
			t.Errorf("condition %s: %+v", condition, s.Status.Conditions)
		}
	}
	if s := f.create(sandbox("", func(s *v1alpha1.Sandbox) { s.GenerateName = "demo-" })); !strings.HasPrefix(s.Name, "demo-") {
		t.Errorf("generated the name %q", s.Name)
	}
	if _, err := f.sandboxes.Create(context.Background(), sandbox("demo"), metav1.CreateOptions{}); !apierrors.IsAlreadyExists(err) {
		t.Errorf("a second of the name: %v", err)
	}
}

func TestRestoreFrom(t *testing.T) {
	f := newFixture(t)
	clone := func(s *v1alpha1.Sandbox) {
		s.Spec.Template = nil
		s.Spec.RestoreFrom = &v1alpha1.SandboxRestoreSource{SnapshotName: "secret"}
		s.Spec.DesiredState = v1alpha1.DesiredStatePaused
	}
	s := f.create(sandbox("demo", clone))
	others := f.client(restricted).LifecycleV1alpha1().Sandboxes(f.namespace)
	if _, err := others.Create(context.Background(), sandbox("other", clone), metav1.CreateOptions{}); !apierrors.IsForbidden(err) || !strings.Contains(err.Error(), "secret") {
		t.Errorf("by who may not get the snapshot: %v", err)
	}
	apply := []byte(`{"apiVersion":"lifecycle.opensandbox.io/v1alpha1","kind":"Sandbox","metadata":{"name":"other"},"spec":{"restoreFrom":{"snapshotName":"secret"}}}`)
	if _, err := others.Patch(context.Background(), "other", types.ApplyPatchType, apply, metav1.PatchOptions{FieldManager: "x"}); !apierrors.IsForbidden(err) {
		t.Errorf("by apply: %v", err)
	}
	changed, err := f.sandboxes.Patch(context.Background(), "demo", types.MergePatchType, []byte(`{"spec":{"restoreFrom":{"snapshotName":"mine"}}}`), metav1.PatchOptions{})
	f.must(err)
	if changed.Generation != s.Generation+1 {
		t.Errorf("a change before anything has started is generation %d after %d", changed.Generation, s.Generation)
	}
	if _, err := others.Patch(context.Background(), "demo", types.MergePatchType, []byte(`{"spec":{"restoreFrom":{"snapshotName":"secret"}}}`), metav1.PatchOptions{}); !apierrors.IsForbidden(err) || !strings.Contains(err.Error(), "secret") {
		t.Errorf("a change by who may not get the snapshot: %v", err)
	}
	s = f.asPaused("demo", "mine")
	s.Spec.RestoreFrom.SnapshotName = "another"
	if _, err := f.sandboxes.Update(context.Background(), s, metav1.UpdateOptions{}); !apierrors.IsInvalid(err) || !strings.Contains(err.Error(), "immutable") {
		t.Errorf("a change: %v", err)
	}
}

func TestSnapshots(t *testing.T) {
	f := newFixture(t)
	mine := &v1alpha1.SandboxSnapshot{ObjectMeta: metav1.ObjectMeta{Name: "mine"}, Spec: v1alpha1.SandboxSnapshotSpec{SandboxName: "demo"}}
	s, err := f.snapshots.Create(context.Background(), mine, metav1.CreateOptions{})
	f.must(err)
	if s.Status.Phase != v1alpha1.SnapshotPending || s.Generation != 1 || !slices.Contains(s.Finalizers, v1alpha1.SnapshotFinalizer) || s.Spec.DeletionPolicy != v1alpha1.DeletionPolicyDelete {
		t.Errorf("%+v", s)
	}
	s.Spec.SandboxName = "other"
	if _, err := f.snapshots.Update(context.Background(), s, metav1.UpdateOptions{}); !apierrors.IsInvalid(err) {
		t.Errorf("a change of the spec: %v", err)
	}
	mine.Name = "demo-gen1"
	if _, err := f.snapshots.Create(context.Background(), mine, metav1.CreateOptions{}); !apierrors.IsInvalid(err) || !strings.Contains(err.Error(), "metadata.name") {
		t.Errorf("a name that is kept for pauses: %v", err)
	}

	done := f.succeeded("demo-gen1", f.create(sandbox("demo")))
	done.Status.Phase = v1alpha1.SnapshotFailed
	if _, err := f.controller.SandboxSnapshots(f.namespace).UpdateStatus(context.Background(), done, metav1.UpdateOptions{}); !apierrors.IsInvalid(err) {
		t.Errorf("a change of a final phase: %v", err)
	}
}
