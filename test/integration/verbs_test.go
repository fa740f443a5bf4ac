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
	"context"
	"fmt"
	"io"
	"net/http"
	"strings"
	"sync"
	"testing"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/opensandbox-io/sandbox-apiserver/apis/lifecycle/v1alpha1"
)

// chunked hides the length of a body, so that the client sends it chunked.
type chunked struct{ io.Reader }

func TestVerbBodies(t *testing.T) {
	f := newFixture(t)
	f.create(sandbox("demo"))
	json := http.Header{"Content-Type": {"application/json"}}
	form := http.Header{"Content-Type": {"application/x-www-form-urlencoded"}}
	for _, test := range []struct {
		name   string
		body   io.Reader
		header http.Header
		code   int
		says   string
	}{
		{"{}", bytes.NewBufferString("{}"), json, 201, ""},
		{"no body", nil, nil, 201, ""},
		{"no body, as curl -X POST -d ''", bytes.NewBuffer(nil), form, 201, ""},
		{"no body, YAML as kubectl create --raw", bytes.NewBuffer(nil), http.Header{"Content-Type": {"application/yaml"}}, 201, ""},
		{"chunked and empty", chunked{strings.NewReader("")}, json, 201, ""},
		{"chunked and full", chunked{strings.NewReader(`{"metadata":{"name":"demo"}}`)}, json, 201, ""},
		{"no content type", bytes.NewBufferString("{}"), nil, 201, ""},
		{"its own kind", bytes.NewBufferString(`{"kind":"SandboxPause","apiVersion":"lifecycle.opensandbox.io/v1alpha1"}`), json, 201, ""},
		{"malformed", bytes.NewBufferString(`{"metadata":`), json, 400, "unexpected"},
		{"not an object", bytes.NewBufferString(`[]`), json, 400, ""},
		{"another kind", bytes.NewBufferString(`{"kind":"Sandbox","apiVersion":"lifecycle.opensandbox.io/v1alpha1"}`), json, 400, "Sandbox"},
		{"another group", bytes.NewBufferString(`{"kind":"SandboxPause","apiVersion":"example.com/v1"}`), json, 400, "example.com"},
		{"another name", bytes.NewBufferString(`{"metadata":{"name":"other"}}`), json, 400, "metadata.name"},
		{"another namespace", bytes.NewBufferString(`{"metadata":{"namespace":"other"}}`), json, 400, "namespace"},
	} {
		t.Run(test.name, func(t *testing.T) {
			f := f.within(t)
			f.asRunning("demo")
			got := f.send(admin, http.MethodPost, f.path("/demo/pause"), test.body, test.header)
			if got.code != test.code || !strings.Contains(string(got.body), test.says) {
				t.Fatalf("got %d %s, want %d and %q", got.code, got.body, test.code, test.says)
			}
			want := v1alpha1.SandboxRunning
			if test.code == 201 {
				want = v1alpha1.SandboxPausing
				var answer v1alpha1.Sandbox
				got.decode(f, &answer)
				if answer.Kind != "Sandbox" || answer.Status.Phase != want {
					t.Errorf("the answer is %s", got.body)
				}
			} else {
				got.status(f)
			}
			if phase := f.get("demo").Status.Phase; phase != want {
				t.Errorf("the phase is %s, want %s", phase, want)
			}
		})
	}
}

func TestPauseWritesEverythingAtOnce(t *testing.T) {
	f := newFixture(t)
	created := f.create(sandbox("demo", withEmptyDir))
	f.asRunning("demo")
	got := f.post(f.path("/demo/pause?fieldManager=tester"), "")
	if got.code != 201 || !strings.Contains(got.header.Get("Warning"), "scratch") {
		t.Errorf("got %d with Warning %q", got.code, got.header.Get("Warning"))
	}

	s := f.get("demo")
	if s.Spec.DesiredState != v1alpha1.DesiredStatePaused || s.Status.Phase != v1alpha1.SandboxPausing || s.Status.SnapshotAttempts != 1 {
		t.Errorf("desired %s, phase %s, attempts %d", s.Spec.DesiredState, s.Status.Phase, s.Status.SnapshotAttempts)
	}
	if s.Generation != created.Generation+1 {
		t.Errorf("the generation went from %d to %d", created.Generation, s.Generation)
	}
	if s.Status.LastRequestTime == nil {
		t.Error("lastRequestTime is not set")
	}
	for _, condition := range s.Status.Conditions {
		if condition.Status != metav1.ConditionFalse || condition.Reason != v1alpha1.ReasonPausing || condition.ObservedGeneration != s.Generation || condition.Message == "" {
			t.Errorf("condition %+v", condition)
		}
	}
	owned := false
	for _, entry := range s.ManagedFields {
		if entry.Manager == "tester" && entry.Subresource == "pause" {
			owned = strings.Contains(entry.FieldsV1.GetRawString(), "desiredState")
		} else if strings.Contains(entry.FieldsV1.GetRawString(), `"f:desiredState"`) {
			t.Errorf("%s still owns desiredState", entry.Manager)
		}
	}
	if !owned {
		t.Errorf("the caller does not own desiredState: %+v", s.ManagedFields)
	}

	// A repeat writes nothing.
	again, err := f.sandboxes.Pause(context.Background(), "demo", &v1alpha1.SandboxPause{}, metav1.CreateOptions{})
	f.must(err)
	if again.ResourceVersion != s.ResourceVersion {
		t.Errorf("a repeat wrote: %s became %s", s.ResourceVersion, again.ResourceVersion)
	}
}

func TestVerbDryRun(t *testing.T) {
	f := newFixture(t)
	f.create(sandbox("demo"))
	before := f.asRunning("demo")
	dry := metav1.CreateOptions{DryRun: []string{metav1.DryRunAll}}
	would, err := f.sandboxes.Pause(context.Background(), "demo", &v1alpha1.SandboxPause{}, dry)
	f.must(err)
	if would.Status.Phase != v1alpha1.SandboxPausing {
		t.Errorf("would be %s", would.Status.Phase)
	}
	if after := f.get("demo"); after.ResourceVersion != before.ResourceVersion {
		t.Errorf("a dry run wrote")
	}
	f.writeStatus("demo", func(status *v1alpha1.SandboxStatus) { status.Phase, status.PodUID = v1alpha1.SandboxFailed, "" })
	if _, err := f.sandboxes.Pause(context.Background(), "demo", &v1alpha1.SandboxPause{}, dry); !apierrors.IsConflict(err) {
		t.Errorf("a dry run of what is refused: %v", err)
	}
}

func TestVerbRefusals(t *testing.T) {
	f := newFixture(t)
	if got := f.post(f.path("/unknown/pause"), ""); got.code != 404 || got.status(f).Reason != metav1.StatusReasonNotFound {
		t.Errorf("unknown sandbox: %d %s", got.code, got.body)
	}
	f.create(sandbox("demo"))
	f.writeStatus("demo", func(status *v1alpha1.SandboxStatus) { status.Phase = v1alpha1.SandboxFailed })
	got := f.post(f.path("/demo/pause"), "")
	status := got.status(f)
	if got.code != 409 || status.Reason != metav1.StatusReasonConflict || status.Details == nil || len(status.Details.Causes) != 1 ||
		status.Details.Causes[0].Type == "" || status.Details.Causes[0].Field != "status.phase" || !strings.Contains(status.Details.Causes[0].Message, "Failed") {
		t.Errorf("Failed: %d %s", got.code, got.body)
	}
	if got := f.post(f.path("/demo/resume"), `{"snapshotName":"x","fromTemplate":true}`); got.code != 422 || !strings.Contains(got.status(f).Message, "snapshotName") {
		t.Errorf("both sources: %d %s", got.code, got.body)
	}
	if got := f.send(admin, http.MethodGet, f.path("/demo/pause"), nil, nil); got.code != 405 {
		t.Errorf("GET: %d %s", got.code, got.body)
	}
	f.must(f.sandboxes.Delete(context.Background(), "demo", metav1.DeleteOptions{}))
	for _, verb := range []string{"/demo/pause", "/demo/resume"} {
		if got := f.post(f.path(verb), ""); got.code != 409 || !strings.Contains(got.status(f).Message, "deleted") {
			t.Errorf("%s of a sandbox being deleted: %d %s", verb, got.code, got.body)
		}
	}
}

// Nothing has run yet, so nothing can be lost: whatever is asked for is done.
func TestVerbsBeforeAnythingHasRun(t *testing.T) {
	f := newFixture(t)
	demo := f.create(sandbox("demo"))
	f.succeeded("demo-gen1", demo)
	f.succeeded("demo-gen2", demo)
	hangs := func(phase v1alpha1.SandboxPhase, snapshot string) {
		f.writeStatus("demo", func(status *v1alpha1.SandboxStatus) {
			status.Phase, status.PodName, status.PodUID, status.SnapshotName, status.PriorSnapshotName = phase, "demo", "pod", snapshot, ""
		})
	}
	for _, test := range []struct {
		name, verb, body string
		phase            v1alpha1.SandboxPhase
		from             string
		// what becomes of it
		desired                v1alpha1.SandboxDesiredState
		want                   v1alpha1.SandboxPhase
		ready, snapshot, prior string
	}{
		{"a pause of a first start", "pause", "", v1alpha1.SandboxPending, "", v1alpha1.DesiredStatePaused, v1alpha1.SandboxPending, v1alpha1.ReasonWithdrawing, "", ""},
		{"a pause of it once more", "pause", "", v1alpha1.SandboxPending, "", v1alpha1.DesiredStatePaused, v1alpha1.SandboxPending, v1alpha1.ReasonWithdrawing, "", ""},
		{"a resume after that", "resume", "", v1alpha1.SandboxPending, "", v1alpha1.DesiredStateRunning, v1alpha1.SandboxPending, v1alpha1.ReasonPending, "", ""},
		{"the template instead of a snapshot that is none", "resume", `{"fromTemplate":true}`, v1alpha1.SandboxPending, "", v1alpha1.DesiredStateRunning, v1alpha1.SandboxResuming, v1alpha1.ReasonResuming, "", ""},
		{"a pause of a resume", "pause", "", v1alpha1.SandboxResuming, "demo-gen2", v1alpha1.DesiredStatePaused, v1alpha1.SandboxResuming, v1alpha1.ReasonWithdrawing, "demo-gen2", ""},
		{"another snapshot", "resume", `{"snapshotName":"demo-gen1"}`, v1alpha1.SandboxResuming, "demo-gen2", v1alpha1.DesiredStateRunning, v1alpha1.SandboxResuming, v1alpha1.ReasonResuming, "demo-gen1", "demo-gen2"},
		{"the template", "resume", `{"fromTemplate":true}`, v1alpha1.SandboxResuming, "demo-gen2", v1alpha1.DesiredStateRunning, v1alpha1.SandboxResuming, v1alpha1.ReasonResuming, "", "demo-gen2"},
	} {
		hangs(test.phase, test.from)
		got := f.post(f.path("/demo/"+test.verb), test.body)
		if got.code != 201 {
			t.Fatalf("%s: %d %s", test.name, got.code, got.body)
		}
		s := f.get("demo")
		ready := meta.FindStatusCondition(s.Status.Conditions, v1alpha1.ConditionReady)
		if s.Spec.DesiredState != test.desired || s.Status.Phase != test.want || ready.Reason != test.ready || s.Status.SnapshotName != test.snapshot || s.Status.PriorSnapshotName != test.prior {
			t.Errorf("%s: %s, wanted %s: %+v", test.name, s.Status.Phase, s.Spec.DesiredState, s.Status)
		}
	}
}

func TestResumeFromASnapshot(t *testing.T) {
	f := newFixture(t)
	demo, other := f.create(sandbox("demo")), f.create(sandbox("other"))
	f.asPaused("demo", "demo-gen2")
	f.succeeded("demo-gen1", demo)
	f.succeeded("other-gen1", other)
	_, err := f.snapshots.Create(context.Background(), &v1alpha1.SandboxSnapshot{
		ObjectMeta: metav1.ObjectMeta{Name: "mine"}, Spec: v1alpha1.SandboxSnapshotSpec{SandboxName: "demo"},
	}, metav1.CreateOptions{})
	f.must(err)
	for name, cause := range map[string]string{"missing": "SnapshotNotFound", "other-gen1": "SnapshotOfAnotherSandbox", "mine": "SnapshotNotReady"} {
		_, err := f.sandboxes.Resume(context.Background(), "demo", &v1alpha1.SandboxResume{SnapshotName: name}, metav1.CreateOptions{})
		if !apierrors.IsConflict(err) || !apierrors.HasStatusCause(err, metav1.CauseType(cause)) {
			t.Errorf("%s: got %v, want cause %s", name, err, cause)
		}
	}
	s, err := f.sandboxes.Resume(context.Background(), "demo", &v1alpha1.SandboxResume{SnapshotName: "demo-gen1"}, metav1.CreateOptions{})
	f.must(err)
	if s.Status.Phase != v1alpha1.SandboxResuming || s.Status.SnapshotName != "demo-gen1" || s.Spec.DesiredState != v1alpha1.DesiredStateRunning {
		t.Errorf("resumed as %+v", s.Status)
	}
	first := s.Status.LastRequestTime
	s, err = f.sandboxes.Resume(context.Background(), "demo", &v1alpha1.SandboxResume{}, metav1.CreateOptions{})
	f.must(err)
	if !first.Before(s.Status.LastRequestTime) {
		t.Errorf("a repeated resume does not ask for another try: %v, then %v", first, s.Status.LastRequestTime)
	}
}

func TestVerbPermissions(t *testing.T) {
	f := newFixture(t)
	f.create(sandbox("demo"))
	f.asRunning("demo")
	sandboxes := f.client(pauser).LifecycleV1alpha1().Sandboxes(f.namespace)
	s, err := sandboxes.Pause(context.Background(), "demo", &v1alpha1.SandboxPause{}, metav1.CreateOptions{})
	f.must(err)
	if _, err := sandboxes.Update(context.Background(), s, metav1.UpdateOptions{}); !apierrors.IsForbidden(err) {
		t.Errorf("an update by who may only pause: %v", err)
	}
	if got := f.send("stranger", http.MethodPost, f.path("/demo/pause"), nil, nil); got.code != 401 {
		t.Errorf("a stranger: %d", got.code)
	}
}

func TestAHundredPausesAreOne(t *testing.T) {
	f := newFixture(t)
	f.create(sandbox("demo"))
	f.asRunning("demo")
	var all sync.WaitGroup
	errs := make(chan error, 100)
	for range 100 {
		all.Go(func() {
			s, err := f.sandboxes.Pause(context.Background(), "demo", &v1alpha1.SandboxPause{}, metav1.CreateOptions{})
			if err == nil && s.Status.SnapshotAttempts != 1 {
				err = fmt.Errorf("answered with attempt %d", s.Status.SnapshotAttempts)
			}
			errs <- err
		})
	}
	all.Wait()
	close(errs)
	for err := range errs {
		f.must(err)
	}
	if s := f.get("demo"); s.Status.SnapshotAttempts != 1 || s.Status.Phase != v1alpha1.SandboxPausing {
		t.Errorf("phase %s after %d attempts", s.Status.Phase, s.Status.SnapshotAttempts)
	}
}
