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
		PushSecret: "push", RegistryCA: "ca", RegistryInsecure: true, BaseRepository: "registry.example.com/sandbox_bases",
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
	job := c.Commit(snapshotNamed(name), demoSource(), leaveFrozen)
	return job
}

func TestArgs(t *testing.T) {
	const (
		main   = "--container=name=main,id=c1"
		side   = "--container=name=side,id=c2"
		mainTo = main + ",image=registry.example.com/default/demo-main:snap-gen1-abc"
		sideTo = side + ",image=registry.example.com/default/demo-side:snap-gen1-abc"
		socket = "--containerd-address=/run/containerd/containerd.sock"
		groups = "--cgroup-root=/host/sys/fs/cgroup"
	)
	bare := config()
	bare.PushSecret, bare.RegistryCA, bare.RegistryInsecure, bare.BaseRepository = "", "", false, ""
	short, caching, zipped := *bare, *bare, *bare
	zipped.LayerCompression = "gzip"
	short.MaxFrozen, short.MaxHoles = 10*time.Second, 32<<30
	caching.ResumeCache = 1000
	standby := []string{
		"standby", socket, groups, "--pod-uid=pod-1", main, side, "--commit=image-committer", "--lock=/dev/termination-log",
		"--thaw-after=5m0s", "--timeout=21m30s",
	}
	guard := append(slices.Clone(standby), "--commit-thaws")
	hook := []string{
		"/image-committer", "await", socket, "--commit=image-committer", "--lock=/dev/termination-log", "--within=3s", "--termination-log=-",
	}
	tests := map[string]struct {
		job  *batchv1.Job
		want []string
		// standby is what the container beside a commit gets.
		standby []string
	}{
		"pause": {commitOf(t, config(), "demo-gen1", true), []string{
			"commit", "--snapshot-uid=snapshot-1", socket, groups, "--pod-uid=pod-1", mainTo, sideTo, "--timeout=10m0s", "--leave-frozen", "--registry-insecure", "--base-repository=registry.example.com/sandbox_bases",
			"--registry-config=/etc/image-committer/registry/.dockerconfigjson", "--registry-ca=/etc/image-committer/ca/ca.crt"}, standby},
		"snapshot of a user": {commitOf(t, bare, "mine", false), []string{
			"commit", "--snapshot-uid=snapshot-1", socket, groups, "--pod-uid=pod-1", mainTo, sideTo, "--timeout=10m0s", "--spool-dir=/var/spool/image-committer"}, guard},
		"pause that must be short": {commitOf(t, &short, "demo-gen1", true), []string{
			"commit", "--snapshot-uid=snapshot-1", socket, groups, "--pod-uid=pod-1", mainTo, sideTo, "--timeout=10m0s", "--leave-frozen", "--max-frozen=10s", "--max-holes=34359738368"}, standby},
		"pause with gzip": {commitOf(t, &zipped, "demo-gen1", true), []string{
			"commit", "--snapshot-uid=snapshot-1", socket, groups, "--pod-uid=pod-1", mainTo, sideTo, "--timeout=10m0s", "--leave-frozen", "--layer-compression=gzip"}, standby},
		"unpause": {config().Unpause(snapshotNamed("demo-gen1"), demoSource()), []string{
			"thaw", socket, groups, "--pod-uid=pod-1", main, side, "--timeout=1m0s"}, nil},
		"pause for a resume cache": {commitOf(t, &caching, "demo-gen1", true), []string{
			"commit", "--snapshot-uid=snapshot-1", socket, groups, "--pod-uid=pod-1", mainTo, sideTo, "--timeout=10m0s", "--leave-frozen", "--resume-cache"}, standby},
		"snapshot of a user beside a resume cache": {commitOf(t, &caching, "mine", false), []string{
			"commit", "--snapshot-uid=snapshot-1", socket, groups, "--pod-uid=pod-1", mainTo, sideTo, "--timeout=10m0s", "--spool-dir=/var/spool/image-committer"}, guard},
		"uncache": {caching.Uncache(snapshotNamed("demo-gen1"), demoSource()), []string{
			"uncache", socket, "--timeout=1m0s", "--snapshot-uid=snapshot-1"}, nil},
	}
	for name, test := range tests {
		t.Run(name, func(t *testing.T) {
			wanted := [][]string{test.want}
			if test.standby != nil {
				wanted = append(wanted, test.standby)
			}
			containers := test.job.Spec.Template.Spec.Containers
			if len(containers) != len(wanted) {
				t.Fatalf("%d containers, want %d", len(containers), len(wanted))
			}
			for i, args := range wanted {
				container := containers[i]
				got, want := slices.Sorted(slices.Values(container.Args)), slices.Sorted(slices.Values(args))
				if container.Args[0] != args[0] || !slices.Equal(got, want) {
					t.Errorf("args\n     %q\nwant %q", container.Args, args)
				}
				if container.EnvFrom != nil || container.Command != nil {
					t.Errorf("there is more than args: %+v", container)
				}
				var env []string
				for _, variable := range container.Env {
					env = append(env, variable.Name+"="+variable.ValueFrom.FieldRef.FieldPath)
				}
				if want := []string{"POD_UID=metadata.uid"}[:i]; !slices.Equal(env, want) {
					t.Errorf("container %s has the environment %q, want %q", container.Name, env, want)
				}
				var hooks [][]string
				if container.Lifecycle != nil {
					hooks = append(hooks, container.Lifecycle.PostStart.Exec.Command)
				}
				if want := [][]string{hook}[:i]; !slices.EqualFunc(hooks, want, slices.Equal) {
					t.Errorf("container %s has the hooks %q, want %q", container.Name, hooks, want)
				}
			}
		})
	}
}

func TestVolumes(t *testing.T) {
	bare := config()
	bare.PushSecret, bare.RegistryCA = "", ""
	const (
		groups = " cgroup:/host/sys/fs/cgroup"
		kill   = "containerd-socket:/run/containerd/containerd.sock" + groups
	)
	tests := map[string]struct {
		job  *batchv1.Job
		want string
		kill string
	}{
		"commit":                     {commitOf(t, config(), "demo-gen1", true), "containerd-socket:/run/containerd/containerd.sock push-secret:/etc/image-committer/registry registry-ca:/etc/image-committer/ca containerd-root:/var/lib/containerd" + groups, kill},
		"commit to an open registry": {commitOf(t, bare, "demo-gen1", true), "containerd-socket:/run/containerd/containerd.sock containerd-root:/var/lib/containerd" + groups, kill},
		"commit for a resume cache": {commitOf(t, caching(), "demo-gen1", true), "containerd-socket:/run/containerd/containerd.sock push-secret:/etc/image-committer/registry registry-ca:/etc/image-committer/ca containerd-root:/var/lib/containerd" + groups,
			"containerd-socket:/run/containerd/containerd.sock containerd-root:/var/lib/containerd" + groups},
		"snapshot of a user": {commitOf(t, bare, "mine", false), "containerd-socket:/run/containerd/containerd.sock containerd-root:/var/lib/containerd" + groups + " spool:/var/spool/image-committer", kill},
		"unpause":            {config().Unpause(snapshotNamed("demo-gen1"), demoSource()), "containerd-socket:/run/containerd/containerd.sock" + groups, ""},
		"uncache":            {caching().Uncache(snapshotNamed("demo-gen1"), demoSource()), "containerd-socket:/run/containerd/containerd.sock", ""},
	}
	for name, test := range tests {
		t.Run(name, func(t *testing.T) {
			pod := test.job.Spec.Template.Spec
			want := []string{test.want}
			if test.kill != "" {
				want = append(want, test.kill)
			}
			unused := map[string]bool{}
			for _, volume := range pod.Volumes {
				unused[volume.Name] = true
			}
			var got []string
			for _, container := range pod.Containers {
				var mounts []string
				for _, mount := range container.VolumeMounts {
					mounts = append(mounts, mount.Name+":"+mount.MountPath)
					delete(unused, mount.Name)
					if mount.ReadOnly == (mount.Name == "spool" || mount.Name == "cgroup") {
						t.Errorf("%s: read-only %v", mount.Name, mount.ReadOnly)
					}
				}
				got = append(got, strings.Join(mounts, " "))
			}
			if !slices.Equal(got, want) || len(unused) > 0 {
				t.Errorf("volumes\n     %q\nwant %q; mounted by nobody: %v", got, want, unused)
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
	reads, kills := []corev1.Capability{"DAC_READ_SEARCH", "SYS_ADMIN"}, []corev1.Capability{"KILL"}
	commits := append(slices.Clone(reads), "SYS_PTRACE")
	tests := map[string]struct {
		job *batchv1.Job
		// want is for each container.
		want [][]corev1.Capability
	}{
		"pause":                    {commitOf(t, config(), "demo-gen1", true), [][]corev1.Capability{commits, kills}},
		"pause for a resume cache": {commitOf(t, caching(), "demo-gen1", true), [][]corev1.Capability{commits, append(kills, reads...)}},
		"snapshot of a user":       {commitOf(t, caching(), "mine", false), [][]corev1.Capability{commits, nil}},
		"unpause":                  {config().Unpause(snapshotNamed("demo-gen1"), demoSource()), [][]corev1.Capability{nil}},
		"uncache":                  {caching().Uncache(snapshotNamed("demo-gen1"), demoSource()), [][]corev1.Capability{nil}},
	}
	for name, test := range tests {
		t.Run(name, func(t *testing.T) {
			pod := test.job.Spec.Template.Spec
			if len(pod.Containers) != len(test.want) {
				t.Fatalf("%d containers, want %d", len(pod.Containers), len(test.want))
			}
			for i, want := range test.want {
				security := pod.Containers[i].SecurityContext
				if !slices.Equal(security.Capabilities.Add, want) || !slices.Equal(security.Capabilities.Drop, []corev1.Capability{"ALL"}) {
					t.Errorf("capabilities %+v", security.Capabilities)
				}
				if ptr.Deref(security.Privileged, false) || !ptr.Deref(security.ReadOnlyRootFilesystem, false) || ptr.Deref(security.RunAsUser, -1) != 0 {
					t.Errorf("security context %+v", security)
				}
				if ptr.Deref(security.AllowPrivilegeEscalation, true) {
					t.Error("a program that it starts could have more privileges")
				}
				resources := pod.Containers[i].Resources
				if most := resource.MustParse("256Mi"); resources.Limits.Memory().IsZero() || resources.Limits.Memory().Cmp(most) > 0 {
					t.Errorf("resources %+v", resources)
				}
				// What is left out is the limit, and a full node would have no room for it.
				for _, name := range []corev1.ResourceName{corev1.ResourceCPU, corev1.ResourceMemory, corev1.ResourceEphemeralStorage} {
					if request, asked := resources.Requests[name]; !asked || !request.IsZero() {
						t.Errorf("it asks for %s of %s", request.String(), name)
					}
				}
			}
			sees := name != "uncache"
			if pod.HostPID != sees || (pod.SecurityContext.AppArmorProfile != nil) != sees || (pod.SecurityContext.SELinuxOptions != nil) != sees || pod.HostNetwork || pod.HostIPC || ptr.Deref(pod.AutomountServiceAccountToken, true) || ptr.Deref(pod.EnableServiceLinks, true) {
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
		// The commit's own timeout counts from the start of its container, and then there may be something to thaw.
		"snapshot of a user": {commitOf(t, config(), "mine", false), 16 * time.Minute},
		// And then there may be something to kill.
		"pause":   {commitOf(t, config(), "demo-gen1", true), 26*time.Minute + 30*time.Second},
		"unpause": {config().Unpause(snapshotNamed("demo-gen1"), demoSource()), 6 * time.Minute},
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

// TestNobodyEndsForACommit: all Pods have the class that is named, whatever the cluster's default is, and none is BestEffort,
// which a kubelet that lacks memory may refuse.
func TestNobodyEndsForACommit(t *testing.T) {
	classed := config()
	classed.PriorityClass = "sandbox-commit"
	for name, job := range map[string]*batchv1.Job{
		"pause": commitOf(t, classed, "demo-gen1", true), "snapshot": commitOf(t, classed, "mine", false),
		"unpause": classed.Unpause(snapshotNamed("demo-gen1"), demoSource()), "uncache": classed.Uncache(snapshotNamed("demo-gen1"), demoSource()),
	} {
		pod := job.Spec.Template.Spec
		// The policy comes with the class; a Pod that names another is refused.
		if pod.PriorityClassName != "sandbox-commit" || pod.Priority != nil || pod.PreemptionPolicy != nil {
			t.Errorf("%s: class %q, priority %v, policy %v", name, pod.PriorityClassName, pod.Priority, pod.PreemptionPolicy)
		}
		for _, container := range pod.Containers {
			if container.Resources.Limits.Memory().IsZero() {
				t.Errorf("%s: container %s is of a Pod of the lowest quality of service", name, container.Name)
			}
		}
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
			v1alpha1.LabelSnapshot: strings.Repeat("a", 63), v1alpha1.LabelSnapshotUID: "snapshot-1", v1alpha1.LabelPodUID: "pod-1",
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
