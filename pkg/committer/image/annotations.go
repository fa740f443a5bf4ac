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
	"slices"
	"strings"
	"time"

	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
)

// ofOneManifest are annotations, or what they begin with, that are true of one manifest alone: when it was made, what it
// is called, what it was made from, who signed it and what it was built with. Others speak of what is in the image
// (licences, sources, a vendor's own), and that is still in it.
// https://github.com/opencontainers/image-spec/blob/main/annotations.md
var ofOneManifest = []string{
	ocispec.AnnotationCreated, ocispec.AnnotationRefName, ocispec.AnnotationBaseImageDigest, ocispec.AnnotationBaseImageName,
	"containerd.io/", "io.containerd.", "vnd.docker.reference.", "dev.cosignproject.", "dev.sigstore.", "in-toto.io/",
}

// annotations are those of the manifest that extends the base.
func (b *Base) annotations(created *time.Time) map[string]string {
	kept := map[string]string{}
	for key, value := range b.Manifest.Annotations {
		if !isOfOneManifest(key) {
			kept[key] = value
		}
	}
	if created != nil {
		kept[ocispec.AnnotationCreated] = created.Format(time.RFC3339Nano)
	}
	if base, name := b.below(); base != "" {
		kept[ocispec.AnnotationBaseImageDigest] = base
		if name != "" {
			kept[ocispec.AnnotationBaseImageName] = name
		}
	}
	return kept
}

func isOfOneManifest(key string) bool {
	return slices.ContainsFunc(ofOneManifest, func(own string) bool {
		return key == own || strings.ContainsAny(own[len(own)-1:], "./") && strings.HasPrefix(key, own)
	})
}

// below is the image that the first sandbox of this line was created from: the snapshots between are pruned, and who
// wants to put the layers on a newer base needs that one. There is none whose layers are not those below.
func (b *Base) below() (digest, name string) {
	switch {
	case b.remade:
		return "", ""
	case b.OwnLayers() > 0:
		return b.Manifest.Annotations[ocispec.AnnotationBaseImageDigest], b.Manifest.Annotations[ocispec.AnnotationBaseImageName]
	}
	return b.Digest.String(), b.Name
}
