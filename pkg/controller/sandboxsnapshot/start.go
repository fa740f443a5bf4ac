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

	batchv1 "k8s.io/api/batch/v1"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	ctrl "sigs.k8s.io/controller-runtime"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/opensandbox-io/sandbox-apiserver/apis/lifecycle/v1alpha1"
	"github.com/opensandbox-io/sandbox-apiserver/pkg/controller/commitjob"
	"github.com/opensandbox-io/sandbox-apiserver/pkg/controller/naming"
	"github.com/opensandbox-io/sandbox-apiserver/pkg/controller/template"
)

// start checks a snapshot that has no commit yet, and creates its Job.
func (r *Reconciler) start(ctx context.Context, snapshot *v1alpha1.SandboxSnapshot) (ctrl.Result, error) {
	if snapshot.Spec.Source != nil {
		return ctrl.Result{}, r.takeOver(ctx, snapshot)
	}
	key := client.ObjectKeyFromObject(snapshot)
	pause := PauseOf(snapshot) != nil
	sandbox, err := r.sandbox(ctx, r.Live, snapshot)
	if err == nil && pause && r.slots.waits(key) {
		// Still wanted, and not its turn: all that follows would be done again then.
		return ctrl.Result{RequeueAfter: queueBackstop}, nil
	}
	if err == nil && sandbox.Spec.Template == nil {
		sandbox.Spec.Template, err = template.Read(ctx, r.Live, sandbox)
		if errors.Is(err, template.ErrNone) || apierrors.IsNotFound(err) {
			err = nil // the checks say what a sandbox without a template lacks
		}
	}
	if err != nil && !isRefusal(err) {
		return ctrl.Result{}, err
	}

	// A Job that exists already is what is being committed, whatever the checks would say now.
	job, findErr := r.Jobs.Find(ctx, naming.CommitJob(snapshot.Namespace, snapshot.Name, snapshot.UID), snapshot)
	if findErr != nil {
		return ctrl.Result{}, findErr
	}
	if job != nil {
		if err := r.handOver(ctx, snapshot, job); err != nil {
			return ctrl.Result{}, err
		}
		return ctrl.Result{}, r.committing(ctx, snapshot, sandbox, job)
	}

	how := commits
	if err == nil {
		// From now on it is a snapshot of this sandbox, and of no other of its name.
		snapshot.Status.SandboxUID = sandbox.UID
		if !pause {
			how, err = choose(snapshot, sandbox)
		}
	}
	var source *commitjob.Source
	switch {
	case err != nil:
	case how == waits:
		r.release(key)
		return ctrl.Result{RequeueAfter: backstop}, r.queued(ctx, snapshot, fmt.Sprintf("sandbox %s is being paused", sandbox.Name))
	case how == copies:
		if err = r.duplicate(ctx, snapshot, sandbox); err == nil {
			return ctrl.Result{}, nil
		}
	default:
		// First the slot and then the checks: what they find must be true when the commit starts,
		// not when it began to wait.
		free, why, slotErr := r.acquire(ctx, key, snapshot, sandbox)
		if slotErr != nil {
			return ctrl.Result{}, slotErr
		}
		if !free {
			return ctrl.Result{RequeueAfter: queueBackstop}, r.queued(ctx, snapshot, why)
		}
		source, err = r.source(ctx, snapshot, sandbox)
	}
	if why := (*refusal)(nil); errors.As(err, &why) {
		return ctrl.Result{}, r.fail(ctx, snapshot, why.reason, why.message)
	}
	if err != nil {
		return ctrl.Result{}, err
	}

	if !pause {
		// While it holds the slot no pause of this Pod can begin its commit. One may have ended
		// since the sandbox was read, though, and what that froze must stay so.
		now, err := r.sandbox(ctx, r.Live, snapshot)
		if err != nil && !isRefusal(err) {
			return ctrl.Result{}, err
		}
		if err != nil || now.Status.Phase != v1alpha1.SandboxRunning || now.Status.PodUID != source.PodUID {
			r.release(key)
			return r.start(ctx, snapshot)
		}
	}
	job, err = r.Jobs.Commit(snapshot, source, pause)
	if err != nil {
		return ctrl.Result{}, err
	}
	secrets, err := r.pullSecrets(ctx, snapshot.Namespace, source.PullSecrets)
	if err != nil {
		return ctrl.Result{}, err
	}
	secrets.Take(job)
	switch err := r.Jobs.Begin(ctx, job, source); {
	case apierrors.IsInvalid(err), apierrors.IsForbidden(err):
		return ctrl.Result{}, r.fail(ctx, snapshot, v1alpha1.ReasonCommitPodRejected,
			fmt.Sprintf("the commit Job is refused in namespace %s: %v", job.Namespace, err))
	case err != nil:
		// Also where it exists by now: the next visit finds it and takes it up.
		return ctrl.Result{}, fmt.Errorf("create Job %s/%s: %w", job.Namespace, job.Name, err)
	}
	if len(secrets.Files) > 0 {
		if err := r.Jobs.HandOver(ctx, job, secrets); err != nil {
			return ctrl.Result{}, err
		}
	}
	return ctrl.Result{}, r.committing(ctx, snapshot, sandbox, job)
}

// way is how a snapshot that a user asked for is made of its sandbox as it is now.
type way string

const (
	commits way = "commits" // the running containers
	copies  way = "copies"  // what the last pause saved
	waits   way = "waits"   // for a pause to end one way or the other
)

// choose finds the way, or says what the sandbox has to come to before there is one.
func choose(snapshot *v1alpha1.SandboxSnapshot, sandbox *v1alpha1.Sandbox) (way, error) {
	again := fmt.Sprintf("create another snapshot once it is %s", v1alpha1.SandboxRunning)
	if sandbox.DeletionTimestamp != nil {
		return "", refuse(v1alpha1.ReasonSandboxNotFound, "sandbox %s is being deleted", sandbox.Name)
	}
	switch sandbox.Status.Phase {
	case v1alpha1.SandboxRunning:
		return commits, nil
	case v1alpha1.SandboxPausing:
		// A commit that thaws must not come between a pause's commit and the removal of the Pod.
		return waits, nil
	case v1alpha1.SandboxPaused:
		return copies, nil
	case v1alpha1.SandboxResuming:
		ready := meta.FindStatusCondition(snapshot.Status.Conditions, v1alpha1.ConditionReady)
		if ready != nil && ready.Reason == v1alpha1.ReasonQueued && sandbox.Status.SnapshotName != "" {
			// It waited for the pause, and a resume was faster than it.
			return copies, nil
		}
		return "", refuse(v1alpha1.ReasonSourcePodNotFound, "sandbox %s is Resuming and its Pod does not run yet: %s", sandbox.Name, again)
	case v1alpha1.SandboxFailed:
		return "", refuse(v1alpha1.ReasonSourcePodNotFound, "sandbox %s is Failed: resume it from a snapshot or from its template, and %s", sandbox.Name, again)
	}
	return "", refuse(v1alpha1.ReasonSourcePodNotFound, "sandbox %s is Pending and has no files yet: %s", sandbox.Name, again)
}

// sandbox is the sandbox to commit. A pause's snapshot belongs to one sandbox by UID and to its
// current attempt, or its commit is cancelled before it starts.
func (r *Reconciler) sandbox(ctx context.Context, own client.Reader, snapshot *v1alpha1.SandboxSnapshot) (*v1alpha1.Sandbox, error) {
	sandbox := &v1alpha1.Sandbox{}
	if err := own.Get(ctx, client.ObjectKey{Namespace: snapshot.Namespace, Name: snapshot.Spec.SandboxName}, sandbox); err != nil {
		if apierrors.IsNotFound(err) {
			return nil, refuse(v1alpha1.ReasonSandboxNotFound,
				"sandbox %s does not exist in this namespace: create the snapshot where the sandbox is, with its name", snapshot.Spec.SandboxName)
		}
		return nil, fmt.Errorf("read sandbox %s/%s: %w", snapshot.Namespace, snapshot.Spec.SandboxName, err)
	}
	if why := canceled(snapshot, sandbox); why != "" {
		return nil, refuse(v1alpha1.ReasonCanceled, "%s", why)
	}
	if uid := snapshot.Status.SandboxUID; uid != "" && uid != sandbox.UID {
		return nil, refuse(v1alpha1.ReasonSandboxNotFound, "sandbox %s was deleted and created anew while the snapshot waited: create another snapshot of the new one", sandbox.Name)
	}
	return sandbox, nil
}

// canceled says why a pause's snapshot is not wanted any more, empty where it is. A snapshot
// that a user asked for is wanted until it is deleted.
func canceled(snapshot *v1alpha1.SandboxSnapshot, sandbox *v1alpha1.Sandbox) string {
	pause := PauseOf(snapshot)
	if pause == nil {
		return ""
	}
	condition := meta.FindStatusCondition(sandbox.Status.Conditions, v1alpha1.ConditionPaused)
	switch {
	case sandbox.UID != pause.SandboxUID:
		return fmt.Sprintf("sandbox %s was deleted and created anew", sandbox.Name)
	case sandbox.DeletionTimestamp != nil:
		return fmt.Sprintf("sandbox %s is being deleted", sandbox.Name)
	case sandbox.Status.Phase != v1alpha1.SandboxPausing || !IsAttemptOf(snapshot, sandbox):
		return fmt.Sprintf("sandbox %s does not wait for this attempt", sandbox.Name)
	case condition != nil && condition.Reason == v1alpha1.ReasonCanceling:
		return fmt.Sprintf("a resume of sandbox %s cancelled the pause", sandbox.Name)
	}
	return ""
}

// sourcePodUID is the Pod to commit: of a pause the one that its attempt is of, else the one that the sandbox runs in.
func sourcePodUID(snapshot *v1alpha1.SandboxSnapshot, sandbox *v1alpha1.Sandbox) types.UID {
	if pause := PauseOf(snapshot); pause != nil && pause.PodUID != "" {
		return pause.PodUID
	}
	return sandbox.Status.PodUID
}

// acquire takes a slot for the commit of the snapshot's Pod, and says what there is to wait for where
// none is free. A sandbox without a Pod needs none: the checks refuse it.
func (r *Reconciler) acquire(ctx context.Context, key client.ObjectKey, snapshot *v1alpha1.SandboxSnapshot, sandbox *v1alpha1.Sandbox) (bool, string, error) {
	if err := r.recovery.once(func() error { return r.recover(ctx) }); err != nil {
		return false, "", err
	}
	pod := sourcePodUID(snapshot, sandbox)
	if pod == "" {
		return true, "", nil
	}
	free, why := r.slots.acquire(key, slot{pod: pod, node: sandbox.Status.NodeName}, r.limits())
	return free, why, nil
}

func (r *Reconciler) queued(ctx context.Context, snapshot *v1alpha1.SandboxSnapshot, why string) error {
	message := "waiting: " + why
	condition := meta.FindStatusCondition(snapshot.Status.Conditions, v1alpha1.ConditionReady)
	if condition != nil && condition.Reason == v1alpha1.ReasonQueued && condition.Message == message {
		return nil
	}
	r.setCondition(snapshot, v1alpha1.ConditionReady, metav1.ConditionFalse, v1alpha1.ReasonQueued, "%s", message)
	return r.writeStatus(ctx, snapshot)
}

// committing records what the Job commits. The Job comes first and its source is read back from
// it, so that one status write is enough and a crash between the two loses nothing.
func (r *Reconciler) committing(ctx context.Context, snapshot *v1alpha1.SandboxSnapshot, sandbox *v1alpha1.Sandbox, job *batchv1.Job) error {
	if err := record(snapshot, job); err != nil {
		return err
	}
	if sandbox != nil {
		snapshot.Status.Template = sandbox.Spec.Template
	}
	r.setCondition(snapshot, v1alpha1.ConditionReady, metav1.ConditionFalse, v1alpha1.ReasonCommitting,
		"Job %s/%s commits Pod %s on node %s", job.Namespace, job.Name, snapshot.Status.SourcePodName, snapshot.Status.SourceNodeName)
	if err := r.writeStatus(ctx, snapshot); err != nil {
		return err
	}
	r.Recorder.Eventf(snapshot, nil, corev1.EventTypeNormal, v1alpha1.EventCommitJobCreated, "Commit",
		"created Job %s/%s, which commits Pod %s on node %s", job.Namespace, job.Name, snapshot.Status.SourcePodName, snapshot.Status.SourceNodeName)
	return nil
}

// record takes over into the status what the Job commits.
func record(snapshot *v1alpha1.SandboxSnapshot, job *batchv1.Job) error {
	source, err := commitjob.SourceOf(job)
	if err != nil {
		return err
	}
	status := &snapshot.Status
	status.Phase = v1alpha1.SnapshotCommitting
	status.SandboxUID = sandboxUID(job)
	status.SourcePodName, status.SourcePodUID, status.SourceNodeName = source.PodName, source.PodUID, source.NodeName
	status.Containers, status.Warnings = source.Containers, source.Warnings
	status.JobUID = job.UID
	status.StartTime = &job.CreationTimestamp
	return nil
}

func isRefusal(err error) bool {
	why := (*refusal)(nil)
	return errors.As(err, &why)
}
