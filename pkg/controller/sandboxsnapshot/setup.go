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

package sandboxsnapshot

import (
	"context"
	"fmt"
	"slices"

	batchv1 "k8s.io/api/batch/v1"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
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
	"github.com/opensandbox-io/sandbox-apiserver/pkg/controller/conflict"
)

// Indexes of the cache of our own objects.
const (
	// IndexSandbox finds snapshots by spec.sandboxName.
	IndexSandbox = "spec.sandboxName"
	// IndexSnapshot finds sandboxes by the snapshots that they need.
	IndexSnapshot = "snapshots in use"
)

// AddIndexes registers the indexes that both controllers list by.
func AddIndexes(ctx context.Context, indexer client.FieldIndexer) error {
	for _, index := range []struct {
		object client.Object
		field  string
		values client.IndexerFunc
	}{
		{&v1alpha1.SandboxSnapshot{}, IndexSandbox, func(o client.Object) []string {
			return []string{o.(*v1alpha1.SandboxSnapshot).Spec.SandboxName}
		}},
		{&v1alpha1.Sandbox{}, IndexSnapshot, func(o client.Object) []string {
			return needed(o.(*v1alpha1.Sandbox))
		}},
	} {
		if err := indexer.IndexField(ctx, index.object, index.field, index.values); err != nil {
			return fmt.Errorf("index %T by %s: %w", index.object, index.field, err)
		}
	}
	return nil
}

// needed are the snapshots that a sandbox cannot do without: the next resume's, the one that it
// was created from until it has one of its own, and the one that it goes back to where a resume is taken back.
func needed(sandbox *v1alpha1.Sandbox) []string {
	var names []string
	if sandbox.Status.SnapshotName != "" {
		names = append(names, sandbox.Status.SnapshotName)
	} else if unfinished := sandbox.Status.Phase == "" || sandbox.Status.Phase == v1alpha1.SandboxPending; unfinished && sandbox.Spec.RestoreFrom != nil {
		names = append(names, sandbox.Spec.RestoreFrom.SnapshotName)
	}
	if sandbox.Status.PriorSnapshotName != "" {
		names = append(names, sandbox.Status.PriorSnapshotName)
	}
	return names
}

// workers is how many snapshots are visited at a time. A visit waits for two API servers nearly all
// of its time, and one that deletes images for a registry: a slow one must not hold up the commits.
const workers = 32

// Add adds the controller to the manager. host is the cache of the host cluster's
// Pods and Jobs, and of the Events that commitjob.Refusals selects.
func (r *Reconciler) Add(mgr manager.Manager, host cache.Cache, limiter workqueue.TypedRateLimiter[reconcile.Request]) error {
	r.wake = make(chan event.GenericEvent, 1024)
	return builder.ControllerManagedBy(mgr).
		Named("sandboxsnapshot").
		For(&v1alpha1.SandboxSnapshot{}).
		Watches(&v1alpha1.Sandbox{}, r.onSandbox()).
		WatchesRawSource(source.Kind(host, &batchv1.Job{}, handler.TypedEnqueueRequestsFromMapFunc(
			func(_ context.Context, job *batchv1.Job) []reconcile.Request { return served(job) }))).
		WatchesRawSource(source.Kind(host, &corev1.Pod{}, handler.TypedEnqueueRequestsFromMapFunc(
			func(ctx context.Context, pod *corev1.Pod) []reconcile.Request {
				return append(served(pod), r.awaiting(ctx, pod)...)
			}))).
		WatchesRawSource(source.Kind(host, &corev1.Event{}, handler.TypedEnqueueRequestsFromMapFunc(r.refusedOf))).
		WatchesRawSource(source.Channel(r.wake, &handler.EnqueueRequestForObject{})).
		WithOptions(controller.Options{MaxConcurrentReconciles: workers, RateLimiter: limiter}).
		Complete(conflict.Repeat(r))
}

// onSandbox looks at the snapshots that a change of a sandbox is about.
func (r *Reconciler) onSandbox() handler.Funcs {
	enqueue := func(queue workqueue.TypedRateLimitingInterface[reconcile.Request], requests []reconcile.Request) {
		for _, request := range requests {
			queue.Add(request)
		}
	}
	return handler.Funcs{
		CreateFunc: func(ctx context.Context, e event.CreateEvent, queue workqueue.TypedRateLimitingInterface[reconcile.Request]) {
			enqueue(queue, r.unfinishedOf(ctx, e.Object))
		},
		UpdateFunc: func(ctx context.Context, e event.UpdateEvent, queue workqueue.TypedRateLimitingInterface[reconcile.Request]) {
			enqueue(queue, r.unfinishedOf(ctx, e.ObjectNew))
			enqueue(queue, freed(e.ObjectOld, e.ObjectNew))
		},
		DeleteFunc: func(ctx context.Context, e event.DeleteEvent, queue workqueue.TypedRateLimitingInterface[reconcile.Request]) {
			enqueue(queue, r.unfinishedOf(ctx, e.Object))
			enqueue(queue, freed(e.Object, nil))
		},
	}
}

// freed are the snapshots that a sandbox needs no more, whoever's they are: the deletion of one
// may have waited for it.
func freed(before, now client.Object) []reconcile.Request {
	var still []string
	if sandbox, ok := now.(*v1alpha1.Sandbox); ok && sandbox.DeletionTimestamp == nil {
		still = needed(sandbox)
	}
	var requests []reconcile.Request
	if sandbox, ok := before.(*v1alpha1.Sandbox); ok && sandbox.DeletionTimestamp == nil {
		for _, name := range needed(sandbox) {
			if !slices.Contains(still, name) {
				requests = append(requests, reconcile.Request{NamespacedName: client.ObjectKey{Namespace: sandbox.Namespace, Name: name}})
			}
		}
	}
	return requests
}

// unfinishedOf are the snapshots that a change of their sandbox may cancel, start or release.
func (r *Reconciler) unfinishedOf(ctx context.Context, sandbox client.Object) []reconcile.Request {
	snapshots := &v1alpha1.SandboxSnapshotList{}
	// From the cache, by an index that is always there: an error has no cause to tell of.
	if err := r.Client.List(ctx, snapshots, client.InNamespace(sandbox.GetNamespace()), client.MatchingFields{IndexSandbox: sandbox.GetName()}); err != nil {
		return nil
	}
	var requests []reconcile.Request
	for i := range snapshots.Items {
		snapshot := &snapshots.Items[i]
		finished := snapshot.Status.Phase == v1alpha1.SnapshotSucceed || snapshot.Status.Phase == v1alpha1.SnapshotFailed
		if !finished || snapshot.DeletionTimestamp != nil {
			requests = append(requests, reconcile.Request{NamespacedName: client.ObjectKeyFromObject(snapshot)})
		}
	}
	return requests
}

// awaiting are the snapshots that are to be made of a sandbox's Pod: while they wait for their turn it may go.
func (r *Reconciler) awaiting(ctx context.Context, pod *corev1.Pod) []reconcile.Request {
	name := pod.Labels[v1alpha1.LabelSandbox]
	if name == "" || pod.Labels[v1alpha1.LabelComponent] != "" {
		return nil
	}
	return r.unfinishedOf(ctx, &v1alpha1.Sandbox{ObjectMeta: metav1.ObjectMeta{Namespace: pod.Namespace, Name: name}})
}

// refusedOf is the snapshot whose Job an Event is about.
func (r *Reconciler) refusedOf(ctx context.Context, event *corev1.Event) []reconcile.Request {
	job := &batchv1.Job{}
	key := client.ObjectKey{Namespace: event.InvolvedObject.Namespace, Name: event.InvolvedObject.Name}
	// From the cache, which may not know it yet; the Job's own arrival there is another visit.
	if err := r.Jobs.Client.Get(ctx, key, job); err != nil {
		return nil
	}
	return served(job)
}

// served is the snapshot that a Job or its Pod serves.
func served(object client.Object) []reconcile.Request {
	annotations := object.GetAnnotations()
	namespace, name := annotations[v1alpha1.AnnotationNamespace], annotations[v1alpha1.AnnotationSnapshot]
	if namespace == "" || name == "" {
		return nil
	}
	return []reconcile.Request{{NamespacedName: client.ObjectKey{Namespace: namespace, Name: name}}}
}
