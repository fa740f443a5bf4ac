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
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
)

// TestAnOldKubernetesIsRefusedBeforeAnythingIsInstalled: an API that is registered and does not work keeps every namespace
// of the cluster from being deleted.
func TestAnOldKubernetesIsRefusedBeforeAnythingIsInstalled(t *testing.T) {
	for _, test := range []struct {
		version, says string
		installs      bool
		env           string
	}{
		{version: "v1.34.9", says: "this cluster is Kubernetes 1.34, and the server supports 1.35 and later"},
		{version: "v1.9.11", says: "this cluster is Kubernetes 1.9, and"},
		{version: "v1.34.9-eks-1a2b3c4", says: "1.34, and"},
		{version: "v1.34.9", says: "Installing nevertheless", installs: true, env: "ANY_KUBERNETES=true"},
		{version: "v1.35.0", installs: true},
		{version: "v1.37.2+k3s1", installs: true},
		{version: "v1.100.0", installs: true},
		{version: "v2.0.0", installs: true},
		{version: "unknown", installs: true},
	} {
		bin := t.TempDir()
		calls := filepath.Join(bin, "calls")
		for name, does := range map[string]string{
			"kubectl": `[ "$*" = "get --raw /version" ] && exec printf '{\n  "major": "1",\n  "gitVersion": "` + test.version + `",\n  "goVersion": "go1.26.8"\n}\n'`,
			"go":      "", // it would look up the images
		} {
			program := "#!/bin/sh\n" + does + "\necho \"" + name + " $*\" >>" + calls + "\nexit 1\n"
			if err := os.WriteFile(filepath.Join(bin, name), []byte(program), 0o755); err != nil { //nolint:gosec // a program
				t.Fatal(err)
			}
		}
		command := exec.CommandContext(t.Context(), "bash", "../hack/deploy.sh", "apply")
		command.Env = append(os.Environ(), "PATH="+bin+":"+os.Getenv("PATH"), "REGISTRY=127.0.0.1:1/team", "TAG=v9", test.env)
		told, err := command.CombinedOutput()
		if err == nil {
			t.Fatalf("%s: it installed what there is not", test.version)
		}
		done, _ := os.ReadFile(calls)
		if installs := len(done) > 0; installs != test.installs || !strings.Contains(string(told), test.says) {
			t.Errorf("%s %s: it goes on to %q and says %q, want %v and %q", test.version, test.env, done, told, test.installs, test.says)
		}
	}
}

func TestTheOldestKubernetesIsTheSameEverywhere(t *testing.T) {
	find := func(file, pattern string) string {
		t.Helper()
		content, err := os.ReadFile(file)
		if err != nil {
			t.Fatal(err)
		}
		found := regexp.MustCompile(pattern).FindSubmatch(content)
		if found == nil {
			t.Fatalf("%s does not name the oldest Kubernetes: nothing like %s", file, pattern)
		}
		return string(found[1])
	}
	oldest := find("../pkg/server/hostcluster.go", `const OldestKubernetes = "([0-9.]+)"`)
	for file, pattern := range map[string]string{
		"../README.md":       `Kubernetes ([0-9.]+) to `,
		"../docs/install.md": `\*\*Supported: ([0-9.]+) to `,
		"../hack/cluster/kubernetes-" + oldest + ".mod": `k8s.io/kubernetes v([0-9]+\.[0-9]+)\.`,
	} {
		if named := find(file, pattern); named != oldest {
			t.Errorf("%s names Kubernetes %s as the oldest, the server %s", file, named, oldest)
		}
	}
}
