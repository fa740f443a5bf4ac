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

package validation

import (
	"slices"
	"strings"
	"testing"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/util/validation/field"
	"k8s.io/utils/ptr"

	"github.com/opensandbox-io/sandbox-apiserver/apis/lifecycle"
)

func TestContainersToKeep(t *testing.T) {
	spec := &lifecycle.SandboxSpec{
		DesiredState: lifecycle.DesiredStateRunning,
		Snapshot:     lifecycle.SnapshotPolicy{DeletionPolicy: lifecycle.DeletionPolicyDelete},

		EvictionPolicy: lifecycle.EvictionPolicySave,
		Template: &corev1.PodTemplateSpec{Spec: corev1.PodSpec{
			InitContainers: []corev1.Container{{Name: "init", Image: "i"}, {Name: "side", Image: "s", RestartPolicy: ptr.To(corev1.ContainerRestartPolicyAlways)}},
			Containers:     []corev1.Container{{Name: "main", Image: "m"}},
		}},
	}
	for name, test := range map[string]struct {
		containers []string
		want       string // the field that is refused
	}{
		"all":                         {nil, ""},
		"one":                         {[]string{"main"}, ""},
		"a native sidecar":            {[]string{"main", "side"}, ""},
		"an init container":           {[]string{"main", "init"}, "spec.snapshot.containers[1]"},
		"one that the Pod has not":    {[]string{"other"}, "spec.snapshot.containers[0]"},
		"a native sidecar, two times": {[]string{"side", "side"}, "spec.snapshot.containers[1]"},
	} {
		t.Run(name, func(t *testing.T) {
			spec.Snapshot.Containers = test.containers
			errs := validateSandboxSpec(spec, field.NewPath("spec"))
			if test.want == "" && len(errs) > 0 || test.want != "" && (len(errs) != 1 || errs[0].Field != test.want) {
				t.Errorf("got %v, want a refusal of %q", errs, test.want)
			}
		})
	}
}

func TestWhatBecomesOfFiles(t *testing.T) {
	for name, test := range map[string]struct {
		eviction lifecycle.SandboxEvictionPolicy
		exit     lifecycle.SandboxExitPolicy
		want     []string // fields
	}{
		"saved":           {lifecycle.EvictionPolicySave, "", nil},
		"let go":          {lifecycle.EvictionPolicyNone, lifecycle.ExitPolicyNone, nil},
		"rescued":         {lifecycle.EvictionPolicySave, lifecycle.ExitPolicyRescue, nil},
		"restored":        {lifecycle.EvictionPolicyNone, lifecycle.ExitPolicyRestore, nil},
		"in lower case":   {"save", "rescue", []string{"spec.evictionPolicy", "spec.onExit"}},
		"the other's one": {"Rescue", "Save", []string{"spec.evictionPolicy", "spec.onExit"}},
	} {
		t.Run(name, func(t *testing.T) {
			sandbox := stored(func(s *lifecycle.Sandbox) {
				s.ResourceVersion = ""
				s.Spec.EvictionPolicy, s.Spec.OnExit = test.eviction, test.exit
			})
			if got := fieldsOf(ValidateSandbox(sandbox, now)); !slices.Equal(got, test.want) {
				t.Errorf("refused for %q, want %q", got, test.want)
			}
		})
	}
}

func TestMoves(t *testing.T) {
	for name, test := range map[string]struct {
		move *lifecycle.SandboxMove
		want []string // fields
	}{
		"none":             {nil, nil},
		"one":              {&lifecycle.SandboxMove{PodUID: "p", NodeName: "n", Reason: "Evicted", Message: "somebody drains"}, nil},
		"of a later time":  {&lifecycle.SandboxMove{PodUID: "p", Reason: "NodeOnFire"}, nil},
		"of no Pod":        {&lifecycle.SandboxMove{Reason: "Evicted"}, []string{"status.move.podUID"}},
		"for no reason":    {&lifecycle.SandboxMove{PodUID: "p"}, []string{"status.move.reason"}},
		"with a sentence":  {&lifecycle.SandboxMove{PodUID: "p", Reason: "was evicted"}, []string{"status.move.reason"}},
		"with many of it":  {&lifecycle.SandboxMove{PodUID: "p", Reason: "Evicted", Message: strings.Repeat("x", 1025)}, []string{"status.move.message"}},
		"with nothing set": {&lifecycle.SandboxMove{}, []string{"status.move.podUID", "status.move.reason"}},
	} {
		t.Run(name, func(t *testing.T) {
			old := stored(nil)
			sandbox := old.DeepCopy()
			sandbox.Status.Move = test.move
			if got := fieldsOf(ValidateSandboxStatusUpdate(sandbox, old)); !slices.Equal(got, test.want) {
				t.Errorf("refused for %q, want %q", got, test.want)
			}
			later := sandbox.DeepCopy()
			later.Status.FailedPods = 1
			if errs := ValidateSandboxStatusUpdate(later, sandbox); len(errs) > 0 {
				t.Errorf("what another version has left is in the way of a change of something else: %v", errs)
			}
		})
	}
}

func fieldsOf(errs field.ErrorList) []string {
	var fields []string
	for _, err := range errs {
		fields = append(fields, err.Field)
	}
	return fields
}
