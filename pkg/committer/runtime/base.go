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
	"fmt"
	"io"
	"net"
	"slices"
	"strings"

	"github.com/containerd/containerd/v2/core/content"
	"github.com/containerd/containerd/v2/core/images"
	"github.com/containerd/containerd/v2/core/leases"
	"github.com/containerd/containerd/v2/pkg/labels"
	"github.com/containerd/errdefs"
	"github.com/distribution/reference"
	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/opensandbox-io/sandbox-apiserver/pkg/committer/image"
)

// Base is the image below a container.
type Base struct {
	*image.Base
	// Repositories are where it may have come from, as registry/repository, the
	// likeliest first.
	Repositories []string
	// Resources are what a lease has to hold for a commit.
	Resources []leases.Resource

	client *Client
}

// Base finds the image that the container was created from, by what the runtime noted of it: by its
// configuration, which is what the kubelet calls its ID. Neither a name proves anything, for a tag moves, nor do
// layers, which images of other commands, users and tenants share. It fails with *Gone where the node does not have it.
func (c *Container) Base(ctx context.Context) (*Base, error) {
	ctx = c.client.in(ctx)
	snapshot, err := c.snapshotter().Stat(ctx, c.record.SnapshotKey)
	if err != nil {
		return nil, fmt.Errorf("looking for the snapshot of container %q: %w", c.ref.Name, err)
	}
	all, err := c.client.images.List(ctx)
	if err != nil {
		return nil, fmt.Errorf("listing containerd's images: %w", err)
	}
	noted, unreadable := c.createdFrom() // without it the image's name is what is left
	wanted := image.Wanted{ChainID: digest.Digest(snapshot.Parent), Config: noted.ImageRef}
	found, target, err := c.client.find(ctx, c.candidates(all, noted), wanted)
	if errors.Is(err, image.ErrNoMatch) && noted.ImageRef != "" {
		// Its names may be gone, and what they named be there still.
		var manifests []ocispec.Descriptor
		if manifests, err = c.client.manifestsOf(ctx, noted.ImageRef); err == nil {
			found, target, err = c.client.find(ctx, manifests, wanted)
		}
	}
	if errors.Is(err, image.ErrNoMatch) {
		return nil, c.gone(ctx, len(all), noted, wanted, unreadable)
	}
	if err != nil {
		return nil, fmt.Errorf("looking for the image of container %q: %w", c.ref.Name, err)
	}
	found.Name = c.nameOf(noted)
	return &Base{
		Base:         found,
		Repositories: c.repositories(ctx, all, noted, target, found),
		Resources: []leases.Resource{
			// Labels of the manifest's blob lead the collector to all that it names.
			{Type: "content", ID: found.Digest.String()},
			{Type: "snapshots/" + c.record.Snapshotter, ID: c.record.SnapshotKey},
		},
		client: c.client,
	}, nil
}

// candidates are what may be the container's image, the likeliest first: several manifests can name one
// configuration, when layers were compressed anew. Of a container without a record it is what its image's name
// stands for, unless that was changed since.
func (c *Container) candidates(all []images.Image, noted created) []ocispec.Descriptor {
	var targets []ocispec.Descriptor
	slices.SortStableFunc(all, func(a, b images.Image) int { return c.rank(a, noted) - c.rank(b, noted) })
	for _, candidate := range all {
		if noted.ImageRef == "" && (candidate.Name != c.record.Image || candidate.UpdatedAt.After(c.record.CreatedAt)) {
			continue
		}
		if !slices.ContainsFunc(targets, func(known ocispec.Descriptor) bool { return known.Digest == candidate.Target.Digest }) {
			targets = append(targets, candidate.Target)
		}
	}
	return targets
}

func (c *Container) rank(candidate images.Image, noted created) int {
	switch {
	case candidate.Target.Digest == noted.ImageDigest:
		return 0
	case candidate.Name == c.record.Image:
		return 1
	case candidate.Name == noted.ImageRef.String():
		return 2
	}
	return 3
}

// find returns the first of the targets that is the wanted image, or has it as one of its platforms.
func (c *Client) find(ctx context.Context, targets []ocispec.Descriptor, wanted image.Wanted) (*image.Base, ocispec.Descriptor, error) {
	for _, target := range targets {
		found, err := image.Resolve(ctx, c.content, target, wanted)
		if err == nil {
			return found, target, nil
		}
		if ctx.Err() != nil {
			return nil, target, context.Cause(ctx)
		}
		// A containerd that is being restarted has not said that the image is another one.
		if errdefs.IsUnavailable(err) {
			return nil, target, fmt.Errorf("%w: containerd does not answer what %s is: %s", errdefs.ErrUnavailable, target.Digest, err.Error())
		}
	}
	return nil, ocispec.Descriptor{}, image.ErrNoMatch
}

// manifestsOf are the manifests that name a configuration, wherever they lie: containerd labels each with it.
func (c *Client) manifestsOf(ctx context.Context, config digest.Digest) ([]ocispec.Descriptor, error) {
	var all []ocispec.Descriptor
	err := c.content.Walk(ctx, func(info content.Info) error {
		// Docker's schema 2 manifests are read as this type, too.
		all = append(all, ocispec.Descriptor{MediaType: ocispec.MediaTypeImageManifest, Digest: info.Digest, Size: info.Size})
		return nil
	}, fmt.Sprintf("labels.%q==%q", labelRefConfig, config))
	return all, err
}

// nameOf is what the container's image was asked for by.
func (c *Container) nameOf(noted created) string {
	if name := normalized(noted.Config.Image.UserSpecifiedImage); name != "" {
		return name
	}
	return c.record.Image
}

// namesOf is how a person knows the container's image.
func (c *Container) namesOf(noted created) string {
	var names []string
	for _, name := range []string{noted.Config.Image.UserSpecifiedImage, noted.ImageName, c.record.Image, noted.ImageRef.String()} {
		if name != "" && !slices.Contains(names, name) {
			names = append(names, name)
		}
	}
	return strings.Join(names, ", ")
}

// repositories are where the image may have come from: its names, and what containerd noted when it pulled the
// blobs. The container's own come first.
func (c *Container) repositories(ctx context.Context, all []images.Image, noted created, target ocispec.Descriptor, base *image.Base) []string {
	var repos []string
	add := func(repo string) {
		if repo != "" && !slices.Contains(repos, repo) {
			repos = append(repos, repo)
		}
	}
	add(repositoryOf(normalized(noted.Config.Image.UserSpecifiedImage)))
	add(repositoryOf(noted.ImageName))
	add(repositoryOf(c.record.Image))
	for _, other := range all {
		if other.Target.Digest == target.Digest {
			add(repositoryOf(other.Name))
		}
	}
	named := repos
	blobs := append([]ocispec.Descriptor{target, {Digest: base.Digest}}, base.Manifest.Layers...)
	if target.Digest == base.Digest {
		blobs = blobs[1:] // an image of one platform
	}
	for _, blob := range blobs {
		info, err := c.client.content.Info(ctx, blob.Digest)
		if err != nil {
			continue // discarded after unpacking
		}
		for label, value := range info.Labels {
			host, ok := strings.CutPrefix(label, labels.LabelDistributionSource+".")
			if !ok {
				continue
			}
			for repo := range strings.SplitSeq(value, ",") {
				if !slices.ContainsFunc(named, func(known string) bool { return withoutPort(known) == host+"/"+repo }) {
					add(host + "/" + repo)
				}
			}
		}
	}
	return repos
}

// withoutPort is a repository as containerd labels blobs with it: host names only.
// https://github.com/containerd/containerd/blob/main/core/remotes/docker/handler.go
func withoutPort(repo string) string {
	registry, path, _ := strings.Cut(repo, "/")
	if host, _, err := net.SplitHostPort(registry); err == nil {
		registry = host
	}
	return registry + "/" + path
}

// normalized is the whole name of an image that a Pod names, which may leave out what is Docker Hub's; empty where it is
// an image's ID.
func normalized(image string) string {
	if _, err := digest.Parse(image); err == nil {
		return ""
	}
	named, err := reference.ParseDockerRef(image)
	if err != nil {
		return ""
	}
	return named.String()
}

// repositoryOf is an image's name without tag and digest; empty for the names
// that are only an image's ID ("sha256:…").
func repositoryOf(name string) string {
	name, _, _ = strings.Cut(name, "@")
	registry, rest, ok := strings.Cut(name, "/")
	if !ok {
		return ""
	}
	rest, _, _ = strings.Cut(rest, ":")
	return registry + "/" + rest
}

// Open reads a blob of the image from the node.
func (b *Base) Open(ctx context.Context, d ocispec.Descriptor) (io.ReadCloser, error) {
	return b.client.open(ctx, d)
}

func (c *Client) open(ctx context.Context, d ocispec.Descriptor) (io.ReadCloser, error) {
	blob, err := c.content.ReaderAt(c.in(ctx), d)
	if err != nil {
		return nil, err
	}
	return struct {
		io.Reader
		io.Closer
	}{content.NewReader(blob), blob}, nil
}
