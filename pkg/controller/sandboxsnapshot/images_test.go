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
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/opensandbox-io/sandbox-apiserver/apis/lifecycle/v1alpha1"
	"github.com/opensandbox-io/sandbox-apiserver/pkg/committer/registry"
)

// album is a registry that notes what it is asked for.
type album struct {
	err   error
	asked []string
}

func (a *album) Delete(_ context.Context, image, digest string) error {
	a.asked = append(a.asked, "delete "+image+"@"+digest)
	return a.err
}

func (a *album) Duplicate(_ context.Context, image, digest, target string, annotations map[string]string) (string, error) {
	a.asked = append(a.asked, fmt.Sprintf("copy %s@%s to %s %v", image, digest, target, annotations))
	return "sha256:twin", a.err
}

// saved: the snapshot demo-gen1 succeeded and its image is where it belongs.
func saved(s *v1alpha1.SandboxSnapshot) {
	committed(s)
	s.Status.Containers[0].ImageURI = "registry.example.com/default/demo-main:snap-gen1-demogen1"
	s.Status.Containers[0].ImageDigest = "sha256:abc"
	s.Status.Containers[0].Layers = 1
}

func TestDeletionReachesTheRegistry(t *testing.T) {
	const ours = "delete registry.example.com/default/demo-main:snap-gen1-demogen1@sha256:abc"
	down := errors.New("the registry is down")
	for name, test := range map[string]struct {
		change  func(*v1alpha1.SandboxSnapshot)
		answers error
		after   time.Duration // since the deletion
		want    string        // what the registry is asked for
		stays   bool
		left    bool // an event tells of an image that stays
	}{
		"deleted":            {want: ours},
		"retained":           {change: func(s *v1alpha1.SandboxSnapshot) { s.Spec.DeletionPolicy = v1alpha1.DeletionPolicyRetain }},
		"never made":         {change: func(s *v1alpha1.SandboxSnapshot) { s.Status.Phase = v1alpha1.SnapshotFailed }},
		"another registry's": {change: func(s *v1alpha1.SandboxSnapshot) { s.Status.Containers[0].ImageURI = "elsewhere.example.com/a:b" }, left: true},
		"another tenant's": {change: func(s *v1alpha1.SandboxSnapshot) {
			s.Status.Containers[0].ImageURI = "registry.example.com/other/demo-main:snap-gen1-demogen1"
		}, left: true},
		"down":                          {answers: down, want: ours, stays: true},
		"down for nine minutes":         {answers: down, after: 9 * time.Minute, want: ours, stays: true},
		"down for more than ten":        {answers: down, after: 11 * time.Minute, want: ours, left: true},
		"a registry that never deletes": {answers: fmt.Errorf("no: %w", registry.ErrDeleteUnsupported), want: ours, left: true},
	} {
		t.Run(name, func(t *testing.T) {
			snapshot := attemptOf("demo", saved)
			if test.change != nil {
				test.change(snapshot)
			}
			f := newFixture(t, snapshot)
			asked := &album{err: test.answers}
			f.r.Registry = func(context.Context) (Images, error) { return asked, nil }
			f.deletes(snapshot)
			f.r.Clock = clocktesting.NewFakePassiveClock(f.deletionTime(snapshot.Name).Add(test.after))

			err := f.visit(snapshot.Name)
			if (err != nil) != test.stays {
				t.Fatalf("got error %v, want one: %v", err, test.stays)
			}
			if got := strings.Join(asked.asked, "; "); got != test.want {
				t.Errorf("the registry was asked to %q, want %q", got, test.want)
			}
			left := false
			for len(f.recorder.Events) > 0 {
				left = strings.Contains(<-f.recorder.Events, v1alpha1.EventImageLeft) || left
			}
			if left != test.left {
				t.Errorf("an event tells of an image that stays: %v, want %v", left, test.left)
			}
			if !test.stays {
				f.is(f.visits(snapshot.Name), "gone")
				return
			}
			asked.err = nil
			f.is(f.visits(snapshot.Name), "gone")
		})
	}
}

func TestADeletionThatWaitsSaysWhy(t *testing.T) {
	snapshot := attemptOf("demo", saved)
	f := newFixture(t, snapshot)
	f.r.Registry = func(context.Context) (Images, error) { return &album{err: errors.New("the registry is down")}, nil }
	f.deletes(snapshot)
	f.r.Clock = clocktesting.NewFakePassiveClock(f.deletionTime(snapshot.Name))
	for range 2 {
		if err := f.visit(snapshot.Name); err == nil {
			t.Fatal("the snapshot went although its image is there")
		}
	}
	if err := f.own.Get(t.Context(), client.ObjectKeyFromObject(snapshot), snapshot); err != nil {
		t.Fatal(err)
	}
	f.is(snapshot, "Succeed Ready=False/"+v1alpha1.ReasonImageDeletionFailed)
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

// paused: the sandbox demo is paused on its first attempt.
func paused(s *v1alpha1.Sandbox) {
	s.Status.Phase = v1alpha1.SandboxPaused
	s.Status.PodName, s.Status.PodUID, s.Status.SnapshotName = "", "", "demo-gen1"
	s.Status.Conditions = []metav1.Condition{{Type: v1alpha1.ConditionPaused, Status: metav1.ConditionTrue, Reason: v1alpha1.ReasonPaused}}
}

func TestASnapshotOfAPausedSandbox(t *testing.T) {
	for name, test := range map[string]struct {
		containers []string
		answers    error
		want       string
	}{
		"all containers":   {want: succeeded},
		"one of them":      {containers: []string{"main"}, want: succeeded},
		"one never saved":  {containers: []string{"sidecar"}, want: "Failed Ready=False/ContainerNotFound Failed=True/ContainerNotFound"},
		"registry trouble": {answers: errors.New("it is full"), want: "Failed Ready=False/CommitJobFailed Failed=True/CommitJobFailed"},
	} {
		t.Run(name, func(t *testing.T) {
			mine := snapshotOf("demo", "mine", func(s *v1alpha1.SandboxSnapshot) { s.Spec.Containers = test.containers })
			f := newFixture(t, pausing("demo", paused), attemptOf("demo", saved), mine)
			asked := &album{err: test.answers}
			f.r.Registry = func(context.Context) (Images, error) { return asked, nil }

			snapshot := f.visits("mine")
			f.is(snapshot, test.want)
			f.hasJobs() // none: no data moves
			if test.want != succeeded {
				return
			}
			want := v1alpha1.ContainerSnapshot{
				ContainerName: "main", ContainerID: "c1", Layers: 1, ImageURI: "registry.example.com/default/demo-main:snap-mineuid", ImageDigest: "sha256:twin",
			}
			if len(snapshot.Status.Containers) != 1 || snapshot.Status.Containers[0] != want {
				t.Errorf("got %+v, want %+v", snapshot.Status.Containers, want)
			}
			if len(asked.asked) != 1 || !strings.Contains(asked.asked[0], "snapshot-uid:mine-uid") {
				t.Errorf("the registry was asked to %q", asked.asked)
			}
		})
	}
}
