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

	tasks "github.com/containerd/containerd/api/services/tasks/v1"
	"github.com/containerd/containerd/api/types/task"
	"github.com/containerd/errdefs/pkg/errgrpc"

	"github.com/opensandbox-io/sandbox-apiserver/pkg/committer/cgroup"
)

// State is what a container's processes are doing.
type State int

// States. A container without a task has Ended, as far as a commit goes: there
// is nobody who could write.
const (
	Ended State = iota
	// Created is before its start: its first process is about to run.
	Created
	Running
	// Pausing is on its way to Paused.
	Pausing
	Paused
)

func (s State) String() string {
	return [...]string{"ended", "created", "running", "being frozen", "frozen"}[s]
}

// State is what the container's processes do. The task tells whether there are any; whether they
// are frozen, the kernel does: a runtime remembers what it was asked for, and not what came of it.
func (c *Container) State(ctx context.Context) (State, error) {
	known, err := c.client.state(ctx, c.ref.ID)
	if err != nil || known == Ended || known == Created {
		return known, err
	}
	group, err := c.group()
	if err != nil || group == nil {
		return known, ignoreGone(err)
	}
	kernel, err := group.State()
	if err != nil {
		return known, ignoreGone(err)
	}
	return merge(known, kernel), nil
}

// merge is what a task's processes do by what the kernel says of their cgroup.
func merge(known State, kernel cgroup.State) State {
	switch {
	case known == Ended || known == Created:
		return known
	case kernel.Frozen:
		return Paused
	case kernel.Asked || kernel.Above:
		return Pausing
	default:
		return Running
	}
}

// ignoreGone leaves it to the task to say what has become of who is in no cgroup any more.
func ignoreGone(err error) error {
	if errors.Is(err, cgroup.ErrGone) {
		return nil
	}
	return err
}

// group is the container's cgroup, nil where cgroups are not looked at.
func (c *Container) group() (*cgroup.Group, error) {
	if c.client.cgroups == nil || c.cgroup != nil {
		return c.cgroup, nil
	}
	spec, err := c.spec()
	if err != nil {
		return nil, err
	}
	path := ""
	if spec.Linux != nil {
		path = spec.Linux.CgroupsPath
	}
	c.cgroup, err = c.client.cgroups.Container(c.ref.ID, path)
	return c.cgroup, err
}

// Witnessed says whether the kernel is asked what is frozen. Where it is not, nobody knows what a
// freeze that failed has left.
func (c *Container) Witnessed() bool { return c.client.cgroups != nil }

func (c *Client) state(ctx context.Context, id string) (State, error) {
	state, _, err := c.task(ctx, id)
	return state, err
}

// task is what containerd knows of a container: what it does, and its first process.
func (c *Client) task(ctx context.Context, id string) (state State, pid int, err error) {
	answer, err := c.tasks.Get(c.in(ctx), &tasks.GetRequest{ContainerID: id})
	if err = errgrpc.ToNative(err); isNotFound(err) {
		return Ended, 0, nil
	}
	if err != nil {
		return 0, 0, fmt.Errorf("asking containerd for the state of container %s: %w", id, err)
	}
	pid = int(answer.GetProcess().GetPid())
	switch answer.GetProcess().GetStatus() {
	case task.Status_STOPPED:
		return Ended, pid, nil
	case task.Status_CREATED:
		return Created, pid, nil
	case task.Status_RUNNING:
		return Running, pid, nil
	case task.Status_PAUSING:
		return Pausing, pid, nil
	case task.Status_PAUSED:
		return Paused, pid, nil
	}
	return 0, 0, fmt.Errorf("containerd does not know the state of container %s", id)
}

// Pause freezes all processes of the container, or has them be frozen soon: State tells.
func (c *Container) Pause(ctx context.Context) error {
	_, err := c.client.tasks.Pause(c.client.in(ctx), &tasks.PauseTaskRequest{ContainerID: c.ref.ID})
	if err = errgrpc.ToNative(err); err == nil {
		return nil
	}
	// Somebody has thawed them behind the shim's back, who takes them for frozen and does nothing.
	if known, stateErr := c.client.state(ctx, c.ref.ID); stateErr == nil && known == Paused {
		if group, groupErr := c.group(); groupErr == nil && group != nil {
			return group.Freeze()
		}
	}
	return err
}

// Resume thaws them, whoever froze them: the runtime, or an attempt of it that has failed and that
// it knows nothing of any more. When it returns, no Pause that was begun before is under way.
func (c *Container) Resume(ctx context.Context) error {
	group, err := c.group()
	if err != nil && !errors.Is(err, cgroup.ErrGone) {
		return err
	}
	known, err := c.client.state(ctx, c.ref.ID)
	if err != nil || known == Ended {
		return errors.Join(err, thaw(group))
	}
	if known == Paused {
		// runc refuses to thaw what is not frozen, and its shim would go on refusing every exec.
		if kernel, err := stateOf(group); err == nil && kernel.Thawed() {
			if err := group.Freeze(); err != nil {
				return err
			}
		}
	} else if err := thaw(group); err != nil {
		return err
	}
	_, err = c.client.tasks.Resume(c.client.in(ctx), &tasks.ResumeTaskRequest{ContainerID: c.ref.ID})
	if err = errgrpc.ToNative(err); err == nil || group == nil {
		return err
	}
	// A shim that does not take the container for frozen has refused, after what it was at.
	if thawErr := thaw(group); thawErr != nil || known == Paused {
		return errors.Join(err, thawErr)
	}
	return nil
}

// Hold sees to it that the container stays frozen when what is above it is thawed: whoever has tried
// to kill it may have thawed it for that.
func (c *Container) Hold(ctx context.Context) error {
	known, err := c.client.state(ctx, c.ref.ID)
	if err != nil || known == Ended {
		return err
	}
	group, err := c.group()
	if err != nil || group == nil {
		return ignoreGone(err)
	}
	return hold(group)
}

// Held says whether the container is frozen by itself, whatever is above it: nobody has killed or
// thawed it since it was.
func (c *Container) Held(ctx context.Context) (bool, error) {
	known, err := c.client.state(ctx, c.ref.ID)
	if err != nil || known == Ended {
		return false, err
	}
	group, err := c.group()
	if err != nil || group == nil {
		return known == Paused, ignoreGone(err)
	}
	kernel, err := group.State()
	return kernel.Asked && kernel.Frozen, ignoreGone(err)
}

func hold(group *cgroup.Group) error {
	kernel, err := group.State()
	if err != nil || kernel.Asked {
		return ignoreGone(err)
	}
	return ignoreGone(group.Freeze())
}

// thaw takes back what a cgroup was asked for, whatever else keeps it frozen.
func thaw(group *cgroup.Group) error {
	kernel, err := stateOf(group)
	if err != nil || !kernel.Asked {
		return ignoreGone(err)
	}
	return ignoreGone(group.Thaw())
}

func stateOf(group *cgroup.Group) (cgroup.State, error) {
	if group == nil {
		return cgroup.State{}, cgroup.ErrGone
	}
	return group.State()
}

// Moving are the processes that have not stopped, as far as the kernel can be asked.
func (c *Container) Moving(context.Context) ([]cgroup.Process, error) {
	group, err := c.group()
	if err != nil || group == nil {
		return nil, err
	}
	return group.Moving()
}

// AwaitEnd waits until the container has ended.
func (c *Container) AwaitEnd(ctx context.Context) error {
	if _, err := c.client.awaitEnd(ctx, c.ref.ID); err != nil {
		return fmt.Errorf("waiting for the end of container %q: %w", c.ref.Name, err)
	}
	return nil
}

// Ended waits until a container of a Pod has ended that is never restarted, and says whether it is
// known to have failed: of one whose task the kubelet's runtime has cleared away that is not known.
func (c *Client) Ended(ctx context.Context, podUID, name string) (failed bool, err error) {
	found, err := c.named(ctx, podUID, name)
	if err != nil {
		return false, err
	}
	for _, container := range found {
		code, err := c.awaitEnd(ctx, container.ID)
		if err != nil {
			return false, fmt.Errorf("waiting for the end of container %q of the Pod %s: %w", name, podUID, err)
		}
		failed = failed || code != 0
	}
	return failed, nil
}

// awaitEnd returns the exit code of a container, 0 where nobody knows it any more.
func (c *Client) awaitEnd(ctx context.Context, id string) (code uint32, err error) {
	exit, err := c.tasks.Wait(c.in(ctx), &tasks.WaitRequest{ContainerID: id})
	if err == nil {
		return exit.GetExitStatus(), nil
	}
	// Its shim may be gone before it has answered.
	if state, stateErr := c.state(ctx, id); stateErr != nil || state != Ended {
		return 0, errors.Join(errgrpc.ToNative(err), stateErr)
	}
	return 0, nil
}

// ServesFiles is whether the container has a server of a file system in user space.
func (c *Container) ServesFiles(context.Context) (bool, error) {
	group, err := c.group()
	if err != nil || group == nil {
		return false, ignoreGone(err)
	}
	serves, err := group.ServesFiles()
	return serves, ignoreGone(err)
}
