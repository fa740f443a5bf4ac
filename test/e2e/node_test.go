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
	"slices"
	"strings"
	"syscall"
	"testing"

	tasks "github.com/containerd/containerd/api/services/tasks/v1"
	"github.com/containerd/containerd/api/types/task"
	containerd "github.com/containerd/containerd/v2/client"
	"github.com/containerd/containerd/v2/pkg/namespaces"
)

// Labels that containerd's CRI plugin gives to its containers.
const (
	labelPodNamespace  = "io.kubernetes.pod.namespace"
	labelPodName       = "io.kubernetes.pod.name"
	labelContainerName = "io.kubernetes.container.name"
)

// nodeContainer is a container of a node, as containerd knows it.
type nodeContainer struct {
	// name is the Pod's and the container's, for example demo/main.
	name   string
	pid    int
	status task.Status
}

// containers are the containers of a namespace's Pods that have a task; those that hold the
// Pods' own namespaces are not among them.
func (c *cluster) containers(ctx context.Context, namespace string) ([]nodeContainer, error) {
	clients, err := c.containerds()
	if err != nil {
		return nil, err
	}
	var found []nodeContainer
	for _, client := range clients {
		of, err := containersOf(ctx, client, namespace)
		if err != nil {
			return nil, err
		}
		found = append(found, of...)
	}
	return found, nil
}

func containersOf(ctx context.Context, client *containerd.Client, namespace string) ([]nodeContainer, error) {
	ctx = namespaces.WithNamespace(ctx, "k8s.io")
	known, err := client.ContainerService().List(ctx, fmt.Sprintf("labels.%q==%q", labelPodNamespace, namespace))
	if err != nil {
		return nil, fmt.Errorf("list the containers of namespace %s in containerd: %w", namespace, err)
	}
	answer, err := client.TaskService().List(ctx, &tasks.ListTasksRequest{})
	if err != nil {
		return nil, fmt.Errorf("list the tasks of containerd: %w", err)
	}
	var found []nodeContainer
	for _, container := range known {
		name := container.Labels[labelContainerName]
		at := slices.IndexFunc(answer.Tasks, func(process *task.Process) bool { return process.ID == container.ID })
		if name == "" || at < 0 {
			continue
		}
		found = append(found, nodeContainer{
			name:   container.Labels[labelPodName] + "/" + name,
			pid:    int(answer.Tasks[at].Pid),
			status: answer.Tasks[at].Status,
		})
	}
	return found, nil
}

// frozen names the containers of a namespace that are frozen.
func (c *cluster) frozen(ctx context.Context, namespace string) ([]string, error) {
	containers, err := c.containers(ctx, namespace)
	var names []string
	for _, container := range containers {
		if container.status == task.Status_PAUSED || container.status == task.Status_PAUSING {
			names = append(names, container.name)
		}
	}
	return names, err
}

// awaitFrozen returns as soon as a container is frozen. A commit is seen at work only if it has
// enough to read: see bigFile.
func (r *room) awaitFrozen(container string) {
	r.t.Helper()
	quickly(r.t, "container "+container+" is frozen", patience, func(ctx context.Context) (bool, string) {
		names, err := r.frozen(ctx, r.namespace)
		return slices.Contains(names, container), fmt.Sprintf("frozen: %q, error: %v", names, err)
	})
}

// holdCommit stops the process that commits a snapshot until release is called: what a test does
// meanwhile it does while the commit is under way, whichever of the two is faster.
func (r *room) holdCommit(snapshot string) (release func()) {
	r.t.Helper()
	return r.holdProcess(r.process(r.t, systemNamespace, r.commitPod(snapshot)+"/image-committer"))
}

func (r *room) holdProcess(pid int) (release func()) {
	r.t.Helper()
	process, err := os.FindProcess(pid)
	if err == nil {
		err = process.Signal(syscall.SIGSTOP)
	}
	if err != nil {
		r.t.Fatalf("stop process %d: %v", pid, err)
	}
	release = func() { _ = process.Signal(syscall.SIGCONT) } // it may have been killed meanwhile
	r.t.Cleanup(release)
	return release
}

// mustNotBeFrozen fails the test if any container of the room is frozen now.
func (r *room) mustNotBeFrozen() {
	r.t.Helper()
	names, err := r.frozen(r.t.Context(), r.namespace)
	if err != nil {
		r.t.Fatal(err)
	}
	if len(names) > 0 {
		r.t.Errorf("containers are frozen: %q", names)
	}
}

// kill is the cluster's.
func (r *room) kill(t *testing.T, namespace, podPrefix, container string) {
	t.Helper()
	r.killedCommitter = r.killedCommitter || container == "image-committer"
	r.cluster.kill(t, namespace, podPrefix, container)
}

// kill sends SIGKILL to the first process of a running container, from outside as the kernel's
// memory killer would.
func (c *cluster) kill(t *testing.T, namespace, podPrefix, container string) {
	t.Helper()
	containers, err := c.containers(t.Context(), namespace)
	if err != nil {
		t.Fatal(err)
	}
	for _, candidate := range containers {
		if strings.HasPrefix(candidate.name, podPrefix) && strings.HasSuffix(candidate.name, "/"+container) && candidate.status == task.Status_RUNNING {
			if err := syscall.Kill(candidate.pid, syscall.SIGKILL); err != nil {
				t.Fatalf("kill process %d of %s: %v", candidate.pid, candidate.name, err)
			}
			return
		}
	}
	t.Fatalf("no running container %s of a Pod %s* in namespace %s; there are %v", container, podPrefix, namespace, containers)
}
