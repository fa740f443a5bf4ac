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
	"strings"
	"testing"

	corev1 "k8s.io/api/core/v1"

	"github.com/opensandbox-io/sandbox-apiserver/apis/lifecycle/v1alpha1"
	"github.com/opensandbox-io/sandbox-apiserver/pkg/committer/result"
)

func TestWarningsAreAdopted(t *testing.T) {
	many := make([]result.Warning, 40)
	for i := range many {
		many[i] = result.Warning{Reason: result.MountNotKept, Container: "main", Path: "/p", Message: "m"}
	}
	tests := map[string]struct {
		known    []v1alpha1.SnapshotWarning
		reported []result.Warning
		want     int
		last     v1alpha1.SnapshotWarning
	}{
		"none": {},
		"the node's": {nil, []result.Warning{{Reason: result.BaseRebuilt, Container: "main", Path: "/root/log", Message: "m"}}, 1,
			v1alpha1.SnapshotWarning{Reason: v1alpha1.ReasonBaseRebuilt, ContainerName: "main", Path: "/root/log", Message: "m"}},
		"beside those that were known": {[]v1alpha1.SnapshotWarning{{Reason: v1alpha1.ReasonContainerNotKept, ContainerName: "side", Message: "m"}},
			[]result.Warning{{Reason: result.BaseRebuilt, Container: "main", Message: "m"}}, 2,
			v1alpha1.SnapshotWarning{Reason: v1alpha1.ReasonBaseRebuilt, ContainerName: "main", Message: "m"}},
		"more than there may be": {nil, many, maxWarnings, v1alpha1.SnapshotWarning{Reason: v1alpha1.ReasonWarningsOmitted, Message: "9 more warnings were left out"}},
		"longer than they may be": {nil, []result.Warning{{Reason: result.MountNotKept, Path: "/" + strings.Repeat("é", 5000), Message: "m"}}, 1,
			v1alpha1.SnapshotWarning{Reason: v1alpha1.ReasonMountNotKept, Path: "/" + strings.Repeat("é", 510) + ellipsis, Message: "m"}},
	}
	for name, test := range tests {
		t.Run(name, func(t *testing.T) {
			status := v1alpha1.SandboxSnapshotStatus{Warnings: test.known}
			if err := adopt(&status, result.Result{Warnings: test.reported}); err != nil {
				t.Fatal(err)
			}
			if len(status.Warnings) != test.want {
				t.Fatalf("%d warnings, want %d: %+v", len(status.Warnings), test.want, status.Warnings)
			}
			if test.want > 0 && status.Warnings[test.want-1] != test.last {
				t.Errorf("the last is %+v, want %+v", status.Warnings[test.want-1], test.last)
			}
		})
	}
}

// TestASnapshotTellsWhatItLoses, from its commit's beginning, and what the node has to add at its end.
func TestASnapshotTellsWhatItLoses(t *testing.T) {
	sandbox := pausing("demo", func(s *v1alpha1.Sandbox) {
		s.Spec.Template.Spec.Volumes = []corev1.Volume{{Name: "scratch", VolumeSource: corev1.VolumeSource{EmptyDir: &corev1.EmptyDirVolumeSource{}}}}
		s.Spec.Template.Spec.Containers[0].VolumeMounts = []corev1.VolumeMount{{Name: "scratch", MountPath: "/scratch"}}
	})
	pod := podOf("demo", func(p *corev1.Pod) {
		p.Status.EphemeralContainerStatuses = []corev1.ContainerStatus{{Name: "debugger", ContainerID: "containerd://d"}}
	})
	f := newFixture(t, sandbox, pod, attemptOf("demo"))
	snapshot := f.visits("demo-gen1")
	f.is(snapshot, committing)
	got := ""
	for _, w := range snapshot.Status.Warnings {
		got += w.Reason + " " + w.ContainerName + w.Path + "; "
	}
	if want := "MountNotKept main/scratch; ContainerNotKept injected; ContainerNotKept debugger; "; got != want {
		t.Errorf("the warnings are %q, want %q", got, want)
	}
	_, warned, err := f.r.checks().Problems(t.Context(), attemptOf("demo"), sandbox)
	if err != nil || len(warned) != 2 || warned[1] != `the files of debug container "debugger" are not in the snapshot` {
		t.Errorf("a dry run warns %q (%v)", warned, err)
	}
}
