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
	"testing"
	"time"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apiserver/pkg/authentication/user"
	"k8s.io/apiserver/pkg/endpoints/request"
	"k8s.io/apiserver/pkg/storage"
	"k8s.io/apiserver/pkg/storage/value"
	"k8s.io/apiserver/pkg/storage/value/encrypt/identity"

	"golang.org/x/time/rate"
)

// taking is a store that takes everything.
type taking struct{ storage.Interface }

func (taking) Create(context.Context, string, runtime.Object, runtime.Object, uint64) error {
	return nil
}

func TestWritersWaitWhenMuchWasWritten(t *testing.T) {
	written := rate.NewLimiter(1000, 10_000)
	writer := weighed{identity.NewEncryptCheckTransformer(), written}
	write := func(size int) {
		t.Helper()
		if _, err := writer.TransformToStorage(t.Context(), make([]byte, size), value.DefaultContext("key")); err != nil {
			t.Fatal(err)
		}
	}
	store := &pacedStore{taking{}, written, nil}
	create := func(name string) error {
		ctx, cancel := context.WithTimeout(request.WithUser(t.Context(), &user.DefaultInfo{Name: name}), time.Second)
		defer cancel()
		return store.Create(ctx, "key", nil, nil, 0)
	}
	write(9000)
	if err := create("somebody"); err != nil {
		t.Fatalf("there was room: %v", err)
	}
	// More than can be kept is written all the same, by whoever came before.
	for range 2 {
		write(10_000)
	}
	if err := create("somebody"); !apierrors.IsTooManyRequests(err) {
		t.Errorf("whoever comes now is answered: %v", err)
	}
	if err := create(user.APIServerUser); err != nil {
		t.Errorf("a controller is answered: %v", err)
	}
}

// crowdedRoom is one that is crowded until the channel is closed.
type crowdedRoom struct{ until chan struct{} }

func (crowdedRoom) Full() (string, bool) { return "", false }
func (crowdedRoom) Pace() (int64, int64) { return 1 << 20, 2 << 20 }
func (r crowdedRoom) Crowded() <-chan struct{} {
	select {
	case <-r.until:
		return nil
	default:
		return r.until
	}
}

func TestWritersWaitForRoomInACrowdedStore(t *testing.T) {
	room := crowdedRoom{make(chan struct{})}
	store := &pacedStore{taking{}, rate.NewLimiter(1000, 10_000), room}
	create := func(name string, within time.Duration) error {
		ctx, cancel := context.WithTimeout(request.WithUser(t.Context(), &user.DefaultInfo{Name: name}), within)
		defer cancel()
		return store.Create(ctx, "key", nil, nil, 0)
	}
	if err := create(user.APIServerUser, time.Minute); err != nil {
		t.Errorf("a controller is answered: %v", err)
	}
	if err := create("somebody", 10*time.Millisecond); !apierrors.IsTooManyRequests(err) {
		t.Errorf("whoever cannot wait is answered: %v", err)
	}
	answers := make(chan error)
	go func() { answers <- create("somebody else", time.Minute) }()
	close(room.until)
	if err := <-answers; err != nil {
		t.Errorf("there is room: %v", err)
	}
}

// TestASmallStoreIsWrittenToSlowly: what a writer may add at once follows the room.
func TestASmallStoreIsWrittenToSlowly(t *testing.T) {
	if small := pacedWrites(nil, crowdedRoom{}).(paced).written; small.Limit() != 1<<20 || small.Burst() != 2<<20 {
		t.Errorf("%v bytes a second and %d at once", small.Limit(), small.Burst())
	}
	if own := pacedWrites(nil, nil).(paced).written; own.Limit() != writtenPerSecond || own.Burst() != writtenAtOnce {
		t.Errorf("of an etcd of one's own: %v bytes a second and %d at once", own.Limit(), own.Burst())
	}
}
