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
	"bytes"
	"compress/gzip"
	"context"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"time"

	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/empty"
	"github.com/google/go-containerregistry/pkg/v1/mutate"
	"github.com/google/go-containerregistry/pkg/v1/tarball"
	"github.com/google/go-containerregistry/pkg/v1/types"
)

// epoch is the time of everything in an image, so that equal sources make equal images.
var epoch = time.Unix(0, 0).UTC()

// compile builds the program as a static binary and returns its path. Certificates of public authorities are linked
// in, so that an image needs no files beside the program.
func compile(ctx context.Context, o options, p program, platform v1.Platform) (string, error) {
	binary := filepath.Join("bin", platform.OS+"_"+platform.Architecture, p.name)
	cmd := exec.CommandContext(ctx, "go", "build",
		"-trimpath", "-buildvcs=false",
		"-ldflags", "-s -w -X main.version="+o.version,
		"-o", binary, "./cmd/"+p.name)
	cmd.Env = append(os.Environ(), "CGO_ENABLED=0", "GOOS="+platform.OS, "GOARCH="+platform.Architecture)
	cmd.Stdout, cmd.Stderr = os.Stderr, os.Stderr
	fmt.Fprintf(os.Stderr, "compiling %s for %s\n", p.name, platform.String())
	return binary, cmd.Run()
}

// image returns an image from scratch with the compiled program, the two users that it may run as, and /tmp.
func image(o options, p program, platform v1.Platform, binary string) (v1.Image, error) {
	content, err := layer(binary, p.name)
	if err != nil {
		return nil, err
	}
	img := mutate.ConfigMediaType(mutate.MediaType(empty.Image, types.OCIManifestSchema1), types.OCIConfigJSON)
	img, err = mutate.Append(img, mutate.Addendum{
		Layer:   content,
		History: v1.History{CreatedBy: "hack/images", Created: v1.Time{Time: epoch}},
	})
	if err != nil {
		return nil, err
	}
	config, err := img.ConfigFile()
	if err != nil {
		return nil, err
	}
	config = config.DeepCopy()
	config.Created = v1.Time{Time: epoch}
	config.OS, config.Architecture, config.Variant = platform.OS, platform.Architecture, platform.Variant
	config.Config = v1.Config{
		User:       p.user,
		Entrypoint: []string{"/" + p.name},
		WorkingDir: "/",
		Env:        []string{"PATH=/"},
		Labels:     o.labels(p),
	}
	return mutate.ConfigFile(img, config)
}

func (o options) labels(p program) map[string]string {
	labels := map[string]string{
		"org.opencontainers.image.title":    p.title,
		"org.opencontainers.image.source":   "https://github.com/opensandbox-io/sandbox-apiserver",
		"org.opencontainers.image.licenses": "Apache-2.0",
	}
	if o.version != "" {
		labels["org.opencontainers.image.version"] = o.version
	}
	if o.revision != "" {
		labels["org.opencontainers.image.revision"] = o.revision
	}
	return labels
}

// layer is the whole root filesystem.
func layer(binary, program string) (v1.Layer, error) {
	executable, err := os.ReadFile(binary)
	if err != nil {
		return nil, err
	}
	files := []struct {
		header  tar.Header
		content []byte
	}{
		{tar.Header{Name: "etc/", Typeflag: tar.TypeDir, Mode: 0o755}, nil},
		{tar.Header{Name: "etc/group", Mode: 0o644}, []byte("root:x:0:\nnonroot:x:65532:\n")},
		{tar.Header{Name: "etc/passwd", Mode: 0o644}, []byte("root:x:0:0:root:/:/\nnonroot:x:65532:65532:nonroot:/:/\n")},
		{tar.Header{Name: program, Mode: 0o755}, executable},
		{tar.Header{Name: "tmp/", Typeflag: tar.TypeDir, Mode: 0o1777}, nil},
	}
	var archive bytes.Buffer
	w := tar.NewWriter(&archive)
	for _, f := range files {
		f.header.ModTime, f.header.Size, f.header.Format = epoch, int64(len(f.content)), tar.FormatUSTAR
		if err := w.WriteHeader(&f.header); err != nil {
			return nil, err
		}
		if _, err := w.Write(f.content); err != nil {
			return nil, err
		}
	}
	if err := w.Close(); err != nil {
		return nil, err
	}
	open := func() (io.ReadCloser, error) { return io.NopCloser(bytes.NewReader(archive.Bytes())), nil }
	return tarball.LayerFromOpener(open,
		tarball.WithMediaType(types.OCILayer), tarball.WithCompressionLevel(gzip.BestSpeed), tarball.WithCompressedCaching)
}

// compiler makes a program for a platform and returns the path of its binary.
type compiler func(context.Context, options, program, v1.Platform) (string, error)

// index returns the images of all platforms under one digest.
func index(ctx context.Context, o options, p program) (v1.ImageIndex, error) {
	var images []mutate.IndexAddendum
	for _, platform := range o.platforms {
		binary, err := o.compile(ctx, o, p, platform)
		if err != nil {
			return nil, fmt.Errorf("compile for %s: %w", platform.String(), err)
		}
		img, err := image(o, p, platform, binary)
		if err != nil {
			return nil, fmt.Errorf("%s: %w", platform.String(), err)
		}
		images = append(images, mutate.IndexAddendum{Add: img, Descriptor: v1.Descriptor{Platform: &platform}})
	}
	return mutate.AppendManifests(mutate.IndexMediaType(empty.Index, types.OCIImageIndex), images...), nil
}
