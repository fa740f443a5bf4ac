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

package cache

import (
	"bytes"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/opencontainers/go-digest"
	"golang.org/x/sys/unix"

	"github.com/opensandbox-io/sandbox-apiserver/pkg/committer/runtime"
)

func TestBeyond(t *testing.T) {
	image := func(name, sandbox, snapshot string, bytes int64) *runtime.Cached {
		return &runtime.Cached{Digest: digest.Digest(name), SandboxUID: sandbox, SnapshotUID: snapshot, Bytes: bytes}
	}
	used := func(c *runtime.Cached) *runtime.Cached { c.InUse = true; return c }
	tests := map[string]struct {
		all  []*runtime.Cached
		want []digest.Digest
	}{
		"room for all":               {[]*runtime.Cached{image("a", "a", "a1", 40), image("own", "own", "now", 60)}, nil},
		"the oldest first":           {[]*runtime.Cached{image("a", "a", "a1", 20), image("b", "b", "b1", 30), image("c", "c", "c1", 30), image("own", "own", "now", 40)}, []digest.Digest{"a"}},
		"as many as it takes":        {[]*runtime.Cached{image("a", "a", "a1", 20), image("b", "b", "b1", 30), image("own", "own", "now", 90)}, []digest.Digest{"a", "b"}},
		"an earlier snapshot":        {[]*runtime.Cached{image("a", "a", "a1", 40), image("old", "own", "before", 60), image("own", "own", "now", 60)}, []digest.Digest{"old"}},
		"one that is in use":         {[]*runtime.Cached{used(image("a", "a", "a1", 30)), image("b", "b", "b1", 30), image("own", "own", "now", 60)}, []digest.Digest{"b"}},
		"an earlier one in use":      {[]*runtime.Cached{used(image("old", "own", "before", 30)), image("own", "own", "now", 60)}, nil},
		"no room beside those":       {[]*runtime.Cached{used(image("a", "a", "a1", 50)), image("own", "own", "now", 60)}, []digest.Digest{"own"}},
		"two containers, both new":   {[]*runtime.Cached{image("a", "a", "a1", 10), image("own", "own", "now", 50), image("own2", "own", "now", 50)}, []digest.Digest{"a"}},
		"nothing was kept this time": {[]*runtime.Cached{image("old", "own", "before", 60)}, []digest.Digest{"old"}},
	}
	for name, test := range tests {
		t.Run(name, func(t *testing.T) {
			var got []digest.Digest
			for _, one := range beyond(test.all, "own", "now", 100) {
				got = append(got, one.Digest)
			}
			if diff := cmp.Diff(test.want, got); diff != "" {
				t.Errorf("removed (-want +got):\n%s", diff)
			}
		})
	}
}

func TestPercent(t *testing.T) {
	for _, test := range []struct {
		part, whole uint64
		want        int
	}{{0, 100, 0}, {70, 100, 70}, {701, 1000, 71}, {5, 5, 100}, {0, 0, 100}} {
		if got := percent(test.part, test.whole); got != test.want {
			t.Errorf("%d of %d: %d, want %d", test.part, test.whole, got, test.want)
		}
	}
}

// memoryDisk is a directory with a disk of 1,000 pages of its own.
func memoryDisk(t *testing.T) string {
	t.Helper()
	dir := t.TempDir()
	if err := unix.Mount("tmpfs", dir, "tmpfs", 0, fmt.Sprintf("size=%d", 1000*os.Getpagesize())); err != nil {
		t.Skip("cannot mount a tmpfs:", err)
	}
	t.Cleanup(func() {
		if err := unix.Unmount(dir, unix.MNT_DETACH); err != nil {
			t.Error(err)
		}
	})
	return dir
}

func fill(t *testing.T, disk string, pages int) {
	t.Helper()
	file, err := os.Create(filepath.Join(disk, "filled"))
	if err != nil {
		t.Fatal(err)
	}
	_, err = file.Write(make([]byte, pages*os.Getpagesize()))
	if err := errors.Join(err, file.Sync(), file.Close()); err != nil {
		t.Fatal(err)
	}
}

func TestAFullDiskHasNoRoom(t *testing.T) {
	disk := memoryDisk(t)
	for _, test := range []struct {
		pages, percent int
		room           bool
	}{{0, 0, true}, {400, 40, true}, {700, 70, true}, {701, 71, false}, {900, 90, false}, {1000, 100, false}} {
		fill(t, disk, test.pages)
		if got, err := fullness(disk); err != nil || got != test.percent {
			t.Errorf("%d of 1,000 pages: %d %% (%v), want %d %%", test.pages, got, err, test.percent)
		}
		if err := checkRoom(disk); (err == nil) != test.room {
			t.Errorf("%d of 1,000 pages: %v", test.pages, err)
		}
	}
	if err := checkRoom(filepath.Join(disk, "missing")); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("a directory that does not exist: %v", err)
	}
}

// TestAFullDiskIsFullAsDfCounts has a disk of which a quarter is root's.
func TestAFullDiskIsFullAsDfCounts(t *testing.T) {
	file, disk := filepath.Join(t.TempDir(), "disk"), t.TempDir()
	if err := os.WriteFile(file, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	if err := os.Truncate(file, int64(4096*os.Getpagesize())); err != nil {
		t.Fatal(err)
	}
	for _, command := range [][]string{{"mkfs.ext4", "-q", "-m", "25", file}, {"mount", "-o", "loop", file, disk}} {
		if out, err := exec.CommandContext(t.Context(), command[0], command[1:]...).CombinedOutput(); err != nil {
			t.Skipf("%s: %v\n%s", command, err, out)
		}
	}
	t.Cleanup(func() {
		if err := unix.Unmount(disk, 0); err != nil {
			t.Error(err)
		}
	})
	for _, pages := range []int{0, 2000} {
		fill(t, disk, pages)
		out, err := exec.CommandContext(t.Context(), "df", "--output=pcent", disk).Output()
		if err != nil {
			t.Fatal(err)
		}
		_, want, _ := strings.Cut(string(out), "\n")
		got, err := fullness(disk)
		if err != nil || fmt.Sprintf("%d%%", got) != strings.TrimSpace(want) {
			t.Errorf("%d pages: %d %% (%v), df says %s", pages, got, err, want)
		}
	}
}

// TestNothingIsSetAsideOnAFullDisk has no containerd: that would have to be asked for the container.
func TestNothingIsSetAsideOnAFullDisk(t *testing.T) {
	disk := memoryDisk(t)
	fill(t, disk, 701)
	var log bytes.Buffer
	ref := runtime.Ref{Name: "main", ID: "1"}
	keeper := New(nil, Options{
		Images: map[string]string{"main": "registry.example.com/demo@" + digest.FromString("image").String()},
		Root:   disk, MaxBytes: 1 << 30, Log: slog.New(slog.NewTextHandler(&log, nil)),
	})
	defer func() {
		if caught := recover(); caught != nil {
			t.Errorf("it was asked: %v", caught)
		}
	}()
	keeper.SetAside(t.Context(), "pod", ref)
	keeper.Keep(t.Context(), ref)
	if want := fmt.Sprintf("because=\"the disk of %s is 71 %% full; nothing is kept above 70 %%\"", disk); !strings.Contains(log.String(), want) {
		t.Errorf("the log is\n%s\nwant in it %s", log.String(), want)
	}
}
