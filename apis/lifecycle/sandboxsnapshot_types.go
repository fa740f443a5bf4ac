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

package lifecycle

import (
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
)

// +k8s:deepcopy-gen:interfaces=k8s.io/apimachinery/pkg/runtime.Object

// SandboxSnapshot is the root filesystem of a sandbox's containers, committed to OCI images in
// a registry. A pause makes one, owned by the sandbox; one that a user creates commits without
// stopping the sandbox, and outlives it.
type SandboxSnapshot struct {
	metav1.TypeMeta
	// Standard object metadata. Names that end in -gen<digits> or -rescue<digits> are kept
	// for the server.
	metav1.ObjectMeta

	// spec is what to commit. Immutable.
	Spec SandboxSnapshotSpec
	// status is what the server knows of the snapshot. Only the server writes it.
	Status SandboxSnapshotStatus
}

// +k8s:deepcopy-gen:interfaces=k8s.io/apimachinery/pkg/runtime.Object

// SandboxSnapshotList is a list of snapshots.
type SandboxSnapshotList struct {
	metav1.TypeMeta
	// Standard list metadata.
	metav1.ListMeta
	// items are the snapshots.
	Items []SandboxSnapshot
}

// SandboxSnapshotSpec is what to commit. Immutable.
type SandboxSnapshotSpec struct {
	// sandboxName is the sandbox of this namespace to commit. Required, unless source is set. The
	// caller that creates the snapshot needs permission to get the sandbox.
	SandboxName string

	// source is what the snapshot is made of instead of a sandbox of this namespace: nothing is
	// committed then. It brings a sandbox from another namespace or another cluster.
	Source *SnapshotSource

	// containers are the names of the containers to commit. Empty: those that the sandbox's
	// spec.snapshot.containers names, else all of them. At most 256 names.
	Containers []string

	// deletionPolicy says what becomes of the images in the registry when the snapshot is
	// deleted: Delete (the default) or Retain. Of a snapshot with a source it is always Retain: images that
	// it did not make are never deleted.
	DeletionPolicy SnapshotDeletionPolicy

	// pause is the attempt of a pause that the snapshot is. Set by the server alone, when it creates one.
	Pause *SnapshotPause

	// rescue is what a container that has ended left, where the snapshot is made of that. Set by the server alone,
	// when it saves such files.
	Rescue *SnapshotRescue
}

// SnapshotPause is what a pause's attempt is of.
type SnapshotPause struct {
	// sandboxUID is the UID of the sandbox that is being paused.
	SandboxUID types.UID

	// podUID is the UID of the Pod that is committed.
	PodUID types.UID

	// attempt is the number of the attempt among those of the sandbox, from 1.
	Attempt int64
}

// SnapshotRescue is what a snapshot is made of that saves the files of containers which have ended.
type SnapshotRescue struct {
	// sandboxUID is the UID of the sandbox.
	SandboxUID types.UID

	// podUID is the UID of the Pod that the containers are of. It may have gone.
	PodUID types.UID

	// containers are those whose files are saved, each by the ID that it had. At least one, at most 256.
	Containers []RescuedContainer
}

// RescuedContainer is a container that has ended, as the runtime knows it.
type RescuedContainer struct {
	// containerName is the container's name in the Pod.
	ContainerName string

	// containerID is the runtime's ID of the container that has ended, without a scheme. The one that runs in its
	// place has another.
	ContainerID string
}

// SnapshotSource is what a snapshot is made of where that is no sandbox of its namespace.
type SnapshotSource struct {
	// images are existing images, one for each container that is to start from one. At most 256.
	Images []SnapshotSourceImage
}

// SnapshotSourceImage is the image of one container.
type SnapshotSourceImage struct {
	// containerName is the container, as the template of a sandbox names it that starts from the
	// snapshot.
	ContainerName string

	// image is the image by its digest, for example
	// registry.example.com/team/demo-main@sha256:9f86d0…: repository and digest as status.containers of a
	// snapshot has them. Whoever runs the Pod needs to be able to pull it; the server neither
	// reads nor deletes it.
	Image string
}

// SandboxSnapshotPhase sums up a snapshot in one word.
type SandboxSnapshotPhase string

const (
	// SnapshotPending: accepted; its commit has not started.
	SnapshotPending SandboxSnapshotPhase = "Pending"
	// SnapshotCommitting: its commit Job exists.
	SnapshotCommitting SandboxSnapshotPhase = "Committing"
	// SnapshotSucceed: every container has an image with a digest in the registry. Final.
	SnapshotSucceed SandboxSnapshotPhase = "Succeed"
	// SnapshotFailed: the attempt ended without; the Failed condition says why. Final.
	SnapshotFailed SandboxSnapshotPhase = "Failed"
)

// SandboxSnapshotStatus is what the server knows of a snapshot.
type SandboxSnapshotStatus struct {
	// phase sums up the snapshot in one word. Succeed and Failed are final.
	Phase SandboxSnapshotPhase

	// conditions are Ready, Failed and ImageAvailable.
	Conditions []metav1.Condition

	// observedGeneration is the generation of the spec that the controller saw last.
	ObservedGeneration int64

	// sandboxUID is the UID of the sandbox that was committed.
	SandboxUID types.UID

	// sourcePodName is the Pod that was committed.
	SourcePodName string

	// sourcePodUID is the UID of that Pod.
	SourcePodUID types.UID

	// sourceNodeName is the node of that Pod, where the commit Job runs.
	SourceNodeName string

	// jobUID is the UID of the commit Job. A result counts only from the Pod of this Job.
	JobUID types.UID

	// containers are the containers that are committed, with their images once they are pushed.
	Containers []ContainerSnapshot

	// template is the sandbox's template at the time of the commit.
	Template *corev1.PodTemplateSpec

	// startTime is when the commit Job was created.
	StartTime *metav1.Time

	// completionTime is when the phase became final.
	CompletionTime *metav1.Time

	// frozenDuration is how long the commit kept the containers frozen: for a pause, until the
	// last byte was pushed (they stay frozen until the Pod is removed).
	FrozenDuration *metav1.Duration

	// warnings are what this snapshot does not hold, and what could not be guaranteed of it. At most
	// 32; where there were more, the last one says how many were left out.
	Warnings []SnapshotWarning
}

// SnapshotWarning is something that a snapshot does not hold, or that could not be guaranteed of it.
type SnapshotWarning struct {
	// reason is the kind of the warning, in one CamelCase word.
	Reason string

	// containerName is the container that it is about; empty where it is about the whole Pod.
	ContainerName string

	// path is the file or directory in that container, of at most 1,024 bytes; a longer one is cut
	// and ends with an ellipsis.
	Path string

	// message is a sentence for a person, of at most 1,024 bytes.
	Message string
}

// ContainerSnapshot is one container's share of a snapshot.
type ContainerSnapshot struct {
	// containerName is the container's name in the Pod.
	ContainerName string

	// containerID is the runtime's ID of the container that is committed, without a scheme.
	ContainerID string

	// imageUri is the image's repository and tag. Resume never uses the tag.
	ImageURI string

	// imageDigest is the digest of the image's manifest, for example sha256:9f86d0….
	ImageDigest string

	// layerBytes is the compressed size in bytes of what this snapshot added to the image: one layer,
	// or the sum of two where most of the files were read before the freeze.
	LayerBytes int64

	// layers is how many layers of this project lie above the layers of the base image: at most
	// eight, for older ones are merged. Where an image's layers could not be merged, the
	// commit's log says why.
	Layers int32

	// differ is what found the container's changes. Overlay reads the container's own layer and
	// keeps everything. Containerd, for snapshotters without one, compares the container's files
	// with its image's: that takes as long as the image is large, keeps times to the second only,
	// and of extended attributes only capabilities.
	Differ SnapshotDiffer

	// resources are those limits and requests of the container that were others than its template's,
	// because it was resized in place. A resume of the same sandbox gives them to the container
	// again, unless its resources in the template have been changed since.
	Resources *corev1.ResourceRequirements
}

// SnapshotDiffer is what finds the changes of a container.
type SnapshotDiffer string

const (
	// DifferOverlay reads the upper directory of the container's overlay mount.
	DifferOverlay SnapshotDiffer = "Overlay"
	// DifferContainerd is containerd's own comparison.
	DifferContainerd SnapshotDiffer = "Containerd"
)
