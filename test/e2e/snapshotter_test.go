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
	"errors"
	"io"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	containerd "github.com/containerd/containerd/v2/client"
	"github.com/containerd/containerd/v2/core/containers"
	"github.com/containerd/containerd/v2/pkg/namespaces"
	"github.com/containerd/containerd/v2/pkg/oci"
	"github.com/google/go-cmp/cmp"
	"github.com/google/go-containerregistry/pkg/name"
	"github.com/google/go-containerregistry/pkg/v1/remote"
	"github.com/google/go-containerregistry/pkg/v1/tarball"

	"github.com/opensandbox-io/sandbox-apiserver/pkg/committer"
	"github.com/opensandbox-io/sandbox-apiserver/pkg/committer/registry"
	"github.com/opensandbox-io/sandbox-apiserver/pkg/committer/result"
	"github.com/opensandbox-io/sandbox-apiserver/pkg/committer/runtime"
)

// TestASnapshotterWithoutAnOverlay commits a container of containerd's native snapshotter, which
// copies, with the committer in this process: the kubelet's containers are all on overlays. It is in
// a namespace of containerd's own, which the kubelet does not look into.
func TestASnapshotterWithoutAnOverlay(t *testing.T) {
	t.Parallel()
	r := newRoom(t)
	image := r.ownImage()
	const id, snapshotter = "e2e-native", "native"
	ctx := namespaces.WithNamespace(t.Context(), r.namespace)
	node, err := containerd.New(strings.TrimPrefix(os.Getenv("CONTAINERD_ADDRESS"), "unix://"), containerd.WithDefaultNamespace(r.namespace))
	if err != nil {
		t.Fatal(err)
	}
	tag, err := name.NewTag("127.0.0.1:1/native/base:" + r.namespace)
	if err != nil {
		t.Fatal(err)
	}
	var archive bytes.Buffer
	if err := tarball.Write(tag, image, &archive); err != nil {
		t.Fatal(err)
	}
	imported, err := node.Import(ctx, &archive)
	if err != nil {
		t.Fatal(err)
	}
	base := containerd.NewImage(node, imported[0])
	if err := base.Unpack(ctx, snapshotter); err != nil {
		t.Fatal(err)
	}
	container, err := node.NewContainer(ctx, id, containerd.WithSnapshotter(snapshotter), containerd.WithNewSnapshot(id, base),
		containerd.WithNewSpec(oci.WithImageConfig(base)), containerd.WithImage(base), containerd.WithRuntime("io.containerd.runc.v2", nil),
		func(_ context.Context, _ *containerd.Client, c *containers.Container) error {
			c.Labels = map[string]string{"io.kubernetes.pod.uid": "pod", "io.kubernetes.container.name": "main", "io.cri-containerd.kind": "container"}
			return nil
		})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		ctx := namespaces.WithNamespace(context.Background(), r.namespace)
		if err := container.Delete(ctx, containerd.WithSnapshotCleanup); err != nil {
			t.Errorf("delete container %s: %v", id, err)
		}
		if err := node.ImageService().Delete(ctx, imported[0].Name); err != nil {
			t.Errorf("delete image %s: %v", imported[0].Name, err)
		}
		if err := node.Close(); err != nil {
			t.Error(err)
		}
	})
	mounts, err := node.SnapshotService(snapshotter).Mounts(ctx, id)
	if err != nil || len(mounts) != 1 {
		t.Fatalf("mounts %v, %v", mounts, err)
	}
	files := mounts[0].Source
	if err := os.WriteFile(filepath.Join(files, "new"), []byte("here"), 0o640); err != nil {
		t.Fatal(err)
	}
	if err := os.Remove(filepath.Join(files, "own")); err != nil {
		t.Fatal(err)
	}

	client, err := runtime.Dial(t.Context(), strings.TrimPrefix(os.Getenv("CONTAINERD_ADDRESS"), "unix://"), r.namespace)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = client.Close() }()
	var log bytes.Buffer
	var reported result.Result
	err = committer.Commit(t.Context(), committer.OnContainerd(client), committer.CommitOptions{
		PodUID: "pod", SnapshotUID: r.namespace, LeaseTTL: time.Minute,
		Containers: []committer.ContainerImage{{Ref: runtime.Ref{Name: "main", ID: id}, Image: r.registry + "/" + r.namespace + "/native:snap"}},
		Registry:   registry.Options{Insecure: true},
		Log:        slog.New(slog.NewTextHandler(&log, nil)),
	}, func(said result.Result) error { reported = said; return nil })
	if err != nil {
		t.Fatalf("%v; it logged:\n%s", err, log.String())
	}
	if len(reported.Containers) != 1 || reported.Containers[0].Differ != result.DifferContainerd || !strings.Contains(log.String(), "native gives no single overlay mount (bind)") {
		t.Errorf("reported %+v and logged:\n%s", reported, log.String())
	}
	committed, err := name.NewDigest(r.registry+"/"+r.namespace+"/native@"+reported.Containers[0].Digest, name.Insecure)
	if err != nil {
		t.Fatal(err)
	}
	pulled, err := remote.Image(committed, remote.WithContext(t.Context()))
	if err != nil {
		t.Fatal(err)
	}
	layers, err := pulled.Layers()
	if err != nil || len(layers) != 2 {
		t.Fatalf("%d layers, %v", len(layers), err)
	}
	content, err := layers[1].Uncompressed()
	if err != nil {
		t.Fatal(err)
	}
	got := map[string]string{}
	for name, data := range untar(t, content) {
		if name != "/" && name != "./" {
			got[name] = data
		}
	}
	if diff := cmp.Diff(map[string]string{"new": "here", ".wh.own": ""}, got); diff != "" {
		t.Errorf("the new layer (-want +got):\n%s", diff)
	}
}

// untar reads the files of a layer.
func untar(t *testing.T, layer io.Reader) map[string]string {
	t.Helper()
	files := map[string]string{}
	for r := tar.NewReader(layer); ; {
		h, err := r.Next()
		if errors.Is(err, io.EOF) {
			return files
		}
		if err != nil {
			t.Fatal(err)
		}
		data, err := io.ReadAll(r)
		if err != nil {
			t.Fatal(err)
		}
		files[h.Name] = string(data)
	}
}
