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
	"errors"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/opensandbox-io/sandbox-apiserver/pkg/committer/cgroup"
	"github.com/opensandbox-io/sandbox-apiserver/pkg/committer/result"
	"github.com/opensandbox-io/sandbox-apiserver/pkg/committer/runtime"
)

// TestAFreezeThatDoesNotCompleteIsTakenBack has a runtime that gives up, or does not wait at all, and
// a kernel that goes on freezing until it is told to thaw.
func TestAFreezeThatDoesNotCompleteIsTakenBack(t *testing.T) {
	for name, pauses := range map[string]error{"a runtime that waits": errors.New("timeout of 10s reached"), "one that does not": nil} {
		t.Run(name, func(t *testing.T) {
			s := newScene(t)
			s.options.LeaveFrozen, s.options.Patience = true, 300*time.Millisecond
			main := s.node.containers["main-id"]
			asked := atomic.Bool{}
			main.onPause = func() error { asked.Store(true); return pauses }
			main.onResume = func() error { asked.Store(false); return nil }
			main.onState = func() (runtime.State, error) {
				if asked.Load() {
					return runtime.Pausing, nil
				}
				return runtime.Running, nil
			}
			main.moving = []cgroup.Process{{PID: 7, Command: "writer", State: "D", Where: "request_wait_answer"}}
			if err := s.commit(t.Context()); err == nil {
				t.Fatal("it succeeded")
			}
			r := s.last()
			if r.Error.Reason != result.FreezeFailed || !r.Thawed || asked.Load() {
				t.Errorf("result %+v, %s; still asked to freeze: %v", r, r.Error.Message, asked.Load())
			}
			if !strings.Contains(r.Error.Message, "process 7 (writer, state D, in request_wait_answer)") || !strings.Contains(r.Error.Message, `container "main"`) {
				t.Errorf("message %q", r.Error.Message)
			}
			if side := s.node.containers["side-id"]; side.get() != runtime.Running {
				t.Errorf("side is %s", side.get())
			}
		})
	}
}

// TestNobodySaysThawedWhoDoesNotKnow: a freeze has failed, and the kernel cannot be asked.
func TestNobodySaysThawedWhoDoesNotKnow(t *testing.T) {
	s := newScene(t)
	s.options.Patience = 100 * time.Millisecond
	main := s.node.containers["main-id"]
	main.blind = true
	main.onPause = func() error { return errors.New("timeout of 10s reached") }
	if err := s.commit(t.Context()); err == nil {
		t.Fatal("it succeeded")
	}
	if r := s.last(); r.Thawed {
		t.Errorf("result %+v", r)
	}
}

// TestWhoDidNotStopIsFrozenFirst: main waits for side, whoever of them is named first.
func TestWhoDidNotStopIsFrozenFirst(t *testing.T) {
	s := newScene(t)
	s.options.LeaveFrozen, s.options.Patience = true, 2*time.Second
	main, side := s.node.containers["main-id"], s.node.containers["side-id"]
	var asked, serves atomic.Bool
	serves.Store(true)
	side.onPause = func() error { serves.Store(false); return nil }
	side.onResume = func() error { serves.Store(true); return nil }
	frozen := atomic.Bool{}
	main.onPause = func() error {
		asked.Store(true)
		time.Sleep(50 * time.Millisecond) // side has stopped by then, if it is frozen side by side
		return nil
	}
	main.onResume = func() error { asked.Store(false); frozen.Store(false); return nil }
	main.onState = func() (runtime.State, error) {
		switch {
		case frozen.Load(), asked.Load() && serves.Load():
			frozen.Store(asked.Load())
			return runtime.Paused, nil
		case asked.Load():
			return runtime.Pausing, nil
		}
		return runtime.Running, nil
	}
	if err := s.commit(t.Context()); err != nil {
		t.Fatal(err)
	}
	if state, _ := main.State(t.Context()); state != runtime.Paused || side.get() != runtime.Paused {
		t.Errorf("main is %s, side is %s", state, side.get())
	}
}

// TestWhoServesFilesIsFrozenLast, whoever is named first.
func TestWhoServesFilesIsFrozenLast(t *testing.T) {
	s := newScene(t)
	s.node.containers["main-id"].serves = true
	if err := s.commit(t.Context()); err != nil {
		t.Fatal(err)
	}
	freezes := slices.DeleteFunc(slices.Clone(s.node.calls), func(call string) bool { return !strings.HasPrefix(call, "freeze") })
	if !slices.Equal(freezes, []string{"freeze side", "freeze main"}) {
		t.Errorf("calls %q", freezes)
	}
}

// TestThawedSideBySide: one that cannot be thawed keeps no other from it.
func TestThawedSideBySide(t *testing.T) {
	s := newScene(t)
	main, side := s.node.containers["main-id"], s.node.containers["side-id"]
	for _, broken := range []*fakeContainer{main, side} {
		main.onResume, side.onResume = nil, nil
		main.state, side.state = runtime.Paused, runtime.Paused
		broken.onResume = func() error { return errors.New("the shim is dead") }
		ctx, cancel := context.WithTimeout(t.Context(), 2*time.Second)
		f := &freezer{log: s.options.Log}
		f.touch(main)
		f.touch(side)
		err := f.thawEach(ctx, []task{main, side})
		cancel()
		if err == nil || !strings.Contains(err.Error(), "the shim is dead") {
			t.Errorf("got %v", err)
		}
		for _, c := range []*fakeContainer{main, side} {
			if thawed := c.get() == runtime.Running; thawed != (c != broken) {
				t.Errorf("%s is broken, and %s is %s", broken, c, c.get())
			}
		}
	}
}

// TestLeftFrozenIsThawedFirst, before anything that takes its time; also what nobody commits.
func TestLeftFrozenIsThawedFirst(t *testing.T) {
	s := newScene(t)
	s.options.LeaveFrozen = true
	s.node.containers["main-id"].state = runtime.Paused
	s.add("db", runtime.Paused)
	s.node.group = &fakeGroup{fakeContainer{node: s.node, name: "pod", state: runtime.Paused}}
	if err := s.commit(t.Context()); err != nil {
		t.Fatal(err)
	}
	if calls := inOrder(s.node.calls); !slices.Equal(calls[:4], []string{"thaw db", "thaw main", "thaw pod", "upload main"}) {
		t.Errorf("calls %q", calls)
	}
	if ms := s.last().FrozenMillis; ms == 0 {
		t.Error("it was not frozen")
	}
}

// TestPatienceIsLongerThanRuncs waits 10 s (opencontainers/cgroups, fs2/freezer.go, waitFrozen), and all of it has to fit
// into the grace of the commit Pod.
func TestPatienceIsLongerThanRuncs(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := &scene{node: &fakeNode{containers: map[string]*fakeContainer{}}}
		c := &fakeContainer{node: s.node, name: "main", state: runtime.Running}
		c.onPause = func() error { time.Sleep(10500 * time.Millisecond); return nil }
		f := &freezer{log: discard}
		if err := f.freeze(t.Context(), []task{c}); err != nil || c.get() != runtime.Paused {
			t.Errorf("%v, it is %s", err, c.get())
		}
	})
}

// TestWhatWasInTheWayOfAThawIsSaid, also where the time ends while containerd is asked once more.
func TestWhatWasInTheWayOfAThawIsSaid(t *testing.T) {
	s := newScene(t)
	main := s.node.containers["main-id"]
	main.state = runtime.Paused
	ctx, cancel := context.WithCancel(t.Context())
	main.onResume = func() error { return errors.New("the shim is dead") }
	asked := false
	main.onStateIn = func(ctx context.Context) (runtime.State, error) {
		if !asked {
			asked = true
			return runtime.Paused, nil
		}
		cancel()
		return 0, ctx.Err()
	}
	f := &freezer{log: s.options.Log}
	f.touch(main)
	if err := f.thawEach(ctx, []task{main}); err == nil || !strings.Contains(err.Error(), "the shim is dead") {
		t.Errorf("got %v", err)
	}
}
