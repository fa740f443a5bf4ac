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
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"slices"
	"time"

	"github.com/containerd/containerd/v2/pkg/archive/compression"
	"github.com/klauspost/compress/zstd"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/opensandbox-io/sandbox-apiserver/pkg/committer/overlay"
	"github.com/opensandbox-io/sandbox-apiserver/pkg/committer/result"
	"github.com/opensandbox-io/sandbox-apiserver/pkg/committer/squash"
)

// maxOwnLayers is how many layers of ours an image has at most, the new one
// included. Eight are promised: one less leaves room for a commit that adds two, and
// keeps an image whose every pause rewrites all there is within one and a half times
// of what it was at its fifth.
const maxOwnLayers = 7

// merge makes room for the new layer where an image has as many of ours as it may
// have. Nothing is frozen yet, and what is merged does not change any more.
func (c *commit) merge(ctx context.Context, p *part) error {
	layers := p.base.Manifest.Layers
	own := layers[len(layers)-p.base.OwnLayers():]
	sizes := make([]int64, len(own))
	for i, d := range own {
		sizes[i] = d.Size
	}
	from := len(layers) - toMerge(sizes, maxOwnLayers)
	if from == len(layers) {
		return nil
	}
	c.doing = fmt.Sprintf("merging the layers that earlier snapshots of container %q added", p.Name)
	began := time.Now()
	plan, from, err := p.plan(ctx, from, len(layers)-len(own))
	if large := (*squash.TooLargeError)(nil); errors.As(err, &large) && large.Fits > 1 && len(layers)-large.Fits > from {
		c.Log.Info("only the newest layers of earlier snapshots are merged", "container", p.Name, "layers", large.Fits, "because", err)
		plan, from, err = p.plan(ctx, len(layers)-large.Fits, len(layers)-large.Fits)
	}
	if err != nil {
		return c.unmerged(ctx, p, err)
	}
	defer plan.close()
	l, err := upload(ctx, p, plan.Write)
	if err != nil {
		return c.unmerged(ctx, p, err)
	}
	merged, err := describe(l)
	if err != nil {
		return err
	}
	base := *p.base
	if base.Base, err = p.base.Replace(from, len(layers), merged); err != nil {
		return err
	}
	p.base = &base
	c.Log.Info("layers merged", "container", p.Name, "layers", len(layers)-from, "directories", plan.below != nil, "digest", merged.Descriptor.Digest,
		"bytes", merged.Descriptor.Size, "took", time.Since(began))
	return nil
}

// planned is a merge, and the directories below it, if there are any.
type planned struct {
	*squash.Merge
	below *overlay.Lower
}

func (p *planned) close() {
	if p.below != nil {
		p.below.Close()
	}
}

// plan plans the merge of the layers from from on, or of some more: at most down to least.
func (p *part) plan(ctx context.Context, from, least int) (*planned, int, error) {
	layers := len(p.base.Manifest.Layers)
	below, from, err := p.directoriesBelow(ctx, from, least)
	if err != nil {
		return nil, from, err
	}
	plan := &planned{below: below}
	parts, err := p.toRead(from, layers)
	if err == nil && below != nil {
		plan.Merge, err = squash.Plan(ctx, parts, below)
	} else if err == nil {
		plan.Merge, err = p.planOnLayers(ctx, parts, from)
	}
	if err != nil {
		plan.close()
		return nil, from, err
	}
	return plan, from, nil
}

// directoriesBelow opens the node's directories of the layers below a merge. It may
// begin further down than at from, but not below least: two layers that lie in one
// directory are both merged. There are none (nil) where the snapshotter has no directories
// for single layers.
func (p *part) directoriesBelow(ctx context.Context, from, least int) (*overlay.Lower, int, error) {
	for at := from; at >= least; at-- {
		dirs, whole, err := p.unpacked(ctx, at)
		if err != nil {
			return nil, 0, err
		}
		if whole {
			below, err := overlay.OpenLower(dirs, p.readOptions())
			return below, at, err
		}
	}
	return nil, from, nil
}

// planOnLayers is for where there are no directories: the layers below have to be read
// for what a deletion is to delete.
func (p *part) planOnLayers(ctx context.Context, parts []squash.Layer, from int) (*squash.Merge, error) {
	lower, err := p.toRead(0, from)
	if err != nil {
		return nil, err
	}
	for i := range lower {
		open := lower[i].Open
		lower[i].Open = func(ctx context.Context) (io.ReadCloser, error) {
			content, err := open(ctx)
			if err != nil {
				// Without its reason: nothing has to be read there to push a snapshot.
				return nil, fmt.Errorf("%w: %s", squash.ErrNotMergeable, err.Error())
			}
			return content, nil
		}
	}
	return squash.PlanOnLayers(ctx, parts, lower)
}

// toRead are the image's layers from from up to to.
func (p *part) toRead(from, to int) ([]squash.Layer, error) {
	var all []squash.Layer
	for i := from; i < to; i++ {
		open, err := opener(p, p.base.Manifest.Layers[i])
		if err != nil {
			return nil, err
		}
		all = append(all, squash.Layer{DiffID: p.base.Config.RootFS.DiffIDs[i], Open: open})
	}
	return all, nil
}

// unmerged goes on with the layers as they are when they are no tar that we would
// have written, or cannot be read: an image of many layers is better than none for
// ever. Only a registry that refuses to serve now would do so later, too.
func (c *commit) unmerged(ctx context.Context, p *part, err error) error {
	var reasoned *result.Error
	if ctx.Err() != nil || errors.As(err, &reasoned) {
		return fmt.Errorf("merging the layers of earlier snapshots: %w", err)
	}
	c.Log.Warn("the layers of earlier snapshots stay as they are", "container", p.Name, "layers", p.base.OwnLayers(), "error", err)
	return nil
}

// toMerge is how many of the topmost own layers are to become one, given their
// sizes from the lowest to the topmost, so that with the new one there are at most
// limit. It takes as many as cost little: a layer that is much larger than all above
// it is left alone, and taken when they have grown.
func toMerge(sizes []int64, limit int) int {
	if len(sizes) < limit {
		return 0
	}
	// Half of them at least, or the next pause would have to merge again.
	least := len(sizes) - limit/2 + 1
	taken, sum := 0, int64(0)
	for _, size := range slices.Backward(sizes) {
		if taken >= least && size > 2*sum {
			break
		}
		taken++
		sum += size
	}
	return taken
}

// opener opens a layer of the image, decompressed.
func opener(p *part, d ocispec.Descriptor) (func(context.Context) (io.ReadCloser, error), error) {
	l, err := baseLayer(p.base, d)
	if err != nil {
		return nil, err
	}
	return func(ctx context.Context) (io.ReadCloser, error) {
		compressed, err := p.target.OpenBaseLayer(ctx, l)
		if err != nil {
			return nil, err
		}
		plain, err := decompress(compressed)
		if err != nil {
			_ = compressed.Close()
			return nil, fmt.Errorf("decompressing the layer %s: %w", d.Digest, err)
		}
		return &decompressed{ReadCloser: plain, compressed: compressed}, nil
	}, nil
}

// maxWindow is how much of what it has decompressed a zstd decoder remembers at most. The
// format allows for gigabytes, which a few kilobytes of a hostile layer could ask for;
// compressors ask for 8 MiB at most unless told otherwise.
const maxWindow = 32 << 20

func decompress(compressed io.Reader) (io.ReadCloser, error) {
	buffered := bufio.NewReader(compressed)
	magic, err := buffered.Peek(10)
	if err != nil && !errors.Is(err, io.EOF) {
		return nil, err
	}
	if compression.DetectCompression(magic) != compression.Zstd {
		return compression.DecompressStream(buffered)
	}
	decoder, err := zstd.NewReader(buffered, zstd.WithDecoderMaxWindow(maxWindow))
	if err != nil {
		return nil, err
	}
	return decoder.IOReadCloser(), nil
}

type decompressed struct {
	io.ReadCloser
	compressed io.Closer
}

func (d *decompressed) Close() error {
	return errors.Join(d.ReadCloser.Close(), d.compressed.Close())
}
