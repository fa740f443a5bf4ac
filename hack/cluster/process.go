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

package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"time"
)

// process is a started program as its record file keeps it. A PID alone would be recycled one day; with the boot and
// the start time it names one process for ever.
type process struct {
	Name      string `json:"name"`
	PID       int    `json:"pid"`
	StartTick uint64 `json:"startTick"` // clock ticks from boot to start, field 22 of /proc/PID/stat
	BootID    string `json:"bootID"`
}

// start runs a program in a session of its own, so that it outlives this one and its terminal, and records it. What is apart
// begins in namespaces of its own, too.
func start(ctx context.Context, l layout, name, exe string, args, env []string, isApart bool) (process, error) {
	if err := os.MkdirAll(l.path("run"), 0o755); err != nil {
		return process{}, err
	}
	log, err := os.OpenFile(l.log(name), os.O_CREATE|os.O_WRONLY|os.O_APPEND, 0o644)
	if err != nil {
		return process{}, err
	}
	defer log.Close()
	cmd := exec.CommandContext(context.WithoutCancel(ctx), exe, args...)
	cmd.Dir, cmd.Env, cmd.Stdout, cmd.Stderr = l.dir, env, log, log
	cmd.SysProcAttr = &syscall.SysProcAttr{Setsid: true}
	if isApart {
		apart(cmd.SysProcAttr)
	}
	closeInherited()
	if err := cmd.Start(); err != nil {
		return process{}, fmt.Errorf("start %s: %w", name, err)
	}
	p := process{Name: name, PID: cmd.Process.Pid, BootID: bootID()}
	if _, p.StartTick, err = procStat(p.PID); err != nil {
		return process{}, fmt.Errorf("read the start time of %s: %w", name, err)
	}
	record, err := json.Marshal(p)
	if err != nil {
		return process{}, err
	}
	if err := writeFile(recordFile(l, name), record, 0o644); err != nil {
		_ = cmd.Process.Kill() // what is not recorded could never be ended
		return process{}, err
	}
	go func() { _ = cmd.Wait() }() // a child that ends at once must not look alive as a zombie
	return p, nil
}

// closeInherited closes for the programs to come what this one has inherited beside its three streams. They outlive whoever
// has called: a lock that is a file descriptor, as flock(1) has it, would be held until the cluster ends.
func closeInherited() {
	open, _ := os.ReadDir("/proc/self/fd") // there is no such directory where a node does not run anyway
	for _, entry := range open {
		if fd, err := strconv.Atoi(entry.Name()); err == nil && fd > 2 {
			syscall.CloseOnExec(fd)
		}
	}
}

func recordFile(l layout, name string) string { return l.path("run", name+".pid.json") }

// recorded returns every process that has a record, running or not, by name.
func recorded(l layout) (map[string]process, error) {
	files, err := filepath.Glob(recordFile(l, "*"))
	if err != nil {
		return nil, err
	}
	found := map[string]process{}
	for _, file := range files {
		content, err := os.ReadFile(file)
		if err != nil {
			return nil, err
		}
		var p process
		if err := json.Unmarshal(content, &p); err != nil || p.PID <= 0 {
			continue // a record that was cut short by a crash names nobody
		}
		found[p.Name] = p
	}
	return found, nil
}

func (p process) alive() bool {
	if p.PID <= 0 || p.BootID != bootID() {
		return false
	}
	state, startTick, err := procStat(p.PID)
	return err == nil && startTick == p.StartTick && state != 'Z' && state != 'X'
}

// stop asks the process to end, and kills it after the grace. It never signals a process that only has the same PID.
func (p process) stop(ctx context.Context, grace time.Duration) error {
	handle, err := os.FindProcess(p.PID) // a pidfd: taken before the check, it cannot come to mean another process
	if err != nil || !p.alive() {
		return nil
	}
	defer func() { _ = handle.Release() }()
	for _, step := range []struct {
		signal os.Signal
		wait   time.Duration
	}{{syscall.SIGTERM, grace}, {syscall.SIGKILL, 20 * time.Second}} {
		if step.wait <= 0 {
			continue
		}
		if err := handle.Signal(step.signal); err != nil && !errors.Is(err, os.ErrProcessDone) {
			return fmt.Errorf("signal %s (pid %d): %w", p.Name, p.PID, err)
		}
		if poll(ctx, step.wait, 20*time.Millisecond, func() error {
			if p.alive() {
				return errors.New("still running")
			}
			return nil
		}) == nil {
			return nil
		}
	}
	return fmt.Errorf("%s (pid %d) does not end, not even by SIGKILL: see `cat /proc/%d/stack`", p.Name, p.PID, p.PID)
}

func bootID() string {
	id, _ := os.ReadFile("/proc/sys/kernel/random/boot_id")
	return strings.TrimSpace(string(id))
}

func procStat(pid int) (state byte, startTick uint64, err error) {
	stat, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	if err != nil {
		return 0, 0, err
	}
	return parseStat(string(stat))
}

// parseStat reads proc_pid_stat(5). The second field, the name, may itself hold spaces and parentheses.
func parseStat(stat string) (state byte, startTick uint64, err error) {
	end := strings.LastIndexByte(stat, ')')
	if end < 0 {
		return 0, 0, fmt.Errorf("no program name in %q", stat)
	}
	fields := strings.Fields(stat[end+1:]) // from field 3 on
	if len(fields) < 20 {
		return 0, 0, fmt.Errorf("%d fields after the name in %q, want 20 or more", len(fields), stat)
	}
	startTick, err = strconv.ParseUint(fields[19], 10, 64)
	return fields[0][0], startTick, err
}

// poll calls check until it succeeds, and returns its last error when the time is over.
func poll(ctx context.Context, timeout, every time.Duration, check func() error) error {
	ctx, cancel := context.WithTimeout(ctx, timeout)
	defer cancel()
	ticker := time.NewTicker(every)
	defer ticker.Stop()
	for {
		err := check()
		var final permanentError
		if err == nil || errors.As(err, &final) {
			return err
		}
		select {
		case <-ctx.Done():
			if errors.Is(ctx.Err(), context.Canceled) {
				return errInterrupted
			}
			return err
		case <-ticker.C:
		}
	}
}

var errInterrupted = errors.New("interrupted")

// permanentError ends a poll at once: more waiting cannot help.
type permanentError struct{ error }

func (e permanentError) Unwrap() error { return e.error }

// lastLines returns the end of a log, indented, for an error message.
func lastLines(file string, count int) string {
	f, err := os.Open(file)
	if err != nil {
		return "  (no log: " + err.Error() + ")"
	}
	defer f.Close()
	if size, err := f.Seek(0, io.SeekEnd); err == nil {
		_, _ = f.Seek(max(0, size-16<<10), io.SeekStart)
	}
	tail, _ := io.ReadAll(f)
	lines := strings.Split(strings.TrimRight(string(tail), "\n"), "\n")
	return "  " + strings.Join(lines[max(0, len(lines)-count):], "\n  ")
}

// writeFile replaces a file as a whole, so that an interrupted run leaves no half of one.
func writeFile(path string, content []byte, mode fs.FileMode) error {
	if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
		return err
	}
	temporary := path + ".new"
	if err := os.WriteFile(temporary, content, mode); err != nil {
		return err
	}
	if err := os.Chmod(temporary, mode); err != nil {
		return err
	}
	return os.Rename(temporary, path)
}
