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
	"slices"
	"strings"
	"testing"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/opensandbox-io/sandbox-apiserver/apis/lifecycle/v1alpha1"
)

// A template is locked from when a container of its Pod has run until after the Pod is gone: a sandbox's
// template says what its Pod is.
func TestTheTemplateUnderAPod(t *testing.T) {
	f := newFixture(t)
	f.create(sandbox("demo", func(s *v1alpha1.Sandbox) {
		s.Spec.Template.Spec.InitContainers = []corev1.Container{{Name: "init", Image: "busybox"}}
	}))
	f.asRunning("demo")
	changes := []struct {
		name, patch string
		locked      bool
	}{
		{"a label", `{"spec":{"template":{"metadata":{"labels":{"a":"b"}}}}}`, false},
		{"an annotation", `{"spec":{"template":{"metadata":{"annotations":{"a":"b"}}}}}`, false},
		{"no label any more", `{"spec":{"template":{"metadata":{"labels":null,"annotations":null}}}}`, false},
		{"the same again", `{"spec":{"template":{"spec":{"containers":[{"name":"main","image":"busybox"}]}}}}`, false},
		{"another field of the spec", `{"spec":{"snapshot":{"historyLimit":5}}}`, false},
		{"an image", `{"spec":{"template":{"spec":{"containers":[{"name":"main","image":"other"}]}}}}`, true},
		{"an image of an init container", `{"spec":{"template":{"spec":{"initContainers":[{"name":"init","image":"other"}]}}}}`, true},
		{"resources", `{"spec":{"template":{"spec":{"containers":[{"name":"main","image":"busybox","resources":{"requests":{"cpu":"2"}}}]}}}}`, true},
		{"one more container", `{"spec":{"template":{"spec":{"containers":[{"name":"main","image":"busybox"},{"name":"side","image":"busybox"}]}}}}`, true},
		{"a finalizer of the Pod", `{"spec":{"template":{"metadata":{"finalizers":["example.com/a"]}}}}`, true},
		{"a node selector", `{"spec":{"template":{"spec":{"nodeSelector":{"a":"b"}}}}}`, true},
		{"no template", `{"spec":{"template":null}}`, true},
	}
	for _, change := range changes {
		got := f.patch(f.path("/demo?dryRun=All"), asMergePatch, change.patch)
		switch {
		case !change.locked && got.code != 200:
			t.Errorf("%s under a Pod: %d %s", change.name, got.code, got.body)
		case change.locked:
			status := got.status(f)
			if got.code != 422 || !slices.Contains(causes(status), "spec.template") {
				t.Errorf("%s under a Pod: %d %s", change.name, got.code, got.body)
			} else if change.name != "no template" && (!strings.Contains(status.Message, "(demo)") || !strings.Contains(status.Message, "pause the sandbox, edit the template, then resume it")) {
				t.Errorf("%s under a Pod: the refusal does not say what to do: %s", change.name, status.Message)
			}
		}
	}
	f.asPaused("demo", "demo-gen1")
	for _, change := range changes {
		if got := f.patch(f.path("/demo?dryRun=All"), asMergePatch, change.patch); change.name != "no template" && got.code != 200 {
			t.Errorf("%s of a paused sandbox: %d %s", change.name, got.code, got.body)
		}
	}
	// Until a container of the Pod has run there is nothing that the Pod and its template could differ in.
	for _, phase := range []v1alpha1.SandboxPhase{v1alpha1.SandboxPending, v1alpha1.SandboxResuming} {
		f.writeStatus("demo", func(status *v1alpha1.SandboxStatus) {
			status.Phase, status.PodName, status.PodUID = phase, "demo", "pod"
		})
		for _, change := range changes {
			if got := f.patch(f.path("/demo?dryRun=All"), asMergePatch, change.patch); change.name != "no template" && got.code != 200 {
				t.Errorf("%s of a %s sandbox: %d %s", change.name, phase, got.code, got.body)
			}
		}
	}
	// Who has read it before a container ran does not change it after that.
	before := f.get("demo")
	f.asRunning("demo")
	before.Spec.Template.Spec.NodeSelector = map[string]string{"a": "b"}
	if _, err := f.sandboxes.Update(t.Context(), before, metav1.UpdateOptions{}); !apierrors.IsConflict(err) {
		t.Errorf("a change of what was read before a container ran: %v", err)
	}
}

func TestImmutableFields(t *testing.T) {
	f := newFixture(t)
	f.create(sandbox("plain"))
	f.create(sandbox("clone", func(s *v1alpha1.Sandbox) { s.Spec.RestoreFrom = &v1alpha1.SandboxRestoreSource{SnapshotName: "mine"} }))
	f.asRunning("plain")
	f.asPaused("clone", "mine")
	f.post(f.pathOf("sandboxsnapshots", ""), manifest("SandboxSnapshot", `{"name":"mine"}`, `{"sandboxName":"plain","containers":["main"]}`, `{}`)).object(f)
	for _, test := range []struct{ name, path, patch, field, says string }{
		{"another snapshot to start from", f.path("/clone"), `{"spec":{"restoreFrom":{"snapshotName":"other"}}}`, "spec.restoreFrom.snapshotName", "create another sandbox"},
		{"none any more", f.path("/clone"), `{"spec":{"restoreFrom":null}}`, "spec.restoreFrom.snapshotName", "immutable"},
		{"one afterwards", f.path("/plain"), `{"spec":{"restoreFrom":{"snapshotName":"mine"}}}`, "spec.restoreFrom.snapshotName", "immutable"},
		{"a snapshot of another sandbox", f.pathOf("sandboxsnapshots", "/mine"), `{"spec":{"sandboxName":"other"}}`, "spec", "create another snapshot"},
		{"a snapshot of other containers", f.pathOf("sandboxsnapshots", "/mine"), `{"spec":{"containers":null}}`, "spec", "immutable"},
		{"another fate of the images", f.pathOf("sandboxsnapshots", "/mine"), `{"spec":{"deletionPolicy":"Retain"}}`, "spec", "immutable"},
	} {
		got := f.patch(test.path, asMergePatch, test.patch)
		if status := got.status(f); got.code != 422 || !slices.Contains(causes(status), test.field) || !strings.Contains(status.Message, test.says) {
			t.Errorf("%s: %d %s", test.name, got.code, got.body)
		}
	}
}

func TestPausedFromTheBeginning(t *testing.T) {
	f := newFixture(t)
	spec := `{"desiredState":"Paused",` + aTemplate + `}`
	refused := f.post(f.path(""), manifest("Sandbox", `{"name":"demo"}`, spec, `{}`))
	if status := refused.status(f); refused.code != 422 || !slices.Contains(causes(status), "spec.desiredState") || !strings.Contains(status.Message, "spec.restoreFrom") {
		t.Errorf("without a snapshot: %d %s", refused.code, refused.body)
	}
	spec = `{"desiredState":"Paused","restoreFrom":{"snapshotName":"mine"}}`
	if got := f.post(f.path(""), manifest("Sandbox", `{"name":"demo"}`, spec, `{}`)); got.code != 201 {
		t.Errorf("with one: %d %s", got.code, got.body)
	}
}

func TestTheSizeOfATemplate(t *testing.T) {
	f := newFixture(t)
	of := func(bytes int) string {
		// What is around the letters is not counted here: 1 KiB is ample for it.
		return `{"template":{"spec":{"containers":[{"name":"main","image":"busybox","args":["` + strings.Repeat("x", bytes) + `"]}]}}}`
	}
	if got := f.post(f.path(""), manifest("Sandbox", `{"name":"demo"}`, of(63<<10), `{}`)); got.code != 201 {
		t.Errorf("63 KiB: %d %s", got.code, got.body)
	}
	got := f.post(f.path(""), manifest("Sandbox", `{"name":"large"}`, of(64<<10), `{}`))
	if status := got.status(f); got.code != 422 || !slices.Contains(causes(status), "spec.template") || !strings.Contains(status.Message, "65536 bytes") || len(got.body) > 2000 {
		t.Errorf("64 KiB: %d %.2000s", got.code, got.body)
	}
	if got := f.patch(f.path("/demo"), asMergePatch, `{"spec":`+of(65<<10)+`}`); got.code != 422 {
		t.Errorf("65 KiB by an update: %d", got.code)
	}
}

func TestWarnings(t *testing.T) {
	f := newFixture(t)
	volumes := func(s *v1alpha1.Sandbox) {
		s.Spec.Template.Spec.Volumes = []corev1.Volume{
			{Name: "scratch", VolumeSource: corev1.VolumeSource{EmptyDir: &corev1.EmptyDirVolumeSource{}}},
			{Name: "claimed", VolumeSource: corev1.VolumeSource{Ephemeral: &corev1.EphemeralVolumeSource{}}},
			{Name: "kept", VolumeSource: corev1.VolumeSource{PersistentVolumeClaim: &corev1.PersistentVolumeClaimVolumeSource{ClaimName: "kept"}}},
			{Name: "settings", VolumeSource: corev1.VolumeSource{ConfigMap: &corev1.ConfigMapVolumeSource{}}},
		}
		s.Spec.Template.Spec.Containers = append(s.Spec.Template.Spec.Containers, corev1.Container{Name: "side", Image: "busybox"})
		s.Spec.Snapshot.Containers = []string{"main"}
	}
	setImage := func(container, image string) string {
		return `[{"op":"replace","path":"/spec/template/spec/containers/` + container + `/image","value":"` + image + `"}]`
	}
	s := sandbox("demo", volumes)
	for _, test := range []struct {
		name string
		do   func() answer
		// what the warnings name; empty: there are none
		names []string
	}{
		{"create", func() answer { return f.post(f.path(""), f.encode(s)) },
			[]string{`spec.template.spec.volumes[0]: the content of the emptyDir volume \"scratch\" does not survive a pause`, `volumes[1]: the content of the ephemeral volume \"claimed\"`}},
		{"an image before there is a snapshot", func() answer { return f.patch(f.path("/demo"), asJSONPatch, setImage("0", "a")) }, nil},
		{"pause", func() answer { f.asRunning("demo"); return f.post(f.path("/demo/pause"), "") }, []string{"scratch", "claimed"}},
		{"a pause that is only asked about", func() answer { return f.post(f.path("/demo/pause?dryRun=All"), "") }, []string{"scratch", "claimed"}},
		{"an image that the snapshot replaces", func() answer {
			f.asPaused("demo", "demo-gen1")
			return f.patch(f.path("/demo"), asJSONPatch, setImage("0", "b"))
		}, []string{"spec.template.spec.containers[0].image: the next resume uses the image of snapshot demo-gen1 instead; resume with fromTemplate"}},
		{"an image that no snapshot holds", func() answer { return f.patch(f.path("/demo"), asJSONPatch, setImage("1", "b")) }, nil},
		{"a label", func() answer { return f.patch(f.path("/demo"), asMergePatch, `{"metadata":{"labels":{"a":"b"}}}`) }, nil},
		{"resume", func() answer { return f.post(f.path("/demo/resume"), "") }, nil},
	} {
		got := test.do()
		got.object(f)
		warnings := got.warnings()
		for _, name := range test.names {
			if !strings.Contains(warnings, name) {
				t.Errorf("%s: warned of %q, want %q", test.name, warnings, name)
			}
		}
		if len(got.header["Warning"]) != len(test.names) || strings.Contains(warnings, "kept") || strings.Contains(warnings, "settings") {
			t.Errorf("%s: warned of %q", test.name, warnings)
		}
	}
}
