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

package apiserver

import (
	"context"
	"fmt"
	"strings"
	"sync"
	"time"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
)

// turns lets the writers of one object go one after the other, in the order in which they came. Other
// replicas are still met in etcd, which decides.
type turns struct {
	// longest is when a turn is over though its writer is not done.
	longest time.Duration

	mu     sync.Mutex
	queues map[string]*queue
}

type queue struct {
	// turn holds one token while it is nobody's.
	turn chan struct{}
	// callers are those who wait and the one whose turn it is.
	callers int
}

func newTurns(longest time.Duration) *turns {
	return &turns{longest: longest, queues: map[string]*queue{}}
}

// take waits for the caller's turn, as long as its request lasts. The turn ends with the call of done,
// or when it has lasted too long.
func (t *turns) take(ctx context.Context, key string) (done func(), err error) {
	q := t.enter(key)
	select {
	case <-q.turn:
		end := sync.OnceFunc(func() { q.turn <- struct{}{} })
		timer := time.AfterFunc(t.longest, end)
		return func() {
			timer.Stop()
			end()
			t.leave(key, q)
		}, nil
	case <-ctx.Done():
		t.leave(key, q)
		return nil, apierrors.NewTimeoutError(fmt.Sprintf("other requests for %s took too long; try again", objectName(key)), 1)
	}
}

// objectName is the namespace and the name in a key of the store.
func objectName(key string) string {
	parts := strings.Split(key, "/")
	return strings.Join(parts[max(0, len(parts)-2):], "/")
}

func (t *turns) enter(key string) *queue {
	t.mu.Lock()
	defer t.mu.Unlock()
	q := t.queues[key]
	if q == nil {
		q = &queue{turn: make(chan struct{}, 1)}
		q.turn <- struct{}{}
		t.queues[key] = q
	}
	q.callers++
	return q
}

func (t *turns) leave(key string, q *queue) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if q.callers--; q.callers == 0 {
		delete(t.queues, key)
	}
}
