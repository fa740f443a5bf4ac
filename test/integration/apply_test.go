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
	"slices"
	"strings"
	"testing"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
)

// apply applies a part of the sandbox demo as a field manager. below is a subresource, or empty.
func (f *fixture) apply(manager, below string, force bool, part string) answer {
	f.Helper()
	body := `{"apiVersion":"lifecycle.opensandbox.io/v1alpha1","kind":"Sandbox","metadata":{"name":"demo"},` + part + `}`
	return f.patch(f.path(fmt.Sprintf("/demo%s?fieldManager=%s&force=%t", below, manager, force)), asApply, body)
}

// owned is what a manager owns through a subresource, as the JSON of its fields; empty for nothing.
func owned(object *unstructured.Unstructured, manager, subresource string) string {
	var fields []string
	for _, entry := range object.GetManagedFields() {
		if entry.Manager == manager && entry.Subresource == subresource {
			fields = append(fields, entry.FieldsV1.GetRawString())
		}
	}
	return strings.Join(fields, " ")
}

// wantConflict checks for the conflict of an apply, about a field and with another manager.
func (f *fixture) wantConflict(got answer, field, with string) {
	f.Helper()
	status := got.status(f)
	if got.code != 409 || !slices.Contains(causes(status), field) || !strings.Contains(status.Message, with) ||
		status.Details.Causes[0].Type != metav1.CauseTypeFieldManagerConflict {
		f.Errorf("got %d %s, want a conflict with %q about %s", got.code, got.body, with, field)
	}
}

const aTemplate = `"template":{"spec":{"containers":[{"name":"main","image":"busybox"}]}}`

func TestApplyToTheSpec(t *testing.T) {
	f := newFixture(t)
	f.apply("a", "", false, `"spec":{`+aTemplate+`,"snapshot":{"historyLimit":5}}`).object(f)

	// A default is nobody's.
	f.apply("b", "", false, `"spec":{"snapshot":{"deletionPolicy":"Retain"}}`).object(f)
	shared := f.apply("b", "", false, `"spec":{"snapshot":{"historyLimit":5}}`).object(f)
	for _, manager := range []string{"a", "b"} {
		if !strings.Contains(owned(shared, manager, ""), "f:historyLimit") {
			t.Errorf("%s does not own what both have applied", manager)
		}
	}

	f.wantConflict(f.apply("c", "", false, `"spec":{"snapshot":{"historyLimit":7}}`), ".spec.snapshot.historyLimit", `"a"`)
	forced := f.apply("c", "", true, `"spec":{"snapshot":{"historyLimit":7}}`).object(f)
	if fieldOf(forced, "spec.snapshot.historyLimit") != int64(7) || !strings.Contains(owned(forced, "c", ""), "f:historyLimit") ||
		strings.Contains(owned(forced, "a", "")+owned(forced, "b", ""), "f:historyLimit") {
		t.Errorf("forced: %v, owned by %v", fieldOf(forced, "spec"), forced.GetManagedFields())
	}
	without := f.apply("a", "", false, `"spec":{`+aTemplate+`}`).object(f)
	if fieldOf(without, "spec.snapshot.historyLimit") != int64(7) {
		t.Errorf("applied without it, the field of another became %v", fieldOf(without, "spec.snapshot.historyLimit"))
	}
	given := f.apply("c", "", false, `"spec":{}`).object(f)
	if fieldOf(given, "spec.snapshot.historyLimit") != int64(3) {
		t.Errorf("given up by its only owner, the field became %v, want its default", fieldOf(given, "spec.snapshot.historyLimit"))
	}

	if got := f.apply("", "", false, `"spec":{}`); got.code != 422 || !strings.Contains(got.status(f).Message, "fieldManager") {
		t.Errorf("without a field manager: %d %s", got.code, got.body)
	}
}

func TestApplyOwnsNothingOfTheOtherEndpoint(t *testing.T) {
	f := newFixture(t)
	created := f.apply("a", "", false, `"spec":{`+aTemplate+`},"status":{"phase":"Running","nodeName":"mine"}`).object(f)
	if fieldOf(created, "status.phase") != "Pending" || fieldOf(created, "status.nodeName") != nil || strings.Contains(owned(created, "a", ""), "f:status") {
		t.Errorf("the main endpoint: status %v, owned %s", fieldOf(created, "status"), owned(created, "a", ""))
	}
	written := f.apply("b", "/status", true, `"spec":{"desiredState":"Paused","snapshot":{"historyLimit":9}},"status":{"phase":"Running","nodeName":"node-a"}`).object(f)
	if fieldOf(written, "status.phase") != "Running" || fieldOf(written, "spec.desiredState") != "Running" {
		t.Errorf("the status endpoint: %v", written.Object)
	}
	if got := owned(written, "b", "status"); !strings.Contains(got, "f:phase") || strings.Contains(got, "f:spec") || owned(written, "b", "") != "" {
		t.Errorf("the status endpoint: owned %s and %s", got, owned(written, "b", ""))
	}
	// What the main endpoint ignores cannot be in conflict either.
	again := f.apply("a", "", false, `"spec":{`+aTemplate+`},"status":{"phase":"Failed"}`).object(f)
	if fieldOf(again, "status.phase") != "Running" || !strings.Contains(owned(again, "b", "status"), "f:phase") {
		t.Errorf("a second apply: status %v", fieldOf(again, "status"))
	}
}

func TestApplyToTheStatus(t *testing.T) {
	f := newFixture(t)
	if got := f.apply("a", "/status", false, `"status":{"nodeName":"node-a"}`); got.code != 404 {
		t.Errorf("to a sandbox that does not exist: %d %s", got.code, got.body)
	}
	f.create(sandbox("demo"))
	condition := func(kind, status string) string {
		return fmt.Sprintf(`{"type":%q,"status":%q,"reason":"Example","message":"","lastTransitionTime":"2026-01-01T00:00:00Z"}`, kind, status)
	}
	f.apply("a", "/status", false, `"status":{"nodeName":"node-a","conditions":[`+condition("A", "True")+`]}`).object(f)
	f.wantConflict(f.apply("b", "/status", false, `"status":{"nodeName":"node-b"}`), ".status.nodeName", `"a"`)
	f.wantConflict(f.apply("b", "/status", false, `"status":{"conditions":[`+condition("A", "False")+`]}`), `.status.conditions[type="A"].status`, `"a"`)
	f.apply("b", "/status", false, `"status":{"conditions":[`+condition("B", "True")+`]}`).object(f)
	forced := f.apply("b", "/status", true, `"status":{"nodeName":"node-b","conditions":[`+condition("B", "True")+`]}`).object(f)
	if fieldOf(forced, "status.nodeName") != "node-b" || strings.Contains(owned(forced, "a", "status"), "f:nodeName") {
		t.Errorf("forced: %v", fieldOf(forced, "status"))
	}

	// Conditions are a map by their type: whoever gives up his own leaves those of others.
	types := func(object *unstructured.Unstructured) []string {
		var types []string
		conditions, _ := fieldOf(object, "status.conditions").([]any)
		for _, c := range conditions {
			types = append(types, c.(map[string]any)["type"].(string))
		}
		slices.Sort(types)
		return types
	}
	if got := types(forced); !slices.Equal(got, []string{"A", "B", "Paused", "Ready"}) {
		t.Errorf("conditions %q", got)
	}
	if got := types(f.apply("a", "/status", false, `"status":{}`).object(f)); !slices.Equal(got, []string{"B", "Paused", "Ready"}) {
		t.Errorf("conditions %q after a has given up its own", got)
	}
}

func TestApplyRefusesWhatTheSchemaDoesNotKnow(t *testing.T) {
	f := newFixture(t)
	f.create(sandbox("demo"))
	containers := func(of string) string { return `"spec":{"template":{"spec":{"containers":[` + of + `]}}}` }
	for name, test := range map[string]struct{ part, says string }{
		"an unknown field":      {`"spec":{"patience":3}`, "patience"},
		"a wrong type":          {`"spec":{"snapshot":{"historyLimit":"three"}}`, "historyLimit"},
		"a list for an object":  {`"spec":{"snapshot":[]}`, "snapshot"},
		"an object for a list":  {`"spec":{"snapshot":{"containers":{"a":"b"}}}`, "containers"},
		"a duplicate of a set":  {`"spec":{"snapshot":{"containers":["main","main"]}}`, "duplicate"},
		"a duplicate of a map":  {containers(`{"name":"main","image":"a"},{"name":"main","image":"b"}`), "duplicate"},
		"a list without a key":  {containers(`{"image":"a"}`), "name"},
		"a wrong value of enum": {`"spec":{"snapshot":{"deletionPolicy":"Perhaps"}}`, "deletionPolicy"},
	} {
		for _, validation := range []string{"Ignore", "Warn", "Strict"} {
			body := `{"apiVersion":"lifecycle.opensandbox.io/v1alpha1","kind":"Sandbox","metadata":{"name":"demo"},` + test.part + `}`
			got := f.patch(f.path("/demo?fieldManager=a&force=true&fieldValidation="+validation), asApply, body)
			if status := got.status(f); got.code < 400 || got.code >= 500 || !strings.Contains(status.Message, test.says) || status.Reason == metav1.StatusReasonUnknown {
				t.Errorf("%s (%s): %d %s", name, validation, got.code, got.body)
			}
		}
	}
}

// Every manager that applies an object adds a list of what it owns. etcd has a limit for all of it,
// and whoever meets it is told so.
func TestApplyByTooManyManagers(t *testing.T) {
	t.Parallel()
	f := newFixture(t)
	labels := map[string]string{}
	for i := range 780 {
		labels[fmt.Sprintf("%s/%s-%03d", strings.Repeat("a.", 126)+"a", strings.Repeat("b", 59), i)] = ""
	}
	body := fmt.Sprintf(`{"apiVersion":"lifecycle.opensandbox.io/v1alpha1","kind":"Sandbox","metadata":{"name":"demo","labels":%s},"spec":{%s}}`, f.encode(labels), aTemplate)
	var got answer
	for i := range 8 {
		if got = f.patch(f.path(fmt.Sprintf("/demo?fieldManager=m%d", i)), asApply, body); got.code >= 300 {
			break
		}
	}
	if status := got.status(f); got.code != 413 || status.Reason != metav1.StatusReasonRequestEntityTooLarge || !strings.Contains(status.Message, "field managers") {
		t.Errorf("%d %.1000s", got.code, got.body)
	}
	// The object is as it was, and whoever does not apply can still write it.
	f.patch(f.path("/demo"), asMergePatch, `{"metadata":{"labels":{"a":"b"}}}`).object(f)
	f.asRunning("demo")
	f.post(f.path("/demo/pause"), "").object(f)
}
