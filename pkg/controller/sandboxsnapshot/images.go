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
	"time"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/meta"
	"sigs.k8s.io/controller-runtime/pkg/log"

	"github.com/opensandbox-io/sandbox-apiserver/apis/lifecycle/v1alpha1"
	"github.com/opensandbox-io/sandbox-apiserver/pkg/committer/registry"
	"github.com/opensandbox-io/sandbox-apiserver/pkg/metrics"
)

const (
	// deletionLimit is how long a registry may hold up the deletion of a snapshot, and with it of
	// a namespace. What it has not deleted by then stays.
	deletionLimit = 10 * time.Minute
	// firstDeletionRetry and lastDeletionRetry bound the wait after a failure: as long as the
	// registry has failed already.
	firstDeletionRetry = time.Second
	lastDeletionRetry  = time.Minute
)

// leftover is an image that outlives its snapshot.
type leftover struct {
	image, why string
}

// deleteImages deletes what the snapshot pushed, as its policy says. Nothing is deleted but manifests in the repository
// that this server would push the snapshot to now: whatever a status says, no other can be reached.
func (r *Reconciler) deleteImages(ctx context.Context, snapshot *v1alpha1.SandboxSnapshot) *deletedImages {
	if snapshot.Spec.DeletionPolicy == v1alpha1.DeletionPolicyRetain || snapshot.Spec.Source != nil {
		return &deletedImages{}
	}
	var left []leftover
	var problem error
	for i := range snapshot.Status.Containers {
		saved := &snapshot.Status.Containers[i]
		pushed := saved.ImageDigest != ""
		if !r.Images.Configured() || saved.ImageURI != r.reference(snapshot, saved.ContainerName) {
			if pushed {
				left = append(left, leftover{nameOf(saved), "it was pushed to another registry, or under another --snapshot-image-template, than this server's"})
			}
			continue
		}
		if !pushed && r.Images.Check(imageOf(snapshot, saved.ContainerName)) != nil {
			continue // there can be none of that name
		}
		// A commit that failed may have pushed the images of some containers. Their digests are not
		// known, but their tag is this snapshot's alone.
		err := r.Registry.Delete(ctx, saved.ImageURI, saved.ImageDigest)
		if err == nil {
			continue
		}
		left = append(left, leftover{nameOf(saved), err.Error()})
		if !errors.Is(err, registry.ErrDeleteUnsupported) && !errors.Is(err, registry.ErrOutOfReach) {
			problem = err
		}
	}
	if problem != nil {
		now := r.Clock.Now()
		if again := deletionRetry(heldUpSince(snapshot, now), now); again > 0 {
			log.FromContext(ctx).Info("The images of a deleted snapshot could not be deleted", "why", problem.Error(), "tried again in", again.String())
			return &deletedImages{again: again, why: problem}
		}
	}
	for _, image := range left {
		r.leave(ctx, snapshot, image)
	}
	return &deletedImages{}
}

// deletionRetry is how long to wait after another failure, zero where the limit is reached.
func deletionRetry(since, now time.Time) time.Duration {
	elapsed := now.Sub(since)
	if elapsed >= deletionLimit {
		return 0
	}
	return min(max(elapsed, firstDeletionRetry), lastDeletionRetry, deletionLimit-elapsed)
}

// heldUpSince is when the registry first failed to delete. What held up the deletion before that,
// a sandbox that needed the snapshot, is not held against the registry.
func heldUpSince(snapshot *v1alpha1.SandboxSnapshot, now time.Time) time.Time {
	ready := meta.FindStatusCondition(snapshot.Status.Conditions, v1alpha1.ConditionReady)
	switch {
	case ready == nil || ready.Reason != v1alpha1.ReasonImageDeletionFailed:
		return now
	case ready.LastTransitionTime.Before(snapshot.DeletionTimestamp):
		return snapshot.DeletionTimestamp.Time
	}
	return ready.LastTransitionTime.Time
}

// leave says that an image stays behind.
func (r *Reconciler) leave(ctx context.Context, snapshot *v1alpha1.SandboxSnapshot, left leftover) {
	metrics.ImageLeft()
	log.FromContext(ctx).Info("An image of a deleted snapshot stays in the registry", "image", left.image, "why", left.why)
	r.Recorder.Eventf(snapshot, nil, corev1.EventTypeWarning, v1alpha1.EventImageLeft, "Delete", "image %s stays in the registry: %s; delete it there", left.image, left.why)
}

// nameOf is an image as exactly as it is known.
func nameOf(saved *v1alpha1.ContainerSnapshot) string {
	if saved.ImageDigest == "" {
		return saved.ImageURI
	}
	return saved.ImageURI + "@" + saved.ImageDigest
}
