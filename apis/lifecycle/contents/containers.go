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

// Package contents says what of a sandbox's Pod a snapshot holds, and what it does not: for
// validation, warnings, controllers and the documentation alike.
package contents

import (
	"slices"

	corev1 "k8s.io/api/core/v1"
)

// IsSidecar is whether an init container is a native sidecar, which runs beside the others for as
// long as the Pod does.
// https://kubernetes.io/docs/concepts/workloads/pods/sidecar-containers/
func IsSidecar(container *corev1.Container) bool {
	return container.RestartPolicy != nil && *container.RestartPolicy == corev1.ContainerRestartPolicyAlways
}

// Containers are those whose files a snapshot can hold: all that run for as long as the Pod does.
// An init container runs to its end, and once more in the next Pod.
func Containers(pod *corev1.PodSpec) []*corev1.Container {
	var all []*corev1.Container
	for i := range pod.InitContainers {
		if IsSidecar(&pod.InitContainers[i]) {
			all = append(all, &pod.InitContainers[i])
		}
	}
	for i := range pod.Containers {
		all = append(all, &pod.Containers[i])
	}
	return all
}

// Names are the names of those containers.
func Names(pod *corev1.PodSpec) []string {
	var names []string
	for _, container := range Containers(pod) {
		names = append(names, container.Name)
	}
	return names
}

// Statuses are what the Pod's status says of them.
func Statuses(pod *corev1.Pod) []*corev1.ContainerStatus {
	names := Names(&pod.Spec)
	var all []*corev1.ContainerStatus
	for i := range pod.Status.InitContainerStatuses {
		if slices.Contains(names, pod.Status.InitContainerStatuses[i].Name) {
			all = append(all, &pod.Status.InitContainerStatuses[i])
		}
	}
	for i := range pod.Status.ContainerStatuses {
		all = append(all, &pod.Status.ContainerStatuses[i])
	}
	return all
}
