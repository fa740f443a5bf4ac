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
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
)

func itoa(n int) string { return strconv.Itoa(n) }

// TestKillFindsWhoIsInAThreadedCgroup: runtimes read cgroup.procs there, which such a cgroup refuses.
// https://docs.kernel.org/admin-guide/cgroup-v2.html#threads
func TestKillFindsWhoIsInAThreadedCgroup(t *testing.T) {
	forRuntimes(t, func(t *testing.T, s *stage) {
		main := s.run("main", nil, "count:/one", "count:/two", "process:/three")
		main.runs("/three")
		threaded := filepath.Join(main.cgroup(), "threaded")
		must(t, "mkdir", threaded)
		if err := os.WriteFile(filepath.Join(threaded, "cgroup.type"), []byte("threaded"), 0); err != nil {
			t.Fatal(err)
		}
		threads, err := os.ReadDir("/proc/" + main.pid + "/task")
		if err != nil || len(threads) < 2 {
			t.Fatal(threads, err)
		}
		if err := os.WriteFile(filepath.Join(threaded, "cgroup.threads"), []byte(threads[len(threads)-1].Name()), 0); err != nil {
			t.Fatal(err)
		}
		// This runc would not delete the container, either.
		t.Cleanup(func() { _ = os.Remove(threaded) })
		if r := s.committer("commit", []*container{main}, "--leave-frozen"); r.Error != nil {
			t.Fatal(r.Error)
		}
		if r := s.committer("kill", []*container{main}); r.Error != nil || !r.Thawed {
			t.Errorf("result %+v: %v", r, r.Error)
		}
		if state := main.shim(); state != "STOPPED" {
			t.Errorf("containerd says %s", state)
		}
	})
}

// TestTheFirstProcessEndsLast, also where the processes are the node's.
func TestTheFirstProcessEndsLast(t *testing.T) {
	forRuntimes(t, func(t *testing.T, s *stage) {
		main := s.run("main", nil, "count:/one", "process:/two", "process:/three")
		main.runs("/three")
		if r := s.committer("commit", []*container{main}, "--leave-frozen"); r.Error != nil {
			t.Fatal(r.Error)
		}
		r, log := s.committerSays("kill", []*container{main})
		if r.Error != nil || !strings.Contains(log, "processes=3") {
			t.Errorf("result %+v: %v\n%s", r, r.Error, log)
		}
	})
}
