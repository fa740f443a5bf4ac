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
	"cmp"
	"strings"
	"time"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/meta"
	"k8s.io/utils/ptr"

	"github.com/opensandbox-io/sandbox-apiserver/apis/lifecycle/contents"
	"github.com/opensandbox-io/sandbox-apiserver/apis/lifecycle/v1alpha1"
	"github.com/opensandbox-io/sandbox-apiserver/pkg/controller/answer"
	"github.com/opensandbox-io/sandbox-apiserver/pkg/controller/sandboxsnapshot"
	"github.com/opensandbox-io/sandbox-apiserver/pkg/controller/template"
)

// observed is everything that a decision is made of.
type observed struct {
	sandbox *v1alpha1.Sandbox
	// pod is the sandbox's own Pod; nil means that the API said it is not there.
	pod *corev1.Pod
	// attempt is the snapshot of the last pause attempt, whoever's it is; nil where there is none.
	attempt *v1alpha1.SandboxSnapshot
	// highest is the highest number of an attempt that a snapshot is named by, where the attempt is not this sandbox's.
	highest int64
	// from is the snapshot that the next Pod comes from; nil where none is named or it is gone.
	from *v1alpha1.SandboxSnapshot
	// astray is a Job that commits the Pod for a snapshot that is gone, empty where there is none.
	astray string
	// thawed says that nothing which the attempt's commit froze is frozen.
	// thawWaits says what keeps a thaw from being done, where that was asked for at this visit and is known.
	thawed    bool
	thawWaits string
	// killing is how far the end of what it left frozen has come, killFault why it has failed.
	killing   killing
	killFault string
	// staying is whether that is frozen still, stayFault why it is not.
	staying   staying
	stayFault string
	// checked says that the registry was asked for the images of from at this visit.
	checked bool
	// fresh says that pod was read past the cache at this visit.
	fresh bool
	// runs is what is known of the Pod's containers beside its status.
	runs firstRuns
	// lastResets are the restarts in place that the watch has shown of the Pod last, gone or not.
	lastResets []reset
	// rescued are the rescues of the sandbox, the latest first; they are looked at where something may be to be rescued, or told
	// of. canRescue says that there is a registry for them, rescueHeld how long none of these containers is created; nil: at once.
	// tried are all that have such containers, the attempts of moves among them.
	rescued    []v1alpha1.SandboxSnapshot
	tried      []v1alpha1.SandboxSnapshot
	canRescue  bool
	rescueHeld func(containers string) time.Duration
	// unguarded says that the garbage collector may delete the Pods of sandboxes; claimed, that the Pod was made the
	// sandbox's at this visit.
	unguarded bool
	claimed   bool
	// words are what the Pod that is gone has said of its end.
	words string
	// unblocked says that the name of the Pod is free again, which another's had.
	unblocked bool
	// named says that the Pod's name was written at this visit, and when there may be another: it may be created.
	named bool
	// attemptHeld is how long the snapshot of the attempt, which was created and is gone, is not created again.
	attemptHeld time.Duration
	// template is the hash of what the next Pod would be made of, where there is one that may have to be replaced.
	template string
	// startLeft is how long a Pod that starts while a pause is wanted is left alone.
	startLeft time.Duration
	// looksAgain is how long the registry is not asked again about the images that a Pod cannot pull.
	looksAgain time.Duration
	now        time.Time
}

// verb is one thing that the controller does to the world.
type verb string

const (
	wait           verb = "wait"
	writeStatus    verb = "write status"
	createPod      verb = "create pod"
	deletePod      verb = "delete pod"
	createSnapshot verb = "create snapshot"
	thaw           verb = "thaw"
	kill           verb = "kill"
	claim          verb = "claim"
	checkImages    verb = "check images"
	readPod        verb = "read pod"
	claimPod       verb = "claim pod"
	createRescue   verb = "create rescue"
)

// action is what to do next.
type action struct {
	do verb
	// status is what writeStatus writes.
	status *v1alpha1.SandboxStatus
	// grace is what deletePod gives the Pod to end, in seconds; nil: what the Pod asks for.
	grace *int64
	// asSeen has deletePod delete the Pod only where it has not changed since it was read.
	asSeen bool
	// event tells of a write, or of a deletion, once it has been done.
	event *note
	// creates says that the write is followed by the creation of the Pod.
	creates bool
	// rescue is what createRescue saves.
	rescue []v1alpha1.RescuedContainer
	// after is when to look again though no watch tells of anything; zero: never.
	after time.Duration
}

// note is an event to record.
type note struct {
	warning         bool
	reason, message string
}

// removalGrace is what a Pod gets to end, in seconds, whose processes are frozen or nobody's
// concern any more. The kubelet makes two of it.
const removalGrace = 1

// decide is the sandbox's state machine: no I/O, one action at a time. The reconciler acts and
// asks again.
func decide(o observed) action {
	if next, is := o.owning(); is {
		return next
	}
	switch o.phase() {
	case v1alpha1.SandboxPending, v1alpha1.SandboxResuming:
		return o.starting()
	case v1alpha1.SandboxRunning:
		return o.running()
	case v1alpha1.SandboxPausing:
		return o.pausing()
	case v1alpha1.SandboxPaused:
		return o.paused()
	case v1alpha1.SandboxFailed:
		return o.failed()
	default:
		// Of a newer server, which may run beside this one while it is installed: what it means is not known here.
		return action{do: wait}
	}
}

// phase is the sandbox's; one that was never set is Pending.
func (o *observed) phase() v1alpha1.SandboxPhase {
	return cmp.Or(o.sandbox.Status.Phase, v1alpha1.SandboxPending)
}

func (o *observed) running() action {
	if o.pod == nil {
		return o.lost(o.next(), o.from)
	}
	view := o.view()
	next := o.next()
	withdrawn := o.noteMove(next, view)
	if view.lost && !o.savesDead(next) {
		return o.ended(next, view)
	}
	left := o.noteEnd(next, view)
	containers, later := o.toRescue()
	if len(containers) > 0 {
		return action{do: createRescue, rescue: containers} // before anything else: the kubelet may remove them at any moment
	}
	return sooner(sooner(o.runsOn(next, view, withdrawn), later), left)
}

// sooner has a visit come after some time, where that is not zero and the next would come later.
func sooner(act action, after time.Duration) action {
	if after > 0 && (act.after <= 0 || after < act.after) {
		act.after = after
	}
	return act
}

// runsOn is what becomes of a sandbox whose Pod is there. withdrawn tells of a move that is not wanted any more.
func (o *observed) runsOn(next *nextStatus, view podView, withdrawn *note) action {
	next.podLasts()
	var event *note
	if next.PodUID != "" && next.PodUID != o.pod.UID {
		event = next.loseData(v1alpha1.ReasonPodLost, "Pod %s was replaced by one with UID %s", o.pod.Name, o.pod.UID)
	}
	next.show(o.pod, view)
	if act, is := o.pullingBeside(next); is {
		return act
	}
	resets := o.resets()
	if reset := o.noticeReset(next, resets); reset != nil {
		event = reset
	}
	told := o.tellFate(next, resets)
	leaves := leaves(o.sandbox, next.Move)
	if o.wants(v1alpha1.DesiredStateRunning) && !leaves {
		next.FailedAttempts = 0
		next.set(v1alpha1.ConditionPaused, false, v1alpha1.ReasonRunning, "the sandbox is not paused")
		return o.write(next, cmp.Or(event, withdrawn, told))
	}
	unheard := o.wants(v1alpha1.DesiredStatePaused) && (event != nil || o.pausedReason() == v1alpha1.ReasonFilesLost)
	if unheard && !leaves {
		return o.heldByLoss(next, event)
	}
	if o.pod.DeletionTimestamp != nil && !o.endsAlive() {
		return o.write(next, event) // what has ended is cleared away, and whether it was saved is told when it is gone
	}
	if left := o.attemptIn(view); left > 0 && next.FailedAttempts > 0 {
		again := o.write(next, event)
		again.after = left
		return again
	}
	next.Phase = v1alpha1.SandboxPausing
	next.SnapshotAttempts++
	if o.showAttempt(next); unheard {
		o.keepInMind(next)
	}
	return o.write(next, event)
}

// lasting are the reasons that stay until somebody changes the sandbox, its files or the server: an attempt
// costs a Job on the node all the same, and whoever makes the change can ask for one at once.
var lasting = map[string]bool{
	v1alpha1.ReasonFilesNotSupported:   true,
	v1alpha1.ReasonImageNameInvalid:    true,
	v1alpha1.ReasonNoContainers:        true,
	v1alpha1.ReasonRuntimeNotSupported: true,
}

// lastingFactor is how much longer the next attempt waits where the last one failed for such a reason.
const lastingFactor = 6

// retryAfter is the wait after so many failed attempts, the last one for that reason.
func retryAfter(failed int32, reason string) time.Duration {
	if lasting[reason] {
		return lastingFactor * answer.Backoff(failed)
	}
	return answer.Backoff(failed)
}

func (o *observed) paused() action {
	next := o.next()
	if o.pod != nil && o.pod.DeletionTimestamp == nil {
		// Created by a step that was decided before the pause ended.
		switch {
		case !o.fresh:
			return action{do: readPod}
		case o.hasRun() && o.pod.Annotations[v1alpha1.AnnotationRestoredFrom] == next.SnapshotName:
			next.resuming() // what it wrote is the sandbox's: it is paused as any other
			return o.write(next, nil)
		}
		return action{do: deletePod, grace: ptr.To[int64](removalGrace), asSeen: !o.hasRun()}
	}
	if o.wants(v1alpha1.DesiredStateRunning) {
		next.resuming()
		return o.write(next, nil)
	}
	if o.pausedReason() == v1alpha1.ReasonFilesLost {
		next.keepData() // a person has said that what there is shall do
	}
	next.pausedOn(next.SnapshotName)
	var event *note
	if imagesMissing(o.from) {
		event = o.missImages(next)
	}
	return o.write(next, event)
}

func (o *observed) wants(state v1alpha1.SandboxDesiredState) bool {
	if o.sandbox.Spec.DesiredState == "" {
		return state == v1alpha1.DesiredStateRunning
	}
	return o.sandbox.Spec.DesiredState == state
}

func (o *observed) view() podView { return viewPod(o.pod) }

// resets are the restarts in place that have cost files which a pause keeps.
func (o *observed) resets() []reset {
	return resetsOf(o.pod, o.runs, o.keeps())
}

// keeps are the containers whose files a pause keeps: not those that something else has injected
// into the Pod, unless they are named. The Pod may be of another template than the sandbox has now.
func (o *observed) keeps() []string {
	if named := o.sandbox.Spec.Snapshot.Containers; len(named) > 0 {
		return named
	}
	if o.pod != nil {
		if made := o.pod.Annotations[v1alpha1.AnnotationContainers]; made != "" {
			return strings.Split(made, ",")
		}
	}
	if of, err := template.Of(o.sandbox, o.from); err == nil {
		return contents.Names(&of.Spec)
	}
	return nil
}

func (o *observed) pausedReason() string {
	if condition := meta.FindStatusCondition(o.sandbox.Status.Conditions, v1alpha1.ConditionPaused); condition != nil {
		return condition.Reason
	}
	return ""
}

// attemptIsOurs says whether the snapshot of the attempt's name is this sandbox's.
func (o *observed) attemptIsOurs() bool {
	return o.attempt != nil && sandboxsnapshot.IsAttemptOf(o.attempt, o.sandbox)
}

func (o *observed) remove(grace *int64) action {
	if o.pod.DeletionTimestamp != nil {
		given := o.pod.DeletionGracePeriodSeconds
		if grace == nil || given != nil && *given <= *grace {
			return action{do: wait}
		}
	}
	return action{do: deletePod, grace: grace}
}
