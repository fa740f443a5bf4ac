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

package main

import (
	"fmt"
	"sync"

	"k8s.io/apimachinery/pkg/types"
)

// commitLog counts the commits under way, from the moment that their Job is seen until just before
// their end can be: never more than there are, so that what is above a limit is.
type commitLog struct {
	mutex   sync.Mutex
	running map[types.UID]string
	onNode  map[string]int
	// most and mostOnNode are the highest counts since reset.
	most, mostOnNode int
	// order is the namespaces of the sandboxes that were committed, in the order of their start.
	order []string
}

func newCommitLog() *commitLog {
	return &commitLog{running: map[types.UID]string{}, onNode: map[string]int{}}
}

func (l *commitLog) starts(job types.UID, namespace, node string) {
	l.mutex.Lock()
	defer l.mutex.Unlock()
	l.running[job] = node
	l.onNode[node]++
	l.order = append(l.order, namespace)
	l.most = max(l.most, len(l.running))
	l.mostOnNode = max(l.mostOnNode, l.onNode[node])
}

func (l *commitLog) ends(job types.UID) {
	l.mutex.Lock()
	defer l.mutex.Unlock()
	if node, running := l.running[job]; running {
		delete(l.running, job)
		l.onNode[node]--
	}
}

// count is how many commits have started so far.
func (l *commitLog) count() int {
	l.mutex.Lock()
	defer l.mutex.Unlock()
	return len(l.order)
}

// before says how many commits, from number since on, started before the first of a namespace.
func (l *commitLog) before(since int, namespace string) (int, error) {
	l.mutex.Lock()
	defer l.mutex.Unlock()
	for i, its := range l.order[since:] {
		if its == namespace {
			return i, nil
		}
	}
	return 0, fmt.Errorf("no sandbox of namespace %s was committed", namespace)
}

// highest returns the highest counts and forgets them.
func (l *commitLog) highest() (inAll, onOneNode int) {
	l.mutex.Lock()
	defer l.mutex.Unlock()
	inAll, onOneNode = l.most, l.mostOnNode
	l.most, l.mostOnNode = 0, 0
	return inAll, onOneNode
}
