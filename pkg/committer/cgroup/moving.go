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

package cgroup

import (
	"bytes"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"strconv"
	"strings"
)

// Process is one that does not stop, for a person to know it by.
type Process struct {
	PID     int
	Command string
	// State is the kernel's letter for it, and Where what it waits in; empty where that is not told.
	State string
	Where string
}

func (p Process) String() string {
	text := fmt.Sprintf("process %d (%s, state %s", p.PID, p.Command, p.State)
	if p.Where != "" {
		text += ", in " + p.Where
	}
	return text + ")"
}

// Moving are the processes of the cgroup that have not stopped: those that run, and those that wait
// in the kernel for something that no signal interrupts. It is a guess where the freezer may have
// got hold of one since.
func (g *Group) Moving() ([]Process, error) {
	pids, err := g.Processes()
	if err != nil {
		return nil, err
	}
	var moving []Process
	for _, pid := range pids {
		threads, err := os.ReadDir(fmt.Sprintf("/proc/%d/task", pid))
		if errors.Is(err, fs.ErrNotExist) {
			continue
		}
		if err != nil {
			return nil, err
		}
		for _, thread := range threads {
			if p, moves := look(pid, thread.Name()); moves {
				moving = append(moving, p)
				break
			}
		}
	}
	return moving, nil
}

// fuse is the device that file systems in user space are served through.
const fuse = "/dev/fuse"

// ServesFiles is whether a process of the cgroup serves a file system in user space: others may wait
// for its answers.
func (g *Group) ServesFiles() (bool, error) {
	pids, err := g.Processes()
	if err != nil {
		return false, err
	}
	for _, pid := range pids {
		dir := fmt.Sprintf("/proc/%d/fd", pid)
		descriptors, err := os.ReadDir(dir)
		if err != nil {
			continue // it has ended, or is not to be looked at
		}
		for _, descriptor := range descriptors {
			if file, err := os.Readlink(dir + "/" + descriptor.Name()); err == nil && file == fuse {
				return true, nil
			}
		}
	}
	return false, nil
}

// stopped are the kernel's functions that a process waits in while it is frozen.
var stopped = map[string]bool{"__refrigerator": true, "do_freezer_trap": true, "get_signal": true, "do_signal_stop": true}

func look(pid int, thread string) (p Process, moves bool) {
	p, ok := read(pid, "/proc/"+strconv.Itoa(pid)+"/task/"+thread)
	return p, ok && (p.State == "R" || p.State == "D") && !stopped[p.Where]
}

// Look is what a person should know of a process; it is false where it has ended.
func Look(pid int) (Process, bool) {
	p, ok := read(pid, "/proc/"+strconv.Itoa(pid))
	return p, ok && p.State != "Z" && p.State != "X"
}

func read(pid int, dir string) (p Process, ok bool) {
	stat, err := os.ReadFile(dir + "/stat")
	if err != nil {
		return Process{}, false
	}
	// The command may have any character in it, a parenthesis too.
	open, end := bytes.IndexByte(stat, '('), bytes.LastIndexByte(stat, ')')
	if open < 0 || end < open || end+2 >= len(stat) {
		return Process{}, false
	}
	p = Process{PID: pid, State: string(stat[end+2])}
	p.Command = strings.Trim(strconv.QuoteToGraphic(string(stat[open+1:end])), `"`)
	if where, err := os.ReadFile(dir + "/wchan"); err == nil && string(where) != "0" {
		p.Where = string(where)
	}
	return p, true
}
