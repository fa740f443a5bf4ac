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
	// ended is how the commit ends beside a standby; nil: it has ended well.
	ended func(ctx context.Context, podUID, name string) (failed bool, err error)
}

type fakeContainer struct {
	node    *fakeNode
	name    string
	state   runtime.State
	upper   string
	lower   []string
	volumes []runtime.Volume
	chain   []string // one for each layer of the base where it is nil
	base    *Base
	gone    *runtime.Gone // instead of the base

	checks          int
	onCheck         func(n int) error
	compare         func() (*runtime.Compared, error)
	onPause         func() error
	onResume        func() error
	pids            []int
	onKill          func(pid int) error
	killed          bool // it ends when it is thawed
	awaitEnd        func(context.Context) error
	findErr, stateE error
}

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

func (c *fakeContainer) Name() string { return c.name }
func (c *fakeContainer) State(ctx context.Context) (runtime.State, error) {
	if err := ctx.Err(); err != nil {
		return 0, err
	}
	return c.state, c.stateE
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
	c.state = runtime.Paused
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
	c.state = runtime.Running
	if c.killed {
		c.state = runtime.Ended
	}
	return nil
}
func (c *fakeContainer) Processes(context.Context) ([]int, error) { return c.pids, nil }
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
func (c *fakeContainer) Compare(context.Context) (*runtime.Compared, error) {
	c.node.note("compare %s", c.name)
	return c.compare()
}
func (c *fakeContainer) Files(context.Context) (runtime.Files, error) {
	return runtime.Files{Upperdir: c.upper, Lowerdirs: c.lower, Volumes: c.volumes}, nil
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
		Log:      slog.New(slog.NewTextHandler(io.Discard, nil)),
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
