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

	"github.com/opensandbox-io/sandbox-apiserver/pkg/committer/cgroup"
)

const kindSandbox = "sandbox"

// Siblings are all containers of a Pod that have not ended, also those that nobody has named:
// sidecars, and those that somebody debugs with.
func (c *Client) Siblings(ctx context.Context, podUID string) ([]*Container, error) {
	records, err := c.containers.List(c.in(ctx), fmt.Sprintf("labels.%q==%q,labels.%q==%q", labelPodUID, podUID, labelKind, kindContainer))
	if err != nil {
		return nil, fmt.Errorf("listing the containers of the Pod %s: %w", podUID, err)
	}
	var siblings []*Container
	for _, record := range records {
		state, err := c.state(ctx, record.ID)
		if err != nil {
			return nil, err
		}
		if state != Ended {
			siblings = append(siblings, &Container{client: c, podUID: podUID, ref: Ref{Name: record.Labels[labelContainerName], ID: record.ID}, record: record})
		}
	}
	return siblings, nil
}

// ID is the container's in containerd.
func (c *Container) ID() string { return c.ref.ID }

// String names the container for a person.
func (c *Container) String() string { return fmt.Sprintf("container %q", c.ref.Name) }

// Group is a cgroup that is frozen as a whole, past the runtime.
type Group struct {
	group *cgroup.Group
	what  string
}

// PodGroup is the cgroup that all of a Pod's containers lie in, nil where there is none or cgroups
// are not looked at.
func (c *Client) PodGroup(ctx context.Context, podUID string) (*Group, error) {
	groups, err := c.groups(ctx, podUID)
	for _, group := range groups {
		if pod := group.Pod(podUID); pod != nil {
			return &Group{group: pod, what: "the Pod"}, nil
		}
	}
	return nil, err
}

// groups are the cgroups of the Pod's containers and of its sandbox, as far as they are there.
func (c *Client) groups(ctx context.Context, podUID string) ([]*cgroup.Group, error) {
	if c.cgroups == nil {
		return nil, nil
	}
	records, err := c.containers.List(c.in(ctx), fmt.Sprintf("labels.%q==%q", labelPodUID, podUID))
	if err != nil {
		return nil, fmt.Errorf("listing the containers of the Pod %s: %w", podUID, err)
	}
	var groups []*cgroup.Group
	for _, record := range records {
		if kind := record.Labels[labelKind]; kind != kindContainer && kind != kindSandbox {
			continue
		}
		// One that has ended has no cgroup, and it would be looked for everywhere.
		state, err := c.state(ctx, record.ID)
		if err != nil {
			return nil, err
		}
		if state == Ended {
			continue
		}
		container := &Container{client: c, podUID: podUID, ref: Ref{Name: record.Labels[labelContainerName], ID: record.ID}, record: record}
		group, err := container.group()
		if errors.Is(err, cgroup.ErrGone) {
			continue
		}
		if err != nil {
			return nil, err
		}
		groups = append(groups, group)
	}
	return groups, nil
}

// Strays are the cgroups that somebody has made in the Pod's, beside those of its containers, and
// that have processes.
func (c *Client) Strays(ctx context.Context, podUID string) ([]*Group, error) {
	pod, err := c.PodGroup(ctx, podUID)
	if err != nil || pod == nil {
		return nil, err
	}
	known, err := c.groups(ctx, podUID)
	if err != nil {
		return nil, err
	}
	strays, err := strays(pod.group, known)
	return strays, ignoreGone(err)
}

func strays(in *cgroup.Group, known []*cgroup.Group) ([]*Group, error) {
	children, err := in.Children()
	if err != nil {
		return nil, err
	}
	var found []*Group
next:
	for _, child := range children {
		for _, k := range known {
			if child.Has(k) || k.Has(child) {
				continue next
			}
		}
		pids, err := child.Processes()
		if err := ignoreGone(err); err != nil {
			return nil, err
		}
		if len(pids) > 0 {
			found = append(found, &Group{group: child, what: "the cgroup " + child.Path() + " of the Pod"})
		}
	}
	return found, nil
}

// String names it for a person.
func (g *Group) String() string { return g.what }

// Path is what tells it from others.
func (g *Group) Path() string { return g.group.Path() }

// State is what its processes do; Ended where it is gone.
func (g *Group) State(context.Context) (State, error) {
	kernel, err := g.group.State()
	if errors.Is(err, cgroup.ErrGone) {
		return Ended, nil
	}
	return merge(Running, kernel), err
}

// Pause has them be frozen soon.
func (g *Group) Pause(context.Context) error { return ignoreGone(g.group.Freeze()) }

// Hold sees to it that it stays frozen when what is above it is thawed.
func (g *Group) Hold(context.Context) error { return hold(g.group) }

// Resume takes that back.
func (g *Group) Resume(context.Context) error { return thaw(g.group) }

// Moving are those of its processes that have not stopped.
func (g *Group) Moving(context.Context) ([]cgroup.Process, error) { return g.group.Moving() }

// Witnessed is true: it is the kernel who is asked.
func (g *Group) Witnessed() bool { return true }

// Processes are the PIDs of all that is in it.
func (g *Group) Processes(context.Context) ([]int, error) {
	pids, err := g.group.Processes()
	return pids, ignoreGone(err)
}
