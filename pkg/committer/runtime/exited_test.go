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
	"cmp"
	"context"
	"net"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/containerd/containerd/v2/core/containers"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/status"
	cri "k8s.io/cri-api/pkg/apis/runtime/v1"
)

// lateCRI knows of an end when it was asked some times.
type lateCRI struct {
	cri.UnimplementedRuntimeServiceServer
	asked, knowsAfter int
	err               error
}

func (l *lateCRI) ContainerStatus(_ context.Context, request *cri.ContainerStatusRequest) (*cri.ContainerStatusResponse, error) {
	if request.ContainerId != "c1" {
		return nil, status.Error(codes.NotFound, request.ContainerId)
	}
	if l.asked++; l.asked <= l.knowsAfter {
		return &cri.ContainerStatusResponse{Status: &cri.ContainerStatus{State: cri.ContainerState_CONTAINER_RUNNING}}, l.err
	}
	return &cri.ContainerStatusResponse{Status: &cri.ContainerStatus{State: cri.ContainerState_CONTAINER_EXITED}}, l.err
}

func TestExited(t *testing.T) {
	one := []containers.Container{{ID: "c1"}}
	const never = 1 << 30
	for name, test := range map[string]struct {
		found  []containers.Container
		tasks  endingTasks
		cri    lateCRI
		within time.Duration
		asked  int
		says   string
	}{
		"the CRI knows":              {found: one, asked: 1},
		"it knows in a moment":       {found: one, cri: lateCRI{knowsAfter: 2}, asked: 3},
		"it never knows":             {found: one, cri: lateCRI{knowsAfter: never}, within: 50 * time.Millisecond, says: "deadline exceeded"},
		"it does not answer":         {found: one, cri: lateCRI{err: status.Error(codes.Unavailable, "gone")}, asked: 1, says: "gone"},
		"it is not known to the CRI": {found: []containers.Container{{ID: "c2"}}, says: "c2"},
		"there is none":              {},
		"it runs on":                 {found: one, tasks: endingTasks{waitErr: status.Error(codes.DeadlineExceeded, "too long"), state: 2}, says: "too long"},
	} {
		t.Run(name, func(t *testing.T) {
			ctx, cancel := context.WithTimeout(t.Context(), cmp.Or(test.within, time.Minute))
			defer cancel()
			client := &Client{containers: &fakeContainers{found: test.found}, tasks: test.tasks, connection: serveCRI(t, &test.cri)}
			err := client.Exited(ctx, "pod-1", "image-committer")
			if (err != nil) != (test.says != "") || err != nil && !strings.Contains(err.Error(), test.says) {
				t.Errorf("%v, want %q", err, test.says)
			}
			if test.asked > 0 && test.cri.asked != test.asked {
				t.Errorf("the CRI was asked %d times, want %d", test.cri.asked, test.asked)
			}
		})
	}
}

// serveCRI serves it on a socket, and returns what connects there.
func serveCRI(t *testing.T, service *lateCRI) func() any {
	socket := filepath.Join(t.TempDir(), "s")
	listener, err := net.Listen("unix", socket)
	if err != nil {
		t.Fatal(err)
	}
	server := grpc.NewServer()
	cri.RegisterRuntimeServiceServer(server, service)
	go func() { _ = server.Serve(listener) }()
	t.Cleanup(server.Stop)
	connection, err := grpc.NewClient("unix://"+socket, grpc.WithTransportCredentials(insecure.NewCredentials()))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = connection.Close() })
	return func() any { return connection }
}
