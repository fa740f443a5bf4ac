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
	"context"
	"testing"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/utils/ptr"

	"github.com/opensandbox-io/sandbox-apiserver/apis/lifecycle/v1alpha1"
)

func TestADeletedSandboxLeavesNothingBehind(t *testing.T) {
	t.Parallel()
	for _, phase := range []struct {
		name v1alpha1.SandboxPhase
		// bring takes a new sandbox into the phase.
		bring func(r *room)
	}{
		{v1alpha1.SandboxPending, func(r *room) {
			r.create("demo", nowhere)
			r.awaitReason("demo", v1alpha1.ConditionReady, v1alpha1.ReasonPodUnschedulable)
		}},
		{v1alpha1.SandboxRunning, func(r *room) {
			r.start("demo")
		}},
		{v1alpha1.SandboxPausing, func(r *room) {
			r.start("demo")
			r.sh("demo", bigFile)
			r.pause("demo")
			r.awaitFrozen("demo/main")
		}},
		{v1alpha1.SandboxPaused, func(r *room) {
			r.start("demo")
			r.pause("demo")
			r.awaitPaused("demo")
		}},
		{v1alpha1.SandboxResuming, func(r *room) {
			r.start("demo")
			r.pause("demo")
			r.awaitPaused("demo")
			r.edit("demo", nowhere)
			r.resume("demo")
			r.awaitReason("demo", v1alpha1.ConditionReady, v1alpha1.ReasonPodUnschedulable)
		}},
		{v1alpha1.SandboxFailed, func(r *room) {
			// The Pod is lost while it is being paused, and so is its first snapshot.
			r.start("demo")
			r.sh("demo", bigFile)
			r.pause("demo")
			r.awaitFrozen("demo/main")
			// The commit does not end before the Pod is lost: neither does it succeed, nor is it tried again.
			r.holdCommit("demo-gen1")
			r.deletePod("demo", metav1.DeleteOptions{GracePeriodSeconds: ptr.To[int64](0)})
			r.kill(r.t, systemNamespace, r.commitPod("demo-gen1"), "image-committer")
			r.await("demo", "Failed", func(s *v1alpha1.Sandbox) bool { return s.Status.Phase == v1alpha1.SandboxFailed })
		}},
	} {
		t.Run(string(phase.name), func(t *testing.T) {
			t.Parallel()
			r := newRoom(t)
			phase.bring(r)
			if now := r.get("demo"); now.Status.Phase != phase.name {
				t.Errorf("before it is deleted the sandbox is %s, want %s", describe(now), phase.name)
			}
			if err := r.sandboxes().Delete(t.Context(), "demo", metav1.DeleteOptions{}); err != nil {
				t.Fatal(err)
			}
			eventually(t, "nothing is left of the sandbox", patience, func(ctx context.Context) (bool, string) {
				left := r.left(ctx)
				return left == "", left
			})
		})
	}
}

func TestANamespaceWithSandboxesCanBeDeleted(t *testing.T) {
	t.Parallel()
	r := newRoom(t)
	r.create("pending", nowhere)
	r.start("running")
	r.start("paused")
	r.start("pausing")
	r.pause("paused")
	r.awaitPaused("paused")
	r.sh("pausing", bigFile)
	r.pause("pausing")
	r.awaitFrozen("pausing/main")
	if err := r.kube.CoreV1().Namespaces().Delete(t.Context(), r.namespace, metav1.DeleteOptions{}); err != nil {
		t.Fatal(err)
	}
	eventually(t, "the namespace is gone", patience, func(ctx context.Context) (bool, string) {
		namespace, err := r.kube.CoreV1().Namespaces().Get(ctx, r.namespace, metav1.GetOptions{})
		if err != nil {
			return apierrors.IsNotFound(err), err.Error()
		}
		return false, inYAML(namespace.Status)
	})
	// Its Jobs live elsewhere, and containerd knows of no namespaces being deleted.
	if left := r.left(t.Context()); left != "" {
		t.Errorf("the namespace is gone and there is still: %s", left)
	}
}
