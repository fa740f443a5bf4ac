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

// Pod is what there is of a Pod on the node, at one moment.
type Pod struct {
	// Containers are all that have not ended, also those that nobody has named: sidecars, and those
	// that somebody debugs with.
	Containers []*Container
	// Group is the cgroup that they lie in, nil where there is none or cgroups are not looked at.
	Group *Group
	// Strays are the cgroups that somebody has made in that, beside those of the containers, and that
	// have processes.
	Strays []*Group

	uid    string
	groups []*cgroup.Group // of the containers and of the Pod's sandbox, as far as they are there
	pids   map[string]int  // of the first processes, by the container's ID
}

// Pod looks at a Pod.
func (c *Client) Pod(ctx context.Context, podUID string) (*Pod, error) {
	records, err := c.containers.List(c.in(ctx), fmt.Sprintf("labels.%q==%q", labelPodUID, podUID))
	if err != nil {
		return nil, fmt.Errorf("listing the containers of the Pod %s: %w", podUID, err)
	}
	p := &Pod{uid: podUID, pids: map[string]int{}}
	for _, record := range records {
		kind := record.Labels[labelKind]
		if kind != kindContainer && kind != kindSandbox {
			continue
		}
		// One that has ended has no cgroup, and it would be looked for everywhere.
		state, pid, err := c.task(ctx, record.ID)
		if err != nil {
			return nil, err
		}
		if state == Ended {
			continue
		}
		container := &Container{client: c, podUID: podUID, ref: Ref{Name: record.Labels[labelContainerName], ID: record.ID}, record: record}
		if kind == kindContainer {
			p.Containers = append(p.Containers, container)
			p.pids[record.ID] = pid
		}
		group, err := container.group()
		if err := ignoreGone(err); err != nil {
			return nil, err
		}
		if group == nil {
			continue
		}
		p.groups = append(p.groups, group)
		if pod := group.Pod(podUID); pod != nil && p.Group == nil {
			p.Group = &Group{group: pod, what: "the Pod"}
		}
	}
	if p.Group == nil {
		return p, nil
	}
	p.Strays, err = strays(p.Group.group, p.groups)
	return p, ignoreGone(err)
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
