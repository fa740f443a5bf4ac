//go:build e2e

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

package e2e

import (
	"strings"
	"testing"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/opensandbox-io/sandbox-apiserver/apis/lifecycle/v1alpha1"
)

// inventory lists the whole root filesystem: type, mode, owner, size, time, link target and
// content of everything. Directories without size and time: both depend on how an overlay is made
// of its layers. What the kubelet mounts for each Pod anew is left out.
const inventory = `
list() {
  find / \( -path /proc -o -path /sys -o -path /dev -o -path /var/run/secrets -o -path /etc/hosts -o -path /etc/hostname -o -path /etc/resolv.conf \) -prune -o "$@" -print | sort
}
list -type d | xargs stat -c '%n %F %a %u %g'
list ! -type d | xargs stat -c '%N %F %a %u %g %s %Y'
list -type f | xargs md5sum
`

func TestFilesSurviveThreePauses(t *testing.T) {
	t.Parallel()
	r := newRoom(t)
	sandbox := r.start("demo")

	// Written, changed, deleted, linked: before the first pause, and again before each other.
	changes := []string{
		`echo first > /root/one && echo changed >> /etc/motd && rm /bin/vi && ln -s /root/one /root/link && mkdir -m 0751 /srv && chown 1000:1000 /srv`,
		`echo second > /srv/two && rm /root/one && ln -sf ../srv/two /root/link && mv /srv/two /srv/three && rm /bin/ed`,
		`rm -r /srv && mkdir /srv && echo third > /srv/only && dd if=/dev/urandom of=/root/random bs=64k count=16 2>/dev/null && chmod 4755 /root/random`,
	}
	digests := map[string]bool{}
	for cycle, change := range changes {
		r.sh("demo", change)
		before := r.sh("demo", inventory)

		r.pause("demo")
		paused, snapshot := r.awaitPaused("demo")
		if len(snapshot.Status.Containers) != 1 || snapshot.Status.Containers[0].ContainerName != "main" {
			t.Fatalf("snapshot %s has the containers %v, want main", snapshot.Name, snapshot.Status.Containers)
		}
		saved := snapshot.Status.Containers[0]
		r.mustBeInRegistry(saved)
		if digests[saved.ImageDigest] {
			t.Errorf("cycle %d: the digest %s is that of an earlier snapshot", cycle+1, saved.ImageDigest)
		}
		digests[saved.ImageDigest] = true
		if paused.UID != sandbox.UID || paused.Status.PodUID != "" || paused.Status.PodName != "" {
			t.Errorf("cycle %d: paused, the sandbox is %s", cycle+1, describe(paused))
		}

		r.resume("demo")
		resumed := r.awaitReady("demo")
		if resumed.UID != sandbox.UID || resumed.Status.PodName != "demo" || resumed.Status.PodUID == sandbox.Status.PodUID {
			t.Errorf("cycle %d: resumed, the sandbox is %s", cycle+1, describe(resumed))
		}
		r.mustComeFrom(resumed, saved)
		if after := r.sh("demo", inventory); after != before {
			t.Fatalf("cycle %d: the files differ from those before the pause:\n%s", cycle+1, difference(before, after))
		}
		if host := strings.TrimSpace(r.sh("demo", "hostname")); host != "demo" {
			t.Errorf("cycle %d: the hostname is %q", cycle+1, host)
		}
		sandbox = resumed
	}

	// Told once in plain words, in case the inventory misses something.
	got := r.sh("demo", `cat /srv/only; tail -n 1 /etc/motd; readlink /root/link; ls /root/one /srv/two /srv/three /bin/vi /bin/ed 2>/dev/null || true`)
	if want := "third\nchanged\n../srv/two\n"; got != want {
		t.Errorf("after three cycles there is %q, want %q", got, want)
	}
}

// mustComeFrom checks that the Pod of a sandbox runs a container from its snapshot, by digest.
func (r *room) mustComeFrom(sandbox *v1alpha1.Sandbox, saved v1alpha1.ContainerSnapshot) {
	r.t.Helper()
	pod, err := r.kube.CoreV1().Pods(r.namespace).Get(r.t.Context(), sandbox.Name, metav1.GetOptions{})
	if err != nil {
		r.t.Fatalf("get the Pod of sandbox %s: %v", sandbox.Name, err)
	}
	repository := saved.ImageURI[:strings.LastIndex(saved.ImageURI, ":")]
	for _, container := range pod.Spec.Containers {
		if want := repository + "@" + saved.ImageDigest; container.Name == saved.ContainerName && container.Image != want {
			r.t.Errorf("container %s has the image %s, want %s", container.Name, container.Image, want)
		}
	}
	if pod.UID != sandbox.Status.PodUID || !metav1.IsControlledBy(pod, sandbox) {
		r.t.Errorf("Pod %s has UID %s and owners %v; the status says %s", pod.Name, pod.UID, pod.OwnerReferences, sandbox.Status.PodUID)
	}
}

// difference lists the lines that only one of two texts has.
func difference(before, after string) string {
	old, now := strings.Split(before, "\n"), strings.Split(after, "\n")
	var lines []string
	for _, side := range []struct {
		sign         string
		these, those []string
	}{{"-", old, now}, {"+", now, old}} {
		other := map[string]bool{}
		for _, line := range side.those {
			other[line] = true
		}
		for _, line := range side.these {
			if !other[line] {
				lines = append(lines, side.sign+" "+line)
			}
		}
	}
	return strings.Join(lines, "\n")
}

func TestEveryContainerOfAPodIsKept(t *testing.T) {
	t.Parallel()
	r := newRoom(t)
	r.start("both", twoContainers)
	r.shIn("both", "main", "echo main > /root/mine")
	r.shIn("both", "side", "echo side > /root/mine")

	_, snapshot := r.pauseAndResume("both")

	if len(snapshot.Status.Containers) != 2 {
		t.Fatalf("snapshot %s has the containers %v, want main and side", snapshot.Name, snapshot.Status.Containers)
	}
	for _, saved := range snapshot.Status.Containers {
		r.mustBeInRegistry(saved)
		if got := r.shIn("both", saved.ContainerName, "cat /root/mine"); got != saved.ContainerName+"\n" {
			t.Errorf("container %s has kept %q", saved.ContainerName, got)
		}
	}
}

func TestOnlyTheNamedContainersAreKept(t *testing.T) {
	t.Parallel()
	r := newRoom(t)
	r.start("one", twoContainers, func(s *v1alpha1.Sandbox) { s.Spec.Snapshot.Containers = []string{"side"} })
	r.shIn("one", "main", "echo main > /root/mine")
	r.shIn("one", "side", "echo side > /root/mine")

	_, snapshot := r.pauseAndResume("one")

	if len(snapshot.Status.Containers) != 1 || snapshot.Status.Containers[0].ContainerName != "side" {
		t.Errorf("snapshot %s has the containers %v, want side alone", snapshot.Name, snapshot.Status.Containers)
	}
	if got := r.shIn("one", "side", "cat /root/mine"); got != "side\n" {
		t.Errorf("container side has kept %q", got)
	}
	if got := r.shIn("one", "main", "ls /root"); got != "" {
		t.Errorf("container main was not named and has kept %q", got)
	}
}

func twoContainers(s *v1alpha1.Sandbox) {
	s.Spec.Template.Spec.Containers = append(s.Spec.Template.Spec.Containers, sleeper("side"))
}

func TestEnvironmentLabelsAndPersistentVolumesAreThereAfterResume(t *testing.T) {
	t.Parallel()
	r := newRoom(t)
	r.claim("data")
	client, heard := r.warned(t)
	sandboxes := client.LifecycleV1alpha1().Sandboxes(r.namespace)

	_, err := sandboxes.Create(t.Context(), newSandbox("demo", func(s *v1alpha1.Sandbox) {
		template := s.Spec.Template
		template.Labels = map[string]string{"team": "blue"}
		template.Annotations = map[string]string{"example.com/note": "kept"}
		template.Spec.Volumes = []corev1.Volume{
			{Name: "data", VolumeSource: corev1.VolumeSource{PersistentVolumeClaim: &corev1.PersistentVolumeClaimVolumeSource{ClaimName: "data"}}},
			{Name: "scratch", VolumeSource: corev1.VolumeSource{EmptyDir: &corev1.EmptyDirVolumeSource{}}},
		}
		main := &template.Spec.Containers[0]
		main.Env = []corev1.EnvVar{{Name: "GREETING", Value: "hello"}}
		main.WorkingDir = "/tmp"
		main.VolumeMounts = []corev1.VolumeMount{{Name: "data", MountPath: "/data"}, {Name: "scratch", MountPath: "/scratch"}}
	}), metav1.CreateOptions{})
	if err != nil {
		t.Fatal(err)
	}
	if warning := heard.take(); !strings.Contains(warning, "emptyDir") || !strings.Contains(warning, `"scratch"`) {
		t.Errorf("create warned %q, want a word on the emptyDir volume scratch", warning)
	}
	r.awaitReady("demo")
	r.sh("demo", "echo kept > /data/file; echo lost > /scratch/file; echo kept > /root/file")

	if _, err := sandboxes.Pause(t.Context(), "demo", &v1alpha1.SandboxPause{}, metav1.CreateOptions{}); err != nil {
		t.Fatal(err)
	}
	if warning := heard.take(); !strings.Contains(warning, "emptyDir") || !strings.Contains(warning, `"scratch"`) {
		t.Errorf("pause warned %q, want a word on the emptyDir volume scratch", warning)
	}
	r.awaitPaused("demo")
	r.resume("demo")
	r.awaitReady("demo")

	if got, want := r.sh("demo", "echo $GREETING; pwd; cat /data/file /root/file; ls /scratch"), "hello\n/tmp\nkept\nkept\n"; got != want {
		t.Errorf("after resume there is %q, want %q", got, want)
	}
	pod, err := r.kube.CoreV1().Pods(r.namespace).Get(t.Context(), "demo", metav1.GetOptions{})
	if err != nil {
		t.Fatal(err)
	}
	if pod.Labels["team"] != "blue" || pod.Annotations["example.com/note"] != "kept" {
		t.Errorf("after resume the Pod has the labels %v and annotations %v", pod.Labels, pod.Annotations)
	}
}

func TestAPodIsGoneFromTheNodeWhenItsSandboxIsPaused(t *testing.T) {
	t.Parallel()
	r := newRoom(t)
	r.start("demo")
	if containers, err := r.containers(t.Context(), r.namespace); err != nil || len(containers) != 1 {
		t.Fatalf("containerd runs %v (error %v), want the container main", containers, err)
	}
	r.pause("demo")
	r.awaitPaused("demo")
	if containers, err := r.containers(t.Context(), r.namespace); err != nil || len(containers) != 0 {
		t.Errorf("paused, containerd still runs %v (error %v)", containers, err)
	}
	if _, err := r.kube.CoreV1().Pods(r.namespace).Get(t.Context(), "demo", metav1.GetOptions{}); !apierrors.IsNotFound(err) {
		t.Errorf("paused, the Pod is there: %v", err)
	}
}
