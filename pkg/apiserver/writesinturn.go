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
	"strconv"
	"time"

	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apiserver/pkg/authentication/user"
	"k8s.io/apiserver/pkg/endpoints/request"
	"k8s.io/apiserver/pkg/registry/generic"
	"k8s.io/apiserver/pkg/storage"
	"k8s.io/apiserver/pkg/storage/storagebackend"
	"k8s.io/utils/lru"
)

const (
	// longestTurn bounds for how long a writer keeps others waiting. Its webhooks may take longer;
	// then the next one goes ahead, and etcd decides between the two.
	longestTurn = 2 * time.Second
	// rememberedWrites is of how many objects the last write is remembered, for as long as the cache
	// may not know it.
	rememberedWrites = 1024
	// cacheLag is how long to wait for the cache, which is behind by milliseconds.
	cacheLag = time.Second
)

// writesInTurn makes stores in which the writers of one object go one after the other. The generic
// store has all of them read it, make something of it and try to write it; all but one have worked in
// vain, and begin again. With large objects that is most of what the server does, and each vain try
// costs an entry of etcd's log with the whole object in it.
func writesInTurn(getter generic.RESTOptionsGetter) generic.RESTOptionsGetter {
	return wrapped{getter, func(inner storage.Interface, _ *storagebackend.ConfigForResource, newFunc func() runtime.Object) storage.Interface {
		return &inTurn{Interface: inner, newFunc: newFunc, turns: newTurns(longestTurn), written: lru.New(rememberedWrites)}
	}}
}

type inTurn struct {
	storage.Interface
	newFunc func() runtime.Object
	turns   *turns
	// written are the resource versions of the last writes, by key.
	written *lru.Cache
}

// GuaranteedUpdate reads an object, has it changed and writes it, when it is the caller's turn. The
// controllers of this server do not wait: they write little, and what they write is what others wait
// for.
func (s *inTurn) GuaranteedUpdate(ctx context.Context, key string, destination runtime.Object, ignoreNotFound bool,
	preconditions *storage.Preconditions, tryUpdate storage.UpdateFunc, cached runtime.Object,
) error {
	if !byController(ctx) {
		done, err := s.turns.take(ctx, key)
		if err != nil {
			return err
		}
		defer done()
	}
	s.waitForCache(ctx, key)
	if err := s.Interface.GuaranteedUpdate(ctx, key, destination, ignoreNotFound, preconditions, tryUpdate, cached); err != nil {
		return err
	}
	if version, err := s.Versioner().ObjectResourceVersion(destination); err == nil {
		s.written.Add(key, version)
	}
	return nil
}

// waitForCache waits until the cache, which the update begins with, has what was written last. What it
// begins with otherwise is out of date, and it works in vain.
func (s *inTurn) waitForCache(ctx context.Context, key string) {
	version, found := s.written.Get(key)
	if !found {
		return
	}
	ctx, cancel := context.WithTimeout(ctx, cacheLag)
	defer cancel()
	// Where this fails, etcd has what is newer.
	_ = s.Get(ctx, key, storage.GetOptions{ResourceVersion: strconv.FormatUint(version.(uint64), 10), IgnoreNotFound: true}, s.newFunc())
}

// byController says whether a request is one of this server's own controllers.
func byController(ctx context.Context) bool {
	caller, ok := request.UserFrom(ctx)
	return ok && caller.GetName() == user.APIServerUser
}
