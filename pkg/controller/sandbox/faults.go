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

package sandbox

import (
	"context"
	"fmt"
	"math/bits"
	"sync"

	ctrl "sigs.k8s.io/controller-runtime"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/controller-runtime/pkg/reconcile"

	"github.com/opensandbox-io/sandbox-apiserver/apis/lifecycle/v1alpha1"
	"github.com/opensandbox-io/sandbox-apiserver/pkg/controller/answer"
)

// faults count the visits of a sandbox that failed one after the other. They are kept in memory: they are for telling.
type faults struct {
	mutex  sync.Mutex
	failed map[client.ObjectKey]uint
}

// faultsTold is after how many failures a person is told for the first time: two seconds, as the work queue spaces
// them out. Until then it is a moment's trouble, as there always is. Then at twice as many each time.
const faultsTold = 8

// note counts a visit, and says whether its failure is to be told of.
func (f *faults) note(key client.ObjectKey, kind answer.Kind) bool {
	f.mutex.Lock()
	defer f.mutex.Unlock()
	if kind != answer.Final && kind != answer.Passing {
		delete(f.failed, key)
		return false
	}
	if f.failed == nil {
		f.failed = map[client.ObjectKey]uint{}
	}
	f.failed[key]++
	return f.failed[key] >= faultsTold && bits.OnesCount(f.failed[key]) == 1
}

// telling visits as Reconcile does. Where that goes on failing, because an API does not do what it is asked (a Pod
// that a webhook does not let be deleted, a right that is missing), it is tried for ever, and would be told in the log alone.
func (r *Reconciler) telling() reconcile.Reconciler {
	return reconcile.Func(func(ctx context.Context, req ctrl.Request) (ctrl.Result, error) {
		result, err := r.Reconcile(ctx, req)
		if r.faults.note(req.NamespacedName, answer.Of(err)) {
			sandbox := &v1alpha1.Sandbox{}
			if r.Client.Get(ctx, req.NamespacedName, sandbox) == nil {
				r.tell(sandbox, &note{warning: true, reason: v1alpha1.EventReconcileFailed, message: fmt.Sprintf("what comes next for the sandbox fails, and is tried again: %v", err)})
			}
		}
		return result, err
	})
}
