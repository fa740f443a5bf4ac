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
	"net/http"
	"slices"
	"strings"
	"testing"

	apidiscoveryv2 "k8s.io/api/apidiscovery/v2"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

// served is what discovery says of each path below the group.
var served = []struct {
	path, kind string
	verbs      []string
	shortNames []string
}{
	{"evictionreviews", "AdmissionReview", []string{"create"}, nil},
	{"sandboxes", "Sandbox", all, []string{"sbx"}},
	{"sandboxes/pause", "SandboxPause", []string{"create"}, nil},
	{"sandboxes/resume", "SandboxResume", []string{"create"}, nil},
	{"sandboxes/status", "Sandbox", []string{"get", "patch", "update"}, nil},
	{"sandboxsnapshots", "SandboxSnapshot", all, []string{"sbxsnap"}},
	{"sandboxsnapshots/status", "SandboxSnapshot", []string{"get", "patch", "update"}, nil},
}

var all = []string{"create", "delete", "deletecollection", "get", "list", "patch", "update", "watch"}

// category is what kubectl get understands for all kinds of the group.
const category = "opensandbox"

func TestDiscovery(t *testing.T) {
	f := newFixture(t)
	var groups metav1.APIGroup
	f.read("/apis/lifecycle.opensandbox.io").decode(f, &groups)
	if groups.PreferredVersion.GroupVersion != "lifecycle.opensandbox.io/v1alpha1" || len(groups.Versions) != 1 {
		t.Errorf("the group is %+v", groups)
	}
	var list metav1.APIResourceList
	f.read(group).decode(f, &list)
	if len(list.APIResources) != len(served) {
		t.Fatalf("%d paths are served, want %d: %+v", len(list.APIResources), len(served), list.APIResources)
	}
	for i, got := range list.APIResources {
		want := served[i]
		slices.Sort(got.Verbs)
		ours := want.path != "evictionreviews"
		if got.Name != want.path || got.Kind != want.kind || got.Namespaced != ours || !slices.Equal(got.Verbs, want.verbs) || !slices.Equal(got.ShortNames, want.shortNames) {
			t.Errorf("got %+v, want %+v", got, want)
		}
		if !ours && (got.Group != "admission.k8s.io" || got.Version != "v1" || got.SingularName != "evictionreview" || len(got.Categories) != 0) {
			t.Errorf("%s: %+v", got.Name, got)
		}
		if !ours || strings.Contains(want.path, "/") {
			continue
		}
		if got.SingularName != strings.ToLower(want.kind) || !slices.Equal(got.Categories, []string{category}) || got.StorageVersionHash == "" {
			t.Errorf("%s: singular %q, categories %q, storage version %q", got.Name, got.SingularName, got.Categories, got.StorageVersionHash)
		}
		// kubectl get finds the category first: one that is a name of a kind would hide it.
		if slices.Contains(append(got.ShortNames, got.Name, got.SingularName), category) {
			t.Errorf("the category %q is a name of %s", category, got.Name)
		}
	}
}

func TestAggregatedDiscovery(t *testing.T) {
	f := newFixture(t)
	got := f.send(admin, http.MethodGet, "/apis", nil, http.Header{"Accept": {"application/json;v=v2;g=apidiscovery.k8s.io;as=APIGroupDiscoveryList"}})
	var list apidiscoveryv2.APIGroupDiscoveryList
	got.decode(f, &list)
	if len(list.Items) != 1 || list.Items[0].Name != "lifecycle.opensandbox.io" || len(list.Items[0].Versions) != 1 || list.Items[0].Versions[0].Version != "v1alpha1" {
		t.Fatalf("%s", got.body)
	}
	paths := map[string]apidiscoveryv2.APISubresourceDiscovery{}
	for _, resource := range list.Items[0].Versions[0].Resources {
		scope, categories := apidiscoveryv2.ScopeNamespace, []string{category}
		if resource.Resource == "evictionreviews" { // which nothing that lists, deletes or collects asks for
			scope, categories = apidiscoveryv2.ScopeCluster, nil
		}
		if resource.Scope != scope || !slices.Equal(resource.Categories, categories) {
			t.Errorf("%s: scope %s, categories %q", resource.Resource, resource.Scope, resource.Categories)
		}
		paths[resource.Resource] = apidiscoveryv2.APISubresourceDiscovery{ResponseKind: resource.ResponseKind, Verbs: resource.Verbs}
		for _, subresource := range resource.Subresources {
			paths[resource.Resource+"/"+subresource.Subresource] = subresource
		}
	}
	if len(paths) != len(served) {
		t.Errorf("%d paths are served, want %d", len(paths), len(served))
	}
	for _, want := range served {
		got := paths[want.path]
		slices.Sort(got.Verbs)
		if got.ResponseKind == nil || got.ResponseKind.Kind != want.kind || !slices.Equal(got.Verbs, want.verbs) {
			t.Errorf("%s: %+v, want %+v", want.path, got, want)
		}
	}
}
