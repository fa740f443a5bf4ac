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
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apiserver/pkg/authorization/authorizer"
	"k8s.io/apiserver/pkg/endpoints/request"
	"k8s.io/apiserver/pkg/registry/rest"

	"github.com/opensandbox-io/sandbox-apiserver/apis/lifecycle"
	"github.com/opensandbox-io/sandbox-apiserver/apis/lifecycle/v1alpha1"
)

// authorizeRestore adds to the validation of a create that its caller may get the snapshot that
// the sandbox starts from: whoever runs a snapshot reads its files.
func (r *REST) authorizeRestore(next rest.ValidateObjectFunc) rest.ValidateObjectFunc {
	return func(ctx context.Context, obj runtime.Object) error {
		sandbox, ok := obj.(*lifecycle.Sandbox)
		if !ok {
			return apierrors.NewInternalError(fmt.Errorf("%T is not a Sandbox", obj))
		}
		if sandbox.Spec.RestoreFrom != nil {
			if err := r.mayGetSnapshot(ctx, sandbox.Namespace, sandbox.Spec.RestoreFrom.SnapshotName); err != nil {
				return err
			}
		}
		if next == nil {
			return nil
		}
		return next(ctx, obj)
	}
}

func (r *REST) mayGetSnapshot(ctx context.Context, namespace, name string) error {
	snapshots := lifecycle.Resource("sandboxsnapshots")
	caller, ok := request.UserFrom(ctx)
	if !ok {
		return apierrors.NewInternalError(fmt.Errorf("the request for snapshot %s/%s has no user", namespace, name))
	}
	decision, reason, err := r.authorizer.Authorize(ctx, authorizer.AttributesRecord{
		User:            caller,
		Verb:            "get",
		Namespace:       namespace,
		APIGroup:        snapshots.Group,
		APIVersion:      v1alpha1.SchemeGroupVersion.Version,
		Resource:        snapshots.Resource,
		Name:            name,
		ResourceRequest: true,
	})
	if decision == authorizer.DecisionAllow {
		return nil
	}
	if err != nil {
		return apierrors.NewInternalError(fmt.Errorf("asking whether %q may get snapshot %s/%s: %w", caller.GetName(), namespace, name, err))
	}
	message := fmt.Sprintf("spec.restoreFrom.snapshotName: to start from a snapshot, user %q needs permission to get it", caller.GetName())
	if reason != "" {
		message += ": " + reason
	}
	return apierrors.NewForbidden(snapshots, name, fmt.Errorf("%s", message))
}
