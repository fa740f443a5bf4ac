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
	"context"
	"errors"
	"strings"
	"testing"

	tasks "github.com/containerd/containerd/api/services/tasks/v1"
	"github.com/containerd/containerd/api/types/task"
	"github.com/containerd/containerd/v2/core/containers"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
)

// endingTasks answer for one container.
type endingTasks struct {
	tasks.TasksClient
	code    uint32
	waitErr error
	// state is asked for when the wait has failed; 0: there is no task.
	state task.Status
}

func (f endingTasks) Wait(context.Context, *tasks.WaitRequest, ...grpc.CallOption) (*tasks.WaitResponse, error) {
	return &tasks.WaitResponse{ExitStatus: f.code}, f.waitErr
}

func (f endingTasks) Get(context.Context, *tasks.GetRequest, ...grpc.CallOption) (*tasks.GetResponse, error) {
	if f.state == 0 {
		return nil, status.Error(codes.NotFound, "no task")
	}
	return &tasks.GetResponse{Process: &task.Process{Status: f.state}}, nil
}

type fakeContainers struct {
	containers.Store
	found []containers.Container
	err   error
	asked string
}

func (f *fakeContainers) List(_ context.Context, filters ...string) ([]containers.Container, error) {
	f.asked = strings.Join(filters, "; ")
	return f.found, f.err
}

func TestEnded(t *testing.T) {
	one := []containers.Container{{ID: "c1"}}
	gone := status.Error(codes.NotFound, "no task")
	broken := status.Error(codes.Unavailable, "the shim is gone")
	tests := map[string]struct {
		containers fakeContainers
		tasks      endingTasks
		failed     bool
		says       string
	}{
		"well":                                   {containers: fakeContainers{found: one}},
		"badly":                                  {containers: fakeContainers{found: one}, tasks: endingTasks{code: 137}, failed: true},
		"before it was asked":                    {containers: fakeContainers{found: one}, tasks: endingTasks{waitErr: gone}},
		"with its shim":                          {containers: fakeContainers{found: one}, tasks: endingTasks{waitErr: broken, state: task.Status_STOPPED}},
		"never, as it was never made":            {},
		"not, and nobody waits for it":           {containers: fakeContainers{found: one}, tasks: endingTasks{waitErr: broken, state: task.Status_RUNNING}, says: "the shim is gone"},
		"nobody knows: containerd does not list": {containers: fakeContainers{err: errors.New("broken")}, says: "broken"},
	}
	for name, test := range tests {
		t.Run(name, func(t *testing.T) {
			client := &Client{containers: &test.containers, tasks: test.tasks}
			failed, err := client.Ended(t.Context(), "pod-1", "image-committer")
			if failed != test.failed || (err != nil) != (test.says != "") || err != nil && !strings.Contains(err.Error(), test.says) {
				t.Errorf("failed: %t, error %v; want %t, %q", failed, err, test.failed, test.says)
			}
			if want := `labels."io.kubernetes.pod.uid"=="pod-1",labels."io.kubernetes.container.name"=="image-committer",labels."io.cri-containerd.kind"=="container"`; test.containers.asked != want {
				t.Errorf("it looks for %s", test.containers.asked)
			}
		})
	}
}

func TestAwaitEnd(t *testing.T) {
	broken := status.Error(codes.Unavailable, "the shim is gone")
	for name, test := range map[string]struct {
		tasks endingTasks
		says  string
	}{
		"it has ended":            {tasks: endingTasks{code: 137}},
		"with its shim":           {tasks: endingTasks{waitErr: broken}},
		"it is frozen, and stays": {tasks: endingTasks{waitErr: broken, state: task.Status_PAUSED}, says: `container "main"`},
	} {
		t.Run(name, func(t *testing.T) {
			container := &Container{client: &Client{tasks: test.tasks}, ref: Ref{Name: "main", ID: "c1"}}
			if err := container.AwaitEnd(t.Context()); (err != nil) != (test.says != "") || err != nil && !strings.Contains(err.Error(), test.says) {
				t.Errorf("%v, want %q", err, test.says)
			}
		})
	}
}
