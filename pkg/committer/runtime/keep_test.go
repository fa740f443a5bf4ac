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

package runtime

import (
	"context"
	"os"
	"path/filepath"
	"slices"
	"testing"
	"time"

	"github.com/containerd/containerd/api/types/task"

	"github.com/opensandbox-io/sandbox-apiserver/pkg/committer/result"
)

func TestFindEnded(t *testing.T) {
	for name, test := range map[string]struct {
		prepare func(n *node)
		want    result.Reason
	}{
		"it has ended":                      {func(n *node) { n.container("asked", task.Status_STOPPED) }, ""},
		"its task is cleared away":          {func(n *node) { n.container("asked", task.Status_UNKNOWN) }, ""},
		"another runs in its place":         {func(n *node) { n.container("asked", task.Status_STOPPED); n.container("newer", task.Status_RUNNING) }, ""},
		"it runs":                           {func(n *node) { n.container("asked", task.Status_RUNNING) }, result.ContainerNotFound},
		"it is frozen":                      {func(n *node) { n.container("asked", task.Status_PAUSED) }, result.ContainerNotFound},
		"it is gone":                        {func(*node) {}, result.ContainerNotFound},
		"it is gone, and another has ended": {func(n *node) { n.container("newer", task.Status_STOPPED) }, result.ContainerNotFound},
	} {
		t.Run(name, func(t *testing.T) {
			n := newNode(t)
			test.prepare(n)
			c, err := n.client.FindEnded(context.Background(), "pod", Ref{"main", "asked"})
			if reasonOf(err) != test.want {
				t.Fatalf("%v, want %q", err, test.want)
			}
			if err != nil {
				return
			}
			if err := c.Check(context.Background()); err != nil || c.ID() != "asked" {
				t.Errorf("%s: %v", c.ID(), err)
			}
		})
	}
}

// endedOf is a container of the node that has ended.
func (o *overlays) endedOf(id string) *Container {
	o.t.Helper()
	c, err := o.client.FindEnded(context.Background(), "pod", Ref{"main", id})
	if err != nil {
		o.t.Fatal(err)
	}
	return c
}

// TestWhatIsKeptOutlivesItsContainer: the kubelet removes a container while its files are read, as it does with all that have
// ended but the last, and with those of Pods that go: https://github.com/kubernetes/kubernetes/issues/8347
func TestWhatIsKeptOutlivesItsContainer(t *testing.T) {
	o, ctx := newOverlays(t), context.Background()
	o.start("1", o.base)
	o.states["1"] = task.Status_STOPPED
	c := o.endedOf("1")
	release, err := c.Keep(ctx, "lease", time.Hour)
	if err != nil || release == nil {
		t.Fatal(err)
	}
	o.end("1")
	if err := c.Check(ctx); err != nil {
		t.Error(err)
	}
	files, err := c.Files(ctx)
	if err != nil {
		t.Fatal(err)
	}
	if content, err := os.ReadFile(filepath.Join(files.Upperdir, "written-by-1")); err != nil || string(content) != "1" {
		t.Errorf("%q, %v", content, err)
	}
	if chain, err := c.Chain(ctx); err != nil || len(chain) != 1 || chain[0] != o.base.ChainID().String() {
		t.Errorf("it lies on %v, %v", chain, err)
	}
	if err := release(ctx); err != nil {
		t.Fatal(err)
	}
	if left := o.left(); !slices.Equal(left, []string{o.base.ChainID().String()}) {
		t.Errorf("left: %v", left)
	}
	if err := c.Check(ctx); reasonOf(err) != result.ContainerNotFound {
		t.Errorf("%v once it is gone", err)
	}
}

// TestTheNextAttemptFindsWhatWasTaken: a commit takes an ended container's files from it, and fails.
func TestTheNextAttemptFindsWhatWasTaken(t *testing.T) {
	for name, from := range map[string]func(o *overlays) *Container{
		"above one layer": func(o *overlays) *Container { return o.start("1", o.base) },
		"above two": func(o *overlays) *Container {
			made := o.commit(o.base, "snap", 1)
			o.prepare("unpacking", o.base.ChainID().String())
			if err := o.sn.Commit(o.ctx(), o.read(made).ChainID().String(), "unpacking"); err != nil {
				o.t.Fatal(err)
			}
			return o.start("1", o.read(made))
		},
	} {
		t.Run(name, func(t *testing.T) {
			o, ctx := newOverlays(t), context.Background()
			before, err := from(o).Files(ctx)
			if err != nil {
				t.Fatal(err)
			}
			o.states["1"] = task.Status_STOPPED
			for attempt := range 3 {
				c := o.endedOf("1")
				release, err := c.Keep(ctx, "lease", time.Hour)
				if err != nil || release == nil {
					t.Fatalf("attempt %d: %v", attempt, err)
				}
				files, err := c.Files(ctx)
				if err != nil || files.Upperdir != before.Upperdir || !slices.Equal(files.Lowerdirs, before.Lowerdirs) {
					t.Errorf("attempt %d: %+v, %v, want %+v", attempt, files, err, before)
				}
				if err := release(ctx); err != nil {
					t.Fatal(err)
				}
				o.collect()
				if _, err := os.Stat(filepath.Join(before.Upperdir, "written-by-1")); err != nil {
					t.Fatalf("the container is there, and its files are not: %v", err)
				}
			}
			o.end("1")
			if _, err := os.Stat(before.Upperdir); !os.IsNotExist(err) {
				t.Errorf("the container is gone, and its files are there: %v", err)
			}
		})
	}
}
