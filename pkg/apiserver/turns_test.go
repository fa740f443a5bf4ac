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
	"runtime"
	"sync"
	"testing"
	"time"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
)

func TestTurns(t *testing.T) {
	turns := newTurns(time.Hour)
	unguarded := map[string]int{}
	var callers sync.WaitGroup
	for range 100 {
		for _, key := range []string{"ns/a", "ns/b"} {
			count := func() {
				done, err := turns.take(context.Background(), key)
				if err != nil {
					t.Error(err)
					return
				}
				defer done()
				turns.mu.Lock()
				before := unguarded[key]
				turns.mu.Unlock()
				// Whoever comes in between is lost.
				runtime.Gosched()
				turns.mu.Lock()
				unguarded[key] = before + 1
				turns.mu.Unlock()
			}
			callers.Go(count)
		}
	}
	callers.Wait()
	if unguarded["ns/a"] != 100 || unguarded["ns/b"] != 100 {
		t.Errorf("more than one had its turn: %v", unguarded)
	}

	done, err := turns.take(context.Background(), "ns/a")
	if err != nil {
		t.Fatal(err)
	}
	if other, err := turns.take(context.Background(), "ns/b"); err != nil {
		t.Errorf("another object waits: %v", err)
	} else {
		other()
	}
	ended, cancel := context.WithCancel(context.Background())
	cancel()
	if _, err := turns.take(ended, "ns/a"); !apierrors.IsTimeout(err) {
		t.Errorf("a request that has ended got: %v", err)
	}
	done()
	if len(turns.queues) != 0 {
		t.Errorf("left behind: %v", turns.queues)
	}
}

func TestATurnThatTakesTooLongIsOver(t *testing.T) {
	turns := newTurns(10 * time.Millisecond)
	slow, err := turns.take(context.Background(), "ns/a")
	if err != nil {
		t.Fatal(err)
	}
	// As somebody whose webhook does not answer.
	next, err := turns.take(context.Background(), "ns/a")
	if err != nil {
		t.Fatal(err)
	}
	slow()
	next()
	if len(turns.queues) != 0 {
		t.Errorf("left behind: %v", turns.queues)
	}
	last, err := turns.take(context.Background(), "ns/a")
	if err != nil {
		t.Fatal(err)
	}
	if free := len(turns.queues["ns/a"].turn); free != 0 {
		t.Errorf("%d others have their turn at the same time", free)
	}
	last()
}
