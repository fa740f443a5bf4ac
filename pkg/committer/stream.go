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
	"errors"
	"fmt"
	"io"
	"time"

	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/opensandbox-io/sandbox-apiserver/pkg/committer/image"
	"github.com/opensandbox-io/sandbox-apiserver/pkg/committer/layer"
	"github.com/opensandbox-io/sandbox-apiserver/pkg/committer/overlay"
	"github.com/opensandbox-io/sandbox-apiserver/pkg/committer/result"
	"github.com/opensandbox-io/sandbox-apiserver/pkg/committer/runtime"
)

// stream pushes what is to be read of a frozen container, while it is read.
func (c *commit) stream(ctx context.Context, p *part) error {
	if p.files.Upperdir == "" {
		return c.compare(ctx, p)
	}
	c.doing = fmt.Sprintf("pushing the layer of container %q to %s", p.Name, p.target)
	began := time.Now()
	var stats overlay.Stats
	l, err := upload(ctx, p, p.rest(&stats))
	// Whatever came of it: a container that ended or went away meanwhile explains
	// any error, and spoils any success.
	if checkErr := c.undisturbed(ctx, p); checkErr != nil {
		return checkErr
	}
	if errors.Is(err, overlay.ErrNotSelfContained) && len(p.files.Users)+len(p.files.Groups) > 0 {
		return p.notCompared(err)
	}
	if errors.Is(err, overlay.ErrNotSelfContained) {
		c.Log.Warn("containerd has to compare the files with the image", "container", p.Name, "because", err)
		return c.compare(ctx, p)
	}
	if err != nil {
		return fmt.Errorf("container %q: %w", p.Name, err)
	}
	return c.pushed(p, l, stats, began)
}

// rest is what is to be read once the container is frozen: all, or what changed
// since the first pass.
func (p *part) rest(stats *overlay.Stats) layer.Source {
	return func(ctx context.Context, w io.Writer) (err error) {
		if p.copied != nil {
			*stats, err = p.copied.Changes(ctx, w)
		} else {
			*stats, err = overlay.Write(ctx, w, p.files.Upperdir, p.readOptions())
		}
		return err
	}
}

// pushed notes a layer that the registry has. One without changes is not worth a
// place in the image where another has all there is.
func (c *commit) pushed(p *part, l *layer.Layer, stats overlay.Stats, began time.Time) error {
	described, err := describe(l)
	if err != nil {
		return err
	}
	c.warnLeftOut(p, stats)
	if stats.Entries > 0 || len(p.layers) == 0 {
		p.layers = append(p.layers, described)
	}
	c.Log.Info("layer pushed", "container", p.Name, "digest", described.Descriptor.Digest, "bytes", described.Descriptor.Size,
		"entries", stats.Entries, "whiteouts", stats.Whiteouts, "contentBytes", stats.Bytes, "socketsLeftOut", stats.Sockets, "equalToTheImage", stats.Equal,
		"read", l.Took(), "took", time.Since(began))
	return nil
}

// upload pushes what the source writes. What the source itself failed with counts before what
// the registry made of it.
func upload(ctx context.Context, p *part, source layer.Source) (*layer.Layer, error) {
	for {
		l := layer.NewAs(ctx, p.compression, source)
		err := p.target.Upload(ctx, l)
		if err == nil {
			return l, nil
		}
		switch own := l.Err(); {
		case own == nil:
			return nil, err
		case !errors.Is(own, overlay.ErrAgain): // which knows more now, and asks again only for what it did not know
			return nil, own
		}
	}
}

// undisturbed fails when the container did not stay what it was at the freeze.
func (c *commit) undisturbed(ctx context.Context, p *part) error {
	state, err := p.container.State(ctx)
	if err != nil {
		return err
	}
	touched := c.freezer.isTouched(p.container)
	if touched && state == runtime.Ended && c.diedFrozen(ctx, p) {
		// Whoever killed it may have one of its name be started, which stands still too.
		return p.container.Present(ctx)
	}
	if err := p.container.Check(ctx); err != nil {
		return err
	}
	want := runtime.Ended
	if touched {
		want = runtime.Paused
	}
	if state != want {
		return result.Errorf(result.ContainerRestarted, "container %q was %s when the commit began and is %s now: something killed, started or thawed it meanwhile (a liveness probe, say)", p.Name, want, state)
	}
	return nil
}

// diedFrozen says whether a container that was frozen has ended without that one of its processes
// ran again. Who kills it (the kubelet, because a probe had no answer) has the runtime signal its
// first process and thaw the others. But these are frozen with the Pod as well, which nobody thaws
// but a commit, and with the second version of cgroups a frozen process dies of a signal as it is,
// in the kernel. So what it has written is all there, and it is the only copy: it is as good as one
// that lives. Where the Pod has no cgroup, or with the first version, nothing is proven.
func (c *commit) diedFrozen(ctx context.Context, p *part) bool {
	if c.pod.group == nil || !p.container.DieFrozen() || !c.freezer.isTouched(c.pod.group) {
		return false
	}
	state, err := c.pod.group.State(ctx)
	if err != nil || state != runtime.Paused && state != runtime.Pausing {
		return false
	}
	c.Log.Warn("the container was killed while it was frozen, and has written nothing since: its files are committed", "container", p.Name)
	return true
}

func describe(l *layer.Layer) (image.Layer, error) {
	compressed, err := l.Digest()
	if err != nil {
		return image.Layer{}, err
	}
	uncompressed, err := l.DiffID()
	if err != nil {
		return image.Layer{}, err
	}
	size, err := l.Size()
	if err != nil {
		return image.Layer{}, err
	}
	mediaType, err := l.MediaType()
	if err != nil {
		return image.Layer{}, err
	}
	return image.Layer{
		Descriptor: ocispec.Descriptor{MediaType: string(mediaType), Digest: digest.Digest(compressed.String()), Size: size},
		DiffID:     digest.Digest(uncompressed.String()),
		Created:    time.Now().UTC(),
	}, nil
}
