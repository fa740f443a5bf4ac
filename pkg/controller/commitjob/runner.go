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

package commitjob

import (
	"context"
	"fmt"
	"slices"

	batchv1 "k8s.io/api/batch/v1"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/fields"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/utils/clock"
	"k8s.io/utils/ptr"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/opensandbox-io/sandbox-apiserver/apis/lifecycle/v1alpha1"
	"github.com/opensandbox-io/sandbox-apiserver/pkg/controller/naming"
)

// Runner runs Jobs and watches over what they freeze.
type Runner struct {
	Config
	// Client is the host cluster's; it reads Pods and Jobs from a cache.
	Client client.Client
	// Live reads past that cache, where a late answer would do harm.
	Live client.Reader
	// Exec runs what Kill runs.
	Exec Executor
	// Logs are read for reports that are longer than a termination message.
	Logs  Logs
	Clock clock.PassiveClock

	frozen, besideFailed moments
}

// IndexSnapshot finds the Jobs and Pods of a snapshot by its UID. A cache has no index of labels: it
// would look at every finished commit of the last minutes, each time.
const IndexSnapshot = "snapshot served"

// indexServed finds Jobs that commit or thaw by the namespace and name of their snapshot, and indexPod those that
// commit by the UID of their Pod.
const (
	indexServed = "snapshot served, by name"
	indexPod    = "pod committed"
)

// servedName is what indexServed finds a Job by.
func servedName(o client.Object) []string {
	component := o.GetLabels()[v1alpha1.LabelComponent]
	if component != ComponentCommit && component != ComponentUnpause {
		return nil
	}
	annotations := o.GetAnnotations()
	return []string{client.ObjectKey{Namespace: annotations[v1alpha1.AnnotationNamespace], Name: annotations[v1alpha1.AnnotationSnapshot]}.String()}
}

// committedPod is what indexPod finds a Job by. Jobs of an older server have no such label.
func committedPod(o client.Object) []string {
	if o.GetLabels()[v1alpha1.LabelComponent] != ComponentCommit {
		return nil
	}
	if uid := o.GetLabels()[v1alpha1.LabelPodUID]; uid != "" {
		return []string{uid}
	}
	if source, err := SourceOf(o.(*batchv1.Job)); err == nil {
		return []string{string(source.PodUID)}
	}
	return nil
}

// indexJob finds the Events about a Job by its UID.
const indexJob = "job told of"

// failedCreate is the reason of the Events by which kube-controller-manager tells of a Pod that it
// could not create (podutil.FailedCreatePodReason of its pkg/controller).
const failedCreate = "FailedCreate"

// Refusals are the Events that tell of Jobs whose Pods the API refuses. The Client has to have a
// cache of them.
func Refusals() fields.Selector {
	return fields.SelectorFromSet(fields.Set{"involvedObject.kind": "Job", "reason": failedCreate})
}

// AddIndexes registers what Runner lists by with the cache of its Client.
func AddIndexes(ctx context.Context, indexer client.FieldIndexer) error {
	if err := indexer.IndexField(ctx, &corev1.Event{}, indexJob, func(o client.Object) []string {
		return []string{string(o.(*corev1.Event).InvolvedObject.UID)}
	}); err != nil {
		return fmt.Errorf("index Events by their Job: %w", err)
	}
	for field, values := range map[string]client.IndexerFunc{indexServed: servedName, indexPod: committedPod} {
		if err := indexer.IndexField(ctx, &batchv1.Job{}, field, values); err != nil {
			return fmt.Errorf("index Jobs by %s: %w", field, err)
		}
	}
	for _, object := range []client.Object{&corev1.Pod{}, &batchv1.Job{}} {
		if err := indexer.IndexField(ctx, object, IndexSnapshot, func(o client.Object) []string {
			if uid := o.GetLabels()[v1alpha1.LabelSnapshotUID]; uid != "" {
				return []string{uid}
			}
			return nil
		}); err != nil {
			return fmt.Errorf("index %T by %s: %w", object, IndexSnapshot, err)
		}
	}
	return nil
}

// Find is the Job of the given name, nil where there is none. A Job of that name that serves
// another snapshot is an error.
func (r *Runner) Find(ctx context.Context, name string, snapshot *v1alpha1.SandboxSnapshot) (*batchv1.Job, error) {
	job := &batchv1.Job{}
	err := r.Live.Get(ctx, client.ObjectKey{Namespace: r.Namespace, Name: name}, job)
	if apierrors.IsNotFound(err) {
		return nil, nil
	}
	if err != nil {
		return nil, fmt.Errorf("read Job %s/%s: %w", r.Namespace, name, err)
	}
	if uid := job.Labels[v1alpha1.LabelSnapshotUID]; uid != string(snapshot.UID) {
		return nil, fmt.Errorf("a Job %s/%s exists and serves the snapshot with UID %q, not %q: delete it if it is yours", r.Namespace, name, uid, snapshot.UID)
	}
	return job, nil
}

// Serving are the Jobs that commit or thaw for the snapshot of that name, of whatever UID, as the cache shows them.
func (r *Runner) Serving(ctx context.Context, snapshot client.ObjectKey) ([]batchv1.Job, error) {
	jobs := &batchv1.JobList{}
	if err := r.Client.List(ctx, jobs, client.InNamespace(r.Namespace), client.MatchingFields{indexServed: snapshot.String()}); err != nil {
		return nil, fmt.Errorf("list the Jobs that serve snapshot %s: %w", snapshot, err)
	}
	return jobs.Items, nil
}

// ServingLive is Serving past the cache.
func (r *Runner) ServingLive(ctx context.Context, snapshot client.ObjectKey) ([]batchv1.Job, error) {
	jobs := &batchv1.JobList{}
	if err := r.Live.List(ctx, jobs, client.InNamespace(r.Namespace), client.MatchingLabels{v1alpha1.LabelSnapshot: naming.LabelValue(snapshot.Name)}); err != nil {
		return nil, fmt.Errorf("list the Jobs that serve snapshot %s: %w", snapshot, err)
	}
	return slices.DeleteFunc(jobs.Items, func(job batchv1.Job) bool { return !slices.Contains(servedName(&job), snapshot.String()) }), nil
}

// OfPod are the Jobs that commit that Pod, as the cache shows them.
func (r *Runner) OfPod(ctx context.Context, pod types.UID) ([]batchv1.Job, error) {
	jobs := &batchv1.JobList{}
	if err := r.Client.List(ctx, jobs, client.InNamespace(r.Namespace), client.MatchingFields{indexPod: string(pod)}); err != nil {
		return nil, fmt.Errorf("list the Jobs that commit the Pod with UID %s: %w", pod, err)
	}
	return jobs.Items, nil
}

// Observe reads the outcome of a snapshot's commit Job.
func (r *Runner) Observe(ctx context.Context, snapshot *v1alpha1.SandboxSnapshot) (Outcome, error) {
	job := &batchv1.Job{}
	key := client.ObjectKey{Namespace: r.Namespace, Name: naming.CommitJob(snapshot.Namespace, snapshot.Name, snapshot.UID)}
	if err := r.Client.Get(ctx, key, job); err != nil {
		if !apierrors.IsNotFound(err) {
			return Outcome{}, fmt.Errorf("read Job %s: %w", key, err)
		}
		// The cache may be behind the creation; that a Job is gone is believed only live.
		if job, err = r.Find(ctx, key.Name, snapshot); err != nil {
			return Outcome{}, err
		}
	}
	pods, err := r.cachedPods(ctx, snapshot, ComponentCommit)
	if err != nil {
		return Outcome{}, err
	}
	refusal, err := r.refusal(ctx, snapshot.Status.JobUID)
	if err != nil {
		return Outcome{}, err
	}
	outcome := Observe(snapshot.Status.JobUID, job, pods, refusal)
	if outcome.State == Succeeded {
		return r.whole(ctx, outcome)
	}
	if outcome.State != Failed {
		return outcome, nil
	}
	// The cache of Pods may be behind that of Jobs: a Pod that it does not know yet may have left
	// the result. That a commit has failed is believed only live.
	if pods, err = r.livePods(ctx, snapshot, ComponentCommit); err != nil {
		return Outcome{}, err
	}
	return r.whole(ctx, Observe(snapshot.Status.JobUID, job, pods, refusal))
}

// GiveUp ends a snapshot's commit Job that gets no Pod. kube-controller-manager does that, at the
// deadline: what it then says of the Job's Pods is certain, and no other comes after.
func (r *Runner) GiveUp(ctx context.Context, snapshot *v1alpha1.SandboxSnapshot) error {
	job, err := r.Find(ctx, naming.CommitJob(snapshot.Namespace, snapshot.Name, snapshot.UID), snapshot)
	if err != nil || job == nil {
		return err
	}
	before := job.DeepCopy()
	job.Spec.ActiveDeadlineSeconds = ptr.To[int64](1)
	if err := ignoreGone(r.Client.Patch(ctx, job, client.MergeFrom(before))); err != nil {
		return fmt.Errorf("bring forward the deadline of Job %s/%s: %w", job.Namespace, job.Name, err)
	}
	return nil
}

// Stop ends a snapshot's commit Job. It returns at once; Observe says when nothing runs any more. neverRan says
// that its Pod had not come to a node and has gone: nothing was ever frozen, and a Pod to thaw would not come there either.
func (r *Runner) Stop(ctx context.Context, snapshot *v1alpha1.SandboxSnapshot) (neverRan bool, err error) {
	job, err := r.Find(ctx, naming.CommitJob(snapshot.Namespace, snapshot.Name, snapshot.UID), snapshot)
	if err != nil {
		return false, err
	}
	if job != nil && job.DeletionTimestamp == nil {
		err := r.Client.Delete(ctx, job, client.PropagationPolicy(metav1.DeletePropagationBackground), uidPrecondition(job.UID))
		if err := ignoreGone(err); err != nil {
			return false, fmt.Errorf("delete Job %s/%s: %w", job.Namespace, job.Name, err)
		}
	}
	// The garbage collector would come to the Pods too; a frozen container is not left to wait.
	pods, err := r.livePods(ctx, snapshot, ComponentCommit)
	if err != nil {
		return false, err
	}
	neverRan = len(pods) == 1
	for i := range pods {
		pod := &pods[i]
		if pod.DeletionTimestamp != nil {
			neverRan = false
			continue
		}
		only := uidPrecondition(pod.UID)
		if pod.Spec.NodeName == "" {
			only.ResourceVersion = &pod.ResourceVersion // and not if a node gets it in this moment
		} else {
			neverRan = false
		}
		switch err := r.Client.Delete(ctx, pod, only); {
		case apierrors.IsConflict(err):
			neverRan = false // the next visit deletes it
		case client.IgnoreNotFound(err) != nil:
			return false, fmt.Errorf("delete Pod %s/%s: %w", pod.Namespace, pod.Name, err)
		}
	}
	return neverRan, nil
}

// Uncache has removed from its node what was kept there for a snapshot that is going away. Nobody
// waits for it: the node may be gone. It has to come after Cleanup.
func (r *Runner) Uncache(ctx context.Context, snapshot *v1alpha1.SandboxSnapshot) error {
	job := r.Config.Uncache(snapshot, SourceIn(snapshot))
	if err := r.Client.Create(ctx, job); err != nil && !apierrors.IsAlreadyExists(err) {
		return fmt.Errorf("create Job %s/%s: %w", job.Namespace, job.Name, err)
	}
	return nil
}

// Cleanup deletes every Job of a snapshot and says whether none is left.
func (r *Runner) Cleanup(ctx context.Context, snapshot *v1alpha1.SandboxSnapshot) (bool, error) {
	jobs := &batchv1.JobList{}
	if err := r.Client.List(ctx, jobs, client.InNamespace(r.Namespace), client.MatchingFields{IndexSnapshot: string(snapshot.UID)}); err != nil {
		return false, fmt.Errorf("list the Jobs of snapshot %s/%s: %w", snapshot.Namespace, snapshot.Name, err)
	}
	for i := range jobs.Items {
		job := &jobs.Items[i]
		if job.DeletionTimestamp != nil {
			continue
		}
		err := r.Client.Delete(ctx, job, client.PropagationPolicy(metav1.DeletePropagationBackground), uidPrecondition(job.UID))
		if err := ignoreGone(err); err != nil {
			return false, fmt.Errorf("delete Job %s/%s: %w", job.Namespace, job.Name, err)
		}
	}
	return len(jobs.Items) == 0, nil
}

// refusal is what the API answered when a Pod of the Job was last created, empty where it never
// refused one. kube-controller-manager goes on trying, so one may be there by now.
func (r *Runner) refusal(ctx context.Context, job types.UID) (string, error) {
	events := &corev1.EventList{}
	if err := r.Client.List(ctx, events, client.InNamespace(r.Namespace), client.MatchingFields{indexJob: string(job)}); err != nil {
		return "", fmt.Errorf("list the Events of the Job with UID %s: %w", job, err)
	}
	var last *corev1.Event
	for i := range events.Items {
		event := &events.Items[i]
		if event.Reason == failedCreate && (last == nil || last.LastTimestamp.Before(&event.LastTimestamp)) {
			last = event
		}
	}
	if last == nil {
		return "", nil
	}
	return last.Message, nil
}

func (r *Runner) cachedPods(ctx context.Context, snapshot *v1alpha1.SandboxSnapshot, component string) ([]corev1.Pod, error) {
	return r.pods(ctx, r.Client, snapshot, client.MatchingFields{IndexSnapshot: string(snapshot.UID)}, client.MatchingLabels{v1alpha1.LabelComponent: component})
}

func (r *Runner) livePods(ctx context.Context, snapshot *v1alpha1.SandboxSnapshot, component string) ([]corev1.Pod, error) {
	return r.pods(ctx, r.Live, snapshot, client.MatchingLabels{v1alpha1.LabelSnapshotUID: string(snapshot.UID), v1alpha1.LabelComponent: component})
}

func (r *Runner) pods(ctx context.Context, reader client.Reader, snapshot *v1alpha1.SandboxSnapshot, selection ...client.ListOption) ([]corev1.Pod, error) {
	pods := &corev1.PodList{}
	if err := reader.List(ctx, pods, append(selection, client.InNamespace(r.Namespace))...); err != nil {
		return nil, fmt.Errorf("list the commit Pods of snapshot %s/%s: %w", snapshot.Namespace, snapshot.Name, err)
	}
	return pods.Items, nil
}

func uidPrecondition(uid types.UID) client.Preconditions {
	return client.Preconditions{UID: &uid}
}

// ignoreGone takes what was deleted, or replaced by another of its name, for gone.
func ignoreGone(err error) error {
	if apierrors.IsNotFound(err) || apierrors.IsConflict(err) {
		return nil
	}
	return err
}
