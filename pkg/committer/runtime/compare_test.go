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
	"archive/tar"
	"context"
	"errors"
	"io"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/containerd/containerd/api/types/task"
	"github.com/containerd/containerd/v2/core/containers"
	"github.com/containerd/containerd/v2/core/snapshots"
	"github.com/containerd/containerd/v2/plugins/diff/walking"
	"github.com/containerd/containerd/v2/plugins/snapshots/native"
	"github.com/google/go-cmp/cmp"
	"github.com/klauspost/compress/zstd"
	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
)

// TestCompare has containerd's native snapshotter, which copies and has no overlay, and
// its real differ and content store.
func TestCompare(t *testing.T) {
	if os.Geteuid() != 0 {
		t.Skip("needs root, to mount")
	}
	n := newNode(t)
	copies, err := native.NewSnapshotter(t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	meta := n.keeps("native", copies)
	n.client.diff = walking.NewWalkingDiff(meta.ContentStore())
	ctx := n.client.in(context.Background())

	sn := meta.Snapshotter("native")
	at := func(key string) string {
		mounts, err := sn.Mounts(ctx, key)
		if err != nil || len(mounts) != 1 || mounts[0].Type != "bind" {
			t.Fatalf("mounts %v, %v", mounts, err)
		}
		return mounts[0].Source
	}
	write := func(dir, name, content string) {
		if err := os.WriteFile(filepath.Join(dir, name), []byte(content), 0o640); err != nil {
			t.Fatal(err)
		}
	}
	keep := snapshots.WithLabels(map[string]string{"containerd.io/gc.root": "test"})
	if _, err := sn.Prepare(ctx, "unpacking", "", keep); err != nil {
		t.Fatal(err)
	}
	for _, name := range []string{"kept", "changed", "deleted"} {
		write(at("unpacking"), name, "of the base")
	}
	if err := sn.Commit(ctx, "base", "unpacking", keep); err != nil {
		t.Fatal(err)
	}
	if _, err := sn.Prepare(ctx, "asked", "base", keep); err != nil {
		t.Fatal(err)
	}
	write(at("asked"), "changed", "longer than it was")
	write(at("asked"), "new", "here")
	if err := os.Remove(filepath.Join(at("asked"), "deleted")); err != nil {
		t.Fatal(err)
	}

	n.container("asked", task.Status_PAUSED, func(c *containers.Container) { c.Snapshotter = "native" })
	c, err := n.client.Find(context.Background(), "pod", Ref{"main", "asked"})
	if err != nil {
		t.Fatal(err)
	}
	files, err := c.Files(context.Background())
	if err != nil || files.Upperdir != "" || files.Why != "the snapshotter native gives no single overlay mount (bind)" {
		t.Fatalf("files %+v, %v", files, err)
	}
	release, err := n.client.Hold(context.Background(), "snap", time.Minute)
	if err != nil {
		t.Fatal(err)
	}
	made, err := c.Compare(context.Background(), ocispec.MediaTypeImageLayerZstd)
	if err != nil {
		t.Fatal(err)
	}
	// Nothing but the lease keeps the layer, and nothing else is left behind.
	if _, err := meta.GarbageCollect(ctx); err != nil {
		t.Fatal(err)
	}
	compressed, err := made.Open(context.Background())
	if err != nil {
		t.Fatal(err)
	}
	plain, err := zstd.NewReader(compressed)
	if err != nil {
		t.Fatal(err)
	}
	verifier := made.DiffID.Verifier()
	content := io.TeeReader(plain, verifier)
	got := map[string]string{}
	for r := tar.NewReader(content); ; {
		h, err := r.Next()
		if errors.Is(err, io.EOF) {
			break
		}
		if err != nil {
			t.Fatal(err)
		}
		text, err := io.ReadAll(r)
		if err != nil {
			t.Fatal(err)
		}
		got[h.Name] = string(text)
	}
	if _, err := io.Copy(io.Discard, content); err != nil || !verifier.Verified() {
		t.Errorf("its diff ID is not %s (%v)", made.DiffID, err)
	}
	delete(got, "/") // the root is said to be changed or not as its times are
	if diff := cmp.Diff(map[string]string{"changed": "longer than it was", "new": "here", ".wh.deleted": ""}, got); diff != "" {
		t.Errorf("layer (-want +got):\n%s", diff)
	}

	// A second attempt finds the layer that the first made.
	again, err := c.Compare(context.Background(), ocispec.MediaTypeImageLayerZstd)
	if err != nil || again.Descriptor.Digest != made.Descriptor.Digest || again.DiffID == digest.Digest("") {
		t.Errorf("again: %+v, %v", again, err)
	}
	if err := release(context.Background()); err != nil {
		t.Fatal(err)
	}
	if _, err := meta.GarbageCollect(ctx); err != nil {
		t.Fatal(err)
	}
	if _, err := made.Open(context.Background()); err == nil {
		t.Error("the layer is still there when nobody needs it")
	}
	left := 0
	if err := sn.Walk(ctx, func(context.Context, snapshots.Info) error { left++; return nil }); err != nil || left != 2 {
		t.Errorf("%d snapshots are left, %v", left, err)
	}
}
