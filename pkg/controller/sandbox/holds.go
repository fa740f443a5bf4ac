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
)

// holds are the sandboxes that the API refused something, and when each may try again. They are kept in
// memory: after a restart every sandbox tries at once.
type holds struct {
	mutex sync.Mutex
	held  map[client.ObjectKey]hold
}

type hold struct {
	until    time.Time
	failures int32
	// generation and request are those of the sandbox that was refused: an edit of its spec or
	// another pause or resume tries again at once.
	generation int64
	request    time.Time
}

func (h *holds) hold(sandbox *v1alpha1.Sandbox, now time.Time) {
	h.mutex.Lock()
	defer h.mutex.Unlock()
	failures := h.held[client.ObjectKeyFromObject(sandbox)].failures + 1
	h.set(sandbox, now, failures)
}

// holdAfter is hold for a sandbox whose status counts the failures.
func (h *holds) holdAfter(sandbox *v1alpha1.Sandbox, now time.Time, failures int32) {
	h.mutex.Lock()
	defer h.mutex.Unlock()
	h.set(sandbox, now, failures)
}

// made waits for the next Pod of a sandbox longer each time that the one before did not live long: whatever ends
// them, a kubelet that has no room or a controller that has too many, would end the next at once as well.
// Nobody waits whose last one was asked for by another request or another spec, or who was left alone for a while.
func (h *holds) made(sandbox *v1alpha1.Sandbox, now time.Time) {
	h.mutex.Lock()
	defer h.mutex.Unlock()
	failures := int32(1)
	before, known := h.held[client.ObjectKeyFromObject(sandbox)]
	if known && before.generation == sandbox.Generation && before.request.Equal(requested(sandbox)) && now.Sub(before.until) < lastRetry {
		failures = before.failures + 1
	}
	h.set(sandbox, now, failures)
}

func (h *holds) set(sandbox *v1alpha1.Sandbox, now time.Time, failures int32) {
	if h.held == nil {
		h.held = map[client.ObjectKey]hold{}
	}
	h.held[client.ObjectKeyFromObject(sandbox)] = hold{
		until: now.Add(backoff(failures)), failures: failures, generation: sandbox.Generation, request: requested(sandbox),
	}
}

// left is how long the sandbox has to wait, zero or less where it has not.
func (h *holds) left(sandbox *v1alpha1.Sandbox, now time.Time) time.Duration {
	h.mutex.Lock()
	defer h.mutex.Unlock()
	held, ok := h.held[client.ObjectKeyFromObject(sandbox)]
	if !ok || held.generation != sandbox.Generation || !held.request.Equal(requested(sandbox)) {
		return 0
	}
	return held.until.Sub(now)
}

// retry ends the wait, and keeps the count of failures.
func (h *holds) retry(key client.ObjectKey) {
	h.mutex.Lock()
	defer h.mutex.Unlock()
	if held, ok := h.held[key]; ok {
		held.until = time.Time{}
		h.held[key] = held
	}
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
