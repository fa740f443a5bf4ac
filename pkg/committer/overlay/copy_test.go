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
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/containerd/containerd/v2/pkg/archive"
	"github.com/google/go-cmp/cmp"
	"golang.org/x/sys/unix"
)

// mounted is an overlay over some files.
type mounted struct {
	t                          *testing.T
	work, lower, upper, merged string
}

func newMounted(t *testing.T) *mounted {
	t.Helper()
	return newMountedAt(t, t.TempDir())
}

func newMountedAt(t *testing.T, work string) *mounted {
	t.Helper()
	asRoot(t)
	m := &mounted{t: t, work: work, lower: work + "/lower", upper: work + "/upper", merged: work + "/merged"}
	for _, dir := range []string{m.lower, m.upper, m.merged, work + "/work"} {
		must(t, os.Mkdir(dir, 0o755))
	}
	base := tree{t, m.lower}
	for _, dir := range []string{"a", "b", "b/c"} {
		base.dir(dir, 0o755)
		for i := range 4 {
			base.file(fmt.Sprintf("%s/base%d", dir, i), "of the base", 0o644)
		}
	}
	if err := unix.Mount("overlay", m.merged, "overlay", 0, fmt.Sprintf("index=off,lowerdir=%s,upperdir=%s,workdir=%s/work", m.lower, m.upper, work)); err != nil {
		t.Skip("cannot mount an overlay here:", err)
	}
	t.Cleanup(func() { must(t, unix.Unmount(m.merged, 0)) })
	return m
}

// begin begins at once: what was written before, and has outlived a tick, is old.
func (m *mounted) begin() *Copy {
	m.t.Helper()
	clock, err := watchClock()
	must(m.t, err)
	return m.beginWith(&kernelClock{timer: clock.(*kernelClock).timer, unit: 1})
}

func (m *mounted) beginWith(clock Clock) *Copy {
	m.t.Helper()
	c, err := BeginCopy(context.Background(), m.upper, Options{Lowerdirs: []string{m.lower}, Clock: clock})
	if errors.Is(err, ErrNoPromise) {
		m.t.Skip(err)
	}
	must(m.t, err)
	m.t.Cleanup(c.Close)
	return c
}

func (m *mounted) first(c *Copy) *bytes.Buffer {
	m.t.Helper()
	var layer bytes.Buffer
	_, err := c.First(context.Background(), &layer)
	must(m.t, err)
	return &layer
}

func (m *mounted) changes(c *Copy) (*bytes.Buffer, Stats) {
	m.t.Helper()
	for {
		var layer bytes.Buffer
		stats, err := c.Changes(context.Background(), &layer)
		if errors.Is(err, ErrAgain) {
			continue
		}
		must(m.t, err)
		must(m.t, c.Valid())
		return &layer, stats
	}
}

// compare unpacks the layers as containerd does for its overlay snapshotter, mounts
// them over the base, and compares with what the container's mount shows.
func (m *mounted) compare(layers ...*bytes.Buffer) {
	t := m.t
	t.Helper()
	work, err := os.MkdirTemp(m.work, "resumed")
	must(t, err)
	lowers := []string{m.lower}
	for i, layer := range layers {
		dir := fmt.Sprintf("%s/%d", work, i)
		must(t, os.Mkdir(dir, 0o755))
		_, err = archive.Apply(context.Background(), dir, layer, archive.WithParents(lowers), archive.WithConvertWhiteout(archive.OverlayConvertWhiteout))
		must(t, err)
		lowers = append([]string{dir}, lowers...)
	}
	resumed := work + "/merged"
	must(t, os.Mkdir(resumed, 0o755))
	must(t, unix.Mount("overlay", resumed, "overlay", unix.MS_RDONLY, "lowerdir="+strings.Join(lowers, ":")))
	defer func() { must(t, unix.Unmount(resumed, 0)) }()
	want, got := listing(t, m.merged), listing(t, resumed)
	for name, line := range want {
		if strings.HasPrefix(line, "14") { // a socket
			delete(want, name)
		}
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("the container saw (-), the image has (+):\n%s", diff)
	}
}

// TestChanges makes one kind of change between the passes, and says what the
// second layer has of it.
func TestChanges(t *testing.T) {
	for _, test := range []struct {
		name   string
		before func(m tree)
		change func(m tree)
		want   []string // nil: not looked at
	}{
		{"nothing", func(m tree) {
			m.file("f", "1", 0o644)
			must(m.t, os.Remove(m.path("a/base0")))
		}, func(tree) {}, []string{}},
		{"a file in a directory", func(m tree) {
			m.dir("d", 0o755)
			m.dir("d/e", 0o755)
			m.file("d/e/f", "1", 0o644)
			m.file("d/e/g", "1", 0o644)
		}, func(m tree) {
			must(m.t, os.WriteFile(m.path("d/e/f"), []byte("22"), 0o644))
		}, []string{"./", "d/", "d/e/", "d/e/f"}},
		{"an attribute", func(m tree) { m.file("f", "1", 0o644); m.file("g", "1", 0o644) },
			func(m tree) { m.xattr("f", "user.x", "1") }, []string{"./", "f"}},
		{"a directory's mode", func(m tree) { m.dir("d", 0o755); m.file("d/f", "1", 0o644) },
			func(m tree) { must(m.t, os.Chmod(m.path("d"), 0o700)) }, []string{"./", "d/"}},
		{"deletions", func(m tree) {
			m.file("f", "1", 0o644)
			m.dir("d", 0o755)
			m.file("d/f", "1", 0o644)
			m.file("z", "1", 0o644)
		}, func(m tree) {
			must(m.t, os.Remove(m.path("f")))
			must(m.t, os.RemoveAll(m.path("d")))
		}, []string{"./", ".wh.d", ".wh.f"}},
		{"a deletion of the base's", func(m tree) { must(m.t, os.Remove(m.path("a/base0"))) },
			func(m tree) { must(m.t, os.Remove(m.path("a/base1"))) }, []string{"./", "a/", "a/.wh.base1"}},
		{"a deleted file comes back", func(m tree) { must(m.t, os.Remove(m.path("a/base0"))) },
			func(m tree) { m.file("a/base0", "again", 0o644) }, []string{"./", "a/", "a/base0"}},
		{"a changed directory that hides the base's", func(m tree) {
			must(m.t, os.RemoveAll(m.path("b")))
			m.dir("b", 0o755)
			m.file("b/kept", "1", 0o644)
		}, func(m tree) { m.file("b/new", "1", 0o644) }, []string{"./", "b/", "b/new"}},
		{"a directory begins to hide the base's", func(m tree) { m.file("b/c/f", "1", 0o644); m.file("b/g", "1", 0o644) },
			func(m tree) {
				must(m.t, os.RemoveAll(m.path("b")))
				m.dir("b", 0o755)
				m.file("b/g", "2", 0o644)
			}, []string{"./", "b/", "b/.wh..wh..opq", "b/g"}},
		{"a file becomes a directory", func(m tree) { m.file("x", "1", 0o644) }, func(m tree) {
			must(m.t, os.Remove(m.path("x")))
			m.dir("x", 0o755)
			m.file("x/f", "1", 0o644)
		}, nil},
		{"a directory becomes a file", func(m tree) { m.dir("x", 0o755); m.file("x/f", "1", 0o644) }, func(m tree) {
			must(m.t, os.RemoveAll(m.path("x")))
			m.file("x", "1", 0o644)
		}, []string{"./", "x"}},
		{"two directories change places", func(m tree) {
			m.dir("d", 0o755)
			m.file("d/same", "1", 0o644)
			m.file("d/one", "1", 0o644)
			m.dir("e", 0o700)
			m.file("e/same", "2", 0o644)
		}, func(m tree) {
			must(m.t, os.Rename(m.path("d"), m.path("t")))
			must(m.t, os.Rename(m.path("e"), m.path("d")))
			must(m.t, os.Rename(m.path("t"), m.path("e")))
		}, nil},
		{"a further name", func(m tree) { m.file("f", "1", 0o644) },
			func(m tree) { must(m.t, os.Link(m.path("f"), m.path("a/g"))) }, []string{"./", "a/", "a/g", "f"}},
		{"a name less", func(m tree) { m.file("f", "1", 0o644); must(m.t, os.Link(m.path("f"), m.path("g"))) },
			func(m tree) { must(m.t, os.Remove(m.path("f"))) }, []string{"./", ".wh.f", "g"}},
		{"a renamed directory with one name of a file", func(m tree) {
			m.dir("d", 0o755)
			m.file("d/f", "1", 0o644)
			must(m.t, os.Link(m.path("d/f"), m.path("a/f")))
		}, func(m tree) { must(m.t, os.Rename(m.path("d"), m.path("e"))) }, []string{"./", "a/", "a/f", ".wh.d", "e/", "e/.wh..wh..opq", "e/f"}},
		{"a socket in the place of a file", func(m tree) { m.file("s", "1", 0o644) }, func(m tree) {
			must(m.t, os.Remove(m.path("s")))
			m.node("s", unix.S_IFSOCK|0o600, 0, 0)
		}, []string{"./", ".wh.s"}},
		{"sockets in the place of the base's files", func(m tree) {
			must(m.t, os.Remove(m.path("a/base0")))
			m.node("a/base0", unix.S_IFSOCK|0o600, 0, 0)
			must(m.t, os.Remove(m.path("a/base1")))
		}, func(m tree) {
			m.node("a/base1", unix.S_IFSOCK|0o600, 0, 0)
			must(m.t, os.Remove(m.path("a/base2")))
			m.node("a/base2", unix.S_IFSOCK|0o600, 0, 0)
			m.node("a/new", unix.S_IFSOCK|0o600, 0, 0)
		}, []string{"./", "a/", "a/.wh.base0", "a/.wh.base2"}},
	} {
		t.Run(test.name, func(t *testing.T) {
			m := newMounted(t)
			test.before(tree{t, m.merged})
			m.outlive()
			c := m.begin()
			layers := []*bytes.Buffer{m.first(c), nil}
			test.change(tree{t, m.merged})
			layers[1], _ = m.changes(c)
			if test.want != nil {
				got := []string{}
				for _, e := range read(t, layers[1].Bytes()) {
					got = append(got, e.Name)
				}
				if diff := cmp.Diff(test.want, got); diff != "" {
					t.Errorf("the second layer (-want +got):\n%s", diff)
				}
			}
			m.compare(layers...)
		})
		// The same where all is younger than the limit. A file of several names is then written once more.
		t.Run(test.name+", at once", func(t *testing.T) {
			m := newMounted(t)
			test.before(tree{t, m.merged})
			c := m.beginWith(nil)
			layers := []*bytes.Buffer{m.first(c), nil}
			test.change(tree{t, m.merged})
			layers[1], _ = m.changes(c)
			got := []string{}
			for _, e := range read(t, layers[1].Bytes()) {
				got = append(got, e.Name)
			}
			if diff := cmp.Diff(test.want, got); diff != "" && test.want != nil && test.name != "a renamed directory with one name of a file" {
				t.Errorf("the second layer (-want +got):\n%s", diff)
			}
			m.compare(layers...)
		})
	}
}

// outlive waits until what was written is older than a tick.
func (m *mounted) outlive() {
	var tick, began, now unix.Timespec
	must(m.t, unix.ClockGetres(unix.CLOCK_REALTIME_COARSE, &tick))
	must(m.t, unix.ClockGettime(unix.CLOCK_REALTIME_COARSE, &began))
	for now.Nano() < began.Nano()+3*tick.Nano() {
		time.Sleep(time.Millisecond)
		must(m.t, unix.ClockGettime(unix.CLOCK_REALTIME_COARSE, &now))
	}
}

// TestWriters changes the tree at random while it is read, until the freeze.
func TestWriters(t *testing.T) {
	for seed := range uint64(12) {
		t.Run(fmt.Sprintf("seed=%d", seed), func(t *testing.T) {
			work := t.TempDir()
			if seed >= 8 {
				work = onFileSystem(t, "mkfs.xfs", "-q")
			}
			m := newMountedAt(t, work)
			setup := &mutator{random: rand.New(rand.NewPCG(seed, 0)), root: m.merged}
			for range 400 {
				setup.step()
			}
			maps := newMaps(t, m.merged)
			maps.write() // dirty before the beginning
			m.outlive()
			c := m.begin()

			stop := make(chan struct{})
			var writers sync.WaitGroup
			for i := range uint64(2) {
				writers.Go(func() {
					// Each in its own part, for one's failures to be its own.
					w := &mutator{random: rand.New(rand.NewPCG(seed, i+1)), root: m.merged}
					for n := 0; ; n++ {
						select {
						case <-stop:
							return
						default:
							w.step()
							if i == 0 {
								maps.write()
							}
						}
					}
				})
			}
			slow := &slowly{}
			_, err := c.First(context.Background(), slow)
			close(stop)
			writers.Wait()
			must(t, err)
			maps.write()
			second, stats := m.changes(c)
			t.Logf("%d bytes in the first layer, then %+v", slow.Len(), stats)
			m.compare(&slow.Buffer, second)
		})
	}
}

// slowly takes its time, for the writers to get in between.
type slowly struct{ bytes.Buffer }

func (s *slowly) Write(p []byte) (int, error) {
	time.Sleep(time.Duration(len(p)) * 100)
	return s.Buffer.Write(p)
}

// mutator makes random changes below root; what fails, fails.
type mutator struct {
	random *rand.Rand
	root   string
}

func (m *mutator) pick() string {
	depth := 1 + m.random.IntN(3)
	parts := []string{m.root}
	for range depth - 1 {
		parts = append(parts, []string{"a", "b", "b/c", "d0", "d1", "d2"}[m.random.IntN(6)])
	}
	last := []string{"f%d", "f%d", "base%d", "d%d", "l%d"}[m.random.IntN(5)]
	return filepath.Join(append(parts, fmt.Sprintf(last, m.random.IntN(4)))...)
}

func (m *mutator) step() {
	p, q := m.pick(), m.pick()
	data := bytes.Repeat([]byte{byte('a' + m.random.IntN(26))}, m.random.IntN(20000))
	switch m.random.IntN(18) {
	case 0, 1, 2, 3:
		// Not blocking: it may be a FIFO.
		how := []int{os.O_CREATE | os.O_TRUNC, os.O_CREATE, os.O_APPEND}[m.random.IntN(3)]
		if f, err := os.OpenFile(p, os.O_WRONLY|unix.O_NONBLOCK|how, 0o644); err == nil {
			_, _ = f.Write(data)
			_ = f.Close()
		}
	case 4:
		_ = os.Truncate(p, int64(m.random.IntN(5000)))
	case 5, 6:
		_ = os.Mkdir(p, 0o755)
	case 7:
		_ = os.Rename(p, q)
	case 8:
		_ = os.Link(p, q)
	case 9:
		_ = os.Symlink("target", p)
	case 10:
		_ = os.Remove(p)
	case 11:
		if m.random.IntN(3) == 0 {
			_ = os.RemoveAll(p)
		}
	case 12:
		_ = os.Chmod(p, os.FileMode(0o600+m.random.IntN(0o200)))
	case 13:
		_ = unix.Lsetxattr(p, "user.x", data[:min(len(data), 100)], 0)
	case 14:
		_ = unix.Mknod(p+"-fifo", unix.S_IFIFO|0o600, 0) // where nobody would open it, and wait
	case 15:
		_ = unix.Mknod(p, unix.S_IFSOCK|0o600, 0)
	case 16: // which copies it up
		var st unix.Stat_t
		if unix.Lstat(p, &st) == nil {
			_ = os.Lchown(p, int(st.Uid), int(st.Gid))
		}
	case 17: // as it may be in the base, with the time of then
		var st unix.Stat_t
		if unix.Lstat(p, &st) == nil && st.Mode&unix.S_IFMT == unix.S_IFREG {
			_ = os.WriteFile(p, []byte("of the base"), 0o644)
			_ = unix.UtimesNanoAt(unix.AT_FDCWD, p, []unix.Timespec{st.Atim, st.Mtim}, unix.AT_SYMLINK_NOFOLLOW)
		}
	}
}

// maps are files that are written through memory only.
type maps struct {
	memory [][]byte
	n      byte
}

func newMaps(t *testing.T, root string) *maps {
	t.Helper()
	all := &maps{}
	for i := range 3 {
		path := filepath.Join(root, fmt.Sprintf("mapped%d", i))
		must(t, os.WriteFile(path, make([]byte, 8*os.Getpagesize()), 0o644))
		f, err := os.OpenFile(path, os.O_RDWR, 0)
		must(t, err)
		memory, err := unix.Mmap(int(f.Fd()), 0, 8*os.Getpagesize(), unix.PROT_READ|unix.PROT_WRITE, unix.MAP_SHARED)
		must(t, err)
		must(t, f.Close())
		t.Cleanup(func() { must(t, unix.Munmap(memory)) })
		all.memory = append(all.memory, memory)
	}
	return all
}

func (m *maps) write() {
	m.n++
	for _, memory := range m.memory {
		for page := 0; page < len(memory); page += os.Getpagesize() {
			memory[page] = m.n
		}
	}
}

// TestMappedPages is the trap that the syncfs is for: a page that was dirty
// before stays writable, and later writes are seen by nobody.
func TestMappedPages(t *testing.T) {
	for name, eachFile := range map[string]bool{"the file system": false, "each file": true} {
		t.Run(name, func(t *testing.T) {
			m := newMounted(t)
			maps := newMaps(t, m.merged)
			c := m.begin()
			for try := 0; ; try++ {
				maps.write()
				m.outlive()
				if eachFile {
					var now unix.Timespec
					must(t, unix.ClockGettime(unix.CLOCK_REALTIME_COARSE, &now))
					c.limit, c.eachFile = now, true
					break
				}
				if c = m.begin(); !c.eachFile {
					break
				}
				if try == 5 {
					t.Skip("this file system is too busy to be written back")
				}
			}
			first := m.first(c)
			maps.write()
			second, _ := m.changes(c)
			m.compare(first, second)
		})
	}
}

// TestBrokenSink fails the first pass: a full registry is no change of a file.
func TestBrokenSink(t *testing.T) {
	m := newMounted(t)
	tree{t, m.merged}.file("f", strings.Repeat("x", 1<<20), 0o644)
	c := m.begin()
	broken := errors.New("the registry is full")
	if _, err := c.First(context.Background(), writerFunc(func([]byte) (int, error) { return 0, broken })); !errors.Is(err, broken) {
		t.Errorf("got %v", err)
	}
	if _, err := c.Changes(context.Background(), io.Discard); err == nil {
		t.Error("changes since a pass that failed")
	}
}

type writerFunc func([]byte) (int, error)

func (f writerFunc) Write(p []byte) (int, error) { return f(p) }

// TestNoPromise is a file system whose times do not tell enough.
func TestNoPromise(t *testing.T) {
	asRoot(t)
	dir := t.TempDir()
	if err := unix.Mount("tmpfs", dir, "tmpfs", 0, ""); err != nil {
		t.Skip("cannot mount a tmpfs:", err)
	}
	defer func() { must(t, unix.Unmount(dir, 0)) }()
	if _, err := BeginCopy(context.Background(), dir, Options{}); !errors.Is(err, ErrNoPromise) || !strings.Contains(err.Error(), "file system") {
		t.Errorf("got %v", err)
	}
}

// TestRecord puts through what the walk could give.
func TestRecord(t *testing.T) {
	r, err := newRecording()
	must(t, err)
	var want []known
	random := rand.New(rand.NewPCG(1, 2))
	for i := range 1000 {
		k := known{kind: otherEntry, name: fmt.Appendf(nil, "%d-%x", i, random.Uint64()), ino: random.Uint64(), sec: random.Int64() - 1<<62, nsec: int64(random.IntN(1e9)), size: random.Int64()}
		if i%2 == 0 {
			k.sum = random.Uint64() | 1
		}
		st := unix.Stat_t{Ino: k.ino, Ctim: unix.Timespec{Sec: k.sec, Nsec: k.nsec}, Size: k.size}
		must(t, r.add(k.kind, k.name, &st, k.sum))
		want = append(want, k)
	}
	must(t, r.leave())
	must(t, r.close())
	back, err := r.open()
	must(t, err)
	defer back.close()
	for i, k := range want {
		got, err := back.peek()
		must(t, err)
		if diff := cmp.Diff(k, *got, cmp.AllowUnexported(known{})); diff != "" {
			t.Fatalf("entry %d:\n%s", i, diff)
		}
		back.take()
	}
	if end, err := back.peek(); err != nil || end != nil {
		t.Errorf("at the end: %v, %v", end, err)
	}
}
