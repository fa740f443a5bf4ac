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
	"os"
	"strings"
	"testing"

	"golang.org/x/mod/modfile"
)

// Every module that both the server and the cluster's programs are built from has one version: with two, Go compiles
// what lies above it twice, which is a quarter of the first build.
func TestTheServerAndItsClusterShareTheirVersions(t *testing.T) {
	server, cluster := versions(t, "../../go.mod"), versions(t, "go.mod")
	shared := 0
	for module, version := range server {
		other, both := cluster[module]
		if !both {
			continue
		}
		shared++
		if other != version {
			t.Errorf("%s is %s in go.mod and %s in hack/cluster/go.mod: `go get %[1]s@…` the newer one where it is older, then `go mod tidy`", module, version, other)
		}
	}
	if shared < 100 {
		t.Errorf("only %d modules are required by both, which is too few to be true", shared)
	}
}

// TestTheClientsShareTheServersVersions: apis and generated are modules of their own, tagged with the server. What they name
// themselves is what the server is built with, and they name each other as it does.
func TestTheClientsShareTheServersVersions(t *testing.T) {
	const ours = "github.com/opensandbox-io/sandbox-apiserver/"
	server := versions(t, "../../go.mod")
	for _, folder := range []string{"apis", "generated"} {
		path := "../../" + folder + "/go.mod"
		for _, r := range parse(t, path).Require {
			if !r.Indirect && server[r.Mod.Path] != r.Mod.Version {
				t.Errorf("%s is %s in go.mod and %s in %s/go.mod", r.Mod.Path, server[r.Mod.Path], r.Mod.Version, folder)
			}
		}
	}
	required := map[string]string{}
	for _, r := range parse(t, "../../go.mod").Require {
		required[r.Mod.Path] = r.Mod.Version
	}
	if required[ours+"apis"] == "" || required[ours+"apis"] != required[ours+"generated"] {
		t.Errorf("go.mod names apis %q and generated %q: both are tagged as the server is", required[ours+"apis"], required[ours+"generated"])
	}
}

// All of Kubernetes in a file of another one is of the same version: with one module of go.mod's left in, it would be
// tried with what it never ran with.
func TestAnotherKubernetesIsOfOneVersion(t *testing.T) {
	others := otherVersions(".")
	if len(others) == 0 {
		t.Error("there is no other Kubernetes to choose, and so nothing to try the oldest with")
	}
	for _, other := range others {
		content, err := os.ReadFile("kubernetes-" + other + ".mod")
		if err != nil {
			t.Fatal(err)
		}
		file, err := modfile.Parse("go.mod", content, nil)
		if err != nil {
			t.Fatal(err)
		}
		staged := 0
		for _, r := range file.Replace {
			if !strings.HasPrefix(r.Old.Path, "k8s.io/") {
				continue
			}
			staged++
			if want := "v0." + strings.TrimPrefix(other, "1.") + "."; !strings.HasPrefix(r.New.Version, want) {
				t.Errorf("kubernetes-%s.mod has %s %s, want %s…", other, r.New.Path, r.New.Version, want)
			}
		}
		if staged < 25 {
			t.Errorf("kubernetes-%s.mod replaces only %d staging modules", other, staged)
		}
	}
}

func TestAClusterKeepsItsKubernetes(t *testing.T) {
	l := layout{dir: t.TempDir(), source: ".", bin: "/bin"}
	if _, err := chooseKubernetes(l, "1.2"); err == nil || !strings.Contains(err.Error(), "1.35") {
		t.Errorf("for one that cannot be built: %v, want those that can", err)
	}
	chosen, err := chooseKubernetes(l, "1.35")
	if err != nil || chosen.exe("kubelet") != "/bin/kubernetes-1.35/kubelet" || chosen.exe("kubectl") != "/bin/kubectl" || chosen.exe("containerd") != "/bin/containerd" {
		t.Fatalf("%v: kubelet %s, kubectl %s, containerd %s", err, chosen.exe("kubelet"), chosen.exe("kubectl"), chosen.exe("containerd"))
	}
	if err := os.WriteFile(l.chosenFile(), []byte("1.35"), 0o600); err != nil {
		t.Fatal(err)
	}
	if again, err := chooseKubernetes(l, ""); err != nil || again.kubernetes != "1.35" {
		t.Errorf("a cluster of 1.35 that is up is taken for %q: %v", again.kubernetes, err)
	}
	if err := os.WriteFile(l.chosenFile(), nil, 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := chooseKubernetes(l, "1.35"); err == nil {
		t.Error("a cluster that is up became one of another Kubernetes")
	}
}

// versions are those that a go.mod builds with; it names every module that is needed (go 1.17 and later).
func versions(t *testing.T, path string) map[string]string {
	t.Helper()
	file := parse(t, path)
	found := map[string]string{}
	for _, r := range file.Require {
		found[r.Mod.Path] = r.Mod.Version
	}
	for _, r := range file.Replace {
		if _, required := found[r.Old.Path]; required && r.Old.Version == "" && r.New.Version != "" {
			found[r.Old.Path] = r.New.Version
		}
	}
	return found
}

func parse(t *testing.T, path string) *modfile.File {
	t.Helper()
	content, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	file, err := modfile.Parse(path, content, nil)
	if err != nil {
		t.Fatal(err)
	}
	return file
}
