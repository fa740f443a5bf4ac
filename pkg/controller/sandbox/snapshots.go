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
	"math"
	"slices"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/utils/ptr"
	ctrl "sigs.k8s.io/controller-runtime"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/controller-runtime/pkg/controller/controllerutil"

	"github.com/opensandbox-io/sandbox-apiserver/apis/lifecycle/v1alpha1"
	"github.com/opensandbox-io/sandbox-apiserver/pkg/controller/finalizer"
	"github.com/opensandbox-io/sandbox-apiserver/pkg/controller/naming"
	"github.com/opensandbox-io/sandbox-apiserver/pkg/controller/sandboxsnapshot"
)

// finalize lets a sandbox go when its Pod is gone and no commit of it is under way. Its
// finished snapshots need not be gone: a registry that is down must not hold up a sandbox.
func (r *Reconciler) finalize(ctx context.Context, sandbox *v1alpha1.Sandbox) (ctrl.Result, error) {
	if !controllerutil.ContainsFinalizer(sandbox, v1alpha1.SandboxFinalizer) {
		return ctrl.Result{}, nil
	}
	snapshots, err := r.owned(ctx, r.Live, sandbox)
	if err != nil {
		return ctrl.Result{}, err
	}
	rescues, _, err := r.rescuesOf(ctx, r.Live, sandbox)
	if err != nil {
		return ctrl.Result{}, err
	}
	pauses := snapshots
	snapshots = append(slices.Clone(snapshots), rescues...)
	busy := false
	orphan := controllerutil.ContainsFinalizer(sandbox, metav1.FinalizerOrphanDependents)
	for i := range snapshots {
		unfinished := !finished(&snapshots[i])
		busy = busy || unfinished
		// kubectl delete --cascade=orphan keeps the snapshots, but not a commit under way. Its finalizer is gone when
		// the collector has taken their owner from them, which may be before the Pod is.
		if !unfinished && (orphan || !metav1.IsControlledBy(&snapshots[i], sandbox)) {
			continue
		}
		if err := r.deleteSnapshot(ctx, &snapshots[i]); err != nil {
			return ctrl.Result{}, err
		}
	}
	pod, err := r.anyPod(ctx, sandbox)
	if err != nil {
		return ctrl.Result{}, err
	}
	if pod != nil {
		if next := endOf(pod, pauses); next.do == deletePod {
			if err := r.deletePod(ctx, pod, next); err != nil {
				return ctrl.Result{}, err
			}
		}
	}
	if pod != nil || busy {
		// The Pod's watch and the snapshot's bring the next visit.
		return ctrl.Result{RequeueAfter: backstop}, r.tellTerminating(ctx, sandbox, pod, snapshots)
	}
	if err := finalizer.Remove(ctx, r.Client, sandbox, v1alpha1.SandboxFinalizer); err != nil {
		return ctrl.Result{}, err
	}
	return ctrl.Result{}, nil
}

// tellTerminating writes down what the deletion waits for. It comes last: nothing waits for it.
func (r *Reconciler) tellTerminating(ctx context.Context, sandbox *v1alpha1.Sandbox, pod *corev1.Pod, snapshots []v1alpha1.SandboxSnapshot) error {
	seen := &observed{sandbox: sandbox, pod: pod, now: r.Clock.Now()}
	next := seen.terminating(snapshots)
	if next.do != writeStatus {
		return nil
	}
	return client.IgnoreNotFound(r.write(ctx, sandbox, next))
}

// endOf is what to do with the Pod of a sandbox that goes. It gets the time to end that it asks for,
// unless a finished commit left it frozen: then nobody would hear the signal, and its files are
// nobody's concern any more, so it is not left to its kill either.
func endOf(pod *corev1.Pod, snapshots []v1alpha1.SandboxSnapshot) action {
	seen := &observed{pod: pod}
	for i := range snapshots {
		if snapshots[i].Status.Phase == v1alpha1.SnapshotSucceed && snapshots[i].Status.SourcePodUID == pod.UID {
			return seen.remove(ptr.To[int64](removalGrace))
		}
	}
	return seen.remove(nil)
}

// anyPod is the sandbox's Pod as the API has it, also where the status does not tell of one:
// its creation may have been the last thing that an earlier visit did.
func (r *Reconciler) anyPod(ctx context.Context, sandbox *v1alpha1.Sandbox) (*corev1.Pod, error) {
	pod := &corev1.Pod{}
	err := r.HostLive.Get(ctx, client.ObjectKeyFromObject(sandbox), pod)
	if apierrors.IsNotFound(err) {
		return nil, nil
	}
	if err != nil {
		return nil, fmt.Errorf("read Pod %s/%s: %w", sandbox.Namespace, sandbox.Name, err)
	}
	if !ours(pod, sandbox) {
		return nil, nil
	}
	return pod, nil
}

// prune deletes the snapshots that a sandbox keeps no longer.
func (r *Reconciler) prune(ctx context.Context, sandbox *v1alpha1.Sandbox) error {
	snapshots, err := r.owned(ctx, r.Client, sandbox)
	if err != nil {
		return err
	}
	for _, snapshot := range beyond(snapshots, sandbox) {
		if err := r.deleteSnapshot(ctx, snapshot); err != nil {
			return err
		}
	}
	return nil
}

// beyond are the pause snapshots beyond spec.snapshot.historyLimit, the oldest first, and failed
// ones, cancelled ones among them, but the last. That may be one of which the cache does not know yet that it has failed. The one that the next resume needs stays whatever the limit says.
func beyond(snapshots []v1alpha1.SandboxSnapshot, sandbox *v1alpha1.Sandbox) []*v1alpha1.SandboxSnapshot {
	limit := kept(sandbox)
	slices.SortFunc(snapshots, func(a, b v1alpha1.SandboxSnapshot) int {
		return int(naming.Attempt(b.Name) - naming.Attempt(a.Name))
	})
	var old []*v1alpha1.SandboxSnapshot
	succeeded, failed := int32(0), 0
	for i := range snapshots {
		switch snapshots[i].Status.Phase {
		case v1alpha1.SnapshotSucceed:
			succeeded++
			if succeeded > limit && snapshots[i].Name != sandbox.Status.SnapshotName && snapshots[i].Name != sandbox.Status.PriorSnapshotName {
				old = append(old, &snapshots[i])
			}
		case v1alpha1.SnapshotFailed:
			failed++
			if failed > 1 {
				old = append(old, &snapshots[i])
			}
		default:
			failed++
		}
	}
	return old
}

// kept is how many successful snapshots a sandbox keeps. While it has lost data that is all of
// them: one may be the last that holds it. The pause that ends a loss saves what there is after
// it, so the snapshot from before stays until the next.
func kept(sandbox *v1alpha1.Sandbox) int32 {
	limit := v1alpha1.DefaultHistoryLimit
	if sandbox.Spec.Snapshot.HistoryLimit != nil {
		limit = *sandbox.Spec.Snapshot.HistoryLimit
	}
	lost := meta.FindStatusCondition(sandbox.Status.Conditions, v1alpha1.ConditionDataLost)
	paused := meta.FindStatusCondition(sandbox.Status.Conditions, v1alpha1.ConditionPaused)
	switch {
	case lost == nil:
		return limit
	case lost.Status == metav1.ConditionTrue:
		return math.MaxInt32
	case paused == nil || paused.Status != metav1.ConditionTrue || paused.LastTransitionTime.Equal(&lost.LastTransitionTime):
		// Both were set by the same write, or no pause has succeeded since.
		return max(limit, 2)
	}
	return limit
}

// highestAttempt is the highest number that a snapshot of an attempt to pause a sandbox of this name has.
func (r *Reconciler) highestAttempt(ctx context.Context, reader client.Reader, sandbox *v1alpha1.Sandbox) (int64, error) {
	list := &v1alpha1.SandboxSnapshotList{}
	if err := reader.List(ctx, list, client.InNamespace(sandbox.Namespace), client.MatchingFields{sandboxsnapshot.IndexSandbox: sandbox.Name}); err != nil {
		return 0, fmt.Errorf("list the snapshots of sandboxes named %s/%s: %w", sandbox.Namespace, sandbox.Name, err)
	}
	highest := int64(0)
	for i := range list.Items {
		if n := naming.Attempt(list.Items[i].Name); list.Items[i].Name == naming.PauseSnapshot(sandbox.Name, n) {
			highest = max(highest, n)
		}
	}
	return highest, nil
}

// owned are the snapshots that pauses of this sandbox made.
func (r *Reconciler) owned(ctx context.Context, reader client.Reader, sandbox *v1alpha1.Sandbox) ([]v1alpha1.SandboxSnapshot, error) {
	list := &v1alpha1.SandboxSnapshotList{}
	// The API server and the cache both know this field.
	if err := reader.List(ctx, list, client.InNamespace(sandbox.Namespace), client.MatchingFields{sandboxsnapshot.IndexSandbox: sandbox.Name}); err != nil {
		return nil, fmt.Errorf("list the snapshots of sandbox %s/%s: %w", sandbox.Namespace, sandbox.Name, err)
	}
	return slices.DeleteFunc(list.Items, func(s v1alpha1.SandboxSnapshot) bool {
		pause := sandboxsnapshot.PauseOf(&s)
		return pause == nil || pause.SandboxUID != sandbox.UID
	}), nil
}

func (r *Reconciler) deleteSnapshot(ctx context.Context, snapshot *v1alpha1.SandboxSnapshot) error {
	if snapshot.DeletionTimestamp != nil {
		return nil
	}
	err := r.Client.Delete(ctx, snapshot, client.Preconditions{UID: &snapshot.UID})
	if err != nil && !apierrors.IsNotFound(err) && !apierrors.IsConflict(err) {
		return fmt.Errorf("delete snapshot %s/%s: %w", snapshot.Namespace, snapshot.Name, err)
	}
	return nil
}

func finished(snapshot *v1alpha1.SandboxSnapshot) bool {
	return snapshot.Status.Phase == v1alpha1.SnapshotSucceed || snapshot.Status.Phase == v1alpha1.SnapshotFailed
}
