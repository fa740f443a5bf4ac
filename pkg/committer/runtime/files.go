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
	"slices"
	"strings"

	"github.com/containerd/containerd/v2/core/mount"
	"github.com/containerd/containerd/v2/core/snapshots"
	"github.com/containerd/typeurl/v2"
	runtimespec "github.com/opencontainers/runtime-spec/specs-go"

	"github.com/opensandbox-io/sandbox-apiserver/pkg/committer/result"
)

// runcShim is the shim of runc and of what is called like it (crun, youki).
// Others (gVisor, Kata) keep written files in memory or in a guest: a diff of
// the snapshot succeeds there, and the files are not in it.
const runcShim = "io.containerd.runc.v2"

// Files is where a container's changes lie on the node.
type Files struct {
	// Upperdir is the overlay's upper directory. Empty where there is none, because Why: then
	// only Compare finds the changes.
	Upperdir, Why string
	// Incomparable is why Compare would fail; empty where it would not.
	Incomparable string
	// Lowerdirs are the unpacked layers of its image, the topmost first; none where they are no
	// directories.
	Lowerdirs []string
	// Users and Groups are the container's, where they are others on the node. The layers in
	// Lowerdirs are as its image has them.
	Users, Groups []runtimespec.LinuxIDMapping
	// UserXattr is whether overlay's marks are user.overlay.* attributes.
	UserXattr bool
	// Volumes are what the container's image declares, which is not in the directories above.
	Volumes []Volume
}

// Files finds the directory, and refuses where neither it nor a comparison would
// give what the container sees.
func (c *Container) Files(ctx context.Context) (Files, error) {
	if c.kept != nil {
		return *c.kept, nil
	}
	if name := c.record.Runtime.Name; name != runcShim {
		return Files{}, result.Errorf(result.RuntimeNotSupported, "container %q runs under %s, whose files cannot be read from the node; only %s is supported", c.ref.Name, name, runcShim)
	}
	spec, err := c.spec()
	if err != nil {
		return Files{}, err
	}
	// Empty where they are the node's.
	users, groups := spec.Linux.UIDMappings, spec.Linux.GIDMappings
	mounts, err := c.snapshotter().Mounts(c.client.in(ctx), c.record.SnapshotKey)
	if isNotFound(err) {
		return Files{}, result.Wrap(result.ContainerNotFound, err, "the snapshot of container %q (%s) is gone", c.ref.Name, c.ref.ID)
	}
	if err != nil {
		return Files{}, fmt.Errorf("asking the snapshotter %s for the mounts of container %q: %w", c.record.Snapshotter, c.ref.Name, err)
	}
	if len(mounts) == 0 {
		return Files{}, result.Errorf(result.RuntimeNotSupported, "the snapshotter %s says nothing of where the files of container %q are", c.record.Snapshotter, c.ref.Name)
	}
	files := overlayFiles(mounts)
	files.Users, files.Groups = users, groups
	files.Volumes = volumes(c.ref.ID, spec, files.Upperdir)
	if len(files.Lowerdirs) == 0 {
		if err := c.locate(ctx, files.Volumes); err != nil {
			return Files{}, err
		}
	}
	// The lower layers have to be mapped as the processes are: then nothing but this mapping
	// lies between what is in the upper directory and what the container sees.
	if uids, gids := mappings(mounts, "uidmap"), mappings(mounts, "gidmap"); uids != mapping(users) || gids != mapping(groups) {
		return Files{}, result.Errorf(result.RuntimeNotSupported, "container %q runs in a user namespace of its own (users %q, groups %q), and the snapshotter %s maps owners otherwise (%q, %q): they could not be kept", c.ref.Name, mapping(users), mapping(groups), c.record.Snapshotter, uids, gids)
	}
	if len(users)+len(groups) > 0 && files.Upperdir == "" {
		return Files{}, result.Errorf(result.RuntimeNotSupported, "container %q runs in a user namespace of its own (hostUsers: false), and the snapshotter %s %s: its owners could not be kept", c.ref.Name, c.record.Snapshotter, files.Why)
	}
	if files.Upperdir == "" {
		files.Why = fmt.Sprintf("the snapshotter %s %s", c.record.Snapshotter, files.Why)
	}
	if files.Incomparable != "" {
		files.Incomparable = fmt.Sprintf("the snapshotter %s %s", c.record.Snapshotter, files.Incomparable)
	}
	if files.Upperdir == "" && files.Incomparable != "" {
		return Files{}, result.Errorf(result.RuntimeNotSupported, "the files of container %q cannot be read: %s, and %s; docs/install.md has a list of snapshotters", c.ref.Name, files.Why, files.Incomparable)
	}
	return files, nil
}

// Chain are the keys of the snapshots that the container lies on, the topmost first.
func (c *Container) Chain(ctx context.Context) ([]string, error) {
	var chain []string
	for key := c.record.SnapshotKey; ; {
		info, err := c.snapshotter().Stat(c.client.in(ctx), key)
		if err != nil {
			return nil, fmt.Errorf("looking for the snapshot %s, of container %q: %w", key, c.ref.Name, err)
		}
		if key = info.Parent; key == "" {
			return chain, nil
		}
		chain = append(chain, key)
	}
}

// overlayFiles looks for an overlay mount in what a snapshotter gives: the last of its mounts, where
// the others are what that is made of.
func overlayFiles(mounts []mount.Mount) Files {
	incomparable := incomparable(mounts)
	last := mounts[len(mounts)-1]
	// Of a mount that containerd has yet to make from the others it says by a prefix what is to be
	// done first (format/mkdir/overlay), and by "{{ … }}" where they go.
	if !isOverlay(last.Type) || len(mounts) > 1 && incomparable == "" {
		return Files{Why: fmt.Sprintf("gives no single overlay mount (%s)", typesOf(mounts)), Incomparable: incomparable}
	}
	files := Files{UserXattr: slices.Contains(last.Options, "userxattr"), Incomparable: incomparable}
	for _, option := range last.Options {
		key, value, _ := strings.Cut(option, "=")
		if strings.Contains(value, "{{") {
			continue
		}
		switch key {
		case "upperdir":
			files.Upperdir = value
		case "lowerdir":
			files.Lowerdirs = strings.Split(value, ":")
		}
	}
	if files.Upperdir == "" {
		files.Why = "gives an overlay mount without an upper directory"
	}
	return files
}

func isOverlay(mountType string) bool {
	return mountType == "overlay" || strings.HasSuffix(mountType, "/overlay")
}

// incomparable is why containerd cannot compare the files of a container with its image's; empty
// where it can. It mounts both once more for that, beside the running container.
func incomparable(mounts []mount.Mount) string {
	for _, m := range mounts {
		switch {
		case strings.Contains(m.Type, "/") || m.Type == "erofs":
			// Only whoever starts containers makes such mounts: erofs, since containerd 2.1.
			return fmt.Sprintf("gives mounts that containerd's comparison cannot make (%s)", typesOf(mounts))
		case slices.Contains(m.Options, "loop"):
			// Its journal would have to be replayed, and it is in use: blockfile.
			return fmt.Sprintf("keeps them in a file with a file system (%s), which cannot be mounted once more while the container runs", m.Type)
		}
	}
	return ""
}

func typesOf(mounts []mount.Mount) string {
	types := make([]string, 0, len(mounts))
	for _, m := range mounts {
		types = append(types, m.Type)
	}
	return strings.Join(types, ", ")
}

// spec is the container's runtime specification.
func (c *Container) spec() (*runtimespec.Spec, error) {
	decoded, err := typeurl.UnmarshalAny(c.record.Spec)
	if err != nil {
		return nil, fmt.Errorf("reading the runtime specification of container %q: %w", c.ref.Name, err)
	}
	spec, ok := decoded.(*runtimespec.Spec)
	if !ok {
		return nil, fmt.Errorf("the runtime specification of container %q is a %T", c.ref.Name, decoded)
	}
	if spec.Linux == nil {
		return nil, result.Errorf(result.RuntimeNotSupported, "container %q is not a Linux container", c.ref.Name)
	}
	return spec, nil
}

// mapping is written as snapshotters write it into mount options.
func mapping(ids []runtimespec.LinuxIDMapping) string {
	var all []string
	for _, m := range ids {
		all = append(all, fmt.Sprintf("%d:%d:%d", m.ContainerID, m.HostID, m.Size))
	}
	return strings.Join(all, ",")
}

// mappings are those of the mounts' options; they differ in no two of them.
func mappings(mounts []mount.Mount, key string) string {
	for _, m := range mounts {
		for _, option := range m.Options {
			if value, ok := strings.CutPrefix(option, key+"="); ok {
				return value
			}
		}
	}
	return ""
}

func (c *Container) snapshotter() snapshots.Snapshotter {
	return c.client.snapshots(c.record.Snapshotter)
}
