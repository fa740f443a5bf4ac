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
	"archive/tar"
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/containerd/containerd/v2/pkg/archive"
	"github.com/containerd/log"
	"golang.org/x/sys/unix"

	"github.com/opensandbox-io/sandbox-apiserver/test/trees"
)

// TestRandomTrees changes random trees through a real overlay mount, twice each: what the first pass wrote is part of
// the base of the second. What containerd unpacks has to look like what the mount showed. SEEDS is how many are tried,
// SEED tries one of them again.
func TestRandomTrees(t *testing.T) {
	asRoot(t)
	// One line for each trusted attribute that is not restored.
	must(t, log.SetLevel("error"))
	first, count := uint64(1), uint64(20)
	if n, err := strconv.ParseUint(os.Getenv("SEEDS"), 10, 64); err == nil {
		count = n
	}
	if n, err := strconv.ParseUint(os.Getenv("SEED"), 10, 64); err == nil {
		first, count = n, 1
	}
	for seed := first; seed < first+count; seed++ {
		t.Run(fmt.Sprint(seed), func(t *testing.T) {
			t.Parallel()
			throughLayers(t, t.TempDir(), seed)
		})
	}
}

// TestRandomTreesOnXFS does it on the file system of the usual nodes of clouds.
func TestRandomTreesOnXFS(t *testing.T) {
	asRoot(t)
	must(t, log.SetLevel("error"))
	for seed := range uint64(4) {
		t.Run(fmt.Sprint(seed), func(t *testing.T) {
			throughLayers(t, onFileSystem(t, "mkfs.xfs", "-q"), seed+1000)
		})
	}
}

func throughLayers(t *testing.T, work string, seed uint64) {
	s := newStack(t, work)
	// Twice the same: one is unpacked over as containerd does on an overlay, the other as on a plain directory.
	plain := s.dir("plain")
	must(t, trees.New(s.layer(), seed).Make(60))
	must(t, trees.New(plain, seed).Make(60))

	for cycle := uint64(1); cycle <= 2; cycle++ {
		upper := s.layer()
		merged := s.mount()
		maker := trees.New(merged, seed<<8+cycle)
		must(t, maker.Change(60))
		before, err := trees.Inventory(merged)
		must(t, err)
		must(t, unix.Unmount(merged, 0))

		o := Options{Lowerdirs: s.lowers()[1:]}
		layer, _ := write(t, upper, o)
		if again, _ := write(t, upper, o); !bytes.Equal(layer, again) {
			t.Error("a second pass wrote other bytes")
		}
		s.mustBeKept(upper, o, before, fmt.Sprintf("cycle %d, kept where it is", cycle))
		s.drop()
		over := s.lowers()
		unpacked := s.layer()
		_, err = archive.Apply(context.Background(), unpacked, bytes.NewReader(layer),
			archive.WithConvertWhiteout(archive.OverlayConvertWhiteout), archive.WithParents(over))
		must(t, err)
		mounted := s.mount()
		after, err := trees.Inventory(mounted)
		must(t, err)
		must(t, unix.Unmount(mounted, 0))
		compare(t, fmt.Sprintf("cycle %d, on an overlay", cycle), trees.Kept(before), trees.Kept(after))

		_, err = archive.Apply(context.Background(), plain, bytes.NewReader(layer))
		must(t, err)
		if after, err = trees.Inventory(plain); err != nil {
			t.Fatal(err)
		}
		compare(t, fmt.Sprintf("cycle %d, in a directory", cycle), keptByDirectories(before), keptByDirectories(after))
		if t.Failed() {
			t.Logf("made in cycle %d: %v", cycle, maker.Done)
			return
		}
	}
}

// TestRandomVolumes changes a volume that was filled with what the image has at its path, at random, and unpacks its layer
// over the image, as one layer and as those of two passes: what shows there is what the next volume is filled with.
func TestRandomVolumes(t *testing.T) {
	asRoot(t)
	must(t, log.SetLevel("error"))
	count := uint64(12)
	if n, err := strconv.ParseUint(os.Getenv("SEEDS"), 10, 64); err == nil {
		count = n
	}
	for seed := range count {
		t.Run(fmt.Sprint(seed), func(t *testing.T) {
			t.Parallel()
			s := newStack(t, t.TempDir())
			lower := s.layer()
			must(t, os.MkdirAll(lower+"/var/v", 0o755))
			must(t, trees.New(lower+"/var/v", seed).Make(60))
			if seed%3 == 0 { // what shows is made of two layers
				s.layer()
				merged := s.mount()
				must(t, trees.New(merged+"/var/v", seed<<16).Change(30))
				must(t, unix.Unmount(merged, 0))
			}
			base := s.lowers()
			volume := s.dir("volume")
			shown := s.show(base)
			if out, err := exec.Command("cp", "-a", shown+"/var/v/.", volume).CombinedOutput(); err != nil {
				t.Fatalf("%v: %s", err, out)
			}
			must(t, unix.Unmount(shown, 0))
			o := Options{Lowerdirs: base, Volumes: []Volume{{Path: "var/v", Dir: volume}}}
			upper := s.dir("upper")
			unchanged, stats := write(t, upper, o)
			if seed%3 != 0 && stats.Equal == 0 {
				t.Errorf("nothing of an unchanged volume was left out: %+v", stats)
			}
			s.mustShow("unchanged", volume, base, unchanged)

			maker := trees.New(volume, seed<<8)
			must(t, maker.Change(20))
			one, _ := write(t, upper, o)
			s.mustShow("in one pass", volume, base, one)

			o.Clock = nil
			if seed%2 == 0 {
				clock, err := watchClock()
				must(t, err)
				o.Clock = &kernelClock{timer: clock.(*kernelClock).timer, unit: 1}
			}
			c, err := BeginCopy(context.Background(), upper, o)
			if errors.Is(err, ErrNoPromise) {
				t.Skip(err)
			}
			must(t, err)
			defer c.Close()
			var first, second bytes.Buffer
			_, err = c.First(context.Background(), &first)
			must(t, err)
			must(t, maker.Change(20))
			for {
				second.Reset()
				if _, err = c.Changes(context.Background(), &second); !errors.Is(err, ErrAgain) {
					break
				}
			}
			must(t, err)
			s.mustShow("in two passes", volume, base, first.Bytes(), second.Bytes())
			if t.Failed() {
				t.Logf("made: %v", maker.Done)
			}
		})
	}
}

// TestVolumeWriters has a volume that is written to while it is read for the first time.
func TestVolumeWriters(t *testing.T) {
	asRoot(t)
	must(t, log.SetLevel("error"))
	for seed := range uint64(8) {
		t.Run(fmt.Sprint(seed), func(t *testing.T) {
			s := newStack(t, t.TempDir())
			lower := tree{t, s.layer()}
			must(t, os.MkdirAll(lower.path("var/v"), 0o755))
			setup := &mutator{random: rand.New(rand.NewPCG(seed, 0)), root: lower.path("var/v")}
			for _, dir := range []string{"a", "b", "b/c", "d0"} {
				lower.dir("var/v/"+dir, 0o755)
				for i := range 4 {
					lower.file(fmt.Sprintf("var/v/%s/base%d", dir, i), "of the base", 0o644)
				}
			}
			for range 300 {
				setup.step()
			}
			volume := s.dir("volume")
			if out, err := exec.Command("cp", "-a", lower.path("var/v")+"/.", volume).CombinedOutput(); err != nil {
				t.Fatalf("%v: %s", err, out)
			}
			clock, err := watchClock()
			must(t, err)
			if seed%2 == 0 {
				clock.(*kernelClock).grace, clock.(*kernelClock).unit = 0, 1
			}
			c, err := BeginCopy(context.Background(), s.dir("upper"), Options{Lowerdirs: s.lowers(), Volumes: []Volume{{Path: "var/v", Dir: volume}}, Clock: clock})
			if errors.Is(err, ErrNoPromise) {
				t.Skip(err)
			}
			must(t, err)
			defer c.Close()
			stop := make(chan struct{})
			var writers sync.WaitGroup
			for i := range uint64(2) {
				writers.Go(func() {
					w := &mutator{random: rand.New(rand.NewPCG(seed, i+1)), root: volume}
					for {
						select {
						case <-stop:
							return
						default:
							w.step()
						}
					}
				})
			}
			first := &slowly{}
			_, err = c.First(context.Background(), first)
			close(stop)
			writers.Wait()
			must(t, err)
			var second bytes.Buffer
			for {
				second.Reset()
				if _, err = c.Changes(context.Background(), &second); !errors.Is(err, ErrAgain) {
					break
				}
			}
			must(t, err)
			s.mustShow("written to", volume, s.lowers(), first.Bytes(), second.Bytes())
		})
	}
}

// show mounts layers, the highest first, to be read.
func (s *stack) show(layers []string) string {
	s.t.Helper()
	at := s.dir("shown")
	if len(layers) == 1 {
		layers = append(layers, s.dir("nothing"))
	}
	must(s.t, unix.Mount("overlay", at, "overlay", unix.MS_RDONLY, "lowerdir="+strings.Join(layers, ":")))
	s.t.Cleanup(func() { _ = unix.Unmount(at, unix.MNT_DETACH) })
	return at
}

// mustShow unpacks layers over the base, and compares what shows at the volume's path with the volume.
func (s *stack) mustShow(where, volume string, base []string, layers ...[]byte) {
	t := s.t
	t.Helper()
	before, err := trees.Inventory(volume)
	must(t, err)
	over := base
	for _, layer := range layers {
		dir := s.dir("unpacked")
		_, err := archive.Apply(context.Background(), dir, bytes.NewReader(layer), archive.WithConvertWhiteout(archive.OverlayConvertWhiteout), archive.WithParents(over))
		must(t, err)
		over = append([]string{dir}, over...)
	}
	shown := s.show(over)
	after, err := trees.Inventory(shown + "/var/v")
	must(t, err)
	must(t, unix.Unmount(shown, 0))
	compare(t, where, trees.Kept(before), trees.Kept(after))
}

// mustBeKept takes the topmost directory itself for its layer.
func (s *stack) mustBeKept(upper string, o Options, before []trees.Entry, where string) {
	s.t.Helper()
	var cover bytes.Buffer
	_, err := Cover(context.Background(), &cover, upper, time.Now(), o)
	must(s.t, err)
	over := s.lowers()
	_, err = archive.Apply(context.Background(), s.layer(), &cover, archive.WithConvertWhiteout(archive.OverlayConvertWhiteout), archive.WithParents(over))
	must(s.t, err)
	s.layer()
	merged := s.mount()
	after, err := trees.Inventory(merged)
	must(s.t, err)
	must(s.t, unix.Unmount(merged, 0))
	s.drop()
	s.drop()
	compare(s.t, where, trees.Kept(before), trees.Kept(after))
}

func compare(t *testing.T, where string, want, got []trees.Entry) {
	t.Helper()
	if lines := trees.Differences(want, got); len(lines) > 0 {
		t.Errorf("%s: the container saw (-), the image has (+):\n%s", where, trees.Shorten(lines))
	}
}

// keptByDirectories is what is kept where layers are unpacked over each other into one directory, as some other
// snapshotters do it. A name of the base whose file has several is one file with them until it is written to; on an
// overlay the others remain as they were counted. And what is already there of a directory keeps its attributes,
// which may be an ACL that is inherited.
func keptByDirectories(entries []trees.Entry) []trees.Entry {
	all := trees.Kept(entries)
	for i := range all {
		all[i].Links, all[i].Same = 0, ""
		if all[i].Type == "directory" {
			all[i].Xattrs = nil
		}
		delete(all[i].Xattrs, accessACL)
	}
	return all
}

// TestWhatUnpackingLoses has what the layer holds and containerd does not restore; docs/files.md names it. Should one of
// these come back some day, the page has to change.
func TestWhatUnpackingLoses(t *testing.T) {
	asRoot(t)
	must(t, log.SetLevel("error"))
	f := newTree(t)
	must(t, os.Chmod(f.root, 0o700))
	for name, at := range map[string]time.Time{"before-1970": time.Unix(-1, 5), "after-2262": time.Unix(1<<33+1<<30, 7)} {
		f.file(name, "x", 0o600)
		must(t, os.Chtimes(f.path(name), at, at))
	}
	f.file("trusted", "x", 0o600)
	f.xattr("trusted", "trusted.mine", "1")
	f.file("hole", "", 0o600)
	must(t, os.Truncate(f.path("hole"), 1<<20))
	layer, _ := write(t, f.root, Options{})
	held := read(t, layer)
	if held[0].Mode != 0o700 || held[len(held)-1].Xattrs["trusted.mine"] != "1" {
		t.Errorf("the layer does not hold it: %+v", held)
	}

	root := t.TempDir()
	must(t, os.Chmod(root, 0o755))
	_, err := archive.Apply(context.Background(), root, bytes.NewReader(layer))
	must(t, err)
	stat := func(name string) (st unix.Stat_t) {
		must(t, unix.Lstat(root+"/"+name, &st))
		return st
	}
	if mode := stat(".").Mode & 0o7777; mode != 0o755 {
		t.Errorf("the root has the mode %04o", mode)
	}
	for _, name := range []string{"before-1970", "after-2262"} {
		if st := stat(name); st.Mtim.Sec != 0 {
			t.Errorf("%s has the time %d", name, st.Mtim.Sec)
		}
	}
	if n, err := unix.Lgetxattr(root+"/trusted", "trusted.mine", make([]byte, 9)); !errors.Is(err, unix.ENODATA) {
		t.Errorf("the trusted attribute has %d bytes (%v)", n, err)
	}
	if st := stat("hole"); st.Blocks*512 < 1<<20 {
		t.Errorf("the hole takes %d blocks", st.Blocks)
	}
}

// stack is a growing stack of directories that an overlay is mounted of.
type stack struct {
	t      *testing.T
	work   string
	made   int
	layers []string // the lowest first
}

func newStack(t *testing.T, work string) *stack {
	s := &stack{t: t, work: work}
	probe, lower, upper := s.dir("probe"), s.dir("lower"), s.dir("upper")
	if err := unix.Mount("overlay", probe, "overlay", 0, fmt.Sprintf("lowerdir=%s,upperdir=%s,workdir=%s", lower, upper, s.dir("work"))); err != nil {
		t.Skip("cannot mount an overlay here:", err)
	}
	must(t, unix.Unmount(probe, 0))
	return s
}

func (s *stack) dir(name string) string {
	s.t.Helper()
	s.made++
	path := filepath.Join(s.work, strconv.Itoa(s.made)+name)
	must(s.t, os.Mkdir(path, 0o755))
	return path
}

// layer puts an empty directory on top.
func (s *stack) layer() string {
	s.t.Helper()
	s.layers = append(s.layers, s.dir("layer"))
	return s.layers[len(s.layers)-1]
}

// drop takes the topmost away.
func (s *stack) drop() { s.layers = s.layers[:len(s.layers)-1] }

// lowers are all layers, the highest first.
func (s *stack) lowers() []string {
	var all []string
	for _, l := range s.layers {
		all = append([]string{l}, all...)
	}
	return all
}

// mount mounts the stack with the topmost layer to be written to, as containerd does.
func (s *stack) mount() string {
	s.t.Helper()
	merged, lowers := s.dir("merged"), s.lowers()
	options := fmt.Sprintf("index=off,lowerdir=%s,upperdir=%s,workdir=%s", strings.Join(lowers[1:], ":"), lowers[0], s.dir("work"))
	must(s.t, unix.Mount("overlay", merged, "overlay", 0, options))
	s.t.Cleanup(func() { _ = unix.Unmount(merged, unix.MNT_DETACH) })
	return merged
}

// TestSocketsInADirectoryMadeAnew have names of the image, which the directory hides already: deleted once more, they would be
// names that are listed and not there, and nobody could remove the directory.
func TestSocketsInADirectoryMadeAnew(t *testing.T) {
	asRoot(t)
	s := newStack(t, t.TempDir())
	base := s.layer()
	must(t, os.MkdirAll(filepath.Join(base, "a", "b"), 0o755))
	for _, name := range []string{"a/x", "a/b/y", "z"} {
		must(t, os.WriteFile(filepath.Join(base, name), []byte("of the image"), 0o644))
	}
	upper, merged := s.layer(), s.mount()
	must(t, os.RemoveAll(filepath.Join(merged, "a")))
	must(t, os.MkdirAll(filepath.Join(merged, "a", "b"), 0o755))
	must(t, os.Remove(filepath.Join(merged, "z")))
	for _, name := range []string{"a/x", "a/b/y", "z"} {
		must(t, unix.Mknod(filepath.Join(merged, name), unix.S_IFSOCK|0o600, 0))
	}
	must(t, unix.Unmount(merged, 0))
	layer, _ := write(t, upper, Options{Lowerdirs: s.lowers()[1:]})
	var deleted []string
	for r := tar.NewReader(bytes.NewReader(layer)); ; {
		h, err := r.Next()
		if errors.Is(err, io.EOF) {
			break
		}
		must(t, err)
		if strings.Contains(h.Name, whiteoutPrefix) {
			deleted = append(deleted, h.Name)
		}
	}
	if want := []string{"a/.wh..wh..opq", ".wh.z"}; !slices.Equal(deleted, want) {
		t.Errorf("deleted are %q, want %q", deleted, want)
	}
}
