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

package main

import (
	"archive/tar"
	"bytes"
	"context"
	"errors"
	"io"
	"log"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-containerregistry/pkg/registry"
	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/layout"
	"github.com/google/go-containerregistry/pkg/v1/remote"
)

// both are options for two platforms and a compiler that writes the platform's name instead of a program.
func both(t *testing.T, registry string) options {
	dir := t.TempDir()
	return options{
		registry:  registry,
		tag:       "v1",
		output:    filepath.Join(dir, "images"),
		platforms: []v1.Platform{{OS: "linux", Architecture: "amd64"}, {OS: "linux", Architecture: "arm64"}},
		compile: func(_ context.Context, _ options, p program, platform v1.Platform) (string, error) {
			path := filepath.Join(dir, p.name+platform.Architecture)
			return path, os.WriteFile(path, []byte(platform.String()), 0o755)
		},
	}
}

func TestBuildIsReproducible(t *testing.T) {
	o, p := both(t, "registry.local"), programs[0]
	var archives [2][]byte
	for i := range archives {
		if _, err := build(t.Context(), o, p); err != nil {
			t.Fatal(err)
		}
		content, err := os.ReadFile(filepath.Join(o.output, p.name+".tar"))
		if err != nil {
			t.Fatal(err)
		}
		archives[i] = content
	}
	if !bytes.Equal(archives[0], archives[1]) {
		t.Error("two builds of equal sources differ")
	}
	left, err := os.ReadDir(o.output)
	if err != nil || len(left) != 1 {
		t.Errorf("the output folder holds %v (%v), want the archive alone", left, err)
	}
}

func TestArchiveNamesItsImage(t *testing.T) {
	o, p := both(t, "registry.local"), programs[1]
	ref, err := build(t.Context(), o, p)
	if err != nil {
		t.Fatal(err)
	}
	images, err := layout.ImageIndexFromPath(untar(t, filepath.Join(o.output, p.name+".tar")))
	if err != nil {
		t.Fatal(err)
	}
	top, err := images.IndexManifest()
	if err != nil {
		t.Fatal(err)
	}
	if len(top.Manifests) != 1 {
		t.Fatalf("the archive holds %d images, want 1", len(top.Manifests))
	}
	if got, want := top.Manifests[0].Annotations["io.containerd.image.name"], "registry.local/image-committer:v1"; got != want {
		t.Errorf("the archive's image is named %q, want %q", got, want)
	}
	if got := top.Manifests[0].Digest; got != ref.digest {
		t.Errorf("the archive holds %s, printed was %s", got, ref.digest)
	}
}

func TestPushedIsResolved(t *testing.T) {
	server := httptest.NewServer(registry.New(registry.Logger(log.New(io.Discard, "", 0))))
	defer server.Close()
	o, p := both(t, strings.TrimPrefix(server.URL, "http://")+"/team"), programs[0]

	if _, err := resolve(t.Context(), o, p); err == nil || !strings.Contains(err.Error(), "make push") {
		t.Errorf("resolve before the push: %v, want an error that names `make push`", err)
	}
	pushed, err := push(t.Context(), o, p)
	if err != nil {
		t.Fatal(err)
	}
	found, err := resolve(t.Context(), o, p)
	if err != nil {
		t.Fatal(err)
	}
	if found.String() != pushed.String() {
		t.Errorf("resolved %s, pushed was %s", found, pushed)
	}

	for _, platform := range o.platforms {
		img, err := remote.Image(pushed, remote.WithPlatform(platform))
		if err != nil {
			t.Fatal(err)
		}
		config, err := img.ConfigFile()
		if err != nil {
			t.Fatal(err)
		}
		if config.Architecture != platform.Architecture || config.Config.User != p.user || config.Config.Entrypoint[0] != "/"+p.name {
			t.Errorf("%s: architecture %q, user %q, entrypoint %q", platform.String(), config.Architecture, config.Config.User, config.Config.Entrypoint)
		}
		layers, err := img.Layers()
		if err != nil || len(layers) != 1 {
			t.Fatalf("%s: %d layers (%v), want 1", platform.String(), len(layers), err)
		}
		content, err := layers[0].Uncompressed()
		if err != nil {
			t.Fatal(err)
		}
		if got := programIn(t, content, p.name); got != platform.String() {
			t.Errorf("the image for %s holds the program for %s", platform.String(), got)
		}
	}
}

func TestParseRefuses(t *testing.T) {
	for _, args := range [][]string{
		{"-platforms", "windows/amd64"}, {"-platforms", "linux"}, {"-platforms", ""}, {"surplus"},
	} {
		if _, err := parse("build", args); err == nil {
			t.Errorf("parse accepts %q", args)
		}
	}
}

func programIn(t *testing.T, layer io.Reader, name string) string {
	t.Helper()
	for r := tar.NewReader(layer); ; {
		header, err := r.Next()
		if err != nil {
			t.Fatalf("no file %s in the layer: %v", name, err)
		}
		if header.Name != name {
			continue
		}
		content, err := io.ReadAll(r)
		if err != nil {
			t.Fatal(err)
		}
		return string(content)
	}
}

func untar(t *testing.T, path string) string {
	t.Helper()
	archive, err := os.Open(path)
	if err != nil {
		t.Fatal(err)
	}
	defer archive.Close()
	dir := t.TempDir()
	for r := tar.NewReader(archive); ; {
		header, err := r.Next()
		if errors.Is(err, io.EOF) {
			return dir
		}
		if err != nil {
			t.Fatal(err)
		}
		content, err := io.ReadAll(r)
		if err != nil {
			t.Fatal(err)
		}
		target := filepath.Join(dir, filepath.Clean("/"+header.Name))
		if err := os.MkdirAll(filepath.Dir(target), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(target, content, 0o644); err != nil {
			t.Fatal(err)
		}
	}
}
