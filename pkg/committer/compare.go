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
	"archive/tar"
	"context"
	"errors"
	"fmt"
	"io"
	"path"
	"strings"
	"time"

	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/types"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
	"golang.org/x/sync/errgroup"

	"github.com/opensandbox-io/sandbox-apiserver/pkg/committer/image"
	"github.com/opensandbox-io/sandbox-apiserver/pkg/committer/result"
	"github.com/opensandbox-io/sandbox-apiserver/pkg/committer/runtime"
)

// compare pushes what containerd finds to be changed. It is for containers whose own
// layer cannot be read by itself.
func (c *commit) compare(ctx context.Context, p *part) error {
	c.doing = fmt.Sprintf("waiting for containerd to compare the files of container %q with its image", p.Name)
	began := time.Now()
	made, err := p.container.Compare(ctx, string(p.compression.MediaType()))
	compared := time.Since(began)
	if err == nil {
		c.doing = fmt.Sprintf("pushing the layer of container %q to %s", p.Name, p.target)
		err = c.uploadCompared(ctx, p, made)
	}
	if err == nil {
		// It has everything, also what a first pass may have pushed.
		p.layers = []image.Layer{{
			Descriptor: ocispec.Descriptor{MediaType: string(p.compression.MediaType()), Digest: made.Descriptor.Digest, Size: made.Descriptor.Size},
			DiffID:     made.DiffID,
			Created:    time.Now().UTC(),
		}}
		err = c.uploadVolumes(ctx, p)
	}
	if checkErr := c.undisturbed(ctx, p); checkErr != nil {
		return checkErr
	}
	if err != nil {
		return fmt.Errorf("container %q: %w", p.Name, err)
	}
	p.differ = result.DifferContainerd
	c.Log.Info("layer pushed", "container", p.Name, "digest", made.Descriptor.Digest, "bytes", made.Descriptor.Size,
		"differ", p.differ, "compared", compared, "took", time.Since(began))
	return nil
}

func (c *commit) uploadCompared(ctx context.Context, p *part, made *runtime.Compared) error {
	hash, err := v1.NewHash(made.Descriptor.Digest.String())
	if err != nil {
		return err
	}
	group, ctx := errgroup.WithContext(ctx)
	group.Go(func() error {
		return p.target.Upload(ctx, &comparedLayer{ctx: ctx, hash: hash, made: made, mediaType: p.compression.MediaType()})
	})
	group.Go(func() error { return p.meantDeletions(ctx, made) })
	return group.Wait()
}

// meantDeletions fails for a layer with a name that begins with ".wh." and that containerd found
// in the container: it writes such a file as it is, and every unpacker takes it for a deletion.
// Those that are its own have neither mode nor content.
func (p *part) meantDeletions(ctx context.Context, made *runtime.Compared) error {
	compressed, err := made.Open(ctx)
	if err != nil {
		return err
	}
	defer func() { _ = compressed.Close() }()
	plain, err := decompress(compressed)
	if err != nil {
		return fmt.Errorf("decompressing the layer %s: %w", made.Descriptor.Digest, err)
	}
	defer func() { _ = plain.Close() }()
	for members := tar.NewReader(plain); ; {
		if err := ctx.Err(); err != nil {
			return err
		}
		h, err := members.Next()
		if errors.Is(err, io.EOF) {
			return nil
		}
		if err != nil {
			return fmt.Errorf("reading the layer %s: %w", made.Descriptor.Digest, err)
		}
		if strings.HasPrefix(path.Base(h.Name), ".wh.") && (h.Typeflag != tar.TypeReg || h.Mode != 0 || h.Size > 0) {
			return result.Errorf(result.FilesNotSupported, "%q cannot be kept in an image layer: names that begin with \".wh.\" mean deletions there; remove or rename it, or keep it in a volume", "/"+h.Name)
		}
	}
}

// comparedLayer is a v1.Layer in containerd's content store.
type comparedLayer struct {
	ctx       context.Context
	hash      v1.Hash
	made      *runtime.Compared
	mediaType types.MediaType
}

func (l *comparedLayer) Digest() (v1.Hash, error)            { return l.hash, nil }
func (l *comparedLayer) Size() (int64, error)                { return l.made.Descriptor.Size, nil }
func (l *comparedLayer) MediaType() (types.MediaType, error) { return l.mediaType, nil }
func (l *comparedLayer) Compressed() (io.ReadCloser, error)  { return l.made.Open(l.ctx) }

func (l *comparedLayer) DiffID() (v1.Hash, error)             { return v1.Hash{}, errOnlyUploaded }
func (l *comparedLayer) Uncompressed() (io.ReadCloser, error) { return nil, errOnlyUploaded }

var errOnlyUploaded = errors.New("the layer is only uploaded")
