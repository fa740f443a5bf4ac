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
	"os"
	"path/filepath"
	"strings"
	"testing"

	tasks "github.com/containerd/containerd/api/services/tasks/v1"
	"github.com/containerd/containerd/v2/pkg/namespaces"
	"golang.org/x/sys/unix"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/meta"
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

// TestAContainerThatIsKilledUnderACommitIsSavedAsItWas: it was frozen with its Pod, so nobody of it has run since, and its
// files are the only copy.
func TestAContainerThatIsKilledUnderACommitIsSavedAsItWas(t *testing.T) {
	t.Parallel()
	r := newRoom(t)
	before := r.start("demo")
	r.sh("demo", bigFile)
	r.pause("demo")
	r.awaitPodFrozen(before)
	r.killContainer("demo", "main")

	paused, snapshot := r.awaitPaused("demo")
	if snapshot.Name != "demo-gen1" || paused.UID != before.UID {
		t.Errorf("paused with snapshot %s: %s", snapshot.Name, describe(paused))
	}
	if meta.IsStatusConditionTrue(paused.Status.Conditions, v1alpha1.ConditionDataLost) {
		t.Errorf("nothing is lost, and it says: %s", describe(paused))
	}
	r.resume("demo")
	r.awaitReady("demo")
	r.sh("demo", checkBigFile)
}

// awaitPodFrozen waits until the cgroup of the sandbox's Pod has been told to freeze: after its containers were.
func (r *room) awaitPodFrozen(sandbox *v1alpha1.Sandbox) {
	r.t.Helper()
	uid := string(sandbox.Status.PodUID)
	eventually(r.t, "the Pod is frozen as a whole", patience, func(context.Context) (bool, string) {
		saw := ""
		for _, pattern := range []string{"/sys/fs/cgroup/freezer/*/*" + uid + "/freezer.self_freezing", "/sys/fs/cgroup/freezer/*/*/*" + uid + "/freezer.self_freezing",
			"/sys/fs/cgroup/*/*" + uid + "/cgroup.freeze", "/sys/fs/cgroup/*/*/*" + uid + "/cgroup.freeze"} {
			files, _ := filepath.Glob(pattern)
			for _, file := range files {
				asked, _ := os.ReadFile(file)
				saw += file + " " + string(asked)
				if strings.TrimSpace(string(asked)) == "1" {
					return true, ""
				}
			}
		}
		return false, saw
	})
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
