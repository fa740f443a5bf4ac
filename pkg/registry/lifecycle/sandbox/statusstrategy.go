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

package sandbox

import (
	"context"

	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/util/validation/field"
	"k8s.io/apiserver/pkg/registry/rest"
	"sigs.k8s.io/structured-merge-diff/v6/fieldpath"

	"github.com/opensandbox-io/sandbox-apiserver/apis/lifecycle"
	"github.com/opensandbox-io/sandbox-apiserver/apis/lifecycle/validation"
)

// StatusStrategy is how sandboxes/status is updated: the status and nothing else.
type StatusStrategy struct {
	Strategy
}

var (
	_ rest.RESTUpdateStrategy  = StatusStrategy{}
	_ rest.ResetFieldsStrategy = StatusStrategy{}
)

// NewStatusStrategy makes the status strategy of a strategy.
func NewStatusStrategy(strategy Strategy) StatusStrategy {
	return StatusStrategy{Strategy: strategy}
}

// GetResetFields names what a status update cannot set.
func (StatusStrategy) GetResetFields() map[fieldpath.APIVersion]*fieldpath.Set {
	return map[fieldpath.APIVersion]*fieldpath.Set{
		apiVersion: fieldpath.NewSet(fieldpath.MakePathOrDie("metadata"), fieldpath.MakePathOrDie("spec")),
	}
}

// PrepareForUpdate keeps spec and metadata.
func (s StatusStrategy) PrepareForUpdate(_ context.Context, obj, old runtime.Object) {
	sandbox, oldSandbox := obj.(*lifecycle.Sandbox), old.(*lifecycle.Sandbox)
	// Ownership of the status fields is part of the metadata and does change.
	managedFields, uid := sandbox.ManagedFields, sandbox.UID
	// That this takes over the resource version is safe: it was compared before.
	sandbox.ObjectMeta = *oldSandbox.ObjectMeta.DeepCopy()
	sandbox.ManagedFields = managedFields
	// Whoever names a UID means that object and no other of its name: the validation compares them.
	if uid != "" {
		sandbox.UID = uid
	}
	sandbox.Spec = *oldSandbox.Spec.DeepCopy()
	s.stampPhase(sandbox, oldSandbox)
}

// ValidateUpdate checks a status update.
func (StatusStrategy) ValidateUpdate(_ context.Context, obj, old runtime.Object) field.ErrorList {
	return validation.ValidateSandboxStatusUpdate(obj.(*lifecycle.Sandbox), old.(*lifecycle.Sandbox))
}

// WarningsOnUpdate has none.
func (StatusStrategy) WarningsOnUpdate(context.Context, runtime.Object, runtime.Object) []string {
	return nil
}
