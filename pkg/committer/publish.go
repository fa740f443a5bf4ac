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

	"github.com/google/go-containerregistry/pkg/v1/static"
	"github.com/google/go-containerregistry/pkg/v1/types"

	"github.com/opensandbox-io/sandbox-apiserver/pkg/committer/image"
)

// publish pushes all configurations and then all manifests: no image appears
// before every container's bytes are in the registry.
func (c *commit) publish(ctx context.Context) (err error) {
	for _, p := range c.parts {
		c.doing = fmt.Sprintf("pushing the configuration of container %q to %s", p.Name, p.target)
		if p.image, err = image.Extend(p.base.Base, p.layers, c.SnapshotUID); err != nil {
			return err
		}
		if err := c.configure(ctx, p); err != nil {
			return fmt.Errorf("container %q: %w", p.Name, err)
		}
	}
	for _, p := range c.parts {
		c.doing = fmt.Sprintf("pushing the manifest of container %q to %s", p.Name, p.target)
		if err := p.target.Publish(ctx, p.image.Manifest); err != nil {
			return fmt.Errorf("container %q: %w", p.Name, err)
		}
		c.Log.Info("image pushed", "container", p.Name, "image", p.Image, "digest", p.image.ManifestDigest, "layers", p.image.Layers)
	}
	return nil
}

// configure pushes a configuration, with the upload that was begun for it if the registry
// still knows that.
func (c *commit) configure(ctx context.Context, p *part) error {
	upload := p.upload
	p.upload = nil
	err := upload.Put(ctx, p.image.Config)
	if err == nil || ctx.Err() != nil {
		return err
	}
	c.Log.Info("pushing the configuration once more", "container", p.Name, "because", err)
	return p.target.Upload(ctx, static.NewLayer(p.image.Config, types.OCIConfigJSON))
}

// cancelUploads ends what was begun in the registry and is of no use any more.
func (c *commit) cancelUploads(ctx context.Context) {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), callTimeout)
	defer cancel()
	for _, p := range c.parts {
		if p.upload == nil {
			continue
		}
		if err := p.upload.Cancel(ctx); err != nil {
			c.Log.Info("an upload stays until the registry forgets it", "container", p.Name, "error", err)
		}
	}
	if c.client == nil {
		return
	}
	if err := c.client.CancelUploads(ctx); err != nil {
		c.Log.Info("uploads stay until the registry forgets them", "error", err)
	}
}
