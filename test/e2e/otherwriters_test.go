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
	"io"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/utils/ptr"

	"github.com/opensandbox-io/sandbox-apiserver/apis/lifecycle/v1alpha1"
)

// TestWhatOthersWroteIntoACommittedContainerIsThereAfterResume has the same writers write into the committed container from where a
// pause of that container alone would not stop them. What they told the observer of is there after resume.
func TestWhatOthersWroteIntoACommittedContainerIsThereAfterResume(t *testing.T) {
	t.Parallel()
	// What may see the root of another process.
	sees := func(c *corev1.Container) {
		c.SecurityContext = &corev1.SecurityContext{Capabilities: &corev1.Capabilities{Add: []corev1.Capability{"SYS_ADMIN", "SYS_PTRACE"}}}
	}
	for _, test := range []struct {
		name   string
		change func(*v1alpha1.Sandbox)
		// write starts the writers, and returns when they have ended or ctx is over.
		write func(ctx context.Context, t *testing.T, r *room, o *observer)
	}{
		{
			name: "a container that is not committed, in the same PID namespace",
			change: func(s *v1alpha1.Sandbox) {
				pod := &s.Spec.Template.Spec
				other := *pod.Containers[0].DeepCopy()
				other.Name = "other"
				sees(&other)
				pod.Containers = append(pod.Containers, other)
				pod.ShareProcessNamespace = ptr.To(true)
				s.Spec.Snapshot = v1alpha1.SnapshotPolicy{Containers: []string{"main"}}
			},
			write: func(ctx context.Context, t *testing.T, r *room, _ *observer) {
				_ = r.exec(ctx, "demo", "other", io.Discard, io.Discard, "/treemaker", "start", r.rootOfMain(t), observerSocket)
			},
		},
		{
			name: "a native sidecar that is not committed, in the same PID namespace",
			change: func(s *v1alpha1.Sandbox) {
				pod := &s.Spec.Template.Spec
				other := *pod.Containers[0].DeepCopy()
				other.Name, other.RestartPolicy = "other", ptr.To(corev1.ContainerRestartPolicyAlways)
				other.VolumeMounts = []corev1.VolumeMount{observerMount}
				sees(&other)
				pod.InitContainers = []corev1.Container{other}
				pod.ShareProcessNamespace = ptr.To(true)
				s.Spec.Snapshot = v1alpha1.SnapshotPolicy{Containers: []string{"main"}}
			},
			write: func(ctx context.Context, t *testing.T, r *room, _ *observer) {
				_ = r.exec(ctx, "demo", "other", io.Discard, io.Discard, "/treemaker", "start", r.rootOfMain(t), observerSocket)
			},
		},
		{
			name: "a debug container",
			write: func(ctx context.Context, t *testing.T, r *room, _ *observer) {
				pod, err := r.kube.CoreV1().Pods(r.namespace).Get(ctx, "demo", metav1.GetOptions{})
				if err != nil {
					t.Error(err)
					return
				}
				debugger := corev1.Container{
					Name: "debugger", Image: pod.Spec.Containers[0].Image, VolumeMounts: []corev1.VolumeMount{observerMount},
					Command: []string{"/treemaker", "start", r.rootOfMain(t), observerSocket},
				}
				sees(&debugger)
				pod.Spec.EphemeralContainers = []corev1.EphemeralContainer{{
					EphemeralContainerCommon: corev1.EphemeralContainerCommon(debugger), TargetContainerName: "main",
				}}
				if _, err := r.kube.CoreV1().Pods(r.namespace).UpdateEphemeralContainers(ctx, "demo", pod, metav1.UpdateOptions{}); err != nil {
					t.Errorf("start a debug container: %v", err)
				}
			},
		},
		{
			name: "processes of its own in a cgroup beside its own",
			write: func(ctx context.Context, t *testing.T, r *room, o *observer) {
				ended := make(chan struct{})
				go func() {
					defer close(ended)
					_ = r.exec(ctx, "demo", "main", io.Discard, io.Discard, "/treemaker", "start", "/", observerSocket)
				}()
				o.awaitWriters(t)
				r.moveOut(t, "demo/main", "start", "parent", "write")
				<-ended
			},
		},
	} {
		t.Run(test.name, func(t *testing.T) {
			t.Parallel()
			r := newRoom(t)
			o := observe(t)
			r.start("demo", makesTrees(r.treemakerImage(t, "writers")), func(s *v1alpha1.Sandbox) {
				if test.change != nil {
					test.change(s)
				}
				o.inAll(s)
			})
			for run := range repetitions(t, 1, 10) {
				o.forget()
				ctx, cancel := context.WithCancel(t.Context())
				ended := make(chan struct{})
				go func() {
					defer close(ended)
					test.write(ctx, t, r, o)
				}()
				o.awaitWriters(t)
				r.pause("demo")
				r.awaitPaused("demo")
				cancel()
				<-ended
				told := o.all(t)
				r.resume("demo")
				r.awaitReady("demo")
				r.mustHaveWritten("demo", told)
				if t.Failed() {
					t.Fatalf("in run %d", run)
				}
			}
		})
	}
}

// rootOfMain is the root of the container main, as whoever shares its PID namespace finds it.
func (r *room) rootOfMain(t *testing.T) string {
	t.Helper()
	for line := range strings.Lines(r.procFile(t, r.process(t, r.namespace, "demo/main"), "status")) {
		if numbers, ok := strings.CutPrefix(line, "NSpid:"); ok {
			all := strings.Fields(numbers) // the innermost namespace's is the last
			return "/proc/" + all[len(all)-1] + "/root"
		}
	}
	t.Fatal("the kernel does not say which PID the process has in its own namespace")
	return ""
}

// moveOut moves the processes that the treemaker runs for these commands in a container into a cgroup beside the container's.
func (r *room) moveOut(t *testing.T, container string, commands ...string) {
	t.Helper()
	var group string
	for line := range strings.Lines(r.procFile(t, r.process(t, r.namespace, container), "cgroup")) {
		fields := strings.SplitN(strings.TrimSpace(line), ":", 3)
		switch {
		case fields[1] == "freezer":
			group = "/sys/fs/cgroup/freezer" + fields[2]
		case fields[0] == "0" && group == "":
			group = "/sys/fs/cgroup" + fields[2]
		}
	}
	beside := filepath.Join(filepath.Dir(group), "beside")
	if err := os.MkdirAll(beside, 0o755); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = os.Remove(beside) }) // the kubelet may have been faster
	processes, err := os.ReadFile(filepath.Join(group, "cgroup.procs"))
	if err != nil {
		t.Fatal(err)
	}
	moved := 0
	for _, process := range strings.Fields(string(processes)) {
		pid, err := strconv.Atoi(process)
		if err != nil {
			t.Fatal(err)
		}
		arguments := strings.Split(r.procFile(t, pid, "cmdline"), "\x00")
		for _, command := range commands {
			if len(arguments) > 1 && arguments[1] == command {
				if err := os.WriteFile(filepath.Join(beside, "cgroup.procs"), []byte(process), 0); err != nil {
					t.Fatal(err)
				}
				moved++
			}
		}
	}
	if moved == 0 {
		t.Fatal(fmt.Errorf("no process of %q is in %s: %s", commands, group, processes))
	}
}
