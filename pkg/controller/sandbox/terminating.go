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
	"time"

	corev1 "k8s.io/api/core/v1"

	"github.com/opensandbox-io/sandbox-apiserver/apis/lifecycle/v1alpha1"
)

// terminating is what a sandbox says that is being deleted and waits for something: nobody shall take it for
// one that is Ready, and whoever wonders why it is still there finds what for.
func (o *observed) terminating(snapshots []v1alpha1.SandboxSnapshot) action {
	next := o.next()
	next.set(v1alpha1.ConditionReady, false, v1alpha1.ReasonTerminating, "the sandbox is being deleted: %s", deletionAwaits(o.pod, snapshots, o.now))
	return o.write(next, nil)
}

// deletionAwaits is what is left of a sandbox that is being deleted.
func deletionAwaits(pod *corev1.Pod, snapshots []v1alpha1.SandboxSnapshot, now time.Time) string {
	for i := range snapshots {
		if !finished(&snapshots[i]) {
			return "the commit of snapshot " + snapshots[i].Name + " is being ended"
		}
	}
	if why := lingers(pod, now); why != "" {
		return "Pod " + pod.Name + " does not go: " + why
	}
	if pod != nil {
		return "Pod " + pod.Name + " is being removed"
	}
	return "nothing is left of it"
}
