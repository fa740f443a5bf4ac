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

	v1 "github.com/google/go-containerregistry/pkg/v1"
)

// ErrNotMounted is what Mount fails with where the registry wants the blob's bytes.
var ErrNotMounted = errors.New("the registry does not take a layer from another of its repositories")

// Repository is where the target is, as registry/repository.
func (t *Target) Repository() string { return t.tag.Context().Name() }

// Mount gives the target's repository a blob that another repository of its registry has. Nothing is uploaded.
func (t *Target) Mount(ctx context.Context, blob v1.Hash, from *Target) error {
	if there, err := t.has(ctx, blob); err != nil || there {
		return t.fault("looking for the layer "+blob.String()+" in", err)
	}
	source := from.tag.Context()
	u, mounted, err := t.begin(ctx, &blob, &source)
	if u != nil {
		t.client.abandon(u)
	}
	if err != nil {
		return t.fault("mounting the layer "+blob.String()+" to", err)
	}
	if mounted {
		if mounted, err = t.has(ctx, blob); err != nil {
			return t.fault("looking for the layer "+blob.String()+" in", err)
		}
	}
	if !mounted {
		return ErrNotMounted
	}
	return nil
}
