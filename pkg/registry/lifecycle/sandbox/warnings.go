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
	"slices"
	"time"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/util/validation/field"

	"github.com/opensandbox-io/sandbox-apiserver/apis/lifecycle"
	"github.com/opensandbox-io/sandbox-apiserver/apis/lifecycle/contents"
)

// volumeWarnings names each volume that goes with the Pod, and what takes files away before anybody can save them.
func volumeWarnings(sandbox *lifecycle.Sandbox) []string {
	if sandbox.Spec.Template == nil {
		return nil
	}
	spec, path := &sandbox.Spec.Template.Spec, field.NewPath("spec", "template", "spec")
	return append(contents.LostVolumes(spec, path), contents.LostOnExit(spec, path)...)
}

// expiryWarnings tells whoever has a sandbox run that has expired that it does not do so again.
func expiryWarnings(sandbox *lifecycle.Sandbox, now time.Time) []string {
	expire, asked := sandbox.Spec.ExpireTime, sandbox.Status.LastRequestTime
	if sandbox.Spec.DesiredState == lifecycle.DesiredStatePaused || sandbox.Spec.ExpireAction != lifecycle.ExpireActionPause ||
		expire == nil || expire.After(now) || asked == nil || asked.Time.Before(expire.Time) {
		return nil
	}
	return []string{fmt.Sprintf("spec.expireTime: %s has passed, and does not pause the sandbox again; it runs on until another time is set and has come",
		expire.UTC().Format(time.RFC3339))}
}

// imageWarnings names each container whose changed image the snapshot in use will replace.
func imageWarnings(sandbox, old *lifecycle.Sandbox) []string {
	if sandbox.Status.SnapshotName == "" || sandbox.Spec.Template == nil || old.Spec.Template == nil {
		return nil
	}
	before := make(map[string]string)
	for _, container := range contents.Containers(&old.Spec.Template.Spec) {
		before[container.Name] = container.Image
	}
	var warnings []string
	spec := field.NewPath("spec", "template", "spec")
	compare := func(containers []corev1.Container, path *field.Path, has func(*corev1.Container) bool) {
		for i := range containers {
			container := &containers[i]
			image, existed := before[container.Name]
			committed := len(sandbox.Spec.Snapshot.Containers) == 0 || slices.Contains(sandbox.Spec.Snapshot.Containers, container.Name)
			if existed && committed && has(container) && image != container.Image {
				warnings = append(warnings, fmt.Sprintf("%s: the next resume uses the image of snapshot %s instead; resume with fromTemplate to use this one",
					path.Index(i).Child("image"), sandbox.Status.SnapshotName))
			}
		}
	}
	compare(sandbox.Spec.Template.Spec.InitContainers, spec.Child("initContainers"), contents.IsSidecar)
	compare(sandbox.Spec.Template.Spec.Containers, spec.Child("containers"), func(*corev1.Container) bool { return true })
	return warnings
}
