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
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net/http"
	"os"
	"path/filepath"

	"github.com/google/go-containerregistry/pkg/authn"
	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/empty"
	"github.com/google/go-containerregistry/pkg/v1/layout"
	"github.com/google/go-containerregistry/pkg/v1/mutate"
	"github.com/google/go-containerregistry/pkg/v1/remote"
	"github.com/google/go-containerregistry/pkg/v1/remote/transport"
)

// build writes an OCI archive that `ctr images import`, `podman load` and `skopeo copy oci-archive:` understand.
func build(ctx context.Context, o options, p program) (reference, error) {
	ref, err := o.reference(p)
	if err != nil {
		return reference{}, err
	}
	images, err := index(ctx, o, p)
	if err != nil {
		return reference{}, err
	}
	digest, err := images.Digest()
	if err != nil {
		return reference{}, err
	}
	named := mutate.AppendManifests(empty.Index, mutate.IndexAddendum{Add: images, Descriptor: v1.Descriptor{
		Annotations: map[string]string{
			"io.containerd.image.name":          ref.Name(),
			"org.opencontainers.image.ref.name": o.tag,
		},
	}})
	return reference{ref, digest}, writeArchive(filepath.Join(o.output, p.name+".tar"), named)
}

// push publishes the images of all platforms under one tag, with the credentials of `docker login`.
func push(ctx context.Context, o options, p program) (reference, error) {
	ref, err := o.reference(p)
	if err != nil {
		return reference{}, err
	}
	images, err := index(ctx, o, p)
	if err != nil {
		return reference{}, err
	}
	digest, err := images.Digest()
	if err != nil {
		return reference{}, err
	}
	fmt.Fprintf(os.Stderr, "pushing %s\n", ref.Name())
	return reference{ref, digest}, remote.WriteIndex(ref, images, access(ctx)...)
}

// resolve looks up what a tag in the registry stands for.
func resolve(ctx context.Context, o options, p program) (reference, error) {
	ref, err := o.reference(p)
	if err != nil {
		return reference{}, err
	}
	found, err := remote.Head(ref, access(ctx)...)
	var answer *transport.Error
	if errors.As(err, &answer) && answer.StatusCode == http.StatusNotFound {
		return reference{}, fmt.Errorf("%s is not in the registry; push it first: make push REGISTRY=%s TAG=%s", ref.Name(), o.registry, o.tag)
	}
	if err != nil {
		return reference{}, err
	}
	return reference{ref, found.Digest}, nil
}

func access(ctx context.Context) []remote.Option {
	return []remote.Option{remote.WithContext(ctx), remote.WithAuthFromKeychain(authn.DefaultKeychain)}
}

// writeArchive writes an OCI image layout as one tar file, complete or not at all.
func writeArchive(path string, images v1.ImageIndex) error {
	if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
		return err
	}
	dir, err := os.MkdirTemp(filepath.Dir(path), "layout-")
	if err != nil {
		return err
	}
	defer os.RemoveAll(dir)
	content := filepath.Join(dir, "content")
	if _, err := layout.Write(content, images); err != nil {
		return err
	}
	part := filepath.Join(dir, "archive")
	if err := tarFolder(part, content); err != nil {
		return err
	}
	return os.Rename(part, path)
}

func tarFolder(path, folder string) (err error) {
	file, err := os.Create(path)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, file.Close()) }()
	w := tar.NewWriter(file)
	root, err := os.OpenRoot(folder)
	if err != nil {
		return err
	}
	defer root.Close()
	// WalkDir goes in lexical order, so equal layouts make equal archives.
	err = fs.WalkDir(root.FS(), ".", func(path string, entry fs.DirEntry, err error) error {
		if err != nil || entry.IsDir() {
			return err
		}
		info, err := entry.Info()
		if err != nil {
			return err
		}
		if err := w.WriteHeader(&tar.Header{Name: path, Mode: 0o644, Size: info.Size(), ModTime: epoch}); err != nil {
			return err
		}
		source, err := root.Open(path)
		if err != nil {
			return err
		}
		defer source.Close()
		_, err = io.Copy(w, source)
		return err
	})
	return errors.Join(err, w.Close())
}
