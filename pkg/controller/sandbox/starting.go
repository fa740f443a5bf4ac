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

package sandbox

import (
	"fmt"
	"time"

	"k8s.io/apimachinery/pkg/api/meta"
	"k8s.io/utils/ptr"

	"github.com/opensandbox-io/sandbox-apiserver/apis/lifecycle/v1alpha1"
)

// imageRetry is how soon a resume asks again for an image that the registry does not have.
const imageRetry = 30 * time.Second

// starting brings the Pod up: the first one, or the one of a resume.
func (o *observed) starting() action {
	next := o.next()
	if o.sandbox.Spec.RestoreFrom != nil && next.SnapshotName == "" && next.Phase != v1alpha1.SandboxResuming && o.pod == nil {
		return o.restoring(next)
	}
	if o.pausedReason() == v1alpha1.ReasonRemovingPod {
		// A resume from elsewhere, of a sandbox whose containers have ended.
		if o.pod != nil {
			return o.remove(nil)
		}
		next.forgetPod()
		next.set(v1alpha1.ConditionPaused, false, v1alpha1.ReasonResuming, "the Pod is coming back")
		return o.write(next, nil)
	}
	if o.pod == nil {
		return o.creating(next)
	}

	unseen := o.sandbox.Status.PodUID == "" || next.Phase == v1alpha1.SandboxResuming
	if unseen && o.pod.Annotations[v1alpha1.AnnotationRestoredFrom] != next.SnapshotName {
		// Left over from before, or from a resume that was asked to come from elsewhere since: its
		// files are not those that are wanted.
		return o.remove(ptr.To[int64](removalGrace))
	}
	view := o.view()
	if view.lost {
		return o.ended(next, view)
	}
	if !view.started {
		if act, is := o.pulling(next, view); is {
			return act
		}
		next.show(o.pod, view)
		return o.write(next, nil)
	}
	next.show(o.pod, view)
	next.Phase = v1alpha1.SandboxRunning
	next.set(v1alpha1.ConditionPaused, false, v1alpha1.ReasonRunning, "the sandbox is not paused")
	return o.write(next, &note{reason: v1alpha1.ReasonRunning, message: fmt.Sprintf("Pod %s runs on node %s", next.PodName, next.NodeName)})
}

// restoring finds the snapshot that a new sandbox starts from.
func (o *observed) restoring(next *nextStatus) action {
	name := o.sandbox.Spec.RestoreFrom.SnapshotName
	switch {
	case o.from == nil:
		next.set(v1alpha1.ConditionReady, false, v1alpha1.ReasonSnapshotNotFound, "snapshot %s (spec.restoreFrom) does not exist", name)
	case o.from.Status.Phase != v1alpha1.SnapshotSucceed:
		next.set(v1alpha1.ConditionReady, false, v1alpha1.ReasonSnapshotNotReady, "snapshot %s (spec.restoreFrom) is %s, not %s", name, o.from.Status.Phase, v1alpha1.SnapshotSucceed)
	case o.wants(v1alpha1.DesiredStatePaused):
		next.SnapshotName = name
		next.pausedOn(name)
	default:
		next.SnapshotName = name
	}
	return o.write(next, nil)
}

// creating writes the Pod's name before it creates the Pod: from then on the template is locked.
func (o *observed) creating(next *nextStatus) action {
	if next.SnapshotName != "" && (o.from == nil || o.from.Status.Phase != v1alpha1.SnapshotSucceed) {
		next.Phase = v1alpha1.SandboxFailed
		next.forgetPod()
		message := fmt.Sprintf("snapshot %s, which the sandbox comes from, does not exist: resume it from another one (snapshotName) or from its template (fromTemplate)", next.SnapshotName)
		next.set(v1alpha1.ConditionReady, false, v1alpha1.ReasonSnapshotNotFound, "%s", message)
		return o.write(next, &note{warning: true, reason: v1alpha1.ReasonSnapshotNotFound, message: message})
	}
	told := o.podGone(next)
	if left := o.retryIn(); left > 0 && !o.named {
		next.forgetPod()
		waits := o.write(next, told)
		waits.after = left
		return waits
	}
	if o.from != nil && !o.checked {
		return action{do: checkImages}
	}
	if imagesMissing(o.from) {
		// A Pod would only hang in ImagePullBackOff. The snapshot's own events bring the next visit,
		// when somebody else sees the image first.
		next.forgetPod()
		again := o.write(next, o.missImages(next))
		again.after = imageRetry
		return again
	}
	if !o.named {
		next.countPod()
		next.PodName = o.sandbox.Name
		if before := meta.FindStatusCondition(next.Conditions, v1alpha1.ConditionReady); before != nil && before.Reason == v1alpha1.ReasonImageUnavailable {
			next.set(v1alpha1.ConditionReady, false, v1alpha1.ReasonPodPending, "the images of snapshot %s are there again, the Pod is being started", next.SnapshotName)
		}
		named := o.write(next, told)
		named.creates = true
		return named
	}
	return action{do: createPod}
}

// missImages says that a resume cannot have its images, and returns an event where that is news.
func (o *observed) missImages(next *nextStatus) *note {
	missing := meta.FindStatusCondition(o.from.Status.Conditions, v1alpha1.ConditionImageAvailable)
	next.set(v1alpha1.ConditionReady, false, v1alpha1.ReasonImageUnavailable, "snapshot %s: %s", o.from.Name, missing.Message)
	before := meta.FindStatusCondition(o.sandbox.Status.Conditions, v1alpha1.ConditionReady)
	if before != nil && before.Reason == v1alpha1.ReasonImageUnavailable {
		return nil
	}
	return &note{warning: true, reason: v1alpha1.ReasonImageUnavailable, message: fmt.Sprintf("snapshot %s: %s", o.from.Name, missing.Message)}
}

// imagesMissing says whether the registry is known not to have what the snapshot needs. That it could
// not be asked holds nobody up.
func imagesMissing(snapshot *v1alpha1.SandboxSnapshot) bool {
	return snapshot != nil && meta.IsStatusConditionFalse(snapshot.Status.Conditions, v1alpha1.ConditionImageAvailable)
}
