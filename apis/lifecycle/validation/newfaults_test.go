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
	"fmt"
	"reflect"
	"strings"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/util/validation/field"
	"k8s.io/utils/ptr"

	"github.com/opensandbox-io/sandbox-apiserver/apis/lifecycle"
)

// now is when everything is checked here.
var now = time.Date(2026, time.December, 1, 12, 0, 0, 0, time.UTC)

// stored is a sandbox as etcd has it.
func stored(change func(*lifecycle.Sandbox)) *lifecycle.Sandbox {
	sandbox := &lifecycle.Sandbox{
		ObjectMeta: metav1.ObjectMeta{Namespace: "ns", Name: "demo", UID: "uid", ResourceVersion: "1", Generation: 1},
		Spec: lifecycle.SandboxSpec{
			DesiredState: lifecycle.DesiredStateRunning,
			Snapshot:     lifecycle.SnapshotPolicy{DeletionPolicy: lifecycle.DeletionPolicyDelete, HistoryLimit: ptr.To[int32](3)},

			EvictionPolicy: lifecycle.EvictionPolicySave,
			Template: &corev1.PodTemplateSpec{
				ObjectMeta: metav1.ObjectMeta{Labels: map[string]string{"app": "demo"}},
				Spec: corev1.PodSpec{
					Volumes:    []corev1.Volume{{Name: "data"}},
					Containers: []corev1.Container{{Name: "main", Image: "m"}, {Name: "other", Image: "o"}},
				},
			},
		},
	}
	if change != nil {
		change(sandbox)
	}
	return sandbox
}

// brokenSandboxes break a rule each.
var brokenSandboxes = map[string]func(*lifecycle.Sandbox){
	"a name that is no label":     func(s *lifecycle.Sandbox) { s.Name = "demo.v1" },
	"a desired state":             func(s *lifecycle.Sandbox) { s.Spec.DesiredState = "Hibernated" },
	"no desired state":            func(s *lifecycle.Sandbox) { s.Spec.DesiredState = "" },
	"no template":                 func(s *lifecycle.Sandbox) { s.Spec.Template = nil },
	"no snapshot to restore":      func(s *lifecycle.Sandbox) { s.Spec.RestoreFrom = &lifecycle.SandboxRestoreSource{} },
	"a snapshot of no name":       func(s *lifecycle.Sandbox) { s.Spec.RestoreFrom = &lifecycle.SandboxRestoreSource{SnapshotName: "A_B"} },
	"a container to keep":         func(s *lifecycle.Sandbox) { s.Spec.Snapshot.Containers = []string{"gone"} },
	"a container to keep, twice":  func(s *lifecycle.Sandbox) { s.Spec.Snapshot.Containers = []string{"main", "main"} },
	"a container of no name":      func(s *lifecycle.Sandbox) { s.Spec.Snapshot.Containers = []string{"other", ""} },
	"too many containers to keep": func(s *lifecycle.Sandbox) { s.Spec.Snapshot.Containers = many(257) },
	"an eviction policy":          func(s *lifecycle.Sandbox) { s.Spec.EvictionPolicy = "Drop" },
	"no eviction policy":          func(s *lifecycle.Sandbox) { s.Spec.EvictionPolicy = "" },
	"an exit policy":              func(s *lifecycle.Sandbox) { s.Spec.OnExit = "Restart" },
	"an action at expiry":         func(s *lifecycle.Sandbox) { s.Spec.ExpireAction = "Stop" },
	"no action at expiry":         func(s *lifecycle.Sandbox) { s.Spec.ExpireTime = &metav1.Time{Time: now.Add(time.Hour)} },
	"a time that has passed": func(s *lifecycle.Sandbox) {
		s.Spec.ExpireTime, s.Spec.ExpireAction = &metav1.Time{Time: now}, lifecycle.ExpireActionDelete
	},
	"no history":        func(s *lifecycle.Sandbox) { s.Spec.Snapshot.HistoryLimit = ptr.To[int32](0) },
	"a deletion policy": func(s *lifecycle.Sandbox) { s.Spec.Snapshot.DeletionPolicy = "Archive" },
	"a large template": func(s *lifecycle.Sandbox) {
		s.Spec.Template.Spec.Containers[1].Env = []corev1.EnvVar{{Name: "LARGE", Value: strings.Repeat("x", maxTemplateBytes)}}
	},
	"a large template with more in it": func(s *lifecycle.Sandbox) {
		s.Spec.Template.Spec.Containers[1].Env = []corev1.EnvVar{{Value: strings.Repeat("x", maxTemplateBytes)}}
	},
	"a label":       func(s *lifecycle.Sandbox) { s.Spec.Template.Labels["a b"] = "c d" },
	"an annotation": func(s *lifecycle.Sandbox) { s.Spec.Template.Annotations = map[string]string{"a b": ""} },
	"no container":  func(s *lifecycle.Sandbox) { s.Spec.Template.Spec.Containers = nil },
	"an ephemeral container": func(s *lifecycle.Sandbox) {
		s.Spec.Template.Spec.EphemeralContainers = make([]corev1.EphemeralContainer, 1)
	},
	"a volume":                  func(s *lifecycle.Sandbox) { s.Spec.Template.Spec.Volumes[0].Name = "Data" },
	"a volume, twice":           func(s *lifecycle.Sandbox) { s.Spec.Template.Spec.Volumes = make([]corev1.Volume, 2) },
	"a container's name":        func(s *lifecycle.Sandbox) { s.Spec.Template.Spec.Containers[1].Name = "Other" },
	"a container's name, twice": func(s *lifecycle.Sandbox) { s.Spec.Template.Spec.Containers[1].Name = "main" },
	"a container without image": func(s *lifecycle.Sandbox) { s.Spec.Template.Spec.Containers[1].Image = "" },
	"a variable of no name":     func(s *lifecycle.Sandbox) { s.Spec.Template.Spec.Containers[1].Env = make([]corev1.EnvVar, 1) },
	"a port":                    func(s *lifecycle.Sandbox) { s.Spec.Template.Spec.Containers[1].Ports = make([]corev1.ContainerPort, 1) },
	"a mount of nothing": func(s *lifecycle.Sandbox) {
		s.Spec.Template.Spec.Containers[1].VolumeMounts = make([]corev1.VolumeMount, 1)
	},
	"a pull secret": func(s *lifecycle.Sandbox) {
		s.Spec.Template.Spec.ImagePullSecrets = make([]corev1.LocalObjectReference, 1)
	},
}

func many(n int) []string {
	var names []string
	for i := range n {
		names = append(names, fmt.Sprintf("c%d", i))
	}
	return names
}

// TestWhatWasValidOnceCanStillBeChanged: whatever rule a stored sandbox breaks, what is not about that
// is taken.
func TestWhatWasValidOnceCanStillBeChanged(t *testing.T) {
	for name, breakRule := range brokenSandboxes {
		t.Run(name, func(t *testing.T) {
			old := stored(breakRule)
			created := old.DeepCopy()
			created.ResourceVersion = ""
			if errs := ValidateSandbox(created, now); len(errs) == 0 {
				t.Fatal("this breaks no rule")
			}
			for change, of := range map[string]func(*lifecycle.Sandbox){
				"nothing":        func(*lifecycle.Sandbox) {},
				"a label":        func(s *lifecycle.Sandbox) { s.Labels = map[string]string{"team": "a"} },
				"its finalizers": func(s *lifecycle.Sandbox) { s.Finalizers = nil },
				"the history limit": func(s *lifecycle.Sandbox) {
					s.Spec.Snapshot.HistoryLimit = ptr.To[int32](max(*s.Spec.Snapshot.HistoryLimit, 0) + 1)
				},
				"a container": func(s *lifecycle.Sandbox) {
					inTemplate(s, func(p *corev1.PodTemplateSpec) { p.Spec.Containers[0].Image = "n" })
				},
				"another container": func(s *lifecycle.Sandbox) {
					inTemplate(s, func(p *corev1.PodTemplateSpec) { p.Spec.Containers = p.Spec.Containers[1:] })
				},
				"their order": func(s *lifecycle.Sandbox) { inTemplate(s, func(p *corev1.PodTemplateSpec) { swap(p.Spec.Containers) }) },
				"the template's app": func(s *lifecycle.Sandbox) {
					inTemplate(s, func(p *corev1.PodTemplateSpec) { p.Labels["app"] = "next" })
				},
			} {
				if change == "another container" && strings.HasPrefix(name, "a container to keep") {
					continue // the one that is gone is still named there
				}
				changed := old.DeepCopy()
				of(changed)
				for _, deleted := range []bool{false, true} {
					if deleted {
						old.DeletionTimestamp, old.DeletionGracePeriodSeconds = &metav1.Time{}, ptr.To[int64](0)
						changed.DeletionTimestamp, changed.DeletionGracePeriodSeconds = old.DeletionTimestamp, old.DeletionGracePeriodSeconds
					}
					if errs := ValidateSandboxUpdate(changed, old, now); len(errs) > 0 {
						t.Errorf("changing %s (being deleted: %t): %v", change, deleted, errs)
					}
				}
			}
			status := old.DeepCopy()
			status.Status.Phase = lifecycle.SandboxPausing
			if errs := ValidateSandboxStatusUpdate(status, old); len(errs) > 0 {
				t.Errorf("its status: %v", errs)
			}
		})
	}
}

func inTemplate(sandbox *lifecycle.Sandbox, change func(*corev1.PodTemplateSpec)) {
	if sandbox.Spec.Template != nil && len(sandbox.Spec.Template.Spec.Containers) > 1 {
		change(sandbox.Spec.Template)
	}
}

func swap(containers []corev1.Container) { containers[0], containers[1] = containers[1], containers[0] }

// TestNothingGetsWorse: what is wrong already excuses nothing else.
func TestNothingGetsWorse(t *testing.T) {
	for name, test := range map[string]struct {
		stored string
		change func(*lifecycle.Sandbox)
		want   string // the field that is refused
	}{
		"another desired state":            {"a desired state", func(s *lifecycle.Sandbox) { s.Spec.DesiredState = "Suspended" }, "spec.desiredState"},
		"another container that is gone":   {"a container to keep", func(s *lifecycle.Sandbox) { s.Spec.Snapshot.Containers = []string{"gone", "lost"} }, "spec.snapshot.containers[1]"},
		"a container that goes":            {"a desired state", func(s *lifecycle.Sandbox) { s.Spec.Template.Spec.Containers = nil }, "spec.template.spec.containers"},
		"a kept container that goes":       {"a container of no name", func(s *lifecycle.Sandbox) { s.Spec.Template.Spec.Containers = s.Spec.Template.Spec.Containers[:1] }, "spec.snapshot.containers[0]"},
		"a template that goes":             {"a label", func(s *lifecycle.Sandbox) { s.Spec.Template = nil }, "spec.template"},
		"a second container without image": {"a container without image", func(s *lifecycle.Sandbox) { s.Spec.Template.Spec.Containers[0].Image = "" }, "spec.template.spec.containers[1].image"},
		"a second ephemeral container": {"an ephemeral container", func(s *lifecycle.Sandbox) {
			s.Spec.Template.Spec.EphemeralContainers = make([]corev1.EphemeralContainer, 2)
		}, "spec.template.spec.ephemeralContainers[1]"},
		"a larger template":                    {"a large template", func(s *lifecycle.Sandbox) { s.Spec.Template.Spec.Containers[1].Env[0].Value += "x" }, "spec.template"},
		"a fault in what is too large already": {"a large template", func(s *lifecycle.Sandbox) { s.Spec.Template.Spec.Containers[0].Image = "" }, "spec.template.spec.containers[0].image"},
		"another history":                      {"no history", func(s *lifecycle.Sandbox) { s.Spec.Snapshot.HistoryLimit = ptr.To[int32](-1) }, "spec.snapshot.historyLimit"},
	} {
		t.Run(name, func(t *testing.T) {
			breakRule := brokenSandboxes[test.stored]
			if breakRule == nil {
				t.Fatalf("there is no %q", test.stored)
			}
			old := stored(breakRule)
			changed := old.DeepCopy()
			test.change(changed)
			if errs := ValidateSandboxUpdate(changed, old, now); len(errs) != 1 || errs[0].Field != test.want {
				t.Errorf("got %v, want a refusal of %q", errs, test.want)
			}
		})
	}
}

// TestAStatusOfAnOlderServerIsGoneOnFrom: a phase, a condition or a container that today's rules refuse
// does not end what is written beside it.
func TestAStatusOfAnOlderServerIsGoneOnFrom(t *testing.T) {
	condition := metav1.Condition{Type: "Ready", Status: "Perhaps", Reason: "not a word", Message: strings.Repeat("x", 40_000)}
	sandbox := stored(func(s *lifecycle.Sandbox) {
		s.Status = lifecycle.SandboxStatus{Phase: "Hibernated", FailedAttempts: -1, Conditions: []metav1.Condition{condition}}
	})
	next := sandbox.DeepCopy()
	next.Status.PodIP = "10.0.0.1"
	next.Status.Conditions = append(next.Status.Conditions, metav1.Condition{Type: "Paused", Status: "False", Reason: "Running", LastTransitionTime: metav1.Now()})
	if errs := ValidateSandboxStatusUpdate(next, sandbox); len(errs) > 0 {
		t.Errorf("a sandbox: %v", errs)
	}
	next.Status.Conditions[1].Reason = ""
	if errs := ValidateSandboxStatusUpdate(next, sandbox); len(errs) != 1 || errs[0].Field != "status.conditions[1].reason" {
		t.Errorf("another condition without a reason: %v", errs)
	}

	snapshot := &lifecycle.SandboxSnapshot{
		ObjectMeta: sandbox.ObjectMeta,
		Status: lifecycle.SandboxSnapshotStatus{
			Phase: lifecycle.SnapshotSucceed, Conditions: []metav1.Condition{condition},
			Containers: []lifecycle.ContainerSnapshot{{ContainerName: "Main", LayerBytes: -1, Layers: -1}, {ContainerName: "Main"}},
			Warnings:   make([]lifecycle.SnapshotWarning, maxWarnings+1),
		},
	}
	available := snapshot.DeepCopy()
	available.Status.Conditions = append(available.Status.Conditions, metav1.Condition{Type: "ImageAvailable", Status: "True", Reason: "ImageAvailable", LastTransitionTime: metav1.Now()})
	if errs := ValidateSandboxSnapshotStatusUpdate(available, snapshot); len(errs) > 0 {
		t.Errorf("a snapshot: %v", errs)
	}
	available.Status.Containers[1].Layers = -2
	if errs := ValidateSandboxSnapshotStatusUpdate(available, snapshot); len(errs) != 1 || errs[0].Field != "status.containers[1].layers" {
		t.Errorf("another container of less than no layers: %v", errs)
	}
	labelled := snapshot.DeepCopy()
	labelled.Labels = map[string]string{"team": "a"}
	if errs := ValidateSandboxSnapshotUpdate(labelled, snapshot); len(errs) > 0 {
		t.Errorf("a label of a snapshot: %v", errs)
	}
}

// TestRefusalsSpeakTheAPIsLanguage: the types here have no names in JSON, so that a value of one of them would
// be printed with the names of Go.
func TestRefusalsSpeakTheAPIsLanguage(t *testing.T) {
	var all field.ErrorList
	for _, breakRule := range brokenSandboxes {
		broken := stored(breakRule)
		all = append(all, ValidateSandbox(broken, now)...)
		all = append(all, ValidateSandboxUpdate(broken, stored(nil), now)...)
		all = append(all, ValidateSandboxUpdate(stored(nil), broken, now)...)
		snapshot := &lifecycle.SandboxSnapshot{Spec: lifecycle.SandboxSnapshotSpec{SandboxName: "A_B", Source: &lifecycle.SnapshotSource{}, Containers: broken.Spec.Snapshot.Containers}}
		all = append(all, ValidateSandboxSnapshot(snapshot, false)...)
		all = append(all, ValidateSandboxSnapshotUpdate(snapshot, &lifecycle.SandboxSnapshot{})...)
	}
	for _, err := range all {
		switch kind := reflect.ValueOf(err.BadValue).Kind(); kind {
		case reflect.Struct, reflect.Map, reflect.Pointer, reflect.Slice, reflect.Interface:
			t.Errorf("a value of kind %s is printed: %v", kind, err)
		default:
		}
	}
	if len(all) < len(brokenSandboxes) {
		t.Errorf("only %d refusals were looked at", len(all))
	}
}
