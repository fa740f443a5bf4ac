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
	"fmt"
	"io"
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

// preflight settles everything with the registry that can be settled without
// freezing: that pushing is allowed, and that the base's layers are there.
func (c *commit) preflight(ctx context.Context) error {
	c.doing = "preparing the registry"
	began := time.Now()
	client, err := registry.New(c.Registry)
	if err != nil {
		return err
	}
	for _, p := range c.parts {
		if p.target, err = client.Target(p.Image); err != nil {
			return err
		}
		if err := p.target.CheckPush(ctx); err != nil {
			return err
		}
	}
	// Only the snapshot registry may be without TLS, not those of base images.
	strict := c.Registry
	strict.Insecure = false
	sources, err := registry.New(strict)
	if err != nil {
		return err
	}
	for _, p := range c.parts {
		if err := c.merge(ctx, p, sources); err != nil {
			return err
		}
		c.doing = fmt.Sprintf("copying the base layers of container %q to %s", p.Name, p.target)
		if err := ensureBase(ctx, p, sources); err != nil {
			return fmt.Errorf("container %q: %w", p.Name, err)
		}
	}
	c.Log.Info("registry is ready", "took", time.Since(began))
	return nil
}

func ensureBase(ctx context.Context, p *part, sources *registry.Client) error {
	group, ctx := errgroup.WithContext(ctx)
	group.SetLimit(baseCopies)
	for _, d := range p.base.Manifest.Layers {
		group.Go(func() error {
			l, err := baseLayer(p.base, d)
			if err != nil {
				return err
			}
			return p.target.EnsureBaseLayer(ctx, l, sources)
		})
	}
	return group.Wait()
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
