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
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/opensandbox-io/sandbox-apiserver/pkg/committer/cgroup"
	"github.com/opensandbox-io/sandbox-apiserver/pkg/committer/result"
	"github.com/opensandbox-io/sandbox-apiserver/pkg/committer/runtime"
)

// task is processes that are frozen and thawed together: a container's, or a whole cgroup's.
type task interface {
	// String names it for a person.
	String() string
	// State is what the processes do; the kernel's word where it can be asked.
	State(context.Context) (runtime.State, error)
	// Pause freezes them: when it returns some may still be about to stop, which State tells.
	Pause(context.Context) error
	// Resume thaws them, also from a Pause that has failed and left something behind.
	Resume(context.Context) error
	// Moving are those that have not stopped, while some have to.
	Moving(context.Context) ([]cgroup.Process, error)
	// Witnessed is whether State has the kernel's word.
	Witnessed() bool
}

const (
	// patience is how long something may take to freeze. It is longer than runc waits for the kernel
	// (10 s with the second version of cgroups): who gives up first kills runc, and nobody takes the
	// freeze back. What does not stop by then waits for something that may never come.
	patience = 12 * time.Second
	// callTimeout is for one call that takes milliseconds.
	callTimeout = 5 * time.Second
	// thawTimeout is for everything that has to be thawed at the end. Together with a freeze that is
	// just under way it fits into the 30 s of grace that the commit Job gives after SIGTERM.
	thawTimeout = 15 * time.Second
	// pollInterval is how often a state is asked for that is about to change: containerd has no event
	// for it, and a freeze takes milliseconds.
	pollInterval = 20 * time.Millisecond
	// lookInterval is how often it is asked who keeps a freeze from being one.
	lookInterval = 100 * time.Millisecond
)

// freezer freezes tasks and knows which it has to thaw.
type freezer struct {
	log *slog.Logger
	// patience is the constant's, where it is 0.
	patience time.Duration
	// most is for how long something may be frozen before late is called; 0 stands for ever.
	most time.Duration
	late func()

	mu      sync.Mutex
	touched []task
	// began is when the first was frozen of those that are, and frozen for how long some were before.
	began  time.Time
	frozen time.Duration
	timer  *time.Timer
	// blind is whether something may be frozen that could not be looked at.
	blind bool
	// doubtful are those of whom a freeze has failed: what they do is sure after a Resume alone.
	doubtful []task
}

// takeBack thaws what an earlier attempt has left frozen, side by side.
func (f *freezer) takeBack(ctx context.Context, tasks []task) error {
	return sideBySide(tasks, f.log, func(t task) error {
		state, err := t.State(ctx)
		if err != nil {
			f.lose()
			return err
		}
		if state == runtime.Paused || state == runtime.Pausing {
			f.log.Info("frozen already", "what", t.String())
			f.touch(t)
			return f.thaw(ctx, t)
		}
		return nil
	})
}

// notStopped is a freeze that did not come about because of one task's processes.
type notStopped struct {
	error
	task task
}

func (e *notStopped) Unwrap() error { return e.error }

// freeze stops all processes of the tasks, side by side. Where some do not stop while the others
// stand still, they may wait for these: for a FUSE server in another container, say. Then all are
// thawed and it is tried once more, with those first that did not stop.
func (f *freezer) freeze(ctx context.Context, tasks []task) error {
	stopping, err := f.stopAll(ctx, tasks)
	if len(stopping) == 0 || len(stopping) == len(tasks) || ctx.Err() != nil {
		return err
	}
	f.log.Warn("trying once more in another order", "because", err)
	if err := f.thawEach(ctx, tasks); err != nil {
		return err
	}
	others := slices.DeleteFunc(slices.Clone(tasks), func(t task) bool { return slices.Contains(stopping, t) })
	for _, some := range [][]task{stopping, others} {
		if _, err := f.stopAll(ctx, some); err != nil {
			return err
		}
	}
	return nil
}

// stopAll also says which tasks have processes that did not stop.
func (f *freezer) stopAll(ctx context.Context, tasks []task) (stopping []task, err error) {
	var mu sync.Mutex
	err = sideBySide(tasks, f.log, func(t task) error {
		err := f.stop(ctx, t)
		var why *notStopped
		if errors.As(err, &why) {
			mu.Lock()
			defer mu.Unlock()
			stopping = append(stopping, t)
		}
		return err
	})
	return stopping, err
}

// stop freezes one. What has ended has no processes, and stays as it is.
func (f *freezer) stop(ctx context.Context, t task) error {
	began := time.Now()
	until := began.Add(f.patience)
	if f.patience == 0 {
		until = began.Add(patience)
	}
	var failed error
	var moving []cgroup.Process
	for tries := 0; ; {
		state, err := t.State(ctx)
		if err != nil {
			return err
		}
		switch {
		case state == runtime.Ended:
			f.forget(t)
			f.log.Info("has ended, nothing to freeze", "what", t.String())
			return nil
		case state == runtime.Paused:
			f.touch(t)
			f.log.Info("frozen", "what", t.String(), "took", time.Since(began), "tries", tries)
			return nil
		case state == runtime.Created:
			return result.Errorf(result.CommitJobFailed, "%s is just being started; a later attempt finds it running", t)
		case !time.Now().Before(until):
			return &notStopped{unstoppable(t, time.Since(began), moving, failed), t}
		case state == runtime.Running && tries > 0 && failed == nil:
			return result.Errorf(result.CommitJobFailed, "%s is still running after it was frozen", t)
		case state == runtime.Running:
			f.touch(t)
			tries++
			var seen []cgroup.Process
			if seen, failed = f.pause(ctx, t, until); seen != nil {
				moving = seen
			}
			if failed == nil {
				continue
			}
			// It may have ended at this very moment, or on a busy node have got no processor to stop on:
			// the next look tells.
			f.log.Info("not frozen yet", "what", t.String(), "try", tries, "error", failed)
			f.doubt(t)
			if errors.Is(failed, errPanicked) {
				return failed
			}
		default: // Pausing
			f.touch(t)
			if seen, err := t.Moving(ctx); err == nil && len(seen) > 0 {
				moving = seen
			}
		}
		if err := wait(ctx); err != nil {
			return fmt.Errorf("freezing %s: %w", t, errors.Join(failed, err))
		}
	}
}

// unstoppable says who did not stop, and what a person can do about it.
func unstoppable(t task, after time.Duration, moving []cgroup.Process, failed error) error {
	who := "its processes"
	if len(moving) > 0 {
		var names []string
		for _, p := range moving[:min(len(moving), 3)] {
			names = append(names, p.String())
		}
		if who = strings.Join(names, ", "); len(moving) > 3 {
			who += fmt.Sprintf(" and %d others", len(moving)-3)
		}
	}
	return result.Wrap(result.FreezeFailed, failed, "%s cannot be frozen: %s did not stop within %s. Who waits in the kernel for a file system in user space (FUSE), a network file system that hangs or a slow disk cannot be frozen until that answers%s",
		t, who, after.Round(time.Second), because(failed))
}

func because(err error) string {
	if err == nil {
		return ""
	}
	return " (" + err.Error() + ")"
}

// pause is not given up when ctx ends: a freeze that was cancelled on the way could still take
// effect after the thaw that follows, and nobody would know. It says whom the kernel waited for.
func (f *freezer) pause(ctx context.Context, t task, until time.Time) (moving []cgroup.Process, err error) {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), max(time.Until(until), pollInterval))
	defer cancel()
	done := make(chan error, 1)
	go func() { done <- recovered(func() error { return t.Pause(ctx) }, f.log) }()
	tick := time.NewTicker(lookInterval)
	defer tick.Stop()
	for {
		select {
		case err := <-done:
			return moving, err
		case <-tick.C:
			// Not its state: the shim answers when it is done.
			if seen, err := t.Moving(ctx); err == nil && len(seen) > 0 {
				moving = seen
			}
		}
	}
}

// thaw lets the processes go on, and returns when they do.
func (f *freezer) thaw(ctx context.Context, t task) error {
	sure := !f.isDoubtful(t)
	var last error
	for {
		state, err := t.State(ctx)
		frozen := state == runtime.Paused || state == runtime.Pausing && t.Witnessed()
		switch {
		case err != nil && (last == nil || ctx.Err() == nil):
			last = err // containerd may be restarting; that there is no time left says less than what was in the way
		case err != nil:
		case state == runtime.Ended, sure && (state == runtime.Running || state == runtime.Created):
			f.forget(t)
			f.log.Info("thawed", "what", t.String(), "state", state.String())
			return nil
		case frozen, !sure:
			first := last == nil
			if last = t.Resume(ctx); last == nil {
				sure = true
				if first {
					continue
				}
			}
		}
		if err := wait(ctx); err != nil {
			return fmt.Errorf("%s could not be thawed and stays frozen: %w", t, errors.Join(last, err))
		}
	}
}

// thawEach thaws tasks that are touched, side by side: none waits for another's deadline.
func (f *freezer) thawEach(ctx context.Context, tasks []task) error {
	return sideBySide(tasks, f.log, func(t task) error {
		if !f.isTouched(t) {
			return nil
		}
		return f.thaw(ctx, t)
	})
}

// thawAll thaws whatever was touched, on a time of its own: it runs when the work was cancelled or
// is late.
func (f *freezer) thawAll(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), thawTimeout)
	defer cancel()
	f.mu.Lock()
	all := slices.Clone(f.touched)
	f.mu.Unlock()
	return f.thawEach(ctx, all)
}

// sideBySide does something with each, at the same time.
func sideBySide[T any](items []T, log *slog.Logger, do func(T) error) error {
	failures := make([]error, len(items))
	var running sync.WaitGroup
	for i, item := range items {
		running.Go(func() {
			failures[i] = recovered(func() error { return do(item) }, log)
		})
	}
	running.Wait()
	return errors.Join(failures...)
}

// frozenMillis is for how long something was frozen, so far where it still is.
func (f *freezer) frozenMillis() int64 {
	f.mu.Lock()
	defer f.mu.Unlock()
	total := f.frozen
	if len(f.touched) > 0 {
		total += time.Since(f.began)
	}
	// Rounded up: what was frozen was so for more than nothing.
	return (total + time.Millisecond - 1).Milliseconds()
}

// touch notes a task before it is frozen: an error of the call does not mean that it had no effect.
func (f *freezer) touch(t task) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if slices.Contains(f.touched, t) {
		return
	}
	if len(f.touched) == 0 {
		f.began = time.Now()
		if f.most > 0 {
			f.timer = time.AfterFunc(f.most, f.late)
		}
	}
	f.touched = append(f.touched, t)
}

// stopTimer ends the watch over the time.
func (f *freezer) stopTimer() {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.timer != nil {
		f.timer.Stop()
	}
}

func (f *freezer) forget(t task) {
	f.mu.Lock()
	defer f.mu.Unlock()
	at := slices.Index(f.touched, t)
	if at < 0 {
		return
	}
	f.touched = slices.Delete(f.touched, at, at+1)
	if len(f.touched) > 0 {
		return
	}
	f.frozen += time.Since(f.began)
	if f.timer != nil {
		f.timer.Stop()
	}
}

func (f *freezer) isTouched(t task) bool {
	f.mu.Lock()
	defer f.mu.Unlock()
	return slices.Contains(f.touched, t)
}

// left is how many are frozen.
func (f *freezer) left() int {
	f.mu.Lock()
	defer f.mu.Unlock()
	return len(f.touched)
}

// doubt notes that a freeze has failed. Where the kernel is not asked, nobody knows what it has left.
func (f *freezer) doubt(t task) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if !t.Witnessed() {
		f.blind = true
	} else if !slices.Contains(f.doubtful, t) {
		f.doubtful = append(f.doubtful, t)
	}
}

func (f *freezer) isDoubtful(t task) bool {
	f.mu.Lock()
	defer f.mu.Unlock()
	return slices.Contains(f.doubtful, t)
}

// lose notes that nobody knows any more whether all is thawed.
func (f *freezer) lose() {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.blind = true
}

func (f *freezer) isBlind() bool {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.blind
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
