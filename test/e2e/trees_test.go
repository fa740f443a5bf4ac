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
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"strconv"
	"testing"

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
				before := r.inventory("demo")
				r.pauseAndResume("demo")
				after := r.inventory("demo")
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

// treeLayer is a random tree as a layer of an image.
func treeLayer(t *testing.T, seed uint64) []byte {
	t.Helper()
	root := t.TempDir()
	if err := trees.New(root, seed).Make(80); err != nil {
		t.Fatal(err)
	}
	var layer bytes.Buffer
	if _, err := overlay.Write(t.Context(), &layer, root, overlay.Options{}); err != nil {
		t.Fatal(err)
	}
	return layer.Bytes()
}

// inventory describes the container's root filesystem, but for what is mounted in it.
func (r *room) inventory(sandbox string) []trees.Entry {
	r.t.Helper()
	var entries []trees.Entry
	for lines := json.NewDecoder(bytes.NewReader(r.program(sandbox, "/treemaker", "inventory", "/"))); ; {
		var e trees.Entry
		err := lines.Decode(&e)
		if errors.Is(err, io.EOF) {
			return entries
		}
		if err != nil {
			r.t.Fatalf("the inventory of %s: %v", sandbox, err)
		}
		entries = append(entries, e)
	}
}
