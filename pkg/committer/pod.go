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
	"strings"
	"time"

	"github.com/opensandbox-io/sandbox-apiserver/pkg/committer/result"
	"github.com/opensandbox-io/sandbox-apiserver/pkg/committer/runtime"
)

// pod is what stands still while the files of some of its containers are read: all of it, for
// others can write to those files too, through /proc or a mount of their own.
type pod struct {
	// group is the cgroup of the Pod, nil where it has none. Frozen as a whole, it also stops who
	// comes meanwhile, and who is in a cgroup of its own making; and whoever thaws or kills a single
	// container of it, as the kubelet may, lets nobody run.
	group Group
	// others are the containers that are not committed.
	others []Container
}

// freezeRounds is how often containers may come while the Pod is being frozen.
const freezeRounds = 5

// standStill freezes the whole Pod, or refuses where somebody who can write is out of reach.
func (c *commit) standStill(ctx context.Context) error {
	c.doing = "looking for who else can write to the files"
	if err := c.nobodyOutside(ctx); err != nil {
		return err
	}
	c.doing = "freezing the containers"
	for round := 0; ; round++ {
		fresh, err := c.newcomers(ctx)
		if err != nil {
			return err
		}
		if round > 0 && len(fresh) == 0 {
			break
		}
		if round == freezeRounds {
			return result.Errorf(result.FreezeFailed, "containers of the Pod come faster than they can be frozen (%s): nothing of it was read", names(fresh))
		}
		c.pod.others = append(c.pod.others, fresh...)
		if round == 0 {
			for _, p := range c.parts {
				fresh = append(fresh, p.container)
			}
		}
		tasks, err := inTurn(ctx, fresh)
		if err != nil {
			return err
		}
		// The runtime freezes containers one by one, and then refuses to run something in them. In a
		// Pod that is frozen as a whole it could not.
		if c.pod.group != nil {
			if err := c.freezer.thawEach(ctx, []task{c.pod.group}); err != nil {
				return err
			}
		}
		for _, some := range tasks {
			if err := c.freezer.freeze(ctx, some); err != nil {
				return err
			}
		}
		if err := c.freezeGroup(ctx); err != nil {
			return err
		}
	}
	c.doing = "looking once more for who else can write to the files"
	if err := c.allHeld(ctx); err != nil {
		return err
	}
	return c.nobodyOutside(ctx)
}

// allHeld fails where somebody has killed or thawed a container before the Pod was frozen as a whole:
// its processes may have run since. From here on nobody's do.
func (c *commit) allHeld(ctx context.Context) error {
	for _, p := range c.parts {
		if !c.freezer.isTouched(p.container) {
			continue
		}
		held, err := p.container.Held(ctx)
		if err != nil {
			return err
		}
		if !held {
			return result.Errorf(result.ContainerRestarted, "container %q was killed or thawed while its Pod was being frozen (for a liveness probe, say)", p.Name)
		}
	}
	return nil
}

// inTurn are the containers in the order that they are to be frozen in: who serves a file system in
// user space comes last, for whoever waits for its answer cannot be frozen once it is.
func inTurn(ctx context.Context, containers []Container) ([][]task, error) {
	var users, servers []task
	for _, container := range containers {
		serves, err := container.ServesFiles(ctx)
		if err != nil {
			return nil, err
		}
		if serves {
			servers = append(servers, container)
		} else {
			users = append(users, container)
		}
	}
	return [][]task{users, servers}, nil
}

// newcomers are the containers of the Pod that are neither committed nor known yet.
func (c *commit) newcomers(ctx context.Context) ([]Container, error) {
	now, err := c.node.Pod(ctx, c.PodUID)
	if err != nil {
		return nil, err
	}
	if c.pod.group == nil {
		c.pod.group = now.Group
	}
	known := map[string]bool{}
	for _, p := range c.parts {
		known[p.ID] = true
	}
	for _, other := range c.pod.others {
		known[other.ID()] = true
	}
	return slices.DeleteFunc(now.Containers, func(s Container) bool { return known[s.ID()] }), nil
}

func (c *commit) freezeGroup(ctx context.Context) error {
	if c.pod.group == nil {
		return nil
	}
	return c.freezer.freeze(ctx, []task{c.pod.group})
}

// outsideAfter is after what time a process has to be seen once more: one that is on its way into a
// container (kubectl exec) has its namespaces before it is in its cgroup.
const outsideAfter = 100 * time.Millisecond

// nobodyOutside fails where processes out of reach can write to what is read.
func (c *commit) nobodyOutside(ctx context.Context) error {
	var refs []runtime.Ref
	for _, p := range c.parts {
		refs = append(refs, p.Ref)
	}
	for _, other := range c.pod.others {
		refs = append(refs, runtime.Ref{Name: other.Name(), ID: other.ID()})
	}
	outside, err := c.node.Outside(ctx, c.PodUID, refs)
	for looks := 0; err == nil && len(outside) > 0 && looks < 3; looks++ {
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-time.After(outsideAfter):
		}
		before := outside
		if outside, err = c.node.Outside(ctx, c.PodUID, refs); err == nil {
			outside = slices.DeleteFunc(outside, func(o runtime.Outsider) bool {
				return !slices.ContainsFunc(before, func(b runtime.Outsider) bool { return b.PID == o.PID })
			})
		}
	}
	if err != nil {
		return fmt.Errorf("looking for processes that can write to the files and are not in the Pod's cgroup: %w", err)
	}
	if len(outside) == 0 {
		return nil
	}
	var all []string
	for _, o := range outside[:min(len(outside), 3)] {
		all = append(all, o.String())
	}
	return result.Errorf(result.FreezeFailed, "the files cannot be read as they are at one moment: %d processes of the Pod are out of its reach, because somebody has moved them out of its cgroup: %s. End them, or let them be where the Pod's containers are",
		len(outside), strings.Join(all, "; "))
}

// letOthersGo ends a pause's commit: what is committed stays frozen until it is killed, and so does
// everybody who could reach it. The others have time to end by themselves.
func (c *commit) letOthersGo(ctx context.Context) error {
	c.doing = "thawing the containers that are not committed"
	now, err := c.node.Pod(ctx, c.PodUID)
	if err != nil {
		return err
	}
	for _, stray := range now.Strays {
		c.freezer.touch(stray)
		if err := stray.Hold(ctx); err != nil {
			return err
		}
	}
	for _, p := range c.parts {
		if err := p.container.Hold(ctx); err != nil {
			return err
		}
	}
	var free []task
	if c.pod.group != nil {
		free = append(free, c.pod.group)
	}
	for _, other := range c.pod.others {
		apart, err := other.Apart()
		if err != nil {
			return err
		}
		if apart {
			free = append(free, other)
		} else if err := other.Hold(ctx); err != nil {
			return err
		}
	}
	return c.freezer.thawEach(ctx, free)
}

// everything is whatever of a Pod can be frozen: its containers, its cgroup, and the cgroups in that.
func everything(ctx context.Context, node Node, podUID string) ([]task, error) {
	pod, err := node.Pod(ctx, podUID)
	if err != nil {
		return nil, err
	}
	var all []task
	if pod.Group != nil {
		all = append(all, pod.Group)
	}
	for _, container := range pod.Containers {
		all = append(all, container)
	}
	for _, stray := range pod.Strays {
		all = append(all, stray)
	}
	return all, nil
}

func names(containers []Container) string {
	var all []string
	for _, c := range containers {
		all = append(all, c.Name())
	}
	return strings.Join(all, ", ")
}
