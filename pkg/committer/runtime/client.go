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

// Package runtime is containerd as a commit needs it: it finds the containers of
// a Pod, freezes and thaws them, and knows where their files are and which
// image is below them.
package runtime

import (
	"context"
	"fmt"
	"io"
	"time"

	tasks "github.com/containerd/containerd/api/services/tasks/v1"
	containerd "github.com/containerd/containerd/v2/client"
	"github.com/containerd/containerd/v2/core/containers"
	"github.com/containerd/containerd/v2/core/content"
	"github.com/containerd/containerd/v2/core/diff"
	"github.com/containerd/containerd/v2/core/images"
	"github.com/containerd/containerd/v2/core/leases"
	"github.com/containerd/containerd/v2/core/snapshots"
	"github.com/containerd/containerd/v2/pkg/namespaces"

	"github.com/opensandbox-io/sandbox-apiserver/pkg/committer/cgroup"
	"github.com/opensandbox-io/sandbox-apiserver/pkg/committer/result"
)

// Client is a connection to containerd, in one of its namespaces.
type Client struct {
	namespace  string
	containers containers.Store
	tasks      tasks.TasksClient
	content    content.Store
	images     images.Store
	leases     leases.Manager
	diff       diff.Comparer
	applier    diff.Applier
	snapshots  func(name string) snapshots.Snapshotter
	connection func() any // a gRPC connection
	closer     io.Closer
	cgroups    *cgroup.Tree // nil: nobody but containerd is asked who is frozen

	lease string // of Hold
}

// WithCgroups makes the node's cgroups the truth of what is frozen.
func (c *Client) WithCgroups(tree *cgroup.Tree) *Client {
	c.cgroups = tree
	return c
}

// Dial connects to the socket at address and makes sure that containerd answers.
func Dial(ctx context.Context, address, namespace string) (*Client, error) {
	c, err := containerd.New(address, containerd.WithDefaultNamespace(namespace), containerd.WithTimeout(10*time.Second))
	if err != nil {
		return nil, result.Errorf(result.CommitJobFailed, "connecting to containerd at %s: %w", address, err)
	}
	ctx, cancel := context.WithTimeout(ctx, 10*time.Second)
	defer cancel()
	if _, err := c.Version(ctx); err != nil {
		_ = c.Close()
		return nil, result.Errorf(result.CommitJobFailed, "containerd at %s does not answer: %w; --containerd-socket-path has to be its socket on the node", address, err)
	}
	return &Client{
		namespace:  namespace,
		containers: c.ContainerService(),
		tasks:      c.TaskService(),
		content:    c.ContentStore(),
		images:     c.ImageService(),
		leases:     c.LeasesService(),
		diff:       c.DiffService(),
		applier:    c.DiffService(),
		snapshots:  c.SnapshotService,
		connection: c.Conn,
		closer:     c,
	}, nil
}

// Close ends the connection.
func (c *Client) Close() error { return c.closer.Close() }

func (c *Client) in(ctx context.Context) context.Context {
	return namespaces.WithNamespace(ctx, c.namespace)
}

// Hold keeps containerd from collecting what a commit reads: the image's
// metadata and layers, and the container's snapshot. The ID belongs to the
// snapshot that is being made, so a retry takes over what a killed attempt left,
// and after ttl containerd forgets it by itself.
func (c *Client) Hold(ctx context.Context, id string, ttl time.Duration, resources ...leases.Resource) (release func(context.Context) error, err error) {
	ctx = c.in(ctx)
	lease := leases.Lease{ID: id}
	// An earlier attempt's lease may be about to expire and cannot be prolonged;
	// nothing was read yet, so a moment without one does no harm.
	if err := c.leases.Delete(ctx, lease); err != nil && !isNotFound(err) {
		return nil, fmt.Errorf("taking over the lease %s: %w", id, err)
	}
	if lease, err = c.leases.Create(ctx, leases.WithID(id), leases.WithExpiration(ttl)); err != nil {
		return nil, fmt.Errorf("creating the lease %s: %w", id, err)
	}
	c.lease = id
	release = func(ctx context.Context) error { return c.leases.Delete(c.in(ctx), lease) }
	for _, r := range resources {
		if err := c.leases.AddResource(ctx, lease, r); err != nil {
			return release, fmt.Errorf("adding %s %s to the lease %s: %w", r.Type, r.ID, id, err)
		}
	}
	return release, nil
}
