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

package commitjob

import (
	"slices"
	"strings"
	"testing"
	"time"

	batchv1 "k8s.io/api/batch/v1"
	corev1 "k8s.io/api/core/v1"
	apiequality "k8s.io/apimachinery/pkg/api/equality"
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/utils/ptr"

	"github.com/opensandbox-io/sandbox-apiserver/apis/lifecycle/v1alpha1"
)

func config() *Config {
	return &Config{
		Namespace: "sandbox-system", Image: "registry.local/image-committer:1", Timeout: 10 * time.Minute,
		ContainerdSocket: "/run/containerd/containerd.sock", ContainerdRoot: "/var/lib/containerd",
		PushSecret: "push", RegistryCA: "ca", RegistryInsecure: true,
	}
}

func caching() *Config {
	c := config()
	c.ResumeCache = 1000
	return c
}

func snapshotNamed(name string) *v1alpha1.SandboxSnapshot {
	return &v1alpha1.SandboxSnapshot{
		ObjectMeta: metav1.ObjectMeta{Namespace: "default", Name: name, UID: "snapshot-1"},
		Spec:       v1alpha1.SandboxSnapshotSpec{SandboxName: "demo"},
		Status:     v1alpha1.SandboxSnapshotStatus{SandboxUID: "sandbox-1"},
	}
}

func demoSource() *Source {
	return &Source{PodName: "demo", PodUID: "pod-1", NodeName: "node-1", Containers: []v1alpha1.ContainerSnapshot{
		{ContainerName: "main", ContainerID: "c1", ImageURI: "registry.example.com/default/demo-main:snap-gen1-abc"},
		{ContainerName: "side", ContainerID: "c2", ImageURI: "registry.example.com/default/demo-side:snap-gen1-abc"},
	}}
}

func commitOf(t *testing.T, c *Config, name string, leaveFrozen bool) *batchv1.Job {
	t.Helper()
	job, err := c.Commit(snapshotNamed(name), demoSource(), leaveFrozen)
	if err != nil {
		t.Fatal(err)
	}
	return job
}

func TestArgs(t *testing.T) {
	const (
		main       = "--container=name=main,id=c1"
		side       = "--container=name=side,id=c2"
		mainTo     = main + ",image=registry.example.com/default/demo-main:snap-gen1-abc"
		sideTo     = side + ",image=registry.example.com/default/demo-side:snap-gen1-abc"
		mainDigest = "sha256:e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855"
		socket     = "--containerd-address=/run/containerd/containerd.sock"
	)
	bare := config()
	bare.PushSecret, bare.RegistryCA, bare.RegistryInsecure = "", "", false
	short, caching := *bare, *bare
	short.MaxFrozen = 10 * time.Second
	caching.ResumeCache = 1000
	committed := demoSource() // but for one container
	committed.Containers[0].ImageDigest = mainDigest
	tests := map[string]struct {
		job  *batchv1.Job
		want []string
	}{
		"pause": {commitOf(t, config(), "demo-gen1", true), []string{
			"commit", "--snapshot-uid=snapshot-1", socket, "--pod-uid=pod-1", mainTo, sideTo, "--timeout=10m0s", "--leave-frozen", "--registry-insecure",
			"--registry-config=/etc/image-committer/registry/.dockerconfigjson", "--registry-ca=/etc/image-committer/ca/ca.crt"}},
		"snapshot of a user": {commitOf(t, bare, "mine", false), []string{
			"commit", "--snapshot-uid=snapshot-1", socket, "--pod-uid=pod-1", mainTo, sideTo, "--timeout=10m0s", "--spool-dir=/var/spool/image-committer"}},
		"pause that must be short": {commitOf(t, &short, "demo-gen1", true), []string{
			"commit", "--snapshot-uid=snapshot-1", socket, "--pod-uid=pod-1", mainTo, sideTo, "--timeout=10m0s", "--leave-frozen", "--max-frozen=10s"}},
		"unpause": {config().Unpause(snapshotNamed("demo-gen1"), demoSource()), []string{
			"thaw", socket, "--pod-uid=pod-1", main, side, "--timeout=1m0s"}},
		"kill": {config().Kill(snapshotNamed("demo-gen1"), demoSource()), []string{
			"kill", socket, "--pod-uid=pod-1", main, side, "--timeout=1m0s"}},
		"pause for a resume cache": {commitOf(t, &caching, "demo-gen1", true), []string{
			"commit", "--snapshot-uid=snapshot-1", socket, "--pod-uid=pod-1", mainTo, sideTo, "--timeout=10m0s", "--leave-frozen", "--resume-cache"}},
		"snapshot of a user beside a resume cache": {commitOf(t, &caching, "mine", false), []string{
			"commit", "--snapshot-uid=snapshot-1", socket, "--pod-uid=pod-1", mainTo, sideTo, "--timeout=10m0s", "--spool-dir=/var/spool/image-committer"}},
		"kill for a resume cache": {caching.Kill(snapshotNamed("demo-gen1"), committed), []string{
			"kill", socket, "--pod-uid=pod-1", main, side, "--timeout=1m0s", "--resume-cache=1000", "--containerd-root=/var/lib/containerd",
			"--sandbox-uid=sandbox-1", "--snapshot-uid=snapshot-1", "--keep=main=registry.example.com/default/demo-main@" + mainDigest}},
		"uncache": {caching.Uncache(snapshotNamed("demo-gen1"), demoSource()), []string{
			"uncache", socket, "--timeout=1m0s", "--snapshot-uid=snapshot-1"}},
	}
	for name, test := range tests {
		t.Run(name, func(t *testing.T) {
			container := test.job.Spec.Template.Spec.Containers[0]
			got, want := slices.Sorted(slices.Values(container.Args)), slices.Sorted(slices.Values(test.want))
			if container.Args[0] != test.want[0] || !slices.Equal(got, want) {
				t.Errorf("args\n     %q\nwant %q", container.Args, test.want)
			}
			if container.Env != nil || container.EnvFrom != nil || container.Command != nil {
				t.Errorf("there is more than args: %+v", container)
			}
		})
	}
}

func TestVolumes(t *testing.T) {
	bare := config()
	bare.PushSecret, bare.RegistryCA = "", ""
	tests := map[string]struct {
		job  *batchv1.Job
		want string
	}{
		"commit":                     {commitOf(t, config(), "demo-gen1", true), "containerd-socket:/run/containerd/containerd.sock push-secret:/etc/image-committer/registry registry-ca:/etc/image-committer/ca containerd-root:/var/lib/containerd"},
		"commit to an open registry": {commitOf(t, bare, "demo-gen1", true), "containerd-socket:/run/containerd/containerd.sock containerd-root:/var/lib/containerd"},
		"snapshot of a user":         {commitOf(t, bare, "mine", false), "containerd-socket:/run/containerd/containerd.sock containerd-root:/var/lib/containerd spool:/var/spool/image-committer"},
		"unpause":                    {config().Unpause(snapshotNamed("demo-gen1"), demoSource()), "containerd-socket:/run/containerd/containerd.sock"},
		"kill":                       {config().Kill(snapshotNamed("demo-gen1"), demoSource()), "containerd-socket:/run/containerd/containerd.sock"},
		"kill for a resume cache":    {caching().Kill(snapshotNamed("demo-gen1"), demoSource()), "containerd-socket:/run/containerd/containerd.sock containerd-root:/var/lib/containerd"},
		"uncache":                    {caching().Uncache(snapshotNamed("demo-gen1"), demoSource()), "containerd-socket:/run/containerd/containerd.sock"},
	}
	for name, test := range tests {
		t.Run(name, func(t *testing.T) {
			pod := test.job.Spec.Template.Spec
			var got []string
			for i, mount := range pod.Containers[0].VolumeMounts {
				got = append(got, mount.Name+":"+mount.MountPath)
				if mount.ReadOnly == (mount.Name == "spool") {
					t.Errorf("%s: read-only %v", mount.Name, mount.ReadOnly)
				}
				if pod.Volumes[i].Name != mount.Name {
					t.Errorf("volume %s is mounted as %s", pod.Volumes[i].Name, mount.Name)
				}
			}
			if strings.Join(got, " ") != test.want || len(pod.Volumes) != len(got) {
				t.Errorf("volumes\n     %s\nwant %s", strings.Join(got, " "), test.want)
			}
		})
	}

	volumes := commitOf(t, config(), "demo-gen1", true).Spec.Template.Spec.Volumes
	if secret := volumes[1].Secret; secret.SecretName != "push" || *secret.DefaultMode != 0o400 || len(secret.Items) != 1 || secret.Items[0].Key != corev1.DockerConfigJsonKey {
		t.Errorf("push secret %+v", secret)
	}
	if *volumes[0].HostPath.Type != corev1.HostPathSocket || *volumes[3].HostPath.Type != corev1.HostPathDirectory {
		t.Errorf("host paths %+v, %+v", volumes[0].HostPath, volumes[3].HostPath)
	}
}

func TestPrivileges(t *testing.T) {
	tests := map[string]struct {
		job  *batchv1.Job
		want []corev1.Capability
	}{
		"commit":                  {commitOf(t, config(), "demo-gen1", true), []corev1.Capability{"DAC_READ_SEARCH", "SYS_ADMIN"}},
		"unpause":                 {config().Unpause(snapshotNamed("demo-gen1"), demoSource()), nil},
		"kill":                    {config().Kill(snapshotNamed("demo-gen1"), demoSource()), []corev1.Capability{"KILL"}},
		"kill for a resume cache": {caching().Kill(snapshotNamed("demo-gen1"), demoSource()), []corev1.Capability{"KILL", "DAC_READ_SEARCH", "SYS_ADMIN"}},
		"uncache":                 {caching().Uncache(snapshotNamed("demo-gen1"), demoSource()), nil},
	}
	for name, test := range tests {
		t.Run(name, func(t *testing.T) {
			pod := test.job.Spec.Template.Spec
			security := pod.Containers[0].SecurityContext
			if !slices.Equal(security.Capabilities.Add, test.want) || !slices.Equal(security.Capabilities.Drop, []corev1.Capability{"ALL"}) {
				t.Errorf("capabilities %+v", security.Capabilities)
			}
			if ptr.Deref(security.Privileged, false) || !ptr.Deref(security.ReadOnlyRootFilesystem, false) || ptr.Deref(security.RunAsUser, -1) != 0 {
				t.Errorf("security context %+v", security)
			}
			if ptr.Deref(security.AllowPrivilegeEscalation, true) {
				t.Error("a program that it starts could have more privileges")
			}
			resources := pod.Containers[0].Resources
			if most := resource.MustParse("256Mi"); resources.Limits.Memory().IsZero() || resources.Limits.Memory().Cmp(most) > 0 || resources.Requests.Cpu().IsZero() || resources.Requests.Memory().IsZero() {
				t.Errorf("resources %+v", resources)
			}
			if pod.HostPID != strings.HasPrefix(name, "kill") || pod.HostNetwork || pod.HostIPC || ptr.Deref(pod.AutomountServiceAccountToken, true) || ptr.Deref(pod.EnableServiceLinks, true) {
				t.Errorf("the Pod may do more than it needs: %+v", pod)
			}
			if pod.ServiceAccountName != ServiceAccount || pod.SecurityContext.SeccompProfile.Type != corev1.SeccompProfileTypeRuntimeDefault {
				t.Errorf("account %s, %+v", pod.ServiceAccountName, pod.SecurityContext)
			}
		})
	}
}

func TestWhereAndHowLong(t *testing.T) {
	tests := map[string]struct {
		job      *batchv1.Job
		deadline time.Duration
	}{
		// The commit's own timeout counts from the start of its container.
		"commit":  {commitOf(t, config(), "demo-gen1", true), 15 * time.Minute},
		"unpause": {config().Unpause(snapshotNamed("demo-gen1"), demoSource()), 6 * time.Minute},
		// As the Pod's grace: then the kubelet has killed.
		"kill":    {config().Kill(snapshotNamed("demo-gen1"), demoSource()), time.Minute},
		"uncache": {caching().Uncache(snapshotNamed("demo-gen1"), demoSource()), 6 * time.Minute},
	}
	for name, test := range tests {
		t.Run(name, func(t *testing.T) {
			spec, pod := test.job.Spec, test.job.Spec.Template.Spec
			if got := time.Duration(*spec.ActiveDeadlineSeconds) * time.Second; got != test.deadline {
				t.Errorf("deadline %s, want %s", got, test.deadline)
			}
			ttl := int32(300)
			if name == "uncache" {
				ttl = 0
			}
			if *spec.TTLSecondsAfterFinished != ttl || *spec.BackoffLimit != 0 || *spec.PodReplacementPolicy != batchv1.Failed || pod.RestartPolicy != corev1.RestartPolicyNever {
				t.Errorf("one Pod, kept for five minutes: %+v", spec)
			}
			if len(pod.Tolerations) != 1 || pod.Tolerations[0] != (corev1.Toleration{Operator: corev1.TolerationOpExists}) {
				t.Errorf("tolerations %+v: a cordoned node is one to pause on", pod.Tolerations)
			}
			terms := pod.Affinity.NodeAffinity.RequiredDuringSchedulingIgnoredDuringExecution.NodeSelectorTerms
			if len(terms) != 1 || len(terms[0].MatchFields) != 1 || terms[0].MatchFields[0].Key != "metadata.name" || !slices.Equal(terms[0].MatchFields[0].Values, []string{"node-1"}) {
				t.Errorf("runs on %+v", terms)
			}
			if grace := time.Duration(*pod.TerminationGracePeriodSeconds) * time.Second; grace != stopGrace {
				t.Errorf("grace %s", grace)
			}
		})
	}
}

func TestIdentity(t *testing.T) {
	long := strings.Repeat("a", 63) + "-gen1"
	job := commitOf(t, config(), long, true)
	if again := commitOf(t, config(), long, true); !apiequality.Semantic.DeepEqual(job, again) {
		t.Error("the same Job is not the same twice")
	}
	if job.Namespace != "sandbox-system" || len(job.Name) > 63 || job.Name == config().Unpause(snapshotNamed(long), demoSource()).Name {
		t.Errorf("named %s/%s", job.Namespace, job.Name)
	}
	for where, meta := range map[string]metav1.ObjectMeta{"the Job": job.ObjectMeta, "its Pod": job.Spec.Template.ObjectMeta} {
		if meta.Annotations[v1alpha1.AnnotationNamespace] != "default" || meta.Annotations[v1alpha1.AnnotationSnapshot] != long {
			t.Errorf("annotations of %s: %v", where, meta.Annotations)
		}
		want := map[string]string{
			v1alpha1.LabelComponent: ComponentCommit, v1alpha1.LabelSandbox: "demo", v1alpha1.LabelSandboxUID: "sandbox-1",
			v1alpha1.LabelSnapshot: strings.Repeat("a", 63), v1alpha1.LabelSnapshotUID: "snapshot-1",
		}
		if !apiequality.Semantic.DeepEqual(meta.Labels, want) {
			t.Errorf("labels of %s: %v, want %v", where, meta.Labels, want)
		}
	}
	if job.Spec.Template.Spec.Containers[0].Image != config().Image {
		t.Errorf("image %s", job.Spec.Template.Spec.Containers[0].Image)
	}
}

func TestSourceIsReadBack(t *testing.T) {
	got, err := SourceOf(commitOf(t, config(), "demo-gen1", true))
	if err != nil || !apiequality.Semantic.DeepEqual(got, demoSource()) {
		t.Errorf("read back %+v (%v)", got, err)
	}
	if _, err := SourceOf(&batchv1.Job{}); err == nil {
		t.Error("a Job without a source has one")
	}
	status := v1alpha1.SandboxSnapshotStatus{SourcePodName: "demo", SourcePodUID: "pod-1", SourceNodeName: "node-1", Containers: demoSource().Containers}
	if got := SourceIn(&v1alpha1.SandboxSnapshot{Status: status}); !apiequality.Semantic.DeepEqual(got, demoSource()) {
		t.Errorf("the status says %+v", got)
	}
}
