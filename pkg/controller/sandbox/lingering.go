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
	"strings"
	"time"

	corev1 "k8s.io/api/core/v1"

	"github.com/opensandbox-io/sandbox-apiserver/apis/lifecycle/contents"
	"github.com/opensandbox-io/sandbox-apiserver/apis/lifecycle/v1alpha1"
)

// lingerTime is how long a Pod may be there beyond the time that it was given to end, until somebody asks why.
const lingerTime = 30 * time.Second

// lingers says why a Pod that is being deleted is still there, empty where it is not late.
func lingers(pod *corev1.Pod, now time.Time) string {
	if pod == nil || pod.DeletionTimestamp == nil || now.Before(pod.DeletionTimestamp.Add(lingerTime)) {
		return ""
	}
	if len(pod.Finalizers) > 0 {
		return fmt.Sprintf("somebody has to remove its finalizers first: %s", strings.Join(pod.Finalizers, ", "))
	}
	if why := silent(pod); why != "" {
		return why + "; bring the node back, or delete the Node, and with it what is on it"
	}
	var running []string
	for _, status := range contents.Statuses(pod) {
		if status.State.Running != nil {
			running = append(running, status.Name)
		}
	}
	if len(running) > 0 {
		return fmt.Sprintf("node %s has not ended its containers yet (%s)", pod.Spec.NodeName, strings.Join(running, ", "))
	}
	return fmt.Sprintf("node %s has not said that it is gone", pod.Spec.NodeName)
}

// lingering has a sandbox that is being paused say why its Pod does not go, where there is nothing to do but to wait.
func (o *observed) lingering(act action) action {
	why := lingers(o.pod, o.now)
	if act.do != wait || why == "" {
		return act
	}
	next := o.next()
	message := fmt.Sprintf("snapshot %s is ready, and Pod %s, which is being removed, does not go: %s", next.SnapshotName, o.pod.Name, why)
	next.set(v1alpha1.ConditionPaused, false, v1alpha1.ReasonRemovingPod, "%s", message)
	if says := o.write(next, &note{warning: true, reason: v1alpha1.ReasonRemovingPod, message: message}); says.do != wait {
		return says
	}
	return act
}
