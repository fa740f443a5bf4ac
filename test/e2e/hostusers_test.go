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
	"slices"
	"testing"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/utils/ptr"

	"github.com/opensandbox-io/sandbox-apiserver/apis/lifecycle/v1alpha1"
	"github.com/opensandbox-io/sandbox-apiserver/test/trees"
)

// TestAPodWithUsersOfItsOwn commits a Pod with hostUsers: false: owners, access control lists and capabilities come back as
// its processes saw them. It needs a runtime that maps mounts: runc 1.2, or a crun that tells of its features.
func TestAPodWithUsersOfItsOwn(t *testing.T) {
	t.Parallel()
	r := newRoom(t)
	nodes, err := r.kube.CoreV1().Nodes().List(t.Context(), metav1.ListOptions{})
	if err != nil {
		t.Fatal(err)
	}
	if !slices.ContainsFunc(nodes.Items[0].Status.RuntimeHandlers, func(h corev1.NodeRuntimeHandler) bool {
		return h.Name == "" && h.Features != nil && ptr.Deref(h.Features.UserNamespaces, false)
	}) {
		t.Skip("the node's runtime has no user namespaces, as its status says (runc before 1.2 has none)")
	}
	r.start("demo", makesTrees(r.treemakerImage(t, "owned")), func(s *v1alpha1.Sandbox) {
		s.Spec.Template.Spec.HostUsers = ptr.To(false)
		s.Spec.Template.Spec.Containers[0].SecurityContext = nil
	})
	r.program("demo", "/treemaker", "owned", "/owned")
	for cycle := 1; cycle <= 2; cycle++ {
		before := r.inventory("demo", "main", "/")
		r.pauseAndResume("demo")
		if lines := trees.Differences(trees.Kept(before), r.inventory("demo", "main", "/")); len(lines) > 0 {
			t.Fatalf("cycle %d: before the pause there was (-), after the resume (+):\n%s", cycle, trees.Shorten(lines))
		}
		if len(before) < 10 {
			t.Errorf("there are only %d things to compare", len(before))
		}
	}
}
