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
	"errors"
	"path/filepath"
	"strings"
	"testing"
	"time"

	tasks "github.com/containerd/containerd/api/services/tasks/v1"
	"github.com/containerd/containerd/api/types/task"
	"github.com/containerd/containerd/v2/core/containers"
	"github.com/containerd/containerd/v2/core/leases"
	"github.com/containerd/containerd/v2/core/metadata"
	"github.com/containerd/containerd/v2/core/mount"
	"github.com/containerd/containerd/v2/core/snapshots"
	"github.com/containerd/containerd/v2/plugins/content/local"
	"github.com/containerd/errdefs"
	"github.com/containerd/typeurl/v2"
	"github.com/google/go-cmp/cmp"
	runtimespec "github.com/opencontainers/runtime-spec/specs-go"
	bolt "go.etcd.io/bbolt"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/opensandbox-io/sandbox-apiserver/pkg/committer/result"
)

// node is a containerd of its own metadata store, with tasks and snapshots as
// the test says.
type node struct {
	t         *testing.T
	client    *Client
	states    map[string]task.Status
	snapshots map[string]snapshots.Info
	mounts    []mount.Mount
}

// keeps gives the node a metadata store of containerd over a snapshotter that is real.
func (n *node) keeps(name string, snapshotter snapshots.Snapshotter) *metadata.DB {
	n.t.Helper()
	db, err := bolt.Open(filepath.Join(n.t.TempDir(), "meta.db"), 0o600, nil)
	if err != nil {
		n.t.Fatal(err)
	}
	n.t.Cleanup(func() { _ = db.Close() })
	store, err := local.NewStore(n.t.TempDir())
	if err != nil {
		n.t.Fatal(err)
	}
	meta := metadata.NewDB(db, store, map[string]snapshots.Snapshotter{name: snapshotter})
	if err := meta.Init(context.Background()); err != nil {
		n.t.Fatal(err)
	}
	n.client.content, n.client.leases, n.client.snapshots = meta.ContentStore(), metadata.NewLeaseManager(meta), meta.Snapshotter
	return meta
}

type fakeTasks struct {
	tasks.TasksClient
	states map[string]task.Status
}

func (f fakeTasks) Get(_ context.Context, r *tasks.GetRequest, _ ...grpc.CallOption) (*tasks.GetResponse, error) {
	state, ok := f.states[r.ContainerID]
	if !ok {
		return nil, status.Error(codes.NotFound, "no task")
	}
	return &tasks.GetResponse{Process: &task.Process{Status: state}}, nil
}

type fakeSnapshotter struct {
	snapshots.Snapshotter
	node *node
}

func (f fakeSnapshotter) Stat(_ context.Context, key string) (snapshots.Info, error) {
	info, ok := f.node.snapshots[key]
	if !ok {
		return info, errdefs.ErrNotFound
	}
	return info, nil
}

func (f fakeSnapshotter) Mounts(context.Context, string) ([]mount.Mount, error) {
	return f.node.mounts, nil
}

func newNode(t *testing.T) *node {
	t.Helper()
	db, err := bolt.Open(filepath.Join(t.TempDir(), "meta.db"), 0o600, nil)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = db.Close() })
	store, err := local.NewStore(t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	meta := metadata.NewDB(db, store, nil)
	n := &node{t: t, states: map[string]task.Status{}, snapshots: map[string]snapshots.Info{}}
	n.client = &Client{
		namespace:  "k8s.io",
		containers: metadata.NewContainerStore(meta),
		tasks:      fakeTasks{states: n.states},
		content:    meta.ContentStore(),
		images:     metadata.NewImageStore(meta),
		leases:     metadata.NewLeaseManager(meta),
		snapshots:  func(string) snapshots.Snapshotter { return fakeSnapshotter{node: n} },
	}
	return n
}

func (n *node) container(id string, state task.Status, change ...func(*containers.Container)) {
	n.t.Helper()
	spec, err := typeurl.MarshalAny(&runtimespec.Spec{Linux: &runtimespec.Linux{}})
	if err != nil {
		n.t.Fatal(err)
	}
	record := containers.Container{
		ID:          id,
		Labels:      map[string]string{labelPodUID: "pod", labelContainerName: "main", labelKind: kindContainer},
		Image:       "registry.example.com/team/base:v1",
		Runtime:     containers.RuntimeInfo{Name: runcShim},
		Spec:        spec,
		Snapshotter: "overlayfs",
		SnapshotKey: id,
	}
	for _, c := range change {
		c(&record)
	}
	if _, err := n.client.containers.Create(n.client.in(context.Background()), record); err != nil {
		n.t.Fatal(err)
	}
	n.snapshots[id] = snapshots.Info{Name: id}
	if state != task.Status_UNKNOWN {
		n.states[id] = state
	}
	time.Sleep(time.Millisecond) // the next one is newer
}

func reasonOf(err error) result.Reason {
	if err == nil {
		return ""
	}
	return result.From(err).Reason
}

func TestFind(t *testing.T) {
	n := newNode(t)
	n.container("right", task.Status_RUNNING)
	n.container("sandbox", task.Status_RUNNING, func(c *containers.Container) { c.Labels[labelKind] = "sandbox" })
	n.container("other-pod", task.Status_RUNNING, func(c *containers.Container) { c.Labels[labelPodUID] = "other" })
	n.container("other-name", task.Status_RUNNING, func(c *containers.Container) { c.Labels[labelContainerName] = "side" })
	n.container("foreign", task.Status_RUNNING, func(c *containers.Container) { c.Labels = nil })
	for id, want := range map[string]result.Reason{
		"right": "", "sandbox": result.ContainerNotFound, "other-pod": result.ContainerNotFound,
		"other-name": result.ContainerNotFound, "foreign": result.ContainerNotFound, "unknown": result.ContainerNotFound,
	} {
		if _, err := n.client.Find(context.Background(), "pod", Ref{"main", id}); reasonOf(err) != want {
			t.Errorf("%s: %v, want %q", id, err, want)
		}
	}
}

// TestFindOfWhatGoesOnFailing: the Pod's status tells of a container that the kubelet has replaced since, by one that has
// ended as well. One that runs is another, with files of its own; so is one of another Pod.
func TestFindOfWhatGoesOnFailing(t *testing.T) {
	for name, test := range map[string]struct {
		prepare func(n *node)
		found   string
		want    result.Reason
	}{
		"it has ended": {func(n *node) {
			n.container("older", task.Status_STOPPED)
			n.container("latest", task.Status_UNKNOWN)
		}, "latest", ""},
		"it runs": {func(n *node) {
			n.container("older", task.Status_STOPPED)
			n.container("latest", task.Status_RUNNING)
		}, "", result.ContainerNotFound},
		"it is about to run": {func(n *node) { n.container("latest", task.Status_CREATED) }, "", result.ContainerNotFound},
		"it is another Pod's": {func(n *node) {
			n.container("latest", task.Status_STOPPED, func(c *containers.Container) { c.Labels[labelPodUID] = "other" })
		}, "", result.ContainerNotFound},
	} {
		n := newNode(t)
		test.prepare(n)
		container, err := n.client.Find(context.Background(), "pod", Ref{"main", "gone"})
		if reasonOf(err) != test.want || err == nil && container.ID() != test.found {
			t.Errorf("%s: %v %v, want %q %q", name, container, err, test.found, test.want)
		}
	}
}

func TestCheck(t *testing.T) {
	tests := map[string]struct {
		prepare func(n *node)
		want    result.Reason
	}{
		"as it was": {func(n *node) { n.container("asked", task.Status_RUNNING) }, ""},
		"has ended": {func(n *node) { n.container("asked", task.Status_STOPPED) }, ""},
		"after an earlier incarnation": {func(n *node) {
			n.container("older", task.Status_RUNNING)
			n.container("asked", task.Status_RUNNING)
		}, ""},
		"before a newer one": {func(n *node) {
			n.container("asked", task.Status_STOPPED)
			n.container("newer", task.Status_RUNNING)
		}, result.ContainerRestarted},
		"before a newer one that is starting": {func(n *node) {
			n.container("asked", task.Status_STOPPED)
			n.container("newer", task.Status_CREATED)
		}, result.ContainerRestarted},
		"before a newer one that has ended, too": {func(n *node) {
			n.container("asked", task.Status_STOPPED)
			n.container("newer", task.Status_STOPPED)
			n.container("newest", task.Status_UNKNOWN)
		}, ""},
		"before another container": {func(n *node) {
			n.container("asked", task.Status_RUNNING)
			n.container("side", task.Status_RUNNING, func(c *containers.Container) { c.Labels[labelContainerName] = "side" })
			n.container("elsewhere", task.Status_RUNNING, func(c *containers.Container) { c.Labels[labelPodUID] = "other" })
		}, ""},
		"without its snapshot": {func(n *node) {
			n.container("asked", task.Status_RUNNING)
			delete(n.snapshots, "asked")
		}, result.ContainerRestarted},
	}
	for name, test := range tests {
		t.Run(name, func(t *testing.T) {
			n := newNode(t)
			test.prepare(n)
			c, err := n.client.Find(context.Background(), "pod", Ref{"main", "asked"})
			if err != nil {
				t.Fatal(err)
			}
			if err := c.Check(context.Background()); reasonOf(err) != test.want {
				t.Errorf("got %v, want %q", err, test.want)
			}
		})
	}
}

func TestFiles(t *testing.T) {
	upper := t.TempDir()
	overlay := func(options ...string) []mount.Mount {
		return []mount.Mount{{Type: "overlay", Source: "overlay", Options: options}}
	}
	spec := func(s *runtimespec.Spec) func(*containers.Container) {
		return func(c *containers.Container) { c.Spec, _ = typeurl.MarshalAny(s) }
	}
	userNamespace := &runtimespec.Spec{Linux: &runtimespec.Linux{
		UIDMappings: []runtimespec.LinuxIDMapping{{ContainerID: 0, HostID: 1000, Size: 1}, {ContainerID: 5, HostID: 9, Size: 2}},
		GIDMappings: []runtimespec.LinuxIDMapping{{ContainerID: 0, HostID: 2000, Size: 1}},
	}}
	tests := map[string]struct {
		mounts []mount.Mount
		change func(*containers.Container)
		want   Files
		reason result.Reason
	}{
		"overlay":                         {overlay("index=off", "workdir=/w", "upperdir="+upper, "lowerdir=/a:/b"), nil, Files{Upperdir: upper, Lowerdirs: []string{"/a", "/b"}}, ""},
		"userxattr":                       {overlay("userxattr", "upperdir="+upper), nil, Files{Upperdir: upper, UserXattr: true}, ""},
		"mapped by the snapshotter alone": {overlay("uidmap=0:1000:1", "upperdir="+upper), nil, Files{}, result.RuntimeNotSupported},
		"read-only": {overlay("lowerdir=/a:/b"), nil,
			Files{Lowerdirs: []string{"/a", "/b"}, Why: "the snapshotter overlayfs gives an overlay mount without an upper directory"}, ""},
		"bind":    {[]mount.Mount{{Type: "bind"}}, nil, Files{Why: "the snapshotter overlayfs gives no single overlay mount (bind)"}, ""},
		"several": {append(overlay("upperdir="+upper), mount.Mount{Type: "ext4"}), nil, Files{Why: "the snapshotter overlayfs gives no single overlay mount (overlay, ext4)"}, ""},
		"none":    {nil, nil, Files{}, result.RuntimeNotSupported},
		// As the snapshotters of containerd 2.4 give them.
		"erofs": {[]mount.Mount{{Type: "erofs", Options: []string{"ro", "loop"}}, {Type: "erofs", Options: []string{"ro", "loop"}},
			{Type: "format/mkdir/overlay", Source: "overlay", Options: []string{"workdir=/w", "upperdir=" + upper, "lowerdir={{ overlay 0 1 }}"}}}, nil,
			Files{Upperdir: upper, Incomparable: "the snapshotter overlayfs gives mounts that containerd's comparison cannot make (erofs, erofs, format/mkdir/overlay)"}, ""},
		"erofs on a block device": {[]mount.Mount{{Type: "mkfs/ext4", Options: []string{"rw", "loop"}}, {Type: "erofs", Options: []string{"ro", "loop"}},
			{Type: "format/mkdir/overlay", Source: "overlay", Options: []string{"upperdir={{ mount 0 }}/upper", "lowerdir={{ mount 1 }}"}}}, nil, Files{}, result.RuntimeNotSupported},
		"blockfile": {[]mount.Mount{{Type: "ext4", Source: "/scratch", Options: []string{"rw", "loop"}}}, nil, Files{}, result.RuntimeNotSupported},
		"devmapper": {[]mount.Mount{{Type: "ext4", Source: "/dev/mapper/p-1", Options: []string{"rw"}}}, nil, Files{Why: "the snapshotter overlayfs gives no single overlay mount (ext4)"}, ""},
		"gVisor":    {overlay("upperdir=" + upper), func(c *containers.Container) { c.Runtime.Name = "io.containerd.runsc.v1" }, Files{}, result.RuntimeNotSupported},
		"a user namespace": {overlay("lowerdir=/a", "upperdir="+upper, "uidmap=0:1000:1,5:9:2", "gidmap=0:2000:1"), spec(userNamespace),
			Files{Upperdir: upper, Lowerdirs: []string{"/a"}, Users: userNamespace.Linux.UIDMappings, Groups: userNamespace.Linux.GIDMappings}, ""},
		"a user namespace with other groups":       {overlay("upperdir="+upper, "uidmap=0:1000:1,5:9:2", "gidmap=0:3000:1"), spec(userNamespace), Files{}, result.RuntimeNotSupported},
		"a user namespace, the layers as they are": {overlay("upperdir=" + upper), spec(userNamespace), Files{}, result.RuntimeNotSupported},
		"a user namespace without an overlay": {[]mount.Mount{{Type: "bind", Options: []string{"uidmap=0:1000:1,5:9:2", "gidmap=0:2000:1"}}}, spec(userNamespace),
			Files{}, result.RuntimeNotSupported},
		"Windows": {overlay("upperdir=" + upper), spec(&runtimespec.Spec{}), Files{}, result.RuntimeNotSupported},
	}
	for name, test := range tests {
		t.Run(name, func(t *testing.T) {
			n := newNode(t)
			n.mounts = test.mounts
			change := test.change
			if change == nil {
				change = func(*containers.Container) {}
			}
			n.container("asked", task.Status_RUNNING, change)
			c, err := n.client.Find(context.Background(), "pod", Ref{"main", "asked"})
			if err != nil {
				t.Fatal(err)
			}
			got, err := c.Files(context.Background())
			if !cmp.Equal(got, test.want) || reasonOf(err) != test.reason {
				t.Errorf("got %+v (%v), want %+v (%s)", got, err, test.want, test.reason)
			}
		})
	}
}

func TestHold(t *testing.T) {
	n := newNode(t)
	ctx := context.Background()
	d := n.manifest("wanted", nil)
	resource := leases.Resource{Type: "content", ID: d.Digest.String()}
	if _, err := n.client.Hold(ctx, "snap", time.Minute, resource); err != nil {
		t.Fatal(err)
	}
	// A retry finds the lease of an attempt that was killed.
	release, err := n.client.Hold(ctx, "snap", time.Hour, resource)
	if err != nil {
		t.Fatal(err)
	}
	all, err := n.client.leases.List(n.client.in(ctx))
	if err != nil || len(all) != 1 {
		t.Fatalf("leases %v, %v", all, err)
	}
	expires, err := time.Parse(time.RFC3339, all[0].Labels["containerd.io/gc.expire"])
	if err != nil || time.Until(expires) < 50*time.Minute {
		t.Errorf("it expires at %v (%v)", expires, err)
	}
	if held, err := n.client.leases.ListResources(n.client.in(ctx), all[0]); err != nil || len(held) != 1 {
		t.Errorf("it holds %v, %v", held, err)
	}
	if err := release(ctx); err != nil {
		t.Fatal(err)
	}
	if all, err := n.client.leases.List(n.client.in(ctx)); err != nil || len(all) != 0 {
		t.Errorf("left: %v, %v", all, err)
	}
}

func TestDialFails(t *testing.T) {
	ctx, cancel := context.WithTimeout(context.Background(), 200*time.Millisecond)
	defer cancel()
	_, err := Dial(ctx, filepath.Join(t.TempDir(), "containerd.sock"), "k8s.io")
	var reasoned *result.Error
	if !errors.As(err, &reasoned) || !strings.Contains(err.Error(), "does not answer") {
		t.Errorf("got %v", err)
	}
}
