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
	"cmp"
	"fmt"
	"slices"
	"strings"
	"time"

	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"

	"github.com/opensandbox-io/sandbox-apiserver/apis/lifecycle/v1alpha1"
	"github.com/opensandbox-io/sandbox-apiserver/pkg/committer/result"
	"github.com/opensandbox-io/sandbox-apiserver/pkg/controller/commitjob"
)

const (
	// refusedLimit is for how long a commit Job may go without a Pod that the API refuses. A quota may
	// have room in a moment, and kube-controller-manager tries again by itself; but an attempt holds a
	// slot, and whoever waits for the pause is better served by the next.
	refusedLimit = 30 * time.Second
	// startLimit is for how long a commit's Pod may be on its way to its first moment: an image has to be
	// pulled, or there is no room on the node.
	startLimit = 5 * time.Minute
)

// pending is the machine of what has no commit yet: it finds the way, and creates the Job.
func (o *observed) pending() action {
	if o.sandbox == nil {
		return action{do: readSandbox}
	}
	unwanted := o.unwanted()
	if unwanted == nil && (o.pause() != nil || o.rescue() != nil) && o.queued && o.slot == nil && o.says() == v1alpha1.ReasonQueued {
		if !o.podEnds {
			// Still wanted, and not its turn: all that follows would be done again then.
			return action{do: wait, rest: true, after: queueBackstop, keepsSlot: true}
		}
		// Nobody waits hours for a turn to hear that there is nothing to commit.
		if o.source == nil {
			return action{do: checkSource}
		}
		if o.source.refusal == nil {
			return action{do: wait, rest: true, after: backstop, keepsSlot: true}
		}
	}
	// A Job that exists already is what is being committed, whatever the checks would say now.
	if o.job == nil {
		return action{do: findJob}
	}
	if o.job.Job != nil {
		return o.begin()
	}
	if act, is := o.mayStillAppear(); is {
		return act
	}
	if unwanted != nil {
		return o.refuse(unwanted)
	}
	if act, is := o.holdsOff(); is {
		return act
	}
	how, refusal := o.way()
	switch {
	case refusal != nil:
		return o.refuse(refusal)
	case how == waits:
		act := o.wait("sandbox %s is being paused", o.sandbox.Name)
		act.after = backstop
		return act
	case how == copies && o.slot != nil:
		return action{do: giveSlot}
	case how == copies:
		return o.copying()
	case o.source != nil && o.source.refusal != nil:
		return o.refuse(o.source.refusal)
	case o.slot == nil:
		// First the slot and then the checks: what they find must be true when the commit starts,
		// not when it began to wait.
		return action{do: takeSlot}
	case !o.slot.held:
		act := o.wait("%s", o.slot.why)
		act.keepsSlot = true // its place in the queue
		return act
	case o.source == nil:
		return action{do: checkSource}
	case o.pause() == nil && o.rescue() == nil && !o.again:
		// While it holds the slot no pause of this Pod can begin its commit. One may have ended
		// since the sandbox was read, though, and what that froze must stay so.
		return action{do: readSandbox}
	case o.source.source.PodUID != sourcePodUID(o.snapshot, o.sandbox.Sandbox):
		return action{do: giveSlot}
	}
	return action{do: createJob}
}

// way is how a snapshot that a user asked for is made of its sandbox as it is now.
type way string

const (
	commits way = "commits" // the running containers
	copies  way = "copies"  // what the last pause saved
	waits   way = "waits"   // for a pause to end one way or the other
)

// way finds the way, or says what the sandbox has to come to before there is one.
func (o *observed) way() (way, *refusal) {
	if o.pause() != nil || o.rescue() != nil {
		return commits, nil
	}
	sandbox := o.sandbox.Sandbox
	again := fmt.Sprintf("create another snapshot once it is %s", v1alpha1.SandboxRunning)
	if sandbox.DeletionTimestamp != nil {
		return "", refuse(v1alpha1.ReasonSandboxNotFound, "sandbox %s is being deleted", sandbox.Name)
	}
	if o.says() == v1alpha1.ReasonCopying {
		return copies, nil // as it was begun
	}
	switch sandbox.Status.Phase {
	case v1alpha1.SandboxRunning:
		return commits, nil
	case v1alpha1.SandboxPausing:
		// A commit that thaws must not come between a pause's commit and the removal of the Pod.
		return waits, nil
	case v1alpha1.SandboxPaused:
		return copies, nil
	case v1alpha1.SandboxResuming:
		if o.says() == v1alpha1.ReasonQueued && sandbox.Status.SnapshotName != "" {
			// It waited for the pause, and a resume was faster than it.
			return copies, nil
		}
		return "", refuse(v1alpha1.ReasonSourcePodNotFound, "sandbox %s is Resuming and its Pod does not run yet: %s", sandbox.Name, again)
	case v1alpha1.SandboxFailed:
		return "", refuse(v1alpha1.ReasonSourcePodNotFound, "sandbox %s is Failed: resume it from a snapshot or from its template, and %s", sandbox.Name, again)
	}
	return "", refuse(v1alpha1.ReasonSourcePodNotFound, "sandbox %s is Pending and has no files yet: %s", sandbox.Name, again)
}

// unwanted says why the snapshot is not wanted any more, or never could be had; nil where it is. One that
// a user asked for is wanted until it is deleted.
func (o *observed) unwanted() *refusal {
	sandbox := o.sandbox.Sandbox
	if sandbox == nil {
		return refuse(v1alpha1.ReasonSandboxNotFound,
			"sandbox %s does not exist in this namespace: create the snapshot where the sandbox is, with its name", o.snapshot.Spec.SandboxName)
	}
	if lostRescue(o.snapshot) {
		return refuse(v1alpha1.ReasonCanceled, "a server of an older version, which still ran beside this one, has dropped what this snapshot was to save (spec.rescue): what runs now is no rescue")
	}
	if why := canceled(o.snapshot, sandbox); why != "" {
		return refuse(v1alpha1.ReasonCanceled, "%s", why)
	}
	if uid := o.snapshot.Status.SandboxUID; uid != "" && uid != sandbox.UID {
		return refuse(v1alpha1.ReasonSandboxNotFound, "sandbox %s was deleted and created anew while the snapshot waited: create another snapshot of the new one", sandbox.Name)
	}
	return nil
}

// canceled says why a pause's snapshot, or a rescue's, is not wanted any more, empty where it is.
func canceled(snapshot *v1alpha1.SandboxSnapshot, sandbox *v1alpha1.Sandbox) string {
	if rescue := RescueOf(snapshot); rescue != nil {
		return notRescued(rescue, sandbox)
	}
	pause := PauseOf(snapshot)
	if pause == nil {
		return ""
	}
	condition := meta.FindStatusCondition(sandbox.Status.Conditions, v1alpha1.ConditionPaused)
	switch {
	case sandbox.UID != pause.SandboxUID:
		return fmt.Sprintf("sandbox %s was deleted and created anew", sandbox.Name)
	case sandbox.DeletionTimestamp != nil:
		return fmt.Sprintf("sandbox %s is being deleted", sandbox.Name)
	case sandbox.Status.Phase != v1alpha1.SandboxPausing || !IsAttemptOf(snapshot, sandbox):
		return fmt.Sprintf("sandbox %s does not wait for this attempt", sandbox.Name)
	case condition != nil && condition.Reason == v1alpha1.ReasonCanceling:
		return fmt.Sprintf("a resume of sandbox %s cancelled the pause", sandbox.Name)
	}
	return ""
}

// sourcePodUID is the Pod to commit: of a pause the one that its attempt is of, else the one that the sandbox runs in.
func sourcePodUID(snapshot *v1alpha1.SandboxSnapshot, sandbox *v1alpha1.Sandbox) types.UID {
	if pause := PauseOf(snapshot); pause != nil && pause.PodUID != "" {
		return pause.PodUID
	}
	if rescue := RescueOf(snapshot); rescue != nil {
		return rescue.PodUID
	}
	return sandbox.Status.PodUID
}

func (o *observed) refuse(why *refusal) action { return o.fail(why.reason, why.message) }

// wait says what the snapshot waits for. From now on it is one of this sandbox, and of no other of its name.
func (o *observed) wait(format string, args ...any) action {
	next := o.next()
	next.SandboxUID = o.sandbox.UID
	next.set(v1alpha1.ConditionReady, false, v1alpha1.ReasonQueued, "waiting: %s", fmt.Sprintf(format, args...))
	act := o.rests(next, queueBackstop)
	act.remembers = true
	return act
}

// begin goes on with a Job that is there.
func (o *observed) begin() action {
	if commitjob.TakesPullSecrets(o.job.Job) && !o.handed && o.snapshot.DeletionTimestamp == nil {
		if act, is := o.holdsOff(); is {
			act.keepsSlot = true
			return act
		}
		return action{do: handOver}
	}
	next, ok := o.begun()
	if !ok {
		return o.lostSource()
	}
	act := o.write(next, note{reason: v1alpha1.EventCommitJobCreated, action: "Commit", message: fmt.Sprintf("created Job %s/%s, which commits Pod %s on node %s",
		o.job.Namespace, o.job.Name, next.SourcePodName, next.SourceNodeName)})
	if o.snapshot.DeletionTimestamp == nil {
		act.rest, act.after = true, backstop // what it does next its Pod's events tell
	}
	return act
}

// begun is the status of a snapshot whose Job is there, where that says what it is of.
func (o *observed) begun() (*nextStatus, bool) {
	source, err := commitjob.SourceOf(o.job.Job)
	if err != nil {
		return nil, false
	}
	next := o.next()
	next.record(o.job.Job, source)
	if o.sandbox != nil && o.sandbox.Sandbox != nil && o.unwanted() == nil {
		next.Template = o.sandbox.Spec.Template
	}
	return next, true
}

// lostSource ends a commit whose Job does not say any more what it is of: somebody has edited it. What may be frozen is
// what would be committed now.
func (o *observed) lostSource() action {
	switch {
	case o.sandbox == nil:
		return action{do: readSandbox}
	case o.source == nil && o.sandbox.Sandbox != nil:
		return action{do: checkSource}
	}
	source := &commitjob.Source{PodName: o.snapshot.Spec.SandboxName}
	if o.source != nil && o.source.source != nil {
		source = o.source.source
	} else if pause := o.pause(); pause != nil {
		source.PodUID = pause.PodUID
	}
	next := o.next()
	next.record(o.job.Job, source)
	return o.ends(next, v1alpha1.ReasonCommitJobFailed, fmt.Sprintf("the annotation %s of Job %s/%s, which says what it commits, was changed",
		v1alpha1.AnnotationSource, o.job.Namespace, o.job.Name))
}

// committing is the machine of a commit under way: it watches over it until it has ended, and what it froze is
// thawed where it failed.
//
// An attempt that ends badly without a report that everything is thawed first gets the
// condition Failed=Unknown with the reason that it will end with. From then on the snapshot
// can only fail, and it says Failed only when nothing is frozen any more.
func (o *observed) committing() action {
	if ending := o.ending(); ending != nil {
		return o.finish(ending)
	}
	if o.pause() != nil || o.rescue() != nil {
		if o.sandbox == nil {
			return action{do: readSandbox}
		}
		if why := o.unwanted(); why != nil {
			return o.ends(o.next(), v1alpha1.ReasonCanceled, why.message)
		}
	}
	if o.commit == nil {
		return action{do: observeCommit}
	}
	next := o.next()
	switch commit := o.commit; {
	case commit.Refused:
		next.set(v1alpha1.ConditionReady, false, v1alpha1.ReasonCommitPodRejected, "%s", commit.Message)
		left := o.left(refusedLimit)
		if left <= 0 {
			return o.tells(next, giveUp)
		}
		return o.follows(next, left)
	case commit.State == commitjob.Active && !commit.Started:
		left := o.left(startLimit)
		if left <= 0 {
			why := cmp.Or(commit.Message, "nothing is said of why")
			return o.ends(next, v1alpha1.ReasonHeldUp, fmt.Sprintf("the commit Pod has not started in %s: %s", startLimit, why))
		}
		if commit.Message != "" {
			next.set(v1alpha1.ConditionReady, false, v1alpha1.ReasonHeldUp, "%s", commit.Message)
		}
		return o.follows(next, min(left, backstop))
	case commit.State == commitjob.Active:
		if says := o.says(); says == v1alpha1.ReasonHeldUp || says == v1alpha1.ReasonCommitPodRejected {
			next.set(v1alpha1.ConditionReady, false, v1alpha1.ReasonCommitting, "the commit runs")
		}
		return o.follows(next, backstop)
	case commit.State == commitjob.Succeeded:
		if err := adopt(next.SandboxSnapshotStatus, commit.Result); err != nil {
			return o.ends(o.next(), v1alpha1.ReasonResultMissing, err.Error())
		}
		return o.succeed(next, "%d images are in the registry", imagesThere)
	case commit.Thawed:
		return o.fail(commit.Reason, commit.Message)
	}
	return o.ends(next, o.commit.Reason, o.commit.Message)
}

// giveUp ends a Job that gets no Pod. It has ended when its own events say so.
var giveUp = action{do: giveUpJob, rest: true, after: backstop, keepsSlot: true}

// left is how much is left of a limit since the commit began. Where that seems to be to come a clock was turned back,
// or is another replica's: then it is the whole.
func (o *observed) left(limit time.Duration) time.Duration {
	if o.snapshot.Status.StartTime == nil {
		return limit
	}
	return min(limit, o.snapshot.Status.StartTime.Add(limit).Sub(o.now))
}

// follows tells how far a commit is, and waits.
func (o *observed) follows(next *nextStatus, after time.Duration) action {
	act := o.rests(next, after)
	act.keepsSlot = true
	return act
}

// tells writes what there is to say before something is done, and does that once it is said.
func (o *observed) tells(next *nextStatus, then action) action {
	if write := o.write(next); write.do == writeStatus {
		return write
	}
	return then
}

// ends records that the attempt has failed before anything is done about it, so that the
// reason outlives the Job.
func (o *observed) ends(next *nextStatus, reason, message string) action {
	next.set(v1alpha1.ConditionReady, false, v1alpha1.ReasonThawing, "the attempt ended (%s); making sure that nothing stays frozen", reason)
	next.put(metav1.Condition{Type: v1alpha1.ConditionFailed, Status: metav1.ConditionUnknown, Reason: reason, Message: message})
	return o.write(next)
}

// ending is why the attempt has failed, nil where it has not.
func (o *observed) ending() *metav1.Condition {
	if o.snapshot.Status.Phase != v1alpha1.SnapshotCommitting {
		return nil
	}
	return o.condition(v1alpha1.ConditionFailed)
}

// finish ends the commit Job, and thaws what that has left frozen.
func (o *observed) finish(why *metav1.Condition) action {
	next := o.next()
	still := func(message string) {
		next.set(v1alpha1.ConditionReady, false, v1alpha1.ReasonThawing, "the attempt ended (%s); making sure that nothing stays frozen%s", why.Reason, message)
	}
	switch {
	case o.stopped != nil && o.stopped.neverRan:
		return o.fail(why.Reason, why.Message)
	case o.stopped != nil:
		return o.follows(next, backstop)
	case o.commit == nil:
		return action{do: observeCommit}
	}
	if act, is := o.holdsOff(); is {
		return act
	}
	switch {
	case o.commit.Refused:
		// Its end proves that nothing was ever frozen. A Job to thaw would be refused its Pod as well.
		still(": " + o.commit.Message)
		return o.tells(next, giveUp)
	case o.commit.State == commitjob.Active:
		return action{do: stopJob}
	}
	if !o.commit.Thawed && o.rescue() == nil { // which has frozen nothing
		switch {
		case o.thaw == nil:
			return action{do: thawPod}
		case !o.thaw.done:
			if o.thaw.why != "" {
				still(": " + o.thaw.why)
			}
			return o.rests(next, backstop)
		}
	}
	return o.fail(why.Reason, why.Message, note{reason: v1alpha1.EventThawed, action: "Thaw", message: "nothing that the commit froze is frozen any more"})
}

// adopt takes the committer's report over, if it has a digest for every container and no other.
func adopt(status *v1alpha1.SandboxSnapshotStatus, report result.Result) error {
	refs := make([]result.Ref, 0, len(status.Containers))
	for i := range status.Containers {
		refs = append(refs, result.Ref{Name: status.Containers[i].ContainerName, Image: status.Containers[i].ImageURI})
	}
	if err := report.Unpack(refs); err != nil {
		return err
	}
	if len(report.Containers) != len(status.Containers) {
		return fmt.Errorf("image-committer reports %d containers, %d were to be committed", len(report.Containers), len(status.Containers))
	}
	adopted := slices.Clone(status.Containers)
	for i := range adopted {
		at := slices.IndexFunc(report.Containers, func(c result.Container) bool { return c.Name == adopted[i].ContainerName })
		if at < 0 || report.Containers[at].Digest == "" || report.Containers[at].Image != adopted[i].ImageURI {
			return fmt.Errorf("image-committer reports no digest of container %s in %s", adopted[i].ContainerName, adopted[i].ImageURI)
		}
		adopted[i].ImageDigest = report.Containers[at].Digest
		adopted[i].LayerBytes = report.Containers[at].LayerBytes
		adopted[i].Layers = int32(report.Containers[at].Layers) //nolint:gosec // bounded by what a runtime can mount
		adopted[i].Differ = v1alpha1.SnapshotDiffer(report.Containers[at].Differ)
		if adopted[i].Differ == "" {
			adopted[i].Differ = v1alpha1.DifferOverlay
		}
	}
	status.Containers = adopted
	status.FrozenDuration = &metav1.Duration{Duration: time.Duration(report.FrozenMillis) * time.Millisecond}
	warnings := slices.Clone(status.Warnings)
	for _, warning := range report.Warnings {
		warnings = append(warnings, v1alpha1.SnapshotWarning{
			Reason: string(warning.Reason), ContainerName: warning.Container, Path: warning.Path, Message: warning.Message,
		})
	}
	status.Warnings = bounded(warnings)
	return nil
}

// existing makes a snapshot of images that are there already. Nothing is read of them: the server's account
// may read what its tenants may not, and even whether an image exists is not theirs to ask by it. Who
// starts a sandbox from the snapshot pulls them as any Pod would.
func (o *observed) existing() action {
	next := o.next()
	next.Containers = nil
	for _, image := range o.snapshot.Spec.Source.Images {
		uri, digest, _ := strings.Cut(image.Image, "@")
		next.Containers = append(next.Containers, v1alpha1.ContainerSnapshot{ContainerName: image.ContainerName, ImageURI: uri, ImageDigest: digest})
	}
	next.StartTime = &metav1.Time{Time: o.now}
	return o.succeed(next, "%d existing images were named", metav1.Condition{
		Status: metav1.ConditionUnknown, Reason: v1alpha1.ReasonImageNotChecked,
		Message: "the images were not made by this snapshot, so the server does not ask for them: a Pod that starts from them pulls them with its own pull secrets",
	})
}
