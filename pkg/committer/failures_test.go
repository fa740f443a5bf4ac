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
	"errors"
	"io"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/opensandbox-io/sandbox-apiserver/pkg/committer/result"
	"github.com/opensandbox-io/sandbox-apiserver/pkg/committer/runtime"
)

// TestFailuresThaw breaks a commit at each of its steps.
func TestFailuresThaw(t *testing.T) {
	broken := errors.New("broken")
	tests := map[string]struct {
		breaks func(s *scene, cancel func(error))
		reason result.Reason
		says   string
		frozen bool // whether it comes so far that something was frozen
	}{
		"the second container is unknown": {
			func(s *scene, _ func(error)) { delete(s.node.containers, "side-id") }, result.ContainerNotFound, `"side"`, false},
		"the container was restarted before": {
			func(s *scene, _ func(error)) {
				s.node.containers["side-id"].onCheck = func(int) error { return result.Errorf(result.ContainerRestarted, "restarted") }
			}, result.ContainerRestarted, "restarted", false},
		"the image name is wrong": {
			func(s *scene, _ func(error)) { s.options.Containers[1].Image = "x" }, result.CommitJobFailed, `"x"`, false},
		"pushing is not allowed": {
			func(s *scene, _ func(error)) {
				s.before = func(w http.ResponseWriter, r *http.Request) bool {
					deny := r.Method == http.MethodPost
					if deny {
						w.WriteHeader(http.StatusForbidden)
					}
					return deny
				}
			}, result.RegistryDenied, "403", false},
		"a base layer is nowhere": {
			func(s *scene, _ func(error)) {
				s.node.containers["side-id"].base.Open = func(context.Context, ocispec.Descriptor) (io.ReadCloser, error) { return nil, broken }
			}, result.CommitJobFailed, "cannot be copied", false},
		"the second freeze fails": {
			func(s *scene, _ func(error)) {
				s.options.Patience = 300 * time.Millisecond
				s.node.containers["side-id"].onPause = func() error { return broken }
			}, result.FreezeFailed, `container "side" cannot be frozen`, true},
		"the second freeze fails with effect": {
			func(s *scene, _ func(error)) {
				c := s.node.containers["side-id"]
				c.onPause = func() error { c.state = runtime.Paused; c.base.RawConfig = nil; return broken }
			}, result.CommitJobFailed, "configuration", true},
		"the second container is just starting": {
			func(s *scene, _ func(error)) { s.node.containers["side-id"].state = runtime.Created }, result.CommitJobFailed, "started", true},
		"SIGTERM in the freeze": {
			func(s *scene, cancel func(error)) {
				s.node.containers["main-id"].onPause = func() error { cancel(result.Errorf(result.Canceled, "SIGTERM")); return nil }
			}, result.Canceled, "SIGTERM while freezing", true},
		"SIGTERM in the upload": {
			func(s *scene, cancel func(error)) {
				s.onUpload(4, func(http.ResponseWriter, *http.Request) { cancel(result.Errorf(result.Canceled, "SIGTERM")) })
			}, result.Canceled, `SIGTERM while pushing the layer of container "side"`, true},
		"the registry fails in the upload": {
			func(s *scene, _ func(error)) {
				s.before = func(w http.ResponseWriter, r *http.Request) bool {
					fail := r.Method == http.MethodPatch && strings.Contains(r.URL.Path, "/side/") && s.froze()
					if fail {
						w.WriteHeader(http.StatusServiceUnavailable)
					}
					return fail
				}
			}, result.RegistryUnavailable, `container "side"`, true},
		"the registry goes silent at the manifest": {
			func(s *scene, _ func(error)) {
				s.options.Registry.Patience = 500 * time.Millisecond
				s.before = func(_ http.ResponseWriter, r *http.Request) bool {
					hang := r.Method == http.MethodPut && strings.Contains(r.URL.Path, "/manifests/")
					if hang {
						_, _ = io.Copy(io.Discard, r.Body)
						<-r.Context().Done()
					}
					return hang
				}
			}, result.RegistryUnavailable, "did not answer", true},
		"the container is killed in the upload": {
			func(s *scene, _ func(error)) {
				s.onUpload(4, func(http.ResponseWriter, *http.Request) { s.node.containers["side-id"].state = runtime.Ended })
			}, result.ContainerRestarted, "frozen when the commit began and is ended now", true},
		"the container is thawed in the upload": {
			func(s *scene, _ func(error)) {
				s.onUpload(3, func(http.ResponseWriter, *http.Request) { s.node.containers["main-id"].state = runtime.Running })
			}, result.ContainerRestarted, "running now", true},
		"the container is removed in the upload": {
			func(s *scene, _ func(error)) {
				s.node.containers["main-id"].onCheck = func(n int) error {
					if n == 2 {
						return result.Errorf(result.ContainerNotFound, "gone")
					}
					return nil
				}
			}, result.ContainerNotFound, "gone", true},
		"the container is killed after its upload": {
			func(s *scene, _ func(error)) {
				s.before = func(_ http.ResponseWriter, r *http.Request) bool {
					if r.Method == http.MethodPut && strings.Contains(r.URL.Path, "/side/manifests/") {
						s.node.containers["main-id"].state = runtime.Ended
					}
					return false
				}
			}, result.ContainerRestarted, `container "main" was frozen`, true},
		"the files are not readable": {
			func(s *scene, _ func(error)) { s.node.containers["side-id"].upper = "/nonexistent" }, result.CommitJobFailed, "/nonexistent", false},
		"a file cannot be represented": {
			func(s *scene, _ func(error)) {
				_ = os.WriteFile(filepath.Join(s.node.containers["side-id"].upper, ".wh.x"), nil, 0o600)
			}, result.FilesNotSupported, `"/.wh.x"`, false},
		"holes that no node is to be filled with": {
			func(s *scene, _ func(error)) {
				s.options.MaxHoles = 1 << 30
				for name, size := range map[string]int64{"small": 1 << 29, "lastlog": 3 << 29} {
					_ = os.WriteFile(filepath.Join(s.node.containers["side-id"].upper, name), nil, 0o600)
					_ = os.Truncate(filepath.Join(s.node.containers["side-id"].upper, name), size)
				}
			}, result.FilesNotSupported, `holes of 2048 MiB, "/lastlog" the most`, false},
		"a panic": {
			func(s *scene, _ func(error)) {
				s.node.containers["side-id"].onPause = func() error { panic("oh") }
			}, result.CommitJobFailed, "panicked: oh", true},
		"the manifest is refused": {
			func(s *scene, _ func(error)) {
				s.before = func(w http.ResponseWriter, r *http.Request) bool {
					fail := r.Method == http.MethodPut && strings.Contains(r.URL.Path, "/side/manifests/")
					if fail {
						w.WriteHeader(http.StatusBadRequest)
					}
					return fail
				}
			}, result.RegistryDenied, "400", true},
	}
	for name, test := range tests {
		t.Run(name, func(t *testing.T) {
			s := newScene(t)
			s.options.LeaveFrozen = true
			ctx, cancel := context.WithCancelCause(context.Background())
			defer cancel(nil)
			test.breaks(s, cancel)
			err := s.commit(ctx)
			if err == nil {
				t.Fatal("it succeeded")
			}
			r := s.last()
			if r.Error == nil || r.Error.Reason != test.reason || !strings.Contains(r.Error.Message, test.says) || len(r.Containers) > 0 {
				t.Errorf("result %+v: %v; want %s that says %q", r, r.Error, test.reason, test.says)
			}
			if !r.Thawed || (r.FrozenMillis > 0) != test.frozen || s.froze() != test.frozen {
				t.Errorf("thawed %v, frozen for %d ms; calls %v", r.Thawed, r.FrozenMillis, s.node.calls)
			}
			for _, c := range s.node.containers {
				if c.state == runtime.Paused {
					t.Errorf("container %q stays frozen; calls %v", c.name, s.node.calls)
				}
			}
			if len(s.node.leases) > 0 {
				t.Errorf("leases are left: %v", s.node.leases)
			}
		})
	}
}

func (s *scene) froze() bool {
	s.node.mu.Lock()
	defer s.node.mu.Unlock()
	return slices.ContainsFunc(s.node.calls, func(c string) bool { return strings.HasPrefix(c, "freeze") })
}

// onUpload calls do in the nth upload of a blob: 1 and 2 are the base's layers, 3
// and 4 those of main and side.
func (s *scene) onUpload(n int, do func(http.ResponseWriter, *http.Request)) {
	seen := 0
	s.before = func(w http.ResponseWriter, r *http.Request) bool {
		if r.Method == http.MethodPatch {
			if seen++; seen == n {
				do(w, r)
			}
		}
		return false
	}
}

// TestAFreezeIsTriedAgain has a runtime that does not get hold of busy processes at once.
func TestAFreezeIsTriedAgain(t *testing.T) {
	for fails, works := range map[int]bool{3: true, 1000: false} {
		s := newScene(t)
		if s.options.LeaveFrozen = true; !works {
			s.options.Patience = 300 * time.Millisecond
		}
		s.node.containers["main-id"].onPause = func() error {
			if fails--; fails >= 0 {
				return errors.New("unable to freeze")
			}
			return nil
		}
		err := s.commit(t.Context())
		if works != (err == nil) {
			t.Errorf("got %v", err)
		}
		if works {
			s.states(runtime.Paused)
			continue
		}
		s.states(runtime.Running)
		if r := s.last(); r.Error.Reason != result.FreezeFailed || !r.Thawed || !strings.Contains(r.Error.Message, "unable to freeze") {
			t.Errorf("result %+v: %s", r, r.Error.Message)
		}
	}
}
