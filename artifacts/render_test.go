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
	"slices"
	"strings"
	"testing"
)

// TestManifestsCanBeReadWithoutAClusterOrImages: who wants to know what would be installed has neither yet.
func TestManifestsCanBeReadWithoutAClusterOrImages(t *testing.T) {
	// It puts nothing together, and fails for whatever asks a cluster.
	kubectl := "#!/bin/sh\n[ \"$1\" = kustomize ] && exec cat \"$2/kustomization.yaml\"\necho \"kubectl $*: there is no cluster\" >&2\nexit 1\n"
	bin := t.TempDir()
	if err := os.WriteFile(filepath.Join(bin, "kubectl"), []byte(kubectl), 0o755); err != nil { //nolint:gosec // a program
		t.Fatal(err)
	}
	for _, test := range []struct {
		name, image, says string
		env               []string
	}{
		{"to read", "registry.example.com/sandbox/sandbox-apiserver:", "as an example", []string{"REGISTRY="}},
		{"with the gateway", "registry.example.com/sandbox/sandbox-apiserver:", "as an example", []string{"REGISTRY=", "GATEWAY=true"}},
		{"before the images are pushed", "127.0.0.1:1/team/sandbox-apiserver:v9", "named by their tags", []string{"REGISTRY=127.0.0.1:1/team", "TAG=v9"}},
	} {
		command := exec.CommandContext(t.Context(), "bash", "../hack/deploy.sh", "render")
		command.Env = append(append(os.Environ(), test.env...), "PATH="+bin+":"+os.Getenv("PATH"), "SNAPSHOT_REGISTRY=registry.example.com/sandboxes")
		var told strings.Builder
		command.Stderr = &told
		manifests, err := command.Output()
		if err != nil {
			t.Errorf("%s: %v: %s", test.name, err, told.String())
			continue
		}
		for _, want := range []string{test.image, strings.Replace(test.image, "sandbox-apiserver", "image-committer", 1), "--snapshot-registry=registry.example.com/sandboxes"} {
			if !strings.Contains(string(manifests), want) {
				t.Errorf("%s: nothing of %s in\n%s", test.name, want, manifests)
			}
		}
		for _, of := range []string{"artifacts/gateway", strings.Replace(test.image, "sandbox-apiserver", "lifecycle-gateway", 1), "--execd-image=" + strings.Replace(test.image, "sandbox-apiserver", "execd", 1)} {
			if gateway := slices.Contains(test.env, "GATEWAY=true"); strings.Contains(string(manifests), of) != gateway {
				t.Errorf("%s: the gateway is asked for: %t, and of %s there is\n%s", test.name, gateway, of, manifests)
			}
		}
		if !strings.Contains(told.String(), test.says) {
			t.Errorf("%s: it says %q, nothing of %q", test.name, told.String(), test.says)
		}
	}
}
