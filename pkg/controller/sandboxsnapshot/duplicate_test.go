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
