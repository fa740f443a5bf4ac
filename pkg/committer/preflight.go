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
	"sync/atomic"
	"time"

	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/types"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
	"golang.org/x/sync/errgroup"

	"github.com/opensandbox-io/sandbox-apiserver/pkg/committer/image"
	"github.com/opensandbox-io/sandbox-apiserver/pkg/committer/registry"
	"github.com/opensandbox-io/sandbox-apiserver/pkg/committer/result"
)

// baseCopies is how many base layers are copied at once. Nothing is frozen
// meanwhile, so there is no hurry.
const baseCopies = 3

// mayPush finds out that pushing is allowed, and leaves an upload for each image's
// configuration begun.
func (c *commit) mayPush(ctx context.Context) error {
	options := c.Registry
	options.Log = c.Log
	client, err := registry.New(options)
	if err != nil {
		return err
	}
	c.client = client
	for _, p := range c.parts {
		if p.target, err = client.Target(p.Image); err != nil {
			return err
		}
		if p.upload, err = p.target.Begin(ctx); err != nil {
			return err
		}
	}
	return nil
}

// preflight settles the rest of what can be settled with the registry without
// freezing: that the base's layers are there, and not too many.
func (c *commit) preflight(ctx context.Context) error {
	c.doing = "preparing the registry"
	began := time.Now()
	sources, err := registry.NewSources(c.Registry, c.BaseCredentials, c.BaseHint)
	if err != nil {
		c.Log.Warn("not all pull secrets of the Pod can be used", "error", err)
	}
	for _, p := range c.parts {
		if p.gone != nil {
			if err := c.findBase(ctx, p, sources); err != nil {
				return fmt.Errorf("container %q: %w", p.Name, err)
			}
		}
		if err := c.ensureBase(ctx, p, sources); err != nil {
			return fmt.Errorf("container %q: %w", p.Name, err)
		}
		if err := c.merge(ctx, p); err != nil {
			return fmt.Errorf("container %q: %w", p.Name, err)
		}
	}
	c.Log.Info("registry is ready", "took", time.Since(began))
	return nil
}

// ensureBase sees to it that the target's repository has all layers of the base.
func (c *commit) ensureBase(ctx context.Context, p *part, sources *registry.Sources) error {
	c.doing = fmt.Sprintf("copying the base layers of container %q to %s", p.Name, p.target)
	before := p.base
	kept, err := c.keptBase(p)
	if err != nil {
		return err
	}
	base := *p.base
	if kept != nil {
		base.Repositories = append([]string{kept.Repository()}, base.Repositories...)
	}
	nowhere := make([]error, len(p.base.Manifest.Layers))
	var uploaded atomic.Int32
	group, groupCtx := errgroup.WithContext(ctx)
	group.SetLimit(baseCopies)
	for i, d := range p.base.Manifest.Layers {
		group.Go(func() error {
			l, err := baseLayer(&base, d)
			if err != nil {
				return err
			}
			sent, err := p.target.EnsureBaseLayer(groupCtx, l, sources)
			if sent {
				uploaded.Add(1)
			}
			if errors.Is(err, registry.ErrNowhere) {
				nowhere[i], err = err, nil
			}
			return err
		})
	}
	if err := group.Wait(); err != nil {
		return err
	}
	for i, why := range nowhere {
		if why == nil {
			continue
		}
		if err := c.remake(ctx, p, i, why); err != nil {
			return err
		}
	}
	c.Log.Info("the target has the base", "container", p.Name, "layers", len(nowhere), "uploaded", uploaded.Load())
	// One of which layers were made again has them under other digests: see keepRemade.
	if kept != nil && uploaded.Load() > 0 && p.base == before {
		c.keep(ctx, p, p.base, kept)
	}
	return nil
}

// remake makes a layer of the base again from what the node has unpacked of it, for
// its bytes are nowhere. It gets another digest; what is in it is the same.
func (c *commit) remake(ctx context.Context, p *part, at int, why error) error {
	layers := p.base.Manifest.Layers
	unpacked, err := p.unpackedLayer(ctx, at)
	if err != nil || unpacked == "" {
		return errors.Join(why, err)
	}
	c.doing = fmt.Sprintf("making layer %s of the base of container %q again", layers[at].Digest, p.Name)
	began := time.Now()
	remade, err := c.remadeBefore(ctx, p, at)
	if err != nil {
		c.Log.Info("no other sandbox has made the layer again", "container", p.Name, "layer", layers[at].Digest, "because", err)
		if remade, err = c.remakeOf(ctx, p, unpacked); err != nil {
			return fmt.Errorf("%w; nor can it be made again from what is unpacked: %w", why, err)
		}
		c.keepRemade(ctx, p, at, remade)
	}
	base := *p.base
	if base.Base, err = p.base.Replace(at, at+1, remade); err != nil {
		return err
	}
	p.base = &base
	c.Log.Warn("a layer of the base image is one that was made again from what a node had unpacked", "container", p.Name,
		"layer", layers[at].Digest, "digest", remade.Descriptor.Digest, "bytes", remade.Descriptor.Size, "took", time.Since(began), "because", why)
	return nil
}

func baseLayer(base *Base, d ocispec.Descriptor) (registry.BaseLayer, error) {
	hash, err := v1.NewHash(d.Digest.String())
	if err != nil {
		return registry.BaseLayer{}, result.Errorf(result.CommitJobFailed, "the base image has a layer with the digest %q, which registries do not take: %w", d.Digest, err)
	}
	mediaType, err := image.OCILayerType(d.MediaType)
	if err != nil {
		return registry.BaseLayer{}, err
	}
	return registry.BaseLayer{
		Digest:       hash,
		Size:         d.Size,
		MediaType:    types.MediaType(mediaType),
		Local:        func(ctx context.Context) (io.ReadCloser, error) { return base.Open(ctx, d) },
		Repositories: base.Repositories,
	}, nil
}
