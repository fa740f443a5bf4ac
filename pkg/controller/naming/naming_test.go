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
	"k8s.io/apimachinery/pkg/util/validation"
)

func TestJobNames(t *testing.T) {
	const uid types.UID = "8a6bd6e6-9a3c-4a2e-8f8d-0a1b2c3d4e5f"
	long := strings.Repeat("a", 63) + "-gen12345"
	for _, snapshot := range []string{"demo-gen1", "a", long, strings.Repeat("a", 46) + ".b-gen1", strings.Repeat("a", 45) + ".b-gen1", strings.Repeat("a.b-", 15)} {
		for _, name := range []string{CommitJob("default", snapshot, uid), UnpauseJob("default", snapshot, uid)} {
			if problems := append(validation.IsDNS1123Subdomain(name), validation.IsValidLabelValue(name)...); len(problems) > 0 || len(name) > 63 {
				t.Errorf("%s of %d characters: %v", name, len(name), problems)
			}
		}
	}

	first := CommitJob("default", long, uid)
	if CommitJob("default", long, uid) != first {
		t.Error("a name is not the same twice")
	}
	for what, other := range map[string]string{
		"another snapshot":  CommitJob("default", long, "another"),
		"another namespace": CommitJob("other", long, uid),
		"another purpose":   UnpauseJob("default", long, uid),
	} {
		if other == first {
			t.Errorf("%s has the same name %s", what, other)
		}
	}
	if got := CommitJob("default", "demo-gen1", uid); !strings.HasPrefix(got, "demo-gen1-commit-") {
		t.Errorf("nobody can read %s", got)
	}
}

func TestLabelValue(t *testing.T) {
	for in, want := range map[string]string{
		"demo":                              "demo",
		strings.Repeat("a", 64):             strings.Repeat("a", 63),
		strings.Repeat("a", 62) + "-gen1":   strings.Repeat("a", 62),
		strings.Repeat("a", 61) + ".-gen12": strings.Repeat("a", 61),
		"":                                  "",
	} {
		if got := LabelValue(in); got != want || len(validation.IsValidLabelValue(got)) > 0 {
			t.Errorf("%q is cut to %q, want %q", in, got, want)
		}
	}
}

func TestAttempt(t *testing.T) {
	for snapshot, want := range map[string]int64{
		PauseSnapshot("demo", 7):       7,
		"demo-gen1-gen12":              12,
		"demo-gen":                     0,
		"demo-gen1a":                   0,
		"gen1":                         0,
		"mine":                         0,
		"demo-gen99999999999999999999": 0,
	} {
		if got := Attempt(snapshot); got != want {
			t.Errorf("%s is attempt %d, want %d", snapshot, got, want)
		}
	}
}
