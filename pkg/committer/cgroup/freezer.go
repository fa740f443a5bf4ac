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

package cgroup

import (
	"errors"
	"fmt"
	"path/filepath"
	"strings"
)

// State is what the kernel says of a cgroup's processes.
type State struct {
	// Asked is whether this cgroup itself was told to freeze, and Above whether one above it was.
	Asked, Above bool
	// Frozen is whether every process has stopped.
	Frozen bool
}

// Thawed is whether nobody keeps the processes from running.
func (s State) Thawed() bool { return !s.Asked && !s.Above && !s.Frozen }

// State asks the kernel.
func (g *Group) State() (State, error) {
	if g.tree.version == 1 {
		return g.stateV1()
	}
	return g.stateV2()
}

// stateV2 is that of the cgroup together with the one below that all of its processes are in.
func (g *Group) stateV2() (State, error) {
	s, err := g.ownStateV2()
	if err != nil || s.Asked {
		return s, err
	}
	if inner := g.inner(); inner != nil {
		below, err := inner.ownStateV2()
		if err != nil && !errors.Is(err, ErrGone) {
			return State{}, err
		}
		s.Asked, s.Frozen = below.Asked, s.Frozen || below.Frozen
		s.Above = s.Frozen && !s.Asked
	}
	return s, nil
}

// inner is the cgroup below a container's that alone has all of its processes, nil where there is
// none such. crun makes one (container) in the scope that systemd makes, and freezes that: the kernel
// does not say of the scope then that it is frozen, for nobody asked it to be.
// https://github.com/containers/crun/blob/main/crun.1.md#runocisystemdsubgroupsubgroup
func (g *Group) inner() *Group {
	if !g.container || g.tree.version != 2 {
		return nil
	}
	if own, err := pidsIn(filepath.Join(g.dir, "cgroup.procs")); err != nil || len(own) > 0 {
		return nil
	}
	children, err := g.Children()
	if err != nil || len(children) != 1 {
		return nil
	}
	return children[0]
}

func (g *Group) ownStateV2() (s State, err error) {
	asked, err := g.read("cgroup.freeze")
	if err != nil {
		return State{}, err
	}
	events, err := g.read("cgroup.events")
	if err != nil {
		return State{}, err
	}
	s.Asked = asked == "1"
	for line := range strings.Lines(events) {
		if key, value, _ := strings.Cut(strings.TrimSpace(line), " "); key == "frozen" {
			s.Frozen = value == "1"
		}
	}
	// It does not say so itself: whoever is frozen without being asked is so from above.
	s.Above = s.Frozen && !s.Asked
	return s, nil
}

func (g *Group) stateV1() (s State, err error) {
	state, err := g.read("freezer.state")
	if err != nil {
		return State{}, err
	}
	self, err := g.read("freezer.self_freezing")
	if err != nil {
		return State{}, err
	}
	above, err := g.read("freezer.parent_freezing")
	if err != nil {
		return State{}, err
	}
	return State{Asked: self == "1", Above: above == "1", Frozen: state == "FROZEN"}, nil
}

// DieFrozen is whether a frozen process dies of SIGKILL at once. With the first version it does when
// it is thawed.
func (g *Group) DieFrozen() bool { return g.tree.version == 2 }

// Freeze tells the cgroup to freeze; State says when it has.
func (g *Group) Freeze() error { return g.tell("1", "FROZEN") }

// Thaw takes that back. What is above may still be frozen.
func (g *Group) Thaw() error { return g.tell("0", "THAWED") }

func (g *Group) tell(v2, v1 string) error {
	name, value := "cgroup.freeze", v2
	if g.tree.version == 1 {
		name, value = "freezer.state", v1
	}
	if err := g.write(name, value); err != nil {
		return fmt.Errorf("writing %s into %s of cgroup %s: %w", value, name, g.Path(), err)
	}
	// Whichever of the two its runtime freezes, it finds what it expects.
	if inner := g.inner(); inner != nil {
		if err := inner.tell(v2, v1); !errors.Is(err, ErrGone) {
			return err
		}
	}
	return nil
}
