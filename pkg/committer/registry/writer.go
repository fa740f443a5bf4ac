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
	"net/netip"
	"net/url"
	"strings"
	"sync"

	"github.com/google/go-containerregistry/pkg/authn"
	"github.com/google/go-containerregistry/pkg/name"
	"github.com/google/go-containerregistry/pkg/v1/remote/transport"
)

// writers are the clients that may push, by what they may: each has asked for its token once.
type writers struct {
	mu      sync.Mutex
	clients map[string]*http.Client
	// abandoned are uploads that have no content that is of use.
	abandoned []*Upload
}

// writer returns a client that may push to the repository, and whatever the scopes allow.
func (c *Client) writer(ctx context.Context, repo name.Repository, scopes ...string) (*http.Client, error) {
	// Some registries look at the first scope alone.
	scopes = append([]string{repo.Scope(transport.PushScope)}, scopes...)
	key := strings.Join(append([]string{repo.Name()}, scopes...), " ")
	c.writers.mu.Lock()
	defer c.writers.mu.Unlock()
	if known, ok := c.writers.clients[key]; ok {
		return known, nil
	}
	made, err := c.authorized(ctx, c.transport, repo, scopes...)
	if err != nil {
		return nil, err
	}
	if c.writers.clients == nil {
		c.writers.clients = map[string]*http.Client{}
	}
	c.writers.clients[key] = made
	return made, nil
}

// forget lets the next writer ask for its token anew.
func (c *Client) forget(client *http.Client) {
	c.writers.mu.Lock()
	defer c.writers.mu.Unlock()
	for key, known := range c.writers.clients {
		if known == client {
			delete(c.writers.clients, key)
		}
	}
}

// looker returns a client that sees what is in the repository, no faster than Options.Pace allows. Nobody waits for
// another's.
func (c *Client) looker(ctx context.Context, repo name.Repository) (*http.Client, error) {
	if known, ok := c.lookers.Load(repo.Name()); ok {
		return known.(*http.Client), nil
	}
	made, err := c.authorized(ctx, c.paced, repo, repo.Scope(transport.PullScope))
	if err == nil {
		c.lookers.Store(repo.Name(), made)
	}
	return made, err
}

func (c *Client) authorized(ctx context.Context, through http.RoundTripper, repo name.Repository, scopes ...string) (*http.Client, error) {
	auth, err := authn.Resolve(ctx, c.keychain, repo)
	if err != nil {
		return nil, err
	}
	authorized, err := transport.NewWithContext(ctx, repo.Registry, auth, transport.NewUserAgent(through, userAgent), scopes)
	if err != nil {
		return nil, err
	}
	return &http.Client{Transport: authorized, CheckRedirect: sameHost}, nil
}

// abandon notes an upload that is to be cancelled when there is time for it.
func (c *Client) abandon(u *Upload) {
	c.writers.mu.Lock()
	defer c.writers.mu.Unlock()
	c.writers.abandoned = append(c.writers.abandoned, u)
}

// CancelUploads lets the registry forget what was begun and not ended. It is for the end, when
// nothing is frozen any more.
func (c *Client) CancelUploads(ctx context.Context) error {
	c.writers.mu.Lock()
	abandoned := c.writers.abandoned
	c.writers.abandoned = nil
	c.writers.mu.Unlock()
	var failed []error
	for _, u := range abandoned {
		// One that the registry has forgotten by itself is none that is left.
		if err := u.Cancel(ctx); err != nil && statusOf(err) != http.StatusNotFound {
			failed = append(failed, err)
		}
	}
	return errors.Join(failed...)
}

func newRequest(ctx context.Context, method, where string, content []byte) (*http.Request, error) {
	return http.NewRequestWithContext(ctx, method, where, bytes.NewReader(content))
}

// sameHost lets nobody be led to a server that only this node can reach.
func sameHost(request *http.Request, via []*http.Request) error {
	if len(via) > 0 && request.URL.Host != via[0].URL.Host {
		return fmt.Errorf("%s redirects to %s, which no registry does to an upload", via[0].URL.Host, request.URL.Host)
	}
	return nil
}

// notInside refuses what a registry leads to where that is an address of a private network and
// not the registry's own: what is sent or read there would be this node's, not the registry's.
// Names are let through, for blob stores have names.
func notInside(to, from *url.URL) error {
	if to.Hostname() == from.Hostname() {
		return nil
	}
	address, err := netip.ParseAddr(to.Hostname())
	if err == nil && (address.IsPrivate() || address.IsLoopback() || address.IsLinkLocalUnicast() || address.IsLinkLocalMulticast() || address.IsUnspecified()) {
		return fmt.Errorf("%s leads to %s, an address inside a private network that is not its own: the registry has to name itself by the address that it is reached by", from.Host, to.Host)
	}
	return nil
}
