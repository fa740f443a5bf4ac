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
	"archive/tar"
	"context"
	"encoding/json"
	"errors"
	"io"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-containerregistry/pkg/name"
	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/remote"
	"github.com/google/go-containerregistry/pkg/v1/static"
	"github.com/google/go-containerregistry/pkg/v1/types"
	"github.com/opencontainers/go-digest"
	"github.com/opencontainers/image-spec/specs-go"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/opensandbox-io/sandbox-apiserver/pkg/committer/image"
	"github.com/opensandbox-io/sandbox-apiserver/pkg/committer/result"
	"github.com/opensandbox-io/sandbox-apiserver/pkg/committer/runtime"
)

// loses lets the image of the only container go from the node: what is unpacked of it stays.
func (s *scene) loses() (c *fakeContainer, host string) {
	s.t.Helper()
	s.options.Containers = s.options.Containers[:1]
	c = s.node.containers["main-id"]
	delete(s.node.containers, "side-id")
	c.chain = []string{"sha256:top", "sha256:bottom"}
	for _, name := range []string{"top", "bottom"} {
		dir := s.t.TempDir()
		if err := os.WriteFile(filepath.Join(dir, "of-the-"+name), []byte(name), 0o644); err != nil {
			s.t.Fatal(err)
		}
		c.lower = append(c.lower, dir)
	}
	c.gone = &runtime.Gone{
		Wanted: image.Wanted{Config: digest.FromBytes(c.base.RawConfig), ChainID: c.base.ChainID()},
		Open: func(context.Context, ocispec.Descriptor) (io.ReadCloser, error) {
			return nil, errors.New("not on the node")
		},
		Remade: func() (*ocispec.Image, error) {
			return &ocispec.Image{Config: ocispec.ImageConfig{User: "1000:1000"}, RootFS: ocispec.RootFS{Type: "layers"}}, nil
		},
	}
	host, _, _ = strings.Cut(s.options.Containers[0].Image, "/")
	return c, host
}

// rawManifest is pushed byte for byte.
type rawManifest []byte

func (m rawManifest) RawManifest() ([]byte, error)        { return m, nil }
func (m rawManifest) MediaType() (types.MediaType, error) { return types.OCIManifestSchema1, nil }

// publishes puts an image into the registry, layers included, and returns its digest.
func (s *scene) publishes(reference string, base *Base) digest.Digest {
	s.t.Helper()
	tag, err := name.NewTag(reference, name.Insecure)
	if err != nil {
		s.t.Fatal(err)
	}
	manifest := ocispec.Manifest{Versioned: specs.Versioned{SchemaVersion: 2}, MediaType: ocispec.MediaTypeImageManifest,
		Config: ocispec.Descriptor{MediaType: ocispec.MediaTypeImageConfig, Digest: digest.FromBytes(base.RawConfig), Size: int64(len(base.RawConfig))},
		Layers: base.Manifest.Layers,
	}
	blobs := [][]byte{base.RawConfig}
	for _, d := range base.Manifest.Layers {
		content, err := base.Open(s.t.Context(), d)
		if err != nil {
			s.t.Fatal(err)
		}
		data, err := io.ReadAll(content)
		if err != nil {
			s.t.Fatal(err)
		}
		blobs = append(blobs, data)
	}
	for _, data := range blobs {
		if err := remote.WriteLayer(tag.Context(), static.NewLayer(data, types.OCILayer)); err != nil {
			s.t.Fatal(err)
		}
	}
	raw, err := json.Marshal(manifest)
	if err != nil {
		s.t.Fatal(err)
	}
	if err := remote.Put(tag, rawManifest(raw)); err != nil {
		s.t.Fatal(err)
	}
	return digest.FromBytes(raw)
}

// pushed reads the image that was committed, and the names of the files in its layers.
func (s *scene) pushed() (manifest *v1.Manifest, config *v1.ConfigFile, files []string) {
	s.t.Helper()
	img := pull(s.t, s.last().Containers[0])
	manifest, err := img.Manifest()
	if err != nil {
		s.t.Fatal(err)
	}
	if config, err = img.ConfigFile(); err != nil {
		s.t.Fatal(err)
	}
	layers, err := img.Layers()
	if err != nil {
		s.t.Fatal(err)
	}
	for _, l := range layers {
		content, err := l.Uncompressed()
		if err != nil {
			s.t.Fatal(err)
		}
		for r := tar.NewReader(content); ; {
			h, err := r.Next()
			if errors.Is(err, io.EOF) {
				break
			}
			if err != nil {
				s.t.Fatal(err)
			}
			if h.Typeflag == tar.TypeReg {
				files = append(files, h.Name)
			}
		}
	}
	return manifest, config, files
}

func TestARegistryHasAnImageThatIsGone(t *testing.T) {
	for what, reference := range map[string]string{
		"by its digest": "@",
		"by its tag":    ":right",
		"and what another name led to was something else": ":wrong",
	} {
		t.Run(what, func(t *testing.T) {
			s := newScene(t)
			c, host := s.loses()
			right := s.publishes(host+"/team/base:right", c.base)
			s.publishes(host+"/team/base:wrong", fakeBase(t, "other"))
			// The same layers, made to run otherwise.
			alike := *c.base
			alike.Base = &image.Base{RawConfig: []byte(strings.Replace(string(c.base.RawConfig), "SIGINT", "SIGHUP", 1)), Manifest: c.base.Manifest}
			s.publishes(host+"/team/base:alike", &alike)
			switch reference {
			case "@":
				c.gone.References = []string{host + "/team/base@" + right.String()}
			case ":right":
				c.gone.References = []string{host + "/team/base:right"}
			default:
				c.gone.References = []string{host + "/team/none:x", host + "/team/base:wrong", host + "/team/base:alike", host + "/team/base:right"}
			}
			if err := s.commit(t.Context()); err != nil {
				t.Fatal(err)
			}
			manifest, config, _ := s.pushed()
			if config.Config.StopSignal != "SIGINT" || manifest.Layers[0].Digest.String() != c.base.Manifest.Layers[0].Digest.String() || len(manifest.Layers) != 2 {
				t.Errorf("pushed %+v of %+v", manifest, config)
			}
			if manifest.Annotations[ocispec.AnnotationBaseImageDigest] != right.String() {
				t.Errorf("it is said to be made from %+v", manifest.Annotations)
			}
			if w := s.last().Warnings; len(w) > 0 {
				t.Errorf("warnings %+v", w)
			}
		})
	}
}

func TestAnImageThatNobodyHas(t *testing.T) {
	for what, known := range map[string]bool{"its configuration is known": true, "its configuration is told by the container": false} {
		t.Run(what, func(t *testing.T) {
			s := newScene(t)
			c, host := s.loses()
			c.gone.References = []string{host + "/team/base:gone"}
			wantUser, wantSignal := "1000:1000", ""
			if known {
				c.gone.RawConfig, wantUser, wantSignal = c.base.RawConfig, "", "SIGINT"
			}
			if err := s.commit(t.Context()); err != nil {
				t.Fatal(err)
			}
			manifest, config, files := s.pushed()
			if config.Config.User != wantUser || config.Config.StopSignal != wantSignal || len(config.RootFS.DiffIDs) != 3 || len(config.History) != 3 || len(manifest.Layers) != 3 {
				t.Errorf("configuration %+v", config)
			}
			if diff := cmp.Diff([]string{"of-the-bottom", "of-the-top", "file"}, files); diff != "" {
				t.Errorf("files of the layers, the lowest first (-want +got):\n%s", diff)
			}
			if base := manifest.Annotations[ocispec.AnnotationBaseImageDigest]; base != "" {
				t.Errorf("it is said to be made from %s, whose layers are others", base)
			}
			r := s.last()
			if len(r.Warnings) != 1 || r.Warnings[0].Reason != result.BaseRebuilt || r.Warnings[0].Container != "main" || len(r.Warnings[0].Message) > 160 {
				t.Errorf("warnings %+v", r.Warnings)
			}
			if r.Containers[0].Layers != 1 {
				t.Errorf("%d layers are ours", r.Containers[0].Layers)
			}
		})
	}
}

func TestAnImageThatCannotBeMadeAgain(t *testing.T) {
	for what, spoil := range map[string]func(*fakeContainer){
		"no directories of its layers":           func(c *fakeContainer) { c.lower = nil },
		"not a directory for each of its layers": func(c *fakeContainer) { c.lower = c.lower[:1] },
		"nothing is known of its configuration": func(c *fakeContainer) {
			c.gone.Remade = func() (*ocispec.Image, error) { return nil, errors.New("the runtime has noted nothing") }
		},
	} {
		t.Run(what, func(t *testing.T) {
			s := newScene(t)
			c, host := s.loses()
			c.gone.References = []string{host + "/team/base:gone"}
			spoil(c)
			if err := s.commit(t.Context()); err == nil {
				t.Fatal("it succeeded")
			}
			r := s.last()
			for _, say := range []string{"no registry has it: " + host + "/team/base:gone", "pulling it again on this node", "kubectl cp"} {
				if r.Error.Reason != result.CommitJobFailed || !strings.Contains(r.Error.Message, say) {
					t.Errorf("%s: %q does not say %q", r.Error.Reason, r.Error.Message, say)
				}
			}
			s.states(runtime.Running)
			for _, call := range s.node.calls {
				if strings.HasPrefix(call, "freeze") {
					t.Errorf("it was frozen for that: %v", s.node.calls)
				}
			}
		})
	}
}

// TestOurRegistryInTroubleIsNoLoss has an image in our registry, which cannot be asked at the moment: it is not made
// again for that.
func TestOurRegistryInTroubleIsNoLoss(t *testing.T) {
	s := newScene(t)
	c, host := s.loses()
	c.gone.References = []string{host + "/team/base:right"}
	s.before = func(w http.ResponseWriter, r *http.Request) bool {
		if !strings.HasPrefix(r.URL.Path, "/v2/team/base/manifests/") {
			return false
		}
		w.WriteHeader(http.StatusServiceUnavailable)
		return true
	}
	if err := s.commit(t.Context()); err == nil {
		t.Fatal("it succeeded")
	}
	if r := s.last(); r.Error.Reason != result.RegistryUnavailable || !strings.Contains(r.Error.Message, "503") {
		t.Errorf("%s: %s", r.Error.Reason, r.Error.Message)
	}
	s.states(runtime.Running)
}
