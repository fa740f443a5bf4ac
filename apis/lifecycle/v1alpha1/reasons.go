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

package v1alpha1

// Condition types of a Sandbox.
const (
	// ConditionReady: the sandbox's Pod runs and is ready.
	ConditionReady = "Ready"
	// ConditionPaused: the sandbox's files are safe in a snapshot and its Pod is gone.
	ConditionPaused = "Paused"
	// ConditionDataLost: files that were written since the last snapshot are gone. Set only
	// once it is true; false again after the next successful pause that was asked for when it was true
	// already. Its message goes on telling what was lost.
	ConditionDataLost = "DataLost"
	// ConditionPodAdopted: another controller of the namespace, a ReplicaSet for instance, has taken a Pod of
	// the sandbox for one of its own, because its selector fits the labels. Set only once it is true.
	ConditionPodAdopted = "PodAdopted"
)

// Condition types of a SandboxSnapshot, beside ConditionReady: every container has an image
// with a digest in the registry.
const (
	// ConditionFailed: the attempt ended without a snapshot; its reason says why.
	ConditionFailed = "Failed"
	// ConditionImageAvailable: the registry had every image of the snapshot when it was asked last.
	// It is asked again for a snapshot that the next resume of a sandbox needs. Unknown: it could
	// not be asked.
	ConditionImageAvailable = "ImageAvailable"
)

// Reasons of a Sandbox's Ready condition.
const (
	// ReasonPodReady: the Pod runs and all its readiness gates are open.
	ReasonPodReady = "PodReady"
	// ReasonPodNotReady: the Pod runs and is not ready.
	ReasonPodNotReady = "PodNotReady"
	// ReasonPodPending: the Pod has been created and does not run yet.
	ReasonPodPending = "PodPending"
	// ReasonTemplateChanged: the Pod, of which no container has run, is being replaced: what it is made of has changed.
	ReasonTemplateChanged = "TemplateChanged"
	// ReasonPodUnschedulable: no node takes the Pod.
	ReasonPodUnschedulable = "PodUnschedulable"
	// ReasonPodTerminating: the Pod is being deleted by somebody else.
	ReasonPodTerminating = "PodTerminating"
	// ReasonTerminating: the sandbox is being deleted; the message says what that waits for.
	ReasonTerminating = "Terminating"
	// ReasonPodRejected: the Kubernetes API refuses the Pod of the template.
	ReasonPodRejected = "PodRejected"
	// ReasonPodNotCreated: the Kubernetes API, or a webhook that it asks, could not answer when the Pod
	// was to be created.
	ReasonPodNotCreated = "PodNotCreated"
	// ReasonPodNotAdmitted: the node does not take the Pod: it has no room, or does not fit. Nothing
	// of it has run.
	ReasonPodNotAdmitted = "PodNotAdmitted"
	// ReasonPodNameConflict: a Pod of that name exists that is not this sandbox's.
	ReasonPodNameConflict = "PodNameConflict"
	// ReasonContainersEnded: all containers of the Pod have ended and will not be restarted.
	ReasonContainersEnded = "ContainersEnded"
	// ReasonImagePullFailed: an image of the Pod cannot be pulled; the kubelet goes on trying.
	ReasonImagePullFailed = "ImagePullFailed"
	// ReasonImageUnavailable: the registry does not have an image that the next Pod needs. Also the
	// reason of a SandboxSnapshot's ImageAvailable condition that is False.
	ReasonImageUnavailable = "ImageUnavailable"
	// ReasonSnapshotNotFound: the snapshot to start from does not exist.
	ReasonSnapshotNotFound = "SnapshotNotFound"
	// ReasonSnapshotNotReady: the snapshot to start from has not succeeded.
	ReasonSnapshotNotReady = "SnapshotNotReady"
	// ReasonNoSnapshot: the Pod was lost while it was being paused and there is no snapshot.
	ReasonNoSnapshot = "NoSnapshot"
)

// Reasons of both conditions of a Sandbox.
const (
	// ReasonPending: accepted, not yet looked at.
	ReasonPending = "Pending"
	// ReasonRunning: the sandbox is not paused and nobody asked for it.
	ReasonRunning = "Running"
	// ReasonPausing: a pause is under way.
	ReasonPausing = "Pausing"
	// ReasonQueued: the commit waits for others to finish. A sandbox may still say so in the first
	// seconds of its commit; its snapshot does not.
	ReasonQueued = "Queued"
	// ReasonCanceling: a pause is being cancelled.
	ReasonCanceling = "Canceling"
	// ReasonRemovingPod: the snapshot is ready and the Pod is being removed. Past this point a
	// pause cannot be cancelled.
	ReasonRemovingPod = "RemovingPod"
	// ReasonPaused: the snapshot is ready and the Pod is gone.
	ReasonPaused = "Paused"
	// ReasonResuming: the Pod is coming back.
	ReasonResuming = "Resuming"
	// ReasonMoving: the Pod is to go, though nobody has asked for a pause: its files are being saved, and the sandbox
	// comes back from them by itself. Of Ready as well, where the Pod is on its way out or is not there.
	ReasonMoving = "Moving"
	// ReasonWithdrawing: a start is being taken back, of which no container has run.
	ReasonWithdrawing = "Withdrawing"
	// ReasonNeverRan: a pause is wanted of a sandbox of which no container has ever run: there is nothing to save,
	// and no Pod until it is resumed.
	ReasonNeverRan = "NeverRan"
)

// Reasons of a Sandbox's move (status.move), beside ReasonPodTerminating: somebody has deleted the Pod, and gives it time to
// end.
const (
	// ReasonEvicted: the Kubernetes API was asked to evict the Pod.
	ReasonEvicted = "Evicted"
	// ReasonNodeDraining: the node is to be emptied: it is cordoned, or an autoscaler has marked it.
	ReasonNodeDraining = "NodeDraining"
	// ReasonNodeTainted: the node has a taint of the effect NoExecute that the Pod does not tolerate.
	ReasonNodeTainted = "NodeTainted"
	// ReasonNodeDeleted: the node is being deleted.
	ReasonNodeDeleted = "NodeDeleted"
	// ReasonNodeShutdown: the node is shutting down.
	ReasonNodeShutdown = "NodeShutdown"
	// ReasonContainerEnded: a container has ended, and spec.onExit is Restore.
	ReasonContainerEnded = "ContainerEnded"
)

// Reasons of a Sandbox's DataLost condition.
const (
	// ReasonPodLost: the Pod was lost while it ran.
	ReasonPodLost = "PodLost"
	// ReasonFilesystemReset: a container was restarted in place, with a fresh root filesystem.
	ReasonFilesystemReset = "FilesystemReset"
	// ReasonFilesSaved: a pause that was asked for afterwards has succeeded.
	ReasonFilesSaved = "FilesSaved"
)

// MessageWrittenSince is where the message of a DataLost condition whose reason is FilesystemReset goes over from what was
// restarted to what has become of the files: that is told once it is known, and is no other loss.
const MessageWrittenSince = "; what was written there since "

// Reasons of a Sandbox's PodAdopted condition, and of its event.
const (
	// ReasonPodAdopted: the message names the controller.
	ReasonPodAdopted = "PodAdopted"
)

// Reasons of a SandboxSnapshot's conditions before and at success.
const (
	// ReasonCommitting: the commit Job exists.
	ReasonCommitting = "Committing"
	// ReasonCopying: the images of a paused sandbox get manifests of their own.
	ReasonCopying = "Copying"
	// ReasonThawing: the attempt has ended and what it froze is being thawed. Of a Sandbox's Ready condition as well, where
	// its pause is being cancelled.
	ReasonThawing = "Thawing"
	// ReasonSucceeded: every container has an image with a digest in the registry.
	ReasonSucceeded = "Succeeded"
	// ReasonInUse: a sandbox needs the snapshot; its deletion waits.
	ReasonInUse = "InUse"
	// ReasonImageDeletionFailed: the snapshot is being deleted and its images could not be yet.
	ReasonImageDeletionFailed = "ImageDeletionFailed"
)

// Reasons of a SandboxSnapshot's ImageAvailable condition, beside ReasonImageUnavailable,
// ReasonRegistryUnavailable, ReasonRegistryDenied and ReasonPushSecretInvalid.
const (
	// ReasonImageAvailable: every image is in the registry.
	ReasonImageAvailable = "ImageAvailable"
	// ReasonImageNotChecked: the snapshot was made of images that are not this server's to read, or its
	// images are not below the registry that this server has now.
	ReasonImageNotChecked = "ImageNotChecked"
	// ReasonImageIncomplete: the registry does not give out a layer of an image whose manifest it has.
	ReasonImageIncomplete = "ImageIncomplete"
	// ReasonImageCheckFailed: whether the images are there is not known; the message says why.
	ReasonImageCheckFailed = "ImageCheckFailed"
)

// Reasons of a SandboxSnapshot's Failed condition, which a Sandbox's Paused condition repeats.
const (
	// ReasonRegistryNotConfigured: the server runs without --snapshot-registry.
	ReasonRegistryNotConfigured = "RegistryNotConfigured"
	// ReasonRegistryUnavailable: the registry cannot be reached, has gone silent, or is in trouble.
	ReasonRegistryUnavailable = "RegistryUnavailable"
	// ReasonRegistryDenied: the registry says no, and not for the credentials: a quota, a rule, a
	// name or a format that it does not take. The message begins with its words.
	ReasonRegistryDenied = "RegistryDenied"
	// ReasonImageNameInvalid: the names of namespace, sandbox and container make no image reference
	// that registries take, by the server's template.
	ReasonImageNameInvalid = "ImageNameInvalid"
	// ReasonPushSecretNotFound: the push secret does not exist.
	ReasonPushSecretNotFound = "PushSecretNotFound"
	// ReasonPushSecretInvalid: the push secret is of the wrong type, or the registry refuses it.
	ReasonPushSecretInvalid = "PushSecretInvalid"
	// ReasonSandboxNotFound: the sandbox to commit does not exist.
	ReasonSandboxNotFound = "SandboxNotFound"
	// ReasonSourcePodNotFound: the sandbox has no Pod to commit.
	ReasonSourcePodNotFound = "SourcePodNotFound"
	// ReasonSourcePodReplaced: the Pod is not the one that was to be committed.
	ReasonSourcePodReplaced = "SourcePodReplaced"
	// ReasonContainerNotFound: a container to commit does not exist.
	ReasonContainerNotFound = "ContainerNotFound"
	// ReasonContainerRestarted: a container was restarted under the commit.
	ReasonContainerRestarted = "ContainerRestarted"
	// ReasonFreezeFailed: something of the Pod cannot be stopped while its files are read; the message
	// names it.
	ReasonFreezeFailed = "FreezeFailed"
	// ReasonFrozenTooLong: containers would have been frozen for longer than --max-frozen.
	ReasonFrozenTooLong = "FrozenTooLong"
	// ReasonFilesNotSupported: there is a file that no image can hold, or sparse files with more
	// holes than --max-holes allows; the message names it.
	ReasonFilesNotSupported = "FilesNotSupported"
	// ReasonNoContainers: there is no container to commit.
	ReasonNoContainers = "NoContainers"
	// ReasonRuntimeNotSupported: the Pod's runtime keeps files where a commit cannot see them.
	ReasonRuntimeNotSupported = "RuntimeNotSupported"
	// ReasonCommitPodRejected: the Kubernetes API refuses the commit Job or its Pod.
	ReasonCommitPodRejected = "CommitPodRejected"
	// ReasonHeldUp: an API does not do what the commit needs, or its Pod does not start: the message says why. Of a
	// snapshot's Ready condition while it is tried again, of Failed when that was in vain.
	ReasonHeldUp = "HeldUp"
	// ReasonCommitJobFailed: the commit Job failed; the message says how.
	ReasonCommitJobFailed = "CommitJobFailed"
	// ReasonDeadlineExceeded: the commit took longer than --commit-job-timeout.
	ReasonDeadlineExceeded = "DeadlineExceeded"
	// ReasonResultMissing: the commit Job succeeded and left no result.
	ReasonResultMissing = "ResultMissing"
	// ReasonSourceNodeLost: the source node is not ready.
	ReasonSourceNodeLost = "SourceNodeLost"
	// ReasonNodeUnderPressure: the source node lacks disk or process IDs, so its kubelet takes no Pod that could commit.
	ReasonNodeUnderPressure = "NodeUnderPressure"
	// ReasonCanceled: a resume cancelled the pause, or the snapshot was deleted.
	ReasonCanceled = "Canceled"
)

// Reasons of a Sandbox's Paused condition that no snapshot has, because there is none.
const (
	// ReasonSnapshotRejected: the API refuses the snapshot of a pause: a ResourceQuota is used
	// up, or an admission policy or webhook says no.
	ReasonSnapshotRejected = "SnapshotRejected"
	// ReasonThawedUnattended: the server was away after a commit, for longer than --thaw-after, so the
	// commit's node thawed what was frozen. The sandbox runs on and is paused again.
	ReasonThawedUnattended = "ThawedUnattended"
	// ReasonFilesLost: files were lost after the pause was asked for and before they were saved. The
	// sandbox runs on, or is Failed where its Pod is gone, until a pause or a resume is asked for.
	ReasonFilesLost = "FilesLost"
)

// Reasons of a SandboxSnapshot's warnings: what it does not hold, and what could not be guaranteed
// of it.
const (
	// ReasonMountNotKept: something that was mounted in a container is not in the snapshot, and goes
	// with the Pod.
	ReasonMountNotKept = "MountNotKept"
	// ReasonContainerNotKept: a container's files are not in the snapshot.
	ReasonContainerNotKept = "ContainerNotKept"
	// ReasonResourcesChanged: the resources of the Pod, or of a container that the snapshot does not hold, are others than
	// the template's, which the next Pod gets.
	ReasonResourcesChanged = "ResourcesChanged"
	// ReasonBaseRebuilt: the image that a container was created from was gone, and what is below its
	// files was made again from what the node still had.
	ReasonBaseRebuilt = "BaseRebuilt"
	// ReasonWarningsOmitted: there were more warnings than a snapshot holds.
	ReasonWarningsOmitted = "WarningsOmitted"
)

// Reasons of events that are not reasons of conditions as well.
const (
	// EventPodCreated: the sandbox's Pod was created.
	EventPodCreated = "PodCreated"
	// EventReconcileFailed: what comes next for a sandbox fails again and again, because an API does not
	// do what it is asked; the message has its answer.
	EventReconcileFailed = "ReconcileFailed"
	// EventTemplateNotApplied: the Pod began to run just before its template was changed; the next one follows the change.
	EventTemplateNotApplied = "TemplateNotApplied"
	// EventRescuing: what a container has left that has ended is being saved.
	EventRescuing = "Rescuing"
	// EventRescued: it is in the snapshot that the message names.
	EventRescued = "Rescued"
	// EventRescueFailed: it could not be; the message says whether that is tried again.
	EventRescueFailed = "RescueFailed"
	// EventPauseRetry: a pause failed and will be tried again.
	EventPauseRetry = "PauseFailed"
	// EventMoveRetry: a move failed to save the files and will be tried again.
	EventMoveRetry = "MoveFailed"
	// EventMoved: a container runs in the Pod that a move has led to.
	EventMoved = "Moved"
	// EventMoveEnded: a move is over without another Pod: there is nothing left to move, or nobody wants it any more.
	EventMoveEnded = "MoveEnded"
	// EventExpiring: spec.expireTime is about to come; the message says what happens then.
	EventExpiring = "Expiring"
	// EventExpired: it has passed, and the sandbox is being deleted or paused for that.
	EventExpired = "Expired"
	// EventExpiryFailed: it has passed, and the sandbox could not be deleted or paused yet.
	EventExpiryFailed = "ExpiryFailed"
	// EventResumeWouldBeRefused: a pause has begun, and the API would refuse the Pod that its resume creates.
	EventResumeWouldBeRefused = "ResumeWouldBeRefused"
	// EventKillFailed: what a commit left frozen was not killed while it was frozen; the kubelet ends it.
	EventKillFailed = "KillFailed"
	// EventCommitJobCreated: the commit Job of a snapshot was created.
	EventCommitJobCreated = "CommitJobCreated"
	// EventSandboxUnknown: a Pod belongs to a sandbox that the server's store does not know.
	EventSandboxUnknown = "SandboxUnknown"
	// EventPodNotOwned, of a sandbox: its Pod cannot be given the sandbox as its owner, the message says why.
	EventPodNotOwned = "PodNotOwned"
	// EventThawed: what a commit had frozen runs again.
	EventThawed = "Thawed"
	// EventImageLeft: an image of a deleted snapshot stays in the registry.
	EventImageLeft = "ImageLeft"
)
