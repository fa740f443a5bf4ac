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
	"io"
	"net/http"
	"strings"
	"testing"
	"time"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/metadata"

	"github.com/opensandbox-io/sandbox-apiserver/apis/lifecycle/v1alpha1"
)

// verbs are both, each with the state that it starts something in.
var verbs = []struct {
	name  string
	ready func(f *fixture)
	// then is the phase after it.
	then v1alpha1.SandboxPhase
}{
	{"pause", func(f *fixture) { f.asRunning("demo") }, v1alpha1.SandboxPausing},
	{"resume", func(f *fixture) { f.asPaused("demo", "demo-gen1") }, v1alpha1.SandboxResuming},
}

// The formats that a body comes in, and that an answer is asked for in. What is refused has done
// nothing: a client that gets 406 must not have paused its sandbox.
func TestVerbFormats(t *testing.T) {
	f := newFixture(t)
	f.create(sandbox("demo"))
	const (
		protobuf = "application/vnd.kubernetes.protobuf"
		cbor     = "application/cbor"
		anything = "*/*"
	)
	for _, test := range []struct {
		contentType, accept, body string
		code                      int
		says                      string
	}{
		{asJSON, "", "{}", 201, ""},
		{asJSON + "; charset=utf-8", anything, "{}", 201, ""},
		{asYAML, "", "metadata: {name: demo}", 201, ""},
		{asYAML, asYAML, "{}", 201, ""},
		{"", "", "{}", 201, ""},
		{asJSON, protobuf + "," + asJSON, "{}", 201, ""},
		{asJSON, "application/json;as=PartialObjectMetadata;v=v1;g=meta.k8s.io", "{}", 201, ""},
		{asJSON, "application/json;as=Table;v=v1;g=meta.k8s.io," + asJSON, "{}", 201, ""},
		{protobuf, "", "k8s\x00\x0a\x04", 415, asJSON},
		{cbor, "", "\xa0", 415, asJSON},
		{"text/plain", "", "{}", 415, asJSON},
		{"application/x-www-form-urlencoded", "", "{}", 415, asJSON},
		{"/", "", "{}", 415, asJSON},
		{asJSON, protobuf, "{}", 406, asJSON},
		{asJSON, cbor, "{}", 406, asJSON},
		{asJSON, "text/html", "{}", 406, asJSON},
		{asJSON, "application/json;as=Sandwich;v=v1;g=meta.k8s.io", "{}", 406, asJSON},
	} {
		for _, verb := range verbs {
			verb.ready(f)
			before := f.get("demo")
			header := http.Header{}
			if test.contentType != "" {
				header.Set("Content-Type", test.contentType)
			}
			if test.accept != "" {
				header.Set("Accept", test.accept)
			}
			got := f.send(admin, http.MethodPost, f.path("/demo/"+verb.name), strings.NewReader(test.body), header)
			after := f.get("demo")
			if got.code != test.code {
				t.Errorf("%s of %q for %q: got %d %s, want %d", verb.name, test.contentType, test.accept, got.code, got.body, test.code)
			}
			switch {
			case test.code == 201:
				if after.Status.Phase != verb.then {
					t.Errorf("%s of %q for %q: the phase is %s", verb.name, test.contentType, test.accept, after.Status.Phase)
				}
			case after.ResourceVersion != before.ResourceVersion:
				t.Errorf("%s of %q for %q: refused, and yet the phase is %s", verb.name, test.contentType, test.accept, after.Status.Phase)
			case !strings.Contains(string(got.body), "Failure") || !strings.Contains(string(got.body), test.says):
				// A Status has a protobuf form, in which its words can be read as well.
				t.Errorf("%s of %q for %q: %s", verb.name, test.contentType, test.accept, got.body)
			}
		}
	}
}

// Controllers of the cluster, the garbage collector among them, prefer protobuf and read the metadata
// alone. They are answered in JSON, once and for all: not with a watch that ends at its first event.
func TestClientsThatPreferProtobuf(t *testing.T) {
	f := newFixture(t)
	f.create(sandbox("demo"))
	client, err := metadata.NewForConfig(metadata.ConfigFor(f.running.as(admin)))
	f.must(err)
	sandboxes := client.Resource(v1alpha1.SchemeGroupVersion.WithResource("sandboxes")).Namespace(f.namespace)
	list, err := sandboxes.List(t.Context(), metav1.ListOptions{})
	f.must(err)
	if len(list.Items) != 1 || list.Items[0].Name != "demo" {
		t.Errorf("listed %+v", list.Items)
	}
	watched, err := sandboxes.Watch(t.Context(), metav1.ListOptions{ResourceVersion: list.ResourceVersion})
	f.must(err)
	defer watched.Stop()
	f.must(sandboxes.DeleteCollection(t.Context(), metav1.DeleteOptions{}, metav1.ListOptions{}))
	select {
	case e := <-watched.ResultChan():
		if object, ok := e.Object.(*metav1.PartialObjectMetadata); !ok || object.DeletionTimestamp == nil {
			t.Errorf("watched %s %+v", e.Type, e.Object)
		}
	case <-time.After(deadline):
		t.Error("watched nothing")
	}
	if w := f.watchAs("sandboxes", "watch=true", http.Header{"Accept": {"application/vnd.kubernetes.protobuf;stream=watch"}}); w.refused == nil {
		t.Error("a watch in protobuf alone has begun")
	}
}

// What a mistyped field means for whoever sends it is his own choice, for a verb as for a create.
func TestFieldValidation(t *testing.T) {
	f := newFixture(t)
	f.create(sandbox("demo"))
	//nolint:gocritic // the space at the end of a field's name is what is tested
	for name, body := range map[string]string{
		"patience":  `{"patience":3}`,
		"nickname":  `{"metadata":{"nickname":"x"}}`,
		"name":      `{"metadata":{"name":"demo","name":"demo"}}`,
		"NAME":      `{"metadata":{"NAME":"demo"}}`,
		"metadata ": `{"metadata ":{}}`,
	} {
		for _, verb := range verbs {
			for mode, code := range map[string]int{"Strict": 400, "Warn": 201, "": 201, "Ignore": 201} {
				verb.ready(f)
				got := f.post(f.path("/demo/"+verb.name+"?fieldValidation="+mode), body)
				if got.code != code {
					t.Errorf("%s %s (%s): %d %s", verb.name, body, mode, got.code, got.body)
					continue
				}
				warned := strings.Contains(got.warnings(), fmt.Sprintf(`%s\"`, name))
				switch mode {
				case "Strict":
					if !strings.Contains(got.status(f).Message, name) || f.get("demo").Status.Phase == verb.then {
						t.Errorf("%s %s (%s): %s", verb.name, body, mode, got.body)
					}
				case "Ignore":
					if got.warnings() != "" {
						t.Errorf("%s %s (%s): warned of %q", verb.name, body, mode, got.warnings())
					}
				default:
					if !warned {
						t.Errorf("%s %s (%s): warned of %q", verb.name, body, mode, got.warnings())
					}
				}
			}
		}
	}
}

func TestVerbPreconditions(t *testing.T) {
	f := newFixture(t)
	created := f.create(sandbox("demo"))
	for _, verb := range verbs {
		verb.ready(f)
		current := f.get("demo").ResourceVersion
		for _, test := range []struct {
			preconditions string
			code          int
		}{
			{`{"uid":"another"}`, 409},
			{`{"resourceVersion":"1"}`, 409},
			{`{"resourceVersion":"yesterday"}`, 409},
			{fmt.Sprintf(`{"uid":%q,"resourceVersion":"1"}`, created.UID), 409},
			{fmt.Sprintf(`{"uid":"another","resourceVersion":%q}`, current), 409},
			{fmt.Sprintf(`{"uid":%q,"resourceVersion":%q}`, created.UID, current), 201},
		} {
			got := f.post(f.path("/demo/"+verb.name), `{"metadata":`+test.preconditions+`}`)
			if got.code != test.code {
				t.Errorf("%s with %s: %d %s", verb.name, test.preconditions, got.code, got.body)
			}
			if test.code == 409 && (got.status(f).Reason != metav1.StatusReasonConflict || f.get("demo").ResourceVersion != current) {
				t.Errorf("%s with %s: %s", verb.name, test.preconditions, got.body)
			}
		}
	}
}

func TestADryRunStoresNothing(t *testing.T) {
	f := newFixture(t)
	f.create(sandbox("demo"))
	for _, verb := range verbs {
		verb.ready(f)
		before := f.get("demo")
		w := f.watch("sandboxes", "watch=true&resourceVersion="+before.ResourceVersion)
		var would v1alpha1.Sandbox
		f.post(f.path("/demo/"+verb.name+"?dryRun=All"), "").decode(f, &would)
		if would.Status.Phase != verb.then || would.Generation != before.Generation+1 {
			t.Errorf("%s would make it %s of generation %d", verb.name, would.Status.Phase, would.Generation)
		}
		if got := f.post(f.path("/demo/"+verb.name+"?dryRun=Perhaps"), ""); got.code != 422 || !strings.Contains(got.status(f).Message, "dryRun") {
			t.Errorf("%s, perhaps: %d %s", verb.name, got.code, got.body)
		}
		if after := f.get("demo"); after.ResourceVersion != before.ResourceVersion {
			t.Errorf("a dry run of %s wrote", verb.name)
		}
		f.post(f.path("/demo/"+verb.name), "").object(f)
		if e := w.next(f); !strings.Contains(string(e.Object), string(verb.then)) || e.meta(f).Generation != before.Generation+1 {
			t.Errorf("the first event after a dry run of %s is %s %s", verb.name, e.Type, e.Object)
		}
	}
	for _, kind := range kinds {
		f.post(f.pathOf(kind.resource, "?dryRun=All"), manifest(kind.kind, `{"name":"dry"}`, kind.spec, `{}`)).object(f)
		if got := f.read(f.pathOf(kind.resource, "/dry")); got.code != 404 {
			t.Errorf("a dry run of a create stored a %s: %d", kind.kind, got.code)
		}
	}
}

// A verb is a POST and nothing else.
func TestVerbsAreOnlyPosted(t *testing.T) {
	f := newFixture(t)
	f.create(sandbox("demo"))
	for _, verb := range verbs {
		verb.ready(f)
		for _, method := range []string{http.MethodGet, http.MethodPut, http.MethodPatch, http.MethodDelete, http.MethodHead, "SPRINT"} {
			var body io.Reader
			if method == http.MethodPut || method == http.MethodPatch {
				body = strings.NewReader("{}")
			}
			got := f.send(admin, method, f.path("/demo/"+verb.name), body, http.Header{"Content-Type": {asMergePatch}})
			if got.code != 405 {
				t.Errorf("%s of %s: %d %s", method, verb.name, got.code, got.body)
			}
			if method != http.MethodHead && got.status(f).Code != 405 {
				t.Errorf("%s of %s: %s", method, verb.name, got.body)
			}
		}
		if f.get("demo").Status.Phase == verb.then {
			t.Errorf("%s by another method than POST", verb.name)
		}
	}
}
