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

package registry

import (
	"context"
	"fmt"
	"io"

	"github.com/google/go-containerregistry/pkg/name"
	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/remote"
	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
)

// maxMetadata bounds configurations that are read into memory; the library bounds manifests.
const maxMetadata = 8 << 20

// ReadManifest reads the manifest or index that a reference names, of the target's registry with the push secret, of
// any other through sources. That the target's registry is in trouble is an error with that reason.
func (t *Target) ReadManifest(ctx context.Context, reference string, sources *Sources) (ocispec.Descriptor, []byte, error) {
	var found ocispec.Descriptor
	var content []byte
	err := t.readFrom(reference, sources, func(c *Client) error {
		ref, err := name.ParseReference(reference, c.nameOptions()...)
		if err != nil {
			return err
		}
		// Checked against the digest of a reference that has one.
		answer, err := remote.Get(ref, c.with(ctx)...)
		if err != nil {
			return err
		}
		found = ocispec.Descriptor{MediaType: string(answer.MediaType), Digest: digest.Digest(answer.Digest.String()), Size: int64(len(answer.Manifest))}
		content = answer.Manifest
		return nil
	})
	if err != nil && t.isOwn(reference) && !missing(err) {
		return ocispec.Descriptor{}, nil, t.client.fault("reading", reference, err)
	}
	if err != nil {
		return ocispec.Descriptor{}, nil, fmt.Errorf("%s: %s", reference, describe(err))
	}
	return found, content, nil
}

// ReadConfig reads a small blob of the repository that a reference names, checked against its digest.
func (t *Target) ReadConfig(ctx context.Context, reference string, blob digest.Digest, sources *Sources) (content []byte, err error) {
	hash, err := v1.NewHash(blob.String())
	if err != nil {
		return nil, err
	}
	err = t.readFrom(reference, sources, func(c *Client) error {
		ref, err := name.ParseReference(reference, c.nameOptions()...)
		if err != nil {
			return err
		}
		reader, err := c.pull(ctx, ref.Context().Name(), hash)
		if err != nil {
			return err
		}
		defer reader.Close()
		content, err = io.ReadAll(io.LimitReader(reader, maxMetadata))
		return err
	})
	if err != nil {
		return nil, fmt.Errorf("%s of %s: %s", blob, reference, describe(err))
	}
	return content, nil
}

// readFrom lets ask those who may read what a reference names, one after the other. The push secret is for the
// target's registry alone, the Pod's pull secrets are for any other.
func (t *Target) readFrom(reference string, sources *Sources, ask func(*Client) error) error {
	if t.isOwn(reference) {
		return ask(t.client)
	}
	ref, err := name.ParseReference(reference, t.client.nameOptions()...)
	if err != nil {
		return err
	}
	return sources.ask(ref.Context(), ask)
}

func (t *Target) isOwn(reference string) bool {
	ref, err := name.ParseReference(reference, t.client.nameOptions()...)
	return err == nil && ref.Context().RegistryStr() == t.tag.RegistryStr()
}
