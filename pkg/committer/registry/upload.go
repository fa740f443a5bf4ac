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
	"net/url"
	"time"

	"github.com/google/go-containerregistry/pkg/name"
	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/remote/transport"
	"github.com/opencontainers/go-digest"
)

// Upload is an upload that the registry has begun and that has no content yet. That it
// has begun proves that pushing is allowed: a token alone proves nothing.
type Upload struct {
	target   *Target
	client   *http.Client
	location *url.URL
}

// Begin asks the registry for an upload. It has to be ended, by Put or Cancel.
func (t *Target) Begin(ctx context.Context) (*Upload, error) {
	u, _, err := t.begin(ctx, nil, nil)
	return u, t.fault("asking to push to", err)
}

// begin begins an upload. Where mount names a blob and from a repository of the same registry
// that has it, the registry may take it from there instead: then there is nothing to upload.
func (t *Target) begin(ctx context.Context, mount *v1.Hash, from *name.Repository) (u *Upload, mounted bool, err error) {
	repo := t.tag.Context()
	var scopes []string
	where := url.URL{Scheme: repo.Scheme(), Host: repo.RegistryStr(), Path: fmt.Sprintf("/v2/%s/blobs/uploads/", repo.RepositoryStr())}
	want := []int{http.StatusAccepted}
	if mount != nil {
		scopes = append(scopes, from.Scope(transport.PullScope))
		where.RawQuery = url.Values{"mount": {mount.String()}, "from": {from.RepositoryStr()}}.Encode()
		want = append(want, http.StatusCreated)
	}
	client, err := t.client.writer(ctx, repo, scopes...)
	if err != nil {
		return nil, false, err
	}
	u = &Upload{target: t, client: client}
	known := t.client.transport.known()
	var code int
	code, u.location, err = u.do(ctx, http.MethodPost, &where, nil, want...)
	if statusOf(err) == http.StatusUnauthorized && t.client.transport.known() != known {
		t.client.forget(client)
		return t.begin(ctx, mount, from) // once: what it asks for is known by then
	}
	switch {
	case err != nil:
		return nil, false, err
	case code == http.StatusCreated:
		return nil, true, nil
	case u.location == nil:
		return nil, false, fmt.Errorf("POST %s: %w", &where, http.ErrNoLocation)
	}
	return u, false, nil
}

// Put ends the upload with a small blob, in one request. Registries forget uploads that
// were begun long ago: then the blob has to be uploaded anew.
func (u *Upload) Put(ctx context.Context, content []byte) error {
	return u.target.fault("pushing a blob to", u.commit(ctx, digest.FromBytes(content), content))
}

// stream uploads the content of a blob whose digest may be known only afterwards.
func (u *Upload) stream(ctx context.Context, l v1.Layer) error {
	content, err := l.Compressed()
	if err != nil {
		return err
	}
	request, err := http.NewRequestWithContext(ctx, http.MethodPatch, u.location.String(), content)
	if err != nil {
		_ = content.Close()
		return err
	}
	// For a connection that turns out to be closed before anything was sent.
	request.GetBody = l.Compressed
	if size, err := l.Size(); err == nil {
		request.ContentLength = size
	}
	request.Header.Set("Content-Type", "application/octet-stream")
	// 202 is what they should answer; some do not. That all has come is seen when the upload is committed.
	_, location, err := u.send(request, http.StatusAccepted, http.StatusNoContent, http.StatusCreated, http.StatusOK)
	if err != nil {
		return err
	}
	if location != nil {
		u.location = location
	}
	return nil
}

// commit ends the upload: with these bytes, or with those that were sent before.
func (u *Upload) commit(ctx context.Context, blob digest.Digest, content []byte) error {
	where := *u.location
	query := where.Query()
	query.Set("digest", blob.String())
	where.RawQuery = query.Encode()
	_, _, err := u.do(ctx, http.MethodPut, &where, content, http.StatusCreated)
	return err
}

// cancelTries is how often an upload is cancelled that moves on meanwhile, cancelPause how long is waited in between.
const (
	cancelTries = 4
	cancelPause = 250 * time.Millisecond
)

// Cancel lets the registry forget the upload at once. One that has taken a part of the content goes by another location then:
// distribution answers 416 to the old one, for as long as it still takes what was sent before the connection was cut.
// https://github.com/distribution/distribution/blob/v3.1.2/registry/handlers/blobupload.go
func (u *Upload) Cancel(ctx context.Context) error {
	for try := 1; ; try++ {
		_, _, err := u.do(ctx, http.MethodDelete, u.location, nil, http.StatusNoContent, http.StatusOK, http.StatusAccepted)
		if code := statusOf(err); try == cancelTries || code != http.StatusRequestedRangeNotSatisfiable && code != http.StatusBadRequest && code != http.StatusConflict {
			return u.target.fault("cancelling an upload to", err)
		}
		if try > 1 && !waitFor(ctx, cancelPause) {
			return u.target.fault("cancelling an upload to", err)
		}
		if _, now, asked := u.do(ctx, http.MethodGet, u.location, nil, http.StatusNoContent, http.StatusOK); asked == nil && now != nil {
			u.location = now
		}
	}
}

// do sends a request and returns where the answer leads to, nil where that is nowhere.
func (u *Upload) do(ctx context.Context, method string, where *url.URL, content []byte, want ...int) (int, *url.URL, error) {
	request, err := newRequest(ctx, method, where.String(), content)
	if err != nil {
		return 0, nil, err
	}
	if method == http.MethodPut {
		request.Header.Set("Content-Type", "application/octet-stream")
	}
	return u.send(request, want...)
}

func (u *Upload) send(request *http.Request, want ...int) (int, *url.URL, error) {
	answer, err := u.client.Do(request)
	if err != nil {
		return 0, nil, err
	}
	defer func() { _ = answer.Body.Close() }()
	if err := transport.CheckError(answer, want...); err != nil {
		return 0, nil, err
	}
	_, _ = io.CopyN(io.Discard, answer.Body, 64<<10) // so that the connection can be used again
	location, err := answer.Location()
	switch {
	case errors.Is(err, http.ErrNoLocation):
		return answer.StatusCode, nil, nil
	case err != nil:
		return 0, nil, err
	}
	return answer.StatusCode, asReached(location, request.URL), notInside(location, request.URL)
}

// asReached is where a registry leads to, by the address that it is reached by: behind a proxy that
// ends TLS it may not know that, nor the proxy's port.
// https://github.com/distribution/distribution/issues/996
func asReached(location, asked *url.URL) *url.URL {
	if asked.Scheme != "https" || location.Scheme != "http" || location.Hostname() != asked.Hostname() {
		return location
	}
	reached := *location
	reached.Scheme, reached.Host = asked.Scheme, asked.Host
	return &reached
}
