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
	"io"
	"net"
	"net/http"
	"strings"
	"syscall"
	"time"

	"github.com/google/go-containerregistry/pkg/name"
	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/remote"
	"github.com/google/go-containerregistry/pkg/v1/remote/transport"
	"github.com/google/go-containerregistry/pkg/v1/types"

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
	// Pace, where it is set, is asked before each request of Exists: it may wait, and
	// what it fails with is what Exists fails with.
	Pace func(context.Context) error
}

// Client talks to registries. It holds the tokens that they give.
type Client struct {
	insecure bool
	options  []remote.Option
	keychain keychain
	base     http.RoundTripper
	pusher   *remote.Pusher
	// copier is a second pusher for what may need to read other repositories: its
	// tokens ask for more, and a registry may refuse them as a whole.
	copier *remote.Pusher
	// looker asks whether images are there, and no faster than Options.Pace allows.
	looker *remote.Puller
}

// retries are few: containers are frozen while the last of the uploads runs,
// and whoever started us tries again later.
var retries = remote.Backoff{Duration: 500 * time.Millisecond, Factor: 3, Jitter: 0.1, Steps: 3}

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
	c := &Client{insecure: o.Insecure, keychain: credentials, base: base}
	c.options = []remote.Option{
		remote.WithTransport(base),
		remote.WithAuthFromKeychain(credentials),
		remote.WithUserAgent("image-committer"),
		remote.WithRetryBackoff(retries),
		remote.WithRetryPredicate(passing),
		// A layer without a copy in the registry could not be pulled on resume.
		remote.WithNondistributable,
	}
	if c.pusher, err = remote.NewPusher(c.options...); err != nil {
		return nil, err
	}
	if c.copier, err = remote.NewPusher(c.options...); err != nil {
		return nil, err
	}
	if c.looker, err = remote.NewPuller(append(c.options[:len(c.options):len(c.options)], remote.WithTransport(paced{base, o.Pace}))...); err != nil {
		return nil, err
	}
	return c, nil
}

// passing is whether the same request may well succeed in a moment.
func passing(err error) bool {
	if err == nil || errors.Is(err, context.Canceled) || errors.Is(err, context.DeadlineExceeded) {
		return false
	}
	var answer *transport.Error
	if errors.As(err, &answer) {
		return answer.Temporary()
	}
	var timeout net.Error
	if errors.As(err, &timeout) && timeout.Timeout() {
		return true
	}
	for _, broken := range []error{io.EOF, io.ErrUnexpectedEOF, syscall.EPIPE, syscall.ECONNRESET, net.ErrClosed} {
		if errors.Is(err, broken) {
			return true
		}
	}
	return false
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

// Upload pushes a blob of our own.
func (t *Target) Upload(ctx context.Context, l v1.Layer) error {
	return t.fault("pushing a layer to", t.client.pusher.Upload(ctx, t.tag.Context(), l))
}

// Publish pushes a manifest under the tag. Everything that it names has to be
// there: the tag is what makes the image exist.
func (t *Target) Publish(ctx context.Context, manifest []byte) error {
	return t.fault("pushing the manifest to", t.client.pusher.Put(ctx, t.tag, rawManifest(manifest)))
}

// rawManifest is a remote.Taggable that is pushed byte for byte.
type rawManifest []byte

func (m rawManifest) RawManifest() ([]byte, error)        { return m, nil }
func (m rawManifest) MediaType() (types.MediaType, error) { return types.OCIManifestSchema1, nil }
