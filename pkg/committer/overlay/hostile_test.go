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
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// outside is a directory that no layer may have anything of, with a guard that sees whoever opens what is in it.
type outside struct {
	t      *testing.T
	path   string
	notify int
}

const secret = "this must never be in a layer"

func newOutside(t *testing.T) *outside {
	t.Helper()
	o := &outside{t: t, path: t.TempDir()}
	must(t, os.WriteFile(o.path+"/shadow", []byte(secret), 0o600))
	var err error
	o.notify, err = unix.InotifyInit1(unix.IN_NONBLOCK | unix.IN_CLOEXEC)
	must(t, err)
	t.Cleanup(func() { _ = unix.Close(o.notify) })
	for _, path := range []string{o.path, o.path + "/shadow"} {
		_, err := unix.InotifyAddWatch(o.notify, path, unix.IN_OPEN|unix.IN_ACCESS)
		must(t, err)
	}
	return o
}

// opened is whether anything was since the last call.
func (o *outside) opened() bool {
	o.t.Helper()
	n, err := unix.Read(o.notify, make([]byte, 64<<10))
	if errors.Is(err, unix.EAGAIN) {
		return false
	}
	must(o.t, err)
	return n > 0
}

func (o *outside) mustBeUntouched(layer []byte) {
	o.t.Helper()
	if o.opened() {
		o.t.Error("something outside of the directory was opened")
	}
	if bytes.Contains(layer, []byte(secret)) {
		o.t.Error("the layer has the content of a file outside of the directory")
	}
}

// TestNothingOutsideIsRead leads out of the directory in every way that a container can make.
func TestNothingOutsideIsRead(t *testing.T) {
	asRoot(t)
	o := newOutside(t)
	f := newTree(t)
	for name, target := range map[string]string{
		"proc": "/proc", "self": "/proc/self/root", "environment": "/proc/1/environ", "shadow": "/etc/shadow",
		"file": o.path + "/shadow", "directory": o.path, "relative": strings.Repeat("../", 30) + o.path[1:] + "/shadow",
		"loop": "loop", "here": "here2", "here2": "here", "dot": ".", "dotdot": "..", "magic": "/proc/self/fd/3",
	} {
		must(t, os.Symlink(target, f.path(name)))
	}
	// A link to a directory, and below the same name in another directory a real one.
	f.dir("a", 0o755)
	must(t, os.Symlink(o.path, f.path("a/b")))
	// Opening these would hang, read for ever, or read the node's memory and disks.
	f.node("fifo", unix.S_IFIFO|0o644, 0, 0)
	f.node("zero", unix.S_IFCHR|0o666, 1, 5)
	f.node("mem", unix.S_IFCHR|0o666, 1, 1)
	f.node("sda", unix.S_IFBLK|0o666, 8, 0)
	f.node("tty", unix.S_IFCHR|0o666, 5, 0)
	f.node("socket", unix.S_IFSOCK|0o666, 0, 0)

	layer, _ := write(t, f.root, Options{})
	o.mustBeUntouched(layer)
	for _, e := range read(t, layer) {
		if e.Content != "" {
			t.Errorf("%s has content", e.Name)
		}
	}

	// The guard sees what it is there to see.
	if _, err := os.ReadFile(f.path("directory/shadow")); err != nil || !o.opened() {
		t.Errorf("the guard saw nothing (%v)", err)
	}
}

// TestSwappedForLinks exchanges directories and files for links while they are read. A frozen container cannot do that,
// but nothing may hang on that alone.
func TestSwappedForLinks(t *testing.T) {
	asRoot(t)
	o := newOutside(t)
	f := newTree(t)
	var pairs []string
	for i := range 20 {
		dir, file := fmt.Sprintf("d%02d", i), fmt.Sprintf("f%02d", i)
		f.dir(dir, 0o755)
		f.file(dir+"/shadow", "inside", 0o644)
		must(t, os.Symlink(o.path, f.path(dir+".link")))
		f.file(file, "inside", 0o644)
		must(t, os.Symlink(o.path+"/shadow", f.path(file+".link")))
		pairs = append(pairs, dir, file)
	}
	stop, stopped := make(chan struct{}), make(chan struct{})
	go func() {
		defer close(stopped)
		for i := 0; ; i++ {
			select {
			case <-stop:
				return
			default:
			}
			name := f.path(pairs[i%len(pairs)])
			if err := unix.Renameat2(unix.AT_FDCWD, name, unix.AT_FDCWD, name+".link", unix.RENAME_EXCHANGE); err != nil {
				return
			}
		}
	}()
	changed := 0
	// For longer where the two have not met, as on a machine that has much to do.
	for begin := time.Now(); time.Since(begin) < time.Second || changed == 0 && time.Since(begin) < time.Minute; {
		var layer bytes.Buffer
		_, err := Write(context.Background(), &layer, f.root, Options{})
		if errors.Is(err, ErrChanged) {
			changed++
		} else if err != nil && !errors.Is(err, unix.EINVAL) {
			t.Errorf("got %v", err)
		}
		o.mustBeUntouched(layer.Bytes())
		if t.Failed() {
			break
		}
	}
	close(stop)
	<-stopped
	if changed == 0 {
		t.Error("it was never noticed that something changed: is anything exchanged at all?")
	}
}

// TestHugeAttributesAndNames is what a container can store at most.
func TestHugeAttributesAndNames(t *testing.T) {
	asRoot(t)
	f := newTree(t)
	long := strings.Repeat("n", 255)
	f.file(long, "x", 0o600)
	f.xattr(long, "user."+strings.Repeat("a", 250), strings.Repeat("v", 3000))
	must(t, os.Symlink(strings.Repeat("t", 4095), f.path("link")))
	layer, _ := write(t, f.root, Options{})
	r := tar.NewReader(bytes.NewReader(layer))
	for {
		h, err := r.Next()
		if errors.Is(err, io.EOF) {
			return
		}
		must(t, err)
		switch h.Name {
		case long:
			if got := h.PAXRecords[schily+"user."+strings.Repeat("a", 250)]; len(got) != 3000 {
				t.Errorf("the attribute has %d bytes", len(got))
			}
		case "link":
			if len(h.Linkname) != 4095 {
				t.Errorf("the target has %d bytes", len(h.Linkname))
			}
		}
	}
}
