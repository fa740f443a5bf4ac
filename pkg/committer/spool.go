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
	"os"
	"time"

	"golang.org/x/sys/unix"

	"github.com/opensandbox-io/sandbox-apiserver/pkg/committer/overlay"
)

// maxSpool bounds the disk that one container's changes may take until they are
// pushed; more is pushed while the container is frozen.
const maxSpool = 256 << 20

// spooled is what was read of a container that runs again, and is to be pushed.
type spooled struct {
	part  *part
	file  *os.File
	size  int64
	stats overlay.Stats
	err   error // of writing
}

// read reads a frozen container. What it returns is to be sent once the container
// was thawed; nil when the registry has it already.
func (c *commit) read(ctx context.Context, p *part) (*spooled, error) {
	c.warnMounted(ctx, p)
	if c.LeaveFrozen || c.SpoolDir == "" || p.files.Upperdir == "" || !c.freezer.isTouched(p.container) {
		return nil, c.stream(ctx, p)
	}
	c.doing = fmt.Sprintf("reading the changes of container %q", p.Name)
	began := time.Now()
	s, err := openSpool(c.SpoolDir, p)
	if err != nil {
		c.Log.Warn("the container stays frozen until its layer is pushed", "container", p.Name, "because", err)
		return nil, c.stream(ctx, p)
	}
	for {
		err = p.rest(&s.stats)(ctx, s)
		if !errors.Is(err, overlay.ErrAgain) {
			break
		}
		s.rewind()
	}
	if s.err != nil {
		c.Log.Info("the container stays frozen until its layer is pushed", "container", p.Name, "because", s.err)
		s.close()
		return nil, c.stream(ctx, p)
	}
	if checkErr := c.undisturbed(ctx, p); checkErr != nil {
		s.close()
		return nil, checkErr
	}
	if errors.Is(err, overlay.ErrNotSelfContained) {
		s.close()
		return nil, c.stream(ctx, p) // which knows what to do
	}
	if err != nil {
		s.close()
		return nil, fmt.Errorf("container %q: %w", p.Name, err)
	}
	c.Log.Info("changes read", "container", p.Name, "bytes", s.size, "entries", s.stats.Entries, "took", time.Since(began))
	return s, nil
}

// send pushes what was read.
func (c *commit) send(ctx context.Context, s *spooled) error {
	p := s.part
	if s.stats.Entries == 0 && len(p.layers) > 0 {
		return nil // nothing changed since the first pass
	}
	c.doing = fmt.Sprintf("pushing the layer of container %q to %s", p.Name, p.target)
	began := time.Now()
	l, err := upload(ctx, p, s.copyTo)
	if err != nil {
		return fmt.Errorf("container %q: %w", p.Name, err)
	}
	return c.pushed(p, l, s.stats, began)
}

// openSpool opens a file without a name: whatever becomes of this process, the
// tenant's data does not stay on the disk.
func openSpool(dir string, p *part) (*spooled, error) {
	fd, err := unix.Open(dir, unix.O_TMPFILE|unix.O_RDWR|unix.O_EXCL|unix.O_CLOEXEC, 0o600)
	if err != nil {
		return nil, fmt.Errorf("opening a file in %s (--spool-dir): %w", dir, err)
	}
	return &spooled{part: p, file: os.NewFile(uintptr(fd), "spool")}, nil
}

// Write implements io.Writer.
func (s *spooled) Write(b []byte) (int, error) {
	if s.err == nil && s.size+int64(len(b)) > maxSpool {
		s.err = fmt.Errorf("more than %d MiB have changed", maxSpool>>20)
	}
	if s.err != nil {
		return 0, s.err
	}
	n, err := s.file.WriteAt(b, s.size)
	s.size += int64(n)
	s.err = err
	return n, err
}

// copyTo is the layer's source.
func (s *spooled) copyTo(ctx context.Context, w io.Writer) error {
	_, err := io.CopyBuffer(struct{ io.Writer }{w}, io.NewSectionReader(contextual{ctx, s.file}, 0, s.size), make([]byte, 256<<10))
	return err
}

// contextual ends reading with its context.
type contextual struct {
	ctx context.Context
	io.ReaderAt
}

func (c contextual) ReadAt(p []byte, offset int64) (int, error) {
	if err := c.ctx.Err(); err != nil {
		return 0, err
	}
	return c.ReaderAt.ReadAt(p, offset)
}

func (s *spooled) rewind() { s.size = 0 }

func (s *spooled) close() { _ = s.file.Close() }
