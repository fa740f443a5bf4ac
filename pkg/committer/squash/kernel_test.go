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

package squash_test

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"io/fs"
	"math/rand/v2"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/containerd/containerd/v2/pkg/archive"
	"github.com/google/go-cmp/cmp"
	"github.com/opencontainers/go-digest"
	"golang.org/x/sys/unix"

	"github.com/opensandbox-io/sandbox-apiserver/pkg/committer/overlay"
	"github.com/opensandbox-io/sandbox-apiserver/pkg/committer/squash"
)

// TestOnTheKernelsOverlay changes a tree at random on real overlay mounts, as one cycle
// of pause and resume after the other does, and compares what all layers show with what
// the merged ones show, unpacked by containerd in both of its ways.
func TestOnTheKernelsOverlay(t *testing.T) {
	if os.Geteuid() != 0 {
		t.Skip("needs root, to mount")
	}
	const layers = 6
	for seed := range uint64(4) {
		t.Run(fmt.Sprint("seed ", seed), func(t *testing.T) {
			s := &stage{t: t, dir: t.TempDir(), random: rand.New(rand.NewPCG(seed, 2))}
			var written [][]byte
			var lower []string
			for i := range layers {
				upper := s.mkdir("upper", i)
				root := s.mount(lower, upper)
				for range 120 {
					s.change(root)
				}
				s.unmount(root)
				var b bytes.Buffer
				if _, err := overlay.Write(context.Background(), &b, upper, overlay.Options{}); err != nil {
					t.Fatal(err)
				}
				written = append(written, b.Bytes())
				lower = append(lower, s.unpack(i, true, b.Bytes()))
			}
			want := s.seen(lower)
			if len(want) < 5 {
				t.Errorf("only %d files prove little", len(want))
			}
			from := 1 + s.random.IntN(2) // above something that there is to hide
			to := layers - s.random.IntN(2)
			merged := mergeAll(t, written[from:to], written[:from], lower[:from])
			stack := slices.Concat(lower[:from], []string{s.unpack(layers, true, merged)}, lower[to:])
			if diff := cmp.Diff(want, s.seen(stack)); diff != "" {
				t.Errorf("layers %d to %d merged, on an overlay (-want +got):\n%s", from, to, diff)
			}
			plain := s.unpack(layers+1, false, written...)
			again := s.unpack(layers+2, false, slices.Concat(written[:from], [][]byte{merged}, written[to:])...)
			// There containerd leaves attributes on a directory that was made anew.
			if diff := cmp.Diff(withoutAttributes(look(t, plain)), withoutAttributes(look(t, again))); diff != "" {
				t.Errorf("layers %d to %d merged, in one directory (-want +got):\n%s", from, to, diff)
			}
		})
	}
}

// mergeAll merges layers above others, which lie in lower, the lowest first. Whether
// those layers are read or the directories, it is the same.
func mergeAll(t *testing.T, layers, below [][]byte, lower []string) []byte {
	t.Helper()
	topmostFirst := slices.Clone(lower)
	slices.Reverse(topmostFirst)
	dirs, err := overlay.OpenLower(topmostFirst, overlay.Options{})
	if err != nil {
		t.Fatal(err)
	}
	defer dirs.Close()
	plan, err := squash.Plan(context.Background(), inMemory(layers), dirs)
	if err != nil {
		t.Fatal(err)
	}
	var b bytes.Buffer
	if err := plan.Write(context.Background(), &b); err != nil {
		t.Fatal(err)
	}
	if !bytes.Equal(mergeOnLayers(t, layers, below), b.Bytes()) {
		t.Error("the merged layer is another where the layers below are read than where their directories are")
	}
	return b.Bytes()
}

func mergeOnLayers(t *testing.T, layers, below [][]byte) []byte {
	t.Helper()
	plan, err := squash.PlanOnLayers(context.Background(), inMemory(layers), inMemory(below))
	if err != nil {
		t.Fatal(err)
	}
	var b bytes.Buffer
	if err := plan.Write(context.Background(), &b); err != nil {
		t.Fatal(err)
	}
	return b.Bytes()
}

func inMemory(layers [][]byte) []squash.Layer {
	var all []squash.Layer
	for _, l := range layers {
		all = append(all, squash.Layer{DiffID: digest.FromBytes(l), Open: func(context.Context) (io.ReadCloser, error) {
			return io.NopCloser(bytes.NewReader(l)), nil
		}})
	}
	return all
}

// stage is where directories are mounted.
type stage struct {
	t      *testing.T
	dir    string
	random *rand.Rand
	mounts int
	clock  int64
}

func (s *stage) mkdir(name string, n int) string {
	s.t.Helper()
	path := filepath.Join(s.dir, fmt.Sprint(name, n))
	if err := os.Mkdir(path, 0o755); err != nil {
		s.t.Fatal(err)
	}
	return path
}

// mount mounts the layers, the lowest first, with upper on them, read-only without one.
func (s *stage) mount(lower []string, upper string) string {
	s.t.Helper()
	s.mounts++
	root := s.mkdir("root", s.mounts)
	empty := s.mkdir("empty", s.mounts)
	below := []string{}
	for _, l := range slices.Backward(lower) {
		below = append(below, l)
	}
	options := "index=off,redirect_dir=off,metacopy=off,lowerdir=" + strings.Join(append(below, empty), ":")
	if upper == "" {
		options += ":" + s.mkdir("other", s.mounts) // overlay wants two of them
	} else {
		options += ",upperdir=" + upper + ",workdir=" + s.mkdir("work", s.mounts)
	}
	if err := unix.Mount("overlay", root, "overlay", 0, options); err != nil {
		s.t.Skip("cannot mount an overlay here:", err)
	}
	s.t.Cleanup(func() { _ = unix.Unmount(root, unix.MNT_DETACH) })
	return root
}

func (s *stage) unmount(root string) {
	s.t.Helper()
	if err := unix.Unmount(root, 0); err != nil {
		s.t.Fatal(err)
	}
}

// unpack unpacks layers into one directory, as containerd does for the overlay
// snapshotter or for one that copies.
func (s *stage) unpack(n int, forOverlay bool, layers ...[]byte) string {
	s.t.Helper()
	dir := s.mkdir("unpacked", n)
	var options []archive.ApplyOpt
	if forOverlay {
		options = append(options, archive.WithConvertWhiteout(archive.OverlayConvertWhiteout))
	}
	for _, l := range layers {
		if _, err := archive.Apply(context.Background(), dir, bytes.NewReader(l), options...); err != nil {
			s.t.Fatal(err)
		}
	}
	return dir
}

func (s *stage) seen(lower []string) map[string]string {
	s.t.Helper()
	root := s.mount(lower, "")
	defer s.unmount(root)
	return look(s.t, root)
}

var names = []string{"a", "b", "c", "a b", "é\n\xff"}

func (s *stage) path(root string) string {
	path := root
	for range 1 + s.random.IntN(3) {
		path += "/" + names[s.random.IntN(len(names))]
	}
	return path
}

// change does something to the tree; what cannot be done is not done.
func (s *stage) change(root string) {
	p, q := s.path(root), s.path(root)
	s.clock++
	switch s.random.IntN(16) {
	case 0, 1, 2:
		_ = os.Mkdir(p, 0o755)
	case 3, 4, 5:
		how := os.O_CREATE | os.O_TRUNC
		if s.random.IntN(2) == 0 {
			how = os.O_APPEND
		}
		// Not blocking: it may be a FIFO.
		if f, err := os.OpenFile(p, how|os.O_WRONLY|unix.O_NONBLOCK, 0o640); err == nil {
			_, _ = fmt.Fprint(f, "content ", s.clock)
			_ = f.Close()
		}
	case 6:
		_ = os.Truncate(p, s.random.Int64N(1<<20)<<(2*s.random.IntN(2))) // which makes it sparse, and in a layer some of them
	case 7:
		_ = unix.Fchmodat(unix.AT_FDCWD, p, uint32(s.random.IntN(0o10000)), 0)
	case 8:
		_ = os.Lchown(p, s.random.IntN(1<<20), s.random.IntN(1<<20))
	case 9:
		_ = unix.Lsetxattr(p, "user.x", []byte(fmt.Sprint(s.clock, "\x00\n=")), 0)
	case 10, 11:
		_ = os.Link(p, q)
	case 12:
		_ = os.Symlink("../"+names[s.random.IntN(len(names))], p)
	case 13:
		if _, err := os.Lstat(p); err == nil && s.random.IntN(4) == 0 { // else RemoveAll opens what is above it, a FIFO perhaps
			_ = os.RemoveAll(p)
		}
	case 14:
		_ = os.Rename(p, q)
	case 15:
		_ = unix.Mkfifo(p, 0o600)
	}
	at := []unix.Timespec{{Nsec: unix.UTIME_OMIT}, unix.NsecToTimespec(s.clock*1_000_000_007 + 1)}
	_ = unix.UtimesNanoAt(unix.AT_FDCWD, p, at, unix.AT_SYMLINK_NOFOLLOW)
}

// look describes every file below root.
func look(t *testing.T, root string) map[string]string {
	t.Helper()
	all := map[string]string{}
	same := map[uint64][]string{}
	err := filepath.WalkDir(root, func(path string, d fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		name := strings.TrimPrefix(path, root)
		var st unix.Stat_t
		if err := unix.Lstat(path, &st); err != nil {
			return err
		}
		says := fmt.Sprintf("mode %o owner %d:%d modified %s", st.Mode, st.Uid, st.Gid, time.Unix(st.Mtim.Unix()).UTC().Format(time.RFC3339Nano))
		if name == "" {
			says = fmt.Sprintf("mode %o", st.Mode) // a mount of its own has times of its own
		}
		switch {
		case d.Type().IsRegular():
			content, err := os.ReadFile(path)
			if err != nil {
				return err
			}
			says += fmt.Sprintf(" %d bytes %s", len(content), digest.FromBytes(content).Encoded()[:8])
		case d.Type() == fs.ModeSymlink:
			target, err := os.Readlink(path)
			if err != nil {
				return err
			}
			says += " to " + target
		}
		value := make([]byte, 100)
		if n, err := unix.Lgetxattr(path, "user.x", value); err == nil {
			says += fmt.Sprintf(" x=%q;", value[:n])
		}
		if !d.IsDir() {
			same[st.Ino] = append(same[st.Ino], name)
		}
		all[name] = says
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	for _, names := range same {
		for _, name := range names {
			all[name] += fmt.Sprintf(" names %q", names)
		}
	}
	return all
}

var attribute = regexp.MustCompile(" x=[^;]*;")

func withoutAttributes(tree map[string]string) map[string]string {
	for name, says := range tree {
		tree[name] = attribute.ReplaceAllString(says, "")
	}
	return tree
}
