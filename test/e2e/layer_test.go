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
	"archive/tar"
	"bytes"
	"context"
	"errors"
	"io"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/containerd/containerd/v2/pkg/namespaces"
	v1 "github.com/google/go-containerregistry/pkg/v1"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/opensandbox-io/sandbox-apiserver/apis/lifecycle/v1alpha1"
)

// TestAnImageHoldsNothingOfTheNode reads the layer that a pause has pushed. It has what the container changed; of all
// that is mounted into a container it has the empty places; the layers below are those of the base.
func TestAnImageHoldsNothingOfTheNode(t *testing.T) {
	t.Parallel()
	r := newRoom(t)
	r.claim("data")
	const secret = "kept-by-kubernetes-alone"
	if _, err := r.kube.CoreV1().ConfigMaps(r.namespace).Create(t.Context(), &corev1.ConfigMap{
		ObjectMeta: metav1.ObjectMeta{Name: "settings"}, Data: map[string]string{"app.conf": secret},
	}, metav1.CreateOptions{}); err != nil {
		t.Fatal(err)
	}
	r.createSecret(r.namespace, "token", corev1.SecretTypeOpaque, map[string][]byte{"token": []byte(secret)})
	node := t.TempDir()
	if err := os.WriteFile(filepath.Join(node, "of-the-node"), []byte(secret), 0o644); err != nil {
		t.Fatal(err)
	}
	r.start("demo", func(s *v1alpha1.Sandbox) {
		spec := &s.Spec.Template.Spec
		mount := func(name, path, subPath string, source corev1.VolumeSource) {
			if !slices.ContainsFunc(spec.Volumes, func(v corev1.Volume) bool { return v.Name == name }) {
				spec.Volumes = append(spec.Volumes, corev1.Volume{Name: name, VolumeSource: source})
			}
			spec.Containers[0].VolumeMounts = append(spec.Containers[0].VolumeMounts, corev1.VolumeMount{Name: name, MountPath: path, SubPath: subPath})
		}
		settings := corev1.VolumeSource{ConfigMap: &corev1.ConfigMapVolumeSource{LocalObjectReference: corev1.LocalObjectReference{Name: "settings"}}}
		mount("data", "/data", "", corev1.VolumeSource{PersistentVolumeClaim: &corev1.PersistentVolumeClaimVolumeSource{ClaimName: "data"}})
		mount("scratch", "/scratch", "", corev1.VolumeSource{EmptyDir: &corev1.EmptyDirVolumeSource{}})
		mount("memory", "/memory", "", corev1.VolumeSource{EmptyDir: &corev1.EmptyDirVolumeSource{Medium: corev1.StorageMediumMemory}})
		mount("settings", "/settings", "", settings)
		mount("settings", "/etc/app.conf", "app.conf", settings)
		mount("token", "/token", "", corev1.VolumeSource{Secret: &corev1.SecretVolumeSource{SecretName: "token"}})
		mount("node", "/node", "", corev1.VolumeSource{HostPath: &corev1.HostPathVolumeSource{Path: node}})
	})
	r.sh("demo", `echo `+secret+` | tee /data/file /scratch/file /memory/file /dev/shm/file > /dev/null
		cat /node/of-the-node /settings/app.conf /etc/app.conf /token/token > /dev/null
		echo mine >> /etc/motd && rm /bin/vi`)

	r.pause("demo")
	_, snapshot := r.awaitPaused("demo")
	image := r.image(snapshot.Status.Containers[0])

	r.mustExtend(image, busybox)
	layers, err := image.Layers()
	if err != nil {
		t.Fatal(err)
	}
	content := uncompressed(t, layers[len(layers)-1])
	for what, text := range map[string]string{
		"what is in volumes": secret, "the kubelet's hosts file": "Kubernetes-managed", "a service account's token": "eyJhbGciOi",
	} {
		if bytes.Contains(content, []byte(text)) {
			t.Errorf("the layer holds %s", what)
		}
	}
	got := contents(t, content)
	if motd := got["etc/motd"]; !strings.HasSuffix(motd, "mine\n") {
		t.Errorf("etc/motd is %q", motd)
	}
	delete(got, "etc/motd")
	// Everything else is empty, and nothing else is there.
	for name, content := range got {
		if content != "" {
			t.Errorf("%s is not empty: %q", name, content)
		}
	}
	want := []string{
		"./", "bin/", "bin/.wh.vi", "data/", "etc/", "etc/app.conf", "etc/hostname", "etc/hosts", "etc/resolv.conf", "memory/", "node/",
		"scratch/", "settings/", "token/", "var/", "var/run/", "var/run/secrets/", "var/run/secrets/kubernetes.io/", "var/run/secrets/kubernetes.io/serviceaccount/",
	}
	if names := slices.Sorted(maps.Keys(got)); !slices.Equal(names, want) {
		t.Errorf("besides etc/motd the layer has\n     %q\nwant %q", names, want)
	}
}

// mustExtend checks that an image begins with the layers of a base that is on the node.
func (r *room) mustExtend(image v1.Image, base string) {
	r.t.Helper()
	config, err := image.ConfigFile()
	if err != nil {
		r.t.Fatal(err)
	}
	ctx := namespaces.WithNamespace(r.t.Context(), "k8s.io")
	known, err := r.containerd.GetImage(ctx, base)
	if err != nil {
		r.t.Fatalf("find %s on the node: %v", base, err)
	}
	below, err := known.RootFS(ctx)
	if err != nil {
		r.t.Fatalf("the layers of %s: %v", base, err)
	}
	for i, layer := range below {
		if i >= len(config.RootFS.DiffIDs) || config.RootFS.DiffIDs[i].String() != layer.String() {
			r.t.Fatalf("the image has the layers %v, which do not begin with those of %s, %v", config.RootFS.DiffIDs, base, below)
		}
	}
	if len(config.RootFS.DiffIDs) != len(below)+1 {
		r.t.Errorf("the image has %d layers above its base, want 1", len(config.RootFS.DiffIDs)-len(below))
	}
}

func uncompressed(t *testing.T, layer v1.Layer) []byte {
	t.Helper()
	reader, err := layer.Uncompressed()
	if err != nil {
		t.Fatal(err)
	}
	defer reader.Close()
	content, err := io.ReadAll(reader)
	if err != nil {
		t.Fatal(err)
	}
	return content
}

// contents are the names of a tar and what is in them.
func contents(t *testing.T, content []byte) map[string]string {
	t.Helper()
	all := map[string]string{}
	for r := tar.NewReader(bytes.NewReader(content)); ; {
		h, err := r.Next()
		if errors.Is(err, io.EOF) {
			return all
		}
		if err != nil {
			t.Fatal(err)
		}
		text, err := io.ReadAll(r)
		if err != nil {
			t.Fatal(err)
		}
		all[h.Name] = string(text) + h.Linkname
	}
}

// hostile is what somebody who wants to reach the node's files, or to make a commit fail, puts into a container.
const hostile = `
mkdir /hostile && cd /hostile
ln -s /proc proc; ln -s /proc/self/root root; ln -s /proc/1/environ environ; ln -s /etc/shadow shadow
ln -s ../../../../../../../../etc/shadow relative; ln -s loop loop; ln -s b a; ln -s a b; ln -s . here; ln -s .. there
mkfifo fifo; mknod zero c 1 5; mknod mem c 1 1; mknod disk b 8 0
i=0; while [ $i -lt 1000 ]; do mkdir d; cd d; i=$((i+1)); done; echo deep > file
cd /hostile
name=$(printf 'new\nline\tand\001\377 more'); echo odd > "$name"; echo dash > ./-rf; echo quote > "'\"\\"
truncate -s 64M sparse
`

// TestAHostileContainerIsCommitted commits what must neither be followed nor opened, and more files than anybody needs.
func TestAHostileContainerIsCommitted(t *testing.T) {
	t.Parallel()
	r := newRoom(t)
	files := "50000"
	if nightly() {
		files = "1000000"
	}
	program, err := treemaker()
	if err != nil {
		t.Fatal(err)
	}
	shared := t.TempDir()
	if err := os.WriteFile(filepath.Join(shared, "treemaker"), program, 0o755); err != nil {
		t.Fatal(err)
	}
	r.start("demo", func(s *v1alpha1.Sandbox) {
		s.Spec.Template.Spec.Volumes = []corev1.Volume{{Name: "programs", VolumeSource: corev1.VolumeSource{HostPath: &corev1.HostPathVolumeSource{Path: shared}}}}
		s.Spec.Template.Spec.Containers[0].VolumeMounts = []corev1.VolumeMount{{Name: "programs", MountPath: "/programs"}}
	})
	// A million files take their time on a slow disk.
	ctx, cancel := context.WithTimeout(t.Context(), 5*patience)
	defer cancel()
	var said bytes.Buffer
	if err := r.exec(ctx, "demo", "main", &said, &said, "sh", "-euc", hostile+"mkdir many && /programs/treemaker many many "+files); err != nil {
		t.Fatalf("making the files: %v\n%s", err, said.String())
	}

	// A snapshot of a running sandbox: what the node makes of it again is not the question here.
	_, err = r.snapshots().Create(t.Context(), &v1alpha1.SandboxSnapshot{
		ObjectMeta: metav1.ObjectMeta{Name: "hostile"}, Spec: v1alpha1.SandboxSnapshotSpec{SandboxName: "demo"},
	}, metav1.CreateOptions{})
	if err != nil {
		t.Fatal(err)
	}
	eventually(t, "the snapshot has succeeded", 5*patience, func(context.Context) (bool, string) {
		snapshot := r.snapshot("hostile")
		if snapshot.Status.Phase == v1alpha1.SnapshotFailed {
			t.Fatalf("the snapshot failed: %s", messageOf(snapshot.Status.Conditions, v1alpha1.ConditionFailed))
		}
		return snapshot.Status.Phase == v1alpha1.SnapshotSucceed, string(snapshot.Status.Phase)
	})
	saved := r.snapshot("hostile").Status.Containers[0]
	if saved.LayerBytes > 64<<20 {
		t.Errorf("the layer has %d bytes", saved.LayerBytes)
	}

	pods, err := r.jobPods(t.Context())
	if err != nil || len(pods) != 1 {
		t.Fatalf("%d commit Pods (error %v)", len(pods), err)
	}
	var log string
	eventually(t, "the commit has told of its memory", patience, func(ctx context.Context) (bool, string) {
		log = r.log(ctx, pods[0].Name, "image-committer", 1000)
		return strings.Contains(log, "peakMemoryBytes="), log
	})
	if peak := number(t, log, "peakMemoryBytes="); peak == 0 || peak > 128<<20 {
		t.Errorf("the commit took %d MiB:\n%s", peak>>20, log)
	}
	t.Logf("%s files: the commit took %d MiB, the layer has %d bytes", files, number(t, log, "peakMemoryBytes=")>>20, saved.LayerBytes)

	shadow, err := os.ReadFile("/etc/shadow")
	if err != nil {
		t.Fatal(err)
	}
	layers, err := r.image(saved).Layers()
	if err != nil {
		t.Fatal(err)
	}
	if bytes.Contains(uncompressed(t, layers[len(layers)-1]), shadow) {
		t.Error("the layer holds the node's /etc/shadow")
	}
}

// number is what stands behind a key of a log.
func number(t *testing.T, log, key string) int64 {
	t.Helper()
	_, rest, ok := strings.Cut(log, key)
	if !ok {
		return 0
	}
	n := int64(0)
	for _, digit := range rest {
		if digit < '0' || digit > '9' {
			break
		}
		n = n*10 + int64(digit-'0')
	}
	return n
}
