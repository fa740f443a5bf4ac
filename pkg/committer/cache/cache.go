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

// Package cache keeps the images of paused sandboxes on their node, so that a resume there has
// nothing to pull.
//
// It is made of what dead containers have written, where that lies already: nothing is copied.
// It is a cache: whatever speaks against it, and whoever removes something of it, the image is
// in the registry.
package cache

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"strings"
	"sync"
	"time"

	"github.com/opencontainers/go-digest"
	"golang.org/x/sys/unix"

	"github.com/opensandbox-io/sandbox-apiserver/pkg/committer/overlay"
	"github.com/opensandbox-io/sandbox-apiserver/pkg/committer/runtime"
)

// fullPercent is how full the disk may be for something to be kept. The kubelet begins to
// remove images at 85 % (imageGCHighThresholdPercent).
const fullPercent = 70

const (
	// goneTimeout is how long a container that has ended may take to be cleared away.
	goneTimeout = 10 * time.Second
	// pollInterval is how often that is asked.
	pollInterval = 20 * time.Millisecond
)

// Options say what is kept, and how much.
type Options struct {
	SandboxUID, SnapshotUID string
	// Images are what a resumed Pod will ask for, each by its digest (REPOSITORY@DIGEST), by the
	// names of the containers that were committed to them.
	Images map[string]string
	// MaxBytes is how much the images that are kept may take on this node.
	MaxBytes int64
	// Root is containerd's root directory.
	Root string
	Log  *slog.Logger
}

// Keeper keeps the images of one Pod's containers.
type Keeper struct {
	Options
	client *runtime.Client
	mu     sync.Mutex                // of aside: containers are set aside side by side
	aside  map[string]*runtime.Aside // by the container's name
}

// New returns a Keeper that keeps nothing yet.
func New(client *runtime.Client, o Options) *Keeper {
	return &Keeper{Options: o, client: client, aside: map[string]*runtime.Aside{}}
}

// SetAside takes the layer of a container that is still frozen since it was committed. From here
// on the container has to end.
func (k *Keeper) SetAside(ctx context.Context, podUID string, ref runtime.Ref) {
	aside, err := k.setAside(ctx, podUID, ref)
	if err != nil {
		k.Log.Info("not kept for a resume on this node", "container", ref.Name, "because", err)
		return
	}
	k.mu.Lock()
	defer k.mu.Unlock()
	k.aside[ref.Name] = aside
}

func (k *Keeper) setAside(ctx context.Context, podUID string, ref runtime.Ref) (*runtime.Aside, error) {
	manifest, err := digestOf(k.Images[ref.Name])
	if err != nil {
		return nil, err
	}
	if err := checkRoom(k.Root); err != nil {
		return nil, err
	}
	container, err := k.client.Find(ctx, podUID, ref)
	if err != nil {
		return nil, err
	}
	state, err := container.State(ctx)
	if err != nil {
		return nil, err
	}
	if state != runtime.Paused {
		return nil, fmt.Errorf("it is %s", state)
	}
	return container.SetAside(ctx, k.SandboxUID, k.SnapshotUID, manifest)
}

func digestOf(reference string) (digest.Digest, error) {
	_, text, _ := strings.Cut(reference, "@")
	found, err := digest.Parse(text)
	if err != nil {
		return "", fmt.Errorf("its image %q is not named by a digest: %w", reference, err)
	}
	return found, nil
}

// checkRoom fails where the disk of a directory is too full for anything to be kept there.
func checkRoom(path string) error {
	full, err := fullness(path)
	if err != nil {
		return err
	}
	if full > fullPercent {
		return fmt.Errorf("the disk of %s is %d %% full; nothing is kept above %d %%", path, full, fullPercent)
	}
	return nil
}

// fullness is how many percent of a disk are used, as df counts.
func fullness(path string) (int, error) {
	var st unix.Statfs_t
	if err := unix.Statfs(path, &st); err != nil {
		return 0, fmt.Errorf("asking how full the disk of %s is: %w", path, err)
	}
	used := st.Blocks - st.Bfree
	return percent(used, used+st.Bavail), nil
}

// percent is rounded up.
func percent(part, whole uint64) int {
	if whole == 0 {
		return 100
	}
	return int((part*100 + whole - 1) / whole) //nolint:gosec // at most 100
}

// Keep makes an image of what was set aside of a container that has ended and that nobody has
// written to since it was frozen.
func (k *Keeper) Keep(ctx context.Context, ref runtime.Ref) {
	k.mu.Lock()
	aside, ok := k.aside[ref.Name]
	k.mu.Unlock()
	if !ok {
		return
	}
	began := time.Now()
	if err := k.keep(ctx, aside, k.Images[ref.Name]); err != nil {
		k.Log.Warn("not kept for a resume on this node", "container", ref.Name, "because", err)
		return
	}
	k.Log.Info("kept for a resume on this node", "container", ref.Name, "image", k.Images[ref.Name], "bytes", aside.Bytes, "took", time.Since(began))
}

func (k *Keeper) keep(ctx context.Context, aside *runtime.Aside, reference string) error {
	if aside.Bytes > k.MaxBytes {
		return fmt.Errorf("its %d bytes are more than the %d that may be kept on a node", aside.Bytes, k.MaxBytes)
	}
	if err := awaitGone(ctx, aside); err != nil {
		return err
	}
	return aside.Publish(ctx, reference, func(w io.Writer) (bool, error) {
		stats, err := overlay.Cover(ctx, w, aside.Files.Upperdir, aside.Committed, overlay.Options{UserXattr: aside.Files.UserXattr})
		return stats.Entries > 0, err
	})
}

// awaitGone waits for the kubelet's runtime to clear a container away that has ended. There are
// milliseconds between the two.
func awaitGone(ctx context.Context, aside *runtime.Aside) error {
	ctx, cancel := context.WithTimeout(ctx, goneTimeout)
	defer cancel()
	tick := time.NewTicker(pollInterval)
	defer tick.Stop()
	for {
		gone, err := aside.Gone(ctx)
		if gone {
			return nil
		}
		select {
		case <-ctx.Done():
			return fmt.Errorf("its root filesystem is still mounted: %w", errors.Join(ctx.Err(), err))
		case <-tick.C:
		}
	}
}

// Done removes what is beyond the bound, and lets go of what has not become an image.
func (k *Keeper) Done(ctx context.Context) {
	if err := k.bound(ctx); err != nil {
		k.Log.Warn("more may be kept on this node than should be", "error", err)
	}
	if err := k.client.Forget(ctx, k.SnapshotUID); err != nil {
		k.Log.Warn("what was set aside stays until its lease expires", "error", err)
	}
}

func (k *Keeper) bound(ctx context.Context) error {
	all, err := k.client.Cached(ctx)
	if err != nil {
		return err
	}
	for _, old := range beyond(all, k.SandboxUID, k.SnapshotUID, k.MaxBytes) {
		dropped, err := k.client.Drop(ctx, old)
		if err != nil {
			return err
		}
		k.Log.Info("no longer kept for a resume on this node", "image", old.Digest, "sandboxUID", old.SandboxUID, "bytes", old.Bytes, "inUseAfterAll", !dropped)
	}
	return nil
}

// beyond are the images to be removed, given all from the oldest to the newest: those of
// earlier snapshots of the sandbox, and the oldest ones until the rest is within most. One
// that a container lies on stays; when even that is too much, the new ones go.
func beyond(all []*runtime.Cached, sandboxUID, snapshotUID string, most int64) []*runtime.Cached {
	var old, rest, own []*runtime.Cached
	total := int64(0)
	for _, one := range all {
		total += one.Bytes
		switch {
		case one.SandboxUID == sandboxUID && one.SnapshotUID == snapshotUID:
			own = append(own, one)
		case one.InUse:
		case one.SandboxUID == sandboxUID:
			old = append(old, one)
			total -= one.Bytes
		default:
			rest = append(rest, one)
		}
	}
	for _, one := range append(rest, own...) {
		if total <= most {
			break
		}
		old = append(old, one)
		total -= one.Bytes
	}
	return old
}

// Drop removes what is kept for a snapshot. What a container lies on is left to the kubelet,
// which removes images that nobody uses.
func Drop(ctx context.Context, client *runtime.Client, snapshotUID string, log *slog.Logger) error {
	all, err := client.Cached(ctx)
	if err != nil {
		return err
	}
	for _, one := range all {
		if one.SnapshotUID != snapshotUID {
			continue
		}
		dropped, err := client.Drop(ctx, one)
		if err != nil {
			return err
		}
		log.Info("what was kept for the snapshot", "image", one.Digest, "bytes", one.Bytes, "removed", dropped)
	}
	return nil
}
