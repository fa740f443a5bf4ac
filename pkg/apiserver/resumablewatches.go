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
	"strconv"
	"sync"
	"sync/atomic"
	"time"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/watch"
	"k8s.io/apiserver/pkg/registry/generic"
	"k8s.io/apiserver/pkg/storage"
	"k8s.io/apiserver/pkg/storage/storagebackend"
	"k8s.io/apiserver/pkg/storage/storagebackend/factory"
	"k8s.io/client-go/tools/cache"
)

// resumableWatches makes stores in which a watch can go on from before this process started. The
// watch cache of the generic server begins with its own first list and answers 410 to all that is
// older, whether or not anything was missed. A server with one replica is restarted under all of its
// watchers: those who only wait for one more event would all have to begin again. etcd still has what
// they have not seen, until it compacts it; from there on the cache has the rest (resumed).
type resumableWatches struct {
	generic.RESTOptionsGetter
}

// GetRESTOptions returns the options of a resource.
func (r resumableWatches) GetRESTOptions(resource schema.GroupResource, example runtime.Object) (generic.RESTOptions, error) {
	options, err := r.RESTOptionsGetter.GetRESTOptions(resource, example)
	if err != nil {
		return options, err
	}
	decorate := options.Decorator
	options.Decorator = func(config *storagebackend.ConfigForResource, resourcePrefix string, keyFunc func(runtime.Object) (string, error),
		newFunc, newListFunc func() runtime.Object, attributes storage.AttrFunc, triggers storage.IndexerFuncs, indexers *cache.Indexers,
	) (storage.Interface, factory.DestroyFunc, error) {
		cached, destroyCached, err := decorate(config, resourcePrefix, keyFunc, newFunc, newListFunc, attributes, triggers, indexers)
		if err != nil {
			return nil, nil, err
		}
		direct, destroyDirect, err := generic.NewRawStorage(config, newFunc, newListFunc, resourcePrefix)
		if err != nil {
			destroyCached()
			return nil, nil, fmt.Errorf("connecting to etcd for watches from before the start: %w", err)
		}
		return &resumable{Interface: cached, direct: direct}, sync.OnceFunc(func() { destroyCached(); destroyDirect() }), nil
	}
	return options, nil
}

// cacheStartTimeout bounds the question for etcd's current version, which etcd answers at once or
// not at all.
const cacheStartTimeout = 5 * time.Second

// resumable is the cached store of a resource, and the way past the cache.
type resumable struct {
	storage.Interface
	direct storage.Interface
	// resumed counts the watches that were ever read from etcd.
	resumed atomic.Uint64

	mu sync.Mutex
	// cachedSince is a version from which on the cache has everything; zero: not known yet.
	cachedSince uint64
}

// Watch serves a watch from the cache, and where the cache begins too late what comes before that
// from etcd.
func (r *resumable) Watch(ctx context.Context, key string, options storage.ListOptions) (watch.Interface, error) {
	withState := options.SendInitialEvents != nil && *options.SendInitialEvents
	if !withState && r.predatesCache(ctx, options.ResourceVersion) {
		return r.resume(ctx, key, options)
	}
	began, err := r.Interface.Watch(ctx, key, options)
	if err != nil || withState {
		return began, err
	}
	// A cache that has lost its etcd for a while has begun anew with a later list, and says so at once.
	select {
	case first, open := <-began.ResultChan():
		if open && first.Type == watch.Error && apierrors.IsResourceExpired(apierrors.FromObject(first.Object)) {
			began.Stop()
			return r.resume(ctx, key, options)
		}
		return beginWith(first, open, began), nil
	default:
		return began, nil
	}
}

// begun is a watch whose first event was looked at.
type begun struct {
	watch.Interface
	result chan watch.Event
	ended  chan struct{}
	stop   func()
}

// beginWith gives a watch its first event back, where there was one.
func beginWith(first watch.Event, open bool, rest watch.Interface) watch.Interface {
	w := &begun{Interface: rest, result: make(chan watch.Event), ended: make(chan struct{})}
	w.stop = sync.OnceFunc(func() {
		close(w.ended)
		rest.Stop()
	})
	go func() {
		defer close(w.result)
		for ; open; first, open = <-rest.ResultChan() {
			select {
			case w.result <- first:
			case <-w.ended:
				return
			}
		}
	}()
	return w
}

// ResultChan returns the events.
func (w *begun) ResultChan() <-chan watch.Event { return w.result }

// Stop ends the watch.
func (w *begun) Stop() { w.stop() }

// predatesCache says whether a version may lie before the first list of the cache. Where that cannot
// be known, the cache itself answers.
func (r *resumable) predatesCache(ctx context.Context, resourceVersion string) bool {
	version, err := strconv.ParseUint(resourceVersion, 10, 64)
	if err != nil || version == 0 {
		return false
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.cachedSince == 0 {
		// What the store has now is at least what the cache, which has made its list, began with.
		if r.Interface.ReadinessCheck() != nil {
			return false
		}
		// Others wait for this, too.
		ctx, cancel := context.WithTimeout(ctx, cacheStartTimeout)
		defer cancel()
		now, err := r.direct.GetCurrentResourceVersion(ctx)
		if err != nil {
			return false
		}
		r.cachedSince = now
	}
	return version < r.cachedSince
}
