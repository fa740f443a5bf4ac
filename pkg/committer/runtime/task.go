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

// State asks for the state of the container's task.
func (c *Container) State(ctx context.Context) (State, error) {
	return c.client.state(ctx, c.ref.ID)
}

func (c *Client) state(ctx context.Context, id string) (State, error) {
	answer, err := c.tasks.Get(c.in(ctx), &tasks.GetRequest{ContainerID: id})
	if err = errgrpc.ToNative(err); isNotFound(err) {
		return Ended, nil
	}
	if err != nil {
		return 0, fmt.Errorf("asking containerd for the state of container %s: %w", id, err)
	}
	switch answer.GetProcess().GetStatus() {
	case task.Status_STOPPED:
		return Ended, nil
	case task.Status_CREATED:
		return Created, nil
	case task.Status_RUNNING:
		return Running, nil
	case task.Status_PAUSING:
		return Pausing, nil
	case task.Status_PAUSED:
		return Paused, nil
	}
	return 0, fmt.Errorf("containerd does not know the state of container %s", id)
}

// Pause freezes all processes of the container.
func (c *Container) Pause(ctx context.Context) error {
	_, err := c.client.tasks.Pause(c.client.in(ctx), &tasks.PauseTaskRequest{ContainerID: c.ref.ID})
	return errgrpc.ToNative(err)
}

// Resume thaws them.
func (c *Container) Resume(ctx context.Context) error {
	_, err := c.client.tasks.Resume(c.client.in(ctx), &tasks.ResumeTaskRequest{ContainerID: c.ref.ID})
	return errgrpc.ToNative(err)
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
