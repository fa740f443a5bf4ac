//go:build e2e

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

package e2e

import (
	"testing"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/utils/ptr"

	"github.com/opensandbox-io/sandbox-apiserver/apis/lifecycle/v1alpha1"
)

// unsaved: a Pod that is to go takes its files with it.
func unsaved(s *v1alpha1.Sandbox) { s.Spec.EvictionPolicy = v1alpha1.EvictionPolicyNone }

// patient: its process does not hear SIGTERM, and has half a minute, as the Pods of most people.
func patient(s *v1alpha1.Sandbox) {
	s.Spec.Template.Spec.TerminationGracePeriodSeconds = ptr.To[int64](30)
}

// awaitMoved waits until the sandbox runs in another Pod, with all that it had.
func (r *room) awaitMoved(before *v1alpha1.Sandbox) *v1alpha1.Sandbox {
	r.t.Helper()
	after := r.await(before.Name, "ready in another Pod", func(s *v1alpha1.Sandbox) bool {
		return s.Status.Phase == v1alpha1.SandboxRunning && s.Status.PodUID != before.Status.PodUID && meta.IsStatusConditionTrue(s.Status.Conditions, v1alpha1.ConditionReady)
	})
	if after.Status.Move != nil || after.Generation != before.Generation || meta.FindStatusCondition(after.Status.Conditions, v1alpha1.ConditionDataLost) != nil {
		r.t.Errorf("moved, the sandbox is %s, its move %+v, of generation %d after %d", describe(after), after.Status.Move, after.Generation, before.Generation)
	}
	return after
}

// A Pod that is deleted, by whomever, with time to end: what still runs is committed, and nothing is lost.
func TestAPodThatIsDeletedIsMoved(t *testing.T) {
	t.Parallel()
	r := newRoom(t)
	before := r.start("demo", patient)
	r.sh("demo", "mkdir -p /root/work; for i in $(seq 200); do echo $i > /root/work/$i; done")
	r.deletePod("demo", metav1.DeleteOptions{})
	r.awaitMoved(before)
	if got := r.sh("demo", "ls /root/work | wc -l; cat /root/work/200"); got != "200\n200\n" {
		t.Errorf("moved, it has %q", got)
	}
	r.awaitEvent(corev1.EventTypeNormal, v1alpha1.EventMoved)
	if snapshot := r.snapshot("demo-gen1"); snapshot.Status.Phase != v1alpha1.SnapshotSucceed {
		t.Errorf("its snapshot is %s", snapshot.Status.Phase)
	}
	r.mustNotBeFrozen()
}

// The record alone, whoever writes it, moves a sandbox; a pause that is asked for meanwhile is one.
func TestWhatIsToGoIsMoved(t *testing.T) {
	t.Parallel()
	r := newRoom(t)
	record := func(name string) *v1alpha1.Sandbox {
		t.Helper()
		for {
			sandbox := r.get(name)
			sandbox.Status.Move = &v1alpha1.SandboxMove{PodUID: sandbox.Status.PodUID, NodeName: sandbox.Status.NodeName, Reason: v1alpha1.ReasonNodeDraining, RequestTime: metav1.NowMicro()}
			recorded, err := r.sandboxes().UpdateStatus(t.Context(), sandbox, metav1.UpdateOptions{})
			if err == nil {
				return recorded
			}
			if !apierrors.IsConflict(err) {
				t.Fatal(err)
			}
		}
	}
	r.create("demo")
	r.create("paused")
	for _, name := range []string{"demo", "paused"} {
		r.awaitReady(name)
		r.sh(name, "echo mine > /root/mine")
	}
	first := record("demo")
	r.awaitMoved(first)
	if got := r.sh("demo", "cat /root/mine"); got != "mine\n" {
		t.Errorf("moved, it has %q", got)
	}
	r.awaitEvent(corev1.EventTypeNormal, v1alpha1.EventMoved)

	record("paused")
	r.pause("paused")
	now, _ := r.awaitPaused("paused")
	if now.Status.Move != nil || now.Status.SnapshotAttempts != 1 {
		t.Errorf("paused while it was to be moved, the sandbox is %s, its move %+v", describe(now), now.Status.Move)
	}
	r.resume("paused")
	r.awaitReady("paused")
	if got := r.sh("paused", "cat /root/mine"); got != "mine\n" {
		t.Errorf("resumed, it has %q", got)
	}
	r.mustNotBeFrozen()
}
