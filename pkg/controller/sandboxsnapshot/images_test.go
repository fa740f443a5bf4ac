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

package sandboxsnapshot

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"testing"
	"time"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	clocktesting "k8s.io/utils/clock/testing"
	ctrl "sigs.k8s.io/controller-runtime"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/opensandbox-io/sandbox-apiserver/apis/lifecycle/v1alpha1"
	"github.com/opensandbox-io/sandbox-apiserver/pkg/committer/registry"
	"github.com/opensandbox-io/sandbox-apiserver/pkg/controller/commitjob"
)

// album is a registry that notes what it is asked for.
type album struct {
	err error
	// refuses is what it answers about one image alone.
	refuses map[string]error
	asked   []string
	// afterCopy happens when an image has been copied.
	afterCopy func()
}

func (a *album) Delete(_ context.Context, image, digest string) error {
	a.asked = append(a.asked, "delete "+image+"@"+digest)
	if err := a.refuses[image]; err != nil {
		return err
	}
	return a.err
}

func (a *album) Duplicate(_ context.Context, image, digest, target string, annotations map[string]string) (string, error) {
	a.asked = append(a.asked, fmt.Sprintf("copy %s@%s to %s %v", image, digest, target, annotations))
	if err := a.refuses[image]; err != nil {
		return "", err
	}
	if a.afterCopy != nil {
		a.afterCopy()
	}
	return "sha256:twin", a.err
}

// saved: the snapshot demo-gen1 succeeded and its image is where it belongs.
func saved(s *v1alpha1.SandboxSnapshot) {
	committed(s)
	s.Status.Containers[0].ImageURI = mainImage
	s.Status.Containers[0].ImageDigest = "sha256:abc"
	s.Status.Containers[0].Layers = 1
}

// withSidecar: a second container is saved as well.
func withSidecar(s *v1alpha1.SandboxSnapshot) {
	s.Status.Containers = append(s.Status.Containers, v1alpha1.ContainerSnapshot{ContainerName: "sidecar", ImageURI: sidecarImage, ImageDigest: "sha256:def"})
}

const (
	mainImage    = "registry.example.com/default/demo-main:snap-gen1-demogen1"
	sidecarImage = "registry.example.com/default/demo-sidecar:snap-gen1-demogen1"
)

func TestDeletionReachesTheRegistry(t *testing.T) {
	const ours = "delete " + mainImage + "@sha256:abc"
	down := errors.New("the registry is down")
	never := fmt.Errorf("no: %w", registry.ErrDeleteUnsupported)
	for name, test := range map[string]struct {
		change  func(*v1alpha1.SandboxSnapshot)
		answers error
		refuses map[string]error
		want    string // what the registry is asked for
		stays   bool
		left    int // events that tell of an image that stays
	}{
		"deleted":  {want: ours},
		"retained": {change: func(s *v1alpha1.SandboxSnapshot) { s.Spec.DeletionPolicy = v1alpha1.DeletionPolicyRetain }},
		// It may have pushed the image of one container before that of another failed.
		"failed": {change: func(s *v1alpha1.SandboxSnapshot) {
			s.Status.Phase, s.Status.Containers[0].ImageDigest = v1alpha1.SnapshotFailed, ""
		}, want: "delete " + mainImage + "@"},
		"failed, of another registry": {change: func(s *v1alpha1.SandboxSnapshot) {
			s.Status.Phase, s.Status.Containers[0].ImageDigest, s.Status.Containers[0].ImageURI = v1alpha1.SnapshotFailed, "", "elsewhere.example.com/a:b"
		}},
		// Whatever the registry would say to that: nothing waits for it.
		"failed, of a name that no registry takes": {change: func(s *v1alpha1.SandboxSnapshot) {
			s.Spec.SandboxName = strings.Repeat("x", 300)
			s.Status.Phase, s.Status.Containers[0].ImageDigest = v1alpha1.SnapshotFailed, ""
			s.Status.Containers[0].ImageURI = "registry.example.com/default/" + s.Spec.SandboxName + "-main:snap-gen1-demogen1"
		}, answers: down},
		"failed before anything was chosen": {change: func(s *v1alpha1.SandboxSnapshot) {
			s.Status.Phase, s.Status.Containers = v1alpha1.SnapshotFailed, nil
		}},
		"another registry's": {change: func(s *v1alpha1.SandboxSnapshot) { s.Status.Containers[0].ImageURI = "elsewhere.example.com/a:b" }, left: 1},
		"another tenant's": {change: func(s *v1alpha1.SandboxSnapshot) {
			s.Status.Containers[0].ImageURI = "registry.example.com/other/demo-main:snap-gen1-demogen1"
		}, left: 1},
		"of a registry that is down":         {answers: down, want: ours, stays: true},
		"of a registry that never deletes":   {answers: never, want: ours, left: 1},
		"of a registry of the nodes":         {answers: fmt.Errorf("no: %w", registry.ErrOutOfReach), want: ours, left: 1},
		"the first of two cannot be deleted": {change: withSidecar, refuses: map[string]error{mainImage: down}, want: ours + "; delete " + sidecarImage + "@sha256:def", stays: true},
		"one of two can never be deleted":    {change: withSidecar, refuses: map[string]error{mainImage: never}, want: ours + "; delete " + sidecarImage + "@sha256:def", left: 1},
		// Told once, when it is known what stays.
		"one never, the other not yet": {change: withSidecar, refuses: map[string]error{mainImage: never, sidecarImage: down}, want: ours + "; delete " + sidecarImage + "@sha256:def", stays: true},
	} {
		t.Run(name, func(t *testing.T) {
			snapshot := attemptOf("demo", saved)
			if test.change != nil {
				test.change(snapshot)
			}
			f := newFixture(t, snapshot)
			asked := &album{err: test.answers, refuses: test.refuses}
			f.r.Registry = asked
			f.deletes(snapshot)
			f.r.Clock = clocktesting.NewFakePassiveClock(f.deletionTime(snapshot.Name))

			result := f.reconciles(snapshot.Name)
			if (result.RequeueAfter > 0) != test.stays {
				t.Fatalf("looks again after %s, want it to: %t", result.RequeueAfter, test.stays)
			}
			if got := strings.Join(asked.asked, "; "); got != test.want {
				t.Errorf("the registry was asked to %q, want %q", got, test.want)
			}
			if left := f.told(v1alpha1.EventImageLeft); left != test.left {
				t.Errorf("%d events tell of an image that stays, want %d", left, test.left)
			}
			asked.err, asked.refuses = nil, nil
			f.is(f.visits(snapshot.Name), "gone")
		})
	}
}

func TestDeletionRetry(t *testing.T) {
	for elapsed, want := range map[time.Duration]time.Duration{
		0:                              time.Second,
		500 * time.Millisecond:         time.Second,
		2 * time.Second:                2 * time.Second,
		30 * time.Second:               30 * time.Second,
		5 * time.Minute:                time.Minute,
		9*time.Minute + 45*time.Second: 15 * time.Second, // a last time when the limit is reached
		10 * time.Minute:               0,
		time.Hour:                      0,
	} {
		if got := deletionRetry(epoch, epoch.Add(elapsed)); got != want {
			t.Errorf("%s after the first failure it is tried again in %s, want %s", elapsed, got, want)
		}
	}
}

// A registry that does not come back holds up a snapshot for ten minutes, and no longer.
func TestADeletionThatWaits(t *testing.T) {
	snapshot := attemptOf("demo", saved)
	f := newFixture(t, snapshot)
	f.r.Registry = &album{err: errors.New("the registry is down")}
	f.deletes(snapshot)
	now := f.deletionTime(snapshot.Name).Add(time.Hour) // that it was in use for an hour does not count
	f.r.Clock = clocktesting.NewFakePassiveClock(now)

	waited, tries := time.Duration(0), 0
	for again := f.reconciles(snapshot.Name).RequeueAfter; again > 0; again = f.reconciles(snapshot.Name).RequeueAfter {
		waited, tries = waited+again, tries+1
		f.r.Clock = clocktesting.NewFakePassiveClock(now.Add(waited))
		if err := f.own.Get(t.Context(), client.ObjectKeyFromObject(snapshot), snapshot); err != nil {
			t.Fatal(err)
		}
		f.is(snapshot, "Succeed Ready=False/"+v1alpha1.ReasonImageDeletionFailed)
	}
	if waited != deletionLimit || tries < 10 || tries > 20 {
		t.Errorf("waited %s in %d tries, want %s", waited, tries, deletionLimit)
	}
	f.is(f.visits(snapshot.Name), "gone")
	if told := f.told(v1alpha1.ReasonImageDeletionFailed, v1alpha1.EventImageLeft); told != 2 {
		t.Errorf("%d events tell of the wait and its end, want 2", told)
	}
}

func TestAFailedSnapshotIsNotGivenUpAtOnce(t *testing.T) {
	snapshot := attemptOf("demo", saved, func(s *v1alpha1.SandboxSnapshot) {
		s.Status.Phase = v1alpha1.SnapshotFailed
		s.Status.Conditions = []metav1.Condition{{
			Type: v1alpha1.ConditionReady, Status: metav1.ConditionFalse, Reason: v1alpha1.ReasonCanceled, LastTransitionTime: metav1.NewTime(epoch),
		}}
	})
	f := newFixture(t, snapshot)
	f.r.Registry = &album{err: errors.New("the registry is down")}
	f.deletes(snapshot)
	f.r.Clock = clocktesting.NewFakePassiveClock(f.deletionTime(snapshot.Name).Add(time.Second))
	for range 2 {
		if again := f.reconciles(snapshot.Name).RequeueAfter; again == 0 {
			t.Fatal("given up")
		}
	}
}

// reconciles visits the snapshot once, which must go well.
func (f *fixture) reconciles(name string) ctrl.Result {
	f.Helper()
	result, err := f.r.Reconcile(f.Context(), ctrl.Request{NamespacedName: client.ObjectKey{Namespace: namespace, Name: name}})
	if err != nil {
		f.Fatal(err)
	}
	return result
}

// told counts the events with one of the reasons, and forgets all.
func (f *fixture) told(reasons ...string) int {
	count := 0
	for len(f.recorder.Events) > 0 {
		event := <-f.recorder.Events
		for _, reason := range reasons {
			if strings.Contains(event, " "+reason+" ") {
				count++
			}
		}
	}
	return count
}

// deletionTime is when the snapshot was asked to go.
func (f *fixture) deletionTime(name string) time.Time {
	f.Helper()
	snapshot := &v1alpha1.SandboxSnapshot{}
	if err := f.own.Get(f.Context(), client.ObjectKey{Namespace: namespace, Name: name}, snapshot); err != nil {
		f.Fatal(err)
	}
	return snapshot.DeletionTimestamp.Time
}

// TestDeletionReachesTheNode: with a resume cache the node drops what it keeps of a snapshot that goes, where a later
// pause has not replaced it. Nothing waits for that.
func TestDeletionReachesTheNode(t *testing.T) {
	later := func(changes ...func(*v1alpha1.SandboxSnapshot)) *v1alpha1.SandboxSnapshot {
		second := attemptOf("demo", append([]func(*v1alpha1.SandboxSnapshot){saved}, changes...)...)
		second.Name, second.UID, second.Spec.Pause.Attempt = "demo-gen2", "demo-gen2-uid", 2
		return second
	}
	for name, test := range map[string]struct {
		off     bool
		deleted *v1alpha1.SandboxSnapshot
		other   *v1alpha1.SandboxSnapshot
		refuses error
		want    []string
	}{
		"of a pause":      {deleted: attemptOf("demo", saved), want: []string{commitjob.ComponentUncache}},
		"without a cache": {deleted: attemptOf("demo", saved), off: true},
		"of a user":       {deleted: snapshotOf("demo", "mine", saved)},
		"failed":          {deleted: attemptOf("demo", saved, func(s *v1alpha1.SandboxSnapshot) { s.Status.Phase = v1alpha1.SnapshotFailed })},
		"replaced":        {deleted: attemptOf("demo", saved), other: later()},
		"not replaced, for the next pause failed": {deleted: attemptOf("demo", saved), want: []string{commitjob.ComponentUncache},
			other: later(func(s *v1alpha1.SandboxSnapshot) { s.Status.Phase = v1alpha1.SnapshotFailed })},
		"not replaced, for the next pause was elsewhere": {deleted: attemptOf("demo", saved), want: []string{commitjob.ComponentUncache},
			other: later(func(s *v1alpha1.SandboxSnapshot) { s.Status.SourceNodeName = "node-2" })},
		"the last, before an earlier one": {deleted: later(), other: attemptOf("demo", saved), want: []string{commitjob.ComponentUncache}},
		"refused":                         {deleted: attemptOf("demo", saved), refuses: errors.New("no Jobs today")},
	} {
		t.Run(name, func(t *testing.T) {
			objects := []client.Object{test.deleted}
			if test.other != nil {
				objects = append(objects, test.other)
			}
			f := newFixture(t, objects...)
			if !test.off {
				f.r.Jobs.ResumeCache = 1000
			}
			f.refuseJob = test.refuses
			f.deletes(test.deleted)
			f.is(f.visits(test.deleted.Name), "gone")
			f.hasJobs(test.want...)
		})
	}
}
