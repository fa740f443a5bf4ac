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
	"bytes"
	"context"
	"errors"
	"fmt"
	"net/http"
	"net/url"

	"github.com/google/go-containerregistry/pkg/authn"
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
	u, err := t.begin(ctx)
	return u, t.fault("asking to push to", err)
}

func (t *Target) begin(ctx context.Context) (*Upload, error) {
	repo := t.tag.Context()
	auth, err := authn.Resolve(ctx, t.client.keychain, repo)
	if err != nil {
		return nil, err
	}
	retrying := transport.NewRetry(t.client.base,
		transport.WithRetryBackoff(retries), transport.WithRetryPredicate(passing), transport.WithRetryStatusCodes(temporary...))
	authorized, err := transport.NewWithContext(ctx, repo.Registry, auth, retrying, []string{repo.Scope(transport.PushScope)})
	if err != nil {
		return nil, err
	}
	u := &Upload{target: t, client: &http.Client{Transport: authorized, CheckRedirect: sameHost}}
	where := url.URL{Scheme: repo.Scheme(), Host: repo.RegistryStr(), Path: fmt.Sprintf("/v2/%s/blobs/uploads/", repo.RepositoryStr())}
	if u.location, err = u.do(ctx, http.MethodPost, &where, nil, http.StatusAccepted); err != nil {
		return nil, err
	}
	if u.location == nil {
		return nil, fmt.Errorf("POST %s: %w", &where, http.ErrNoLocation)
	}
	return u, nil
}

// Put ends the upload with a small blob, in one request. Registries forget uploads that
// were begun long ago: then the blob has to be uploaded anew.
func (u *Upload) Put(ctx context.Context, content []byte) error {
	where := *u.location
	query := where.Query()
	query.Set("digest", digest.FromBytes(content).String())
	where.RawQuery = query.Encode()
	_, err := u.do(ctx, http.MethodPut, &where, content, http.StatusCreated)
	return u.target.fault("pushing a blob to", err)
}

// Cancel lets the registry forget the upload at once.
func (u *Upload) Cancel(ctx context.Context) error {
	_, err := u.do(ctx, http.MethodDelete, u.location, nil, http.StatusNoContent, http.StatusOK, http.StatusAccepted)
	return u.target.fault("cancelling an upload to", err)
}

// do sends a request and returns where the answer leads to, nil where that is nowhere.
func (u *Upload) do(ctx context.Context, method string, where *url.URL, content []byte, want ...int) (*url.URL, error) {
	request, err := http.NewRequestWithContext(ctx, method, where.String(), bytes.NewReader(content))
	if err != nil {
		return nil, err
	}
	if content != nil {
		request.Header.Set("Content-Type", "application/octet-stream")
	}
	answer, err := u.client.Do(request)
	if err != nil {
		return nil, err
	}
	defer func() { _ = answer.Body.Close() }()
	if err := transport.CheckError(answer, want...); err != nil {
		return nil, err
	}
	location, err := answer.Location()
	if errors.Is(err, http.ErrNoLocation) {
		return nil, nil
	}
	return location, err
}

// sameHost lets nobody be led to a server that only this node can reach.
func sameHost(request *http.Request, via []*http.Request) error {
	if len(via) > 0 && request.URL.Host != via[0].URL.Host {
		return fmt.Errorf("%s redirects to %s, which no registry does to an upload", via[0].URL.Host, request.URL.Host)
	}
	return nil
}
