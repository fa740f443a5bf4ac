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

package registry

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"slices"

	"github.com/google/go-containerregistry/pkg/name"
	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/remote/transport"
	"github.com/google/go-containerregistry/pkg/v1/types"
	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
	"golang.org/x/sync/errgroup"
)

// looksAtOnce is how many blobs of an image are asked for at once.
const looksAtOnce = 4

// Found is what a registry has of an image.
type Found struct {
	// Manifest is whether it is there.
	Manifest bool
	// Lost is the digest of its configuration or of a layer that the registry does not give out; empty where there is
	// none. A node that has that layer can still run the image, another cannot pull it.
	Lost string
}

// Look says what of an image is there. It is no answer that the registry cannot be asked: that is an error.
//
// A registry may know of what it does not have. distribution answers HEAD from a cache for layers that its garbage
// collection has deleted; so a byte of each is read.
func (c *Client) Look(ctx context.Context, image, digest string) (Found, error) {
	ref, err := c.byDigest(image, digest)
	if err != nil {
		return Found{}, err
	}
	found, err := c.look(ctx, ref)
	return found, c.fault("looking for", ref.String(), err)
}

func (c *Client) look(ctx context.Context, ref name.Digest) (Found, error) {
	repo := ref.Context()
	client, err := c.looker(ctx, repo)
	if err != nil {
		return Found{}, err
	}
	raw, err := readManifest(ctx, client, repo, ref.DigestStr())
	if missing(err) || errors.Is(err, errAnother) {
		return Found{}, nil
	}
	if err != nil {
		return Found{}, err
	}
	var manifest ocispec.Manifest
	if err := json.Unmarshal(raw, &manifest); err != nil {
		return Found{}, fmt.Errorf("reading the manifest: %w", err)
	}
	blobs := append([]ocispec.Descriptor{manifest.Config}, manifest.Layers...)
	lost := make([]bool, len(blobs))
	group, ctx := errgroup.WithContext(ctx)
	group.SetLimit(looksAtOnce)
	for i, d := range blobs {
		group.Go(func() error {
			hash, err := v1.NewHash(d.Digest.String())
			if err != nil {
				return err
			}
			there, err := givesOut(ctx, client, repo, hash)
			lost[i] = err == nil && !there
			return err
		})
	}
	err = group.Wait()
	// One that is lost for certain counts for more than one that is not known of.
	if i := slices.Index(lost, true); i >= 0 {
		return Found{Manifest: true, Lost: blobs[i].Digest.String()}, nil
	}
	return Found{Manifest: true}, err
}

// errAnother is that a registry has answered with something else than what it was asked for.
var errAnother = errors.New("the answer has another digest")

// readManifest reads a manifest by its digest.
func readManifest(ctx context.Context, client *http.Client, repo name.Repository, manifest string) ([]byte, error) {
	answer, err := read(ctx, client, repo, http.MethodGet, "manifests/"+manifest, http.Header{"Accept": {string(types.OCIManifestSchema1), string(types.DockerManifestSchema2)}}, http.StatusOK)
	if err != nil {
		return nil, err
	}
	defer func() { _ = answer.Body.Close() }()
	raw, err := io.ReadAll(io.LimitReader(answer.Body, maxManifest))
	if err == nil && digest.FromBytes(raw).String() != manifest {
		err = errAnother
	}
	return raw, err
}

// givesOut is whether a repository has a blob, and gives it out: the first byte is read. Where none comes it is asked
// once more, for the connection may have broken.
func givesOut(ctx context.Context, client *http.Client, repo name.Repository, blob v1.Hash) (there bool, err error) {
	for try := 0; try < 2 && !there && err == nil; try++ {
		var answer *http.Response
		answer, err = read(ctx, client, repo, http.MethodGet, "blobs/"+blob.String(), http.Header{"Range": {"bytes=0-0"}}, http.StatusOK, http.StatusPartialContent)
		if code := statusOf(err); code == http.StatusNotFound || code == http.StatusRequestedRangeNotSatisfiable {
			return false, nil
		}
		if err != nil {
			return false, err
		}
		var n int
		n, err = io.ReadFull(answer.Body, make([]byte, 1))
		_ = answer.Body.Close()
		if there = n == 1; there || errors.Is(err, io.EOF) || errors.Is(err, io.ErrUnexpectedEOF) {
			err = nil
		}
	}
	return there, err
}

// read reads something of a repository, or asks for it.
func read(ctx context.Context, client *http.Client, repo name.Repository, method, what string, header http.Header, want ...int) (*http.Response, error) {
	request, err := newRequest(ctx, method, fmt.Sprintf("%s://%s/v2/%s/%s", repo.Scheme(), repo.RegistryStr(), repo.RepositoryStr(), what), nil)
	if err != nil {
		return nil, err
	}
	request.Header = header
	reading := *client
	reading.CheckRedirect = func(request *http.Request, via []*http.Request) error { // to a blob store, for example
		return notInside(request.URL, via[0].URL)
	}
	answer, err := reading.Do(request)
	if err != nil {
		return nil, err
	}
	if err := transport.CheckError(answer, want...); err != nil {
		_ = answer.Body.Close()
		return nil, err
	}
	return answer, nil
}
