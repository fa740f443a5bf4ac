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
	"context"
	"fmt"
	"testing"

	"github.com/containerd/containerd/v2/core/images"
	"github.com/containerd/containerd/v2/pkg/namespaces"
	"github.com/containerd/errdefs"
	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/mutate"

	"github.com/opensandbox-io/sandbox-apiserver/apis/lifecycle/v1alpha1"
)

// asItsImageSays makes a sandbox run an image that is on the node already, as the image says.
func asItsImageSays(image string) func(*v1alpha1.Sandbox) {
	return func(s *v1alpha1.Sandbox) {
		s.Spec.Template.Spec.Containers[0].Image, s.Spec.Template.Spec.Containers[0].Command = image, nil
	}
}

// configured is an image of the same layers, made to run otherwise.
func (r *room) configured(image v1.Image, change func(*v1.Config)) v1.Image {
	r.t.Helper()
	file, err := image.ConfigFile()
	if err != nil {
		r.t.Fatal(err)
	}
	file = file.DeepCopy()
	change(&file.Config)
	if image, err = mutate.ConfigFile(image, file); err != nil {
		r.t.Fatal(err)
	}
	return image
}

const runsAs = "echo $BUILD $(id -u) $(tr '\\0' ' ' </proc/1/cmdline)"

// TestATagThatHasMoved has two images that differ in their configurations alone: the sandbox's tag stands for the
// other one by the time it is paused.
func TestATagThatHasMoved(t *testing.T) {
	t.Parallel()
	r := newRoom(t)
	layers := r.ownImage()
	reference := "127.0.0.1:1/nowhere/moves:" + r.namespace
	r.load(reference, r.configured(layers, func(c *v1.Config) {
		c.Env, c.User, c.Cmd = append(c.Env, "BUILD=1"), "1000", []string{"sleep", "infinity"}
	}))
	r.start("demo", asItsImageSays(reference))
	const want = "1 1000 sleep infinity\n"
	if got := r.sh("demo", runsAs); got != want {
		t.Fatalf("it runs as %q, want %q", got, want)
	}
	r.load(reference, r.configured(layers, func(c *v1.Config) {
		c.Env, c.User, c.Cmd = append(c.Env, "BUILD=2"), "", []string{"sleep", "77"}
	}))
	r.pauseAndResume("demo")
	if got := r.sh("demo", runsAs); got != want {
		t.Errorf("after the resume it runs as %q, want %q", got, want)
	}
}

// removeFromNode removes all names of an image from the node, as somebody does who makes room there, and waits until
// what described it is gone.
func (r *room) removeFromNode(reference string) {
	r.t.Helper()
	ctx := namespaces.WithNamespace(r.t.Context(), "k8s.io")
	service := r.containerd.ImageService()
	image, err := service.Get(ctx, reference)
	if err != nil {
		r.t.Fatalf("image %s: %v", reference, err)
	}
	all, err := service.List(ctx, fmt.Sprintf("target.digest==%s", image.Target.Digest))
	if err != nil || len(all) == 0 {
		r.t.Fatalf("names of image %s: %v, %v", reference, all, err)
	}
	for _, one := range all {
		if err := service.Delete(ctx, one.Name, images.SynchronousDelete()); err != nil && !errdefs.IsNotFound(err) {
			r.t.Fatalf("delete image %s: %v", one.Name, err)
		}
	}
	eventually(r.t, "the manifest of "+reference+" is gone from the node", patience, func(ctx context.Context) (bool, string) {
		_, err := r.containerd.ContentStore().Info(namespaces.WithNamespace(ctx, "k8s.io"), image.Target.Digest)
		return errdefs.IsNotFound(err), fmt.Sprint(err)
	})
}

// TestAnImageRemovedFromTheNode has one that the registry has, because the sandbox was resumed from it, and one that
// nobody has.
func TestAnImageRemovedFromTheNode(t *testing.T) {
	t.Parallel()
	r := newRoom(t)
	r.start("demo")
	r.sh("demo", "echo 1 > /root/first; rm /bin/vi")
	_, first := r.pauseAndResume("demo")
	r.sh("demo", "echo 2 > /root/second")
	r.removeFromNode(r.reference(first))
	_, second := r.pauseAndResume("demo")
	if got := r.sh("demo", "cat /root/first /root/second; ls /bin/vi 2>&1 || true"); got != "1\n2\nls: /bin/vi: No such file or directory\n" {
		t.Errorf("after the resume there is %q", got)
	}
	r.mustBeInRegistry(second.Status.Containers[0])
	if second.Status.Containers[0].Layers != 2 || len(second.Status.Warnings) > 0 {
		t.Errorf("the snapshot is %+v", second.Status)
	}

	reference := "127.0.0.1:1/nowhere/gone:" + r.namespace
	r.load(reference, r.configured(r.ownImage(), func(c *v1.Config) {
		c.Env, c.User, c.Entrypoint, c.Cmd, c.WorkingDir = append(c.Env, "BUILD=1"), "1000:100", []string{"env"}, []string{"A=1", "sleep", "infinity"}, "/tmp"
	}))
	r.start("orphan", asItsImageSays(reference))
	const who = "echo $OWN $BUILD $(id -u):$(id -g) $(pwd) $(tr '\\0' ' ' </proc/1/cmdline); cat /own; cat written; ls /bin/vi"
	r.sh("orphan", "echo written > /tmp/written")
	before := r.sh("orphan", who)
	r.removeFromNode(reference)
	_, snapshot := r.pauseAndResume("orphan")
	if after := r.sh("orphan", who); after != before {
		t.Errorf("after the resume it is %q, before it was %q", after, before)
	}
	if w := snapshot.Status.Warnings; len(w) != 1 || w[0].Reason != v1alpha1.ReasonBaseRebuilt || w[0].ContainerName != "main" {
		t.Errorf("the snapshot's warnings are %+v", w)
	}
}
