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

	"k8s.io/client-go/tools/cache"
)

// killing is the last step of the smallest size.
const killing = "a server that is killed half-way"

// killedSandboxes are how many are paused at once when the server is killed, laterThanUnkilled how many times later all of them
// may be Paused than without that.
const (
	killedSandboxes   = 100
	laterThanUnkilled = 1.3
)

// killedResult is how long it takes until all of some sandboxes are Paused that were all asked to be at once.
type killedResult struct {
	Sandboxes int     `json:"sandboxes"`
	Without   float64 `json:"secondsWithoutAKill"`
	With      float64 `json:"secondsWithAKill"`
	// Paused were so when the server was killed, which answered again after Away.
	Paused int     `json:"pausedBeforeTheKill"`
	Away   float64 `json:"secondsAway"`
}

func (k *killedResult) ratio() float64 {
	if k == nil || k.Without == 0 {
		return 0
	}
	return k.With / k.Without
}

// killInTheMiddle pauses twice: once as it is, once with a server that is killed when half of the sandboxes are paused, and
// started again at once, as its kubelet would.
func (b *bench) killInTheMiddle(ctx context.Context, result *sizeResult) error {
	sample := b.sandboxes[:min(len(b.sandboxes), killedSandboxes)]
	killed := &killedResult{Sandboxes: len(sample)}
	var err error
	if killed.Without, err = b.pauseAll(ctx, sample, nil); err != nil {
		return err
	}
	if err := b.resumeAll(ctx, sample); err != nil {
		return err
	}
	killed.With, err = b.pauseAll(ctx, sample, func(paused int) error {
		began := time.Now()
		killed.Paused = paused
		err := b.cluster.killServer(ctx, b.stop)
		killed.Away = time.Since(began).Seconds()
		return err
	})
	if err != nil {
		return err
	}
	result.Killed = killed
	return b.resumeAll(ctx, sample)
}

func (b *bench) resumeAll(ctx context.Context, sample []cache.ObjectName) error {
	if err := each(ctx, sample, b.options.inFlight, b.carryOut(resume, &times{})); err != nil {
		return err
	}
	return b.settle(ctx)
}

// pauseAll asks for all and returns how many seconds it took until all were Paused. halfWay, where there is one, is called when
// half of them are.
func (b *bench) pauseAll(ctx context.Context, sample []cache.ObjectName, halfWay func(paused int) error) (float64, error) {
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	began := time.Now()
	var waiting sync.WaitGroup
	var mutex sync.Mutex
	paused := 0
	half := make(chan int, 1)
	err := each(ctx, sample, b.options.clients, func(ctx context.Context, sandbox cache.ObjectName) error {
		_, err := b.post(ctx, pause, sandbox)
		return err
	})
	if err != nil {
		return 0, err
	}
	for _, sandbox := range sample {
		waiting.Go(func() {
			if err := b.board.await(ctx, sandbox, pause.target); err != nil {
				cancel(err)
				return
			}
			mutex.Lock()
			defer mutex.Unlock()
			if paused++; paused == len(sample)/2 {
				half <- paused
			}
		})
	}
	if halfWay != nil {
		select {
		case now := <-half:
			if err := halfWay(now); err != nil {
				cancel(fmt.Errorf("kill the server: %w", err))
			}
		case <-ctx.Done():
		}
	}
	waiting.Wait()
	return time.Since(began).Seconds(), context.Cause(ctx)
}
