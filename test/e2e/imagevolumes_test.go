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
	"fmt"
	"io"
	"strings"
	"testing"

	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/mutate"
	"github.com/google/go-containerregistry/pkg/v1/tarball"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/utils/ptr"

	"github.com/opensandbox-io/sandbox-apiserver/apis/lifecycle/v1alpha1"
)

// imageWithVolumes makes an image that declares volumes, some of which it has files in.
func (r *room) imageWithVolumes(volumes ...string) string {
	r.t.Helper()
	var files bytes.Buffer
	w := tar.NewWriter(&files)
	for _, h := range []tar.Header{
		{Typeflag: tar.TypeDir, Name: "data/", Mode: 0o700, Uid: 999, Gid: 999},
		{Typeflag: tar.TypeReg, Name: "data/of-the-image", Mode: 0o600, Uid: 999, Gid: 999},
		{Typeflag: tar.TypeReg, Name: "data/deleted", Mode: 0o600, Uid: 999, Gid: 999},
		{Typeflag: tar.TypeDir, Name: "target/", Mode: 0o751},
		{Typeflag: tar.TypeSymlink, Name: "link", Linkname: "/target", Mode: 0o777},
	} {
		if err := w.WriteHeader(&h); err != nil {
			r.t.Fatal(err)
		}
	}
	if err := w.Close(); err != nil {
		r.t.Fatal(err)
	}
	layer, err := tarball.LayerFromOpener(func() (io.ReadCloser, error) { return io.NopCloser(bytes.NewReader(files.Bytes())), nil })
	if err != nil {
		r.t.Fatal(err)
	}
	image, err := mutate.AppendLayers(r.ownImage(), layer)
	if err != nil {
		r.t.Fatal(err)
	}
	config, err := image.ConfigFile()
	if err != nil {
		r.t.Fatal(err)
	}
	config.Config.Volumes = map[string]struct{}{}
	for _, path := range volumes {
		config.Config.Volumes[path] = struct{}{}
	}
	var changed v1.Image
	if changed, err = mutate.ConfigFile(image, config); err != nil {
		r.t.Fatal(err)
	}
	reference := "registry.test/" + r.namespace + "/volumes:1"
	r.load(reference, changed)
	return reference
}

// TestVolumesOfAnImage: what an image's volumes hold comes back like all other files, three times
// and in a clone; what was deleted there stays deleted.
func TestVolumesOfAnImage(t *testing.T) {
	t.Parallel()
	r := newRoom(t)
	image := r.imageWithVolumes("/data", "/data/nested", "/config/", "/link/behind", "/odd/../srv", "/mounted")
	r.start("demo", from(image), func(s *v1alpha1.Sandbox) {
		pod := &s.Spec.Template.Spec
		pod.Containers[0].SecurityContext = &corev1.SecurityContext{ReadOnlyRootFilesystem: ptr.To(true)}
		pod.Volumes = append(pod.Volumes, corev1.Volume{Name: "mine", VolumeSource: corev1.VolumeSource{EmptyDir: &corev1.EmptyDirVolumeSource{}}})
		pod.Containers[0].VolumeMounts = append(pod.Containers[0].VolumeMounts, corev1.VolumeMount{Name: "mine", MountPath: "/mounted"})
	})
	mounts := r.sh("demo", "cat /proc/mounts")
	for _, path := range []string{"/data", "/data/nested", "/config", "/target/behind", "/srv"} {
		if !strings.Contains(mounts, " "+path+" ") {
			t.Errorf("the node's runtime has made no volume at %s:\n%s", path, mounts)
		}
	}
	r.sh("demo", `rm /data/deleted; chown 999:999 /data/nested; chmod 0700 /data/nested; echo goes > /mounted/f`)
	for cycle := range 3 {
		r.sh("demo", fmt.Sprintf(`
for d in /data /data/nested /config /target/behind /srv; do
  echo %[1]d >> $d/log; rm -f $d/of-%[2]d; echo x > $d/of-%[1]d; mkdir -p -m 0710 $d/dir-%[1]d; ln $d/log $d/dir-%[1]d/linked
done
mkfifo /config/fifo-%[1]d; ln -s nowhere /data/link-%[1]d; chown -h 1:2 /data/link-%[1]d`, cycle, cycle-1))
		before := r.sh("demo", inventory)
		r.pause("demo")
		_, snapshot := r.awaitPaused("demo")
		if w := snapshot.Status.Warnings; len(w) > 0 {
			t.Logf("warnings: %+v", w)
		}
		r.resume("demo")
		r.awaitReady("demo")
		if got := r.sh("demo", "ls -A /mounted; rm -f /mounted/f"); got != "" {
			t.Errorf("cycle %d: the template's own emptyDir holds %q", cycle+1, got)
		}
		before = strings.Join(strings.FieldsFunc(before, func(r rune) bool { return r == '\n' }), "\n")
		after := strings.Join(strings.FieldsFunc(r.sh("demo", inventory), func(r rune) bool { return r == '\n' }), "\n")
		if kept := without(before, "/mounted/f"); kept != after {
			t.Fatalf("cycle %d: the files differ from those before the pause:\n%s", cycle+1, difference(kept, after))
		}
	}
	if got := r.sh("demo", "ls /data/deleted 2>&1 || true; cat /data/log /config/log /srv/log /data/nested/log; stat -c '%a %u' /data /data/nested"); !strings.Contains(got, "No such file") ||
		!strings.HasSuffix(got, strings.Repeat("0\n1\n2\n", 4)+"700 999\n700 999\n") {
		t.Errorf("after three cycles there is\n%s", got)
	}

	r.takeSnapshot("running", "demo")
	r.awaitSucceed("running")
	r.create("clone", restoring("running"))
	r.awaitReady("clone")
	if want, got := r.sh("demo", inventory), r.sh("clone", inventory); got != want {
		t.Errorf("the clone's files differ:\n%s", difference(want, got))
	}
}

// TestVolumesOfContainersThatHaveEnded: their volumes are there for as long as they are.
func TestVolumesOfContainersThatHaveEnded(t *testing.T) {
	t.Parallel()
	r := newRoom(t)
	image := r.imageWithVolumes("/data")
	r.create("demo", from(image), func(s *v1alpha1.Sandbox) {
		pod := &s.Spec.Template.Spec
		pod.RestartPolicy = corev1.RestartPolicyNever
		pod.Containers[0].Command = []string{"sh", "-c", "rm -f /data/deleted; echo ran >> /data/runs; if [ $(wc -l < /data/runs) -gt 1 ]; then sleep infinity; fi"}
	})
	r.awaitReason("demo", v1alpha1.ConditionReady, v1alpha1.ReasonContainersEnded)
	r.pause("demo")
	r.awaitPaused("demo")
	r.resume("demo")
	r.awaitReady("demo")
	if got := r.sh("demo", "cat /data/runs; ls /data"); got != "ran\nran\nof-the-image\nruns\n" {
		t.Errorf("the volume holds %q", got)
	}
}

// without leaves out the lines that speak of a path.
func without(text, path string) string {
	var kept []string
	for line := range strings.SplitSeq(text, "\n") {
		if !strings.Contains(line, path) {
			kept = append(kept, line)
		}
	}
	return strings.Join(kept, "\n")
}
