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

// Package sandboxsnapshot is what the API server does with a snapshot before it is stored: who
// may write which part, and how it is shown.
package sandboxsnapshot

import (
	"context"
	"slices"

	apimeta "k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/util/validation/field"
	"k8s.io/apiserver/pkg/authentication/user"
	"k8s.io/apiserver/pkg/endpoints/request"
	"k8s.io/apiserver/pkg/registry/rest"
	"k8s.io/apiserver/pkg/storage/names"
	"k8s.io/utils/clock"
	"sigs.k8s.io/structured-merge-diff/v6/fieldpath"

	"github.com/opensandbox-io/sandbox-apiserver/apis/lifecycle"
	"github.com/opensandbox-io/sandbox-apiserver/apis/lifecycle/v1alpha1"
	"github.com/opensandbox-io/sandbox-apiserver/apis/lifecycle/validation"
)

// apiVersion is the version that field ownership is recorded in.
var apiVersion = fieldpath.APIVersion(v1alpha1.SchemeGroupVersion.String())

// Strategy is how snapshots are created and their metadata updated. Their spec is immutable.
type Strategy struct {
	runtime.ObjectTyper
	names.NameGenerator
	clock clock.PassiveClock
}

var (
	_ rest.RESTCreateUpdateStrategy = Strategy{}
	_ rest.RESTDeleteStrategy       = Strategy{}
	_ rest.ResetFieldsStrategy      = Strategy{}
)

// NewStrategy makes the strategy for snapshots of the typer's scheme.
func NewStrategy(typer runtime.ObjectTyper, clock clock.PassiveClock) Strategy {
	return Strategy{ObjectTyper: typer, NameGenerator: names.SimpleNameGenerator, clock: clock}
}

// NamespaceScoped is true: snapshots live in namespaces.
func (Strategy) NamespaceScoped() bool { return true }

// GetResetFields names what a create or an update cannot set.
func (Strategy) GetResetFields() map[fieldpath.APIVersion]*fieldpath.Set {
	return map[fieldpath.APIVersion]*fieldpath.Set{
		apiVersion: fieldpath.NewSet(fieldpath.MakePathOrDie("status")),
	}
}

// PrepareForCreate gives the snapshot the state that it starts in.
func (s Strategy) PrepareForCreate(_ context.Context, obj runtime.Object) {
	snapshot := obj.(*lifecycle.SandboxSnapshot)
	snapshot.Generation = 1
	// The finalizer is there before the first Job can be: what that freezes will be thawed.
	keepFinalizer(snapshot)
	snapshot.Status = lifecycle.SandboxSnapshotStatus{Phase: lifecycle.SnapshotPending}
	apimeta.SetStatusCondition(&snapshot.Status.Conditions, metav1.Condition{
		Type:               v1alpha1.ConditionReady,
		Status:             metav1.ConditionFalse,
		Reason:             v1alpha1.ReasonPending,
		Message:            "the snapshot has been accepted",
		ObservedGeneration: snapshot.Generation,
		LastTransitionTime: metav1.NewTime(s.clock.Now()),
	})
}

// Validate checks a snapshot that is to be created.
func (Strategy) Validate(ctx context.Context, obj runtime.Object) field.ErrorList {
	return validation.ValidateSandboxSnapshot(obj.(*lifecycle.SandboxSnapshot), isServer(ctx))
}

// isServer says whether the request is this server's own, by way of the loopback client: the
// controller creates the snapshots of pauses.
func isServer(ctx context.Context) bool {
	caller, ok := request.UserFrom(ctx)
	return ok && caller.GetName() == user.APIServerUser
}

// WarningsOnCreate has none.
func (Strategy) WarningsOnCreate(context.Context, runtime.Object) []string { return nil }

// Canonicalize has nothing to do.
func (Strategy) Canonicalize(runtime.Object) {}

// AllowCreateOnUpdate is false: a PUT does not create.
func (Strategy) AllowCreateOnUpdate(context.Context) bool { return false }

// AllowUnconditionalUpdate is false: an update says which version it has read.
func (Strategy) AllowUnconditionalUpdate(context.Context) bool { return false }

// PrepareForUpdate keeps the status, and the finalizer where the update leaves it out, as kubectl
// replace does: without it a deletion would leave Jobs and images behind. It keeps spec.pause and
// spec.rescue for the same reason: a client from before there were such does not know them.
func (Strategy) PrepareForUpdate(_ context.Context, obj, old runtime.Object) {
	snapshot, oldSnapshot := obj.(*lifecycle.SandboxSnapshot), old.(*lifecycle.SandboxSnapshot)
	snapshot.Status = *oldSnapshot.Status.DeepCopy()
	if oldSnapshot.DeletionTimestamp == nil {
		keepFinalizer(snapshot)
	}
	if snapshot.Spec.Pause == nil {
		snapshot.Spec.Pause = oldSnapshot.Spec.Pause.DeepCopy()
	}
	if snapshot.Spec.Rescue == nil {
		snapshot.Spec.Rescue = oldSnapshot.Spec.Rescue.DeepCopy()
	}
}

func keepFinalizer(snapshot *lifecycle.SandboxSnapshot) {
	if !slices.Contains(snapshot.Finalizers, v1alpha1.SnapshotFinalizer) {
		snapshot.Finalizers = append(snapshot.Finalizers, v1alpha1.SnapshotFinalizer)
	}
}

// ValidateUpdate checks an update.
func (Strategy) ValidateUpdate(ctx context.Context, obj, old runtime.Object) field.ErrorList {
	snapshot, oldSnapshot := obj.(*lifecycle.SandboxSnapshot), old.(*lifecycle.SandboxSnapshot)
	errs := validation.ValidateSandboxSnapshotUpdate(snapshot, oldSnapshot)
	if !isServer(ctx) {
		errs = append(errs, validation.ValidateSnapshotFinalizer(snapshot, oldSnapshot)...)
	}
	return errs
}

// WarningsOnUpdate has none.
func (Strategy) WarningsOnUpdate(context.Context, runtime.Object, runtime.Object) []string {
	return nil
}
