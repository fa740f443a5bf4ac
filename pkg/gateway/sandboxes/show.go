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
	"slices"

	corev1 "k8s.io/api/core/v1"

	"github.com/opensandbox-io/sandbox-apiserver/apis/lifecycle/v1alpha1"
	"github.com/opensandbox-io/sandbox-apiserver/pkg/gateway/httpapi"
	"github.com/opensandbox-io/sandbox-apiserver/pkg/gateway/injection"
)

// show is a sandbox as callers see it. Image and entrypoint are the template's, as whoever made the sandbox wrote them: a
// resume changes the Pod, and not the template.
func show(sandbox *v1alpha1.Sandbox) httpapi.Sandbox {
	shown := httpapi.Sandbox{
		ID:         sandbox.Name,
		Status:     showStatus(StatusOf(sandbox)),
		CreatedAt:  sandbox.CreationTimestamp.UTC(),
		Entrypoint: []string{},
	}
	if metadata := metadataOf(sandbox.Labels); metadata != nil {
		shown.Metadata = httpapi.NewOptMetadata(metadata)
	}
	if extensions := extensionsOf(sandbox.Annotations); extensions != nil {
		shown.Extensions = httpapi.NewOptExtensions(extensions)
	}
	if at := sandbox.Spec.ExpireTime; at != nil {
		shown.ExpiresAt = httpapi.NewOptDateTime(at.UTC())
	}
	if from := sandbox.Spec.RestoreFrom; from != nil {
		shown.SnapshotId = httpapi.NewOptString(from.SnapshotName)
	}
	template := sandbox.Spec.Template
	if template == nil {
		return shown
	}
	if p := platformOf(template.Spec.NodeSelector); p != nil {
		shown.Platform = httpapi.NewOptPlatformSpec(httpapi.PlatformSpec{Os: httpapi.PlatformSpecOs(p.OS), Arch: httpapi.PlatformSpecArch(p.Arch)})
	}
	container := main(&template.Spec)
	if container == nil {
		return shown
	}
	shown.Entrypoint = injection.Entrypoint(container)
	if !shown.SnapshotId.Set {
		shown.Image = httpapi.NewOptImageSpec(httpapi.ImageSpec{URI: container.Image})
	}
	return shown
}

// main is the container that the caller's image and entrypoint are of: that of this name, or the first.
func main(pod *corev1.PodSpec) *corev1.Container {
	if len(pod.Containers) == 0 {
		return nil
	}
	at := slices.IndexFunc(pod.Containers, func(c corev1.Container) bool { return c.Name == injection.Container })
	return &pod.Containers[max(0, at)]
}

func showStatus(status Status) httpapi.SandboxStatus {
	shown := httpapi.SandboxStatus{State: status.State, Reason: httpapi.NewOptString(status.Reason), LastTransitionAt: httpapi.NewOptDateTime(status.Since.UTC())}
	if status.Message != "" {
		shown.Message = httpapi.NewOptString(status.Message)
	}
	return shown
}

func showCreated(sandbox *v1alpha1.Sandbox) httpapi.CreateSandboxResponse {
	shown := show(sandbox)
	return httpapi.CreateSandboxResponse{
		ID: shown.ID, Status: shown.Status, Metadata: shown.Metadata, Extensions: shown.Extensions, Platform: shown.Platform,
		ExpiresAt: shown.ExpiresAt, CreatedAt: shown.CreatedAt, Entrypoint: shown.Entrypoint,
	}
}
