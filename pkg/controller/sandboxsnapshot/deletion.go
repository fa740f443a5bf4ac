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
	"fmt"
	"slices"

	"k8s.io/apimachinery/pkg/api/meta"

	"github.com/opensandbox-io/sandbox-apiserver/apis/lifecycle/v1alpha1"
)

// deleting is the machine of a snapshot that is to go: it does once nobody needs it, its Jobs are gone, nothing that they
// froze is frozen, and its images are deleted or left for good.
func (o *observed) deleting() action {
	if !slices.Contains(o.snapshot.Finalizers, v1alpha1.SnapshotFinalizer) {
		return action{do: wait, rest: true}
	}
	if o.user == nil {
		return action{do: readUser}
	}
	if *o.user != "" {
		return o.inUse(*o.user)
	}
	switch o.snapshot.Status.Phase {
	case v1alpha1.SnapshotFailed:
	case v1alpha1.SnapshotSucceed:
		if act, is := o.leftFrozen(); is {
			return act
		}
	case v1alpha1.SnapshotCommitting:
		if ending := o.ending(); ending != nil {
			return o.finish(ending)
		}
		return o.ends(o.next(), v1alpha1.ReasonCanceled, "the snapshot was deleted before its commit ended")
	default:
		if o.job == nil {
			return action{do: findJob}
		}
		if o.job.Job != nil {
			return o.begin()
		}
		if act, is := o.mayStillAppear(); is && act.do == wait {
			return act
		}
	}
	if act, is := o.holdsOff(); is {
		return act
	}
	switch {
	case o.cleaned == nil:
		return action{do: cleanJobs}
	case !*o.cleaned:
		return action{do: wait, rest: true, after: backstop}
	case o.images == nil:
		return action{do: deleteImages}
	case o.images.again > 0:
		return o.imagesLeft()
	}
	return action{do: letGo}
}

// inUse says for whom the deletion waits.
func (o *observed) inUse(user string) action {
	next := o.next()
	message := fmt.Sprintf("the deletion waits until sandbox %s needs this snapshot no more: pause it again, or delete it", user)
	next.set(v1alpha1.ConditionReady, o.snapshot.Status.Phase == v1alpha1.SnapshotSucceed, v1alpha1.ReasonInUse, "%s", message)
	return o.rests(next, backstop, note{warning: true, reason: v1alpha1.ReasonInUse, action: "Delete", message: message})
}

// imagesLeft tells once why the snapshot is still there.
func (o *observed) imagesLeft() action {
	next := o.next()
	if o.says() != v1alpha1.ReasonImageDeletionFailed {
		next.set(v1alpha1.ConditionReady, false, v1alpha1.ReasonImageDeletionFailed,
			"the snapshot is being deleted and waits for its images, for at most %s: %v", deletionLimit, o.images.why)
	}
	return o.rests(next, o.images.again, note{warning: true, reason: v1alpha1.ReasonImageDeletionFailed, action: "Delete",
		message: fmt.Sprintf("its images could not be deleted, which is tried again for at most %s: %v", deletionLimit, o.images.why)})
}

// leftFrozen thaws what a successful pause commit left frozen, where its sandbox has not gone on to
// remove the Pod: without the snapshot it never will, and nobody would know what to thaw.
//
// The sandbox is told first. That it removes the Pod is written under the version of the sandbox that was read, so a decision
// from before this word fails on it, and one from after knows that its snapshot is being deleted: what is
// thawed is never removed as saved.
func (o *observed) leftFrozen() (action, bool) {
	if o.pause() == nil || o.says() == v1alpha1.ReasonCanceled {
		return action{}, false
	}
	if o.sandbox == nil {
		return action{do: readSandbox}, true
	}
	sandbox := o.sandbox.Sandbox
	waits := sandbox != nil && sandbox.Status.Phase == v1alpha1.SandboxPausing && IsAttemptOf(o.snapshot, sandbox)
	if sandbox != nil && sandbox.UID == o.pause().SandboxUID && !waits {
		return action{}, false // it has the Pod removed, or thawed
	}
	if sandbox == nil || !waits {
		// Its Pod goes with it, as a rule; without its finalizer it has left it behind.
		if o.podThere == nil {
			return action{do: readPod}, true
		}
		if !*o.podThere {
			return action{}, false
		}
	} else if sandbox.Status.SnapshotName == o.snapshot.Name && sandbox.DeletionTimestamp == nil {
		return action{do: wait, rest: true, after: backstop}, true // in use since just now: the cache that user asks does not know yet
	} else if message := fmt.Sprintf(deletedMeanwhile, o.snapshot.Name); sandbox.DeletionTimestamp == nil && mayBeMarked(sandbox, message) {
		return action{do: warnSandbox, message: message}, true
	}
	if act, is := o.holdsOff(); is {
		return act, true
	}
	next := o.next()
	switch {
	case o.thaw == nil:
		return action{do: thawPod}, true
	case !o.thaw.done:
		if o.thaw.why != "" {
			next.set(v1alpha1.ConditionReady, false, v1alpha1.ReasonThawing, "the snapshot is being deleted; making sure that nothing stays frozen: %s", o.thaw.why)
		}
		return o.rests(next, backstop), true
	}
	next.set(v1alpha1.ConditionReady, false, v1alpha1.ReasonCanceled,
		"the snapshot was deleted before its sandbox could be paused on it; nothing that its commit froze is frozen any more")
	return o.write(next), true
}

// deletedMeanwhile is what a sandbox is told.
const deletedMeanwhile = "snapshot %s is being deleted and the Pod has not been removed: what was frozen is thawed, and then saved in another"

// mayBeMarked says whether a decision about the sandbox may be under way that its Pod is to be removed: not where it has been told, and
// not of a pause that is being undone.
func mayBeMarked(sandbox *v1alpha1.Sandbox, told string) bool {
	paused := meta.FindStatusCondition(sandbox.Status.Conditions, v1alpha1.ConditionPaused)
	return paused == nil || paused.Reason != v1alpha1.ReasonCanceling && paused.Reason != v1alpha1.ReasonFilesLost && paused.Message != told
}
