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
	"testing"

	"github.com/google/go-cmp/cmp"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/utils/ptr"

	"github.com/opensandbox-io/sandbox-apiserver/apis/lifecycle"
)

func TestImageWarnings(t *testing.T) {
	of := func(main, sidecar, init string) *lifecycle.Sandbox {
		return &lifecycle.Sandbox{
			Status: lifecycle.SandboxStatus{SnapshotName: "demo-gen1"},
			Spec: lifecycle.SandboxSpec{Template: &corev1.PodTemplateSpec{Spec: corev1.PodSpec{
				InitContainers: []corev1.Container{
					{Name: "init", Image: init}, {Name: "side", Image: sidecar, RestartPolicy: ptr.To(corev1.ContainerRestartPolicyAlways)},
				},
				Containers: []corev1.Container{{Name: "main", Image: main}},
			}}},
		}
	}
	const instead = ".image: the next resume uses the image of snapshot demo-gen1 instead; resume with fromTemplate to use this one"
	tests := map[string]struct {
		now  *lifecycle.Sandbox
		kept []string
		want []string
	}{
		"nothing changed":      {of("m", "s", "i"), nil, nil},
		"a container":          {of("m2", "s", "i"), nil, []string{"spec.template.spec.containers[0]" + instead}},
		"a native sidecar":     {of("m", "s2", "i"), nil, []string{"spec.template.spec.initContainers[1]" + instead}},
		"an init container":    {of("m", "s", "i2"), nil, nil},
		"one that is not kept": {of("m2", "s2", "i"), []string{"main"}, []string{"spec.template.spec.containers[0]" + instead}},
		"both, in their order": {of("m2", "s2", "i2"), nil, []string{"spec.template.spec.initContainers[1]" + instead, "spec.template.spec.containers[0]" + instead}},
	}
	for name, test := range tests {
		t.Run(name, func(t *testing.T) {
			test.now.Spec.Snapshot.Containers = test.kept
			if diff := cmp.Diff(test.want, imageWarnings(test.now, of("m", "s", "i"))); diff != "" {
				t.Error(diff)
			}
		})
	}
}
