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

	"github.com/containerd/containerd/v2/core/images"
	"github.com/opencontainers/go-digest"

	"github.com/opensandbox-io/sandbox-apiserver/pkg/committer/image"
)

// Labels of the images and snapshots that are kept for a resume.
const (
	// LabelCached is the UID of the sandbox that something is kept for.
	LabelCached      = "lifecycle.opensandbox.io/resume-cache"
	labelCachedBytes = "lifecycle.opensandbox.io/resume-cache-bytes"
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
}

func (a *Aside) imageLabels() map[string]string {
	return map[string]string{
		labelManaged:     managed,
		LabelCached:      a.sandboxUID,
		labelSnapshot:    a.snapshotUID,
		labelCachedBytes: strconv.FormatInt(a.Bytes, 10),
	}
}

// Cached lists the images that are kept on the node, the oldest first.
func (c *Client) Cached(ctx context.Context) ([]*Cached, error) {
	ctx = c.in(ctx)
	records, err := c.images.List(ctx, fmt.Sprintf("labels.%q", LabelCached))
	if err != nil {
		return nil, fmt.Errorf("listing containerd's images: %w", err)
	}
	if len(records) == 0 {
		return nil, nil
	}
	used, err := c.used(ctx)
	if err != nil {
		return nil, err
	}
	var all []*Cached
	for _, record := range records {
		i := slices.IndexFunc(all, func(known *Cached) bool { return known.Digest == record.Target.Digest })
		if i < 0 {
			inUse, err := c.inUse(ctx, record, used)
			if err != nil {
				return nil, err
			}
			i = len(all)
			all = append(all, &Cached{SandboxUID: record.Labels[LabelCached], SnapshotUID: record.Labels[labelSnapshot], Digest: record.Target.Digest, Since: record.CreatedAt, InUse: inUse})
		}
		// Without the label it is one that somebody has changed: it counts as nothing, and goes.
		bytes, _ := strconv.ParseInt(record.Labels[labelCachedBytes], 10, 64)
		all[i].Bytes = max(all[i].Bytes, bytes)
		all[i].Names = append(all[i].Names, record.Name)
	}
	slices.SortStableFunc(all, func(a, b *Cached) int { return a.Since.Compare(b.Since) })
	return all, nil
}

// used are the snapshots that containers lie on.
func (c *Client) used(ctx context.Context) (map[string]bool, error) {
	containers, err := c.containers.List(ctx)
	if err != nil {
		return nil, fmt.Errorf("listing containerd's containers: %w", err)
	}
	used := map[string]bool{}
	for _, container := range containers {
		if container.SnapshotKey == "" {
			continue
		}
		info, err := c.snapshots(container.Snapshotter).Stat(ctx, container.SnapshotKey)
		if isNotFound(err) {
			continue // it is being removed, or was set aside
		}
		if err != nil {
			return nil, fmt.Errorf("looking for the snapshot of container %s: %w", container.ID, err)
		}
		used[info.Parent] = true
	}
	return used, nil
}

func (c *Client) inUse(ctx context.Context, record images.Image, used map[string]bool) (bool, error) {
	made, err := image.Read(ctx, c.content, record.Target)
	if isNotFound(err) {
		return false, nil // it can be of no use
	}
	if err != nil {
		return false, fmt.Errorf("reading the image %s: %w", record.Name, err)
	}
	return used[made.ChainID().String()], nil
}

// Drop removes a kept image from the node. Its layers go with it, unless something lies on them.
func (c *Client) Drop(ctx context.Context, cached *Cached) error {
	ctx = c.in(ctx)
	var failed []error
	for _, name := range cached.Names {
		if err := c.images.Delete(ctx, name); err != nil && !isNotFound(err) {
			failed = append(failed, fmt.Errorf("removing the image %s: %w", name, err))
		}
	}
	return errors.Join(failed...)
}
