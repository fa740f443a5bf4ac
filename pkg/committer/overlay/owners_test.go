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
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"github.com/containerd/containerd/v2/core/mount"
	"github.com/containerd/containerd/v2/pkg/archive"
	"github.com/google/go-cmp/cmp"
	"golang.org/x/sys/unix"
)

func TestInContainer(t *testing.T) {
	ids := []IDs{{Container: 0, Node: 100000, Size: 1000}, {Container: 5000, Node: 4294967290, Size: 5}}
	for node, want := range map[uint32]int64{
		100000: 0, 100999: 999, 4294967290: 5000, 4294967294: 5004, 0: -1, 99999: -1, 101000: -1, 4294967295: -1,
	} {
		got, err := inContainer(ids, node)
		if (want < 0) != errors.Is(err, errUnmapped) || want >= 0 && int64(got) != want {
			t.Errorf("%d: %d (%v), want %d", node, got, err, want)
		}
	}
	if got, err := inContainer(nil, 7); got != 7 || err != nil {
		t.Errorf("without a namespace: %d (%v)", got, err)
	}
}

func TestAttributesOfOwners(t *testing.T) {
	o := Owners{Users: []IDs{{0, 100000, 65536}}, Groups: []IDs{{0, 200000, 65536}}}
	capability := func(revision byte, root ...byte) string {
		return "\x01\x00\x00" + revision2[revision] + strings.Repeat("\x07", 16) + string(root)
	}
	const header = "\x02\x00\x00\x00"
	tests := map[string]struct {
		name, value, want string
		fails             bool
	}{
		"an access list": {"system.posix_acl_access",
			header + "\x01\x00\x06\x00\xff\xff\xff\xff" + "\x02\x00\x06\x00\x88\xa5\x01\x00" /* 108936 */ + "\x08\x00\x04\x00\x40\x0d\x03\x00", /* 200000 */
			header + "\x01\x00\x06\x00\xff\xff\xff\xff" + "\x02\x00\x06\x00\xe8\x1e\x00\x00" /* 7912 */ + "\x08\x00\x04\x00\x00\x00\x00\x00", false},
		"a foreign user":              {"system.posix_acl_default", header + "\x02\x00\x06\x00\x00\x00\x00\x00", "", true},
		"no access list":              {"system.posix_acl_access", "\x03\x00\x00\x00", "", true},
		"capabilities of the root":    {"security.capability", capability(3, 0xa0, 0x86, 0x01, 0x00), capability(2), false},
		"capabilities further inside": {"security.capability", capability(3, 0x88, 0xa5, 0x01, 0x00), capability(3, 0xe8, 0x1e, 0x00, 0x00), false},
		"capabilities of the base":    {"security.capability", capability(2), capability(2), false},
		"foreign capabilities":        {"security.capability", capability(3, 0, 0, 0, 0), "", true},
		"anything else":               {"user.x", "\x02\x00\x00", "\x02\x00\x00", false},
	}
	for name, test := range tests {
		t.Run(name, func(t *testing.T) {
			got, err := o.attribute(test.name, []byte(test.value))
			if (err != nil) != test.fails || string(got) != test.want {
				t.Errorf("got %q (%v), want %q", got, err, test.want)
			}
		})
	}
}

var revision2 = map[byte]string{2: "\x02", 3: "\x03"}

func TestAForeignOwner(t *testing.T) {
	asRoot(t)
	f := newTree(t)
	_, err := Write(context.Background(), io.Discard, f.root, Options{Owners: Owners{Users: []IDs{{0, 100000, 65536}}, Groups: []IDs{{0, 100000, 65536}}}})
	if !errors.Is(err, ErrUnrepresentable) || !strings.Contains(err.Error(), "owner 0 of the node") {
		t.Errorf("got %v", err)
	}
}

// TestUserNamespace does what containerd's overlay snapshotter does for a Pod with
// hostUsers: false, on this kernel: the lower layers are ID-mapped, the processes are in
// a user namespace. The layer is unpacked and looked at from a namespace at other IDs.
func TestUserNamespace(t *testing.T) {
	asRoot(t)
	for _, dir := range []string{filepath.Dir(t.TempDir()), filepath.Dir(filepath.Dir(t.TempDir()))} {
		_ = os.Chmod(dir, 0o755) //nolint:gosec // the child has to pass
	}
	base := newTree(t)
	base.file("of root", "1", 0o644)
	base.file("of a user", "1", 0o644)
	must(t, os.Lchown(base.path("of a user"), 1000, 1001))
	base.dir("d", 0o755)
	base.file("d/changed", "1", 0o600)
	must(t, os.Lchown(base.path("d/changed"), 1000, 1000))

	upper := newTree(t)
	must(t, os.Lchown(upper.root, 100000, 100000)) // as the snapshotter does
	before := inUserNamespace(t, "change", 100000, upper.root, base.root)

	var layer bytes.Buffer
	_, err := Write(context.Background(), &layer, upper.root, Options{Owners: Owners{
		Users: []IDs{{0, 100000, 65536}}, Groups: []IDs{{0, 100000, 65536}},
	}})
	must(t, err)
	unpacked := newTree(t)
	_, err = archive.Apply(context.Background(), unpacked.root, bytes.NewReader(layer.Bytes()), archive.WithConvertWhiteout(archive.OverlayConvertWhiteout))
	must(t, err)
	again := newTree(t)
	must(t, os.Lchown(again.root, 300000, 300000))
	after := inUserNamespace(t, "look", 300000, again.root, unpacked.root, base.root)
	if diff := cmp.Diff(before, after); diff != "" {
		t.Errorf("files as the container sees them (-before +after):\n%s", diff)
	}
	for name, want := range map[string]string{"/mine": "12:34", "/of root": "0:0", "/of a user": "1000:1001", "/d/changed": "1000:1000"} {
		if !strings.Contains(before[name], " "+want+" ") {
			t.Errorf("%s is %s, want it to be of %s", name, before[name], want)
		}
	}
	if !strings.Contains(before["/mine"], "system.posix_acl_access") || !strings.Contains(before["/able"], "security.capability") {
		t.Errorf("the files have no attributes: %v", before)
	}
}

// inUserNamespace mounts an overlay for a user namespace whose root is the given ID of
// the node, runs this test again in it, and returns what it sees.
func inUserNamespace(t *testing.T, do string, root int, upper string, lower ...string) map[string]string {
	t.Helper()
	at, work := t.TempDir(), t.TempDir()
	mapping := fmt.Sprintf("=0:%d:65536", root)
	m := mount.Mount{Type: "overlay", Source: "overlay", Options: []string{
		"index=off", "lowerdir=" + strings.Join(lower, ":"), "upperdir=" + upper, "workdir=" + work, "uidmap" + mapping, "gidmap" + mapping,
	}}
	if err := mount.All([]mount.Mount{m}, at); err != nil {
		t.Skip("no ID-mapped overlay here:", err)
	}
	defer func() { must(t, mount.UnmountAll(at, 0)) }()
	r, w, err := os.Pipe()
	must(t, err)
	child := exec.Command("/proc/self/exe", "-test.run=^TestChildOfUserNamespace$")
	child.Env = append(os.Environ(), "OVERLAY_DO="+do, "OVERLAY_AT="+at)
	child.ExtraFiles = []*os.File{w}
	ids := []syscall.SysProcIDMap{{ContainerID: 0, HostID: root, Size: 65536}}
	child.SysProcAttr = &syscall.SysProcAttr{
		Cloneflags: syscall.CLONE_NEWUSER, UidMappings: ids, GidMappings: ids, GidMappingsEnableSetgroups: true,
		Credential: &syscall.Credential{Uid: 0, Gid: 0},
	}
	var output bytes.Buffer
	child.Stdout, child.Stderr = &output, &output
	err = child.Run()
	must(t, w.Close())
	if errors.Is(err, syscall.EPERM) || errors.Is(err, syscall.ENOSPC) {
		t.Skip("no user namespace here:", err)
	}
	if err != nil {
		t.Fatalf("in the user namespace: %v\n%s", err, output.String())
	}
	var seen map[string]string
	must(t, json.NewDecoder(r).Decode(&seen))
	return seen
}

// TestChildOfUserNamespace is what TestUserNamespace runs in its namespaces.
func TestChildOfUserNamespace(t *testing.T) {
	at := os.Getenv("OVERLAY_AT")
	if at == "" {
		t.Skip("TestUserNamespace runs it")
	}
	f := tree{t, at}
	if os.Getenv("OVERLAY_DO") == "change" {
		f.file("mine", "2", 0o640)
		must(t, os.Lchown(f.path("mine"), 12, 34))
		must(t, unix.Setxattr(f.path("mine"), "system.posix_acl_access", []byte(acl), 0))
		f.file("able", "2", 0o755)
		must(t, unix.Setxattr(f.path("able"), "security.capability", []byte("\x01\x00\x00\x02"+strings.Repeat("\x04\x00\x00\x00", 4)), 0))
		must(t, os.WriteFile(f.path("of root"), []byte("changed"), 0o600))
		must(t, os.Chmod(f.path("of a user"), 0o600))
		must(t, os.WriteFile(f.path("d/changed"), []byte("changed"), 0o600))
		f.dir("new", 0o1777)
		must(t, os.Lchown(f.path("new"), 65535, 65535))
		must(t, os.Link(f.path("mine"), f.path("new/link")))
		must(t, os.Symlink("x", f.path("new/symlink")))
		must(t, os.Lchown(f.path("new/symlink"), 5, 6))
	}
	seen := map[string]string{}
	must(t, filepath.WalkDir(at, func(path string, d fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		var st unix.Stat_t
		if err := unix.Lstat(path, &st); err != nil {
			return err
		}
		says := fmt.Sprintf("%o %d:%d ", st.Mode, st.Uid, st.Gid)
		value := make([]byte, 256)
		for _, name := range []string{"system.posix_acl_access", "security.capability"} {
			if n, err := unix.Lgetxattr(path, name, value); err == nil {
				says += fmt.Sprintf(" %s=%x", name, value[:n])
			}
		}
		seen[strings.TrimPrefix(path, at)] = says
		return nil
	}))
	must(t, json.NewEncoder(os.NewFile(3, "parent")).Encode(seen))
}
