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
	"fmt"
	"os"
	"sync"
	"time"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/util/uuid"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/rest"
	"k8s.io/client-go/tools/leaderelection"
	"k8s.io/client-go/tools/leaderelection/resourcelock"
	"k8s.io/klog/v2"
)

// LeaseTimes are those of the lease that the controllers of one replica hold.
type LeaseTimes struct {
	// Duration is how long the others wait for one that is not heard of any more.
	Duration time.Duration
	// RenewDeadline is after how long without a renewal the holder ends its controllers.
	RenewDeadline time.Duration
	// RetryPeriod is how often the lease is renewed, and asked for.
	RetryPeriod time.Duration
}

// validate says what is wrong with the times. The holder has to have ended before another begins: a renewal that fails
// begins a RetryPeriod after the last one that did not.
func (t LeaseTimes) validate() error {
	switch {
	case t.RetryPeriod < time.Second:
		return fmt.Errorf("--leader-elect-retry-period must be at least 1s, and is %s", t.RetryPeriod)
	case t.RenewDeadline < 2*t.RetryPeriod:
		return fmt.Errorf("--leader-elect-renew-deadline must be at least twice --leader-elect-retry-period (%s), and is %s", t.RetryPeriod, t.RenewDeadline)
	case t.Duration < t.RenewDeadline+t.RetryPeriod:
		return fmt.Errorf("--leader-elect-lease-duration must be at least --leader-elect-renew-deadline and --leader-elect-retry-period together (%s), and is %s",
			t.RenewDeadline+t.RetryPeriod, t.Duration)
	}
	return nil
}

// errLeaseLost ends a term of the controllers, and nothing else.
var errLeaseLost = errors.New("the lease of the controllers could not be renewed, or another replica has it")

// lease lets one replica at a time work.
type lease struct {
	lock  resourcelock.Interface
	times LeaseTimes
	// drain bounds how long the work may take to end where the program ends.
	drain time.Duration
}

// newLease is that of the server's namespace.
func newLease(host *rest.Config, namespace string, times LeaseTimes) (*lease, error) {
	host = rest.CopyConfig(host)
	// A connection that hangs must not take the time of the tries that are left.
	host.Timeout = max(times.RenewDeadline/2, time.Second)
	client, err := kubernetes.NewForConfig(host)
	if err != nil {
		return nil, fmt.Errorf("connecting to the kube-apiserver: %w", err)
	}
	return &lease{
		lock: &resourcelock.LeaseLock{
			LeaseMeta:  metav1.ObjectMeta{Namespace: namespace, Name: ServiceName},
			Client:     client.CoordinationV1(),
			LockConfig: resourcelock.ResourceLockConfig{Identity: leaseIdentity()},
		},
		times: times,
		drain: controllerShutdown,
	}, nil
}

// leaseIdentity names who holds the lease. A container that the kubelet starts again in the same Pod
// is the same: the process before it has ended, and its lease need not run out first.
func leaseIdentity() string {
	host, err := os.Hostname()
	if err != nil {
		host = ServiceName
	}
	if pod := os.Getenv("POD_UID"); pod != "" {
		return host + "_" + pod
	}
	return host + "_" + string(uuid.NewUUID())
}

// lead waits for the lease, works while it is held, and returns when the work has ended: because ctx
// has, because it failed, or with errLeaseLost. The work's context ends RetryPeriod or more before another replica
// can begin; the lease is given back only after the work.
//
// client-go gives a lease back before it tells the work to end, also one that it could not renew: its
// ReleaseOnCancel is not for those whose work takes time to end.
// https://github.com/kubernetes/client-go/blob/v0.37.2/tools/leaderelection/leaderelection.go
func (l *lease) lead(ctx context.Context, work func(context.Context) error) error {
	electing, endElection := context.WithCancel(context.WithoutCancel(ctx))
	defer endElection()
	var (
		mutex       sync.Mutex
		begun, over bool
	)
	worked := make(chan error, 1)
	elector, err := leaderelection.NewLeaderElector(leaderelection.LeaderElectionConfig{
		Lock:          l.lock,
		LeaseDuration: l.times.Duration,
		RenewDeadline: l.times.RenewDeadline,
		RetryPeriod:   l.times.RetryPeriod,
		Name:          ServiceName,
		Callbacks: leaderelection.LeaderCallbacks{
			OnStartedLeading: func(leading context.Context) {
				mutex.Lock()
				begun = !over
				mutex.Unlock()
				if !begun {
					return
				}
				working, end := context.WithCancel(ctx)
				defer end()
				defer context.AfterFunc(leading, end)()
				worked <- work(working)
				endElection()
			},
			OnStoppedLeading: func() {},
		},
	})
	if err != nil {
		return fmt.Errorf("electing who runs the controllers: %w", err)
	}
	tooLong := make(chan struct{})
	defer context.AfterFunc(ctx, func() {
		mutex.Lock()
		over = true
		ending := begun
		mutex.Unlock()
		if !ending {
			endElection()
			return
		}
		timer := time.NewTimer(l.drain)
		defer timer.Stop()
		select {
		case <-electing.Done():
		case <-timer.C:
			close(tooLong)
			endElection()
		}
	})()

	elector.Run(electing)
	lost := electing.Err() == nil
	mutex.Lock()
	over = true
	wait := begun
	mutex.Unlock()
	if !wait {
		if elector.IsLeader() {
			l.giveBack(ctx)
		}
		return ctx.Err()
	}
	if lost {
		klog.InfoS("The lease of the controllers is lost; they end, and the API goes on", "lease", l.lock.Describe())
	}
	ended, err := l.drained(worked, tooLong)
	if !ended {
		return fmt.Errorf("the controllers had not ended after %s; their lease runs out by itself", l.drain)
	}
	if lost {
		return errLeaseLost
	}
	l.giveBack(ctx)
	return err
}

// drained waits for the work to end, and says so where that takes long. Nothing is begun meanwhile.
func (l *lease) drained(worked <-chan error, tooLong <-chan struct{}) (ended bool, err error) {
	for {
		late := time.NewTimer(time.Minute)
		select {
		case err = <-worked:
			late.Stop()
			return true, err
		case <-tooLong:
			late.Stop()
			return false, nil
		case <-late.C:
			klog.InfoS("The controllers have been told to end a minute ago, and have not; no others are begun before they have")
		}
	}
}

// giveBack spares the next leader the wait. Where that fails the lease runs out by itself.
func (l *lease) giveBack(ctx context.Context) {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), leaseGiveBack)
	defer cancel()
	record, _, err := l.lock.Get(ctx)
	if err == nil {
		if record.HolderIdentity != l.lock.Identity() {
			return
		}
		now := metav1.Now()
		err = l.lock.Update(ctx, resourcelock.LeaderElectionRecord{
			LeaseDurationSeconds: 1, AcquireTime: now, RenewTime: now, LeaderTransitions: record.LeaderTransitions,
		})
	}
	if err != nil {
		klog.ErrorS(err, "The lease of the controllers is not given back; it runs out by itself", "lease", l.lock.Describe())
	}
}

// leaseGiveBack bounds the two requests of giving the lease back.
const leaseGiveBack = 5 * time.Second
