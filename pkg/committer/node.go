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

package committer

import (
	"context"
	"io"
	"time"

	"github.com/containerd/containerd/v2/core/leases"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/opensandbox-io/sandbox-apiserver/pkg/committer/image"
	"github.com/opensandbox-io/sandbox-apiserver/pkg/committer/runtime"
)

// Node is what a commit needs of the container runtime.
type Node interface {
	// Find returns a container of the Pod; its error has a reason.
	Find(ctx context.Context, podUID string, ref runtime.Ref) (Container, error)
	// FindEnded returns a container of the Pod that has ended, whatever runs in its place, and no other.
	FindEnded(ctx context.Context, podUID string, ref runtime.Ref) (Container, error)
	// Hold keeps resources from being collected until release is called.
	Hold(ctx context.Context, id string, ttl time.Duration, resources ...leases.Resource) (release func(context.Context) error, err error)
	// Ended waits until the container of a name in a Pod has ended, and says whether it is known
	// to have failed.
	Ended(ctx context.Context, podUID, name string) (failed bool, err error)
	// Pod is what there is of the Pod.
	Pod(ctx context.Context, podUID string) (Pod, error)
	// Outside are processes that share something with these containers, and are in no cgroup of
	// the Pod.
	Outside(ctx context.Context, podUID string, of []runtime.Ref) ([]runtime.Outsider, error)
	// Remember keeps what describes an image on the node, for a cache of its layers.
	Remember(ctx context.Context, snapshotUID string, ttl time.Duration, made *image.Image) error
}

// Container is one container of the Pod.
type Container interface {
	victim
	// Name is its name in the Pod, ID the runtime's.
	Name() string
	ID() string
	// ServesFiles is whether others may wait for it in the kernel, for a file system that it serves.
	ServesFiles(context.Context) (bool, error)
	// Held is whether it is frozen by itself, not with the Pod alone.
	Held(context.Context) (bool, error)
	// Apart is whether it cannot reach the processes and files of the Pod's other containers.
	Apart() (bool, error)
	// Check fails when the container is no longer the one to commit, Present when it or its files are
	// not there any more.
	Check(context.Context) error
	Present(context.Context) error
	// Keep has what an ended container has written stay when the kubelet removes the container; nil where it cannot.
	Keep(ctx context.Context, lease string, ttl time.Duration) (release func(context.Context) error, err error)
	// Files is where its changes are.
	Files(context.Context) (runtime.Files, error)
	// Mounted is what it has mounted itself; none where that cannot be seen.
	Mounted(context.Context) ([]runtime.Mounted, error)
	// Compare lets the container runtime find its changes.
	Compare(ctx context.Context, mediaType string) (*runtime.Compared, error)
	// Base is the image that it was created from; it fails with *runtime.Gone where the node does not have that.
	Base(context.Context) (*Base, error)
	// Chain are the keys of the snapshots that it lies on, the topmost first.
	Chain(context.Context) ([]string, error)
	// AwaitEnd waits until it has ended.
	AwaitEnd(context.Context) error
}

// Pod is what there is of a Pod at one moment: its containers that have not ended, its cgroup, if it
// has one, and the cgroups in that which belong to none of its containers.
type Pod struct {
	Containers []Container
	Group      Group
	Strays     []Group
}

// Group is a cgroup that is frozen as a whole.
type Group interface {
	victim
	// Path is the name that its hierarchy has for it, for a person.
	Path() string
}

// Base is an image below a container and where its layers are to be had.
type Base struct {
	*image.Base
	Repositories []string
	Resources    []leases.Resource
	// Open reads a layer from the node, if it is there.
	Open func(context.Context, ocispec.Descriptor) (io.ReadCloser, error)
}
