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

package naming

import (
	"strings"
	"testing"

	"k8s.io/apimachinery/pkg/types"
)

const uid types.UID = "8a6bd6e6-9a3c-4a2e-8f8d-0a1b2c3d4e5f"

const (
	uidHex = "8a6bd6e69a3c4a2e8f8d0a1b2c3d4e5f"
	digest = "sha256:0123456789abcdef0123456789abcdef0123456789abcdef0123456789abcdef"
)

func TestReference(t *testing.T) {
	pause := Image{Namespace: "team", Sandbox: "demo", Container: "main", Attempt: 3, SnapshotUID: uid}
	users := pause
	users.Attempt = 0
	tests := []struct {
		registry, template string
		image              Image
		want               string
	}{
		{"registry.example.com", "", pause, "registry.example.com/team/demo-main:snap-gen3-8a6bd6e6"},
		{"registry.example.com/", "", users, "registry.example.com/team/demo-main:snap-" + uidHex},
		{"10.88.0.1:15000/sandboxes", "", pause, "10.88.0.1:15000/sandboxes/team/demo-main:snap-gen3-8a6bd6e6"},
		{"registry.example.com/all", "{registry}:{namespace}-{sandbox}-{container}-{uid}", pause, "registry.example.com/all:team-demo-main-" + uidHex},
		{"registry.example.com", "{registry}/{namespace}/{container}:{uid}", users, "registry.example.com/team/main:" + uidHex},
	}
	for _, test := range tests {
		parsed, err := ParseImageTemplate(test.registry, test.template)
		if err != nil {
			t.Errorf("%s, %s: %v", test.registry, test.template, err)
			continue
		}
		if got := parsed.Reference(test.image); got != test.want {
			t.Errorf("%s, %s: got %s, want %s", test.registry, test.template, got, test.want)
		}
		if !parsed.Configured() {
			t.Errorf("%s is not taken for a registry", test.registry)
		}
	}
}

func TestTemplateRefusals(t *testing.T) {
	const registry = "registry.example.com"
	tests := map[string]struct{ registry, template, want string }{
		"another registry":         {registry, "evil.example.com/{namespace}/{container}:{uid}", "must start with {registry}"},
		"a suffix of the registry": {registry, "{registry}.evil.com/{namespace}/{container}:{uid}", "must start with {registry}"},
		"no namespace":             {registry, "{registry}/{sandbox}-{container}:{tag}", "must hold {namespace}"},
		"no container":             {registry, "{registry}/{namespace}/{sandbox}:{tag}", "must hold {container}"},
		"no snapshot":              {registry, "{registry}/{namespace}/{sandbox}-{container}:latest", "must hold {uid} or {tag}"},
		"no tag":                   {registry, "{registry}/{namespace}/{container}-{uid}", "does not make an image reference with a tag"},
		"a digest":                 {registry, "{registry}/{namespace}/{container}-{uid}@" + digest, "does not make an image reference with a tag"},
		"an unknown placeholder":   {registry, "{registry}/{namespace}/{container}-{pod}:{tag}", "unknown placeholder"},
		"an open brace":            {registry, "{registry}/{namespace}/{container}{:{tag}", "unknown placeholder"},
		"capital letters":          {registry, "{registry}/Team-{namespace}/{container}:{tag}", "does not make an image reference"},
		"a tag that is too long":   {registry, "{registry}/all:{namespace}-{container}-{uid}-" + strings.Repeat("x", 100), "does not make an image reference"},
		"Docker Hub, three levels": {"docker.io/team", "", "two levels"},
		"Docker Hub, one level":    {"docker.io", "{registry}/{namespace}-{container}:{tag}", "two levels"},
		"what nodes do not take":   {registry, "{registry}/a.-{namespace}/{container}:{tag}", "does not make an image reference"},
		"a scheme":                 {"https://" + registry, "", "without a scheme"},
		"a space":                  {registry, "{registry}/{namespace}/{container} :{tag}", "does not make an image reference"},
	}
	for name, test := range tests {
		t.Run(name, func(t *testing.T) {
			if _, err := ParseImageTemplate(test.registry, test.template); err == nil || !strings.Contains(err.Error(), test.want) {
				t.Errorf("error %v, want %q", err, test.want)
			}
		})
	}
}

func TestNamesThatDoNotFit(t *testing.T) {
	long := strings.Repeat("x", 63)
	const one = "{registry}/all:{namespace}-{sandbox}-{container}-{uid}"
	tests := map[string]struct {
		registry, template string
		image              Image
		want               string
	}{
		"the longest, by default": {"registry.example.com/team/sandboxes", "", Image{Namespace: long, Sandbox: long, Container: long, Attempt: 1000000}, ""},
		"a deep registry":         {"registry.example.com/" + long, "", Image{Namespace: long, Sandbox: long, Container: long}, ""},
		"a registry too deep":     {"registry.example.com/" + long + "/x", "", Image{Namespace: long, Sandbox: long, Container: long}, "its repository has 257 characters"},
		"short names in a tag":    {"registry.example.com", one, Image{Namespace: "team", Sandbox: "demo", Container: "main"}, ""},
		"a tag of 128":            {"registry.example.com", one, Image{Namespace: long, Sandbox: "demo", Container: strings.Repeat("c", 26)}, ""},
		"a tag of 129":            {"registry.example.com", one, Image{Namespace: long, Sandbox: "demo", Container: strings.Repeat("c", 27)}, "its tag has 129 characters"},
		"Docker Hub":              {"docker.io/team", "{registry}/{namespace}-{sandbox}-{container}:{tag}", Image{Namespace: long, Sandbox: long, Container: long}, ""},
	}
	for name, test := range tests {
		t.Run(name, func(t *testing.T) {
			parsed, err := ParseImageTemplate(test.registry, test.template)
			if err != nil {
				t.Fatal(err)
			}
			for _, uid := range []types.UID{"", uid} {
				test.image.SnapshotUID = uid
				if err := parsed.Check(test.image); (err == nil) != (test.want == "") || err != nil && !strings.Contains(err.Error(), test.want) {
					t.Errorf("got %v, want %q", err, test.want)
				}
			}
		})
	}
}

func TestOfNode(t *testing.T) {
	for registry, want := range map[string]bool{
		"localhost:5000": true, "localhost:5000/sandboxes": true, "127.0.0.1:32000": true, "127.1.2.3/a": true, "[::1]:5000/a": true, "registry.localhost:5000": true, "LOCALHOST:5000/a": true,
		"registry.example.com": false, "10.88.0.1:15000": false, "localhost.example.com:5000": false, "notlocalhost:5000": false, "kind-registry:5000": false, "[fd00::1]:5000": false, "": false,
	} {
		if got := (&ImageTemplate{registry: registry}).OfNode(); got != want {
			t.Errorf("%q: got %v, want %v", registry, got, want)
		}
	}
}

func TestBelow(t *testing.T) {
	for registry, images := range map[string]map[string]bool{
		"registry.example.com": {
			"registry.example.com/team/demo-main:snap": true, "registry.example.com.evil.example/team/demo:snap": false,
			"evil.example/registry.example.com/demo:snap": false, "registry.example.com": false, "": false, "registry.example.com/": false,
		},
		"registry.example.com:5000/sandboxes": {
			"registry.example.com:5000/sandboxes/team/demo:snap": true, "registry.example.com:5000/sandboxes:snap": true,
			"registry.example.com:5000/sandboxes-of-others/demo:snap": false, "registry.example.com:5000/other/demo:snap": false,
			"registry.example.com:5000/sandboxes/../other/demo:snap": false, "registry.example.com/sandboxes/demo:snap": false,
		},
		"": {"/team/demo:snap": false, "busybox": false, "": false},
	} {
		template, err := ParseImageTemplate(registry, "")
		if err != nil {
			t.Fatal(err)
		}
		for image, want := range images {
			if got := template.Below(image); got != want {
				t.Errorf("%q is below %q: %t", image, registry, got)
			}
		}
	}
}

func TestTheLongestNames(t *testing.T) {
	for template, fits := range map[string]bool{"": true, "{registry}/all:{namespace}-{sandbox}-{container}-{uid}": false} {
		parsed, err := ParseImageTemplate("registry.example.com", template)
		if err != nil {
			t.Fatal(err)
		}
		if err := parsed.Longest(); (err == nil) != fits {
			t.Errorf("%q: %v", template, err)
		}
	}
}

func TestWithoutARegistry(t *testing.T) {
	parsed, err := ParseImageTemplate("", "")
	if err != nil {
		t.Fatal(err)
	}
	if parsed.Configured() {
		t.Error("there is no registry")
	}
}

func TestReferencesAreUnique(t *testing.T) {
	parsed, err := ParseImageTemplate("registry.example.com", "")
	if err != nil {
		t.Fatal(err)
	}
	one := Image{Namespace: "team", Sandbox: "a-b", Container: "c", Attempt: 1, SnapshotUID: uid}
	tests := map[string]Image{
		"a and b-c, which share a repository": {Namespace: "team", Sandbox: "a", Container: "b-c", Attempt: 1, SnapshotUID: "9b6bd6e6-9a3c-4a2e-8f8d-0a1b2c3d4e5f"},
		"a sandbox made anew":                 {Namespace: "team", Sandbox: "a-b", Container: "c", Attempt: 1, SnapshotUID: "00000000-9a3c-4a2e-8f8d-0a1b2c3d4e5f"},
		"another attempt":                     {Namespace: "team", Sandbox: "a-b", Container: "c", Attempt: 2, SnapshotUID: uid},
		"a user's snapshot":                   {Namespace: "team", Sandbox: "a-b", Container: "c", SnapshotUID: uid},
		"another namespace":                   {Namespace: "other", Sandbox: "a-b", Container: "c", Attempt: 1, SnapshotUID: uid},
		"another container":                   {Namespace: "team", Sandbox: "a-b", Container: "d", Attempt: 1, SnapshotUID: uid},
	}
	for name, other := range tests {
		if parsed.Reference(one) == parsed.Reference(other) {
			t.Errorf("%s has the same image %s", name, parsed.Reference(other))
		}
	}
}

func TestByDigest(t *testing.T) {
	tests := map[string]struct{ image, digest, want string }{
		"a tag":          {"registry.example.com/team/demo:snap", digest, "registry.example.com/team/demo@" + digest},
		"a port":         {"10.88.0.1:15000/team/demo:snap", digest, "10.88.0.1:15000/team/demo@" + digest},
		"no digest":      {"registry.example.com/team/demo:snap", "", ""},
		"a short digest": {"registry.example.com/team/demo:snap", "sha256:abc", ""},
		"another hash":   {"registry.example.com/team/demo:snap", "md5:0123456789abcdef0123456789abcdef", ""},
		"no image":       {"", digest, ""},
		"nonsense":       {"Registry.Example.com/Team:x y", digest, ""},
	}
	for name, test := range tests {
		t.Run(name, func(t *testing.T) {
			got, err := ByDigest(test.image, test.digest)
			if got != test.want || (err == nil) != (test.want != "") {
				t.Errorf("got %q (%v), want %q", got, err, test.want)
			}
		})
	}
}
