//go:build e2e

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

package node

import (
	"net/http"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/opensandbox-io/sandbox-apiserver/pkg/committer/result"
)

// restartContainerd kills it and starts it again after a while. Containers and their shims live on.
func (s *stage) restartContainerd(away time.Duration) {
	_ = s.containerd.Process.Kill()
	_ = s.containerd.Wait() // it was killed
	time.Sleep(away)
	s.startContainerd()
}

// TestAContainerdThatIsRestarted under a commit, at each of its steps: as by an upgrade of the node's package, or out of memory.
// The commit ends well, or it fails and everything runs on: nothing is left frozen that nobody knows of.
func TestAContainerdThatIsRestarted(t *testing.T) {
	for name, at := range map[string]struct{ method, path string }{
		"before the freeze":            {http.MethodPost, "/uploads/"},
		"while files are read":         {http.MethodPatch, "/uploads/"},
		"while the manifest is pushed": {http.MethodPut, "/manifests/"},
	} {
		t.Run(name, func(t *testing.T) {
			forRuntimes(t, func(t *testing.T, s *stage) {
				main, side := s.run("main", nil, "count:/count"), s.run("side", nil, "count:/count")
				both := []*container{main, side}
				main.runs("/count")
				side.runs("/count")
				var once sync.Once
				frozenThen, again := false, make(chan struct{})
				s.mu.Lock()
				s.before = func(r *http.Request) {
					_, frozen := events(t, main.cgroup())
					if r.Method == at.method && strings.Contains(r.URL.Path, at.path) && frozen == (at.method != http.MethodPost) {
						once.Do(func() {
							defer close(again)
							frozenThen = frozen
							s.restartContainerd(2 * time.Second)
						})
					}
				}
				s.mu.Unlock()
				r := s.committer("commit", both, "--leave-frozen")
				select {
				case <-again: // a commit that fails does not wait for it
				case <-time.After(soon):
					t.Fatal("containerd was not restarted")
				}
				if at.method != http.MethodPost && !frozenThen {
					t.Fatal("it was not frozen when containerd ended")
				}
				s.endsWellOrRuns(r, both)
			})
		})
	}
	t.Run("while it is left frozen", func(t *testing.T) {
		forRuntimes(t, func(t *testing.T, s *stage) {
			main := s.run("main", nil, "count:/count")
			main.runs("/count")
			if r := s.committer("commit", []*container{main}, "--leave-frozen"); r.Error != nil {
				t.Fatal(r.Error)
			}
			s.restartContainerd(0)
			main.stands("/count")
			if r := s.committer("kill", []*container{main}); r.Error != nil {
				t.Errorf("kill: %+v: %v", r, r.Error)
			}
			s.until("the container has ended", func() (string, bool) { state := main.shim(); return state, state == "STOPPED" })
		})
	})
}

// endsWellOrRuns checks what a commit says of containers that it was to leave frozen.
func (s *stage) endsWellOrRuns(r result.Result, containers []*container) {
	s.t.Helper()
	switch {
	case r.Error == nil && !r.Thawed && len(r.Containers) == len(containers):
		for _, c := range containers {
			c.stands("/count")
		}
	case r.Error != nil && r.Thawed:
		for _, c := range containers {
			c.runs("/count")
		}
		if asked, frozen := events(s.t, filepath.Dir(containers[0].cgroup())); asked || frozen {
			s.t.Errorf("of the Pod the kernel says asked %t, frozen %t", asked, frozen)
		}
	default:
		s.t.Errorf("result %+v: %v", r, r.Error)
	}
	s.t.Logf("the commit ended with %v", r.Error)
}
