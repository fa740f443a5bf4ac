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
	"context"
	"errors"
	"fmt"
	"strings"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/opensandbox-io/sandbox-apiserver/apis/lifecycle/v1alpha1"
	"github.com/opensandbox-io/sandbox-apiserver/pkg/controller/answer"
	"github.com/opensandbox-io/sandbox-apiserver/pkg/controller/naming"
)

// TestWalk lets people, nodes and commits do at random what they may do at any time, checks
// after each step what must never happen, and then that all of it comes to rest.
func TestWalk(t *testing.T) {
	const steps = 80
	walks := uint64(2000)
	if testing.Short() {
		walks = 200
	}
	arrived := map[string]int{}
	for seed := range walks {
		w := newWorld(t, seed)
		for range steps {
			w.step()
		}
		w.settle()
		arrived[string(w.sandbox.Status.Phase)]++
		if t.Failed() {
			return
		}
	}
	t.Logf("came to rest as %v", arrived)
}

// step is one thing that happens.
func (w *world) step() {
	w.now = w.now.Add(time.Duration(w.rand.IntN(20)) * time.Second)
	happenings := []func(){
		w.visit, w.visit, w.visit, w.visit, w.visit,
		w.node, w.node, w.node, w.node,
		w.commit, w.commit, w.commit, w.commit,
		w.write, w.write,
		w.pause, w.pause, w.resume, w.resume, w.resumeElsewhere, w.update, w.edit,
		w.deletePod, w.losePod, w.evict, w.move, w.move, w.editPolicy, w.end, w.restart, w.adopt, w.deleteSnapshot, w.sweepRegistry, w.away,
		w.renew, w.expire, w.expire,
	}
	happenings[w.rand.IntN(len(happenings))]()
	w.check()
}

// settle lets the world go on without inputs until nothing moves.
func (w *world) settle() {
	w.calm = true
	for range 60 {
		before := w.state()
		w.now = w.now.Add(lastRetry)
		w.node()
		w.commit()
		w.sweepRegistry() // which has every image again
		w.expire()
		w.visit()
		w.check()
		if w.t.Failed() {
			return
		}
		if w.state() == before {
			w.rested()
			return
		}
	}
	w.fail("does not come to rest")
}

func (w *world) rested() {
	status := &w.sandbox.Status
	ready := meta.FindStatusCondition(status.Conditions, v1alpha1.ConditionReady)
	switch {
	case w.frozen:
		w.fail("rests with frozen containers")
	case ready == nil || ready.Reason == "" || ready.Message == "":
		w.fail("rests without saying why")
	case status.Move != nil:
		w.fail("rests, and its Pod is to go")
	case status.Phase == v1alpha1.SandboxFailed:
		if ready.Reason != v1alpha1.ReasonNoSnapshot && ready.Reason != v1alpha1.ReasonSnapshotNotFound && ready.Reason != v1alpha1.ReasonFilesLost {
			w.fail("rests as Failed because of %s", ready.Reason)
		}
	case w.sandbox.Spec.DesiredState == v1alpha1.DesiredStatePaused && ready.Reason == v1alpha1.ReasonNeverRan && status.PodName == "" && w.pod == nil:
	case status.Phase == v1alpha1.SandboxRunning && w.pausedReason() == v1alpha1.ReasonFilesLost && meta.IsStatusConditionTrue(status.Conditions, v1alpha1.ConditionDataLost):
	case w.sandbox.Spec.DesiredState == v1alpha1.DesiredStatePaused && status.Phase != v1alpha1.SandboxPaused,
		w.sandbox.Spec.DesiredState == v1alpha1.DesiredStateRunning && status.Phase != v1alpha1.SandboxRunning:
		w.fail("rests in another phase than the wanted one")
	}
}

// check is what holds at any time.
func (w *world) check() {
	status := &w.sandbox.Status
	switch {
	case status.Phase == v1alpha1.SandboxPaused && w.pod != nil:
		w.fail("Paused, and the Pod exists")
	case status.Phase == v1alpha1.SandboxPaused && !w.succeeded(status.SnapshotName):
		w.fail("Paused on a snapshot that did not succeed")
	case w.frozen && w.pod != nil && status.Phase != v1alpha1.SandboxPausing:
		w.fail("containers are frozen, and nothing is being committed")
	case status.Move != nil && (status.Phase == v1alpha1.SandboxPaused || status.Phase == v1alpha1.SandboxFailed):
		w.fail("is moved, and does not come back")
	case w.unnoted && meta.IsStatusConditionTrue(status.Conditions, v1alpha1.ConditionPaused):
		w.fail("files went while the pause was wanted, and it is called saved without a word of anybody's")
	}
	if meta.IsStatusConditionTrue(status.Conditions, v1alpha1.ConditionDataLost) {
		w.unsaid = false
	}
}

// visit is the controller's: decide and do until there is nothing to do but to wait.
func (w *world) visit() {
	thawed, checked, fresh, claimed, named := false, false, false, false, false
	for range maxSteps {
		seen := w.observe()
		seen.thawed, seen.checked, seen.fresh, seen.claimed, seen.named = thawed, checked, fresh, claimed, named
		next := decide(*seen)
		if next.do != wait {
			w.note("controller: %s", next.do)
		}
		switch next.do {
		case wait:
			return
		case writeStatus:
			w.store(next)
			if next.after > 0 {
				return
			}
			named = next.creates
			if w.chance(10) {
				w.note("controller: crashes")
				return
			}
		case checkImages:
			w.askRegistry(seen.from)
			checked = true
		case readPod:
			fresh = true
		case claimPod:
			w.pod = w.pod.DeepCopy()
			w.pod.OwnerReferences = []metav1.OwnerReference{controllerOf(w.sandbox)}
			claimed = true
		case createPod:
			if imagesMissing(seen.from) {
				w.fail("creates a Pod whose image is not in the registry")
			}
			if err := w.answers(); err != nil {
				if act, told := seen.podNotMade(err); told {
					w.store(act)
				}
				return
			}
			w.createPod()
			return
		case deletePod:
			w.mayDelete()
			w.terminate(next.grace)
			return
		case createSnapshot:
			if err := w.answers(); err != nil {
				act, told := seen.snapshotNotMade(err)
				if !told {
					return
				}
				w.store(act)
				continue
			}
			w.createSnapshot()
		case thaw:
			if w.chance(3) {
				return // its Job runs
			}
			w.thawSource(seen.attempt)
			if w.chance(5) {
				w.note("controller: crashes")
				return
			}
			thawed = true
		case kill:
			w.kill()
			return
		case claim:
			w.claim()
			if !w.calm {
				return // its end brings the next visit
			}
		}
	}
	w.fail("%d steps at one visit", maxSteps)
}

var apiAnswers = []error{
	&apierrors.StatusError{ErrStatus: metav1.Status{Code: 422, Message: strings.Repeat("x", 152_000)}},
	apierrors.NewForbidden(corev1.Resource("pods"), name, errors.New("exceeded quota")),
	apierrors.NewInternalError(errors.New("failed calling webhook")),
	apierrors.NewConflict(corev1.Resource("pods"), name, errors.New("the quota has changed")),
	apierrors.NewTooManyRequests("not today", 86400),
	errors.New("connection refused"),
	context.Canceled,
}

// answers is what an API says that does not do what it is asked.
func (w *world) answers() error {
	if !w.chance(6) {
		return nil
	}
	err := apiAnswers[w.rand.IntN(len(apiAnswers))]
	w.note("the API: %.60s", err.Error())
	return err
}

// store writes a status that a step has come to.
func (w *world) store(act action) {
	if act.do == wait {
		return
	}
	w.sandbox = w.sandbox.DeepCopy()
	w.sandbox.Status = *act.status
	w.note("  %s", summary(act.status))
	for _, condition := range act.status.Conditions {
		if len(condition.Message) > answer.MaxCondition {
			w.fail("%s says %d bytes", condition.Type, len(condition.Message))
		}
	}
	w.told(act.event)
	w.check()
}

// observe is the Reconciler's observe on this world.
func (w *world) observe() *observed {
	status := &w.sandbox.Status
	seen := &observed{sandbox: w.sandbox, pod: w.pod, now: w.now, lastResets: w.resets, template: hashOf(w.sandbox, "")}
	if w.chance(2) {
		seen.startLeft = startPatience
	}
	if status.Phase == v1alpha1.SandboxPausing || status.FailedAttempts > 0 {
		seen.attempt = w.snapshots[naming.PauseSnapshot(name, status.SnapshotAttempts)]
	}
	if w.pod != nil && w.pod.DeletionTimestamp != nil && seen.pausedReason() == v1alpha1.ReasonRemovingPod {
		seen.killing = w.killing
	}
	if seen.attemptIsOurs() && w.saved() && (w.pod == nil || w.pod.DeletionTimestamp == nil || w.pausedReason() != v1alpha1.ReasonRemovingPod) {
		seen.staying = w.staying()
	}
	if status.SnapshotName != "" && w.pod == nil && status.Phase != v1alpha1.SandboxPaused {
		seen.from = w.snapshots[status.SnapshotName]
	}
	return seen
}

// told checks what an event claims.
func (w *world) told(event *note) {
	if event == nil || event.reason != v1alpha1.ReasonPaused && event.reason != v1alpha1.ReasonFilesSaved {
		return
	}
	status := &w.sandbox.Status
	switch {
	case status.SnapshotName != naming.PauseSnapshot(name, status.SnapshotAttempts):
		w.fail("paused, and the next resume does not use this attempt")
	case w.content[status.SnapshotName] != w.last:
		w.fail("paused, and %d of %d writes are in the snapshot", w.content[status.SnapshotName], w.last)
	}
}

// mayDelete checks the deletion of a Pod: in a pause, all that it holds is saved, and the mark is set.
func (w *world) mayDelete() {
	status := &w.sandbox.Status
	if status.Phase != v1alpha1.SandboxPausing {
		return
	}
	attempt := w.snapshots[naming.PauseSnapshot(name, status.SnapshotAttempts)]
	paused := meta.FindStatusCondition(status.Conditions, v1alpha1.ConditionPaused)
	if attempt == nil || attempt.Status.Phase != v1alpha1.SnapshotSucceed || attempt.Status.SourcePodUID != w.pod.UID || paused.Reason != v1alpha1.ReasonRemovingPod {
		w.fail("deletes a Pod that is not saved")
	}
	if w.unsaid {
		w.fail("deletes a Pod with a reset in place that nobody was told of")
	}
	if w.pod.Status.Phase == corev1.PodRunning && !w.frozen {
		w.fail("deletes a Pod that was thawed after its commit")
	}
}

// kill begins one, of a Pod that cannot come back.
func (w *world) kill() {
	w.mayDelete()
	if w.pod.DeletionTimestamp == nil {
		w.fail("has the containers of a Pod killed that stays: the kubelet would start them again")
	}
	w.killing = killUnderWay
}

// state is everything that moves, on one line.
func (w *world) state() string {
	line := summary(&w.sandbox.Status)
	if w.pod != nil {
		line += fmt.Sprintf(" | Pod %s %s frozen=%t terminating=%t killing=%d", w.pod.UID, w.pod.Status.Phase, w.frozen, w.pod.DeletionTimestamp != nil, w.killing)
	}
	for attempt := range w.sandbox.Status.SnapshotAttempts {
		if snapshot := w.snapshots[naming.PauseSnapshot(name, attempt+1)]; snapshot != nil {
			line += fmt.Sprintf(" | %s %s deleted=%t", snapshot.Name, snapshot.Status.Phase, snapshot.DeletionTimestamp != nil)
		}
	}
	return line
}

func (w *world) note(format string, args ...any) {
	w.past = append(w.past, fmt.Sprintf(format, args...))
}

func (w *world) fail(format string, args ...any) {
	w.t.Helper()
	if !w.t.Failed() {
		w.t.Errorf("seed %d: %s\nwanted: %s\nstate:  %s\npast:\n  %s", w.seed, fmt.Sprintf(format, args...),
			w.sandbox.Spec.DesiredState, w.state(), strings.Join(w.past[max(0, len(w.past)-40):], "\n  "))
	}
}
