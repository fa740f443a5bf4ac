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

	"github.com/containerd/containerd/v2/core/diff"
	"github.com/containerd/containerd/v2/core/leases"
	"github.com/containerd/containerd/v2/pkg/labels"
	"github.com/containerd/containerd/v2/pkg/rootfs"
	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/opensandbox-io/sandbox-apiserver/pkg/committer/result"
)

// Compared is a layer that containerd made, in its content store.
type Compared struct {
	Descriptor ocispec.Descriptor
	DiffID     digest.Digest
	// Open reads it, compressed.
	Open func(context.Context) (io.ReadCloser, error)
}

// Compare lets containerd compare the container's files with those of its image, whatever
// the snapshotter. That takes time in proportion to the image and to the node's disk, cuts
// times to seconds, and knows no extended attributes but capabilities: it is for where
// Files finds no directory that has the changes alone. The media type says how the layer is
// compressed. The result is kept as long as what Hold holds.
func (c *Container) Compare(ctx context.Context, mediaType string) (*Compared, error) {
	ctx = leases.WithLease(c.client.in(ctx), c.client.lease)
	reference := "image-committer-" + c.ref.ID
	// What an attempt that was killed left half-written.
	if err := c.client.content.Abort(ctx, reference); err != nil && !isNotFound(err) {
		return nil, fmt.Errorf("giving up an earlier comparison of container %q: %w", c.ref.Name, err)
	}
	made, err := rootfs.CreateDiff(ctx, c.record.SnapshotKey, c.snapshotter(), c.client.diff,
		diff.WithMediaType(mediaType), diff.WithReference(reference))
	if err != nil {
		return nil, fmt.Errorf("letting containerd compare the files of container %q with its image (snapshotter %s): %w", c.ref.Name, c.record.Snapshotter, err)
	}
	info, err := c.client.content.Info(ctx, made.Digest)
	if err != nil {
		return nil, fmt.Errorf("looking for the layer %s of container %q that containerd made: %w", made.Digest, c.ref.Name, err)
	}
	diffID, err := digest.Parse(info.Labels[labels.LabelUncompressed])
	if err != nil {
		return nil, result.Errorf(result.CommitJobFailed, "containerd does not say what the layer %s of container %q is uncompressed: %w", made.Digest, c.ref.Name, err)
	}
	return &Compared{Descriptor: made, DiffID: diffID, Open: func(ctx context.Context) (io.ReadCloser, error) {
		return c.client.open(ctx, made)
	}}, nil
}
