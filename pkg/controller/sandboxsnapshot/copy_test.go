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
	"errors"
	"strings"
	"testing"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/opensandbox-io/sandbox-apiserver/apis/lifecycle/v1alpha1"
)

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
		forged     string // what a status says
		want       string
	}{
		"all containers":   {want: succeeded},
		"one of them":      {containers: []string{"main"}, want: succeeded},
		"one never saved":  {containers: []string{"sidecar"}, want: "Failed Ready=False/ContainerNotFound Failed=True/ContainerNotFound"},
		"another's image":  {forged: "registry.example.com/other/demo-main:snap-gen1-demogen1", want: "Failed Ready=False/RegistryUnavailable Failed=True/RegistryUnavailable"},
		"another registry": {forged: "registry.attacker.example/default/demo-main:snap-gen1-demogen1", want: "Failed Ready=False/RegistryUnavailable Failed=True/RegistryUnavailable"},
		"registry trouble": {answers: errors.New("it is full"), want: "Failed Ready=False/CommitJobFailed Failed=True/CommitJobFailed"},
	} {
		t.Run(name, func(t *testing.T) {
			mine := snapshotOf("demo", "mine", func(s *v1alpha1.SandboxSnapshot) { s.Spec.Containers = test.containers })
			forged := func(s *v1alpha1.SandboxSnapshot) {
				if test.forged != "" {
					s.Status.Containers[0].ImageURI = test.forged
				}
			}
			f := newFixture(t, pausing("demo", paused), attemptOf("demo", saved, forged), mine)
			asked := &album{err: test.answers}
			f.r.Registry = asked

			snapshot := f.visits("mine")
			f.is(snapshot, test.want)
			f.hasJobs() // none: no data moves
			if test.forged != "" && len(asked.asked) > 0 {
				t.Errorf("the registry was asked to %q", asked.asked)
			}
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

// What a copy has pushed is told before it can end half-way: the deletion reaches it.
func TestACopyThatEndsHalfWay(t *testing.T) {
	const (
		mains    = "registry.example.com/default/demo-main:snap-mineuid"
		sidecars = "registry.example.com/default/demo-sidecar:snap-mineuid"
	)
	start := func(t *testing.T) (*fixture, *album) {
		f := newFixture(t, pausing("demo", paused), attemptOf("demo", saved, withSidecar), snapshotOf("demo", "mine"))
		asked := &album{}
		f.r.Registry = asked
		return f, asked
	}
	deletes := func(f *fixture, asked *album, want ...string) {
		f.Helper()
		asked.asked, asked.refuses = nil, nil
		f.deletes(snapshotOf("demo", "mine"))
		if f.visits("mine") != nil || strings.Join(asked.asked, "; ") != strings.Join(want, "; ") {
			f.Errorf("the registry was asked to %q, want %q", asked.asked, want)
		}
	}
	t.Run("the registry refuses the second", func(t *testing.T) {
		f, asked := start(t)
		asked.refuses = map[string]error{sidecarImage: errors.New("it is full")}
		snapshot := f.visits("mine")
		f.is(snapshot, "Failed Ready=False/CommitJobFailed Failed=True/CommitJobFailed")
		if all := snapshot.Status.Containers; len(all) != 2 || all[0].ImageURI != mains || all[0].ImageDigest != "sha256:twin" || all[1].ImageURI != sidecars || all[1].ImageDigest != "" {
			t.Errorf("it tells of %+v", all)
		}
		deletes(f, asked, "delete "+mains+"@sha256:twin", "delete "+sidecars+"@")
	})
	t.Run("the server dies after a push", func(t *testing.T) {
		f, asked := start(t)
		asked.afterCopy = func() { f.refuseStatus = true }
		if err := f.visit("mine"); err == nil {
			t.Fatal("the status was written")
		}
		deletes(f, asked, "delete "+mains+"@", "delete "+sidecars+"@")
	})
	for name, becomes := range map[string]func(*v1alpha1.Sandbox){
		"its sandbox stays": paused, "its sandbox is being resumed": resuming,
		"its sandbox runs": func(s *v1alpha1.Sandbox) { paused(s); running(s) },
	} {
		t.Run("the server dies, and goes on: "+name, func(t *testing.T) {
			f, asked := start(t)
			asked.afterCopy = func() { f.refuseStatus = true; asked.afterCopy = nil }
			if err := f.visit("mine"); err == nil {
				t.Fatal("the status was written")
			}
			f.restart()
			f.r.Registry = asked
			f.change("demo", becomes)
			snapshot := f.visits("mine")
			f.is(snapshot, succeeded)
			if all := snapshot.Status.Containers; len(all) != 2 || all[0].ImageURI != mains || all[1].ImageURI != sidecars {
				t.Errorf("it has %+v", all)
			}
			f.hasJobs()
		})
	}
	t.Run("another pause has come between", func(t *testing.T) {
		f, asked := start(t)
		asked.afterCopy = func() { f.refuseStatus = true; asked.afterCopy = nil }
		_ = f.visit("mine")
		later := attemptOf("demo", saved, withSidecar, func(s *v1alpha1.SandboxSnapshot) {
			s.Name, s.UID, s.Spec.Pause.Attempt, s.Status.SourcePodUID = "demo-gen2", "gen2", 2, "another"
			for i := range s.Status.Containers {
				s.Status.Containers[i].ImageURI = f.r.reference(s, s.Status.Containers[i].ContainerName)
			}
		})
		if err := f.own.Create(t.Context(), later); err != nil {
			t.Fatal(err)
		}
		f.change("demo", func(s *v1alpha1.Sandbox) { s.Status.SnapshotName = "demo-gen2" })
		f.is(f.visits("mine"), "Failed Ready=False/SourcePodReplaced Failed=True/SourcePodReplaced")
	})
}
