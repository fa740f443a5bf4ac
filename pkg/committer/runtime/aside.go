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
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"time"

	tasks "github.com/containerd/containerd/api/services/tasks/v1"
	"github.com/containerd/containerd/v2/core/content"
	"github.com/containerd/containerd/v2/core/images"
	"github.com/containerd/containerd/v2/core/leases"
	"github.com/containerd/containerd/v2/core/snapshots"
	"github.com/containerd/errdefs"
	"github.com/containerd/errdefs/pkg/errgrpc"
	"github.com/opencontainers/go-digest"
	"github.com/opencontainers/image-spec/identity"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
	"golang.org/x/sys/unix"

	"github.com/opensandbox-io/sandbox-apiserver/pkg/committer/image"
)

// Labels that lead containerd's collector from a blob to what it needs.
// https://github.com/containerd/containerd/blob/main/docs/garbage-collection.md
const (
	labelRefConfig   = "containerd.io/gc.ref.content.config"
	labelRefSnapshot = "containerd.io/gc.ref.snapshot."
)

// cacheLease is the lease of what a snapshot may leave on its node.
func cacheLease(snapshotUID string) string { return "resume-cache-" + snapshotUID }

// Remember writes what describes an image, not its layers, into containerd's content store,
// where it stays for as long as the cache lease of the snapshot.
func (c *Client) Remember(ctx context.Context, snapshotUID string, ttl time.Duration, made *image.Image) error {
	ctx = c.in(ctx)
	lease := cacheLease(snapshotUID)
	if _, err := c.leases.Create(ctx, leases.WithID(lease), leases.WithExpiration(ttl)); err != nil && !errdefs.IsAlreadyExists(err) {
		return fmt.Errorf("creating the lease %s: %w", lease, err)
	}
	ctx = leases.WithLease(ctx, lease)
	config := ocispec.Descriptor{MediaType: ocispec.MediaTypeImageConfig, Digest: made.ConfigDigest, Size: int64(len(made.Config))}
	manifest := ocispec.Descriptor{MediaType: ocispec.MediaTypeImageManifest, Digest: made.ManifestDigest, Size: int64(len(made.Manifest))}
	if err := content.WriteBlob(ctx, c.content, lease+config.Digest.String(), bytes.NewReader(made.Config), config); err != nil {
		return fmt.Errorf("writing the configuration %s into containerd: %w", config.Digest, err)
	}
	err := content.WriteBlob(ctx, c.content, lease+manifest.Digest.String(), bytes.NewReader(made.Manifest), manifest,
		content.WithLabels(map[string]string{labelRefConfig: config.Digest.String()}))
	if err != nil {
		return fmt.Errorf("writing the manifest %s into containerd: %w", manifest.Digest, err)
	}
	return nil
}

// Forget lets go of all that the snapshot's lease holds; what nothing else needs is collected.
func (c *Client) Forget(ctx context.Context, snapshotUID string) error {
	err := c.leases.Delete(c.in(ctx), leases.Lease{ID: cacheLease(snapshotUID)})
	if isNotFound(err) {
		return nil
	}
	return err
}

// Aside is the layer that a container has written, taken from it before it ends.
type Aside struct {
	// Files is where it lies; its upper directory is not the container's any more.
	Files Files
	// Committed is when all of it had been read.
	Committed time.Time
	// Bytes is what it takes on the disk, together with the layers below that were kept
	// in this way.
	Bytes int64

	client      *Client
	containerID string
	snapshotter string
	key         string
	sandboxUID  string
	snapshotUID string
	pushed      *image.Base
	target      ocispec.Descriptor
}

// SetAside takes the layer of a container, which must be frozen and about to be killed, before
// Kubernetes removes both: the container's snapshot gets another name, which nobody asks for
// and the snapshot's cache lease holds. manifest is that of the image that it was committed to.
//
// It is no copy. Nothing but the container's own processes writes there, and they end.
func (c *Container) SetAside(ctx context.Context, sandboxUID, snapshotUID string, manifest digest.Digest) (*Aside, error) {
	files, err := c.Files(ctx)
	switch {
	case err != nil:
		return nil, err
	case files.Upperdir == "":
		return nil, errors.New(files.Why)
	case len(files.Users)+len(files.Groups) > 0:
		return nil, errors.New("its owners are those of a user namespace (hostUsers: false), not those of its image")
	case len(files.Lowerdirs) == 0:
		return nil, errors.New("its snapshotter has no directories of its image's layers")
	case len(files.Volumes) > 0:
		return nil, errors.New("its image declares volumes, whose content is not in its layer")
	}
	a := &Aside{Files: files, client: c.client, containerID: c.ref.ID, snapshotter: c.record.Snapshotter, key: "resume-cache-" + c.ref.ID, sandboxUID: sandboxUID, snapshotUID: snapshotUID}
	ctx = a.in(ctx)
	if err := a.read(ctx, manifest); err != nil {
		return nil, err
	}
	sn := c.snapshotter()
	info, err := sn.Stat(ctx, c.record.SnapshotKey)
	if err != nil {
		return nil, fmt.Errorf("looking for its snapshot: %w", err)
	}
	if !a.liesOn(info.Parent) {
		return nil, errors.New("the layers of its image are not those that it lies on, and one or two more: they were merged, or made again")
	}
	if err := sn.Commit(ctx, a.key, c.record.SnapshotKey, snapshots.WithLabels(map[string]string{labelCached: sandboxUID})); err != nil {
		return nil, fmt.Errorf("setting its snapshot aside: %w", err)
	}
	a.Bytes, err = a.measure(ctx)
	return a, err
}

// in is for calls that make something, which the lease is to hold.
func (a *Aside) in(ctx context.Context) context.Context {
	return leases.WithLease(a.client.in(ctx), cacheLease(a.snapshotUID))
}

// read reads the image that was pushed.
func (a *Aside) read(ctx context.Context, manifest digest.Digest) error {
	info, err := a.client.content.Info(ctx, manifest)
	if err != nil {
		return fmt.Errorf("looking for what its commit left of the manifest: %w", err)
	}
	a.target = ocispec.Descriptor{MediaType: ocispec.MediaTypeImageManifest, Digest: manifest, Size: info.Size}
	if a.pushed, err = image.Read(ctx, a.client.content, a.target); err != nil {
		return fmt.Errorf("reading the image %s: %w", manifest, err)
	}
	if uid := a.pushed.Manifest.Annotations[image.SnapshotUIDAnnotation]; uid != a.snapshotUID {
		return fmt.Errorf("the image %s is of the snapshot %q", manifest, uid)
	}
	history := a.pushed.Config.History
	if a.pushed.OwnLayers() == 0 || history[len(history)-1].Created == nil {
		return fmt.Errorf("the image %s does not say when it was committed", manifest)
	}
	a.Committed = *history[len(history)-1].Created
	return nil
}

// liesOn is whether the image has exactly what a commit adds above the snapshot parent: one
// layer, or two where the first was read while the container ran.
func (a *Aside) liesOn(parent string) bool {
	diffIDs := a.pushed.Config.RootFS.DiffIDs
	for added := 1; added <= 2 && added < len(diffIDs); added++ {
		if identity.ChainID(diffIDs[:len(diffIDs)-added]).String() == parent {
			return true
		}
	}
	return false
}

// measure is what the cache holds on the disk for this image alone.
func (a *Aside) measure(ctx context.Context) (int64, error) {
	sn := a.client.snapshots(a.snapshotter)
	total := int64(0)
	for key := a.key; key != ""; {
		info, err := sn.Stat(ctx, key)
		if err != nil {
			return 0, fmt.Errorf("looking for the snapshot %s: %w", key, err)
		}
		if info.Labels[labelCached] != "" {
			usage, err := sn.Usage(ctx, key)
			if err != nil {
				return 0, fmt.Errorf("asking for the size of the snapshot %s: %w", key, err)
			}
			total += usage.Size
		}
		key = info.Parent
	}
	return total, nil
}

// Publish makes the layer, whose container has ended, that of an image on this node, under the
// reference that a resumed Pod asks for. cover writes what is to be put above the layer, as
// overlay.Cover does, and says whether it wrote something.
func (a *Aside) Publish(ctx context.Context, reference string, cover func(io.Writer) (bool, error)) error {
	ctx = a.in(ctx)
	chainID, err := a.name(ctx, cover)
	if err != nil {
		return err
	}
	config, label := a.pushed.Manifest.Config.Digest, labelRefSnapshot+a.snapshotter
	if _, err := a.client.content.Update(ctx, content.Info{Digest: config, Labels: map[string]string{label: chainID}}, "labels."+label); err != nil {
		return fmt.Errorf("tying the snapshot %s to the configuration %s: %w", chainID, config, err)
	}
	// Kubernetes' plugin knows an image by its ID, too; each name is one record.
	var made []string
	for _, name := range []string{config.String(), reference} {
		_, err := a.client.images.Create(ctx, images.Image{Name: name, Target: a.target, Labels: a.imageLabels()})
		if err != nil {
			return errors.Join(fmt.Errorf("creating the image %s: %w", name, err), a.client.removeImages(ctx, made))
		}
		made = append(made, name)
	}
	return nil
}

// name gives the layer the name that is looked for, its image's chain ID. A committed snapshot
// cannot be renamed: so it is one above it, with what covers it.
func (a *Aside) name(ctx context.Context, cover func(io.Writer) (bool, error)) (chainID string, err error) {
	sn, key := a.client.snapshots(a.snapshotter), a.key+"-cover"
	labels := snapshots.WithLabels(map[string]string{labelCached: a.sandboxUID})
	mounts, err := sn.Prepare(ctx, key, a.key, labels)
	if err != nil {
		return "", fmt.Errorf("preparing the snapshot %s: %w", key, err)
	}
	layer, err := a.ingest(ctx, key, cover)
	if err != nil {
		return "", err
	}
	if layer != nil {
		if _, err := a.client.applier.Apply(ctx, *layer, mounts); err != nil {
			return "", fmt.Errorf("letting containerd unpack what covers it: %w", err)
		}
	}
	// With its name before its files, it would be a broken image after a power failure.
	if err := syncDisk(a.Files.Upperdir); err != nil {
		return "", err
	}
	chainID = a.pushed.ChainID().String()
	if err := sn.Commit(ctx, chainID, key, labels); err != nil {
		return "", fmt.Errorf("committing the snapshot %s: %w", chainID, err)
	}
	return chainID, nil
}

// ingest writes what covers the layer into containerd; nil where that is nothing.
func (a *Aside) ingest(ctx context.Context, reference string, cover func(io.Writer) (bool, error)) (_ *ocispec.Descriptor, err error) {
	writer, err := content.OpenWriter(ctx, a.client.content, content.WithRef(reference))
	if err != nil {
		return nil, fmt.Errorf("writing into containerd: %w", err)
	}
	defer func() { err = errors.Join(err, writer.Close()) }()
	some, err := cover(writer)
	if err != nil || !some {
		return nil, errors.Join(err, a.client.content.Abort(ctx, reference))
	}
	if err := writer.Commit(ctx, 0, ""); err != nil && !errdefs.IsAlreadyExists(err) {
		return nil, fmt.Errorf("writing into containerd: %w", err)
	}
	info, err := a.client.content.Info(ctx, writer.Digest())
	if err != nil {
		return nil, fmt.Errorf("looking for what was written into containerd: %w", err)
	}
	return &ocispec.Descriptor{MediaType: ocispec.MediaTypeImageLayer, Digest: info.Digest, Size: info.Size}, nil
}

func syncDisk(path string) error {
	fd, err := unix.Open(path, unix.O_RDONLY|unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
	if err != nil {
		return fmt.Errorf("opening %s: %w", path, err)
	}
	defer func() { _ = unix.Close(fd) }()
	if err := unix.Syncfs(fd); err != nil {
		return fmt.Errorf("writing the disk of %s: %w", path, err)
	}
	return nil
}

// Gone is whether the container's task is, and with it the mount of its root filesystem.
func (a *Aside) Gone(ctx context.Context) (bool, error) {
	_, err := a.client.tasks.Get(a.client.in(ctx), &tasks.GetRequest{ContainerID: a.containerID})
	if err = errgrpc.ToNative(err); isNotFound(err) {
		return true, nil
	}
	return false, err
}
