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

package contents

import (
	"testing"

	"github.com/google/go-cmp/cmp"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/resource"
	"k8s.io/apimachinery/pkg/util/validation/field"
	"k8s.io/utils/ptr"

	"github.com/opensandbox-io/sandbox-apiserver/apis/lifecycle/v1alpha1"
)

func TestLostVolumes(t *testing.T) {
	volume := func(source corev1.VolumeSource) corev1.Volume { return corev1.Volume{Name: "v", VolumeSource: source} }
	tests := map[string]struct {
		source corev1.VolumeSource
		kind   string // empty: kept, or filled anew
	}{
		"emptyDir":            {corev1.VolumeSource{EmptyDir: &corev1.EmptyDirVolumeSource{}}, "emptyDir"},
		"tmpfs":               {corev1.VolumeSource{EmptyDir: &corev1.EmptyDirVolumeSource{Medium: corev1.StorageMediumMemory}}, "emptyDir"},
		"ephemeral":           {corev1.VolumeSource{Ephemeral: &corev1.EphemeralVolumeSource{}}, "ephemeral"},
		"inline CSI":          {corev1.VolumeSource{CSI: &corev1.CSIVolumeSource{}}, "inline CSI"},
		"inline CSI, to read": {corev1.VolumeSource{CSI: &corev1.CSIVolumeSource{ReadOnly: ptr.To(true)}}, ""},
		"claim":               {corev1.VolumeSource{PersistentVolumeClaim: &corev1.PersistentVolumeClaimVolumeSource{}}, ""},
		"hostPath":            {corev1.VolumeSource{HostPath: &corev1.HostPathVolumeSource{}}, ""},
		"NFS":                 {corev1.VolumeSource{NFS: &corev1.NFSVolumeSource{}}, ""},
		"ConfigMap":           {corev1.VolumeSource{ConfigMap: &corev1.ConfigMapVolumeSource{}}, ""},
		"Secret":              {corev1.VolumeSource{Secret: &corev1.SecretVolumeSource{}}, ""},
		"projected":           {corev1.VolumeSource{Projected: &corev1.ProjectedVolumeSource{}}, ""},
		"image":               {corev1.VolumeSource{Image: &corev1.ImageVolumeSource{}}, ""},
	}
	for name, test := range tests {
		t.Run(name, func(t *testing.T) {
			pod := &corev1.PodSpec{
				Volumes: []corev1.Volume{volume(test.source)},
				Containers: []corev1.Container{
					{Name: "other", VolumeMounts: []corev1.VolumeMount{{Name: "v", MountPath: "/elsewhere"}}},
					{Name: "main", VolumeMounts: []corev1.VolumeMount{{Name: "v", MountPath: "/scratch"}}},
				},
			}
			var told []string
			var status []v1alpha1.SnapshotWarning
			if test.kind != "" {
				told = []string{`template.spec.volumes[0]: the content of the ` + test.kind + ` volume "v" does not survive a pause`}
				status = []v1alpha1.SnapshotWarning{{Reason: v1alpha1.ReasonMountNotKept, ContainerName: "main", Path: "/scratch",
					Message: `the content of the ` + test.kind + ` volume "v" is not in the snapshot`}}
			}
			if diff := cmp.Diff(told, LostVolumes(pod, field.NewPath("template", "spec"))); diff != "" {
				t.Errorf("told (-want +got):\n%s", diff)
			}
			if diff := cmp.Diff(status, OfTemplate(pod, []string{"main"})); diff != "" {
				t.Errorf("of the template (-want +got):\n%s", diff)
			}
		})
	}
}

// TestWhatInitContainersFillIsNotLost: a volume that nothing can write to while the Pod runs comes back with the next Pod.
func TestWhatInitContainersFillIsNotLost(t *testing.T) {
	container := func(name string, mounts ...corev1.VolumeMount) corev1.Container {
		return corev1.Container{Name: name, VolumeMounts: mounts}
	}
	reads := corev1.VolumeMount{Name: "tools", MountPath: "/opt/tools", ReadOnly: true}
	writes := corev1.VolumeMount{Name: "tools", MountPath: "/opt/tools"}
	another := corev1.VolumeMount{Name: "scratch", MountPath: "/scratch"}
	sidecar := func(mounts ...corev1.VolumeMount) corev1.Container {
		c := container("sidecar", mounts...)
		c.RestartPolicy = ptr.To(corev1.ContainerRestartPolicyAlways)
		return c
	}
	emptyDir := corev1.VolumeSource{EmptyDir: &corev1.EmptyDirVolumeSource{}}
	for name, test := range map[string]struct {
		source          corev1.VolumeSource
		inits, ordinary []corev1.Container
		lost            bool
	}{
		"an init container writes, the others read": {emptyDir, []corev1.Container{container("init", writes)}, []corev1.Container{container("main", reads), container("other", reads)}, false},
		"one of them does not mount it":             {emptyDir, []corev1.Container{container("init", writes)}, []corev1.Container{container("main", reads), container("other", another)}, false},
		"in memory":                                 {corev1.VolumeSource{EmptyDir: &corev1.EmptyDirVolumeSource{Medium: corev1.StorageMediumMemory}}, []corev1.Container{container("init", writes)}, []corev1.Container{container("main", reads)}, false},
		"an ephemeral one":                          {corev1.VolumeSource{Ephemeral: &corev1.EphemeralVolumeSource{}}, []corev1.Container{container("init", writes)}, []corev1.Container{container("main", reads)}, false},
		"one of them writes":                        {emptyDir, []corev1.Container{container("init", writes)}, []corev1.Container{container("main", reads), container("other", writes)}, true},
		"one reads it here and writes it there":     {emptyDir, nil, []corev1.Container{container("main", reads, writes)}, true},
		"a sidecar writes":                          {emptyDir, []corev1.Container{sidecar(writes)}, []corev1.Container{container("main", reads)}, true},
		"a sidecar reads":                           {emptyDir, []corev1.Container{container("init", writes), sidecar(reads)}, []corev1.Container{container("main", reads)}, false},
		"nobody but the init container mounts it":   {emptyDir, []corev1.Container{container("init", writes)}, []corev1.Container{container("main")}, true},
		"nobody mounts it":                          {emptyDir, nil, []corev1.Container{container("main")}, true},
	} {
		t.Run(name, func(t *testing.T) {
			pod := &corev1.PodSpec{Volumes: []corev1.Volume{{Name: "tools", VolumeSource: test.source}}, InitContainers: test.inits, Containers: test.ordinary}
			told, status := LostVolumes(pod, field.NewPath("spec")), OfTemplate(pod, []string{"main"})
			if (len(told) > 0) != test.lost || (len(status) > 0) != test.lost {
				t.Errorf("told %q, in the snapshot %v; lost: %t", told, status, test.lost)
			}
		})
	}
}

func TestWhatAPodLoses(t *testing.T) {
	always := ptr.To(corev1.ContainerRestartPolicyAlways)
	needs := func(memory, cpu string) corev1.ResourceRequirements {
		list := corev1.ResourceList{corev1.ResourceMemory: resource.MustParse(memory)}
		if cpu != "" {
			list[corev1.ResourceCPU] = resource.MustParse(cpu)
		}
		return corev1.ResourceRequirements{Limits: list}
	}
	template := &corev1.PodSpec{
		Resources:      ptr.To(needs("1Gi", "")),
		InitContainers: []corev1.Container{{Name: "init"}, {Name: "ide", RestartPolicy: always}},
		Containers:     []corev1.Container{{Name: "main", Resources: needs("64Mi", "")}, {Name: "side"}},
	}
	podOf := func(changes ...func(*corev1.Pod)) *corev1.Pod {
		pod := &corev1.Pod{Spec: *template.DeepCopy()}
		pod.Status.InitContainerStatuses = []corev1.ContainerStatus{{Name: "init"}, {Name: "ide"}}
		pod.Status.ContainerStatuses = []corev1.ContainerStatus{{Name: "main"}, {Name: "side"}}
		for _, change := range changes {
			change(pod)
		}
		return pod
	}
	all := []string{"ide", "main", "side"}
	lost := func(name, message string) v1alpha1.SnapshotWarning {
		return v1alpha1.SnapshotWarning{Reason: v1alpha1.ReasonContainerNotKept, ContainerName: name, Message: message}
	}
	tests := map[string]struct {
		pod       *corev1.Pod
		committed []string
		want      []v1alpha1.SnapshotWarning
	}{
		"nothing": {podOf(), all, nil},
		"what is not to be kept": {podOf(), []string{"main"}, []v1alpha1.SnapshotWarning{
			lost("ide", `the files of container "ide" are not in the snapshot: it is not among those that are to be kept`),
			lost("side", `the files of container "side" are not in the snapshot: it is not among those that are to be kept`),
		}},
		"what was injected": {podOf(func(p *corev1.Pod) {
			p.Spec.InitContainers = append(p.Spec.InitContainers, corev1.Container{Name: "proxy", RestartPolicy: always}, corev1.Container{Name: "rules"})
			p.Status.InitContainerStatuses = append(p.Status.InitContainerStatuses, corev1.ContainerStatus{Name: "proxy"}, corev1.ContainerStatus{Name: "rules"})
		}), all, []v1alpha1.SnapshotWarning{lost("proxy", `the files of container "proxy" are not in the snapshot: it was put into the Pod, and is not in the sandbox's template`)}},
		"a debug container, and one that never ran": {podOf(func(p *corev1.Pod) {
			p.Status.EphemeralContainerStatuses = []corev1.ContainerStatus{{Name: "debugger-1", ContainerID: "containerd://d"}, {Name: "debugger-2"}}
		}), all, []v1alpha1.SnapshotWarning{lost("debugger-1", `the files of debug container "debugger-1" are not in the snapshot`)}},
		"a resize in place of what is kept": {podOf(func(p *corev1.Pod) { p.Spec.Containers[0].Resources = needs("128Mi", "2") }), all, nil},
		"a resize in place of what is not": {podOf(func(p *corev1.Pod) { p.Spec.Containers[0].Resources = needs("128Mi", "2") }), []string{"ide", "side"}, []v1alpha1.SnapshotWarning{
			lost("main", `the files of container "main" are not in the snapshot: it is not among those that are to be kept`),
			{
				Reason: v1alpha1.ReasonResourcesChanged, ContainerName: "main",
				Message: `container "main" was resized in its Pod and is not in the snapshot, so the next one has the template's resources: limits.memory is 128Mi, the template says 64Mi`,
			},
		}},
		"a resize of the Pod as a whole": {podOf(func(p *corev1.Pod) { p.Spec.Resources = ptr.To(needs("2Gi", "")) }), all, []v1alpha1.SnapshotWarning{{
			Reason:  v1alpha1.ReasonResourcesChanged,
			Message: `the Pod was resized as a whole, and the next one has the template's resources: limits.memory is 2Gi, the template says 1Gi`,
		}}},
		"the same in other words, and defaults of the namespace": {podOf(func(p *corev1.Pod) {
			p.Spec.Containers[0].Resources, p.Spec.Containers[1].Resources = needs("65536Ki", "1"), needs("1Gi", "1")
		}), all, nil},
	}
	for name, test := range tests {
		t.Run(name, func(t *testing.T) {
			if diff := cmp.Diff(test.want, OfPod(test.pod, template, test.committed)); diff != "" {
				t.Errorf("lost (-want +got):\n%s", diff)
			}
		})
	}
}

// TestLostOnExit: of what nobody can save people hear beforehand.
func TestLostOnExit(t *testing.T) {
	rule := func(action corev1.ContainerRestartRuleAction) []corev1.ContainerRestartRule {
		return []corev1.ContainerRestartRule{{Action: corev1.ContainerRestartRuleActionRestart}, {Action: action}}
	}
	pod := &corev1.PodSpec{
		InitContainers: []corev1.Container{{RestartPolicyRules: rule(corev1.ContainerRestartRuleActionRestartAllContainers)}},
		Containers:     []corev1.Container{{RestartPolicyRules: rule(corev1.ContainerRestartRuleActionRestart)}, {RestartPolicyRules: rule(corev1.ContainerRestartRuleActionRestartAllContainers)}},
	}
	const why = ": RestartAllContainers removes all containers with their files at once: nothing of them can be rescued (spec.onExit), and what was written since the last pause is gone"
	want := []string{"spec.containers[1].restartPolicyRules[1]" + why, "spec.initContainers[0].restartPolicyRules[1]" + why}
	if diff := cmp.Diff(want, LostOnExit(pod, field.NewPath("spec"))); diff != "" {
		t.Error(diff)
	}
}
