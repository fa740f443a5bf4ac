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
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"time"
)

// endContainers ends every process of every container of a node's containerd, whether that still runs or not, and then
// the shims. The containers are known by containerd's state directory, their processes by their cgroups: both hold names
// that no other program's can be.
func endContainers(ctx context.Context, l layout, n node) error {
	bundles, err := filepath.Glob(n.containerd(l, "state", "io.containerd.runtime.v2.task", "*", "*"))
	if err != nil {
		return err
	}
	var sockets, cgroups, ids []string
	for _, bundle := range bundles {
		ids = append(ids, filepath.Base(bundle))
		if n == firstNode { // another's are in its home, not where it sees them
			sockets = append(sockets, shimSocket(bundle))
		}
		cgroups = append(cgroups, containerCgroups(bundle)...)
	}
	// What a commit has frozen is thawed before anything is killed: under cgroup v1 a frozen process does not even answer
	// SIGKILL, and the freezer is only one of its hierarchies.
	for _, cgroup := range cgroups {
		if err := thaw(cgroup); err != nil {
			return err
		}
	}
	for _, cgroup := range cgroups {
		if err := endCgroup(ctx, cgroup); err != nil {
			return err
		}
	}
	for id, shim := range shims(l) {
		// The socket of every node has the same path: a shim is another node's by its container. With the first node, which
		// ends last, all go.
		if n != firstNode && !slices.Contains(ids, id) {
			continue
		}
		if err := shim.stop(ctx, 0); err != nil {
			return err
		}
	}
	for _, socket := range sockets {
		if filepath.Dir(socket) == shimSocketDir {
			_ = os.Remove(socket)
		}
	}
	return nil
}

// shimSocketDir is where shims listen whatever containerd's state directory is: paths below that could be too long.
const shimSocketDir = "/run/containerd/s"

// containerCgroups returns the directories of a container's cgroup: one in each hierarchy of cgroup v1, one of v2.
func containerCgroups(bundle string) []string {
	content, err := os.ReadFile(filepath.Join(bundle, "config.json"))
	if err != nil {
		return nil
	}
	var spec struct{ Linux struct{ CgroupsPath string } }
	if json.Unmarshal(content, &spec) != nil || len(spec.Linux.CgroupsPath) < 2 {
		return nil
	}
	path := filepath.Clean("/" + spec.Linux.CgroupsPath)
	found, _ := filepath.Glob("/sys/fs/cgroup/*" + path)
	if _, err := os.Stat("/sys/fs/cgroup" + path); err == nil {
		found = append(found, "/sys/fs/cgroup"+path)
	}
	return found
}

func thaw(cgroup string) error {
	for file, thawed := range map[string]string{"freezer.state": "THAWED", "cgroup.freeze": "0"} {
		path := filepath.Join(cgroup, file)
		if _, err := os.Stat(path); err != nil {
			continue
		}
		if err := os.WriteFile(path, []byte(thawed), 0); err != nil {
			return fmt.Errorf("thaw the container of %s: %w", cgroup, err)
		}
	}
	return nil
}

// endCgroup kills the processes of a cgroup and waits until they are gone.
func endCgroup(ctx context.Context, directory string) error {
	return poll(ctx, 20*time.Second, 20*time.Millisecond, func() error {
		content, err := os.ReadFile(filepath.Join(directory, "cgroup.procs"))
		if errors.Is(err, os.ErrNotExist) || errors.Is(err, syscall.ENODEV) || err == nil && len(content) == 0 {
			return nil
		}
		if err != nil {
			return err
		}
		for _, line := range strings.Fields(string(content)) {
			if pid, err := strconv.Atoi(line); err == nil && pid > 1 {
				_ = syscall.Kill(pid, syscall.SIGKILL)
			}
		}
		return fmt.Errorf("processes %q of the cgroup %s do not end", strings.Fields(string(content)), directory)
	})
}

// shims finds the shims of this cluster's containerds, by the container that each was started for: they are started with
// the address of the socket.
func shims(l layout) map[string]process {
	found := map[string]process{}
	entries, _ := os.ReadDir("/proc")
	for _, entry := range entries {
		pid, err := strconv.Atoi(entry.Name())
		if err != nil {
			continue
		}
		command, err := os.ReadFile(fmt.Sprintf("/proc/%d/cmdline", pid))
		if err != nil {
			continue
		}
		id, ours := isShim(command, l.containerdSocket())
		if !ours {
			continue
		}
		if _, startTick, err := procStat(pid); err == nil {
			found[id] = process{Name: "containerd-shim-runc-v2", PID: pid, StartTick: startTick, BootID: bootID()}
		}
	}
	return found
}

// isShim reads a command line as /proc has it, its arguments ended by zero bytes, and tells the container too.
func isShim(command []byte, socket string) (id string, ours bool) {
	args := strings.Split(string(command), "\x00")
	if filepath.Base(args[0]) != "containerd-shim-runc-v2" {
		return "", false
	}
	for i := 1; i < len(args); i++ {
		switch args[i-1] {
		case "-address":
			ours = args[i] == socket
		case "-id":
			id = args[i]
		}
	}
	return id, ours
}

// shimSocket returns the path of the socket on which a bundle's shim listens, or nothing.
func shimSocket(bundle string) string {
	content, err := os.ReadFile(filepath.Join(bundle, "bootstrap.json"))
	if err != nil {
		return ""
	}
	var bootstrap struct{ Address string }
	if json.Unmarshal(content, &bootstrap) != nil {
		return ""
	}
	return strings.TrimPrefix(bootstrap.Address, "unix://")
}
