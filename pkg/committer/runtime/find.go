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

	"github.com/containerd/containerd/v2/core/containers"
	"github.com/containerd/errdefs"

	"github.com/opensandbox-io/sandbox-apiserver/pkg/committer/cgroup"
	"github.com/opensandbox-io/sandbox-apiserver/pkg/committer/result"
)

// Labels that containerd's CRI plugin gives to its containers.
const (
	labelPodUID        = "io.kubernetes.pod.uid"
	labelContainerName = "io.kubernetes.container.name"
	labelKind          = "io.cri-containerd.kind"
	kindContainer      = "container"
)

// Ref names a container: its name in the Pod and its ID in containerd, without
// the scheme that the Pod's status has before it.
type Ref struct{ Name, ID string }

// Container is one container of the Pod that was asked for.
type Container struct {
	client *Client
	podUID string
	ref    Ref
	record containers.Container
	cgroup *cgroup.Group // once it is found
	// past says that it is wanted as it has ended, whatever runs in its place by now.
	past bool
	// kept is where its files are, once Keep has taken them from it.
	kept *Files
}

// Name is the container's name in its Pod.
func (c *Container) Name() string { return c.ref.Name }

func isNotFound(err error) bool { return errdefs.IsNotFound(err) }

// Find returns the container ref if it belongs to the Pod of that UID. An ID
// alone would do to find it; the labels make sure that a wrong or stale argument
// never leads to another Pod's files. Of a container that goes on failing the kubelet keeps one that has
// ended, and the Pod's status may still tell of the one before: then that is returned, which is the latest.
func (c *Client) Find(ctx context.Context, podUID string, ref Ref) (*Container, error) {
	record, err := c.containers.Get(c.in(ctx), ref.ID)
	if isNotFound(err) {
		latest, listErr := c.latestEnded(ctx, podUID, ref.Name)
		switch {
		case listErr != nil:
			return nil, listErr
		case latest == nil:
			return nil, result.Wrap(result.ContainerNotFound, err, "container %q (%s) is not known to containerd any more", ref.Name, ref.ID)
		}
		return &Container{client: c, podUID: podUID, ref: Ref{Name: ref.Name, ID: latest.ID}, record: *latest}, nil
	}
	if err != nil {
		return nil, fmt.Errorf("looking for container %q (%s) in containerd: %w", ref.Name, ref.ID, err)
	}
	if err := belongs(record, podUID, ref); err != nil {
		return nil, err
	}
	return &Container{client: c, podUID: podUID, ref: ref, record: record}, nil
}

func belongs(record containers.Container, podUID string, ref Ref) error {
	for label, want := range map[string]string{labelPodUID: podUID, labelContainerName: ref.Name, labelKind: kindContainer} {
		if got := record.Labels[label]; got != want {
			return result.Errorf(result.ContainerNotFound, "container %s is not container %q of the Pod %s: its label %s is %q", ref.ID, ref.Name, podUID, label, got)
		}
	}
	return nil
}

// latestEnded is the newest container of that name in a Pod, if it has ended; nil where it runs, or will in a moment, for then
// it is another with files of its own.
func (c *Client) latestEnded(ctx context.Context, podUID, name string) (*containers.Container, error) {
	found, err := c.named(ctx, podUID, name)
	if err != nil || len(found) == 0 {
		return nil, err
	}
	latest := slices.MaxFunc(found, func(a, b containers.Container) int { return a.CreatedAt.Compare(b.CreatedAt) })
	state, err := c.state(ctx, latest.ID)
	if err != nil || state != Ended {
		return nil, err
	}
	return &latest, nil
}

// Check fails when c is no longer the container to commit: when it or its
// snapshot is being removed, or, unless it is wanted as it has ended, a newer one of its name has been started.
func (c *Container) Check(ctx context.Context) error {
	if err := c.Present(ctx); err != nil || c.past {
		return err
	}
	ctx = c.client.in(ctx)
	incarnations, err := c.client.named(ctx, c.podUID, c.ref.Name)
	if err != nil {
		return err
	}
	for _, other := range incarnations {
		if other.ID == c.ref.ID || !other.CreatedAt.After(c.record.CreatedAt) {
			continue
		}
		state, err := c.client.state(ctx, other.ID)
		if err != nil {
			return err
		}
		if state != Ended {
			return result.Errorf(result.ContainerRestarted, "container %q (%s) was restarted as %s: what it had written is gone", c.ref.Name, c.ref.ID, other.ID)
		}
	}
	return nil
}

// Present fails when the container or its snapshot is being removed.
func (c *Container) Present(ctx context.Context) error {
	ctx = c.client.in(ctx)
	if c.kept != nil {
		return c.presentAside(ctx)
	}
	again, err := c.client.Find(ctx, c.podUID, c.ref)
	if err != nil {
		return err
	}
	if again.record.SnapshotKey != c.record.SnapshotKey || again.record.Snapshotter != c.record.Snapshotter {
		return result.Errorf(result.ContainerRestarted, "container %q (%s) has another snapshot now", c.ref.Name, c.ref.ID)
	}
	// containerd forgets a snapshot before it deletes the files: as long as it
	// knows the snapshot, what was read was whole.
	if _, err := c.snapshotter().Stat(ctx, c.record.SnapshotKey); isNotFound(err) {
		return result.Wrap(result.ContainerRestarted, err, "the files of container %q (%s) are being removed", c.ref.Name, c.ref.ID)
	} else if err != nil {
		return fmt.Errorf("looking for the snapshot of container %q (%s): %w", c.ref.Name, c.ref.ID, err)
	}
	return nil
}

// named are the containers of that name in a Pod: more than one where it was restarted.
func (c *Client) named(ctx context.Context, podUID, name string) ([]containers.Container, error) {
	filter := fmt.Sprintf("labels.%q==%q,labels.%q==%q,labels.%q==%q",
		labelPodUID, podUID, labelContainerName, name, labelKind, kindContainer)
	found, err := c.containers.List(c.in(ctx), filter)
	if err != nil {
		return nil, fmt.Errorf("listing the containers %q of the Pod %s: %w", name, podUID, err)
	}
	return found, nil
}
