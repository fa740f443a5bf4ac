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
	"path/filepath"
	"strings"
)

// missingPackages names the Debian packages that hold what neither Go modules nor this machine do.
func missingPackages(l layout) []string {
	var missing []string
	for _, tool := range [][2]string{{"runc", "runc"}, {"nft", "nftables"}, {"ip", "iproute2"}, {"mount", "mount"}, {"nsenter", "util-linux"}} {
		if !hasTool(tool[0]) {
			missing = append(missing, tool[1])
		}
	}
	if findBusybox(l) == "" {
		missing = append(missing, "busybox-static")
	}
	return missing
}

func findBusybox(l layout) string {
	for _, path := range []string{"/bin/busybox", "/usr/bin/busybox", l.debian("bin/busybox"), l.debian("usr/bin/busybox")} {
		if isStatic(path) {
			return path
		}
	}
	return ""
}

// installPackages installs what is missing, and says so first. busybox-static is only unpacked below the cluster's
// directory: installed, it would push out another busybox.
func installPackages(ctx context.Context, l layout, missing []string, say reporter) error {
	var install []string
	unpackBusybox := false
	for _, name := range missing {
		if name == "busybox-static" {
			unpackBusybox = true
		} else {
			install = append(install, name)
		}
	}
	if len(install) > 0 {
		say("installing with apt-get: %s (they stay after `down`)", strings.Join(install, ", "))
		args := append([]string{"install", "--yes", "--no-install-recommends"}, install...)
		if err := aptGet(ctx, say, "", args...); err != nil {
			return err
		}
	}
	if !unpackBusybox {
		return nil
	}
	say("unpacking the Debian package busybox-static into %s", l.debian(""))
	download, err := os.MkdirTemp("", "busybox-static-")
	if err != nil {
		return err
	}
	defer os.RemoveAll(download)
	if err := os.Chmod(download, 0o755); err != nil { // apt downloads as a user of its own
		return err
	}
	if err := aptGet(ctx, say, download, "download", "busybox-static"); err != nil {
		return err
	}
	packages, err := filepath.Glob(filepath.Join(download, "*.deb"))
	if err != nil || len(packages) != 1 {
		return fmt.Errorf("apt-get download busybox-static left %d packages in %s, want 1", len(packages), download)
	}
	if out, err := exec.CommandContext(ctx, "dpkg-deb", "--extract", packages[0], l.debian("")).CombinedOutput(); err != nil {
		return fmt.Errorf("unpack %s: %w: %s", packages[0], err, out)
	}
	if findBusybox(l) == "" {
		return errors.New("the Debian package busybox-static holds no static busybox: install one as /bin/busybox")
	}
	return nil
}

// aptGet tries with the package lists as they are; only when that fails it fetches new ones.
func aptGet(ctx context.Context, say reporter, dir string, args ...string) error {
	run := func(args ...string) error {
		cmd := exec.CommandContext(ctx, "apt-get", append([]string{"-q", "--option=Acquire::Retries=3"}, args...)...)
		cmd.Dir = dir
		cmd.Env = append(os.Environ(), "DEBIAN_FRONTEND=noninteractive")
		var output tail
		cmd.Stdout, cmd.Stderr = &output, &output
		if err := cmd.Run(); err != nil {
			return fmt.Errorf("apt-get %s: %w\n%s", strings.Join(args, " "), err, output.String())
		}
		return nil
	}
	if run(args...) == nil {
		return nil
	}
	say("fetching the package lists with apt-get update")
	if err := run("update"); err != nil {
		return err
	}
	return run(args...)
}
