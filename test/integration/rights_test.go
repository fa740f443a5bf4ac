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
	"strings"
	"testing"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"

	"github.com/opensandbox-io/sandbox-apiserver/apis/lifecycle/v1alpha1"
)

// TestTheRightToRollBack: whoever may pause and resume may not choose what is lost by it, in whatever phase, nor ask by a
// dry run; and whoever may, may not run the files of a snapshot that it cannot get.
func TestTheRightToRollBack(t *testing.T) {
	f := newFixture(t)
	demo := f.create(sandbox("demo"))
	for _, name := range []string{"demo-gen1", "demo-gen2"} {
		f.succeeded(name, demo)
	}
	back, template := v1alpha1.SandboxResume{SnapshotName: "demo-gen1"}, v1alpha1.SandboxResume{FromTemplate: true}
	for phase, enter := range map[string]func(){
		"paused": func() { f.asPaused("demo", "demo-gen2") },
		"ended": func() {
			f.asRunning("demo")
			f.writeStatus("demo", func(status *v1alpha1.SandboxStatus) {
				setCondition(status, v1alpha1.ConditionReady, metav1.ConditionFalse, v1alpha1.ReasonContainersEnded)
			})
		},
		"failed": func() {
			f.writeStatus("demo", func(status *v1alpha1.SandboxStatus) { status.Phase, status.PodName = v1alpha1.SandboxFailed, "" })
		},
	} {
		enter()
		for _, who := range []string{pauser, blind, restricted, editor} {
			sandboxes := f.client(who).LifecycleV1alpha1().Sandboxes(f.namespace)
			for _, body := range []v1alpha1.SandboxResume{back, template} {
				for _, dryRun := range [][]string{{metav1.DryRunAll}, nil} {
					if who != pauser && dryRun == nil {
						continue // else the next would find another phase
					}
					_, err := sandboxes.Resume(t.Context(), "demo", &body, metav1.CreateOptions{DryRun: dryRun})
					refused := who == pauser || who == restricted && body.SnapshotName != ""
					if refused != apierrors.IsForbidden(err) || !refused && err != nil {
						t.Errorf("%s: %s resumes from %q%t, dry run %q: %v", phase, who, body.SnapshotName, body.FromTemplate, dryRun, err)
					}
				}
			}
		}
	}

	f.asPaused("demo", "demo-gen2")
	sandboxes := f.client(pauser).LifecycleV1alpha1().Sandboxes(f.namespace)
	_, err := sandboxes.Resume(t.Context(), "demo", &back, metav1.CreateOptions{})
	for _, says := range []string{`User "pauser" cannot rollback resource "sandboxes" in API group "lifecycle.opensandbox.io"`, "snapshotName: ", "no rule allows it"} {
		if err == nil || !strings.Contains(err.Error(), says) {
			t.Errorf("the refusal does not say %q: %v", says, err)
		}
	}
	// Nor is it said which snapshots there are.
	_, unknown := sandboxes.Resume(t.Context(), "demo", &v1alpha1.SandboxResume{SnapshotName: "unknown"}, metav1.CreateOptions{})
	if !apierrors.IsForbidden(unknown) || unknown.Error() != err.Error() {
		t.Errorf("of a snapshot that does not exist: %v, and of one that does: %v", unknown, err)
	}
	if now := f.get("demo"); now.Status.Phase != v1alpha1.SandboxPaused || now.Status.SnapshotName != "demo-gen2" {
		t.Errorf("after what was forbidden the sandbox is %+v", now.Status)
	}
	if _, err := sandboxes.Resume(t.Context(), "demo", &v1alpha1.SandboxResume{}, metav1.CreateOptions{}); err != nil {
		t.Errorf("a resume that chooses nothing, by who may resume: %v", err)
	}
}

// TestASnapshotIsMadeByWhoMayReadItsSandbox: its status has the template, and with it the environment.
func TestASnapshotIsMadeByWhoMayReadItsSandbox(t *testing.T) {
	f := newFixture(t)
	f.create(sandbox("demo"))
	snapshots := f.client(blind).LifecycleV1alpha1().SandboxSnapshots(f.namespace)
	of := func(name string) *v1alpha1.SandboxSnapshot {
		return &v1alpha1.SandboxSnapshot{ObjectMeta: metav1.ObjectMeta{Name: name}, Spec: v1alpha1.SandboxSnapshotSpec{SandboxName: name}}
	}
	_, err := snapshots.Create(t.Context(), of("demo"), metav1.CreateOptions{})
	if !apierrors.IsForbidden(err) || !strings.Contains(err.Error(), `cannot get resource "sandboxes"`) || !strings.Contains(err.Error(), "spec.sandboxName: ") {
		t.Errorf("by who may not get the sandbox: %v", err)
	}
	if _, err := snapshots.Create(t.Context(), of("demo"), metav1.CreateOptions{DryRun: []string{metav1.DryRunAll}}); !apierrors.IsForbidden(err) {
		t.Errorf("as a dry run: %v", err)
	}
	if _, err := snapshots.Create(t.Context(), of("unknown"), metav1.CreateOptions{}); !apierrors.IsForbidden(err) {
		t.Errorf("of a sandbox that does not exist: %v", err)
	}
	apply := `{"apiVersion":"lifecycle.opensandbox.io/v1alpha1","kind":"SandboxSnapshot","metadata":{"name":"mine"},"spec":{"sandboxName":"demo"}}`
	if _, err := snapshots.Patch(t.Context(), "mine", types.ApplyPatchType, []byte(apply), metav1.PatchOptions{FieldManager: "x"}); !apierrors.IsForbidden(err) {
		t.Errorf("by apply: %v", err)
	}
	source := `{"images":[{"containerName":"main","image":"registry.example.com/a@sha256:` + strings.Repeat("a", 64) + `"}]}`
	if got := f.send(blind, http.MethodPost, f.pathOf("sandboxsnapshots", ""), strings.NewReader(manifest("SandboxSnapshot", `{"name":"moved"}`, `{"source":`+source+`}`, `{}`)), http.Header{"Content-Type": {asJSON}}); got.code != http.StatusCreated {
		t.Errorf("of existing images, which are no sandbox's: %d %s", got.code, got.body)
	}
	// What has been made may be labelled by whoever may update it.
	if _, err := f.snapshots.Create(t.Context(), of("demo"), metav1.CreateOptions{}); err != nil {
		t.Errorf("by who may: %v", err)
	}
	if _, err := snapshots.Patch(t.Context(), "demo", types.MergePatchType, []byte(`{"metadata":{"labels":{"a":"b"}}}`), metav1.PatchOptions{}); err != nil {
		t.Errorf("a label, by who may not get the sandbox: %v", err)
	}
}
