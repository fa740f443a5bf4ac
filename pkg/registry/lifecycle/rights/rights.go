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

// Package rights asks whether a caller may do what its request does beside what it is named for: the
// generic server has asked for the request's own verb and resource alone.
package rights

import (
	"context"
	"fmt"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apiserver/pkg/authorization/authorizer"
	"k8s.io/apiserver/pkg/endpoints/request"

	"github.com/opensandbox-io/sandbox-apiserver/apis/lifecycle/v1alpha1"
)

// Right is a right to one object.
type Right struct {
	Verb            string
	Resource        schema.GroupResource
	Namespace, Name string
	// For says what of the request needs it: a field, and what it does.
	For string
}

// Require returns nil where the caller of the request has the right, else the answer to it. It does not look
// whether there is such an object: who may not get it does not learn that either.
func Require(ctx context.Context, from authorizer.Authorizer, right Right) error {
	object := fmt.Sprintf("%s %s/%s", right.Resource, right.Namespace, right.Name)
	caller, ok := request.UserFrom(ctx)
	if !ok {
		return apierrors.NewInternalError(fmt.Errorf("the request, which needs the right to %s %s, has no user", right.Verb, object))
	}
	decision, reason, err := from.Authorize(ctx, authorizer.AttributesRecord{
		User:            caller,
		Verb:            right.Verb,
		Namespace:       right.Namespace,
		APIGroup:        right.Resource.Group,
		APIVersion:      v1alpha1.SchemeGroupVersion.Version,
		Resource:        right.Resource.Resource,
		Name:            right.Name,
		ResourceRequest: true,
	})
	if decision == authorizer.DecisionAllow {
		return nil
	}
	if err != nil {
		return apierrors.NewInternalError(fmt.Errorf("asking whether %q may %s %s: %w", caller.GetName(), right.Verb, object, err))
	}
	// The generic server's own words, for whoever looks them up.
	message := fmt.Sprintf("%s: User %q cannot %s resource %q in API group %q in the namespace %q",
		right.For, caller.GetName(), right.Verb, right.Resource.Resource, right.Resource.Group, right.Namespace)
	if reason != "" {
		message += ": " + reason
	}
	return apierrors.NewForbidden(right.Resource, right.Name, fmt.Errorf("%s", message))
}
