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

// Package node has the tests of what a commit does to a node with the second version of cgroups,
// which nodes in production have, with the runtimes that they have: frozen is there what the kernel
// says. They start a containerd of their own in a private mount namespace; the machine's cgroups
// may be of either version. What they need besides is in the local cluster's directory (CLUSTER_DIR),
// or fetched from Debian.
package node

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"syscall"
	"testing"

	"golang.org/x/sys/unix"
)

// private is set in the process that has mounts of its own.
const private = "NODE_TEST_PRIVATE"

func TestMain(m *testing.M) {
	if os.Getenv(private) == "" {
		os.Exit(again())
	}
	if err := mountCgroups(); err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
	os.Exit(m.Run())
}

// again runs the tests in a mount namespace of their own, where nobody but they sees what they mount.
func again() int {
	cmd := exec.Command("/proc/self/exe", os.Args[1:]...)
	cmd.Stdout, cmd.Stderr = os.Stdout, os.Stderr
	cmd.Env = append(os.Environ(), private+"=true")
	cmd.SysProcAttr = &syscall.SysProcAttr{Cloneflags: syscall.CLONE_NEWNS, Pdeathsig: syscall.SIGTERM}
	if err := cmd.Run(); err != nil {
		fmt.Fprintln(os.Stderr, "node:", err)
		return 1
	}
	return 0
}

func mountCgroups() error {
	if err := unix.Mount("", "/", "", unix.MS_REC|unix.MS_PRIVATE, ""); err != nil {
		return fmt.Errorf("making all mounts private: %w", err)
	}
	var stat unix.Statfs_t
	if err := unix.Statfs("/sys/fs/cgroup", &stat); err == nil && stat.Type == unix.CGROUP2_SUPER_MAGIC {
		return nil // the kernel mounts nothing on itself
	}
	if err := unix.Mount("none", "/sys/fs/cgroup", "cgroup2", 0, ""); err != nil {
		return fmt.Errorf("mounting cgroup2: %w", err)
	}
	return nil
}

// bin is the local cluster's directory of programs.
func bin(name string) string {
	dir := os.Getenv("CLUSTER_DIR")
	if dir == "" {
		dir = "../../.cluster"
	}
	path, err := filepath.Abs(filepath.Join(dir, "bin", name))
	if err != nil {
		panic(err)
	}
	return path
}
