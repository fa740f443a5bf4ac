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
	"k8s.io/apiserver/pkg/warning"

	"github.com/opensandbox-io/sandbox-apiserver/apis/lifecycle/v1alpha1"
	"github.com/opensandbox-io/sandbox-apiserver/pkg/registry/lifecycle/sandbox"
)

// Preflight looks for what a pause would fail for. It asks the cluster, which takes its time, so
// nobody but a dry run waits for it.
type Preflight interface {
	// Pause returns all that it finds, for a sandbox as a pause would leave it, and what is to be said of one that
	// would succeed. An error says what it could not find out, within a deadline of its own.
	Pause(ctx context.Context, pausing *v1alpha1.Sandbox) (causes []metav1.StatusCause, warnings []string, err error)
}

// lookAhead makes the answer to a dry run of a pause that would begin: nil where nothing is in
// the way.
func (r *PauseREST) lookAhead(ctx context.Context, result runtime.Object) error {
	if r.preflight == nil {
		return nil
	}
	pausing := &v1alpha1.Sandbox{}
	if err := r.convertor.Convert(result, pausing, nil); err != nil {
		return apierrors.NewInternalError(fmt.Errorf("converting the sandbox: %w", err))
	}
	causes, warnings, err := r.preflight.Pause(ctx, pausing)
	for _, text := range warnings {
		warning.AddWarning(ctx, "", text)
	}
	switch {
	case len(causes) > 0:
		if err != nil {
			causes = append(causes, metav1.StatusCause{Type: sandbox.CauseUnknown, Message: fmt.Sprintf("not everything could be looked at: %v", err)})
		}
		return sandbox.WouldFail(pausing.Name, causes)
	case err != nil:
		return apierrors.NewServiceUnavailable(fmt.Sprintf("the dry run could not find out whether the pause would fail: %v", err))
	}
	return nil
}
