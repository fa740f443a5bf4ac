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

package server

import (
	"context"
	"errors"
	"strings"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/client-go/kubernetes/fake"
	k8stesting "k8s.io/client-go/testing"
	"k8s.io/client-go/tools/leaderelection/resourcelock"
	"k8s.io/utils/clock"
)

var testTimes = LeaseTimes{Duration: time.Minute, RenewDeadline: 40 * time.Second, RetryPeriod: 10 * time.Second}

// leaseCluster holds the lease of some replicas, and may be away.
type leaseCluster struct {
	*fake.Clientset
	away atomic.Bool
}

func newLeaseCluster() *leaseCluster {
	c := &leaseCluster{Clientset: fake.NewClientset()}
	c.PrependReactor("*", "leases", func(k8stesting.Action) (bool, runtime.Object, error) {
		if c.away.Load() {
			return true, nil, apierrors.NewServiceUnavailable("connection refused")
		}
		return false, nil, nil
	})
	return c
}

func (c *leaseCluster) replica(name string) *lease {
	return &lease{
		lock: &resourcelock.LeaseLock{
			LeaseMeta:  metav1.ObjectMeta{Namespace: "sandbox-system", Name: ServiceName},
			Client:     c.CoordinationV1(),
			LockConfig: resourcelock.ResourceLockConfig{Identity: name},
		},
		times: testTimes,
		drain: controllerShutdown,
	}
}

// holder is whose the lease is.
func (c *leaseCluster) holder(t *testing.T) string {
	t.Helper()
	lease, err := c.CoordinationV1().Leases("sandbox-system").Get(t.Context(), ServiceName, metav1.GetOptions{})
	if err != nil {
		t.Fatal(err)
	}
	if lease.Spec.HolderIdentity == nil {
		return ""
	}
	return *lease.Spec.HolderIdentity
}

// work counts what runs at once, and takes a while to end.
type work struct {
	running, terms, most atomic.Int32
	// takes is how long it goes on after it was told to end.
	takes time.Duration
	ended atomic.Pointer[time.Time] // when it was told to
}

func (w *work) run(ctx context.Context) error {
	now := w.running.Add(1)
	w.terms.Add(1)
	w.most.Store(max(w.most.Load(), now))
	<-ctx.Done()
	told := time.Now()
	w.ended.Store(&told)
	time.Sleep(w.takes)
	w.running.Add(-1)
	return nil
}

func TestALostLeaseEndsTheWorkAndNothingElse(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		cluster := newLeaseCluster()
		ctx, end := context.WithCancel(t.Context())
		defer end()
		mine := &work{takes: 3 * time.Minute} // longer than any lease
		returned := make(chan struct{})
		go func() {
			defer close(returned)
			runTerms(ctx, clock.RealClock{}, func(ctx context.Context) error { return cluster.replica("a").lead(ctx, mine.run) })
		}()
		time.Sleep(25 * time.Second)
		if mine.running.Load() != 1 {
			t.Fatal("the controllers do not run though nobody else has the lease")
		}

		// The kube-apiserver goes away, and the other replica reaches it again before this one does.
		lastRenewed := time.Now()
		cluster.away.Store(true)
		time.Sleep(testTimes.Duration)
		if mine.ended.Load() == nil {
			t.Fatalf("after %s without a renewal nobody has told the controllers to end", testTimes.Duration)
		}
		if late := mine.ended.Load().Sub(lastRenewed); late > testTimes.Duration-testTimes.RetryPeriod {
			t.Errorf("they were told %s after the last renewal: another replica may begin after %s", late, testTimes.Duration)
		}
		cluster.away.Store(false)
		other := &work{}
		otherCtx, otherEnd := context.WithCancel(t.Context())
		otherReturned := make(chan error, 1)
		go func() { otherReturned <- cluster.replica("b").lead(otherCtx, other.run) }()
		time.Sleep(90 * time.Second)
		if other.running.Load() != 1 || cluster.holder(t) != "b" {
			t.Errorf("the lease is %q's, want b to lead", cluster.holder(t))
		}
		if mine.terms.Load() != 1 {
			t.Error("a second term began while the first had not ended")
		}

		// The other one ends well, and this one leads again: at once after that, from nothing.
		time.Sleep(3 * time.Minute)
		otherEnd()
		if err := <-otherReturned; err != nil {
			t.Error(err)
		}
		time.Sleep(testTimes.RetryPeriod * 3)
		if mine.terms.Load() != 2 || mine.running.Load() != 1 || mine.most.Load() != 1 {
			t.Errorf("%d terms, %d run, at most %d at a time; want the second to run, alone", mine.terms.Load(), mine.running.Load(), mine.most.Load())
		}
		mine.takes = 5 * time.Second
		end()
		<-returned
		if mine.running.Load() != 0 || cluster.holder(t) != "" {
			t.Errorf("at the end %d run and the lease is %q's, want none and nobody's", mine.running.Load(), cluster.holder(t))
		}
	})
}

func TestTheLeaseIsKeptUntilTheWorkHasEnded(t *testing.T) {
	for name, test := range map[string]struct {
		takes  time.Duration
		holder string
		says   string
	}{
		"work that ends in time":       {takes: 7 * time.Second},
		"work that does not end":       {takes: time.Hour, holder: "a", says: "had not ended"},
		"work that ends at the moment": {},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				cluster := newLeaseCluster()
				ctx, end := context.WithCancel(t.Context())
				w := &work{takes: test.takes}
				returned := make(chan error, 1)
				go func() { returned <- cluster.replica("a").lead(ctx, w.run) }()
				time.Sleep(15 * time.Second)
				end()
				began := time.Now()
				time.Sleep(min(test.takes, controllerShutdown) - time.Millisecond)
				if test.takes > 0 && cluster.holder(t) != "a" {
					t.Error("the lease is free while the controllers end")
				}
				err := <-returned
				if took := time.Since(began); took > controllerShutdown {
					t.Errorf("the end took %s", took)
				}
				if (err != nil) != (test.says != "") || err != nil && !strings.Contains(err.Error(), test.says) {
					t.Errorf("it ends with %v", err)
				}
				if got := cluster.holder(t); got != test.holder {
					t.Errorf("the lease is %q's, want %q's", got, test.holder)
				}
				time.Sleep(2 * time.Hour) // what did not end has
			})
		})
	}
}

func TestWhoHasNotTheLeaseWaitsAndEndsAtOnce(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		cluster := newLeaseCluster()
		first, endFirst := context.WithCancel(t.Context())
		w := &work{}
		firstReturned := make(chan error, 1)
		go func() { firstReturned <- cluster.replica("a").lead(first, w.run) }()
		time.Sleep(time.Minute)

		ctx, end := context.WithCancel(t.Context())
		returned := make(chan error, 1)
		go func() { returned <- cluster.replica("b").lead(ctx, w.run) }()
		time.Sleep(10 * time.Minute)
		if w.terms.Load() != 1 {
			t.Fatalf("%d replicas lead", w.terms.Load())
		}
		began := time.Now()
		end()
		if err := <-returned; !errors.Is(err, context.Canceled) {
			t.Error(err)
		}
		if took := time.Since(began); took != 0 {
			t.Errorf("a replica that only waited took %s to end", took)
		}
		if cluster.holder(t) != "a" {
			t.Errorf("it gave away the lease of another: it is %q's", cluster.holder(t))
		}
		endFirst()
		<-firstReturned
	})
}

// TestAPodThatIsStartedAgainNeedNotWaitForItsOwnLease: the kubelet starts a container again only when the one before has ended.
func TestAPodThatIsStartedAgainNeedNotWaitForItsOwnLease(t *testing.T) {
	t.Setenv("POD_UID", "")
	if first, second := leaseIdentity(), leaseIdentity(); first == second {
		t.Errorf("two processes of which nothing is known are both %s", first)
	}
	t.Setenv("POD_UID", "0c7a2f0e")
	if first, second := leaseIdentity(), leaseIdentity(); first != second || !strings.HasSuffix(first, "_0c7a2f0e") {
		t.Errorf("two processes of one Pod are %s and %s", first, second)
	}
}

func TestTermsThatFailAreSpacedOut(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		ctx, end := context.WithTimeout(t.Context(), time.Hour)
		defer end()
		terms := 0
		runTerms(ctx, clock.RealClock{}, func(context.Context) error { terms++; return errors.New("no list of Pods") })
		if terms < 50 || terms > 70 {
			t.Errorf("%d terms in an hour, want about one a minute", terms)
		}
	})
}

func TestLeaseTimes(t *testing.T) {
	for name, test := range map[string]struct {
		times LeaseTimes
		says  string
	}{
		"default":                        {times: NewOptions().LeaderElection},
		"kube components'":               {LeaseTimes{15 * time.Second, 10 * time.Second, 2 * time.Second}, ""},
		"one tight":                      {LeaseTimes{50 * time.Second, 40 * time.Second, 10 * time.Second}, ""},
		"holder ends after others begin": {LeaseTimes{45 * time.Second, 40 * time.Second, 10 * time.Second}, "--leader-elect-lease-duration"},
		"one try":                        {LeaseTimes{60 * time.Second, 15 * time.Second, 10 * time.Second}, "--leader-elect-renew-deadline"},
		"no pause":                       {LeaseTimes{60 * time.Second, 40 * time.Second, 0}, "--leader-elect-retry-period"},
	} {
		t.Run(name, func(t *testing.T) {
			err := test.times.validate()
			if (err == nil) != (test.says == "") || err != nil && !strings.Contains(err.Error(), test.says) {
				t.Errorf("%+v: %v, want %q", test.times, err, test.says)
			}
		})
	}
}
