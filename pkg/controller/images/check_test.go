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

package images

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"testing"
	"time"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/client-go/tools/events"
	clocktesting "k8s.io/utils/clock/testing"
	ctrl "sigs.k8s.io/controller-runtime"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/controller-runtime/pkg/client/fake"

	"github.com/opensandbox-io/sandbox-apiserver/apis/lifecycle/v1alpha1"
	"github.com/opensandbox-io/sandbox-apiserver/pkg/committer/registry"
	"github.com/opensandbox-io/sandbox-apiserver/pkg/committer/result"
	"github.com/opensandbox-io/sandbox-apiserver/pkg/controller/answer"
	"github.com/opensandbox-io/sandbox-apiserver/pkg/controller/sandboxsnapshot"
)

// shelf is a registry: what it says about each image, by the name of its container.
type shelf struct {
	missing map[string]bool
	lost    map[string]string
	fails   map[string]error
	asked   int
}

func (s *shelf) Look(_ context.Context, image, _ string) (registry.Found, error) {
	s.asked++
	return registry.Found{Manifest: !s.missing[image], Lost: s.lost[image]}, s.fails[image]
}

// snapshotIn is the snapshot demo-gen1 of two containers, whose images are named main and sidecar.
func snapshotIn(phase v1alpha1.SandboxSnapshotPhase, conditions ...metav1.Condition) *v1alpha1.SandboxSnapshot {
	return &v1alpha1.SandboxSnapshot{
		ObjectMeta: metav1.ObjectMeta{Namespace: "default", Name: "demo-gen1", UID: "uid-1", Generation: 1},
		Spec:       v1alpha1.SandboxSnapshotSpec{SandboxName: "demo"},
		Status: v1alpha1.SandboxSnapshotStatus{
			Phase: phase, Conditions: conditions,
			Containers: []v1alpha1.ContainerSnapshot{
				{ContainerName: "main", ImageURI: "main", ImageDigest: "sha256:a"},
				{ContainerName: "sidecar", ImageURI: "sidecar", ImageDigest: "sha256:b"},
			},
		},
	}
}

func available(status metav1.ConditionStatus, reason, message string) metav1.Condition {
	return metav1.Condition{Type: v1alpha1.ConditionImageAvailable, Status: status, Reason: reason, Message: message, LastTransitionTime: metav1.NewTime(epoch)}
}

// fixture is a Checker on an API server in memory.
type fixture struct {
	*testing.T
	checker  *Checker
	sweep    *Sweep
	own      client.Client
	shelf    *shelf
	clock    *clocktesting.FakePassiveClock
	recorder *events.FakeRecorder
}

type indexes struct{ *fake.ClientBuilder }

func (i *indexes) IndexField(_ context.Context, object client.Object, field string, values client.IndexerFunc) error {
	i.WithIndex(object, field, values)
	return nil
}

func newFixture(t *testing.T, objects ...client.Object) *fixture {
	t.Helper()
	known := runtime.NewScheme()
	if err := v1alpha1.AddToScheme(known); err != nil {
		t.Fatal(err)
	}
	builder := &indexes{fake.NewClientBuilder().WithScheme(known).WithObjects(objects...).WithStatusSubresource(&v1alpha1.Sandbox{}, &v1alpha1.SandboxSnapshot{})}
	if err := sandboxsnapshot.AddIndexes(t.Context(), builder); err != nil {
		t.Fatal(err)
	}
	f := &fixture{
		T: t, own: builder.Build(), shelf: &shelf{missing: map[string]bool{}, fails: map[string]error{}},
		clock: clocktesting.NewFakePassiveClock(epoch.Add(time.Hour)), recorder: events.NewFakeRecorder(20),
	}
	f.checker = &Checker{Client: f.own, Live: f.own, Registry: f.shelf, Pace: NewPace(), Recorder: f.recorder, Clock: f.clock}
	f.sweep = &Sweep{Client: f.own, Checker: f.checker, Every: 30 * time.Minute, Clock: f.clock}
	return f
}

func (f *fixture) snapshot() *v1alpha1.SandboxSnapshot {
	f.Helper()
	snapshot := &v1alpha1.SandboxSnapshot{}
	if err := f.own.Get(f.Context(), client.ObjectKey{Namespace: "default", Name: "demo-gen1"}, snapshot); err != nil {
		f.Fatal(err)
	}
	return snapshot
}

func (f *fixture) condition() metav1.Condition {
	f.Helper()
	condition := meta.FindStatusCondition(f.snapshot().Status.Conditions, v1alpha1.ConditionImageAvailable)
	if condition == nil {
		return metav1.Condition{}
	}
	return *condition
}

// told are the events since the last call, each as its type and reason.
func (f *fixture) told() string {
	var told []string
	for len(f.recorder.Events) > 0 {
		words := strings.Fields(<-f.recorder.Events)
		told = append(told, words[0]+" "+words[1])
	}
	return strings.Join(told, ", ")
}

func TestCheck(t *testing.T) {
	down := result.Errorf(result.RegistryUnavailable, "it does not answer")
	const there = "every image of the snapshot is in the registry"
	isThere := available(metav1.ConditionTrue, v1alpha1.ReasonImageAvailable, there)
	isMissing := available(metav1.ConditionFalse, v1alpha1.ReasonImageUnavailable, "it was missing")
	isLost := available(metav1.ConditionUnknown, v1alpha1.ReasonImageIncomplete, "a layer was lost")
	isUnknown := available(metav1.ConditionUnknown, v1alpha1.ReasonRegistryUnavailable, "it did not answer")
	const (
		says  = "True/ImageAvailable"
		lost  = "False/ImageUnavailable"
		warns = "Warning ImageUnavailable"
	)
	for name, test := range map[string]struct {
		before  []metav1.Condition
		missing string
		lost    string
		fails   map[string]error
		want    string
		event   string
		unsaid  bool // nothing is written
		moved   bool // the last transition is now
	}{
		"the first time":               {want: says, moved: true},
		"there as before":              {before: []metav1.Condition{isThere}, want: says, unsaid: true},
		"missing the first time":       {missing: "main", want: lost, event: warns, moved: true},
		"lost":                         {before: []metav1.Condition{isThere}, missing: "sidecar", want: lost, event: warns, moved: true},
		"still lost":                   {before: []metav1.Condition{isMissing}, missing: "sidecar", want: lost},
		"found again":                  {before: []metav1.Condition{isMissing}, want: says, event: "Normal ImageAvailable", moved: true},
		"a layer is lost":              {before: []metav1.Condition{isThere}, lost: "main", want: "Unknown/ImageIncomplete", event: "Warning ImageIncomplete", moved: true},
		"a layer is still lost":        {before: []metav1.Condition{isLost}, lost: "main", want: "Unknown/ImageIncomplete", unsaid: true},
		"a layer is there again":       {before: []metav1.Condition{isLost}, want: says, event: "Normal ImageAvailable", moved: true},
		"a layer lost, one missing":    {lost: "main", missing: "sidecar", want: lost, event: warns, moved: true},
		"a layer lost, then all":       {before: []metav1.Condition{isLost}, missing: "main", want: lost, event: warns, moved: true},
		"a layer lost, one not known":  {lost: "main", fails: map[string]error{"sidecar": down}, want: "Unknown/ImageIncomplete", event: "Warning ImageIncomplete", moved: true},
		"cannot be asked":              {before: []metav1.Condition{isThere}, fails: map[string]error{"main": down}, want: "Unknown/RegistryUnavailable", moved: true},
		"still cannot be asked":        {before: []metav1.Condition{isUnknown}, fails: map[string]error{"main": down}, want: "Unknown/RegistryUnavailable", unsaid: true},
		"can be asked again":           {before: []metav1.Condition{isUnknown}, want: says, moved: true},
		"was missing, cannot be asked": {before: []metav1.Condition{isMissing}, fails: map[string]error{"main": down}, want: "Unknown/RegistryUnavailable", moved: true},
		"one missing, one not known":   {before: []metav1.Condition{isThere}, missing: "sidecar", fails: map[string]error{"main": down}, want: lost, event: warns, moved: true},
		"may not ask":                  {fails: map[string]error{"main": result.Errorf(result.PushSecretInvalid, "401")}, want: "Unknown/PushSecretInvalid", moved: true},
		"has no Secret to ask with":    {fails: map[string]error{"main": errors.New("read Secret")}, want: "Unknown/ImageCheckFailed", moved: true},
		"asked too much already":       {fails: map[string]error{"main": fmt.Errorf("head: %w", errBusy)}, want: "Unknown/ImageCheckFailed", moved: true},
	} {
		t.Run(name, func(t *testing.T) {
			f := newFixture(t, snapshotIn(v1alpha1.SnapshotSucceed, test.before...))
			if test.missing != "" {
				f.shelf.missing[test.missing] = true
			}
			if test.lost != "" {
				f.shelf.lost = map[string]string{test.lost: "sha256:lost"}
			}
			f.shelf.fails = test.fails
			before := f.snapshot()
			if _, err := f.checker.Check(t.Context(), before.DeepCopy()); err != nil {
				t.Fatal(err)
			}
			got := f.condition()
			if is := string(got.Status) + "/" + got.Reason; is != test.want || got.Message == "" {
				t.Errorf("it says %s (%s), want %s", is, got.Message, test.want)
			}
			if test.missing != "" && !strings.Contains(got.Message, test.missing+"@sha256:") {
				t.Errorf("it does not say which image is missing: %s", got.Message)
			}
			if moved := got.LastTransitionTime.Time.Equal(f.clock.Now()); moved != test.moved {
				t.Errorf("the last transition is %s", got.LastTransitionTime)
			}
			if event := f.told(); event != test.event {
				t.Errorf("told %q, want %q", event, test.event)
			}
			if written := f.snapshot().ResourceVersion != before.ResourceVersion; written == test.unsaid {
				t.Errorf("written: %t", written)
			}
		})
	}
}

// Somebody else has written since: what was found goes into what there is now.
func TestCheckOfASnapshotThatHasChanged(t *testing.T) {
	f := newFixture(t, snapshotIn(v1alpha1.SnapshotSucceed))
	read := f.snapshot()
	changed := read.DeepCopy()
	meta.SetStatusCondition(&changed.Status.Conditions, metav1.Condition{Type: v1alpha1.ConditionReady, Status: metav1.ConditionTrue, Reason: v1alpha1.ReasonInUse})
	if err := f.own.Status().Update(t.Context(), changed); err != nil {
		t.Fatal(err)
	}
	if _, err := f.checker.Check(t.Context(), read); err != nil {
		t.Fatal(err)
	}
	if now := f.snapshot(); len(now.Status.Conditions) != 2 {
		t.Errorf("it says %v", now.Status.Conditions)
	}

	if err := f.own.Delete(t.Context(), f.snapshot()); err != nil {
		t.Fatal(err)
	}
	f.shelf.missing["main"] = true
	if _, err := f.checker.Check(t.Context(), read); err != nil && !apierrors.IsNotFound(err) {
		t.Errorf("of a snapshot that is gone: %v", err)
	}
}

func TestAResumeNeverWaitsForItsTurn(t *testing.T) {
	f := newFixture(t, snapshotIn(v1alpha1.SnapshotSucceed))
	f.checker.CheckForResume(t.Context(), f.snapshot())
	if f.shelf.asked != 2 || f.condition().Status != metav1.ConditionTrue {
		t.Fatalf("asked %d times, says %v", f.shelf.asked, f.condition())
	}
	for f.checker.Pace.hasRoom() {
		if err := f.checker.Pace.Wait(t.Context()); err != nil {
			t.Fatal(err)
		}
	}
	f.shelf.missing["main"] = true
	f.checker.CheckForResume(t.Context(), f.snapshot())
	if f.shelf.asked != 2 || f.condition().Status != metav1.ConditionTrue {
		t.Errorf("asked %d times, says %v", f.shelf.asked, f.condition())
	}
}

// Even whether an image exists is not a tenant's to ask with the server's credentials.
func TestExistingImagesAreNotAskedFor(t *testing.T) {
	const unasked = "the images were not made by this snapshot"
	named := snapshotIn(v1alpha1.SnapshotSucceed, available(metav1.ConditionUnknown, v1alpha1.ReasonImageNotChecked, unasked))
	named.Spec = v1alpha1.SandboxSnapshotSpec{Source: &v1alpha1.SnapshotSource{}}
	f := newFixture(t, named, &v1alpha1.Sandbox{
		ObjectMeta: metav1.ObjectMeta{Namespace: "default", Name: "demo"},
		Status:     v1alpha1.SandboxStatus{Phase: v1alpha1.SandboxPaused, SnapshotName: "demo-gen1"},
	})
	f.checker.CheckForResume(t.Context(), f.snapshot())
	for range 3 {
		f.clock.SetTime(f.clock.Now().Add(2 * time.Hour))
		result, err := f.sweep.Reconcile(t.Context(), ctrl.Request{NamespacedName: client.ObjectKeyFromObject(named)})
		if err != nil || result.RequeueAfter != 0 {
			t.Errorf("swept: %+v, %v", result, err)
		}
	}
	if f.shelf.asked != 0 || f.condition().Message != unasked {
		t.Errorf("asked %d times, says %v", f.shelf.asked, f.condition())
	}
}

func TestPace(t *testing.T) {
	p := NewPace()
	begin, asked := time.Now(), 0
	ctx, cancel := context.WithTimeout(t.Context(), 900*time.Millisecond)
	defer cancel()
	for p.Wait(ctx) == nil {
		asked++
	}
	// As many as may go at once, and what has come since.
	if most := requestsPerSecond + int(time.Since(begin).Seconds()*requestsPerSecond) + 1; asked < requestsPerSecond || asked > most {
		t.Errorf("%d requests in %s, at most %d are allowed", asked, time.Since(begin), most)
	}
	if err := p.Wait(ctx); !errors.Is(err, errBusy) {
		t.Errorf("out of time it fails with %v", err)
	}
}

// A registry, or a proxy before it, may answer with a page; the status could not be written with it.
func TestALongAnswerIsCut(t *testing.T) {
	f := newFixture(t, snapshotIn(v1alpha1.SnapshotSucceed))
	f.shelf.fails["main"] = errors.New("502 Bad Gateway: <html>" + strings.Repeat("x", 152_000))
	if _, err := f.checker.Check(t.Context(), f.snapshot()); err != nil {
		t.Fatal(err)
	}
	if got := f.condition(); len(got.Message) > answer.MaxCondition || !strings.Contains(got.Message, "502 Bad Gateway") {
		t.Errorf("%d bytes: %.100q", len(got.Message), got.Message)
	}
}
