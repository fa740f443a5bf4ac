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
	"path/filepath"
	"slices"
	"strings"
)

// The cluster can be one of another Kubernetes, the oldest that the server supports for instance. Its control plane and
// node are built from the same sources with another file of pinned versions beside go.mod, into a folder of their own;
// everything else, kubectl too, is shared.

// otherVersions are those that there is a file for.
func otherVersions(source string) []string {
	files, _ := filepath.Glob(filepath.Join(source, "kubernetes-*.mod"))
	var versions []string
	for _, file := range files {
		versions = append(versions, strings.TrimSuffix(strings.TrimPrefix(filepath.Base(file), "kubernetes-"), ".mod"))
	}
	return versions
}

// chooseKubernetes sets the version that somebody asks for; of a cluster that is up, it is the one that it was started with.
func chooseKubernetes(l layout, asked string) (layout, error) {
	chosen, err := os.ReadFile(l.chosenFile())
	switch {
	case err == nil && asked != "" && asked != string(chosen):
		return l, fmt.Errorf("the cluster in %s is one of Kubernetes %s: `down` ends it, then choose another", l.dir, orNewest(string(chosen)))
	case err == nil:
		asked = string(chosen)
	case !errors.Is(err, os.ErrNotExist):
		return l, err
	}
	if asked == "" {
		return l, nil
	}
	if !slices.Contains(otherVersions(l.source), asked) {
		return l, fmt.Errorf("there is no Kubernetes %q to build: leave it out for that of go.mod, or choose from %s", asked, strings.Join(otherVersions(l.source), ", "))
	}
	l.kubernetes = asked
	return l, nil
}

func orNewest(version string) string {
	if version == "" {
		return "of go.mod"
	}
	return version
}

// buildKubernetes builds the components of the chosen version, where that is not go.mod's.
func buildKubernetes(ctx context.Context, l layout, say reporter) error {
	if l.kubernetes == "" {
		return nil
	}
	hash := sha256.New()
	modfile := "kubernetes-" + l.kubernetes + ".mod"
	for _, file := range []string{modfile, strings.TrimSuffix(modfile, ".mod") + ".sum", "node/main.go"} {
		content, err := os.ReadFile(filepath.Join(l.source, file))
		if err != nil {
			return err
		}
		fmt.Fprintf(hash, "%s %d\n%s\n", file, len(content), content)
	}
	stamp := fmt.Sprintf("%x\n", hash.Sum(nil))
	folder := filepath.Dir(l.exe("kube"))
	if have, err := os.ReadFile(filepath.Join(folder, "stamp")); err == nil && string(have) == stamp {
		return nil
	}
	version, err := goCommand(ctx, l, "list", "-modfile="+modfile, "-m", "-f", "{{.Version}}", "k8s.io/kubernetes")
	if err != nil {
		return fmt.Errorf("look up the version of Kubernetes %s: %w", l.kubernetes, err)
	}
	version = strings.TrimSpace(version)
	say("building Kubernetes %s: about ten minutes on 2 cores the first time", version)
	flags := []string{"-s", "-w"}
	for _, v := range kubernetesVersion(version) {
		flags = append(flags, "-X", v)
	}
	if err := os.MkdirAll(folder, 0o755); err != nil {
		return err
	}
	if _, err := goCommand(ctx, l, "build", "-modfile="+modfile, "-trimpath", "-ldflags", strings.Join(flags, " "), "-o", l.exe("kube"), "./node"); err != nil {
		return fmt.Errorf("build Kubernetes %s: %w", version, err)
	}
	for _, name := range kubernetesComponents {
		if err := os.Remove(l.exe(name)); err != nil && !errors.Is(err, os.ErrNotExist) {
			return err
		}
		if err := os.Symlink("kube", l.exe(name)); err != nil {
			return err
		}
	}
	return writeFile(filepath.Join(folder, "stamp"), []byte(stamp), 0o644)
}
