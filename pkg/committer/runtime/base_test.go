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
	"io"
	"maps"
	"strings"
	"testing"

	"github.com/containerd/containerd/api/types/task"
	"github.com/containerd/containerd/v2/core/containers"
	"github.com/containerd/containerd/v2/core/content"
	"github.com/containerd/containerd/v2/core/images"
	"github.com/containerd/containerd/v2/core/snapshots"
	"github.com/containerd/errdefs"
	"github.com/containerd/typeurl/v2"
	"github.com/google/go-cmp/cmp"
	"github.com/opencontainers/go-digest"
	"github.com/opencontainers/image-spec/identity"
	"github.com/opencontainers/image-spec/specs-go"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
	"google.golang.org/protobuf/types/known/anypb"

	"github.com/opensandbox-io/sandbox-apiserver/pkg/committer/image"
	"github.com/opensandbox-io/sandbox-apiserver/pkg/committer/result"
)

// blob stores JSON and returns its descriptor.
func (n *node) blob(mediaType string, v any, labels map[string]string) ocispec.Descriptor {
	n.t.Helper()
	data, err := json.Marshal(v)
	if err != nil {
		n.t.Fatal(err)
	}
	d := ocispec.Descriptor{MediaType: mediaType, Digest: digest.FromBytes(data), Size: int64(len(data))}
	err = content.WriteBlob(n.client.in(context.Background()), n.client.content, d.Digest.String(), strings.NewReader(string(data)), d, content.WithLabels(labels))
	if err != nil {
		n.t.Fatal(err)
	}
	return d
}

func diffIDs(name string) []digest.Digest {
	return []digest.Digest{digest.FromString(name + "1"), digest.FromString(name + "2")}
}

// manifest stores an image of two layers, whose blobs are not on the node.
func (n *node) manifest(name string, labels map[string]string) ocispec.Descriptor {
	return n.manifestOf(ocispec.MediaTypeImageManifest, name, name, labels)
}

// manifestOf stores an image of some layers, compressed as the labels differ: its manifest is labelled as containerd
// does.
func (n *node) manifestOf(mediaType, name, layers string, marks map[string]string) ocispec.Descriptor {
	config := n.blob(ocispec.MediaTypeImageConfig, imageOf(name, layers), nil)
	m := ocispec.Manifest{Versioned: specs.Versioned{SchemaVersion: 2}, MediaType: mediaType, Config: config, Annotations: map[string]string{"marks": fmt.Sprint(marks)}}
	for i := range 2 {
		m.Layers = append(m.Layers, ocispec.Descriptor{MediaType: ocispec.MediaTypeImageLayerGzip, Digest: digest.FromString(fmt.Sprint("layer of ", layers, i)), Size: 1})
	}
	labels := map[string]string{labelRefConfig: config.Digest.String()}
	maps.Copy(labels, marks)
	return n.blob(mediaType, m, labels)
}

func imageOf(name, layers string) ocispec.Image {
	return ocispec.Image{RootFS: ocispec.RootFS{Type: "layers", DiffIDs: diffIDs(layers)}, Author: name}
}

func (n *node) image(name string, target ocispec.Descriptor) {
	n.t.Helper()
	if _, err := n.client.images.Create(n.client.in(context.Background()), images.Image{Name: name, Target: target}); err != nil {
		n.t.Fatal(err)
	}
}

// moves makes a name stand for something else, as pulling it again does.
func (n *node) moves(name string, target ocispec.Descriptor) {
	n.t.Helper()
	if _, err := n.client.images.Update(n.client.in(context.Background()), images.Image{Name: name, Target: target}); err != nil {
		n.t.Fatal(err)
	}
}

// createdBy is a record of Kubernetes' plugin of containerd 1.7: a version of 2 adds the last two.
func createdBy(version string, config digest.Digest, more string) func(*containers.Container) {
	return func(c *containers.Container) {
		value := fmt.Sprintf(`{"Version":%q,"Metadata":{"ID":"asked","Name":"main_pod_default_0","SandboxID":"s","Config":{"metadata":{"name":"main"},`+
			`"image":{"image":%q,"user_specified_image":"team/base:v1"},"envs":[{"key":"TOKEN","value":"secret"}],"linux":{}},"ImageRef":%q,%s"LogPath":"/l","StopSignal":"SIGTERM","ProcessLabel":""}}`,
			version, config, config, more)
		c.Extensions = map[string]typeurl.Any{extensionCreated: &anypb.Any{TypeUrl: "github.com/containerd/cri/pkg/store/container/Metadata", Value: []byte(value)}}
	}
}

func idOf(t *testing.T, config ocispec.Image) digest.Digest {
	t.Helper()
	data, err := json.Marshal(config)
	if err != nil {
		t.Fatal(err)
	}
	return digest.FromBytes(data)
}

// TestBase has a container of an image named "wanted", whose layers other images have, too.
func TestBase(t *testing.T) {
	const name, layers = "registry.example.com/team/base:v1", "shared"
	wantedID := idOf(t, imageOf("wanted", layers))
	pinned := "other.example.com:5000/x@" + digest.FromString("pinned").String()
	missing := ocispec.Descriptor{MediaType: ocispec.MediaTypeImageManifest, Digest: digest.FromString("of another platform"), Size: 9}
	manifest := func(n *node, image string, labels map[string]string) ocispec.Descriptor {
		return n.manifestOf(ocispec.MediaTypeImageManifest, image, layers, labels)
	}
	index := func(n *node, mediaType string, of ...ocispec.Descriptor) ocispec.Descriptor {
		return n.blob(mediaType, ocispec.Index{Manifests: of}, nil)
	}
	pulled := func(n *node) ocispec.Descriptor {
		return index(n, ocispec.MediaTypeImageIndex, manifest(n, "wanted", map[string]string{"as": "pulled"}))
	}
	noted, own := createdBy("v1", wantedID, ""), []string{"docker.io/team/base", "registry.example.com/team/base"}
	tests := map[string]struct {
		// prepare is what is on the node when the container is created, and then what becomes of it.
		prepare, then func(n *node)
		created       func(*containers.Container) // nil: it has no record
		repositories  []string
		marks         string // of the manifest
		fails         string
	}{
		"its name stands for it still": {
			prepare: func(n *node) { n.image(name, manifest(n, "wanted", nil)) }, created: noted, repositories: own,
		},
		"one platform of an index": {
			prepare: func(n *node) {
				n.image(name, index(n, ocispec.MediaTypeImageIndex, missing, manifest(n, "other", nil), manifest(n, "wanted", nil)))
			}, created: noted, repositories: own,
		},
		"one platform of an index in an index": {
			prepare: func(n *node) {
				n.image(name, index(n, ocispec.MediaTypeImageIndex, index(n, ocispec.MediaTypeImageIndex, manifest(n, "other", nil)), index(n, ocispec.MediaTypeImageIndex, manifest(n, "wanted", nil))))
			}, created: noted, repositories: own,
		},
		"one platform of a list of Docker's": {
			prepare: func(n *node) {
				n.image(name, index(n, images.MediaTypeDockerSchema2ManifestList, missing, manifest(n, "other", nil),
					n.manifestOf(images.MediaTypeDockerSchema2Manifest, "wanted", layers, nil)))
			}, created: noted, repositories: own,
		},
		"its tag has moved to another configuration of the same layers": {
			prepare: func(n *node) {
				n.image(name, manifest(n, "wanted", map[string]string{"containerd.io/distribution.source.mirror.example.com": "a/b,c"}))
				n.image("a.example.com/other-tenant/app:1", manifest(n, "other tenant", nil))
			},
			then: func(n *node) {
				n.image(pinned, manifest(n, "wanted", map[string]string{"containerd.io/distribution.source.mirror.example.com": "a/b,c"}))
				n.moves(name, manifest(n, "newer", nil))
			},
			created:      noted,
			repositories: append(own, "other.example.com:5000/x", "mirror.example.com/a/b", "mirror.example.com/c"),
		},
		"its tag has moved, it is known by its ID alone": {
			prepare: func(n *node) {
				n.image(name, manifest(n, "wanted", nil))
				n.image(wantedID.String(), manifest(n, "wanted", nil))
			},
			then:    func(n *node) { n.moves(name, manifest(n, "newer", nil)) },
			created: noted, repositories: own,
		},
		"all its names are gone, what they stood for is not": {
			prepare: func(n *node) { manifest(n, "wanted", nil); n.image(name, manifest(n, "newer", nil)) }, created: noted, repositories: own,
		},
		"all names of an image of Docker's are gone": {
			prepare: func(n *node) {
				n.manifestOf(images.MediaTypeDockerSchema2Manifest, "wanted", layers, nil)
				n.image(name, manifest(n, "newer", nil))
			}, created: noted, repositories: own,
		},
		"several manifests have its configuration, and it is known which was meant": {
			prepare: func(n *node) {
				n.image("a.example.com/x:1", manifest(n, "wanted", map[string]string{"as": "pushed by another"}))
				n.image("b.example.com/x:1", pulled(n))
			},
			created:      createdBy("v1", wantedID, fmt.Sprintf(`"ImageDigest":%q,"ImageName":"b.example.com/x:1",`, pulled(newNode(t)).Digest)),
			repositories: []string{"docker.io/team/base", "b.example.com/x", "registry.example.com/team/base"}, marks: "map[as:pulled]",
		},
		"another has its layers, its own configuration is gone": {
			prepare: func(n *node) { n.image(name, manifest(n, "newer", nil)) }, created: noted, fails: "team/base:v1, " + name + ", " + wantedID.String(),
		},
		"nothing of it is there": {prepare: func(n *node) { n.image(name, missing) }, created: noted, fails: name},
		"without a record, its name was not touched": {
			prepare: func(n *node) {
				n.image(name, manifest(n, "wanted", nil))
				n.image("a.example.com/a:1", manifest(n, "other tenant", nil))
			},
			repositories: own[1:],
		},
		"without a record, its name was moved": {
			prepare: func(n *node) { n.image(name, manifest(n, "wanted", nil)) },
			then:    func(n *node) { n.moves(name, manifest(n, "newer", nil)) }, fails: name,
		},
		"without a record, another has its layers": {prepare: func(n *node) { n.image("a.example.com/a:1", manifest(n, "other tenant", nil)) }, fails: name},
		"a record of a version to come": {
			prepare: func(n *node) { n.image(name, manifest(n, "wanted", nil)) }, created: createdBy("v2", wantedID, ""), repositories: own[1:],
		},
		"a record of a version to come, and its name was moved": {
			prepare: func(n *node) { n.image(name, manifest(n, "wanted", nil)) },
			then:    func(n *node) { n.moves(name, manifest(n, "newer", nil)) }, created: createdBy("v2", wantedID, ""), fails: `of version "v2"`,
		},
	}
	for what, test := range tests {
		t.Run(what, func(t *testing.T) {
			n := newNode(t)
			test.prepare(n)
			created := test.created
			if created == nil {
				created = func(*containers.Container) {}
			}
			n.container("asked", task.Status_RUNNING, created)
			if test.then != nil {
				test.then(n)
			}
			n.snapshots["asked"] = snapshots.Info{Parent: identity.ChainID(diffIDs(layers)).String()}
			c, err := n.client.Find(context.Background(), "pod", Ref{"main", "asked"})
			if err != nil {
				t.Fatal(err)
			}
			base, err := c.Base(context.Background())
			if test.fails != "" {
				if reasonOf(err) != result.CommitJobFailed || !strings.Contains(err.Error(), test.fails) {
					t.Errorf("got %+v, %v", base, err)
				}
				return
			}
			if err != nil {
				t.Fatal(err)
			}
			if base.Config.Author != "wanted" || !strings.Contains(string(base.RawConfig), `"wanted"`) || len(base.Manifest.Layers) != 2 {
				t.Errorf("base %+v", base.Base)
			}
			if marks := base.Manifest.Annotations["marks"]; test.marks != "" && marks != test.marks {
				t.Errorf("the manifest is the one with %s", marks)
			}
			if diff := cmp.Diff(test.repositories, base.Repositories); diff != "" {
				t.Error(diff)
			}
			if _, err := base.Open(context.Background(), base.Manifest.Layers[0]); !errdefs.IsNotFound(err) {
				t.Errorf("a layer that is not there: %v", err)
			}
			blob, err := base.Open(context.Background(), base.Manifest.Config)
			if err != nil {
				t.Fatal(err)
			}
			if data, err := io.ReadAll(blob); err != nil || string(data) != string(base.RawConfig) {
				t.Errorf("read %q, %v", data, err)
			}
		})
	}
}

// TestLayersMustFit has a record that names another image than the container lies on.
func TestLayersMustFit(t *testing.T) {
	n := newNode(t)
	n.image("registry.example.com/team/base:v1", n.manifest("wanted", nil))
	n.container("asked", task.Status_RUNNING, createdBy("v1", idOf(t, imageOf("wanted", "wanted")), ""))
	n.snapshots["asked"] = snapshots.Info{Parent: identity.ChainID(diffIDs("another")).String()}
	c, err := n.client.Find(context.Background(), "pod", Ref{"main", "asked"})
	if err != nil {
		t.Fatal(err)
	}
	if base, err := c.Base(context.Background()); err == nil {
		t.Errorf("got %+v", base)
	}
}

// TestRegistriesWithPorts has blobs that containerd has labelled with the registry's host name alone.
func TestRegistriesWithPorts(t *testing.T) {
	n := newNode(t)
	n.image("10.88.0.1:15000/x:1", n.manifest("wanted", map[string]string{"containerd.io/distribution.source.10.88.0.1": "x,y"}))
	n.container("asked", task.Status_RUNNING, createdBy("v1", idOf(t, imageOf("wanted", "wanted")), `"ImageName":"10.88.0.1:15000/x:1",`))
	n.snapshots["asked"] = snapshots.Info{Parent: identity.ChainID(diffIDs("wanted")).String()}
	c, err := n.client.Find(context.Background(), "pod", Ref{"main", "asked"})
	if err != nil {
		t.Fatal(err)
	}
	base, err := c.Base(context.Background())
	if err != nil {
		t.Fatal(err)
	}
	want := []string{"docker.io/team/base", "10.88.0.1:15000/x", "registry.example.com/team/base", "10.88.0.1/y"}
	if diff := cmp.Diff(want, base.Repositories); diff != "" {
		t.Error(diff)
	}
}

// silentStore is the content of a containerd that is being restarted.
type silentStore struct{ content.Store }

// ReaderAt implements content.Provider.
func (silentStore) ReaderAt(context.Context, ocispec.Descriptor) (content.ReaderAt, error) {
	return nil, fmt.Errorf("%w: connection refused", errdefs.ErrUnavailable)
}

// TestAContainerdThatIsAwayHasNotLostTheImage: who takes it for that looks for another way to the base, and names a wrong cause.
func TestAContainerdThatIsAwayHasNotLostTheImage(t *testing.T) {
	n := newNode(t)
	n.image("registry.example.com/team/base:v1", n.manifest("wanted", nil))
	n.container("asked", task.Status_RUNNING, createdBy("v1", idOf(t, imageOf("wanted", "wanted")), ""))
	n.snapshots["asked"] = snapshots.Info{Parent: identity.ChainID(diffIDs("wanted")).String()}
	c, err := n.client.Find(context.Background(), "pod", Ref{"main", "asked"})
	if err != nil {
		t.Fatal(err)
	}
	n.client.content = silentStore{n.client.content}
	_, err = c.Base(context.Background())
	if !errdefs.IsUnavailable(err) || errors.Is(err, image.ErrNoMatch) || strings.Contains(err.Error(), "none of the") {
		t.Errorf("got %v", err)
	}
	var gone *Gone
	if errors.As(err, &gone) {
		t.Errorf("the image is said to be gone: %v", gone)
	}
}
