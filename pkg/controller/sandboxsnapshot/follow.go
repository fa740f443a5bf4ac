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
	"time"

	batchv1 "k8s.io/api/batch/v1"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	ctrl "sigs.k8s.io/controller-runtime"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/opensandbox-io/sandbox-apiserver/apis/lifecycle/v1alpha1"
	"github.com/opensandbox-io/sandbox-apiserver/pkg/committer/result"
	"github.com/opensandbox-io/sandbox-apiserver/pkg/controller/commitjob"
)

// underWay says whether a commit runs and nothing is to be said about it, as the caches show it.
// That is what most visits find: one follows every step of the commit's Job and Pod, and every write
// of the sandbox. They read nothing from the API: what the caches do not show yet has an event of its
// own, which brings another visit, and nothing is done on their word.
func (r *Reconciler) underWay(ctx context.Context, key client.ObjectKey) (bool, error) {
	snapshot := &v1alpha1.SandboxSnapshot{}
	if err := r.Client.Get(ctx, key, snapshot); err != nil {
		return false, client.IgnoreNotFound(err)
	}
	ending := meta.FindStatusCondition(snapshot.Status.Conditions, v1alpha1.ConditionFailed) != nil
	if snapshot.DeletionTimestamp != nil || snapshot.Status.Phase != v1alpha1.SnapshotCommitting || ending {
		return false, nil
	}
	if _, err := r.sandbox(ctx, r.Client, snapshot); isRefusal(err) {
		return false, nil
	} else if err != nil {
		return false, err
	}
	outcome, err := r.Jobs.Observe(ctx, snapshot)
	if err != nil || outcome.State != commitjob.Active || outcome.Refused {
		return false, err
	}
	return !saysMore(snapshot, v1alpha1.ReasonCommitting, news(snapshot, outcome)), nil
}

// follow watches over a commit until it has ended, and what it froze is thawed where it failed.
//
// An attempt that ends badly without a report that everything is thawed first gets the
// condition Failed=Unknown with the reason that it will end with. From then on the snapshot
// can only fail, and it says Failed only when nothing is frozen any more.
func (r *Reconciler) follow(ctx context.Context, snapshot *v1alpha1.SandboxSnapshot) (ctrl.Result, error) {
	if ending := meta.FindStatusCondition(snapshot.Status.Conditions, v1alpha1.ConditionFailed); ending != nil {
		ended, why, err := r.stopAndThaw(ctx, snapshot)
		if err != nil {
			return ctrl.Result{}, err
		}
		if !ended {
			return ctrl.Result{RequeueAfter: backstop}, r.progress(ctx, snapshot, v1alpha1.ReasonThawing, why)
		}
		r.Recorder.Eventf(snapshot, nil, corev1.EventTypeNormal, v1alpha1.EventThawed, "Thaw", "nothing that the commit froze is frozen any more")
		return ctrl.Result{}, r.fail(ctx, snapshot, ending.Reason, ending.Message)
	}

	if _, err := r.sandbox(ctx, r.Live, snapshot); isRefusal(err) {
		if PauseOf(snapshot) != nil {
			return ctrl.Result{}, r.ending(ctx, snapshot, v1alpha1.ReasonCanceled, err.Error())
		}
	} else if err != nil {
		return ctrl.Result{}, err
	}

	outcome, err := r.Jobs.Observe(ctx, snapshot)
	if err != nil {
		return ctrl.Result{}, err
	}
	switch {
	case outcome.Refused:
		return r.refused(ctx, snapshot, outcome.Message)
	case outcome.State == commitjob.Active:
		return ctrl.Result{RequeueAfter: backstop}, r.progress(ctx, snapshot, v1alpha1.ReasonCommitting, news(snapshot, outcome))
	case outcome.State == commitjob.Succeeded:
		if err := adopt(&snapshot.Status, outcome.Result); err != nil {
			return ctrl.Result{}, r.ending(ctx, snapshot, v1alpha1.ReasonResultMissing, err.Error())
		}
		return ctrl.Result{}, r.succeed(ctx, snapshot)
	case outcome.Thawed:
		return ctrl.Result{}, r.fail(ctx, snapshot, outcome.Reason, outcome.Message)
	}
	return ctrl.Result{}, r.ending(ctx, snapshot, outcome.Reason, outcome.Message)
}

// stopAndThaw ends the commit Job and says whether it runs no more and left nothing frozen, or
// what is in the way of that.
func (r *Reconciler) stopAndThaw(ctx context.Context, snapshot *v1alpha1.SandboxSnapshot) (ended bool, why string, err error) {
	outcome, err := r.Jobs.Observe(ctx, snapshot)
	if err != nil {
		return false, "", err
	}
	switch {
	case outcome.Refused:
		// Its end proves that nothing was ever frozen. A Job to thaw would be refused its Pod as well.
		return false, outcome.Message, r.Jobs.GiveUp(ctx, snapshot)
	case outcome.State == commitjob.Active:
		return false, "", r.Jobs.Stop(ctx, snapshot)
	case outcome.Thawed:
		return true, "", nil
	}
	return r.Jobs.Thaw(ctx, snapshot)
}

// refusedLimit is for how long a commit Job may go without a Pod that the API refuses. A quota may
// have room in a moment, and kube-controller-manager tries again by itself; but an attempt holds a
// slot, and whoever waits for the pause is better served by the next.
const refusedLimit = 30 * time.Second

// refused tells why the Job gets no Pod, and ends it after a while.
func (r *Reconciler) refused(ctx context.Context, snapshot *v1alpha1.SandboxSnapshot, why string) (ctrl.Result, error) {
	if err := r.progress(ctx, snapshot, v1alpha1.ReasonCommitPodRejected, why); err != nil {
		return ctrl.Result{}, err
	}
	if left := refusedLimit - r.Clock.Since(snapshot.Status.StartTime.Time); left > 0 {
		return ctrl.Result{RequeueAfter: left}, nil
	}
	return ctrl.Result{RequeueAfter: backstop}, r.Jobs.GiveUp(ctx, snapshot)
}

// progress tells of a commit or unpause Pod that does not start: its Job's deadline ends it, but
// the reason is wanted before.
func (r *Reconciler) progress(ctx context.Context, snapshot *v1alpha1.SandboxSnapshot, reason, problem string) error {
	if !saysMore(snapshot, reason, problem) {
		return nil
	}
	r.setCondition(snapshot, v1alpha1.ConditionReady, metav1.ConditionFalse, reason, "%s", problem)
	return r.writeStatus(ctx, snapshot)
}

// news is what there is to say of an active commit Job, empty where that is nothing.
func news(snapshot *v1alpha1.SandboxSnapshot, outcome commitjob.Outcome) string {
	ready := meta.FindStatusCondition(snapshot.Status.Conditions, v1alpha1.ConditionReady)
	if outcome.Message == "" && ready != nil && ready.Reason == v1alpha1.ReasonCommitPodRejected {
		return "the commit Job has got its Pod"
	}
	return outcome.Message
}

// saysMore says whether the snapshot does not tell of that problem yet.
func saysMore(snapshot *v1alpha1.SandboxSnapshot, reason, problem string) bool {
	ready := meta.FindStatusCondition(snapshot.Status.Conditions, v1alpha1.ConditionReady)
	return problem != "" && (ready == nil || ready.Reason != reason || ready.Message != problem)
}

// adopt takes the committer's report over, if it has a digest for every container and no other.
func adopt(status *v1alpha1.SandboxSnapshotStatus, report result.Result) error {
	refs := make([]result.Ref, 0, len(status.Containers))
	for i := range status.Containers {
		refs = append(refs, result.Ref{Name: status.Containers[i].ContainerName, Image: status.Containers[i].ImageURI})
	}
	if err := report.Unpack(refs); err != nil {
		return err
	}
	if len(report.Containers) != len(status.Containers) {
		return fmt.Errorf("image-committer reports %d containers, %d were to be committed", len(report.Containers), len(status.Containers))
	}
	adopted := slices.Clone(status.Containers)
	for i := range adopted {
		at := slices.IndexFunc(report.Containers, func(c result.Container) bool { return c.Name == adopted[i].ContainerName })
		if at < 0 || report.Containers[at].Digest == "" || report.Containers[at].Image != adopted[i].ImageURI {
			return fmt.Errorf("image-committer reports no digest of container %s in %s", adopted[i].ContainerName, adopted[i].ImageURI)
		}
		adopted[i].ImageDigest = report.Containers[at].Digest
		adopted[i].LayerBytes = report.Containers[at].LayerBytes
		adopted[i].Layers = int32(report.Containers[at].Layers) //nolint:gosec // bounded by what a runtime can mount
		adopted[i].Differ = v1alpha1.SnapshotDiffer(report.Containers[at].Differ)
		if adopted[i].Differ == "" {
			adopted[i].Differ = v1alpha1.DifferOverlay
		}
	}
	status.Containers = adopted
	status.FrozenDuration = &metav1.Duration{Duration: time.Duration(report.FrozenMillis) * time.Millisecond}
	warnings := slices.Clone(status.Warnings)
	for _, warning := range report.Warnings {
		warnings = append(warnings, v1alpha1.SnapshotWarning{
			Reason: string(warning.Reason), ContainerName: warning.Container, Path: warning.Path, Message: warning.Message,
		})
	}
	status.Warnings = bounded(warnings)
	return nil
}

func (r *Reconciler) succeed(ctx context.Context, snapshot *v1alpha1.SandboxSnapshot) error {
	return r.succeeded(ctx, snapshot, "%d images are in the registry", metav1.Condition{
		Status: metav1.ConditionTrue, Reason: v1alpha1.ReasonImageAvailable, Message: "every image of the snapshot is in the registry",
	})
}

// succeeded writes the one end, with what is known of the images.
func (r *Reconciler) succeeded(ctx context.Context, snapshot *v1alpha1.SandboxSnapshot, ready string, available metav1.Condition) error {
	snapshot.Status.Phase = v1alpha1.SnapshotSucceed
	snapshot.Status.CompletionTime = r.now()
	r.setCondition(snapshot, v1alpha1.ConditionReady, metav1.ConditionTrue, v1alpha1.ReasonSucceeded, ready, len(snapshot.Status.Containers))
	r.setCondition(snapshot, v1alpha1.ConditionFailed, metav1.ConditionFalse, v1alpha1.ReasonSucceeded, "the commit succeeded")
	r.setCondition(snapshot, v1alpha1.ConditionImageAvailable, available.Status, available.Reason, "%s", available.Message)
	if err := r.writeStatus(ctx, snapshot); err != nil {
		return err
	}
	r.Recorder.Eventf(snapshot, nil, corev1.EventTypeNormal, v1alpha1.ReasonSucceeded, "Commit", "committed %s", images(snapshot))
	for _, warning := range snapshot.Status.Warnings {
		r.Recorder.Eventf(snapshot, nil, corev1.EventTypeWarning, warning.Reason, "Commit", "%s", warning.Message)
	}
	r.release(client.ObjectKeyFromObject(snapshot))
	return nil
}

// ending records that the attempt has failed before anything is done about it, so that the
// reason outlives the Job.
func (r *Reconciler) ending(ctx context.Context, snapshot *v1alpha1.SandboxSnapshot, reason, message string) error {
	r.setCondition(snapshot, v1alpha1.ConditionReady, metav1.ConditionFalse, v1alpha1.ReasonThawing, "the attempt ended (%s); making sure that nothing stays frozen", reason)
	r.setCondition(snapshot, v1alpha1.ConditionFailed, metav1.ConditionUnknown, reason, "%s", message)
	return r.writeStatus(ctx, snapshot)
}

func (r *Reconciler) fail(ctx context.Context, snapshot *v1alpha1.SandboxSnapshot, reason, message string) error {
	snapshot.Status.Phase = v1alpha1.SnapshotFailed
	snapshot.Status.CompletionTime = r.now()
	r.setCondition(snapshot, v1alpha1.ConditionReady, metav1.ConditionFalse, reason, "%s", message)
	r.setCondition(snapshot, v1alpha1.ConditionFailed, metav1.ConditionTrue, reason, "%s", message)
	if err := r.writeStatus(ctx, snapshot); err != nil {
		return err
	}
	r.Recorder.Eventf(snapshot, nil, corev1.EventTypeWarning, reason, "Commit", "%s", message)
	r.release(client.ObjectKeyFromObject(snapshot))
	return nil
}

func (r *Reconciler) now() *metav1.Time {
	now := metav1.NewTime(r.Clock.Now())
	return &now
}

func images(snapshot *v1alpha1.SandboxSnapshot) string {
	list := ""
	for i := range snapshot.Status.Containers {
		if i > 0 {
			list += ", "
		}
		list += snapshot.Status.Containers[i].ImageURI + "@" + snapshot.Status.Containers[i].ImageDigest
	}
	return list
}

func sandboxUID(job *batchv1.Job) types.UID {
	return types.UID(job.Labels[v1alpha1.LabelSandboxUID])
}
