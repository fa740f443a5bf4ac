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
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/opensandbox-io/sandbox-apiserver/pkg/committer/result"
)

// mounts may mount file systems.
func (s *stage) mounts() []string {
	s.t.Helper()
	dir := filepath.Join(s.dir, "shared")
	if err := os.MkdirAll(dir, 0o755); err != nil {
		s.t.Fatal(err)
	}
	return []string{"--privileged", "--mount", "type=bind,src=" + dir + ",dst=/shared,options=rbind:rw"}
}

// frozenAndBack checks that an attempt was given up, for a process that is named, and that it has
// left nothing frozen.
func frozenAndBack(t *testing.T, r result.Result, c *container, who string) {
	t.Helper()
	if r.Error == nil || r.Error.Reason != result.FreezeFailed || !r.Thawed {
		t.Errorf("result %+v: %v", r, r.Error)
	} else if !strings.Contains(r.Error.Message, who) || !strings.Contains(r.Error.Message, `container "`+c.name+`"`) {
		t.Errorf("it names neither %q nor the container: %s", who, r.Error.Message)
	}
	for _, cgroup := range []string{c.cgroup(), c.s.podCgroup()} {
		if asked, frozen := events(t, cgroup); asked || frozen {
			t.Errorf("%s: asked to freeze %v, frozen %v", cgroup, asked, frozen)
		}
	}
	if state := c.shim(); state != "RUNNING" {
		t.Errorf("containerd says %s", state)
	}
}

// TestAFreezeThatCannotBeIsTakenBack: a process that waits for a FUSE server in its own container
// cannot be frozen, once that is.
func TestAFreezeThatCannotBeIsTakenBack(t *testing.T) {
	forRuntimes(t, func(t *testing.T, s *stage) {
		main := s.run("main", s.mounts(), "slowfuse", "process:/shared/fuse", "process:/shared/fuse", "process:/shared/fuse", "process:/shared/fuse", "count:/beside")
		main.runs("/beside")
		frozenAndBack(t, s.committer("commit", []*container{main}, "--leave-frozen"), main, "inside")
		main.runs("/beside")
		// And it is known to be so: whoever asks later finds the same.
		if r := s.committer("thaw", []*container{main}); !r.Thawed || r.Error != nil {
			t.Errorf("thaw: %+v", r)
		}
	})
}

// TestWhoWaitsForAnotherIsFrozenFirst has the FUSE server in a sidecar, which is named first.
func TestWhoWaitsForAnotherIsFrozenFirst(t *testing.T) {
	forRuntimes(t, func(t *testing.T, s *stage) {
		side := s.run("side", s.mounts(), "slowfuse")
		s.until("the file system is mounted", func() (string, bool) {
			mounts, _ := os.ReadFile("/proc/" + side.pid + "/mountinfo")
			return string(mounts), strings.Contains(string(mounts), " /shared/fuse ")
		})
		const there = "process:/proc/1/root/shared/fuse"
		main := s.run("main", []string{"--privileged", "--with-ns", "pid:/proc/" + side.pid + "/ns/pid"}, there, there, there, there, "count:/beside")
		main.runs("/beside")
		r := s.committer("commit", []*container{side, main}, "--leave-frozen")
		if r.Error != nil || r.Thawed {
			t.Fatalf("result %+v: %v", r, r.Error)
		}
		if r.FrozenMillis > 10_000 {
			t.Error("the order was found by trying alone")
		}
		for _, c := range []*container{main, side} {
			if asked, frozen := events(t, c.cgroup()); !asked || !frozen {
				t.Errorf("%s: asked to freeze %v, frozen %v", c.name, asked, frozen)
			}
		}
		if r := s.committer("thaw", []*container{main, side}); !r.Thawed {
			t.Errorf("thaw: %+v", r)
		}
		main.runs("/beside")
	})
}

// disk is a file system that can be made to hang.
func (s *stage) disk() string {
	s.t.Helper()
	image, dir := filepath.Join(s.dir, "disk"), filepath.Join(s.dir, "disk.mounted")
	must(s.t, "truncate", "--size=64M", image)
	must(s.t, "mkfs.ext4", "-q", image)
	must(s.t, "mkdir", dir)
	must(s.t, "mount", "-o", "loop", image, dir)
	s.t.Cleanup(func() {
		_ = exec.Command("fsfreeze", "--unfreeze", dir).Run() // as far as the test left it frozen
		must(s.t, "umount", "--lazy", dir)
	})
	return dir
}

func must(t *testing.T, command string, args ...string) {
	t.Helper()
	if out, err := exec.Command(command, args...).CombinedOutput(); err != nil {
		t.Fatalf("%s %s: %v: %s", command, strings.Join(args, " "), err, out)
	}
}

// TestAHangingDisk: who waits for it cannot be frozen. All run again, and those too when it answers.
func TestAHangingDisk(t *testing.T) {
	forRuntimes(t, func(t *testing.T, s *stage) {
		disk := s.disk()
		main := s.run("main", []string{"--mount", "type=bind,src=" + disk + ",dst=/disk,options=rbind:rw"}, "count:/beside", "process:/disk/f")
		main.runs("/disk/f")
		must(t, "fsfreeze", "--freeze", disk)
		s.hangs(main)
		frozenAndBack(t, s.committer("commit", []*container{main}, "--leave-frozen"), main, "inside")
		main.runs("/beside")
		must(t, "fsfreeze", "--unfreeze", disk)
		main.runs("/disk/f")
		if asked, frozen := events(t, main.cgroup()); asked || frozen {
			t.Errorf("asked to freeze %v, frozen %v", asked, frozen)
		}
		r := s.committer("commit", []*container{main}, "--leave-frozen")
		if r.Error != nil {
			t.Errorf("the next attempt: %v", r.Error)
		}
	})
}

// hangs waits until a process of the container waits for the disk.
func (s *stage) hangs(c *container) {
	s.t.Helper()
	s.until("a process hangs", func() (string, bool) {
		pids, _ := os.ReadFile(filepath.Join(c.cgroup(), "cgroup.procs"))
		saw := ""
		for pid := range strings.Lines(string(pids)) {
			threads, _ := filepath.Glob("/proc/" + strings.TrimSpace(pid) + "/task/*/stat")
			for _, file := range threads {
				stat, _ := os.ReadFile(file)
				saw += string(stat)
				if strings.Contains(string(stat), ") D ") {
					return saw, true
				}
			}
		}
		return saw, false
	})
}

// TestNothingIsReadBeforeTheKernelSaysFrozen has a disk that is slow, and then answers.
func TestNothingIsReadBeforeTheKernelSaysFrozen(t *testing.T) {
	forRuntimes(t, func(t *testing.T, s *stage) {
		disk := s.disk()
		main := s.run("main", []string{"--mount", "type=bind,src=" + disk + ",dst=/disk,options=rbind:rw"}, "count:/beside", "process:/disk/f")
		main.runs("/disk/f")
		must(t, "fsfreeze", "--freeze", disk)
		s.hangs(main)
		const slow = 3 * time.Second
		time.AfterFunc(slow, func() {
			if asked, _ := events(t, main.cgroup()); !asked {
				t.Error("nobody freezes yet")
			}
			must(t, "fsfreeze", "--unfreeze", disk)
		})
		r := s.committer("commit", []*container{main}, "--leave-frozen")
		if r.Error != nil || r.FrozenMillis < (slow-time.Second).Milliseconds() {
			t.Errorf("result %+v: %v", r, r.Error)
		}
	})
}

// TestThawRepairs what an attempt left that nobody knows of: the kernel was told to freeze, and
// containerd says that the container runs.
func TestThawRepairs(t *testing.T) {
	forRuntimes(t, func(t *testing.T, s *stage) {
		main := s.run("main", nil, "count:/beside")
		other := s.run("other", nil, "count:/beside")
		for name, cgroup := range map[string]string{"container": main.cgroup(), "sidecar": other.cgroup(), "Pod": s.podCgroup()} {
			main.runs("/beside")
			if err := os.WriteFile(filepath.Join(cgroup, "cgroup.freeze"), []byte("1"), 0); err != nil {
				t.Fatal(err)
			}
			s.until("the "+name+" is frozen", func() (string, bool) { _, frozen := events(t, cgroup); return "", frozen })
			if r := s.committer("thaw", []*container{main}); !r.Thawed || r.Error != nil {
				t.Errorf("%s: thaw: %+v", name, r)
			}
			main.runs("/beside")
			other.runs("/beside")
		}
	})
}
