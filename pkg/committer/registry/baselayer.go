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
	"errors"
	"fmt"
	"io"

	"github.com/google/go-containerregistry/pkg/name"
	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/types"

	"github.com/opensandbox-io/sandbox-apiserver/pkg/committer/result"
)

// ErrNowhere is what is failed with for a base layer that neither the node nor any
// registry has.
var ErrNowhere = errors.New("it is nowhere to be had")

// BaseLayer is a layer that the new image shares with the one below it.
type BaseLayer struct {
	Digest    v1.Hash
	Size      int64
	MediaType types.MediaType
	// Local opens the node's copy; it fails where there is none.
	Local func(context.Context) (io.ReadCloser, error)
	// Repositories are where the layer came from, as registry/repository.
	Repositories []string
}

// EnsureBaseLayer sees to it that the target's repository has a base layer: it
// has it already, or takes it from another of its repositories, or gets the
// node's copy, or what the base's own registry answers. Other registries than
// the target's are read through sources. It says whether its bytes had to be uploaded.
func (t *Target) EnsureBaseLayer(ctx context.Context, base BaseLayer, sources *Sources) (uploaded bool, err error) {
	l := &baseLayer{ctx: ctx, BaseLayer: base, target: t, sources: sources}
	there, err := t.has(ctx, base.Digest)
	if err == nil && !there {
		err = t.push(ctx, l, func() (*Upload, bool, error) { return t.beginMount(ctx, base) })
	}
	if err == nil {
		return l.opened, nil
	}
	if l.openErr != nil {
		return false, result.Errorf(result.CommitJobFailed, "the layer %s of the base image is not in %s and cannot be copied there: %w; pulling the base image again on this node brings it back%s", base.Digest, t.tag.Context(), l.openErr, sources.hint)
	}
	return false, t.fault("copying the base image's layer "+base.Digest.String()+" to", err)
}

// mountsTried is from how many repositories it is tried to have a layer mounted.
const mountsTried = 2

// beginMount begins the upload of a base layer, and lets the registry take it from another
// repository that may have it. Where the registry does not, it has begun a whole upload.
func (t *Target) beginMount(ctx context.Context, base BaseLayer) (*Upload, bool, error) {
	var begun *Upload
	tried := 0
	for _, from := range base.Repositories {
		source, ok := t.mountable(from)
		if !ok {
			continue
		}
		if tried++; tried > mountsTried {
			break
		}
		if begun != nil {
			t.client.abandon(begun)
		}
		u, mounted, err := t.begin(ctx, &base.Digest, &source)
		if err == nil && mounted {
			// A registry may give what it knows of and does not have.
			mounted, err = t.has(ctx, base.Digest)
		}
		if mounted || ctx.Err() != nil {
			return nil, mounted, err
		}
		begun = u
		why := "it is not to be had there"
		if err != nil {
			why = describe(err) // the token need not cover the source, say
		}
		t.client.log.Info("a layer of the base is not mounted", "digest", base.Digest, "from", from, "because", why)
	}
	if begun != nil {
		return begun, false, nil
	}
	return t.begin(ctx, nil, nil)
}

// OpenBaseLayer reads a base layer that EnsureBaseLayer has seen to: the node's
// copy, or the repository's.
func (t *Target) OpenBaseLayer(ctx context.Context, base BaseLayer) (io.ReadCloser, error) {
	if local, err := base.Local(ctx); err == nil {
		return local, nil
	}
	content, err := t.client.pull(ctx, t.tag.Repository.Name(), base.Digest)
	if err != nil {
		return nil, t.fault("reading the layer "+base.Digest.String()+" for", err)
	}
	return content, nil
}

// baseLayer is a v1.Layer whose bytes are looked for only when they are needed.
type baseLayer struct {
	ctx context.Context
	BaseLayer
	target  *Target
	sources *Sources
	opened  bool
	openErr error
}

func (l *baseLayer) Digest() (v1.Hash, error)             { return l.BaseLayer.Digest, nil }
func (l *baseLayer) Size() (int64, error)                 { return l.BaseLayer.Size, nil }
func (l *baseLayer) MediaType() (types.MediaType, error)  { return l.BaseLayer.MediaType, nil }
func (l *baseLayer) DiffID() (v1.Hash, error)             { return v1.Hash{}, errNotNeeded }
func (l *baseLayer) Uncompressed() (io.ReadCloser, error) { return nil, errNotNeeded }

var errNotNeeded = errors.New("a base layer is only copied")

func (l *baseLayer) Compressed() (io.ReadCloser, error) {
	l.opened = true
	local, err := l.Local(l.ctx)
	if err == nil {
		return local, nil
	}
	problems := fmt.Errorf("%w: the node has no copy (%w)", ErrNowhere, err)
	for _, from := range l.Repositories {
		blob, err := l.pull(from)
		if err == nil {
			return blob, nil
		}
		problems = fmt.Errorf("%w, %s: %s", problems, from, describe(err))
	}
	l.openErr = problems
	return nil, problems
}

// pull reads the layer from a repository it may have come from. The push secret is
// for the target's registry alone, the Pod's pull secrets for any other.
func (l *baseLayer) pull(from string) (io.ReadCloser, error) {
	repo, err := name.NewRepository(from, l.target.client.nameOptions()...)
	if err != nil {
		return nil, err
	}
	if repo.RegistryStr() == l.target.tag.RegistryStr() {
		return l.target.client.pull(l.ctx, from, l.BaseLayer.Digest)
	}
	return l.sources.pull(l.ctx, from, l.BaseLayer.Digest)
}
