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

package conflict

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"sync"
	"testing"
	"time"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/client-go/util/workqueue"
	"k8s.io/klog/v2"
	ctrl "sigs.k8s.io/controller-runtime"
	"sigs.k8s.io/controller-runtime/pkg/controller"
	"sigs.k8s.io/controller-runtime/pkg/reconcile"
	"sigs.k8s.io/controller-runtime/pkg/source"
)

var (
	errConflict = fmt.Errorf("write the status of sandbox a/b: %w",
		apierrors.NewConflict(schema.GroupResource{Resource: "sandboxes"}, "b", errors.New("the object has been modified")))
	errOther = errors.New("the store is down")
)

// TestConflictsAreNoErrors runs a controller whose visits end in conflicts, and once in an error.
func TestConflictsAreNoErrors(t *testing.T) {
	limiter := &countingLimiter{TypedRateLimiter: workqueue.NewTypedItemExponentialFailureRateLimiter[reconcile.Request](time.Millisecond, 4*time.Millisecond)}
	logged := &errorLog{}
	visits := []error{errConflict, errConflict, errConflict, errOther, errConflict, nil}
	done := make(chan struct{})
	visit := func(context.Context, ctrl.Request) (ctrl.Result, error) {
		answer := visits[0]
		if visits = visits[1:]; len(visits) == 0 {
			close(done)
		}
		// What comes with an error does not count, nor does it with a conflict.
		return ctrl.Result{RequeueAfter: time.Hour}, answer
	}
	c, err := controller.NewUnmanaged("conflicts", controller.Options{
		Reconciler: Repeat(reconcile.Func(visit)), RateLimiter: limiter,
		LogConstructor: func(*reconcile.Request) klog.Logger { return klog.New(logged) },
	})
	if err != nil {
		t.Fatal(err)
	}
	if err := c.Watch(source.Func(func(_ context.Context, queue workqueue.TypedRateLimitingInterface[reconcile.Request]) error {
		queue.Add(reconcile.Request{})
		return nil
	})); err != nil {
		t.Fatal(err)
	}
	ctx, stop := context.WithCancel(t.Context())
	ended := make(chan error, 1)
	go func() { ended <- c.Start(ctx) }()
	select {
	case <-done:
	case <-time.After(30 * time.Second):
		t.Fatal("the visits are not repeated")
	}
	stop()
	if err := <-ended; err != nil {
		t.Error(err)
	}

	if got := logged.errors(); !slices.Equal(got, []string{errOther.Error()}) {
		t.Errorf("logged as errors: %q, want only %q", got, errOther)
	}
	// No hot loop: each visit after a conflict waits longer than the one before, as after an error.
	want := []time.Duration{time.Millisecond, 2 * time.Millisecond, 4 * time.Millisecond, 4 * time.Millisecond, 4 * time.Millisecond}
	if got := limiter.delays(); !slices.Equal(got, want) {
		t.Errorf("the visits were repeated after %v, want %v", got, want)
	}
}

// countingLimiter notes how long it tells to wait.
type countingLimiter struct {
	workqueue.TypedRateLimiter[reconcile.Request]
	mutex sync.Mutex
	told  []time.Duration
}

func (l *countingLimiter) When(req reconcile.Request) time.Duration {
	l.mutex.Lock()
	defer l.mutex.Unlock()
	l.told = append(l.told, l.TypedRateLimiter.When(req))
	return l.told[len(l.told)-1]
}

func (l *countingLimiter) delays() []time.Duration {
	l.mutex.Lock()
	defer l.mutex.Unlock()
	return slices.Clone(l.told)
}

// errorLog keeps the errors that are logged as such.
type errorLog struct {
	mutex sync.Mutex
	seen  []string
}

func (l *errorLog) Error(err error, _ string, _ ...any) {
	l.mutex.Lock()
	defer l.mutex.Unlock()
	l.seen = append(l.seen, err.Error())
}

func (l *errorLog) errors() []string {
	l.mutex.Lock()
	defer l.mutex.Unlock()
	return slices.Clone(l.seen)
}

func (l *errorLog) Init(klog.RuntimeInfo)          {}
func (l *errorLog) Enabled(int) bool               { return false }
func (l *errorLog) Info(int, string, ...any)       {}
func (l *errorLog) WithValues(...any) klog.LogSink { return l }
func (l *errorLog) WithName(string) klog.LogSink   { return l }
