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

package sandboxes

import (
	"context"
	"net/http"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apiserver/pkg/authentication/user"
	kubefake "k8s.io/client-go/kubernetes/fake"

	"github.com/opensandbox-io/sandbox-apiserver/apis/lifecycle/v1alpha1"
	"github.com/opensandbox-io/sandbox-apiserver/generated/clientset/versioned/fake"
	"github.com/opensandbox-io/sandbox-apiserver/pkg/gateway/httpapi"
	"github.com/opensandbox-io/sandbox-apiserver/pkg/gateway/identity"
)

// scene is a cluster with these objects, and somebody who calls.
type scene struct {
	context.Context
	handler   *Handler
	lifecycle *fake.Clientset
	kube      *kubefake.Clientset
}

func newScene(objects ...runtime.Object) *scene {
	s := &scene{handler: New(*settings()), lifecycle: fake.NewSimpleClientset(), kube: kubefake.NewClientset()}
	for _, object := range objects {
		// By their resources, which the fake would guess to be "sandboxs".
		resource := map[bool]string{true: "sandboxsnapshots", false: "sandboxes"}[isSnapshot(object)]
		if err := s.lifecycle.Tracker().Create(v1alpha1.SchemeGroupVersion.WithResource(resource), object, object.(metav1.Object).GetNamespace()); err != nil {
			panic(err)
		}
	}
	s.Context = identity.With(context.Background(), &identity.Caller{
		User: &user.DefaultInfo{Name: "alice"}, Namespace: "default", Lifecycle: s.lifecycle, Kube: s.kube,
	})
	return s
}

func isSnapshot(object runtime.Object) bool {
	_, is := object.(*v1alpha1.SandboxSnapshot)
	return is
}

// stored is a sandbox of the scene, made so many seconds after dawn.
func stored(name string, seconds int, phase v1alpha1.SandboxPhase, labels map[string]string) *v1alpha1.Sandbox {
	sandbox := stands(phase, "", "", "", "")
	sandbox.Name, sandbox.Labels, sandbox.CreationTimestamp = name, labels, metav1.NewTime(dawn.Add(time.Duration(seconds)*time.Second))
	return sandbox
}

func TestList(t *testing.T) {
	blue := map[string]string{"team": "blue", "stage": "test"}
	gone := stored("gone", 5, "Paused", nil)
	beingDeleted(gone)
	gone.Finalizers = []string{v1alpha1.SandboxFinalizer}
	elsewhere := stored("elsewhere", 9, "Running", blue)
	elsewhere.Namespace = "another"
	s := newScene(stored("b", 1, "Running", blue), stored("a", 1, "Paused", map[string]string{"team": "blue"}), stored("c", 2, "", nil),
		stored("d", 0, "Pausing", map[string]string{"team": "red", "odd": "a-b.c_d", "empty": ""}), gone, elsewhere)

	for name, test := range map[string]struct {
		states   []string
		metadata string
		want     []string
	}{
		"all, the newest first":  {nil, "", []string{"gone", "c", "a", "b", "d"}},
		"in any case":            {[]string{"RUNNING"}, "", []string{"b"}},
		"in any of them":         {[]string{"running", "Pausing"}, "", []string{"b", "d"}},
		"that are just made":     {[]string{"Pending"}, "", []string{"c"}},
		"that are being deleted": {[]string{"Stopping"}, "", []string{"gone"}},
		"by metadata":            {nil, "team=blue", []string{"a", "b"}},
		"by all of them":         {nil, "team=blue&stage=test", []string{"b"}},
		"by odd ones":            {nil, "odd=a-b.c_d", []string{"d"}},
		"by encoded ones":        {nil, "odd=a%2Db.c%5Fd", []string{"d"}},
		"by one that is empty":   {nil, "empty=", []string{"d"}},
		"by metadata and state":  {[]string{"Paused"}, "team=blue", []string{"a"}},
		// https://github.com/TencentCloud/CubeSandbox/issues/177, /931: a paused sandbox was there and not in the list.
		"that are paused": {[]string{"paused"}, "", []string{"a"}},
		// https://github.com/agent-sandbox/agent-sandbox/pull/11: a filter that nothing fits was answered with everything.
		"by metadata that no sandbox has":  {nil, "team=green", []string{}},
		"by a key that no sandbox has":     {nil, "nobody=blue", []string{}},
		"in a state that no sandbox is in": {[]string{"Resuming"}, "", []string{}},
		"by the beginning of a value":      {nil, "team=blu", []string{}},
		"by a value in another case":       {nil, "team=Blue", []string{}},
	} {
		t.Run(name, func(t *testing.T) {
			params := httpapi.ListSandboxesParams{State: test.states}
			if test.metadata != "" {
				params.Metadata = httpapi.NewOptString(test.metadata)
			}
			listed, err := s.handler.ListSandboxes(s, params)
			if err != nil {
				t.Fatal(err)
			}
			got := []string{}
			for _, sandbox := range listed.Items {
				got = append(got, sandbox.ID)
			}
			if diff := cmp.Diff(test.want, got); diff != "" {
				t.Errorf("(-want +got):\n%s", diff)
			}
			if int(listed.Pagination.TotalItems) != len(test.want) {
				t.Errorf("%d in all, and %d are listed", listed.Pagination.TotalItems, len(got))
			}
		})
	}

	for name, test := range map[string]struct {
		params httpapi.ListSandboxesParams
		code   string
		names  string
	}{
		"a state that there is not": {httpapi.ListSandboxesParams{State: []string{"Running", "Sleeping"}}, "SANDBOX::INVALID_PARAMETER", `"Sleeping"`},
		"no pair":                   {httpapi.ListSandboxesParams{Metadata: httpapi.NewOptString("team")}, "INVALID_METADATA_FORMAT", `"team"`},
		"no key":                    {httpapi.ListSandboxesParams{Metadata: httpapi.NewOptString("=blue")}, "INVALID_METADATA_FORMAT", `"=blue"`},
		"half an escape":            {httpapi.ListSandboxesParams{Metadata: httpapi.NewOptString("team=%zz")}, "INVALID_METADATA_FORMAT", "%zz"},
		"two values of a key":       {httpapi.ListSandboxesParams{Metadata: httpapi.NewOptString("team=blue&team=red")}, "INVALID_METADATA_FORMAT", `"team"`},
		"no key of a label":         {httpapi.ListSandboxesParams{Metadata: httpapi.NewOptString("a b=c")}, "SANDBOX::INVALID_METADATA_LABEL", `"a b"`},
		"a selector in disguise":    {httpapi.ListSandboxesParams{Metadata: httpapi.NewOptString("team=blue,stage!=test")}, "SANDBOX::INVALID_METADATA_LABEL", "team"},
	} {
		t.Run(name, func(t *testing.T) {
			_, err := s.handler.ListSandboxes(s, test.params)
			refusal(t, err, http.StatusBadRequest, test.code, test.names)
		})
	}
}

func TestLabelPatch(t *testing.T) {
	text := func(s string) *string { return &s }
	patch, err := labelPatch(map[string]*string{"a": text("1"), "b": nil, "c": text("")})
	if err != nil || string(patch) != `{"metadata":{"labels":{"a":"1","b":null,"c":""}}}` {
		t.Errorf("%s (%v)", patch, err)
	}
	if patch, err := labelPatch(nil); patch != nil || err != nil {
		t.Errorf("of nothing: %s (%v)", patch, err)
	}
	for name, changes := range map[string]map[string]*string{
		"a reserved one is set":        {"opensandbox.io/id": text("x")},
		"a reserved one is removed":    {"lifecycle.opensandbox.io/sandbox": nil},
		"one of Kubernetes is removed": {"app.kubernetes.io/name": nil},
		"no key":                       {"a b": nil},
		"no value":                     {"a": text("b c")},
		"a long value":                 {"a": text(strings.Repeat("b", 64))},
	} {
		t.Run(name, func(t *testing.T) {
			_, err := labelPatch(changes)
			refusal(t, err, http.StatusBadRequest, "SANDBOX::INVALID_METADATA_LABEL", "metadata")
		})
	}
}

func TestPatchMetadata(t *testing.T) {
	s := newScene(stored("demo", 0, "Running", map[string]string{"team": "blue", "stage": "test", "lifecycle.opensandbox.io/kept": "y"}))
	params := httpapi.PatchSandboxMetadataParams{SandboxId: "demo"}
	patched, err := s.handler.PatchSandboxMetadata(s, httpapi.MetadataPatch{"team": {Value: "red"}, "stage": {Null: true}, "new": {Value: ""}, "never-was": {Null: true}}, params)
	if err != nil {
		t.Fatal(err)
	}
	want := map[string]string{"team": "red", "new": ""}
	if diff := cmp.Diff(want, map[string]string(patched.Metadata.Value)); diff != "" {
		t.Errorf("(-want +got):\n%s", diff)
	}
	kept, err := s.lifecycle.LifecycleV1alpha1().Sandboxes("default").Get(s, "demo", metav1.GetOptions{})
	if err != nil || kept.Labels["lifecycle.opensandbox.io/kept"] != "y" {
		t.Errorf("labels that are none of the caller's: %v (%v)", kept.Labels, err)
	}
	s.lifecycle.ClearActions()
	same, err := s.handler.PatchSandboxMetadata(s, httpapi.MetadataPatch{}, params)
	if err != nil || !cmp.Equal(same.Metadata, patched.Metadata) {
		t.Errorf("a patch of nothing: %v (%v)", same, err)
	}
	if slices.ContainsFunc(s.verbs(), func(v string) bool { return v == "patch" }) {
		t.Errorf("a patch of nothing writes: %v", s.verbs())
	}
}

// verbs are what the Sandbox API was asked for.
func (s *scene) verbs() []string {
	var verbs []string
	for _, action := range s.lifecycle.Actions() {
		verb := action.GetVerb()
		if action.GetSubresource() != "" {
			verb = action.GetSubresource()
		}
		verbs = append(verbs, verb)
	}
	return verbs
}
