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

package artifacts

import (
	"bufio"
	"bytes"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
)

// TestAClientNeedsNoServer builds an example program outside of this repository, as somebody would who imports the clients:
// with them come the API's machinery and nothing of the server's.
func TestAClientNeedsNoServer(t *testing.T) {
	const ours = "github.com/opensandbox-io/sandbox-apiserver"
	root, err := filepath.Abs("..")
	if err != nil {
		t.Fatal(err)
	}
	dir := t.TempDir()
	program, err := os.ReadFile(filepath.Join("examples", "clientset", "main.go"))
	if err != nil {
		t.Fatal(err)
	}
	// What the clients require, in the versions that the server is built with: those are here and compiled.
	versions := requires(t, filepath.Join(root, "go.mod"))
	module := []string{"module example.com/client", "go 1.26.0"}
	for path, version := range requires(t, filepath.Join(root, "generated", "go.mod")) {
		if path != ours+"/apis" && versions[path] != "" {
			version = versions[path]
		}
		module = append(module, "require "+path+" "+version)
	}
	module = append(module, "require "+ours+"/generated "+versions[ours+"/generated"],
		"replace "+ours+"/apis => "+filepath.Join(root, "apis"), "replace "+ours+"/generated => "+filepath.Join(root, "generated"))
	sums, err := os.ReadFile(filepath.Join(root, "go.sum"))
	if err != nil {
		t.Fatal(err)
	}
	for name, content := range map[string][]byte{"main.go": program, "go.mod": []byte(strings.Join(module, "\n")), "go.sum": sums} {
		if err := os.WriteFile(filepath.Join(dir, name), content, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	run := func(args ...string) string {
		t.Helper()
		command := exec.CommandContext(t.Context(), "go", args...)
		command.Dir = dir
		command.Env = append(os.Environ(), "GOWORK=off", "GOFLAGS="+strings.TrimSpace(os.Getenv("GOFLAGS")+" -mod=mod"))
		var stderr bytes.Buffer
		command.Stderr = &stderr
		output, err := command.Output()
		if err != nil {
			t.Fatalf("%s: %v\n%s", command, err, stderr.String())
		}
		return string(output)
	}

	packages := run("list", "-deps", ".") // adds to go.mod what is still missing
	needed := requires(t, filepath.Join(dir, "go.mod"))
	for _, server := range []string{ours + " ", "etcd", "containerd", "k8s.io/apiserver", "k8s.io/kube-aggregator", "sigs.k8s.io/controller-runtime", "google.golang.org/grpc", "prometheus", "go-containerregistry"} {
		for path := range needed {
			if strings.Contains(path+" ", server) {
				t.Errorf("whoever imports the clients gets %s", path)
			}
		}
		if strings.Contains(strings.ReplaceAll(packages, "\n", " "), server) {
			t.Errorf("the clients import packages of %s", server)
		}
	}
	if needed["k8s.io/client-go"] == "" || len(needed) > 60 {
		t.Errorf("go.mod has %d modules: %v", len(needed), needed)
	}

	run("build", "-o", filepath.Join(dir, "client"), ".")
}

// requires are the modules that a go.mod names, and their versions.
func requires(t *testing.T, path string) map[string]string {
	t.Helper()
	content, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	found := map[string]string{}
	for lines := bufio.NewScanner(bytes.NewReader(content)); lines.Scan(); {
		if module, version, ok := strings.Cut(strings.TrimPrefix(strings.TrimSpace(lines.Text()), "require "), " v"); ok && !strings.Contains(version, "=>") {
			version, _, _ = strings.Cut(version, " ")
			found[module] = "v" + version
		}
	}
	return found
}
