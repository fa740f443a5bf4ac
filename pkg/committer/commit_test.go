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
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-containerregistry/pkg/name"
	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/remote"
	"github.com/google/go-containerregistry/pkg/v1/types"
	"github.com/google/go-containerregistry/pkg/v1/validate"
	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
	"golang.org/x/sys/unix"

	"github.com/opensandbox-io/sandbox-apiserver/pkg/committer/image"
	"github.com/opensandbox-io/sandbox-apiserver/pkg/committer/result"
	"github.com/opensandbox-io/sandbox-apiserver/pkg/committer/runtime"
)

func TestCommit(t *testing.T) {
	order := map[bool][]string{
		// The first two uploads are the base's layers, before anything is frozen.
		true: {"upload main", "upload side", "freeze main", "freeze side", "upload main", "upload side",
			"config main", "config side", "manifest main", "manifest side", "report"},
		false: {"upload main", "upload side", "freeze main", "freeze side", "upload main", "upload side", "thaw main", "thaw side",
			"config main", "config side", "manifest main", "manifest side", "report"},
	}
	for leave, want := range order {
		t.Run(fmt.Sprintf("leaveFrozen=%v", leave), func(t *testing.T) {
			s := newScene(t)
			s.options.LeaveFrozen = leave
			if err := s.commit(context.Background()); err != nil {
				t.Fatal(err)
			}
			if diff := cmp.Diff(want, inOrder(s.node.calls)); diff != "" {
				t.Errorf("calls (-want +got):\n%s", diff)
			}
			r := s.last()
			if r.Error != nil || r.Thawed == leave || r.FrozenMillis < 1 || len(r.Containers) != 2 {
				t.Errorf("result %+v", r)
			}
			s.states(map[bool]runtime.State{true: runtime.Paused, false: runtime.Running}[leave])
			for i, c := range r.Containers {
				s.checkImage(s.options.Containers[i], c)
			}
		})
	}
}

func (s *scene) checkImage(of ContainerImage, c result.Container) {
	t := s.t
	t.Helper()
	ref, err := name.ParseReference(c.Image, name.Insecure)
	if err != nil {
		t.Fatal(err)
	}
	img, err := remote.Image(ref)
	if err != nil {
		t.Fatal(err)
	}
	// Without Fast it takes every layer for gzip; what that skips is checked below.
	if err := validate.Image(img, validate.Fast); err != nil {
		t.Errorf("%s is not valid: %v", c.Image, err)
	}
	if d, _ := img.Digest(); d.String() != c.Digest || c.Name != of.Name || c.Layers != 1 {
		t.Errorf("result %+v, digest %s", c, d)
	}
	manifest, err := img.Manifest()
	if err != nil {
		t.Fatal(err)
	}
	var mediaTypes []string
	for _, l := range manifest.Layers {
		mediaTypes = append(mediaTypes, string(l.MediaType))
	}
	if diff := cmp.Diff([]string{ocispec.MediaTypeImageLayer, ocispec.MediaTypeImageLayerZstd}, mediaTypes); diff != "" {
		t.Error(diff)
	}
	if manifest.MediaType != types.OCIManifestSchema1 || manifest.Config.MediaType != types.OCIConfigJSON || manifest.Annotations[image.SnapshotUIDAnnotation] != "snap" {
		t.Errorf("manifest %+v", manifest)
	}
	if manifest.Layers[1].Size != c.LayerBytes {
		t.Errorf("layer of %d bytes, said %d", manifest.Layers[1].Size, c.LayerBytes)
	}
	layers, err := img.Layers()
	if err != nil {
		t.Fatal(err)
	}
	config, err := img.ConfigFile()
	if err != nil {
		t.Fatal(err)
	}
	for i, l := range layers {
		content, err := l.Uncompressed()
		if err != nil {
			t.Fatal(err)
		}
		if sum, _, err := v1.SHA256(content); err != nil || sum != config.RootFS.DiffIDs[i] {
			t.Errorf("layer %d has the diff ID %s (%v), the configuration says %s", i, sum, err, config.RootFS.DiffIDs[i])
		}
	}
	content, err := layers[1].Uncompressed()
	if err != nil {
		t.Fatal(err)
	}
	for r := tar.NewReader(content); ; {
		h, err := r.Next()
		if err != nil {
			t.Fatal("no file in the layer:", err)
		}
		if h.Name == "file" {
			if data, _ := io.ReadAll(r); string(data) != "of "+of.Name {
				t.Errorf("the file has %q", data)
			}
			return
		}
	}
}

func TestDeadline(t *testing.T) {
	s := newScene(t)
	ctx, cancel := context.WithDeadlineCause(context.Background(), time.Now().Add(300*time.Millisecond), result.Errorf(result.DeadlineExceeded, "the time was up"))
	defer cancel()
	s.before = func(_ http.ResponseWriter, r *http.Request) bool {
		if r.Method == http.MethodPatch && s.froze() {
			<-ctx.Done() // a registry that does not answer
		}
		return false
	}
	if err := s.commit(ctx); err == nil {
		t.Fatal("it succeeded")
	}
	if r := s.last(); r.Error.Reason != result.DeadlineExceeded || !r.Thawed {
		t.Errorf("result %+v", r)
	}
	s.states(runtime.Running)
}

// TestUnreportedSuccess is a success that nobody would hear of.
func TestUnreportedSuccess(t *testing.T) {
	s := newScene(t)
	s.options.LeaveFrozen = true
	err := Commit(context.Background(), s.node, s.options, func(result.Result) error { return errors.New("disk full") })
	if err == nil {
		t.Error("it succeeded")
	}
	s.states(runtime.Running)
}

// TestEndedContainers are committed as they are.
func TestEndedContainers(t *testing.T) {
	s := newScene(t)
	s.node.containers["main-id"].state = runtime.Ended
	s.node.containers["side-id"].state = runtime.Ended
	if err := s.commit(context.Background()); err != nil {
		t.Fatal(err)
	}
	if r := s.last(); s.froze() || r.FrozenMillis != 0 || !r.Thawed || len(r.Containers) != 2 {
		t.Errorf("result %+v, calls %v", r, s.node.calls)
	}
}

// TestLeftFrozen finds a container that a killed attempt left frozen: a success
// counts it as frozen, and any failure thaws it.
func TestLeftFrozen(t *testing.T) {
	for _, fails := range []bool{false, true} {
		s := newScene(t)
		s.node.containers["side-id"].state = runtime.Paused
		if fails {
			delete(s.node.containers, "main-id")
		}
		if err := s.commit(context.Background()); (err != nil) != fails {
			t.Errorf("fails=%v: %v", fails, err)
		}
		s.states(runtime.Running)
	}
}

// TestRememberedForTheCache leaves on the node what describes the images, once all are pushed
// and before anybody is told; that it cannot is no failure.
func TestRememberedForTheCache(t *testing.T) {
	for _, fails := range []error{nil, errors.New("the content store is full")} {
		s := newScene(t)
		s.options.LeaveFrozen, s.options.ResumeCache = true, true
		s.node.rememberErr = fails
		if err := s.commit(context.Background()); err != nil {
			t.Fatal(err)
		}
		want := []string{"manifest side"}
		for _, c := range s.last().Containers {
			want = append(want, fmt.Sprintf("remember %s of snap", c.Digest))
		}
		want = append(want, "report")
		if diff := cmp.Diff(want, s.node.calls[len(s.node.calls)-len(want):]); diff != "" {
			t.Errorf("last calls (-want +got):\n%s", diff)
		}
	}
}

// TestComparison is for containers whose own layer cannot be read by itself: there is no
// upper directory, or, which only reading shows, something in it refers to what is below.
func TestComparison(t *testing.T) {
	compressed := make([]byte, 1024) // the end of an archive
	for name, prepare := range map[string]func(*fakeContainer){
		"no upper directory": func(c *fakeContainer) { c.upper = "" },
		"a redirected directory": func(c *fakeContainer) {
			if err := os.Mkdir(filepath.Join(c.upper, "d"), 0o755); err != nil {
				t.Fatal(err)
			}
			if err := unix.Setxattr(filepath.Join(c.upper, "d"), "trusted.overlay.redirect", []byte("old"), 0); err != nil {
				t.Skip("needs root and extended attributes:", err)
			}
		},
	} {
		t.Run(name, func(t *testing.T) {
			s := newScene(t)
			s.options.LeaveFrozen = true
			c := s.node.containers["side-id"]
			prepare(c)
			c.compare = func() (*runtime.Compared, error) {
				if c.state != runtime.Paused {
					t.Error("the container is not frozen")
				}
				return &runtime.Compared{
					Descriptor: ocispec.Descriptor{MediaType: ocispec.MediaTypeImageLayerZstd, Digest: digest.FromBytes(compressed), Size: int64(len(compressed))},
					DiffID:     digest.FromString("uncompressed"),
					Open:       func(context.Context) (io.ReadCloser, error) { return io.NopCloser(bytes.NewReader(compressed)), nil },
				}, nil
			}
			if err := s.commit(context.Background()); err != nil {
				t.Fatal(err)
			}
			s.states(runtime.Paused)
			main, side := s.last().Containers[0], s.last().Containers[1]
			if main.Differ != "" || side.Differ != result.DifferContainerd || side.LayerBytes != int64(len(compressed)) {
				t.Errorf("results %+v, %+v", main, side)
			}
			img := pull(t, side)
			config, err := img.ConfigFile()
			if err != nil {
				t.Fatal(err)
			}
			manifest, err := img.Manifest()
			if err != nil {
				t.Fatal(err)
			}
			if config.RootFS.DiffIDs[1].String() != digest.FromString("uncompressed").String() || manifest.Layers[1].Digest.String() != digest.FromBytes(compressed).String() {
				t.Errorf("layers %v, diff IDs %v", manifest.Layers, config.RootFS.DiffIDs)
			}

			s.reports = nil
			c.compare = func() (*runtime.Compared, error) { return nil, errors.New("no space left") }
			if err := s.commit(context.Background()); err == nil || !strings.Contains(s.last().Error.Message, "no space left") {
				t.Errorf("got %v", err)
			}
			s.states(runtime.Running)
		})
	}
}

// TestAForgottenUpload has a registry that no longer knows of an upload that was begun
// before the layers were pushed.
func TestAForgottenUpload(t *testing.T) {
	s := newScene(t)
	forgotten := 0
	s.before = func(w http.ResponseWriter, r *http.Request) bool {
		forgets := r.Method == http.MethodPut && r.ContentLength > 0 && strings.Contains(r.URL.Path, "/uploads/")
		if forgets {
			forgotten++
			w.WriteHeader(http.StatusNotFound)
		}
		return forgets
	}
	if err := s.commit(context.Background()); err != nil {
		t.Fatal(err)
	}
	if forgotten != 2 {
		t.Errorf("%d uploads were put at once, there are 2 configurations", forgotten)
	}
	for _, c := range s.last().Containers {
		if err := validate.Image(pull(t, c), validate.Fast); err != nil {
			t.Error(err)
		}
	}
}
