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

package committer

import (
	"context"
	"fmt"
	"slices"

	"github.com/opencontainers/image-spec/identity"
)

// unpacked are the node's directories that together hold the lowest layers of the
// base, the topmost first; false where no directories hold just those. An image that
// was pulled has one for each layer. A resume cache has in one what a commit pushed as
// two, and an empty one above.
func (p *part) unpacked(ctx context.Context, layers int) ([]string, bool, error) {
	if layers == 0 {
		return nil, true, nil
	}
	if len(p.files.Lowerdirs) == 0 {
		return nil, false, nil
	}
	chain, err := p.container.Chain(ctx)
	if err != nil {
		return nil, false, fmt.Errorf("looking for the unpacked layers of container %q: %w", p.Name, err)
	}
	at := slices.Index(chain, identity.ChainID(p.diffIDs[:layers]).String())
	if at < 0 || len(chain) != len(p.files.Lowerdirs) {
		return nil, false, nil
	}
	return p.files.Lowerdirs[at:], true, nil
}

// unpackedLayer is the directory that holds one layer of the base and nothing else; empty
// where there is none.
func (p *part) unpackedLayer(ctx context.Context, at int) (string, error) {
	with, whole, err := p.unpacked(ctx, at+1)
	if err != nil || !whole {
		return "", err
	}
	without, whole, err := p.unpacked(ctx, at)
	if err != nil || !whole || len(with) != len(without)+1 {
		return "", err
	}
	return with[0], nil
}
