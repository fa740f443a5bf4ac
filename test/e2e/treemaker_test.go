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
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strconv"
	"sync"
	"testing"

	"github.com/google/go-containerregistry/pkg/name"
	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/empty"
	"github.com/google/go-containerregistry/pkg/v1/mutate"
	"github.com/google/go-containerregistry/pkg/v1/remote"
	"github.com/google/go-containerregistry/pkg/v1/tarball"
	"github.com/google/go-containerregistry/pkg/v1/types"
	corev1 "k8s.io/api/core/v1"

	"github.com/opensandbox-io/sandbox-apiserver/apis/lifecycle/v1alpha1"
)

// nightly is whether the long versions of tests run, as `make e2e-nightly` does.
func nightly() bool { return os.Getenv("NIGHTLY") != "" }

// repetitions is how often a random test is repeated: as often as COUNT says, else by the kind of run.
func repetitions(t *testing.T, usually, nightlyCount int) int {
	t.Helper()
	if text := os.Getenv("COUNT"); text != "" {
		n, err := strconv.Atoi(text)
		if err != nil {
			t.Fatalf("COUNT: %v", err)
		}
		return n
	}
	if nightly() {
		return nightlyCount
	}
	return usually
}

// treemaker and committerProgram are programs of this checkout, compiled once for all tests.
var (
	treemaker        = sync.OnceValues(func() ([]byte, error) { return compile("../trees/treemaker") })
	committerProgram = sync.OnceValues(func() ([]byte, error) { return compile("../../cmd/image-committer") })
)

// compile takes a program from PROGRAMS instead, where there is no compiler.
func compile(source string) ([]byte, error) {
	if programs := os.Getenv("PROGRAMS"); programs != "" {
		return os.ReadFile(filepath.Join(programs, filepath.Base(source)))
	}
	dir, err := os.MkdirTemp("", "e2e-program-")
	if err != nil {
		return nil, err
	}
	defer os.RemoveAll(dir)
	program := filepath.Join(dir, "program")
	build := exec.Command("go", "build", "-o", program, source)
	build.Env = append(os.Environ(), "CGO_ENABLED=0")
	if output, err := build.CombinedOutput(); err != nil {
		return nil, fmt.Errorf("go build %s: %w\n%s", source, err, output)
	}
	return os.ReadFile(program)
}

// treemakerImage pushes an image of the treemaker and further layers.
func (c *cluster) treemakerImage(t *testing.T, tag string, layers ...[]byte) string {
	t.Helper()
	program, err := treemaker()
	if err != nil {
		t.Fatal(err)
	}
	return c.pushProgram(t, "treemaker", program, tag, layers...).String()
}

// pushProgram pushes an image of a program and further layers to the open registry. The name of the image has its digest.
func (c *cluster) pushProgram(t *testing.T, program string, content []byte, tag string, layers ...[]byte) name.Digest {
	t.Helper()
	return c.pushConfigured(t, v1.Config{Entrypoint: []string{"/" + program}}, program, content, tag, layers...)
}

// pushConfigured is pushProgram with a configuration of one's own.
func (c *cluster) pushConfigured(t *testing.T, config v1.Config, program string, content []byte, tag string, layers ...[]byte) name.Digest {
	t.Helper()
	var layer bytes.Buffer
	w := tar.NewWriter(&layer)
	err := w.WriteHeader(&tar.Header{Typeflag: tar.TypeReg, Name: program, Mode: 0o755, Size: int64(len(content))})
	if err == nil {
		_, err = w.Write(content)
	}
	if err == nil {
		err = w.Close()
	}
	if err != nil {
		t.Fatal(err)
	}

	image := mutate.ConfigMediaType(mutate.MediaType(empty.Image, types.OCIManifestSchema1), types.OCIConfigJSON)
	for _, content := range append([][]byte{layer.Bytes()}, layers...) {
		open := func() (io.ReadCloser, error) { return io.NopCloser(bytes.NewReader(content)), nil }
		added, err := tarball.LayerFromOpener(open, tarball.WithMediaType(types.OCILayer))
		if err != nil {
			t.Fatal(err)
		}
		if image, err = mutate.AppendLayers(image, added); err != nil {
			t.Fatal(err)
		}
	}
	file, err := image.ConfigFile()
	if err != nil {
		t.Fatal(err)
	}
	file = file.DeepCopy()
	file.OS, file.Architecture, file.Config = "linux", runtime.GOARCH, config
	if image, err = mutate.ConfigFile(image, file); err != nil {
		t.Fatal(err)
	}
	digest, err := image.Digest()
	if err != nil {
		t.Fatal(err)
	}
	ref, err := name.NewTag(c.registry+"/e2e/"+program+":"+tag, name.Insecure)
	if err != nil {
		t.Fatal(err)
	}
	if err := remote.Write(ref, image, remote.WithContext(t.Context())); err != nil {
		t.Fatalf("push %s: %v", ref, err)
	}
	return ref.Digest(digest.String())
}

// makesTrees is a sandbox of that image that may do what root can do to files.
func makesTrees(image string) func(*v1alpha1.Sandbox) {
	return func(s *v1alpha1.Sandbox) {
		main := &s.Spec.Template.Spec.Containers[0]
		main.Image, main.Command = image, []string{"/treemaker", "sleep"}
		main.SecurityContext = &corev1.SecurityContext{Capabilities: &corev1.Capabilities{Add: []corev1.Capability{"SYS_ADMIN"}}}
	}
}

// program runs a program in the container main.
func (r *room) program(sandbox string, command ...string) []byte {
	r.t.Helper()
	return r.programIn(sandbox, "main", command...)
}

func (r *room) programIn(sandbox, container string, command ...string) []byte {
	r.t.Helper()
	var stdout, stderr bytes.Buffer
	ctx, cancel := context.WithTimeout(r.t.Context(), patience)
	defer cancel()
	if err := r.exec(ctx, sandbox, container, &stdout, &stderr, command...); err != nil {
		r.t.Fatalf("in %s/%s: %q: %v\n%s%s", sandbox, container, command, err, stdout.String(), stderr.String())
	}
	return stdout.Bytes()
}
