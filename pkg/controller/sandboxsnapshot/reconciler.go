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

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/tools/events"
	"k8s.io/utils/clock"
	ctrl "sigs.k8s.io/controller-runtime"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/controller-runtime/pkg/event"
	"sigs.k8s.io/controller-runtime/pkg/log"

	"github.com/opensandbox-io/sandbox-apiserver/apis/lifecycle/v1alpha1"
	"github.com/opensandbox-io/sandbox-apiserver/pkg/controller/commitjob"
	"github.com/opensandbox-io/sandbox-apiserver/pkg/controller/naming"
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
	memory   memory
	recovery recovery
	// wake carries the snapshots that waited for a slot and have got one.
	wake chan event.GenericEvent
}

// maxSteps bounds the steps of one visit; a healthy one takes eight, and two for each image that it copies.
const maxSteps = 24

// Reconcile decides and acts until there is nothing to do but to wait. Everything it decides on is read live or recorded
// in the status, so that a step that was killed half-way is taken up by the next.
func (r *Reconciler) Reconcile(ctx context.Context, req ctrl.Request) (ctrl.Result, error) {
	if quiet, after, err := r.quiet(ctx, req.NamespacedName); quiet || err != nil {
		return ctrl.Result{RequeueAfter: after}, err
	}
	snapshot := &v1alpha1.SandboxSnapshot{}
	if err := r.Live.Get(ctx, req.NamespacedName, snapshot); err != nil {
		if !apierrors.IsNotFound(err) {
			return ctrl.Result{}, fmt.Errorf("read snapshot %s: %w", req, err)
		}
		snapshot = nil
	}
	astray, err := r.strays(ctx, req.NamespacedName, snapshot)
	if err != nil {
		return ctrl.Result{}, err
	}
	if snapshot == nil {
		r.release(req.NamespacedName)
		r.memory.forget(req.NamespacedName)
		return ctrl.Result{RequeueAfter: astray}, nil
	}
	after, err := r.visit(ctx, snapshot)
	if astray > 0 && (after == 0 || astray < after) {
		after = astray
	}
	return ctrl.Result{RequeueAfter: after}, err
}

// visit takes a snapshot as far as it gets, and says when to look at it again.
func (r *Reconciler) visit(ctx context.Context, snapshot *v1alpha1.SandboxSnapshot) (time.Duration, error) {
	key := client.ObjectKeyFromObject(snapshot)
	seen := &observed{snapshot: snapshot, queued: r.slots.waits(key), past: r.memory.get(key)}
	if snapshot.Status.Phase == v1alpha1.SnapshotCommitting {
		if seen.ending() == nil || !r.slots.has(key) {
			r.holdSlot(snapshot)
		}
	} else {
		// What has no Job holds no slot but while it is looked at.
		defer func() {
			if !seen.keepsSlot {
				r.release(key)
			}
		}()
	}
	for range maxSteps + 2*len(snapshot.Spec.Containers) + 2*len(snapshot.Status.Containers) {
		seen.now = r.Clock.Now()
		if seen.queued && seen.sandbox != nil && !seen.podEnds {
			if seen.podEnds = r.podEnds(ctx, seen); seen.podEnds && seen.pause() != nil {
				r.slots.hurry(key)
			}
		}
		next := decide(*seen)
		seen.keepsSlot = next.keepsSlot
		err := r.act(ctx, seen, next)
		switch {
		case err != nil && (next.do == writeStatus || !isTrouble(err)):
			seen.keepsSlot = next.keepsSlot || next.do == createJob || seen.job != nil && seen.job.Job != nil
			return 0, err
		case err != nil:
			log.FromContext(ctx).Info("A snapshot is held up", "doing", next.do, "why", err.Error())
			seen.trouble = &trouble{doing: next.do, err: err}
			seen.past = r.memory.note(key, seen.now, seen.trouble)
			continue
		case seen.gone:
			return 0, nil
		}
		if next.rest || next.do == wait {
			if seen.trouble == nil && !next.remembers {
				r.memory.forget(key)
			}
			return next.after, nil
		}
	}
	return 0, fmt.Errorf("snapshot %s does not settle: %d steps at one visit", key, maxSteps)
}

// holdSlot notes the slot of a commit under way. One that ends keeps its Pod, and no other's room: nothing of it runs.
func (r *Reconciler) holdSlot(snapshot *v1alpha1.SandboxSnapshot) {
	r.slots.keep(client.ObjectKeyFromObject(snapshot), slotOf(snapshot.Status.SourcePodUID, snapshot.Status.SourceNodeName, RescueOf(snapshot) != nil))
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

// release frees the snapshot's slot and wakes the one that has got it.
func (r *Reconciler) release(key client.ObjectKey) {
	r.given(r.slots.release(key, r.limits()))
}

// given wakes those that have got a slot.
func (r *Reconciler) given(given []client.ObjectKey) {
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
