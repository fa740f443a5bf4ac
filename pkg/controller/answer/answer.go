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

// Package answer understands what an API answers, for everybody who asks one: is it final, for a while or our own
// fault; when to ask again; and how much of its words a condition and an event can hold.
package answer

import (
	"context"
	"errors"
	"net/http"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
)

// Kind is what an answer means for who asked.
type Kind string

const (
	// Done: it was no error.
	Done Kind = "done"
	// Final: it speaks of what was asked, and will be the same until somebody changes that, a policy, a quota or a
	// right. A person has to hear of it, and the next try comes late.
	Final Kind = "final"
	// Passing: it speaks of the moment. The API, a webhook that it asks, or the way there is in trouble. Another try
	// may succeed soon; a person has to hear of it nevertheless, for moments can be long.
	Passing Kind = "passing"
	// Ours: it was asked of something that has changed meanwhile, or in a process that ends. Look and decide
	// again, at once; nobody has to hear of it.
	Ours Kind = "ours"
)

// Of is what an error of a client means. One that is no answer of an API, a broken connection for instance, is Passing.
// Codes decide and not reasons: a webhook answers with any code that it likes, and without a reason.
func Of(err error) Kind {
	switch {
	case err == nil:
		return Done
	case errors.Is(err, context.Canceled):
		return Ours
	}
	status := apierrors.APIStatus(nil)
	if !errors.As(err, &status) {
		return Passing
	}
	switch code := int(status.Status().Code); code {
	case http.StatusConflict, http.StatusGone:
		return Ours
	case http.StatusUnauthorized, // a token or a certificate that is being turned: rights are 403
		http.StatusRequestTimeout, http.StatusTooEarly, http.StatusTooManyRequests:
		return Passing
	default:
		if code >= http.StatusBadRequest && code < http.StatusInternalServerError {
			return Final
		}
		return Passing // 500 is what a webhook makes that cannot be called
	}
}

// OfCreate is Of for the creation of an object. Nothing that it was asked of can have changed, but that the name is
// taken by now: any other conflict is an admission plugin's (a quota that others count at the same time) or the code of a
// webhook, and may stay.
func OfCreate(err error) Kind {
	kind := Of(err)
	if kind == Ours && !apierrors.IsAlreadyExists(err) && !errors.Is(err, context.Canceled) {
		return Passing
	}
	return kind
}

// NamespaceEnds says whether something cannot be made because its namespace is being deleted, or is gone.
func NamespaceEnds(err error) bool {
	if apierrors.HasStatusCause(err, corev1.NamespaceTerminatingCause) {
		return true
	}
	status := apierrors.APIStatus(nil)
	return errors.As(err, &status) && apierrors.IsNotFound(err) && status.Status().Details != nil && status.Status().Details.Kind == "namespaces"
}
