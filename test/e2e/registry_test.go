//go:build e2e

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

package e2e

import (
	"errors"
	"fmt"
	"net/http"

	"github.com/google/go-containerregistry/pkg/authn"
	"github.com/google/go-containerregistry/pkg/name"
	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/partial"
	"github.com/google/go-containerregistry/pkg/v1/remote"
	"github.com/google/go-containerregistry/pkg/v1/remote/transport"
	"github.com/google/go-containerregistry/pkg/v1/types"

	"github.com/opensandbox-io/sandbox-apiserver/apis/lifecycle/v1alpha1"
)

// busyboxLayers is how many layers the image busybox has.
const busyboxLayers = 1

// image reads a container's image by the digest in the status, from the registry itself.
func (r *room) image(saved v1alpha1.ContainerSnapshot, credentials ...authn.Authenticator) v1.Image {
	r.t.Helper()
	tag := r.tag(saved)
	options := []remote.Option{remote.WithContext(r.t.Context())}
	for _, credential := range credentials {
		options = append(options, remote.WithAuth(credential))
	}
	image, err := remote.Image(tag.Digest(saved.ImageDigest), options...)
	if err != nil {
		r.t.Fatalf("the image of container %s is not in the registry: %v", saved.ContainerName, err)
	}
	byTag, err := remote.Head(tag, options...)
	if err != nil {
		r.t.Fatalf("the tag of container %s is not in the registry: %v", saved.ContainerName, err)
	}
	if byTag.Digest.String() != saved.ImageDigest {
		r.t.Errorf("%s is %s in the registry, the status says %s", saved.ImageURI, byTag.Digest, saved.ImageDigest)
	}
	return image
}

// tag is where a container's image was pushed to.
func (r *room) tag(saved v1alpha1.ContainerSnapshot) name.Tag {
	r.t.Helper()
	tag, err := name.NewTag(saved.ImageURI, name.Insecure)
	if err != nil {
		r.t.Fatalf("image of container %s: %v", saved.ContainerName, err)
	}
	return tag
}

// layers are the digests of an image's layers.
func (r *room) layers(saved v1alpha1.ContainerSnapshot) []string {
	r.t.Helper()
	manifest, err := r.image(saved).Manifest()
	if err != nil {
		r.t.Fatal(err)
	}
	var digests []string
	for _, layer := range manifest.Layers {
		digests = append(digests, layer.Digest.String())
	}
	return digests
}

// mustNotBeInRegistry checks that the registry says of a manifest that it has none.
func (r *room) mustNotBeInRegistry(saved v1alpha1.ContainerSnapshot) {
	r.t.Helper()
	_, err := remote.Head(r.tag(saved).Digest(saved.ImageDigest), remote.WithContext(r.t.Context()))
	var answer *transport.Error
	if !errors.As(err, &answer) || answer.StatusCode != http.StatusNotFound {
		r.t.Errorf("image %s@%s: %v, want 404", saved.ImageURI, saved.ImageDigest, err)
	}
}

// rawManifest is a manifest to be put back byte for byte.
type rawManifest struct {
	content []byte
	kind    types.MediaType
}

func (m rawManifest) RawManifest() ([]byte, error)        { return m.content, nil }
func (m rawManifest) MediaType() (types.MediaType, error) { return m.kind, nil }

// mustBeInRegistry checks a container's image: manifest, config and layers.
func (r *room) mustBeInRegistry(saved v1alpha1.ContainerSnapshot, credentials ...authn.Authenticator) {
	r.t.Helper()
	if err := r.checkLayers(saved, r.image(saved, credentials...)); err != nil {
		r.t.Errorf("image %s: %v", saved.ImageURI, err)
	}
}

func (r *room) checkLayers(saved v1alpha1.ContainerSnapshot, image v1.Image) error {
	config, err := image.ConfigFile()
	if err != nil {
		return err
	}
	layers, err := image.Layers()
	if err != nil {
		return err
	}
	if len(layers) != busyboxLayers+int(saved.Layers) || len(layers) != len(config.RootFS.DiffIDs) {
		return fmt.Errorf("%d layers and %d diff IDs; the status says %d above the base's %d", len(layers), len(config.RootFS.DiffIDs), saved.Layers, busyboxLayers)
	}
	for i, layer := range layers {
		// In the image's own repository: a collection of garbage keeps it, whatever else is deleted.
		there, err := partial.Exists(layer)
		if err != nil {
			return fmt.Errorf("layer %d: %w", i, err)
		}
		if !there {
			return fmt.Errorf("layer %d is not in the registry", i)
		}
	}
	// What is large is read twice, and makes two layers.
	var added [2]int64
	for i := range min(int(saved.Layers), len(added)) {
		size, err := layers[len(layers)-1-i].Size()
		if err != nil {
			return err
		}
		added[i] = size
	}
	if saved.LayerBytes != added[0] && saved.LayerBytes != added[0]+added[1] {
		return fmt.Errorf("the new layer has %d bytes (the one below it %d), the status says %d", added[0], added[1], saved.LayerBytes)
	}
	return nil
}
