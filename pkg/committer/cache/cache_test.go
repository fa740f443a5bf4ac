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

package cache

import (
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/opencontainers/go-digest"

	"github.com/opensandbox-io/sandbox-apiserver/pkg/committer/runtime"
)

func TestBeyond(t *testing.T) {
	image := func(name, sandbox, snapshot string, bytes int64) *runtime.Cached {
		return &runtime.Cached{Digest: digest.Digest(name), SandboxUID: sandbox, SnapshotUID: snapshot, Bytes: bytes}
	}
	used := func(c *runtime.Cached) *runtime.Cached { c.InUse = true; return c }
	tests := map[string]struct {
		all  []*runtime.Cached
		want []digest.Digest
	}{
		"room for all":               {[]*runtime.Cached{image("a", "a", "a1", 40), image("own", "own", "now", 60)}, nil},
		"the oldest first":           {[]*runtime.Cached{image("a", "a", "a1", 20), image("b", "b", "b1", 30), image("c", "c", "c1", 30), image("own", "own", "now", 40)}, []digest.Digest{"a"}},
		"as many as it takes":        {[]*runtime.Cached{image("a", "a", "a1", 20), image("b", "b", "b1", 30), image("own", "own", "now", 90)}, []digest.Digest{"a", "b"}},
		"an earlier snapshot":        {[]*runtime.Cached{image("a", "a", "a1", 40), image("old", "own", "before", 60), image("own", "own", "now", 60)}, []digest.Digest{"old"}},
		"one that is in use":         {[]*runtime.Cached{used(image("a", "a", "a1", 30)), image("b", "b", "b1", 30), image("own", "own", "now", 60)}, []digest.Digest{"b"}},
		"an earlier one in use":      {[]*runtime.Cached{used(image("old", "own", "before", 30)), image("own", "own", "now", 60)}, nil},
		"no room beside those":       {[]*runtime.Cached{used(image("a", "a", "a1", 50)), image("own", "own", "now", 60)}, []digest.Digest{"own"}},
		"two containers, both new":   {[]*runtime.Cached{image("a", "a", "a1", 10), image("own", "own", "now", 50), image("own2", "own", "now", 50)}, []digest.Digest{"a"}},
		"nothing was kept this time": {[]*runtime.Cached{image("old", "own", "before", 60)}, []digest.Digest{"old"}},
	}
	for name, test := range tests {
		t.Run(name, func(t *testing.T) {
			var got []digest.Digest
			for _, one := range beyond(test.all, "own", "now", 100) {
				got = append(got, one.Digest)
			}
			if diff := cmp.Diff(test.want, got); diff != "" {
				t.Errorf("removed (-want +got):\n%s", diff)
			}
		})
	}
}

func TestPercent(t *testing.T) {
	for _, test := range []struct {
		part, whole uint64
		want        int
	}{{0, 100, 0}, {70, 100, 70}, {701, 1000, 71}, {5, 5, 100}, {0, 0, 100}} {
		if got := percent(test.part, test.whole); got != test.want {
			t.Errorf("%d of %d: %d, want %d", test.part, test.whole, got, test.want)
		}
	}
}
