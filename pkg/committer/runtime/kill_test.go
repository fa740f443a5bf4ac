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

package runtime

import (
	"bufio"
	"context"
	"os"
	"os/exec"
	"strings"
	"testing"
	"time"

	tasks "github.com/containerd/containerd/api/services/tasks/v1"
	"github.com/containerd/containerd/api/types/task"
	"github.com/google/go-cmp/cmp"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
)

type fakePids struct {
	tasks.TasksClient
	pids []uint32
	gone bool
}

func (f fakePids) ListPids(context.Context, *tasks.ListPidsRequest, ...grpc.CallOption) (*tasks.ListPidsResponse, error) {
	if f.gone {
		return nil, status.Error(codes.NotFound, "no task")
	}
	answer := &tasks.ListPidsResponse{}
	for _, pid := range f.pids {
		answer.Processes = append(answer.Processes, &task.ProcessInfo{Pid: pid})
	}
	return answer, nil
}

func (f fakePids) Get(context.Context, *tasks.GetRequest, ...grpc.CallOption) (*tasks.GetResponse, error) {
	return &tasks.GetResponse{Process: &task.Process{Pid: 7, Status: task.Status_PAUSED}}, nil
}

// TestProcesses has the first process last.
func TestProcesses(t *testing.T) {
	container := &Container{client: &Client{tasks: fakePids{pids: []uint32{7, 9, 11}}}}
	got, err := container.Processes(t.Context())
	if err != nil || !cmp.Equal(got, []int{9, 11, 7}) {
		t.Errorf("%v, %v", got, err)
	}
	container.client.tasks = fakePids{gone: true}
	if got, err := container.Processes(t.Context()); err != nil || len(got) != 0 {
		t.Errorf("of a container that has ended: %v, %v", got, err)
	}
}

// TestKillOnlyTheContainersOwn starts a process and says that it is of a container: of one that has the name of the
// process's cgroup in its ID, and of another.
func TestKillOnlyTheContainersOwn(t *testing.T) {
	// It speaks first, so that it is known to run.
	command := exec.CommandContext(t.Context(), "sh", "-c", "echo ready; exec sleep 600")
	output, err := command.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := command.Start(); err != nil {
		t.Fatal(err)
	}
	ended := make(chan error, 1)
	if line, err := bufio.NewReader(output).ReadString('\n'); line != "ready\n" {
		t.Fatalf("%q, %v", line, err)
	}
	go func() { ended <- command.Wait() }()
	pid := command.Process.Pid

	other := &Container{ref: Ref{Name: "main", ID: strings.Repeat("ab", 32)}}
	if err := other.Kill(pid); err == nil || !strings.Contains(err.Error(), "not in the cgroup") {
		t.Errorf("a process of somebody else: %v", err)
	}
	select {
	case err := <-ended:
		t.Fatalf("a process of somebody else ended: %v", err)
	default:
	}

	cgroups, err := os.ReadFile("/proc/self/cgroup")
	if err != nil {
		t.Fatal(err)
	}
	own := &Container{ref: Ref{Name: "main", ID: strings.SplitN(string(cgroups), "\n", 2)[0]}}
	if err := own.Kill(pid); err != nil {
		t.Fatal(err)
	}
	select {
	case err := <-ended:
		if err == nil || !strings.Contains(err.Error(), "killed") {
			t.Errorf("it ended with %v", err)
		}
	case <-time.After(10 * time.Second):
		t.Fatal("the process does not end")
	}
	if err := own.Kill(pid); err == nil || !strings.Contains(err.Error(), "PID namespace") {
		t.Errorf("a process that is gone: %v", err)
	}
}
