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
	"fmt"
	"io"
	"slices"
	"strings"

	"github.com/containerd/containerd/v2/core/leases"
	"github.com/distribution/reference"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/opensandbox-io/sandbox-apiserver/pkg/committer/image"
)

// Gone is what Base fails with where the node does not have what describes a container's image any more: somebody
// removed it, or the kubelet did. Its unpacked layers are there all the same, for the container lies on them.
type Gone struct {
	// Wanted is what the image has to be; nothing can be found out about it where the runtime noted no configuration.
	Wanted image.Wanted
	// References are what may name it in a registry, the surest first.
	References []string
	// Resources are what a lease has to hold for a commit.
	Resources []leases.Resource
	// Name is what the image was asked for by.
	Name string
	// RawConfig is its configuration, where that alone is still there.
	RawConfig []byte
	// Remade tells of its configuration what can be told from the container.
	Remade func() (*ocispec.Image, error)
	// Open reads a blob from the node, should it be there after all.
	Open func(context.Context, ocispec.Descriptor) (io.ReadCloser, error)

	message string
}

// Error implements error.
func (g *Gone) Error() string { return g.message }

// gone is the failure of Base.
func (c *Container) gone(ctx context.Context, images int, noted created, wanted image.Wanted, unreadable error) *Gone {
	g := &Gone{
		Wanted: wanted, References: noted.references(), Name: c.nameOf(noted), Open: c.client.open,
		Remade:    func() (*ocispec.Image, error) { return c.remade(noted) },
		Resources: []leases.Resource{{Type: "snapshots/" + c.record.Snapshotter, ID: c.record.SnapshotKey}},
		message:   fmt.Sprintf("none of the %d images on the node is the one that container %q was created from (%s)", images, c.ref.Name, c.namesOf(noted)),
	}
	if unreadable != nil {
		g.message += ": " + unreadable.Error()
	}
	if repository := repositoryOf(c.record.Image); repository != "" && wanted.Config != "" && !slices.Contains(g.References, c.record.Image) {
		g.References = append(g.References, c.record.Image)
	}
	if wanted.Config != "" {
		// A lease or another image may hold it.
		if raw, err := image.ReadConfig(ctx, c.client.content, wanted.Config); err == nil {
			g.RawConfig = raw
		}
	}
	return g
}

// references are names by digest before those that may have moved. Each is checked against the configuration's digest.
func (n created) references() []string {
	var all []string
	add := func(name string) {
		if name != "" && !slices.Contains(all, name) {
			all = append(all, name)
		}
	}
	if n.ImageRef == "" {
		return nil
	}
	names := []string{normalized(n.Config.Image.UserSpecifiedImage), n.ImageName}
	for _, name := range names {
		if strings.Contains(name, "@") {
			add(name)
		}
	}
	for _, name := range names {
		if repository := repositoryOf(name); repository != "" && n.ImageDigest != "" {
			add(repository + "@" + n.ImageDigest.String())
		}
	}
	for _, name := range names {
		if parsed, err := reference.ParseNormalizedNamed(name); err == nil && repositoryOf(name) != "" {
			add(parsed.String())
		}
	}
	return all
}
