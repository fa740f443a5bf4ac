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

// Package clientfault answers for mistakes of clients that the generic server takes for its own:
// where it would say 500 and log a failure, the client is told what to change.
package clientfault

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"strconv"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	apimeta "k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/util/validation/field"
	"k8s.io/apiserver/pkg/registry/rest"
)

// Update is the update of an object of a kind, with the mistakes in it answered for.
func Update(kind schema.GroupKind, info rest.UpdatedObjectInfo) rest.UpdatedObjectInfo {
	return update{UpdatedObjectInfo: info, kind: kind}
}

type update struct {
	rest.UpdatedObjectInfo
	kind schema.GroupKind
}

// UpdatedObject returns what the client makes of the stored object.
func (u update) UpdatedObject(ctx context.Context, old runtime.Object) (runtime.Object, error) {
	obj, err := u.UpdatedObjectInfo.UpdatedObject(ctx, old)
	if err != nil {
		return nil, answer(ctx, err)
	}
	accessor, err := apimeta.Accessor(obj)
	if err != nil {
		return nil, apierrors.NewInternalError(err)
	}
	// The store reads it as a number, and only after this.
	if version := accessor.GetResourceVersion(); version != "" {
		if _, err := strconv.ParseUint(version, 10, 64); err != nil {
			return nil, apierrors.NewInvalid(u.kind, accessor.GetName(), field.ErrorList{field.Invalid(
				field.NewPath("metadata", "resourceVersion"), version, "is not one that this server has given; read the object again")})
		}
	}
	return obj, nil
}

// answer makes an error one that its client can act on. Nothing but the request's own content is
// put together here: what an apply says of a field that the schema does not know, of a wrong type or
// of a duplicate in a list comes without an HTTP code, and what is wrong with the operations of a
// JSON patch without a word.
func answer(ctx context.Context, err error) error {
	var status apierrors.APIStatus
	switch {
	case ctx.Err() != nil:
		return err
	case !errors.As(err, &status):
		return apierrors.NewBadRequest(fmt.Sprintf("the object cannot be changed like this: %v", err))
	case isMute(status.Status()):
		said := status.Status()
		said.Message = "the patch does not fit the object: a test in it fails, or one of its paths or operations does not exist; read the object again"
		return &apierrors.StatusError{ErrStatus: said}
	}
	return err
}

// isMute recognises the generic server's answer to a JSON patch that cannot be applied: of all 422
// the only one without details.
func isMute(status metav1.Status) bool {
	return status.Code == http.StatusUnprocessableEntity && (status.Details == nil || status.Details.Kind == "" && len(status.Details.Causes) == 0)
}
