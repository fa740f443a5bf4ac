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
	"bytes"
	"encoding/base64"
	"encoding/json"
	"fmt"
	"net/http"
	"net/url"
	"slices"
	"strings"
	"testing"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

// badRequest is one that must be refused.
type badRequest struct {
	name, method, path, contentType, body string
	// code is the answer's; zero: any from 400 to 499.
	code int
	// names is what the answer must name: a field, which a 422 must have among its causes too, or a
	// word where there is no field.
	names string
}

// refused sends the requests. Each must be answered with a Status that says what is wrong.
func (f *fixture) refused(requests []badRequest) {
	f.Helper()
	for _, r := range requests {
		f.T.Run(r.name, func(t *testing.T) {
			f := f.within(t)
			got := f.request(r.method, r.path, r.contentType, r.body)
			if got.code < 400 || got.code > 499 || (r.code != 0 && got.code != r.code) {
				t.Fatalf("got %d %.1000s, want %d", got.code, got.body, r.code)
			}
			status := got.status(f)
			if int(status.Code) != got.code || status.Status != metav1.StatusFailure || status.Reason == metav1.StatusReasonUnknown || status.Message == "" {
				t.Errorf("the answer is no clear Status: %.1000s", got.body)
			}
			if !strings.Contains(status.Message, r.names) {
				t.Errorf("the answer does not name %q: %.1000s", r.names, status.Message)
			}
			// What is wrong with an operation of a JSON patch has no field.
			if got.code == http.StatusUnprocessableEntity && r.contentType != asJSONPatch {
				if fields := causes(status); len(fields) == 0 || r.names != "" && !slices.Contains(fields, r.names) {
					t.Errorf("no cause has the field %q: %.1000s", r.names, got.body)
				}
			}
			if len(got.body) > 64<<10 {
				t.Errorf("an answer of %d bytes", len(got.body))
			}
		})
	}
}

// replaced is a valid object of a kind with one field replaced: a path such as spec.template, and
// JSON; empty JSON leaves the field out.
func (f *fixture) replaced(kind int, path, value string) string {
	f.Helper()
	var object map[string]any
	f.must(json.Unmarshal([]byte(manifest(kinds[kind].kind, `{"name":"bad"}`, kinds[kind].spec, `{}`)), &object))
	at, steps := object, strings.Split(path, ".")
	for _, step := range steps[:len(steps)-1] {
		if at[step] == nil {
			at[step] = map[string]any{}
		}
		at = at[step].(map[string]any)
	}
	last := steps[len(steps)-1]
	if delete(at, last); value != "" {
		at[last] = json.RawMessage(value)
	}
	var body bytes.Buffer
	encoder := json.NewEncoder(&body)
	encoder.SetEscapeHTML(false)
	if err := encoder.Encode(object); err != nil {
		// Not JSON at all: put it in as it is.
		at[last] = "@"
		return strings.Replace(f.encode(object), `"@"`, value, 1)
	}
	return body.String()
}

// repeated is a JSON list or object of many members, each made from its number.
func repeated(n int, opening, member, closing string) string {
	var all []string
	for i := range n {
		all = append(all, fmt.Sprintf(member, i))
	}
	return opening + strings.Join(all, ",") + closing
}

func TestBadBodies(t *testing.T) {
	f := newFixture(t)
	long := func(n int) string { return strings.Repeat("a", n) }
	deep := func(opening, closing string, n int) string {
		return strings.Repeat(opening, n) + strings.Repeat(closing, n)
	}
	var requests []badRequest
	for i, kind := range kinds {
		containers := kind.policy + ".containers"
		add := func(name, path, value string, code int, names string) {
			requests = append(requests, badRequest{kind.kind + ": " + name, http.MethodPost, f.pathOf(kind.resource, ""), asJSON, f.replaced(i, path, value), code, names})
		}
		raw := func(name, contentType, body string, code int, names string) {
			requests = append(requests, badRequest{kind.kind + ": " + name, http.MethodPost, f.pathOf(kind.resource, ""), contentType, body, code, names})
		}
		raw("nothing", asJSON, "", 400, "")
		raw("no JSON", asJSON, "hello", 400, "json")
		raw("half of it", asJSON, `{"kind":`, 400, "")
		raw("two of them", asJSON, f.replaced(i, "metadata.name", `"a"`)+f.replaced(i, "metadata.name", `"b"`), 400, "")
		raw("an array", asJSON, "[]", 400, "")
		raw("a string", asJSON, `"x"`, 400, "")
		raw("null", asJSON, "null", 422, "metadata.name")
		raw("no UTF-8", asJSON, "\xff\xfe{}", 400, "")
		raw("zeros", asJSON, strings.Repeat("\x00", 100), 400, "")
		raw("deep arrays", asJSON, deep("[", "]", 100_000), 400, "")
		raw("deep objects", asJSON, deep(`{"a":`, "}", 100_000), 400, "")
		raw("deep YAML", asYAML, deep("[", "]", 100_000), 400, "")
		raw("YAML that grows", asYAML, "a: &a [x,x,x,x,x,x,x,x,x]\nb: &b [*a,*a,*a,*a,*a,*a,*a,*a,*a]\nc: &c [*b,*b,*b,*b,*b,*b,*b,*b,*b]\nd: &d [*c,*c,*c,*c,*c,*c,*c,*c,*c]\ne: &e [*d,*d,*d,*d,*d,*d,*d,*d,*d]\nf: &f [*e,*e,*e,*e,*e,*e,*e,*e,*e]\ng: &g [*f,*f,*f,*f,*f,*f,*f,*f,*f]\n", 400, "")
		raw("broken YAML", asYAML, "a: [", 400, "")
		raw("protobuf", "application/vnd.kubernetes.protobuf", "k8s\x00", 415, asJSON)
		raw("another content type", "text/plain", "{}", 415, asJSON)
		raw("more than 3 MiB", asJSON, `{"metadata":{"annotations":{"a":"`+long(3<<20)+`"}}}`, 413, "limit")

		add("another kind", "kind", `"Pod"`, 400, "Pod")
		add("another group", "apiVersion", `"example.com/v1"`, 400, "example.com")
		add("another version", "apiVersion", `"lifecycle.opensandbox.io/v9"`, 400, "v9")
		add("a kind that is a number", "kind", "3", 400, "")
		add("a list of them", "kind", `"`+kind.kind+`List"`, 400, kind.kind+"List")
		add("the options of a delete", "kind", `"DeleteOptions"`, 400, "DeleteOptions")
		add("no name", "metadata.name", "", 422, "metadata.name")
		add("a name of 10 KiB", "metadata.name", `"`+long(10<<10)+`"`, 422, "metadata.name")
		add("a name that is no UTF-8", "metadata.name", "\"a\xffb\"", 422, "metadata.name")
		add("a name that is a number", "metadata.name", "3", 400, "name")
		add("another namespace", "metadata.namespace", `"elsewhere"`, 400, "namespace")
		add("metadata that is an array", "metadata", "[]", 400, "metadata")
		add("spec that is an array", "spec", "[]", 400, "spec")
		add("spec that is a string", "spec", `"x"`, 400, "spec")
		add("labels that are an array", "metadata.labels", "[]", 400, "labels")
		add("a label that is a number", "metadata.labels", `{"a":3}`, 400, "labels")
		add("a label that is none", "metadata.labels", `{"a b":"c"}`, 422, "metadata.labels")
		add("very many labels", "metadata.labels", repeated(5_000, "{", `"label-%d":"`+long(60)+`"`, "}"), 422, "metadata")
		add("annotations of a megabyte", "metadata.annotations", `{"a":"`+long(1<<20)+`"}`, 422, "metadata.annotations")
		add("very many finalizers", "metadata.finalizers", repeated(6_000, "[", `"example.com/`+long(40)+`-%d"`, "]"), 422, "metadata")
		add("a finalizer that is none", "metadata.finalizers", `["a b"]`, 422, "metadata.finalizers")
		add("very many owners", "metadata.ownerReferences", repeated(5_000, "[", `{"apiVersion":"v1","kind":"Pod","name":"`+long(60)+`","uid":"%d"}`, "]"), 422, "metadata")
		add("an owner without a name", "metadata.ownerReferences", `[{"apiVersion":"v1","kind":"Pod","uid":"x"}]`, 422, "metadata.ownerReferences[0].name")
		add("a time that is none", "metadata.creationTimestamp", `"yesterday"`, 400, "yesterday")
		add("a generation that is none", "metadata.generation", `"one"`, 400, "generation")
		add("a resourceVersion", "metadata.resourceVersion", `"5"`, 422, "metadata.resourceVersion")
		add("a resourceVersion that is none", "metadata.resourceVersion", `"yesterday"`, 422, "metadata.resourceVersion")
		add("a status that is an array", "status", "[]", 400, "status")
		add("an unknown field, strictly", "spec.patience", "3", 400, "patience")
		requests[len(requests)-1].path += "?fieldValidation=Strict"
		add("a containers' list that is an object", containers, "{}", 400, "containers")
		add("a container twice", containers, `["main","main"]`, 422, containers+"[1]")
		add("a container that no Pod has", containers, `["No Name"]`, 422, containers+"[0]")
		add("more containers than any Pod has", containers, repeated(300, "[", `"c%d"`, "]"), 422, containers)
		add("an unknown deletion policy", kind.policy+".deletionPolicy", `"Perhaps"`, 422, kind.policy+".deletionPolicy")
	}
	for _, test := range []struct {
		kind              int
		name, path, value string
		code              int
		names             string
	}{
		{0, "an unknown desired state", "spec.desiredState", `"Asleep"`, 422, "spec.desiredState"},
		{0, "a desired state that is a number", "spec.desiredState", "1", 400, "desiredState"},
		{0, "no template", "spec.template", "", 422, "spec.template"},
		{0, "a template that is an array", "spec.template", "[]", 400, "template"},
		{0, "a template that is empty", "spec.template", "{}", 422, "spec.template.spec.containers"},
		{0, "a template too large", "spec.template.metadata.annotations", `{"a":"` + long(70<<10) + `"}`, 422, "spec.template"},
		{0, "a history limit of none", "spec.snapshot.historyLimit", "0", 422, "spec.snapshot.historyLimit"},
		{0, "a negative history limit", "spec.snapshot.historyLimit", "-1", 422, "spec.snapshot.historyLimit"},
		{0, "a history limit beyond all numbers", "spec.snapshot.historyLimit", "99999999999999999999", 400, "historyLimit"},
		{0, "a history limit with a fraction", "spec.snapshot.historyLimit", "1.5", 400, "historyLimit"},
		{0, "containers that are an object", "spec.template.spec.containers", `{"name":"main"}`, 400, "containers"},
		{0, "a container without an image", "spec.template.spec.containers", `[{"name":"main"}]`, 422, "spec.template.spec.containers[0].image"},
		{0, "a container without a name", "spec.template.spec.containers", `[{"image":"a"}]`, 422, "spec.template.spec.containers[0].name"},
		{0, "two containers of a name", "spec.template.spec.containers", `[{"name":"main","image":"a"},{"name":"main","image":"b"}]`, 422, "spec.template.spec.containers[1].name"},
		{0, "a port beyond all ports", "spec.template.spec.containers", `[{"name":"main","image":"a","ports":[{"containerPort":70000}]}]`, 422, "spec.template.spec.containers[0].ports[0].containerPort"},
		{0, "a negative port", "spec.template.spec.containers", `[{"name":"main","image":"a","ports":[{"containerPort":-1}]}]`, 422, "spec.template.spec.containers[0].ports[0].containerPort"},
		{0, "a quantity that is none", "spec.template.spec.containers", `[{"name":"main","image":"a","resources":{"requests":{"cpu":"much"}}}]`, 400, "quantit"},
		{0, "a mount of no volume", "spec.template.spec.containers", `[{"name":"main","image":"a","volumeMounts":[{"name":"x","mountPath":"/x"}]}]`, 422, "spec.template.spec.containers[0].volumeMounts[0].name"},
		{0, "a container to keep that there is not", "spec.snapshot.containers", `["side"]`, 422, "spec.snapshot.containers[0]"},
		{0, "nothing to restore from", "spec.restoreFrom", "{}", 422, "spec.restoreFrom.snapshotName"},
		{0, "a bad name to restore from", "spec.restoreFrom.snapshotName", `"../x"`, 422, "spec.restoreFrom.snapshotName"},
		{0, "to restore from an array", "spec.restoreFrom", "[]", 400, "restoreFrom"},
		{1, "no sandbox", "spec.sandboxName", "", 422, "spec.sandboxName"},
		{1, "a sandbox that cannot be", "spec.sandboxName", `"A.B"`, 422, "spec.sandboxName"},
		{1, "a sandbox's name beyond all names", "spec.sandboxName", `"` + long(1000) + `"`, 422, "spec.sandboxName"},
		{1, "no spec", "spec", "", 422, "spec.sandboxName"},
	} {
		requests = append(requests, badRequest{kinds[test.kind].kind + ": " + test.name, http.MethodPost, f.pathOf(kinds[test.kind].resource, ""), asJSON,
			f.replaced(test.kind, test.path, test.value), test.code, test.names})
	}
	f.refused(requests)
	for _, kind := range kinds {
		if names := f.names(f.pathOf(kind.resource, "")); len(names) != 0 {
			t.Errorf("stored: %s %q", kind.resource, names)
		}
	}
}

func TestBadVerbBodies(t *testing.T) {
	f := newFixture(t)
	f.create(sandbox("demo"))
	before := f.asRunning("demo")
	var requests []badRequest
	for _, verb := range []string{"pause", "resume"} {
		for _, test := range []struct {
			name, contentType, body string
			code                    int
			names                   string
		}{
			{"no JSON", asJSON, "hello", 400, "json"},
			{"half of it", asJSON, `{"metadata":`, 400, ""},
			{"an array", asJSON, "[]", 400, ""},
			{"a string", asJSON, `"x"`, 400, ""},
			{"no UTF-8", asJSON, "\xff", 400, ""},
			{"broken YAML", asYAML, "a: [", 400, ""},
			{"deep arrays", asJSON, strings.Repeat("[", 100_000), 400, ""},
			{"more than 3 MiB", asJSON, `{"metadata":{"annotations":{"a":"` + strings.Repeat("a", 3<<20) + `"}}}`, 413, "limit"},
			{"a Sandbox", asJSON, `{"kind":"Sandbox","apiVersion":"lifecycle.opensandbox.io/v1alpha1"}`, 400, "Sandbox"},
			{"another group", asJSON, `{"kind":"Sandbox` + strings.ToUpper(verb[:1]) + verb[1:] + `","apiVersion":"example.com/v1"}`, 400, "example.com"},
			{"another version", asJSON, `{"kind":"Sandbox` + strings.ToUpper(verb[:1]) + verb[1:] + `","apiVersion":"lifecycle.opensandbox.io/v9"}`, 400, "v9"},
			{"the internal version", asJSON, `{"kind":"Sandbox` + strings.ToUpper(verb[:1]) + verb[1:] + `","apiVersion":"lifecycle.opensandbox.io/__internal"}`, 400, "internal"},
			{"another name", asJSON, `{"metadata":{"name":"other"}}`, 400, "metadata.name"},
			{"another namespace", asJSON, `{"metadata":{"namespace":"other"}}`, 400, "namespace"},
			{"metadata that is an array", asJSON, `{"metadata":[]}`, 400, "metadata"},
			{"a uid that is a number", asJSON, `{"metadata":{"uid":3}}`, 400, "uid"},
			{"an unknown field, strictly", asJSON, `{"spec":{}}`, 400, "spec"},
		} {
			path := f.path("/demo/" + verb + "?fieldValidation=Strict")
			requests = append(requests, badRequest{verb + ": " + test.name, http.MethodPost, path, test.contentType, test.body, test.code, test.names})
		}
	}
	for _, test := range []badRequest{
		{"a snapshot that cannot be", "", "", "", `{"snapshotName":"../x"}`, 422, "snapshotName"},
		{"a snapshot that is a number", "", "", "", `{"snapshotName":3}`, 400, "snapshotName"},
		{"a snapshot's name beyond all names", "", "", "", `{"snapshotName":"` + strings.Repeat("a", 10_000) + `"}`, 422, "snapshotName"},
		{"a snapshot that there is not", "", "", "", `{"snapshotName":"missing"}`, 409, "missing"},
		{"from the template, perhaps", "", "", "", `{"fromTemplate":"perhaps"}`, 400, "fromTemplate"},
		{"from two places", "", "", "", `{"fromTemplate":true,"snapshotName":"demo-gen1"}`, 422, "snapshotName"},
	} {
		requests = append(requests, badRequest{"resume: " + test.name, http.MethodPost, f.path("/demo/resume"), asJSON, test.body, test.code, test.names})
	}
	f.refused(requests)
	if after := f.get("demo"); after.ResourceVersion != before.ResourceVersion {
		t.Errorf("something was stored: %+v", after)
	}
}

func TestBadPatches(t *testing.T) {
	f := newFixture(t)
	f.create(sandbox("demo"))
	f.post(f.pathOf("sandboxsnapshots", ""), manifest("SandboxSnapshot", `{"name":"demo"}`, `{"sandboxName":"demo"}`, `{}`)).object(f)
	before := f.get("demo")
	var requests []badRequest
	for _, kind := range kinds {
		for _, below := range []string{"", "/status"} {
			for _, test := range []struct {
				name, contentType, body string
				code                    int
				names                   string
			}{
				{"nothing", asMergePatch, "", 400, ""},
				{"no JSON", asMergePatch, "hello", 400, ""},
				{"an array to merge", asMergePatch, "[]", 400, ""},
				{"a string to merge", asMergePatch, `"x"`, 400, ""},
				{"a number to merge strategically", asStrategicPatch, "3", 400, ""},
				{"an unknown directive", asStrategicPatch, `{"$patch":"explode"}`, 0, ""},
				{"metadata that is an array", asMergePatch, `{"metadata":[]}`, 422, "patch"},
				{"another kind", asMergePatch, `{"kind":"Pod"}`, 422, "patch"},
				{"another version", asMergePatch, `{"apiVersion":"lifecycle.opensandbox.io/v9"}`, 422, "patch"},
				{"another name", asMergePatch, `{"metadata":{"name":"other"}}`, 0, "name"},
				{"another uid", asMergePatch, `{"metadata":{"uid":"other"}}`, 422, "metadata.uid"},
				{"an old version", asMergePatch, `{"metadata":{"resourceVersion":"1"}}`, 409, ""},
				{"a version that is none", asMergePatch, `{"metadata":{"resourceVersion":"yesterday"}}`, 422, "metadata.resourceVersion"},
				{"an object for a list of operations", asJSONPatch, `{}`, 400, ""},
				{"an unknown operation", asJSONPatch, `[{"op":"explode","path":"/"}]`, 0, "patch"},
				{"a test that fails", asJSONPatch, `[{"op":"test","path":"/metadata/name","value":"x"}]`, 422, "patch"},
				{"a path that is not there", asJSONPatch, `[{"op":"remove","path":"/spec/a/b/c"}]`, 422, "patch"},
				{"a path that is none", asJSONPatch, `[{"op":"add","path":"metadata","value":1}]`, 0, "patch"},
				{"too many operations", asJSONPatch, repeated(10_001, "[", `{"op":"test","path":"/kind","value":"%d"}`, "]"), 413, ""},
				{"copies of copies", asJSONPatch, `[{"op":"add","path":"/metadata/annotations","value":{"a":"` + strings.Repeat("x", 1<<20) + `"}},` +
					repeated(20, "", `{"op":"copy","from":"/metadata/annotations","path":"/metadata/annotations/b%d"}`, "]"), 0, "patch"},
				{"the whole replaced by a string", asJSONPatch, `[{"op":"replace","path":"","value":"x"}]`, 0, "patch"},
				{"an apply of no YAML", asApply, "a: [", 400, ""},
				{"an apply of a string", asApply, "hello", 400, ""},
				{"an apply of another kind", asApply, `{"apiVersion":"v1","kind":"Pod","metadata":{"name":"demo"}}`, 400, ""},
				{"an apply of no kind", asApply, `{"metadata":{"name":"demo"}}`, 400, ""},
				{"an apply of another name", asApply, manifest(kind.kind, `{"name":"other"}`, kind.spec, `{}`), 400, "name"},
				{"an apply with managed fields", asApply, manifest(kind.kind, `{"name":"demo","managedFields":[{"manager":"x"}]}`, kind.spec, `{}`), 400, "managedFields"},
				{"an apply with an array for metadata", asApply, `{"apiVersion":"lifecycle.opensandbox.io/v1alpha1","kind":"` + kind.kind + `","metadata":[]}`, 400, ""},
				{"an apply with an array for spec", asApply, manifest(kind.kind, `{"name":"demo"}`, `[]`, `{}`), 400, "spec"},
				{"an apply with a label that is a number", asApply, manifest(kind.kind, `{"name":"demo","labels":{"a":3}}`, kind.spec, `{}`), 400, "labels"},
				{"an apply of 3 MiB", asApply, manifest(kind.kind, `{"name":"demo","annotations":{"a":"`+strings.Repeat("x", 3<<20)+`"}}`, kind.spec, `{}`), 413, "limit"},
				{"another content type", "application/patch", "{}", 415, asMergePatch},
				{"JSON", asJSON, "{}", 415, asMergePatch},
				{"no content type", "", "{}", 415, asMergePatch},
				{"CBOR", "application/apply-patch+cbor", "\xa0", 415, asMergePatch},
			} {
				path := f.pathOf(kind.resource, "/demo"+below+"?fieldManager=x")
				if test.contentType != asApply {
					path = strings.TrimSuffix(path, "?fieldManager=x")
				}
				requests = append(requests, badRequest{kind.resource + below + ": " + test.name, http.MethodPatch, path, test.contentType, test.body, test.code, test.names})
			}
			status := badRequest{kind.resource + below + ": a status that is none", http.MethodPatch, f.pathOf(kind.resource, "/demo/status"), asMergePatch, "", 422, "status.phase"}
			status.body = `{"status":{"phase":"Asleep"}}`
			requests = append(requests, status)
		}
	}
	for _, test := range []struct{ resource, name, body, field string }{
		{"sandboxes", "attempts counted down", `{"status":{"snapshotAttempts":-1}}`, "status.snapshotAttempts"},
		{"sandboxes", "failures counted down", `{"status":{"failedAttempts":-1}}`, "status.failedAttempts"},
		{"sandboxes", "failed Pods counted down", `{"status":{"failedPods":-1}}`, "status.failedPods"},
		{"sandboxes", "a condition of no type", `{"status":{"conditions":[{"status":"True","reason":"A","message":"","lastTransitionTime":"2026-01-01T00:00:00Z"}]}}`, "status.conditions[0].type"},
		{"sandboxes", "a condition twice", repeated(2, `{"status":{"conditions":[`, `{"type":"A","status":"True","reason":"A%d","message":"","lastTransitionTime":"2026-01-01T00:00:00Z"}`, `]}}`), "status.conditions[1]"},
		{"sandboxsnapshots", "a container twice", `{"status":{"containers":[{"containerName":"a"},{"containerName":"a"}]}}`, "status.containers[1].containerName"},
		{"sandboxsnapshots", "a container of no name", `{"status":{"containers":[{"containerID":"a"}]}}`, "status.containers[0].containerName"},
		{"sandboxsnapshots", "a layer of negative size", `{"status":{"containers":[{"containerName":"a","layerBytes":-1}]}}`, "status.containers[0].layerBytes"},
		{"sandboxsnapshots", "a success of nothing", `{"status":{"phase":"Succeed"}}`, "status.containers"},
	} {
		requests = append(requests, badRequest{test.resource + ": " + test.name, http.MethodPatch, f.pathOf(test.resource, "/demo/status"), asMergePatch, test.body, 422, test.field})
	}
	f.refused(requests)
	if after := f.get("demo"); after.ResourceVersion != before.ResourceVersion {
		t.Errorf("something was stored: %s", f.encode(after))
	}
}

func TestBadPathsAndParameters(t *testing.T) {
	f := newFixture(t)
	f.create(sandbox("demo"))
	elsewhere := func(namespace, below string) string { return group + "/namespaces/" + namespace + "/sandboxes" + below }
	requests := []badRequest{
		{"an unknown resource", "GET", f.pathOf("sandwiches", ""), "", "", 404, ""},
		{"an unknown subresource", "POST", f.path("/demo/freeze"), asJSON, "{}", 404, ""},
		{"an unknown version", "GET", "/apis/lifecycle.opensandbox.io/v9/sandboxes", "", "", 404, ""},
		{"a sandbox that is not there", "GET", f.path("/missing"), "", "", 404, "missing"},
		{"a name beyond all names", "GET", f.path("/" + strings.Repeat("a", 10_000)), "", "", 0, ""},
		{"a pause of a name beyond all names", "POST", f.path("/" + strings.Repeat("a", 10_000) + "/pause"), asJSON, "{}", 0, ""},
		{"a pause of a name that cannot be", "POST", f.path("/No_Name/pause"), asJSON, "{}", 404, ""},
		{"a name with a zero", "GET", f.path("/a%00b"), "", "", 0, ""},
		{"a name that is no UTF-8", "GET", f.path("/%ff"), "", "", 0, ""},
		{"a pause of a name with a zero", "POST", f.path("/a%00b/pause"), asJSON, "{}", 0, ""},
		{"a name that climbs", "GET", f.path("/%2e%2e"), "", "", 0, ""},
		{"a name with a slash", "GET", f.path("/a%2fb"), "", "", 0, ""},
		{"a name with a percent", "GET", f.path("/a%25b"), "", "", 0, ""},
		{"a namespace that climbs", "GET", elsewhere("%2e%2e", "/demo"), "", "", 0, ""},
		{"a list of a namespace that climbs", "GET", elsewhere("%2e%2e", ""), "", "", 0, ""},
		{"a namespace that climbs further", "GET", elsewhere("..%2f..%2fx", "/demo"), "", "", 0, ""},
		{"a pause in a namespace that climbs", "POST", elsewhere("..%2fx", "/demo/pause"), asJSON, "{}", 0, ""},
		{"a create in a namespace that cannot be", "POST", elsewhere("No_Name", ""), asJSON, manifest("Sandbox", `{"name":"demo"}`, kinds[0].spec, `{}`), 422, "metadata.namespace"},
		{"a create in a namespace with a zero", "POST", elsewhere("a%00b", ""), asJSON, manifest("Sandbox", `{"name":"demo"}`, kinds[0].spec, `{}`), 0, ""},
		{"a create in a namespace that climbs", "POST", elsewhere("..", ""), asJSON, manifest("Sandbox", `{"name":"demo"}`, kinds[0].spec, `{}`), 0, ""},
		{"a put of what is not there", "PUT", f.path("/missing"), asJSON, manifest("Sandbox", `{"name":"missing","resourceVersion":"1"}`, kinds[0].spec, `{}`), 404, "missing"},
		{"a put of another name", "PUT", f.path("/demo"), asJSON, manifest("Sandbox", `{"name":"other","resourceVersion":"1"}`, kinds[0].spec, `{}`), 400, "name"},
		{"a put of another namespace", "PUT", f.path("/demo"), asJSON, manifest("Sandbox", `{"name":"demo","namespace":"other","resourceVersion":"1"}`, kinds[0].spec, `{}`), 400, "namespace"},
		{"a put of another uid", "PUT", f.path("/demo"), asJSON, manifest("Sandbox", `{"name":"demo","uid":"other","resourceVersion":"1"}`, kinds[0].spec, `{}`), 409, "other"},
		{"a put of nothing", "PUT", f.path("/demo"), asJSON, "", 400, ""},
		{"a post to an object", "POST", f.path("/demo"), asJSON, "{}", 405, ""},
		{"a put to the list", "PUT", f.path(""), asJSON, "{}", 405, ""},
		{"a create in no namespace", "POST", group + "/sandboxes", asJSON, manifest("Sandbox", `{"name":"demo"}`, kinds[0].spec, `{}`), 405, ""},
		{"a delete with a body that is none", "DELETE", f.path("/demo?dryRun=All"), asJSON, "hello", 400, ""},
		{"a delete with another kind", "DELETE", f.path("/demo"), asJSON, `{"kind":"Sandbox","apiVersion":"lifecycle.opensandbox.io/v1alpha1"}`, 400, ""},
		{"a delete with a negative grace", "DELETE", f.path("/demo"), asJSON, `{"kind":"DeleteOptions","apiVersion":"v1","gracePeriodSeconds":-1,"preconditions":{"uid":"x"}}`, 0, ""},
		{"a delete in an unknown way", "DELETE", f.path("/demo?propagationPolicy=Sideways"), "", "", 422, "propagationPolicy"},
		{"a delete of all in an unknown way", "DELETE", f.path("?propagationPolicy=Sideways"), "", "", 422, "propagationPolicy"},
		{"a delete of an unknown selection", "DELETE", f.path("?fieldSelector=spec.x%3Dy"), "", "", 400, "spec.x"},
	}
	for query, names := range map[string]string{
		"fieldValidation=Perhaps":                     "fieldValidation",
		"dryRun=Some":                                 "dryRun",
		"fieldManager=" + strings.Repeat("x", 129):    "fieldManager",
		"fieldManager=" + url.QueryEscape("a\x01b"):   "fieldManager",
		"fieldManager=" + url.QueryEscape("a\u200bb"): "fieldManager",
	} {
		for name, path := range map[string]string{"create": f.path(""), "pause": f.path("/demo/pause"), "resume": f.path("/demo/resume")} {
			body := "{}"
			if name == "create" {
				body = manifest("Sandbox", `{"name":"new"}`, kinds[0].spec, `{}`)
			}
			requests = append(requests, badRequest{name + " with " + query, http.MethodPost, path + "?" + query, asJSON, body, 422, names})
		}
		requests = append(requests, badRequest{"patch with " + query, http.MethodPatch, f.path("/demo?" + query), asMergePatch, "{}", 422, names})
	}
	for query, code := range map[string]int{
		"limit=x": 400, "limit=99999999999999999999": 400, "continue=x": 400, "timeoutSeconds=x": 400, "resourceVersion=x": 0, "resourceVersion=-1": 0,
		"resourceVersionMatch=Exact": 0, "resourceVersionMatch=Sometimes&resourceVersion=1": 0, "continue=e30&resourceVersion=5": 0,
		"labelSelector=%21%21": 400, "fieldSelector=x": 400, "fieldSelector=metadata.uid%3D1": 400,
	} {
		requests = append(requests, badRequest{"list with " + query, http.MethodGet, f.path("?" + query), "", "", code, ""})
	}
	for query, code := range map[string]int{
		"resourceVersion=x": 0, "resourceVersion=-1": 0, "timeoutSeconds=x": 400, "labelSelector=%21%21": 400, "sendInitialEvents=true": 0, "resourceVersionMatch=Exact&resourceVersion=1": 0,
	} {
		requests = append(requests, badRequest{"watch with " + query, http.MethodGet, f.path("?watch=true&" + query), "", "", code, ""})
	}
	climbing := base64.RawURLEncoding.EncodeToString([]byte(`{"v":"meta.k8s.io/v1","rv":1,"start":"../../x"}`))
	requests = append(requests, badRequest{"a next page that climbs", http.MethodGet, f.path("?limit=1&continue=" + climbing), "", "", 400, "continue"})
	for query, code := range map[string]int{"resourceVersion=x": 0, "resourceVersion=-1": 0} {
		requests = append(requests, badRequest{"get with " + query, http.MethodGet, f.path("/demo?" + query), "", "", code, ""})
	}
	f.refused(requests)
	if s := f.get("demo"); s.DeletionTimestamp != nil || s.Generation != 1 {
		t.Errorf("something was stored: %s", f.encode(s))
	}
}
