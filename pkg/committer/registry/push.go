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
	"errors"
	"fmt"
	"io"
	"net/http"
	"slices"
	"time"

	"github.com/google/go-containerregistry/pkg/name"
	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/remote/transport"
	"github.com/google/go-containerregistry/pkg/v1/stream"
	"github.com/google/go-containerregistry/pkg/v1/types"
	"github.com/opencontainers/go-digest"

	"github.com/opensandbox-io/sandbox-apiserver/pkg/committer/layer"
)

// readings are how often a layer is made for its upload at most, and readingsInAHurry while
// containers are frozen until it is there: whoever started us tries again later, when they
// are not.
const (
	readings         = 3
	readingsInAHurry = 2
)

// Upload pushes a blob of our own. One that breaks off is begun anew, for registries need not
// take up an upload where it ended, and the layer is made again from its beginning.
func (t *Target) Upload(ctx context.Context, l v1.Layer) error {
	return t.fault("pushing a layer to", t.push(ctx, l, func() (*Upload, bool, error) { return t.begin(ctx, nil, nil) }))
}

func (t *Target) push(ctx context.Context, l v1.Layer, begin func() (*Upload, bool, error)) error {
	most := readings
	if isHurried(ctx) {
		most = readingsInAHurry
	}
	pause := firstPause
	for reading := 1; ; reading++ {
		u, mounted, err := begin()
		if err != nil || mounted {
			return err // the transport has tried it several times
		}
		again, err := u.push(counting(ctx), l)
		if err == nil {
			return nil
		}
		t.client.abandon(u)
		if !again || reading >= most || !waitFor(ctx, pause) {
			return err
		}
		t.client.log.Info("uploading the layer anew", "image", t, "because", describe(err))
		pause *= factor
	}
}

// push uploads a blob and says, where that fails, whether another upload may succeed.
func (u *Upload) push(ctx context.Context, l v1.Layer) (again bool, err error) {
	if err := u.stream(ctx, l); err != nil {
		return beginAnew(err), err
	}
	hash, err := l.Digest()
	if errors.Is(err, stream.ErrNotComputed) {
		return true, &connectionError{errors.New("it, or a proxy before it, answered before it had taken all of the layer")}
	}
	if err != nil {
		return false, err
	}
	err = u.commit(ctx, digest.Digest(hash.String()), nil)
	if err == nil {
		return false, nil
	}
	if statusOf(err) == http.StatusNotFound {
		// An answer that was lost, perhaps: the upload has ended, and does so only once.
		if there, _ := u.target.has(ctx, hash); there {
			return false, nil
		}
	}
	return forgotten(err), err
}

// beginAnew is whether an upload that failed while its content was sent may succeed the next time.
func beginAnew(err error) bool {
	var silent *silentError
	return forgotten(err) || passing(err) || errors.As(err, &silent) || errors.Is(err, layer.ErrReplayed) || slices.Contains(temporary, statusOf(err))
}

// forgotten is whether a registry does not know an upload that it has begun, or not all of it:
// it was restarted in between, or others of its replicas have been asked.
func forgotten(err error) bool {
	return hasCode(err, transport.BlobUploadUnknownErrorCode) || hasCode(err, transport.BlobUploadInvalidErrorCode) ||
		hasCode(err, transport.DigestInvalidErrorCode) || statusOf(err) == http.StatusRequestedRangeNotSatisfiable
}

// has is whether the target's repository has a blob, and gives it out.
func (t *Target) has(ctx context.Context, blob v1.Hash) (bool, error) {
	client, err := t.client.writer(ctx, t.tag.Context())
	if err != nil {
		return false, err
	}
	there, err := givesOut(ctx, client, t.tag.Context(), blob)
	if statusOf(err) != http.StatusForbidden {
		return there, err
	}
	// An account may be one that only pushes: its registry has to be believed.
	answer, err := read(ctx, client, t.tag.Context(), http.MethodHead, "blobs/"+blob.String(), http.Header{}, http.StatusOK)
	if err == nil {
		return true, answer.Body.Close()
	}
	if code := statusOf(err); code == http.StatusNotFound || code == http.StatusForbidden {
		err = nil
	}
	return false, err
}

// lookTime is how long a failed push of a manifest waits to learn that it has not failed.
const lookTime = 5 * time.Second

// Publish pushes a manifest under the tag. Everything that it names has to be
// there: the tag is what makes the image exist. Where the answer was lost, a second push may
// be refused, for tags may be immutable: what counts is what the tag names.
func (t *Target) Publish(ctx context.Context, manifest []byte) error {
	err := t.putManifest(ctx, manifest)
	// One of several replicas may not know yet what another took.
	// https://github.com/goharbor/harbor/issues/22417
	for try, pause := 1, firstPause; try < maxTries && hasCode(err, transport.ManifestBlobUnknownErrorCode) && waitFor(ctx, pause); try++ {
		err = t.putManifest(ctx, manifest)
		pause *= factor
	}
	if err == nil || ctx.Err() != nil {
		return t.fault("pushing the manifest to", err)
	}
	looking, cancel := context.WithTimeout(ctx, lookTime)
	defer cancel()
	if t.names(looking, digest.FromBytes(manifest)) {
		t.client.log.Info("the manifest is there all the same", "image", t, "digest", digest.FromBytes(manifest), "after", describe(err))
		return nil
	}
	return t.fault("pushing the manifest to", err)
}

func (t *Target) putManifest(ctx context.Context, manifest []byte) error {
	repo := t.tag.Context()
	client, err := t.client.writer(ctx, repo)
	if err != nil {
		return err
	}
	request, err := newRequest(ctx, http.MethodPut, fmt.Sprintf("%s://%s/v2/%s/manifests/%s", repo.Scheme(), repo.RegistryStr(), repo.RepositoryStr(), t.tag.TagStr()), manifest)
	if err != nil {
		return err
	}
	request.Header.Set("Content-Type", string(types.OCIManifestSchema1))
	answer, err := client.Do(request)
	if err != nil {
		return err
	}
	defer func() { _ = answer.Body.Close() }()
	if err := transport.CheckError(answer, http.StatusCreated, http.StatusOK, http.StatusAccepted); err != nil {
		return err
	}
	// The digest is what a resume pulls by: who says that it has another has to have this one, too.
	pushed := digest.FromBytes(manifest).String()
	if told := answer.Header.Get("Docker-Content-Digest"); told != "" && told != pushed {
		if _, err := readManifest(ctx, client, repo, pushed); err != nil {
			return fmt.Errorf("%w (%s instead of %s: %s)", errRewritten, told, pushed, describe(err))
		}
	}
	return nil
}

// errRewritten is of a registry that keeps something else than it was given.
var errRewritten = errors.New("it has made another manifest of it")

// maxManifest is how large an answer may be to be taken for a manifest.
const maxManifest = 8 << 20

// names is whether the tag names the manifest with the digest.
func (t *Target) names(ctx context.Context, manifest digest.Digest) bool {
	client, err := t.client.writer(ctx, t.tag.Context())
	if err != nil {
		return false
	}
	answer, err := read(ctx, client, t.tag.Context(), http.MethodGet, "manifests/"+t.tag.TagStr(), http.Header{"Accept": {string(types.OCIManifestSchema1)}}, http.StatusOK)
	if err != nil {
		return false
	}
	defer func() { _ = answer.Body.Close() }()
	// Not by the header Docker-Content-Digest, which a registry may leave out.
	found, err := io.ReadAll(io.LimitReader(answer.Body, maxManifest))
	return err == nil && digest.FromBytes(found) == manifest
}

// mountable are the repositories of the target's registry that a layer may be mounted from.
func (t *Target) mountable(from string) (name.Repository, bool) {
	repo := t.tag.Context()
	source, err := name.NewRepository(from, t.client.nameOptions()...)
	return source, err == nil && source.RegistryStr() == repo.RegistryStr() && source.RepositoryStr() != repo.RepositoryStr()
}
