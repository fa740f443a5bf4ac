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

// Package sandbox keeps sandboxes: their Pods, their pauses and their resumes.
package sandbox

import (
	"context"
	"fmt"
	"sync/atomic"
	"time"

	batchv1 "k8s.io/api/batch/v1"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/api/meta"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/tools/events"
	"k8s.io/utils/clock"
	ctrl "sigs.k8s.io/controller-runtime"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/opensandbox-io/sandbox-apiserver/apis/lifecycle/v1alpha1"
	"github.com/opensandbox-io/sandbox-apiserver/pkg/controller/commitjob"
	"github.com/opensandbox-io/sandbox-apiserver/pkg/controller/naming"
)

const (
	// backstop is how long a sandbox on its way is left alone when no watch tells of anything.
	backstop = time.Minute
	// queueBackstop is the same for one whose commit waits for its turn. Thousands may do so at a time,
	// and their snapshots tell when it has come.
	queueBackstop = 10 * time.Minute
	// maxSteps bounds the steps of one visit; a healthy one takes three.
	maxSteps = 12
)

// Images sees whether the images are in the registry that a Pod is about to come from, and records it
// in the snapshot's condition.
type Images interface {
	CheckForResume(ctx context.Context, snapshot *v1alpha1.SandboxSnapshot)
}

// Jobs reaches what a commit has left frozen on a node.
type Jobs interface {
	// Thaw makes sure that nothing of it is frozen, and says whether that is so by now.
	Thaw(ctx context.Context, attempt *v1alpha1.SandboxSnapshot) (thawed bool, why string, err error)
	// Standby says whether it can be killed.
	Standby(ctx context.Context, attempt *v1alpha1.SandboxSnapshot) (commitjob.Outcome, error)
	// Kill kills it.
	Kill(ctx context.Context, attempt *v1alpha1.SandboxSnapshot) commitjob.Outcome
	// StaysFrozen says whether it is known to be frozen for a while yet; else Claim tells its node that somebody is there.
	StaysFrozen(attempt *v1alpha1.SandboxSnapshot) bool
	Claim(ctx context.Context, attempt *v1alpha1.SandboxSnapshot) commitjob.Outcome
	// OfPod are those that commit a Pod, whatever for.
	OfPod(ctx context.Context, pod types.UID) ([]batchv1.Job, error)
}

// Reconciler brings sandboxes to where they are wanted.
type Reconciler struct {
	// Client writes our own objects and reads them from a cache; Live reads past it.
	Client client.Client
	Live   client.Reader
	// Host is the host cluster's client, with Pods from a cache; HostLive reads past it.
	Host     client.Client
	HostLive client.Reader
	Jobs     Jobs
	Images   Images
	// PullSecret is added to the imagePullSecrets of a Pod that comes from a snapshot.
	PullSecret string
	// Guard knows whether the cluster keeps the garbage collector from the Pods of sandboxes; nil: it does.
	Guard Guard
	// Trial tries the Pod of the resume when a pause begins; nil: nobody does.
	Trial *Trial
	// Rescues says that there is a registry that what ended containers leave can be saved in.
	Rescues  bool
	Recorder events.EventRecorder
	Clock    clock.PassiveClock

	// looks are of sandboxes whose Pod cannot pull an image: the registry was asked about it a short while ago.
	// attempts are of those whose pause's snapshot was created a short while ago: somebody may delete it again and again.
	// rescueHolds are of those of which a rescue was created a short while ago.
	looks, attempts, rescueHolds holds
	starts                       starts
	kills, claims                *kills
	ran                          ranMemory
	faults                       faults
	trials                       atomic.Int32
}

// Reconcile decides and acts until there is nothing to do but to wait. Each step decides on
// what the API server holds now, or on what the step before has just written.
func (r *Reconciler) Reconcile(ctx context.Context, req ctrl.Request) (ctrl.Result, error) {
	if rests, result, err := r.idle(ctx, req.NamespacedName); rests || err != nil {
		return result, err
	}
	sandbox := &v1alpha1.Sandbox{}
	if err := r.Live.Get(ctx, req.NamespacedName, sandbox); err != nil {
		if apierrors.IsNotFound(err) {
			r.looks.forget(req.NamespacedName)
			r.attempts.forget(req.NamespacedName)
			r.rescueHolds.forget(req.NamespacedName)
			r.starts.forget(req.NamespacedName)
			r.kills.forget(req.NamespacedName)
			r.claims.forget(req.NamespacedName)
			r.ran.forget(req.NamespacedName)
			return ctrl.Result{}, r.reportStray(ctx, req.NamespacedName)
		}
		return ctrl.Result{}, fmt.Errorf("read sandbox %s: %w", req, err)
	}
	if sandbox.DeletionTimestamp != nil {
		return r.finalize(ctx, sandbox)
	}

	thawed, checked, fresh, claimed, named := false, false, false, false, false
	thawWaits := ""
	for range maxSteps {
		pod, err := r.pod(ctx, sandbox, fresh)
		if err != nil {
			return ctrl.Result{}, err
		}
		seen, err := r.observe(ctx, r.Live, sandbox, pod)
		if err != nil {
			return ctrl.Result{}, err
		}
		seen.thawed, seen.thawWaits = seen.thawed || thawed, thawWaits
		seen.checked, seen.fresh, seen.claimed, seen.named = checked, fresh, claimed, named
		next := decide(*seen)
		switch next.do {
		case wait:
			return r.rest(ctx, sandbox, next.after)
		case writeStatus:
			attempting := sandbox.Status.Phase == v1alpha1.SandboxPausing
			if err := r.write(ctx, sandbox, next); err != nil {
				return ctrl.Result{}, err
			}
			if attempting && sandbox.Status.Phase != v1alpha1.SandboxPausing {
				if err := r.prune(ctx, sandbox); err != nil {
					return ctrl.Result{}, err
				}
			}
			if next.after > 0 {
				return ctrl.Result{RequeueAfter: next.after}, nil
			}
			named = next.creates
		case checkImages:
			r.Images.CheckForResume(ctx, seen.from)
			checked = true
			if seen.pod != nil {
				r.looks.hold(sandbox, "", r.Clock.Now())
			}
		case readPod:
			fresh = true
		case claimPod:
			if err := r.claimPod(ctx, seen); err != nil {
				return ctrl.Result{}, err
			}
			claimed = true
		case createPod:
			if done, result, err := r.createPod(ctx, seen); err != nil || !done {
				return result, err
			}
		case deletePod:
			if err := r.deletePod(ctx, seen.pod, next); err != nil {
				return ctrl.Result{}, err
			}
			if next.event != nil {
				r.tell(sandbox, next.event)
			}
			return ctrl.Result{RequeueAfter: backstop}, nil
		case createRescue:
			if err := r.createRescue(ctx, seen, next.rescue); err != nil {
				return ctrl.Result{}, err
			}
		case createSnapshot:
			if err := r.createSnapshot(ctx, seen); err != nil {
				return ctrl.Result{}, err
			}
		case thaw:
			if thawed, thawWaits, err = r.Jobs.Thaw(ctx, seen.attempt); err != nil || !thawed && thawWaits == "" {
				return ctrl.Result{RequeueAfter: backstop}, err
			}
		case kill:
			return ctrl.Result{RequeueAfter: backstop}, r.kill(ctx, seen)
		case claim:
			return ctrl.Result{RequeueAfter: backstop}, r.claim(ctx, seen)
		}
	}
	return ctrl.Result{}, fmt.Errorf("sandbox %s does not settle: %d steps at one visit", req, maxSteps)
}

// reportStray tells of a Pod whose sandbox this store does not know. It is never deleted: that a
// store was lost, or replaced by an older one, must not cost anybody a Pod.
func (r *Reconciler) reportStray(ctx context.Context, key client.ObjectKey) error {
	pod := &corev1.Pod{}
	if err := r.Host.Get(ctx, key, pod); err != nil {
		return client.IgnoreNotFound(err)
	}
	if pod.DeletionTimestamp == nil && pod.Labels[v1alpha1.LabelSandboxUID] != "" {
		r.Recorder.Eventf(pod, nil, corev1.EventTypeWarning, v1alpha1.EventSandboxUnknown, "Reconcile",
			"no sandbox %s is known here, though this Pod belongs to one: it is left alone; delete it if it is not needed", key.Name)
	}
	return nil
}

// rest ends a visit. Only a sandbox on its way needs the backstop.
func (r *Reconciler) rest(ctx context.Context, sandbox *v1alpha1.Sandbox, after time.Duration) (ctrl.Result, error) {
	if prunes(sandbox) {
		if err := r.prune(ctx, sandbox); err != nil {
			return ctrl.Result{}, err
		}
	}
	switch sandbox.Status.Phase {
	case v1alpha1.SandboxRunning:
		return ctrl.Result{RequeueAfter: after}, nil
	case v1alpha1.SandboxPaused:
		return ctrl.Result{}, nil
	case v1alpha1.SandboxFailed:
		if badSource(sandbox) {
			// Nobody waits for a snapshot that has failed, so no event tells of another one of its name.
			return ctrl.Result{RequeueAfter: backstop}, nil
		}
		return ctrl.Result{}, nil
	}
	switch paused := meta.FindStatusCondition(sandbox.Status.Conditions, v1alpha1.ConditionPaused); {
	case after > 0:
		return ctrl.Result{RequeueAfter: after}, nil
	case sandbox.Status.Phase == v1alpha1.SandboxPausing && paused != nil && paused.Reason == v1alpha1.ReasonQueued:
		return ctrl.Result{RequeueAfter: queueBackstop}, nil
	}
	return ctrl.Result{RequeueAfter: backstop}, nil
}

// prunes says whether a sandbox at rest looks for snapshots that it keeps no longer. A pause that
// fails for days must not leave one for each try.
func prunes(sandbox *v1alpha1.Sandbox) bool {
	return sandbox.Status.Phase == v1alpha1.SandboxPaused ||
		sandbox.Status.Phase == v1alpha1.SandboxRunning && sandbox.Status.FailedAttempts > 1
}

// idle says whether the sandbox has nothing to do but to wait, as the caches show it, and then how
// the visit ends. Most visits are such: one follows every write of a sandbox, its snapshot and its
// Pod. They read nothing from the API: what the caches do not show yet has an event of its own, and
// that brings another visit. Nothing is ever done on the caches' word.
func (r *Reconciler) idle(ctx context.Context, key client.ObjectKey) (bool, ctrl.Result, error) {
	sandbox := &v1alpha1.Sandbox{}
	if err := r.Client.Get(ctx, key, sandbox); err != nil {
		return false, ctrl.Result{}, client.IgnoreNotFound(err)
	}
	if sandbox.DeletionTimestamp != nil || prunes(sandbox) {
		return false, ctrl.Result{}, nil
	}
	pod, certain, err := r.cachedPod(ctx, sandbox)
	if err != nil || !certain {
		return false, ctrl.Result{}, err
	}
	seen, err := r.observe(ctx, r.Client, sandbox, pod)
	if err != nil {
		return false, ctrl.Result{}, err
	}
	next := decide(*seen)
	if next.do != wait {
		return false, ctrl.Result{}, nil
	}
	result, err := r.rest(ctx, sandbox, next.after)
	return true, result, err
}

// observe reads the snapshots that matter to a sandbox, from a cache or past it.
func (r *Reconciler) observe(ctx context.Context, own client.Reader, sandbox *v1alpha1.Sandbox, pod *corev1.Pod) (*observed, error) {
	now := r.Clock.Now()
	seen := &observed{sandbox: sandbox, pod: pod, now: now, unguarded: r.unguarded(), looksAgain: r.looks.left(sandbox, "", now),
		attemptHeld: r.attempts.left(sandbox, Attempt(sandbox).Name, now), canRescue: r.Rescues,
		rescueHeld: func(containers string) time.Duration { return r.rescueHolds.left(sandbox, containers, now) }}
	if pod != nil {
		r.ran.see(pod)
		if awaitsPod(sandbox) {
			seen.template = hashOf(sandbox, r.PullSecret)
			if seen.wants(v1alpha1.DesiredStatePaused) {
				seen.startLeft = r.starts.left(client.ObjectKeyFromObject(sandbox), pod.UID, now)
			}
		}
	}
	known := r.ran.of(sandbox)
	seen.runs, seen.lastResets, seen.words = known.firstRuns, known.resets, known.words
	var err error
	status := &sandbox.Status
	if seen.tellsOfRescues() {
		// From the cache: what it does not show yet brings another visit, and none is created on its word.
		if seen.rescued, seen.tried, err = r.rescuesOf(ctx, r.Client, sandbox); err != nil {
			return nil, err
		}
	}
	if pod == nil && blocked(status) {
		if seen.unblocked, err = r.nameIsFree(ctx, sandbox); err != nil {
			return nil, err
		}
	}
	if status.SnapshotAttempts > 0 && (status.Phase == v1alpha1.SandboxPausing || status.FailedAttempts > 0) {
		if seen.attempt, err = r.snapshot(ctx, own, sandbox.Namespace, naming.PauseSnapshot(sandbox.Name, status.SnapshotAttempts)); err != nil {
			return nil, err
		}
	}
	if seen.attempt != nil && !seen.attemptIsOurs() {
		if seen.highest, err = r.highestAttempt(ctx, own, sandbox); err != nil {
			return nil, err
		}
	}
	if status.Phase == v1alpha1.SandboxPausing && pod != nil && !seen.attemptIsOurs() {
		if seen.astray, err = r.astray(ctx, pod); err != nil {
			return nil, err
		}
	}
	if seen.attempt != nil && pod != nil && pod.DeletionTimestamp != nil && seen.pausedReason() == v1alpha1.ReasonRemovingPod {
		if err := r.killing(ctx, seen); err != nil {
			return nil, err
		}
	}
	// Once a Pod is deleted for its good commit nothing thaws it. Others may delete it before.
	onItsWay := pod != nil && pod.DeletionTimestamp != nil && seen.pausedReason() == v1alpha1.ReasonRemovingPod
	if status.Phase == v1alpha1.SandboxPausing && seen.attemptIsOurs() && seen.attempt.Status.Phase == v1alpha1.SnapshotSucceed && !onItsWay {
		if err := r.staying(ctx, seen); err != nil {
			return nil, err
		}
	}
	from := status.SnapshotName
	if from == "" && sandbox.Spec.RestoreFrom != nil && status.Phase != v1alpha1.SandboxResuming {
		from = sandbox.Spec.RestoreFrom.SnapshotName
	}
	if from != "" && (seen.pod == nil || seen.pod.Status.Phase == corev1.PodPending) {
		// Nothing is decided on the one of a paused sandbox, and because of that of a Pod no more than that the Pod, in
		// which nothing has run, is made once more; its own events bring what is news.
		if status.Phase == v1alpha1.SandboxPaused || seen.pod != nil {
			own = r.Client
		}
		if seen.from, err = r.snapshot(ctx, own, sandbox.Namespace, from); err != nil {
			return nil, err
		}
	}
	return seen, nil
}

// pod is the sandbox's own Pod. The cache is believed only where it shows the Pod that the
// status tells of: that a Pod is gone, or that another is ours, is asked of the API. Fresh asks it
// in any case.
func (r *Reconciler) pod(ctx context.Context, sandbox *v1alpha1.Sandbox, fresh bool) (*corev1.Pod, error) {
	if !fresh {
		if pod, certain, err := r.cachedPod(ctx, sandbox); err != nil || certain {
			return pod, err
		}
	}
	pod := &corev1.Pod{}
	key := client.ObjectKeyFromObject(sandbox)
	if err := r.HostLive.Get(ctx, key, pod); err != nil {
		if apierrors.IsNotFound(err) {
			return nil, nil
		}
		return nil, fmt.Errorf("read Pod %s: %w", key, err)
	}
	if !ours(pod, sandbox) {
		return nil, nil
	}
	return pod, nil
}

// cachedPod says what the cache shows, and whether that is to be believed.
func (r *Reconciler) cachedPod(ctx context.Context, sandbox *v1alpha1.Sandbox) (pod *corev1.Pod, certain bool, err error) {
	pod = &corev1.Pod{}
	key := client.ObjectKeyFromObject(sandbox)
	err = r.Host.Get(ctx, key, pod)
	switch {
	case err == nil && pod.UID == sandbox.Status.PodUID:
		return pod, true, nil
	case apierrors.IsNotFound(err) && sandbox.Status.PodName == "":
		return nil, true, nil
	case err != nil && !apierrors.IsNotFound(err):
		return nil, false, fmt.Errorf("read Pod %s: %w", key, err)
	}
	return nil, false, nil
}

// nameIsFree says whether there is no Pod of the sandbox's name, also none of another.
func (r *Reconciler) nameIsFree(ctx context.Context, sandbox *v1alpha1.Sandbox) (bool, error) {
	key := client.ObjectKeyFromObject(sandbox)
	err := r.HostLive.Get(ctx, key, &corev1.Pod{})
	if client.IgnoreNotFound(err) != nil {
		return false, fmt.Errorf("read Pod %s: %w", key, err)
	}
	return err != nil, nil
}

func ours(pod *corev1.Pod, sandbox *v1alpha1.Sandbox) bool {
	return pod.Labels[v1alpha1.LabelSandboxUID] == string(sandbox.UID)
}

func (r *Reconciler) snapshot(ctx context.Context, reader client.Reader, namespace, name string) (*v1alpha1.SandboxSnapshot, error) {
	snapshot := &v1alpha1.SandboxSnapshot{}
	err := reader.Get(ctx, client.ObjectKey{Namespace: namespace, Name: name}, snapshot)
	if apierrors.IsNotFound(err) {
		return nil, nil
	}
	if err != nil {
		return nil, fmt.Errorf("read snapshot %s/%s: %w", namespace, name, err)
	}
	return snapshot, nil
}

// write stores a status under the resourceVersion that the decision was made on.
func (r *Reconciler) write(ctx context.Context, sandbox *v1alpha1.Sandbox, next action) error {
	next.status.DeepCopyInto(&sandbox.Status)
	if err := r.Client.Status().Update(ctx, sandbox); err != nil {
		return fmt.Errorf("write the status of sandbox %s/%s: %w", sandbox.Namespace, sandbox.Name, err)
	}
	r.ran.written(sandbox)
	if next.event != nil {
		r.tell(sandbox, next.event)
	}
	return nil
}

// awaitsPod says whether the sandbox is on its way to a Pod.
func awaitsPod(sandbox *v1alpha1.Sandbox) bool {
	switch sandbox.Status.Phase {
	case "", v1alpha1.SandboxPending, v1alpha1.SandboxResuming:
		return true
	}
	return false
}

func (r *Reconciler) tell(sandbox *v1alpha1.Sandbox, event *note) {
	kind := corev1.EventTypeNormal
	if event.warning {
		kind = corev1.EventTypeWarning
	}
	r.Recorder.Eventf(sandbox, nil, kind, event.reason, "Reconcile", "%s", event.message)
}

func (r *Reconciler) deletePod(ctx context.Context, pod *corev1.Pod, how action) error {
	only := client.Preconditions{UID: &pod.UID}
	if how.asSeen {
		only.ResourceVersion = &pod.ResourceVersion // what has changed is seen by the next visit
	}
	if !how.asSeen {
		r.ran.settle(client.ObjectKey{Namespace: pod.Namespace, Name: pod.Labels[v1alpha1.LabelSandbox]}, pod.UID)
	}
	options := []client.DeleteOption{only}
	if how.grace != nil {
		options = append(options, client.GracePeriodSeconds(*how.grace))
	}
	err := r.Host.Delete(ctx, pod, options...)
	if err != nil && !apierrors.IsNotFound(err) && !apierrors.IsConflict(err) {
		return fmt.Errorf("delete Pod %s/%s: %w", pod.Namespace, pod.Name, err)
	}
	return nil
}
