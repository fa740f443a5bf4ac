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

	batchv1 "k8s.io/api/batch/v1"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/client-go/util/workqueue"
	"sigs.k8s.io/controller-runtime/pkg/builder"
	"sigs.k8s.io/controller-runtime/pkg/cache"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/controller-runtime/pkg/controller"
	"sigs.k8s.io/controller-runtime/pkg/event"
	"sigs.k8s.io/controller-runtime/pkg/handler"
	"sigs.k8s.io/controller-runtime/pkg/manager"
	"sigs.k8s.io/controller-runtime/pkg/reconcile"
	"sigs.k8s.io/controller-runtime/pkg/source"

	"github.com/opensandbox-io/sandbox-apiserver/apis/lifecycle/v1alpha1"
	"github.com/opensandbox-io/sandbox-apiserver/pkg/controller/commitjob"
	"github.com/opensandbox-io/sandbox-apiserver/pkg/controller/conflict"
	"github.com/opensandbox-io/sandbox-apiserver/pkg/controller/sandboxsnapshot"
)

// workers is how many sandboxes are visited at a time: a visit waits for two API servers nearly all
// of its time.
const workers = 16

// Add adds the controller to the manager. host is the cache of the host cluster's Pods and Jobs.
// The indexes of sandboxsnapshot.AddIndexes have to be there.
func (r *Reconciler) Add(mgr manager.Manager, host cache.Cache, limiter workqueue.TypedRateLimiter[reconcile.Request]) error {
	r.kills, r.claims = newKills(), newKills()
	for _, begun := range []*kills{r.kills, r.claims} {
		if err := mgr.Add(begun); err != nil {
			return err
		}
	}
	guarded := make(chan event.GenericEvent)
	if r.Guard != nil {
		if err := mgr.Add(&regards{guard: r.Guard, sandboxes: r.Client, woken: guarded}); err != nil {
			return err
		}
	}
	return builder.ControllerManagedBy(mgr).
		Named("sandbox").
		For(&v1alpha1.Sandbox{}).
		Watches(&v1alpha1.SandboxSnapshot{}, handler.EnqueueRequestsFromMapFunc(r.concerned)).
		WatchesRawSource(source.Kind(host, &corev1.Pod{}, handler.TypedEnqueueRequestsFromMapFunc(
			func(_ context.Context, pod *corev1.Pod) []reconcile.Request {
				r.ran.see(pod) // each state that the watch shows, also one that no visit comes in time for
				return r.served(pod)
			}))).
		WatchesRawSource(source.Kind(host, &batchv1.Job{}, handler.TypedEnqueueRequestsFromMapFunc(
			func(_ context.Context, job *batchv1.Job) []reconcile.Request { return r.served(job) }))).
		WatchesRawSource(source.Channel(r.kills.ended, &handler.EnqueueRequestForObject{})).
		WatchesRawSource(source.Channel(r.claims.ended, &handler.EnqueueRequestForObject{})).
		WatchesRawSource(source.Channel(guarded, &handler.EnqueueRequestForObject{})).
		WithOptions(controller.Options{MaxConcurrentReconciles: workers, RateLimiter: limiter}).
		Complete(conflict.Repeat(r.telling()))
}

// concerned are the sandbox that a snapshot is made of, and those that are to come from it.
func (r *Reconciler) concerned(ctx context.Context, object client.Object) []reconcile.Request {
	snapshot := object.(*v1alpha1.SandboxSnapshot)
	var requests []reconcile.Request
	if snapshot.Spec.SandboxName != "" {
		requests = append(requests, reconcile.Request{NamespacedName: client.ObjectKey{Namespace: snapshot.Namespace, Name: snapshot.Spec.SandboxName}})
	}
	waiting := &v1alpha1.SandboxList{}
	// From the cache, by an index that is always there: an error has no cause to tell of.
	if err := r.Client.List(ctx, waiting, client.InNamespace(snapshot.Namespace), client.MatchingFields{sandboxsnapshot.IndexSnapshot: snapshot.Name}); err != nil {
		return requests
	}
	for i := range waiting.Items {
		if waiting.Items[i].Name != snapshot.Spec.SandboxName {
			requests = append(requests, reconcile.Request{NamespacedName: client.ObjectKeyFromObject(&waiting.Items[i])})
		}
	}
	return requests
}

// served is the sandbox of a Pod, or of an unpause Job and its Pod. Commit Jobs are the snapshot
// controller's business.
func (r *Reconciler) served(object client.Object) []reconcile.Request {
	labels := object.GetLabels()
	key := client.ObjectKey{Namespace: object.GetNamespace(), Name: labels[v1alpha1.LabelSandbox]}
	switch labels[v1alpha1.LabelComponent] {
	case "":
	case commitjob.ComponentUnpause:
		key.Namespace = object.GetAnnotations()[v1alpha1.AnnotationNamespace]
	default:
		return nil
	}
	if key.Name == "" || key.Namespace == "" {
		return nil
	}
	return []reconcile.Request{{NamespacedName: key}}
}
