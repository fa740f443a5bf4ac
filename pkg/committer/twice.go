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
	"io"
	"time"

	"github.com/opensandbox-io/sandbox-apiserver/pkg/committer/overlay"
	"github.com/opensandbox-io/sandbox-apiserver/pkg/committer/result"
	"github.com/opensandbox-io/sandbox-apiserver/pkg/committer/runtime"
)

// What is at least this large is read twice: below, a container is frozen for
// about a tenth of a second, and one layer is better than two.
const (
	largeBytes   = 32 << 20
	largeEntries = 4000
)

// copyFirst pushes what a large container has changed, while it goes on running.
// Whatever speaks against that is no failure: then all is read once it is frozen.
func (c *commit) copyFirst(ctx context.Context, p *part) error {
	c.doing = fmt.Sprintf("reading container %q for the first time", p.Name)
	if p.files.Upperdir == "" || !p.large() {
		return nil
	}
	state, err := p.container.State(ctx)
	if err != nil || state != runtime.Running {
		return err
	}
	fits, err := p.found.Remembers(ctx, p.files.Upperdir, p.volumes...)
	if err != nil || !fits {
		c.Log.Info("the container will be read at once, while it is frozen", "container", p.Name, "entries", p.found.Entries, "because", "there is no memory for what would have to be remembered of them", "error", err)
		return ctx.Err()
	}
	if err := c.settle(ctx, p); err != nil {
		return err
	}
	began := time.Now()
	options := p.readOptions()
	options.Clock = c.Clock
	copied, err := overlay.BeginCopy(ctx, p.files.Upperdir, options)
	if err != nil {
		c.Log.Info("the container will be read at once, while it is frozen", "container", p.Name, "because", err)
		return ctx.Err()
	}
	c.Log.Info("reading the running container", "container", p.Name, "synced", time.Since(began))
	began = time.Now()
	var stats overlay.Stats
	l, err := upload(ctx, p, func(ctx context.Context, w io.Writer) (err error) {
		stats, err = copied.First(ctx, w)
		return err
	})
	if err == nil {
		p.copied = copied
		return c.pushed(p, l, stats, began)
	}
	copied.Close()
	// A registry that does not take it now would not take it later either, and then
	// containers were frozen in vain.
	var reasoned *result.Error
	if ctx.Err() != nil || errors.As(err, &reasoned) {
		return fmt.Errorf("container %q: %w", p.Name, err)
	}
	c.Log.Warn("the first pass over the running container failed; it will be read at once, while it is frozen", "container", p.Name, "error", err)
	return nil
}

// recentBytes is how much may have just been written for the first pass to begin at once. It is read
// again while the container is frozen.
var recentBytes int64 = 512 << 20

// settle waits, a few seconds at most, until what was just written is old: files that were copied
// up by sharing their blocks, for a chown say, may be many gigabytes, and in no memory.
func (c *commit) settle(ctx context.Context, p *part) error {
	wait := time.Until(p.found.Settled)
	if p.found.Recent < recentBytes || wait <= 0 {
		return nil
	}
	c.Log.Info("waiting for what was just written to be old", "container", p.Name, "bytes", p.found.Recent, "for", wait)
	timer := time.NewTimer(wait)
	defer timer.Stop()
	select {
	case <-timer.C:
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}

// checkCopy forgets the first pass where changes since cannot be told.
func (c *commit) checkCopy(p *part) {
	if p.copied == nil {
		return
	}
	if err := p.copied.Valid(); err != nil {
		c.Log.Warn("the first pass counts for nothing; all is read again", "container", p.Name, "because", err)
		p.copied.Close()
		p.copied, p.layers = nil, nil
	}
}

func (c *commit) closeCopies() {
	for _, p := range c.parts {
		if p.copied != nil {
			p.copied.Close()
		}
	}
}
