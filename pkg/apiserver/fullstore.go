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
	"bytes"
	"context"
	"errors"
	"fmt"
	"net/http"

	"go.etcd.io/etcd/api/v3/v3rpc/rpctypes"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	apimeta "k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apiserver/pkg/registry/generic"
	"k8s.io/apiserver/pkg/storage"
	"k8s.io/apiserver/pkg/storage/storagebackend"
	"k8s.io/component-base/metrics"
	"k8s.io/component-base/metrics/legacyregistry"
)

// Room knows how much more the store takes.
type Room interface {
	// Full says why nothing is taken any more that makes the store larger; full where that is so.
	Full() (why string, full bool)
	// Pace is how many bytes may be written in a second, and how many at once.
	Pace() (perSecond, atOnce int64)
	// Crowded is what writers wait for: closed once there is room; nil where there is some.
	Crowded() <-chan struct{}
}

// ReasonInsufficientStorage is the reason of what is refused because the store is full. There is none
// among those of Kubernetes, whose API servers never know.
const ReasonInsufficientStorage metav1.StatusReason = "InsufficientStorage"

var refusedWrites = metrics.NewCounter(&metrics.CounterOpts{
	Name: "sandbox_store_refused_writes_total", Help: "Writes that were refused because the store is full.", StabilityLevel: metrics.ALPHA,
})

func init() { legacyregistry.MustRegister(refusedWrites) }

// refusesWhenFull makes stores that refuse what makes them larger once there is no room for it, and go
// on taking what makes room: deletions, the removal of finalizers, what makes an object smaller, and
// all that the controllers write of what is there. A store that takes everything until it is full can
// do none of these then, and ends.
func refusesWhenFull(getter generic.RESTOptionsGetter, room Room) generic.RESTOptionsGetter {
	return wrapped{getter, func(inner storage.Interface, config *storagebackend.ConfigForResource, _ func() runtime.Object) storage.Interface {
		return &bounded{Interface: inner, room: room, codec: config.Codec}
	}}
}

type bounded struct {
	storage.Interface
	// room is nil where only etcd knows.
	room  Room
	codec runtime.Encoder
}

func (b *bounded) full() (why string, full bool) {
	if b.room == nil {
		return "", false
	}
	return b.room.Full()
}

// Create creates an object, where there is room.
func (b *bounded) Create(ctx context.Context, key string, obj, out runtime.Object, ttl uint64) error {
	if why, full := b.full(); full {
		return insufficientStorage(why)
	}
	return noSpace(b.Interface.Create(ctx, key, obj, out, ttl))
}

// GuaranteedUpdate changes an object, where there is room or it makes some.
func (b *bounded) GuaranteedUpdate(ctx context.Context, key string, destination runtime.Object, ignoreNotFound bool,
	preconditions *storage.Preconditions, tryUpdate storage.UpdateFunc, cached runtime.Object,
) error {
	update := tryUpdate
	if why, full := b.full(); full && !byController(ctx) {
		update = func(old runtime.Object, meta storage.ResponseMeta) (runtime.Object, *uint64, error) {
			// The update may change what it is given.
			before, err := b.weigh(old)
			if err != nil {
				return nil, nil, err
			}
			obj, ttl, err := tryUpdate(old, meta)
			if err != nil {
				return nil, nil, err
			}
			after, err := b.weigh(obj)
			if err != nil {
				return nil, nil, err
			}
			if !after.makesRoom(before) {
				return nil, nil, insufficientStorage(why)
			}
			return obj, ttl, nil
		}
	}
	return noSpace(b.Interface.GuaranteedUpdate(ctx, key, destination, ignoreNotFound, preconditions, update, cached))
}

// Delete deletes an object.
func (b *bounded) Delete(ctx context.Context, key string, out runtime.Object, preconditions *storage.Preconditions,
	validate storage.ValidateObjectFunc, cached runtime.Object, options storage.DeleteOptions,
) error {
	return noSpace(b.Interface.Delete(ctx, key, out, preconditions, validate, cached, options))
}

// weight is what an object adds to the store.
type weight struct {
	deleted    bool
	finalizers int
	data       []byte
}

func (b *bounded) weigh(obj runtime.Object) (weight, error) {
	meta, err := apimeta.Accessor(obj)
	if err != nil {
		return weight{}, apierrors.NewInternalError(err)
	}
	data, err := runtime.Encode(b.codec, obj)
	if err != nil {
		return weight{}, apierrors.NewInternalError(fmt.Errorf("encoding %s to see whether it grows: %w", meta.GetName(), err))
	}
	return weight{deleted: meta.GetDeletionTimestamp() != nil, finalizers: len(meta.GetFinalizers()), data: data}, nil
}

// makesRoom says whether the store has more room with it than with what was there before, now or soon.
func (w weight) makesRoom(before weight) bool {
	return w.deleted || w.finalizers < before.finalizers || len(w.data) < len(before.data) || bytes.Equal(w.data, before.data)
}

// noSpace translates what etcd answers when it has no room left itself.
func noSpace(err error) error {
	if errors.Is(err, rpctypes.ErrNoSpace) {
		return insufficientStorage("etcd takes no more (NOSPACE). Delete sandboxes and snapshots that nobody needs; an etcd of your own has to be compacted, defragmented and disarmed then")
	}
	return err
}

func insufficientStorage(why string) error {
	refusedWrites.Inc()
	return &apierrors.StatusError{ErrStatus: metav1.Status{
		Status:  metav1.StatusFailure,
		Code:    http.StatusInsufficientStorage,
		Reason:  ReasonInsufficientStorage,
		Message: "the store of the sandboxes is full; until there is room it takes only deletions and what frees room: " + why,
	}}
}
