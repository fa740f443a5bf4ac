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

package committer

import (
	"context"
	"fmt"
	"slices"

	"github.com/opensandbox-io/sandbox-apiserver/pkg/committer/runtime"
)

// onlyEnded says whether all that is committed are containers as they have ended. Then nothing is frozen, and nothing
// thawed: another may run in their place, and another commit may have frozen it.
func (c *commit) onlyEnded() bool {
	return !slices.ContainsFunc(c.Containers, func(ci ContainerImage) bool { return !ci.Ended })
}

// findOne finds a container. What has ended has its files taken from it at once: the kubelet may remove it at any moment.
func (c *commit) findOne(ctx context.Context, ci ContainerImage) (Container, error) {
	find := c.node.Find
	if ci.Ended {
		find = c.node.FindEnded
	}
	container, err := find(ctx, c.PodUID, ci.Ref)
	if err != nil {
		return nil, err
	}
	state, err := container.State(ctx)
	if err != nil || state != runtime.Ended {
		return container, nil //nolint:nilerr // whoever needs the state asks for it again
	}
	release, err := container.Keep(ctx, "ended-of-"+c.SnapshotUID, c.LeaseTTL)
	if release != nil {
		c.kept = append(c.kept, release)
	}
	switch {
	case err == nil:
	case ci.Ended:
		return nil, err
	default:
		c.Log.Warn("the files of a container that has ended stay where the kubelet may remove them", "container", ci.Name, "because", err)
	}
	return container, nil
}

// readEnded reads what was asked for as it has ended, before anything is frozen: nobody writes there.
func (c *commit) readEnded(ctx context.Context) error {
	for _, p := range c.parts {
		if !p.Ended {
			continue
		}
		if err := c.stream(ctx, p); err != nil {
			return err
		}
	}
	return nil
}

// letGoOfEnded lets go of what was taken from containers that have ended. The containers hold it where they are still there.
func (c *commit) letGoOfEnded(ctx context.Context) {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), callTimeout)
	defer cancel()
	for _, release := range c.kept {
		if err := release(ctx); err != nil {
			c.Log.Warn("the lease of what an ended container has written stays until it expires", "error", fmt.Errorf("letting go: %w", err))
		}
	}
}
