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
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"maps"
	"slices"
	"strings"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/opensandbox-io/sandbox-apiserver/apis/lifecycle/contents"
	"github.com/opensandbox-io/sandbox-apiserver/apis/lifecycle/v1alpha1"
	"github.com/opensandbox-io/sandbox-apiserver/pkg/controller/naming"
	"github.com/opensandbox-io/sandbox-apiserver/pkg/controller/template"
)

// newPod is the Pod of a sandbox: of its template, with the images of the snapshot that it comes
// from, nil where it comes from the template alone.
func newPod(sandbox *v1alpha1.Sandbox, from *v1alpha1.SandboxSnapshot, pullSecret string) (*corev1.Pod, error) {
	source, err := template.Of(sandbox, from)
	if err != nil {
		return nil, err
	}
	source = source.DeepCopy()
	pod := &corev1.Pod{
		ObjectMeta: metav1.ObjectMeta{
			Namespace:   sandbox.Namespace,
			Name:        sandbox.Name,
			Labels:      source.Labels,
			Annotations: source.Annotations,
			Finalizers:  source.Finalizers,

			OwnerReferences: []metav1.OwnerReference{controllerOf(sandbox)},
		},
		Spec: source.Spec,
	}
	if pod.Labels == nil {
		pod.Labels = map[string]string{}
	}
	maps.Copy(pod.Labels, map[string]string{
		v1alpha1.LabelSandbox:    sandbox.Name,
		v1alpha1.LabelSandboxUID: string(sandbox.UID),
	})
	// A Pod is told by them from commit Jobs and from the Pods of other files.
	delete(pod.Labels, v1alpha1.LabelComponent)
	delete(pod.Annotations, v1alpha1.AnnotationRestoredFrom)
	pod.Annotations = openToAutoscalers(sandbox, pod.Annotations)
	if pod.Annotations == nil {
		pod.Annotations = map[string]string{}
	}
	pod.Annotations[v1alpha1.AnnotationTemplate] = hashOf(sandbox, pullSecret)
	pod.Annotations[v1alpha1.AnnotationContainers] = strings.Join(contents.Names(&source.Spec), ",")
	delete(pod.Annotations, v1alpha1.AnnotationMovedFrom)
	if record := sandbox.Status.Move; record != nil && record.NodeName != "" {
		// Who empties that node asks for the Pod by a name that is this one's now.
		pod.Annotations[v1alpha1.AnnotationMovedFrom] = record.NodeName
	}
	if from == nil {
		return pod, nil
	}

	pod.Annotations[v1alpha1.AnnotationRestoredFrom] = from.Name
	if err := fits(&pod.Spec, from); err != nil {
		return nil, err
	}
	for i := range from.Status.Containers {
		if err := useImage(&pod.Spec, &from.Status.Containers[i]); err != nil {
			return nil, fmt.Errorf("snapshot %s: %w", from.Name, err)
		}
	}
	keepResources(&pod.Spec, sandbox, from)
	if pullSecret != "" && !slices.ContainsFunc(pod.Spec.ImagePullSecrets, func(ref corev1.LocalObjectReference) bool { return ref.Name == pullSecret }) {
		pod.Spec.ImagePullSecrets = append(pod.Spec.ImagePullSecrets, corev1.LocalObjectReference{Name: pullSecret})
	}
	if record := sandbox.Status.Move; record != nil && leavesNode[record.Reason] {
		weighNode(&pod.Spec, record.NodeName, corev1.NodeSelectorOpNotIn)
	} else {
		weighNode(&pod.Spec, nodeOf(sandbox, from), corev1.NodeSelectorOpIn)
	}
	return pod, nil
}

// hashOf tells what the Pod of a sandbox is made of from what it was before, beside the snapshot that it
// comes from.
func hashOf(sandbox *v1alpha1.Sandbox, pullSecret string) string {
	// There is nothing in a template that has no JSON form: it came as JSON.
	template, _ := json.Marshal(sandbox.Spec.Template)
	sum := sha256.Sum256(append(template, pullSecret...))
	return hex.EncodeToString(sum[:8])
}

// fits refuses a template that has none of the snapshot's containers: its Pod would start with none of its
// files, and nobody would be told.
func fits(pod *corev1.PodSpec, from *v1alpha1.SandboxSnapshot) error {
	var saved, wanted []string
	for i := range from.Status.Containers {
		saved = append(saved, from.Status.Containers[i].ContainerName)
	}
	for _, containers := range [][]corev1.Container{pod.Containers, pod.InitContainers} {
		for i := range containers {
			if slices.Contains(saved, containers[i].Name) {
				return nil
			}
			wanted = append(wanted, containers[i].Name)
		}
	}
	if len(saved) == 0 {
		return nil
	}
	return fmt.Errorf("snapshot %s has the files of the containers %q, and the template has %q: none of them would come back; name a container as it was, or resume with fromTemplate to give the files up",
		from.Name, saved, wanted)
}

func useImage(pod *corev1.PodSpec, saved *v1alpha1.ContainerSnapshot) error {
	containers := contents.Containers(pod)
	at := slices.IndexFunc(containers, func(c *corev1.Container) bool { return c.Name == saved.ContainerName })
	if at < 0 {
		// The template has changed since and has no such container any more.
		return nil
	}
	image, err := naming.ByDigest(saved.ImageURI, saved.ImageDigest)
	if err != nil {
		return err
	}
	container := containers[at]
	container.Image = image
	if container.ImagePullPolicy == corev1.PullNever {
		// The image of the template was on the node; its snapshot is in the registry.
		container.ImagePullPolicy = corev1.PullIfNotPresent
	}
	return nil
}

// keepResources gives the containers of a sandbox's own snapshot what they had when it was made, where they had been resized in
// place. A template wins that says otherwise now than then: somebody has written that since; so does that of a clone.
func keepResources(pod *corev1.PodSpec, sandbox *v1alpha1.Sandbox, from *v1alpha1.SandboxSnapshot) {
	if from.Status.Template == nil || sandbox.Spec.Template != nil && from.Status.SandboxUID != sandbox.UID {
		return
	}
	wanted, err := template.Of(sandbox, from)
	if err != nil {
		return
	}
	for _, container := range contents.Containers(pod) {
		had := slices.IndexFunc(from.Status.Containers, func(c v1alpha1.ContainerSnapshot) bool { return c.ContainerName == container.Name })
		if had >= 0 && from.Status.Containers[had].Resources != nil && contents.SameResources(wanted, from.Status.Template, container.Name) {
			contents.Resize(container, from.Status.Containers[had].Resources)
		}
	}
}

func nodeOf(sandbox *v1alpha1.Sandbox, from *v1alpha1.SandboxSnapshot) string {
	if from.Status.SourceNodeName != "" {
		return from.Status.SourceNodeName
	}
	return sandbox.Status.NodeName
}

// weighNode asks for the node that has the layers of the base image already, or for any but the one that the sandbox has
// to leave. It never requires that: the node may be full or gone by now, or be the only one.
func weighNode(pod *corev1.PodSpec, node string, operator corev1.NodeSelectorOperator) {
	if node == "" || pod.NodeName != "" {
		return
	}
	if pod.Affinity == nil {
		pod.Affinity = &corev1.Affinity{}
	}
	if pod.Affinity.NodeAffinity == nil {
		pod.Affinity.NodeAffinity = &corev1.NodeAffinity{}
	}
	affinity := pod.Affinity.NodeAffinity
	affinity.PreferredDuringSchedulingIgnoredDuringExecution = append(affinity.PreferredDuringSchedulingIgnoredDuringExecution,
		corev1.PreferredSchedulingTerm{
			Weight: 100,
			Preference: corev1.NodeSelectorTerm{MatchFields: []corev1.NodeSelectorRequirement{{
				Key: metav1.ObjectNameField, Operator: operator, Values: []string{node},
			}}},
		})
}
