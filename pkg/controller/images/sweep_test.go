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

package images

import (
	"testing"
	"time"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	ctrl "sigs.k8s.io/controller-runtime"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/opensandbox-io/sandbox-apiserver/apis/lifecycle/v1alpha1"
	"github.com/opensandbox-io/sandbox-apiserver/pkg/committer/result"
)

// using is a sandbox whose next resume uses a snapshot.
func using(snapshot string, options ...func(*v1alpha1.Sandbox)) *v1alpha1.Sandbox {
	sandbox := &v1alpha1.Sandbox{
		ObjectMeta: metav1.ObjectMeta{Namespace: "default", Name: "demo", UID: "sandbox-1"},
		Status:     v1alpha1.SandboxStatus{Phase: v1alpha1.SandboxPaused, SnapshotName: snapshot},
	}
	for _, option := range options {
		option(sandbox)
	}
	return sandbox
}

// sweeps lets the snapshot have its turn, if it is, and returns when it wants the next.
func (f *fixture) sweeps() time.Duration {
	f.Helper()
	result, err := f.sweep.Reconcile(f.Context(), ctrl.Request{NamespacedName: client.ObjectKey{Namespace: "default", Name: "demo-gen1"}})
	if err != nil {
		f.Fatal(err)
	}
	return result.RequeueAfter
}

func (f *fixture) after(d time.Duration) { f.clock.SetTime(f.clock.Now().Add(d)) }

func TestSweep(t *testing.T) {
	f := newFixture(t, using("demo-gen1"), snapshotIn(v1alpha1.SnapshotSucceed))
	const every = 30 * time.Minute
	between := func(what string, got, least, most time.Duration) {
		t.Helper()
		if got < least || got > most {
			t.Errorf("%s: the next turn comes in %s, want it in %s to %s", what, got, least, most)
		}
	}

	first := f.sweeps()
	between("at first", first, 1, every)
	if f.sweeps() != first || f.shelf.asked != 0 {
		t.Fatal("a visit before its turn changes the turn")
	}
	f.after(first)
	between("after a check", f.sweeps(), every*3/4, every*5/4)
	if f.shelf.asked != 2 || f.condition().Status != metav1.ConditionTrue {
		t.Fatalf("asked %d times, says %v", f.shelf.asked, f.condition())
	}
	f.sweeps() // an event of the sandbox asks nobody
	if f.shelf.asked != 2 {
		t.Fatalf("asked %d times", f.shelf.asked)
	}

	f.shelf.missing["main"] = true
	f.after(every * 5 / 4)
	between("after one that found nothing", f.sweeps(), recheck*3/4, recheck*5/4)
	if f.condition().Status != metav1.ConditionFalse || f.told() != "Warning ImageUnavailable" {
		t.Fatalf("says %v", f.condition())
	}
	f.shelf.missing["main"] = false
	f.shelf.fails["main"] = result.Errorf(result.RegistryUnavailable, "it does not answer")
	f.after(recheck * 5 / 4)
	between("after one without an answer", f.sweeps(), recheck*3/4, recheck*5/4)
	delete(f.shelf.fails, "main")
	f.after(recheck * 5 / 4)
	between("after one that found it again", f.sweeps(), every*3/4, every*5/4)
	if f.condition().Status != metav1.ConditionTrue {
		t.Fatalf("says %v", f.condition())
	}
}

func TestSweepLeavesAloneWhatNobodyNeeds(t *testing.T) {
	leaving := func(s *v1alpha1.Sandbox) {
		s.DeletionTimestamp, s.Finalizers = &metav1.Time{Time: epoch}, []string{v1alpha1.SandboxFinalizer}
	}
	deleted := snapshotIn(v1alpha1.SnapshotSucceed)
	deleted.DeletionTimestamp, deleted.Finalizers = &metav1.Time{Time: epoch}, []string{v1alpha1.SnapshotFinalizer}
	for name, objects := range map[string][]client.Object{
		"it is not there":         {using("demo-gen1")},
		"another is needed":       {using("demo-gen2"), snapshotIn(v1alpha1.SnapshotSucceed)},
		"its sandbox goes":        {using("demo-gen1", leaving), snapshotIn(v1alpha1.SnapshotSucceed)},
		"it has not succeeded":    {using("demo-gen1"), snapshotIn(v1alpha1.SnapshotFailed)},
		"it is being deleted":     {using("demo-gen1"), deleted},
		"there is no sandbox":     {snapshotIn(v1alpha1.SnapshotSucceed)},
		"nothing is there at all": nil,
	} {
		t.Run(name, func(t *testing.T) {
			f := newFixture(t, objects...)
			if again := f.sweeps(); again != 0 || f.shelf.asked != 0 || len(f.sweep.due) != 0 {
				t.Errorf("asked %d times, looks again after %s", f.shelf.asked, again)
			}
		})
	}
}

func TestASnapshotOfTheSameNameHasATurnOfItsOwn(t *testing.T) {
	f := newFixture(t, using("demo-gen1"), snapshotIn(v1alpha1.SnapshotSucceed))
	f.sweep.set(f.snapshot(), f.clock.Now().Add(time.Hour))
	anew := f.snapshot()
	anew.UID = "uid-2"
	if at := f.sweep.turn(anew); at.After(f.clock.Now().Add(f.sweep.Every)) {
		t.Errorf("its turn is at %s", at)
	}
	if got := neededBy(t.Context(), using("")); got != nil {
		t.Errorf("a sandbox without a snapshot needs %v", got)
	}
}
