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

// Package node has sandboxes move from nodes that are being emptied, though nobody evicts their Pods: from one that an autoscaler
// or Karpenter has marked, that has a taint which ends them, that is being deleted or shut down, and, where the server is told
// so, from one that is cordoned.
package node

import (
	"context"
	"errors"
	"fmt"
	"reflect"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/client-go/util/workqueue"
	"k8s.io/utils/clock"
	ctrl "sigs.k8s.io/controller-runtime"
	"sigs.k8s.io/controller-runtime/pkg/builder"
	"sigs.k8s.io/controller-runtime/pkg/cache"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/controller-runtime/pkg/controller"
	"sigs.k8s.io/controller-runtime/pkg/event"
	"sigs.k8s.io/controller-runtime/pkg/handler"
	"sigs.k8s.io/controller-runtime/pkg/manager"
	"sigs.k8s.io/controller-runtime/pkg/predicate"
	"sigs.k8s.io/controller-runtime/pkg/reconcile"
	"sigs.k8s.io/controller-runtime/pkg/source"

	"github.com/opensandbox-io/sandbox-apiserver/apis/lifecycle/v1alpha1"
	"github.com/opensandbox-io/sandbox-apiserver/pkg/controller/conflict"
	"github.com/opensandbox-io/sandbox-apiserver/pkg/draining"
	"github.com/opensandbox-io/sandbox-apiserver/pkg/move"
)

// IndexNode finds sandboxes by the node of their Pod.
const IndexNode = v1alpha1.FieldStatusNodeName

// workers is how many nodes are visited at a time.
const workers = 4

// Reconciler looks at nodes. It does no more than to write down which sandboxes are to move: the commits wait for their turn as
// those of pauses do.
type Reconciler struct {
	// Client writes our own objects and reads them from a cache; Live reads past it.
	Client client.Client
	Live   client.Reader
	// Host has the host cluster's Nodes, of each what Keep keeps, and the Pods of sandboxes.
	Host client.Reader
	// Cordons says whether a cordon is a cause.
	Cordons bool
	Clock   clock.PassiveClock
}

// Add adds the controller to the manager. host is the cache of the host cluster.
func (r *Reconciler) Add(ctx context.Context, mgr manager.Manager, host cache.Cache, limiter workqueue.TypedRateLimiter[reconcile.Request]) error {
	err := mgr.GetFieldIndexer().IndexField(ctx, &v1alpha1.Sandbox{}, IndexNode, func(o client.Object) []string {
		return []string{o.(*v1alpha1.Sandbox).Status.NodeName}
	})
	if err != nil {
		return fmt.Errorf("index sandboxes by %s: %w", IndexNode, err)
	}
	return builder.ControllerManagedBy(mgr).
		Named("node").
		Watches(&v1alpha1.Sandbox{}, handler.EnqueueRequestsFromMapFunc(placed), builder.WithPredicates(predicate.Funcs{
			UpdateFunc: func(e event.UpdateEvent) bool { return comes(e.ObjectOld, e.ObjectNew) },
			DeleteFunc: func(event.DeleteEvent) bool { return false },
		})).
		WatchesRawSource(source.Kind(host, &corev1.Node{}, handler.TypedEnqueueRequestsFromMapFunc(
			func(_ context.Context, node *corev1.Node) []reconcile.Request {
				return []reconcile.Request{{NamespacedName: client.ObjectKeyFromObject(node)}}
			}), predicate.TypedFuncs[*corev1.Node]{
			UpdateFunc: func(e event.TypedUpdateEvent[*corev1.Node]) bool { return differ(e.ObjectOld, e.ObjectNew) },
			DeleteFunc: func(event.TypedDeleteEvent[*corev1.Node]) bool { return false }, // nothing can be saved from there any more
		})).
		WithOptions(controller.Options{MaxConcurrentReconciles: workers, RateLimiter: limiter}).
		Complete(conflict.Repeat(r))
}

// placed is the node of a sandbox.
func placed(_ context.Context, object client.Object) []reconcile.Request {
	name := object.(*v1alpha1.Sandbox).Status.NodeName
	if name == "" {
		return nil
	}
	return []reconcile.Request{{NamespacedName: client.ObjectKey{Name: name}}}
}

// comes says whether a sandbox has become one that its node is asked about.
func comes(before, now client.Object) bool {
	old, sandbox := before.(*v1alpha1.Sandbox), now.(*v1alpha1.Sandbox)
	return sandbox.Status.Phase == v1alpha1.SandboxRunning &&
		(old.Status.Phase != sandbox.Status.Phase || old.Status.PodUID != sandbox.Status.PodUID || old.Status.NodeName != sandbox.Status.NodeName ||
			old.Spec.EvictionPolicy != sandbox.Spec.EvictionPolicy || old.Spec.DesiredState != sandbox.Spec.DesiredState)
}

// differ says whether a node says something else than before.
func differ(before, now *corev1.Node) bool {
	return !reflect.DeepEqual(draining.Causes(before, true), draining.Causes(now, true))
}

// Reconcile looks at a node and the sandboxes on it.
func (r *Reconciler) Reconcile(ctx context.Context, req ctrl.Request) (ctrl.Result, error) {
	node := &corev1.Node{}
	if err := r.Host.Get(ctx, req.NamespacedName, node); err != nil {
		return ctrl.Result{}, client.IgnoreNotFound(err)
	}
	causes := draining.Causes(node, r.Cordons)
	sandboxes := &v1alpha1.SandboxList{}
	if err := r.Client.List(ctx, sandboxes, client.MatchingFields{IndexNode: node.Name}, client.UnsafeDisableDeepCopy); err != nil {
		return ctrl.Result{}, fmt.Errorf("list the sandboxes of node %s: %w", node.Name, err)
	}
	var errs []error
	for i := range sandboxes.Items {
		if err := r.visit(ctx, &sandboxes.Items[i], causes); err != nil {
			errs = append(errs, err)
		}
	}
	return ctrl.Result{}, errors.Join(errs...)
}

// visit writes down that a sandbox is to move, or that it is not any more, on what the API holds now. The cache is believed
// where it says that there is nothing to do: what it does not show yet has an event of its own.
func (r *Reconciler) visit(ctx context.Context, cached *v1alpha1.Sandbox, causes []draining.Cause) error {
	key := client.ObjectKeyFromObject(cached)
	pod := &corev1.Pod{}
	if err := r.Host.Get(ctx, key, pod); err != nil {
		return client.IgnoreNotFound(err)
	}
	if request := due(cached, pod, causes); request != nil {
		_, err := move.Record(ctx, r.Live, r.Client, key, *request, r.Clock.Now())
		return err
	}
	if !moot(cached, pod, causes) {
		return nil
	}
	sandbox := &v1alpha1.Sandbox{}
	if err := r.Live.Get(ctx, key, sandbox); err != nil {
		if apierrors.IsNotFound(err) {
			return nil
		}
		return fmt.Errorf("read sandbox %s: %w", key, err)
	}
	if !moot(sandbox, pod, causes) {
		return nil
	}
	sandbox.Status.Move = nil
	if err := r.Client.Status().Update(ctx, sandbox); err != nil {
		return fmt.Errorf("write the status of sandbox %s: %w", key, err)
	}
	return nil
}
