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
	"errors"
	"fmt"
	"os"
	"slices"
	"strconv"
	"testing"
	"time"

	"github.com/containerd/log"
	"golang.org/x/sys/unix"

	"github.com/opensandbox-io/sandbox-apiserver/pkg/committer/overlay"
	"github.com/opensandbox-io/sandbox-apiserver/test/trees"
)

// TestEveryKindOfFile merges layers with everything in them that there is: what is shown above the merged layer is what
// was shown above those that went into it.
func TestEveryKindOfFile(t *testing.T) {
	if os.Geteuid() != 0 {
		t.Skip("needs root, to mount")
	}
	// One line for each trusted attribute that is not restored.
	if err := log.SetLevel("error"); err != nil {
		t.Fatal(err)
	}
	first, count := seeds(6)
	const layers = 5
	for seed := first; seed < first+count; seed++ {
		t.Run(fmt.Sprint(seed), func(t *testing.T) {
			s := &stage{t: t, dir: t.TempDir()}
			var written [][]byte
			var lower []string
			for i := range layers {
				upper := s.mkdir("upper", i)
				root := s.mount(lower, upper)
				maker := trees.New(root, seed<<8+uint64(i))
				change := maker.Change
				if i == 0 {
					change = maker.Make
				}
				if err := change(60); err != nil {
					t.Fatal(err)
				}
				s.unmount(root)
				var b bytes.Buffer
				below := slices.Clone(lower)
				slices.Reverse(below)
				if _, err := overlay.Write(context.Background(), &b, upper, overlay.Options{Lowerdirs: below}); err != nil {
					t.Fatal(err)
				}
				written = append(written, b.Bytes())
				lower = append(lower, s.unpack(i, true, b.Bytes()))
			}
			want := s.show(lower)
			merged := mergeAll(t, written[1:layers-1], written[:1], lower[:1])
			got := s.show(slices.Concat(lower[:1], []string{s.unpack(layers, true, merged)}, lower[layers-1:]))
			if lines := trees.Differences(byNames(want), byNames(got)); len(lines) > 0 {
				t.Errorf("the layers show (-), merged they show (+):\n%s", trees.Shorten(lines))
			}
		})
	}
}

// seeds are those that are tried: some, as many as SEEDS says, or the one of SEED.
func seeds(some uint64) (first, count uint64) {
	if n, err := strconv.ParseUint(os.Getenv("SEED"), 10, 64); err == nil {
		return n, 1
	}
	if n, err := strconv.ParseUint(os.Getenv("SEEDS"), 10, 64); err == nil {
		return 1, n
	}
	return 1, some
}

// show is what the layers show together on the kernel's overlay, the lowest first.
func (s *stage) show(lower []string) []trees.Entry {
	s.t.Helper()
	root := s.mount(lower, "")
	defer s.unmount(root)
	entries, err := trees.Inventory(root)
	if err != nil {
		s.t.Fatal(err)
	}
	return entries
}

// TestNothingInheritsALaterACL gives a directory a default ACL in a layer above the one that has made what is in it.
func TestNothingInheritsALaterACL(t *testing.T) {
	if os.Geteuid() != 0 {
		t.Skip("needs root, to mount")
	}
	s := &stage{t: t, dir: t.TempDir()}
	var written [][]byte
	lower := []string{s.mkdir("base", 0)}
	for i, change := range []func(root string) error{
		func(root string) error {
			return errors.Join(os.MkdirAll(root+"/dir/below", 0o755), os.WriteFile(root+"/dir/file", nil, 0o640), os.Symlink("x", root+"/dir/link"),
				// Without nanoseconds, and so without a PAX header.
				os.Chtimes(root+"/dir/file", time.Unix(5, 0), time.Unix(5, 0)))
		},
		func(root string) error {
			acl := "\x02\x00\x00\x00\x01\x00\x06\x00\xff\xff\xff\xff\x02\x00\x06\x00\xe8\x03\x00\x00" +
				"\x04\x00\x04\x00\xff\xff\xff\xff\x10\x00\x06\x00\xff\xff\xff\xff\x20\x00\x00\x00\xff\xff\xff\xff"
			return unix.Lsetxattr(root+"/dir", "system.posix_acl_default", []byte(acl), 0)
		},
	} {
		upper := s.mkdir("upper", i)
		root := s.mount(lower, upper)
		if err := change(root); errors.Is(err, unix.ENOTSUP) {
			t.Skip("this file system has no ACLs")
		} else if err != nil {
			t.Fatal(err)
		}
		s.unmount(root)
		var b bytes.Buffer
		if _, err := overlay.Write(context.Background(), &b, upper, overlay.Options{}); err != nil {
			t.Fatal(err)
		}
		written = append(written, b.Bytes())
		lower = append(lower, s.unpack(i, true, b.Bytes()))
	}
	want, err := trees.Inventory(s.mount(lower, ""))
	if err != nil {
		t.Fatal(err)
	}
	got, err := trees.Inventory(s.unpack(9, true, mergeAll(t, written, nil, lower[:1])))
	if err != nil {
		t.Fatal(err)
	}
	if lines := trees.Differences(want, got); len(lines) > 0 {
		t.Errorf("the layers show (-), merged they show (+):\n%s", trees.Shorten(lines))
	}
}

// byNames counts a file's links by its names that show. One that a newer layer has changed is still counted below it, and
// no longer once the layers are one.
func byNames(entries []trees.Entry) []trees.Entry {
	shown := map[string]uint64{}
	for _, e := range entries {
		shown[e.Same]++
	}
	all := slices.Clone(entries)
	for i := range all {
		all[i].Links = shown[all[i].Same]
		if all[i].Links == 1 || all[i].Same == "" {
			all[i].Links, all[i].Same = 0, ""
		}
	}
	return all
}
