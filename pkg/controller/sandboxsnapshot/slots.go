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
	total  int
	queue  queue
}

type slot struct {
	pod  types.UID
	node string
	// ended says that nothing runs any more: the Pod is not to be committed yet, but there is room for others.
	ended bool
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
		if its.pod != wanted.pod {
			s.drop(key)
		}
	}
	// Nobody who waits could use what is free now, or would have got it before.
	if !s.free(key, wanted, limits) {
		s.queue.put(key, wanted)
		return false, s.shortOf(key, wanted, limits)
	}
	s.queue.remove(key)
	s.drop(key)
	s.hold(key, wanted)
	return true, ""
}

// waits says whether the snapshot is in the queue and has no slot yet.
func (s *slots) waits(key client.ObjectKey) bool {
	s.mutex.Lock()
	defer s.mutex.Unlock()
	return s.queue.has(key)
}

// hurry has a snapshot that waits come before all others.
func (s *slots) hurry(key client.ObjectKey) {
	s.mutex.Lock()
	defer s.mutex.Unlock()
	s.queue.hurry(key)
}

// keep notes the slot of a commit that is under way: one that an earlier process began.
func (s *slots) keep(key client.ObjectKey, its slot) {
	s.mutex.Lock()
	defer s.mutex.Unlock()
	s.queue.remove(key)
	s.drop(key)
	s.hold(key, its)
}

// end says that nothing of a commit runs any more, while its Pod is still to be thawed, or its Job to be found. It returns
// those that have a slot now.
func (s *slots) end(key client.ObjectKey, limits limits) []client.ObjectKey {
	s.mutex.Lock()
	defer s.mutex.Unlock()
	its, held := s.held[key]
	if !held || its.ended {
		return nil
	}
	s.drop(key)
	its.ended = true
	s.hold(key, its)
	return s.give(limits)
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
	return s.give(limits)
}

func (s *slots) give(limits limits) []client.ObjectKey {
	var given []client.ObjectKey
	for s.total < limits.total {
		next := s.queue.take(func(key client.ObjectKey, wanted slot) bool { return s.free(key, wanted, limits) })
		if next == nil {
			break
		}
		s.drop(next.key)
		s.hold(next.key, next.wanted)
		given = append(given, next.key)
	}
	return given
}

// inUse is how many are held.
func (s *slots) inUse() int {
	s.mutex.Lock()
	defer s.mutex.Unlock()
	return s.total
}

// free says whether there is such a slot for the snapshot now.
func (s *slots) free(key client.ObjectKey, wanted slot, limits limits) bool {
	if s.total >= limits.total || s.onNode[wanted.node] >= limits.perNode {
		return false
	}
	other, busy := s.ofPod[wanted.pod]
	return !busy || other == key
}

// shortOf says why there is no such slot now.
func (s *slots) shortOf(key client.ObjectKey, wanted slot, limits limits) string {
	if other, busy := s.ofPod[wanted.pod]; busy && other != key {
		if strings.HasPrefix(other.Namespace, strayPrefix) {
			return fmt.Sprintf("Job %s, whose snapshot is gone, is being ended, and what it froze in the same Pod is thawed", other.Name)
		}
		return fmt.Sprintf("snapshot %s commits the same Pod", other.Name)
	}
	if running := s.onNode[wanted.node]; running >= limits.perNode {
		return fmt.Sprintf("%d commits run on node %s (--max-commits-per-node)", running, wanted.node)
	}
	return fmt.Sprintf("%d commits run in all (--max-commits)", s.total)
}

// of are those of a namespace that have a slot.
func (s *slots) of(namespace string) []client.ObjectKey {
	s.mutex.Lock()
	defer s.mutex.Unlock()
	var keys []client.ObjectKey
	for key := range s.held {
		if key.Namespace == namespace {
			keys = append(keys, key)
		}
	}
	return keys
}

// has says whether the snapshot has a slot.
func (s *slots) has(key client.ObjectKey) bool {
	s.mutex.Lock()
	defer s.mutex.Unlock()
	_, held := s.held[key]
	return held
}

func (s *slots) hold(key client.ObjectKey, its slot) {
	if s.held == nil {
		s.held, s.onNode, s.ofPod = map[client.ObjectKey]slot{}, map[string]int{}, map[types.UID]client.ObjectKey{}
	}
	s.held[key] = its
	s.ofPod[its.pod] = key
	if !its.ended {
		s.onNode[its.node]++
		s.total++
	}
}

func (s *slots) drop(key client.ObjectKey) {
	its, held := s.held[key]
	if !held {
		return
	}
	delete(s.held, key)
	if !its.ended {
		s.total--
		if s.onNode[its.node]--; s.onNode[its.node] == 0 {
			delete(s.onNode, its.node)
		}
	}
	if s.ofPod[its.pod] == key {
		delete(s.ofPod, its.pod)
	}
}
