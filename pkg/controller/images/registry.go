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

// Package images is how the controllers reach the snapshot registry themselves: to delete and to
// copy images, and to see whether those are there that a resume needs. Layers are the
// committer's business.
package images

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"sync"
	"time"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/utils/clock"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/opensandbox-io/sandbox-apiserver/pkg/committer/registry"
	"github.com/opensandbox-io/sandbox-apiserver/pkg/committer/result"
	"github.com/opensandbox-io/sandbox-apiserver/pkg/controller/commitjob"
	"github.com/opensandbox-io/sandbox-apiserver/pkg/controller/naming"
	"github.com/opensandbox-io/sandbox-apiserver/pkg/metrics"
)

const (
	// answerTimeout bounds one exchange with a registry.
	answerTimeout = 30 * time.Second
	// clientLifetime is for how long connections, and tokens for repositories that may be gone by
	// now, are kept.
	clientLifetime = time.Hour
)

// errElsewhere is what a reference gets that is not below --snapshot-registry. Snapshots from before the flag was changed
// have one, and so may a status that somebody else than the server has written: nothing is sent to where it
// says.
var errElsewhere = errors.New("it is not below this server's --snapshot-registry, so it was not asked for")

// Registry is the snapshot registry, reached with the credentials of commit Jobs as they are at
// the time. A registry that does not answer is asked by one at a time.
type Registry struct {
	// Config names the credentials, which Reader reads in the host cluster, uncached.
	Config commitjob.Config
	Reader client.Reader
	// Images says what of all registries is this one.
	Images *naming.ImageTemplate
	Clock  clock.PassiveClock
	// Pace holds up the requests of Look; nil does not.
	Pace func(context.Context) error

	outages outages

	mutex   sync.Mutex
	client  *registry.Client
	version string
	made    time.Time
}

// Delete deletes a manifest by its digest, or by its tag where the digest is empty.
func (r *Registry) Delete(ctx context.Context, image, digest string) error {
	return r.ask(ctx, "delete", image, func(ctx context.Context, c *registry.Client) error {
		return c.Delete(ctx, image, digest)
	})
}

// Duplicate gives an image a second manifest under the tag target, with the annotations added,
// and returns its digest.
func (r *Registry) Duplicate(ctx context.Context, image, digest, target string, annotations map[string]string) (twin string, err error) {
	if err := r.covers(image); err != nil {
		return "", err
	}
	err = r.ask(ctx, "duplicate", target, func(ctx context.Context, c *registry.Client) error {
		twin, err = c.Duplicate(ctx, image, digest, target, annotations)
		return err
	})
	return twin, err
}

// Look says what the registry has of an image.
func (r *Registry) Look(ctx context.Context, image, digest string) (found registry.Found, err error) {
	err = r.ask(ctx, "look", image, func(ctx context.Context, c *registry.Client) error {
		found, err = c.Look(ctx, image, digest)
		return err
	})
	return found, err
}

func (r *Registry) covers(image string) error {
	if r.Images.Below(image) {
		return nil
	}
	return fmt.Errorf("%s: %w", image, errElsewhere)
}

func (r *Registry) ask(ctx context.Context, operation, image string, question func(context.Context, *registry.Client) error) error {
	host, _, _ := strings.Cut(image, "/")
	if err := r.covers(image); err != nil {
		return err
	}
	if r.Config.RegistryOfNode {
		// Whatever answered here would be another one.
		return result.Wrap(result.RegistryUnavailable, registry.ErrOutOfReach, "registry %s cannot be asked: %s", host, registry.ErrOutOfReach.Error())
	}
	answering, cancel := context.WithTimeout(registry.InAHurry(ctx), answerTimeout)
	defer cancel()
	connection, err := r.connect(answering)
	if err != nil {
		return err
	}
	if err := r.outages.ask(host, r.Clock.Now()); err != nil {
		return err
	}
	err = question(answering, connection)
	if errors.Is(err, context.DeadlineExceeded) {
		err = result.Wrap(result.RegistryUnavailable, err, "registry %s has not answered in time", host)
	}
	if !errors.Is(err, errBusy) { // else it was not asked
		r.outages.answered(host, err, r.Clock.Now())
		metrics.RegistryAsked(operation, resultOf(err))
	}
	return err
}

// resultOf is what came of a request, in one word of a bounded number.
func resultOf(err error) string {
	var reasoned *result.Error
	switch {
	case err == nil:
		return "ok"
	case errors.As(err, &reasoned):
		return string(reasoned.Reason)
	}
	return "error"
}

// connect makes a client anew when the credentials have changed.
func (r *Registry) connect(ctx context.Context) (*registry.Client, error) {
	options, version, err := r.options(ctx)
	if err != nil {
		return nil, err
	}
	r.mutex.Lock()
	defer r.mutex.Unlock()
	if r.client == nil || r.version != version || r.Clock.Since(r.made) > clientLifetime {
		made, err := registry.New(options)
		if err != nil {
			return nil, err
		}
		r.client, r.version, r.made = made, version, r.Clock.Now()
	}
	return r.client, nil
}

func (r *Registry) options(ctx context.Context) (options registry.Options, version string, err error) {
	options = registry.Options{Insecure: r.Config.RegistryInsecure, Pace: r.Pace}
	if name := r.Config.PushSecret; name != "" {
		secret := &corev1.Secret{}
		if err := r.Reader.Get(ctx, client.ObjectKey{Namespace: r.Config.Namespace, Name: name}, secret); err != nil {
			return options, "", fmt.Errorf("read Secret %s/%s: %w", r.Config.Namespace, name, err)
		}
		options.Config = secret.Data[corev1.DockerConfigJsonKey]
		version = string(secret.UID) + "/" + secret.ResourceVersion
	}
	if name := r.Config.RegistryCA; name != "" {
		bundle := &corev1.ConfigMap{}
		if err := r.Reader.Get(ctx, client.ObjectKey{Namespace: r.Config.Namespace, Name: name}, bundle); err != nil {
			return options, "", fmt.Errorf("read ConfigMap %s/%s: %w", r.Config.Namespace, name, err)
		}
		options.CA = []byte(bundle.Data["ca.crt"])
		version += " " + string(bundle.UID) + "/" + bundle.ResourceVersion
	}
	return options, version, nil
}
