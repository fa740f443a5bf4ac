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
	"fmt"

	"github.com/google/go-containerregistry/pkg/authn"
	"github.com/google/go-containerregistry/pkg/name"
	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/remote"

	"github.com/opensandbox-io/sandbox-apiserver/apis/lifecycle/v1alpha1"
)

// busyboxLayers is how many layers the image busybox has.
const busyboxLayers = 1

// image reads a container's image by the digest in the status, from the registry itself.
func (r *room) image(saved v1alpha1.ContainerSnapshot, credentials ...authn.Authenticator) v1.Image {
	r.t.Helper()
	tag, err := name.NewTag(saved.ImageURI, name.Insecure)
	if err != nil {
		r.t.Fatalf("image of container %s: %v", saved.ContainerName, err)
	}
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
	last, err := layers[len(layers)-1].Size()
	if err != nil {
		return err
	}
	if last != saved.LayerBytes {
		return fmt.Errorf("the new layer has %d bytes, the status says %d", last, saved.LayerBytes)
	}
	return nil
}
