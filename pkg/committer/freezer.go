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
	"fmt"
	"log/slog"
	"time"

	"github.com/opensandbox-io/sandbox-apiserver/pkg/committer/result"
	"github.com/opensandbox-io/sandbox-apiserver/pkg/committer/runtime"
)

// task is the processes of a container.
type task interface {
	Name() string
	State(context.Context) (runtime.State, error)
	Pause(context.Context) error
	Resume(context.Context) error
}

const (
	// callTimeout is for one freeze or thaw; they take milliseconds.
	callTimeout = 5 * time.Second
	// thawTimeout is for everything that has to be thawed at the end. Together with
	// a freeze that is just under way it fits into the 20 s of grace that the commit
	// Job gives after SIGTERM.
	thawTimeout = 12 * time.Second
	// freezeTries is how often a container is asked to be frozen. On a busy node
	// runc gives up on processes that get no processor to stop on.
	freezeTries = 5
	// pollInterval is how often a state is asked for that is about to change;
	// containerd has no event for it.
	pollInterval = 20 * time.Millisecond
)

// freezer freezes containers and knows which it has to thaw.
type freezer struct {
	log     *slog.Logger
	touched []task
	// began is when the first was frozen, ended when the last was thawed.
	began, ended time.Time
	// most is for how long something may be frozen before late is called; 0 stands
	// for ever.
	most  time.Duration
	late  func()
	timer *time.Timer
	// blind is whether a container that may be frozen could not be looked at.
	blind bool
}

// adopt takes over a container that an earlier attempt left frozen, so that it
// is thawed even when this attempt fails before it freezes anything.
func (f *freezer) adopt(ctx context.Context, t task) error {
	state, err := t.State(ctx)
	if err != nil {
		return err
	}
	if state == runtime.Paused || state == runtime.Pausing {
		f.log.Info("container is frozen already", "container", t.Name())
		f.touch(t)
	}
	return nil
}

// freeze stops the container's processes. A container that has ended has none,
// and stays as it is.
func (f *freezer) freeze(ctx context.Context, t task) error {
	began := time.Now()
	var failed error
	for tries := 0; ; {
		state, err := t.State(ctx)
		if err != nil {
			return err
		}
		switch {
		case state == runtime.Ended:
			f.forget(t)
			f.log.Info("container has ended, nothing to freeze", "container", t.Name())
			return nil
		case state == runtime.Paused:
			f.touch(t)
			f.log.Info("container frozen", "container", t.Name(), "took", time.Since(began))
			return nil
		case state == runtime.Pausing:
			f.touch(t)
			if err := wait(ctx); err != nil {
				return err
			}
			continue
		case state == runtime.Created:
			return result.Errorf(result.CommitJobFailed, "container %q is just being started; a later attempt finds it running", t.Name())
		case tries > 0 && failed == nil:
			return result.Errorf(result.CommitJobFailed, "container %q is still running after it was frozen", t.Name())
		case tries == freezeTries:
			return fmt.Errorf("freezing container %q, %d times: %w", t.Name(), tries, failed)
		}
		f.touch(t)
		tries++
		if failed = f.pause(ctx, t); failed != nil {
			// It may have ended at this very moment: the next look tells.
			f.log.Info("container could not be frozen", "container", t.Name(), "try", tries, "error", failed)
			if err := wait(ctx); err != nil {
				return fmt.Errorf("freezing container %q: %w", t.Name(), failed)
			}
		}
	}
}

// pause is not given up when ctx ends: a freeze that was cancelled on the way
// could still take effect after the thaw that follows, and nobody would know.
func (f *freezer) pause(ctx context.Context, t task) error {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), callTimeout)
	defer cancel()
	return t.Pause(ctx)
}

// thaw lets the container's processes go on.
func (f *freezer) thaw(ctx context.Context, t task) error {
	var last error
	for {
		state, err := t.State(ctx)
		switch {
		case err != nil:
			last = err // containerd may be restarting
		case state == runtime.Running, state == runtime.Ended, state == runtime.Created:
			f.forget(t)
			f.log.Info("container thawed", "container", t.Name(), "state", state.String())
			return nil
		case state == runtime.Paused:
			if last = t.Resume(ctx); last == nil {
				continue
			}
		}
		if err := wait(ctx); err != nil {
			return fmt.Errorf("container %q could not be thawed and stays frozen: %w", t.Name(), errors.Join(last, err))
		}
	}
}

// thawAll thaws whatever was touched, on a time of its own: it runs when the
// work was cancelled or is late.
func (f *freezer) thawAll(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), thawTimeout)
	defer cancel()
	var all []error
	for _, t := range append([]task(nil), f.touched...) {
		all = append(all, f.thaw(ctx, t))
	}
	return errors.Join(all...)
}

// frozenMillis is for how long containers were frozen, so far where they still are.
func (f *freezer) frozenMillis() int64 {
	if f.began.IsZero() {
		return 0
	}
	end := f.ended
	if len(f.touched) > 0 {
		end = time.Now()
	}
	// Rounded up: a container that was frozen was so for more than nothing.
	return (end.Sub(f.began) + time.Millisecond - 1).Milliseconds()
}

// touch notes a container before it is frozen: an error of the call does not
// mean that it had no effect.
func (f *freezer) touch(t task) {
	for _, known := range f.touched {
		if known == t {
			return
		}
	}
	if f.began.IsZero() {
		f.began = time.Now()
		if f.most > 0 {
			f.timer = time.AfterFunc(f.most, f.late)
		}
	}
	f.touched = append(f.touched, t)
}

// stop ends the watch over the time.
func (f *freezer) stop() {
	if f.timer != nil {
		f.timer.Stop()
	}
}

func (f *freezer) forget(t task) {
	for i, known := range f.touched {
		if known == t {
			f.touched = append(f.touched[:i], f.touched[i+1:]...)
			f.ended = time.Now()
			if len(f.touched) == 0 {
				f.stop()
			}
			return
		}
	}
}

func (f *freezer) isTouched(t task) bool {
	for _, known := range f.touched {
		if known == t {
			return true
		}
	}
	return false
}

func wait(ctx context.Context) error {
	timer := time.NewTimer(pollInterval)
	defer timer.Stop()
	select {
	case <-ctx.Done():
		return ctx.Err()
	case <-timer.C:
		return nil
	}
}
