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

package sandboxes

import (
	"maps"
	"slices"
	"strings"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/resource"
	"k8s.io/apimachinery/pkg/util/validation"
)

// gpu is how callers say nvidia.com/gpu.
const (
	gpu      = "gpu"
	gpuOwner = corev1.ResourceName("nvidia.com/gpu")
)

func (c *creation) checkResources(*Settings) error {
	if len(c.Limits) == 0 && c.Image != nil {
		return invalid("resourceLimits: say what the sandbox can use at most, such as {\"cpu\":\"1\",\"memory\":\"2Gi\"}")
	}
	_, err := c.resources()
	return err
}

// resources are what the container asks for: as much for itself as it can use at most, unless something else is said.
func (c *creation) resources() (corev1.ResourceRequirements, error) {
	limits, err := quantities("resourceLimits", c.Limits)
	if err != nil {
		return corev1.ResourceRequirements{}, err
	}
	for _, name := range sortedNames(limits) {
		if amount := limits[name]; amount.IsZero() {
			return corev1.ResourceRequirements{}, invalid("resourceLimits.%s: is 0, which Kubernetes takes for no limit; say how much, or leave it out", name)
		}
	}
	requests, err := quantities("resourceRequests", c.Requests)
	if err != nil {
		return corev1.ResourceRequirements{}, err
	}
	for _, name := range sortedNames(requests) {
		request, limit := requests[name], limits[name]
		if _, limited := limits[name]; limited && request.Cmp(limit) > 0 {
			return corev1.ResourceRequirements{}, invalid("resourceRequests.%s: %s is more than the limit, %s", name, request.String(), limit.String())
		}
	}
	for name, limit := range limits {
		if _, said := requests[name]; !said {
			if requests == nil {
				requests = corev1.ResourceList{}
			}
			requests[name] = limit.DeepCopy()
		}
	}
	return corev1.ResourceRequirements{Limits: limits, Requests: requests}, nil
}

func sortedNames(list corev1.ResourceList) []corev1.ResourceName {
	return slices.Sorted(maps.Keys(list))
}

func quantities(field string, amounts map[string]string) (corev1.ResourceList, error) {
	var list corev1.ResourceList
	for _, key := range slices.Sorted(maps.Keys(amounts)) {
		name, err := resourceName(field, key)
		if err != nil {
			return nil, err
		}
		amount, err := quantity(field, key, name, amounts[key])
		if err != nil {
			return nil, err
		}
		if _, twice := list[name]; twice {
			return nil, invalid("%s.%s: is said twice, as %s as well", field, key, name)
		}
		if list == nil {
			list = corev1.ResourceList{}
		}
		list[name] = amount
	}
	return list, nil
}

func resourceName(field, key string) (corev1.ResourceName, error) {
	switch name := corev1.ResourceName(key); {
	case key == gpu:
		return gpuOwner, nil
	case name == corev1.ResourceCPU, name == corev1.ResourceMemory, name == corev1.ResourceEphemeralStorage, strings.HasPrefix(key, corev1.ResourceHugePagesPrefix):
		return name, nil
	case strings.Contains(key, "/") && len(validation.IsQualifiedName(key)) == 0:
		return name, nil // of a device plugin
	}
	return "", invalid("%s: knows no %s; there are cpu, memory, gpu, ephemeral-storage, and what a device plugin offers by its full name, such as nvidia.com/gpu", field, describe(key))
}

func quantity(field, key string, name corev1.ResourceName, text string) (resource.Quantity, error) {
	amount, err := resource.ParseQuantity(text)
	switch {
	case name == gpuOwner && strings.EqualFold(text, "all"):
		return resource.Quantity{}, invalid("%s.%s: Kubernetes gives out GPUs by their number, and knows no \"all\"", field, key)
	case err != nil:
		return resource.Quantity{}, invalid("%s.%s: %s is no amount as Kubernetes writes it, such as 500m or 2 for cpu, 512Mi or 2Gi for memory", field, key, describe(text))
	case amount.Sign() < 0:
		return resource.Quantity{}, invalid("%s.%s: %s is less than nothing", field, key, text)
	case name != corev1.ResourceCPU && amount.MilliValue()%1000 != 0 && amount.Value() < 1<<50:
		// 512m of memory is half a byte.
		return resource.Quantity{}, invalid("%s.%s: %s is no whole number; m means a thousandth, and Mi is what a megabyte is written as", field, key, text)
	}
	return amount, nil
}
