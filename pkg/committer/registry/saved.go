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
	"net/http"
	"strings"

	"github.com/google/go-containerregistry/pkg/name"
	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/mutate"
	"github.com/google/go-containerregistry/pkg/v1/remote"
	"github.com/google/go-containerregistry/pkg/v1/remote/transport"
)

// ErrDeleteUnsupported is what Delete fails with where the registry does not delete manifests
// at all: to ask again is of no use.
var ErrDeleteUnsupported = errors.New("the registry does not delete manifests")

// ErrOutOfReach is that a registry is reached by nodes alone: to ask it from elsewhere is of no use.
var ErrOutOfReach = errors.New("the registry's address is each node's own, and the server is on none of them")

// Delete deletes the manifest with the digest from the repository of the image, whatever its
// tags. Without a digest it is the manifest that the tag names. One that is gone already is a
// success. The blobs stay until the registry collects what nothing refers to.
func (c *Client) Delete(ctx context.Context, image, digest string) error {
	if digest == "" {
		var err error
		if digest, err = c.digestOf(ctx, image); err != nil || digest == "" {
			return err
		}
	}
	ref, err := c.byDigest(image, digest)
	if err != nil {
		return err
	}
	err = remote.Delete(ref, c.with(ctx)...)
	switch code := statusOf(err); {
	case err == nil, missing(err):
		return nil
	case code == http.StatusMethodNotAllowed, code == http.StatusNotImplemented, hasCode(err, transport.UnsupportedErrorCode):
		return fmt.Errorf("deleting %s: %w", ref, ErrDeleteUnsupported)
	}
	return c.fault("deleting", ref.String(), err)
}

// digestOf is what the tag names, empty where it names nothing.
func (c *Client) digestOf(ctx context.Context, image string) (string, error) {
	to, err := c.Target(image)
	if err != nil {
		return "", err
	}
	// Not by HEAD, whose answer need not have the digest.
	switch found, err := remote.Get(to.tag, c.with(ctx)...); {
	case err == nil:
		return found.Digest.String(), nil
	case missing(err):
		return "", nil
	default:
		return "", to.fault("looking for", err)
	}
}

// Duplicate gives the image with the digest a second manifest under the tag target, with the
// annotations added, and returns its digest. No blob is sent: the registry shares them.
func (c *Client) Duplicate(ctx context.Context, image, digest, target string, annotations map[string]string) (string, error) {
	from, err := c.byDigest(image, digest)
	if err != nil {
		return "", err
	}
	to, err := c.Target(target)
	if err != nil {
		return "", err
	}
	original, err := remote.Image(from, c.with(ctx)...)
	if err != nil {
		return "", to.fault("reading "+from.String()+" for", err)
	}
	twin, ok := mutate.Annotations(original, annotations).(v1.Image)
	if !ok {
		return "", fmt.Errorf("reading %s: it is not an image", from)
	}
	if err := remote.Write(to.tag, twin, c.with(ctx)...); err != nil {
		return "", to.fault("copying "+from.String()+" to", err)
	}
	hash, err := twin.Digest()
	if err != nil {
		return "", fmt.Errorf("the digest of %s: %w", to, err)
	}
	return hash.String(), nil
}

func (c *Client) byDigest(image, digest string) (name.Digest, error) {
	to, err := c.Target(image)
	if err != nil {
		return name.Digest{}, err
	}
	ref, err := name.NewDigest(to.tag.Repository.Name()+"@"+digest, c.nameOptions(name.StrictValidation)...)
	if err != nil {
		return name.Digest{}, fmt.Errorf("the digest %q of image %s: %w", digest, image, err)
	}
	return ref, nil
}

func (c *Client) with(ctx context.Context) []remote.Option {
	return append(c.options[:len(c.options):len(c.options)], remote.WithContext(ctx))
}

// missing says whether a registry answered that it has no such manifest. Whatever else answers
// 404, a proxy before it or a wrong address, does so to the first request already, which asks
// for no manifest.
func missing(err error) bool {
	var answer *transport.Error
	return errors.As(err, &answer) && answer.StatusCode == http.StatusNotFound &&
		answer.Request != nil && strings.Contains(answer.Request.URL.Path, "/manifests/")
}

func statusOf(err error) int {
	var answer *transport.Error
	if errors.As(err, &answer) {
		return answer.StatusCode
	}
	return 0
}

func hasCode(err error, code transport.ErrorCode) bool {
	var answer *transport.Error
	if !errors.As(err, &answer) {
		return false
	}
	for _, diagnostic := range answer.Errors {
		if diagnostic.Code == code {
			return true
		}
	}
	return false
}
