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
