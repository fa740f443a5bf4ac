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

// Package conflict takes conflicts of writes for what they are.
package conflict

import (
	"context"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	ctrl "sigs.k8s.io/controller-runtime"
	"sigs.k8s.io/controller-runtime/pkg/log"
	"sigs.k8s.io/controller-runtime/pkg/reconcile"
)

// Repeat repeats a visit that ended in a conflict: somebody wrote what it had read, and it has to
// decide once more. That is how two writers find out about each other and no error, so it is not
// logged as one. The limiter of the controller spaces the visits out, as it does after errors, and
// the metric controller_runtime_reconcile_total counts them as requeue.
func Repeat(r reconcile.Reconciler) reconcile.Reconciler {
	return reconcile.Func(func(ctx context.Context, req ctrl.Request) (ctrl.Result, error) {
		result, err := r.Reconcile(ctx, req)
		if !apierrors.IsConflict(err) {
			return result, err
		}
		log.FromContext(ctx).V(2).Info("Another write was faster, deciding once more", "why", err.Error())
		// RequeueAfter would forget how often it happened: only this goes through the limiter.
		return ctrl.Result{Requeue: true}, nil //nolint:staticcheck // deprecated for waiting, and this does not wait for anything
	})
}
