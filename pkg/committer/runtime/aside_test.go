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
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/containerd/containerd/api/types/task"
	"github.com/containerd/containerd/v2/core/containers"
	"github.com/containerd/containerd/v2/core/content"
	"github.com/containerd/containerd/v2/core/diff/apply"
	"github.com/containerd/containerd/v2/core/metadata"
	"github.com/containerd/containerd/v2/core/mount"
	"github.com/containerd/containerd/v2/core/snapshots"
	"github.com/containerd/containerd/v2/plugins/snapshots/overlay"
	"github.com/containerd/errdefs"
	"github.com/containerd/typeurl/v2"
	"github.com/google/go-cmp/cmp"
	"github.com/opencontainers/go-digest"
	"github.com/opencontainers/image-spec/identity"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
	runtimespec "github.com/opencontainers/runtime-spec/specs-go"

	"github.com/opensandbox-io/sandbox-apiserver/pkg/committer/image"
)

// overlays is a node with a containerd's real metadata and overlay snapshots.
type overlays struct {
	*node
	meta *metadata.DB
	sn   snapshots.Snapshotter
	base *image.Base
}

func newOverlays(t *testing.T) *overlays {
	t.Helper()
	if os.Geteuid() != 0 {
		t.Skip("needs root, to mount")
	}
	n := newNode(t)
	backend, err := overlay.NewSnapshotter(t.TempDir())
	if err != nil {
		t.Skip("cannot mount an overlay here:", err)
	}
	t.Cleanup(func() { _ = backend.Close() })
	meta := n.keeps("overlayfs", backend)
	n.client.images, n.client.containers = metadata.NewImageStore(meta), metadata.NewContainerStore(meta)
	n.client.applier = apply.NewFileSystemApplier(meta.ContentStore())
	o := &overlays{node: n, meta: meta, sn: meta.Snapshotter("overlayfs")}

	config := ocispec.Image{RootFS: ocispec.RootFS{Type: "layers", DiffIDs: []digest.Digest{digest.FromString("base")}}}
	raw, err := json.Marshal(config)
	if err != nil {
		t.Fatal(err)
	}
	o.base = &image.Base{RawConfig: raw, Config: config}
	o.base.Manifest.Layers = []ocispec.Descriptor{{MediaType: ocispec.MediaTypeImageLayerGzip, Digest: digest.FromString("blob of the base"), Size: 1}}
	// As if another image held it.
	held := snapshots.WithLabels(map[string]string{"containerd.io/gc.root": "test"})
	dir := o.prepare("unpacking", "", held)
	o.write(dir, "of-the-base", "1")
	if err := o.sn.Commit(o.ctx(), o.base.ChainID().String(), "unpacking", held); err != nil {
		t.Fatal(err)
	}
	return o
}

func (o *overlays) ctx() context.Context { return o.client.in(context.Background()) }

func (o *overlays) write(dir, name, content string) {
	o.t.Helper()
	if err := os.WriteFile(filepath.Join(dir, name), []byte(content), 0o600); err != nil {
		o.t.Fatal(err)
	}
}

// prepare returns the directory that a snapshot is written to.
func (o *overlays) prepare(key, parent string, opts ...snapshots.Opt) string {
	o.t.Helper()
	mounts, err := o.sn.Prepare(o.ctx(), key, parent, opts...)
	if err != nil {
		o.t.Fatal(err)
	}
	if parent == "" {
		return mounts[0].Source
	}
	return overlayFiles(mounts).Upperdir
}

// start makes a container that has written one file above an image.
func (o *overlays) start(id string, from *image.Base) *Container {
	o.t.Helper()
	spec, err := typeurl.MarshalAny(&runtimespec.Spec{Linux: &runtimespec.Linux{}})
	if err != nil {
		o.t.Fatal(err)
	}
	o.write(o.prepare(id, from.ChainID().String()), "written-by-"+id, id)
	record := containers.Container{
		ID: id, Labels: map[string]string{labelPodUID: "pod", labelContainerName: "main", labelKind: kindContainer},
		Runtime: containers.RuntimeInfo{Name: runcShim}, Spec: spec, Snapshotter: "overlayfs", SnapshotKey: id,
	}
	createdBy("v1", digest.FromBytes(from.RawConfig), "")(&record)
	if _, err := o.client.containers.Create(o.ctx(), record); err != nil {
		o.t.Fatal(err)
	}
	o.states[id] = task.Status_PAUSED
	c, err := o.client.Find(context.Background(), "pod", Ref{"main", id})
	if err != nil {
		o.t.Fatal(err)
	}
	return c
}

// end is what Kubernetes' plugin does with a container that has ended.
func (o *overlays) end(id string) {
	o.t.Helper()
	delete(o.states, id)
	if err := o.sn.Remove(o.ctx(), id); err != nil && !errdefs.IsNotFound(err) {
		o.t.Fatal(err)
	}
	if err := o.client.containers.Delete(o.ctx(), id); err != nil {
		o.t.Fatal(err)
	}
	o.collect()
}

func (o *overlays) collect() {
	o.t.Helper()
	if _, err := o.meta.GarbageCollect(o.ctx()); err != nil {
		o.t.Fatal(err)
	}
}

// commit is an image with as many layers more, described on the node for the snapshot.
func (o *overlays) commit(from *image.Base, snapshotUID string, layers int) *image.Image {
	o.t.Helper()
	var added []image.Layer
	for i := range layers {
		id := digest.FromString(fmt.Sprint(snapshotUID, i))
		added = append(added, image.Layer{Descriptor: ocispec.Descriptor{MediaType: ocispec.MediaTypeImageLayerZstd, Digest: id, Size: 1}, DiffID: id, Created: time.Now()})
	}
	made, err := image.Extend(from, added, snapshotUID)
	if err != nil {
		o.t.Fatal(err)
	}
	if err := o.client.Remember(context.Background(), snapshotUID, time.Hour, made); err != nil {
		o.t.Fatal(err)
	}
	return made
}

func (o *overlays) read(made *image.Image) *image.Base {
	o.t.Helper()
	base, err := image.Read(o.ctx(), o.client.content, ocispec.Descriptor{MediaType: ocispec.MediaTypeImageManifest, Digest: made.ManifestDigest, Size: int64(len(made.Manifest))})
	if err != nil {
		o.t.Fatal(err)
	}
	return base
}

// content is what a container of the image would see.
func (o *overlays) files(of *image.Base) []string {
	o.t.Helper()
	mounts, err := o.sn.View(o.ctx(), "look", of.ChainID().String())
	if err != nil {
		o.t.Fatal(err)
	}
	defer func() { _ = o.sn.Remove(o.ctx(), "look") }()
	var names []string
	if err := mount.WithTempMount(o.ctx(), mounts, func(root string) error {
		found, err := os.ReadDir(root)
		for _, f := range found {
			names = append(names, f.Name())
		}
		return err
	}); err != nil {
		o.t.Fatal(err)
	}
	return names
}

// keys are all snapshots and blobs, with the lease's gone.
func (o *overlays) left() []string {
	o.t.Helper()
	o.collect()
	var all []string
	if err := o.sn.Walk(o.ctx(), func(_ context.Context, info snapshots.Info) error {
		all = append(all, info.Name)
		return nil
	}); err != nil {
		o.t.Fatal(err)
	}
	if err := o.client.content.Walk(o.ctx(), func(info content.Info) error {
		all = append(all, info.Digest.String())
		return nil
	}); err != nil {
		o.t.Fatal(err)
	}
	return all
}

const sandbox = "sandbox-uid"

// TestKept pauses a container twice: each time its layers become an image, as which they are
// found, and nothing else stays.
func TestKept(t *testing.T) {
	for name, test := range map[string]struct {
		layers int
		cover  func(io.Writer) (bool, error)
	}{
		"one layer":         {1, nothing},
		"two layers":        {2, nothing},
		"something covered": {1, covers("socket")},
	} {
		t.Run(name, func(t *testing.T) {
			o, ctx := newOverlays(t), context.Background()
			from, want := o.base, []string{"of-the-base"}
			for _, id := range []string{"1", "2"} {
				c := o.start(id, from)
				if name == "something covered" {
					files, err := c.Files(ctx)
					if err != nil {
						t.Fatal(err)
					}
					o.write(files.Upperdir, "socket", "stands for one")
				}
				made := o.commit(from, "snap"+id, test.layers)
				aside, err := c.SetAside(ctx, sandbox, "snap"+id, made.ManifestDigest)
				if err != nil {
					t.Fatal(err)
				}
				o.end(id)
				reference := "registry.example.com/demo@" + made.ManifestDigest.String()
				if err := aside.Publish(ctx, reference, test.cover); err != nil {
					t.Fatal(err)
				}
				if err := o.client.Forget(ctx, "snap"+id); err != nil {
					t.Fatal(err)
				}
				o.collect()
				before := from
				from = o.read(made)
				want = append(want, "written-by-"+id)
				if diff := cmp.Diff(want, o.files(from)); diff != "" {
					t.Errorf("files (-want +got):\n%s", diff)
				}
				for _, name := range []string{reference, made.ConfigDigest.String()} {
					record, err := o.client.images.Get(o.ctx(), name)
					if err != nil || record.Target.Digest != made.ManifestDigest || record.Labels[labelManaged] != managed {
						t.Errorf("%s is %+v (%v)", name, record, err)
					}
				}
				if before == o.base {
					continue
				}
				// The next container of that image finds its base, and which directories are its layers.
				next := o.start("next", from)
				base, err := next.Base(ctx)
				if err != nil || base.Digest != made.ManifestDigest {
					t.Errorf("base %+v (%v)", base, err)
				}
				chain, err := next.Chain(ctx)
				if err != nil || chain[0] != from.ChainID().String() || chain[2] != before.ChainID().String() || chain[4] != o.base.ChainID().String() {
					t.Errorf("chain %v (%v)", chain, err)
				}
				all, err := o.client.Cached(ctx)
				if err != nil || len(all) != 2 {
					t.Fatalf("%v (%v)", all, err)
				}
				if all[0].InUse || !all[1].InUse || all[1].Bytes <= all[0].Bytes || all[1].SnapshotUID != "snap2" || len(all[1].Names) != 2 {
					t.Errorf("%+v, %+v", all[0], all[1])
				}
				if dropped, err := o.client.Drop(ctx, all[1]); err != nil || dropped {
					t.Errorf("an image that a container lies on: dropped %v (%v)", dropped, err)
				}
				o.end("next")
			}
			// What a later one lies on stays with it.
			all, err := o.client.Cached(ctx)
			if err != nil {
				t.Fatal(err)
			}
			for i, one := range all {
				if dropped, err := o.client.Drop(ctx, one); err != nil || !dropped {
					t.Fatal(dropped, err)
				}
				o.collect()
				if i == 0 {
					if diff := cmp.Diff(want, o.files(from)); diff != "" {
						t.Errorf("files (-want +got):\n%s", diff)
					}
				}
			}
			if left := o.left(); !slices.Equal(left, []string{o.base.ChainID().String()}) {
				t.Errorf("left: %v", left)
			}
		})
	}
}

func nothing(io.Writer) (bool, error) { return false, nil }

// covers deletes a file.
func covers(name string) func(io.Writer) (bool, error) {
	return func(w io.Writer) (bool, error) {
		layer := tar.NewWriter(w)
		return true, errors.Join(layer.WriteHeader(&tar.Header{Typeflag: tar.TypeReg, Name: ".wh." + name, Mode: 0o600}), layer.Close())
	}
}

// TestNotKept has what is not set aside, what is not published, and what is then left: nothing.
func TestNotKept(t *testing.T) {
	tests := map[string]struct {
		prepare func(o *overlays, made *image.Image) digest.Digest
		layers  int
		fails   string // to be set aside
		publish string // to be published
		volume  string
	}{
		"a commit that left nothing": {fails: "of the manifest", prepare: func(*overlays, *image.Image) digest.Digest { return digest.FromString("unknown") }},
		"another snapshot's image": {fails: `is of the snapshot "other"`, prepare: func(o *overlays, _ *image.Image) digest.Digest {
			return o.commit(o.base, "other", 1).ManifestDigest
		}},
		"merged layers": {layers: 3, fails: "they were merged"},
		// What is in them is in the image, and not in the container's layer.
		"volumes of the image": {fails: "its image declares volumes", volume: "/containers/1/volumes/v"},
		"an image that was pulled meanwhile": {publish: "already exists", prepare: func(o *overlays, made *image.Image) digest.Digest {
			o.prepare("pulling", o.base.ChainID().String())
			if err := o.sn.Commit(o.ctx(), identity.ChainID(o.read(made).Config.RootFS.DiffIDs).String(), "pulling"); err != nil {
				o.t.Fatal(err)
			}
			return made.ManifestDigest
		}},
		"a reference that is there": {publish: "already exists", prepare: func(o *overlays, made *image.Image) digest.Digest {
			o.image("reference", ocispec.Descriptor{MediaType: ocispec.MediaTypeImageManifest, Digest: digest.FromString("other"), Size: 1})
			return made.ManifestDigest
		}},
	}
	for name, test := range tests {
		t.Run(name, func(t *testing.T) {
			o, ctx := newOverlays(t), context.Background()
			c := o.start("1", o.base)
			made := o.commit(o.base, "snap", max(test.layers, 1))
			asked := made.ManifestDigest
			if test.prepare != nil {
				asked = test.prepare(o, made)
			}
			if test.volume != "" {
				c.record.Spec, _ = typeurl.MarshalAny(&runtimespec.Spec{Linux: &runtimespec.Linux{}, Mounts: []runtimespec.Mount{{Destination: "/data", Source: test.volume}}})
			}
			aside, err := c.SetAside(ctx, sandbox, "snap", asked)
			if test.fails != "" && (err == nil || !strings.Contains(err.Error(), test.fails)) || test.fails == "" && err != nil {
				t.Fatalf("set aside: %v, want %q", err, test.fails)
			}
			if test.publish != "" {
				if err := aside.Publish(ctx, "reference", nothing); err == nil || !strings.Contains(err.Error(), test.publish) {
					t.Errorf("published: %v, want %q", err, test.publish)
				}
			}
			o.end("1")
			if err := errors.Join(o.client.Forget(ctx, "snap"), o.client.Forget(ctx, "other"), o.client.Forget(ctx, "other")); err != nil {
				t.Fatal(err)
			}
			if left := o.left(); !slices.Equal(left, []string{o.base.ChainID().String()}) {
				t.Errorf("left: %v", left)
			}
			if all, err := o.client.Cached(ctx); err != nil || len(all) > 0 {
				t.Errorf("cached: %v (%v)", all, err)
			}
		})
	}
}
