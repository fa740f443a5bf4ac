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
	"testing"
	"time"

	"github.com/opensandbox-io/sandbox-apiserver/pkg/committer/result"
	"github.com/opensandbox-io/sandbox-apiserver/pkg/committer/runtime"
)

func TestStandby(t *testing.T) {
	broken := errors.New("broken")
	tests := map[string]struct {
		// ended is how the commit ends; nil: well.
		ended   func(stop func()) (failed bool, err error)
		prepare func(main, side *fakeContainer)
		// dies says that what is frozen ends when it is waited for; else it waits for ever.
		dies bool
		// stops says that a signal comes when it waits for a container to end.
		stops bool
		// claims are what is found each time that nobody has come.
		claims []Claim
		// thaws are whom it thaws; reason and says a part of the report, without one that nothing is frozen.
		thaws  []string
		reason result.Reason
		says   string
		// frozen says that it is so still.
		frozen bool
		// guards says that the commit leaves nothing frozen.
		guards bool
	}{
		"what is frozen ends": {dies: true},
		"one has ended before, one is being frozen": {prepare: func(main, side *fakeContainer) {
			main.state, side.state = runtime.Ended, runtime.Pausing
		}, dies: true},
		"one is gone":                                            {prepare: func(main, _ *fakeContainer) { main.findErr = result.Errorf(result.ContainerNotFound, "gone") }, dies: true},
		"all have ended":                                         {prepare: func(main, side *fakeContainer) { main.state, side.state = runtime.Ended, runtime.Ended }},
		"somebody has thawed it":                                 {prepare: func(main, side *fakeContainer) { main.state, side.state = runtime.Running, runtime.Ended }, reason: result.ThawedUnattended, says: `"main", which the commit left frozen, runs again`},
		"nobody comes":                                           {claims: []Claim{{}}, thaws: []string{"main", "side"}, reason: result.ThawedUnattended, says: "nobody came within 50ms"},
		"nobody comes any more":                                  {claims: []Claim{{Made: true, Age: 30 * time.Millisecond}, {Made: true, Age: 60 * time.Millisecond}}, thaws: []string{"main", "side"}, reason: result.ThawedUnattended, says: "nobody came"},
		"a kill that does not end":                               {claims: []Claim{{Made: true, Kills: true, Age: time.Hour}}, reason: result.Canceled, says: "being killed", frozen: true},
		"a signal while it waits":                                {stops: true, reason: result.Canceled, says: "a signal came", frozen: true},
		"the commit has failed":                                  {ended: func(func()) (bool, error) { return true, nil }, thaws: []string{"main", "side"}, reason: result.Canceled, says: "the commit has failed"},
		"a signal while it commits":                              {ended: func(stop func()) (bool, error) { stop(); return false, broken }, reason: result.Canceled, says: "a signal came while the commit ran", frozen: true},
		"a signal, and the commit is killed for it":              {ended: killedAfterASignal(), thaws: []string{"main", "side"}, reason: result.Canceled, says: "the commit has failed"},
		"the commit that thaws has ended":                        {guards: true, prepare: func(main, side *fakeContainer) { main.state, side.state = runtime.Running, runtime.Running }},
		"the commit that thaws has ended, and another has begun": {guards: true},
		"the commit that thaws has failed":                       {guards: true, ended: func(func()) (bool, error) { return true, nil }, thaws: []string{"main", "side"}, reason: result.Canceled, says: "the commit has failed"},
		"a signal at the very end":                               {ended: func(stop func()) (bool, error) { stop(); return false, nil }, reason: result.Canceled, says: "a signal came while the commit ran", frozen: true},
	}
	for name, test := range tests {
		t.Run(name, func(t *testing.T) {
			s := newScene(t)
			ctx, cancel := context.WithCancelCause(t.Context())
			defer cancel(nil)
			stop := func() { cancel(result.Errorf(result.Canceled, "a signal came")) }
			main, side := s.node.containers["main-id"], s.node.containers["side-id"]
			for _, c := range []*fakeContainer{main, side} {
				c.state = runtime.Paused
				c.awaitEnd = func(ctx context.Context) error {
					if !test.dies {
						<-ctx.Done()
						return ctx.Err()
					}
					c.set(runtime.Ended)
					return nil
				}
			}
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
			thawAfter := 50 * time.Millisecond
			if test.dies || test.stops {
				thawAfter = time.Minute
			}
			claims := &fakeClaims{left: test.claims}
			var got result.Result
			err := Standby(ctx, s.node, StandbyOptions{
				CommitThaws: test.guards, Grace: 30 * time.Millisecond,
				OwnPodUID: "commit-pod", Commit: "commit", PodUID: "pod", ThawAfter: thawAfter, Claims: claims, LookAgain: 5 * time.Millisecond, Log: s.options.Log,
				Containers: []runtime.Ref{s.options.Containers[0].Ref, s.options.Containers[1].Ref},
			}, func(r result.Result) error { got = r; return nil })
			if err != nil {
				t.Errorf("it fails with %v, result %+v", err, got)
			}
			if test.reason == "" && got.Error != nil || test.reason != "" && (got.Error == nil || got.Error.Reason != test.reason || !strings.Contains(got.Error.Message, test.says)) {
				t.Errorf("result %+v, want %s %q", got.Error, test.reason, test.says)
			}
			if got.Thawed == test.frozen {
				t.Errorf("it says thawed: %t", got.Thawed)
			}
			var thawed []string
			for _, call := range s.node.calls {
				who, _ := strings.CutPrefix(call, "thaw ")
				if !slices.Contains(thawed, who) {
					thawed = append(thawed, who)
				}
			}
			slices.Sort(thawed)
			if !slices.Equal(thawed, test.thaws) {
				t.Errorf("it does %q, want that it thaws %q", s.node.calls, test.thaws)
			}
			if len(claims.left) > 0 || claims.open && len(test.claims) > 0 {
				t.Errorf("claims that it has not looked at: %v; open for others at the end: %t", claims.left, claims.open)
			}
		})
	}
}

// killedAfterASignal is the end of a commit that does not get to thaw.
func killedAfterASignal() func(stop func()) (bool, error) {
	asked := 0
	return func(stop func()) (bool, error) {
		if asked++; asked == 1 {
			stop()
			return false, errors.New("it runs")
		}
		return true, nil
	}
}

// A containerd that is being restarted is asked again, for nobody else would thaw.
func TestStandbyOutlivesContainerd(t *testing.T) {
	s := newScene(t)
	main := s.node.containers["main-id"]
	asked := 0
	s.node.ended = func(context.Context, string, string) (bool, error) {
		asked++
		if asked < 3 {
			return false, errors.New("no containerd")
		}
		return false, nil
	}
	looks := 0
	main.onState = func() (runtime.State, error) {
		if looks++; looks%2 == 1 && looks < 8 {
			return 0, errors.New("no containerd")
		}
		return main.get(), nil
	}
	main.state, s.node.containers["side-id"].state = runtime.Paused, runtime.Ended
	var got result.Result
	err := Standby(t.Context(), s.node, StandbyOptions{
		OwnPodUID: "commit-pod", Commit: "commit", PodUID: "pod", ThawAfter: 20 * time.Millisecond, Claims: &fakeClaims{left: []Claim{{}}}, LookAgain: time.Millisecond, Log: s.options.Log,
		Containers: []runtime.Ref{s.options.Containers[0].Ref},
	}, func(r result.Result) error { got = r; return nil })
	if err != nil || got.Error == nil || got.Error.Reason != result.ThawedUnattended || !got.Thawed || main.get() != runtime.Running {
		t.Errorf("%v, result %+v, the container is %s", err, got, main.get())
	}
}

// fakeClaims are said one after the other.
type fakeClaims struct {
	left []Claim
	open bool
}

func (c *fakeClaims) Close() (Claim, func(), error) {
	c.open = false
	if len(c.left) == 0 {
		return Claim{}, nil, errors.New("looked at once too often")
	}
	last := c.left[0]
	c.left = c.left[1:]
	return last, func() { c.open = true }, nil
}
