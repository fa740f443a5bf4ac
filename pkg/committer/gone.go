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
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"strings"
	"time"

	"github.com/containerd/containerd/v2/core/content"
	"github.com/containerd/containerd/v2/core/images"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/opensandbox-io/sandbox-apiserver/pkg/committer/image"
	"github.com/opensandbox-io/sandbox-apiserver/pkg/committer/overlay"
	"github.com/opensandbox-io/sandbox-apiserver/pkg/committer/registry"
	"github.com/opensandbox-io/sandbox-apiserver/pkg/committer/result"
)

// searchTime is how long registries are asked for an image that the node does not have any more: some of those that may
// have it are not to be reached from here.
const searchTime = time.Minute

// findBase finds the image of a container that is gone from the node: a registry has it, ours or its own, or it is made
// again of what is unpacked.
func (c *commit) findBase(ctx context.Context, p *part, sources *registry.Sources) error {
	c.doing = fmt.Sprintf("looking in registries for the image of container %q", p.Name)
	searching, cancel := context.WithTimeout(ctx, searchTime)
	defer cancel()
	var tried []string
	for _, reference := range p.gone.References {
		found, err := lookUp(searching, p, reference, sources)
		if err == nil {
			p.base = &Base{Base: found, Repositories: []string{repositoryOf(reference)}, Open: p.gone.Open}
			p.diffIDs = found.Config.RootFS.DiffIDs
			c.Log.Warn("the image is gone from the node, and was found in a registry", "container", p.Name, "reference", reference, "base", found.Digest)
			return nil
		}
		if ctx.Err() != nil {
			return context.Cause(ctx)
		}
		var ours *result.Error
		if errors.As(err, &ours) && ours.Reason == result.RegistryUnavailable {
			return err // in a moment it may well have it
		}
		tried = append(tried, err.Error())
	}
	err := c.rebuildBase(ctx, p)
	if err == nil || errors.As(err, new(*result.Error)) || ctx.Err() != nil {
		return err
	}
	if len(tried) > 0 {
		err = fmt.Errorf("%w; no registry has it: %s", err, strings.Join(tried, ", "))
	}
	return result.Wrap(result.CommitJobFailed, err, "%s; it cannot be made again: %s; pulling it again on this node brings it back%s, and kubectl cp takes files out of the container as it runs", p.gone, err, sources.Hint())
}

// lookUp reads an image from a registry.
func lookUp(ctx context.Context, p *part, reference string, sources *registry.Sources) (*image.Base, error) {
	target, _, err := p.target.ReadManifest(ctx, reference, sources)
	if err != nil {
		return nil, err
	}
	found, err := image.Resolve(ctx, &inRegistry{part: p, reference: reference, sources: sources}, target, p.gone.Wanted)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", reference, err)
	}
	found.Name = p.gone.Name
	return found, nil
}

// inRegistry reads what describes an image where a reference leads to.
type inRegistry struct {
	part      *part
	reference string
	sources   *registry.Sources
}

// ReaderAt implements content.Provider.
func (r *inRegistry) ReaderAt(ctx context.Context, d ocispec.Descriptor) (content.ReaderAt, error) {
	var data []byte
	var err error
	if images.IsManifestType(d.MediaType) || images.IsIndexType(d.MediaType) {
		_, data, err = r.part.target.ReadManifest(ctx, repositoryOf(r.reference)+"@"+d.Digest.String(), r.sources)
	} else {
		data, err = r.part.target.ReadConfig(ctx, r.reference, d.Digest, r.sources)
	}
	if err != nil {
		return nil, err
	}
	return readAtOnce{bytes.NewReader(data)}, nil
}

// readAtOnce is a blob that has been read.
type readAtOnce struct{ *bytes.Reader }

func (readAtOnce) Close() error { return nil }

// repositoryOf is a whole reference without its tag and digest.
func repositoryOf(reference string) string {
	name, _, _ := strings.Cut(reference, "@")
	if at := strings.LastIndex(name, ":"); at > strings.LastIndex(name, "/") {
		name = name[:at]
	}
	return name
}

// rebuildBase makes the image again that nobody has: its layers of what is unpacked of them, and its configuration of
// what the container was told by it.
func (c *commit) rebuildBase(ctx context.Context, p *part) error {
	raw := p.gone.RawConfig
	if raw == nil {
		config, err := p.gone.Remade()
		if err != nil {
			return err
		}
		if raw, err = json.Marshal(config); err != nil {
			return err
		}
	}
	chain, err := p.container.Chain(ctx)
	if err != nil {
		return err
	}
	dirs := p.files.Lowerdirs
	if len(dirs) == 0 || len(dirs) != len(chain) {
		return fmt.Errorf("its layers are not unpacked each in a directory of the node's (%d layers, %d directories)", len(chain), len(dirs))
	}
	var layers []image.Layer
	began := time.Now()
	for i := len(dirs) - 1; i >= 0; i-- {
		c.doing = fmt.Sprintf("making layer %d of %d of the image of container %q again", len(dirs)-i, len(dirs), p.Name)
		remade, err := c.remakeOf(ctx, p, dirs[i])
		if err != nil {
			return err
		}
		layers = append(layers, remade)
	}
	rebuilt, err := image.Rebuild(raw, layers)
	if err != nil {
		return err
	}
	p.base = &Base{Base: rebuilt, Open: p.gone.Open}
	if p.diffIDs = rebuilt.Config.RootFS.DiffIDs; p.gone.RawConfig != nil {
		var known ocispec.Image
		if err := json.Unmarshal(p.gone.RawConfig, &known); err == nil {
			p.diffIDs = known.RootFS.DiffIDs // by which what is unpacked is known
		}
	}
	c.Log.Warn("the image is gone, and was made again of what the node has unpacked", "container", p.Name, "layers", len(layers), "configurationKnown", p.gone.RawConfig != nil, "took", time.Since(began))
	message := "its image is nowhere to be had: it was made again, without its ports and health check, and without what the Pod says otherwise"
	if p.gone.RawConfig != nil {
		message = "its image is nowhere to be had: its layers were made again of what the node has unpacked"
	}
	c.warn(result.Warning{Reason: result.BaseRebuilt, Container: p.Name, Message: message})
	return nil
}

// remakeOf makes and pushes a layer of what a directory has of it.
func (c *commit) remakeOf(ctx context.Context, p *part, unpacked string) (image.Layer, error) {
	made, err := upload(ctx, p, func(ctx context.Context, w io.Writer) error {
		_, err := overlay.Write(ctx, w, unpacked, overlay.Options{UserXattr: p.files.UserXattr})
		return err
	})
	if err != nil {
		return image.Layer{}, err
	}
	return describe(made)
}
