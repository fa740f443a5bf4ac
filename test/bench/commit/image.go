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

package main

import (
	"archive/tar"
	"bufio"
	"crypto/sha256"
	"encoding/json"
	"fmt"
	"io"
	"os"
	"runtime"

	"github.com/opencontainers/go-digest"
	"github.com/opencontainers/image-spec/specs-go"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
)

// layer is one of an image, in a file of its own.
type layer struct {
	path   string
	digest digest.Digest // of what is not compressed, and so the diff ID as well
	size   int64
}

// writeImage writes an OCI archive and, beside it, its layers: this very program with some files, and those of the case.
func writeImage(path, name string, c testCase) ([]layer, error) {
	var layers []layer
	fills := append([]func(*tar.Writer) error{func(w *tar.Writer) error { return program(w, c.baseFiles) }}, c.layers...)
	for i, fill := range fills {
		l, err := writeLayer(fmt.Sprintf("%s.layer-%d", path, i), fill)
		if err != nil {
			return nil, err
		}
		layers = append(layers, l)
	}
	var image ocispec.Image
	image.OS, image.Architecture, image.RootFS.Type = "linux", runtime.GOARCH, "layers"
	if c.volume != "" {
		image.Config.Volumes = map[string]struct{}{c.volume: {}}
	}
	var descriptors []ocispec.Descriptor
	for _, l := range layers {
		image.RootFS.DiffIDs = append(image.RootFS.DiffIDs, l.digest)
		image.History = append(image.History, ocispec.History{CreatedBy: "bench"})
		descriptors = append(descriptors, ocispec.Descriptor{MediaType: ocispec.MediaTypeImageLayer, Digest: l.digest, Size: l.size})
	}
	config, err := json.Marshal(image)
	if err != nil {
		return nil, err
	}
	manifest, err := json.Marshal(ocispec.Manifest{
		Versioned: specs.Versioned{SchemaVersion: 2}, MediaType: ocispec.MediaTypeImageManifest,
		Config: ocispec.Descriptor{MediaType: ocispec.MediaTypeImageConfig, Digest: digest.FromBytes(config), Size: int64(len(config))},
		Layers: descriptors,
	})
	if err != nil {
		return nil, err
	}
	index, err := json.Marshal(ocispec.Index{
		Versioned: specs.Versioned{SchemaVersion: 2},
		Manifests: []ocispec.Descriptor{{
			MediaType: ocispec.MediaTypeImageManifest, Digest: digest.FromBytes(manifest), Size: int64(len(manifest)),
			Annotations: map[string]string{"io.containerd.image.name": name},
		}},
	})
	if err != nil {
		return nil, err
	}
	return layers, archive(path, func(w *tar.Writer) error {
		blob := func(d digest.Digest) string { return "blobs/sha256/" + d.Encoded() }
		for _, file := range []struct {
			name    string
			content []byte
		}{
			{"oci-layout", []byte(`{"imageLayoutVersion":"1.0.0"}`)},
			{"index.json", index}, {blob(digest.FromBytes(manifest)), manifest}, {blob(digest.FromBytes(config)), config},
		} {
			if err := add(w, &tar.Header{Name: file.name, Mode: 0o644, Size: int64(len(file.content))}, file.content); err != nil {
				return err
			}
		}
		for _, l := range layers {
			if err := addFile(w, blob(l.digest), 0o644, l.path); err != nil {
				return err
			}
		}
		return nil
	})
}

// program is a layer of this very program and of files.
func program(w *tar.Writer, files int) error {
	self, err := os.Executable()
	if err != nil {
		return err
	}
	if err := addFile(w, "bench", 0o755, self); err != nil {
		return err
	}
	for i := range files {
		if i%100 == 0 {
			if err := add(w, &tar.Header{Typeflag: tar.TypeDir, Name: fmt.Sprintf("base/%04d/", i/100), Mode: 0o755}, nil); err != nil {
				return err
			}
		}
		if err := add(w, &tar.Header{Name: fmt.Sprintf("base/%04d/%02d", i/100, i%100), Mode: 0o644, Size: 5}, []byte("base\n")); err != nil {
			return err
		}
	}
	return nil
}

func writeLayer(path string, fill func(*tar.Writer) error) (layer, error) {
	if err := archive(path, fill); err != nil {
		return layer{}, err
	}
	f, err := os.Open(path)
	if err != nil {
		return layer{}, err
	}
	defer f.Close()
	h := sha256.New()
	size, err := io.Copy(h, f)
	return layer{path: path, digest: digest.NewDigest(digest.SHA256, h), size: size}, err
}

func archive(path string, fill func(*tar.Writer) error) error {
	f, err := os.Create(path)
	if err != nil {
		return err
	}
	defer f.Close()
	buffer := bufio.NewWriterSize(f, 1<<20)
	w := tar.NewWriter(buffer)
	if err := fill(w); err != nil {
		return err
	}
	if err := w.Close(); err != nil {
		return err
	}
	return buffer.Flush()
}

func add(w *tar.Writer, h *tar.Header, content []byte) error {
	if err := w.WriteHeader(h); err != nil {
		return err
	}
	_, err := w.Write(content)
	return err
}

func addFile(w *tar.Writer, name string, mode int64, path string) error {
	f, err := os.Open(path)
	if err != nil {
		return err
	}
	defer f.Close()
	info, err := f.Stat()
	if err != nil {
		return err
	}
	if err := w.WriteHeader(&tar.Header{Name: name, Mode: mode, Size: info.Size()}); err != nil {
		return err
	}
	_, err = io.Copy(w, f)
	return err
}
