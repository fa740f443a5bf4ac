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
	"fmt"
	"strings"
	"testing"

	tasks "github.com/containerd/containerd/api/services/tasks/v1"
	"github.com/containerd/containerd/v2/pkg/namespaces"
	"golang.org/x/sys/unix"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/opensandbox-io/sandbox-apiserver/apis/lifecycle/v1alpha1"
)

// TestContainersThatEndedAreCommittedWithoutFreezing has one that ended well and one that crashed.
func TestContainersThatEndedAreCommittedWithoutFreezing(t *testing.T) {
	t.Parallel()
	r := newRoom(t)
	const command = `if [ -f /root/done ]; then exec sleep infinity; fi; echo "$NAME was here" > /root/done; exit $CODE`
	r.create("demo", func(s *v1alpha1.Sandbox) {
		spec := &s.Spec.Template.Spec
		spec.RestartPolicy = corev1.RestartPolicyNever
		spec.Containers = nil
		for name, code := range map[string]string{"well": "0", "badly": "3"} {
			c := sleeper(name)
			c.Command = []string{"sh", "-c", command}
			c.Env = []corev1.EnvVar{{Name: "NAME", Value: name}, {Name: "CODE", Value: code}}
			spec.Containers = append(spec.Containers, c)
		}
	})
	eventually(t, "both containers have ended", patience, func(ctx context.Context) (bool, string) {
		pod, err := r.kube.CoreV1().Pods(r.namespace).Get(ctx, "demo", metav1.GetOptions{})
		if err != nil {
			return false, err.Error()
		}
		return pod.Status.Phase == corev1.PodFailed, string(pod.Status.Phase)
	})
	r.await("demo", "known to have ended", func(s *v1alpha1.Sandbox) bool {
		return s.Status.Phase == v1alpha1.SandboxRunning && s.Status.PodUID != ""
	})
	r.pause("demo")
	_, snapshot := r.awaitPaused("demo")
	if frozen := snapshot.Status.FrozenDuration; frozen == nil || frozen.Duration != 0 {
		t.Errorf("containers that had ended were frozen for %v", frozen)
	}
	r.resume("demo")
	r.awaitReady("demo")
	for _, name := range []string{"well", "badly"} {
		if got, want := r.shIn("demo", name, "cat /root/done"), name+" was here\n"; got != want {
			t.Errorf("container %s: after resume there is %q, want %q", name, got, want)
		}
	}
}

// TestAContainerThatIsKilledUnderACommitFailsTheAttempt kills the container's processes while the
// commit reads its files: the kubelet starts it anew, from the image.
func TestAContainerThatIsKilledUnderACommitFailsTheAttempt(t *testing.T) {
	t.Parallel()
	r := newRoom(t)
	before := r.start("demo")
	r.sh("demo", bigFile)
	r.pause("demo")
	r.awaitFrozen("demo/main")
	r.killContainer("demo", "main")

	var failed *v1alpha1.SandboxSnapshot
	eventually(t, "the attempt has failed", patience, func(ctx context.Context) (bool, string) {
		snapshot, err := r.snapshots().Get(ctx, "demo-gen1", metav1.GetOptions{})
		if err != nil {
			return false, err.Error()
		}
		failed = snapshot
		return snapshot.Status.Phase == v1alpha1.SnapshotFailed, fmt.Sprint(snapshot.Status.Phase, snapshot.Status.Conditions)
	})
	if reason := reasonOf(failed.Status.Conditions, v1alpha1.ConditionFailed); reason != v1alpha1.ReasonContainerRestarted && reason != v1alpha1.ReasonContainerNotFound {
		t.Errorf("the attempt failed with the reason %s: %s", reason, messageOf(failed.Status.Conditions, v1alpha1.ConditionFailed))
	}
	for _, container := range failed.Status.Containers {
		if container.ImageDigest != "" {
			t.Errorf("the failed snapshot has the image %s", container.ImageDigest)
		}
	}
	// Files are gone that were there when the pause was asked for: what is left is committed when it is asked for again.
	r.awaitReason("demo", v1alpha1.ConditionPaused, v1alpha1.ReasonFilesLost)
	r.pause("demo")
	paused, snapshot := r.awaitPaused("demo")
	if snapshot.Name == failed.Name || paused.UID != before.UID {
		t.Errorf("paused with snapshot %s: %s", snapshot.Name, describe(paused))
	}
	r.resume("demo")
	r.awaitReady("demo")
	if got := strings.TrimSpace(r.sh("demo", "ls /root/big 2>/dev/null || echo gone")); got != "gone" {
		t.Errorf("after a restart in place there is %q: the snapshot is of two containers", got)
	}
}

// killContainer kills all processes of a container, frozen or not, as the kernel does when memory
// is out.
func (r *room) killContainer(pod, container string) {
	r.t.Helper()
	ctx := namespaces.WithNamespace(r.t.Context(), "k8s.io")
	known, err := r.containerd.ContainerService().List(ctx, fmt.Sprintf("labels.%q==%q,labels.%q==%q,labels.%q==%q",
		labelPodNamespace, r.namespace, labelPodName, pod, labelContainerName, container))
	if err != nil || len(known) != 1 {
		r.t.Fatalf("containers %s of Pod %s: %d, %v", container, pod, len(known), err)
	}
	if _, err := r.containerd.TaskService().Kill(ctx, &tasks.KillRequest{ContainerID: known[0].ID, Signal: uint32(unix.SIGKILL), All: true}); err != nil {
		r.t.Fatalf("kill container %s of Pod %s: %v", container, pod, err)
	}
}
