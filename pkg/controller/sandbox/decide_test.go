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
	"fmt"
	"strings"
	"testing"
	"time"

	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/utils/ptr"

	"github.com/opensandbox-io/sandbox-apiserver/apis/lifecycle/v1alpha1"
)

// summary is a status on one line: the phase, the conditions and what else is set.
func summary(status *v1alpha1.SandboxStatus) string {
	words := []string{string(status.Phase)}
	for _, kind := range []string{v1alpha1.ConditionReady, v1alpha1.ConditionPaused, v1alpha1.ConditionDataLost, v1alpha1.ConditionPodAdopted} {
		if condition := meta.FindStatusCondition(status.Conditions, kind); condition != nil {
			words = append(words, fmt.Sprintf("%s=%s/%s", kind, condition.Status, condition.Reason))
		}
	}
	if status.Move != nil {
		words = append(words, "move="+status.Move.Reason)
		if status.Move.PodUID != status.PodUID {
			words[len(words)-1] += "/" + string(status.Move.PodUID)
		}
	}
	if status.PodName != "" {
		words = append(words, strings.TrimSuffix("pod="+status.PodName+"/"+string(status.PodUID), "/"))
	}
	if status.SnapshotName != "" {
		words = append(words, "saved="+status.SnapshotName)
	}
	if status.SnapshotAttempts > 0 {
		words = append(words, fmt.Sprintf("attempts=%d", status.SnapshotAttempts))
	}
	if status.FailedAttempts > 0 {
		words = append(words, fmt.Sprintf("failed=%d", status.FailedAttempts))
	}
	if status.FailedPods > 0 {
		words = append(words, fmt.Sprintf("failedPods=%d", status.FailedPods))
	}
	return strings.Join(words, " ")
}

// decision is what is decided on something seen, and what follows.
type decision struct {
	name string
	sees observed
	// do is the first action, status what it writes.
	do     verb
	status string
	// then is what follows once all is written that is to be written.
	then verb
	// grace is what a deleted Pod gets, nil: what it asks for.
	grace *int64
	// event is the reason of the event that the first action tells.
	event string
	after time.Duration
}

func TestDecide(t *testing.T) {
	const (
		pending  = v1alpha1.SandboxPending
		running  = v1alpha1.SandboxRunning
		pausing  = v1alpha1.SandboxPausing
		paused   = v1alpha1.SandboxPaused
		resuming = v1alpha1.SandboxResuming
		failed   = v1alpha1.SandboxFailed

		succeed    = v1alpha1.SnapshotSucceed
		committing = v1alpha1.SnapshotCommitting
		unfinished = v1alpha1.SnapshotPending
		broken     = v1alpha1.SnapshotFailed

		hash = "the template's"
	)
	tests := []decision{
		// The first Pod.
		{name: "pending: the Pod's name is written before the Pod is created",
			sees: observation(sandboxIn(pending)),
			do:   writeStatus, status: "Pending pod=demo", then: createPod},
		{name: "pending: the Pod is created once its name is written",
			sees: observation(sandboxIn(pending, creates), nameWritten),
			do:   createPod},
		{name: "a phase that was never set is Pending",
			sees: observation(sandboxIn("", creates), nameWritten),
			do:   createPod},
		{name: "pending: a Pod that was refused waits for its time",
			sees: observation(sandboxIn(pending, retries(time.Minute)), after(40*time.Second)),
			do:   wait, after: 20 * time.Second},
		{name: "pending: the Pod starts",
			sees: observation(sandboxIn(pending, creates), sees(podOf(pendingPod))),
			do:   writeStatus, status: "Pending Ready=False/PodPending pod=demo/pod-1", then: wait},
		{name: "pending: the Pod is ready",
			sees: observation(sandboxIn(pending, creates), sees(podOf())),
			do:   writeStatus, status: "Running Ready=True/PodReady Paused=False/Running pod=demo/pod-1", then: wait, event: v1alpha1.ReasonRunning},
		{name: "pending: the Pod runs and is not ready",
			sees: observation(sandboxIn(pending, creates), sees(podOf(notReadyPod))),
			do:   writeStatus, status: "Running Ready=False/PodNotReady Paused=False/Running pod=demo/pod-1", then: wait, event: v1alpha1.ReasonRunning},
		{name: "pending: the Pod has ended already",
			sees: observation(sandboxIn(pending, creates), sees(podOf(ended))),
			do:   writeStatus, status: "Running Ready=False/ContainersEnded Paused=False/Running pod=demo/pod-1", then: wait, event: v1alpha1.ReasonRunning},
		{name: "pending: an evicted Pod is removed, once it is written down why",
			sees: observation(sandboxIn(pending, onPod), sees(podOf(evictedPod))),
			do:   writeStatus, status: "Pending Ready=False/PodLost pod=demo/pod-1", then: deletePod},
		{name: "pending: an evicted Pod is on its way out",
			sees: observation(sandboxIn(pending, onPod), sees(podOf(evictedPod, terminating(30)))),
			do:   writeStatus, status: "Pending Ready=False/PodLost pod=demo/pod-1", then: wait},
		{name: "pending: the Pod that went away is created anew",
			sees: observation(sandboxIn(pending, onPod)),
			do:   writeStatus, status: "Pending pod=demo", then: createPod},
		{name: "pending: and it is said where the Pod was seen before",
			sees: observation(sandboxIn(pending, onPod, says(v1alpha1.ConditionReady, metav1.ConditionFalse, v1alpha1.ReasonPodPending))),
			do:   writeStatus, status: "Pending Ready=False/PodLost pod=demo", then: createPod, event: v1alpha1.ReasonPodLost},
		{name: "pending: the Pod that went away is not created anew at once",
			sees: observation(sandboxIn(pending, onPod, says(v1alpha1.ConditionReady, metav1.ConditionFalse, v1alpha1.ReasonPodPending), retries(10*time.Second)), after(time.Second)),
			do:   writeStatus, status: "Pending Ready=False/PodLost", then: wait, event: v1alpha1.ReasonPodLost, after: 9 * time.Second},
		{name: "pending: nobody has seen the Pod, and it is not created once more",
			sees: observation(sandboxIn(pending, creates, retries(10*time.Second)), after(time.Second)),
			do:   writeStatus, status: "Pending Ready=False/PodLost", then: wait, event: v1alpha1.ReasonPodLost, after: 9 * time.Second},
		{name: "pending: an edit of the spec ends the wait",
			sees: observation(sandboxIn(pending, retries(10*time.Second), failedPods(7), edited), after(time.Second)),
			do:   writeStatus, status: "Pending pod=demo", then: createPod},
		{name: "pending: so does the end of the Pod that was in the way",
			sees: observation(sandboxIn(pending, retries(10*time.Second)), after(time.Second), unblocked),
			do:   writeStatus, status: "Pending pod=demo failedPods=1", then: createPod},
		{name: "pending: its time has come, and the next will wait for longer",
			sees: observation(sandboxIn(pending, retries(10*time.Second), failedPods(2)), after(10*time.Second)),
			do:   writeStatus, status: "Pending pod=demo failedPods=3", then: createPod},
		{name: "pending: nobody waits for what only a wrong clock can have written",
			sees: observation(sandboxIn(pending, retries(1000*time.Hour)), after(0)),
			do:   writeStatus, status: "Pending pod=demo failedPods=1", then: createPod},
		{name: "pending: a Pod that its node does not take stays until there may be another",
			sees: observation(sandboxIn(pending, onPod, retries(10*time.Second)), sees(podOf(notAdmitted)), after(time.Second)),
			do:   writeStatus, status: "Pending Ready=False/PodNotAdmitted pod=demo/pod-1", then: wait, event: v1alpha1.ReasonPodNotAdmitted, after: 9 * time.Second},
		{name: "pending: a Pod that its node has not taken is removed when its time has come",
			sees: observation(sandboxIn(pending, onPod, retries(10*time.Second), says(v1alpha1.ConditionReady, metav1.ConditionFalse, v1alpha1.ReasonPodNotAdmitted)), sees(podOf(notAdmitted)), after(10*time.Second)),
			do:   deletePod},
		{name: "pending: a Pod that its node has not taken is gone, and why is still said",
			sees: observation(sandboxIn(pending, onPod, retries(10*time.Second), says(v1alpha1.ConditionReady, metav1.ConditionFalse, v1alpha1.ReasonPodNotAdmitted)), after(11*time.Second)),
			do:   writeStatus, status: "Pending Ready=False/PodNotAdmitted pod=demo failedPods=1", then: createPod},
		{name: "pending: a Pod of other files is removed",
			sees: observation(sandboxIn(pending, creates), sees(podOf(restored("demo-gen1")))),
			do:   deletePod, grace: shortGrace},
		{name: "pending: a Pod whose container cannot be started has no files",
			sees: observation(sandboxIn(pending, creates), sees(podOf(notReadyPod, cannotStart))),
			do:   writeStatus, status: "Pending Ready=False/PodNotReady pod=demo/pod-1", then: wait},
		{name: "pending: nor has one that has ended without having begun",
			sees: observation(sandboxIn(pending, creates), sees(podOf(endedUnrun))),
			do:   writeStatus, status: "Pending Ready=False/ContainersEnded pod=demo/pod-1", then: wait},
		{name: "pending: what something else has put into the Pod runs, and is nothing of the sandbox's",
			sees: observation(sandboxIn(pending, creates), sees(podOf(cannotPull, otherRuns, madeOf("main", hash))), templateIs(hash)),
			do:   writeStatus, status: "Pending Ready=False/ImagePullFailed pod=demo/pod-1", then: wait},
		{name: "pending: one of two containers runs",
			sees: observation(sandboxIn(pending, creates), sees(podOf(cannotPull, otherRuns, madeOf("main,other", hash))), templateIs(hash)),
			do:   writeStatus, status: "Running Ready=False/ImagePullFailed Paused=False/Running pod=demo/pod-1", then: wait, event: v1alpha1.ReasonRunning},
		{name: "pending: the Pod that is gone had run before that was written down",
			sees: observation(sandboxIn(pending, onPod), sawMainRun),
			do:   writeStatus, status: "Pending Ready=False/Pending Paused=False/Running DataLost=True/PodLost", event: v1alpha1.ReasonPodLost},

		{name: "pending: the Pod that is gone had run before it was ever told of",
			sees: observation(sandboxIn(pending, creates), sawMainRun),
			do:   writeStatus, status: "Pending Ready=False/Pending Paused=False/Running DataLost=True/PodLost", event: v1alpha1.ReasonPodLost},

		// A template that is changed before anything has run.
		{name: "edited: why the Pod goes is written down before it is removed",
			sees: observation(sandboxIn(pending, onPod), sees(podOf(cannotPull, madeOf("main", "older"))), templateIs(hash)),
			do:   writeStatus, status: "Pending Ready=False/TemplateChanged pod=demo/pod-1", then: readPod},
		{name: "edited: the Pod of the older template is removed",
			sees: observation(sandboxIn(pending, onPod), sees(podOf(cannotPull, madeOf("main", "older"))), templateIs(hash), fresh),
			do:   writeStatus, status: "Pending Ready=False/TemplateChanged pod=demo/pod-1", then: deletePod},
		{name: "edited: also under a resume",
			sees: observation(sandboxIn(resuming, onPod, saved("demo-gen1")), sees(podOf(withoutNode, restored("demo-gen1"), madeOf("main", "older"))), templateIs(hash), fresh),
			do:   writeStatus, status: "Resuming Ready=False/TemplateChanged pod=demo/pod-1 saved=demo-gen1", then: deletePod},
		{name: "edited: also where the Pod has ended",
			sees: observation(sandboxIn(pending, onPod), sees(podOf(evictedPod, endedUnrun, madeOf("main", "older"))), templateIs(hash), fresh),
			do:   writeStatus, status: "Pending Ready=False/TemplateChanged pod=demo/pod-1", then: deletePod},
		{name: "edited: the Pod of the older template is on its way out",
			sees: observation(sandboxIn(pending, onPod, says(v1alpha1.ConditionReady, metav1.ConditionFalse, v1alpha1.ReasonTemplateChanged)), sees(podOf(cannotPull, madeOf("main", "older"), terminating(1))), templateIs("yet another")),
			do:   writeStatus, status: "Pending Ready=False/TemplateChanged pod=demo/pod-1", then: wait},
		{name: "edited: too late, the Pod has files",
			sees: observation(sandboxIn(pending, onPod), sees(podOf(madeOf("main", "older"))), templateIs(hash)),
			do:   writeStatus, status: "Running Ready=True/PodReady Paused=False/Running pod=demo/pod-1", then: wait, event: v1alpha1.EventTemplateNotApplied},
		{name: "edited: a container that ran has another name now",
			sees: observation(sandboxIn(pending, onPod, containerIs("app")), sees(podOf(madeOf("main", "older"))), templateIs(hash)),
			do:   writeStatus, status: "Running Ready=True/PodReady Paused=False/Running pod=demo/pod-1", then: wait, event: v1alpha1.EventTemplateNotApplied},
		{name: "edited: an older server's Pod does not say what it was made of",
			sees: observation(sandboxIn(pending, onPod), sees(podOf(cannotPull)), templateIs(hash)),
			do:   writeStatus, status: "Pending Ready=False/ImagePullFailed pod=demo/pod-1", then: wait},

		// A start that is taken back.
		{name: "taken back: the Pod that never ran is removed, and why is written down before",
			sees: observation(sandboxIn(pending, wantsPaused, creates), sees(podOf(pendingPod))),
			do:   writeStatus, status: "Pending Ready=False/Withdrawing Paused=False/Withdrawing pod=demo/pod-1", then: readPod},
		{name: "taken back: a Pod that is about to start is left alone for a while",
			sees: observation(sandboxIn(resuming, wantsPaused, onPod, saved("demo-gen1")), sees(podOf(pendingPod, restored("demo-gen1"))), startsSince(4*time.Second)),
			do:   writeStatus, status: "Resuming Ready=False/PodPending Paused=False/Withdrawing pod=demo/pod-1 saved=demo-gen1", then: wait, after: startPatience - 4*time.Second},
		{name: "taken back: no node has the Pod, and it is removed at once",
			sees: observation(sandboxIn(resuming, wantsPaused, onPod, saved("demo-gen1")), sees(podOf(withoutNode, restored("demo-gen1"))), startsSince(0), fresh),
			do:   writeStatus, status: "Resuming Ready=False/Withdrawing Paused=False/Withdrawing pod=demo/pod-1 saved=demo-gen1", then: deletePod},
		{name: "taken back: the Pod cannot start, and is removed at once",
			sees: observation(sandboxIn(resuming, wantsPaused, onPod, saved("demo-gen1")), sees(podOf(cannotPull, restored("demo-gen1"))), startsSince(0), fresh),
			do:   writeStatus, status: "Resuming Ready=False/Withdrawing Paused=False/Withdrawing pod=demo/pod-1 saved=demo-gen1", then: deletePod},
		{name: "taken back: the Pod had begun to run just when it was removed",
			sees: observation(sandboxIn(resuming, wantsPaused, onPod, saved("demo-gen1"), withdrawn), comesFrom(snapshotIn(succeed)), sawMainRun),
			do:   writeStatus, status: "Resuming Ready=False/Withdrawing DataLost=True/PodLost saved=demo-gen1", then: wait, event: v1alpha1.ReasonPodLost},
		{name: "taken back: the Pod that never ran is removed",
			sees: observation(sandboxIn(resuming, wantsPaused, onPod, saved("demo-gen1")), sees(podOf(withoutNode, restored("demo-gen1"))), fresh),
			do:   writeStatus, status: "Resuming Ready=False/Withdrawing Paused=False/Withdrawing pod=demo/pod-1 saved=demo-gen1", then: deletePod},
		{name: "taken back: the Pod that never ran is on its way out",
			sees: observation(sandboxIn(resuming, wantsPaused, onPod, saved("demo-gen1")), sees(podOf(pendingPod, restored("demo-gen1"), terminating(1)))),
			do:   writeStatus, status: "Resuming Ready=False/Withdrawing Paused=False/Withdrawing pod=demo/pod-1 saved=demo-gen1", then: wait},
		{name: "taken back: the Pod has begun to run, so it is paused as any other",
			sees: observation(sandboxIn(resuming, wantsPaused, onPod, saved("demo-gen1")), sees(podOf(restored("demo-gen1"))), fresh),
			do:   writeStatus, status: "Running Ready=True/PodReady Paused=False/Running pod=demo/pod-1 saved=demo-gen1", then: createSnapshot, event: v1alpha1.ReasonRunning},
		{name: "taken back: it is paused as before",
			sees: observation(sandboxIn(resuming, wantsPaused, onPod, saved("demo-gen1")), comesFrom(snapshotIn(succeed)), sawNothingRun),
			do:   writeStatus, status: "Paused Ready=False/Paused Paused=True/Paused saved=demo-gen1", then: wait, event: v1alpha1.ReasonCanceled},
		{name: "taken back: before there was a Pod, which waits for its time",
			sees: observation(sandboxIn(resuming, wantsPaused, saved("demo-gen1"), retries(2*time.Hour)), comesFrom(snapshotIn(succeed)), unchecked),
			do:   writeStatus, status: "Paused Ready=False/Paused Paused=True/Paused saved=demo-gen1", then: wait, event: v1alpha1.ReasonCanceled},
		{name: "taken back: without its image, as it still says",
			sees: observation(sandboxIn(resuming, wantsPaused, saved("demo-gen1"), saysMissing), comesFrom(snapshotIn(succeed, notInRegistry)), unchecked),
			do:   writeStatus, status: "Paused Ready=False/ImageUnavailable Paused=True/Paused saved=demo-gen1", then: wait},
		{name: "taken back: but its snapshot is gone",
			sees: observation(sandboxIn(resuming, wantsPaused, saved("demo-gen1"))),
			do:   writeStatus, status: "Failed Ready=False/SnapshotNotFound saved=demo-gen1", then: wait, event: v1alpha1.ReasonSnapshotNotFound},
		{name: "taken back: a resume from elsewhere gives up nothing",
			sees: observation(sandboxIn(resuming, wantsPaused, prior("demo-gen1")), comesFrom(snapshotIn(succeed))),
			do:   writeStatus, status: "Resuming saved=demo-gen1", then: wait},
		{name: "taken back: a sandbox that never ran is not started",
			sees: observation(sandboxIn(pending, wantsPaused, onPod), sawNothingRun),
			do:   writeStatus, status: "Pending Ready=False/NeverRan Paused=False/NeverRan", then: wait},
		{name: "taken back: a clone that never ran is paused on what it was to start from",
			sees: observation(sandboxIn(pending, wantsPaused, onPod, restoresFrom("base"), saved("base")), comesFrom(snapshotIn(succeed, named("base"))), sawNothingRun),
			do:   writeStatus, status: "Paused Ready=False/Paused Paused=True/Paused saved=base", then: wait, event: v1alpha1.ReasonCanceled},
		{name: "taken back: the Pod that is gone had run before that was written down",
			sees: observation(sandboxIn(resuming, wantsPaused, onPod, saved("demo-gen1")), comesFrom(snapshotIn(succeed)), sawMainRun),
			do:   writeStatus, status: "Failed Ready=False/FilesLost Paused=False/FilesLost DataLost=True/PodLost saved=demo-gen1", then: wait, event: v1alpha1.ReasonPodLost},
		{name: "resumed from elsewhere: what was given up is forgotten when it runs",
			sees: observation(sandboxIn(resuming, onPod, prior("demo-gen1")), sees(podOf())),
			do:   writeStatus, status: "Running Ready=True/PodReady Paused=False/Running pod=demo/pod-1", then: wait, event: v1alpha1.ReasonRunning},

		{name: "a phase of a newer server is left alone",
			sees: observation(sandboxIn("Hibernating"), sees(podOf())),
			do:   wait},
		{name: "pending: a pause asked for by an update begins when the Pod runs",
			sees: observation(sandboxIn(pending, wantsPaused, creates), sees(podOf())),
			do:   writeStatus, status: "Running Ready=True/PodReady Paused=False/Running pod=demo/pod-1", then: createSnapshot, event: v1alpha1.ReasonRunning},

		// A sandbox that starts from a snapshot.
		{name: "restoreFrom: the snapshot is not there",
			sees: observation(sandboxIn(pending, restoresFrom("base"))),
			do:   writeStatus, status: "Pending Ready=False/SnapshotNotFound", then: wait},
		{name: "restoreFrom: the snapshot is not ready",
			sees: observation(sandboxIn(pending, restoresFrom("base")), comesFrom(snapshotIn(committing, named("base")))),
			do:   writeStatus, status: "Pending Ready=False/SnapshotNotReady", then: wait},
		{name: "restoreFrom: the snapshot is ready",
			sees: observation(sandboxIn(pending, restoresFrom("base")), comesFrom(snapshotIn(succeed, named("base")))),
			do:   writeStatus, status: "Pending saved=base", then: createPod},
		{name: "restoreFrom: the snapshot has failed",
			sees: observation(sandboxIn(pending, restoresFrom("base")), comesFrom(snapshotIn(broken, named("base")))),
			do:   writeStatus, status: "Failed Ready=False/SnapshotNotReady Paused=False/SnapshotNotReady", then: wait, event: v1alpha1.ReasonSnapshotNotReady},
		{name: "restoreFrom: the snapshot has failed, and another one is named now",
			sees: observation(sandboxIn(failed, restoresFrom("other"), ofBadSource)),
			do:   writeStatus, status: "Pending Ready=False/Pending Paused=False/Pending", then: wait},
		{name: "restoreFrom: the snapshot has failed, and was made anew",
			sees: observation(sandboxIn(failed, restoresFrom("base"), ofBadSource), comesFrom(snapshotIn(succeed, named("base")))),
			do:   writeStatus, status: "Pending Ready=False/Pending Paused=False/Pending", then: createPod},
		{name: "restoreFrom: the snapshot has failed, and none is named any more",
			sees: observation(sandboxIn(failed, ofBadSource)),
			do:   writeStatus, status: "Pending Ready=False/Pending Paused=False/Pending", then: createPod},
		{name: "restoreFrom: the snapshot is being deleted",
			sees: observation(sandboxIn(pending, restoresFrom("base")), comesFrom(snapshotIn(succeed, named("base"), deletedSnapshot))),
			do:   writeStatus, status: "Pending Ready=False/SnapshotNotFound", then: wait},
		{name: "restoreFrom: the snapshot is being deleted, and waits for who needs it",
			sees: observation(sandboxIn(pending, restoresFrom("base")), comesFrom(snapshotIn(succeed, named("base"), deletedSnapshot, inUse))),
			do:   writeStatus, status: "Pending saved=base", then: createPod},
		{name: "restoreFrom: another snapshot is named before anything has run",
			sees: observation(sandboxIn(pending, onPod, restoresFrom("other"), saved("base")), sees(podOf(pendingPod, restored("base"), madeOf("main", hash))), templateIs(hash), fresh),
			do:   writeStatus, status: "Pending Ready=False/TemplateChanged pod=demo/pod-1 saved=base", then: deletePod},
		{name: "restoreFrom: another snapshot is named, and the Pod of the one before is gone",
			sees: observation(sandboxIn(pending, onPod, restoresFrom("other"), saved("base")), comesFrom(snapshotIn(succeed, named("base")))),
			do:   writeStatus, status: "Pending"},
		{name: "restoreFrom: another snapshot is named too late",
			sees: observation(sandboxIn(pending, onPod, restoresFrom("other"), saved("base")), sees(podOf(restored("base"), madeOf("main", hash))), templateIs(hash)),
			do:   writeStatus, status: "Running Ready=True/PodReady Paused=False/Running pod=demo/pod-1 saved=base", then: wait, event: v1alpha1.EventTemplateNotApplied},
		{name: "restoreFrom: created as Paused",
			sees: observation(sandboxIn(pending, wantsPaused, restoresFrom("base")), comesFrom(snapshotIn(succeed, named("base")))),
			do:   writeStatus, status: "Paused Ready=False/Paused Paused=True/Paused saved=base", then: wait},
		{name: "restoreFrom: given up for the template",
			sees: observation(sandboxIn(resuming, restoresFrom("base"))),
			do:   writeStatus, status: "Resuming pod=demo", then: createPod},

		// A resume.
		{name: "resuming: the Pod comes from the snapshot",
			sees: observation(sandboxIn(resuming, saved("demo-gen1")), comesFrom(snapshotIn(succeed))),
			do:   writeStatus, status: "Resuming pod=demo saved=demo-gen1", then: createPod},
		{name: "resuming: the registry is asked before there is a Pod",
			sees: observation(sandboxIn(resuming, saved("demo-gen1")), comesFrom(snapshotIn(succeed, inRegistry)), unchecked),
			do:   checkImages},
		{name: "resuming: and also where it was known to miss an image",
			sees: observation(sandboxIn(resuming, saved("demo-gen1"), saysMissing), comesFrom(snapshotIn(succeed, notInRegistry)), unchecked),
			do:   checkImages},
		{name: "resuming: a Pod that waits for its time asks nobody",
			sees: observation(sandboxIn(resuming, saved("demo-gen1"), retries(time.Minute)), comesFrom(snapshotIn(succeed, inRegistry)), unchecked, after(0)),
			do:   wait, after: time.Minute},
		{name: "resuming: from the template nobody is asked",
			sees: observation(sandboxIn(resuming)),
			do:   writeStatus, status: "Resuming pod=demo", then: createPod},
		{name: "resuming: the registry has the image",
			sees: observation(sandboxIn(resuming, saved("demo-gen1")), comesFrom(snapshotIn(succeed, inRegistry))),
			do:   writeStatus, status: "Resuming pod=demo saved=demo-gen1", then: createPod},
		{name: "resuming: the registry cannot be asked",
			sees: observation(sandboxIn(resuming, saved("demo-gen1")), comesFrom(snapshotIn(succeed, registryUnknown))),
			do:   writeStatus, status: "Resuming pod=demo saved=demo-gen1", then: createPod},
		{name: "resuming: the registry has lost the image",
			sees: observation(sandboxIn(resuming, saved("demo-gen1")), comesFrom(snapshotIn(succeed, notInRegistry))),
			do:   writeStatus, status: "Resuming Ready=False/ImageUnavailable saved=demo-gen1", then: wait, event: v1alpha1.ReasonImageUnavailable, after: imageRetry},
		{name: "resuming: the registry has lost the image, and the template is unlocked again",
			sees: observation(sandboxIn(resuming, creates, saved("demo-gen1")), comesFrom(snapshotIn(succeed, notInRegistry))),
			do:   writeStatus, status: "Resuming Ready=False/ImageUnavailable saved=demo-gen1", then: wait, event: v1alpha1.ReasonImageUnavailable, after: imageRetry},
		{name: "resuming: the registry has the image again",
			sees: observation(sandboxIn(resuming, saved("demo-gen1"), saysMissing), comesFrom(snapshotIn(succeed, inRegistry))),
			do:   writeStatus, status: "Resuming Ready=False/PodPending pod=demo saved=demo-gen1", then: createPod},
		{name: "restoreFrom: the registry has lost the image",
			sees: observation(sandboxIn(pending, restoresFrom("base"), saved("base")), comesFrom(snapshotIn(succeed, named("base"), notInRegistry))),
			do:   writeStatus, status: "Pending Ready=False/ImageUnavailable saved=base", then: wait, event: v1alpha1.ReasonImageUnavailable, after: imageRetry},
		{name: "resuming: the registry is asked about an image that cannot be pulled",
			sees: observation(sandboxIn(resuming, onPod, saved("demo-gen1")), sees(podOf(cannotPull, restored("demo-gen1"))), comesFrom(snapshotIn(succeed, mainSaved, inRegistry)), unchecked),
			do:   checkImages},
		{name: "resuming: and not about one that no snapshot holds",
			sees: observation(sandboxIn(resuming, onPod, saved("demo-gen1")), sees(podOf(cannotPull, restored("demo-gen1"))), comesFrom(snapshotIn(succeed, inRegistry)), unchecked),
			do:   writeStatus, status: "Resuming Ready=False/ImagePullFailed pod=demo/pod-1 saved=demo-gen1", then: wait},
		{name: "resuming: and not while it was asked a short while ago",
			sees: observation(sandboxIn(resuming, onPod, saved("demo-gen1")), sees(podOf(cannotPull, restored("demo-gen1"))), comesFrom(snapshotIn(succeed, mainSaved, inRegistry)), unchecked, asked(4*time.Second)),
			do:   writeStatus, status: "Resuming Ready=False/ImagePullFailed pod=demo/pod-1 saved=demo-gen1", then: wait, after: 6 * time.Second},
		{name: "resuming: it has the image, and the kubelet goes on trying",
			sees: observation(sandboxIn(resuming, onPod, saved("demo-gen1")), sees(podOf(cannotPull, restored("demo-gen1"))), comesFrom(snapshotIn(succeed, mainSaved, inRegistry)), asked(0)),
			do:   writeStatus, status: "Resuming Ready=False/ImagePullFailed pod=demo/pod-1 saved=demo-gen1", then: wait, after: firstRetry},
		{name: "resuming: the Pod's image is not in the registry, which is written down before it is removed",
			sees: observation(sandboxIn(resuming, onPod, saved("demo-gen1")), sees(podOf(cannotPull, restored("demo-gen1"))), comesFrom(snapshotIn(succeed, mainSaved, notInRegistry))),
			do:   writeStatus, status: "Resuming Ready=False/ImageUnavailable pod=demo/pod-1 saved=demo-gen1", then: readPod, event: v1alpha1.ReasonImageUnavailable},
		{name: "resuming: the Pod's image is not in the registry, and the Pod is removed",
			sees: observation(sandboxIn(resuming, onPod, saved("demo-gen1"), saysMissing), sees(podOf(cannotPull, restored("demo-gen1"))), comesFrom(snapshotIn(succeed, mainSaved, notInRegistry)), fresh),
			do:   writeStatus, status: "Resuming Ready=False/ImageUnavailable pod=demo/pod-1 saved=demo-gen1", then: deletePod},
		{name: "resuming: the Pod's image is not in the registry, and the Pod is on its way out",
			sees: observation(sandboxIn(resuming, onPod, saved("demo-gen1"), saysMissing), sees(podOf(cannotPull, restored("demo-gen1"), terminating(1))), comesFrom(snapshotIn(succeed, mainSaved, notInRegistry))),
			do:   wait},
		{name: "resuming: no node has the Pod yet whose image is not in the registry",
			sees: observation(sandboxIn(resuming, onPod, saved("demo-gen1")), sees(podOf(withoutNode, restored("demo-gen1"))), comesFrom(snapshotIn(succeed, mainSaved, notInRegistry)), fresh),
			do:   writeStatus, status: "Resuming Ready=False/ImageUnavailable pod=demo/pod-1 saved=demo-gen1", then: deletePod, event: v1alpha1.ReasonImageUnavailable},
		{name: "resuming: the Pod starts whose image is not in the registry: the node may have it",
			sees: observation(sandboxIn(resuming, onPod, saved("demo-gen1")), sees(podOf(pendingPod, restored("demo-gen1"))), comesFrom(snapshotIn(succeed, mainSaved, notInRegistry))),
			do:   writeStatus, status: "Resuming Ready=False/PodPending pod=demo/pod-1 saved=demo-gen1", then: wait},
		{name: "resuming: a Pod without its image stays where another container of it has run",
			sees: observation(sandboxIn(resuming, onPod, saved("demo-gen1")), sees(podOf(cannotPull, otherRuns, restored("demo-gen1"))), comesFrom(snapshotIn(succeed, mainSaved, notInRegistry)), fresh),
			do:   writeStatus, status: "Running Ready=False/ImagePullFailed Paused=False/Running pod=demo/pod-1 saved=demo-gen1", then: wait, event: v1alpha1.ReasonRunning},
		{name: "running: a Pod without its image says so",
			sees: observation(sandboxIn(running, onPod, saved("demo-gen1")), sees(podOf(cannotPull, otherRuns, restored("demo-gen1"))), comesFrom(snapshotIn(succeed, mainSaved, notInRegistry))),
			do:   writeStatus, status: "Running Ready=False/ImageUnavailable Paused=False/Running pod=demo/pod-1 saved=demo-gen1", then: wait},
		{name: "running: the registry is asked about an image that cannot be pulled",
			sees: observation(sandboxIn(running, onPod, saved("demo-gen1")), sees(podOf(cannotPull, otherRuns, restored("demo-gen1"))), comesFrom(snapshotIn(succeed, mainSaved, inRegistry)), unchecked),
			do:   checkImages},
		{name: "restoreFrom: the Pod's image is not in the registry, which is written down before it is removed",
			sees: observation(sandboxIn(pending, onPod, restoresFrom("base"), saved("base")), sees(podOf(cannotPull, restored("base"))), comesFrom(snapshotIn(succeed, named("base"), mainSaved, notInRegistry))),
			do:   writeStatus, status: "Pending Ready=False/ImageUnavailable pod=demo/pod-1 saved=base", then: readPod, event: v1alpha1.ReasonImageUnavailable},
		{name: "resuming: the snapshot is gone",
			sees: observation(sandboxIn(resuming, creates, saved("demo-gen1"))),
			do:   writeStatus, status: "Failed Ready=False/SnapshotNotFound saved=demo-gen1", then: wait, event: v1alpha1.ReasonSnapshotNotFound},
		{name: "resuming: the Pod runs",
			sees: observation(sandboxIn(resuming, creates, saved("demo-gen1")), sees(podOf(restored("demo-gen1")))),
			do:   writeStatus, status: "Running Ready=True/PodReady Paused=False/Running pod=demo/pod-1 saved=demo-gen1", then: wait, event: v1alpha1.ReasonRunning},
		{name: "resuming: the Pod of an older snapshot is removed",
			sees: observation(sandboxIn(resuming, saved("demo-gen2")), sees(podOf(restored("demo-gen1")))),
			do:   deletePod, grace: shortGrace},
		{name: "resuming elsewhere: the Pod that cannot start is removed first",
			sees: observation(sandboxIn(resuming, onPod, saved("demo-gen1")), sees(podOf(pendingPod, restored("demo-gen2")))),
			do:   deletePod, grace: shortGrace},
		{name: "resuming elsewhere: the Pod that could not start is gone",
			sees: observation(sandboxIn(resuming, onPod, saved("demo-gen1")), comesFrom(snapshotIn(succeed))),
			do:   writeStatus, status: "Resuming pod=demo saved=demo-gen1", then: createPod},
		{name: "resuming from the template: the Pod of a snapshot is removed first",
			sees: observation(sandboxIn(resuming, onPod), sees(podOf(pendingPod, restored("demo-gen2")))),
			do:   deletePod, grace: shortGrace},
		{name: "resuming elsewhere: the ended Pod is removed first",
			sees: observation(sandboxIn(resuming, onPod, removing, saved("demo-gen1")), sees(podOf(ended))),
			do:   deletePod},
		{name: "resuming elsewhere: the ended Pod is on its way out",
			sees: observation(sandboxIn(resuming, onPod, removing, saved("demo-gen1")), sees(podOf(ended, terminating(30)))),
			do:   wait},
		{name: "resuming elsewhere: the ended Pod is gone",
			sees: observation(sandboxIn(resuming, onPod, removing, saved("demo-gen1")), comesFrom(snapshotIn(succeed))),
			do:   writeStatus, status: "Resuming Paused=False/Resuming saved=demo-gen1", then: createPod},

		// Running.
		{name: "running: the Pod is ready",
			sees: observation(sandboxIn(running, onPod), sees(podOf())),
			do:   writeStatus, status: "Running Ready=True/PodReady Paused=False/Running pod=demo/pod-1", then: wait},
		{name: "running: the containers have ended",
			sees: observation(sandboxIn(running, onPod), sees(podOf(ended))),
			do:   writeStatus, status: "Running Ready=False/ContainersEnded Paused=False/Running pod=demo/pod-1", then: wait},
		{name: "running: the Pod is being deleted by somebody",
			sees: observation(sandboxIn(running, onPod), sees(podOf(terminating(30)))),
			do:   writeStatus, status: "Running Ready=False/PodTerminating Paused=False/Running pod=demo/pod-1", then: wait},
		{name: "running: the Pod was evicted, which is written down before it is removed",
			sees: observation(sandboxIn(running, onPod, notSaved), sees(podOf(evictedPod)), letGo),
			do:   writeStatus, status: "Running Ready=False/PodLost pod=demo/pod-1", then: deletePod},
		{name: "running: a Pod that was lost soon is not created anew at once",
			sees: observation(sandboxIn(running, onPod, retries(10*time.Second)), after(time.Second)),
			do:   writeStatus, status: "Pending Ready=False/PodLost Paused=False/Running DataLost=True/PodLost", then: wait, event: v1alpha1.ReasonPodLost},
		{name: "running: a Pod that was lost after a while is created anew at once",
			sees: observation(sandboxIn(running, onPod, retries(10*time.Second))),
			do:   writeStatus, status: "Pending Ready=False/Pending Paused=False/Running DataLost=True/PodLost", then: createPod, event: v1alpha1.ReasonPodLost},
		{name: "running: a Pod that was lost while a pause waits for its next try waits as Pods do",
			sees: observation(sandboxIn(running, onPod, wantsPaused, saved("demo-gen1"), failedPause, failures(3), retries(10*time.Minute)), after(time.Second)),
			do:   writeStatus, status: "Failed Ready=False/FilesLost Paused=False/FilesLost DataLost=True/PodLost saved=demo-gen1", then: wait, event: v1alpha1.ReasonPodLost},
		{name: "running: the Pod has lasted, and those before it count no more",
			sees: observation(sandboxIn(running, onPod, retries(10*time.Second), failedPods(3)), sees(podOf())),
			do:   writeStatus, status: "Running Ready=True/PodReady Paused=False/Running pod=demo/pod-1", then: wait},
		{name: "running: a Pod of which nothing ran that is kept is no loss",
			sees: observation(sandboxIn(running, onPod), sawNothingRun),
			do:   writeStatus, status: "Pending Ready=False/Pending Paused=False/Running", then: createPod},
		{name: "running: a container was tried to start again and again, and never ran",
			sees: observation(sandboxIn(running, onPod), sees(podOf(notReadyPod, cannotStart))),
			do:   writeStatus, status: "Running Ready=False/PodNotReady Paused=False/Running pod=demo/pod-1", then: wait},
		{name: "running: the Pod is lost of which no container ever ran",
			sees: observation(sandboxIn(running, onPod), sawNothingRun),
			do:   writeStatus, status: "Pending Ready=False/Pending Paused=False/Running", then: createPod},
		{name: "running: the Pod is lost, with no snapshot",
			sees: observation(sandboxIn(running, onPod)),
			do:   writeStatus, status: "Pending Ready=False/Pending Paused=False/Running DataLost=True/PodLost", then: createPod, event: v1alpha1.ReasonPodLost},
		{name: "running: the Pod is lost, with a snapshot",
			sees: observation(sandboxIn(running, onPod, saved("demo-gen1")), comesFrom(snapshotIn(succeed))),
			do:   writeStatus, status: "Resuming Ready=False/Resuming Paused=False/Resuming DataLost=True/PodLost saved=demo-gen1", then: createPod, event: v1alpha1.ReasonPodLost},
		{name: "running: the Pod of a clone that was resumed from its template is lost",
			sees: observation(sandboxIn(running, onPod, restoresFrom("base")), comesFrom(snapshotIn(succeed, named("base")))),
			do:   writeStatus, status: "Resuming Ready=False/Resuming Paused=False/Resuming DataLost=True/PodLost", event: v1alpha1.ReasonPodLost},
		{name: "running: the Pod is another one",
			sees: observation(sandboxIn(running, onPod), sees(podOf(replaced))),
			do:   writeStatus, status: "Running Ready=True/PodReady Paused=False/Running DataLost=True/PodLost pod=demo/pod-2", then: wait, event: v1alpha1.ReasonPodLost},
		{name: "running: a container was restarted in place",
			sees: observation(sandboxIn(running, onPod), sees(podOf(restartedPod))),
			do:   writeStatus, status: "Running Ready=True/PodReady Paused=False/Running DataLost=True/FilesystemReset pod=demo/pod-1", then: wait, event: v1alpha1.ReasonFilesystemReset},
		{name: "running: nobody waits for a pause any more",
			sees: observation(sandboxIn(running, onPod, failedPause, attempts(1), failures(3)), sees(podOf()), sees(snapshotIn(broken))),
			do:   writeStatus, status: "Running Ready=True/PodReady Paused=False/Running pod=demo/pod-1 attempts=1", then: wait},

		// A Pod that another controller takes for its own.
		{name: "adopted: it is told of",
			sees: observation(sandboxIn(running, onPod), sees(podOf(takenBy("ReplicaSet", "web")))),
			do:   writeStatus, status: "Running PodAdopted=True/PodAdopted pod=demo/pod-1", then: claimPod, event: v1alpha1.ReasonPodAdopted},
		{name: "adopted: by another one than before",
			sees: observation(sandboxIn(running, onPod, adoptedBefore), sees(podOf(takenBy("DaemonSet", "agent")))),
			do:   writeStatus, status: "Running PodAdopted=True/PodAdopted pod=demo/pod-1", then: claimPod, event: v1alpha1.ReasonPodAdopted},
		{name: "adopted: also under a pause",
			sees: observation(sandboxIn(pausing, wantsPaused, onPod, attempts(1)), sees(podOf(takenBy("ReplicaSet", "web"))), sees(snapshotIn(committing))),
			do:   writeStatus, status: "Pausing PodAdopted=True/PodAdopted pod=demo/pod-1 attempts=1", then: claimPod, event: v1alpha1.ReasonPodAdopted},
		{name: "adopted: what is deleted is not asked back",
			sees: observation(sandboxIn(running, onPod), sees(podOf(takenBy("ReplicaSet", "web"), terminating(30)))),
			do:   writeStatus, status: "Running PodAdopted=True/PodAdopted pod=demo/pod-1", then: wait, event: v1alpha1.ReasonPodAdopted},
		{name: "owner: a Pod of an older version gets it",
			sees: observation(sandboxIn(running, onPod), sees(podOf(unowned))), do: claimPod},
		{name: "owner: also one that the Namespace held",
			sees: observation(sandboxIn(running, onPod), sees(podOf(takenBy("Namespace", namespace)))), do: claimPod},
		{name: "owner: once at a visit",
			sees: observation(sandboxIn(running, onPod), sees(podOf(unowned)), func(o *observed) { o.claimed = true }),
			do:   writeStatus, status: "Running Ready=True/PodReady Paused=False/Running pod=demo/pod-1", then: wait},
		{name: "owner: not a Pod that goes",
			sees: observation(sandboxIn(running, onPod), sees(podOf(unowned, terminating(30)))),
			do:   writeStatus, status: "Running Ready=False/PodTerminating Paused=False/Running pod=demo/pod-1", then: wait},
		{name: "owner: the Namespace where the collector is not kept from Pods",
			sees: observation(sandboxIn(running, onPod), sees(podOf(takenBy("Namespace", namespace))), unguarded),
			do:   writeStatus, status: "Running Ready=True/PodReady Paused=False/Running pod=demo/pod-1", then: wait},
		{name: "owner: no more the sandbox, where the collector is no longer kept from Pods",
			sees: observation(sandboxIn(running, onPod), sees(podOf()), unguarded), do: claimPod},

		// A pause asked for by an update, and the tries after one that failed.
		{name: "running: a pause asked for by an update begins",
			sees: observation(sandboxIn(running, wantsPaused, onPod), sees(podOf())),
			do:   writeStatus, status: "Pausing Ready=False/Pausing Paused=False/Pausing pod=demo/pod-1 attempts=1", then: createSnapshot},
		{name: "running: a pause of ended containers begins",
			sees: observation(sandboxIn(running, wantsPaused, onPod), sees(podOf(ended))),
			do:   writeStatus, status: "Pausing Ready=False/Pausing Paused=False/Pausing pod=demo/pod-1 attempts=1", then: createSnapshot},
		{name: "running: no pause of a Pod that is on its way out",
			sees: observation(sandboxIn(running, wantsPaused, onPod), sees(podOf(terminating(30)))),
			do:   writeStatus, status: "Running Ready=False/PodTerminating pod=demo/pod-1", then: wait},
		{name: "running: the Pod is lost before the pause began",
			sees: observation(sandboxIn(running, wantsPaused, onPod, saved("demo-gen1")), comesFrom(snapshotIn(succeed))),
			do:   writeStatus, status: "Failed Ready=False/FilesLost Paused=False/FilesLost DataLost=True/PodLost saved=demo-gen1", then: wait, event: v1alpha1.ReasonPodLost},
		{name: "running: a Pod that never ran is lost before the pause began",
			sees: observation(sandboxIn(running, wantsPaused, onPod, saved("demo-gen1")), comesFrom(snapshotIn(succeed)), sawNothingRun),
			do:   writeStatus, status: "Paused Ready=False/Paused Paused=True/Paused saved=demo-gen1", then: wait},
		{name: "running: a container was restarted in place before a pause asked for by an update began",
			sees: observation(sandboxIn(running, wantsPaused, onPod), sees(podOf(restartedPod))),
			do:   writeStatus, status: "Running Ready=True/PodReady Paused=False/FilesLost DataLost=True/FilesystemReset pod=demo/pod-1", then: wait, event: v1alpha1.ReasonFilesystemReset},
		{name: "running: a container was restarted in place while the next try waits",
			sees: observation(sandboxIn(running, wantsPaused, onPod, failedPause, attempts(1), failures(1)), sees(podOf(restartedPod)), sees(snapshotIn(broken)), after(4*time.Second)),
			do:   writeStatus, status: "Running Ready=True/PodReady Paused=False/FilesLost DataLost=True/FilesystemReset pod=demo/pod-1 attempts=1 failed=1", then: wait, event: v1alpha1.ReasonFilesystemReset},
		{name: "running: the Pod is another one while the next try waits",
			sees: observation(sandboxIn(running, wantsPaused, onPod, failedPause, attempts(1), failures(1)), sees(podOf(replaced)), sees(snapshotIn(broken))),
			do:   writeStatus, status: "Running Ready=True/PodReady Paused=False/FilesLost DataLost=True/PodLost pod=demo/pod-2 attempts=1 failed=1", then: wait, event: v1alpha1.ReasonPodLost},
		{name: "running: a pause that saw files go does not go on by itself",
			sees: observation(sandboxIn(running, wantsPaused, onPod, heldByLoss, lostDataBy, attempts(1), failures(1)), sees(podOf()), sees(snapshotIn(broken))),
			do:   writeStatus, status: "Running Ready=True/PodReady Paused=False/FilesLost DataLost=True/PodLost pod=demo/pod-1 attempts=1 failed=1", then: wait},
		{name: "running: a pause that saw files go is wanted no more",
			sees: observation(sandboxIn(running, onPod, heldByLoss, lostDataBy, attempts(1), failures(1)), sees(podOf())),
			do:   writeStatus, status: "Running Ready=True/PodReady Paused=False/Running DataLost=True/PodLost pod=demo/pod-1 attempts=1", then: wait},
		{name: "running: the next try waits longer where it must fail again",
			sees: observation(sandboxIn(running, wantsPaused, onPod, failedPause, attempts(1), failures(1), retries(time.Minute)), sees(podOf()), sees(snapshotIn(broken, failedFor(v1alpha1.ReasonFilesNotSupported))), after(40*time.Second)),
			do:   writeStatus, status: "Running Ready=True/PodReady Paused=False/RegistryUnavailable pod=demo/pod-1 attempts=1 failed=1", after: 20 * time.Second, then: wait},
		{name: "running: the next try waits",
			sees: observation(sandboxIn(running, wantsPaused, onPod, failedPause, attempts(1), failures(1), retries(10*time.Second)), sees(podOf()), sees(snapshotIn(broken)), after(4*time.Second)),
			do:   writeStatus, status: "Running Ready=True/PodReady Paused=False/RegistryUnavailable pod=demo/pod-1 attempts=1 failed=1", then: wait, after: 6 * time.Second},
		{name: "running: the next try begins",
			sees: observation(sandboxIn(running, wantsPaused, onPod, failedPause, attempts(1), failures(1), retries(10*time.Second)), sees(podOf()), sees(snapshotIn(broken)), after(10*time.Second)),
			do:   writeStatus, status: "Pausing Ready=False/Pausing Paused=False/Pausing pod=demo/pod-1 attempts=2 failed=1"},
		{name: "running: the next try waits where the API refused the last one's snapshot",
			sees: observation(sandboxIn(running, wantsPaused, onPod, failedPause, attempts(1), failures(1), retries(7*time.Second)), sees(podOf()), after(0)),
			do:   writeStatus, status: "Running Ready=True/PodReady Paused=False/RegistryUnavailable pod=demo/pod-1 attempts=1 failed=1", then: wait, after: 7 * time.Second},
		{name: "running: the next try begins at once where the last one's snapshot is gone",
			sees: observation(sandboxIn(running, wantsPaused, onPod, failedPause, attempts(1), failures(1)), sees(podOf())),
			do:   writeStatus, status: "Pausing Ready=False/Pausing Paused=False/Pausing pod=demo/pod-1 attempts=2 failed=1", then: createSnapshot},

		// An attempt under way.
		{name: "pausing: the attempt is created",
			sees: observation(sandboxIn(pausing, wantsPaused, onPod, attempts(1)), sees(podOf())),
			do:   createSnapshot},
		{name: "pausing: the attempt was created, and somebody has deleted it",
			sees: observation(sandboxIn(pausing, wantsPaused, onPod, attempts(1)), sees(podOf()), attemptHeld(7*time.Second)),
			do:   writeStatus, status: "Pausing Paused=False/Pausing pod=demo/pod-1 attempts=1", then: wait, after: 7 * time.Second},
		{name: "pausing: the attempt's name is taken",
			sees: observation(sandboxIn(pausing, wantsPaused, onPod, attempts(1)), sees(podOf()), sees(snapshotIn(succeed, notOurs))),
			do:   writeStatus, status: "Pausing pod=demo/pod-1 attempts=2"},
		{name: "pausing: somebody has taken the attempt's owner away",
			sees: observation(sandboxIn(pausing, wantsPaused, onPod, attempts(1)), sees(podOf()), sees(snapshotIn(committing, disowned))),
			do:   wait},
		{name: "pausing: the attempt's name is taken, and so are others",
			sees: observation(sandboxIn(pausing, wantsPaused, onPod, attempts(1)), sees(podOf()), sees(snapshotIn(succeed, notOurs)), takenUpTo(30)),
			do:   writeStatus, status: "Pausing pod=demo/pod-1 attempts=31"},
		{name: "pausing: cancelled, and a commit of it is astray",
			sees: observation(sandboxIn(pausing, onPod, canceling, attempts(1)), sees(podOf()), func(o *observed) { o.astray = "job" }),
			do:   writeStatus, status: "Pausing Paused=False/Canceling pod=demo/pod-1 attempts=1", after: astrayAgain},
		{name: "pausing: the attempt is pending",
			sees: observation(sandboxIn(pausing, wantsPaused, onPod, attempts(1)), sees(podOf()), sees(snapshotIn(unfinished))),
			do:   wait},
		{name: "pausing: the attempt is queued",
			sees: observation(sandboxIn(pausing, wantsPaused, onPod, attempts(1)), sees(podOf()), sees(snapshotIn(unfinished, queuedSnapshot))),
			do:   writeStatus, status: "Pausing Paused=False/Queued pod=demo/pod-1 attempts=1", then: wait},
		{name: "pausing: the attempt is queued no more, since just now",
			sees: observation(sandboxIn(pausing, wantsPaused, onPod, attempts(1), queuedBy), sees(podOf()), sees(snapshotIn(committing, begun)), after(2*time.Second)),
			do:   wait, after: 3 * time.Second},
		{name: "pausing: the attempt's Job gets no Pod",
			sees: observation(sandboxIn(pausing, wantsPaused, onPod, attempts(1)), sees(podOf()), sees(snapshotIn(committing, refusedSnapshot))),
			do:   writeStatus, status: "Pausing Paused=False/CommitPodRejected pod=demo/pod-1 attempts=1", then: wait},
		{name: "pausing: the attempt is queued no more",
			sees: observation(sandboxIn(pausing, wantsPaused, onPod, attempts(1), queuedBy), sees(podOf()), sees(snapshotIn(committing, begun)), after(5*time.Second)),
			do:   writeStatus, status: "Pausing Ready=False/Pausing Paused=False/Pausing pod=demo/pod-1 attempts=1", then: wait},
		{name: "pausing: the attempt is queued no more, and does not say since when",
			sees: observation(sandboxIn(pausing, wantsPaused, onPod, attempts(1), queuedBy), sees(podOf()), sees(snapshotIn(committing))),
			do:   writeStatus, status: "Pausing Ready=False/Pausing Paused=False/Pausing pod=demo/pod-1 attempts=1", then: wait},
		{name: "pausing: the attempt commits",
			sees: observation(sandboxIn(pausing, wantsPaused, onPod, attempts(1)), sees(podOf()), sees(snapshotIn(committing))),
			do:   wait},
		{name: "pausing: the attempt commits a Pod that is gone",
			sees: observation(sandboxIn(pausing, wantsPaused, onPod, attempts(1)), sees(snapshotIn(committing))),
			do:   wait},
		{name: "pausing: the Pod was evicted under the commit",
			sees: observation(sandboxIn(pausing, wantsPaused, onPod, attempts(1)), sees(podOf(evictedPod)), sees(snapshotIn(committing))),
			do:   wait},
		{name: "pausing: the attempt succeeded",
			sees: observation(sandboxIn(pausing, wantsPaused, onPod, attempts(1)), sees(podOf()), sees(snapshotIn(succeed)), fresh),
			do:   writeStatus, status: "Pausing Ready=False/Pausing Paused=False/RemovingPod pod=demo/pod-1 saved=demo-gen1 attempts=1", then: deletePod},
		{name: "pausing: the attempt succeeded, and is being deleted",
			sees: observation(sandboxIn(pausing, wantsPaused, onPod, attempts(1)), sees(podOf()), sees(snapshotIn(succeed, deletedSnapshot))),
			do:   wait},
		{name: "pausing: the attempt succeeded after the Pod went away",
			sees: observation(sandboxIn(pausing, wantsPaused, onPod, attempts(1), failures(2), lostDataBy), sees(snapshotIn(succeed))),
			do:   writeStatus, status: "Paused Ready=False/Paused Paused=True/Paused DataLost=False/FilesSaved saved=demo-gen1 attempts=1", then: wait, event: v1alpha1.ReasonPaused},
		{name: "pausing: the attempt succeeded after the Pod went away, which had been restarted before",
			sees: observation(sandboxIn(pausing, wantsPaused, onPod, attempts(1)), sees(snapshotIn(succeed, savedAs("c1-1"))), lastSaw(podOf(restartedPod))),
			do:   writeStatus, status: "Failed Ready=False/FilesLost Paused=False/FilesLost DataLost=True/FilesystemReset saved=demo-gen1 attempts=1", then: wait, event: v1alpha1.ReasonFilesystemReset},
		{name: "pausing: the attempt succeeded after the Pod went away, which had been restarted after it",
			sees: observation(sandboxIn(pausing, wantsPaused, onPod, attempts(1)), sees(snapshotIn(succeed, mainSaved)), lastSaw(podOf(restartedPod))),
			do:   writeStatus, status: "Paused Ready=False/Paused Paused=True/Paused saved=demo-gen1 attempts=1", then: wait, event: v1alpha1.ReasonPaused},
		{name: "pausing: the attempt succeeded for another Pod",
			sees: observation(sandboxIn(pausing, wantsPaused, onPod, attempts(1)), sees(podOf(replaced)), sees(snapshotIn(succeed)), after(0)),
			do:   writeStatus, status: "Running Paused=False/SourcePodReplaced pod=demo/pod-1 attempts=1 failed=1", then: wait, event: v1alpha1.EventPauseRetry, after: 0},
		{name: "pausing: the attempt succeeded, and the Pod is looked at once more",
			sees: observation(sandboxIn(pausing, wantsPaused, onPod, attempts(1)), sees(podOf()), sees(snapshotIn(succeed))),
			do:   readPod},
		{name: "pausing: the attempt succeeded, and a container had been restarted unseen",
			sees: observation(sandboxIn(pausing, wantsPaused, onPod, attempts(1)), sees(podOf(restartedPod)), sees(snapshotIn(succeed)), fresh),
			do:   writeStatus, status: "Pausing Paused=False/FilesLost DataLost=True/FilesystemReset pod=demo/pod-1 attempts=1", then: thaw, event: v1alpha1.ReasonFilesystemReset},
		{name: "pausing: what was committed after a loss is thawed",
			sees: observation(sandboxIn(pausing, wantsPaused, onPod, attempts(1), heldByLoss, lostDataBy), sees(podOf()), sees(snapshotIn(succeed))),
			do:   thaw},
		{name: "pausing: what was committed after a loss is thawed, though its snapshot is being deleted",
			sees: observation(sandboxIn(pausing, wantsPaused, onPod, attempts(1), heldByLoss, lostDataBy), sees(podOf()), sees(snapshotIn(succeed, deletedSnapshot))),
			do:   thaw},
		{name: "pausing: what was committed after a loss was deleted",
			sees: observation(sandboxIn(pausing, wantsPaused, onPod, attempts(1), heldByLoss, lostDataBy), sees(podOf())),
			do:   writeStatus, status: "Running Ready=True/PodReady Paused=False/FilesLost DataLost=True/PodLost pod=demo/pod-1 attempts=1", then: wait},
		{name: "pausing: what was committed after a loss was deleted, and its name is taken",
			sees: observation(sandboxIn(pausing, wantsPaused, onPod, attempts(1), heldByLoss, lostDataBy), sees(podOf()), sees(snapshotIn(committing, notOurs))),
			do:   writeStatus, status: "Running Ready=True/PodReady Paused=False/FilesLost DataLost=True/PodLost pod=demo/pod-1 attempts=1", then: wait},
		{name: "pausing: what was committed after a loss runs again",
			sees: observation(sandboxIn(pausing, wantsPaused, onPod, attempts(1), heldByLoss, lostDataBy), sees(podOf()), sees(snapshotIn(succeed)), thawed),
			do:   writeStatus, status: "Running Ready=True/PodReady Paused=False/FilesLost DataLost=True/PodLost pod=demo/pod-1 attempts=1 failed=1", then: wait},
		{name: "pausing: what was committed after a loss is gone before it runs again",
			sees: observation(sandboxIn(pausing, wantsPaused, onPod, attempts(1), heldByLoss, lostDataBy), sees(snapshotIn(succeed))),
			do:   writeStatus, status: "Failed Ready=False/FilesLost Paused=False/FilesLost DataLost=True/PodLost saved=demo-gen1 attempts=1", then: wait, event: v1alpha1.ReasonPodLost},
		{name: "pausing: the attempt succeeded, and what it saved was restarted after it",
			sees: observation(sandboxIn(pausing, wantsPaused, onPod, attempts(1)), sees(podOf(restartedPod)), sees(snapshotIn(succeed, mainSaved)), fresh),
			do:   writeStatus, status: "Pausing Ready=False/Pausing Paused=False/RemovingPod pod=demo/pod-1 saved=demo-gen1 attempts=1", then: deletePod, grace: shortGrace},
		{name: "pausing: the attempt succeeded, and what it saved was restarted before it and after it",
			sees: observation(sandboxIn(pausing, wantsPaused, onPod, attempts(1)), sees(podOf(restartedTwice)), sees(snapshotIn(succeed, savedAs("c1-1"))), fresh),
			do:   writeStatus, status: "Pausing Paused=False/FilesLost DataLost=True/FilesystemReset pod=demo/pod-1 attempts=1", then: thaw, event: v1alpha1.ReasonFilesystemReset},
		{name: "pausing: the attempt succeeded, and the restart before it was known when the pause was asked for",
			sees: observation(sandboxIn(pausing, wantsPaused, onPod, attempts(1), tellsOf(restartedPod)), sees(podOf(restartedPod)), sees(snapshotIn(succeed, savedAs("c1-1"))), fresh),
			do:   writeStatus, status: "Pausing Ready=False/Pausing Paused=False/RemovingPod DataLost=True/FilesystemReset pod=demo/pod-1 saved=demo-gen1 attempts=1", then: deletePod},
		{name: "pausing: a container was restarted in place before the attempt is created",
			sees: observation(sandboxIn(pausing, wantsPaused, onPod, attempts(1)), sees(podOf(restartedPod))),
			do:   writeStatus, status: "Running Ready=True/PodReady Paused=False/FilesLost DataLost=True/FilesystemReset pod=demo/pod-1 attempts=1", then: wait, event: v1alpha1.ReasonFilesystemReset},
		{name: "pausing: a restart that was known when the pause was asked for",
			sees: observation(sandboxIn(pausing, wantsPaused, onPod, attempts(1), tellsOf(restartedPod)), sees(podOf(restartedPod))),
			do:   createSnapshot},
		{name: "pausing: the attempt failed because a container was restarted",
			sees: observation(sandboxIn(pausing, wantsPaused, onPod, attempts(1)), sees(podOf(restartedPod)), sees(snapshotIn(broken)), after(0)),
			do:   writeStatus, status: "Running Ready=True/PodReady Paused=False/FilesLost DataLost=True/FilesystemReset pod=demo/pod-1 attempts=1 failed=1", then: wait, event: v1alpha1.ReasonFilesystemReset},
		{name: "pausing: the attempt failed, and a container was restarted once more than was known",
			sees: observation(sandboxIn(pausing, wantsPaused, onPod, attempts(1), tellsOf(restartedPod)), sees(podOf(restartedTwice)), sees(snapshotIn(broken)), after(0)),
			do:   writeStatus, status: "Running Ready=True/PodReady Paused=False/FilesLost DataLost=True/FilesystemReset pod=demo/pod-1 attempts=1 failed=1", then: wait, event: v1alpha1.ReasonFilesystemReset},
		{name: "pausing: the attempt failed",
			sees: observation(sandboxIn(pausing, wantsPaused, onPod, attempts(1)), sees(podOf()), sees(snapshotIn(broken)), after(0)),
			do:   writeStatus, status: "Running Ready=True/PodReady Paused=False/RegistryUnavailable pod=demo/pod-1 attempts=1 failed=1", then: wait, event: v1alpha1.EventPauseRetry},
		{name: "pausing: the attempt failed, and the Pod is gone, with no snapshot",
			sees: observation(sandboxIn(pausing, wantsPaused, onPod, attempts(1)), sees(snapshotIn(broken))),
			do:   writeStatus, status: "Failed Ready=False/NoSnapshot Paused=False/NoSnapshot DataLost=True/PodLost attempts=1", then: wait, event: v1alpha1.ReasonPodLost},
		{name: "pausing: the attempt failed, and the Pod is gone, with an older snapshot",
			sees: observation(sandboxIn(pausing, wantsPaused, onPod, attempts(2), saved("demo-gen1")), sees(snapshotIn(broken, named("demo-gen2"))), comesFrom(snapshotIn(succeed))),
			do:   writeStatus, status: "Failed Ready=False/FilesLost Paused=False/FilesLost DataLost=True/PodLost saved=demo-gen1 attempts=2", then: wait, event: v1alpha1.ReasonPodLost},
		{name: "pausing: the Pod is lost before the attempt is created",
			sees: observation(sandboxIn(pausing, wantsPaused, onPod, attempts(1))),
			do:   writeStatus, status: "Failed Ready=False/NoSnapshot Paused=False/NoSnapshot DataLost=True/PodLost attempts=1", then: wait, event: v1alpha1.ReasonPodLost},

		// Cancelling.
		{name: "an update of desiredState cancels as the verb does",
			sees: observation(sandboxIn(pausing, onPod, attempts(1)), sees(podOf()), sees(snapshotIn(committing))),
			do:   writeStatus, status: "Pausing Ready=False/Canceling Paused=False/Canceling pod=demo/pod-1 attempts=1", then: wait},
		{name: "cancelling: nothing had begun",
			sees: observation(sandboxIn(pausing, onPod, canceling, attempts(1)), sees(podOf())),
			do:   writeStatus, status: "Running Ready=True/PodReady Paused=False/Running pod=demo/pod-1 attempts=1", then: wait, event: v1alpha1.ReasonCanceled},
		{name: "cancelling: the attempt's name is taken",
			sees: observation(sandboxIn(pausing, onPod, canceling, attempts(1)), sees(podOf()), sees(snapshotIn(committing, notOurs))),
			do:   writeStatus, status: "Running Ready=True/PodReady Paused=False/Running pod=demo/pod-1 attempts=1", then: wait, event: v1alpha1.ReasonCanceled},
		{name: "cancelling: the attempt is pending",
			sees: observation(sandboxIn(pausing, onPod, canceling, attempts(1)), sees(podOf()), sees(snapshotIn(unfinished))),
			do:   wait},
		{name: "cancelling: the attempt is queued",
			sees: observation(sandboxIn(pausing, onPod, canceling, attempts(1)), sees(podOf()), sees(snapshotIn(unfinished, queuedSnapshot))),
			do:   wait},
		{name: "cancelling: the attempt commits",
			sees: observation(sandboxIn(pausing, onPod, canceling, attempts(1)), sees(podOf()), sees(snapshotIn(committing))),
			do:   wait},
		{name: "cancelling: the attempt has failed",
			sees: observation(sandboxIn(pausing, onPod, canceling, attempts(1), failures(2)), sees(podOf()), sees(snapshotIn(broken))),
			do:   writeStatus, status: "Running Ready=True/PodReady Paused=False/Running pod=demo/pod-1 attempts=1", then: wait, event: v1alpha1.ReasonCanceled},
		{name: "cancelling: the attempt succeeded, so its containers are to be thawed, which is written down before",
			sees: observation(sandboxIn(pausing, onPod, canceling, attempts(1)), sees(podOf()), sees(snapshotIn(succeed))),
			do:   writeStatus, status: "Pausing Ready=False/Thawing Paused=False/Canceling pod=demo/pod-1 attempts=1", then: thaw},
		{name: "cancelling: the attempt succeeded and is being deleted, and its containers are thawed",
			sees: observation(sandboxIn(pausing, onPod, canceling, attempts(1)), sees(podOf()), sees(snapshotIn(succeed, deletedSnapshot))),
			do:   thaw},
		{name: "cancelling: what the thaw waits for is told",
			sees: observation(sandboxIn(pausing, onPod, canceling, thawing, attempts(1)), sees(podOf()), sees(snapshotIn(succeed)), thawWaits),
			do:   writeStatus, status: "Pausing Ready=False/Thawing Paused=False/Canceling pod=demo/pod-1 attempts=1", after: backstop},
		{name: "cancelling: the attempt has failed, and what its thaw waits for is told",
			sees: observation(sandboxIn(pausing, onPod, canceling, attempts(1)), sees(podOf()), sees(snapshotIn(committing, thawingSnapshot))),
			do:   writeStatus, status: "Pausing Paused=False/Canceling pod=demo/pod-1 attempts=1", then: wait},
		{name: "pausing: the attempt has failed, and what its thaw waits for is told",
			sees: observation(sandboxIn(pausing, wantsPaused, onPod, attempts(1)), sees(podOf()), sees(snapshotIn(committing, thawingSnapshot))),
			do:   writeStatus, status: "Pausing Paused=False/Thawing pod=demo/pod-1 attempts=1", then: wait},
		{name: "cancelling: thawed",
			sees: observation(sandboxIn(pausing, onPod, canceling, thawing, attempts(1)), sees(podOf()), sees(snapshotIn(succeed)), thawed),
			do:   writeStatus, status: "Running Ready=True/PodReady Paused=False/Running pod=demo/pod-1 attempts=1", then: wait, event: v1alpha1.ReasonCanceled},
		{name: "cancelling: the Pod went away after it was saved, and before anybody thawed it",
			sees: observation(sandboxIn(pausing, onPod, canceling, attempts(1)), sees(snapshotIn(succeed)), comesFrom(snapshotIn(succeed))),
			do:   writeStatus, status: "Resuming Ready=False/Resuming Paused=False/Resuming saved=demo-gen1 attempts=1", then: createPod, event: v1alpha1.ReasonPaused},
		{name: "cancelling: the Pod went away after it was saved, and perhaps after it was thawed",
			sees: observation(sandboxIn(pausing, onPod, canceling, thawing, attempts(1)), sees(snapshotIn(succeed)), comesFrom(snapshotIn(succeed))),
			do:   writeStatus, status: "Resuming Ready=False/Resuming Paused=False/Resuming DataLost=True/PodLost saved=demo-gen1 attempts=1", then: createPod, event: v1alpha1.ReasonPodLost},
		{name: "cancelling: the Pod went away, and the end of the snapshot that somebody deletes may have thawed it",
			sees: observation(sandboxIn(pausing, onPod, canceling, attempts(1)), sees(snapshotIn(succeed, deletedSnapshot)), comesFrom(snapshotIn(succeed))),
			do:   writeStatus, status: "Resuming Ready=False/Resuming Paused=False/Resuming DataLost=True/PodLost saved=demo-gen1 attempts=1", then: createPod, event: v1alpha1.ReasonPodLost},
		{name: "cancelling: the Pod went away and nothing was saved",
			sees: observation(sandboxIn(pausing, onPod, canceling, attempts(1)), sees(snapshotIn(broken))),
			do:   writeStatus, status: "Pending Ready=False/Pending Paused=False/Running DataLost=True/PodLost attempts=1", then: createPod, event: v1alpha1.ReasonPodLost},
		{name: "cancelling: asked for again by an update meanwhile",
			sees: observation(sandboxIn(pausing, wantsPaused, onPod, canceling, attempts(1)), sees(podOf()), sees(snapshotIn(broken))),
			do:   writeStatus, status: "Running Ready=True/PodReady Paused=False/Running pod=demo/pod-1 attempts=1", event: v1alpha1.ReasonCanceled},

		// Paused.
		{name: "paused: nothing to do",
			sees: observation(sandboxIn(paused, wantsPaused, saved("demo-gen1"))),
			do:   writeStatus, status: "Paused Ready=False/Paused Paused=True/Paused saved=demo-gen1", then: wait},
		{name: "paused: the registry has lost the image",
			sees: observation(sandboxIn(paused, wantsPaused, saved("demo-gen1")), comesFrom(snapshotIn(succeed, notInRegistry))),
			do:   writeStatus, status: "Paused Ready=False/ImageUnavailable Paused=True/Paused saved=demo-gen1", then: wait, event: v1alpha1.ReasonImageUnavailable},
		{name: "paused: the registry has lost the image, as it says already",
			sees: observation(sandboxIn(paused, wantsPaused, saved("demo-gen1"), saysMissing), comesFrom(snapshotIn(succeed, notInRegistry))),
			do:   writeStatus, status: "Paused Ready=False/ImageUnavailable Paused=True/Paused saved=demo-gen1", then: wait},
		{name: "paused: the registry has the image again",
			sees: observation(sandboxIn(paused, wantsPaused, saved("demo-gen1"), saysMissing), comesFrom(snapshotIn(succeed, inRegistry))),
			do:   writeStatus, status: "Paused Ready=False/Paused Paused=True/Paused saved=demo-gen1", then: wait},
		{name: "paused: the registry cannot be asked",
			sees: observation(sandboxIn(paused, wantsPaused, saved("demo-gen1")), comesFrom(snapshotIn(succeed, registryUnknown))),
			do:   writeStatus, status: "Paused Ready=False/Paused Paused=True/Paused saved=demo-gen1", then: wait},
		{name: "paused: resumed by an update",
			sees: observation(sandboxIn(paused, saved("demo-gen1")), comesFrom(snapshotIn(succeed))),
			do:   writeStatus, status: "Resuming Ready=False/Resuming Paused=False/Resuming saved=demo-gen1", then: createPod},
		{name: "paused: a late Pod is looked at before anything becomes of it",
			sees: observation(sandboxIn(paused, wantsPaused, saved("demo-gen1")), sees(podOf(pendingPod))),
			do:   readPod},
		{name: "paused: a late Pod of which nothing has run is removed",
			sees: observation(sandboxIn(paused, wantsPaused, saved("demo-gen1")), sees(podOf(pendingPod, restored("demo-gen1"))), fresh),
			do:   deletePod, grace: shortGrace},
		{name: "paused: a late Pod that has run is the sandbox's, and what it wrote is saved",
			sees: observation(sandboxIn(paused, wantsPaused, saved("demo-gen1")), sees(podOf(restored("demo-gen1"))), fresh),
			do:   writeStatus, status: "Resuming Ready=False/Resuming Paused=False/Resuming saved=demo-gen1", then: createSnapshot},
		{name: "paused: a late Pod with the files of another snapshot is removed",
			sees: observation(sandboxIn(paused, wantsPaused, saved("demo-gen2")), sees(podOf(restored("demo-gen1"))), fresh),
			do:   deletePod, grace: shortGrace},

		{name: "paused: after a loss that somebody has taken note of",
			sees: observation(sandboxIn(paused, wantsPaused, heldByLoss, lostDataBy, saved("demo-gen1"))),
			do:   writeStatus, status: "Paused Ready=False/Paused Paused=True/Paused DataLost=False/FilesSaved saved=demo-gen1", then: wait},

		// Failed.
		{name: "failed: files were lost and Running is wanted",
			sees: observation(sandboxIn(failed, heldByLoss, lostDataBy, saved("demo-gen1")), comesFrom(snapshotIn(succeed))),
			do:   writeStatus, status: "Resuming Ready=False/Resuming Paused=False/Resuming DataLost=True/PodLost saved=demo-gen1", then: createPod},
		{name: "failed: files were lost and the same is wanted as before",
			sees: observation(sandboxIn(failed, wantsPaused, heldByLoss, lostDataBy, saved("demo-gen1")), comesFrom(snapshotIn(succeed))),
			do:   writeStatus, status: "Failed Paused=False/FilesLost DataLost=True/PodLost saved=demo-gen1", then: wait},
		{name: "failed: waits for a verb",
			sees: observation(sandboxIn(failed, wantsPaused)),
			do:   writeStatus, status: "Failed", then: wait},
		{name: "failed: the snapshot is still gone",
			sees: observation(sandboxIn(failed, saved("demo-gen1"))),
			do:   writeStatus, status: "Failed saved=demo-gen1", then: wait},
		{name: "failed: the snapshot is there",
			sees: observation(sandboxIn(failed, saved("demo-gen1")), comesFrom(snapshotIn(succeed))),
			do:   writeStatus, status: "Resuming Ready=False/Resuming Paused=False/Resuming saved=demo-gen1", then: createPod},
		{name: "failed: its Pod is there",
			sees: observation(sandboxIn(failed), sees(podOf())),
			do:   writeStatus, status: "Running Ready=True/PodReady Paused=False/Running pod=demo/pod-1", then: wait},
	}
	for _, test := range tests {
		t.Run(test.name, test.holds)
	}
}

func (test decision) holds(t *testing.T) {
	before := test.sees.sandbox.DeepCopy()
	got := decide(test.sees)
	if got.do != test.do {
		t.Fatalf("%s, want %s; status: %v", got.do, test.do, got.status)
	}
	if summary(&test.sees.sandbox.Status) != summary(&before.Status) {
		t.Errorf("decide changed what it observed: %s", summary(&test.sees.sandbox.Status))
	}
	if got.do == deletePod && !ptr.Equal(got.grace, test.grace) {
		t.Errorf("grace %v, want %v", ptr.Deref(got.grace, -1), ptr.Deref(test.grace, -1))
	}
	if got.after != test.after {
		t.Errorf("looks again after %s, want %s", got.after, test.after)
	}
	event := ""
	if got.event != nil {
		event = got.event.reason
	}
	if event != test.event {
		t.Errorf("event %q, want %q", event, test.event)
	}
	if got.do != writeStatus {
		return
	}
	if line := summary(got.status); line != test.status {
		t.Errorf("status\n     %s\nwant %s", line, test.status)
	}
	generations(t, got.status, before.Generation)
	if test.then == "" {
		return
	}
	if then := settled(t, test.sees, got); then != test.then {
		t.Errorf("then %s, want %s", then, test.then)
	}
}

// generations checks that everything which is written carries the generation it was decided on.
func generations(t *testing.T, status *v1alpha1.SandboxStatus, want int64) {
	t.Helper()
	if status.ObservedGeneration != want {
		t.Errorf("observedGeneration %d, want %d", status.ObservedGeneration, want)
	}
	for _, condition := range status.Conditions {
		if condition.ObservedGeneration != want {
			t.Errorf("observedGeneration %d of %s, want %d", condition.ObservedGeneration, condition.Type, want)
		}
	}
}

// settled writes as long as there is something to write, and returns what comes then.
func settled(t *testing.T, o observed, next action) verb {
	t.Helper()
	for range 4 {
		o.named = next.creates
		o.sandbox = o.sandbox.DeepCopy()
		o.sandbox.Status = *next.status
		if next = decide(o); next.do != writeStatus {
			return next.do
		}
	}
	t.Fatalf("still writes after four writes: %s", summary(next.status))
	return ""
}

func TestAnAttemptThatMustFailAgainSaysSo(t *testing.T) {
	for reason, want := range map[string]string{
		v1alpha1.ReasonFilesNotSupported:   "the next attempt follows in 1m0s, or at once with another pause; it will fail as well until that is changed",
		v1alpha1.ReasonRegistryUnavailable: "the next attempt follows in 10s, or at once with another pause",
	} {
		got := decide(observation(sandboxIn(v1alpha1.SandboxPausing, wantsPaused, onPod, attempts(1)), sees(podOf()), sees(snapshotIn(v1alpha1.SnapshotFailed, failedFor(reason))), after(0)))
		if paused := meta.FindStatusCondition(got.status.Conditions, v1alpha1.ConditionPaused); !strings.HasSuffix(paused.Message, want) {
			t.Errorf("%s: %q, want %q", reason, paused.Message, want)
		}
	}
}
