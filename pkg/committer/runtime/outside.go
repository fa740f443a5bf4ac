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

package runtime

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"

	"github.com/opensandbox-io/sandbox-apiserver/pkg/committer/cgroup"
)

// Outsider is a process that can write to a container's files and is in no cgroup of its Pod: who
// freezes the Pod does not reach it.
type Outsider struct {
	cgroup.Process
	// Container is whose files it shares, Shares by what, and Cgroup where it is.
	Container, Shares, Cgroup string
}

func (o Outsider) String() string {
	return fmt.Sprintf("%s, which has the %s of container %q and is in the cgroup %s", o.Process, o.Shares, o.Container, o.Cgroup)
}

// namespaces are those of a container's first process.
type namespacesOf struct {
	container  string
	mount, pid string
	root       unix.Statx_t
}

// Outside finds the processes of the node that see what these containers of a Pod see, and that no
// freeze of the Pod stops: those that a privileged container has moved to a cgroup elsewhere, or
// that somebody has sent into its namespaces. It has to share the node's PID namespace.
func (c *Client) Outside(ctx context.Context, podUID string, of []Ref) ([]Outsider, error) {
	pod, err := c.Pod(ctx, podUID)
	if err != nil {
		return nil, err
	}
	inside, err := pod.inside()
	if err != nil || inside == nil {
		return nil, err
	}
	node, err := os.Readlink("/proc/self/ns/pid")
	if err != nil {
		return nil, err
	}
	var containers []namespacesOf
	for _, ref := range of {
		pid, lives := pod.pids[ref.ID]
		if !lives {
			continue
		}
		n, err := namespacesOfFirst(ref, pid)
		if errors.Is(err, fs.ErrNotExist) {
			continue // it has ended
		}
		if err != nil {
			return nil, err
		}
		containers = append(containers, n)
	}
	all, err := os.ReadDir("/proc")
	if err != nil {
		return nil, err
	}
	descends := map[string][]string{node: nil}
	var found []Outsider
	for _, entry := range all {
		pid, err := strconv.Atoi(entry.Name())
		if err != nil || inside[pid] {
			continue
		}
		for _, n := range containers {
			shares := n.shares(pid, node, descends)
			if shares == "" {
				continue
			}
			if p, lives := cgroup.Look(pid); lives {
				found = append(found, Outsider{Process: p, Container: n.container, Shares: shares, Cgroup: cgroupOf(pid)})
			}
			break
		}
	}
	return found, nil
}

// inside are the PIDs that a freeze of the Pod stops, nil where that is not known.
func (p *Pod) inside() (map[int]bool, error) {
	groups := p.groups
	if len(groups) == 0 {
		return nil, nil
	}
	if p.Group != nil {
		groups = append([]*cgroup.Group{p.Group.group}, groups...)
	}
	inside := map[int]bool{}
	for _, group := range groups {
		pids, err := group.Processes()
		if err := ignoreGone(err); err != nil {
			return nil, err
		}
		for _, pid := range pids {
			inside[pid] = true
		}
	}
	return inside, nil
}

func namespacesOfFirst(ref Ref, pid int) (n namespacesOf, err error) {
	dir := fmt.Sprintf("/proc/%d", pid)
	n.container = ref.Name
	if n.mount, err = os.Readlink(dir + "/ns/mnt"); err != nil {
		return n, err
	}
	if n.pid, err = os.Readlink(dir + "/ns/pid"); err != nil {
		return n, err
	}
	if err := rootOf(dir, &n.root); err != nil {
		return n, fmt.Errorf("looking at the root directory of container %q: %w", ref.Name, err)
	}
	return n, nil
}

// shares says what a process has of the container, empty where that is nothing. descends remembers
// what is known of the PID namespaces above one.
func (n *namespacesOf) shares(pid int, node string, descends map[string][]string) string {
	dir := "/proc/" + strconv.Itoa(pid)
	if mount, err := os.Readlink(dir + "/ns/mnt"); err == nil && mount == n.mount {
		return "mounts"
	}
	if n.pid != node {
		if own, err := os.Readlink(dir + "/ns/pid"); err == nil {
			above, known := descends[own]
			if !known {
				above = pidNamespacesAbove(dir + "/ns/pid")
				descends[own] = above
			}
			for _, ns := range append([]string{own}, above...) {
				if ns == n.pid {
					return "processes"
				}
			}
		}
	}
	var root unix.Statx_t
	if err := rootOf(dir, &root); err == nil && root.Dev_major == n.root.Dev_major && root.Dev_minor == n.root.Dev_minor && root.Ino == n.root.Ino {
		return "root directory"
	}
	return ""
}

// rootOf waits for no file system: others' may be such that do not answer.
func rootOf(dir string, stat *unix.Statx_t) error {
	return unix.Statx(unix.AT_FDCWD, dir+"/root/.", unix.AT_STATX_DONT_SYNC|unix.AT_NO_AUTOMOUNT, unix.STATX_INO, stat)
}

// pidNamespacesAbove are those that a PID namespace was made in, up to this process' own.
// https://man7.org/linux/man-pages/man2/NS_GET_PARENT.2const.html
func pidNamespacesAbove(link string) (above []string) {
	fd, err := unix.Open(link, unix.O_RDONLY|unix.O_CLOEXEC, 0)
	if err != nil {
		return nil
	}
	for {
		parent, err := unix.IoctlRetInt(fd, unix.NS_GET_PARENT)
		_ = unix.Close(fd)
		if err != nil {
			return above
		}
		fd = parent
		var stat unix.Stat_t
		if unix.Fstat(fd, &stat) == nil {
			above = append(above, fmt.Sprintf("pid:[%d]", stat.Ino))
		}
	}
}

// cgroupOf is where a process is, for a person: as this process' own namespace shows it.
func cgroupOf(pid int) string {
	data, err := os.ReadFile("/proc/" + strconv.Itoa(pid) + "/cgroup")
	if err != nil {
		return "?"
	}
	last := "?"
	for line := range strings.Lines(string(data)) {
		parts := strings.SplitN(strings.TrimSpace(line), ":", 3)
		if len(parts) != 3 {
			continue
		}
		path := parts[2]
		for strings.HasPrefix(path, "/..") {
			path = strings.TrimPrefix(path, "/..")
		}
		if parts[1] == "freezer" {
			return path
		}
		if parts[1] == "" {
			last = path
		}
	}
	return last
}

// Apart says whether the container cannot reach what the Pod's others have: neither their
// processes, and through those their files, nor the whole node.
func (c *Container) Apart() (bool, error) {
	spec, err := c.spec()
	if err != nil {
		return false, err
	}
	if spec.Linux == nil || spec.Process == nil {
		return false, nil
	}
	if capabilities := spec.Process.Capabilities; capabilities != nil {
		for _, capability := range capabilities.Bounding {
			if capability == "CAP_SYS_ADMIN" {
				return false, nil
			}
		}
	}
	for _, namespace := range spec.Linux.Namespaces {
		if namespace.Type == "pid" {
			return namespace.Path == "", nil
		}
	}
	return false, nil
}
