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

package contents

import (
	"fmt"
	"slices"
	"strings"

	corev1 "k8s.io/api/core/v1"
	apiequality "k8s.io/apimachinery/pkg/api/equality"
	"k8s.io/utils/ptr"
)

// Resized are the limits and requests of a container that are others in its Pod than in its template, nil where
// there are none: it was resized in place. What the template leaves open the next Pod gets in the way that this
// one did (LimitRange).
// https://kubernetes.io/docs/tasks/configure-pod-container/resize-container-resources/
func Resized(container *corev1.Container, pod *corev1.Pod) *corev1.ResourceRequirements {
	live := resourcesOf(pod, container.Name)
	if live == nil {
		return nil
	}
	changed := corev1.ResourceRequirements{Limits: others(container.Resources.Limits, live.Limits), Requests: others(container.Resources.Requests, live.Requests)}
	if changed.Limits == nil && changed.Requests == nil {
		return nil
	}
	return &changed
}

// resourcesOf are what a container of the Pod has, nil where that is not known. While the node has not taken a resize, and
// it may never do so, that is what it had before, which the status tells.
func resourcesOf(pod *corev1.Pod, name string) *corev1.ResourceRequirements {
	if resizePending(pod) {
		statuses := Statuses(pod)
		if at := slices.IndexFunc(statuses, func(s *corev1.ContainerStatus) bool { return s.Name == name }); at >= 0 {
			return statuses[at].Resources
		}
		return nil
	}
	live := Containers(&pod.Spec)
	if at := slices.IndexFunc(live, func(c *corev1.Container) bool { return c.Name == name }); at >= 0 {
		return &live[at].Resources
	}
	return nil
}

func resizePending(pod *corev1.Pod) bool {
	return slices.ContainsFunc(pod.Status.Conditions, func(c corev1.PodCondition) bool {
		return c.Type == corev1.PodResizePending && c.Status == corev1.ConditionTrue
	})
}

// others are the quantities of live that the template has otherwise.
func others(template, live corev1.ResourceList) corev1.ResourceList {
	var changed corev1.ResourceList
	for name, quantity := range template {
		if now, has := live[name]; has && now.Cmp(quantity) != 0 {
			if changed == nil {
				changed = corev1.ResourceList{}
			}
			changed[name] = now
		}
	}
	return changed
}

// Resize gives a container what it had, where that was not its template's.
func Resize(container *corev1.Container, had *corev1.ResourceRequirements) {
	for name, quantity := range had.Limits {
		if _, has := container.Resources.Limits[name]; has {
			container.Resources.Limits[name] = quantity
		}
	}
	for name, quantity := range had.Requests {
		if _, has := container.Resources.Requests[name]; has {
			container.Resources.Requests[name] = quantity
		}
	}
}

// SameResources is whether a container has the same resources in both templates.
func SameResources(one, other *corev1.PodTemplateSpec, name string) bool {
	of := func(template *corev1.PodTemplateSpec) *corev1.ResourceRequirements {
		if template == nil {
			return nil
		}
		all := Containers(&template.Spec)
		if at := slices.IndexFunc(all, func(c *corev1.Container) bool { return c.Name == name }); at >= 0 {
			return &all[at].Resources
		}
		return nil
	}
	return apiequality.Semantic.DeepEqual(of(one), of(other))
}

// changes says in what resources are others than those of the template, with both values.
func changes(template, changed *corev1.ResourceRequirements) string {
	var all []string
	for what, lists := range map[string][2]corev1.ResourceList{"limits": {template.Limits, changed.Limits}, "requests": {template.Requests, changed.Requests}} {
		for name, now := range lists[1] {
			was := lists[0][name]
			all = append(all, fmt.Sprintf("%s.%s is %s, the template says %s", what, name, now.String(), was.String()))
		}
	}
	slices.Sort(all)
	return strings.Join(all, "; ")
}

// resizedPod are those of the Pod as a whole.
func resizedPod(pod *corev1.Pod, template *corev1.PodSpec) *corev1.ResourceRequirements {
	had, live := ptr.Deref(template.Resources, corev1.ResourceRequirements{}), ptr.Deref(pod.Spec.Resources, corev1.ResourceRequirements{})
	if resizePending(pod) {
		live = ptr.Deref(pod.Status.Resources, corev1.ResourceRequirements{})
	}
	return &corev1.ResourceRequirements{Limits: others(had.Limits, live.Limits), Requests: others(had.Requests, live.Requests)}
}
