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

import "syscall"

func mountOverlay(target, options string) error {
	return syscall.Mount("overlay", target, "overlay", 0, options)
}

// unmount takes a mount away; one in use goes out of sight at once and away with its last user.
func unmount(target string) error {
	if syscall.Unmount(target, 0) == nil {
		return nil
	}
	return syscall.Unmount(target, syscall.MNT_DETACH)
}
