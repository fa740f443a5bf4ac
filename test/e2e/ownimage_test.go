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
	"testing"

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
	const want = "1 1000 sleep infinity \n"
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
