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
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strconv"
	"testing"

	v1 "github.com/google/go-containerregistry/pkg/v1"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/utils/ptr"

	"github.com/opensandbox-io/sandbox-apiserver/apis/lifecycle/v1alpha1"
	"github.com/opensandbox-io/sandbox-apiserver/pkg/committer/overlay"
	"github.com/opensandbox-io/sandbox-apiserver/test/trees"
)

// TestRandomTrees changes a random tree in a container, pauses and resumes it, and looks at everything again: the whole
// root filesystem, with what the image brought and what the first cycle has made of it. COUNT is how many trees are tried, and
// SEED tries one of them again.
func TestRandomTrees(t *testing.T) {
	t.Parallel()
	first, count := 1, repetitions(t, 5, 50)
	if text := os.Getenv("SEED"); text != "" {
		n, err := strconv.Atoi(text)
		if err != nil {
			t.Fatalf("SEED: %v", err)
		}
		first, count = n, 1
	}
	for seed := first; seed < first+count; seed++ {
		t.Run(strconv.Itoa(seed), func(t *testing.T) {
			t.Parallel()
			r := newRoom(t)
			image := r.treemakerImage(t, fmt.Sprintf("seed-%d", seed), treeLayer(t, uint64(seed)))
			r.start("demo", makesTrees(image))
			for cycle := 1; cycle <= 2; cycle++ {
				changes := r.program("demo", "/treemaker", "change", "/", strconv.Itoa(seed<<8+cycle), "80", "treemaker")
				before := r.inventory("demo", "main", "/")
				r.pauseAndResume("demo")
				after := r.inventory("demo", "main", "/")
				if lines := trees.Differences(trees.Kept(before), after); len(lines) > 0 {
					t.Fatalf("cycle %d: before the pause there was (-), after the resume (+):\n%s\nmade: %s", cycle, trees.Shorten(lines), changes)
				}
				if len(before) < 30 {
					t.Errorf("cycle %d: there are only %d things to compare", cycle, len(before))
				}
			}
		})
	}
}

// TestRandomTreesOfAWholePod is the same for what else of a Pod holds files: volumes that the image declares, one of them in
// another and one below a symbolic link, and a native sidecar.
func TestRandomTreesOfAWholePod(t *testing.T) {
	t.Parallel()
	places := []struct {
		container, root string
		as              func([]trees.Entry) []trees.Entry
	}{
		{"main", "/", trees.Kept}, {"side", "/", trees.Kept},
		{"main", "/volume", trees.Copied}, {"main", "/volume/inner", trees.Copied}, {"main", "/below/volume", trees.Copied},
	}
	for seed := 1; seed <= repetitions(t, 1, 10); seed++ {
		t.Run(strconv.Itoa(seed), func(t *testing.T) {
			t.Parallel()
			r := newRoom(t)
			program, err := treemaker()
			if err != nil {
				t.Fatal(err)
			}
			// What the image has where it declares a volume is in each new one.
			volumes := map[string]struct{}{"/volume": {}, "/volume/inner": {}, "/by-link/volume": {}}
			layers := [][]byte{treeLayer(t, uint64(seed)), linkLayer(t, "by-link", "below")}
			for i, place := range places[2:] {
				layers = append(layers, treeLayerAt(t, uint64(seed<<16+i), place.root))
			}
			image := r.pushConfigured(t, v1.Config{Volumes: volumes}, "treemaker", program, fmt.Sprintf("pod-%d", seed), layers...).String()
			r.start("demo", makesTrees(image), func(s *v1alpha1.Sandbox) {
				pod := &s.Spec.Template.Spec
				side := *pod.Containers[0].DeepCopy()
				side.Name, side.RestartPolicy = "side", ptr.To(corev1.ContainerRestartPolicyAlways)
				side.Image = r.treemakerImage(t, fmt.Sprintf("side-%d", seed), treeLayer(t, uint64(seed<<16+9)))
				pod.InitContainers = []corev1.Container{side}
			})
			for cycle := 1; cycle <= 2; cycle++ {
				var made [][]byte
				before := map[string][]trees.Entry{}
				for i, place := range places {
					made = append(made, r.programIn("demo", place.container, "/treemaker", "change", place.root, strconv.Itoa(seed<<16+cycle<<8+i), "40", "treemaker", "by-link"))
				}
				for _, place := range places {
					before[place.container+place.root] = r.inventory("demo", place.container, place.root)
				}
				r.pauseAndResume("demo")
				for i, place := range places {
					was := before[place.container+place.root]
					is := r.inventory("demo", place.container, place.root)
					if lines := trees.Differences(place.as(was), place.as(is)); len(lines) > 0 {
						t.Errorf("cycle %d, %s of %s: before the pause there was (-), after the resume (+):\n%s\nmade: %s",
							cycle, place.root, place.container, trees.Shorten(lines), made[i])
					}
					if len(was) < 15 {
						t.Errorf("cycle %d, %s of %s: there are only %d things to compare", cycle, place.root, place.container, len(was))
					}
				}
				if t.Failed() {
					return
				}
			}
		})
	}
}

// treeLayer is a random tree as a layer of an image.
func treeLayer(t *testing.T, seed uint64) []byte {
	t.Helper()
	return treeLayerAt(t, seed, "/")
}

// linkLayer has a symbolic link, and where it leads to.
func linkLayer(t *testing.T, name, target string) []byte {
	t.Helper()
	var layer bytes.Buffer
	w := tar.NewWriter(&layer)
	for _, h := range []*tar.Header{
		{Typeflag: tar.TypeDir, Name: target, Mode: 0o755},
		{Typeflag: tar.TypeSymlink, Name: name, Linkname: target, Mode: 0o777},
	} {
		if err := w.WriteHeader(h); err != nil {
			t.Fatal(err)
		}
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	return layer.Bytes()
}

// treeLayerAt has the tree in a directory of the image.
func treeLayerAt(t *testing.T, seed uint64, dir string) []byte {
	t.Helper()
	root := t.TempDir()
	if err := os.MkdirAll(filepath.Join(root, dir), 0o755); err != nil {
		t.Fatal(err)
	}
	if err := trees.New(filepath.Join(root, dir), seed).Make(80); err != nil {
		t.Fatal(err)
	}
	var layer bytes.Buffer
	if _, err := overlay.Write(t.Context(), &layer, root, overlay.Options{}); err != nil {
		t.Fatal(err)
	}
	return layer.Bytes()
}

// inventory describes what is below a directory of a container, but for what is mounted in it.
func (r *room) inventory(sandbox, container, root string) []trees.Entry {
	r.t.Helper()
	var entries []trees.Entry
	for lines := json.NewDecoder(bytes.NewReader(r.programIn(sandbox, container, "/treemaker", "inventory", root))); ; {
		var e trees.Entry
		err := lines.Decode(&e)
		if errors.Is(err, io.EOF) {
			return entries
		}
		if err != nil {
			r.t.Fatalf("the inventory of %s/%s: %v", sandbox, container, err)
		}
		entries = append(entries, e)
	}
}
