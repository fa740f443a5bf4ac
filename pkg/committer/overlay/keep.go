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
	"time"

	"golang.org/x/sys/unix"
)

// keeping is of a layer that is kept where it lies.
type keeping struct {
	// since is a moment after which nothing may have been changed.
	since time.Time
}

// Keep makes the upper directory at path what unpacking its layer would give, for a
// container that is gone: what Write leaves out is removed. It fails where the
// directory cannot be a layer by itself, and with ErrChanged where something in it was
// changed after committed, a moment when Write had read it all.
func Keep(ctx context.Context, path string, committed time.Time, o Options) (Stats, error) {
	if o.Owners.mapped() {
		return Stats{}, errors.New("its owners are those of a user namespace, not those of its layer")
	}
	if err := Check(path, o); err != nil {
		return Stats{}, err
	}
	t, _ := newWriter(ctx, &nowhere{}, o)
	t.keeping = &keeping{since: committed}
	err := t.walk(path)
	return t.stats, err
}

// unchanged fails for what was changed since the commit.
func (k *keeping) unchanged(path []byte, st *unix.Stat_t) error {
	if k == nil {
		return nil
	}
	if at := time.Unix(st.Ctim.Unix()); at.After(k.since) {
		return fmt.Errorf("%q %w: it was changed %s after it was committed", "/"+string(path), ErrChanged, at.Sub(k.since))
	}
	return nil
}

// takeOut removes an entry of dir, and leaves a deletion in its place where it hides
// something below. The directory's time stays what it is in the layer.
func takeOut(dir *directory, name []byte, hides bool) error {
	var st unix.Stat_t
	if err := unix.Fstat(dir.fd, &st); err != nil {
		return err
	}
	if err := unix.Unlinkat(dir.fd, string(name), 0); err != nil {
		return err
	}
	if hides {
		if err := unix.Mknodat(dir.fd, string(name), unix.S_IFCHR, 0); err != nil {
			return err
		}
	}
	times := []unix.Timespec{{Nsec: unix.UTIME_OMIT}, st.Mtim}
	return unix.UtimesNanoAt(dir.fd, ".", times, 0)
}

// nowhere takes what nobody needs.
type nowhere struct{ room [64 << 10]byte }

func (n *nowhere) Write(p []byte) (int, error) { return len(p), nil }
func (n *nowhere) Lend() ([]byte, error)       { return n.room[:], nil }
func (n *nowhere) Fill(int)                    {}
