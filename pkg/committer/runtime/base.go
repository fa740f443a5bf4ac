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

	"github.com/containerd/containerd/v2/core/content"
	"github.com/containerd/containerd/v2/core/images"
	"github.com/containerd/containerd/v2/core/leases"
	"github.com/containerd/containerd/v2/pkg/labels"
	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/opensandbox-io/sandbox-apiserver/pkg/committer/image"
	"github.com/opensandbox-io/sandbox-apiserver/pkg/committer/result"
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

// Base finds the image whose unpacked layers are the parent of the container's
// snapshot. The image's name alone proves nothing: it is a tag that may have
// moved since the container was created.
func (c *Container) Base(ctx context.Context) (*Base, error) {
	ctx = c.client.in(ctx)
	snapshot, err := c.snapshotter().Stat(ctx, c.record.SnapshotKey)
	if err != nil {
		return nil, fmt.Errorf("looking for the snapshot of container %q: %w", c.ref.Name, err)
	}
	chainID := digest.Digest(snapshot.Parent)
	all, err := c.client.images.List(ctx)
	if err != nil {
		return nil, fmt.Errorf("listing containerd's images: %w", err)
	}
	// The container's own image nearly always fits.
	slices.SortStableFunc(all, func(a, b images.Image) int {
		return boolRank(a.Name == c.record.Image) - boolRank(b.Name == c.record.Image)
	})
	tried := map[digest.Digest]bool{}
	for _, candidate := range all {
		if tried[candidate.Target.Digest] {
			continue
		}
		tried[candidate.Target.Digest] = true
		found, err := image.Resolve(ctx, c.client.content, candidate.Target, chainID)
		if err != nil {
			continue
		}
		return &Base{
			Base:         found,
			Repositories: c.client.repositories(ctx, all, candidate, found),
			Resources: []leases.Resource{
				// Labels of the manifest's blob lead the collector to all that it names.
				{Type: "content", ID: found.Digest.String()},
				{Type: "snapshots/" + c.record.Snapshotter, ID: c.record.SnapshotKey},
			},
			client: c.client,
		}, nil
	}
	return nil, result.Errorf(result.CommitJobFailed, "none of the %d images on the node is the one that container %q was created from (%s, unpacked as %s); pulling it again on this node brings it back", len(tried), c.ref.Name, c.record.Image, chainID)
}

func boolRank(first bool) int {
	if first {
		return 0
	}
	return 1
}

// repositories collects the names of an image and what containerd noted when it
// pulled the blobs.
func (c *Client) repositories(ctx context.Context, all []images.Image, found images.Image, base *image.Base) []string {
	var repos []string
	add := func(repo string) {
		if repo != "" && !slices.Contains(repos, repo) {
			repos = append(repos, repo)
		}
	}
	add(repositoryOf(found.Name))
	for _, other := range all {
		if other.Target.Digest == found.Target.Digest {
			add(repositoryOf(other.Name))
		}
	}
	blobs := append([]ocispec.Descriptor{found.Target, {Digest: base.Digest}}, base.Manifest.Layers...)
	if found.Target.Digest == base.Digest {
		blobs = blobs[1:] // an image of one platform
	}
	for _, blob := range blobs {
		info, err := c.content.Info(ctx, blob.Digest)
		if err != nil {
			continue // discarded after unpacking
		}
		for label, value := range info.Labels {
			host, ok := strings.CutPrefix(label, labels.LabelDistributionSource+".")
			if !ok {
				continue
			}
			for repo := range strings.SplitSeq(value, ",") {
				add(host + "/" + repo)
			}
		}
	}
	return repos
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
