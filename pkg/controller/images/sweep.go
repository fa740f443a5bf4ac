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

package images

import (
	"context"
	"fmt"
	"math/rand/v2"
	"sync"
	"time"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/util/workqueue"
	"k8s.io/utils/clock"
	ctrl "sigs.k8s.io/controller-runtime"
	"sigs.k8s.io/controller-runtime/pkg/builder"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/controller-runtime/pkg/controller"
	"sigs.k8s.io/controller-runtime/pkg/handler"
	"sigs.k8s.io/controller-runtime/pkg/manager"
	"sigs.k8s.io/controller-runtime/pkg/reconcile"

	"github.com/opensandbox-io/sandbox-apiserver/apis/lifecycle/v1alpha1"
	"github.com/opensandbox-io/sandbox-apiserver/pkg/controller/conflict"
	"github.com/opensandbox-io/sandbox-apiserver/pkg/controller/sandboxsnapshot"
)

// recheck is how soon a snapshot is looked at again that was not found to be all right.
const recheck = time.Minute

// Sweep has each snapshot that the next resume of a sandbox needs checked once in a while: a
// registry that has lost an image is best heard of before it is needed. It works for the replica
// that leads alone, as every controller of the manager does.
type Sweep struct {
	// Client reads sandboxes and snapshots from a cache.
	Client  client.Client
	Checker *Checker
	// Every is about how long it takes until a snapshot is checked again.
	Every time.Duration
	Clock clock.PassiveClock

	mutex sync.Mutex
	due   map[client.ObjectKey]turn
}

// turn is when a snapshot is to be checked.
type turn struct {
	uid types.UID
	at  time.Time
}

// Add adds the sweep to the manager. The indexes of sandboxsnapshot.AddIndexes have to be there.
func (s *Sweep) Add(mgr manager.Manager, limiter workqueue.TypedRateLimiter[reconcile.Request]) error {
	return builder.ControllerManagedBy(mgr).
		Named("snapshotimages").
		Watches(&v1alpha1.Sandbox{}, handler.EnqueueRequestsFromMapFunc(neededBy)).
		// One after the other: the registry is not asked any faster by more.
		WithOptions(controller.Options{MaxConcurrentReconciles: 1, RateLimiter: limiter}).
		Complete(conflict.Repeat(s))
}

// neededBy is the snapshot that the next resume of a sandbox needs.
func neededBy(_ context.Context, object client.Object) []reconcile.Request {
	name := object.(*v1alpha1.Sandbox).Status.SnapshotName
	if name == "" {
		return nil
	}
	return []reconcile.Request{{NamespacedName: client.ObjectKey{Namespace: object.GetNamespace(), Name: name}}}
}

// Reconcile checks a snapshot whose turn it is. Its turns end when no sandbox needs it any more.
func (s *Sweep) Reconcile(ctx context.Context, req ctrl.Request) (ctrl.Result, error) {
	snapshot := &v1alpha1.SandboxSnapshot{}
	if err := s.Client.Get(ctx, req.NamespacedName, snapshot); err != nil {
		s.forget(req.NamespacedName)
		return ctrl.Result{}, client.IgnoreNotFound(err)
	}
	needed, err := s.needed(ctx, snapshot)
	if err != nil {
		return ctrl.Result{}, err
	}
	if !needed || snapshot.Spec.Source != nil || snapshot.Status.Phase != v1alpha1.SnapshotSucceed || snapshot.DeletionTimestamp != nil {
		s.forget(req.NamespacedName)
		return ctrl.Result{}, nil
	}
	if wait := s.turn(snapshot).Sub(s.Clock.Now()); wait > 0 {
		return ctrl.Result{RequeueAfter: wait}, nil
	}
	if err := s.Checker.Pace.sweeps.Wait(ctx); err != nil {
		return ctrl.Result{}, fmt.Errorf("wait to check snapshot %s: %w", req, err)
	}
	found, err := s.Checker.Check(ctx, snapshot)
	if err != nil {
		return ctrl.Result{}, err
	}
	again := s.interval(found)
	s.set(snapshot, s.Clock.Now().Add(again))
	return ctrl.Result{RequeueAfter: again}, nil
}

func (s *Sweep) needed(ctx context.Context, snapshot *v1alpha1.SandboxSnapshot) (bool, error) {
	sandboxes := &v1alpha1.SandboxList{}
	if err := s.Client.List(ctx, sandboxes, client.InNamespace(snapshot.Namespace), client.MatchingFields{sandboxsnapshot.IndexSnapshot: snapshot.Name}); err != nil {
		return false, fmt.Errorf("list the sandboxes that need snapshot %s/%s: %w", snapshot.Namespace, snapshot.Name, err)
	}
	for i := range sandboxes.Items {
		if sandboxes.Items[i].DeletionTimestamp == nil {
			return true, nil
		}
	}
	return false, nil
}

// interval is the time from one check to the next, about a quarter more or less: whatever began
// together does not stay together.
func (s *Sweep) interval(found metav1.ConditionStatus) time.Duration {
	every := s.Every
	if found != metav1.ConditionTrue {
		every = min(every, recheck)
	}
	return every*3/4 + rand.N(every/2+1)
}

// turn is when a snapshot is to be checked. The first time is at random, so that a process that has
// just begun to lead does not ask about all at once.
func (s *Sweep) turn(snapshot *v1alpha1.SandboxSnapshot) time.Time {
	s.mutex.Lock()
	defer s.mutex.Unlock()
	key := client.ObjectKeyFromObject(snapshot)
	known, ok := s.due[key]
	if !ok || known.uid != snapshot.UID {
		known = turn{uid: snapshot.UID, at: s.Clock.Now().Add(rand.N(s.Every + 1))}
		s.keep(key, known)
	}
	return known.at
}

func (s *Sweep) set(snapshot *v1alpha1.SandboxSnapshot, at time.Time) {
	s.mutex.Lock()
	defer s.mutex.Unlock()
	s.keep(client.ObjectKeyFromObject(snapshot), turn{uid: snapshot.UID, at: at})
}

func (s *Sweep) keep(key client.ObjectKey, its turn) {
	if s.due == nil {
		s.due = map[client.ObjectKey]turn{}
	}
	s.due[key] = its
}

func (s *Sweep) forget(key client.ObjectKey) {
	s.mutex.Lock()
	defer s.mutex.Unlock()
	delete(s.due, key)
}
