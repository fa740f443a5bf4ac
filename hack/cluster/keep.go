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
	"os/exec"
	"runtime"
	"syscall"
	"time"
)

// The kube-controller-manager and the kube-scheduler end themselves where they cannot trust what they know, after their
// kube-apiserver was away for instance ("Scheduler cache is corrupted"): they rely on being started again, as static Pods
// are. So they run below a process that does that, which is the one that is recorded, and ended.

const (
	// keepWait is how long after its end a program is started again, the first time and at most.
	keepWait, keepMaxWait = time.Second, 10 * time.Second
	// keepsWell is how long one has to run for the next wait to be the first again.
	keepsWell = time.Minute
)

// keeping is how this program runs another and starts it again.
func keeping(exe string, args []string) (string, []string, error) {
	self, err := os.Executable()
	return self, append([]string{"keep", exe}, args...), err
}

// keep runs a program again and again, until ctx ends and the program with it.
func keep(ctx context.Context, command []string) error {
	if len(command) == 0 {
		return errors.New("keep: name a program")
	}
	// A child dies with its parent by the thread that has made it.
	runtime.LockOSThread()
	for wait := keepWait; ; {
		began := time.Now()
		cmd := exec.CommandContext(ctx, command[0], command[1:]...)
		cmd.Stdout, cmd.Stderr = os.Stdout, os.Stderr
		cmd.Cancel = func() error { return cmd.Process.Signal(syscall.SIGTERM) }
		diesWithParent(cmd)
		err := cmd.Run()
		select {
		case <-ctx.Done():
			return nil
		default:
		}
		if time.Since(began) > keepsWell {
			wait = keepWait
		}
		fmt.Fprintf(os.Stderr, "cluster: %s has ended (%v); it is started again in %s\n", command[0], err, wait)
		select {
		case <-ctx.Done():
			return nil
		case <-time.After(wait):
		}
		wait = min(2*wait, keepMaxWait)
	}
}
