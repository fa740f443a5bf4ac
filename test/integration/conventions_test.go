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
	"context"
	"encoding/json"
	"fmt"
	"maps"
	"net/http"
	"reflect"
	"slices"
	"strings"
	"testing"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"

	"github.com/opensandbox-io/sandbox-apiserver/apis/lifecycle/v1alpha1"
)

// kinds are the two that are stored. spec is one that is valid; phase, one that a status may say;
// policy, where in the spec the containers to commit and the deletion policy are.
var kinds = []struct{ kind, resource, spec, phase, policy string }{
	{"Sandbox", "sandboxes", `{"template":{"spec":{"containers":[{"name":"main","image":"busybox"}]}}}`, "Running", "spec.snapshot"},
	{"SandboxSnapshot", "sandboxsnapshots", `{"sandboxName":"demo"}`, "Committing", "spec"},
}

// manifest is an object with this metadata, spec and status in JSON.
func manifest(kind, metadata, spec, status string) string {
	return fmt.Sprintf(`{"apiVersion":"lifecycle.opensandbox.io/v1alpha1","kind":%q,"metadata":%s,"spec":%s,"status":%s}`, kind, metadata, spec, status)
}

// encode is the object as a request body.
func (f *fixture) encode(object any) string {
	f.Helper()
	body, err := json.Marshal(object)
	f.must(err)
	return string(body)
}

func TestConditionsFromTheFirstVisit(t *testing.T) {
	f := newFixture(t)
	for _, kind := range kinds {
		created := f.post(f.pathOf(kind.resource, ""), manifest(kind.kind, `{"name":"demo"}`, kind.spec, `{}`)).object(f)
		read := f.read(f.pathOf(kind.resource, "/demo")).object(f)
		if !reflect.DeepEqual(created, read) {
			t.Errorf("%s: a GET shows another object than the create has answered:\n%v\n%v", kind.kind, created, read)
		}
		var conditions []metav1.Condition
		f.must(json.Unmarshal([]byte(f.encode(fieldOf(read, "status.conditions"))), &conditions))
		if len(conditions) == 0 {
			t.Errorf("%s: no conditions", kind.kind)
		}
		for _, c := range conditions {
			if c.Type == "" || c.Status == "" || c.Reason == "" || c.Message == "" || c.LastTransitionTime.IsZero() || c.ObservedGeneration != 1 {
				t.Errorf("%s: condition %+v", kind.kind, c)
			}
		}
	}
}

func TestGeneration(t *testing.T) {
	f := newFixture(t)
	f.create(sandbox("demo"))
	put := func(subresource string, change func(*v1alpha1.Sandbox)) func(f *fixture) answer {
		return func(f *fixture) answer {
			s := f.get("demo")
			change(s)
			return f.request(http.MethodPut, f.path("/demo"+subresource), asJSON, f.encode(s))
		}
	}
	merge := func(body string) func(f *fixture) answer {
		return func(f *fixture) answer { return f.patch(f.path("/demo"), asMergePatch, body) }
	}
	for _, test := range []struct {
		name  string
		do    func(f *fixture) answer
		moves int64
	}{
		{"an update that changes nothing", put("", func(*v1alpha1.Sandbox) {}), 0},
		{"a label", merge(`{"metadata":{"labels":{"a":"b"}}}`), 0},
		{"an annotation", merge(`{"metadata":{"annotations":{"a":"b"}}}`), 0},
		{"a finalizer", merge(`{"metadata":{"finalizers":["example.com/a","lifecycle.opensandbox.io/sandbox"]}}`), 0},
		{"a generation of one's own", merge(`{"metadata":{"generation":70}}`), 0},
		{"the desired state left out", merge(`{"spec":{"desiredState":null}}`), 0},
		{"a default spelled out", merge(`{"spec":{"snapshot":{"historyLimit":3,"deletionPolicy":"Delete"}}}`), 0},
		{"a default left out", merge(`{"spec":{"snapshot":null}}`), 0},
		{"a status", put("/status", func(s *v1alpha1.Sandbox) { s.Status.Phase = v1alpha1.SandboxRunning }), 0},
		{"a resume of what runs", func(f *fixture) answer { return f.post(f.path("/demo/resume"), "") }, 0},
		{"another history limit", merge(`{"spec":{"snapshot":{"historyLimit":5}}}`), 1},
		{"a label of the template", merge(`{"spec":{"template":{"metadata":{"labels":{"a":"b"}}}}}`), 1},
		{"another image", put("", func(s *v1alpha1.Sandbox) { s.Spec.Template.Spec.Containers[0].Image = "other" }), 1},
		{"a pause", func(f *fixture) answer { return f.post(f.path("/demo/pause"), "") }, 1},
		{"a pause again", func(f *fixture) answer { return f.post(f.path("/demo/pause"), "") }, 0},
		{"a resume that cancels it", func(f *fixture) answer { return f.post(f.path("/demo/resume"), "") }, 1},
		{"the desired state by an update", merge(`{"spec":{"desiredState":"Paused"}}`), 1},
		{"a dry run", func(f *fixture) answer {
			return f.patch(f.path("/demo?dryRun=All"), asMergePatch, `{"spec":{"snapshot":{"historyLimit":9}}}`)
		}, 0},
	} {
		t.Run(test.name, func(t *testing.T) {
			f := f.within(t)
			before := f.get("demo")
			test.do(f).object(f)
			if after := f.get("demo"); after.Generation != before.Generation+test.moves {
				t.Errorf("the generation went from %d to %d, want %+d", before.Generation, after.Generation, test.moves)
			}
		})
	}
}

func TestAnUpdateOfNothingIsNotStored(t *testing.T) {
	f := newFixture(t)
	for _, kind := range kinds {
		path := f.pathOf(kind.resource, "/demo")
		before := f.post(f.pathOf(kind.resource, ""), manifest(kind.kind, `{"name":"demo"}`, kind.spec, `{}`)).object(f)
		for _, at := range []string{"", "/status"} {
			after := f.request(http.MethodPut, path+at, asJSON, f.encode(before)).object(f)
			if after.GetResourceVersion() != before.GetResourceVersion() {
				t.Errorf("%s%s: the resourceVersion went from %s to %s", kind.resource, at, before.GetResourceVersion(), after.GetResourceVersion())
			}
		}
	}
}

// Every way of writing keeps to the half of the object that its endpoint is for.
func TestSpecAndStatusKeepToTheirEndpoints(t *testing.T) {
	const meddling = `"labels":{"by":"%[1]s"},"annotations":{"by":"%[1]s"}`
	for _, kind := range kinds {
		t.Run(kind.kind, func(t *testing.T) {
			f := newFixture(t)
			path := f.pathOf(kind.resource, "/demo")
			f.post(f.pathOf(kind.resource, ""), manifest(kind.kind, `{"name":"demo"}`, kind.spec, `{}`)).object(f)
			spec := map[string]string{"Sandbox": `{"desiredState":"Paused"}`, "SandboxSnapshot": `{"sandboxName":"other"}`}[kind.kind]
			status := fmt.Sprintf(`{"phase":%q}`, kind.phase)

			put := func(path string, change func(*unstructured.Unstructured)) answer {
				object := f.read(path).object(f)
				change(object)
				return f.request(http.MethodPut, path, asJSON, f.encode(object))
			}
			for name, write := range map[string]func() answer{
				"update": func() answer {
					return put(path, func(o *unstructured.Unstructured) {
						f.must(unstructured.SetNestedField(o.Object, kind.phase, "status", "phase"))
					})
				},
				"merge patch":     func() answer { return f.patch(path, asMergePatch, `{"status":`+status+`}`) },
				"strategic patch": func() answer { return f.patch(path, asStrategicPatch, `{"status":`+status+`}`) },
				"JSON patch": func() answer {
					return f.patch(path, asJSONPatch, fmt.Sprintf(`[{"op":"replace","path":"/status/phase","value":%q}]`, kind.phase))
				},
				"apply": func() answer {
					return f.patch(path+"?fieldManager=a&force=true", asApply, manifest(kind.kind, `{"name":"demo"}`, kind.spec, status))
				},
			} {
				if after := write().object(f); fieldOf(after, "status.phase") != "Pending" {
					t.Errorf("%s: the status became %v", name, fieldOf(after, "status"))
				}
			}
			before := f.read(path).object(f)
			for name, write := range map[string]func() answer{
				"update": func() answer {
					return put(path+"/status", func(o *unstructured.Unstructured) {
						o.SetLabels(map[string]string{"by": "update"})
						o.SetFinalizers(nil)
						f.must(unstructured.SetNestedField(o.Object, "other", "spec", "sandboxName"))
						f.must(unstructured.SetNestedField(o.Object, "Paused", "spec", "desiredState"))
						f.must(unstructured.SetNestedField(o.Object, kind.phase, "status", "phase"))
					})
				},
				"merge patch": func() answer {
					return f.patch(path+"/status", asMergePatch, fmt.Sprintf(`{"metadata":{`+meddling+`,"finalizers":null},"spec":%s,"status":%s}`, "merge", spec, status))
				},
				"strategic patch": func() answer {
					return f.patch(path+"/status", asStrategicPatch, fmt.Sprintf(`{"metadata":{`+meddling+`},"spec":%s,"status":%s}`, "strategic", spec, status))
				},
				"JSON patch": func() answer {
					return f.patch(path+"/status", asJSONPatch, fmt.Sprintf(`[{"op":"add","path":"/metadata/labels","value":{"by":"json"}},{"op":"add","path":"/status/phase","value":%q}]`, kind.phase))
				},
				"apply": func() answer {
					return f.patch(path+"/status?fieldManager=a&force=true", asApply, manifest(kind.kind, fmt.Sprintf(`{"name":"demo",`+meddling+`}`, "apply"), spec, status))
				},
			} {
				after := write().object(f)
				if fieldOf(after, "status.phase") != kind.phase {
					t.Errorf("%s: the status stayed %v", name, fieldOf(after, "status"))
				}
				for _, part := range []string{"spec", "metadata.labels", "metadata.annotations", "metadata.finalizers", "metadata.generation"} {
					if !reflect.DeepEqual(fieldOf(after, part), fieldOf(before, part)) {
						t.Errorf("%s to the status changed %s to %v", name, part, fieldOf(after, part))
					}
				}
				f.patch(path+"/status", asMergePatch, `{"status":{"phase":"Pending"}}`).object(f)
			}
		})
	}
}

func TestAnUpdateSaysWhichVersionItHasRead(t *testing.T) {
	f := newFixture(t)
	for _, kind := range kinds {
		object := f.post(f.pathOf(kind.resource, ""), manifest(kind.kind, `{"name":"demo"}`, kind.spec, `{}`)).object(f)
		for _, at := range []string{"", "/status"} {
			path := f.pathOf(kind.resource, "/demo"+at)
			for _, test := range []struct {
				resourceVersion string
				code            int
				says            string
			}{
				{"", 422, "metadata.resourceVersion"},
				{"1", 409, "the object has been modified"},
				{"yesterday", 422, "metadata.resourceVersion"},
			} {
				object.SetResourceVersion(test.resourceVersion)
				got := f.request(http.MethodPut, path, asJSON, f.encode(object))
				if status := got.status(f); got.code != test.code || !strings.Contains(status.Message, test.says) {
					t.Errorf("%s%s with resourceVersion %q: %d %s", kind.resource, at, test.resourceVersion, got.code, status.Message)
				}
			}
		}
	}
}

func TestDeleteCollection(t *testing.T) {
	f := newFixture(t)
	for _, kind := range kinds {
		path := f.pathOf(kind.resource, "")
		for name, color := range map[string]string{"a": "red", "b": "red", "c": "blue"} {
			f.post(path, manifest(kind.kind, fmt.Sprintf(`{"name":%q,"labels":{"color":%q}}`, name, color), kind.spec, `{}`)).object(f)
		}
		deleting := func() []string {
			names := []string{}
			list, err := f.read(path).object(f).ToList()
			f.must(err)
			for _, item := range list.Items {
				if item.GetDeletionTimestamp() != nil {
					names = append(names, item.GetName())
				}
			}
			return names
		}
		if got := f.send(admin, http.MethodDelete, path+"?labelSelector=color%3Dred&dryRun=All", nil, nil); got.code != 200 || len(deleting()) != 0 {
			t.Errorf("%s: a dry run: %d, deleting %q", kind.resource, got.code, deleting())
		}
		if got := f.send(admin, http.MethodDelete, path+"?labelSelector=color%3Dred", nil, nil); got.code != 200 {
			t.Errorf("%s: %d %s", kind.resource, got.code, got.body)
		}
		if got := deleting(); !slices.Equal(got, []string{"a", "b"}) {
			t.Errorf("%s: deleting %q, want a and b, which wait for their finalizers", kind.resource, got)
		}
	}
}

func TestFinalizers(t *testing.T) {
	f := newFixture(t)
	for _, kind := range kinds {
		path := f.pathOf(kind.resource, "/demo")
		created := f.post(f.pathOf(kind.resource, ""), manifest(kind.kind, `{"name":"demo","finalizers":["example.com/mine"]}`, kind.spec, `{}`)).object(f)
		if got := created.GetFinalizers(); len(got) != 2 || got[0] != "example.com/mine" {
			t.Errorf("%s: finalizers %q, want one of the server's beside the given", kind.kind, got)
		}
		for range 2 {
			if got := f.send(admin, http.MethodDelete, path, nil, nil); got.code != 200 {
				t.Errorf("%s: a delete: %d %s", kind.kind, got.code, got.body)
			}
		}
		late := f.patch(path, asJSONPatch, `[{"op":"add","path":"/metadata/finalizers/-","value":"example.com/late"}]`)
		if status := late.status(f); late.code != 422 || !slices.Contains(causes(status), "metadata.finalizers") {
			t.Errorf("%s: one more finalizer while it is being deleted: %d %s", kind.kind, late.code, late.body)
		}
		f.patch(path, asMergePatch, `{"metadata":{"finalizers":["example.com/mine"]}}`).object(f)
		if got := f.read(path); got.code != 200 {
			t.Errorf("%s: it is gone with a finalizer left: %d", kind.kind, got.code)
		}
		f.patch(path, asMergePatch, `{"metadata":{"finalizers":null}}`)
		if got := f.read(path); got.code != 404 {
			t.Errorf("%s: it is still there without finalizers: %d", kind.kind, got.code)
		}
	}
}

func TestDeletePreconditions(t *testing.T) {
	f := newFixture(t)
	for _, kind := range kinds {
		path := f.pathOf(kind.resource, "/demo")
		object := f.post(f.pathOf(kind.resource, ""), manifest(kind.kind, `{"name":"demo"}`, kind.spec, `{}`)).object(f)
		for preconditions, code := range map[string]int{
			`{"uid":"another"}`:       409,
			`{"resourceVersion":"1"}`: 409,
			fmt.Sprintf(`{"uid":%q,"resourceVersion":"1"}`, object.GetUID()): 409,
		} {
			got := f.request(http.MethodDelete, path, asJSON, `{"kind":"DeleteOptions","apiVersion":"v1","preconditions":`+preconditions+`}`)
			if got.code != code || got.status(f).Reason != metav1.StatusReasonConflict {
				t.Errorf("%s with %s: %d %s", kind.kind, preconditions, got.code, got.body)
			}
		}
		if f.read(path).object(f).GetDeletionTimestamp() != nil {
			t.Errorf("%s: is being deleted", kind.kind)
		}
	}
}

func TestNames(t *testing.T) {
	f := newFixture(t)
	long := func(n int) string { return strings.Repeat("a", n) }
	for _, test := range []struct {
		name string
		// the codes of a create of this name
		sandbox, snapshot int
	}{
		{"demo", 201, 201},
		{"0", 201, 201},
		{long(63), 201, 201},
		{long(64), 422, 201},
		{long(253), 422, 201},
		{long(254), 422, 422},
		{"a.b", 422, 201},
		{"-a", 422, 422},
		{"a-", 422, 422},
		{"a_b", 422, 422},
		{"Demo", 422, 422},
		{"a/b", 422, 422},
		{"..", 422, 422},
		{"a b", 422, 422},
		{"dé", 422, 422},
		{"", 422, 422},
		{"demo-gen1", 201, 422},
		{"demo-gen007", 201, 422},
		{"demo-gen", 201, 201},
		{"demo-gen1a", 201, 201},
	} {
		for i, want := range []int{test.sandbox, test.snapshot} {
			kind := kinds[i]
			got := f.post(f.pathOf(kind.resource, ""), manifest(kind.kind, fmt.Sprintf(`{"name":%q}`, test.name), kind.spec, `{}`))
			if got.code != want {
				t.Errorf("%s %q: got %d %s, want %d", kind.kind, test.name, got.code, got.body, want)
			} else if want == 422 && !slices.Contains(causes(got.status(f)), "metadata.name") {
				t.Errorf("%s %q: the refusal does not name the field: %s", kind.kind, test.name, got.body)
			}
		}
	}
}

func TestGeneratedNames(t *testing.T) {
	f := newFixture(t)
	for _, kind := range kinds {
		names := map[string]bool{}
		for _, prefix := range []string{"demo-", "demo-", strings.Repeat("a", 63)} {
			got := f.post(f.pathOf(kind.resource, ""), manifest(kind.kind, fmt.Sprintf(`{"generateName":%q}`, prefix), kind.spec, `{}`)).object(f)
			names[got.GetName()] = len(got.GetName()) <= 63 && strings.HasPrefix(got.GetName(), prefix[:5])
		}
		if len(names) != 3 || slices.Contains(slices.Collect(maps.Values(names)), false) {
			t.Errorf("%s: generated %v", kind.kind, names)
		}
		if got := f.post(f.pathOf(kind.resource, ""), manifest(kind.kind, `{"generateName":"Demo_"}`, kind.spec, `{}`)); got.code != 422 {
			t.Errorf("%s: a prefix that no name can have: %d %s", kind.kind, got.code, got.body)
		}
	}
}

// Only the server makes the snapshots of pauses: a user who could take their names would hold up
// every pause of another's sandbox.
func TestTheServerMayUseTheNamesOfPauses(t *testing.T) {
	f := newFixture(t)
	_, err := f.controller.SandboxSnapshots(f.namespace).Create(context.Background(), &v1alpha1.SandboxSnapshot{
		ObjectMeta: metav1.ObjectMeta{Name: "demo-gen1"}, Spec: v1alpha1.SandboxSnapshotSpec{SandboxName: "demo"},
	}, metav1.CreateOptions{})
	f.must(err)
	apply := f.patch(f.pathOf("sandboxsnapshots", "/demo-gen2?fieldManager=a"), asApply, manifest("SandboxSnapshot", `{"name":"demo-gen2"}`, `{"sandboxName":"demo"}`, `{}`))
	if apply.code != 422 || !slices.Contains(causes(apply.status(f)), "metadata.name") {
		t.Errorf("by apply: %d %s", apply.code, apply.body)
	}
}

// A snapshot with spec.pause leaves a Pod frozen, for the server to remove it.
func TestOnlyTheServerMakesTheAttemptOfAPause(t *testing.T) {
	f := newFixture(t)
	const pause = `{"sandboxUID":"u","podUID":"p","attempt":3}`
	made, err := f.controller.SandboxSnapshots(f.namespace).Create(t.Context(), &v1alpha1.SandboxSnapshot{
		ObjectMeta: metav1.ObjectMeta{Name: "demo-gen3"},
		Spec:       v1alpha1.SandboxSnapshotSpec{SandboxName: "demo", Pause: &v1alpha1.SnapshotPause{SandboxUID: "u", PodUID: "p", Attempt: 3}},
	}, metav1.CreateOptions{})
	f.must(err)

	spec := `{"sandboxName":"demo","pause":` + pause + `}`
	at := f.pathOf("sandboxsnapshots", "/demo-gen3")
	for name, got := range map[string]answer{
		"create":                 f.post(f.pathOf("sandboxsnapshots", ""), manifest("SandboxSnapshot", `{"name":"mine"}`, spec, `{}`)),
		"create, as a dry run":   f.post(f.pathOf("sandboxsnapshots", "?dryRun=All"), manifest("SandboxSnapshot", `{"name":"mine"}`, spec, `{}`)),
		"create, with its name":  f.post(f.pathOf("sandboxsnapshots", ""), manifest("SandboxSnapshot", `{"generateName":"demo-gen"}`, spec, `{}`)),
		"apply":                  f.patch(f.pathOf("sandboxsnapshots", "/mine?fieldManager=a"), asApply, manifest("SandboxSnapshot", `{"name":"mine"}`, spec, `{}`)),
		"apply, as a dry run":    f.patch(f.pathOf("sandboxsnapshots", "/mine?fieldManager=a&dryRun=All"), asApply, manifest("SandboxSnapshot", `{"name":"mine"}`, spec, `{}`)),
		"edit":                   f.patch(at, asMergePatch, `{"spec":{"pause":{"podUID":"another"}}}`),
		"edit, as a dry run":     f.patch(at+"?dryRun=All", asMergePatch, `{"spec":{"pause":{"attempt":4}}}`),
		"apply to what there is": f.patch(at+"?fieldManager=a&force=true", asApply, manifest("SandboxSnapshot", `{"name":"demo-gen3"}`, strings.ReplaceAll(spec, `"p"`, `"q"`), `{}`)),
	} {
		if got.code != 422 || !slices.Contains(causes(got.status(f)), "spec.pause") {
			t.Errorf("%s: got %d %s, want a refusal of spec.pause", name, got.code, got.body)
		}
	}
	// To somebody else's, none can be added.
	f.post(f.pathOf("sandboxsnapshots", ""), manifest("SandboxSnapshot", `{"name":"mine"}`, `{"sandboxName":"demo"}`, `{}`)).object(f)
	if got := f.patch(f.pathOf("sandboxsnapshots", "/mine"), asMergePatch, `{"spec":{"pause":`+pause+`}}`); got.code != 422 || !slices.Contains(causes(got.status(f)), "spec.pause") {
		t.Errorf("adding it: got %d %s", got.code, got.body)
	}

	// A client that does not know it leaves it out.
	for name, got := range map[string]answer{
		"patch": f.patch(at, asMergePatch, `{"metadata":{"labels":{"a":"b"},"ownerReferences":null},"spec":{"pause":null}}`),
		"apply": f.patch(at+"?fieldManager=a&force=true", asApply, manifest("SandboxSnapshot", `{"name":"demo-gen3"}`, `{"sandboxName":"demo"}`, `{}`)),
	} {
		if got.code != 200 {
			t.Errorf("%s without it: %d %s", name, got.code, got.body)
		}
	}
	now, err := f.snapshots.Get(t.Context(), made.Name, metav1.GetOptions{})
	f.must(err)
	if now.Spec.Pause == nil || *now.Spec.Pause != *made.Spec.Pause || now.Generation != 1 {
		t.Errorf("the attempt is %+v, generation %d", now.Spec.Pause, now.Generation)
	}
}

// Whoever could set spec.rescue could have the files of any container of the node committed.
func TestOnlyTheServerHasTheFilesOfEndedContainersSaved(t *testing.T) {
	f := newFixture(t)
	made, err := f.controller.SandboxSnapshots(f.namespace).Create(t.Context(), &v1alpha1.SandboxSnapshot{
		ObjectMeta: metav1.ObjectMeta{Name: "demo-rescue1"},
		Spec: v1alpha1.SandboxSnapshotSpec{SandboxName: "demo", Rescue: &v1alpha1.SnapshotRescue{
			SandboxUID: "u", PodUID: "p", Containers: []v1alpha1.RescuedContainer{{ContainerName: "main", ContainerID: "c1"}},
		}},
	}, metav1.CreateOptions{})
	f.must(err)

	const spec = `{"sandboxName":"demo","rescue":{"sandboxUID":"u","podUID":"p","containers":[{"containerName":"main","containerID":"c2"}]}}`
	at := f.pathOf("sandboxsnapshots", "/demo-rescue1")
	for name, got := range map[string]answer{
		"create":                 f.post(f.pathOf("sandboxsnapshots", ""), manifest("SandboxSnapshot", `{"name":"mine"}`, spec, `{}`)),
		"create, as a dry run":   f.post(f.pathOf("sandboxsnapshots", "?dryRun=All"), manifest("SandboxSnapshot", `{"name":"mine"}`, spec, `{}`)),
		"apply":                  f.patch(f.pathOf("sandboxsnapshots", "/mine?fieldManager=a"), asApply, manifest("SandboxSnapshot", `{"name":"mine"}`, spec, `{}`)),
		"edit":                   f.patch(at, asMergePatch, `{"spec":{"rescue":{"podUID":"another"}}}`),
		"apply to what there is": f.patch(at+"?fieldManager=a&force=true", asApply, manifest("SandboxSnapshot", `{"name":"demo-rescue1"}`, spec, `{}`)),
	} {
		if got.code != 422 || !slices.Contains(causes(got.status(f)), "spec.rescue") {
			t.Errorf("%s: got %d %s, want a refusal of spec.rescue", name, got.code, got.body)
		}
	}
	// A client that does not know it leaves it out.
	if got := f.patch(at, asMergePatch, `{"metadata":{"labels":{"a":"b"}},"spec":{"rescue":null}}`); got.code != 200 {
		t.Errorf("without it: %d %s", got.code, got.body)
	}
	now, err := f.snapshots.Get(t.Context(), made.Name, metav1.GetOptions{})
	f.must(err)
	if now.Spec.Rescue == nil || len(now.Spec.Rescue.Containers) != 1 || now.Spec.Rescue.Containers[0].ContainerID != "c1" || now.Generation != 1 {
		t.Errorf("it is %+v, generation %d", now.Spec.Rescue, now.Generation)
	}
}

func TestWhatBecomesOfFilesIsDefaultedAndChecked(t *testing.T) {
	f := newFixture(t)
	const template = `"template":{"spec":{"containers":[{"name":"main","image":"m"}]}}`
	f.post(f.pathOf("sandboxes", ""), manifest("Sandbox", `{"name":"demo"}`, `{`+template+`}`, `{}`)).object(f)
	made, err := f.sandboxes.Get(t.Context(), "demo", metav1.GetOptions{})
	f.must(err)
	if made.Spec.EvictionPolicy != v1alpha1.EvictionPolicySave || made.Spec.OnExit != "" {
		t.Errorf("the policies are %q and %q", made.Spec.EvictionPolicy, made.Spec.OnExit)
	}
	got := f.post(f.pathOf("sandboxes", ""), manifest("Sandbox", `{"name":"other"}`, `{"evictionPolicy":"Evict","onExit":"Never",`+template+`}`, `{}`))
	if named := causes(got.status(f)); got.code != 422 || !slices.Contains(named, "spec.evictionPolicy") || !slices.Contains(named, "spec.onExit") {
		t.Errorf("got %d %s", got.code, got.body)
	}
	if got := f.patch(f.pathOf("sandboxes", "/demo"), asMergePatch, `{"spec":{"evictionPolicy":"None","onExit":"Restore"}}`); got.code != 200 {
		t.Errorf("a change: %d %s", got.code, got.body)
	}
}
