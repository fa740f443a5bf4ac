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

package execd

import (
	"errors"
	"os"
	"os/signal"
	"sync"
	"syscall"
	"time"
)

// errEnded says that a process has ended, so that nothing can be sent to it.
var errEnded = errors.New("it has ended")

// processes starts processes and waits for them. It is the only one to wait in this program: whoever reaps orphans beside
// somebody else who waits for a child takes that child's exit code away.
type processes struct {
	orphans bool // whether all children are reaped, or those alone that were started here

	// mu is held from before a fork until the child is in running, and while a child is reaped and taken out. So an exit
	// code always finds its process, and a number in running is never one that the kernel has given to somebody else.
	mu      sync.Mutex
	running map[int]*process
}

// process is a child that leads a process group of its own.
type process struct {
	pid    int
	table  *processes
	ended  chan struct{}      // closed at its end
	status syscall.WaitStatus // once ended
}

// setChildSubreaper is PR_SET_CHILD_SUBREAPER of prctl(2).
const setChildSubreaper = 36

func newProcesses(orphans bool) *processes {
	t := &processes{orphans: orphans, running: map[int]*process{}}
	if orphans {
		// Where this is not process 1 (the Pod shares its process namespace) they would go past it.
		_, _, _ = syscall.RawSyscall(syscall.SYS_PRCTL, setChildSubreaper, 1, 0)
	}
	children := make(chan os.Signal, 1)
	signal.Notify(children, syscall.SIGCHLD)
	go func() {
		t.reap()
		for range children {
			t.reap()
		}
	}()
	return t
}

// start runs a program. Its error is the kernel's.
func (t *processes) start(path string, argv []string, attributes *syscall.ProcAttr) (*process, error) {
	t.mu.Lock()
	defer t.mu.Unlock()
	pid, err := syscall.ForkExec(path, argv, attributes)
	if err != nil {
		return nil, err
	}
	p := &process{pid: pid, table: t, ended: make(chan struct{})}
	t.running[pid] = p
	return p, nil
}

// reap takes the exit codes of all children that have ended.
func (t *processes) reap() {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.orphans {
		for t.reapOne(-1) {
		}
		return
	}
	for pid := range t.running {
		t.reapOne(pid)
	}
}

// reapOne says whether it found a child that had ended. The lock is held.
func (t *processes) reapOne(which int) bool {
	for {
		var status syscall.WaitStatus
		pid, err := syscall.Wait4(which, &status, syscall.WNOHANG, nil)
		if errors.Is(err, syscall.EINTR) {
			continue
		}
		if err != nil || pid <= 0 {
			return false
		}
		if p, ours := t.running[pid]; ours {
			delete(t.running, pid)
			p.status = status
			close(p.ended)
		}
		return true
	}
}

// signal sends to the whole group, while its leader is there.
func (p *process) signal(sig syscall.Signal) error {
	p.table.mu.Lock()
	defer p.table.mu.Unlock()
	if p.table.running[p.pid] != p {
		return errEnded
	}
	return syscall.Kill(-p.pid, sig)
}

// stop ends the group: by SIGTERM, and by SIGKILL what is left of it after the grace. It returns when the leader has ended.
func (p *process) stop(grace time.Duration) {
	if err := p.signal(syscall.SIGTERM); errors.Is(err, errEnded) {
		return
	}
	over := time.NewTimer(grace)
	defer over.Stop()
	// Of its leader's end we are told, and of a group's end nobody is.
	look := time.NewTicker(20 * time.Millisecond)
	defer look.Stop()
	ended, waiting := p.ended, true
	for waiting && p.groupExists() {
		select {
		case <-ended:
			ended = nil
		case <-look.C:
		case <-over.C:
			waiting = false
		}
	}
	p.kill()
	<-p.ended
}

// kill ends the group at once, also where its leader has ended before.
func (p *process) kill() {
	if p.groupExists() {
		_ = syscall.Kill(-p.pid, syscall.SIGKILL)
	}
}

// groupExists says whether somebody is left in the group. The kernel gives a number to nobody else as long as a group has
// it; a group that was seen empty, and one that another process of ours leads by now, is not looked at again.
func (p *process) groupExists() bool {
	p.table.mu.Lock()
	defer p.table.mu.Unlock()
	if other := p.table.running[p.pid]; other != nil && other != p {
		return false
	}
	return !errors.Is(syscall.Kill(-p.pid, 0), syscall.ESRCH)
}

// exitCode is what a shell says of the end: the code, or 128 and the number of the signal.
func exitCode(status syscall.WaitStatus) int {
	if status.Signaled() {
		return 128 + int(status.Signal())
	}
	return status.ExitStatus()
}
