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
	"fmt"
	"strings"
	"testing"

	corev1 "k8s.io/api/core/v1"

	"github.com/opensandbox-io/sandbox-apiserver/apis/lifecycle/v1alpha1"
)

// 24 with long names are more than a termination message holds as they are, 90 more than it holds in
// whatever way.
func TestAPodOfManyContainers(t *testing.T) {
	t.Parallel()
	r := newRoom(t)
	count := 24
	if nightly() {
		count = 90
	}
	var names []string
	r.start("demo", func(s *v1alpha1.Sandbox) {
		spec := &s.Spec.Template.Spec
		main := spec.Containers[0]
		spec.Containers = nil
		for i := range count {
			container := main.DeepCopy()
			container.Name = fmt.Sprintf("c%02d-%s", i, strings.Repeat("long", 14))
			container.Command = []string{"sh", "-c", fmt.Sprintf("[ -e /root/file ] || echo %d > /root/file; sleep infinity", i)}
			container.ImagePullPolicy = corev1.PullIfNotPresent
			container.Resources = corev1.ResourceRequirements{}
			spec.Containers = append(spec.Containers, *container)
			names = append(names, container.Name)
		}
	})
	_, snapshot := r.pauseAndResume("demo")
	if len(snapshot.Status.Containers) != count {
		t.Fatalf("%d containers are in the snapshot", len(snapshot.Status.Containers))
	}
	for i, saved := range snapshot.Status.Containers {
		if saved.ContainerName != names[i] || !strings.Contains(saved.ImageURI, fmt.Sprintf("demo-c%02d-", i)) || saved.ImageDigest == "" || saved.LayerBytes == 0 || saved.Layers != 1 {
			t.Errorf("container %d is %+v", i, saved)
		}
	}
	for _, i := range []int{0, count / 2, count - 1} {
		if got, want := r.shIn("demo", names[i], "cat /root/file"), fmt.Sprintf("%d\n", i); got != want {
			t.Errorf("container %s has %q, want %q", names[i], got, want)
		}
	}
}
