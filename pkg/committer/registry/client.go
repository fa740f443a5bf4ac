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

// Package registry pushes to the snapshot registry and, where it must, reads
// layers from the registries of base images.
package registry

import (
	"context"
	"errors"
	"log/slog"
	"net/http"
	"strings"
	"sync"
	"time"

	"github.com/google/go-containerregistry/pkg/name"
	"github.com/google/go-containerregistry/pkg/v1/remote"

	"github.com/opensandbox-io/sandbox-apiserver/pkg/committer/result"
)

// Options say how registries are reached.
type Options struct {
	// ConfigFile is a .dockerconfigjson; empty means anonymous.
	ConfigFile string
	// CAFile holds PEM certificates that are trusted beside the system's.
	CAFile string
	// Config and CA are the same as content, for who has no files; a file counts
	// before them.
	Config, CA []byte
	// Insecure allows plain HTTP and unverified certificates. Without it there is
	// no way down from verified TLS, whatever the registry's address.
	Insecure bool
	// Pace, where it is set, is asked before each request of Look: it may wait, and
	// what it fails with is what Look fails with.
	Pace func(context.Context) error
	// Patience is how long a registry may be silent; zero stands for half a minute.
	Patience time.Duration
	// Log is told what is tried again; nil: nobody is.
	Log *slog.Logger
}

// Client talks to registries. It holds the tokens that they give.
type Client struct {
	insecure bool
	keychain keychain
	// transport sends requests again where that may help; options are those of the library
	// that it sends for.
	transport *challenged
	options   []remote.Option
	writers   writers
	// paced is the transport of those who only look; lookers are their clients (*http.Client), by repository.
	paced   http.RoundTripper
	lookers sync.Map
	log     *slog.Logger
}

const userAgent = "image-committer"

// New returns a client; its errors have reasons.
func New(o Options) (*Client, error) {
	credentials, err := loadKeychain(o)
	if err != nil {
		return nil, err
	}
	base, err := newTransport(o)
	if err != nil {
		return nil, err
	}
	c := &Client{insecure: o.Insecure, keychain: credentials, transport: &challenged{inner: persistent{base}}, paced: persistent{paced{base, o.Pace}}, log: o.Log}
	if c.log == nil {
		c.log = slog.New(slog.DiscardHandler)
	}
	c.options = []remote.Option{
		remote.WithTransport(c.transport),
		remote.WithAuthFromKeychain(credentials),
		remote.WithUserAgent(userAgent),
		// All is sent again by the transport alone.
		remote.WithRetryBackoff(remote.Backoff{Steps: 1}),
		// A layer without a copy in the registry could not be pulled on resume.
		remote.WithNondistributable,
	}
	return c, nil
}

// Target is the tag that an image is pushed to.
type Target struct {
	client *Client
	tag    name.Tag
}

// Target parses an image reference: registry, repository and tag, all of them
// spelled out.
func (c *Client) Target(image string) (*Target, error) {
	tag, err := name.NewTag(image, c.nameOptions(name.StrictValidation)...)
	if err == nil && strings.Contains(image, "://") {
		err = errors.New("it has a scheme") // which the library takes for a registry named "https:"
	}
	if err != nil {
		return nil, result.Errorf(result.CommitJobFailed, "the image %q is not of the form registry/repository:tag: %w", image, err)
	}
	return &Target{client: c, tag: tag}, nil
}

func (c *Client) nameOptions(more ...name.Option) []name.Option {
	if c.insecure {
		more = append(more, name.Insecure)
	}
	return more
}

// String is the whole reference.
func (t *Target) String() string { return t.tag.String() }
