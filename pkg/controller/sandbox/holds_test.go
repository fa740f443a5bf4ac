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
	"testing"
	"time"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/opensandbox-io/sandbox-apiserver/apis/lifecycle/v1alpha1"
)

func TestHolds(t *testing.T) {
	sandbox := sandboxIn(v1alpha1.SandboxPending)
	h := &holds{}
	now := epoch
	left := func(want time.Duration, when string) {
		t.Helper()
		if got := h.left(sandbox, "a", now); got != want {
			t.Errorf("%s: %s left, want %s", when, got, want)
		}
	}
	left(0, "never done")
	h.hold(sandbox, "a", now)
	left(10*time.Second, "done")
	now = now.Add(9 * time.Second)
	left(time.Second, "later")
	now = now.Add(time.Second)
	left(0, "its time has come")
	h.hold(sandbox, "a", now)
	left(20*time.Second, "done again")
	if got := h.left(sandbox, "b", now); got != 0 {
		t.Errorf("something else waits for %s", got)
	}
	sandbox.Generation++
	left(0, "its spec has changed")
	sandbox.Generation--
	asked := metav1.NewMicroTime(now)
	sandbox.Status.LastRequestTime = &asked
	left(0, "asked for again")
	h.forget(client.ObjectKeyFromObject(sandbox))
	h.hold(sandbox, "a", now)
	left(10*time.Second, "done the next time")
	h.hold(sandbox, "b", now)
	h.hold(sandbox, "a", now)
	left(10*time.Second, "done after something else")
}
