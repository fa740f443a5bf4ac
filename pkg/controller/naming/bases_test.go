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

import "testing"

func TestBaseRepository(t *testing.T) {
	for _, test := range []struct{ registry, template, path, want string }{
		{"registry.example.com/path/", "", DefaultBaseRepository, "registry.example.com/path/sandbox_bases"},
		{"registry.example.com:5000", "", "some/where", "registry.example.com:5000/some/where"},
		{"registry.example.com", "{registry}/{namespace}:{container}-{tag}", "b", "registry.example.com/b"},
		{"registry.example.com", "", "", ""},
		{"", "", DefaultBaseRepository, ""},
		// All have one repository.
		{"registry.example.com/one", "{registry}:{namespace}-{container}-{tag}", DefaultBaseRepository, ""},
		{"registry.example.com:5000", "{registry}/one/for-all:{namespace}-{container}-{uid}", DefaultBaseRepository, ""},
	} {
		template, err := ParseImageTemplate(test.registry, test.template)
		if err != nil {
			t.Fatal(err)
		}
		if got := template.BaseRepository(test.path); got != test.want {
			t.Errorf("%+v: got %q", test, got)
		}
	}
	for path, good := range map[string]bool{"": true, DefaultBaseRepository: true, "a/b": true, "/a": false, "a/": false, "A": false, "a:b": false, "a@sha256": false, "a b": false} {
		if err := CheckBaseRepository(path); (err == nil) != good {
			t.Errorf("%q: %v", path, err)
		}
	}
}
