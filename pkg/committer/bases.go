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
	"encoding/json"
	"errors"
	"fmt"
	"time"

	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/static"
	"github.com/google/go-containerregistry/pkg/v1/types"
	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/opensandbox-io/sandbox-apiserver/pkg/committer/image"
	"github.com/opensandbox-io/sandbox-apiserver/pkg/committer/registry"
)

// keepTime is how long it may take to leave a base for others; nobody needs that now.
const keepTime = 30 * time.Second

// keptBase is where the registry keeps the base of a container for all sandboxes, so that its layers are uploaded by the
// first of them alone: a repository of the registry's, under a tag that is the digest of the base's manifest. nil where
// there is no such place, or the base has layers of an earlier snapshot, which are in that one's repository.
//
// What lies there is an image, because registries collect layers that no manifest names; images that share layers share
// them there, too. It is a cache: without it, and wherever a registry does not mount, layers are uploaded.
func (c *commit) keptBase(p *part) (*registry.Target, error) {
	if c.BaseRepository == "" || p.base.OwnLayers() > 0 || p.base.Digest == "" {
		return nil, nil
	}
	return c.client.Target(c.BaseRepository + ":" + tagOf(p.base.Digest))
}

// tagOf is a digest in the letters of a tag.
func tagOf(d digest.Digest) string { return d.Algorithm().String() + "-" + d.Encoded() }

// keep leaves the base for the next sandbox, where the target's repository has it from this one.
func (c *commit) keep(ctx context.Context, p *part, base *Base, kept *registry.Target) {
	c.doing = fmt.Sprintf("keeping the base of container %q in %s", p.Name, kept.Repository())
	began := time.Now()
	ctx, cancel := context.WithTimeout(ctx, keepTime)
	defer cancel()
	if err := keepBase(ctx, p, base, kept); err != nil {
		c.Log.Info("the next sandbox will upload the base again", "container", p.Name, "base", base.Digest, "repository", kept.Repository(), "because", err)
		return
	}
	c.Log.Info("the base is kept for the next sandbox", "container", p.Name, "base", base.Digest, "repository", kept.Repository(), "took", time.Since(began))
}

func keepBase(ctx context.Context, p *part, base *Base, kept *registry.Target) error {
	for _, d := range base.Manifest.Layers {
		hash, err := v1.NewHash(d.Digest.String())
		if err != nil {
			return err
		}
		if err := kept.Mount(ctx, hash, p.target); err != nil {
			return err
		}
	}
	same, err := image.Same(base.Base)
	if err != nil {
		return err
	}
	if err := kept.Upload(ctx, static.NewLayer(same.Config, types.OCIConfigJSON)); err != nil {
		return err
	}
	return kept.Publish(ctx, same.Manifest)
}

// remadeAs is where the registry keeps what was made again of a layer that is nowhere to be had: an image of that alone.
// The layer has another digest for it.
func (c *commit) remadeAs(p *part, at int) (*registry.Target, error) {
	if c.BaseRepository == "" || at >= len(p.base.Manifest.Layers)-p.base.OwnLayers() {
		return nil, errors.New("it is not kept for others")
	}
	return c.client.Target(c.BaseRepository + ":remade-" + tagOf(p.base.Manifest.Layers[at].Digest))
}

// remadeBefore takes a layer from there that another sandbox's commit has made again.
func (c *commit) remadeBefore(ctx context.Context, p *part, at int) (image.Layer, error) {
	kept, err := c.remadeAs(p, at)
	if err != nil {
		return image.Layer{}, err
	}
	_, raw, err := kept.ReadManifest(ctx, kept.String(), nil)
	if err != nil {
		return image.Layer{}, err
	}
	var manifest ocispec.Manifest
	if err := json.Unmarshal(raw, &manifest); err != nil {
		return image.Layer{}, err
	}
	if raw, err = kept.ReadConfig(ctx, kept.String(), manifest.Config.Digest, nil); err != nil {
		return image.Layer{}, err
	}
	var config ocispec.Image
	if err := json.Unmarshal(raw, &config); err != nil {
		return image.Layer{}, err
	}
	if len(manifest.Layers) != 1 || len(config.RootFS.DiffIDs) != 1 {
		return image.Layer{}, fmt.Errorf("%s has %d layers", kept, len(manifest.Layers))
	}
	hash, err := v1.NewHash(manifest.Layers[0].Digest.String())
	if err != nil {
		return image.Layer{}, err
	}
	return image.Layer{Descriptor: manifest.Layers[0], DiffID: config.RootFS.DiffIDs[0], Created: time.Now().UTC()}, p.target.Mount(ctx, hash, kept)
}

// keepRemade leaves a layer there.
func (c *commit) keepRemade(ctx context.Context, p *part, at int, remade image.Layer) {
	kept, err := c.remadeAs(p, at)
	if err != nil {
		return
	}
	config, err := json.Marshal(ocispec.Image{Platform: p.base.Config.Platform, RootFS: ocispec.RootFS{Type: "layers"}})
	if err != nil {
		return
	}
	alone, err := image.Rebuild(config, []image.Layer{remade})
	if err != nil {
		return
	}
	c.keep(ctx, p, &Base{Base: alone}, kept)
}
