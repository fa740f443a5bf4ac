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
	"fmt"
	"os"
	"path/filepath"
	"testing"

	"golang.org/x/sys/unix"
)

// forget makes the kernel forget the content of all files below dir.
func forget(t testing.TB, dir string) {
	t.Helper()
	if err := filepath.WalkDir(dir, func(path string, d os.DirEntry, err error) error {
		if err != nil || !d.Type().IsRegular() {
			return err
		}
		f, err := os.Open(path)
		if err != nil {
			return err
		}
		defer f.Close()
		if err := f.Sync(); err != nil {
			return err
		}
		return unix.Fadvise(int(f.Fd()), 0, 0, unix.FADV_DONTNEED)
	}); err != nil {
		t.Fatal(err)
	}
}

func manyFiles(t testing.TB, dirs, files int) string {
	t.Helper()
	root := t.TempDir()
	for d := range dirs {
		dir := filepath.Join(root, fmt.Sprint(d))
		if err := os.Mkdir(dir, 0o755); err != nil {
			t.Fatal(err)
		}
		for f := range files {
			if err := os.WriteFile(filepath.Join(dir, fmt.Sprintf("file-%04d", f)), bytes.Repeat([]byte(fmt.Sprint(d, f)), 1000), 0o644); err != nil {
				t.Fatal(err)
			}
		}
		// Never opened ahead: a FIFO would wait for a writer.
		if err := unix.Mkfifo(filepath.Join(dir, "fifo"), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	return root
}

func openFiles(t *testing.T) int {
	t.Helper()
	open, err := os.ReadDir("/proc/self/fd")
	if err != nil {
		t.Fatal(err)
	}
	return len(open)
}

// TestAhead writes files that are on the disk alone: the same bytes as from memory, and
// nothing stays open, also where it is given up half way.
func TestAhead(t *testing.T) {
	root := manyFiles(t, 3, 600)
	write := func(ctx context.Context, record bool) (layer []byte, windows int) {
		t.Helper()
		before := openFiles(t)
		var out bytes.Buffer
		w, flush := newWriter(ctx, &out, root, Options{})
		if record {
			var err error
			if w.record, err = newRecording(); err != nil {
				t.Fatal(err)
			}
		}
		if err := w.eachBranch(w.walk); (err != nil) != (ctx.Err() != nil) {
			t.Fatal(err)
		}
		if err := flush(); err != nil && ctx.Err() == nil {
			t.Fatal(err)
		}
		if after := openFiles(t); after != before {
			t.Errorf("%d files are open, before there were %d", after, before)
		}
		return out.Bytes(), w.ahead.windows
	}
	warm, windows := write(t.Context(), false)
	if windows > 0 {
		t.Errorf("%d times files were read ahead that are in memory", windows)
	}
	for _, running := range []bool{false, true} {
		forget(t, root)
		cold, windows := write(t.Context(), running)
		if windows == 0 {
			t.Skip("this file system keeps all in memory")
		}
		// No name is read ahead twice.
		if windows > 3*3 {
			t.Errorf("files were read ahead %d times", windows)
		}
		if !bytes.Equal(warm, cold) {
			t.Error("from the disk the layer is another than from memory")
		}
	}
	forget(t, root)
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	write(ctx, false)
}

// BenchmarkCold is a layer of small files that are on the disk alone.
func BenchmarkCold(b *testing.B) {
	root := manyFiles(b, 50, 100)
	for b.Loop() {
		b.StopTimer()
		forget(b, root)
		b.StartTimer()
		var out bytes.Buffer
		w, _ := newWriter(b.Context(), &out, root, Options{})
		if err := w.eachBranch(w.walk); err != nil {
			b.Fatal(err)
		}
	}
}
