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
	"slices"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/meta"
	"k8s.io/utils/ptr"

	"github.com/opensandbox-io/sandbox-apiserver/apis/lifecycle/contents"
	"github.com/opensandbox-io/sandbox-apiserver/apis/lifecycle/v1alpha1"
)

// hasRun says whether a container of the Pod has run, by its status or by what the watch has shown before: from then
// on there are files in it that somebody may have written.
func (o *observed) hasRun() bool {
	for _, status := range contents.Statuses(o.pod) {
		if _, ran := o.runs.first(o.pod.UID, status); ran {
			return true
		}
	}
	return o.runs.uid == o.pod.UID && len(o.runs.since) > 0
}

// removeUnrun removes a Pod of which no container has run. It is read past the cache before, and
// deleted only as it was read: a container that starts meanwhile keeps it.
func (o *observed) removeUnrun() action {
	switch {
	case o.pod.DeletionTimestamp != nil:
		return action{do: wait}
	case !o.fresh:
		return action{do: readPod}
	}
	return action{do: deletePod, grace: ptr.To[int64](removalGrace), asSeen: true}
}

// pulling goes on where the Pod may lack an image of the snapshot. The registry may have been out of reach
// before the Pod was made, or have lost the image since: then the kubelet would try for ever.
func (o *observed) pulling(next *nextStatus, view podView) (action, bool) {
	if o.from == nil {
		return action{}, false
	}
	if o.pod.DeletionTimestamp != nil {
		return action{do: wait}, imagesMissing(o.from) && !o.hasRun() // why is said already
	}
	fails := lacksImage(o.pod, o.from)
	switch {
	case imagesMissing(o.from) && (fails || o.pod.Spec.NodeName == ""):
		if o.hasRun() {
			missing := meta.FindStatusCondition(o.from.Status.Conditions, v1alpha1.ConditionImageAvailable)
			next.show(o.pod, view)
			next.set(v1alpha1.ConditionReady, false, v1alpha1.ReasonImageUnavailable, "snapshot %s: %s. Other containers of the Pod have run, and have files: it stays as it is", o.from.Name, missing.Message)
			return o.write(next, nil), true
		}
		// Why is written down first: with the Pod it would be gone.
		next.show(o.pod, view)
		if write := o.write(next, o.missImages(next)); write.do != wait {
			return write, true
		}
		return o.removeUnrun(), true
	case fails && o.from.Spec.Source == nil && !o.checked && o.looksAgain <= 0:
		return action{do: checkImages}, true
	case fails:
		next.show(o.pod, view)
		again := o.write(next, nil)
		again.after = max(o.looksAgain, 0)
		return again, true
	}
	return action{}, false
}

// lacksImage says whether the kubelet cannot pull the image of a container that comes from the snapshot.
func lacksImage(pod *corev1.Pod, from *v1alpha1.SandboxSnapshot) bool {
	return slices.ContainsFunc(contents.Statuses(pod), func(status *corev1.ContainerStatus) bool {
		return status.State.Waiting != nil && pullProblems[status.State.Waiting.Reason] &&
			slices.ContainsFunc(from.Status.Containers, func(saved v1alpha1.ContainerSnapshot) bool { return saved.ContainerName == status.Name })
	})
}
