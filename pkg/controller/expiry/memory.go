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

package expiry

import (
	"sync"
	"time"

	"k8s.io/apimachinery/pkg/types"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/opensandbox-io/sandbox-apiserver/apis/lifecycle/v1alpha1"
)

// longestNotice is how long before the end it is told of at the earliest.
const longestNotice = time.Minute

// memory is what is told of sandboxes, and when. It is for telling alone.
type memory struct {
	mutex sync.Mutex
	known map[client.ObjectKey]*telling
}

// telling is of one time of one sandbox.
type telling struct {
	uid    types.UID
	expire time.Time
	action v1alpha1.SandboxExpireAction
	// due is when it is told of, told that it was.
	due  time.Time
	told bool
	// failures in a row of what was to be done then.
	failures uint
}

// notice says whether it is to be told now of what is about to happen, and else how long from now; zero: not any more.
//
// That is a minute before, and where less is left when the time is set, halfway: who renews in time, as something that keeps
// its sandbox alive does every few seconds, is told of nothing.
func (m *memory) notice(sandbox *v1alpha1.Sandbox, now time.Time) (tell bool, next time.Duration) {
	m.mutex.Lock()
	defer m.mutex.Unlock()
	t := m.of(sandbox)
	if t.due.IsZero() {
		t.due = t.expire.Add(-min(longestNotice, t.expire.Sub(now)/2))
	}
	if t.told {
		return false, 0
	}
	if next = t.due.Sub(now); next > 0 {
		return false, next
	}
	t.told = true
	return true, 0
}

// failed counts a failure, and says whether it is to be told of.
func (m *memory) failed(sandbox *v1alpha1.Sandbox) bool {
	m.mutex.Lock()
	defer m.mutex.Unlock()
	t := m.of(sandbox)
	t.failures++
	return toBeTold(t.failures)
}

// worked forgets the failures.
func (m *memory) worked(key client.ObjectKey) {
	m.mutex.Lock()
	defer m.mutex.Unlock()
	if t := m.known[key]; t != nil {
		t.failures = 0
	}
}

func (m *memory) forget(key client.ObjectKey) {
	m.mutex.Lock()
	defer m.mutex.Unlock()
	delete(m.known, key)
}

func (m *memory) of(sandbox *v1alpha1.Sandbox) *telling {
	key, expire := client.ObjectKeyFromObject(sandbox), sandbox.Spec.ExpireTime.Time
	t := m.known[key]
	if t == nil || t.uid != sandbox.UID || !t.expire.Equal(expire) || t.action != sandbox.Spec.ExpireAction {
		t = &telling{uid: sandbox.UID, expire: expire, action: sandbox.Spec.ExpireAction}
		if m.known == nil {
			m.known = map[client.ObjectKey]*telling{}
		}
		m.known[key] = t
	}
	return t
}
