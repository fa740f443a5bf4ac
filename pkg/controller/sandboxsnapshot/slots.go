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
	"sync"

	"k8s.io/apimachinery/pkg/types"
	"sigs.k8s.io/controller-runtime/pkg/client"
)

// slots are the commits under way: one for a Pod, a few for a node, many in all. They are kept
// in memory by the one controller that leads; what an earlier process began is found once, before
// the first is given (see recover).
//
// A slot that becomes free is given to the one whose turn it is, and nobody else is woken: with
// thousands that wait, each commit costs what it costs with ten.
type slots struct {
	mutex  sync.Mutex
	held   map[client.ObjectKey]slot
	onNode map[string]int
	ofPod  map[types.UID]client.ObjectKey
	queue  queue
}

type slot struct {
	pod  types.UID
	node string
}

// limits bound the commits under way.
type limits struct {
	perNode, total int
}

// acquire takes a slot for the snapshot, or puts it into the queue and says what it waits for.
// Whoever waits need not ask again: release names those that have got a slot.
func (s *slots) acquire(key client.ObjectKey, wanted slot, limits limits) (ok bool, why string) {
	s.mutex.Lock()
	defer s.mutex.Unlock()
	if its, held := s.held[key]; held {
		if its == wanted {
			return true, ""
		}
		s.drop(key)
	}
	// Nobody who waits could use what is free now, or would have got it before.
	if !s.free(wanted, limits) {
		s.queue.put(key, wanted)
		return false, s.shortOf(wanted, limits)
	}
	s.queue.remove(key)
	s.hold(key, wanted)
	return true, ""
}

// waits says whether the snapshot is in the queue and has no slot yet.
func (s *slots) waits(key client.ObjectKey) bool {
	s.mutex.Lock()
	defer s.mutex.Unlock()
	return s.queue.has(key)
}

// keep notes the slot of a commit that is under way: one that an earlier process began.
func (s *slots) keep(key client.ObjectKey, its slot) {
	s.mutex.Lock()
	defer s.mutex.Unlock()
	s.queue.remove(key)
	s.drop(key)
	s.hold(key, its)
}

// release gives the slot back, or the place in the queue, and returns those that have a slot now.
func (s *slots) release(key client.ObjectKey, limits limits) []client.ObjectKey {
	s.mutex.Lock()
	defer s.mutex.Unlock()
	s.queue.remove(key)
	if _, held := s.held[key]; !held {
		return nil
	}
	s.drop(key)
	var given []client.ObjectKey
	for len(s.held) < limits.total {
		next := s.queue.take(func(wanted slot) bool { return s.free(wanted, limits) })
		if next == nil {
			break
		}
		s.hold(next.key, next.wanted)
		given = append(given, next.key)
	}
	return given
}

// inUse is how many are held.
func (s *slots) inUse() int {
	s.mutex.Lock()
	defer s.mutex.Unlock()
	return len(s.held)
}

// free says whether there is such a slot now.
func (s *slots) free(wanted slot, limits limits) bool {
	if len(s.held) >= limits.total || s.onNode[wanted.node] >= limits.perNode {
		return false
	}
	_, busy := s.ofPod[wanted.pod]
	return !busy
}

// shortOf says why there is no such slot now.
func (s *slots) shortOf(wanted slot, limits limits) string {
	if other, busy := s.ofPod[wanted.pod]; busy {
		return fmt.Sprintf("snapshot %s commits the same Pod", other.Name)
	}
	if running := s.onNode[wanted.node]; running >= limits.perNode {
		return fmt.Sprintf("%d commits run on node %s (--max-commits-per-node)", running, wanted.node)
	}
	return fmt.Sprintf("%d commits run in all (--max-commits)", len(s.held))
}

func (s *slots) hold(key client.ObjectKey, its slot) {
	if s.held == nil {
		s.held, s.onNode, s.ofPod = map[client.ObjectKey]slot{}, map[string]int{}, map[types.UID]client.ObjectKey{}
	}
	s.held[key] = its
	s.onNode[its.node]++
	s.ofPod[its.pod] = key
}

func (s *slots) drop(key client.ObjectKey) {
	its, held := s.held[key]
	if !held {
		return
	}
	delete(s.held, key)
	if s.onNode[its.node]--; s.onNode[its.node] == 0 {
		delete(s.onNode, its.node)
	}
	if s.ofPod[its.pod] == key {
		delete(s.ofPod, its.pod)
	}
}
