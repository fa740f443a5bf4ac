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
	"slices"
	"strconv"
	"time"

	"github.com/containerd/containerd/v2/core/snapshots"
	"github.com/opencontainers/go-digest"
)

// Labels of the images and snapshots that are kept for a resume.
const (
	// labelCached is the UID of the sandbox that something is kept for.
	labelCached      = "lifecycle.opensandbox.io/resume-cache"
	labelCachedBytes = "lifecycle.opensandbox.io/resume-cache-bytes"
	// labelSnapshotter and labelChainID are where an image is unpacked.
	labelSnapshotter = "lifecycle.opensandbox.io/resume-cache-snapshotter"
	labelChainID     = "lifecycle.opensandbox.io/resume-cache-chain-id"
	// labelSnapshot is the UID of the SandboxSnapshot whose image it is.
	labelSnapshot = "lifecycle.opensandbox.io/snapshot-uid"

	// labelManaged is how Kubernetes' plugin marks an image that it may use and remove.
	labelManaged, managed = "io.cri-containerd.image", "managed"
)

// Cached is an image that is kept on the node for a resume.
type Cached struct {
	SandboxUID, SnapshotUID string

	Digest digest.Digest
	Names  []string
	Bytes  int64
	Since  time.Time
	// InUse is whether a container lies on it.
	InUse bool

	snapshotter, chainID string
}

func (a *Aside) imageLabels() map[string]string {
	return map[string]string{
		labelManaged:     managed,
		labelCached:      a.sandboxUID,
		labelSnapshot:    a.snapshotUID,
		labelCachedBytes: strconv.FormatInt(a.Bytes, 10),
		labelSnapshotter: a.snapshotter,
		labelChainID:     a.pushed.ChainID().String(),
	}
}

// Cached lists the images that are kept on the node, the oldest first.
func (c *Client) Cached(ctx context.Context) ([]*Cached, error) {
	ctx = c.in(ctx)
	records, err := c.images.List(ctx, fmt.Sprintf("labels.%q", labelCached))
	if err != nil {
		return nil, fmt.Errorf("listing containerd's images: %w", err)
	}
	var all []*Cached
	for _, record := range records {
		i := slices.IndexFunc(all, func(known *Cached) bool { return known.Digest == record.Target.Digest })
		if i < 0 {
			i = len(all)
			all = append(all, &Cached{
				SandboxUID: record.Labels[labelCached], SnapshotUID: record.Labels[labelSnapshot],
				Digest: record.Target.Digest, Since: record.CreatedAt,
				snapshotter: record.Labels[labelSnapshotter], chainID: record.Labels[labelChainID],
			})
		}
		// Without a number it is one that somebody has changed: it counts as nothing, and goes.
		bytes, _ := strconv.ParseInt(record.Labels[labelCachedBytes], 10, 64)
		all[i].Bytes = max(all[i].Bytes, bytes)
		all[i].Names = append(all[i].Names, record.Name)
	}
	for _, one := range all {
		if one.InUse, err = c.inUse(ctx, one); err != nil {
			return nil, err
		}
	}
	slices.SortStableFunc(all, func(a, b *Cached) int { return a.Since.Compare(b.Since) })
	return all, nil
}

// inUse is whether a container lies on the image, or is just being created there. Without the image
// it could not be paused any more.
func (c *Client) inUse(ctx context.Context, one *Cached) (bool, error) {
	if one.snapshotter == "" {
		return false, nil
	}
	used := false
	err := c.snapshots(one.snapshotter).Walk(ctx, func(_ context.Context, info snapshots.Info) error {
		used = used || info.Kind == snapshots.KindActive && info.Parent == one.chainID
		return nil
	})
	if err != nil {
		return false, fmt.Errorf("looking for containers of the image %s: %w", one.Digest, err)
	}
	return used, nil
}

// Drop removes a kept image from the node, and says whether it did: not where a container lies on
// it by now. Its layers go with it, unless something else needs them.
func (c *Client) Drop(ctx context.Context, one *Cached) (bool, error) {
	ctx = c.in(ctx)
	if used, err := c.inUse(ctx, one); err != nil || used {
		return false, err
	}
	return true, c.removeImages(ctx, one.Names)
}

func (c *Client) removeImages(ctx context.Context, names []string) error {
	var failed []error
	for _, name := range names {
		if err := c.images.Delete(ctx, name); err != nil && !isNotFound(err) {
			failed = append(failed, fmt.Errorf("removing the image %s: %w", name, err))
		}
	}
	return errors.Join(failed...)
}
