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
	"os"
	"strings"
	"time"

	"github.com/containerd/containerd/v2/core/containers"
	"github.com/containerd/containerd/v2/core/leases"
	"github.com/containerd/containerd/v2/core/mount"
	"github.com/containerd/errdefs"

	"github.com/opensandbox-io/sandbox-apiserver/pkg/committer/result"
)

// Of each container the kubelet keeps one that has ended, the last, and removes the one before as soon as
// another ends; of a Pod that it evicts it removes all within a second of their end.
// https://github.com/kubernetes/kubernetes/blob/v1.37.2/pkg/kubelet/pod_container_deletor.go
// https://github.com/kubernetes/kubernetes/blob/v1.37.2/pkg/kubelet/pod_workers.go (ShouldPodContentBeRemoved)
// So what an ended container has written is taken from it before anything else is done: from then on the
// kubelet may remove the container while its files are read.

// FindEnded returns the container ref of a Pod as it has ended, whatever runs in its place by now, and no other than
// that: an ID is what is known of it.
func (c *Client) FindEnded(ctx context.Context, podUID string, ref Ref) (*Container, error) {
	record, err := c.containers.Get(c.in(ctx), ref.ID)
	if isNotFound(err) {
		return nil, result.Wrap(result.ContainerNotFound, err, "container %q (%s), which has ended, is not on its node any more: the kubelet has removed it, and its files with it", ref.Name, ref.ID)
	}
	if err != nil {
		return nil, fmt.Errorf("looking for container %q (%s), which has ended, in containerd: %w", ref.Name, ref.ID, err)
	}
	if err := belongs(record, podUID, ref); err != nil {
		return nil, err
	}
	state, err := c.state(ctx, ref.ID)
	if err != nil {
		return nil, err
	}
	if state != Ended {
		return nil, result.Errorf(result.ContainerNotFound, "container %q (%s) was to be committed as it has ended, and it is %s", ref.Name, ref.ID, state)
	}
	return &Container{client: c, podUID: podUID, ref: ref, record: record, past: true}, nil
}

// labelRefKept leads containerd's collector from a container to what was taken from it.
const labelRefKept = labelRefSnapshot // and the snapshotter

func keptKey(id string) string { return "ended-" + id }

// Keep takes what an ended container has written from it: its snapshot gets another name, which nobody asks for and
// the lease holds, until release is called or ttl is over. The container holds it, too, for as long as there is
// one: should this attempt fail, the next finds it. It is no copy. Where the snapshotter has no directory for it,
// nothing is done, and release is nil.
func (c *Container) Keep(ctx context.Context, lease string, ttl time.Duration) (release func(context.Context) error, err error) {
	in := c.client.in(ctx)
	sn, key := c.snapshotter(), keptKey(c.ref.ID)
	files, err := c.Files(ctx)
	taken := false
	if reasoned := (*result.Error)(nil); errors.As(err, &reasoned) && reasoned.Reason == result.ContainerNotFound {
		if _, statErr := sn.Stat(in, key); statErr != nil {
			return nil, err
		}
		taken = true
	} else if err != nil || files.Upperdir == "" || files.Incomparable != "" {
		return nil, err
	}
	if _, err := c.client.leases.Create(in, leases.WithID(lease), leases.WithExpiration(ttl)); err != nil && !errdefs.IsAlreadyExists(err) {
		return nil, fmt.Errorf("creating the lease %s: %w", lease, err)
	}
	release = func(ctx context.Context) error {
		err := c.client.leases.Delete(c.client.in(ctx), leases.Lease{ID: lease})
		if isNotFound(err) {
			return nil
		}
		return err
	}
	if taken {
		resource := leases.Resource{Type: "snapshots/" + c.record.Snapshotter, ID: key}
		if err := c.client.leases.AddResource(in, leases.Lease{ID: lease}, resource); err != nil {
			return release, fmt.Errorf("adding %s %s to the lease %s: %w", resource.Type, resource.ID, lease, err)
		}
		files, err = c.filesAside(leases.WithLease(in, lease), key, lease)
	} else {
		err = c.takeAside(leases.WithLease(in, lease), key)
	}
	if err != nil {
		return release, err
	}
	c.record.SnapshotKey, c.kept = key, &files
	return release, nil
}

// takeAside gives the container's snapshot the name key.
func (c *Container) takeAside(ctx context.Context, key string) error {
	label := labelRefKept + c.record.Snapshotter
	labeled := containers.Container{ID: c.ref.ID, Labels: map[string]string{label: key}}
	_, err := c.client.containers.Update(ctx, labeled, "labels."+label)
	if err == nil {
		err = c.snapshotter().Commit(ctx, key, c.record.SnapshotKey)
	}
	if isNotFound(err) {
		return result.Wrap(result.ContainerNotFound, err, "container %q (%s), which has ended, was removed from its node at this moment, and its files with it", c.ref.Name, c.ref.ID)
	}
	if err != nil {
		return fmt.Errorf("taking the files of container %q (%s), which has ended, from it: %w", c.ref.Name, c.ref.ID, err)
	}
	return nil
}

// filesAside finds the files that an earlier attempt has taken. Of a snapshot that nobody writes to any more only
// one above it says where it lies.
func (c *Container) filesAside(ctx context.Context, key, lease string) (files Files, err error) {
	spec, err := c.spec()
	if err != nil {
		return Files{}, err
	}
	sn, look := c.snapshotter(), lease+"-look-"+c.ref.ID
	mounts, err := sn.View(ctx, look, key)
	if errdefs.IsAlreadyExists(err) {
		mounts, err = sn.Mounts(ctx, look)
	}
	if err != nil {
		return Files{}, fmt.Errorf("looking at what was taken from container %q (%s): %w", c.ref.Name, c.ref.ID, err)
	}
	defer func() { err = errors.Join(err, sn.Remove(ctx, look)) }()
	dirs, userXattr := directories(mounts)
	if len(dirs) == 0 {
		return Files{}, result.Errorf(result.ContainerNotFound, "where the files are that were taken from container %q (%s) the snapshotter %s does not say (%s)", c.ref.Name, c.ref.ID, c.record.Snapshotter, typesOf(mounts))
	}
	files = Files{Upperdir: dirs[0], Lowerdirs: dirs[1:], UserXattr: userXattr, Users: spec.Linux.UIDMappings, Groups: spec.Linux.GIDMappings}
	files.Volumes = volumes(c.ref.ID, spec, files.Upperdir)
	return files, nil
}

// directories are those of the layers that mounts show, the topmost first.
func directories(mounts []mount.Mount) (dirs []string, userXattr bool) {
	if len(mounts) != 1 {
		return nil, false
	}
	if m := mounts[0]; m.Type == "bind" {
		return []string{m.Source}, false
	}
	files := overlayFiles(mounts)
	return files.Lowerdirs, files.UserXattr
}

// presentAside fails when what was taken from the container is being removed.
func (c *Container) presentAside(ctx context.Context) error {
	if _, err := c.snapshotter().Stat(ctx, c.record.SnapshotKey); isNotFound(err) {
		return result.Wrap(result.ContainerNotFound, err, "the files that were taken from container %q (%s), which has ended, are being removed", c.ref.Name, c.ref.ID)
	} else if err != nil {
		return fmt.Errorf("looking for the snapshot that was taken from container %q (%s): %w", c.ref.Name, c.ref.ID, err)
	}
	// These lie in the plugin's own directory of the container, and go with it.
	for _, v := range c.kept.Volumes {
		if _, err := os.Lstat(v.Dir); errors.Is(err, os.ErrNotExist) {
			return result.Wrap(result.ContainerNotFound, err, "the kubelet has removed container %q (%s), which has ended, while it was read, and with it what was in the volume %s of its image", c.ref.Name, c.ref.ID, strings.TrimSuffix(v.Path, "/"))
		}
	}
	return nil
}
