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
	"errors"
	"fmt"
	"testing"
	"time"

	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/opensandbox-io/sandbox-apiserver/apis/lifecycle/v1alpha1"
)

// stormSteps is how many things happen in a storm before the world calms down.
const stormSteps = 50

// FuzzStorm lets people, nodes, commits and API servers do at random what they may do at any time, lets the controller die
// between any two requests, checks after each step what must never happen, and then that all of it comes to
// rest. STORMS says how many there are: 20000x are a million steps.
func FuzzStorm(f *testing.F) {
	seeds := uint64(400)
	if testing.Short() {
		seeds = 100
	}
	for seed := range seeds {
		f.Add(seed)
	}
	f.Fuzz(func(t *testing.T, seed uint64) {
		w := newWorld(t, seed)
		for range stormSteps {
			w.step()
			if t.Failed() {
				return
			}
		}
		w.settle()
	})
}

// step is one thing that happens.
func (w *world) step() {
	w.now = w.now.Add(time.Duration(w.rand.IntN(8)) * time.Second)
	happenings := []func(){
		w.visit, w.visit, w.visit, w.visit, w.visit, w.visit,
		w.jobController, w.jobController, w.kubelet, w.kubelet, w.kubelet, w.kubelet,
		w.sandboxController, w.sandboxController, w.sandboxController, w.sandboxController,
		w.pause, w.pause, w.cancel, w.resume, w.userSnapshot,
		w.deleteSnapshot, w.editSnapshot, w.takeFinalizer, w.editJob, w.deleteJob, w.losePod, w.loseNode,
		w.trouble, w.trouble, w.calmDown, w.late, w.late, w.expire,
	}
	happenings[w.rand.IntN(len(happenings))]()
	w.check()
}

// settle lets the world go on without people and troubles until everything has ended.
func (w *world) settle() {
	w.calm()
	for range 120 {
		w.now = w.now.Add(longestWait)
		w.late()
		for range 3 {
			w.jobController()
			w.kubelet()
		}
		for _, key := range w.keys() {
			w.visitOf(key)
		}
		for _, sandbox := range w.sandboxes() {
			w.control(sandbox)
		}
		w.check()
		if w.t.Failed() {
			return
		}
		if w.atRest() {
			w.rested()
			return
		}
	}
	w.fail("does not come to rest")
}

func (w *world) atRest() bool {
	for _, snapshot := range w.snapshots() {
		if snapshot.DeletionTimestamp != nil || snapshot.Status.Phase != v1alpha1.SnapshotSucceed && snapshot.Status.Phase != v1alpha1.SnapshotFailed {
			return false
		}
	}
	for _, sandbox := range w.sandboxes() {
		if sandbox.Status.Phase == v1alpha1.SandboxPausing {
			return false
		}
	}
	for _, job := range w.jobs() {
		if !ended(job) {
			return false
		}
	}
	return len(w.frozen) == 0 && len(w.r.slots.held) == 0 && len(w.r.slots.queue.tickets) == 0
}

func (w *world) rested() {
	if w.r.slots.total != 0 || len(w.r.slots.onNode) > 0 || len(w.r.slots.ofPod) > 0 {
		w.fail("rests, and counts %d slots, %v, %v", w.r.slots.total, w.r.slots.onNode, w.r.slots.ofPod)
	}
	if len(w.r.memory.of) > 0 {
		w.fail("rests and remembers %v", w.r.memory.of)
	}
	for image, uid := range w.images {
		if !w.told(image, uid) {
			w.fail("rests with the image %s of snapshot %s in the registry, and nobody was told", image, uid)
		}
	}
}

// check is what holds at any time.
func (w *world) check() {
	// Two commits of one Pod would thaw and freeze for each other.
	commits := map[string]string{}
	for _, pod := range w.pods() {
		if pod.Labels[v1alpha1.LabelComponent] != commit || !mayRun(pod) {
			continue
		}
		target := pod.Labels[v1alpha1.LabelPodUID]
		if other := commits[target]; other != "" {
			w.fail("%s and %s commit Pod %s", other, pod.Name, target)
		}
		commits[target] = pod.Name
	}
	for pod := range w.frozen {
		if why := w.bound(pod); why == "" {
			w.fail("Pod %s is frozen, and nobody is there to thaw it or to end it", pod)
		}
	}
	for image, uid := range w.images {
		if snapshot := w.snapshotOf(uid); snapshot != nil && !w.told(image, uid) {
			w.fail("the image %s is in the registry, and snapshot %s does not tell of it", image, snapshot.Name)
		}
	}
}

func (w *world) visit() {
	keys := w.keys()
	if len(keys) > 0 {
		w.visitOf(keys[w.rand.IntN(len(keys))])
	}
}

// visitOf is a visit of the controller, which may die in the middle of it.
func (w *world) visitOf(key client.ObjectKey) {
	w.requests, w.failures = 0, 0
	w.dies = -1
	if !w.calmed && w.chance(12) {
		w.dies = w.rand.IntN(14)
	}
	defer func() {
		if died := recover(); died != nil {
			if err, is := died.(error); !is || !errors.Is(err, errDied) {
				panic(died)
			}
			w.note("controller: dies in its visit of %s", key.Name)
			w.restart()
		}
	}()
	result, err := w.r.Reconcile(w.t.Context(), requestFor(key))
	w.dies = -1
	w.woken()
	snapshot := w.snapshot(key)
	w.note("controller: visits %s: %s, again in %s, %v", key.Name, summary(snapshot), result.RequeueAfter, err)
	if snapshot == nil || err != nil {
		return
	}
	final := snapshot.Status.Phase == v1alpha1.SnapshotSucceed || snapshot.Status.Phase == v1alpha1.SnapshotFailed
	switch says := conditionOf(snapshot.Status.Conditions, v1alpha1.ConditionReady); {
	case final && snapshot.DeletionTimestamp == nil:
	case result.RequeueAfter <= 0 || result.RequeueAfter > queueBackstop:
		w.fail("%s waits, and nobody looks again", key.Name)
	case says == "" || w.failures > 0 && says == v1alpha1.ReasonPending:
		w.fail("%s waits without a word: %s", key.Name, says)
	case w.failures > 0 && snapshot.Status.Phase == v1alpha1.SnapshotPending && w.r.slots.busy(key):
		w.fail("%s keeps its slot after an error of an API", key.Name)
	}
}

// busy says whether a snapshot counts among those that commit.
func (s *slots) busy(key client.ObjectKey) bool {
	its, held := s.held[key]
	return held && !its.ended
}

func (w *world) note(format string, args ...any) {
	w.past = append(w.past, w.now.Format("15:04:05 ")+fmt.Sprintf(format, args...))
}
