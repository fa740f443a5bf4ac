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
	"cmp"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

const (
	// defaultMaxFrozen is for how long a Pod may be frozen whose probes would bear more.
	defaultMaxFrozen = 2 * time.Minute
	// probeMargin is what is left of the time that a probe bears, for the thaw.
	probeMargin = 2 * time.Second
	// leastMaxFrozen is what a commit gets where a probe bears next to nothing: most take less.
	leastMaxFrozen = time.Second
)

// Bears is for how long a Pod may be frozen before the kubelet takes a container of it for dead and
// starts it anew: as long as its most impatient probe goes without an answer. The first may be asked
// for at the moment of the freeze. Commands that probe do not count: a runtime runs none in a frozen
// container, which the kubelet takes for no answer at all.
func Bears(pod *corev1.Pod) metav1.Duration {
	bears := defaultMaxFrozen
	statuses := append(append([]corev1.ContainerStatus{}, pod.Status.ContainerStatuses...), pod.Status.InitContainerStatuses...)
	for _, containers := range [][]corev1.Container{pod.Spec.Containers, pod.Spec.InitContainers} {
		for i := range containers {
			probe := containers[i].LivenessProbe
			if containers[i].StartupProbe != nil && !started(statuses, containers[i].Name) {
				probe = containers[i].StartupProbe
			}
			if probe == nil || probe.Exec != nil {
				continue
			}
			// What is not set has been filled in by the API, except in a Pod that is only made up.
			between := cmp.Or(probe.PeriodSeconds, 10) * (cmp.Or(probe.FailureThreshold, 3) - 1)
			fails := time.Duration(between+cmp.Or(probe.TimeoutSeconds, 1)) * time.Second
			bears = min(bears, max(fails-probeMargin, leastMaxFrozen))
		}
	}
	return metav1.Duration{Duration: bears}
}

func started(statuses []corev1.ContainerStatus, name string) bool {
	for i := range statuses {
		if statuses[i].Name == name && statuses[i].Started != nil {
			return *statuses[i].Started
		}
	}
	return false
}
