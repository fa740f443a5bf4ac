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
	"errors"
	"fmt"
	"math/rand/v2"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	clientv3 "go.etcd.io/etcd/client/v3"
	"google.golang.org/grpc/metadata"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/fields"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/watch"
	"k8s.io/apiserver/pkg/registry/generic"
	"k8s.io/apiserver/pkg/registry/generic/registry"
	"k8s.io/apiserver/pkg/storage"
	"k8s.io/apiserver/pkg/storage/etcd3/testserver"
	"k8s.io/apiserver/pkg/storage/storagebackend"
	"k8s.io/client-go/tools/cache"
	"k8s.io/utils/ptr"

	"github.com/opensandbox-io/sandbox-apiserver/apis/lifecycle"
	"github.com/opensandbox-io/sandbox-apiserver/apis/lifecycle/v1alpha1"
	"github.com/opensandbox-io/sandbox-apiserver/pkg/apiserver/scheme"
)

// deadline bounds every wait of these tests.
const deadline = time.Minute

const root = "/sandboxes/"

// history is a store of sandboxes and all that was ever written to it.
type history struct {
	*testing.T
	etcd   *clientv3.Client
	config *storagebackend.ConfigForResource
	store  storage.Interface
	live   map[string]string // the color of each that is there, by its key
	writes []write
}

// write is what one write has changed. A color is a label's value; it is empty where there is no
// object.
type write struct {
	version       uint64
	key           string
	before, after string
}

func newHistory(t *testing.T) *history {
	t.Helper()
	client := testserver.RunEtcd(t, nil)
	config := storagebackend.NewDefaultConfig("/registry", scheme.Codecs.LegacyCodec(v1alpha1.SchemeGroupVersion))
	config.Transport.ServerList = client.Endpoints()
	h := &history{T: t, etcd: client.Client, config: config.ForResource(v1alpha1.Resource("sandboxes")), live: map[string]string{}}
	store, destroy, err := generic.NewRawStorage(h.config, newSandbox, newSandboxes, root)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(destroy)
	h.store = store
	return h
}

func newSandbox() runtime.Object   { return &lifecycle.Sandbox{} }
func newSandboxes() runtime.Object { return &lifecycle.SandboxList{} }

// restart makes what a server makes of the store when it starts.
func (h *history) restart() *resumable {
	h.Helper()
	options, err := resumableWatches{generic.RESTOptions{StorageConfig: h.config, Decorator: registry.StorageWithCacher()}}.GetRESTOptions(h.config.GroupResource, newSandbox())
	if err != nil {
		h.Fatal(err)
	}
	keyOf := func(object runtime.Object) (string, error) {
		m, err := meta.Accessor(object)
		if err != nil {
			return "", err
		}
		return root + m.GetNamespace() + "/" + m.GetName(), nil
	}
	store, destroy, err := options.Decorator(h.config, root, keyOf, newSandbox, newSandboxes, storage.DefaultNamespaceScopedAttr, nil, &cache.Indexers{})
	if err != nil {
		h.Fatal(err)
	}
	h.Cleanup(destroy)
	h.until("the cache is ready", func() bool { return store.ReadinessCheck() == nil })
	r := store.(*resumable)
	r.direct = &counted{Interface: r.direct}
	return r
}

// counted counts its watches that have not ended.
type counted struct {
	storage.Interface
	open    atomic.Int32
	streams sync.Map // of whom there may be one watch each
}

func (c *counted) Watch(ctx context.Context, key string, options storage.ListOptions) (watch.Interface, error) {
	stream, _ := metadata.FromOutgoingContext(ctx)
	if _, shared := c.streams.LoadOrStore(fmt.Sprint(stream), true); shared {
		return nil, fmt.Errorf("two watches share the stream %v, and one takes for its own what etcd says of the other's progress", stream)
	}
	w, err := c.Interface.Watch(ctx, key, options)
	if err == nil {
		c.open.Add(1)
		context.AfterFunc(ctx, func() { w.Stop() })
		w = &countedWatch{Interface: w, end: func() { c.open.Add(-1) }}
	}
	return w, err
}

type countedWatch struct {
	watch.Interface
	ended atomic.Bool
	end   func()
}

func (w *countedWatch) Stop() {
	w.Interface.Stop()
	if !w.ended.Swap(true) {
		w.end()
	}
}

func (h *history) until(what string, so func() bool) {
	h.Helper()
	for end := time.Now().Add(deadline); !so(); time.Sleep(5 * time.Millisecond) {
		if time.Now().After(end) {
			h.Fatalf("not within %s: %s", deadline, what)
		}
	}
}

// change creates, changes or deletes an object at random.
func (h *history) change(random *rand.Rand) {
	key := fmt.Sprintf("%s%s/%s", root, []string{"a", "ab", "b"}[random.IntN(3)], []string{"x", "y", "xy"}[random.IntN(3)])
	color := []string{"red", "green", "blue"}[random.IntN(3)]
	before := h.live[key]
	ctx, stored, err := context.Background(), &lifecycle.Sandbox{}, error(nil)
	switch {
	case before == "":
		namespace, name, _ := strings.Cut(strings.TrimPrefix(key, root), "/")
		err = h.store.Create(ctx, key, &lifecycle.Sandbox{ObjectMeta: metav1.ObjectMeta{Namespace: namespace, Name: name, Labels: map[string]string{"color": color}}}, stored, 0)
	case random.IntN(4) == 0:
		color = ""
		err = h.store.Delete(ctx, key, stored, nil, storage.ValidateAllObjectFunc, nil, storage.DeleteOptions{})
	default:
		err = h.store.GuaranteedUpdate(ctx, key, stored, false, nil, func(object runtime.Object, _ storage.ResponseMeta) (runtime.Object, *uint64, error) {
			sandbox := object.(*lifecycle.Sandbox)
			sandbox.Labels["color"] = color
			sandbox.Spec.Snapshot.HistoryLimit = ptr.To(random.Int32()) // no update is none
			return sandbox, nil, nil
		}, nil)
	}
	if err != nil {
		h.Errorf("writing %s: %v", key, err)
		return
	}
	h.live[key] = color
	h.writes = append(h.writes, write{h.version(stored), key, before, color})
}

func (h *history) version(object runtime.Object) uint64 {
	m, err := meta.Accessor(object)
	if err != nil {
		h.Error(err)
		return 0
	}
	version, err := strconv.ParseUint(m.GetResourceVersion(), 10, 64)
	if err != nil {
		h.Error(err)
	}
	return version
}

// selection is what a watch asks for.
type selection struct {
	// prefix is of keys; a whole one where it does not end with a slash.
	prefix string
	color  string // empty: any
}

func (s selection) matches(key, color string) bool {
	return color != "" && (s.color == "" || s.color == color) && (key == s.prefix || strings.HasSuffix(s.prefix, "/") && strings.HasPrefix(key, s.prefix))
}

func (s selection) options(version uint64, bookmarks bool) storage.ListOptions {
	predicate := storage.SelectionPredicate{Label: labels.Everything(), Field: fields.Everything(), GetAttrs: storage.DefaultNamespaceScopedAttr, AllowWatchBookmarks: bookmarks}
	if s.color != "" {
		predicate.Label = labels.SelectorFromSet(labels.Set{"color": s.color})
	}
	if !strings.HasSuffix(s.prefix, "/") {
		predicate.Field = fields.OneTermEqualSelector("metadata.name", s.prefix[strings.LastIndex(s.prefix, "/")+1:])
	}
	return storage.ListOptions{ResourceVersion: strconv.FormatUint(version, 10), Recursive: strings.HasSuffix(s.prefix, "/"), Predicate: predicate}
}

// since is what a watch has to tell of what was written after a version.
func (h *history) since(version uint64, s selection) (events []string) {
	for _, w := range h.writes {
		before, after := s.matches(w.key, w.before), s.matches(w.key, w.after)
		if w.version <= version || !before && !after {
			continue
		}
		kind, color := watch.Modified, w.after
		switch {
		case !before:
			kind = watch.Added
		case !after:
			kind, color = watch.Deleted, w.before
		}
		events = append(events, fmt.Sprintf("%s %s %s at %d", kind, strings.TrimPrefix(w.key, root), color, w.version))
	}
	return events
}

func (h *history) told(e watch.Event) string {
	sandbox, is := e.Object.(*lifecycle.Sandbox)
	if !is {
		if cached, is := e.Object.(runtime.CacheableObject); is {
			sandbox, _ = cached.GetObject().(*lifecycle.Sandbox)
		}
	}
	if sandbox == nil {
		return fmt.Sprintf("%s %v", e.Type, e.Object)
	}
	return fmt.Sprintf("%s %s/%s %s at %d", e.Type, sandbox.Namespace, sandbox.Name, sandbox.Labels["color"], h.version(e.Object))
}

// next is the next event, nil where the watch has ended.
func (h *history) next(w watch.Interface) *watch.Event {
	h.Helper()
	select {
	case e, open := <-w.ResultChan():
		if !open {
			return nil
		}
		return &e
	case <-time.After(deadline):
		h.Fatalf("no event within %s", deadline)
		return nil
	}
}

// ends waits until a watch has ended, and nothing is read from etcd for it any more.
func (h *history) ends(w watch.Interface) {
	h.Helper()
	for {
		if h.next(w) == nil {
			return
		}
	}
}

// read reads a watch at once: the cache ends one whose client is slow.
func read(w watch.Interface) watch.Interface {
	events := make(chan watch.Event, 10_000)
	go func() {
		defer close(events)
		for e := range w.ResultChan() {
			events <- e
		}
	}()
	return &readWatch{Interface: w, events: events}
}

type readWatch struct {
	watch.Interface
	events chan watch.Event
}

func (w *readWatch) ResultChan() <-chan watch.Event { return w.events }

// aWatch is one of many, and what it has to tell.
type aWatch struct {
	watch.Interface
	selection
	from      uint64
	bookmarks bool
}

// A watch from before the start tells of each event once, in order, whatever is written meanwhile; and
// it soon reads nothing from etcd any more.
func TestResumedWatches(t *testing.T) {
	seed := rand.Uint64()
	t.Logf("seed %d", seed)
	random := rand.New(rand.NewPCG(seed, 0))
	h := newHistory(t)
	for range 100 {
		h.change(random)
	}
	earlier := len(h.writes)
	r := h.restart()

	written := make(chan struct{})
	go func() {
		defer close(written)
		random := rand.New(rand.NewPCG(seed, 1))
		for range 400 {
			h.change(random)
		}
	}()
	first := make([]uint64, earlier)
	for i := range first {
		first[i] = h.writes[:earlier][i].version
	}
	var all []aWatch
	for range 30 {
		w := aWatch{from: first[random.IntN(earlier)], bookmarks: random.IntN(2) == 0, selection: selection{
			prefix: root + []string{"", "a/", "ab/", "b/", "a/x", "b/xy"}[random.IntN(6)],
			color:  []string{"", "", "red", "blue"}[random.IntN(4)],
		}}
		began, err := r.Watch(t.Context(), w.prefix, w.options(w.from, w.bookmarks))
		if err != nil {
			t.Fatal(err)
		}
		w.Interface = read(began)
		all = append(all, w)
	}
	<-written
	for _, w := range all {
		h.follow(w, h.since(w.from, w.selection))
	}
	if t.Failed() {
		return
	}
	direct := r.direct.(*counted)
	h.until("no watch is read from etcd any more", func() bool { return direct.open.Load() == 0 })

	// From the cache, too.
	until := h.writes[len(h.writes)-1].version
	for range 20 {
		h.change(random)
	}
	for _, w := range all {
		w.from, w.bookmarks = until, true
		h.follow(w, h.since(until, w.selection))
		w.Stop()
		h.ends(w)
	}
}

// follow checks that the next events of a watch are these, with nothing between them but bookmarks, if
// those are allowed, that are true.
func (h *history) follow(w aWatch, want []string) {
	h.Helper()
	last := w.from
	for i := 0; i < len(want); {
		e := h.next(w)
		if e == nil {
			h.Errorf("%+v from %d: the watch ends before %s", w.selection, w.from, want[i])
			return
		}
		version := h.version(e.Object)
		switch {
		case e.Type == watch.Bookmark && w.bookmarks && version >= last:
		case e.Type == watch.Bookmark || h.told(*e) != want[i]:
			h.Errorf("%+v from %d, bookmarks %t: event %d after version %d is %s, want %s", w.selection, w.from, w.bookmarks, i, last, h.told(*e), want[i])
			return
		default:
			i++
		}
		last = version
	}
}

// What etcd has forgotten nobody can tell of.
func TestResumedWatchFromBeforeACompaction(t *testing.T) {
	h := newHistory(t)
	random := rand.New(rand.NewPCG(1, 2))
	for range 10 {
		h.change(random)
	}
	r := h.restart()
	if _, err := h.etcd.Compact(t.Context(), int64(h.writes[9].version)); err != nil {
		t.Fatal(err)
	}
	w, err := r.Watch(t.Context(), root, selection{prefix: root}.options(h.writes[2].version, true))
	if err != nil {
		t.Fatal(err)
	}
	e := h.next(w)
	if e == nil || e.Type != watch.Error || !apierrors.IsResourceExpired(apierrors.FromObject(e.Object)) {
		t.Errorf("it begins with %+v", e)
	}
	h.ends(w)
}

// A cache that has begun anew, or is about to, is asked again later.
func TestResumedWatchWithoutTheCache(t *testing.T) {
	h := newHistory(t)
	random := rand.New(rand.NewPCG(3, 4))
	for range 10 {
		h.change(random)
	}
	r := h.restart()
	refusing := &refusing{Interface: r.Interface}
	r.Interface = refusing
	all := selection{prefix: root}
	from := h.writes[4].version
	w, err := r.Watch(t.Context(), root, all.options(from, false))
	if err != nil {
		t.Fatal(err)
	}
	h.until("the cache is asked four times", func() bool {
		h.change(random)
		h.follow(aWatch{Interface: w, from: from}, h.since(from, all))
		from = h.writes[len(h.writes)-1].version
		return t.Failed() || refusing.asked.Load() >= 4
	})
	w.Stop()
	h.ends(w)
}

// refusing is a cache that refuses the first watches in both ways.
type refusing struct {
	storage.Interface
	asked atomic.Int32
}

func (r *refusing) Watch(ctx context.Context, key string, options storage.ListOptions) (watch.Interface, error) {
	switch r.asked.Add(1) {
	case 1:
		return nil, apierrors.NewTooManyRequests("not ready", 1)
	case 2, 3:
		w := watch.NewRaceFreeFake()
		w.Error(ptr.To(apierrors.NewResourceExpired("too old").Status()))
		w.Stop()
		return w, nil
	}
	return r.Interface.Watch(ctx, key, options)
}

// Whenever it is ended, and whether or not somebody reads it, nothing of it is left.
func TestResumedWatchEnds(t *testing.T) {
	h := newHistory(t)
	random := rand.New(rand.NewPCG(5, 6))
	for range 30 {
		h.change(random)
	}
	r := h.restart()
	direct := r.direct.(*counted)
	cause := errors.New("the client is gone")
	for i := range 40 {
		ctx, cancel := context.WithCancelCause(t.Context())
		w, err := r.Watch(ctx, root, selection{prefix: root}.options(h.writes[i%10].version, true))
		if err != nil {
			t.Fatal(err)
		}
		for range random.IntN(20) {
			h.next(w)
		}
		if i%2 == 0 {
			w.Stop()
		} else {
			cancel(cause)
		}
		h.ends(w)
		h.until("nothing is read from etcd", func() bool { return direct.open.Load() == 0 })
		cancel(nil)
	}
}
