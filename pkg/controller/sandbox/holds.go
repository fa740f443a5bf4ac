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

package sandbox

import (
	"sync"
	"time"

	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/opensandbox-io/sandbox-apiserver/apis/lifecycle/v1alpha1"
	"github.com/opensandbox-io/sandbox-apiserver/pkg/controller/answer"
)

// holds are sandboxes for which something was done a short while ago, and when it may be done again. They are kept in
// memory: after a restart it is done once more.
type holds struct {
	mutex sync.Mutex
	held  map[client.ObjectKey]hold
}

type hold struct {
	// of is what it was done for, where there is more than one such thing one after the other; count how often it was.
	of    string
	until time.Time
	count int32
	// generation and request are those that it was done for: nobody waits after an edit of the spec, or another pause
	// or resume.
	generation int64
	request    time.Time
}

func (h *holds) hold(sandbox *v1alpha1.Sandbox, of string, now time.Time) {
	h.mutex.Lock()
	defer h.mutex.Unlock()
	if h.held == nil {
		h.held = map[client.ObjectKey]hold{}
	}
	count := int32(1)
	if before := h.held[client.ObjectKeyFromObject(sandbox)]; before.of == of {
		count = before.count + 1
	}
	h.held[client.ObjectKeyFromObject(sandbox)] = hold{
		of: of, until: now.Add(answer.Backoff(count)), count: count, generation: sandbox.Generation, request: requested(sandbox),
	}
}

// left is how long the sandbox has to wait, zero or less where it has not.
func (h *holds) left(sandbox *v1alpha1.Sandbox, of string, now time.Time) time.Duration {
	h.mutex.Lock()
	defer h.mutex.Unlock()
	held, ok := h.held[client.ObjectKeyFromObject(sandbox)]
	if !ok || held.of != of || held.generation != sandbox.Generation || !held.request.Equal(requested(sandbox)) {
		return 0
	}
	return held.until.Sub(now)
}

func (h *holds) forget(key client.ObjectKey) {
	h.mutex.Lock()
	defer h.mutex.Unlock()
	delete(h.held, key)
}

func requested(sandbox *v1alpha1.Sandbox) time.Time {
	if sandbox.Status.LastRequestTime == nil {
		return time.Time{}
	}
	return sandbox.Status.LastRequestTime.Time
}
