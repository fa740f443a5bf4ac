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
	"time"

	"google.golang.org/grpc"
	cri "k8s.io/cri-api/pkg/apis/runtime/v1"
)

// exitedInterval is how often the CRI is asked whether it knows. Its own events would tell, but
// before containerd 2 whoever listens to them takes them from the kubelet.
const exitedInterval = 10 * time.Millisecond

// Exited waits until a container of a Pod has ended that is never restarted, and the kubelet would
// be told so: the CRI clears its task away first, which takes some ten milliseconds.
func (c *Client) Exited(ctx context.Context, podUID, name string) error {
	found, err := c.named(ctx, podUID, name)
	if err != nil {
		return err
	}
	for _, container := range found {
		if _, err := c.awaitEnd(ctx, container.ID); err != nil {
			return fmt.Errorf("waiting for the end of container %q of the Pod %s: %w", name, podUID, err)
		}
		if err := c.awaitExited(ctx, container.ID); err != nil {
			return fmt.Errorf("waiting for the CRI to know that container %q of the Pod %s has ended: %w", name, podUID, err)
		}
	}
	return nil
}

func (c *Client) awaitExited(ctx context.Context, id string) error {
	connection, ok := c.connection().(grpc.ClientConnInterface)
	if !ok {
		return errors.New("containerd is not reached by gRPC")
	}
	runtime := cri.NewRuntimeServiceClient(connection)
	tick := time.NewTicker(exitedInterval)
	defer tick.Stop()
	for {
		answer, err := runtime.ContainerStatus(ctx, &cri.ContainerStatusRequest{ContainerId: id})
		if err != nil {
			return err
		}
		if answer.GetStatus().GetState() == cri.ContainerState_CONTAINER_EXITED {
			return nil
		}
		select {
		case <-ctx.Done():
			return context.Cause(ctx)
		case <-tick.C:
		}
	}
}
