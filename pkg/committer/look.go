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
	"errors"
	"fmt"
	"time"

	"github.com/opensandbox-io/sandbox-apiserver/pkg/committer/overlay"
	"github.com/opensandbox-io/sandbox-apiserver/pkg/committer/result"
)

// look looks at what a container has changed, for what would make the commit fail: before
// anything is pushed or frozen, and again so at the next try.
func (c *commit) look(ctx context.Context, p *part) (err error) {
	if p.files.Upperdir == "" && len(p.volumes) == 0 {
		return nil
	}
	began := time.Now()
	p.found, err = overlay.Survey(ctx, p.files.Upperdir, p.readOptions())
	switch {
	case errors.Is(err, overlay.ErrUnrepresentable):
		return result.Errorf(result.FilesNotSupported, "container %q: %w; remove or rename it, or keep it in a volume", p.Name, err)
	case errors.Is(err, overlay.ErrNotSelfContained) && len(p.files.Users)+len(p.files.Groups) > 0:
		return p.notCompared(err)
	case errors.Is(err, overlay.ErrNotSelfContained) && p.files.Incomparable != "":
		return result.Wrap(result.RuntimeNotSupported, err, "container %q: %s, and %s", p.Name, err, p.files.Incomparable)
	case errors.Is(err, overlay.ErrNotSelfContained):
		p.apart = true // which containerd will have to compare
	case err != nil:
		return fmt.Errorf("looking at the files of container %q: %w", p.Name, err)
	}
	if holes := p.found.Holes; c.MaxHoles > 0 && holes > c.MaxHoles {
		return result.Errorf(result.FilesNotSupported, "container %q: its sparse files have holes of %s, %q the most: unpacking an image writes them out as zeros, which %s are allowed for (--max-holes); "+
			"remove or shorten such files, or keep them in a volume", p.Name, size(holes), p.found.Largest, size(c.MaxHoles))
	}
	c.Log.Info("looked at the files", "container", p.Name, "entries", p.found.Entries, "bytesOnDisk", p.found.Bytes, "holes", p.found.Holes, "took", time.Since(began))
	return nil
}

// large is whether a container is read twice.
func (p *part) large() bool {
	return !p.apart && (p.found.Bytes >= largeBytes || p.found.Entries >= largeEntries)
}

// notCompared is for a container whose users are not the node's, and whose layer is none by itself.
func (p *part) notCompared(err error) error {
	return result.Wrap(result.RuntimeNotSupported, err, "container %q: %s, and containerd's own comparison does not know the users of its namespace (hostUsers: false)", p.Name, err)
}

// size is for people.
func size(bytes int64) string {
	const gib, mib = 1 << 30, 1 << 20
	if bytes >= 10*gib {
		return fmt.Sprintf("%d GiB", bytes/gib)
	}
	return fmt.Sprintf("%d MiB", bytes/mib)
}
