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
	"fmt"
	"io"
	"log/slog"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	containerd "github.com/containerd/containerd/v2/client"
	"github.com/containerd/containerd/v2/core/containers"
	"github.com/containerd/containerd/v2/core/mount"
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
	r.commitOn(strings.TrimPrefix(os.Getenv("CONTAINERD_ADDRESS"), "unix://"), "native", "native gives no single overlay mount (bind)")
}

// TestBtrfs does the same with containerd's btrfs snapshotter, on a file system in a file. It is for nights, and for who
// asks for it: containerd has to be compiled with cgo for it, which takes minutes and a C compiler.
func TestBtrfs(t *testing.T) {
	if os.Getenv("NIGHTLY") == "" {
		t.Skip("only with NIGHTLY=true")
	}
	for program, debian := range map[string]string{"mkfs.btrfs": "btrfs-progs", "gcc": "gcc"} {
		if _, err := exec.LookPath(program); err != nil {
			t.Fatalf("%v: apt-get install %s", err, debian)
		}
	}
	r := newRoom(t)
	r.commitOn(startBtrfsContainerd(t), "btrfs", "btrfs gives no single overlay mount (btrfs)")
}

// startBtrfsContainerd starts a containerd whose files are on btrfs, and returns its socket.
func startBtrfsContainerd(t *testing.T) string {
	t.Helper()
	dir := t.TempDir()
	program := filepath.Join(dir, "containerd")
	build := exec.CommandContext(t.Context(), "go", "build", "-o", program, "github.com/containerd/containerd/v2/cmd/containerd")
	build.Dir, build.Env = "../../hack/cluster", append(os.Environ(), "CGO_ENABLED=1")
	if out, err := build.CombinedOutput(); err != nil {
		t.Fatalf("%s: %v\n%s", build, err, out)
	}
	disk, root := filepath.Join(dir, "disk"), filepath.Join(dir, "root")
	run := func(name string, args ...string) {
		t.Helper()
		if out, err := exec.Command(name, args...).CombinedOutput(); err != nil {
			t.Fatalf("%s %q: %v\n%s", name, args, err, out)
		}
	}
	run("truncate", "--size=512M", disk)
	run("mkfs.btrfs", "--quiet", disk)
	if err := os.Mkdir(root, 0o755); err != nil {
		t.Fatal(err)
	}
	run("mount", "-o", "loop", disk, root)
	t.Cleanup(func() { run("umount", root) })

	socket, config := filepath.Join(dir, "containerd.sock"), filepath.Join(dir, "containerd.toml")
	settings := fmt.Sprintf("version = 3\nroot = %q\nstate = %q\ndisabled_plugins = ['io.containerd.cri.v1.images', 'io.containerd.cri.v1.runtime', 'io.containerd.grpc.v1.cri']\n"+
		"[grpc]\naddress = %q\n[ttrpc]\naddress = %q\n", root, filepath.Join(dir, "state"), socket, socket+".ttrpc")
	if err := os.WriteFile(config, []byte(settings), 0o600); err != nil {
		t.Fatal(err)
	}
	var log bytes.Buffer
	daemon := exec.Command(program, "--config", config)
	daemon.Stdout, daemon.Stderr = &log, &log
	if err := daemon.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		_ = daemon.Process.Signal(syscall.SIGTERM)
		_ = daemon.Wait() // it was told to end
		if t.Failed() {
			t.Logf("containerd's log:\n%s", log.String())
		}
	})
	eventually(t, "containerd answers", patience, func(ctx context.Context) (bool, string) {
		client, err := containerd.New(socket, containerd.WithTimeout(time.Second))
		if err != nil {
			return false, err.Error()
		}
		defer func() { _ = client.Close() }()
		_, err = client.Version(ctx)
		return err == nil, fmt.Sprint(err)
	})
	return socket
}

// commitOn commits a container on a snapshotter, and checks that the new layer has what it changed and that the log says
// why containerd had to compare.
func (r *room) commitOn(address, snapshotter, says string) {
	t := r.t
	t.Helper()
	image := r.ownImage()
	id := "e2e-" + snapshotter
	ctx := namespaces.WithNamespace(t.Context(), r.namespace)
	node, err := containerd.New(address, containerd.WithDefaultNamespace(r.namespace))
	if err != nil {
		t.Fatal(err)
	}
	tag, err := name.NewTag("127.0.0.1:1/nowhere/base:" + r.namespace)
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
	if err := mount.WithTempMount(ctx, mounts, func(files string) error {
		return errors.Join(os.WriteFile(filepath.Join(files, "new"), []byte("here"), 0o640), os.Remove(filepath.Join(files, "own")))
	}); err != nil {
		t.Fatal(err)
	}

	client, err := runtime.Dial(t.Context(), address, r.namespace)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = client.Close() }()
	var log bytes.Buffer
	var reported result.Result
	err = committer.Commit(t.Context(), committer.OnContainerd(client), committer.CommitOptions{
		PodUID: "pod", SnapshotUID: r.namespace, LeaseTTL: time.Minute,
		Containers: []committer.ContainerImage{{Ref: runtime.Ref{Name: "main", ID: id}, Image: r.registry + "/" + r.namespace + "/" + snapshotter + ":snap"}},
		Registry:   registry.Options{Insecure: true},
		Log:        slog.New(slog.NewTextHandler(&log, nil)),
	}, func(said result.Result) error { reported = said; return nil })
	if err != nil {
		t.Fatalf("%v; it logged:\n%s", err, log.String())
	}
	if len(reported.Containers) != 1 || reported.Containers[0].Differ != result.DifferContainerd || !strings.Contains(log.String(), says) {
		t.Errorf("reported %+v and logged:\n%s", reported, log.String())
	}
	committed, err := name.NewDigest(r.registry+"/"+r.namespace+"/"+snapshotter+"@"+reported.Containers[0].Digest, name.Insecure)
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
