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
	"fmt"
	"os"
	"path"
	"slices"
	"strconv"
	"strings"

	tasks "github.com/containerd/containerd/api/services/tasks/v1"
	"github.com/containerd/errdefs/pkg/errgrpc"
	runtimespec "github.com/opencontainers/runtime-spec/specs-go"
)

// Mounted is something that a container, or somebody in it, has mounted itself: neither its Pod nor its image says so, and
// what is in it is not among the container's files.
type Mounted struct {
	Path, Type string
}

// Mounted are the mounts of the container's first process that its runtime has not made. None where it has ended. It needs
// the node's PID namespace: without, nothing is found.
func (c *Container) Mounted(ctx context.Context) ([]Mounted, error) {
	spec, err := c.spec()
	if err != nil {
		return nil, err
	}
	mounts, err := c.mountinfo(ctx)
	if err != nil || mounts == "" {
		return nil, err
	}
	return mountedInside(mounts, c.ref.ID, spec), nil
}

// mountinfo is the list of what the container's first process has mounted; empty where it has ended, or is not in the
// same PID namespace.
func (c *Container) mountinfo(ctx context.Context) (string, error) {
	answer, err := c.client.tasks.Get(c.client.in(ctx), &tasks.GetRequest{ContainerID: c.ref.ID})
	err = errgrpc.ToNative(err)
	if isNotFound(err) {
		return "", nil
	}
	if err != nil {
		return "", fmt.Errorf("asking containerd for the first process of container %q: %w", c.ref.Name, err)
	}
	process := "/proc/" + strconv.FormatUint(uint64(answer.GetProcess().GetPid()), 10)
	mounts, err := os.ReadFile(process + "/mountinfo")
	if os.IsNotExist(err) {
		return "", nil
	}
	if err != nil {
		return "", fmt.Errorf("reading what is mounted in container %q: %w", c.ref.Name, err)
	}
	// After the mounts: they are that process's, or of one that has ended since.
	cgroups, err := os.ReadFile(process + "/cgroup")
	if err != nil || !strings.Contains(string(cgroups), c.ref.ID) {
		return "", nil //nolint:nilerr // it has ended
	}
	return string(mounts), nil
}

// mountedInside reads a list of mounts as the kernel writes it.
// https://docs.kernel.org/filesystems/proc.html#proc-pid-mountinfo-information-about-mounts
func mountedInside(mountinfo, containerID string, spec *runtimespec.Spec) []Mounted {
	volumes := "/containers/" + containerID + "/volumes/"
	made, beyond := []string{"/", "/dev", "/proc", "/sys"}, []string{"/dev", "/proc", "/sys"}
	for _, m := range spec.Mounts {
		made = append(made, path.Clean(m.Destination))
		// What is mounted below a volume of the image hides files that are kept; below any other
		// mount it hides what is not kept, and may have come with it.
		if !strings.Contains(m.Source, volumes) {
			beyond = append(beyond, path.Clean(m.Destination))
		}
	}
	if spec.Linux != nil {
		made = append(append(made, spec.Linux.MaskedPaths...), spec.Linux.ReadonlyPaths...)
	}
	var found []Mounted
	device := ""
	for line := range strings.Lines(mountinfo) {
		before, after, ok := strings.Cut(line, " - ")
		place, kind := strings.Fields(before), strings.Fields(after)
		if !ok || len(place) < 6 || len(kind) < 1 {
			continue
		}
		at := unescaped(place[4])
		if at == "/" {
			device = place[2]
		}
		switch {
		case slices.Contains(made, at), slices.ContainsFunc(beyond, func(dir string) bool { return strings.HasPrefix(at, dir+"/") }):
		case place[2] == device, strings.Contains(place[3], volumes):
			// A directory of the container itself, seen in two places.
		case slices.Contains(strings.Split(place[5], ","), "ro"):
			// Nobody writes there: the libraries of a device's driver, put in place by a hook of the runtime.
		case slices.Contains(filesystemsWithoutFiles, kind[0]), slices.Contains(found, Mounted{at, kind[0]}):
		default:
			found = append(found, Mounted{at, kind[0]})
		}
	}
	return found
}

// filesystemsWithoutFiles show the kernel's own state, which is the same or another in each container.
var filesystemsWithoutFiles = []string{
	"proc", "sysfs", "cgroup", "cgroup2", "devpts", "devtmpfs", "mqueue", "nsfs", "bpf", "debugfs", "tracefs", "securityfs",
	"configfs", "fusectl", "binfmt_misc", "hugetlbfs", "efivarfs", "pstore", "rpc_pipefs", "autofs",
}

// unescaped is a path as it is: blanks and backslashes are written as three octal digits.
func unescaped(s string) string {
	var b strings.Builder
	for i := 0; i < len(s); i++ {
		if s[i] == '\\' && i+3 < len(s) {
			if c, err := strconv.ParseUint(s[i+1:i+4], 8, 8); err == nil {
				b.WriteByte(byte(c))
				i += 3
				continue
			}
		}
		b.WriteByte(s[i])
	}
	return b.String()
}
