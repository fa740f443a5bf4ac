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

// Package finalizer takes the finalizers of the controllers off their objects.
package finalizer

import (
	"context"
	"fmt"

	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/controller-runtime/pkg/controller/controllerutil"
)

// Remove takes a finalizer off an object as it was read. It sends a patch of nothing else: an object
// written whole would lose what a newer server has put into it, and would have to be valid by the
// rules of today. An object that is gone is no error; one that has changed since is.
func Remove(ctx context.Context, c client.Client, object client.Object, name string) error {
	before, ok := object.DeepCopyObject().(client.Object)
	if !ok {
		return fmt.Errorf("%T is no object of the API", object)
	}
	if !controllerutil.RemoveFinalizer(object, name) {
		return nil
	}
	patch := client.MergeFromWithOptions(before, client.MergeFromWithOptimisticLock{})
	if err := client.IgnoreNotFound(c.Patch(ctx, object, patch)); err != nil {
		return fmt.Errorf("remove the finalizer %s of %s/%s: %w", name, object.GetNamespace(), object.GetName(), err)
	}
	return nil
}
