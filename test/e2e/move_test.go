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
	"strings"
	"testing"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/opensandbox-io/sandbox-apiserver/apis/lifecycle/v1alpha1"
)

// As docs/usage.md has it, "Move".
func TestASandboxMovesToAnotherNamespace(t *testing.T) {
	t.Parallel()
	from := newRoom(t)
	from.start("demo")
	from.sh("demo", "echo mine > /root/mine")
	from.pause("demo")
	_, saved := from.awaitPaused("demo")
	image := saved.Status.Containers[0].ImageURI + "@" + saved.Status.Containers[0].ImageDigest

	to := newKubectl(t)
	manifest := strings.ReplaceAll(to.example("moved.yaml"),
		"registry.example.com/sandboxes/elsewhere/demo-main@sha256:"+strings.Repeat("0", 64), image)
	if !strings.Contains(manifest, image) {
		t.Fatalf("the example does not name an image:\n%s", manifest)
	}
	to.mustSay("created", to.pipe(manifest, "apply", "-f", "-"))
	to.awaitReady("demo")
	if got := to.sh("demo", "cat /root/mine"); got != "mine\n" {
		t.Errorf("moved, there is %q", got)
	}
	to.mustSay("unchanged", to.pipe(manifest, "apply", "-f", "-"))

	// A pause makes it independent, and neither the old snapshot nor the new one can take its files away.
	to.sh("demo", "echo more > /root/more")
	to.pauseAndResume("demo")
	to.deleteSnapshot("demo-moved")
	to.awaitSnapshotGone("demo-moved")
	from.mustBeInRegistry(saved.Status.Containers[0])
	if err := from.sandboxes().Delete(t.Context(), "demo", metav1.DeleteOptions{}); err != nil {
		t.Fatal(err)
	}
	from.awaitSnapshotGone(saved.Name)
	_, again := to.pauseAndResume("demo")
	if got := to.sh("demo", "cat /root/mine /root/more"); got != "mine\nmore\n" {
		t.Errorf("paused after its origin was deleted, there is %q", got)
	}
	to.mustBeInRegistry(again.Status.Containers[0])
}

func TestAMoveThatCannotBe(t *testing.T) {
	t.Parallel()
	r := newRoom(t)
	digest := "@sha256:" + strings.Repeat("0", 64)
	snapshot := func(change func(*v1alpha1.SandboxSnapshotSpec)) *v1alpha1.SandboxSnapshot {
		s := &v1alpha1.SandboxSnapshot{ObjectMeta: metav1.ObjectMeta{Name: "moved"}, Spec: v1alpha1.SandboxSnapshotSpec{
			Source: &v1alpha1.SnapshotSource{Images: []v1alpha1.SnapshotSourceImage{{ContainerName: "main", Image: "registry.example.com/a" + digest}}},
		}}
		change(&s.Spec)
		return s
	}
	for name, change := range map[string]func(*v1alpha1.SandboxSnapshotSpec){
		"spec.source.images[0].image": func(s *v1alpha1.SandboxSnapshotSpec) { s.Source.Images[0].Image = "registry.example.com/a:latest" },
		"spec.deletionPolicy":         func(s *v1alpha1.SandboxSnapshotSpec) { s.DeletionPolicy = v1alpha1.DeletionPolicyDelete },
		"spec.sandboxName":            func(s *v1alpha1.SandboxSnapshotSpec) { s.SandboxName = "demo" },
	} {
		_, err := r.snapshots().Create(t.Context(), snapshot(change), metav1.CreateOptions{})
		if err == nil || !strings.Contains(err.Error(), name) {
			t.Errorf("%s: %v", name, err)
		}
	}
	made, err := r.snapshots().Create(t.Context(), snapshot(func(*v1alpha1.SandboxSnapshotSpec) {}), metav1.CreateOptions{})
	if err != nil {
		t.Fatal(err)
	}
	if made.Spec.DeletionPolicy != v1alpha1.DeletionPolicyRetain {
		t.Errorf("it is made with the policy %s", made.Spec.DeletionPolicy)
	}
	r.awaitSucceed("moved")
	r.create("demo", func(s *v1alpha1.Sandbox) { s.Spec.RestoreFrom = &v1alpha1.SandboxRestoreSource{SnapshotName: "moved"} })
	r.awaitReason("demo", v1alpha1.ConditionReady, v1alpha1.ReasonImagePullFailed)
}
