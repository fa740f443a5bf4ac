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

package diagnostics

import (
	"fmt"
	"maps"
	"slices"
	"strings"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

// inspect says how a sandbox and its Pod stand. Commands and environment are left out: there are secrets in them.
func (s *scene) inspect() string {
	var out lines
	sandbox := s.sandbox
	out.field("Sandbox", sandbox.Namespace+"/"+sandbox.Name)
	out.field("Created", moment(&sandbox.CreationTimestamp))
	out.field("Phase", string(sandbox.Status.Phase))
	out.field("Wanted", string(sandbox.Spec.DesiredState))
	out.field("Expires", moment(sandbox.Spec.ExpireTime))
	out.field("Next start from", sandbox.Status.SnapshotName)
	out.field("Being deleted since", moment(sandbox.DeletionTimestamp))
	if move := sandbox.Status.Move; move != nil {
		out.field("To be moved", move.Reason+": "+move.Message)
	}
	out.conditions(sandbox.Status.Conditions)
	if s.pod == nil {
		out.field("Pod", "none: "+s.absent)
		return out.String()
	}

	pod := s.pod
	out.field("Pod", pod.Name)
	out.field("  Phase", string(pod.Status.Phase))
	out.field("  Reason", strings.TrimSuffix(pod.Status.Reason+": "+pod.Status.Message, ": "))
	out.field("  Node", pod.Spec.NodeName)
	out.field("  Address", pod.Status.PodIP)
	out.field("  Started", moment(pod.Status.StartTime))
	out.field("  Being deleted since", moment(pod.DeletionTimestamp))
	for i := range pod.Status.Conditions {
		condition := &pod.Status.Conditions[i]
		out.field("  Condition "+string(condition.Type), describe(string(condition.Status), condition.Reason, condition.Message))
	}
	resources := map[string]corev1.ResourceRequirements{}
	for _, container := range append(append([]corev1.Container{}, pod.Spec.InitContainers...), pod.Spec.Containers...) {
		resources[container.Name] = container.Resources
	}
	out.containers("  Init container ", pod.Status.InitContainerStatuses, resources)
	out.containers("  Container ", pod.Status.ContainerStatuses, resources)
	return out.String()
}

// lines are those of a text, one a field that has a value.
type lines struct{ strings.Builder }

func (l *lines) field(name, value string) {
	if value != "" {
		fmt.Fprintf(l, "%s: %s\n", name, value)
	}
}

func (l *lines) conditions(conditions []metav1.Condition) {
	for _, condition := range conditions {
		l.field("Condition "+condition.Type, describe(string(condition.Status), condition.Reason, condition.Message)+", since "+moment(&condition.LastTransitionTime))
	}
}

func (l *lines) containers(title string, statuses []corev1.ContainerStatus, resources map[string]corev1.ResourceRequirements) {
	for i := range statuses {
		status := &statuses[i]
		l.field(title+status.Name, state(status.State))
		l.field("    Image", status.Image)
		l.field("    Ready", fmt.Sprint(status.Ready))
		if status.RestartCount > 0 {
			l.field("    Restarts", fmt.Sprint(status.RestartCount))
			l.field("    Before", state(status.LastTerminationState))
		}
		l.field("    Requests", amounts(resources[status.Name].Requests))
		l.field("    Limits", amounts(resources[status.Name].Limits))
	}
}

func state(s corev1.ContainerState) string {
	switch {
	case s.Running != nil:
		return "running since " + moment(&s.Running.StartedAt)
	case s.Waiting != nil:
		return describe("waiting", s.Waiting.Reason, s.Waiting.Message)
	case s.Terminated != nil:
		return describe(fmt.Sprintf("ended with %d at %s", s.Terminated.ExitCode, moment(&s.Terminated.FinishedAt)), s.Terminated.Reason, s.Terminated.Message)
	}
	return "not known"
}

// describe is a value, and in brackets why.
func describe(value, reason, message string) string {
	why := strings.TrimSuffix(strings.TrimPrefix(reason+": "+strings.Join(strings.Fields(message), " "), ": "), ": ")
	if why == "" {
		return value
	}
	return fmt.Sprintf("%s (%s)", value, why)
}

// amounts are quantities by name.
func amounts(list corev1.ResourceList) string {
	var all []string
	for _, name := range slices.Sorted(maps.Keys(list)) {
		amount := list[name]
		all = append(all, string(name)+" "+amount.String())
	}
	return strings.Join(all, ", ")
}

// moment is a time, empty where there is none.
func moment(at *metav1.Time) string {
	if at.IsZero() {
		return ""
	}
	return at.UTC().Format(time.RFC3339)
}
