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
	"strings"
	"testing"

	"github.com/opensandbox-io/sandbox-apiserver/pkg/committer/result"
	"github.com/opensandbox-io/sandbox-apiserver/pkg/committer/runtime"
)

func TestThaw(t *testing.T) {
	broken := errors.New("broken")
	tests := map[string]struct {
		prepare func(main, side *fakeContainer)
		thawed  bool
		fails   string
	}{
		"both frozen":  {func(main, side *fakeContainer) { main.state, side.state = runtime.Paused, runtime.Paused }, true, ""},
		"both running": {func(*fakeContainer, *fakeContainer) {}, true, ""},
		"one ended":    {func(main, side *fakeContainer) { main.state, side.state = runtime.Paused, runtime.Ended }, true, ""},
		"one is gone": {func(main, side *fakeContainer) {
			main.findErr = result.Errorf(result.ContainerNotFound, "gone")
			side.state = runtime.Paused
		}, true, ""},
		"one cannot be looked at": {func(main, side *fakeContainer) {
			main.findErr = broken
			side.state = runtime.Paused
		}, false, "broken"},
		"the first attempt fails": {func(main, _ *fakeContainer) {
			main.state = runtime.Paused
			failures := 1
			main.onResume = func() error {
				if failures--; failures >= 0 {
					return broken
				}
				return nil
			}
		}, true, ""},
	}
	for name, test := range tests {
		t.Run(name, func(t *testing.T) {
			s := newScene(t)
			main, side := s.node.containers["main-id"], s.node.containers["side-id"]
			test.prepare(main, side)
			var got result.Result
			err := Thaw(context.Background(), s.node, ThawOptions{PodUID: "pod", Containers: []runtime.Ref{s.options.Containers[0].Ref, s.options.Containers[1].Ref}, Log: s.options.Log},
				func(r result.Result) error { got = r; return nil })
			if (err != nil) != (test.fails != "") || got.Thawed != test.thawed {
				t.Errorf("%v, result %+v", err, got)
			}
			if got.Error != nil && !strings.Contains(got.Error.Message, test.fails) {
				t.Errorf("message %q", got.Error.Message)
			}
			if main.state == runtime.Paused || side.state == runtime.Paused {
				t.Errorf("main is %s, side is %s", main.state, side.state)
			}
		})
	}
}

// TestThawInterrupted thaws all the same.
func TestThawInterrupted(t *testing.T) {
	s := newScene(t)
	main := s.node.containers["main-id"]
	main.state = runtime.Paused
	ctx, cancel := context.WithCancelCause(context.Background())
	interrupt := true
	main.onResume = func() error {
		if interrupt {
			interrupt = false
			cancel(result.Errorf(result.Canceled, "SIGTERM"))
		}
		return nil
	}
	var got result.Result
	err := Thaw(ctx, s.node, ThawOptions{PodUID: "pod", Containers: []runtime.Ref{s.options.Containers[0].Ref}, Log: s.options.Log},
		func(r result.Result) error { got = r; return nil })
	if err == nil || got.Error == nil || got.Error.Reason != result.Canceled || main.state != runtime.Running {
		t.Errorf("%v, result %+v, main is %s", err, got, main.state)
	}
}

// TestThawFails says so: the container stays frozen.
func TestThawFails(t *testing.T) {
	s := newScene(t)
	c := s.node.containers["main-id"]
	c.state = runtime.Paused
	ctx, cancel := context.WithCancel(t.Context())
	c.onResume = func() error {
		cancel()
		return errors.New("the shim is dead")
	}
	f := &freezer{log: s.options.Log}
	f.touch(c)
	if err := f.thaw(ctx, c); err == nil || !strings.Contains(err.Error(), "the shim is dead") {
		t.Errorf("got %v", err)
	}
	if !f.isTouched(c) || f.frozenMillis() == 0 {
		t.Error("the container was forgotten")
	}
}
