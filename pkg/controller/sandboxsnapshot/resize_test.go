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
	"testing"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/resource"

	"github.com/opensandbox-io/sandbox-apiserver/apis/lifecycle/v1alpha1"
)

// TestAResizeIsRecorded: from the Pod to the end of the snapshot, and only where there was one.
func TestAResizeIsRecorded(t *testing.T) {
	memory := func(container *corev1.Container, limit string) {
		container.Resources.Limits = corev1.ResourceList{corev1.ResourceMemory: resource.MustParse(limit)}
	}
	for _, test := range []struct{ live, want string }{{"128Mi", "128Mi"}, {"64Mi", ""}} {
		f := newFixture(t, pausing("demo", func(s *v1alpha1.Sandbox) { memory(&s.Spec.Template.Spec.Containers[0], "64Mi") }),
			podOf("demo", func(p *corev1.Pod) {
				p.Spec.Containers = []corev1.Container{{Name: "main"}}
				memory(&p.Spec.Containers[0], test.live)
			}), attemptOf("demo"))
		snapshot := f.visits("demo-gen1")
		f.ends(f.runs(f.hasJobs(commit)), 0, report(snapshot))
		snapshot = f.visits("demo-gen1")
		f.is(snapshot, succeeded)
		got := ""
		if had := snapshot.Status.Containers[0].Resources; had != nil {
			got = had.Limits.Memory().String()
		}
		warns := slices.ContainsFunc(snapshot.Status.Warnings, func(w v1alpha1.SnapshotWarning) bool { return w.Reason == v1alpha1.ReasonResourcesChanged })
		if got != test.want || warns {
			t.Errorf("of a Pod with %s it records %q, and warns of it: %t; want %q and no warning", test.live, got, warns, test.want)
		}
	}
}

// TestACopyKnowsOfAResize, unless somebody has written other resources into the template since: then it would undo that.
func TestACopyKnowsOfAResize(t *testing.T) {
	says := func(limit string) func(*v1alpha1.Sandbox) {
		return func(s *v1alpha1.Sandbox) {
			s.Spec.Template.Spec.Containers[0].Resources.Limits = corev1.ResourceList{corev1.ResourceMemory: resource.MustParse(limit)}
		}
	}
	had := &corev1.ResourceRequirements{Limits: corev1.ResourceList{corev1.ResourceMemory: resource.MustParse("128Mi")}}
	for template, kept := range map[string]bool{"64Mi": true, "96Mi": false} {
		f := newFixture(t, pausing("demo", paused, says(template)), snapshotOf("demo", "mine"), attemptOf("demo", saved, func(s *v1alpha1.SandboxSnapshot) {
			s.Status.Template = pausing("demo", says("64Mi")).Spec.Template
			s.Status.Containers[0].Resources = had
		}))
		f.r.Registry = &album{}
		snapshot := f.visits("mine")
		f.is(snapshot, succeeded)
		if got := snapshot.Status.Containers[0].Resources != nil; got != kept {
			t.Errorf("the template says %s: it knows of the resize: %t, want %t", template, got, kept)
		}
	}
}
