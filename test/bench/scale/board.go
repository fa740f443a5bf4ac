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

package main

import (
	"context"
	"fmt"
	"sync"
	"time"

	"k8s.io/apimachinery/pkg/api/meta"
	"k8s.io/client-go/tools/cache"

	"github.com/opensandbox-io/sandbox-apiserver/apis/lifecycle/v1alpha1"
	"github.com/opensandbox-io/sandbox-apiserver/generated/informers/externalversions"
)

// board shows in which phase each sandbox is, as one client that watches all of them sees it.
type board struct {
	mutex  sync.Mutex
	phases map[cache.ObjectName]v1alpha1.SandboxPhase
	// queued is the number of commits that had started when each was first seen to wait for its own.
	queued  map[cache.ObjectName]int
	commits *commitLog
	// awaited are closed when their sandbox comes into their phase.
	awaited map[awaited]chan struct{}
}

type awaited struct {
	sandbox cache.ObjectName
	phase   v1alpha1.SandboxPhase
}

func (c *cluster) startBoard(ctx context.Context, commits *commitLog) (*board, error) {
	b := &board{
		phases: map[cache.ObjectName]v1alpha1.SandboxPhase{}, awaited: map[awaited]chan struct{}{},
		queued: map[cache.ObjectName]int{}, commits: commits,
	}
	factory := externalversions.NewSharedInformerFactory(c.sandboxes, 0)
	informer := factory.Lifecycle().V1alpha1().Sandboxes().Informer()
	// The phase is all that is looked at.
	if err := informer.SetTransform(func(o any) (any, error) {
		if sandbox, ok := o.(*v1alpha1.Sandbox); ok {
			sandbox.Spec, sandbox.ManagedFields = v1alpha1.SandboxSpec{}, nil
		}
		return o, nil
	}); err != nil {
		return nil, err
	}
	if _, err := informer.AddEventHandler(cache.ResourceEventHandlerFuncs{
		AddFunc:    func(o any) { b.show(o.(*v1alpha1.Sandbox)) },
		UpdateFunc: func(_, o any) { b.show(o.(*v1alpha1.Sandbox)) },
	}); err != nil {
		return nil, err
	}
	factory.Start(ctx.Done())
	if !cache.WaitForCacheSync(ctx.Done(), informer.HasSynced) {
		return nil, fmt.Errorf("the sandboxes cannot be watched: %w", context.Cause(ctx))
	}
	return b, nil
}

func (b *board) show(sandbox *v1alpha1.Sandbox) {
	b.mutex.Lock()
	defer b.mutex.Unlock()
	key := awaited{nameOf(sandbox), sandbox.Status.Phase}
	b.phases[key.sandbox] = key.phase
	if _, known := b.queued[key.sandbox]; !known && waits(sandbox) {
		b.queued[key.sandbox] = b.commits.count()
	}
	if done, waits := b.awaited[key]; waits {
		close(done)
		delete(b.awaited, key)
	}
}

func waits(sandbox *v1alpha1.Sandbox) bool {
	paused := meta.FindStatusCondition(sandbox.Status.Conditions, v1alpha1.ConditionPaused)
	return paused != nil && paused.Reason == v1alpha1.ReasonQueued
}

// forgetQueue begins anew with who waits, and queuedAt is the number of commits that had started
// when a sandbox was first seen to wait; false if it never had to.
func (b *board) forgetQueue() {
	b.mutex.Lock()
	defer b.mutex.Unlock()
	clear(b.queued)
}

func (b *board) queuedAt(sandbox cache.ObjectName) (int, bool) {
	b.mutex.Lock()
	defer b.mutex.Unlock()
	at, waited := b.queued[sandbox]
	return at, waited
}

// await waits until a sandbox is in a phase; one waits for each at a time.
func (b *board) await(ctx context.Context, sandbox cache.ObjectName, phase v1alpha1.SandboxPhase) error {
	b.mutex.Lock()
	if b.phases[sandbox] == phase {
		b.mutex.Unlock()
		return nil
	}
	done := make(chan struct{})
	b.awaited[awaited{sandbox, phase}] = done
	b.mutex.Unlock()
	select {
	case <-done:
		return nil
	case <-ctx.Done():
		b.mutex.Lock()
		defer b.mutex.Unlock()
		return fmt.Errorf("sandbox %s is %s and does not become %s: %w", sandbox, b.phases[sandbox], phase, context.Cause(ctx))
	}
}

// census counts the sandboxes in each phase.
func (b *board) census() map[v1alpha1.SandboxPhase]int {
	b.mutex.Lock()
	defer b.mutex.Unlock()
	count := map[v1alpha1.SandboxPhase]int{}
	for _, phase := range b.phases {
		count[phase]++
	}
	return count
}

// tell shows every few seconds how far the sandboxes are, until do is done.
func (b *board) tell(ctx context.Context, say reporter, do func() error) error {
	done := make(chan error, 1)
	go func() { done <- do() }()
	ticker := time.NewTicker(15 * time.Second)
	defer ticker.Stop()
	for {
		select {
		case err := <-done:
			return err
		case <-ticker.C:
			if ctx.Err() == nil {
				say("  … %v", b.census())
			}
		}
	}
}
