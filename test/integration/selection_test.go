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
	"fmt"
	"net/url"
	"slices"
	"strings"
	"testing"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/opensandbox-io/sandbox-apiserver/apis/lifecycle/v1alpha1"
)

// names are the objects of a list, in order.
func (f *fixture) names(path string) []string {
	f.Helper()
	list, err := f.read(path).object(f).ToList()
	f.must(err)
	names := []string{}
	for _, item := range list.Items {
		names = append(names, item.GetName())
	}
	return names
}

// selection makes three sandboxes in different states and a snapshot of each of two.
func (f *fixture) selection() {
	f.Helper()
	for _, name := range []string{"a", "b", "c"} {
		f.create(sandbox(name, func(s *v1alpha1.Sandbox) { s.Labels = map[string]string{"name": name, "tier": "test"} }))
	}
	f.asRunning("a")
	f.asRunning("b")
	f.writeStatus("b", func(status *v1alpha1.SandboxStatus) { status.NodeName = "node-b" })
	f.succeeded("of-a", f.get("a"))
	_, err := f.snapshots.Create(f.Context(), &v1alpha1.SandboxSnapshot{
		ObjectMeta: metav1.ObjectMeta{Name: "of-b"}, Spec: v1alpha1.SandboxSnapshotSpec{SandboxName: "b"},
	}, metav1.CreateOptions{})
	f.must(err)
}

func TestSelectors(t *testing.T) {
	f := newFixture(t)
	f.selection()
	for _, test := range []struct {
		resource, parameter, selector string
		want                          []string
	}{
		{"sandboxes", "fieldSelector", "status.phase=Running", []string{"a", "b"}},
		{"sandboxes", "fieldSelector", "status.phase!=Running", []string{"c"}},
		{"sandboxes", "fieldSelector", "status.phase=Sleeping", []string{}},
		{"sandboxes", "fieldSelector", "status.nodeName=node-b", []string{"b"}},
		{"sandboxes", "fieldSelector", "status.nodeName=", []string{"c"}},
		{"sandboxes", "fieldSelector", "status.nodeName=node-a,status.phase=Running", []string{"a"}},
		{"sandboxes", "fieldSelector", "metadata.name=b", []string{"b"}},
		{"sandboxes", "fieldSelector", "metadata.namespace=elsewhere", []string{}},
		{"sandboxes", "labelSelector", "name=a", []string{"a"}},
		{"sandboxes", "labelSelector", "tier=test,name notin (a)", []string{"b", "c"}},
		{"sandboxes", "labelSelector", "!tier", []string{}},
		{"sandboxsnapshots", "fieldSelector", "spec.sandboxName=b", []string{"of-b"}},
		{"sandboxsnapshots", "fieldSelector", "status.phase=Succeed", []string{"of-a"}},
		{"sandboxsnapshots", "fieldSelector", "metadata.name=of-a,spec.sandboxName=a", []string{"of-a"}},
	} {
		query := "?" + test.parameter + "=" + url.QueryEscape(test.selector)
		// From etcd, and from the cache with its indexes.
		for _, version := range []string{"", "&resourceVersion=0"} {
			if got := f.names(f.pathOf(test.resource, query+version)); !slices.Equal(got, test.want) {
				t.Errorf("%s %s%s: got %q, want %q", test.resource, test.selector, version, got, test.want)
			}
		}
	}
}

func TestUnknownSelectorsAreRefused(t *testing.T) {
	f := newFixture(t)
	for _, test := range []struct {
		resource, query string
		says            []string
	}{
		{"sandboxes", "fieldSelector=spec.desiredState%3DPaused", []string{"spec.desiredState", "metadata.name", "metadata.namespace", "status.phase", "status.nodeName"}},
		{"sandboxes", "fieldSelector=spec.sandboxName%3Da", []string{"spec.sandboxName", "status.phase", "status.nodeName"}},
		{"sandboxsnapshots", "fieldSelector=status.nodeName%3Da", []string{"status.nodeName", "metadata.name", "status.phase", "spec.sandboxName"}},
		{"sandboxes", "fieldSelector=status.phase", []string{"status.phase"}},
		{"sandboxes", "labelSelector=a%3D%3D%3Db", []string{"'='"}},
		{"sandboxes", "labelSelector=%21%21", []string{"!"}},
	} {
		got := f.read(f.pathOf(test.resource, "?"+test.query))
		watched := f.watch(test.resource, "watch=true&"+test.query).refused
		if watched == nil || watched.Code != 400 {
			t.Errorf("watching %s?%s: %+v", test.resource, test.query, watched)
		}
		status := got.status(f)
		for _, word := range test.says {
			if got.code != 400 || !strings.Contains(status.Message, word) {
				t.Errorf("%s?%s: got %d %s, want %q", test.resource, test.query, got.code, status.Message, word)
			}
		}
	}
}

// An object that leaves a selection is deleted for whoever watches that, one that enters is added.
func TestWatchingASelection(t *testing.T) {
	f := newFixture(t)
	f.selection()
	from := "&resourceVersion=" + f.read(f.path("")).object(f).GetResourceVersion()
	running := f.watch("sandboxes", "watch=true&fieldSelector=status.phase%3DRunning"+from)
	onA := f.watch("sandboxes", "watch=true&fieldSelector=status.nodeName%3Dnode-a"+from)
	tested := f.watch("sandboxes", "watch=true&labelSelector=tier%3Dtest"+from)
	ofA := f.watch("sandboxsnapshots", "watch=true&fieldSelector=spec.sandboxName%3Da"+from)
	pending := f.watch("sandboxsnapshots", "watch=true&fieldSelector=status.phase%3DPending"+from)

	f.asRunning("c")
	f.post(f.path("/a/pause"), "").object(f)
	f.writeStatus("b", func(status *v1alpha1.SandboxStatus) { status.NodeName = "node-a" })
	f.patch(f.path("/c"), asMergePatch, `{"metadata":{"labels":{"tier":null}}}`).object(f)
	f.succeeded("more-of-a", f.get("a"))

	running.want(f, "ADDED c", "DELETED a", "MODIFIED b", "MODIFIED c")
	onA.want(f, "ADDED c", "MODIFIED a", "ADDED b", "MODIFIED c")
	tested.want(f, "MODIFIED c", "MODIFIED a", "MODIFIED b", "DELETED c")
	ofA.want(f, "ADDED more-of-a", "MODIFIED more-of-a")
	pending.want(f, "ADDED more-of-a", "DELETED more-of-a")
}

func TestChunks(t *testing.T) {
	f := newFixture(t)
	var want []string
	for i := range 7 {
		want = append(want, f.create(sandbox(fmt.Sprintf("s%d", i))).Name)
	}
	for _, as := range []string{"list", "table"} {
		var got []string
		var remaining []int64
		next := ""
		for page := 0; page == 0 || next != ""; page++ {
			var list metav1.ListMeta
			path := f.path("?limit=3&continue=" + next)
			if as == "table" {
				table := f.table(path)
				list = table.ListMeta
				for _, row := range table.Rows {
					got = append(got, row.Cells[0].(string))
				}
			} else {
				var items v1alpha1.SandboxList
				f.read(path).decode(f, &items)
				list = items.ListMeta
				for _, item := range items.Items {
					got = append(got, item.Name)
				}
			}
			next = list.Continue
			if list.RemainingItemCount != nil {
				remaining = append(remaining, *list.RemainingItemCount)
			}
			// What is created meanwhile belongs to no page of a list that has begun.
			if page == 0 {
				f.create(sandbox("s9-" + as))
			}
		}
		if !slices.Equal(got, want) || len(remaining) != 2 || remaining[0] != int64(len(want)-3) || remaining[1] != int64(len(want)-6) {
			t.Errorf("as a %s: got %q with %d remaining", as, got, remaining)
		}
		want = append(want, "s9-"+as)
	}
	// A server that filters cannot know how many are left.
	page := f.read(f.path("?limit=1&fieldSelector=status.phase%3DPending")).object(f)
	if page.GetContinue() == "" || fieldOf(page, "metadata.remainingItemCount") != nil {
		t.Errorf("a page of a selection: %v", page.Object["metadata"])
	}
	for query, code := range map[string]int{"limit=3&continue=nonsense": 400, "limit=three": 400, "limit=3&continue=e30": 400} {
		if got := f.read(f.path("?" + query)); got.code != code || got.status(f).Message == "" {
			t.Errorf("%s: %d %s", query, got.code, got.body)
		}
	}
}
