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

// Package storage serves sandboxes and their subresources from etcd.
package storage

import (
	"context"
	"fmt"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/util/managedfields"
	"k8s.io/apiserver/pkg/authorization/authorizer"
	"k8s.io/apiserver/pkg/registry/generic"
	genericregistry "k8s.io/apiserver/pkg/registry/generic/registry"
	"k8s.io/apiserver/pkg/registry/rest"
	"k8s.io/utils/clock"
	"sigs.k8s.io/structured-merge-diff/v6/fieldpath"

	"github.com/opensandbox-io/sandbox-apiserver/apis/lifecycle"
	"github.com/opensandbox-io/sandbox-apiserver/pkg/registry/lifecycle/clientfault"
	"github.com/opensandbox-io/sandbox-apiserver/pkg/registry/lifecycle/sandbox"
)

// SandboxStorage is everything that is served of sandboxes.
type SandboxStorage struct {
	Sandbox *REST
	Status  *StatusREST
	Pause   *PauseREST
	Resume  *ResumeREST
}

// Config is what the storage is made from.
type Config struct {
	Scheme      *runtime.Scheme
	RESTOptions generic.RESTOptionsGetter
	// Authorizer decides who may start a sandbox from a snapshot, and go back to one.
	Authorizer authorizer.Authorizer
	// TypeConverter knows the structure of a Sandbox, for managedFields.
	TypeConverter managedfields.TypeConverter
	// Snapshots finds the snapshot that a resume names.
	Snapshots rest.Getter
	// Preflight answers dry runs of a pause. Nil: they look at the sandbox alone.
	Preflight Preflight
	Clock     clock.PassiveClock
}

// New makes the storage.
func New(config Config) (*SandboxStorage, error) {
	strategy := sandbox.NewStrategy(config.Scheme, config.Clock)
	store := &genericregistry.Store{
		NewFunc:                   func() runtime.Object { return &lifecycle.Sandbox{} },
		NewListFunc:               func() runtime.Object { return &lifecycle.SandboxList{} },
		PredicateFunc:             sandbox.Match,
		DefaultQualifiedResource:  lifecycle.Resource("sandboxes"),
		SingularQualifiedResource: lifecycle.Resource("sandbox"),
		CreateStrategy:            strategy,
		UpdateStrategy:            strategy,
		DeleteStrategy:            strategy,
		ResetFieldsStrategy:       strategy,
		TableConvertor:            sandbox.TableConvertor{Clock: config.Clock},
	}
	if err := store.CompleteWithOptions(&generic.StoreOptions{
		RESTOptions: config.RESTOptions,
		AttrFunc:    sandbox.GetAttrs,
		Indexers:    sandbox.Indexers(),
	}); err != nil {
		return nil, fmt.Errorf("making the storage of sandboxes: %w", err)
	}

	statusStore := *store
	statusStrategy := sandbox.NewStatusStrategy(strategy)
	statusStore.UpdateStrategy = statusStrategy
	statusStore.ResetFieldsStrategy = statusStrategy

	pause, err := newVerbStore("pause", store, sandbox.NewPauseStrategy(strategy), config)
	if err != nil {
		return nil, err
	}
	resume, err := newVerbStore("resume", store, sandbox.NewResumeStrategy(strategy), config)
	if err != nil {
		return nil, err
	}
	return &SandboxStorage{
		Sandbox: &REST{Store: store, authorizer: config.Authorizer},
		Status:  &StatusREST{store: &statusStore, clock: config.Clock},
		Pause:   &PauseREST{verb: pause, convertor: config.Scheme, preflight: config.Preflight},
		Resume:  &ResumeREST{verb: resume, snapshots: config.Snapshots, authorizer: config.Authorizer},
	}, nil
}

// REST serves sandboxes.
type REST struct {
	*genericregistry.Store
	authorizer authorizer.Authorizer
}

var (
	_ rest.StandardStorage    = &REST{}
	_ rest.ShortNamesProvider = &REST{}
	_ rest.CategoriesProvider = &REST{}
)

// ShortNames are what kubectl understands as well.
func (*REST) ShortNames() []string { return []string{"sbx"} }

// Categories are the groups of resources that kubectl get understands.
func (*REST) Categories() []string { return []string{"opensandbox"} }

// Create creates a sandbox; one that starts from a snapshot only for those who may read that.
func (r *REST) Create(ctx context.Context, obj runtime.Object, createValidation rest.ValidateObjectFunc, options *metav1.CreateOptions) (runtime.Object, error) {
	created, err := r.Store.Create(ctx, obj, r.authorizeRestore(createValidation), options)
	return created, clientfault.Stored(err)
}

// Update changes metadata and spec. Server-side apply creates through it, too.
func (r *REST) Update(ctx context.Context, name string, objInfo rest.UpdatedObjectInfo, createValidation rest.ValidateObjectFunc, updateValidation rest.ValidateObjectUpdateFunc, forceAllowCreate bool, options *metav1.UpdateOptions) (runtime.Object, bool, error) {
	objInfo = clientfault.Update(lifecycle.Kind("Sandbox"), objInfo)
	updated, created, err := r.Store.Update(ctx, name, objInfo, r.authorizeRestore(createValidation), r.authorizeOtherRestore(updateValidation), forceAllowCreate, options)
	return updated, created, clientfault.Stored(err)
}

// StatusREST serves sandboxes/status.
type StatusREST struct {
	store *genericregistry.Store
	clock clock.PassiveClock
}

var (
	_ rest.Getter              = &StatusREST{}
	_ rest.Updater             = &StatusREST{}
	_ rest.Patcher             = &StatusREST{}
	_ rest.ResetFieldsStrategy = &StatusREST{}
)

// New makes the object that a request body is decoded into.
func (r *StatusREST) New() runtime.Object { return &lifecycle.Sandbox{} }

// Destroy has nothing to do: the underlying store belongs to REST.
func (r *StatusREST) Destroy() {}

// Get returns the sandbox.
func (r *StatusREST) Get(ctx context.Context, name string, options *metav1.GetOptions) (runtime.Object, error) {
	return r.store.Get(ctx, name, options)
}

// Update changes the status.
func (r *StatusREST) Update(ctx context.Context, name string, objInfo rest.UpdatedObjectInfo, createValidation rest.ValidateObjectFunc, updateValidation rest.ValidateObjectUpdateFunc, _ bool, options *metav1.UpdateOptions) (runtime.Object, bool, error) {
	update := &counted{UpdatedObjectInfo: clientfault.Update(lifecycle.Kind("Sandbox"), objInfo)}
	// A subresource never creates its parent, not even for server-side apply.
	updated, created, err := r.store.Update(ctx, name, update, createValidation, updateValidation, false, options)
	update.written(updated, err, options.DryRun, r.clock)
	return updated, created, clientfault.Stored(err)
}

// ConvertToTable shows the sandbox as kubectl get prints it.
func (r *StatusREST) ConvertToTable(ctx context.Context, object, options runtime.Object) (*metav1.Table, error) {
	return r.store.ConvertToTable(ctx, object, options)
}

// GetResetFields names what a status update cannot set.
func (r *StatusREST) GetResetFields() map[fieldpath.APIVersion]*fieldpath.Set {
	return r.store.GetResetFields()
}
