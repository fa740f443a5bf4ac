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

package committer

import (
	"context"
	"fmt"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/opensandbox-io/sandbox-apiserver/pkg/committer/result"
)

// TestRefusedBeforeAByteIsPushed has what no image holds in a large container: no attempt pushes anything or freezes
// anybody as long as it is there, and one that comes after it succeeds.
func TestRefusedBeforeAByteIsPushed(t *testing.T) {
	for name, test := range map[string]struct {
		make func(dir string) error
		says []string
	}{
		"a deletion that none is": {
			func(dir string) error { return os.WriteFile(dir+"/.wh.motd", nil, 0o600) },
			[]string{`/.wh.motd" cannot be kept`, "remove or rename it"}},
		"what fuse-overlayfs makes": {
			func(dir string) error {
				for i := range 3 {
					if err := os.MkdirAll(fmt.Sprintf("%s/l%d/diff", dir, i), 0o755); err != nil {
						return err
					}
					if err := os.WriteFile(fmt.Sprintf("%s/l%d/diff/.wh..wh..opq", dir, i), nil, 0o600); err != nil {
						return err
					}
				}
				return nil
			}, []string{"one of 3 entries", "/var/lib/containers"}},
		"a path that is too long": {
			func(dir string) error {
				for range 16 {
					dir += "/" + strings.Repeat("x", 250)
				}
				return makeDeep(dir)
			}, []string{"3840 bytes"}},
		"an attribute that no tar can name": {
			func(dir string) error {
				if err := os.WriteFile(dir+"/f", nil, 0o600); err != nil {
					return err
				}
				return unix.Setxattr(dir+"/f", "user.a=b", []byte("1"), 0)
			}, []string{`"user.a=b"`}},
	} {
		t.Run(name, func(t *testing.T) {
			s := newScene(t)
			s.options.LeaveFrozen = true
			c := s.node.containers["main-id"]
			s.enlarge(c)
			dir := filepath.Join(c.upper, "the", "one")
			if err := os.MkdirAll(dir, 0o755); err != nil {
				t.Fatal(err)
			}
			if err := test.make(dir); err != nil {
				t.Fatal(err)
			}
			pushed := 0
			s.before = func(_ http.ResponseWriter, r *http.Request) bool {
				if r.Method == http.MethodPatch || r.Method == http.MethodPut {
					pushed++
				}
				return false
			}
			for range 2 {
				s.reports = nil
				if err := s.commit(context.Background()); err == nil {
					t.Fatal("it succeeded")
				}
				r := s.last()
				if pushed > 0 || s.froze() || !r.Thawed || r.Error.Reason != result.FilesNotSupported {
					t.Errorf("pushed %d times, result %+v, %v; calls %v", pushed, r, r.Error, s.node.calls)
				}
				for _, says := range test.says {
					if !strings.Contains(r.Error.Message, says) {
						t.Errorf("the message %q does not say %q", r.Error.Message, says)
					}
				}
			}
			if err := os.RemoveAll(filepath.Join(c.upper, "the")); err != nil {
				t.Fatal(err)
			}
			s.reports = nil
			if err := s.commit(context.Background()); err != nil {
				t.Error(err)
			}
		})
	}
}

// makeDeep makes directories of a path that is longer than a system call takes.
func makeDeep(path string) error {
	fd, err := unix.Open("/", unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
	if err != nil {
		return err
	}
	for name := range strings.SplitSeq(strings.Trim(path, "/"), "/") {
		if err := unix.Mkdirat(fd, name, 0o755); err != nil && err != unix.EEXIST {
			return err
		}
		next, err := unix.Openat(fd, name, unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
		_ = unix.Close(fd)
		if err != nil {
			return err
		}
		fd = next
	}
	return unix.Close(fd)
}
