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
	"sync"
	"time"

	"github.com/opensandbox-io/sandbox-apiserver/pkg/committer/result"
	"github.com/opensandbox-io/sandbox-apiserver/pkg/committer/runtime"
)

// KillOptions are the arguments of one kill.
type KillOptions struct {
	PodUID     string
	Containers []runtime.Ref
	// Cache is nil where nothing is to be kept on the node.
	Cache Cache
	Log   *slog.Logger
}

// Cache keeps what containers have written, for a resume on their node. It tells the log what it
// cannot do: that is no failure of the kill.
type Cache interface {
	// SetAside is for a container of the Pod that is frozen, just before it is killed.
	SetAside(ctx context.Context, podUID string, ref runtime.Ref)
	// Keep is for one that was, and of which no process has run again.
	Keep(ctx context.Context, ref runtime.Ref)
	// Done comes last.
	Done(ctx context.Context)
}

// Kill ends what a commit left frozen, in such a way that no process runs once more: the containers
// that it names, and whatever else of the Pod is frozen, because it could have reached their files.
// A runtime that is told to kill a frozen container signals its first process and thaws the rest,
// which then writes, and tells others that it has, until the kernel comes to it. Here all of them
// have their signal before anything is thawed. Nothing is thawed otherwise, not even after a
// failure: what is asked for is the end of a Pod whose files are saved. A container that is gone or
// has ended is as it should be; so is one that runs, because then somebody else has begun to end
// it. None waits for another.
func Kill(ctx context.Context, node Node, o KillOptions, report func(result.Result) error) error {
	k := &kill{KillOptions: o, node: node, ended: map[string]bool{}}
	err := recovered(func() error { return k.run(ctx) }, o.Log)
	if ctx.Err() != nil && err != nil {
		err = fmt.Errorf("%w; %w", context.Cause(ctx), err)
	}
	outcome := result.Result{Thawed: true}
	if err != nil {
		o.Log.Error("failed", "error", err)
		outcome = result.Result{Error: result.From(err)}
	}
	// Before what may wait for a slow disk: the pause goes on as soon as everybody is dead.
	err = errors.Join(err, report(outcome))
	k.keep(ctx)
	return err
}

type kill struct {
	KillOptions
	node Node

	mu    sync.Mutex
	ended map[string]bool // the names of those that were frozen until they ended
}

func (k *kill) run(ctx context.Context) error {
	var victims []victim
	var failed []error
	known := map[string]bool{}
	for _, ref := range k.Containers {
		container, state, err := frozen(ctx, k.node, k.PodUID, ref, k.Log)
		failed = append(failed, err)
		if container != nil {
			known[container.ID()] = true
			victims = append(victims, &named{Container: container, kill: k, ref: ref, aside: state == runtime.Paused})
		}
	}
	others, err := k.others(ctx, known)
	failed = append(failed, err)
	victims = append(victims, others...)
	failed = append(failed, sideBySide(victims, k.Log, func(v victim) error { return k.end(ctx, v) }))
	return errors.Join(failed...)
}

// victim is what is killed as a whole.
type victim interface {
	task
	// Processes are the PIDs of all its processes, its first one last; none where it has ended.
	Processes(context.Context) ([]int, error)
	// Kill sends SIGKILL to one of them.
	Kill(pid int) error
	// DieFrozen is whether a process dies of that while it is frozen.
	DieFrozen() bool
	// Hold keeps it frozen when the Pod is thawed.
	Hold(context.Context) error
}

// named is a container that was committed.
type named struct {
	Container
	kill  *kill
	ref   runtime.Ref
	aside bool
}

// others are the Pod's other containers that are frozen, and the cgroups of its processes' own making.
func (k *kill) others(ctx context.Context, known map[string]bool) ([]victim, error) {
	var found []victim
	pod, err := k.node.Pod(ctx, k.PodUID)
	for _, sibling := range pod.Containers {
		if known[sibling.ID()] {
			continue
		}
		state, stateErr := sibling.State(ctx)
		if stateErr != nil || state == runtime.Paused || state == runtime.Pausing {
			err = errors.Join(err, stateErr)
			found = append(found, sibling)
		}
	}
	for _, stray := range pod.Strays {
		if state, stateErr := stray.State(ctx); stateErr == nil && (state == runtime.Paused || state == runtime.Pausing) {
			found = append(found, emptied{stray})
		}
	}
	return found, err
}

// emptied is a cgroup that has ended when nobody is in it: nobody removes it.
type emptied struct{ Group }

func (e emptied) State(ctx context.Context) (runtime.State, error) {
	state, err := e.Group.State(ctx)
	if err != nil || state == runtime.Ended {
		return state, err
	}
	processes, err := e.Processes(ctx)
	if err == nil && len(processes) == 0 {
		return runtime.Ended, e.Resume(ctx)
	}
	return state, err
}

// end kills one of them.
func (k *kill) end(ctx context.Context, v victim) error {
	container, isNamed := v.(*named)
	if isNamed && container.aside {
		k.setAside(ctx, container.ref)
	}
	if err := signalAll(ctx, v, k.Log); err != nil {
		return err
	}
	if err := letDie(ctx, v, k.Log); err != nil {
		return err
	}
	if isNamed {
		k.mu.Lock()
		defer k.mu.Unlock()
		k.ended[container.ref.Name] = true
	}
	return nil
}

// keepTimeout is for what is kept once all are dead, and nobody waits for.
const keepTimeout = 30 * time.Second

// keep keeps what was killed when all is: nobody waits for it to die.
func (k *kill) keep(ctx context.Context) {
	if k.Cache == nil {
		return
	}
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), keepTimeout)
	defer cancel()
	if err := recovered(func() error {
		defer func() {
			ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), callTimeout)
			defer cancel()
			k.Cache.Done(ctx)
		}()
		for _, ref := range k.Containers {
			if k.ended[ref.Name] {
				k.Cache.Keep(ctx, ref)
			}
		}
		return nil
	}, k.Log); err != nil {
		k.Log.Error("nothing is kept for a resume on this node", "error", err)
	}
}

// asideTimeout is how long a container may live on for the cache's sake.
const asideTimeout = 5 * time.Second

func (k *kill) setAside(ctx context.Context, ref runtime.Ref) {
	if k.Cache == nil {
		return
	}
	ctx, cancel := context.WithTimeout(ctx, asideTimeout)
	defer cancel()
	if err := recovered(func() error { k.Cache.SetAside(ctx, k.PodUID, ref); return nil }, k.Log); err != nil {
		k.Log.Error("not set aside for a resume on this node", "container", ref.Name, "error", err)
	}
}

// frozen is the container if it is frozen, or about to be; nil otherwise.
func frozen(ctx context.Context, node Node, podUID string, ref runtime.Ref, log *slog.Logger) (Container, runtime.State, error) {
	container, err := node.Find(ctx, podUID, ref)
	var reasoned *result.Error
	if errors.As(err, &reasoned) && reasoned.Reason == result.ContainerNotFound {
		log.Info("nothing to kill", "container", ref.Name, "why", err.Error())
		return nil, runtime.Ended, nil
	}
	if err != nil {
		return nil, 0, err
	}
	state, err := container.State(ctx)
	if err != nil {
		return nil, 0, err
	}
	if state != runtime.Paused && state != runtime.Pausing {
		log.Info("nothing to kill", "container", ref.Name, "state", state.String())
		return nil, state, nil
	}
	return container, state, nil
}

// othersTimeout is how long a container's first process outlives the others, where those can die.
const othersTimeout = 2 * time.Second

// signalAll returns when every process of what is frozen has its signal. A frozen process has no
// children, so the list can only grow by one that was on its way into the container. The first
// process comes last, once the others are gone: a shim whose container shares the node's PIDs may
// not answer any more where they end after it.
func signalAll(ctx context.Context, v victim, log *slog.Logger) error {
	signalled := map[int]bool{}
	began := time.Now()
	for {
		processes, err := v.Processes(ctx)
		if err != nil {
			// The runtime may be at clearing away what has ended just now.
			if state, stateErr := v.State(ctx); stateErr == nil && state == runtime.Ended {
				return nil
			}
			return err
		}
		whole, holds, last := true, false, error(nil)
		for i, pid := range processes {
			if signalled[pid] {
				continue
			}
			whole = false
			if holds = i > 0 && i == len(processes)-1 && v.DieFrozen() && time.Since(began) < othersTimeout; holds {
				break
			}
			if err := v.Kill(pid); err != nil {
				last = err // it may have died since; the next list tells
				continue
			}
			signalled[pid] = true
		}
		if whole {
			log.Info("every process has its signal", "what", v.String(), "processes", len(signalled))
			return nil
		}
		if last == nil && !holds {
			continue
		}
		if err := wait(ctx); err != nil {
			return fmt.Errorf("killing the processes of %s: %w", v, errors.Join(last, err))
		}
	}
}

const (
	// answerTimeout is for one question to a container that dies.
	answerTimeout = 2 * time.Second
	// answersAwaited is how many in a row stay without an answer before its shim is said to give none:
	// on a busy node it only takes long.
	answersAwaited = 3
)

// letDie waits until the container has ended. With the first version of the cgroup freezer a
// process dies of its signal only when it is thawed, which is harmless now: a signal comes before
// the next instruction of a program.
// https://docs.kernel.org/admin-guide/cgroup-v1/freezer-subsystem.html
func letDie(ctx context.Context, v victim, log *slog.Logger) error {
	var last error
	for silent := 0; ; {
		asking, cancel := context.WithTimeout(ctx, answerTimeout)
		state, err := v.State(asking)
		switch {
		case err != nil:
			last = err
		case state == runtime.Ended:
			cancel()
			log.Info("has ended", "what", v.String())
			return nil
		case state == runtime.Paused || state == runtime.Pausing && v.Witnessed():
			last = v.Resume(asking)
		}
		if silent++; asking.Err() == nil {
			silent = 0
		}
		cancel()
		if silent >= answersAwaited {
			if processes, err := v.Processes(ctx); v.Witnessed() && err == nil && len(processes) == 0 {
				return fmt.Errorf("every process of %s is dead, and nothing of it writes any more; but its shim does not answer containerd, and as long as it does not, its Pod stays. On the node, end the process containerd-shim that has the container's ID or its Pod's among its arguments: %w", v, last)
			}
		}
		if err := wait(ctx); err != nil {
			return fmt.Errorf("%s has been killed and does not end: %w", v, errors.Join(last, err))
		}
	}
}
