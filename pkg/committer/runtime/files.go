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
	// Lowerdirs are the unpacked layers of its image, the topmost first.
	Lowerdirs []string
	// UserXattr is whether overlay's marks are user.overlay.* attributes.
	UserXattr bool
}

// Files finds the directory, and refuses where neither it nor a comparison would
// give what the container sees.
func (c *Container) Files(ctx context.Context) (Files, error) {
	if name := c.record.Runtime.Name; name != runcShim {
		return Files{}, result.Errorf(result.RuntimeNotSupported, "container %q runs under %s, whose files cannot be read from the node; only %s is supported", c.ref.Name, name, runcShim)
	}
	if err := c.refuseUserNamespace(); err != nil {
		return Files{}, err
	}
	mounts, err := c.snapshotter().Mounts(c.client.in(ctx), c.record.SnapshotKey)
	if isNotFound(err) {
		return Files{}, result.Wrap(result.ContainerNotFound, err, "the snapshot of container %q (%s) is gone", c.ref.Name, c.ref.ID)
	}
	if err != nil {
		return Files{}, fmt.Errorf("asking the snapshotter %s for the mounts of container %q: %w", c.record.Snapshotter, c.ref.Name, err)
	}
	for _, m := range mounts {
		for _, option := range m.Options {
			if strings.HasPrefix(option, "uidmap=") || strings.HasPrefix(option, "gidmap=") {
				return Files{}, result.Errorf(result.RuntimeNotSupported, "the snapshotter %s of container %q maps owners (%s), which cannot be undone yet", c.record.Snapshotter, c.ref.Name, option)
			}
		}
	}
	if len(mounts) == 0 {
		return Files{}, result.Errorf(result.RuntimeNotSupported, "the snapshotter %s says nothing of where the files of container %q are", c.record.Snapshotter, c.ref.Name)
	}
	files := overlayFiles(mounts)
	if files.Upperdir == "" {
		files.Why = fmt.Sprintf("the snapshotter %s %s", c.record.Snapshotter, files.Why)
	}
	return files, nil
}

func overlayFiles(mounts []mount.Mount) Files {
	if len(mounts) != 1 || mounts[0].Type != "overlay" {
		types := make([]string, 0, len(mounts))
		for _, m := range mounts {
			types = append(types, m.Type)
		}
		return Files{Why: fmt.Sprintf("gives no single overlay mount (%s)", strings.Join(types, ", "))}
	}
	files := Files{UserXattr: slices.Contains(mounts[0].Options, "userxattr")}
	for _, option := range mounts[0].Options {
		key, value, _ := strings.Cut(option, "=")
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

// refuseUserNamespace refuses containers whose owners are shifted: the upper
// directory has them as the node sees them, and an image made of it would be
// shifted a second time on resume.
func (c *Container) refuseUserNamespace() error {
	decoded, err := typeurl.UnmarshalAny(c.record.Spec)
	if err != nil {
		return fmt.Errorf("reading the runtime specification of container %q: %w", c.ref.Name, err)
	}
	spec, ok := decoded.(*runtimespec.Spec)
	if !ok {
		return fmt.Errorf("the runtime specification of container %q is a %T", c.ref.Name, decoded)
	}
	if spec.Linux == nil {
		return result.Errorf(result.RuntimeNotSupported, "container %q is not a Linux container", c.ref.Name)
	}
	if len(spec.Linux.UIDMappings)+len(spec.Linux.GIDMappings) > 0 {
		return result.Errorf(result.RuntimeNotSupported, "container %q runs in a user namespace of its own (hostUsers: false), whose owners cannot be kept yet", c.ref.Name)
	}
	return nil
}

func (c *Container) snapshotter() snapshots.Snapshotter {
	return c.client.snapshots(c.record.Snapshotter)
}
