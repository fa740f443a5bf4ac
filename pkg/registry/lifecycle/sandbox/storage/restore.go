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
	"github.com/opensandbox-io/sandbox-apiserver/pkg/registry/lifecycle/rights"
)

// startsFromSnapshot is why restoreFrom asks for a right.
const startsFromSnapshot = "spec.restoreFrom.snapshotName: a sandbox that starts from a snapshot runs its files"

// authorizeRestore adds to the validation of a create that its caller may get the snapshot that
// the sandbox starts from: whoever runs a snapshot reads its files.
func (r *REST) authorizeRestore(next rest.ValidateObjectFunc) rest.ValidateObjectFunc {
	return func(ctx context.Context, obj runtime.Object) error {
		sandbox, ok := obj.(*lifecycle.Sandbox)
		if !ok {
			return apierrors.NewInternalError(fmt.Errorf("%T is not a Sandbox", obj))
		}
		if sandbox.Spec.RestoreFrom != nil {
			if err := mayGetSnapshot(ctx, r.authorizer, sandbox.Namespace, sandbox.Spec.RestoreFrom.SnapshotName, startsFromSnapshot); err != nil {
				return err
			}
		}
		if next == nil {
			return nil
		}
		return next(ctx, obj)
	}
}

// authorizeOtherRestore does the same for an update that names another snapshot.
func (r *REST) authorizeOtherRestore(next rest.ValidateObjectUpdateFunc) rest.ValidateObjectUpdateFunc {
	return func(ctx context.Context, obj, old runtime.Object) error {
		sandbox, ok := obj.(*lifecycle.Sandbox)
		before, okBefore := old.(*lifecycle.Sandbox)
		if !ok || !okBefore {
			return apierrors.NewInternalError(fmt.Errorf("%T and %T are not Sandboxes", obj, old))
		}
		if from, other := sandbox.Spec.RestoreFrom, before.Spec.RestoreFrom; from != nil && (other == nil || *other != *from) {
			if err := mayGetSnapshot(ctx, r.authorizer, sandbox.Namespace, from.SnapshotName, startsFromSnapshot); err != nil {
				return err
			}
		}
		if next == nil {
			return nil
		}
		return next(ctx, obj, old)
	}
}

func mayGetSnapshot(ctx context.Context, from authorizer.Authorizer, namespace, name, why string) error {
	return rights.Require(ctx, from, rights.Right{
		Verb: "get", Resource: lifecycle.Resource("sandboxsnapshots"), Namespace: namespace, Name: name, For: why,
	})
}

// authorizeChoice checks that the caller of a resume may choose what it starts from. That gives up what was
// saved since, or all of it, which whoever may pause and resume need not be trusted with; and it
// runs the files of the snapshot that it names.
func (r *ResumeREST) authorizeChoice(ctx context.Context, name string, body *lifecycle.SandboxResume) error {
	namespace := request.NamespaceValue(ctx)
	var chosen string
	switch {
	case body.SnapshotName != "":
		chosen = "snapshotName"
	case body.FromTemplate:
		chosen = "fromTemplate"
	default:
		return nil
	}
	err := rights.Require(ctx, r.authorizer, rights.Right{
		Verb: v1alpha1.VerbRollback, Resource: lifecycle.Resource("sandboxes"), Namespace: namespace, Name: name,
		For: chosen + ": a resume that chooses what it starts from gives up what was saved since, for which the right to resume is not enough",
	})
	if err != nil || body.SnapshotName == "" {
		return err
	}
	return mayGetSnapshot(ctx, r.authorizer, namespace, body.SnapshotName, "snapshotName: a resume from a snapshot runs its files")
}
