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
	"maps"
	"sync"
	"time"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	toolscache "k8s.io/client-go/tools/cache"
	"k8s.io/klog/v2"
	"k8s.io/utils/clock"
	"sigs.k8s.io/controller-runtime/pkg/cache"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/opensandbox-io/sandbox-apiserver/apis/lifecycle/v1alpha1"
)

// releaseRetry is the wait after a release that could not be noted.
const releaseRetry = 5 * time.Second

// releases watches for sandboxes and snapshots that are being deleted, which nobody takes back, and has them noted where the
// policy of what belongs to them looks. The collector may come sooner: it is refused then, and comes again.
type releases struct {
	note  func(ctx context.Context, going map[types.UID]time.Time) error
	clock clock.WithTicker

	mutex sync.Mutex
	going map[types.UID]time.Time
	woken chan struct{}
}

func newReleases(note func(context.Context, map[types.UID]time.Time) error) *releases {
	return &releases{note: note, clock: clock.RealClock{}, going: map[types.UID]time.Time{}, woken: make(chan struct{}, 1)}
}

// watch has it see what goes.
func (r *releases) watch(ctx context.Context, own cache.Cache) error {
	for _, kind := range []client.Object{&v1alpha1.Sandbox{}, &v1alpha1.SandboxSnapshot{}} {
		informer, err := own.GetInformer(ctx, kind)
		if err != nil {
			return err
		}
		if _, err := informer.AddEventHandler(toolscache.ResourceEventHandlerFuncs{
			AddFunc:    func(object any) { r.see(object, false) },
			UpdateFunc: func(_, object any) { r.see(object, false) },
			DeleteFunc: func(object any) { r.see(object, true) },
		}); err != nil {
			return err
		}
	}
	return nil
}

func (r *releases) see(object any, gone bool) {
	if last, is := object.(toolscache.DeletedFinalStateUnknown); is {
		object = last.Obj
	}
	of, is := object.(metav1.Object)
	if !is || !gone && of.GetDeletionTimestamp() == nil {
		return
	}
	r.mutex.Lock()
	r.going[of.GetUID()] = of.GetCreationTimestamp().Time
	r.mutex.Unlock()
	select {
	case r.woken <- struct{}{}:
	default:
	}
}

// NeedLeaderElection says that only who leads notes anything.
func (r *releases) NeedLeaderElection() bool { return true }

// Start notes until ctx ends.
func (r *releases) Start(ctx context.Context) error {
	for {
		select {
		case <-r.woken:
		case <-ctx.Done():
			return nil
		}
		r.mutex.Lock()
		going := r.going
		r.going = map[types.UID]time.Time{}
		r.mutex.Unlock()
		if err := r.note(ctx, going); err != nil && ctx.Err() == nil {
			klog.ErrorS(err, "What belongs to sandboxes that were deleted is not collected before this is noted; trying again", "sandboxes", len(going))
			r.mutex.Lock()
			maps.Copy(r.going, going)
			r.mutex.Unlock()
			timer := r.clock.NewTimer(releaseRetry)
			select {
			case <-timer.C():
			case <-ctx.Done():
				timer.Stop()
				return nil
			}
			select {
			case r.woken <- struct{}{}:
			default:
			}
		}
	}
}
