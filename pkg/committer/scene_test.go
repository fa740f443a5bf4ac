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

package committer

import (
	"archive/tar"
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log"
	"log/slog"
	"maps"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/containerd/containerd/v2/core/leases"
	memory "github.com/google/go-containerregistry/pkg/registry"
	"github.com/google/go-containerregistry/pkg/v1/types"
	"github.com/opencontainers/go-digest"
	"github.com/opencontainers/image-spec/identity"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/opensandbox-io/sandbox-apiserver/pkg/committer/cgroup"
	"github.com/opensandbox-io/sandbox-apiserver/pkg/committer/image"
	"github.com/opensandbox-io/sandbox-apiserver/pkg/committer/registry"
	"github.com/opensandbox-io/sandbox-apiserver/pkg/committer/result"
	"github.com/opensandbox-io/sandbox-apiserver/pkg/committer/runtime"
)

// fakeNode is a node whose containers are directories.
type fakeNode struct {
	mu         sync.Mutex
	containers map[string]*fakeContainer // by ID
	calls      []string
	leases     []string

	rememberErr error
	group       *fakeGroup // of the Pod
	strays      []Group
	outside     func() ([]runtime.Outsider, error)
	// ended is how the commit ends beside a standby; nil: it has ended well.
	ended func(ctx context.Context, podUID, name string) (failed bool, err error)
}

type fakeContainer struct {
	node    *fakeNode
	name    string
	mu      sync.Mutex // of state
	state   runtime.State
	upper   string
	lower   []string
	volumes []runtime.Volume
	chain   []string // one for each layer of the base where it is nil
	base    *Base
	gone    *runtime.Gone // instead of the base
	mounted func() ([]runtime.Mounted, error)

	checks    int
	onCheck   func(n int) error
	onPresent func() error
	// comparedAs is the media type that was asked for.
	comparedAs      string
	compare         func() (*runtime.Compared, error)
	onPause         func() error
	onResume        func() error
	pids            []int
	onKill          func(pid int) error
	killed          bool // it ends when it is thawed
	awaitEnd        func(context.Context) error
	findErr, stateE error
	keepErr         error
	onProcesses     func() ([]int, error)
	onState         func() (runtime.State, error)
	onStateIn       func(context.Context) (runtime.State, error)
	moving          []cgroup.Process
	blind           bool // nobody asks the kernel
	entangled       bool // it can reach the others
	dieFrozen       bool
	serves          bool
}

// fakeGroup is a cgroup, told and asked like a container.
type fakeGroup struct{ fakeContainer }

func (g *fakeGroup) Path() string   { return "/" + g.name }
func (g *fakeGroup) String() string { return g.name }

func (n *fakeNode) note(format string, args ...any) {
	n.mu.Lock()
	defer n.mu.Unlock()
	n.calls = append(n.calls, fmt.Sprintf(format, args...))
}

func (n *fakeNode) Find(_ context.Context, _ string, ref runtime.Ref) (Container, error) {
	c, ok := n.containers[ref.ID]
	if !ok {
		return nil, result.Errorf(result.ContainerNotFound, "container %q is not known", ref.Name)
	}
	if c.findErr != nil {
		return nil, c.findErr
	}
	return c, nil
}

func (n *fakeNode) FindEnded(ctx context.Context, podUID string, ref runtime.Ref) (Container, error) {
	c, err := n.Find(ctx, podUID, ref)
	if err == nil {
		n.note("find ended %s", ref.Name)
		return endedContainer{c.(*fakeContainer)}, nil
	}
	return nil, err
}

// endedContainer is one of which another runs by now.
type endedContainer struct{ *fakeContainer }

func (endedContainer) State(context.Context) (runtime.State, error) { return runtime.Ended, nil }

func (n *fakeNode) Hold(_ context.Context, id string, _ time.Duration, _ ...leases.Resource) (func(context.Context) error, error) {
	n.leases = append(n.leases, id)
	return func(ctx context.Context) error {
		n.leases = slices.DeleteFunc(n.leases, func(l string) bool { return l == id })
		return ctx.Err()
	}, nil
}

func (n *fakeNode) Remember(_ context.Context, snapshotUID string, _ time.Duration, made *image.Image) error {
	n.note("remember %s of %s", made.ManifestDigest, snapshotUID)
	return n.rememberErr
}

func (n *fakeNode) Ended(ctx context.Context, podUID, name string) (bool, error) {
	if n.ended == nil {
		return false, nil
	}
	return n.ended(ctx, podUID, name)
}

func (n *fakeNode) Pod(context.Context, string) (Pod, error) {
	n.mu.Lock()
	defer n.mu.Unlock()
	pod := Pod{Strays: n.strays}
	for _, id := range slices.Sorted(maps.Keys(n.containers)) {
		if c := n.containers[id]; c.get() != runtime.Ended && c.findErr == nil {
			pod.Containers = append(pod.Containers, c)
		}
	}
	if n.group != nil {
		pod.Group = n.group
	}
	return pod, nil
}

func (n *fakeNode) Outside(context.Context, string, []runtime.Ref) ([]runtime.Outsider, error) {
	if n.outside == nil {
		return nil, nil
	}
	return n.outside()
}

func (c *fakeContainer) Name() string                                     { return c.name }
func (c *fakeContainer) ID() string                                       { return c.name + "-id" }
func (c *fakeContainer) String() string                                   { return fmt.Sprintf("container %q", c.name) }
func (c *fakeContainer) Witnessed() bool                                  { return !c.blind }
func (c *fakeContainer) DieFrozen() bool                                  { return c.dieFrozen }
func (c *fakeContainer) Apart() (bool, error)                             { return !c.entangled, nil }
func (c *fakeContainer) Moving(context.Context) ([]cgroup.Process, error) { return c.moving, nil }

func (c *fakeContainer) ServesFiles(context.Context) (bool, error) { return c.serves, nil }

// get and set are for what several goroutines do.
func (c *fakeContainer) get() runtime.State {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.state
}

func (c *fakeContainer) set(state runtime.State) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.state = state
}

func (c *fakeContainer) State(ctx context.Context) (runtime.State, error) {
	if err := ctx.Err(); err != nil {
		return 0, err
	}
	if c.onStateIn != nil {
		return c.onStateIn(ctx)
	}
	if c.onState != nil {
		return c.onState()
	}
	return c.get(), c.stateE
}
func (c *fakeContainer) Pause(ctx context.Context) error {
	c.node.note("freeze %s", c.name)
	if c.onPause != nil {
		if err := c.onPause(); err != nil {
			return err
		}
	}
	if err := ctx.Err(); err != nil {
		return err
	}
	c.set(runtime.Paused)
	return nil
}
func (c *fakeContainer) Resume(ctx context.Context) error {
	c.node.note("thaw %s", c.name)
	if c.onResume != nil {
		if err := c.onResume(); err != nil {
			return err
		}
	}
	if err := ctx.Err(); err != nil {
		return err
	}
	c.set(runtime.Running)
	if c.killed {
		c.set(runtime.Ended)
	}
	return nil
}
func (c *fakeContainer) Processes(context.Context) ([]int, error) {
	if c.onProcesses != nil {
		return c.onProcesses()
	}
	return c.pids, nil
}
func (c *fakeContainer) Kill(pid int) error {
	c.node.note("kill %s %d", c.name, pid)
	if c.onKill != nil {
		return c.onKill(pid)
	}
	return nil
}
func (c *fakeContainer) AwaitEnd(ctx context.Context) error {
	if c.awaitEnd == nil {
		return errors.New("nobody asks for it")
	}
	return c.awaitEnd(ctx)
}
func (c *fakeContainer) Check(context.Context) error {
	c.checks++
	if c.onCheck != nil {
		return c.onCheck(c.checks)
	}
	return nil
}
func (c *fakeContainer) Present(context.Context) error {
	if c.onPresent != nil {
		return c.onPresent()
	}
	return nil
}
func (c *fakeContainer) Held(ctx context.Context) (bool, error) {
	state, err := c.State(ctx)
	return state == runtime.Paused, err
}

// Hold is noted by no call: it changes nothing that one can see before the Pod is thawed.
func (c *fakeContainer) Hold(context.Context) error {
	if c.get() != runtime.Ended {
		c.set(runtime.Paused)
	}
	return nil
}
func (c *fakeContainer) Keep(_ context.Context, lease string, _ time.Duration) (func(context.Context) error, error) {
	if c.keepErr != nil {
		return nil, c.keepErr
	}
	c.node.note("keep %s in %s", c.name, lease)
	return func(context.Context) error {
		c.node.note("let go of %s", c.name)
		return nil
	}, nil
}
func (c *fakeContainer) Compare(_ context.Context, mediaType string) (*runtime.Compared, error) {
	c.comparedAs = mediaType
	c.node.note("compare %s", c.name)
	return c.compare()
}
func (c *fakeContainer) Files(context.Context) (runtime.Files, error) {
	return runtime.Files{Upperdir: c.upper, Lowerdirs: c.lower, Volumes: c.volumes}, nil
}
func (c *fakeContainer) Mounted(context.Context) ([]runtime.Mounted, error) {
	if c.mounted == nil {
		return nil, nil
	}
	return c.mounted()
}
func (c *fakeContainer) Chain(context.Context) ([]string, error) {
	if c.chain != nil {
		return c.chain, nil
	}
	var chain []string
	for _, id := range identity.ChainIDs(slices.Clone(c.base.Config.RootFS.DiffIDs)) {
		chain = append([]string{id.String()}, chain...)
	}
	return chain, nil
}
func (c *fakeContainer) Base(context.Context) (*Base, error) {
	if c.gone != nil {
		return nil, c.gone
	}
	return c.base, nil
}

var discard = slog.New(slog.NewTextHandler(io.Discard, nil))

// scene is a Pod of two containers and a registry.
type scene struct {
	t       *testing.T
	node    *fakeNode
	options CommitOptions
	cache   Cache
	reports []result.Result
	// before is called with each request to the registry; it may answer it.
	before func(w http.ResponseWriter, r *http.Request) bool
}

func newScene(t *testing.T) *scene {
	s := &scene{t: t, node: &fakeNode{containers: map[string]*fakeContainer{}}}
	inner := memory.New(memory.Logger(log.New(io.Discard, "", 0)))
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if s.before != nil && s.before(w, r) {
			return
		}
		repository := strings.Split(r.URL.Path, "/")[2]
		switch {
		case r.Method == http.MethodPut && strings.Contains(r.URL.Path, "/manifests/"):
			s.node.note("manifest %s", repository)
		case r.Method == http.MethodPatch:
			s.node.note("upload %s", repository)
		case r.Method == http.MethodPut && r.ContentLength > 0:
			s.node.note("config %s", repository) // the only blob that is pushed in one request
		}
		inner.ServeHTTP(w, r)
	}))
	t.Cleanup(server.Close)
	s.options = CommitOptions{
		PodUID: "pod", SnapshotUID: "snap", LeaseTTL: time.Minute,
		Registry: registry.Options{Insecure: true},
		Log:      discard,
	}
	for _, name := range []string{"main", "side"} {
		upper := t.TempDir()
		if err := os.WriteFile(filepath.Join(upper, "file"), []byte("of "+name), 0o644); err != nil {
			t.Fatal(err)
		}
		s.node.containers[name+"-id"] = &fakeContainer{node: s.node, name: name, state: runtime.Running, upper: upper, base: fakeBase(t, name)}
		s.options.Containers = append(s.options.Containers, ContainerImage{
			Ref:   runtime.Ref{Name: name, ID: name + "-id"},
			Image: strings.TrimPrefix(server.URL, "http://") + "/" + name + ":tag",
		})
	}
	return s
}

// fakeBase is an image of one layer with Docker's media types. Layers differ: the
// registry has one store for all repositories.
func fakeBase(t *testing.T, name string) *Base {
	t.Helper()
	var plain bytes.Buffer
	w := tar.NewWriter(&plain)
	if err := w.WriteHeader(&tar.Header{Typeflag: tar.TypeReg, Name: "base of " + name, Mode: 0o644}); err != nil {
		t.Fatal(err)
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	diffID := digest.FromBytes(plain.Bytes())
	config := fmt.Sprintf(`{"architecture":"arm64","variant":"v8","os":"linux","os.version":"1","config":{"Env":["A=<b>&c"],"Entrypoint":["/x"],"StopSignal":"SIGINT"},"com.example.unknown":{"kept":1},"rootfs":{"type":"layers","diff_ids":[%q]},"history":[{"created_by":"base"}]}`, diffID)
	base := &image.Base{RawConfig: []byte(config), Digest: "sha256:base"}
	if err := json.Unmarshal(base.RawConfig, &base.Config); err != nil {
		t.Fatal(err)
	}
	base.Manifest.Layers = []ocispec.Descriptor{{MediaType: string(types.DockerUncompressedLayer), Digest: diffID, Size: int64(plain.Len())}}
	return &Base{Base: base, Open: func(context.Context, ocispec.Descriptor) (io.ReadCloser, error) {
		return io.NopCloser(bytes.NewReader(plain.Bytes())), nil
	}}
}

func (s *scene) commit(ctx context.Context) error {
	return Commit(ctx, s.node, s.options, func(r result.Result) error {
		s.reports = append(s.reports, r)
		s.node.note("report")
		return nil
	})
}

// inOrder are calls, of which those that are made side by side are in the order of their names.
func inOrder(calls []string) []string {
	calls = slices.Clone(calls)
	verb := func(call string) string { v, _, _ := strings.Cut(call, " "); return v }
	for i := 0; i < len(calls); {
		end := i + 1
		for end < len(calls) && verb(calls[end]) == verb(calls[i]) {
			end++
		}
		if v := verb(calls[i]); v == "freeze" || v == "thaw" {
			slices.Sort(calls[i:end])
		}
		i = end
	}
	return calls
}

// oneByOne are the calls of a kill: to main, to side, and what comes when all are dead. Those to one
// stay in their order.
func oneByOne(calls []string) []string {
	var main, side, after []string
	for _, call := range calls {
		verb, rest, _ := strings.Cut(call, " ")
		switch {
		case verb == "keep" || verb == "done":
			after = append(after, call)
		case strings.Contains(rest, "main"):
			main = append(main, call)
		default:
			side = append(side, call)
		}
	}
	return slices.Concat(main, side, after)
}

func (s *scene) last() result.Result {
	s.t.Helper()
	if len(s.reports) != 1 {
		s.t.Fatalf("%d reports", len(s.reports))
	}
	return s.reports[0]
}

func (s *scene) states(want runtime.State) {
	s.t.Helper()
	for _, c := range s.node.containers {
		if c.state != want {
			s.t.Errorf("container %q is %s, want it %s", c.name, c.state, want)
		}
	}
	if len(s.node.leases) > 0 {
		s.t.Errorf("leases are left: %v", s.node.leases)
	}
}
