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

// Package image finds the image that a container was created from, and makes
// the manifest and configuration of that image with one layer more.
package image

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"

	"github.com/containerd/containerd/v2/core/content"
	"github.com/containerd/containerd/v2/core/images"
	"github.com/opencontainers/go-digest"
	"github.com/opencontainers/image-spec/identity"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
)

// ErrNoMatch is what Resolve fails with when an image is not the one that is
// looked for: its layers differ, or its metadata is not on the node.
var ErrNoMatch = errors.New("the image does not fit")

// Base is the image below a container: one platform's manifest.
type Base struct {
	// Manifest and Config are parsed; RawConfig keeps what the types do not know.
	Manifest  ocispec.Manifest
	Config    ocispec.Image
	RawConfig []byte
	// Digest is the manifest's.
	Digest digest.Digest
	// Name is what the image was asked for by, where that is known.
	Name string

	// remade is whether layers are other ones than those of the image with that digest.
	remade bool
}

// maxMetadata bounds manifests and configurations that are read into memory;
// registries stop at 4 MiB for a manifest.
const maxMetadata = 8 << 20

// Wanted is what an image has to be to be the one that is looked for.
type Wanted struct {
	// ChainID is the key of its unpacked layers.
	ChainID digest.Digest
	// Config is the digest of its configuration; any will do where it is empty.
	Config digest.Digest
}

// Resolve returns the manifest below target, an index or a manifest, that is wanted. That rather than the platform
// decides: a node can run another platform's image, and an image name moves.
func Resolve(ctx context.Context, store content.Provider, target ocispec.Descriptor, wanted Wanted) (*Base, error) {
	return resolve(ctx, store, target, wanted, 0)
}

// maxNesting is how deep indexes may lie in each other.
const maxNesting = 4

func resolve(ctx context.Context, store content.Provider, target ocispec.Descriptor, wanted Wanted, depth int) (*Base, error) {
	switch {
	case images.IsIndexType(target.MediaType):
		if depth == maxNesting {
			return nil, fmt.Errorf("%w: indexes lie more than %d deep", ErrNoMatch, maxNesting)
		}
		var index ocispec.Index
		if err := readJSON(ctx, store, target, &index, nil); err != nil {
			return nil, fmt.Errorf("%w: %w", ErrNoMatch, err)
		}
		problem := ErrNoMatch
		for _, m := range index.Manifests {
			base, err := resolve(ctx, store, m, wanted, depth+1)
			if err == nil {
				return base, nil
			}
			// The other platforms of an index are usually not on the node.
			problem = err
		}
		return nil, problem
	case images.IsManifestType(target.MediaType):
		base := &Base{Digest: target.Digest}
		if err := readJSON(ctx, store, target, &base.Manifest, nil); err != nil {
			return nil, fmt.Errorf("%w: %w", ErrNoMatch, err)
		}
		if wanted.Config != "" && base.Manifest.Config.Digest != wanted.Config {
			return nil, fmt.Errorf("%w: %s has another configuration", ErrNoMatch, target.Digest)
		}
		if err := readJSON(ctx, store, base.Manifest.Config, &base.Config, &base.RawConfig); err != nil {
			return nil, fmt.Errorf("%w: %w", ErrNoMatch, err)
		}
		if base.ChainID() != wanted.ChainID {
			return nil, fmt.Errorf("%w: %s has other layers", ErrNoMatch, target.Digest)
		}
		if len(base.Manifest.Layers) != len(base.Config.RootFS.DiffIDs) {
			return nil, fmt.Errorf("%w: %s has %d layers in its manifest and %d in its configuration", ErrNoMatch, target.Digest, len(base.Manifest.Layers), len(base.Config.RootFS.DiffIDs))
		}
		return base, nil
	}
	return nil, fmt.Errorf("%w: %s is of type %q", ErrNoMatch, target.Digest, target.MediaType)
}

// Read reads the image whose manifest is target.
func Read(ctx context.Context, store content.Provider, target ocispec.Descriptor) (*Base, error) {
	base := &Base{Digest: target.Digest}
	if err := readJSON(ctx, store, target, &base.Manifest, nil); err != nil {
		return nil, err
	}
	return base, readJSON(ctx, store, base.Manifest.Config, &base.Config, &base.RawConfig)
}

// ReadConfig reads a configuration that no manifest names any more.
func ReadConfig(ctx context.Context, store content.InfoReaderProvider, config digest.Digest) (raw []byte, err error) {
	info, err := store.Info(ctx, config)
	if err != nil {
		return nil, err
	}
	err = readJSON(ctx, store, ocispec.Descriptor{Digest: config, Size: info.Size}, &ocispec.Image{}, &raw)
	return raw, err
}

// ChainID is the key of its unpacked layers.
func (b *Base) ChainID() digest.Digest { return identity.ChainID(b.Config.RootFS.DiffIDs) }

func readJSON(ctx context.Context, store content.Provider, d ocispec.Descriptor, into any, raw *[]byte) error {
	if d.Size > maxMetadata {
		return fmt.Errorf("%s of %d bytes is too large", d.Digest, d.Size)
	}
	data, err := content.ReadBlob(ctx, store, d)
	if err != nil {
		return err
	}
	if raw != nil {
		*raw = data
	}
	if err := json.Unmarshal(data, into); err != nil {
		return fmt.Errorf("%s: %w", d.Digest, err)
	}
	return nil
}
