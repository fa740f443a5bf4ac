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
type slots struct {
	mutex   sync.Mutex
	held    map[client.ObjectKey]slot
	waiting map[client.ObjectKey]struct{}
}

type slot struct {
	pod  types.UID
	node string
}

// acquire takes a slot for the snapshot, or says what it waits for.
func (s *slots) acquire(key client.ObjectKey, wanted slot, perNode, total int) (ok bool, why string) {
	s.mutex.Lock()
	defer s.mutex.Unlock()
	s.init()
	onNode, all := 0, 0
	for other, its := range s.held {
		if other == key {
			continue
		}
		if its.pod == wanted.pod {
			s.waiting[key] = struct{}{}
			return false, fmt.Sprintf("snapshot %s commits the same Pod", other.Name)
		}
		all++
		if its.node == wanted.node {
			onNode++
		}
	}
	switch {
	case onNode >= perNode:
		why = fmt.Sprintf("%d commits run on node %s (--max-commits-per-node)", onNode, wanted.node)
	case all >= total:
		why = fmt.Sprintf("%d commits run in all (--max-commits)", all)
	default:
		s.held[key] = wanted
		delete(s.waiting, key)
		return true, ""
	}
	s.waiting[key] = struct{}{}
	return false, why
}

// keep notes the slot of a commit that is under way: one that an earlier process began.
func (s *slots) keep(key client.ObjectKey, its slot) {
	s.mutex.Lock()
	defer s.mutex.Unlock()
	s.init()
	s.held[key] = its
}

func (s *slots) init() {
	if s.held == nil {
		s.held = map[client.ObjectKey]slot{}
		s.waiting = map[client.ObjectKey]struct{}{}
	}
}

// release gives the slot back, and returns those that wait for one.
func (s *slots) release(key client.ObjectKey) []client.ObjectKey {
	s.mutex.Lock()
	defer s.mutex.Unlock()
	_, held := s.held[key]
	delete(s.held, key)
	delete(s.waiting, key)
	if !held {
		return nil
	}
	waiting := make([]client.ObjectKey, 0, len(s.waiting))
	for other := range s.waiting {
		waiting = append(waiting, other)
	}
	return waiting
}
