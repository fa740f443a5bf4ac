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
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"testing"

	"github.com/opensandbox-io/sandbox-apiserver/pkg/committer/result"
)

// whenPushed calls do once, with the first byte of a layer that a frozen container is read into, and
// lets the registry wait for it.
func (s *stage) whenPushed(c *container, do func()) {
	var once sync.Once
	s.mu.Lock()
	defer s.mu.Unlock()
	s.before = func(r *http.Request) {
		// Not events, which fails the test where systemd has removed the cgroup of who has ended.
		said, _ := os.ReadFile(filepath.Join(c.cgroup(), "cgroup.events"))
		if r.Method == http.MethodPatch && strings.Contains(string(said), "frozen 1") {
			once.Do(do)
		}
	}
}

// TestNobodyElseWrites: sidecars, who debugs, and processes in a cgroup beside the containers' reach
// the same files. None of them runs while these are read, and only who cannot reach them does then.
func TestNobodyElseWrites(t *testing.T) {
	forRuntimes(t, func(t *testing.T, s *stage) {
		main := s.run("main", nil, "count:/beside", "process:/moved")
		db := s.run("db", nil, "count:/beside")
		debug := s.run("debug", []string{"--with-ns", "pid:/proc/" + main.pid + "/ns/pid"}, "count:/beside")
		// A process of main's, beside it: that is where a privileged one can move it.
		beside := filepath.Join(s.podCgroup(), "beside")
		must(t, "mkdir", beside)
		t.Cleanup(func() { _ = os.Remove(beside) })
		if err := os.WriteFile(filepath.Join(beside, "cgroup.procs"), []byte(main.other()), 0); err != nil {
			t.Fatal(err)
		}
		for _, c := range []*container{main, db, debug} {
			c.runs("/beside")
		}
		main.runs("/moved")
		s.whenPushed(main, func() {
			for _, c := range []*container{main, db, debug} {
				c.stands("/beside")
			}
			main.stands("/moved")
		})
		r := s.committer("commit", []*container{main}, "--leave-frozen")
		if r.Error != nil || r.Thawed {
			t.Fatalf("result %+v: %v", r, r.Error)
		}
		db.runs("/beside")
		main.stands("/beside")
		main.stands("/moved")
		debug.stands("/beside")
		if r := s.committer("kill", []*container{main}); r.Error != nil {
			t.Errorf("kill: %+v: %v", r, r.Error)
		}
		for _, c := range []*container{main, debug} {
			if state := c.shim(); state != "STOPPED" {
				t.Errorf("%s is %s", c.name, state)
			}
		}
		if pids, _ := os.ReadFile(filepath.Join(beside, "cgroup.procs")); len(pids) > 0 {
			t.Errorf("beside the containers there are still %q", pids)
		}
		db.runs("/beside")
	})
}

// other is a process of the container that is not its first.
func (c *container) other() string {
	c.s.t.Helper()
	pid := ""
	c.s.until("it has a second process", func() (string, bool) {
		pids, _ := os.ReadFile(filepath.Join(c.cgroup(), "cgroup.procs"))
		for p := range strings.Lines(string(pids)) {
			if p = strings.TrimSpace(p); p != c.pid {
				pid = p
			}
		}
		return string(pids), pid != ""
	})
	return pid
}

// TestSomebodyOutOfReachIsARefusal, with nothing frozen: a process that has left the Pod's cgroup, and
// one that has come into the container's mounts from outside.
func TestSomebodyOutOfReachIsARefusal(t *testing.T) {
	forRuntimes(t, func(t *testing.T, s *stage) {
		main := s.run("main", nil, "count:/beside", "process:/moved")
		main.runs("/moved")
		elsewhere := "/sys/fs/cgroup/elsewhere-" + filepath.Base(s.dir)
		must(t, "mkdir", elsewhere)
		t.Cleanup(func() { _ = os.Remove(elsewhere) })
		moved := main.other()
		move := func(cgroup string) {
			t.Helper()
			if err := os.WriteFile(filepath.Join(cgroup, "cgroup.procs"), []byte(moved), 0); err != nil {
				t.Fatal(err)
			}
		}
		move(elsewhere)
		refused := func(who string) {
			t.Helper()
			r := s.committer("commit", []*container{main}, "--leave-frozen")
			if r.Error == nil || r.Error.Reason != result.FreezeFailed || !r.Thawed || r.FrozenMillis != 0 || !strings.Contains(r.Error.Message, "process "+who+" ") {
				t.Errorf("result %+v: %v; want process %s named", r, r.Error, who)
			}
			main.runs("/moved")
		}
		refused(moved)
		move(main.cgroup())

		guest := exec.Command("nsenter", "--target", main.pid, "--mount", "/inside", "count:/guest")
		if err := guest.Start(); err != nil {
			t.Fatal(err)
		}
		main.runs("/guest")
		refused(itoa(guest.Process.Pid))
		_ = guest.Process.Kill()
		_ = guest.Wait() // it was killed
		if r := s.committer("commit", []*container{main}, "--leave-frozen"); r.Error != nil {
			t.Errorf("without them: %v", r.Error)
		}
	})
}

// TestKilledWhileItWasFrozen has a container killed as the kubelet does, while the registry has only
// begun to get its files. They are the only copy, and nobody has written since.
func TestKilledWhileItWasFrozen(t *testing.T) {
	forRuntimes(t, func(t *testing.T, s *stage) {
		main := s.run("main", nil, "count:/told", "process:/other", "process:/another")
		main.runs("/told")
		main.runs("/another")
		files := []string{"told", "other", "another"}
		upper := main.upper()
		read := func() (all []string) {
			for _, name := range files {
				data, err := os.ReadFile(filepath.Join(upper, name))
				if err != nil {
					t.Error(err)
				}
				all = append(all, string(data))
			}
			return all
		}
		var before []string
		s.whenPushed(main, func() {
			before = read()
			s.ctr("tasks", "kill", "--signal", "SIGKILL", main.id)
			s.until("the container has ended", func() (string, bool) { state := main.shim(); return state, state == "STOPPED" })
		})
		r := s.committer("commit", []*container{main}, "--leave-frozen")
		if r.Error != nil || len(r.Containers) != 1 {
			t.Fatalf("result %+v: %v", r, r.Error)
		}
		if after := read(); strings.Join(before, " ") != strings.Join(after, " ") || before == nil {
			t.Errorf("it has written: %q became %q", before, after)
		}
		if asked, _ := events(t, s.podCgroup()); asked {
			t.Error("the Pod's cgroup is still told to freeze")
		}
	})
}
