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

package overlay

import (
	"context"
	"errors"
	"fmt"
	"io"
	"time"

	"golang.org/x/sys/unix"
)

// keeping is of a directory that is kept as the layer that it would be.
type keeping struct {
	// committed is a moment when Write had read everything.
	committed time.Time
	// covers is whether what covers the current entry is being written.
	covers bool
}

// Cover writes a layer that, put above the upper directory at path, makes of it what
// unpacking its own layer would give: it deletes what Write leaves out. Without entries it
// is not needed, and nothing is written.
//
// It fails where the directory is no layer by itself, and with ErrChanged where something in
// it was changed after committed, a moment when Write had read it all.
func Cover(ctx context.Context, w io.Writer, path string, committed time.Time, o Options) (Stats, error) {
	if o.Owners.mapped() {
		return Stats{}, errors.New("its owners are those of a user namespace, not those of its layer")
	}
	if len(o.Volumes) > 0 {
		return Stats{}, errors.New("volumes are not in it")
	}
	if err := Check(path, o); err != nil {
		return Stats{}, err
	}
	t, flush := newWriter(ctx, w, path, o)
	t.keeping = &keeping{committed: committed}
	if err := t.eachBranch(t.walk); err != nil || t.stats.Entries == 0 {
		return t.stats, err
	}
	return t.stats, errors.Join(t.finish(), flush())
}

// cover writes the deletion of an entry, with the directories that lead to it: what makes
// a name in them would change their times.
func (t *writer) cover(path []byte) error {
	t.keeping.covers = true
	defer func() { t.keeping.covers = false }()
	return t.whiteout(path)
}

// unchanged fails for what was changed since the commit.
func (k *keeping) unchanged(path []byte, st *unix.Stat_t) error {
	if k == nil {
		return nil
	}
	if at := time.Unix(st.Ctim.Unix()); at.After(k.committed) {
		return fmt.Errorf("%q was changed %s after it was committed: it %w", "/"+string(path), at.Sub(k.committed), ErrChanged)
	}
	return nil
}
