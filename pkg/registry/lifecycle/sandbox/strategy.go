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

// Package sandbox is what the API server does with a sandbox before it is stored: who may write
// which part, what a verb makes of it, and how it is shown.
package sandbox

import (
	"context"
	"slices"
	"time"

	apiequality "k8s.io/apimachinery/pkg/api/equality"
	apimeta "k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/util/validation/field"
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

// Strategy is how sandboxes are created and updated: spec and metadata, not status.
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

// NewStrategy makes the strategy for sandboxes of the typer's scheme.
func NewStrategy(typer runtime.ObjectTyper, clock clock.PassiveClock) Strategy {
	return Strategy{ObjectTyper: typer, NameGenerator: names.SimpleNameGenerator, clock: clock}
}

// NamespaceScoped is true: sandboxes live in namespaces.
func (Strategy) NamespaceScoped() bool { return true }

// GetResetFields names what a create or an update cannot set.
func (Strategy) GetResetFields() map[fieldpath.APIVersion]*fieldpath.Set {
	return map[fieldpath.APIVersion]*fieldpath.Set{
		apiVersion: fieldpath.NewSet(fieldpath.MakePathOrDie("status")),
	}
}

// PrepareForCreate gives the sandbox the state that it starts in. Both conditions are there from
// the beginning, so that nobody who waits for one has to handle its absence.
func (s Strategy) PrepareForCreate(_ context.Context, obj runtime.Object) {
	sandbox := obj.(*lifecycle.Sandbox)
	sandbox.Generation = 1
	wholeSeconds(&sandbox.Spec)
	if sandbox.Spec.DesiredState == "" {
		sandbox.Spec.DesiredState = lifecycle.DesiredStateRunning
	}
	// The finalizer is there before the first Pod can be: no deletion can slip in between.
	keepFinalizer(sandbox)
	sandbox.Status = lifecycle.SandboxStatus{Phase: lifecycle.SandboxPending}
	s.stampPhase(sandbox, &lifecycle.Sandbox{})
	for _, condition := range []string{v1alpha1.ConditionReady, v1alpha1.ConditionPaused} {
		apimeta.SetStatusCondition(&sandbox.Status.Conditions, metav1.Condition{
			Type:               condition,
			Status:             metav1.ConditionFalse,
			Reason:             v1alpha1.ReasonPending,
			Message:            "the sandbox has been accepted",
			ObservedGeneration: sandbox.Generation,
			LastTransitionTime: metav1.NewTime(s.clock.Now()),
		})
	}
}

// Validate checks a sandbox that is to be created.
func (s Strategy) Validate(_ context.Context, obj runtime.Object) field.ErrorList {
	return validation.ValidateSandbox(obj.(*lifecycle.Sandbox), s.clock.Now())
}

// WarningsOnCreate names the volumes whose content a pause does not keep.
func (Strategy) WarningsOnCreate(_ context.Context, obj runtime.Object) []string {
	return volumeWarnings(obj.(*lifecycle.Sandbox))
}

// Canonicalize has nothing to do.
func (Strategy) Canonicalize(runtime.Object) {}

// AllowCreateOnUpdate is false: a PUT does not create.
func (Strategy) AllowCreateOnUpdate(context.Context) bool { return false }

// AllowUnconditionalUpdate is false: an update says which version it has read.
func (Strategy) AllowUnconditionalUpdate(context.Context) bool { return false }

// PrepareForUpdate keeps the status, and the desired state where the update leaves it out:
// a client that does not know or own that field must never resume a paused sandbox. It keeps the
// finalizer for the same reason: kubectl replace leaves it out, and without it a deletion would
// leave the Pod behind, which has no owner. Once the deletion has begun it may be removed.
func (s Strategy) PrepareForUpdate(_ context.Context, obj, old runtime.Object) {
	sandbox, oldSandbox := obj.(*lifecycle.Sandbox), old.(*lifecycle.Sandbox)
	sandbox.Status = *oldSandbox.Status.DeepCopy()
	wholeSeconds(&sandbox.Spec)
	if sandbox.Spec.DesiredState == "" {
		sandbox.Spec.DesiredState = oldSandbox.Spec.DesiredState
	}
	if sandbox.Spec.DesiredState != oldSandbox.Spec.DesiredState {
		// It asks for work as a verb does.
		sandbox.Status.LastRequestTime = requestedAt(oldSandbox, s.clock.Now())
	}
	if oldSandbox.DeletionTimestamp == nil {
		keepFinalizer(sandbox)
	}
	raiseGeneration(sandbox, oldSandbox)
}

// ValidateUpdate checks an update of metadata and spec.
func (s Strategy) ValidateUpdate(_ context.Context, obj, old runtime.Object) field.ErrorList {
	return validation.ValidateSandboxUpdate(obj.(*lifecycle.Sandbox), old.(*lifecycle.Sandbox), s.clock.Now())
}

// WarningsOnUpdate tells of changes that will not have the effect that one may expect of them.
func (s Strategy) WarningsOnUpdate(_ context.Context, obj, old runtime.Object) []string {
	sandbox, oldSandbox := obj.(*lifecycle.Sandbox), old.(*lifecycle.Sandbox)
	warnings := imageWarnings(sandbox, oldSandbox)
	if sandbox.Spec.DesiredState != oldSandbox.Spec.DesiredState {
		warnings = append(warnings, expiryWarnings(sandbox, s.clock.Now())...)
	}
	return warnings
}

// stampPhase records when the phase changed: here and not by whoever changes it, so that no writer forgets it or says
// something else.
func (s Strategy) stampPhase(sandbox, old *lifecycle.Sandbox) {
	sandbox.Status.PhaseTransitionTime = old.Status.PhaseTransitionTime
	if sandbox.Status.Phase != old.Status.Phase {
		sandbox.Status.PhaseTransitionTime = &metav1.Time{Time: s.clock.Now().Truncate(time.Second)} // as it is stored
	}
}

func keepFinalizer(sandbox *lifecycle.Sandbox) {
	if !slices.Contains(sandbox.Finalizers, v1alpha1.SandboxFinalizer) {
		sandbox.Finalizers = append(sandbox.Finalizers, v1alpha1.SandboxFinalizer)
	}
}

// wholeSeconds has the time that is stored be the one that is compared and answered with.
func wholeSeconds(spec *lifecycle.SandboxSpec) {
	if spec.ExpireTime != nil {
		spec.ExpireTime = v1alpha1.ExpireAt(spec.ExpireTime.Time)
	}
}

// requestedAt is when a request is made. It is later than the one before, whichever replica's clock that was by: what asks for
// something after a sandbox has expired must be seen to come after.
func requestedAt(sandbox *lifecycle.Sandbox, now time.Time) *metav1.MicroTime {
	if last := sandbox.Status.LastRequestTime; last != nil && !now.After(last.Time) {
		now = last.Add(time.Microsecond)
	}
	return &metav1.MicroTime{Time: now}
}

// raiseGeneration counts a change of the spec, but for one of its lifetime alone: that asks for nothing now, and whoever waits
// for what was asked before, or for its next try, goes on waiting. The generic update has set the generation to the stored one before.
func raiseGeneration(sandbox, old *lifecycle.Sandbox) {
	asks, asked := sandbox.Spec, old.Spec
	asks.ExpireTime, asks.ExpireAction = asked.ExpireTime, asked.ExpireAction
	if !apiequality.Semantic.DeepEqual(asks, asked) {
		sandbox.Generation = old.Generation + 1
	}
}
