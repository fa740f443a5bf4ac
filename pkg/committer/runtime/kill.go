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
	"fmt"
	"os"
	"slices"
	"strings"

	tasks "github.com/containerd/containerd/api/services/tasks/v1"
	"github.com/containerd/errdefs/pkg/errgrpc"
	"golang.org/x/sys/unix"

	"github.com/opensandbox-io/sandbox-apiserver/pkg/committer/cgroup"
)

// Processes are the PIDs of all processes of the container, as the node counts them, its first one
// last. None where it has ended. The kernel is asked for them where it can be: runtimes do not know
// those of threaded cgroups.
func (c *Container) Processes(ctx context.Context) ([]int, error) {
	pids, err := c.processes(ctx)
	if err != nil || len(pids) < 2 {
		return pids, err
	}
	task, err := c.client.tasks.Get(c.client.in(ctx), &tasks.GetRequest{ContainerID: c.ref.ID})
	if err == nil {
		pids = lastOf(pids, int(task.GetProcess().GetPid()))
	}
	return pids, nil
}

// lastOf puts the first process last.
func lastOf(pids []int, first int) []int {
	at := slices.Index(pids, first)
	if at < 0 {
		return pids
	}
	return append(slices.Delete(slices.Clone(pids), at, at+1), first)
}

func (c *Container) processes(ctx context.Context) ([]int, error) {
	group, err := c.group()
	if err == nil && group != nil {
		pids, err := group.Processes()
		switch {
		case errors.Is(err, cgroup.ErrGone):
			return nil, nil
		case err == nil && slices.Contains(pids, 0):
			return nil, fmt.Errorf("processes of container %q are not to be seen: this process must share the node's PID namespace", c.ref.Name)
		case err == nil:
			return pids, nil
		}
	}
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

// DieFrozen is whether a frozen process dies of a signal before it is thawed.
func (c *Container) DieFrozen() bool {
	return c.client.cgroups != nil && c.client.cgroups.Version() == 2
}

// Kill sends SIGKILL to one process of the container, if it is one: the node may have given the
// PID to another since it was asked for. It needs the node's PID namespace.
// https://man7.org/linux/man-pages/man2/pidfd_send_signal.2.html
func (c *Container) Kill(pid int) error {
	return kill(pid, c.String(), func() (bool, error) {
		cgroups, err := os.ReadFile(fmt.Sprintf("/proc/%d/cgroup", pid))
		return strings.Contains(string(cgroups), c.ref.ID), err
	})
}

// Kill sends SIGKILL to one process of the cgroup, if it is one.
func (g *Group) Kill(pid int) error {
	return kill(pid, g.String(), func() (bool, error) {
		pids, err := g.group.Processes()
		return slices.Contains(pids, pid), err
	})
}

// DieFrozen is whether a frozen process dies of a signal before it is thawed.
func (g *Group) DieFrozen() bool { return g.group.DieFrozen() }

func kill(pid int, of string, isOne func() (bool, error)) error {
	fd, err := unix.PidfdOpen(pid, 0)
	if err != nil {
		return fmt.Errorf("process %d of %s: %w (this process must share the node's PID namespace)", pid, of, err)
	}
	defer func() { _ = unix.Close(fd) }()
	// Asked after the descriptor was opened: what it says is of that process, or of one to which the
	// signal does not go any more.
	one, err := isOne()
	if err != nil {
		return fmt.Errorf("process %d of %s: %w", pid, of, err)
	}
	if !one {
		return fmt.Errorf("process %d is not in the cgroup of %s", pid, of)
	}
	if err := unix.PidfdSendSignal(fd, unix.SIGKILL, nil, 0); err != nil {
		return fmt.Errorf("killing process %d of %s: %w", pid, of, err)
	}
	return nil
}
