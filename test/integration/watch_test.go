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

package integration

import (
	"bufio"
	"context"
	"encoding/json"
	"fmt"
	"net/http"
	"strings"
	"testing"
	"time"

	clientv3 "go.etcd.io/etcd/client/v3"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/rest"

	"github.com/opensandbox-io/sandbox-apiserver/apis/lifecycle/v1alpha1"
)

// event is one line of a watch.
type event struct {
	Type   string          `json:"type"`
	Object json.RawMessage `json:"object"`
}

// meta is what every event's object has.
func (e event) meta(f *fixture) *metav1.PartialObjectMetadata {
	f.Helper()
	var object metav1.PartialObjectMetadata
	f.must(json.Unmarshal(e.Object, &object))
	return &object
}

// watching is a watch that is under way. Its channel is closed with it.
type watching struct {
	events chan event
	// refused is the Status of a watch that the server does not begin.
	refused *metav1.Status
}

// watch watches a resource of the namespace until the test ends.
func (f *fixture) watch(resource, query string) *watching {
	f.Helper()
	return f.watchAs(resource, query, nil)
}

func (f *fixture) watchAs(resource, query string, header http.Header) *watching {
	f.Helper()
	config := f.running.as(admin)
	client, err := rest.HTTPClientFor(config)
	f.must(err)
	ctx, cancel := context.WithCancel(context.Background())
	f.Cleanup(cancel)
	request, err := http.NewRequestWithContext(ctx, http.MethodGet, config.Host+f.pathOf(resource, "?"+query), nil)
	f.must(err)
	for key, values := range header {
		request.Header[key] = values
	}
	response, err := client.Do(request)
	f.must(err)
	f.Cleanup(func() { _ = response.Body.Close() })
	w := &watching{events: make(chan event, 1000)}
	if response.StatusCode != http.StatusOK {
		w.refused = &metav1.Status{Code: int32(response.StatusCode)}
		if strings.HasPrefix(response.Header.Get("Content-Type"), asJSON) {
			f.must(json.NewDecoder(response.Body).Decode(w.refused))
		}
		close(w.events)
		return w
	}
	go func() {
		defer close(w.events)
		lines := bufio.NewReader(response.Body)
		for {
			line, err := lines.ReadBytes('\n')
			if err != nil {
				return
			}
			var e event
			if json.Unmarshal(line, &e) == nil {
				w.events <- e
			}
		}
	}()
	return w
}

// next returns the next event.
func (w *watching) next(f *fixture) event {
	f.Helper()
	e, open := w.receive(f)
	if !open {
		f.Fatal("the watch has ended")
	}
	return e
}

// receive returns the next event, false where the watch has ended.
func (w *watching) receive(f *fixture) (e event, open bool) {
	f.Helper()
	if w.refused != nil {
		f.Fatalf("the watch was refused: %+v", w.refused)
	}
	select {
	case e, open = <-w.events:
	case <-time.After(deadline):
		f.Fatalf("no event in %s", deadline)
	}
	return e, open
}

// want checks that the next events are these, each as its type and the name of its object.
func (w *watching) want(f *fixture, events ...string) {
	f.Helper()
	for _, want := range events {
		e := w.next(f)
		if got := e.Type + " " + e.meta(f).Name; got != want {
			f.Fatalf("the event is %s, want %s (of %q): %s", got, want, events, e.Object)
		}
	}
}

// expired returns the code of a watch that tells its client to list again, however it says so.
func (w *watching) expired(f *fixture) *metav1.Status {
	f.Helper()
	if w.refused != nil {
		return w.refused
	}
	e := w.next(f)
	var status metav1.Status
	f.must(json.Unmarshal(e.Object, &status))
	if e.Type != "ERROR" {
		f.Fatalf("got the event %s %s", e.Type, e.Object)
	}
	return &status
}

func TestBookmarks(t *testing.T) {
	t.Parallel()
	f := newFixture(t)
	created := f.create(sandbox("demo"))
	// The cache sends one two seconds before the end, at the latest. The other watch has to last for longer than that.
	with := f.watch("sandboxes", "watch=true&timeoutSeconds=3&allowWatchBookmarks=true")
	without := f.watch("sandboxes", "watch=true&timeoutSeconds=15")
	with.want(f, "ADDED demo")
	bookmark := with.next(f)
	if meta := bookmark.meta(f); bookmark.Type != "BOOKMARK" || meta.Kind != "Sandbox" || meta.ResourceVersion < created.ResourceVersion || meta.Name != "" {
		t.Errorf("%s %s", bookmark.Type, bookmark.Object)
	}
	// Where it was can be gone on from.
	again := f.watch("sandboxes", "watch=true&resourceVersion="+bookmark.meta(f).ResourceVersion)
	f.create(sandbox("next"))
	again.want(f, "ADDED next")

	without.want(f, "ADDED demo", "ADDED next")
	if e, open := <-without.events; open {
		t.Errorf("not asked for: %s %s", e.Type, e.Object)
	}
}

func TestListAsWatch(t *testing.T) {
	f := newFixture(t)
	for _, name := range []string{"a", "b"} {
		f.create(sandbox(name))
	}
	w := f.watch("sandboxes", "watch=true&allowWatchBookmarks=true&sendInitialEvents=true&resourceVersionMatch=NotOlderThan")
	seen := map[string]bool{}
	for range 2 {
		e := w.next(f)
		seen[e.Type+" "+e.meta(f).Name] = true
	}
	if !seen["ADDED a"] || !seen["ADDED b"] {
		t.Errorf("began with %v", seen)
	}
	end := w.next(f)
	if end.Type != "BOOKMARK" || end.meta(f).Annotations[metav1.InitialEventsAnnotationKey] != "true" {
		t.Errorf("the end of the list is %s %s", end.Type, end.Object)
	}
	f.create(sandbox("c"))
	w.want(f, "ADDED c")

	for query, says := range map[string]string{
		"watch=true&sendInitialEvents=true":                            "resourceVersionMatch",
		"watch=true&resourceVersionMatch=NotOlderThan":                 "sendInitialEvents",
		"watch=true&sendInitialEvents=true&resourceVersionMatch=Exact": "resourceVersionMatch",
	} {
		w := f.watch("sandboxes", query)
		if w.refused == nil || w.refused.Code < 400 || w.refused.Code >= 500 || !strings.Contains(w.refused.Message, says) {
			t.Errorf("%s: %+v", query, w.refused)
		}
	}
}

// A watch goes on where it was after the server has been restarted, also past what was written
// after it broke off; once etcd has forgotten that, it says so with 410.
func TestWatchingAcrossARestart(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	r, err := start(dir, nil)
	if err != nil {
		t.Fatal(err)
	}
	f := fixtureOn(t, r)
	first := f.create(sandbox("first"))
	w := f.watch("sandboxes", "watch=true&resourceVersion="+first.ResourceVersion)
	f.create(sandbox("seen"))
	seen := w.next(f).meta(f)
	f.create(sandbox("missed"))
	page := f.read(f.path("?limit=1")).object(f)
	for i := range 10 {
		f.create(sandbox(fmt.Sprintf("more-%d", i)))
	}
	f.must(r.stop())

	r, err = start(dir, nil)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = r.stop() })
	f = fixtureOn(t, r)
	w = f.watch("sandboxes", "watch=true&resourceVersion="+seen.ResourceVersion)
	w.want(f, "ADDED missed", "ADDED more-0")
	selected := f.watch("sandboxes", "watch=true&fieldSelector=metadata.name%3Dlater&resourceVersion="+seen.ResourceVersion)
	latest := f.create(sandbox("later"))
	selected.want(f, "ADDED later")

	compact(f, dir, latest)
	for name, query := range map[string]string{
		"sandboxes":           "watch=true&resourceVersion=" + first.ResourceVersion,
		"a selection of them": "watch=true&fieldSelector=metadata.name%3Ddemo&resourceVersion=" + first.ResourceVersion,
	} {
		status := f.watch("sandboxes", query).expired(f)
		if status.Code != 410 || (status.Reason != metav1.StatusReasonExpired && status.Reason != metav1.StatusReasonGone) {
			t.Errorf("%s from before the compaction: %+v", name, status)
		}
	}
	next := f.read(f.path("?limit=1&continue=" + page.GetContinue()))
	if status := next.status(f); next.code != 410 || status.Reason != metav1.StatusReasonExpired {
		t.Errorf("the next page of a list from before the compaction: %d %s", next.code, next.body)
	}
	// What the client does then.
	f.watch("sandboxes", "watch=true&resourceVersion="+f.read(f.path("")).object(f).GetResourceVersion())
}

// compact has the server's etcd forget everything before a sandbox was written.
func compact(f *fixture, dataDir string, until *v1alpha1.Sandbox) {
	f.Helper()
	client, err := clientv3.New(clientv3.Config{Endpoints: []string{"unix://" + dataDir + "/etcd.sock"}, DialTimeout: deadline})
	f.must(err)
	defer func() { _ = client.Close() }()
	var revision int64
	_, err = fmt.Sscan(until.ResourceVersion, &revision)
	f.must(err)
	_, err = client.Compact(context.Background(), revision, clientv3.WithCompactPhysical())
	f.must(err)
}
