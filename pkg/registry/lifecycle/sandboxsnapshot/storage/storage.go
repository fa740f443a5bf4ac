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

// Package storage serves sandboxsnapshots and sandboxsnapshots/status from etcd.
package storage

import (
	"context"
	"fmt"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apiserver/pkg/authorization/authorizer"
	"k8s.io/apiserver/pkg/registry/generic"
	genericregistry "k8s.io/apiserver/pkg/registry/generic/registry"
	"k8s.io/apiserver/pkg/registry/rest"
	"k8s.io/utils/clock"
	"sigs.k8s.io/structured-merge-diff/v6/fieldpath"

	"github.com/opensandbox-io/sandbox-apiserver/apis/lifecycle"
	"github.com/opensandbox-io/sandbox-apiserver/pkg/registry/lifecycle/clientfault"
	"github.com/opensandbox-io/sandbox-apiserver/pkg/registry/lifecycle/rights"
	"github.com/opensandbox-io/sandbox-apiserver/pkg/registry/lifecycle/sandboxsnapshot"
)

// SnapshotStorage is everything that is served of snapshots.
type SnapshotStorage struct {
	Snapshot *REST
	Status   *StatusREST
}

// New makes the storage. The authorizer decides who may make a snapshot of a sandbox.
func New(scheme *runtime.Scheme, optsGetter generic.RESTOptionsGetter, authorizer authorizer.Authorizer, clock clock.PassiveClock) (*SnapshotStorage, error) {
	strategy := sandboxsnapshot.NewStrategy(scheme, clock)
	store := &genericregistry.Store{
		NewFunc:                   func() runtime.Object { return &lifecycle.SandboxSnapshot{} },
		NewListFunc:               func() runtime.Object { return &lifecycle.SandboxSnapshotList{} },
		PredicateFunc:             sandboxsnapshot.Match,
		DefaultQualifiedResource:  lifecycle.Resource("sandboxsnapshots"),
		SingularQualifiedResource: lifecycle.Resource("sandboxsnapshot"),
		CreateStrategy:            strategy,
		UpdateStrategy:            strategy,
		DeleteStrategy:            strategy,
		ResetFieldsStrategy:       strategy,
		TableConvertor:            sandboxsnapshot.TableConvertor{},
	}
	if err := store.CompleteWithOptions(&generic.StoreOptions{
		RESTOptions: optsGetter,
		AttrFunc:    sandboxsnapshot.GetAttrs,
		Indexers:    sandboxsnapshot.Indexers(),
	}); err != nil {
		return nil, fmt.Errorf("making the storage of snapshots: %w", err)
	}

	statusStore := *store
	statusStrategy := sandboxsnapshot.NewStatusStrategy(strategy)
	statusStore.UpdateStrategy = statusStrategy
	statusStore.ResetFieldsStrategy = statusStrategy
	return &SnapshotStorage{Snapshot: &REST{Store: store, authorizer: authorizer}, Status: &StatusREST{store: &statusStore}}, nil
}

// REST serves sandboxsnapshots.
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
func (*REST) ShortNames() []string { return []string{"sbxsnap"} }

// Categories are the groups of resources that kubectl get understands.
func (*REST) Categories() []string { return []string{"opensandbox"} }

// Create creates a snapshot, of a sandbox for those who may read that.
func (r *REST) Create(ctx context.Context, obj runtime.Object, createValidation rest.ValidateObjectFunc, options *metav1.CreateOptions) (runtime.Object, error) {
	created, err := r.Store.Create(ctx, obj, r.authorizeSource(createValidation), options)
	return created, clientfault.Stored(err)
}

// authorizeSource adds to the validation of a create that its caller may get the sandbox that the
// snapshot is made of: the status will have its template, and the images its files.
func (r *REST) authorizeSource(next rest.ValidateObjectFunc) rest.ValidateObjectFunc {
	return func(ctx context.Context, obj runtime.Object) error {
		snapshot, ok := obj.(*lifecycle.SandboxSnapshot)
		if !ok {
			return apierrors.NewInternalError(fmt.Errorf("%T is not a SandboxSnapshot", obj))
		}
		if name := snapshot.Spec.SandboxName; name != "" {
			if err := rights.Require(ctx, r.authorizer, rights.Right{
				Verb: "get", Resource: lifecycle.Resource("sandboxes"), Namespace: snapshot.Namespace, Name: name,
				For: "spec.sandboxName: a snapshot has the files and the template of its sandbox",
			}); err != nil {
				return err
			}
		}
		if next == nil {
			return nil
		}
		return next(ctx, obj)
	}
}

// Update changes the metadata. Server-side apply creates through it, too.
func (r *REST) Update(ctx context.Context, name string, objInfo rest.UpdatedObjectInfo, createValidation rest.ValidateObjectFunc, updateValidation rest.ValidateObjectUpdateFunc, forceAllowCreate bool, options *metav1.UpdateOptions) (runtime.Object, bool, error) {
	objInfo = clientfault.Update(lifecycle.Kind("SandboxSnapshot"), objInfo)
	updated, created, err := r.Store.Update(ctx, name, objInfo, r.authorizeSource(createValidation), updateValidation, forceAllowCreate, options)
	return updated, created, clientfault.Stored(err)
}

// StatusREST serves sandboxsnapshots/status.
type StatusREST struct {
	store *genericregistry.Store
}

var (
	_ rest.Getter              = &StatusREST{}
	_ rest.Updater             = &StatusREST{}
	_ rest.Patcher             = &StatusREST{}
	_ rest.ResetFieldsStrategy = &StatusREST{}
)

// New makes the object that a request body is decoded into.
func (r *StatusREST) New() runtime.Object { return &lifecycle.SandboxSnapshot{} }

// Destroy has nothing to do: the underlying store belongs to REST.
func (r *StatusREST) Destroy() {}

// Get returns the snapshot.
func (r *StatusREST) Get(ctx context.Context, name string, options *metav1.GetOptions) (runtime.Object, error) {
	return r.store.Get(ctx, name, options)
}

// Update changes the status.
func (r *StatusREST) Update(ctx context.Context, name string, objInfo rest.UpdatedObjectInfo, createValidation rest.ValidateObjectFunc, updateValidation rest.ValidateObjectUpdateFunc, _ bool, options *metav1.UpdateOptions) (runtime.Object, bool, error) {
	update := &counted{UpdatedObjectInfo: clientfault.Update(lifecycle.Kind("SandboxSnapshot"), objInfo)}
	// A subresource never creates its parent, not even for server-side apply.
	updated, created, err := r.store.Update(ctx, name, update, createValidation, updateValidation, false, options)
	update.written(updated, err, options.DryRun)
	return updated, created, clientfault.Stored(err)
}

// ConvertToTable shows the snapshot as kubectl get prints it.
func (r *StatusREST) ConvertToTable(ctx context.Context, object, options runtime.Object) (*metav1.Table, error) {
	return r.store.ConvertToTable(ctx, object, options)
}

// GetResetFields names what a status update cannot set.
func (r *StatusREST) GetResetFields() map[fieldpath.APIVersion]*fieldpath.Set {
	return r.store.GetResetFields()
}
