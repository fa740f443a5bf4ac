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

// Kill ends the containers that a commit left frozen, in such a way that none of their processes
// runs once more. A runtime that is told to kill a frozen container signals its first process and
// thaws the rest, which then writes, and tells others that it has, until the kernel comes to it.
// Here all of them have their signal before anything is thawed. Nothing is thawed otherwise, not
// even after a failure: what is asked for is the end of a Pod whose files are saved. A container
// that is gone or has ended is as it should be; so is one that runs, because then somebody else
// has begun to end it.
func Kill(ctx context.Context, node Node, o KillOptions, report func(result.Result) error) error {
	var killed []runtime.Ref
	err := recovered(func() error {
		var failed []error
		for _, ref := range o.Containers {
			ended, err := kill(ctx, node, o, ref)
			if ended {
				killed = append(killed, ref)
			}
			failed = append(failed, err)
		}
		return errors.Join(failed...)
	}, o.Log)
	keep(ctx, o, killed)
	if err == nil {
		return report(result.Result{Thawed: true})
	}
	if ctx.Err() != nil {
		err = fmt.Errorf("%w; %w", context.Cause(ctx), err)
	}
	o.Log.Error("failed", "error", err)
	return errors.Join(err, report(result.Result{Error: result.From(err)}))
}

// keep keeps what was killed when all is: nobody waits for it to die.
func keep(ctx context.Context, o KillOptions, killed []runtime.Ref) {
	if o.Cache == nil {
		return
	}
	if err := recovered(func() error {
		defer func() {
			ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), callTimeout)
			defer cancel()
			o.Cache.Done(ctx)
		}()
		for _, ref := range killed {
			o.Cache.Keep(ctx, ref)
		}
		return nil
	}, o.Log); err != nil {
		o.Log.Error("nothing is kept for a resume on this node", "error", err)
	}
}

// asideTimeout is how long a container may live on for the cache's sake.
const asideTimeout = 5 * time.Second

func setAside(ctx context.Context, o KillOptions, ref runtime.Ref) {
	if o.Cache == nil {
		return
	}
	ctx, cancel := context.WithTimeout(ctx, asideTimeout)
	defer cancel()
	if err := recovered(func() error { o.Cache.SetAside(ctx, o.PodUID, ref); return nil }, o.Log); err != nil {
		o.Log.Error("not set aside for a resume on this node", "container", ref.Name, "error", err)
	}
}

// kill says whether the container was frozen until every process had its signal, and has ended.
func kill(ctx context.Context, node Node, o KillOptions, ref runtime.Ref) (ended bool, err error) {
	container, state, err := frozen(ctx, node, o.PodUID, ref, o.Log)
	if err != nil || container == nil {
		return false, err
	}
	if state == runtime.Paused {
		setAside(ctx, o, ref)
	}
	if err := signalAll(ctx, container, o.Log); err != nil {
		return false, err
	}
	err = letDie(ctx, container, o.Log)
	return err == nil, err
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

// signalAll returns when every process of a frozen container has its signal. A frozen process has
// no children, so the list can only grow by one that was on its way into the container.
func signalAll(ctx context.Context, container Container, log *slog.Logger) error {
	signalled := map[int]bool{}
	for {
		processes, err := container.Processes(ctx)
		if err != nil {
			return err
		}
		whole, last := true, error(nil)
		for _, pid := range processes {
			if signalled[pid] {
				continue
			}
			whole = false
			if err := container.Kill(pid); err != nil {
				last = err // it may have died since; the next list tells
				continue
			}
			signalled[pid] = true
		}
		if whole {
			log.Info("every process has its signal", "container", container.Name(), "processes", len(signalled))
			return nil
		}
		if last == nil {
			continue
		}
		if err := wait(ctx); err != nil {
			return fmt.Errorf("killing the processes of container %q: %w", container.Name(), errors.Join(last, err))
		}
	}
}

// letDie waits until the container has ended. With the first version of the cgroup freezer a
// process dies of its signal only when it is thawed, which is harmless now: a signal comes before
// the next instruction of a program.
// https://docs.kernel.org/admin-guide/cgroup-v1/freezer-subsystem.html
func letDie(ctx context.Context, container Container, log *slog.Logger) error {
	var last error
	for {
		state, err := container.State(ctx)
		switch {
		case err != nil:
			last = err
		case state == runtime.Ended:
			log.Info("container has ended", "container", container.Name())
			return nil
		case state == runtime.Paused:
			last = container.Resume(ctx)
		}
		if err := wait(ctx); err != nil {
			return fmt.Errorf("container %q has been killed and does not end: %w", container.Name(), errors.Join(last, err))
		}
	}
}
