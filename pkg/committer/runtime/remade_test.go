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
	"encoding/json"
	"errors"
	"fmt"
	"strings"
	"testing"

	"github.com/containerd/containerd/api/types/task"
	"github.com/containerd/containerd/v2/core/containers"
	"github.com/containerd/containerd/v2/core/snapshots"
	"github.com/containerd/typeurl/v2"
	"github.com/google/go-cmp/cmp"
	"github.com/opencontainers/go-digest"
	"github.com/opencontainers/image-spec/identity"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
	runtimespec "github.com/opencontainers/runtime-spec/specs-go"
	"google.golang.org/protobuf/types/known/anypb"
)

// askedFor is a record whose Pod says something of the container, too.
func askedFor(config string) func(*containers.Container) {
	return func(c *containers.Container) {
		value := fmt.Sprintf(`{"Version":"v1","Metadata":{"ID":"asked","Config":%s,"ImageRef":%q,"StopSignal":"SIGINT"}}`, config, digest.FromString("a configuration"))
		c.Extensions = map[string]typeurl.Any{extensionCreated: &anypb.Any{Value: []byte(value)}}
	}
}

// TestRemade has containers as containerd makes them of an image with the environment A=1, PATH=/own and SECRET=, the
// entrypoint /entry and the command serve --all.
func TestRemade(t *testing.T) {
	env := func(more ...string) []string { return append([]string{"PATH=/own", "HOSTNAME=pod", "A=1"}, more...) }
	whole := []string{"/entry", "serve", "--all"}
	for name, test := range map[string]struct {
		asked string
		spec  runtimespec.Process
		want  ocispec.ImageConfig
	}{
		"the Pod says nothing": {
			`{"envs":[{"key":"KUBERNETES_SERVICE_HOST","value":"10.0.0.1"}]}`,
			runtimespec.Process{Args: whole, Cwd: "/work", Env: env("KUBERNETES_SERVICE_HOST=10.0.0.1"), User: runtimespec.User{UID: 1000, GID: 100, AdditionalGids: []uint32{7}}},
			ocispec.ImageConfig{Env: []string{"PATH=/own", "A=1"}, Cmd: whole, WorkingDir: "/work", User: "1000:100", StopSignal: "SIGINT"},
		},
		"the Pod has a command, with a secret": {
			`{"command":["sh","-c"],"args":["login secret"],"envs":[{"key":"TOKEN","value":"c2VjcmV0"}]}`,
			runtimespec.Process{Args: []string{"sh", "-c", "login secret"}, Cwd: "/", Env: env("TOKEN=secret")},
			ocispec.ImageConfig{Env: []string{"PATH=/own", "A=1"}, WorkingDir: "/", StopSignal: "SIGINT"},
		},
		"the Pod has arguments alone": {
			`{"args":["secret"]}`, runtimespec.Process{Args: []string{"/entry", "secret"}, Cwd: "/", Env: env()},
			ocispec.ImageConfig{Env: []string{"PATH=/own", "A=1"}, Entrypoint: []string{"/entry"}, WorkingDir: "/", StopSignal: "SIGINT"},
		},
		"arguments that are not those of the process": {
			`{"args":["secret"]}`, runtimespec.Process{Args: []string{"/entry", "secret", "more"}, Cwd: "/", Env: env()},
			ocispec.ImageConfig{Env: []string{"PATH=/own", "A=1"}, WorkingDir: "/", StopSignal: "SIGINT"},
		},
		"an image without an entrypoint, and arguments": {
			`{"args":["secret"]}`, runtimespec.Process{Args: []string{"secret"}, Cwd: "/", Env: env()},
			ocispec.ImageConfig{Env: []string{"PATH=/own", "A=1"}, WorkingDir: "/", StopSignal: "SIGINT"},
		},
		"the Pod says otherwise": {
			`{"envs":[{"key":"A","value":"secret"},{"key":"PATH","value":"/x"}],"working_dir":"/elsewhere","tty":true,"stop_signal":9,"labels":{"of":"the Pod","app":"x"}}`,
			runtimespec.Process{Args: whole, Cwd: "/elsewhere", Env: []string{"PATH=/secret", "HOSTNAME=pod", "TERM=xterm", "A=secret", "A"}},
			ocispec.ImageConfig{Cmd: whole},
		},
		"volumes of the image, and of the Pod": {
			`{"mounts":[{"container_path":"/claim"}]}`, runtimespec.Process{Args: whole, Cwd: "/", Env: env()},
			ocispec.ImageConfig{Env: []string{"PATH=/own", "A=1"}, Cmd: whole, WorkingDir: "/", StopSignal: "SIGINT", Volumes: map[string]struct{}{"/data": {}}},
		},
		"TERM of the image": {
			`{}`, runtimespec.Process{Args: whole, Cwd: "/", Env: env("TERM=dumb")},
			ocispec.ImageConfig{Env: []string{"PATH=/own", "A=1", "TERM=dumb"}, Cmd: whole, WorkingDir: "/", StopSignal: "SIGINT"},
		},
	} {
		t.Run(name, func(t *testing.T) {
			n := newNode(t)
			n.container("asked", task.Status_RUNNING, askedFor(test.asked), func(c *containers.Container) {
				spec := &runtimespec.Spec{Process: &test.spec, Linux: &runtimespec.Linux{}}
				if test.want.Volumes != nil {
					spec.Mounts = []runtimespec.Mount{{Destination: "/data", Source: "/root/io.containerd.grpc.v1.cri/containers/asked/volumes/0123"}, {Destination: "/claim", Source: "/kubelet/pods/x"}}
				}
				c.Spec, _ = typeurl.MarshalAny(spec)
				c.Labels["of"], c.Labels["maintainer"] = "the Pod", "somebody"
				if strings.Contains(test.asked, "labels") {
					c.Labels["app"] = "x"
				}
			})
			gone := n.goneOf("asked", "another")
			got, err := gone.Remade()
			if err != nil {
				t.Fatal(err)
			}
			test.want.Labels = map[string]string{"maintainer": "somebody", "of": "the Pod", labelPodUID: "pod", labelContainerName: "main"}
			if strings.Contains(test.asked, "labels") {
				delete(test.want.Labels, "of")
			}
			if diff := cmp.Diff(test.want, got.Config); diff != "" {
				t.Errorf("(-want +got):\n%s", diff)
			}
			data, err := json.Marshal(got)
			if err != nil || strings.Contains(string(data), "secret") {
				t.Errorf("%s (%v)", data, err)
			}
			if got.OS != "linux" || got.Architecture == "" || got.RootFS.Type != "layers" {
				t.Errorf("platform %+v, %+v", got.Platform, got.RootFS)
			}
		})
	}
}

// goneOf is what Base says of a container whose image is not on the node.
func (n *node) goneOf(id, layers string) *Gone {
	n.t.Helper()
	n.snapshots[id] = snapshots.Info{Parent: identity.ChainID(diffIDs(layers)).String()}
	c, err := n.client.Find(context.Background(), "pod", Ref{"main", id})
	if err != nil {
		n.t.Fatal(err)
	}
	base, err := c.Base(context.Background())
	var gone *Gone
	if !errors.As(err, &gone) {
		n.t.Fatalf("got %+v, %v", base, err)
	}
	return gone
}

// TestNotRemade is what must not be told by a guess: without the record what is the Pod's is not known.
func TestNotRemade(t *testing.T) {
	n := newNode(t)
	n.container("asked", task.Status_RUNNING)
	if config, err := n.goneOf("asked", "another").Remade(); err == nil {
		t.Errorf("got %+v", config)
	}
	if references := n.goneOf("asked", "another").References; len(references) > 0 {
		t.Errorf("names alone prove nothing: %v", references)
	}
}

func TestReferences(t *testing.T) {
	pinned, index := digest.FromString("pinned"), digest.FromString("index")
	for name, test := range map[string]struct {
		specified, more string
		want            []string
	}{
		"a resumed sandbox": {"10.0.0.1:5000/ns/demo@" + pinned.String(), "", []string{"10.0.0.1:5000/ns/demo@" + pinned.String(), "registry.example.com/team/base:v1"}},
		"a name of Docker Hub's, of containerd 2.4": {"team/base:v1", fmt.Sprintf(`"ImageDigest":%q,"ImageName":"mirror.example.com/team/base:v1",`, index), []string{
			"docker.io/team/base@" + index.String(), "mirror.example.com/team/base@" + index.String(), "docker.io/team/base:v1", "mirror.example.com/team/base:v1", "registry.example.com/team/base:v1"}},
		"a name alone":  {"registry.example.com/team/base:v1", "", []string{"registry.example.com/team/base:v1"}},
		"an image's ID": {digest.FromString("id").String(), "", []string{"registry.example.com/team/base:v1"}},
	} {
		t.Run(name, func(t *testing.T) {
			n := newNode(t)
			n.container("asked", task.Status_RUNNING, func(c *containers.Container) {
				createdBy("v1", digest.FromString("a configuration"), test.more)(c)
				value := strings.Replace(string(c.Extensions[extensionCreated].GetValue()), "team/base:v1", test.specified, 1)
				c.Extensions[extensionCreated] = &anypb.Any{Value: []byte(value)}
			})
			if diff := cmp.Diff(test.want, n.goneOf("asked", "another").References); diff != "" {
				t.Errorf("(-want +got):\n%s", diff)
			}
		})
	}
}

// TestAConfigurationThatIsLeft has a blob that something else holds.
func TestAConfigurationThatIsLeft(t *testing.T) {
	n := newNode(t)
	config := n.blob(ocispec.MediaTypeImageConfig, imageOf("wanted", "wanted"), nil)
	n.container("asked", task.Status_RUNNING, createdBy("v1", config.Digest, ""))
	if gone := n.goneOf("asked", "wanted"); digest.FromBytes(gone.RawConfig) != config.Digest {
		t.Errorf("got %s", gone.RawConfig)
	}
}
