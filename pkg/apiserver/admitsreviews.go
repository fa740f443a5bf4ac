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

package apiserver

import (
	"context"

	"k8s.io/apiserver/pkg/admission"

	"github.com/opensandbox-io/sandbox-apiserver/apis/lifecycle"
	"github.com/opensandbox-io/sandbox-apiserver/pkg/registry/lifecycle/evictionreview"
)

// admitsReviews asks nobody about evictionreviews. They are a part of the admission of evictions, and change nothing of their own:
// a webhook for all kinds of the cluster, whose Pod the drain has just ended, would have them fail, and the evictions pass.
type admitsReviews struct{ admission.Interface }

var (
	_ admission.MutationInterface   = admitsReviews{}
	_ admission.ValidationInterface = admitsReviews{}
)

// Admit lets what changes requests change the others.
func (r admitsReviews) Admit(ctx context.Context, a admission.Attributes, o admission.ObjectInterfaces) error {
	if mutating, ok := r.Interface.(admission.MutationInterface); ok && !isReview(a) {
		return mutating.Admit(ctx, a, o)
	}
	return nil
}

// Validate lets what refuses requests look at the others.
func (r admitsReviews) Validate(ctx context.Context, a admission.Attributes, o admission.ObjectInterfaces) error {
	if validating, ok := r.Interface.(admission.ValidationInterface); ok && !isReview(a) {
		return validating.Validate(ctx, a, o)
	}
	return nil
}

func isReview(a admission.Attributes) bool {
	return a.GetResource().GroupResource() == lifecycle.Resource(evictionreview.Resource)
}
