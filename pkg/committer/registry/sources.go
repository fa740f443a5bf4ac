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

	"github.com/google/go-containerregistry/pkg/authn"
	"github.com/google/go-containerregistry/pkg/name"
	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/remote"
)

// Sources are the registries that base images come from. They never see the
// credentials of the snapshot registry, nor that one theirs.
type Sources struct {
	// clients have the Pod's credentials, each those of one pull secret; the last has
	// none.
	clients []*Client
	// hint is what is told to a person where a layer cannot be had.
	hint string
}

// NewSources returns sources that are read with the credentials of each of the
// files, then without any. Of o only the CA counts: without TLS no base is read.
// A file that holds no credentials is of no use; the error tells of those, and the
// sources are good all the same.
func NewSources(o Options, configFiles []string, hint string) (*Sources, error) {
	s := &Sources{}
	if hint != "" {
		s.hint = "; " + hint
	}
	var useless []error
	for _, file := range append(configFiles[:len(configFiles):len(configFiles)], "") {
		client, err := New(Options{ConfigFile: file, CAFile: o.CAFile, CA: o.CA})
		if err != nil {
			useless = append(useless, fmt.Errorf("%s: %w", file, err))
			continue
		}
		s.clients = append(s.clients, client)
	}
	return s, errors.Join(useless...)
}

// Hint is what to add to a message about what no source has; it may be empty.
func (s *Sources) Hint() string { return s.hint }

// pull reads a blob with whatever credentials the registry takes.
func (s *Sources) pull(ctx context.Context, repository string, digest v1.Hash) (blob io.ReadCloser, err error) {
	repo, err := name.NewRepository(repository)
	if err != nil {
		return nil, err
	}
	err = s.ask(repo, func(c *Client) error {
		blob, err = c.pull(ctx, repository, digest)
		return err
	})
	return blob, err
}

// ask asks a registry with all credentials for it, and with none, until it answers.
func (s *Sources) ask(repo name.Repository, question func(*Client) error) error {
	var failed error
	for i, client := range s.clients {
		if i < len(s.clients)-1 && !client.hasCredentials(repo) {
			continue
		}
		err := question(client)
		if err == nil {
			return nil
		}
		// What the registry says to credentials tells more than what it says to nobody.
		if failed == nil {
			failed = err
		}
	}
	return failed
}

func (c *Client) hasCredentials(repo name.Repository) bool {
	found, err := c.keychain.Resolve(repo)
	return err == nil && found != authn.Anonymous
}

// pull reads a blob, checked against its digest.
func (c *Client) pull(ctx context.Context, repository string, digest v1.Hash) (io.ReadCloser, error) {
	repo, err := name.NewRepository(repository, c.nameOptions()...)
	if err != nil {
		return nil, err
	}
	l, err := remote.Layer(repo.Digest(digest.String()), append(c.options[:len(c.options):len(c.options)], remote.WithContext(ctx))...)
	if err != nil {
		return nil, err
	}
	return l.Compressed()
}
