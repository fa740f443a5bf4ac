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

package sandboxsnapshot

import (
	"slices"
	"strings"
	"testing"

	"sigs.k8s.io/controller-runtime/pkg/client"
)

func key(name string) client.ObjectKey { return client.ObjectKey{Namespace: namespace, Name: name} }

func TestAcquire(t *testing.T) {
	const perNode, total = 2, 3
	tests := map[string]struct {
		held    map[string]slot
		want    slot
		refusal string
	}{
		"all free":                   {nil, slot{"p", "n"}, ""},
		"others elsewhere":           {map[string]slot{"a": {"p1", "m"}, "b": {"p2", "n"}}, slot{"p", "n"}, ""},
		"its own slot again":         {map[string]slot{"it": {"p", "n"}, "a": {"p1", "n"}}, slot{"p", "n"}, ""},
		"the Pod is being committed": {map[string]slot{"a": {"p", "n"}}, slot{"p", "n"}, "snapshot a commits the same Pod"},
		"the node is full":           {map[string]slot{"a": {"p1", "n"}, "b": {"p2", "n"}}, slot{"p", "n"}, "2 commits run on node n (--max-commits-per-node)"},
		"all is full": {
			map[string]slot{"a": {"p1", "k"}, "b": {"p2", "l"}, "c": {"p3", "m"}}, slot{"p", "n"}, "3 commits run in all (--max-commits)"},
	}
	for name, test := range tests {
		t.Run(name, func(t *testing.T) {
			s := &slots{}
			for holder, its := range test.held {
				s.keep(key(holder), its)
			}
			ok, why := s.acquire(key("it"), test.want, perNode, total)
			if ok != (test.refusal == "") || why != test.refusal {
				t.Fatalf("acquired %t (%s), want %q", ok, why, test.refusal)
			}
			if _, held := s.held[key("it")]; held != ok {
				t.Errorf("held %t", held)
			}
			if _, waits := s.waiting[key("it")]; waits == ok {
				t.Errorf("waits %t", waits)
			}
		})
	}
}

func TestRelease(t *testing.T) {
	s := &slots{}
	s.keep(key("a"), slot{"p1", "n"})
	for _, name := range []string{"b", "c"} {
		if ok, _ := s.acquire(key(name), slot{"p2", "n"}, 1, 9); ok {
			t.Fatalf("%s got a slot", name)
		}
	}
	steps := []struct{ release, wakes string }{
		{"c", ""}, // waited, and is gone
		{"d", ""}, // was never here
		{"a", "b"},
		{"a", ""}, // once is enough
	}
	for _, step := range steps {
		var woken []string
		for _, key := range s.release(key(step.release)) {
			woken = append(woken, key.Name)
		}
		slices.Sort(woken)
		if got := strings.Join(woken, " "); got != step.wakes {
			t.Errorf("the release of %s wakes %q, want %q", step.release, got, step.wakes)
		}
	}
	if ok, why := s.acquire(key("b"), slot{"p2", "n"}, 1, 9); !ok {
		t.Errorf("the one that was woken gets no slot: %s", why)
	}
}
