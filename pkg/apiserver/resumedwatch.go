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
	"time"

	"google.golang.org/grpc/metadata"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/api/meta"
	"k8s.io/apimachinery/pkg/watch"
	"k8s.io/apiserver/pkg/storage"
	etcdfeature "k8s.io/apiserver/pkg/storage/feature"
)

// resumed is a watch that begins before the cache does. It reads from etcd what it has not seen, and
// goes on with the cache as soon as it has seen everything: a watch of etcd decodes each event for
// itself, and twice, for as long as it lasts.
//
// Nothing is lost, doubled or reordered on the way, because both speak of the same versions. When etcd
// says that a watch has come to a version, it has sent all events up to that (WatchResponse,
// IsProgressNotify); and the cache, asked for a watch from a version on, sends all events after that,
// also where it has not come there itself yet.
//
// Each is read on a stream of its own, for what etcd says of its progress it says of all watches of a
// stream: also of one that was begun since it was asked, and has seen nothing yet.
type resumed struct {
	store   *resumable
	ctx     context.Context
	cancel  context.CancelFunc
	key     string
	options storage.ListOptions
	result  chan watch.Event
}

// resume begins a watch from before the cache.
func (r *resumable) resume(ctx context.Context, key string, options storage.ListOptions) (watch.Interface, error) {
	ctx, cancel := context.WithCancel(ctx)
	w := &resumed{store: r, ctx: ctx, cancel: cancel, key: key, options: options, result: make(chan watch.Event)}
	past, err := w.past(options.ResourceVersion) //nolint:contextcheck // its context outlives the request's by an instant
	if err != nil {
		cancel()
		return nil, err
	}
	go w.run(past) //nolint:contextcheck // the same
	return w, nil
}

// ResultChan returns the events.
func (w *resumed) ResultChan() <-chan watch.Event { return w.result }

// Stop ends the watch.
func (w *resumed) Stop() { w.cancel() }

// past is what comes after a version, as etcd has it.
type past struct {
	watch.Interface
	// ctx is that of its stream. It is not ended while its progress may be asked for, which would open
	// another stream for nobody.
	ctx context.Context
	end context.CancelFunc
}

func (w *resumed) past(version string) (*past, error) {
	ownStream := metadata.Pairs("resumed-watch", strconv.FormatUint(w.store.resumed.Add(1), 10))
	ctx, end := context.WithCancel(metadata.NewOutgoingContext(context.WithoutCancel(w.ctx), ownStream))
	options := w.options
	options.ResourceVersion, options.ProgressNotify = version, true
	began, err := w.store.direct.Watch(ctx, w.key, options)
	if err != nil {
		end()
		return nil, fmt.Errorf("watching from version %s on, which is from before its cache began: %w", version, err)
	}
	return &past{Interface: began, ctx: ctx, end: end}, nil
}

func (w *resumed) run(past *past) {
	defer close(w.result)
	defer w.cancel()
	for {
		version := w.catchUp(past)
		if version == "" || w.goOn(version) {
			return
		}
		var err error
		if past, err = w.past(version); err != nil {
			return // its client comes again
		}
	}
}

// askAgain is how often etcd is asked how far a watch has come. It answers one that has come to its end,
// and looks for what others have to see ten times a second.
const askAgain = 100 * time.Millisecond

// catchUp passes on what comes from etcd until it has come to a version that etcd has come to itself,
// and returns that; nothing where the watch has ended.
func (w *resumed) catchUp(past *past) (version string) {
	defer past.end()
	defer past.Stop()
	ask := time.NewTicker(askAgain)
	defer ask.Stop()
	for {
		select {
		case <-w.ctx.Done():
			return ""
		case <-ask.C:
			// An older etcd may answer before it has sent all: there the watch waits until it says so unasked.
			// https://github.com/etcd-io/etcd/issues/15220
			if etcdfeature.DefaultFeatureSupportChecker.Supports(storage.RequestWatchProgress) {
				w.askProgress(past)
			}
		case e, open := <-past.ResultChan():
			if !open || (e.Type != watch.Bookmark || w.options.Predicate.AllowWatchBookmarks) && !w.send(e) {
				return ""
			}
			if at, err := meta.Accessor(e.Object); e.Type == watch.Bookmark && err == nil {
				return at.GetResourceVersion()
			}
		}
	}
}

// askProgress is no failure where it fails: it is asked again in a moment.
func (w *resumed) askProgress(past *past) {
	ctx, cancel := context.WithTimeout(past.ctx, askAgain)
	defer cancel()
	_ = w.store.direct.RequestWatchProgress(ctx)
}

// goOn passes on what the cache has after a version. It is false where the cache does not have that: it
// is not ready, or has begun anew since.
func (w *resumed) goOn(version string) bool {
	options := w.options
	options.ResourceVersion = version
	cached, err := w.store.Interface.Watch(w.ctx, w.key, options)
	if err != nil {
		return false
	}
	defer cached.Stop()
	first := true
	for e := range cached.ResultChan() {
		if first && e.Type == watch.Error && apierrors.IsResourceExpired(apierrors.FromObject(e.Object)) {
			return false
		}
		first = false
		if !w.send(e) {
			return true
		}
	}
	return true
}

// send is false where nobody wants any more.
func (w *resumed) send(e watch.Event) bool {
	select {
	case w.result <- e:
		return true
	case <-w.ctx.Done():
		return false
	}
}
