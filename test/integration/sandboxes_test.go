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

func TestCreateWarnsOfVolumes(t *testing.T) {
	f := newFixture(t)
	got := f.post(f.path(""), `{"metadata":{"name":"demo"},"spec":{"template":{"spec":{"containers":[{"name":"a","image":"b"}],
		"volumes":[{"name":"scratch","emptyDir":{}},{"name":"kept","persistentVolumeClaim":{"claimName":"kept"}}]}}}}`)
	if warnings := strings.Join(got.header["Warning"], "\n"); got.code != 201 || !strings.Contains(warnings, "scratch") || strings.Contains(warnings, "kept") {
		t.Errorf("got %d with %q", got.code, warnings)
	}
}

func TestUpdateKeepsWhatItLeavesOut(t *testing.T) {
	f := newFixture(t)
	f.create(sandbox("demo"))
	f.asRunning("demo")
	_, err := f.sandboxes.Pause(context.Background(), "demo", &v1alpha1.SandboxPause{}, metav1.CreateOptions{})
	f.must(err)
	before := f.asPaused("demo", "demo-gen1")

	s := before.DeepCopy()
	s.Spec.DesiredState = ""
	s.Labels = map[string]string{"a": "b"}
	s.Status = v1alpha1.SandboxStatus{Phase: v1alpha1.SandboxFailed}
	s, err = f.sandboxes.Update(context.Background(), s, metav1.UpdateOptions{})
	f.must(err)
	if s.Spec.DesiredState != v1alpha1.DesiredStatePaused || s.Status.Phase != v1alpha1.SandboxPaused || s.Generation != before.Generation {
		t.Errorf("desired %s, phase %s, generation %d then %d", s.Spec.DesiredState, s.Status.Phase, before.Generation, s.Generation)
	}
	for _, kind := range []types.PatchType{types.MergePatchType, types.StrategicMergePatchType} {
		s, err = f.sandboxes.Patch(context.Background(), "demo", kind, []byte(`{"spec":{"desiredState":null}}`), metav1.PatchOptions{})
		f.must(err)
		if s.Spec.DesiredState != v1alpha1.DesiredStatePaused {
			t.Errorf("%s resumed it", kind)
		}
	}
	s, err = f.sandboxes.Patch(context.Background(), "demo", types.JSONPatchType, []byte(`[{"op":"replace","path":"/spec/desiredState","value":"Running"}]`), metav1.PatchOptions{})
	f.must(err)
	if s.Spec.DesiredState != v1alpha1.DesiredStateRunning || s.Generation != before.Generation+1 {
		t.Errorf("desired %s, generation %d", s.Spec.DesiredState, s.Generation)
	}

	s.ResourceVersion = ""
	if _, err := f.sandboxes.Update(context.Background(), s, metav1.UpdateOptions{}); !apierrors.IsInvalid(err) || !strings.Contains(err.Error(), "resourceVersion") {
		t.Errorf("an update without a resourceVersion: %v", err)
	}
	s.ResourceVersion = before.ResourceVersion
	if _, err := f.sandboxes.Update(context.Background(), s, metav1.UpdateOptions{}); !apierrors.IsConflict(err) {
		t.Errorf("an update of an old version: %v", err)
	}
}

func TestTemplateLock(t *testing.T) {
	f := newFixture(t)
	f.create(sandbox("demo"))
	s := f.asRunning("demo")
	s.Spec.Template.Labels = map[string]string{"a": "b"}
	s, err := f.sandboxes.Update(context.Background(), s, metav1.UpdateOptions{})
	f.must(err)
	s.Spec.Template.Spec.Containers[0].Image = "other"
	if _, err := f.sandboxes.Update(context.Background(), s, metav1.UpdateOptions{}); !apierrors.IsInvalid(err) ||
		!strings.Contains(err.Error(), "spec.template") || !strings.Contains(err.Error(), "pause") {
		t.Errorf("a change under a Pod: %v", err)
	}

	f.asPaused("demo", "demo-gen1")
	got := f.send(admin, "PATCH", f.path("/demo"), strings.NewReader(`[{"op":"replace","path":"/spec/template/spec/containers/0/image","value":"other"}]`),
		map[string][]string{"Content-Type": {"application/json-patch+json"}})
	if got.code != 200 || !strings.Contains(got.header.Get("Warning"), "demo-gen1") {
		t.Errorf("a change of a committed image: %d with Warning %q", got.code, got.header.Get("Warning"))
	}
}

func TestStatusKeepsToItsEndpoint(t *testing.T) {
	f := newFixture(t)
	before := f.create(sandbox("demo"))
	s := before.DeepCopy()
	s.Spec.DesiredState = v1alpha1.DesiredStatePaused
	s.Labels = map[string]string{"a": "b"}
	s.Status.Phase = v1alpha1.SandboxRunning
	s, err := f.sandboxes.UpdateStatus(context.Background(), s, metav1.UpdateOptions{})
	f.must(err)
	if s.Spec.DesiredState != v1alpha1.DesiredStateRunning || s.Labels != nil || s.Status.Phase != v1alpha1.SandboxRunning || s.Generation != before.Generation {
		t.Errorf("%+v %+v", s.ObjectMeta, s)
	}
	s.Status.Phase = "Sleeping"
	if _, err := f.sandboxes.UpdateStatus(context.Background(), s, metav1.UpdateOptions{}); !apierrors.IsInvalid(err) {
		t.Errorf("an unknown phase: %v", err)
	}
}

func TestDeleteWaitsForTheFinalizer(t *testing.T) {
	f := newFixture(t)
	f.create(sandbox("demo"))
	f.must(f.sandboxes.Delete(context.Background(), "demo", metav1.DeleteOptions{}))
	s := f.get("demo")
	if s.DeletionTimestamp == nil {
		t.Fatal("no deletionTimestamp")
	}
	s.Finalizers = nil
	_, err := f.sandboxes.Update(context.Background(), s, metav1.UpdateOptions{})
	f.must(err)
	if _, err := f.sandboxes.Get(context.Background(), "demo", metav1.GetOptions{}); !apierrors.IsNotFound(err) {
		t.Errorf("still there: %v", err)
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
