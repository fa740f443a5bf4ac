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

// TestMountsOfItsOwn has a container mount memory over a directory: the snapshot says that what is in it is not kept, and
// says nothing of what Kubernetes and the image have mounted.
func TestMountsOfItsOwn(t *testing.T) {
	t.Parallel()
	r := newRoom(t)
	r.start("demo", func(s *v1alpha1.Sandbox) {
		s.Spec.Template.Spec.Containers[0].SecurityContext = &corev1.SecurityContext{Privileged: ptr.To(true)}
	})
	r.sh("demo", "mkdir /work /bound && echo below > /work/file && mount -t tmpfs none /work && echo above > /work/file && mount --bind /root /bound")
	_, snapshot := r.pauseAndResume("demo")
	var told []string
	for _, warning := range snapshot.Status.Warnings {
		if warning.Reason == v1alpha1.ReasonMountNotKept && warning.ContainerName == "main" {
			told = append(told, warning.Path)
		}
	}
	if len(told) != 1 || told[0] != "/work" {
		t.Errorf("the snapshot says of mounts at %q that they are not kept, want /work alone; its warnings are %+v", told, snapshot.Status.Warnings)
	}
	if got := r.sh("demo", "cat /work/file"); got != "below\n" {
		t.Errorf("after the resume the file holds %q, want what was below", got)
	}
}
