//go:build e2e

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

package e2e

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"time"

	batchv1 "k8s.io/api/batch/v1"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/utils/ptr"
	"sigs.k8s.io/yaml"

	"github.com/opensandbox-io/sandbox-apiserver/apis/lifecycle/v1alpha1"
)

// jobs are the commit and unpause Jobs of the room's sandboxes.
func (r *room) jobs(ctx context.Context) ([]batchv1.Job, error) {
	list, err := r.kube.BatchV1().Jobs(systemNamespace).List(ctx, metav1.ListOptions{LabelSelector: v1alpha1.LabelSnapshotUID})
	if err != nil {
		return nil, fmt.Errorf("list the Jobs of namespace %s: %w", systemNamespace, err)
	}
	return slices.DeleteFunc(list.Items, func(job batchv1.Job) bool { return job.Annotations[v1alpha1.AnnotationNamespace] != r.namespace }), nil
}

// jobPods are their Pods.
func (r *room) jobPods(ctx context.Context) ([]corev1.Pod, error) {
	list, err := r.kube.CoreV1().Pods(systemNamespace).List(ctx, metav1.ListOptions{LabelSelector: v1alpha1.LabelSnapshotUID})
	if err != nil {
		return nil, fmt.Errorf("list the Pods of namespace %s: %w", systemNamespace, err)
	}
	return slices.DeleteFunc(list.Items, func(pod corev1.Pod) bool { return pod.Annotations[v1alpha1.AnnotationNamespace] != r.namespace }), nil
}

// report logs what a person wants to see of a test that has failed.
func (r *room) report() {
	r.t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), 30*time.Second)
	defer cancel()
	var text strings.Builder
	section := func(format string, args ...any) { fmt.Fprintf(&text, "--- "+format+"\n", args...) }
	problem := func(err error) { fmt.Fprintf(&text, "(%v)\n", err) }

	if sandboxes, err := r.sandboxes().List(ctx, metav1.ListOptions{}); err != nil {
		problem(err)
	} else {
		for _, sandbox := range sandboxes.Items {
			section("sandbox %s, wanted %s", sandbox.Name, sandbox.Spec.DesiredState)
			text.WriteString(inYAML(sandbox.Status))
		}
	}
	if snapshots, err := r.snapshots().List(ctx, metav1.ListOptions{}); err != nil {
		problem(err)
	} else {
		for _, snapshot := range snapshots.Items {
			section("snapshot %s", snapshot.Name)
			snapshot.Status.Template = nil
			text.WriteString(inYAML(snapshot.Status))
		}
	}
	if pods, err := r.kube.CoreV1().Pods(r.namespace).List(ctx, metav1.ListOptions{}); err != nil {
		problem(err)
	} else {
		for _, pod := range pods.Items {
			section("Pod %s, deleted %v", pod.Name, pod.DeletionTimestamp)
			text.WriteString(inYAML(pod.Status))
		}
	}
	if events, err := r.kube.CoreV1().Events(r.namespace).List(ctx, metav1.ListOptions{}); err != nil {
		problem(err)
	} else {
		section("events")
		for _, event := range events.Items {
			at := event.EventTime.Time
			if at.IsZero() {
				at = event.LastTimestamp.Time
			}
			fmt.Fprintf(&text, "%s %s %s/%s %s: %s\n", at.Format(time.TimeOnly), event.Type, event.InvolvedObject.Kind, event.InvolvedObject.Name, event.Reason, event.Message)
		}
	}
	if pods, err := r.jobPods(ctx); err != nil {
		problem(err)
	} else {
		for _, pod := range pods {
			section("Pod %s/%s: %s", pod.Namespace, pod.Name, pod.Status.Phase)
			for _, status := range pod.Status.ContainerStatuses {
				text.WriteString(inYAML(status.State))
				text.WriteString(r.log(ctx, pod.Name, status.Name, 30))
			}
		}
	}
	section("the server's log")
	text.WriteString(r.log(ctx, serverPod, "server", 40))
	r.t.Logf("namespace %s:\n%s", r.namespace, text.String())
}

func (r *room) log(ctx context.Context, pod, container string, lines int64) string {
	content, err := r.kube.CoreV1().Pods(systemNamespace).GetLogs(pod, &corev1.PodLogOptions{Container: container, TailLines: ptr.To(lines)}).DoRaw(ctx)
	if err != nil {
		return fmt.Sprintf("(%v)\n", err)
	}
	return string(content)
}

func inYAML(value any) string {
	content, err := yaml.Marshal(value)
	if err != nil {
		return err.Error()
	}
	return string(content)
}
