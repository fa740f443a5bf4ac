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
	"crypto/sha256"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
)

// kubernetesComponents are the names under which the one program of ./node runs.
var kubernetesComponents = []string{
	"kube-apiserver", "kube-controller-manager", "kube-scheduler", "kube-proxy", "kubelet", "kubectl",
}

// recipe is one call of `go build`; the versions are those of go.mod.
type recipe struct {
	what     string
	module   string // whose version is reported
	packages []string
	output   string // below bin; with a slash at its end: a directory, programs named by their packages
	versions func(version string) []string
}

var recipes = []recipe{
	{
		what: "etcd", module: "go.etcd.io/etcd/server/v3", output: "etcd",
		packages: []string{"go.etcd.io/etcd/server/v3"},
	},
	{
		what: "registry", module: "github.com/distribution/distribution/v3", output: "registry",
		packages: []string{"./registry"},
	},
	{
		what: "CNI plugins", module: "github.com/containernetworking/plugins", output: "cni/",
		packages: []string{
			"github.com/containernetworking/plugins/plugins/main/bridge",
			"github.com/containernetworking/plugins/plugins/ipam/host-local",
		},
	},
	{
		what: "pause", output: "pause", packages: []string{"./pause"},
	},
	{
		what: "containerd", module: "github.com/containerd/containerd/v2", output: "",
		packages: []string{
			"github.com/containerd/containerd/v2/cmd/containerd",
			"github.com/containerd/containerd/v2/cmd/containerd-shim-runc-v2",
			"github.com/containerd/containerd/v2/cmd/ctr",
		},
		versions: func(v string) []string { return []string{"github.com/containerd/containerd/v2/version.Version=" + v} },
	},
	{
		what: "Kubernetes", module: "k8s.io/kubernetes", output: "kube", packages: []string{"./node"},
		versions: kubernetesVersion,
	},
}

// kubernetesVersion are the variables without which clients cannot parse the server's version.
func kubernetesVersion(v string) []string {
	const pkg = "k8s.io/component-base/version."
	parts := strings.SplitN(strings.TrimPrefix(v, "v"), ".", 3)
	return []string{pkg + "gitVersion=" + v, pkg + "gitMajor=" + parts[0], pkg + "gitMinor=" + parts[1]}
}

// built tells whether bin holds exactly what the sources and pinned versions would give.
func built(l layout) bool {
	want, err := sourceStamp(l)
	if err != nil {
		return false
	}
	have, err := os.ReadFile(l.exe("stamp"))
	return err == nil && string(have) == want
}

// sourceStamp changes when anything does that the programs are made of.
func sourceStamp(l layout) (string, error) {
	hash := sha256.New()
	for _, file := range []string{"go.mod", "go.sum", "node/main.go", "registry/main.go", "pause/main.go", "build.go"} {
		content, err := os.ReadFile(filepath.Join(l.source, file))
		if err != nil {
			return "", fmt.Errorf("the sources of the cluster are not at %s (flag --source): %w", l.source, err)
		}
		fmt.Fprintf(hash, "%s %d\n%s\n", file, len(content), content)
	}
	return fmt.Sprintf("%x\n", hash.Sum(nil)), nil
}

// build makes what is missing in bin.
func build(ctx context.Context, l layout, say reporter) error {
	if built(l) {
		return nil
	}
	stamp, err := sourceStamp(l)
	if err != nil {
		return err
	}
	say("building the node's programs into %s: about a quarter of an hour on 2 cores the first time, seconds when cached", l.bin)
	for _, r := range recipes {
		version, err := moduleVersion(ctx, l, r.module)
		if err != nil {
			return err
		}
		say("building %s %s", r.what, version)
		if err := r.run(ctx, l, version); err != nil {
			return err
		}
	}
	for _, name := range kubernetesComponents {
		if err := os.Remove(l.exe(name)); err != nil && !errors.Is(err, os.ErrNotExist) {
			return err
		}
		if err := os.Symlink("kube", l.exe(name)); err != nil {
			return err
		}
	}
	return writeFile(l.exe("stamp"), []byte(stamp), 0o644)
}

func (r recipe) run(ctx context.Context, l layout, version string) error {
	output := filepath.Join(l.bin, r.output)
	if r.output == "" || strings.HasSuffix(r.output, "/") {
		output += "/"
	}
	if err := os.MkdirAll(filepath.Dir(output), 0o755); err != nil {
		return err
	}
	flags := []string{"-s", "-w"}
	if r.versions != nil {
		for _, v := range r.versions(version) {
			flags = append(flags, "-X", v)
		}
	}
	args := append([]string{"build", "-trimpath", "-ldflags", strings.Join(flags, " "), "-o", output}, r.packages...)
	if _, err := goCommand(ctx, l, args...); err != nil {
		return fmt.Errorf("build %s: %w", r.what, err)
	}
	return nil
}

func moduleVersion(ctx context.Context, l layout, module string) (string, error) {
	if module == "" {
		return "", nil
	}
	version, err := goCommand(ctx, l, "list", "-m", "-f", "{{.Version}}", module)
	if err != nil {
		return "", fmt.Errorf("look up the version of %s: %w", module, err)
	}
	return strings.TrimSpace(version), nil
}

// goCommand runs the Go tool on this module with settings of its own: static programs, nothing from a workspace around it.
func goCommand(ctx context.Context, l layout, args ...string) (string, error) {
	cmd := exec.CommandContext(ctx, "go", args...)
	cmd.Dir = l.source
	cmd.Env = append(os.Environ(), "CGO_ENABLED=0", "GOFLAGS=-mod=readonly -buildvcs=false", "GOWORK=off", "GOOS=linux", "GOARCH="+goarch())
	var stderr tail
	cmd.Stderr = &stderr
	out, err := cmd.Output()
	if ctx.Err() != nil {
		return "", errors.New("interrupted; the next `up` goes on from the build cache")
	}
	if err != nil {
		return "", fmt.Errorf("go %s: %w\n%s", args[0], err, stderr.String())
	}
	return string(out), nil
}

// tail keeps the last kilobytes written to it.
type tail struct{ bytes []byte }

func (t *tail) Write(p []byte) (int, error) {
	t.bytes = append(t.bytes, p...)
	t.bytes = t.bytes[max(0, len(t.bytes)-4096):]
	return len(p), nil
}

func (t *tail) String() string { return string(t.bytes) }
