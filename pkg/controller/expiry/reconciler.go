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

// Package expiry deletes or pauses sandboxes at their expireTime.
package expiry

import (
	"context"
	"errors"
	"fmt"
	"math/bits"
	"time"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/tools/events"
	"k8s.io/client-go/util/workqueue"
	"k8s.io/utils/clock"
	ctrl "sigs.k8s.io/controller-runtime"
	"sigs.k8s.io/controller-runtime/pkg/builder"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/controller-runtime/pkg/controller"
	"sigs.k8s.io/controller-runtime/pkg/manager"
	"sigs.k8s.io/controller-runtime/pkg/reconcile"

	"github.com/opensandbox-io/sandbox-apiserver/apis/lifecycle/v1alpha1"
	"github.com/opensandbox-io/sandbox-apiserver/pkg/controller/answer"
	"github.com/opensandbox-io/sandbox-apiserver/pkg/controller/conflict"
)

const (
	// workers is how many sandboxes are visited at a time: thousands may have the same second.
	workers = 8
	// longestSleep bounds how long a sandbox that is gone stays in the queue, whenever it was to expire.
	longestSleep = time.Hour
	// backstop is when a sandbox is looked at again whose pause is refused for the moment. Its next write comes before.
	backstop = time.Minute
	// faultsTold is after how many failures in a row an event tells of them, and then at twice as many each time.
	faultsTold = 8
)

// Reconciler has the time of each sandbox in one queue. The watch of sandboxes puts them there, with all that are stored when a
// term begins, so that nothing needs to be remembered from one term to the next.
type Reconciler struct {
	// Client writes our own objects and reads them from a cache.
	Client   client.Client
	Recorder events.EventRecorder
	// Clock is that of the queue as well.
	Clock clock.WithTicker

	memory memory
}

// Add adds the controller to the manager.
func (r *Reconciler) Add(mgr manager.Manager, limiter workqueue.TypedRateLimiter[reconcile.Request]) error {
	return builder.ControllerManagedBy(mgr).
		Named("expiry").
		For(&v1alpha1.Sandbox{}).
		WithOptions(controller.Options{MaxConcurrentReconciles: workers, RateLimiter: limiter, NewQueue: r.queue}).
		Complete(conflict.Repeat(r))
}

// queue is the usual one, by our clock.
func (r *Reconciler) queue(name string, limiter workqueue.TypedRateLimiter[reconcile.Request]) workqueue.TypedRateLimitingInterface[reconcile.Request] {
	return workqueue.NewTypedRateLimitingQueueWithConfig(limiter, workqueue.TypedRateLimitingQueueConfig[reconcile.Request]{Name: name, Clock: r.Clock})
}

// Reconcile looks at a sandbox, and acts where its time has come.
//
// It decides on what the cache shows, which may be old. What it does holds only for the resourceVersion that it has seen: a
// renewal that came in between, and was answered, makes it a conflict, and the next visit sees the renewal.
func (r *Reconciler) Reconcile(ctx context.Context, req ctrl.Request) (ctrl.Result, error) {
	sandbox := &v1alpha1.Sandbox{}
	if err := r.Client.Get(ctx, req.NamespacedName, sandbox); err != nil {
		r.memory.forget(req.NamespacedName)
		return ctrl.Result{}, client.IgnoreNotFound(err)
	}
	now := r.Clock.Now()
	deed, left := Decide(sandbox, now)
	switch deed {
	case Nothing:
		r.memory.forget(req.NamespacedName)
		return ctrl.Result{}, nil
	case Wait:
		tell, next := r.memory.notice(sandbox, now)
		if tell {
			r.tell(sandbox, corev1.EventTypeNormal, v1alpha1.EventExpiring, announcement(sandbox))
		}
		if next > 0 {
			left = min(left, next)
		}
		return ctrl.Result{RequeueAfter: min(left, longestSleep)}, nil
	}

	err := r.act(ctx, sandbox, deed)
	switch {
	case err == nil:
		r.memory.worked(req.NamespacedName)
		r.tell(sandbox, corev1.EventTypeNormal, v1alpha1.EventExpired, news(sandbox, deed))
		return ctrl.Result{}, nil
	case apierrors.IsNotFound(err): // somebody else has deleted it
		return ctrl.Result{}, nil
	case refused(err):
		return ctrl.Result{RequeueAfter: backstop}, nil
	case !apierrors.IsConflict(err) && r.memory.failed(sandbox):
		r.tell(sandbox, corev1.EventTypeWarning, v1alpha1.EventExpiryFailed,
			fmt.Sprintf("spec.expireTime (%s) has passed, and the attempt to %s the sandbox fails, and is made again: %v", sandbox.Spec.ExpireTime.UTC().Format(time.RFC3339), deed, err))
	}
	return ctrl.Result{}, err
}

// act does what is due under the resourceVersion that was read.
func (r *Reconciler) act(ctx context.Context, sandbox *v1alpha1.Sandbox, deed Deed) error {
	if deed == Delete {
		err := r.Client.Delete(ctx, sandbox, client.Preconditions{UID: &sandbox.UID, ResourceVersion: &sandbox.ResourceVersion})
		if err != nil {
			return fmt.Errorf("delete sandbox %s/%s: %w", sandbox.Namespace, sandbox.Name, err)
		}
		return nil
	}
	pause := &v1alpha1.SandboxPause{ObjectMeta: metav1.ObjectMeta{UID: sandbox.UID, ResourceVersion: sandbox.ResourceVersion}}
	if err := r.Client.SubResource("pause").Create(ctx, sandbox, pause); err != nil {
		return fmt.Errorf("pause sandbox %s/%s: %w", sandbox.Namespace, sandbox.Name, err)
	}
	return nil
}

// refused says whether the verb has refused, which has causes; a resourceVersion that is old has none. It does so while
// something else is under way that ends in a write of the sandbox.
func refused(err error) bool {
	var status apierrors.APIStatus
	return errors.As(err, &status) && apierrors.IsConflict(err) && status.Status().Details != nil && len(status.Status().Details.Causes) > 0
}

func (r *Reconciler) tell(sandbox *v1alpha1.Sandbox, kind, reason, message string) {
	r.Recorder.Eventf(sandbox, nil, kind, reason, "Reconcile", "%s", answer.Note(message))
}

// toBeTold says whether this is a failure to tell of.
func toBeTold(failures uint) bool { return failures >= faultsTold && bits.OnesCount(failures) == 1 }
