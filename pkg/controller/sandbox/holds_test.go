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

func TestBackoff(t *testing.T) {
	want := []time.Duration{10 * time.Second, 20 * time.Second, 40 * time.Second, 80 * time.Second, 160 * time.Second, 5 * time.Minute, 5 * time.Minute}
	for i := range want {
		if got := backoff(int32(i + 1)); got != want[i] {
			t.Errorf("after %d failures %s, want %s", i+1, got, want[i])
		}
	}
	if got := backoff(1 << 30); got != lastRetry {
		t.Errorf("after very many failures %s", got)
	}
}

func TestHolds(t *testing.T) {
	sandbox := sandboxIn(v1alpha1.SandboxPending)
	key := client.ObjectKeyFromObject(sandbox)
	h := &holds{}
	now := epoch
	left := func(want time.Duration, when string) {
		t.Helper()
		if got := h.left(sandbox, now); got != want {
			t.Errorf("%s: %s left, want %s", when, got, want)
		}
	}

	left(0, "never refused")
	h.retry(key)
	left(0, "never refused, and tried again")
	h.hold(sandbox, now)
	left(10*time.Second, "refused")
	now = now.Add(9 * time.Second)
	left(time.Second, "later")
	now = now.Add(time.Second)
	left(0, "its time has come")
	h.hold(sandbox, now)
	left(20*time.Second, "refused again")

	sandbox.Generation++
	left(0, "its spec has changed")
	sandbox.Generation--
	asked := metav1.NewMicroTime(now)
	sandbox.Status.LastRequestTime = &asked
	left(0, "asked for again")
	h.hold(sandbox, now)
	left(40*time.Second, "refused in spite of that")

	h.retry(key)
	if got := h.left(sandbox, now); got > 0 {
		t.Errorf("what was in the way is gone: %s left", got)
	}
	h.hold(sandbox, now)
	left(80*time.Second, "something else was in the way")
	h.holdAfter(sandbox, now, 2)
	left(20*time.Second, "refused for the second time, as its status says")
	h.forget(key)
	left(0, "created")
	h.hold(sandbox, now)
	left(10*time.Second, "refused the next time")
}

// A Pod that does not live long is made again ever more slowly; nobody else waits.
func TestAPodThatIsMadeAgainAndAgain(t *testing.T) {
	f := newFixture(t, sandboxIn(v1alpha1.SandboxPending))
	dies := func() {
		t.Helper()
		if f.pod() == nil {
			t.Fatal("there is no Pod")
		}
		if err := f.host.Delete(t.Context(), f.pod()); err != nil {
			t.Fatal(err)
		}
	}
	// While it waits the template is free.
	const waits, free = "Pending pod=demo", "Pending"
	f.visits(waits)
	dies()
	for i, want := range []time.Duration{10 * time.Second, 20 * time.Second, 40 * time.Second} {
		if result := f.visits(free); f.pod() != nil || result.RequeueAfter != want {
			t.Fatalf("after %d Pods there is %v, and the next visit in %s, want %s", i+1, f.pod(), result.RequeueAfter, want)
		}
		f.clock.SetTime(f.clock.Now().Add(want))
		f.visits(waits)
		dies()
	}
	// Whoever asks anew does not wait, and neither does one that was left alone.
	sandbox := &v1alpha1.Sandbox{}
	if err := f.own.Get(t.Context(), client.ObjectKey{Namespace: namespace, Name: name}, sandbox); err != nil {
		t.Fatal(err)
	}
	sandbox.Status.LastRequestTime = &metav1.MicroTime{Time: f.clock.Now()}
	if err := f.own.Status().Update(t.Context(), sandbox); err != nil {
		t.Fatal(err)
	}
	f.visits(waits)
	dies()
	f.clock.SetTime(f.clock.Now().Add(time.Hour))
	f.visits(waits)
	dies()
	if result := f.visits(free); result.RequeueAfter != 10*time.Second {
		t.Errorf("after an hour the wait is %s", result.RequeueAfter)
	}
}
