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
	"sync"

	batchv1 "k8s.io/api/batch/v1"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/types"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/opensandbox-io/sandbox-apiserver/apis/lifecycle/v1alpha1"
	"github.com/opensandbox-io/sandbox-apiserver/pkg/controller/commitjob"
)

// recovery is done once, and again as long as it fails.
type recovery struct {
	mutex sync.Mutex
	done  bool
}

func (r *recovery) once(do func() error) error {
	r.mutex.Lock()
	defer r.mutex.Unlock()
	if r.done {
		return nil
	}
	if err := do(); err != nil {
		return err
	}
	r.done = true
	return nil
}

// recover finds the commits that an earlier process began, so that no Pod is committed twice at
// once: those that snapshots tell of, and the Jobs that were created just before that process
// died and that no status knows yet.
func (r *Reconciler) recover(ctx context.Context) error {
	committing := &v1alpha1.SandboxSnapshotList{}
	if err := r.Live.List(ctx, committing, client.MatchingFields{v1alpha1.FieldStatusPhase: string(v1alpha1.SnapshotCommitting)}); err != nil {
		return fmt.Errorf("list the snapshots under way: %w", err)
	}
	for i := range committing.Items {
		snapshot := &committing.Items[i]
		r.slots.keep(client.ObjectKeyFromObject(snapshot), slotOf(snapshot.Status.SourcePodUID, snapshot.Status.SourceNodeName, RescueOf(snapshot) != nil))
	}
	jobs := &batchv1.JobList{}
	if err := r.Jobs.Live.List(ctx, jobs, client.InNamespace(r.Jobs.Namespace), client.MatchingLabels{v1alpha1.LabelComponent: commitjob.ComponentCommit}); err != nil {
		return fmt.Errorf("list the commit Jobs: %w", err)
	}
	for i := range jobs.Items {
		if err := r.keepUnrecorded(ctx, &jobs.Items[i]); err != nil {
			return err
		}
	}
	return nil
}

// keepUnrecorded notes the slot of a Job whose snapshot has still to be told of it. The end of
// that snapshot gives the slot back.
//
// One Job that cannot be read, because somebody has edited it, is no reason to commit nothing: its Pod is known by its
// label, and what is to become of it its snapshot's visit decides.
func (r *Reconciler) keepUnrecorded(ctx context.Context, job *batchv1.Job) error {
	if ended(job) {
		return nil
	}
	source, err := commitjob.SourceOf(job)
	if err != nil {
		source = &commitjob.Source{PodUID: types.UID(job.Labels[v1alpha1.LabelPodUID])}
	}
	its := slotOf(source.PodUID, source.NodeName, source.Rescue)
	key := client.ObjectKey{Namespace: job.Annotations[v1alpha1.AnnotationNamespace], Name: job.Annotations[v1alpha1.AnnotationSnapshot]}
	snapshot := &v1alpha1.SandboxSnapshot{}
	if err := r.Live.Get(ctx, key, snapshot); err != nil {
		if apierrors.IsNotFound(err) {
			r.slots.keep(strayKey(job), its)
			return nil
		}
		return fmt.Errorf("read snapshot %s: %w", key, err)
	}
	switch {
	case astray(job, snapshot):
		r.slots.keep(strayKey(job), its)
	case snapshot.Status.Phase != v1alpha1.SnapshotSucceed && snapshot.Status.Phase != v1alpha1.SnapshotFailed:
		r.slots.keep(key, its)
	}
	return nil
}

func ended(job *batchv1.Job) bool {
	for _, condition := range job.Status.Conditions {
		if (condition.Type == batchv1.JobComplete || condition.Type == batchv1.JobFailed) && condition.Status == corev1.ConditionTrue {
			return true
		}
	}
	return false
}
