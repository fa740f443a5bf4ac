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

package sandbox

import (
	"errors"
	"strings"
	"testing"

	corev1 "k8s.io/api/core/v1"
	apiequality "k8s.io/apimachinery/pkg/api/equality"
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/utils/ptr"

	"github.com/opensandbox-io/sandbox-apiserver/apis/lifecycle/v1alpha1"
	"github.com/opensandbox-io/sandbox-apiserver/pkg/controller/template"
)

const digest = "sha256:0123456789abcdef0123456789abcdef0123456789abcdef0123456789abcdef"

func withTemplate(edit func(*corev1.PodTemplateSpec)) func(*v1alpha1.Sandbox) {
	return func(s *v1alpha1.Sandbox) { edit(s.Spec.Template) }
}

func made(t *testing.T, sandbox *v1alpha1.Sandbox, from *v1alpha1.SandboxSnapshot, pullSecret string) *corev1.Pod {
	t.Helper()
	sandboxBefore, fromBefore := sandbox.DeepCopy(), from.DeepCopy()
	pod, err := newPod(sandbox, from, pullSecret)
	if err != nil {
		t.Fatal(err)
	}
	if !apiequality.Semantic.DeepEqual(sandbox, sandboxBefore) || !apiequality.Semantic.DeepEqual(from, fromBefore) {
		t.Error("what the Pod is made of has changed")
	}
	return pod
}

func TestNewPod(t *testing.T) {
	pod := made(t, sandboxIn(v1alpha1.SandboxPending, withTemplate(func(template *corev1.PodTemplateSpec) {
		template.Name, template.GenerateName, template.Namespace = "other", "other-", "kube-system"
		template.Labels = map[string]string{"app": "x", v1alpha1.LabelSandboxUID: "another's", v1alpha1.LabelComponent: "commit"}
		template.Annotations = map[string]string{"note": "y", v1alpha1.AnnotationRestoredFrom: "nowhere"}
		template.OwnerReferences = []metav1.OwnerReference{{Name: "x"}}
	})), nil, "pull")

	if pod.Name != name || pod.GenerateName != "" || pod.Namespace != namespace {
		t.Errorf("named %s/%s", pod.Namespace, pod.Name)
	}
	if by := pod.OwnerReferences; len(by) != 1 || by[0].Kind != "Sandbox" || by[0].UID != "sandbox-1" || !ptr.Deref(by[0].Controller, false) || ptr.Deref(by[0].BlockOwnerDeletion, true) {
		t.Errorf("owned by %v", by)
	}
	if want := map[string]string{"app": "x", v1alpha1.LabelSandbox: name, v1alpha1.LabelSandboxUID: "sandbox-1"}; !apiequality.Semantic.DeepEqual(pod.Labels, want) {
		t.Errorf("labels %v, want %v", pod.Labels, want)
	}
	if hash := pod.Annotations[v1alpha1.AnnotationTemplate]; len(hash) != 16 {
		t.Errorf("made of the template %q", hash)
	}
	delete(pod.Annotations, v1alpha1.AnnotationTemplate)
	if want := map[string]string{"note": "y", v1alpha1.AnnotationContainers: "main", safeToEvict: "true"}; !apiequality.Semantic.DeepEqual(pod.Annotations, want) {
		t.Errorf("annotations %v, want %v", pod.Annotations, want)
	}
	if pod.Spec.Containers[0].Image != "busybox" || pod.Spec.ImagePullSecrets != nil || pod.Spec.Affinity != nil {
		t.Errorf("a Pod of the template alone: %+v", pod.Spec)
	}
}

// TestTheNextPodSaysWhereItWasMovedFrom: an eviction by name may mean the Pod there, and nobody's word is taken for it.
func TestTheNextPodSaysWhereItWasMovedFrom(t *testing.T) {
	said := withTemplate(func(template *corev1.PodTemplateSpec) {
		template.Annotations = map[string]string{v1alpha1.AnnotationMovedFrom: "nowhere"}
	})
	for name, test := range map[string]struct {
		move *v1alpha1.SandboxMove
		want string
	}{
		"was not moved": {},
		"was moved":     {&v1alpha1.SandboxMove{PodUID: "before", NodeName: "node-a", Reason: v1alpha1.ReasonEvicted}, "node-a"},
		"from nowhere":  {&v1alpha1.SandboxMove{PodUID: "before", Reason: v1alpha1.ReasonEvicted}, ""},
	} {
		sandbox := sandboxIn(v1alpha1.SandboxResuming, said)
		sandbox.Status.Move = test.move
		if got, is := made(t, sandbox, nil, "").Annotations[v1alpha1.AnnotationMovedFrom]; got != test.want || is != (test.want != "") {
			t.Errorf("%s: the Pod says %q", name, got)
		}
	}
}

func TestNewPodFromASnapshot(t *testing.T) {
	sandbox := sandboxIn(v1alpha1.SandboxResuming, withTemplate(func(template *corev1.PodTemplateSpec) {
		template.Annotations = map[string]string{v1alpha1.AnnotationRestoredFrom: "nowhere"}
		template.Spec.InitContainers = []corev1.Container{
			{Name: "init", Image: "init"},
			{Name: "ide", Image: "ide", RestartPolicy: ptr.To(corev1.ContainerRestartPolicyAlways), ImagePullPolicy: corev1.PullNever},
			{Name: "agent", Image: "agent", RestartPolicy: ptr.To(corev1.ContainerRestartPolicyAlways)},
		}
		template.Spec.Containers = []corev1.Container{
			{Name: "main", Image: "busybox", ImagePullPolicy: corev1.PullNever},
			{Name: "side", Image: "side", ImagePullPolicy: corev1.PullNever},
		}
	}))
	from := snapshotIn(v1alpha1.SnapshotSucceed, ofContainer("main", "registry.example.com/default/demo-main:snap-gen1-abc", digest),
		ofContainer("removed", "registry.example.com/default/demo-removed:snap-gen1-abc", digest),
		ofContainer("ide", "registry.example.com/default/demo-ide:snap-gen1-abc", digest), ofContainer("init", "registry.example.com/default/demo-init:snap-gen1-abc", digest))
	pod := made(t, sandbox, from, "pull")

	if got, want := pod.Spec.Containers[0].Image, "registry.example.com/default/demo-main@"+digest; got != want {
		t.Errorf("image %s, want %s", got, want)
	}
	if got := pod.Spec.Containers[0].ImagePullPolicy; got != corev1.PullIfNotPresent {
		t.Errorf("the image of the snapshot has pull policy %s", got)
	}
	if side := pod.Spec.Containers[1]; side.Image != "side" || side.ImagePullPolicy != corev1.PullNever {
		t.Errorf("a container that was not committed has changed: %+v", side)
	}
	if pod.Spec.InitContainers[0].Image != "init" || len(pod.Spec.Containers) != 2 {
		t.Errorf("containers %+v, init containers %+v", pod.Spec.Containers, pod.Spec.InitContainers)
	}
	if ide := pod.Spec.InitContainers[1]; ide.Image != "registry.example.com/default/demo-ide@"+digest || ide.ImagePullPolicy != corev1.PullIfNotPresent {
		t.Errorf("a native sidecar that was committed is %+v", ide)
	}
	// Of a snapshot by a server that did not commit them it has the template's.
	if agent := pod.Spec.InitContainers[2]; agent.Image != "agent" {
		t.Errorf("a native sidecar that was not committed is %+v", agent)
	}
	if got := pod.Annotations[v1alpha1.AnnotationRestoredFrom]; got != "demo-gen1" {
		t.Errorf("restored from %q", got)
	}
	if got := pod.Spec.ImagePullSecrets; len(got) != 1 || got[0].Name != "pull" {
		t.Errorf("pull secrets %v", got)
	}
}

func TestPullSecretIsAddedOnce(t *testing.T) {
	for _, test := range []struct{ has, pullSecret, want string }{
		{"", "", ""},
		{"mine", "", "mine"},
		{"", "pull", "pull"},
		{"mine", "pull", "mine pull"},
		{"pull mine", "pull", "pull mine"},
	} {
		sandbox := sandboxIn(v1alpha1.SandboxResuming, withTemplate(func(template *corev1.PodTemplateSpec) {
			for _, secret := range strings.Fields(test.has) {
				template.Spec.ImagePullSecrets = append(template.Spec.ImagePullSecrets, corev1.LocalObjectReference{Name: secret})
			}
		}))
		var got []string
		for _, secret := range made(t, sandbox, snapshotIn(v1alpha1.SnapshotSucceed), test.pullSecret).Spec.ImagePullSecrets {
			got = append(got, secret.Name)
		}
		if strings.Join(got, " ") != test.want {
			t.Errorf("%q and %q make %q, want %q", test.has, test.pullSecret, got, test.want)
		}
	}
}

func TestPreferredNode(t *testing.T) {
	own := corev1.PreferredSchedulingTerm{Weight: 1, Preference: corev1.NodeSelectorTerm{MatchExpressions: []corev1.NodeSelectorRequirement{{Key: "disk"}}}}
	tests := map[string]struct {
		template func(*corev1.PodTemplateSpec)
		source   string
		status   string
		want     string
	}{
		"the source node":                    {nil, "node-1", "node-2", "node-1"},
		"the sandbox's, where none is known": {nil, "", "node-2", "node-2"},
		"none":                               {nil, "", "", ""},
		"a node that the template asks for":  {func(t *corev1.PodTemplateSpec) { t.Spec.NodeName = "node-3" }, "node-1", "", ""},
		"beside what the template prefers": {func(t *corev1.PodTemplateSpec) {
			t.Spec.Affinity = &corev1.Affinity{NodeAffinity: &corev1.NodeAffinity{PreferredDuringSchedulingIgnoredDuringExecution: []corev1.PreferredSchedulingTerm{own}}}
		}, "node-1", "", "disk node-1"},
	}
	for name, test := range tests {
		t.Run(name, func(t *testing.T) {
			sandbox := sandboxIn(v1alpha1.SandboxResuming, func(s *v1alpha1.Sandbox) { s.Status.NodeName = test.status })
			if test.template != nil {
				test.template(sandbox.Spec.Template)
			}
			from := snapshotIn(v1alpha1.SnapshotSucceed, func(s *v1alpha1.SandboxSnapshot) { s.Status.SourceNodeName = test.source })
			pod := made(t, sandbox, from, "")
			var got []string
			if affinity := pod.Spec.Affinity; affinity != nil {
				if affinity.NodeAffinity.RequiredDuringSchedulingIgnoredDuringExecution != nil {
					t.Error("the node is required: it may be full or gone")
				}
				for _, term := range affinity.NodeAffinity.PreferredDuringSchedulingIgnoredDuringExecution {
					for _, field := range term.Preference.MatchFields {
						got = append(got, field.Values...)
					}
					for _, expression := range term.Preference.MatchExpressions {
						got = append(got, expression.Key)
					}
				}
			}
			if strings.Join(got, " ") != test.want {
				t.Errorf("prefers %q, want %q", got, test.want)
			}
		})
	}
}

func TestNewPodFails(t *testing.T) {
	bare := sandboxIn(v1alpha1.SandboxPending, func(s *v1alpha1.Sandbox) { s.Spec.Template = nil })
	if _, err := newPod(bare, nil, ""); !errors.Is(err, template.ErrNone) {
		t.Errorf("without a template: %v", err)
	}
	if _, err := newPod(bare, snapshotIn(v1alpha1.SnapshotSucceed), ""); !errors.Is(err, template.ErrNone) {
		t.Errorf("without a template in the snapshot either: %v", err)
	}
	brings := snapshotIn(v1alpha1.SnapshotSucceed, func(s *v1alpha1.SandboxSnapshot) { s.Status.Template = sandboxIn("").Spec.Template })
	if pod, err := newPod(bare, brings, ""); err != nil || pod.Spec.Containers[0].Name != "main" {
		t.Errorf("with the template of the snapshot: %v, %v", pod, err)
	}
	// Never by tag: what a tag names can be changed.
	broken := snapshotIn(v1alpha1.SnapshotSucceed, ofContainer("main", "registry.example.com/demo:tag", ""))
	if _, err := newPod(sandboxIn(""), broken, ""); err == nil || !strings.Contains(err.Error(), "snapshot demo-gen1") {
		t.Errorf("without a digest: %v", err)
	}
}

// Otherwise the Pod would start as if it had never been paused, and all be called well.
func TestATemplateWithNoneOfTheSavedContainers(t *testing.T) {
	from := snapshotIn(v1alpha1.SnapshotSucceed, ofContainer("main", "r.example.com/a:t", digest), ofContainer("side", "r.example.com/b:t", digest))
	renamed := func(container string) *v1alpha1.Sandbox {
		return sandboxIn(v1alpha1.SandboxResuming, withTemplate(func(t *corev1.PodTemplateSpec) { t.Spec.Containers[0].Name = container }))
	}
	if _, err := newPod(renamed("other"), from, ""); err == nil || !strings.Contains(err.Error(), `["main" "side"]`) || !strings.Contains(err.Error(), `["other"]`) {
		t.Errorf("error %v", err)
	}
	if pod := made(t, renamed("side"), from, ""); pod.Spec.Containers[0].Image != "r.example.com/b@"+digest {
		t.Errorf("the image is %s", pod.Spec.Containers[0].Image)
	}
	if _, err := newPod(renamed("other"), nil, ""); err != nil {
		t.Error(err)
	}
}

// TestAResizeSurvivesAPause: the next Pod's containers have what those of the paused one had, unless somebody has changed the
// template since, or it is another sandbox's.
func TestAResizeSurvivesAPause(t *testing.T) {
	memory := func(limit string) corev1.ResourceRequirements {
		return corev1.ResourceRequirements{Limits: corev1.ResourceList{corev1.ResourceMemory: resource.MustParse(limit)}}
	}
	says := func(limit string) func(*v1alpha1.Sandbox) {
		return withTemplate(func(template *corev1.PodTemplateSpec) { template.Spec.Containers[0].Resources = memory(limit) })
	}
	from := snapshotIn(v1alpha1.SnapshotSucceed, func(s *v1alpha1.SandboxSnapshot) {
		s.Status.Template, s.Status.SandboxUID = sandboxIn("", says("64Mi")).Spec.Template, sandboxIn("").UID
		s.Status.Containers = []v1alpha1.ContainerSnapshot{{ContainerName: "main", ImageURI: "registry:5000/demo/demo-main:snap-gen1", ImageDigest: digest, Resources: ptr.To(memory("128Mi"))}}
	})
	own := func(s *v1alpha1.Sandbox) {}
	for _, test := range []struct {
		name, template string
		from           *v1alpha1.SandboxSnapshot
		change         func(*v1alpha1.Sandbox)
		want           string
	}{
		{"it was resized", "64Mi", from, own, "128Mi"},
		{"the template says the same in other words", "65536Ki", from, own, "128Mi"},
		{"somebody has changed the template since", "96Mi", from, own, "96Mi"},
		{"it starts from its template", "64Mi", nil, own, "64Mi"},
		{"a clone with a template of its own", "64Mi", from, func(s *v1alpha1.Sandbox) { s.UID = "clone" }, "64Mi"},
		{"a clone without", "", from, func(s *v1alpha1.Sandbox) { s.UID, s.Spec.Template = "clone", nil }, "128Mi"},
		{"it was not resized", "64Mi", snapshotIn(v1alpha1.SnapshotSucceed, func(s *v1alpha1.SandboxSnapshot) {
			s.Status.Template, s.Status.SandboxUID = from.Status.Template, from.Status.SandboxUID
		}), own, "64Mi"},
		{"an older snapshot without a template", "64Mi", snapshotIn(v1alpha1.SnapshotSucceed, func(s *v1alpha1.SandboxSnapshot) {
			s.Status.SandboxUID, s.Status.Containers = from.Status.SandboxUID, from.Status.Containers
		}), own, "64Mi"},
	} {
		sandbox := sandboxIn(v1alpha1.SandboxResuming, func(s *v1alpha1.Sandbox) {
			if test.template != "" {
				says(test.template)(s)
			}
			test.change(s)
		})
		want := resource.MustParse(test.want)
		if got := made(t, sandbox, test.from, "").Spec.Containers[0].Resources.Limits[corev1.ResourceMemory]; got.Cmp(want) != 0 {
			t.Errorf("%s: the Pod has %s, want %s", test.name, got.String(), test.want)
		}
	}
}
