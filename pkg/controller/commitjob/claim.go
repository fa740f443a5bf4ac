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
	"errors"
	"fmt"
	"sync"
	"time"

	batchv1 "k8s.io/api/batch/v1"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/types"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/opensandbox-io/sandbox-apiserver/apis/lifecycle/v1alpha1"
	"github.com/opensandbox-io/sandbox-apiserver/pkg/committer/result"
)

// What a commit has left frozen its node thaws by itself after Config.ThawAfter, so that a server that is
// away leaves no Pod frozen. A Pod that may have run on since its commit must not be removed for it. So
// whoever removes one is sure that the node does not thaw it meanwhile. That is so for half of ThawAfter
// from a moment of which is known that the node has waited no time yet: from before the commit's Job was
// created, or from when the node was told to begin anew (a claim). The moments are of this process' own
// clock, which the one of the API server has nothing to do with; after a restart none is known.

// moments are such moments, by the UID of the snapshot.
type moments struct {
	mutex sync.Mutex
	since map[types.UID]time.Time
}

func (m *moments) note(snapshot types.UID, since, tooOld time.Time) {
	m.mutex.Lock()
	defer m.mutex.Unlock()
	if m.since == nil {
		m.since = map[types.UID]time.Time{}
	}
	for uid, at := range m.since {
		if at.Before(tooOld) {
			delete(m.since, uid)
		}
	}
	m.since[snapshot] = since
}

func (m *moments) of(snapshot types.UID) (since time.Time, known bool) {
	m.mutex.Lock()
	defer m.mutex.Unlock()
	since, known = m.since[snapshot]
	return since, known
}

// ErrNotBegun is that the API was not asked for a Job yet.
var ErrNotBegun = errors.New("the commit has not begun")

// Begin creates a commit Job, unless the one who stands beside an earlier commit of this sandbox is there
// still: it could take for its own what this one freezes.
func (r *Runner) Begin(ctx context.Context, job *batchv1.Job, source *Source) error {
	if err := r.endEarlier(ctx, job, source.NodeName); err != nil {
		return err
	}
	since := r.Clock.Now()
	if err := r.Client.Create(ctx, job); err != nil {
		return err // also where it has been there for long
	}
	r.Note(types.UID(job.Labels[v1alpha1.LabelSnapshotUID]), since)
	return nil
}

// endEarlier fails where Pods of earlier commits have not ended on a node, and ends them.
func (r *Runner) endEarlier(ctx context.Context, job *batchv1.Job, node string) error {
	pods := &corev1.PodList{}
	if err := r.Live.List(ctx, pods, client.InNamespace(r.Namespace), client.MatchingLabels{
		v1alpha1.LabelComponent: ComponentCommit, v1alpha1.LabelSandboxUID: job.Labels[v1alpha1.LabelSandboxUID],
	}); err != nil {
		return fmt.Errorf("list the Pods of earlier commits of sandbox %s: %w", job.Labels[v1alpha1.LabelSandbox], errors.Join(ErrNotBegun, err))
	}
	for i := range pods.Items {
		pod := &pods.Items[i]
		ended := pod.Status.Phase == corev1.PodSucceeded || pod.Status.Phase == corev1.PodFailed
		if ofPod(pod, containerName).State == Succeeded && onlyGuards(pod) {
			ended = true // who stands beside it thaws nothing then
		}
		if ended || pod.Spec.NodeName != node || pod.Labels[v1alpha1.LabelSnapshotUID] == job.Labels[v1alpha1.LabelSnapshotUID] {
			continue
		}
		if pod.DeletionTimestamp == nil {
			if err := ignoreGone(r.Client.Delete(ctx, pod, uidPrecondition(pod.UID))); err != nil {
				return fmt.Errorf("delete Pod %s/%s of an earlier commit: %w", pod.Namespace, pod.Name, errors.Join(ErrNotBegun, err))
			}
		}
		return fmt.Errorf("the Pod %s/%s of an earlier commit is about to end; this one comes after it: %w", pod.Namespace, pod.Name, ErrNotBegun)
	}
	return nil
}

// Note says that at a time no node had begun to wait yet for whoever removes the Pod of a snapshot's commit.
func (r *Runner) Note(snapshot types.UID, since time.Time) {
	r.frozen.note(snapshot, since, r.Clock.Now().Add(-r.thawAfter()))
}

// StaysFrozen says whether what a snapshot's commit left frozen is so for certain, and will be for as long
// as it takes to remove its Pod.
func (r *Runner) StaysFrozen(snapshot *v1alpha1.SandboxSnapshot) bool {
	since, known := r.frozen.of(snapshot.UID)
	return known && r.Clock.Since(since) < r.thawAfter()/2
}

// claimTimeout is how long a claim may take.
const claimTimeout = 10 * time.Second

// claimCommand is what runs in the container beside the commit.
var claimCommand = []string{program, "claim", "--termination-log=-", "--lock=" + killLock}

// Claim tells the node that somebody is there to remove the Pod of a snapshot's commit. It succeeds where
// what is frozen stays so for another ThawAfter.
func (r *Runner) Claim(ctx context.Context, snapshot *v1alpha1.SandboxSnapshot) Outcome {
	ctx, cancel := context.WithTimeoutCause(ctx, claimTimeout, fmt.Errorf("no answer came within %s", claimTimeout))
	defer cancel()
	pod, err := r.committed(ctx, snapshot)
	switch {
	case err != nil:
		return noKill(err.Error())
	case pod == nil:
		return noKill("the commit Pod is gone")
	}
	since := r.Clock.Now()
	said, _, err := r.Exec.Exec(ctx, client.ObjectKeyFromObject(pod), killName, claimCommand)
	reported, unreadable := result.Decode([]byte(said))
	switch {
	case unreadable == nil && reported.Error != nil:
		return noKill(reported.Error.Message)
	case err != nil || unreadable != nil:
		return noKill(errors.Join(err, unreadable).Error())
	}
	r.Note(snapshot.UID, since)
	return Outcome{State: Succeeded}
}
