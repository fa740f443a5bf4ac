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

package node

import (
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"testing"
)

// forRuntimes runs a test with each runtime that is to be had: they freeze in different ways.
func forRuntimes(t *testing.T, test func(*testing.T, *stage)) {
	t.Helper()
	for name, find := range map[string]func() (string, error){"runc": findRunc, "crun": findCrun} {
		t.Run(name, func(t *testing.T) {
			path, err := find()
			if err != nil {
				t.Skipf("%s is not to be had: %s", name, strings.ReplaceAll(err.Error(), "\n", "; "))
			}
			test(t, newStage(t, path))
		})
	}
}

// findRunc finds the one that the local cluster has installed.
func findRunc() (string, error) { return exec.LookPath("runc") }

// crunSuite is the release of Debian whose crun starts containers under this containerd: that of
// Debian 12 (1.8.1) knows no feature that it asks for.
const crunSuite = "trixie"

// findCrun fetches it once, with the libraries that it needs, and installs nothing. CRUN names another.
var findCrun = sync.OnceValues(func() (string, error) {
	if other := os.Getenv("CRUN"); other != "" {
		return other, nil
	}
	dir := filepath.Join(filepath.Dir(filepath.Dir(bin("crun"))), "crun-"+crunSuite)
	wrapper := filepath.Join(dir, "crun")
	if out, err := exec.Command(wrapper, "--version").CombinedOutput(); err == nil && strings.HasPrefix(string(out), "crun version") {
		return wrapper, nil
	}
	if err := fetchCrun(dir); err != nil {
		return "", err
	}
	loaders, err := filepath.Glob(dir + "/root/usr/lib/*/ld-linux-*")
	if err != nil || len(loaders) != 1 {
		return "", fmt.Errorf("its C library has the loaders %q, want one", loaders)
	}
	script := fmt.Sprintf("#!/bin/sh\nexec %s --library-path %s %s \"$@\"\n", loaders[0], filepath.Dir(loaders[0]), dir+"/root/usr/bin/crun")
	if err := os.WriteFile(wrapper, []byte(script), 0o755); err != nil {
		return "", err
	}
	out, err := exec.Command(wrapper, "--version").CombinedOutput()
	if err != nil {
		return "", fmt.Errorf("crun --version: %w: %s", err, out)
	}
	return wrapper, nil
})

func fetchCrun(dir string) error {
	mirror, err := debianMirror()
	if err != nil {
		return err
	}
	var options []string
	for option, value := range map[string]string{
		"APT::Sandbox::User": "root", "Dir::Etc::sourcelist": dir + "/sources.list", "Dir::Etc::sourceparts": "/dev/null",
		"Dir::State::lists": dir + "/lists", "Dir::Cache": dir + "/cache", "Acquire::Retries": "3",
		"Acquire::IndexTargets::deb::DEP-11::DefaultEnabled": "false", "Acquire::Languages": "none",
	} {
		options = append(options, "--option="+option+"="+value)
	}
	for _, sub := range []string{"lists/partial", "cache/archives/partial", "packages", "root"} {
		if err := os.MkdirAll(filepath.Join(dir, sub), 0o755); err != nil {
			return err
		}
	}
	if err := os.WriteFile(dir+"/sources.list", []byte("deb "+mirror+" "+crunSuite+" main\n"), 0o644); err != nil {
		return err
	}
	for _, args := range [][]string{
		{"update"},
		{"download", "crun", "libyajl2", "libc6", "libseccomp2", "libcap2", "libsystemd0", "libgcrypt20", "libgpg-error0", "liblzma5", "libzstd1", "liblz4-1"},
	} {
		cmd := exec.Command("apt-get", append(append([]string{"--quiet"}, options...), args...)...)
		cmd.Dir = filepath.Join(dir, "packages")
		if out, err := cmd.CombinedOutput(); err != nil {
			return fmt.Errorf("apt-get %s: %w: %s", args[0], err, out)
		}
	}
	packages, err := filepath.Glob(dir + "/packages/*.deb")
	if err == nil && len(packages) == 0 {
		err = errors.New("apt-get has downloaded nothing")
	}
	for _, one := range packages {
		if out, extractErr := exec.Command("dpkg-deb", "--extract", one, filepath.Join(dir, "root")).CombinedOutput(); extractErr != nil {
			err = errors.Join(err, fmt.Errorf("unpacking %s: %w: %s", one, extractErr, out))
		}
	}
	return err
}

// debianMirror is where this machine has its packages from.
func debianMirror() (string, error) {
	out, err := exec.Command("apt-get", "indextargets", "--format", "$(REPO_URI)", "Created-By: Packages").Output()
	if err != nil {
		return "", fmt.Errorf("apt-get indextargets: %w", err)
	}
	for _, uri := range strings.Fields(string(out)) {
		if strings.HasSuffix(strings.TrimSuffix(uri, "/"), "/debian") {
			return uri, nil
		}
	}
	return "", errors.New("apt-get knows no source of Debian's own packages")
}
