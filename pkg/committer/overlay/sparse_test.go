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
	"os"
	"os/exec"
	"strings"
	"testing"

	"github.com/containerd/containerd/v2/pkg/archive"
	"golang.org/x/sys/unix"
)

// holed makes a file of a size with some bytes at some offsets.
func (f tree) holed(name string, size int64, at ...int64) {
	f.t.Helper()
	file, err := os.Create(f.path(name))
	must(f.t, err)
	defer file.Close()
	must(f.t, file.Truncate(size))
	for i, offset := range at {
		_, err := file.WriteAt(fmt.Appendf(nil, "data %d", i), offset)
		must(f.t, err)
	}
}

// TestSparse has files with holes in all places, and unpacks them with containerd's own code, and with GNU tar.
func TestSparse(t *testing.T) {
	asRoot(t)
	most := maxMap
	defer func() { maxMap = most }()
	maxMap = 40 * 120
	const mib = 1 << 20
	f := newTree(t)
	f.holed("nothing but a hole", 3*mib)
	f.holed("at the beginning", 3*mib, 3*mib-6)
	f.holed("at the end", 3*mib, 0)
	f.holed("in the middle", 3*mib+5, 0, 3*mib-1)
	f.holed("small", mib-1, 5)
	f.holed("few holes", 2*mib, 0, 512<<10, mib, 3*mib/2)
	var many []int64
	for i := range int64(100) {
		many = append(many, i*64<<10, i*64<<10+16<<10)
	}
	f.holed("too many to be told of each", 8*mib, many...)
	long := strings.Repeat("directory/", 20)
	must(t, os.MkdirAll(f.path(long), 0o755))
	f.holed(long+"名前"+strings.Repeat("x", 100), 2*mib, mib)
	must(t, os.Link(f.path("at the end"), f.path("z")))
	f.xattr("at the end", "user.mine", "1")
	must(t, os.Chmod(f.path("at the end"), 0o4711))
	f.holed("allocated", 0, 0)
	if err := unix.Fallocate(fdOf(t, f.path("allocated")), 0, 0, 4*mib); err != nil && !errors.Is(err, unix.ENOTSUP) {
		t.Fatal(err)
	}
	layer, stats := write(t, f.root, Options{})
	if len(layer) > 4*mib {
		t.Errorf("the layer has %d bytes: %+v", len(layer), stats)
	}
	want := listing(t, f.root)
	for name, unpack := range map[string]func(dir string) error{
		"containerd": func(dir string) error {
			_, err := archive.Apply(context.Background(), dir, bytes.NewReader(layer))
			return err
		},
		"GNU tar": func(dir string) error {
			extract := exec.Command("tar", "-C", dir, "--xattrs", "--xattrs-include=*", "-xpf", "-")
			extract.Stdin = bytes.NewReader(layer)
			out, err := extract.CombinedOutput()
			if err != nil {
				err = fmt.Errorf("%w: %s", err, out)
			}
			return err
		},
	} {
		t.Run(name, func(t *testing.T) {
			dir := t.TempDir()
			must(t, unpack(dir))
			got := listing(t, dir)
			for name := range want {
				// Times of the root are the unpacker's business, and contents are too long to be shown.
				if name != "." && got[name] != want[name] {
					t.Errorf("%s is another file (%d bytes of description, want %d): %.200s, want %.200s", name, len(got[name]), len(want[name]), got[name], want[name])
				}
			}
		})
	}
}

func fdOf(t *testing.T, path string) int {
	t.Helper()
	fd, err := unix.Open(path, unix.O_RDWR|unix.O_CLOEXEC, 0)
	must(t, err)
	t.Cleanup(func() { _ = unix.Close(fd) })
	return fd
}

// TestAHoleCostsNothing is a terabyte of which there are a few bytes, in both passes.
func TestAHoleCostsNothing(t *testing.T) {
	m := newMounted(t)
	here := tree{t, m.merged}
	here.holed("quiet", 1<<40, 1<<39)
	here.holed("busy", 1<<40, 1<<39)
	m.outlive()
	c := m.begin()
	layers := []*bytes.Buffer{m.first(c), nil}
	file, err := os.OpenFile(m.merged+"/busy", os.O_WRONLY, 0)
	must(t, err)
	_, err = file.WriteAt([]byte("at the last moment"), 1<<38)
	must(t, errors.Join(err, file.Close()))
	layers[1], _ = m.changes(c)
	for i, want := range []string{"./ busy quiet", "./ busy"} {
		if layers[i].Len() > 64<<10 {
			t.Errorf("layer %d has %d bytes", i, layers[i].Len())
		}
		names := []string{}
		for r := tar.NewReader(layers[i]); ; {
			h, err := r.Next()
			if errors.Is(err, io.EOF) {
				break
			}
			must(t, err)
			if names = append(names, h.Name); h.Typeflag == tar.TypeReg && h.Size != 1<<40 {
				t.Errorf("%s has %d bytes", h.Name, h.Size)
			}
		}
		if got := strings.Join(names, " "); got != want {
			t.Errorf("layer %d has %s, want %s", i, got, want)
		}
	}
}

// TestJoined joins what is near to each other: no data gets lost, and no hole of more than the least.
func TestJoined(t *testing.T) {
	got := joined([]extent{{0, 1}, {5, 6}, {9, 10}, {100, 200}, {204, 300}}, 5)
	if want := []extent{{0, 10}, {100, 300}}; fmt.Sprint(got) != fmt.Sprint(want) {
		t.Errorf("got %v, want %v", got, want)
	}
}
