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
	"io/fs"
	"log/slog"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	containerd "github.com/containerd/containerd/v2/client"
	"github.com/containerd/containerd/v2/core/containers"
	"github.com/containerd/containerd/v2/core/mount"
	"github.com/containerd/containerd/v2/core/remotes/docker"
	"github.com/containerd/containerd/v2/pkg/namespaces"
	"github.com/containerd/containerd/v2/pkg/oci"
	"github.com/containerd/errdefs"
	"github.com/google/go-cmp/cmp"
	"github.com/google/go-containerregistry/pkg/name"
	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/remote"
	"github.com/google/go-containerregistry/pkg/v1/tarball"
	"github.com/opencontainers/image-spec/identity"

	"github.com/opensandbox-io/sandbox-apiserver/pkg/committer"
	"github.com/opensandbox-io/sandbox-apiserver/pkg/committer/registry"
	"github.com/opensandbox-io/sandbox-apiserver/pkg/committer/result"
	"github.com/opensandbox-io/sandbox-apiserver/pkg/committer/runtime"
)

// TestASnapshotterWithoutAnOverlay commits containers of containerd's native snapshotter, which
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
// why containerd had to compare. Then it makes a container of what was committed, and again: so often that layers are
// merged.
func (r *room) commitOn(address, snapshotter, says string) {
	t := r.t
	t.Helper()
	s := r.newSnapshotterRoom(address, snapshotter)
	saved := s.commit(s.imported(r.ownImage()), 0, says, func(files string) error {
		return errors.Join(os.WriteFile(filepath.Join(files, "new"), []byte("here"), 0o640), os.Remove(filepath.Join(files, "own")))
	})
	pulled, err := remote.Image(s.reference(saved), remote.WithContext(t.Context()))
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
	s.cycles(saved)
}

// snapshotterRoom is containerd with a snapshotter, and a committer.
type snapshotterRoom struct {
	*room
	name string
	node *containerd.Client
	own  *runtime.Client
}

func (r *room) newSnapshotterRoom(address, snapshotter string) *snapshotterRoom {
	r.t.Helper()
	node, err := containerd.New(address, containerd.WithDefaultNamespace(r.namespace))
	if err != nil {
		r.t.Fatal(err)
	}
	r.t.Cleanup(func() {
		if err := node.Close(); err != nil {
			r.t.Error(err)
		}
	})
	own, err := runtime.Dial(r.t.Context(), address, r.namespace)
	if err != nil {
		r.t.Fatal(err)
	}
	r.t.Cleanup(func() { _ = own.Close() })
	return &snapshotterRoom{room: r, name: snapshotter, node: node, own: own}
}

func (s *snapshotterRoom) context() context.Context {
	return namespaces.WithNamespace(s.t.Context(), s.namespace)
}

// cleanup does something in the end, when the test's own context has ended.
func (s *snapshotterRoom) cleanup(what string, do func(context.Context) error) {
	s.t.Cleanup(func() {
		if err := do(namespaces.WithNamespace(context.Background(), s.namespace)); err != nil {
			s.t.Errorf("%s: %v", what, err)
		}
	})
}

func (s *snapshotterRoom) imported(image v1.Image) containerd.Image {
	s.t.Helper()
	tag, err := name.NewTag("127.0.0.1:1/nowhere/base:" + s.namespace)
	if err != nil {
		s.t.Fatal(err)
	}
	var archive bytes.Buffer
	if err := tarball.Write(tag, image, &archive); err != nil {
		s.t.Fatal(err)
	}
	imported, err := s.node.Import(s.context(), &archive)
	if err != nil {
		s.t.Fatal(err)
	}
	base := containerd.NewImage(s.node, imported[0])
	s.unpacked(base, s.name)
	return base
}

// pulled is what a resume pulls.
func (s *snapshotterRoom) pulled(saved result.Container) containerd.Image {
	s.t.Helper()
	hosts := docker.ConfigureDefaultRegistries(docker.WithPlainHTTP(docker.MatchAllHosts))
	image, err := s.node.Pull(s.context(), s.reference(saved).String(), containerd.WithResolver(docker.NewResolver(docker.ResolverOptions{Hosts: hosts})))
	if err != nil {
		s.t.Fatal(err)
	}
	s.unpacked(image, s.name)
	return image
}

func (s *snapshotterRoom) unpacked(image containerd.Image, snapshotter string) {
	s.t.Helper()
	s.cleanup("delete image "+image.Name(), func(ctx context.Context) error {
		if err := s.node.ImageService().Delete(ctx, image.Name()); !errdefs.IsNotFound(err) {
			return err
		}
		return nil
	})
	if err := image.Unpack(s.context(), snapshotter); err != nil {
		s.t.Fatal(err)
	}
}

func (s *snapshotterRoom) reference(saved result.Container) name.Digest {
	s.t.Helper()
	reference, err := name.NewDigest(s.registry+"/"+s.namespace+"/"+s.name+"@"+saved.Digest, name.Insecure)
	if err != nil {
		s.t.Fatal(err)
	}
	return reference
}

// commit makes a container, changes its files and commits it.
func (s *snapshotterRoom) commit(base containerd.Image, cycle int, says string, change func(files string) error) result.Container {
	s.t.Helper()
	ctx, id := s.context(), fmt.Sprint("e2e-", s.name, "-", cycle)
	container, err := s.node.NewContainer(ctx, id, containerd.WithSnapshotter(s.name), containerd.WithNewSnapshot(id, base),
		containerd.WithNewSpec(oci.WithImageConfig(base)), containerd.WithImage(base), containerd.WithRuntime("io.containerd.runc.v2", nil),
		func(_ context.Context, _ *containerd.Client, c *containers.Container) error {
			c.Labels = map[string]string{"io.kubernetes.pod.uid": "pod", "io.kubernetes.container.name": "main", "io.cri-containerd.kind": "container"}
			return nil
		})
	if err != nil {
		s.t.Fatal(err)
	}
	s.cleanup("delete container "+id, func(ctx context.Context) error { return container.Delete(ctx, containerd.WithSnapshotCleanup) })
	mounts, err := s.node.SnapshotService(s.name).Mounts(ctx, id)
	if err != nil || len(mounts) != 1 {
		s.t.Fatalf("mounts %v, %v", mounts, err)
	}
	if err := mount.WithTempMount(ctx, mounts, change); err != nil {
		s.t.Fatalf("cycle %d: %v", cycle, err)
	}
	var log bytes.Buffer
	var reported result.Result
	err = committer.Commit(s.t.Context(), committer.OnContainerd(s.own), committer.CommitOptions{
		PodUID: "pod", SnapshotUID: fmt.Sprint(s.namespace, "-", cycle), LeaseTTL: time.Minute,
		Containers: []committer.ContainerImage{{Ref: runtime.Ref{Name: "main", ID: id}, Image: fmt.Sprint(s.registry, "/", s.namespace, "/", s.name, ":snap", cycle)}},
		Registry:   registry.Options{Insecure: true},
		Log:        slog.New(slog.NewTextHandler(&log, nil)),
	}, func(said result.Result) error { reported = said; return nil })
	if err != nil {
		s.t.Fatalf("cycle %d: %v; it logged:\n%s", cycle, err, log.String())
	}
	if len(reported.Containers) != 1 || reported.Containers[0].Differ != result.DifferContainerd || !strings.Contains(log.String(), says) {
		s.t.Errorf("cycle %d: reported %+v and logged:\n%s", cycle, reported, log.String())
	}
	return reported.Containers[0]
}

// cycles commits and pulls again and again, with files that stay and files that stay for a cycle: there are never more
// than eight layers of ours, and nothing is lost or comes back, also where the image is unpacked for an overlay.
func (s *snapshotterRoom) cycles(saved result.Container) {
	const last, most = 10, 8
	want := map[string]string{"cycles": ""}
	var layers []int
	for n := 1; n <= last; n++ {
		saved = s.commit(s.pulled(saved), n, "", func(files string) error {
			if err := sameFiles(want, files); err != nil {
				return err
			}
			own := func(name string) string { return fmt.Sprint("cycles/", name, ".", n) }
			for _, name := range []string{own("kept"), own("once"), own("dir") + "/kept", own("dir") + "/once"} {
				path := filepath.Join(files, name)
				if err := errors.Join(os.MkdirAll(filepath.Dir(path), 0o755), os.WriteFile(path, []byte(name), 0o644)); err != nil {
					return err
				}
				want[name] = name
			}
			want[own("dir")] = ""
			if n == 1 {
				return nil
			}
			once := []string{fmt.Sprint("cycles/once.", n-1), fmt.Sprint("cycles/dir.", n-1, "/once")}
			for _, name := range once {
				delete(want, name)
			}
			return errors.Join(os.Remove(filepath.Join(files, once[0])), os.Remove(filepath.Join(files, once[1])))
		})
		layers = append(layers, saved.Layers)
		if saved.Layers > most {
			s.t.Errorf("cycle %d: %d layers", n, saved.Layers)
		}
	}
	if slices.IsSorted(layers) {
		s.t.Errorf("nothing was merged: layers %v", layers)
	}
	s.t.Logf("layers of ours: %v", layers)
	image := s.pulled(saved)
	for _, snapshotter := range []string{s.name, "overlayfs"} {
		if err := s.view(image, snapshotter, func(files string) error { return sameFiles(want, files) }); err != nil {
			s.t.Errorf("in the end, on %s: %v", snapshotter, err)
		}
	}
}

// view shows the files of an image, unpacked by a snapshotter.
func (s *snapshotterRoom) view(image containerd.Image, snapshotter string, look func(files string) error) error {
	// Without a lease containerd may collect the view at any time.
	ctx, release, err := s.node.WithLease(s.context())
	if err != nil {
		return err
	}
	s.cleanup("release the view on "+snapshotter, release)
	if snapshotter != s.name {
		if err := image.Unpack(ctx, snapshotter); err != nil {
			return err
		}
	}
	diffIDs, err := image.RootFS(ctx)
	if err != nil {
		return err
	}
	mounts, err := s.node.SnapshotService(snapshotter).View(ctx, "e2e-view-"+snapshotter, identity.ChainID(diffIDs).String())
	if err != nil {
		return err
	}
	return mount.WithTempMount(ctx, mounts, look)
}

// sameFiles compares the directory "cycles" of a root filesystem, if there should be one, with what is wanted.
func sameFiles(want map[string]string, root string) error {
	if len(want) == 1 {
		return nil
	}
	got := map[string]string{}
	err := filepath.WalkDir(filepath.Join(root, "cycles"), func(path string, d fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		// Asked for once more, for an overlay may list a name that is not there.
		info, err := os.Lstat(path)
		if err != nil {
			return err
		}
		content := []byte{}
		if !info.IsDir() {
			content, err = os.ReadFile(path)
		}
		got[strings.TrimPrefix(path, root+"/")] = string(content)
		return err
	})
	if diff := cmp.Diff(want, got); err == nil && diff != "" {
		return fmt.Errorf("the files are others (-want +got):\n%s", diff)
	}
	return err
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
