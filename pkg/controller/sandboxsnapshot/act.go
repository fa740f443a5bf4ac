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
	"errors"
	"fmt"
	"time"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/opensandbox-io/sandbox-apiserver/apis/lifecycle/v1alpha1"
	"github.com/opensandbox-io/sandbox-apiserver/pkg/controller/answer"
	"github.com/opensandbox-io/sandbox-apiserver/pkg/controller/commitjob"
	"github.com/opensandbox-io/sandbox-apiserver/pkg/controller/finalizer"
	"github.com/opensandbox-io/sandbox-apiserver/pkg/controller/naming"
	"github.com/opensandbox-io/sandbox-apiserver/pkg/controller/template"
)

// act does what was decided, and notes what came of it.
func (r *Reconciler) act(ctx context.Context, seen *observed, next action) (err error) {
	snapshot := seen.snapshot
	key := client.ObjectKeyFromObject(snapshot)
	switch next.do {
	case wait:
	case writeStatus:
		return r.write(ctx, seen, next)
	case readSandbox:
		seen.again = seen.source != nil
		seen.sandbox, err = r.readSandbox(ctx, r.Live, snapshot)
	case findJob:
		seen.job = &foundJob{}
		seen.job.Job, err = r.Jobs.Find(ctx, naming.CommitJob(snapshot.Namespace, snapshot.Name, snapshot.UID), snapshot)
	case checkSource:
		seen.source, err = r.checkSource(ctx, snapshot, seen.sandbox.Sandbox)
	case checkCopy:
		seen.from, err = r.copySource(ctx, snapshot, seen.sandbox.Sandbox)
	case observeCommit:
		var outcome commitjob.Outcome
		outcome, err = r.Jobs.Observe(ctx, snapshot)
		seen.commit = &outcome
	case readUser:
		var user string
		user, err = r.user(ctx, snapshot)
		seen.user = &user
	case readPod:
		var there bool
		there, err = r.podExists(ctx, snapshot)
		seen.podThere = &there
	case takeSlot:
		seen.slot, err = r.takeSlot(ctx, seen)
	case giveSlot:
		r.release(key)
		seen.slot, seen.source, seen.again = nil, nil, false
	case createJob:
		return r.createJob(ctx, seen)
	case handOver:
		seen.handed = true
		return r.handOver(ctx, snapshot, seen.job.Job)
	case giveUpJob:
		return r.Jobs.GiveUp(ctx, snapshot)
	case stopJob:
		seen.stopped = &stopped{}
		seen.stopped.neverRan, err = r.Jobs.Stop(ctx, snapshot)
	case thawPod:
		r.given(r.slots.end(key, r.limits()))
		seen.thaw = &thawed{}
		seen.thaw.done, seen.thaw.why, err = r.Jobs.Thaw(ctx, snapshot)
	case copyImage:
		seen.copied = r.copyImage(ctx, snapshot, seen.from.copied)
	case warnSandbox:
		return r.warnSandbox(ctx, seen.sandbox.Sandbox, next.message)
	case cleanJobs:
		var left bool
		left, err = r.Jobs.Cleanup(ctx, snapshot)
		seen.cleaned = &left
	case deleteImages:
		seen.images = r.deleteImages(ctx, snapshot)
	case letGo:
		return r.letGo(ctx, seen)
	default:
		return fmt.Errorf("nothing does %q", next.do)
	}
	return err
}

// write stores a status under the resourceVersion that was read: two controllers cannot both
// believe that they decided.
func (r *Reconciler) write(ctx context.Context, seen *observed, next action) error {
	snapshot := seen.snapshot.DeepCopy()
	next.status.DeepCopyInto(&snapshot.Status)
	if err := r.Client.Status().Update(ctx, snapshot); err != nil {
		return fmt.Errorf("write the status of snapshot %s/%s: %w", snapshot.Namespace, snapshot.Name, err)
	}
	before := seen.snapshot.Status.Phase
	seen.snapshot, seen.copied = snapshot, nil
	for _, event := range next.events {
		kind := corev1.EventTypeNormal
		if event.warning {
			kind = corev1.EventTypeWarning
		}
		r.Recorder.Eventf(snapshot, nil, kind, event.reason, event.action, "%s", event.message)
	}
	key := client.ObjectKeyFromObject(snapshot)
	if phase := snapshot.Status.Phase; phase != before {
		r.memory.forget(key)
		seen.past, seen.trouble = troubles{}, nil
		if phase == v1alpha1.SnapshotCommitting {
			r.holdSlot(snapshot)
			seen.keepsSlot = true
		} else {
			r.release(key)
		}
	}
	return nil
}

// readSandbox is the sandbox of the snapshot, with the template that it comes from.
func (r *Reconciler) readSandbox(ctx context.Context, own client.Reader, snapshot *v1alpha1.SandboxSnapshot) (*foundSandbox, error) {
	sandbox := &v1alpha1.Sandbox{}
	key := client.ObjectKey{Namespace: snapshot.Namespace, Name: snapshot.Spec.SandboxName}
	if err := own.Get(ctx, key, sandbox); err != nil {
		if apierrors.IsNotFound(err) {
			return &foundSandbox{}, nil
		}
		return nil, fmt.Errorf("read sandbox %s: %w", key, err)
	}
	if sandbox.Spec.Template == nil && snapshot.Status.Phase != v1alpha1.SnapshotCommitting && snapshot.DeletionTimestamp == nil {
		var err error
		sandbox.Spec.Template, err = template.Read(ctx, r.Live, sandbox)
		if err != nil && !errors.Is(err, template.ErrNone) && !apierrors.IsNotFound(err) {
			return nil, err
		} // the checks say what a sandbox without a template lacks
	}
	return &foundSandbox{sandbox}, nil
}

// podEnds says whether the cache shows the Pod that is to be committed gone, or on its way out.
func (r *Reconciler) podEnds(ctx context.Context, seen *observed) bool {
	sandbox := seen.sandbox.Sandbox
	if sandbox == nil || sandbox.Status.PodName == "" {
		return true
	}
	pod := &corev1.Pod{}
	err := r.Jobs.Client.Get(ctx, client.ObjectKey{Namespace: sandbox.Namespace, Name: sandbox.Status.PodName}, pod)
	if err != nil {
		return apierrors.IsNotFound(err)
	}
	return pod.UID != sourcePodUID(seen.snapshot, sandbox) || pod.DeletionTimestamp != nil
}

// podExists says whether the Pod is there that was committed.
func (r *Reconciler) podExists(ctx context.Context, snapshot *v1alpha1.SandboxSnapshot) (bool, error) {
	pod := &corev1.Pod{}
	key := client.ObjectKey{Namespace: snapshot.Namespace, Name: snapshot.Status.SourcePodName}
	if err := r.HostLive.Get(ctx, key, pod); err != nil {
		if apierrors.IsNotFound(err) {
			return false, nil
		}
		return false, fmt.Errorf("read Pod %s: %w", key, err)
	}
	return pod.UID == snapshot.Status.SourcePodUID, nil
}

// checkSource finds what is to be committed, or why that cannot be.
func (r *Reconciler) checkSource(ctx context.Context, snapshot *v1alpha1.SandboxSnapshot, sandbox *v1alpha1.Sandbox) (*foundSource, error) {
	source, err := r.source(ctx, snapshot, sandbox)
	if why := (*refusal)(nil); errors.As(err, &why) {
		return &foundSource{refusal: why}, nil
	}
	if err != nil {
		return nil, err
	}
	return &foundSource{source: source}, nil
}

// takeSlot takes a slot for the commit of the snapshot's Pod, or says what there is to wait for. A sandbox without a
// Pod needs none: the checks refuse it.
func (r *Reconciler) takeSlot(ctx context.Context, seen *observed) (*slotAnswer, error) {
	if err := r.recovery.once(func() error { return r.recover(ctx) }); err != nil {
		return nil, err
	}
	sandbox := seen.sandbox.Sandbox
	pod := sourcePodUID(seen.snapshot, sandbox)
	if pod == "" {
		return &slotAnswer{held: true}, nil
	}
	free, why := r.slots.acquire(client.ObjectKeyFromObject(seen.snapshot), slotOf(pod, sandbox.Status.NodeName, seen.rescue() != nil), r.limits())
	return &slotAnswer{held: free, why: why}, nil
}

// createJob creates the commit Job, which begins at once.
func (r *Reconciler) createJob(ctx context.Context, seen *observed) error {
	snapshot := seen.snapshot.DeepCopy()
	snapshot.Status.SandboxUID = seen.sandbox.UID
	source := seen.source.source
	job := r.Jobs.Commit(snapshot, source, PauseOf(snapshot) != nil)
	secrets, err := r.pullSecrets(ctx, snapshot.Namespace, source.PullSecrets)
	if err != nil {
		return err
	}
	secrets.Take(job)
	if err := r.Jobs.Begin(ctx, job, source); err != nil {
		if errors.Is(err, commitjob.ErrNotBegun) {
			return err
		}
		if answer.OfCreate(err) != answer.Final {
			r.given(r.slots.end(client.ObjectKeyFromObject(snapshot), r.limits()))
		}
		// Also where it exists by now: the next visit finds it and takes it up.
		return &notCreated{fmt.Errorf("create Job %s/%s: %w", job.Namespace, job.Name, err)}
	}
	seen.job = &foundJob{job}
	if len(secrets.Files) > 0 {
		seen.handed = true
		return r.Jobs.HandOver(ctx, job, secrets)
	}
	return nil
}

// warnSandbox makes every decision about a sandbox fail that was made before.
func (r *Reconciler) warnSandbox(ctx context.Context, sandbox *v1alpha1.Sandbox, message string) error {
	meta.SetStatusCondition(&sandbox.Status.Conditions, metav1.Condition{
		Type: v1alpha1.ConditionPaused, Status: metav1.ConditionFalse, Reason: v1alpha1.ReasonPausing, Message: message, ObservedGeneration: sandbox.Generation,
	})
	if err := r.Client.Status().Update(ctx, sandbox); err != nil {
		return fmt.Errorf("tell sandbox %s/%s that its snapshot is being deleted: %w", sandbox.Namespace, sandbox.Name, err)
	}
	return nil
}

// letGo removes the finalizer.
func (r *Reconciler) letGo(ctx context.Context, seen *observed) error {
	snapshot := seen.snapshot
	r.uncache(ctx, snapshot)
	if err := finalizer.Remove(ctx, r.Client, snapshot, v1alpha1.SnapshotFinalizer); err != nil {
		return err
	}
	seen.gone = true
	r.release(client.ObjectKeyFromObject(snapshot))
	r.memory.forget(client.ObjectKeyFromObject(snapshot))
	return nil
}

// quiet says whether there is nothing to do but to wait, as the caches show it, while a commit runs.
// That is what most visits find: one follows every step of the commit's Job and Pod, and every write
// of the sandbox. They read nothing from the API: what the caches do not show yet has an event of its
// own, which brings another visit, and nothing is done on their word.
func (r *Reconciler) quiet(ctx context.Context, key client.ObjectKey) (bool, time.Duration, error) {
	snapshot := &v1alpha1.SandboxSnapshot{}
	if err := r.Client.Get(ctx, key, snapshot); err != nil {
		return false, 0, client.IgnoreNotFound(err)
	}
	seen := &observed{snapshot: snapshot, now: r.Clock.Now()}
	if snapshot.DeletionTimestamp != nil || snapshot.Status.Phase != v1alpha1.SnapshotCommitting || seen.ending() != nil {
		return false, 0, nil
	}
	var err error
	if seen.sandbox, err = r.readSandbox(ctx, r.Client, snapshot); err != nil {
		return false, 0, err
	}
	outcome, err := r.Jobs.Observe(ctx, snapshot)
	if err != nil || outcome.State != commitjob.Active {
		return false, 0, nil //nolint:nilerr // it is met again, and told
	}
	seen.commit = &outcome
	next := decide(*seen)
	return next.do == wait, next.after, nil
}
