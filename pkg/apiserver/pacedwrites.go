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
	"time"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apiserver/pkg/registry/generic"
	"k8s.io/apiserver/pkg/storage"
	"k8s.io/apiserver/pkg/storage/storagebackend"
	"k8s.io/apiserver/pkg/storage/storagebackend/factory"
	"k8s.io/apiserver/pkg/storage/value"
	"k8s.io/apiserver/pkg/storage/value/encrypt/identity"
	"k8s.io/client-go/tools/cache"

	"golang.org/x/time/rate"
)

// How much may be written. The watch cache keeps what was written in the last 75 seconds, whatever its
// size, and the server's memory has a limit: a few clients that change an annotation of 256 KiB would end
// the server within a minute. 4 MiB a second are 130 pauses a second, or more patches of a template
// of 64 KiB than two cores do. A small store has room for less.
const (
	writtenPerSecond = 4 << 20
	writtenAtOnce    = 32 << 20
	// patience is for how long a writer waits until history is given up to make room.
	patience = 5 * time.Second
	// laterSeconds is when whoever could not wait is to come again.
	laterSeconds = 5
)

// pacedWrites makes stores that have writers wait when much more was written than can be kept. The
// controllers are counted, but do not wait. room is nil where only etcd knows.
func pacedWrites(getter generic.RESTOptionsGetter, room Room) generic.RESTOptionsGetter {
	perSecond, atOnce := int64(writtenPerSecond), int64(writtenAtOnce)
	if room != nil {
		most, mostAtOnce := room.Pace()
		perSecond, atOnce = min(perSecond, most), min(atOnce, mostAtOnce)
	}
	return paced{getter, rate.NewLimiter(rate.Limit(perSecond), int(atOnce)), room}
}

type paced struct {
	generic.RESTOptionsGetter
	written *rate.Limiter
	room    Room
}

// GetRESTOptions returns the options of a resource.
func (p paced) GetRESTOptions(resource schema.GroupResource, example runtime.Object) (generic.RESTOptions, error) {
	options, err := p.RESTOptionsGetter.GetRESTOptions(resource, example)
	if err != nil {
		return options, err
	}
	decorate := options.Decorator
	options.Decorator = func(config *storagebackend.ConfigForResource, resourcePrefix string, keyFunc func(runtime.Object) (string, error),
		newFunc, newListFunc func() runtime.Object, attributes storage.AttrFunc, triggers storage.IndexerFuncs, indexers *cache.Indexers,
	) (storage.Interface, factory.DestroyFunc, error) {
		counting := *config
		inner := config.Transformer
		if inner == nil {
			// What the generic store takes where nothing is encrypted.
			inner = identity.NewEncryptCheckTransformer()
		}
		counting.Transformer = weighed{inner, p.written}
		store, destroy, err := decorate(&counting, resourcePrefix, keyFunc, newFunc, newListFunc, attributes, triggers, indexers)
		if err != nil {
			return nil, nil, err
		}
		return &pacedStore{store, p.written, p.room}, destroy, nil
	}
	return options, nil
}

// weighed counts what is about to be written.
type weighed struct {
	value.Transformer
	written *rate.Limiter
}

// TransformToStorage is called with each object before it is written.
func (c weighed) TransformToStorage(ctx context.Context, data []byte, dataContext value.Context) ([]byte, error) {
	c.written.ReserveN(time.Now(), min(len(data), c.written.Burst()))
	return c.Transformer.TransformToStorage(ctx, data, dataContext)
}

type pacedStore struct {
	storage.Interface
	written *rate.Limiter
	room    Room
}

// wait waits until what was written before can be kept. It comes before an object is read, which
// nobody else should change meanwhile.
func (s *pacedStore) wait(ctx context.Context) error {
	if byController(ctx) {
		return nil
	}
	if err := s.written.WaitN(ctx, 1); err != nil {
		return tooMuchWritten()
	}
	if s.room == nil || s.room.Crowded() == nil {
		return nil
	}
	ctx, cancel := context.WithTimeout(ctx, patience)
	defer cancel()
	for crowded := s.room.Crowded(); crowded != nil; crowded = s.room.Crowded() {
		select {
		case <-crowded:
		case <-ctx.Done():
			return tooMuchWritten()
		}
	}
	return nil
}

func tooMuchWritten() error {
	return apierrors.NewTooManyRequests("too much is written to the store of the sandboxes at this time; try again", laterSeconds)
}

// Create creates an object.
func (s *pacedStore) Create(ctx context.Context, key string, obj, out runtime.Object, ttl uint64) error {
	if err := s.wait(ctx); err != nil {
		return err
	}
	return s.Interface.Create(ctx, key, obj, out, ttl)
}

// GuaranteedUpdate changes an object.
func (s *pacedStore) GuaranteedUpdate(ctx context.Context, key string, destination runtime.Object, ignoreNotFound bool,
	preconditions *storage.Preconditions, tryUpdate storage.UpdateFunc, cached runtime.Object,
) error {
	if err := s.wait(ctx); err != nil {
		return err
	}
	return s.Interface.GuaranteedUpdate(ctx, key, destination, ignoreNotFound, preconditions, tryUpdate, cached)
}
