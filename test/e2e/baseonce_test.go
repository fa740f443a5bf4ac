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
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/containerd/containerd/v2/pkg/namespaces"
	"github.com/google/go-containerregistry/pkg/name"
	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/mutate"
	"github.com/google/go-containerregistry/pkg/v1/static"
	"github.com/google/go-containerregistry/pkg/v1/tarball"
	"github.com/google/go-containerregistry/pkg/v1/types"
	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/opensandbox-io/sandbox-apiserver/pkg/committer/registry"
)

// TestTheBaseIsUploadedOnce has two sandboxes of an image that no registry has. The second's commit uploads nothing of it,
// also when the first and all that it saved is gone.
func TestTheBaseIsUploadedOnce(t *testing.T) {
	t.Parallel()
	r := newRoom(t)
	image := r.ownImage()
	// Its layer's bytes stay on the node.
	reference := "127.0.0.1:1/nowhere/once:" + r.namespace
	ctx := namespaces.WithNamespace(t.Context(), "k8s.io")
	tag, err := name.NewTag(reference)
	if err != nil {
		t.Fatal(err)
	}
	var archive bytes.Buffer
	if err := tarball.Write(tag, mutate.MediaType(image, types.DockerManifestSchema2), &archive); err != nil {
		t.Fatal(err)
	}
	if _, err := r.containerd.Import(ctx, &archive); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := r.containerd.ImageService().Delete(namespaces.WithNamespace(context.Background(), "k8s.io"), reference); err != nil {
			t.Error(err)
		}
	})
	for i, sandbox := range []string{"one", "two"} {
		r.start(sandbox, from(reference))
		r.sh(sandbox, "echo "+sandbox+" > /root/file")
		r.pause(sandbox)
		_, snapshot := r.awaitPaused(sandbox)
		r.mustBeInRegistry(snapshot.Status.Containers[0])
		log := r.log(t.Context(), r.commitPod(snapshot.Name), "image-committer", 100)
		if want := fmt.Sprintf("layers=1 uploaded=%d", 1-i); !strings.Contains(log, want) {
			t.Errorf("the commit of %s does not say %q:\n%s", sandbox, want, log)
		}
		r.resume(sandbox)
		r.awaitReady(sandbox)
		if got, want := r.sh(sandbox, "cat /own /root/file"), "only in "+r.namespace+sandbox+"\n"; got != want {
			t.Errorf("after the resume of %s there is %q, want %q", sandbox, got, want)
		}
		r.deleteSandbox(sandbox)
		r.awaitSandboxGone(sandbox)
	}
}

// lying is a registry of its own, with the cache of blobs that distribution's example configuration has.
type lying struct{ config, address string }

func startLying(t *testing.T) *lying {
	t.Helper()
	for range 3 {
		if r := tryLying(t); r != nil {
			return r
		}
	}
	t.Fatal("the registry did not start, three times")
	return nil
}

// tryLying returns nil where the registry has ended: its port is another's by now, perhaps.
func tryLying(t *testing.T) *lying {
	t.Helper()
	l, err := (&net.ListenConfig{}).Listen(t.Context(), "tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	r := &lying{config: filepath.Join(t.TempDir(), "config.yml"), address: l.Addr().String()}
	if err := l.Close(); err != nil {
		t.Fatal(err)
	}
	config := fmt.Sprintf("version: 0.1\nstorage: {cache: {blobdescriptor: inmemory}, filesystem: {rootdirectory: %q}, delete: {enabled: true}}\nhttp: {addr: %q}\n", t.TempDir(), r.address)
	if err := os.WriteFile(r.config, []byte(config), 0o600); err != nil {
		t.Fatal(err)
	}
	server := r.command("serve")
	var log bytes.Buffer
	server.Stdout, server.Stderr = &log, &log
	if err := server.Start(); err != nil {
		t.Fatal(err)
	}
	ended := make(chan struct{})
	go func() {
		defer close(ended)
		_ = server.Wait() // it is killed
	}()
	t.Cleanup(func() {
		_ = server.Process.Kill()
		<-ended
		if t.Failed() {
			t.Logf("the registry's log:\n%s", log.String())
		}
	})
	started := false
	eventually(t, "the registry answers", patience, func(ctx context.Context) (bool, string) {
		select {
		case <-ended:
			return true, "it has ended"
		default:
		}
		code, _, err := r.ask(ctx, http.MethodGet, "")
		started = code == http.StatusOK
		return started, fmt.Sprint(code, err)
	})
	if !started {
		return nil
	}
	return r
}

func (r *lying) command(verb string) *exec.Cmd {
	cmd := exec.Command(filepath.Join(os.Getenv("CLUSTER_DIR"), "bin", "registry"), verb, r.config) //nolint:gosec // it is ended by the test
	cmd.Env = []string{"OTEL_TRACES_EXPORTER=none"}                                                 // not the cluster's: it takes REGISTRY_… for its own
	return cmd
}

// ask returns what is answered, as far as it comes.
func (r *lying) ask(ctx context.Context, method, path string) (int, []byte, error) {
	ctx, cancel := context.WithTimeout(ctx, 10*time.Second)
	defer cancel()
	request, err := http.NewRequestWithContext(ctx, method, "http://"+r.address+"/v2/"+path, nil)
	if err != nil {
		return 0, nil, err
	}
	answer, err := http.DefaultClient.Do(request)
	if err != nil {
		return 0, nil, err
	}
	defer answer.Body.Close()
	body, err := io.ReadAll(answer.Body)
	return answer.StatusCode, body, err
}

// TestARegistryThatTellsOfDeletedLayers is what a nightly garbage collection makes of distribution that goes on running:
// HEAD says that the base's layer is there, and no byte of it comes.
func TestARegistryThatTellsOfDeletedLayers(t *testing.T) {
	t.Parallel()
	r := startLying(t)
	ctx := t.Context()
	data := make([]byte, 1<<20)
	_, _ = rand.NewChaCha8([32]byte{1}).Read(data) // never fails
	layer := static.NewLayer(data, types.OCIUncompressedLayer)
	hash, err := layer.Digest()
	if err != nil {
		t.Fatal(err)
	}
	base := registry.BaseLayer{Digest: hash, Size: int64(len(data)), MediaType: types.OCIUncompressedLayer,
		Local: func(context.Context) (io.ReadCloser, error) { return io.NopCloser(bytes.NewReader(data)), nil }}
	publish := func(tag string) (manifest string, uploaded bool) {
		t.Helper()
		client, err := registry.New(registry.Options{Insecure: true})
		if err != nil {
			t.Fatal(err)
		}
		target, err := client.Target(r.address + "/ns/a:" + tag)
		if err != nil {
			t.Fatal(err)
		}
		sources, err := registry.NewSources(registry.Options{}, nil, "")
		if err != nil {
			t.Fatal(err)
		}
		if uploaded, err = target.EnsureBaseLayer(ctx, base, sources); err != nil {
			t.Fatal(err)
		}
		config := []byte(`{"of":"` + tag + `"}`)
		if err := target.Upload(ctx, static.NewLayer(config, types.OCIConfigJSON)); err != nil {
			t.Fatal(err)
		}
		raw, err := json.Marshal(v1.Manifest{SchemaVersion: 2, MediaType: types.OCIManifestSchema1,
			Config: v1.Descriptor{MediaType: types.OCIConfigJSON, Digest: mustHash(t, digest.FromBytes(config)), Size: int64(len(config))},
			Layers: []v1.Descriptor{{MediaType: ocispec.MediaTypeImageLayer, Digest: hash, Size: int64(len(data))}},
		})
		if err != nil {
			t.Fatal(err)
		}
		if err := target.Publish(ctx, raw); err != nil {
			t.Fatal(err)
		}
		manifest = digest.FromBytes(raw).String()
		if found, err := client.Look(ctx, target.String(), manifest); found != (registry.Found{Manifest: true}) || err != nil {
			t.Errorf("of what was just pushed there is %+v (%v)", found, err)
		}
		return manifest, uploaded
	}
	deleteAndCollect := func(tag, manifest string) {
		t.Helper()
		client, err := registry.New(registry.Options{Insecure: true})
		if err != nil {
			t.Fatal(err)
		}
		if err := client.Delete(ctx, r.address+"/ns/a:"+tag, manifest); err != nil {
			t.Fatal(err)
		}
		if out, err := r.command("garbage-collect").CombinedOutput(); err != nil {
			t.Fatalf("garbage-collect: %v\n%s", err, out)
		}
		told, _, err := r.ask(ctx, http.MethodHead, "ns/a/blobs/"+hash.String())
		_, got, _ := r.ask(ctx, http.MethodGet, "ns/a/blobs/"+hash.String())
		if told != http.StatusOK || len(got) > 0 {
			t.Fatalf("the registry does not lie any more: HEAD says %d (%v), GET gives %d bytes", told, err, len(got))
		}
	}
	first, uploaded := publish("gen1")
	if !uploaded {
		t.Error("the first time the layer was there already")
	}
	deleteAndCollect("gen1", first)
	if _, uploaded = publish("gen2"); !uploaded {
		t.Error("the registry was believed")
	}
	if _, got, err := r.ask(ctx, http.MethodGet, "ns/a/blobs/"+hash.String()); !bytes.Equal(got, data) {
		t.Errorf("the registry gives %d bytes of the layer's %d (%v)", len(got), len(data), err)
	}
	if _, uploaded = publish("gen3"); uploaded {
		t.Error("what is there was pushed again")
	}
}

func mustHash(t *testing.T, d digest.Digest) v1.Hash {
	t.Helper()
	hash, err := v1.NewHash(d.String())
	if err != nil {
		t.Fatal(err)
	}
	return hash
}
