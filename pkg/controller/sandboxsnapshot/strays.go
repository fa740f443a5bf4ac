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
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/controller-runtime/pkg/log"

	"github.com/opensandbox-io/sandbox-apiserver/apis/lifecycle/v1alpha1"
	"github.com/opensandbox-io/sandbox-apiserver/pkg/controller/commitjob"
)

// A Job whose snapshot is gone, or has failed without it, is astray: its finalizer was taken away by force, the store was
// lost, or the API created it after it had said that it could not. It may freeze, and nobody would
// thaw. So it is ended and what it has left frozen is thawed, by what it says itself, and until then no other commit of
// its Pod begins.

// strays ends the Jobs that are astray of a snapshot's name; snapshot is the one of that name now, nil where there is
// none. It returns when to look again, zero where nothing is astray.
func (r *Reconciler) strays(ctx context.Context, key client.ObjectKey, snapshot *v1alpha1.SandboxSnapshot) (time.Duration, error) {
	jobs, err := r.Jobs.Serving(ctx, key)
	if err == nil && snapshot == nil && r.slots.has(key) {
		// It went while its commit was under way; the cache may not know that Job yet.
		jobs, err = r.Jobs.ServingLive(ctx, key)
	}
	if err != nil {
		return 0, err
	}
	again := time.Duration(0)
	var left []client.ObjectKey
	for _, job := range latest(jobs) {
		if !astray(job, snapshot) {
			continue
		}
		left = append(left, strayKey(job))
		done, err := r.endStray(ctx, job)
		if err != nil {
			log.FromContext(ctx).Error(err, "A Job whose snapshot is gone cannot be ended yet", "job", client.ObjectKeyFromObject(job))
		}
		if !done {
			again = longestWait
		}
	}
	for _, ended := range r.slots.of(strayNamespace(key)) {
		if !slices.Contains(left, ended) {
			r.release(ended) // somebody has deleted its Job
		}
	}
	return again, nil
}

// latest has one Job of each UID of a snapshot: the commit, or the unpause where that is all that is left.
func latest(jobs []batchv1.Job) map[string]*batchv1.Job {
	of := map[string]*batchv1.Job{}
	for i := range jobs {
		uid := jobs[i].Labels[v1alpha1.LabelSnapshotUID]
		if of[uid] == nil || jobs[i].Labels[v1alpha1.LabelComponent] == commitjob.ComponentCommit {
			of[uid] = &jobs[i]
		}
	}
	return of
}

// astray says whether nobody follows a Job.
func astray(job *batchv1.Job, snapshot *v1alpha1.SandboxSnapshot) bool {
	if snapshot == nil || string(snapshot.UID) != job.Labels[v1alpha1.LabelSnapshotUID] {
		return true
	}
	return snapshot.Status.Phase == v1alpha1.SnapshotFailed && job.Labels[v1alpha1.LabelComponent] == commitjob.ComponentCommit &&
		snapshot.Status.JobUID != job.UID && !ended(job)
}

// endStray ends a Job that is astray, and says whether nothing of it is left.
func (r *Reconciler) endStray(ctx context.Context, job *batchv1.Job) (bool, error) {
	key := strayKey(job)
	source, err := commitjob.SourceOf(job)
	if err != nil {
		source = &commitjob.Source{PodUID: types.UID(job.Labels[v1alpha1.LabelPodUID])}
	}
	if !r.slots.has(key) {
		r.slots.keep(key, slotOf(source.PodUID, source.NodeName, source.Rescue))
	}
	shadow := shadowOf(job, source)
	outcome, err := r.Jobs.Observe(ctx, shadow)
	if err != nil {
		return false, err
	}
	switch {
	case outcome.State == commitjob.Active:
		// Its deadline ends it: the Job stays, which is all that tells what it may have frozen.
		return false, r.Jobs.GiveUp(ctx, shadow)
	case !outcome.Thawed && !source.Rescue:
		r.given(r.slots.end(key, r.limits()))
		if leaving, err := r.podLeaves(ctx, shadow); err != nil || leaving {
			return false, err
		}
		if thawed, why, err := r.Jobs.Thaw(ctx, shadow); err != nil || !thawed {
			if why != "" {
				err = fmt.Errorf("thaw Pod %s/%s: %s", shadow.Namespace, source.PodName, why)
			}
			return false, err
		}
	}
	if _, err := r.Jobs.Cleanup(ctx, shadow); err != nil {
		return false, err
	}
	log.FromContext(ctx).Info("A commit whose snapshot is gone has been ended, and nothing that it froze is frozen", "job", client.ObjectKeyFromObject(job))
	r.release(key)
	return true, nil
}

// podLeaves says whether the Pod is being deleted: the pause that it was for has gone on, and what is frozen is to end so.
func (r *Reconciler) podLeaves(ctx context.Context, shadow *v1alpha1.SandboxSnapshot) (bool, error) {
	pod := &corev1.Pod{}
	key := client.ObjectKey{Namespace: shadow.Namespace, Name: shadow.Status.SourcePodName}
	if err := r.HostLive.Get(ctx, key, pod); err != nil {
		if apierrors.IsNotFound(err) {
			return false, nil
		}
		return false, fmt.Errorf("read Pod %s: %w", key, err)
	}
	return pod.UID == shadow.Status.SourcePodUID && pod.DeletionTimestamp != nil, nil
}

// shadowOf is the snapshot that a Job was made for, as far as the Job tells of it.
func shadowOf(job *batchv1.Job, source *commitjob.Source) *v1alpha1.SandboxSnapshot {
	shadow := &v1alpha1.SandboxSnapshot{
		ObjectMeta: metav1.ObjectMeta{
			Namespace: job.Annotations[v1alpha1.AnnotationNamespace], Name: job.Annotations[v1alpha1.AnnotationSnapshot],
			UID: types.UID(job.Labels[v1alpha1.LabelSnapshotUID]),
		},
		Spec: v1alpha1.SandboxSnapshotSpec{SandboxName: job.Labels[v1alpha1.LabelSandbox]},
		Status: v1alpha1.SandboxSnapshotStatus{
			SandboxUID: types.UID(job.Labels[v1alpha1.LabelSandboxUID]), SourcePodName: source.PodName, SourcePodUID: source.PodUID,
			SourceNodeName: source.NodeName, Containers: source.Containers,
		},
	}
	if job.Labels[v1alpha1.LabelComponent] == commitjob.ComponentCommit {
		shadow.Status.JobUID = job.UID
	}
	return shadow
}

// strayKey is whom a slot belongs to that a Job without a snapshot has.
func strayKey(job *batchv1.Job) client.ObjectKey {
	of := client.ObjectKey{Namespace: job.Annotations[v1alpha1.AnnotationNamespace], Name: job.Annotations[v1alpha1.AnnotationSnapshot]}
	return client.ObjectKey{Namespace: strayNamespace(of), Name: job.Name}
}

// strayNamespace is no namespace that there can be.
func strayNamespace(of client.ObjectKey) string { return strayPrefix + of.String() }

const strayPrefix = "astray of "
