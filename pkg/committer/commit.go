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

// Package committer commits the root filesystems of a Pod's containers to OCI
// images: it freezes them, streams what each changed above its image to a
// registry, and pushes the image with that one layer more. What is large is read
// before the freeze, and a second layer has what changed since.
package committer

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"time"

	"github.com/containerd/containerd/v2/core/leases"
	"github.com/opencontainers/go-digest"
	runtimespec "github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sync/errgroup"

	"github.com/opensandbox-io/sandbox-apiserver/pkg/committer/image"
	"github.com/opensandbox-io/sandbox-apiserver/pkg/committer/layer"
	"github.com/opensandbox-io/sandbox-apiserver/pkg/committer/overlay"
	"github.com/opensandbox-io/sandbox-apiserver/pkg/committer/registry"
	"github.com/opensandbox-io/sandbox-apiserver/pkg/committer/result"
	"github.com/opensandbox-io/sandbox-apiserver/pkg/committer/runtime"
)

// CommitOptions are the arguments of one commit.
type CommitOptions struct {
	PodUID      string
	SnapshotUID string
	Containers  []ContainerImage
	// LeaveFrozen is for a pause: on success the containers stay frozen, so that
	// no write can come between the commit and the removal of the Pod.
	LeaveFrozen bool
	// ResumeCache is whether the images may be kept on the node when the containers
	// have been killed (pkg/committer/cache).
	ResumeCache bool
	Registry    registry.Options
	// BaseCredentials are files like Registry's ConfigFile, for the registries that base
	// images come from; BaseHint is what a person should know where those do not do.
	BaseCredentials []string
	BaseHint        string
	// BaseRepository is a repository of the registry (registry/repository) where the layers of base images are left for
	// other sandboxes, and taken from; or empty.
	BaseRepository string
	// MaxFrozen is for how long containers may be frozen before the attempt is
	// given up; 0 stands for as long as it takes.
	MaxFrozen time.Duration
	// MaxHoles is for how many bytes of holes in a container's sparse files an image is made; 0
	// stands for any. Each unpacking writes them to a node's disk, as zeros.
	MaxHoles int64
	// Patience is how long something may take to freeze; 0 stands for a little more than runc waits.
	Patience time.Duration
	// Compression is that of the layers that are made.
	Compression layer.Compression
	// SpoolDir is a directory for what is read of containers that are thawed at
	// once, until it is pushed. Without it they stay frozen until the registry has it.
	SpoolDir string
	// LeaseTTL is after what time containerd may forget an attempt that was killed.
	LeaseTTL time.Duration
	// Clock is what changes of files are told by; nil stands for the kernel's.
	Clock overlay.Clock
	Log   *slog.Logger
}

// ContainerImage is a container and the tag that it is pushed to.
type ContainerImage struct {
	runtime.Ref
	Image string
	// Ended says that the container is wanted as it has ended, and no other, though another may run in its place.
	Ended bool
}

// Commit commits and reports the outcome. The report of a success is part of
// it: when it fails, or when ctx has ended by then, everything is thawed as after
// any other failure, for nobody would know why containers are frozen.
// The cause of ctx's end should be an error with a reason.
func Commit(ctx context.Context, node Node, o CommitOptions, report func(result.Result) error) error {
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	c := &commit{CommitOptions: o, node: node, freezer: &freezer{log: o.Log, patience: o.Patience, most: o.MaxFrozen, late: func() {
		cancel(result.Errorf(result.FrozenTooLong, "containers were frozen for more than %s (--max-frozen)", o.MaxFrozen))
	}}}
	defer c.freezer.stopTimer()
	// After the thawing, which is urgent.
	defer c.letGo(ctx)
	defer c.letGoOfEnded(ctx)
	defer c.cancelUploads(ctx)
	return guard(ctx, c.freezer, o.Log, func() error {
		if err := c.run(ctx); err != nil {
			return c.interrupted(ctx, err)
		}
		if err := ctx.Err(); err != nil {
			return c.interrupted(ctx, err)
		}
		return report(c.result())
	}, report)
}

// commit is one attempt.
type commit struct {
	CommitOptions
	node    Node
	freezer *freezer
	parts   []*part
	pod     pod
	release func(context.Context) error
	// kept let go of what was taken from containers that have ended.
	kept   []func(context.Context) error
	client *registry.Client
	doing  string // for the message of an interruption

	warnings []result.Warning
}

// warn notes what the images do not hold, or what could not be guaranteed of them. Unlike
// all else it is said of a success.
func (c *commit) warn(w result.Warning) {
	c.Log.Warn(w.Message, "reason", w.Reason, "container", w.Container, "path", w.Path)
	c.warnings = append(c.warnings, w)
}

// part is one container on its way to an image.
type part struct {
	ContainerImage
	container Container
	target    *registry.Target
	// compression is that of the layers that are made.
	compression layer.Compression
	upload      *registry.Upload // for the configuration; nil once it is ended
	files       runtime.Files
	found       overlay.Found
	apart       bool // whether its layer is none by itself
	volumes     []overlay.Volume
	base        *Base
	gone        *runtime.Gone // until preflight has found a base
	// diffIDs are those of the base as it is unpacked on the node.
	diffIDs []digest.Digest
	// copied is a first pass that is done, and layers what was pushed.
	copied *overlay.Copy
	layers []image.Layer
	differ string // result.DifferContainerd, or empty
	// leftOut is whether that was told of the volumes.
	leftOut bool
	image   *image.Image
}

func (p *part) readOptions() overlay.Options {
	return overlay.Options{UserXattr: p.files.UserXattr, Lowerdirs: p.files.Lowerdirs, Owners: overlay.Owners{Users: ids(p.files.Users), Groups: ids(p.files.Groups)}, Volumes: p.volumes}
}

func ids(mappings []runtimespec.LinuxIDMapping) []overlay.IDs {
	var all []overlay.IDs
	for _, m := range mappings {
		all = append(all, overlay.IDs{Container: m.ContainerID, Node: m.HostID, Size: m.Size})
	}
	return all
}

// run does everything that can fail for foreseeable reasons before it freezes
// anything, and as little as possible between freezing and thawing.
func (c *commit) run(ctx context.Context) error {
	if err := c.find(ctx); err != nil {
		return err
	}
	if err := c.ask(ctx); err != nil {
		return err
	}
	if err := c.preflight(ctx); err != nil {
		return err
	}
	if err := c.readEnded(ctx); err != nil {
		return err
	}
	if c.onlyEnded() {
		return c.publish(ctx)
	}
	defer c.closeCopies()
	for _, p := range c.parts {
		if err := c.copyFirst(ctx, p); err != nil {
			return err
		}
	}
	if err := c.standStill(ctx); err != nil {
		return err
	}
	var later []*spooled
	defer func() {
		for _, kept := range later {
			kept.close()
		}
	}()
	frozen := registry.InAHurry(ctx)
	for _, p := range c.parts {
		if p.Ended {
			continue // it has been read
		}
		c.checkCopy(p)
		kept, err := c.read(frozen, p)
		if err != nil {
			return err
		}
		if kept != nil {
			later = append(later, kept)
		}
	}
	if !c.LeaveFrozen {
		// Not one after the other: who runs again can reach the files of who is still read.
		c.doing = "thawing the containers"
		if err := c.freezer.thawAll(ctx); err != nil {
			return err
		}
	}
	if c.freezer.left() > 0 {
		ctx = frozen
	}
	for _, kept := range later {
		if err := c.send(ctx, kept); err != nil {
			return err
		}
	}
	if err := c.publish(ctx); err != nil {
		return err
	}
	if !c.LeaveFrozen {
		return nil
	}
	// A container that was killed and started anew while the others were pushed has
	// gone on without what is in the image: its Pod must not be removed for it.
	for _, p := range c.parts {
		if err := c.undisturbed(ctx, p); err != nil {
			return err
		}
	}
	if c.ResumeCache {
		c.remember(ctx)
	}
	return c.letOthersGo(ctx)
}

// rememberFor is how long a Pod may take from its commit until its containers are killed, for
// its images to be kept on the node.
const rememberFor = 15 * time.Minute

// remember leaves on the node what the one needs who keeps the images there: the registry's
// credentials are not for that. It is no failure of the commit when that cannot be.
func (c *commit) remember(ctx context.Context) {
	for _, p := range c.parts {
		if err := c.node.Remember(ctx, c.SnapshotUID, rememberFor, p.image); err != nil {
			c.Log.Warn("the image will not be kept on the node for a resume", "container", p.Name, "error", err)
		}
	}
}

// find looks for all containers first: one that an earlier attempt left frozen
// has to be thawed whatever else goes wrong, and before anything that takes its time.
func (c *commit) find(ctx context.Context) error {
	c.doing = "looking for the containers"
	var failed []error
	for _, ci := range c.Containers {
		container, err := c.findOne(ctx, ci)
		if err == nil {
			ci.ID = container.ID() // the kubelet may have tried again since it was told of
			c.parts = append(c.parts, &part{ContainerImage: ci, container: container, compression: c.Compression})
		}
		failed = append(failed, err)
	}
	if c.onlyEnded() && !c.LeaveFrozen {
		// What is frozen of the Pod another commit has frozen.
		return first(failed)
	}
	left, err := everything(ctx, c.node, c.PodUID)
	for _, p := range c.parts {
		left = append(left, p.container)
	}
	failed = append(failed, err, c.freezer.takeBack(ctx, left))
	return first(failed)
}

// first is the first failure, which is as good as all.
func first(failures []error) error {
	for _, err := range failures {
		if err != nil {
			return err
		}
	}
	return nil
}

// ask asks the container runtime and the registry, neither of which has to wait for the
// other.
func (c *commit) ask(ctx context.Context) error {
	c.doing = "looking at the containers, and asking the registry"
	group, ctx := errgroup.WithContext(ctx)
	group.Go(func() error { return c.mayPush(ctx) })
	group.Go(func() error {
		if err := c.prepare(ctx); err != nil {
			return err
		}
		if err := c.hold(ctx); err != nil {
			return err
		}
		for _, p := range c.parts {
			if err := c.look(ctx, p); err != nil {
				return err
			}
		}
		return nil
	})
	return group.Wait()
}

// prepare learns what is to be read and what it lies upon.
func (c *commit) prepare(ctx context.Context) (err error) {
	for _, p := range c.parts {
		if err := p.container.Check(ctx); err != nil {
			return err
		}
		if p.files, err = p.container.Files(ctx); err != nil {
			return err
		}
		if err := c.placeVolumes(p); err != nil {
			return err
		}
		if p.files.Upperdir == "" {
			c.Log.Warn("containerd has to compare the files with the image", "container", p.Name, "because", p.files.Why)
		}
		if p.files.Upperdir != "" || len(p.volumes) > 0 {
			if err := overlay.Check(p.files.Upperdir, p.readOptions()); err != nil {
				return result.Wrap(result.CommitJobFailed, err, "the files of container %q cannot be read here: %s", p.Name, err)
			}
		}
		p.base, err = p.container.Base(ctx)
		if errors.As(err, &p.gone) {
			c.Log.Warn("the image of a container is not on the node", "container", p.Name, "id", p.ID, "because", err)
			continue // registries may have it, which are being asked whether we may push
		}
		if err != nil {
			return err
		}
		p.diffIDs = p.base.Config.RootFS.DiffIDs
		c.Log.Info("container found", "container", p.Name, "id", p.ID, "base", p.base.Digest, "baseLayers", len(p.base.Manifest.Layers), "ownLayers", p.base.OwnLayers())
	}
	return nil
}

func (c *commit) hold(ctx context.Context) (err error) {
	var resources []leases.Resource
	for _, p := range c.parts {
		if p.gone != nil {
			resources = append(resources, p.gone.Resources...)
			continue
		}
		resources = append(resources, p.base.Resources...)
	}
	c.release, err = c.node.Hold(ctx, "image-committer-"+c.SnapshotUID, c.LeaseTTL, resources...)
	return err
}

func (c *commit) letGo(ctx context.Context) {
	if c.release == nil {
		return
	}
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), callTimeout)
	defer cancel()
	if err := c.release(ctx); err != nil {
		c.Log.Warn("the lease stays until it expires", "error", err)
	}
}

func (c *commit) result() result.Result {
	r := result.Result{FrozenMillis: c.freezer.frozenMillis(), Thawed: c.freezer.left() == 0, Warnings: c.warnings}
	for _, p := range c.parts {
		bytes := int64(0)
		for _, l := range p.layers {
			bytes += l.Descriptor.Size
		}
		r.Containers = append(r.Containers, result.Container{
			Name:       p.Name,
			Image:      p.Image,
			Digest:     p.image.ManifestDigest.String(),
			LayerBytes: bytes,
			Layers:     p.image.Layers,
			Differ:     p.differ,
		})
	}
	c.Log.Info("committed", "containers", len(c.parts), "frozenMillis", r.FrozenMillis, "leftFrozen", c.freezer.left())
	return r
}

// interrupted says what was going on when ctx ended; then that is the failure,
// whatever else failed in consequence.
func (c *commit) interrupted(ctx context.Context, err error) error {
	if ctx.Err() == nil {
		return err
	}
	return fmt.Errorf("%w while %s", context.Cause(ctx), c.doing)
}
