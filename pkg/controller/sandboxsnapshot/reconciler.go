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

// Package sandboxsnapshot makes snapshots: it checks what a commit needs, runs the commit Job
// on the source node, and says how it ended.
package sandboxsnapshot

import (
	"context"
	"fmt"
	"slices"
	"time"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/tools/events"
	"k8s.io/utils/clock"
	ctrl "sigs.k8s.io/controller-runtime"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/controller-runtime/pkg/controller/controllerutil"
	"sigs.k8s.io/controller-runtime/pkg/event"

	"github.com/opensandbox-io/sandbox-apiserver/apis/lifecycle/v1alpha1"
	"github.com/opensandbox-io/sandbox-apiserver/pkg/controller/commitjob"
	"github.com/opensandbox-io/sandbox-apiserver/pkg/controller/finalizer"
	"github.com/opensandbox-io/sandbox-apiserver/pkg/controller/naming"
)

const (
	// backstop is how long a snapshot under way is left alone when no watch tells of it.
	backstop = time.Minute
	// queueBackstop is the same for one that waits for its turn. Thousands may do so at a time, and
	// nothing can happen to them that the end of another commit, or their sandbox, does not tell.
	queueBackstop = 10 * time.Minute
)

// Registry is what the controller asks of the registry itself; layers are the committer's business.
type Registry interface {
	// Delete deletes a manifest by its digest, or by its tag where the digest is empty.
	Delete(ctx context.Context, image, digest string) error
	// Duplicate gives an image a manifest of its own under the tag target and returns its digest.
	Duplicate(ctx context.Context, image, digest, target string, annotations map[string]string) (string, error)
}

// Reconciler brings SandboxSnapshots to one of their two ends.
type Reconciler struct {
	// Client writes SandboxSnapshots and reads from a cache; Live reads past it.
	Client client.Client
	Live   client.Reader
	// HostLive reads Pods, Secrets, Nodes and RuntimeClasses of the host cluster, uncached.
	HostLive client.Reader
	Jobs     *commitjob.Runner
	Images   *naming.ImageTemplate
	// Registry deletes and copies images.
	Registry Registry
	// Runtimes are the runtime handlers whose files a commit can see.
	Runtimes []string
	// ResumePullSecret is what resumed Pods pull their snapshots with.
	ResumePullSecret string
	// MaxPerNode and MaxTotal bound the commits under way.
	MaxPerNode, MaxTotal int
	Recorder             events.EventRecorder
	Clock                clock.PassiveClock

	slots    slots
	recovery recovery
	// wake carries the snapshots that waited for a slot and have got one.
	wake chan event.GenericEvent
}

// Reconcile takes one step: everything it decides on is read live or recorded in the status, so
// that a step that was killed half-way is taken up by the next.
func (r *Reconciler) Reconcile(ctx context.Context, req ctrl.Request) (ctrl.Result, error) {
	if underWay, err := r.underWay(ctx, req.NamespacedName); underWay || err != nil {
		return ctrl.Result{RequeueAfter: backstop}, err
	}
	snapshot := &v1alpha1.SandboxSnapshot{}
	if err := r.Live.Get(ctx, req.NamespacedName, snapshot); err != nil {
		if apierrors.IsNotFound(err) {
			r.release(req.NamespacedName)
			return ctrl.Result{}, nil
		}
		return ctrl.Result{}, fmt.Errorf("read snapshot %s: %w", req, err)
	}
	if snapshot.DeletionTimestamp != nil {
		return r.finalize(ctx, snapshot)
	}
	switch snapshot.Status.Phase {
	case v1alpha1.SnapshotSucceed, v1alpha1.SnapshotFailed:
		r.release(req.NamespacedName)
		return ctrl.Result{}, nil
	case v1alpha1.SnapshotCommitting:
		r.slots.keep(req.NamespacedName, slot{pod: snapshot.Status.SourcePodUID, node: snapshot.Status.SourceNodeName})
		return r.follow(ctx, snapshot)
	default:
		return r.start(ctx, snapshot)
	}
}

// finalize lets a snapshot go once its Jobs are gone and nothing that they froze is frozen.
func (r *Reconciler) finalize(ctx context.Context, snapshot *v1alpha1.SandboxSnapshot) (ctrl.Result, error) {
	if !controllerutil.ContainsFinalizer(snapshot, v1alpha1.SnapshotFinalizer) {
		return ctrl.Result{}, nil
	}
	user, err := r.user(ctx, snapshot)
	if err != nil {
		return ctrl.Result{}, err
	}
	if user != "" {
		return ctrl.Result{RequeueAfter: backstop}, r.inUse(ctx, snapshot, user)
	}
	if ended, err := r.abandon(ctx, snapshot); err != nil || !ended {
		return ctrl.Result{RequeueAfter: backstop}, err
	}
	if left, err := r.Jobs.Cleanup(ctx, snapshot); err != nil || !left {
		return ctrl.Result{RequeueAfter: backstop}, err
	}
	if again, err := r.deleteImages(ctx, snapshot); err != nil || again > 0 {
		return ctrl.Result{RequeueAfter: again}, err
	}
	r.uncache(ctx, snapshot)
	if err := finalizer.Remove(ctx, r.Client, snapshot, v1alpha1.SnapshotFinalizer); err != nil {
		return ctrl.Result{}, err
	}
	r.release(client.ObjectKeyFromObject(snapshot))
	return ctrl.Result{}, nil
}

// abandon ends the commit of a snapshot that is being deleted, recorded or not, and says
// whether it has ended and nothing is frozen.
func (r *Reconciler) abandon(ctx context.Context, snapshot *v1alpha1.SandboxSnapshot) (bool, error) {
	switch snapshot.Status.Phase {
	case v1alpha1.SnapshotFailed:
		return true, nil
	case v1alpha1.SnapshotSucceed:
		return r.giveUp(ctx, snapshot)
	case v1alpha1.SnapshotCommitting:
	default:
		job, err := r.Jobs.Find(ctx, naming.CommitJob(snapshot.Namespace, snapshot.Name, snapshot.UID), snapshot)
		if err != nil || job == nil {
			return job == nil, err
		}
		if err := record(snapshot, job); err != nil {
			return false, err
		}
	}
	if ended, _, err := r.stopAndThaw(ctx, snapshot); err != nil || !ended {
		return false, err
	}
	// Written down, or the next visit would thaw once more with the Jobs that are deleted now.
	return true, r.fail(ctx, snapshot, v1alpha1.ReasonCanceled, "the snapshot was deleted before its commit ended")
}

// giveUp thaws what a successful pause commit left frozen, where its sandbox has not gone on to
// remove the Pod: without the snapshot it never will, and nobody would know what to thaw.
func (r *Reconciler) giveUp(ctx context.Context, snapshot *v1alpha1.SandboxSnapshot) (bool, error) {
	pause := PauseOf(snapshot)
	if pause == nil {
		return true, nil
	}
	sandbox := &v1alpha1.Sandbox{}
	key := client.ObjectKey{Namespace: snapshot.Namespace, Name: snapshot.Spec.SandboxName}
	if err := r.Live.Get(ctx, key, sandbox); err != nil {
		if apierrors.IsNotFound(err) {
			return true, nil
		}
		return false, fmt.Errorf("read sandbox %s: %w", key, err)
	}
	ready := meta.FindStatusCondition(snapshot.Status.Conditions, v1alpha1.ConditionReady)
	waits := sandbox.Status.Phase == v1alpha1.SandboxPausing && IsAttemptOf(snapshot, sandbox)
	switch {
	case !waits || ready != nil && ready.Reason == v1alpha1.ReasonCanceled:
		return true, nil
	case sandbox.Status.SnapshotName == snapshot.Name && sandbox.DeletionTimestamp == nil:
		return false, nil // in use since just now: the cache that user asks does not know yet
	}
	if thawed, _, err := r.Jobs.Thaw(ctx, snapshot); err != nil || !thawed {
		return false, err
	}
	r.setCondition(snapshot, v1alpha1.ConditionReady, metav1.ConditionFalse, v1alpha1.ReasonCanceled,
		"the snapshot was deleted before its sandbox could be paused on it; nothing that its commit froze is frozen any more")
	return true, r.writeStatus(ctx, snapshot)
}

// user is the name of a sandbox that needs the snapshot, empty where none does.
func (r *Reconciler) user(ctx context.Context, snapshot *v1alpha1.SandboxSnapshot) (string, error) {
	sandboxes := &v1alpha1.SandboxList{}
	if err := r.Client.List(ctx, sandboxes, client.InNamespace(snapshot.Namespace), client.MatchingFields{IndexSnapshot: snapshot.Name}); err != nil {
		return "", fmt.Errorf("list the sandboxes that use snapshot %s/%s: %w", snapshot.Namespace, snapshot.Name, err)
	}
	for i := range sandboxes.Items {
		if sandboxes.Items[i].DeletionTimestamp == nil {
			return sandboxes.Items[i].Name, nil
		}
	}
	if snapshot.Spec.SandboxName == "" {
		return "", nil
	}
	// The cache may not know yet of a rollback that was asked for just now.
	own := &v1alpha1.Sandbox{}
	key := client.ObjectKey{Namespace: snapshot.Namespace, Name: snapshot.Spec.SandboxName}
	if err := r.Live.Get(ctx, key, own); err != nil {
		if apierrors.IsNotFound(err) {
			return "", nil
		}
		return "", fmt.Errorf("read sandbox %s: %w", key, err)
	}
	if own.DeletionTimestamp == nil && slices.Contains(needed(own), snapshot.Name) {
		return own.Name, nil
	}
	return "", nil
}

func (r *Reconciler) inUse(ctx context.Context, snapshot *v1alpha1.SandboxSnapshot, user string) error {
	message := fmt.Sprintf("the deletion waits until sandbox %s needs this snapshot no more: pause it again, or delete it", user)
	condition := meta.FindStatusCondition(snapshot.Status.Conditions, v1alpha1.ConditionReady)
	if condition != nil && condition.Reason == v1alpha1.ReasonInUse && condition.Message == message {
		return nil
	}
	status := metav1.ConditionFalse
	if snapshot.Status.Phase == v1alpha1.SnapshotSucceed {
		status = metav1.ConditionTrue
	}
	r.setCondition(snapshot, v1alpha1.ConditionReady, status, v1alpha1.ReasonInUse, "%s", message)
	if err := r.writeStatus(ctx, snapshot); err != nil {
		return err
	}
	r.Recorder.Eventf(snapshot, nil, corev1.EventTypeWarning, v1alpha1.ReasonInUse, "Delete", "%s", message)
	return nil
}

// writeStatus writes under the resourceVersion that was read: two controllers cannot both
// believe that they decided.
func (r *Reconciler) writeStatus(ctx context.Context, snapshot *v1alpha1.SandboxSnapshot) error {
	snapshot.Status.ObservedGeneration = snapshot.Generation
	if err := r.Client.Status().Update(ctx, snapshot); err != nil {
		return fmt.Errorf("write the status of snapshot %s/%s: %w", snapshot.Namespace, snapshot.Name, err)
	}
	return nil
}

func (r *Reconciler) setCondition(snapshot *v1alpha1.SandboxSnapshot, kind string, status metav1.ConditionStatus, reason, format string, args ...any) {
	condition := metav1.Condition{Type: kind, Status: status, Reason: reason, Message: fmt.Sprintf(format, args...), ObservedGeneration: snapshot.Generation}
	if before := meta.FindStatusCondition(snapshot.Status.Conditions, kind); before == nil || before.Status != status {
		condition.LastTransitionTime = metav1.NewTime(r.Clock.Now())
	}
	meta.SetStatusCondition(&snapshot.Status.Conditions, condition)
}

// release frees the snapshot's slot and wakes the one that has got it.
func (r *Reconciler) release(key client.ObjectKey) {
	given := r.slots.release(key, r.limits())
	if r.wake == nil {
		return // not added to a manager: who calls Reconcile then, visits them all
	}
	for _, given := range given {
		r.wake <- event.GenericEvent{Object: &v1alpha1.SandboxSnapshot{ObjectMeta: metav1.ObjectMeta{Namespace: given.Namespace, Name: given.Name}}}
	}
}

// SlotsInUse is how many commits have a slot.
func (r *Reconciler) SlotsInUse() int { return r.slots.inUse() }

func (r *Reconciler) limits() limits {
	return limits{perNode: r.MaxPerNode, total: r.MaxTotal}
}
