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
	"slices"
	"strings"
	"testing"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"

	"github.com/opensandbox-io/sandbox-apiserver/apis/lifecycle/v1alpha1"
	"github.com/opensandbox-io/sandbox-apiserver/pkg/controller/naming"
)

// rescueOf saves what the container main of the sandbox of a name had written, which has ended with the ID c0.
func rescueOf(name string, options ...func(*v1alpha1.SandboxSnapshot)) *v1alpha1.SandboxSnapshot {
	return snapshotOf(name, naming.RescueSnapshot(name, 1), append([]func(*v1alpha1.SandboxSnapshot){func(s *v1alpha1.SandboxSnapshot) {
		s.Spec.Rescue = &v1alpha1.SnapshotRescue{SandboxUID: types.UID(name + "-uid"), PodUID: types.UID(name + "-pod"), Containers: []v1alpha1.RescuedContainer{{ContainerName: "main", ContainerID: "c0"}}}
	}}, options...)...)
}

func TestARescue(t *testing.T) {
	f := newFixture(t, pausing("demo", running), podOf("demo"), rescueOf("demo"))
	snapshot := f.visits("demo-rescue1")
	f.is(snapshot, committing)
	if c := snapshot.Status.Containers; len(c) != 1 || c[0].ContainerName != "main" || c[0].ContainerID != "c0" || !strings.HasPrefix(c[0].ImageURI, "registry.example.com/default/demo-main:snap-") {
		t.Errorf("it commits %+v", c)
	}
	job := f.hasJobs(commit)
	args := job.Spec.Template.Spec.Containers[0].Args
	if !slices.Contains(args, "--ended=main") || slices.Contains(args, "--leave-frozen") || len(job.Spec.Template.Spec.Containers) != 1 {
		t.Errorf("its Job runs %q", args)
	}
	f.ends(f.runs(job), 0, report(snapshot))
	f.is(f.visits("demo-rescue1"), succeeded)
}

// TestARescueThaws nothing, whatever becomes of it: what is frozen of the Pod is another's, and may be about to be removed.
func TestARescueThaws(t *testing.T) {
	f := newFixture(t, pausing("demo", running), podOf("demo"), rescueOf("demo"))
	f.visits("demo-rescue1")
	f.ends(f.runs(f.hasJobs(commit)), 137, "")
	f.is(f.visits("demo-rescue1"), "Failed Ready=False/CommitJobFailed Failed=True/CommitJobFailed")
	f.hasJobs(commit)
}

// TestARescueWaitsForNoPause of the same Pod, nor a pause for it; of two rescues of it one waits.
func TestARescueWaitsForNoPause(t *testing.T) {
	other := rescueOf("demo", func(s *v1alpha1.SandboxSnapshot) {
		s.Name, s.UID = "demo-rescue2", "other"
		s.Spec.Rescue.Containers[0].ContainerID = "c00"
	})
	f := newFixture(t, pausing("demo"), podOf("demo"), attemptOf("demo"), rescueOf("demo"), other)
	f.r.MaxPerNode = 3
	f.r.MaxTotal = 3
	f.is(f.visits("demo-gen1"), committing)
	f.is(f.visits("demo-rescue1"), committing)
	f.is(f.visits("demo-rescue2"), "Pending Ready=False/Queued")

	// After a restart as before.
	f.restart()
	f.r.MaxPerNode, f.r.MaxTotal = 4, 4
	f.is(f.visits("demo-rescue2"), "Pending Ready=False/Queued")
}

// TestTheEndedContainersOfAPause are committed as they have ended, with the others as they are.
func TestTheEndedContainersOfAPause(t *testing.T) {
	both := func(s *v1alpha1.Sandbox) {
		s.Spec.Template.Spec.Containers = []corev1.Container{{Name: "main"}, {Name: "injected"}}
	}
	f := newFixture(t, pausing("demo", both), podOf("demo"), attemptOf("demo", func(s *v1alpha1.SandboxSnapshot) {
		s.Spec.Rescue = rescueOf("demo").Spec.Rescue
	}))
	snapshot := f.visits("demo-gen1")
	f.is(snapshot, committing)
	var ids []string
	for _, c := range snapshot.Status.Containers {
		ids = append(ids, c.ContainerID)
	}
	args := f.hasJobs(commit).Spec.Template.Spec.Containers[0].Args
	if !slices.Equal(ids, []string{"c0", "c2"}) || !slices.Contains(args, "--ended=main") || slices.Contains(args, "--ended=injected") || !slices.Contains(args, "--leave-frozen") {
		t.Errorf("it commits %v by %q", ids, args)
	}
}

func TestRescuesThatAreNotBegun(t *testing.T) {
	for name, test := range map[string]struct {
		sandbox func(*v1alpha1.Sandbox)
		pod     func(*corev1.Pod)
		is      string
	}{
		"the sandbox is being paused": {func(*v1alpha1.Sandbox) {}, func(*corev1.Pod) {}, committing},
		"the Pod is on its way out": {running, func(p *corev1.Pod) {
			p.DeletionTimestamp, p.Finalizers = &metav1.Time{Time: epoch}, []string{"example.com/x"}
		}, committing},
		"the Pod is another":     {running, func(p *corev1.Pod) { p.UID = "another" }, "Failed Ready=False/SourcePodReplaced Failed=True/SourcePodReplaced"},
		"the sandbox is another": {func(s *v1alpha1.Sandbox) { running(s); s.UID = "another" }, func(*corev1.Pod) {}, "Failed Ready=False/Canceled Failed=True/Canceled"},
		"containerd does not run it": {running, func(p *corev1.Pod) { p.Status.ContainerStatuses[0].ContainerID = "cri-o://c1" },
			"Failed Ready=False/RuntimeNotSupported Failed=True/RuntimeNotSupported"},
		"the container waits to be begun anew": {running, func(p *corev1.Pod) { p.Status.ContainerStatuses[0].ContainerID = "" }, committing},
	} {
		t.Run(name, func(t *testing.T) {
			f := newFixture(t, pausing("demo", test.sandbox), podOf("demo", test.pod), rescueOf("demo"))
			f.is(f.visits("demo-rescue1"), test.is)
		})
	}
}

// TestARescueThatAnOlderServerHasTouched commits nothing: what runs now is not what was to be saved.
func TestARescueThatAnOlderServerHasTouched(t *testing.T) {
	f := newFixture(t, pausing("demo", running), podOf("demo"), rescueOf("demo", func(s *v1alpha1.SandboxSnapshot) { s.Spec.Rescue = nil }))
	f.is(f.visits("demo-rescue1"), "Failed Ready=False/Canceled Failed=True/Canceled")
	f.hasJobs()
}
