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
	"fmt"
	"strings"
	"testing"

	"k8s.io/apimachinery/pkg/types"
	"sigs.k8s.io/controller-runtime/pkg/client"
)

func key(name string) client.ObjectKey { return client.ObjectKey{Namespace: namespace, Name: name} }

func TestAcquire(t *testing.T) {
	tests := map[string]struct {
		held    map[string]slot
		want    slot
		refusal string
	}{
		"all free":                   {nil, slot{pod: "p", node: "n"}, ""},
		"others elsewhere":           {map[string]slot{"a": {pod: "p1", node: "m"}, "b": {pod: "p2", node: "n"}}, slot{pod: "p", node: "n"}, ""},
		"its own slot again":         {map[string]slot{"it": {pod: "p", node: "n"}, "a": {pod: "p1", node: "n"}}, slot{pod: "p", node: "n"}, ""},
		"its own slot, another Pod":  {map[string]slot{"it": {pod: "p1", node: "n"}, "a": {pod: "p2", node: "n"}}, slot{pod: "p", node: "n"}, ""},
		"the Pod is being committed": {map[string]slot{"a": {pod: "p", node: "n"}}, slot{pod: "p", node: "n"}, "snapshot a commits the same Pod"},
		"the node is full":           {map[string]slot{"a": {pod: "p1", node: "n"}, "b": {pod: "p2", node: "n"}}, slot{pod: "p", node: "n"}, "2 commits run on node n (--max-commits-per-node)"},
		"all is full": {
			map[string]slot{"a": {pod: "p1", node: "k"}, "b": {pod: "p2", node: "l"}, "c": {pod: "p3", node: "m"}}, slot{pod: "p", node: "n"}, "3 commits run in all (--max-commits)"},
	}
	for name, test := range tests {
		t.Run(name, func(t *testing.T) {
			s := &slots{}
			for holder, its := range test.held {
				s.keep(key(holder), its)
			}
			ok, why := s.acquire(key("it"), test.want, limits{perNode: 2, total: 3})
			if ok != (test.refusal == "") || why != test.refusal {
				t.Fatalf("acquired %t (%s), want %q", ok, why, test.refusal)
			}
			if _, held := s.held[key("it")]; held != ok {
				t.Errorf("held %t", held)
			}
			if s.waits(key("it")) == ok {
				t.Errorf("waits %t", !ok)
			}
		})
	}
}

// line is a queue for one slot at a time, unless its limits say otherwise, and what became of it.
type line struct {
	*testing.T
	slots
	limits limits
}

// come takes a slot or waits for one, for each "namespace/name", in this order. Each is of a Pod of
// its own, on the node that follows an "@", or on the same.
func (l *line) come(names ...string) {
	l.Helper()
	for _, name := range names {
		name, node, _ := strings.Cut(name, "@")
		l.acquire(keyOf(name), slot{pod: types.UID(name), node: node}, l.limits)
	}
}

// end gives back what each holds, and returns who got it.
func (l *line) end(names ...string) string {
	l.Helper()
	var given []string
	for _, name := range names {
		for _, next := range l.release(keyOf(name), l.limits) {
			given = append(given, next.String())
			if l.waits(next) {
				l.Errorf("%s has a slot and waits", next)
			}
		}
	}
	if len(l.held) > l.limits.total {
		l.Errorf("%d hold a slot", len(l.held))
	}
	for node, count := range l.onNode {
		if count > l.limits.perNode {
			l.Errorf("%d hold a slot on node %q", count, node)
		}
	}
	return strings.Join(given, " ")
}

func keyOf(name string) client.ObjectKey {
	namespace, name, _ := strings.Cut(name, "/")
	return client.ObjectKey{Namespace: namespace, Name: name}
}

func TestTheQueueIsFair(t *testing.T) {
	type step struct{ ends, gets string }
	tests := map[string]struct {
		limits limits
		come   []string
		steps  []step
	}{
		"first come, first served in a namespace": {
			limits{1, 1}, []string{"a/1", "a/2", "a/3"},
			[]step{{"a/1", "a/2"}, {"a/2", "a/3"}, {"a/3", ""}},
		},
		"namespaces take turns": {
			limits{1, 1}, []string{"a/1", "a/2", "a/3", "a/4", "b/1", "b/2", "c/1"},
			[]step{{"a/1", "a/2"}, {"a/2", "b/1"}, {"b/1", "c/1"}, {"c/1", "a/3"}, {"a/3", "b/2"}, {"b/2", "a/4"}},
		},
		"who asks again keeps the place": {
			limits{1, 1}, []string{"a/1", "a/2", "b/1", "a/3", "a/2", "a/2"},
			[]step{{"a/1", "a/2"}, {"a/2", "b/1"}, {"b/1", "a/3"}},
		},
		"who gave up is not waited for": {
			limits{1, 1}, []string{"a/1", "b/1", "c/1"},
			[]step{{"b/1", ""}, {"a/1", "c/1"}},
		},
		"who was never here frees nothing": {
			limits{1, 1}, []string{"a/1", "a/2"},
			[]step{{"d/1", ""}, {"a/1", "a/2"}, {"a/1", ""}},
		},
		"a full node delays those on it alone": {
			limits{1, 2}, []string{"a/1@n", "a/2@m", "a/3@n", "b/1@m", "b/2@n"},
			[]step{{"a/2", "b/1"}, {"b/1", ""}, {"a/1", "a/3"}, {"a/3", "b/2"}},
		},
		"and does not cost them their turn": {
			limits{1, 1}, []string{"a/1@n", "b/1@n", "b/2@m", "c/1@m"},
			[]step{{"a/1", "b/1"}, {"b/1", "c/1"}, {"c/1", "b/2"}},
		},
	}
	for name, test := range tests {
		t.Run(name, func(t *testing.T) {
			l := &line{T: t, limits: test.limits}
			l.come(test.come...)
			for _, step := range test.steps {
				if got := l.end(step.ends); got != step.gets {
					t.Fatalf("the end of %s gives its slot to %q, want %q", step.ends, got, step.gets)
				}
			}
		})
	}
}

// TestNobodyStarves: a thousand of one namespace wait, then comes the only one of another.
func TestNobodyStarves(t *testing.T) {
	l := &line{T: t, limits: limits{perNode: 5, total: 5}}
	for i := range 1000 {
		l.come(fmt.Sprintf("crowd/%d", i))
	}
	l.come("lone/1")
	for i := range 2 {
		if l.end(fmt.Sprintf("crowd/%d", i)) == "lone/1" {
			return
		}
	}
	t.Error("two of the crowd were served before it")
}

// TestNobodyIsWokenInVain: as many are woken as there are slots, however many wait.
func TestNobodyIsWokenInVain(t *testing.T) {
	l := &line{T: t, limits: limits{perNode: 2, total: 2}}
	for i := range 1000 {
		l.come(fmt.Sprintf("a/%d", i))
	}
	for i := range 998 {
		if got, want := l.end(fmt.Sprintf("a/%d", i)), fmt.Sprintf("a/%d", i+2); got != want {
			t.Fatalf("the end of a/%d wakes %q, want %q", i, got, want)
		}
	}
}

// BenchmarkQueue is the price of one commit's slot among n that wait, at worst: nobody who waits
// can use what becomes free.
func BenchmarkQueue(b *testing.B) {
	for _, n := range []int{100, 5000} {
		b.Run(fmt.Sprint(n), func(b *testing.B) {
			s, bounds := &slots{}, limits{perNode: 1, total: 100}
			s.keep(key("busy"), slot{pod: "busy", node: "full"})
			for i := range n {
				s.acquire(client.ObjectKey{Namespace: fmt.Sprint(i % 50), Name: fmt.Sprint(i)}, slot{pod: types.UID(fmt.Sprint(i)), node: "full"}, bounds)
			}
			for b.Loop() {
				s.acquire(key("it"), slot{pod: "p", node: "other"}, bounds)
				s.release(key("it"), bounds)
			}
		})
	}
}

// Of a Pod that somebody deletes there is half a minute left; the others can wait.
func TestWhoHasLittleTimeComesFirst(t *testing.T) {
	l := &line{T: t, limits: limits{1, 2}}
	l.come("a/1@n", "b/1@m", "a/2@n", "a/3@n", "c/1@m", "d/1@n", "d/2@m")
	for _, name := range []string{"d/1", "a/3", "a/3", "nobody/1"} {
		l.hurry(keyOf(name))
	}
	for _, step := range []struct{ ends, gets string }{
		{"b/1", "c/1"}, // neither of the two is of that node
		{"a/1", "d/1"}, {"d/1", "a/3"}, {"c/1", "d/2"}, {"a/3", "a/2"}, {"a/2", ""},
	} {
		if got := l.end(step.ends); got != step.gets {
			t.Fatalf("the end of %s gives its slot to %q, want %q", step.ends, got, step.gets)
		}
	}
	l.hurry(keyOf("a/2")) // which has gone
	if len(l.queue.urgent) > 0 {
		t.Errorf("%d are left", len(l.queue.urgent))
	}
}
