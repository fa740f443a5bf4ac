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

// reasons are all that a condition of this API can have.
var reasons = map[string]bool{
	ReasonPodReady:              true,
	ReasonPodNotReady:           true,
	ReasonPodPending:            true,
	ReasonPodUnschedulable:      true,
	ReasonPodTerminating:        true,
	ReasonTerminating:           true,
	ReasonPodRejected:           true,
	ReasonPodNotCreated:         true,
	ReasonPodNotAdmitted:        true,
	ReasonPodNameConflict:       true,
	ReasonContainersEnded:       true,
	ReasonImagePullFailed:       true,
	ReasonImageUnavailable:      true,
	ReasonSnapshotNotFound:      true,
	ReasonSnapshotNotReady:      true,
	ReasonNoSnapshot:            true,
	ReasonPending:               true,
	ReasonRunning:               true,
	ReasonPausing:               true,
	ReasonQueued:                true,
	ReasonCanceling:             true,
	ReasonRemovingPod:           true,
	ReasonPaused:                true,
	ReasonResuming:              true,
	ReasonWithdrawing:           true,
	ReasonNeverRan:              true,
	ReasonMoving:                true,
	ReasonEvicted:               true,
	ReasonNodeDraining:          true,
	ReasonNodeTainted:           true,
	ReasonNodeDeleted:           true,
	ReasonNodeShutdown:          true,
	ReasonContainerEnded:        true,
	ReasonTemplateChanged:       true,
	ReasonPodLost:               true,
	ReasonFilesystemReset:       true,
	ReasonFilesSaved:            true,
	ReasonPodAdopted:            true,
	ReasonCommitting:            true,
	ReasonCopying:               true,
	ReasonHeldUp:                true,
	ReasonThawing:               true,
	ReasonThawedUnattended:      true,
	ReasonSucceeded:             true,
	ReasonInUse:                 true,
	ReasonImageDeletionFailed:   true,
	ReasonImageAvailable:        true,
	ReasonImageNotChecked:       true,
	ReasonImageIncomplete:       true,
	ReasonImageCheckFailed:      true,
	ReasonRegistryNotConfigured: true,
	ReasonRegistryUnavailable:   true,
	ReasonRegistryDenied:        true,
	ReasonImageNameInvalid:      true,
	ReasonPushSecretNotFound:    true,
	ReasonPushSecretInvalid:     true,
	ReasonSandboxNotFound:       true,
	ReasonSourcePodNotFound:     true,
	ReasonSourcePodReplaced:     true,
	ReasonContainerNotFound:     true,
	ReasonContainerRestarted:    true,
	ReasonFreezeFailed:          true,
	ReasonFrozenTooLong:         true,
	ReasonFilesNotSupported:     true,
	ReasonNoContainers:          true,
	ReasonRuntimeNotSupported:   true,
	ReasonCommitPodRejected:     true,
	ReasonCommitJobFailed:       true,
	ReasonDeadlineExceeded:      true,
	ReasonResultMissing:         true,
	ReasonSourceNodeLost:        true,
	ReasonNodeUnderPressure:     true,
	ReasonCanceled:              true,
	ReasonSnapshotRejected:      true,
	ReasonFilesLost:             true,
	ReasonMountNotKept:          true,
	ReasonContainerNotKept:      true,
	ReasonResourcesChanged:      true,
	ReasonBaseRebuilt:           true,
	ReasonWarningsOmitted:       true,
}

// IsReason says whether a reason is one of this API's. Whoever may write a status may write others there.
func IsReason(reason string) bool { return reasons[reason] }
