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

package server

import "testing"

func TestJudgeStore(t *testing.T) {
	const fresh = "fresh"
	for _, row := range []struct {
		name            string
		etcd, configMap string
		accept          bool
		want            storeVerdict
		refused         bool
	}{
		{name: "first start", want: storeVerdict{etcd: fresh, configMap: fresh}},
		{name: "as always", etcd: "a", configMap: "a"},
		{name: "the ConfigMap is new", etcd: "a", want: storeVerdict{configMap: "a"}},
		{name: "the data is lost", configMap: "a", refused: true},
		{name: "another store", etcd: "b", configMap: "a", refused: true},
		{name: "as always, accepting", etcd: "a", configMap: "a", accept: true},
		{name: "the data is lost, accepting", configMap: "a", accept: true, want: storeVerdict{etcd: fresh, configMap: fresh}},
		{name: "another store, accepting", etcd: "b", configMap: "a", accept: true, want: storeVerdict{configMap: "b"}},
	} {
		t.Run(row.name, func(t *testing.T) {
			got := judgeStore(row.etcd, row.configMap, fresh, row.accept)
			if (got.refusal != "") != row.refused {
				t.Fatalf("got %+v", got)
			}
			got.refusal = ""
			if got != row.want {
				t.Errorf("got %+v, want %+v", got, row.want)
			}
		})
	}
}
