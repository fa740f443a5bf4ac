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
	"time"

	"github.com/opensandbox-io/sandbox-apiserver/pkg/committer/result"
	"github.com/opensandbox-io/sandbox-apiserver/pkg/committer/runtime"
)

func TestKill(t *testing.T) {
	broken := errors.New("broken")
	frozen := func(c *fakeContainer, pids ...int) { c.state, c.pids = runtime.Paused, pids }
	tests := map[string]struct {
		prepare func(main, side *fakeContainer)
		// calls are what is done to main and side, in that order.
		calls []string
		fails string
	}{
		"both frozen": {func(main, side *fakeContainer) { frozen(main, 10, 11); frozen(side, 20) },
			[]string{"kill main 10", "kill main 11", "thaw main", "kill side 20", "thaw side"}, ""},
		"frozen processes die of the signal": {func(main, side *fakeContainer) {
			frozen(main, 10)
			main.onKill = func(int) error { main.state = runtime.Ended; return nil }
			side.state = runtime.Ended
		}, []string{"kill main 10"}, ""},
		"one is being frozen": {func(main, side *fakeContainer) {
			frozen(main, 10)
			main.state, side.state = runtime.Pausing, runtime.Ended
			main.onKill = func(int) error { main.state = runtime.Paused; return nil }
		}, []string{"kill main 10", "thaw main"}, ""},
		"a process comes in late": {func(main, side *fakeContainer) {
			frozen(main, 10)
			main.onKill = func(pid int) error {
				if pid == 10 {
					main.pids = []int{10, 11}
				}
				return nil
			}
			side.state = runtime.Ended
		}, []string{"kill main 10", "kill main 11", "thaw main"}, ""},
		"a process is gone before its signal": {func(main, side *fakeContainer) {
			frozen(main, 10, 11)
			main.onKill = func(pid int) error {
				if pid == 11 {
					main.pids = []int{10}
					return broken
				}
				return nil
			}
			side.state = runtime.Ended
		}, []string{"kill main 10", "kill main 11", "thaw main"}, ""},
		"the runtime clears away what has ended": {func(main, side *fakeContainer) {
			frozen(main, 10)
			main.onProcesses = func() ([]int, error) { main.state = runtime.Ended; return nil, broken }
			side.state = runtime.Ended
		}, nil, ""},
		"the first process ends last": {func(main, side *fakeContainer) {
			frozen(main)
			main.dieFrozen = true
			living := []int{11, 12, 10}
			main.onProcesses = func() ([]int, error) { return slices.Clone(living), nil }
			main.onKill = func(pid int) error {
				living = slices.DeleteFunc(living, func(p int) bool { return p == pid })
				if len(living) == 0 {
					main.state = runtime.Ended
				}
				return nil
			}
			side.state = runtime.Ended
		}, []string{"kill main 11", "kill main 12", "kill main 10"}, ""},
		"the first process, where the others do not die": {func(main, side *fakeContainer) {
			frozen(main, 11, 10)
			main.dieFrozen = true
			side.state = runtime.Ended
		}, []string{"kill main 11", "kill main 10", "thaw main"}, ""},
		"somebody else has begun": {func(*fakeContainer, *fakeContainer) {}, nil, ""},
		"one is gone, one has ended": {func(main, side *fakeContainer) {
			main.findErr = result.Errorf(result.ContainerNotFound, "gone")
			side.state = runtime.Ended
		}, nil, ""},
		"one cannot be looked at": {func(main, side *fakeContainer) {
			main.findErr = broken
			frozen(side, 20)
		}, []string{"kill side 20", "thaw side"}, "broken"},
	}
	for name, test := range tests {
		t.Run(name, func(t *testing.T) {
			s := newScene(t)
			main, side := s.node.containers["main-id"], s.node.containers["side-id"]
			for _, c := range []*fakeContainer{main, side} {
				c.onResume = func() error { c.killed = true; return nil }
			}
			test.prepare(main, side)
			got, err := s.kill(t.Context())
			if (err != nil) != (test.fails != "") || got.Thawed != (test.fails == "") {
				t.Errorf("%v, result %+v", err, got)
			}
			if got.Error != nil && !strings.Contains(got.Error.Message, test.fails) {
				t.Errorf("message %q", got.Error.Message)
			}
			if !slices.Equal(oneByOne(s.node.calls), append(slices.Clone(test.calls), "done reporting")) {
				t.Errorf("calls\n     %q\nwant %q", s.node.calls, test.calls)
			}
			if main.state == runtime.Paused || side.state == runtime.Paused {
				t.Errorf("main is %s, side is %s", main.state, side.state)
			}
		})
	}
}

// TestKillThawsNobodyWhoCouldRun: not for a process that cannot be signalled, and not when the time is up.
func TestKillThawsNobodyWhoCouldRun(t *testing.T) {
	s := newScene(t)
	main := s.node.containers["main-id"]
	main.state, main.pids = runtime.Paused, []int{10, 11}
	ctx, cancel := context.WithCancel(t.Context())
	main.onKill = func(pid int) error {
		if pid == 11 {
			cancel()
			return errors.New("no such process here")
		}
		return nil
	}
	s.node.containers["side-id"].state = runtime.Ended
	got, err := s.kill(ctx)
	if err == nil || got.Thawed || got.Error == nil || !strings.Contains(got.Error.Message, "no such process here") {
		t.Errorf("%v, result %+v", err, got)
	}
	if main.state != runtime.Paused || slices.Contains(s.node.calls, "thaw main") {
		t.Errorf("main is %s after %q", main.state, s.node.calls)
	}
}

// TestAShimThatDoesNotAnswer is told of, with what is known: nothing of the container lives. Here it is the shim's stand-in.
func TestAShimThatDoesNotAnswer(t *testing.T) {
	s := newScene(t)
	main, side := s.node.containers["main-id"], s.node.containers["side-id"]
	side.state = runtime.Ended
	var killed atomic.Bool
	main.onProcesses = func() ([]int, error) {
		if killed.Load() {
			return nil, nil
		}
		return []int{10}, nil
	}
	main.onKill = func(int) error { killed.Store(true); return nil }
	silent := make(chan struct{})
	defer close(silent)
	main.onStateIn = func(ctx context.Context) (runtime.State, error) {
		if !killed.Load() {
			return runtime.Paused, nil
		}
		select {
		case <-ctx.Done():
		case <-silent:
		}
		return 0, errors.New("no answer")
	}
	began := time.Now()
	got, err := s.kill(t.Context())
	if err == nil || got.Thawed || got.Error == nil || !strings.Contains(got.Error.Message, `every process of container "main" is dead`) || !strings.Contains(got.Error.Message, "containerd-shim") {
		t.Errorf("%v, result %+v", err, got)
	}
	if took := time.Since(began); took > 15*time.Second {
		t.Errorf("it took %s", took)
	}
}

// TestAShimThatAnswersLate: on a busy node it takes seconds to clear away who has ended.
func TestAShimThatAnswersLate(t *testing.T) {
	s := newScene(t)
	main, side := s.node.containers["main-id"], s.node.containers["side-id"]
	side.state = runtime.Ended
	var killed atomic.Bool
	var asked atomic.Int64
	main.onProcesses = func() ([]int, error) {
		if killed.Load() {
			return nil, nil
		}
		return []int{10}, nil
	}
	main.onKill = func(int) error { killed.Store(true); return nil }
	main.onStateIn = func(ctx context.Context) (runtime.State, error) {
		switch {
		case !killed.Load():
			return runtime.Paused, nil
		case asked.Add(1) < 3:
			<-ctx.Done()
			return 0, errors.New("no answer")
		}
		return runtime.Ended, nil
	}
	if got, err := s.kill(t.Context()); err != nil || got.Error != nil {
		t.Errorf("after %d questions: %v, result %+v", asked.Load(), err, got)
	}
}

// kill ends by itself where a container does not.
func (s *scene) kill(ctx context.Context) (got result.Result, err error) {
	ctx, cancel := context.WithTimeout(ctx, 20*time.Second)
	defer cancel()
	refs := []runtime.Ref{s.options.Containers[0].Ref, s.options.Containers[1].Ref}
	err = Kill(ctx, s.node, KillOptions{PodUID: "pod", Containers: refs, Cache: s.cache, Log: s.options.Log}, func(r result.Result) error { s.node.note("done reporting"); got = r; return nil })
	return got, err
}

// noting is a cache that notes what it is told, between the calls to the node.
type noting struct {
	*fakeNode
	panics string
}

func (c noting) tell(what string) {
	c.note("%s", what)
	if c.panics == what {
		panic("the cache is broken")
	}
}

func (c noting) SetAside(_ context.Context, podUID string, ref runtime.Ref) {
	c.tell("set aside " + ref.Name + " of " + podUID)
}
func (c noting) Keep(_ context.Context, ref runtime.Ref) { c.tell("keep " + ref.Name) }
func (c noting) Done(ctx context.Context) {
	if ctx.Err() != nil {
		panic("it has no time left")
	}
	c.tell("done")
}

// TestKillKeepsForAResume sets aside what is frozen before it is killed, and keeps what was frozen
// until all of it had its signal, once nobody is left to be killed. The cache's failures are its own.
func TestKillKeepsForAResume(t *testing.T) {
	tests := map[string]struct {
		prepare func(main, side *fakeContainer)
		panics  string
		calls   []string
		fails   bool
	}{
		"both frozen": {calls: []string{
			"set aside main of pod", "kill main 10", "thaw main", "set aside side of pod", "kill side 20", "thaw side", "done reporting", "keep main", "keep side", "done"}},
		"one is being frozen": {prepare: func(main, _ *fakeContainer) {
			main.state = runtime.Pausing
			main.onKill = func(int) error { main.state = runtime.Paused; return nil }
		}, calls: []string{"kill main 10", "thaw main", "set aside side of pod", "kill side 20", "thaw side", "done reporting", "keep main", "keep side", "done"}},
		"one has ended": {prepare: func(main, _ *fakeContainer) { main.state = runtime.Ended },
			calls: []string{"set aside side of pod", "kill side 20", "thaw side", "done reporting", "keep side", "done"}},
		"one runs": {prepare: func(main, _ *fakeContainer) { main.state = runtime.Running },
			calls: []string{"set aside side of pod", "kill side 20", "thaw side", "done reporting", "keep side", "done"}},
		"one does not end": {prepare: func(main, _ *fakeContainer) {
			main.onResume = func() error { return errors.New("broken") }
		}, fails: true, calls: []string{"set aside main of pod", "kill main 10", "set aside side of pod", "kill side 20", "done reporting", "keep side", "done"}},
		"it breaks before the kill": {panics: "set aside main of pod", calls: []string{
			"set aside main of pod", "kill main 10", "thaw main", "set aside side of pod", "kill side 20", "thaw side", "done reporting", "keep main", "keep side", "done"}},
		"it breaks after the kill": {panics: "keep main", calls: []string{
			"set aside main of pod", "kill main 10", "thaw main", "set aside side of pod", "kill side 20", "thaw side", "done reporting", "keep main", "done"}},
	}
	for name, test := range tests {
		t.Run(name, func(t *testing.T) {
			s := newScene(t)
			main, side := s.node.containers["main-id"], s.node.containers["side-id"]
			for _, c := range []*fakeContainer{main, side} {
				c.state = runtime.Paused
				c.onResume = func() error { c.killed = true; return nil }
			}
			main.pids, side.pids = []int{10}, []int{20}
			if test.prepare != nil {
				test.prepare(main, side)
			}
			s.cache = noting{s.node, test.panics}
			within := time.Minute
			if test.fails {
				within = 3 * time.Second
			}
			ctx, cancel := context.WithTimeout(t.Context(), within)
			defer cancel()
			if _, err := s.kill(ctx); (err != nil) != test.fails {
				t.Errorf("%v", err)
			}
			got := oneByOne(s.node.calls)
			if test.fails { // it is tried again and again until the time is up, for the other one, too
				got = slices.DeleteFunc(got, func(call string) bool { return strings.HasPrefix(call, "thaw ") })
			}
			if !slices.Equal(got, test.calls) {
				t.Errorf("calls\n     %q\nwant %q", got, test.calls)
			}
		})
	}
}
