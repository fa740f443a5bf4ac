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
	"fmt"
	"strings"

	"github.com/containerd/containerd/v2/core/images"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
)

// fromDocker are Docker's media types of layers and what OCI calls the same.
var fromDocker = map[string]string{
	images.MediaTypeDockerSchema2Layer:            ocispec.MediaTypeImageLayer,
	images.MediaTypeDockerSchema2LayerGzip:        ocispec.MediaTypeImageLayerGzip,
	images.MediaTypeDockerSchema2LayerZstd:        ocispec.MediaTypeImageLayerZstd,
	images.MediaTypeDockerSchema2LayerForeign:     ocispec.MediaTypeImageLayer,
	images.MediaTypeDockerSchema2LayerForeignGzip: ocispec.MediaTypeImageLayerGzip,
	// A layer that may not be pushed elsewhere could not be pulled on resume.
	ocispec.MediaTypeImageLayerNonDistributable:     ocispec.MediaTypeImageLayer,     //nolint:staticcheck // deprecated, but still met
	ocispec.MediaTypeImageLayerNonDistributableGzip: ocispec.MediaTypeImageLayerGzip, //nolint:staticcheck // deprecated, but still met
	ocispec.MediaTypeImageLayerNonDistributableZstd: ocispec.MediaTypeImageLayerZstd, //nolint:staticcheck // deprecated, but still met
}

// OCILayerType is the layer type that an OCI manifest uses for what mediaType
// names. Mixing Docker's types into an OCI manifest is what some registries and
// clients refuse. Suffixes such as "+encrypted" stay.
func OCILayerType(mediaType string) (string, error) {
	base, suffix := mediaType, ""
	if before, found := strings.CutSuffix(mediaType, "+encrypted"); found {
		base, suffix = before, "+encrypted"
	}
	if oci, ok := fromDocker[base]; ok {
		return oci + suffix, nil
	}
	switch base {
	case ocispec.MediaTypeImageLayer, ocispec.MediaTypeImageLayerGzip, ocispec.MediaTypeImageLayerZstd:
		return mediaType, nil
	}
	return "", fmt.Errorf("the media type %q is not that of a layer", mediaType)
}
