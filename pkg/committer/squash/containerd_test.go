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

package squash_test

import (
	"bytes"
	"context"
	"fmt"
	"math/rand/v2"
	"os"
	"os/exec"
	"slices"
	"testing"

	"github.com/containerd/containerd/v2/pkg/archive"
	"github.com/containerd/log"

	"github.com/opensandbox-io/sandbox-apiserver/test/trees"
)

// TestLayersThatContainerdMade merges layers of containerd's own comparison, which are all
// that there is on snapshotters without an overlay: each is of what changed at random in a
// copy of what the layers below unpack to, as it is there. They are unpacked as there, and
// for an overlay.
func TestLayersThatContainerdMade(t *testing.T) {
	if os.Geteuid() != 0 {
		t.Skip("needs root, to make every kind of file")
	}
	if err := log.SetLevel("error"); err != nil {
		t.Fatal(err)
	}
	const layers = 7
	first, count := seeds(40)
	count = (count + 9) / 10 // one takes as long as ten of the others
	for seed := first; seed < first+count; seed++ {
		t.Run(fmt.Sprint(seed), func(t *testing.T) {
			s := &stage{t: t, dir: t.TempDir(), random: rand.New(rand.NewPCG(seed, 4))}
			var written [][]byte
			below := s.mkdir("nothing", 0)
			for i := range layers {
				changed := s.copied("changed", i, below)
				maker := trees.New(changed, seed<<8+uint64(i))
				change := maker.Change
				if i == 0 {
					change = maker.Make
				}
				if err := change(60); err != nil {
					t.Fatal(err)
				}
				var b bytes.Buffer
				if err := archive.WriteDiff(context.Background(), &b, below, changed); err != nil {
					t.Fatal(err)
				}
				written = append(written, b.Bytes())
				below = s.copied("below", i, below)
				if _, err := archive.Apply(context.Background(), below, bytes.NewReader(b.Bytes())); err != nil {
					t.Fatal(err)
				}
			}
			want, err := trees.Inventory(below)
			if err != nil {
				t.Fatal(err)
			}
			from := 1 + s.random.IntN(3)
			to := layers - s.random.IntN(3)
			merged := slices.Concat(written[:from], [][]byte{mergeOnLayers(t, written[from:to], written[:from])}, written[to:])
			got, err := trees.Inventory(s.unpack(0, false, merged...))
			if err != nil {
				t.Fatal(err)
			}
			if lines := trees.Differences(want, got); len(lines) > 0 {
				t.Errorf("layers %d to %d of %d unpack to (-), merged to (+):\n%s", from, to, layers, trees.Shorten(lines))
			}
			want, got = s.show(s.unpackEach(100, written)), s.show(s.unpackEach(200, merged))
			if lines := trees.Differences(byNames(want), byNames(got)); len(lines) > 0 {
				t.Errorf("on an overlay, layers %d to %d of %d show (-), merged they show (+):\n%s", from, to, layers, trees.Shorten(lines))
			}
		})
	}
}

// copied is a copy with all that there is, as containerd's native snapshotter makes one.
func (s *stage) copied(name string, n int, from string) string {
	s.t.Helper()
	dir := s.mkdir(name, n)
	if out, err := exec.Command("cp", "--archive", from+"/.", dir).CombinedOutput(); err != nil {
		s.t.Fatalf("cp: %v\n%s", err, out)
	}
	return dir
}

func (s *stage) unpackEach(n int, layers [][]byte) []string {
	s.t.Helper()
	var dirs []string
	for i, l := range layers {
		dirs = append(dirs, s.unpack(n+i, true, l))
	}
	return dirs
}
