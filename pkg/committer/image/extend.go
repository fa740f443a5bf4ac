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
	"bytes"
	"encoding/json"
	"fmt"
	"slices"
	"time"

	"github.com/opencontainers/go-digest"
	"github.com/opencontainers/image-spec/specs-go"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
)

const (
	// CreatedBy marks the history entries of our own layers: they can be counted,
	// and later merged, however often a sandbox was paused and resumed.
	CreatedBy = "image-committer snapshot"

	// SnapshotUIDAnnotation makes every manifest unique. Two snapshots without
	// changes between them would otherwise share one, and deleting the one by its
	// digest would delete the other.
	SnapshotUIDAnnotation = "lifecycle.opensandbox.io/snapshot-uid"
)

// Layer is a layer to be added.
type Layer struct {
	Descriptor ocispec.Descriptor
	DiffID     digest.Digest
	Created    time.Time
}

// Image is ready to be pushed: the configuration as a blob, then the manifest.
type Image struct {
	Config, Manifest             []byte
	ConfigDigest, ManifestDigest digest.Digest
	// Layers is how many of the topmost layers are ours.
	Layers int
}

// Extend adds layers to base, the lowest first; there is one at least. The configuration keeps all that it
// has, also what this version does not know, but for the time of its creation; for each
// layer it gets one entry of history and one diff ID.
func Extend(base *Base, layers []Layer, snapshotUID string) (*Image, error) {
	created := &layers[len(layers)-1].Created
	config, err := extendConfig(base, layers, created)
	if err != nil {
		return nil, fmt.Errorf("extending the configuration %s: %w", base.Manifest.Config.Digest, err)
	}
	annotations := base.annotations(created)
	annotations[SnapshotUIDAnnotation] = snapshotUID
	return base.with(config, layers, annotations)
}

// Same is the base as it is, with OCI's media types and nothing of its manifest's own.
func Same(base *Base) (*Image, error) { return base.with(base.RawConfig, nil, nil) }

func (b *Base) with(config []byte, layers []Layer, annotations map[string]string) (_ *Image, err error) {
	manifest := ocispec.Manifest{
		Versioned: specs.Versioned{SchemaVersion: 2},
		MediaType: ocispec.MediaTypeImageManifest,
		Config: ocispec.Descriptor{
			MediaType: ocispec.MediaTypeImageConfig,
			Digest:    digest.FromBytes(config),
			Size:      int64(len(config)),
		},
		Annotations: annotations,
	}
	for _, d := range b.Manifest.Layers {
		// The new image's repository has it, whatever its licence said about pushing it.
		d.URLs = nil
		if d.MediaType, err = OCILayerType(d.MediaType); err != nil {
			return nil, fmt.Errorf("layer %s of the base image: %w", d.Digest, err)
		}
		manifest.Layers = append(manifest.Layers, d)
	}
	for _, layer := range layers {
		manifest.Layers = append(manifest.Layers, layer.Descriptor)
	}
	raw, err := marshal(manifest)
	if err != nil {
		return nil, err
	}
	return &Image{
		Config:         config,
		ConfigDigest:   manifest.Config.Digest,
		Manifest:       raw,
		ManifestDigest: digest.FromBytes(raw),
		Layers:         b.OwnLayers() + len(layers),
	}, nil
}

// OwnLayers is how many of the topmost layers an earlier commit added. The
// history has one entry for each; an entry further down that claims the same
// belongs to what the first sandbox was created from.
func (b *Base) OwnLayers() int {
	own := 0
	for i := len(b.Config.History) - 1; i >= 0 && isOwn(b.Config.History[i]); i-- {
		own++
	}
	return min(own, len(b.Config.RootFS.DiffIDs))
}

func isOwn(entry ocispec.History) bool { return entry.CreatedBy == CreatedBy && !entry.EmptyLayer }

func extendConfig(base *Base, layers []Layer, created *time.Time) ([]byte, error) {
	var entries []json.RawMessage
	diffIDs := slices.Clone(base.Config.RootFS.DiffIDs)
	for _, layer := range layers {
		entry, err := historyEntry(layer)
		if err != nil {
			return nil, err
		}
		entries, diffIDs = append(entries, entry), append(diffIDs, layer.DiffID)
	}
	return base.editConfig(func(history []json.RawMessage) []json.RawMessage {
		return append(history, entries...)
	}, diffIDs, created)
}

func historyEntry(layer Layer) (json.RawMessage, error) {
	return marshal(ocispec.History{Created: &layer.Created, CreatedBy: CreatedBy})
}

// editConfig returns the configuration with another history, other diff IDs and, unless it is nil, another time of
// creation: by that registries and nodes tell how old an image is. All else stays as it is, known here or not.
func (b *Base) editConfig(edit func(history []json.RawMessage) []json.RawMessage, diffIDs []digest.Digest, created *time.Time) ([]byte, error) {
	var config struct {
		fields  map[string]json.RawMessage
		history []json.RawMessage
		rootfs  map[string]json.RawMessage
	}
	if err := json.Unmarshal(b.RawConfig, &config.fields); err != nil {
		return nil, err
	}
	raw, hasHistory := config.fields["history"]
	if hasHistory {
		if err := json.Unmarshal(raw, &config.history); err != nil {
			return nil, fmt.Errorf("history: %w", err)
		}
	}
	if err := json.Unmarshal(config.fields["rootfs"], &config.rootfs); err != nil {
		return nil, fmt.Errorf("rootfs: %w", err)
	}
	var err error
	if created != nil {
		if config.fields["created"], err = marshal(created); err != nil {
			return nil, err
		}
	}
	if config.history = edit(config.history); hasHistory || len(config.history) > 0 {
		if config.fields["history"], err = marshal(config.history); err != nil {
			return nil, err
		}
	}
	if config.rootfs["diff_ids"], err = marshal(diffIDs); err != nil {
		return nil, err
	}
	if config.fields["rootfs"], err = marshal(config.rootfs); err != nil {
		return nil, err
	}
	return marshal(config.fields)
}

// marshal writes JSON without escaping <, > and &, which commands are full of.
func marshal(v any) ([]byte, error) {
	var b bytes.Buffer
	e := json.NewEncoder(&b)
	e.SetEscapeHTML(false)
	if err := e.Encode(v); err != nil {
		return nil, err
	}
	return bytes.TrimSuffix(b.Bytes(), []byte("\n")), nil
}
