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
	"net/http"
	"slices"
	"strings"
	"testing"

	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
)

// paused makes the sandbox demo by apply as a manager that leaves the desired state to others, and
// pauses it with the verb.
func (f *fixture) paused(manager string) *unstructured.Unstructured {
	f.Helper()
	f.apply(manager, "", false, `"spec":{`+aTemplate+`}`).object(f)
	f.asRunning("demo")
	f.post(f.path("/demo/pause?fieldManager=user"), "").object(f)
	f.asPaused("demo", "demo-gen1")
	return f.read(f.path("/demo")).object(f)
}

// A tool that keeps a manifest without a desired state writes it again and again, in one of these
// ways. None of them is a resume.
func TestAManifestWithoutDesiredStateNeverResumes(t *testing.T) {
	f := newFixture(t)
	before := f.paused("gitops")
	put := func(change func(spec map[string]any)) answer {
		object := f.read(f.path("/demo")).object(f)
		change(object.Object["spec"].(map[string]any))
		return f.request(http.MethodPut, f.path("/demo"), asJSON, f.encode(object))
	}
	for _, test := range []struct {
		name  string
		write func() answer
	}{
		{"update", func() answer { return put(func(spec map[string]any) { delete(spec, "desiredState") }) }},
		{"update, empty", func() answer { return put(func(spec map[string]any) { spec["desiredState"] = "" }) }},
		{"update in YAML", func() answer {
			return f.request(http.MethodPut, f.path("/demo"), asYAML, fmt.Sprintf(`
apiVersion: lifecycle.opensandbox.io/v1alpha1
kind: Sandbox
metadata: {name: demo, resourceVersion: %q, labels: {by: yaml}}
spec: {template: {spec: {containers: [{name: main, image: busybox}]}}}
`, f.read(f.path("/demo")).object(f).GetResourceVersion()))
		}},
		{"merge patch", func() answer { return f.patch(f.path("/demo"), asMergePatch, `{"spec":{"desiredState":null}}`) }},
		{"merge patch of something else", func() answer {
			return f.patch(f.path("/demo"), asMergePatch, `{"spec":{"snapshot":{"historyLimit":4}}}`)
		}},
		{"strategic patch", func() answer { return f.patch(f.path("/demo"), asStrategicPatch, `{"spec":{"desiredState":null}}`) }},
		{"JSON patch", func() answer {
			return f.patch(f.path("/demo"), asJSONPatch, `[{"op":"remove","path":"/spec/desiredState"}]`)
		}},
		{"apply", func() answer { return f.apply("gitops", "", false, `"spec":{`+aTemplate+`}`) }},
		{"apply by force", func() answer {
			return f.apply("gitops", "", true, `"spec":{`+aTemplate+`,"snapshot":{"historyLimit":6}}`)
		}},
		{"apply by the one who paused", func() answer { return f.apply("user", "", false, `"spec":{}`) }},
	} {
		after := test.write().object(f)
		if fieldOf(after, "spec.desiredState") != "Paused" || fieldOf(after, "status.phase") != "Paused" || fieldOf(after, "status.snapshotName") != fieldOf(before, "status.snapshotName") {
			t.Errorf("%s: desired %v, status %v", test.name, fieldOf(after, "spec.desiredState"), fieldOf(after, "status"))
		}
	}
}

// A manifest that once had the desired state and has it no more gives the field up. What it asked
// for stays.
func TestGivingUpTheDesiredState(t *testing.T) {
	f := newFixture(t)
	f.apply("gitops", "", false, `"spec":{`+aTemplate+`}`).object(f)
	f.asRunning("demo")
	asked := f.apply("gitops", "", true, `"spec":{`+aTemplate+`,"desiredState":"Paused"}`).object(f)
	if fieldOf(asked, "spec.desiredState") != "Paused" || !strings.Contains(owned(asked, "gitops", ""), "f:desiredState") {
		t.Errorf("applied: %v, owned %s", fieldOf(asked, "spec.desiredState"), owned(asked, "gitops", ""))
	}
	given := f.apply("gitops", "", false, `"spec":{`+aTemplate+`}`).object(f)
	if fieldOf(given, "spec.desiredState") != "Paused" || strings.Contains(owned(given, "gitops", ""), "f:desiredState") {
		t.Errorf("given up: %v, owned %s", fieldOf(given, "spec.desiredState"), owned(given, "gitops", ""))
	}
	// Nobody owns it now: the next one takes it without a conflict.
	f.apply("another", "", false, `"spec":{"desiredState":"Running"}`).object(f)
}

func TestTheDesiredStateHasOneOwner(t *testing.T) {
	f := newFixture(t)
	f.apply("gitops", "", false, `"spec":{`+aTemplate+`,"desiredState":"Running"}`).object(f)
	f.asRunning("demo")
	owners := func() []string {
		var owners []string
		for _, entry := range f.read(f.path("/demo")).object(f).GetManagedFields() {
			if strings.Contains(entry.FieldsV1.GetRawString(), `"f:desiredState"`) {
				owners = append(owners, fmt.Sprintf("%s %s %s", entry.Manager, entry.Operation, entry.Subresource))
			}
		}
		return owners
	}
	for _, step := range []struct {
		name string
		do   func() answer
		want string
	}{
		{"applied", func() answer { return f.apply("gitops", "", false, `"spec":{`+aTemplate+`,"desiredState":"Running"}`) }, "gitops Apply "},
		{"paused by a user", func() answer { return f.post(f.path("/demo/pause?fieldManager=user"), "") }, "user Update pause"},
		{"paused again by another, who changes nothing", func() answer { return f.post(f.path("/demo/pause?fieldManager=late"), "") }, "user Update pause"},
		{"resumed by another", func() answer { return f.post(f.path("/demo/resume?fieldManager=other"), "") }, "other Update resume"},
		{"taken back by force", func() answer {
			f.asRunning("demo")
			return f.apply("gitops", "", true, `"spec":{`+aTemplate+`,"desiredState":"Paused"}`)
		}, "gitops Apply "},
		{"edited by hand", func() answer {
			return f.patch(f.path("/demo?fieldManager=edit"), asMergePatch, `{"spec":{"desiredState":"Running"}}`)
		}, "edit Update "},
	} {
		step.do().object(f)
		if got := owners(); !slices.Equal(got, []string{step.want}) {
			t.Errorf("%s: the desired state is owned by %q, want %q", step.name, got, step.want)
		}
	}
}

func TestApplyingAgainstAVerb(t *testing.T) {
	f := newFixture(t)
	f.apply("gitops", "", false, `"spec":{`+aTemplate+`,"desiredState":"Running"}`).object(f)
	f.asRunning("demo")
	f.post(f.path("/demo/pause?fieldManager=user"), "").object(f)
	f.asPaused("demo", "demo-gen1")

	running := `"spec":{` + aTemplate + `,"desiredState":"Running"}`
	f.wantConflict(f.apply("gitops", "", false, running), ".spec.desiredState", `"user"`)
	if s := f.get("demo"); s.Spec.DesiredState != "Paused" {
		t.Errorf("refused, and yet it is to be %s", s.Spec.DesiredState)
	}
	forced := f.apply("gitops", "", true, running).object(f)
	if fieldOf(forced, "spec.desiredState") != "Running" || strings.Contains(owned(forced, "user", "pause"), "f:desiredState") {
		t.Errorf("forced: %v, and the verb's caller owns %s", fieldOf(forced, "spec.desiredState"), owned(forced, "user", "pause"))
	}
	// The controller has not resumed it yet, and the next pause is as good as the first.
	f.post(f.path("/demo/pause?fieldManager=user"), "").object(f)
	if s := f.get("demo"); s.Spec.DesiredState != "Paused" || s.Status.Phase != "Paused" || s.Status.SnapshotName != "demo-gen1" {
		t.Errorf("paused again: desired %s, %+v", s.Spec.DesiredState, s.Status)
	}
	// Agreement is no conflict: both own it then.
	agreed := f.apply("gitops", "", false, `"spec":{`+aTemplate+`,"desiredState":"Paused"}`).object(f)
	if !strings.Contains(owned(agreed, "gitops", ""), "f:desiredState") || !strings.Contains(owned(agreed, "user", "pause"), "f:desiredState") {
		t.Errorf("agreed: %v", agreed.GetManagedFields())
	}
}

// A verb's caller that names no field manager is known by its program, as for any other write.
func TestAVerbIsItsCallers(t *testing.T) {
	f := newFixture(t)
	for agent, manager := range map[string]string{
		"kubectl/v1.36.0 (linux/amd64) kubernetes/abc": "kubectl",
		"curl/8.5":               "curl",
		"my\x01tool/1":           "mytool",
		strings.Repeat("x", 300): strings.Repeat("x", 128),
	} {
		name := fmt.Sprintf("s%d", len(agent))
		f.create(sandbox(name))
		f.asRunning(name)
		header := http.Header{"User-Agent": {agent}}
		if strings.Contains(agent, "\x01") {
			header = http.Header{"User-Agent": {"mytool/1"}}
		}
		f.send(admin, http.MethodPost, f.path("/"+name+"/pause"), nil, header).object(f)
		object := f.read(f.path("/" + name)).object(f)
		if got := owned(object, manager, "pause"); !strings.Contains(got, "f:desiredState") || !strings.Contains(got, "f:phase") {
			t.Errorf("%q: %q owns %s of %v", agent, manager, got, object.GetManagedFields())
		}
	}
}
