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

package image

import (
	"encoding/json"
	"fmt"
	"slices"

	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
)

// Replace returns the image with one layer in the place of its layers from up to
// to, counted from the lowest. What several of our own layers became is one of
// ours in the history, too; a layer that takes the place of one other changes
// nothing there.
func (b *Base) Replace(from, to int, layer Layer) (*Base, error) {
	layers := len(b.Config.RootFS.DiffIDs)
	if from < 0 || to <= from || to > layers || len(b.Manifest.Layers) != layers {
		return nil, fmt.Errorf("the image %s has no layers %d to %d to be replaced", b.Digest, from, to)
	}
	merged := to - from
	if merged > 1 && layers-from > b.OwnLayers() {
		return nil, fmt.Errorf("the layers %d to %d of the image %s are not all of earlier snapshots", from, to, b.Digest)
	}
	entry, err := historyEntry(layer)
	if err != nil {
		return nil, err
	}
	replaced := *b
	replaced.remade = b.remade || from < layers-b.OwnLayers()
	replaced.Manifest.Layers = slices.Concat(b.Manifest.Layers[:from], []ocispec.Descriptor{layer.Descriptor}, b.Manifest.Layers[to:])
	diffIDs := slices.Concat(b.Config.RootFS.DiffIDs[:from], []digest.Digest{layer.DiffID}, b.Config.RootFS.DiffIDs[to:])
	replaced.RawConfig, err = b.editConfig(func(history []json.RawMessage) []json.RawMessage {
		if merged == 1 {
			return history
		}
		// Our own entries are the last ones, one for each layer.
		first := len(history) - (layers - from)
		return slices.Concat(history[:first], []json.RawMessage{entry}, history[first+merged:])
	}, diffIDs, nil)
	if err != nil {
		return nil, fmt.Errorf("replacing layers in the configuration %s: %w", b.Manifest.Config.Digest, err)
	}
	replaced.Config = ocispec.Image{}
	if err := json.Unmarshal(replaced.RawConfig, &replaced.Config); err != nil {
		return nil, err
	}
	return &replaced, nil
}

// Rebuild makes an image of layers that were all made again, the lowest first. The configuration is the image's own, or
// what is known of it; its history stays where it tells of as many layers.
func Rebuild(config []byte, layers []Layer) (*Base, error) {
	b := &Base{RawConfig: config, remade: true}
	if err := json.Unmarshal(config, &b.Config); err != nil {
		return nil, fmt.Errorf("reading the configuration: %w", err)
	}
	told := 0
	for _, entry := range b.Config.History {
		if !entry.EmptyLayer {
			told++
		}
	}
	var entries []json.RawMessage
	var diffIDs []digest.Digest
	for _, layer := range layers {
		entry, err := marshal(ocispec.History{Created: &layer.Created, CreatedBy: rebuiltBy})
		if err != nil {
			return nil, err
		}
		entries, diffIDs = append(entries, entry), append(diffIDs, layer.DiffID)
		b.Manifest.Layers = append(b.Manifest.Layers, layer.Descriptor)
	}
	var err error
	b.RawConfig, err = b.editConfig(func(history []json.RawMessage) []json.RawMessage {
		if told == len(layers) {
			return history
		}
		return entries
	}, diffIDs, nil)
	if err != nil {
		return nil, err
	}
	b.Config = ocispec.Image{}
	return b, json.Unmarshal(b.RawConfig, &b.Config)
}

// rebuiltBy marks layers whose history is lost. They are none of ours.
const rebuiltBy = "made again of what a node had unpacked"
