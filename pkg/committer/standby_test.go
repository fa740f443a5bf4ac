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
	"time"

	"github.com/opensandbox-io/sandbox-apiserver/pkg/committer/result"
	"github.com/opensandbox-io/sandbox-apiserver/pkg/committer/runtime"
)

func TestStandby(t *testing.T) {
	broken := errors.New("broken")
	until := func(ctx context.Context) error { <-ctx.Done(); return ctx.Err() }
	frozen := func(main, side *fakeContainer) { main.state, side.state = runtime.Paused, runtime.Paused }
	tests := map[string]struct {
		// ended is how the commit ends; nil: well.
		ended   func(stop func()) (failed bool, err error)
		prepare func(main, side *fakeContainer)
		// stops says that a signal comes when it waits for a container to end.
		stops bool
		// awaits are the containers that it waits for; says is a part of the report's message, fails
		// that this is a failure. Without a message it says that nothing is frozen.
		awaits string
		says   string
		fails  bool
	}{
		"what is frozen ends": {awaits: "main side "},
		"one has ended before, one is being frozen": {prepare: func(main, side *fakeContainer) {
			main.state, side.state = runtime.Ended, runtime.Pausing
		}, awaits: "side "},
		"one is gone": {prepare: func(main, side *fakeContainer) {
			main.findErr = result.Errorf(result.ContainerNotFound, "gone")
			side.state = runtime.Paused
		}, awaits: "side "},
		"all run again":                   {prepare: func(main, side *fakeContainer) { main.state, side.state = runtime.Running, runtime.Running }},
		"nobody kills":                    {prepare: func(main, side *fakeContainer) { frozen(main, side); side.awaitEnd = until }, awaits: "main ", says: "not killed within"},
		"a signal while it waits":         {prepare: func(main, side *fakeContainer) { frozen(main, side); main.awaitEnd = until }, stops: true, says: "a signal came"},
		"the commit has crashed":          {ended: func(func()) (bool, error) { return true, nil }, says: "the commit has failed"},
		"a signal while the commit runs":  {ended: func(stop func()) (bool, error) { stop(); return false, broken }, says: "a signal came while the commit ran"},
		"a signal just when it has ended": {ended: func(stop func()) (bool, error) { stop(); return false, nil }, says: "a signal came while the commit ran"},
		"containerd does not say":         {ended: func(func()) (bool, error) { return false, broken }, says: "broken", fails: true},
		"one cannot be looked at":         {prepare: func(main, side *fakeContainer) { frozen(main, side); main.findErr = broken }, says: "broken", fails: true},
		"one cannot be waited for": {prepare: func(main, side *fakeContainer) {
			frozen(main, side)
			main.awaitEnd = func(context.Context) error { return broken }
		}, says: "broken", fails: true},
	}
	for name, test := range tests {
		t.Run(name, func(t *testing.T) {
			s := newScene(t)
			ctx, cancel := context.WithCancelCause(t.Context())
			defer cancel(nil)
			stop := func() { cancel(result.Errorf(result.Canceled, "a signal came")) }
			var awaited strings.Builder
			for _, c := range s.node.containers {
				c.awaitEnd = func(context.Context) error { awaited.WriteString(c.name + " "); return nil }
			}
			main, side := s.node.containers["main-id"], s.node.containers["side-id"]
			frozen(main, side)
			if test.prepare != nil {
				test.prepare(main, side)
			}
			if test.stops {
				time.AfterFunc(10*time.Millisecond, stop)
			}
			s.node.ended = func(_ context.Context, podUID, name string) (bool, error) {
				if podUID != "commit-pod" || name != "commit" {
					t.Errorf("waits for container %q of the Pod %s", name, podUID)
				}
				if test.ended == nil {
					return false, nil
				}
				return test.ended(stop)
			}
			within := 20 * time.Second
			if test.says == "not killed within" {
				within = 100 * time.Millisecond
			}
			var got result.Result
			err := Standby(ctx, s.node, StandbyOptions{
				OwnPodUID: "commit-pod", Commit: "commit", PodUID: "pod", Within: within, Log: s.options.Log,
				Containers: []runtime.Ref{s.options.Containers[0].Ref, s.options.Containers[1].Ref},
			}, func(r result.Result) error { got = r; return nil })
			if (err != nil) != test.fails {
				t.Errorf("it fails with %v, result %+v", err, got)
			}
			if got.Thawed != (test.says == "") || got.Error != nil && (test.says == "" || !strings.Contains(got.Error.Message, test.says)) {
				t.Errorf("result %+v, want %q", got, test.says)
			}
			if awaited.String() != test.awaits {
				t.Errorf("it waits for %q, want %q", awaited.String(), test.awaits)
			}
			if len(s.node.calls) > 0 {
				t.Errorf("it does %q", s.node.calls)
			}
		})
	}
}
