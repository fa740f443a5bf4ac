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

package committer

import (
	"bytes"
	"compress/gzip"
	"context"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/opensandbox-io/sandbox-apiserver/pkg/committer/layer"
	"github.com/opensandbox-io/sandbox-apiserver/pkg/committer/runtime"
)

// TestGzip commits in cycles, with merges between, for whoever knows gzip alone: every layer that is made can be read by
// the standard library. Those that were made before are merged like any.
func TestGzip(t *testing.T) {
	s := newScene(t)
	delete(s.node.containers, "side-id")
	s.options.Containers = s.options.Containers[:1]
	c := s.node.containers["main-id"]
	repository := strings.TrimSuffix(s.options.Containers[0].Image, ":tag")
	files := map[string]string{"base of main": ""}
	merged := false
	const before = 3 // cycles with zstd
	for cycle := 1; cycle <= 15; cycle++ {
		c.upper = t.TempDir()
		for _, name := range []string{"data", fmt.Sprint("once", cycle)} {
			files[name] = noise(cycle, 8<<10)
			if err := os.WriteFile(filepath.Join(c.upper, name), []byte(files[name]), 0o600); err != nil {
				t.Fatal(err)
			}
		}
		if cycle > before {
			s.options.Compression = layer.Gzip
		}
		s.options.SnapshotUID = fmt.Sprint("uid", cycle)
		s.options.Containers[0].Image = fmt.Sprint(repository, ":cycle", cycle)
		s.reports = nil
		if err := s.commit(context.Background()); err != nil {
			t.Fatalf("cycle %d: %v", cycle, err)
		}
		img := pull(t, s.last().Containers[0])
		manifest, err := img.Manifest()
		if err != nil {
			t.Fatal(err)
		}
		config, err := img.ConfigFile()
		if err != nil {
			t.Fatal(err)
		}
		merged = merged || len(manifest.Layers) <= cycle
		zipped := 0
		for i, l := range manifest.Layers {
			if l.MediaType != ocispec.MediaTypeImageLayerGzip {
				continue
			}
			zipped++
			read, err := img.LayerByDigest(l.Digest)
			if err != nil {
				t.Fatal(err)
			}
			content, err := read.Compressed()
			if err != nil {
				t.Fatal(err)
			}
			plain, err := gzip.NewReader(content)
			if err != nil {
				t.Fatal(err)
			}
			if sum, _, err := v1.SHA256(plain); err != nil || sum != config.RootFS.DiffIDs[i] {
				t.Errorf("cycle %d: layer %d has the diff ID %s (%v), the configuration says %s", cycle, i, sum, err, config.RootFS.DiffIDs[i])
			}
		}
		if last := manifest.Layers[len(manifest.Layers)-1].MediaType; cycle > before && last != ocispec.MediaTypeImageLayerGzip || cycle <= before && zipped > 0 {
			t.Errorf("cycle %d: %d layers of gzip, the last is %s", cycle, zipped, last)
		}
		c.base = baseOf(t, img, repository)
		c.lower = slices.Repeat([]string{t.TempDir()}, len(manifest.Layers))
	}
	if !merged {
		t.Error("nothing was merged")
	}
	if diff := cmp.Diff(files, unpack(t, c.base)); diff != "" {
		t.Errorf("files (-want +got):\n%s", diff)
	}
}

// TestGzipOfAComparison asks containerd for it.
func TestGzipOfAComparison(t *testing.T) {
	s := newScene(t)
	s.options.Compression = layer.Gzip
	c := s.node.containers["side-id"]
	c.upper = ""
	content := make([]byte, 1024) // the end of an archive
	c.compare = func() (*runtime.Compared, error) {
		return &runtime.Compared{
			Descriptor: ocispec.Descriptor{Digest: digest.FromBytes(content), Size: int64(len(content))}, DiffID: digest.FromString("uncompressed"),
			Open: func(context.Context) (io.ReadCloser, error) { return io.NopCloser(bytes.NewReader(content)), nil },
		}, nil
	}
	if err := s.commit(context.Background()); err != nil {
		t.Fatal(err)
	}
	manifest, err := pull(t, s.last().Containers[1]).Manifest()
	if err != nil {
		t.Fatal(err)
	}
	if got := manifest.Layers[len(manifest.Layers)-1].MediaType; got != ocispec.MediaTypeImageLayerGzip || c.comparedAs != ocispec.MediaTypeImageLayerGzip {
		t.Errorf("the layer is %s, containerd was asked for %s", got, c.comparedAs)
	}
}
