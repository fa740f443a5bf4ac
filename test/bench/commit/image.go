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

// writeImage writes an OCI archive and its only layer, this very program and
// some files, of which it returns the digest.
func writeImage(path, layer, name string, files int) (digest.Digest, error) {
	diffID, size, err := writeBase(layer, files)
	if err != nil {
		return "", err
	}
	var image ocispec.Image
	image.OS, image.Architecture = "linux", runtime.GOARCH
	image.RootFS = ocispec.RootFS{Type: "layers", DiffIDs: []digest.Digest{diffID}}
	image.History = []ocispec.History{{CreatedBy: "bench"}}
	config, err := json.Marshal(image)
	if err != nil {
		return "", err
	}
	manifest, err := json.Marshal(ocispec.Manifest{
		Versioned: specs.Versioned{SchemaVersion: 2}, MediaType: ocispec.MediaTypeImageManifest,
		Config: ocispec.Descriptor{MediaType: ocispec.MediaTypeImageConfig, Digest: digest.FromBytes(config), Size: int64(len(config))},
		Layers: []ocispec.Descriptor{{MediaType: ocispec.MediaTypeImageLayer, Digest: diffID, Size: size}},
	})
	if err != nil {
		return "", err
	}
	index, err := json.Marshal(ocispec.Index{
		Versioned: specs.Versioned{SchemaVersion: 2},
		Manifests: []ocispec.Descriptor{{
			MediaType: ocispec.MediaTypeImageManifest, Digest: digest.FromBytes(manifest), Size: int64(len(manifest)),
			Annotations: map[string]string{"io.containerd.image.name": name},
		}},
	})
	if err != nil {
		return "", err
	}
	return diffID, archive(path, func(w *tar.Writer) error {
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
		return addFile(w, blob(diffID), 0o644, layer)
	})
}

func writeBase(path string, files int) (digest.Digest, int64, error) {
	self, err := os.Executable()
	if err != nil {
		return "", 0, err
	}
	err = archive(path, func(w *tar.Writer) error {
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
	})
	if err != nil {
		return "", 0, err
	}
	f, err := os.Open(path)
	if err != nil {
		return "", 0, err
	}
	defer f.Close()
	h := sha256.New()
	size, err := io.Copy(h, f)
	return digest.NewDigest(digest.SHA256, h), size, err
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
