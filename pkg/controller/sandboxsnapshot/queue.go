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

	"sigs.k8s.io/controller-runtime/pkg/client"
)

// queue holds those that wait for a slot. Namespaces take turns, and within one the first to come
// is the first to be served: who pauses a thousand sandboxes at once delays the only one of
// another namespace by one commit, not by a thousand.
type queue struct {
	// turns are the namespaces in which somebody waits; the next in turn is the first.
	turns []string
	// waiting are those of a namespace, in the order in which they came.
	waiting map[string][]*ticket
	tickets map[client.ObjectKey]*ticket
	// urgent are those that come before all turns, the first first.
	urgent []*ticket
}

type ticket struct {
	key    client.ObjectKey
	wanted slot
}

// put adds to the end of its namespace's queue; who is there already keeps the place.
func (q *queue) put(key client.ObjectKey, wanted slot) {
	if q.tickets == nil {
		q.waiting, q.tickets = map[string][]*ticket{}, map[client.ObjectKey]*ticket{}
	}
	if has, waits := q.tickets[key]; waits {
		has.wanted = wanted
		return
	}
	if len(q.waiting[key.Namespace]) == 0 {
		q.turns = append(q.turns, key.Namespace)
	}
	q.tickets[key] = &ticket{key: key, wanted: wanted}
	q.waiting[key.Namespace] = append(q.waiting[key.Namespace], q.tickets[key])
}

// hurry has one that waits come before all others: its Pod is there for a moment yet.
func (q *queue) hurry(key client.ObjectKey) {
	if its, waits := q.tickets[key]; waits && !slices.Contains(q.urgent, its) {
		q.urgent = append(q.urgent, its)
	}
}

func (q *queue) has(key client.ObjectKey) bool {
	_, waits := q.tickets[key]
	return waits
}

// take removes and returns the one whose turn it is among those whose slot is free, nil where
// there is none. Its namespace goes to the end of the turns.
func (q *queue) take(free func(client.ObjectKey, slot) bool) *ticket {
	for _, next := range q.urgent {
		if free(next.key, next.wanted) {
			q.remove(next.key)
			return next
		}
	}
	for turn, namespace := range q.turns {
		for _, next := range q.waiting[namespace] {
			if !free(next.key, next.wanted) {
				continue
			}
			q.remove(next.key)
			if len(q.waiting[namespace]) > 0 {
				q.turns = append(slices.Delete(q.turns, turn, turn+1), namespace)
			}
			return next
		}
	}
	return nil
}

func (q *queue) remove(key client.ObjectKey) {
	its, waits := q.tickets[key]
	if !waits {
		return
	}
	delete(q.tickets, key)
	if at := slices.Index(q.urgent, its); at >= 0 {
		q.urgent = slices.Delete(q.urgent, at, at+1)
	}
	left := q.waiting[key.Namespace]
	if at := slices.Index(left, its); at == 0 {
		left = left[1:] // as nearly always: nothing is moved
	} else {
		left = slices.Delete(left, at, at+1)
	}
	if len(left) > 0 {
		q.waiting[key.Namespace] = left
		return
	}
	delete(q.waiting, key.Namespace)
	turn := slices.Index(q.turns, key.Namespace)
	q.turns = slices.Delete(q.turns, turn, turn+1)
}
