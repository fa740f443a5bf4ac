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
	"testing"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/utils/ptr"

	"github.com/opensandbox-io/sandbox-apiserver/apis/lifecycle/v1alpha1"
)

// withSidecar adds a native sidecar, and an init container that runs to its end.
func withSidecar(s *v1alpha1.Sandbox) {
	ide, once := sleeper("ide"), sleeper("once")
	ide.RestartPolicy = ptr.To(corev1.ContainerRestartPolicyAlways)
	once.Command = []string{"true"}
	s.Spec.Template.Spec.InitContainers = []corev1.Container{once, ide}
}

// TestNativeSidecars: init containers that run for as long as the Pod are kept like all others.
func TestNativeSidecars(t *testing.T) {
	t.Parallel()
	r := newRoom(t)
	r.start("demo", withSidecar)
	for cycle := range 3 {
		for _, container := range []string{"main", "ide"} {
			r.shIn("demo", container, "echo "+container+" >> /root/f")
		}
		_, snapshot := r.pauseAndResume("demo")
		if saved := snapshot.Status.Containers; len(saved) != 2 || saved[0].ContainerName != "ide" || saved[1].ContainerName != "main" {
			t.Fatalf("cycle %d: the snapshot has %+v", cycle+1, saved)
		}
		for _, container := range []string{"main", "ide"} {
			want := ""
			for range cycle + 1 {
				want += container + "\n"
			}
			if got := r.shIn("demo", container, "cat /root/f"); got != want {
				t.Errorf("cycle %d: in %s there is %q, want %q", cycle+1, container, got, want)
			}
		}
	}

	r.start("named", withSidecar, func(s *v1alpha1.Sandbox) { s.Spec.Snapshot.Containers = []string{"ide"} })
	r.shIn("named", "ide", "echo ide > /root/f")
	r.shIn("named", "main", "echo main > /root/f")
	r.pauseAndResume("named")
	if got := r.shIn("named", "ide", "cat /root/f") + r.shIn("named", "main", "ls /root"); got != "ide\n" {
		t.Errorf("with the sidecar alone kept there is %q", got)
	}
}
