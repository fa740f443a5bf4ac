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
	"time"

	batchv1 "k8s.io/api/batch/v1"

	"github.com/opensandbox-io/sandbox-apiserver/apis/lifecycle/v1alpha1"
	"github.com/opensandbox-io/sandbox-apiserver/pkg/controller/commitjob"
)

// observed is everything that a decision is made of. A snapshot goes through one of two machines, a commit or a copy, and
// through a third when it is deleted; each looks only at what it needs, and asks for it: what is nil has
// not been looked at during this visit.
type observed struct {
	snapshot *v1alpha1.SandboxSnapshot
	now      time.Time
	// queued says that it waits for its turn since an earlier visit, and podEnds that the cache shows its Pod gone, or
	// on its way out.
	queued, podEnds bool
	// past is the trouble that earlier visits have had with an API since the snapshot last got on, and trouble what this
	// one has just had. An end of trouble is an end of past, too.
	past    troubles
	trouble *trouble

	// sandbox is the one that the snapshot names; again says that it was read once more after the source was.
	sandbox *foundSandbox
	again   bool
	// job is the commit Job of the snapshot's name, handed whether it has what its Pod waits for.
	job    *foundJob
	handed bool
	slot   *slotAnswer
	source *foundSource
	// commit is how far the commit is, stopped what came of its end, and thaw whether something is frozen.
	commit  *commitjob.Outcome
	stopped *stopped
	thaw    *thawed
	// from is what a copy is made of, copied the image that was just made.
	from   *foundSource
	copied *copiedImage
	// user is the sandbox that needs a snapshot that is to be deleted, empty where none does.
	user *string
	// podThere says that the Pod exists that was committed.
	podThere *bool
	// keepsSlot is that of the last action, and gone says that the snapshot is.
	keepsSlot, gone bool
	// cleaned says that no Job of the snapshot is left, images what became of its images.
	cleaned *bool
	images  *deletedImages
}

// foundSandbox is a sandbox, nil where there is none.
type foundSandbox struct{ *v1alpha1.Sandbox }

// foundJob is a Job, nil where there is none.
type foundJob struct{ *batchv1.Job }

// slotAnswer says whether the snapshot has a slot, or what it waits for.
type slotAnswer struct {
	held bool
	why  string
}

// foundSource is what is to be committed or copied, or why that cannot be.
type foundSource struct {
	source  *commitjob.Source
	copied  *v1alpha1.SandboxSnapshot
	refusal *refusal
}

// stopped says what came of the end of a commit Job.
type stopped struct{ neverRan bool }

// thawed says whether nothing is frozen, or what is in the way of that.
type thawed struct {
	done bool
	why  string
}

// deletedImages says when to try again to delete the images, zero where that is over, and why.
type deletedImages struct {
	again time.Duration
	why   error
}

// verb is one thing that the controller does, or looks at.
type verb string

const (
	wait        verb = "wait"
	writeStatus verb = "write status"

	// What is looked at.
	readSandbox   verb = "read sandbox"
	findJob       verb = "find job"
	checkSource   verb = "check source"
	checkCopy     verb = "check copy"
	observeCommit verb = "observe commit"
	readUser      verb = "read user"
	readPod       verb = "read pod"

	// What is done.
	takeSlot     verb = "take slot"
	giveSlot     verb = "give slot"
	createJob    verb = "create job"
	handOver     verb = "hand over"
	giveUpJob    verb = "give up job"
	stopJob      verb = "stop job"
	thawPod      verb = "thaw pod"
	copyImage    verb = "copy image"
	warnSandbox  verb = "warn sandbox"
	cleanJobs    verb = "clean jobs"
	deleteImages verb = "delete images"
	letGo        verb = "let go"
)

// action is what to do next.
type action struct {
	do verb
	// status is what writeStatus writes.
	status *v1alpha1.SandboxSnapshotStatus
	// events tell of a write once it has been done.
	events []note
	// message is what warnSandbox writes.
	message string
	// rest says that the visit ends with it; after is when to look again though no watch tells of anything.
	rest  bool
	after time.Duration
	// keepsSlot says that what waits keeps the slot, or the place in the queue, that it has: something may run.
	// remembers says that its trouble is not over.
	keepsSlot, remembers bool
}

// note is an event to record.
type note struct {
	warning                 bool
	reason, action, message string
}

// decide is the snapshot's state machine: no I/O, one action at a time. The reconciler acts and asks again.
func decide(o observed) action {
	if o.trouble != nil {
		return o.heldUp()
	}
	switch phase := o.snapshot.Status.Phase; {
	case o.snapshot.DeletionTimestamp != nil:
		return o.deleting()
	case phase == v1alpha1.SnapshotSucceed, phase == v1alpha1.SnapshotFailed:
		return action{do: wait}
	case phase == v1alpha1.SnapshotCommitting:
		return o.committing()
	case o.snapshot.Spec.Source != nil:
		return o.existing()
	}
	return o.pending()
}

// pause is the attempt that the snapshot is, nil where it is none.
func (o *observed) pause() *v1alpha1.SnapshotPause { return PauseOf(o.snapshot) }

const (
	// backstop is how long a snapshot under way is left alone when no watch tells of it.
	backstop = time.Minute
	// queueBackstop is the same for one that waits for its turn. Thousands may do so at a time, and
	// nothing can happen to them that the end of another commit, or their sandbox, does not tell.
	queueBackstop = 10 * time.Minute
)
