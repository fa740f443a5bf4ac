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

package storage

import (
	"context"
	"fmt"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/util/managedfields"
	"k8s.io/apiserver/pkg/audit"
	"k8s.io/apiserver/pkg/authorization/authorizer"
	genericregistry "k8s.io/apiserver/pkg/registry/generic/registry"
	"k8s.io/apiserver/pkg/registry/rest"
	"k8s.io/apiserver/pkg/util/dryrun"
	"k8s.io/utils/clock"

	"github.com/opensandbox-io/sandbox-apiserver/apis/lifecycle"
	"github.com/opensandbox-io/sandbox-apiserver/apis/lifecycle/v1alpha1"
	"github.com/opensandbox-io/sandbox-apiserver/apis/lifecycle/validation"
	"github.com/opensandbox-io/sandbox-apiserver/pkg/registry/lifecycle/clientfault"
	"github.com/opensandbox-io/sandbox-apiserver/pkg/registry/lifecycle/sandbox"
)

// PauseREST serves POST sandboxes/pause.
type PauseREST struct {
	answersSandbox
	verb      *verb
	convertor runtime.ObjectConvertor
	preflight Preflight
}

// ResumeREST serves POST sandboxes/resume.
type ResumeREST struct {
	answersSandbox
	verb       *verb
	snapshots  rest.Getter
	authorizer authorizer.Authorizer
}

var (
	_ rest.NamedCreater                   = &PauseREST{}
	_ rest.SubresourceObjectMetaPreserver = &PauseREST{}
	_ rest.StorageMetadata                = &PauseREST{}
	_ rest.NamedCreater                   = &ResumeREST{}
	_ rest.SubresourceObjectMetaPreserver = &ResumeREST{}
	_ rest.StorageMetadata                = &ResumeREST{}
)

// answersSandbox tells OpenAPI what a verb answers with: the sandbox. Without, it says that it
// sends the request body back.
type answersSandbox struct{}

// ProducesMIMETypes adds none to what the API server can encode.
func (answersSandbox) ProducesMIMETypes(string) []string { return nil }

// ProducesObject names the type of the answer, as clients see it.
func (answersSandbox) ProducesObject(string) any { return v1alpha1.Sandbox{} }

// New makes the object that a request body is decoded into.
func (r *PauseREST) New() runtime.Object { return &lifecycle.SandboxPause{} }

// Destroy has nothing to do: the underlying store belongs to REST.
func (r *PauseREST) Destroy() {}

// PreserveRequestObjectMetaSystemFieldsOnSubresourceCreate keeps uid and resourceVersion of the
// body: they are preconditions.
func (r *PauseREST) PreserveRequestObjectMetaSystemFieldsOnSubresourceCreate() bool { return true }

// Create pauses the sandbox.
func (r *PauseREST) Create(ctx context.Context, name string, obj runtime.Object, createValidation rest.ValidateObjectFunc, options *metav1.CreateOptions) (runtime.Object, error) {
	body, ok := obj.(*lifecycle.SandboxPause)
	if !ok {
		return nil, apierrors.NewBadRequest(fmt.Sprintf("%T is not a SandboxPause", obj))
	}
	if err := admit(ctx, name, body, &body.ObjectMeta, createValidation); err != nil {
		return nil, err
	}
	begins := false
	result, err := r.verb.apply(ctx, name, &body.ObjectMeta, options, func(old *lifecycle.Sandbox) (*lifecycle.Sandbox, *sandbox.Refusal) {
		next, refusal := sandbox.Pause(old, r.verb.clock.Now())
		begins = refusal == nil && next.Status.SnapshotAttempts > old.Status.SnapshotAttempts
		return next, refusal
	})
	if err != nil || !begins || !dryrun.IsDryRun(options.DryRun) {
		return result, err
	}
	if err := r.lookAhead(ctx, result); err != nil {
		return nil, err
	}
	return result, nil
}

// New makes the object that a request body is decoded into.
func (r *ResumeREST) New() runtime.Object { return &lifecycle.SandboxResume{} }

// Destroy has nothing to do: the underlying store belongs to REST.
func (r *ResumeREST) Destroy() {}

// PreserveRequestObjectMetaSystemFieldsOnSubresourceCreate keeps uid and resourceVersion of the
// body: they are preconditions.
func (r *ResumeREST) PreserveRequestObjectMetaSystemFieldsOnSubresourceCreate() bool { return true }

// Create resumes the sandbox.
func (r *ResumeREST) Create(ctx context.Context, name string, obj runtime.Object, createValidation rest.ValidateObjectFunc, options *metav1.CreateOptions) (runtime.Object, error) {
	body, ok := obj.(*lifecycle.SandboxResume)
	if !ok {
		return nil, apierrors.NewBadRequest(fmt.Sprintf("%T is not a SandboxResume", obj))
	}
	if errs := validation.ValidateSandboxResume(body); len(errs) > 0 {
		return nil, apierrors.NewInvalid(lifecycle.Kind("SandboxResume"), name, errs)
	}
	if err := r.authorizeChoice(ctx, name, body); err != nil {
		return nil, err
	}
	if err := admit(ctx, name, body, &body.ObjectMeta, createValidation); err != nil {
		return nil, err
	}
	snapshot, err := r.snapshot(ctx, body.SnapshotName)
	if err != nil {
		return nil, err
	}
	return r.verb.apply(ctx, name, &body.ObjectMeta, options, func(old *lifecycle.Sandbox) (*lifecycle.Sandbox, *sandbox.Refusal) {
		return sandbox.Resume(old, body, snapshot, r.verb.clock.Now())
	})
}

// snapshot returns the snapshot that the request names, nil where there is none.
func (r *ResumeREST) snapshot(ctx context.Context, name string) (*lifecycle.SandboxSnapshot, error) {
	if name == "" {
		return nil, nil
	}
	obj, err := r.snapshots.Get(ctx, name, &metav1.GetOptions{})
	switch {
	case apierrors.IsNotFound(err):
		return nil, nil
	case err != nil:
		return nil, err
	}
	return obj.(*lifecycle.SandboxSnapshot), nil
}

// admit checks that the body speaks of the object of the path, and asks admission about it. The
// namespace was compared by the generic handler.
func admit(ctx context.Context, name string, body runtime.Object, meta *metav1.ObjectMeta, createValidation rest.ValidateObjectFunc) error {
	if meta.Name != "" && meta.Name != name {
		return apierrors.NewBadRequest(fmt.Sprintf("metadata.name: the body says %q, the path %q; leave it out or make them the same", meta.Name, name))
	}
	// Policies can rely on the name.
	meta.Name = name
	if createValidation == nil {
		return nil
	}
	return createValidation(ctx, body.DeepCopyObject())
}

// verb writes what a verb has decided.
type verb struct {
	name         string
	store        *genericregistry.Store
	fieldManager *managedfields.FieldManager
	clock        clock.PassiveClock
}

func newVerbStore(name string, parent *genericregistry.Store, strategy sandbox.VerbStrategy, config Config) (*verb, error) {
	store := *parent
	store.UpdateStrategy = strategy
	store.ResetFieldsStrategy = nil
	fieldManager, err := managedfields.NewDefaultFieldManager(
		config.TypeConverter,
		runtime.UnsafeObjectConvertor(config.Scheme),
		config.Scheme,
		config.Scheme,
		v1alpha1.SchemeGroupVersion.WithKind("Sandbox"),
		lifecycle.SchemeGroupVersion,
		name,
		nil,
	)
	if err != nil {
		return nil, fmt.Errorf("making the field manager of sandboxes/%s: %w", name, err)
	}
	return &verb{name: name, store: &store, fieldManager: fieldManager, clock: config.Clock}, nil
}

// decision turns a stored sandbox into what it shall be. It is called again whenever another
// writer was faster, so it must not depend on anything but its argument.
type decision func(old *lifecycle.Sandbox) (*lifecycle.Sandbox, *sandbox.Refusal)

func (v *verb) apply(ctx context.Context, name string, preconditions *metav1.ObjectMeta, options *metav1.CreateOptions, decide decision) (runtime.Object, error) {
	manager := fieldManagerName(ctx, options.FieldManager)
	var from, to string
	update := &counted{UpdatedObjectInfo: &verbUpdate{
		preconditions: preconditions,
		decide: func(old *lifecycle.Sandbox) (runtime.Object, error) {
			next, refusal := decide(old)
			if refusal != nil {
				return nil, refusal.AsError(name)
			}
			from, to = sandbox.State(old), sandbox.State(next)
			if next == old {
				// Equal bytes are not written: no event, and the same resourceVersion.
				return old.DeepCopy(), nil
			}
			return v.fieldManager.UpdateNoErrors(old, next, manager), nil
		},
	}}
	result, _, err := v.store.Update(ctx, name, update, rest.ValidateAllObjectFunc, rest.ValidateAllObjectUpdateFunc, false, &metav1.UpdateOptions{
		DryRun:          options.DryRun,
		FieldManager:    options.FieldManager,
		FieldValidation: options.FieldValidation,
	})
	update.written(result, err, options.DryRun, v.clock)
	if err != nil {
		return nil, clientfault.Stored(err)
	}
	audit.AddAuditAnnotation(ctx, v1alpha1.LabelPrefix+v.name, fmt.Sprintf("%s -> %s", from, to))
	return result, nil
}

// verbUpdate is the update of a verb. The store compares the preconditions with the object in
// the same transaction that writes it, and repeats the whole on a conflict; with a
// resourceVersion among the preconditions the repeat fails, as its caller wants.
type verbUpdate struct {
	preconditions *metav1.ObjectMeta
	decide        func(old *lifecycle.Sandbox) (runtime.Object, error)
}

var _ rest.UpdatedObjectInfo = &verbUpdate{}

// Preconditions are the uid and the resourceVersion of the request body, where it has them.
func (u *verbUpdate) Preconditions() *metav1.Preconditions {
	preconditions := &metav1.Preconditions{}
	if u.preconditions.UID != "" {
		preconditions.UID = &u.preconditions.UID
	}
	if u.preconditions.ResourceVersion != "" {
		preconditions.ResourceVersion = &u.preconditions.ResourceVersion
	}
	return preconditions
}

// UpdatedObject returns what becomes of the stored sandbox.
func (u *verbUpdate) UpdatedObject(_ context.Context, obj runtime.Object) (runtime.Object, error) {
	old, ok := obj.(*lifecycle.Sandbox)
	if !ok {
		return nil, apierrors.NewInternalError(fmt.Errorf("%T is not a Sandbox", obj))
	}
	return u.decide(old)
}
