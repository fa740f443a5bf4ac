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
	"net/http"
	"slices"
	"strings"
	"testing"

	"github.com/opensandbox-io/sandbox-apiserver/pkg/committer/cgroup"
	"github.com/opensandbox-io/sandbox-apiserver/pkg/committer/result"
	"github.com/opensandbox-io/sandbox-apiserver/pkg/committer/runtime"
)

// add puts a container into the Pod that nobody commits.
func (s *scene) add(name string, state runtime.State) *fakeContainer {
	c := &fakeContainer{node: s.node, name: name, state: state}
	s.node.mu.Lock()
	defer s.node.mu.Unlock()
	s.node.containers[name+"-id"] = c
	return c
}

// TestTheWholePodStandsStill while files are read, and then everybody does what he should.
func TestTheWholePodStandsStill(t *testing.T) {
	for _, pause := range []bool{true, false} {
		s := newScene(t)
		s.options.LeaveFrozen = pause
		db, debug := s.add("db", runtime.Running), s.add("debug", runtime.Running)
		debug.entangled = true
		ended := s.add("ended", runtime.Ended)
		s.node.group = &fakeGroup{fakeContainer{node: s.node, name: "pod", state: runtime.Running}}
		stray := &fakeGroup{fakeContainer{node: s.node, name: "stray", state: runtime.Running}}
		s.node.strays = []Group{stray}
		var late *fakeContainer
		debug.onPause = func() error {
			if late == nil {
				late = s.add("late", runtime.Running)
				late.entangled = true
			}
			return nil
		}
		var read []string
		s.before = func(_ http.ResponseWriter, r *http.Request) bool {
			if r.Method == http.MethodPatch && s.froze() {
				for _, c := range []*fakeContainer{db, debug, late, &s.node.group.fakeContainer} {
					read = append(read, c.name+" is "+c.get().String())
				}
			}
			return false
		}
		if err := s.commit(t.Context()); err != nil {
			t.Fatal(err)
		}
		if len(read) == 0 || slices.ContainsFunc(read, func(saw string) bool { return !strings.HasSuffix(saw, "is frozen") }) {
			t.Errorf("while files are read %q", read)
		}
		want := map[*fakeContainer]runtime.State{
			s.node.containers["main-id"]: runtime.Paused, s.node.containers["side-id"]: runtime.Paused,
			// They could reach what is saved.
			debug: runtime.Paused, late: runtime.Paused, &stray.fakeContainer: runtime.Paused,
			// It ends by itself, and so the Pod's cgroup is thawed.
			db: runtime.Running, &s.node.group.fakeContainer: runtime.Running, ended: runtime.Ended,
		}
		for c, state := range want {
			if !pause && state == runtime.Paused {
				state = runtime.Running
			}
			if got := c.get(); got != state {
				t.Errorf("pause %v: %s is %s, want it %s", pause, c.name, got, state)
			}
		}
		if r := s.last(); r.Thawed == pause {
			t.Errorf("result %+v", r)
		}
	}
}

// TestSomebodyOutOfReach is a refusal, before anything is frozen or when it is.
func TestSomebodyOutOfReach(t *testing.T) {
	writer := runtime.Outsider{Process: cgroup.Process{PID: 7, Command: "dockerd", State: "S"}, Container: "main", Shares: "mounts", Cgroup: "/docker"}
	for name, test := range map[string]struct {
		outside func(look int) []runtime.Outsider
		refused bool
		froze   bool
	}{
		"nobody":   {func(int) []runtime.Outsider { return nil }, false, true},
		"somebody": {func(int) []runtime.Outsider { return []runtime.Outsider{writer} }, true, false},
		"one on its way into a container": {func(look int) []runtime.Outsider {
			if look == 1 {
				return []runtime.Outsider{writer}
			}
			return nil
		}, false, true},
		"one who leaves at the last moment": {func(look int) []runtime.Outsider {
			if look == 1 {
				return nil
			}
			return []runtime.Outsider{writer}
		}, true, true},
		"always another": {func(look int) []runtime.Outsider {
			other := writer
			other.PID = 100 + look
			return []runtime.Outsider{other}
		}, false, true},
	} {
		t.Run(name, func(t *testing.T) {
			s := newScene(t)
			looks := 0
			s.node.outside = func() ([]runtime.Outsider, error) { looks++; return test.outside(looks), nil }
			err := s.commit(t.Context())
			if (err != nil) != test.refused || s.froze() != test.froze {
				t.Errorf("%v; froze %v", err, s.froze())
			}
			if r := s.last(); test.refused && (r.Error.Reason != result.FreezeFailed || !r.Thawed || !strings.Contains(r.Error.Message, `process 7 (dockerd, state S), which has the mounts of container "main" and is in the cgroup /docker`)) {
				t.Errorf("result %+v: %s", r, r.Error.Message)
			}
			s.states(runtime.Running)
		})
	}
}

// TestKilledWhileItWasFrozen: what a container has written is all there, where nobody can have run.
func TestKilledWhileItWasFrozen(t *testing.T) {
	for name, test := range map[string]struct {
		podCgroup, dieFrozen, gone bool
		reason                     result.Reason // empty: it is committed
	}{
		"with the Pod frozen":                    {true, true, false, ""},
		"and its files are removed":              {true, true, true, result.ContainerNotFound},
		"where the Pod has no cgroup":            {false, true, false, result.ContainerRestarted},
		"where who is frozen does not die of it": {true, false, false, result.ContainerRestarted},
	} {
		t.Run(name, func(t *testing.T) {
			s := newScene(t)
			s.options.LeaveFrozen = true
			if test.podCgroup {
				s.node.group = &fakeGroup{fakeContainer{node: s.node, name: "pod", state: runtime.Running}}
			}
			main := s.node.containers["main-id"]
			main.dieFrozen = test.dieFrozen
			main.onCheck = func(n int) error {
				if n > 1 {
					return result.Errorf(result.ContainerRestarted, "restarted as another")
				}
				return nil
			}
			main.onPresent = func() error {
				if test.gone {
					return result.Errorf(result.ContainerNotFound, "gone")
				}
				return nil
			}
			s.onUpload(3, func(http.ResponseWriter, *http.Request) { main.set(runtime.Ended) })
			err := s.commit(t.Context())
			if (err == nil) != (test.reason == "") {
				t.Fatal(err)
			}
			if r := s.last(); test.reason != "" && r.Error.Reason != test.reason {
				t.Errorf("%s: %s", r.Error.Reason, r.Error.Message)
			}
		})
	}
}

// TestKilledBeforeThePodIsFrozen is no proof: it was thawed for that, and its processes may have run.
func TestKilledBeforeThePodIsFrozen(t *testing.T) {
	s := newScene(t)
	s.options.LeaveFrozen = true
	main := s.node.containers["main-id"]
	main.dieFrozen = true
	s.node.group = &fakeGroup{fakeContainer{node: s.node, name: "pod", state: runtime.Running}}
	s.node.group.onPause = func() error { main.set(runtime.Ended); return nil }
	if err := s.commit(t.Context()); err == nil {
		t.Fatal("it succeeded")
	}
	if r := s.last(); r.Error.Reason != result.ContainerRestarted || !r.Thawed {
		t.Errorf("result %+v: %s", r, r.Error.Message)
	}
}
