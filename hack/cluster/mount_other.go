//go:build !linux

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
	"os/exec"
	"syscall"
)

// A node runs on Linux only. On other systems this program is built so that it can say so.

var errNotLinux = errors.New("only on Linux")

func mountOverlay(_, _ string) error { return errNotLinux }
func unmount(_ string) error         { return errNotLinux }
func diesWithParent(_ *exec.Cmd)     {}
func apart(_ *syscall.SysProcAttr)   {}

func hold(_ context.Context, _ layout, _ node) error { return errNotLinux }
