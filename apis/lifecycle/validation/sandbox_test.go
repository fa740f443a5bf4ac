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

package validation

import (
	"testing"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/util/validation/field"
	"k8s.io/utils/ptr"

	"github.com/opensandbox-io/sandbox-apiserver/apis/lifecycle"
)

func TestContainersToKeep(t *testing.T) {
	spec := &lifecycle.SandboxSpec{
		DesiredState: lifecycle.DesiredStateRunning,
		Snapshot:     lifecycle.SnapshotPolicy{DeletionPolicy: lifecycle.DeletionPolicyDelete},
		Template: &corev1.PodTemplateSpec{Spec: corev1.PodSpec{
			InitContainers: []corev1.Container{{Name: "init", Image: "i"}, {Name: "side", Image: "s", RestartPolicy: ptr.To(corev1.ContainerRestartPolicyAlways)}},
			Containers:     []corev1.Container{{Name: "main", Image: "m"}},
		}},
	}
	for name, test := range map[string]struct {
		containers []string
		want       string // the field that is refused
	}{
		"all":                         {nil, ""},
		"one":                         {[]string{"main"}, ""},
		"a native sidecar":            {[]string{"main", "side"}, ""},
		"an init container":           {[]string{"main", "init"}, "spec.snapshot.containers[1]"},
		"one that the Pod has not":    {[]string{"other"}, "spec.snapshot.containers[0]"},
		"a native sidecar, two times": {[]string{"side", "side"}, "spec.snapshot.containers[1]"},
	} {
		t.Run(name, func(t *testing.T) {
			spec.Snapshot.Containers = test.containers
			errs := validateSandboxSpec(spec, field.NewPath("spec"))
			if test.want == "" && len(errs) > 0 || test.want != "" && (len(errs) != 1 || errs[0].Field != test.want) {
				t.Errorf("got %v, want a refusal of %q", errs, test.want)
			}
		})
	}
}
