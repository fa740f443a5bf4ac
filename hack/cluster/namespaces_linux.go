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
	"errors"
	"fmt"
	"os"
	"syscall"
)

// apart has a process begin in a mount and a network namespace of its own.
func apart(attributes *syscall.SysProcAttr) {
	attributes.Cloneflags = syscall.CLONE_NEWNS | syscall.CLONE_NEWNET
}

// hold is the process that a further node's namespaces live by: it puts what is the node's own over what is the first
// one's, and stays.
func hold(ctx context.Context, l layout, n node) error {
	own, err := os.Readlink("/proc/self/ns/mnt")
	if err != nil {
		return err
	}
	if parents, err := os.Readlink(fmt.Sprintf("/proc/%d/ns/mnt", os.Getppid())); err != nil || parents == own {
		return errors.New("`up` calls hold, in namespaces of its own")
	}
	// From here on nothing that is mounted or unmounted is so for the machine, nor the other way round.
	if err := syscall.Mount("", "/", "", syscall.MS_REC|syscall.MS_PRIVATE, ""); err != nil {
		return fmt.Errorf("part with the machine's mounts: %w", err)
	}
	for place, instead := range n.covers(l) {
		// What the first node has mounted was copied, and would be in use for as long as the copy is.
		if err := unmountBelow(place); err != nil {
			return err
		}
		if err := syscall.Mount(instead, place, "", syscall.MS_BIND, ""); err != nil {
			return fmt.Errorf("mount %s at %s: %w", instead, place, err)
		}
	}
	// As systemd has it, and as volumes with a propagation want it.
	if err := syscall.Mount("", "/", "", syscall.MS_REC|syscall.MS_SHARED, ""); err != nil {
		return fmt.Errorf("share the mounts among the node's programs: %w", err)
	}
	if err := writeFile(n.home(l, heldFile), nil, 0o644); err != nil {
		return err
	}
	<-ctx.Done()
	return nil
}
