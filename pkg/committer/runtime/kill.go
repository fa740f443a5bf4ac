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
	"fmt"
	"os"
	"strings"

	tasks "github.com/containerd/containerd/api/services/tasks/v1"
	"github.com/containerd/errdefs/pkg/errgrpc"
	"golang.org/x/sys/unix"
)

// Processes are the PIDs of all processes of the container, as the node counts them. None where
// it has ended.
func (c *Container) Processes(ctx context.Context) ([]int, error) {
	answer, err := c.client.tasks.ListPids(c.client.in(ctx), &tasks.ListPidsRequest{ContainerID: c.ref.ID})
	if err = errgrpc.ToNative(err); isNotFound(err) {
		return nil, nil
	}
	if err != nil {
		return nil, fmt.Errorf("asking containerd for the processes of container %q (%s): %w", c.ref.Name, c.ref.ID, err)
	}
	var pids []int
	for _, process := range answer.GetProcesses() {
		pids = append(pids, int(process.GetPid()))
	}
	return pids, nil
}

// Kill sends SIGKILL to one process of the container, if it is one: the node may have given the
// PID to another since it was asked for. It needs the node's PID namespace.
// https://man7.org/linux/man-pages/man2/pidfd_send_signal.2.html
func (c *Container) Kill(pid int) error {
	fd, err := unix.PidfdOpen(pid, 0)
	if err != nil {
		return fmt.Errorf("process %d of container %q: %w (this process must share the node's PID namespace)", pid, c.ref.Name, err)
	}
	defer func() { _ = unix.Close(fd) }()
	// Read after the descriptor was opened: what it says is of that process, or of one to which the
	// signal does not go any more.
	cgroups, err := os.ReadFile(fmt.Sprintf("/proc/%d/cgroup", pid))
	if err != nil {
		return fmt.Errorf("process %d of container %q: %w", pid, c.ref.Name, err)
	}
	if !strings.Contains(string(cgroups), c.ref.ID) {
		return fmt.Errorf("process %d is not in the cgroup of container %q (%s)", pid, c.ref.Name, c.ref.ID)
	}
	if err := unix.PidfdSendSignal(fd, unix.SIGKILL, nil, 0); err != nil {
		return fmt.Errorf("killing process %d of container %q: %w", pid, c.ref.Name, err)
	}
	return nil
}
