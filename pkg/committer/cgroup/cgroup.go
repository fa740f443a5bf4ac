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

// Package cgroup asks the kernel which processes of a node are frozen, and tells it to thaw them.
// Container runtimes freeze by cgroups, and remember what they asked for, not what came of it: of
// that only the cgroups tell. Both versions of the freezer are known.
// https://docs.kernel.org/admin-guide/cgroup-v2.html#core-interface-files
// https://docs.kernel.org/admin-guide/cgroup-v1/freezer-subsystem.html
package cgroup

import (
	"bufio"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"
)

// Tree is the hierarchy of a node that freezes.
type Tree struct {
	root    string
	version int
}

// Open finds the hierarchy below what a node mounts at /sys/fs/cgroup.
func Open(root string) (*Tree, error) {
	var stat unix.Statfs_t
	if err := unix.Statfs(root, &stat); err != nil {
		return nil, fmt.Errorf("looking for the node's cgroups in %s: %w", root, err)
	}
	if stat.Type == unix.CGROUP2_SUPER_MAGIC {
		return &Tree{root: root, version: 2}, nil
	}
	// With the first version each controller has a hierarchy. Beside them there may be one of the
	// second version (unified), which no runtime uses then.
	freezer, err := mountedFreezer(root)
	if err != nil {
		return nil, err
	}
	if freezer == "" {
		return nil, fmt.Errorf("%s is neither a cgroup hierarchy of version 2 nor has it one that freezes: it has to be the node's /sys/fs/cgroup", root)
	}
	return &Tree{root: freezer, version: 1}, nil
}

// mountedFreezer is where below root the first version's freezer is mounted.
func mountedFreezer(root string) (string, error) {
	mounts, err := os.ReadFile("/proc/self/mountinfo")
	if err != nil {
		return "", err
	}
	for line := range strings.Lines(string(mounts)) {
		before, after, found := strings.Cut(line, " - ")
		place, kind := strings.Fields(before), strings.Fields(after)
		if !found || len(place) < 5 || len(kind) < 3 || kind[0] != "cgroup" || !isBelow(place[4], root) {
			continue
		}
		for option := range strings.SplitSeq(kind[2], ",") {
			if option == "freezer" {
				return place[4], nil
			}
		}
	}
	return "", nil
}

func isBelow(path, root string) bool {
	return strings.HasPrefix(path, strings.TrimSuffix(root, "/")+"/")
}

// Version is 1 or 2.
func (t *Tree) Version() int { return t.version }

// ErrGone says that there is no such cgroup, or none any more: who was in it has ended.
var ErrGone = errors.New("the cgroup does not exist")

// Container finds the cgroup of a container: by the path that its runtime was given
// (linux.cgroupsPath of the OCI runtime specification), else by its ID, which is in the name.
func (t *Tree) Container(id, cgroupsPath string) (*Group, error) {
	if relative := expand(cgroupsPath); relative != "" {
		g := &Group{tree: t, dir: filepath.Join(t.root, relative), container: true}
		if g.exists() {
			return g, nil
		}
	}
	// The path may be relative to where the runtime itself is.
	var found *Group
	err := filepath.WalkDir(t.root, func(path string, entry fs.DirEntry, err error) error {
		switch {
		case errors.Is(err, fs.ErrNotExist):
			return nil // cgroups come and go
		case err != nil:
			return err
		case !entry.IsDir():
			return nil
		case strings.Contains(entry.Name(), id):
			found = &Group{tree: t, dir: path, container: true}
			return fs.SkipAll
		}
		return nil
	})
	if err != nil {
		return nil, fmt.Errorf("looking for the cgroup of container %s: %w", id, err)
	}
	if found == nil {
		return nil, fmt.Errorf("%w: container %s, which should be in %q", ErrGone, id, cgroupsPath)
	}
	return found, nil
}

// expand is a cgroupsPath below the root of the hierarchy: it is a path, or SLICE:PREFIX:NAME where
// systemd makes the cgroups, who nests slices by the dashes of their names.
func expand(cgroupsPath string) string {
	parts := strings.Split(cgroupsPath, ":")
	if len(parts) != 3 {
		return strings.Trim(filepath.Clean("/"+cgroupsPath), "/")
	}
	slice, prefix, name := parts[0], parts[1], parts[2]
	if slice == "" {
		slice = "system.slice"
	}
	path, nested := "", ""
	for part := range strings.SplitSeq(strings.TrimSuffix(slice, ".slice"), "-") {
		if part == "" {
			continue // -.slice is the root
		}
		nested = strings.TrimPrefix(nested+"-"+part, "-")
		path = filepath.Join(path, nested+".slice")
	}
	if !strings.HasSuffix(name, ".slice") {
		name = strings.TrimPrefix(prefix+"-"+name, "-") + ".scope"
	}
	return filepath.Join(path, name)
}

// Group is one cgroup.
type Group struct {
	tree *Tree
	dir  string
	// container is whether a runtime made it for a container, and may have put that into one below.
	container bool
}

// Path is the cgroup's name, as its hierarchy counts.
func (g *Group) Path() string { return strings.TrimPrefix(g.dir, g.tree.root) }

func (g *Group) exists() bool {
	info, err := os.Stat(g.dir)
	return err == nil && info.IsDir()
}

// Pod is the cgroup of a Pod that the container's lies in: with all of the Pod's containers, and
// whatever its processes have made beside them. It is nil where the node gives a Pod none.
func (g *Group) Pod(podUID string) *Group {
	// systemd's names have no dashes in them.
	plain := strings.NewReplacer("-", "", "_", "").Replace
	for dir := filepath.Dir(g.dir); isBelow(dir, g.tree.root); dir = filepath.Dir(dir) {
		if podUID != "" && strings.Contains(plain(filepath.Base(dir)), plain(podUID)) {
			return &Group{tree: g.tree, dir: dir}
		}
	}
	return nil
}

// Children are the cgroups just below.
func (g *Group) Children() ([]*Group, error) {
	entries, err := os.ReadDir(g.dir)
	if err != nil {
		return nil, g.fault(err)
	}
	var children []*Group
	for _, entry := range entries {
		if entry.IsDir() {
			children = append(children, &Group{tree: g.tree, dir: filepath.Join(g.dir, entry.Name())})
		}
	}
	return children, nil
}

// Has says whether it is other, or other lies below it.
func (g *Group) Has(other *Group) bool {
	return other != nil && (g.dir == other.dir || isBelow(other.dir, g.dir))
}

// Processes are the PIDs of all processes in the cgroup and in those below it. 0 stands for one
// that this process' PID namespace does not show.
func (g *Group) Processes() ([]int, error) {
	var pids []int
	err := filepath.WalkDir(g.dir, func(path string, entry fs.DirEntry, err error) error {
		if errors.Is(err, fs.ErrNotExist) || err == nil && !entry.IsDir() {
			return nil
		}
		if err != nil {
			return err
		}
		some, err := pidsIn(filepath.Join(path, "cgroup.procs"))
		// A threaded cgroup has threads, whose processes the one above it lists.
		if isGone(err) || errors.Is(err, unix.EOPNOTSUPP) {
			return nil
		}
		pids = append(pids, some...)
		return err
	})
	if err != nil {
		return nil, g.fault(err)
	}
	return pids, nil
}

func pidsIn(file string) ([]int, error) {
	f, err := os.Open(file)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	var pids []int
	lines := bufio.NewScanner(f)
	for lines.Scan() {
		pid, err := strconv.Atoi(lines.Text())
		if err != nil {
			return nil, fmt.Errorf("%s: %w", file, err)
		}
		pids = append(pids, pid)
	}
	return pids, lines.Err()
}

func (g *Group) read(name string) (string, error) {
	data, err := os.ReadFile(filepath.Join(g.dir, name))
	if err != nil {
		return "", g.fault(err)
	}
	return strings.TrimSpace(string(data)), nil
}

func (g *Group) write(name, value string) error {
	file, err := os.OpenFile(filepath.Join(g.dir, name), os.O_WRONLY, 0)
	if err != nil {
		return g.fault(err)
	}
	_, err = file.WriteString(value)
	return g.fault(errors.Join(err, file.Close()))
}

// fault makes a cgroup that is being removed one that is gone.
func (g *Group) fault(err error) error {
	if isGone(err) {
		return fmt.Errorf("%w: %s", ErrGone, g.Path())
	}
	return err
}

func isGone(err error) bool {
	return errors.Is(err, fs.ErrNotExist) || errors.Is(err, unix.ENODEV)
}
