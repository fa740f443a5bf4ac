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

import (
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
)

// +genclient
// +k8s:deepcopy-gen:interfaces=k8s.io/apimachinery/pkg/runtime.Object

// SandboxSnapshot is the root filesystem of a sandbox's containers, committed to OCI images in
// a registry. A pause makes one, with spec.pause; one that a user creates commits without
// stopping the sandbox, and outlives it.
type SandboxSnapshot struct {
	metav1.TypeMeta `json:",inline"`
	// Standard object metadata. Names that end in -gen<digits> or -rescue<digits> are kept
	// for the server.
	// +optional
	metav1.ObjectMeta `json:"metadata,omitempty"`

	// spec is what to commit. Immutable.
	Spec SandboxSnapshotSpec `json:"spec"`
	// status is what the server knows of the snapshot. Only the server writes it.
	// +optional
	Status SandboxSnapshotStatus `json:"status,omitempty"`
}

// +k8s:deepcopy-gen:interfaces=k8s.io/apimachinery/pkg/runtime.Object

// SandboxSnapshotList is a list of snapshots.
type SandboxSnapshotList struct {
	metav1.TypeMeta `json:",inline"`
	// Standard list metadata.
	// +optional
	metav1.ListMeta `json:"metadata,omitempty"`
	// items are the snapshots.
	Items []SandboxSnapshot `json:"items"`
}

// SandboxSnapshotSpec is what to commit. Immutable.
type SandboxSnapshotSpec struct {
	// sandboxName is the sandbox of this namespace to commit. Required, unless source is set. The
	// caller that creates the snapshot needs permission to get the sandbox.
	// +optional
	SandboxName string `json:"sandboxName,omitempty"`

	// source is what the snapshot is made of instead of a sandbox of this namespace: nothing is
	// committed then. It brings a sandbox from another namespace or another cluster.
	// +optional
	Source *SnapshotSource `json:"source,omitempty"`

	// containers are the names of the containers to commit. Empty: those that the sandbox's
	// spec.snapshot.containers names, else all of them. At most 256 names.
	// +optional
	// +listType=set
	Containers []string `json:"containers,omitempty"`

	// deletionPolicy says what becomes of the images in the registry when the snapshot is
	// deleted: Delete (the default) or Retain. Of a snapshot with a source it is always Retain: images that
	// it did not make are never deleted.
	// +optional
	DeletionPolicy SnapshotDeletionPolicy `json:"deletionPolicy,omitempty"`

	// pause is the attempt of a pause that the snapshot is. The server sets it when it pauses a sandbox,
	// and nobody else may: a snapshot that has it leaves the Pod frozen, for it to be removed. Owner
	// references say nothing of that, whoever sets them; they are for garbage collection.
	// +optional
	Pause *SnapshotPause `json:"pause,omitempty"`

	// rescue is what a container that has ended left, where the snapshot is made of that. The server sets it when
	// it saves such files, and nobody else may.
	// +optional
	Rescue *SnapshotRescue `json:"rescue,omitempty"`
}

// SnapshotPause is what a pause's attempt is of.
type SnapshotPause struct {
	// sandboxUID is the UID of the sandbox that is being paused.
	SandboxUID types.UID `json:"sandboxUID"`

	// podUID is the UID of the Pod that is committed.
	PodUID types.UID `json:"podUID"`

	// attempt is the number of the attempt among those of the sandbox, from 1.
	Attempt int64 `json:"attempt"`
}

// SnapshotRescue is what a snapshot is made of that saves the files of containers which have ended.
type SnapshotRescue struct {
	// sandboxUID is the UID of the sandbox.
	SandboxUID types.UID `json:"sandboxUID"`

	// podUID is the UID of the Pod that the containers are of. It may have gone.
	PodUID types.UID `json:"podUID"`

	// containers are those whose files are saved, each by the ID that it had. At least one, at most 256.
	// +listType=map
	// +listMapKey=containerName
	Containers []RescuedContainer `json:"containers"`
}

// RescuedContainer is a container that has ended, as the runtime knows it.
type RescuedContainer struct {
	// containerName is the container's name in the Pod.
	ContainerName string `json:"containerName"`

	// containerID is the runtime's ID of the container that has ended, without a scheme. The one that runs in its
	// place has another.
	ContainerID string `json:"containerID"`
}

// SnapshotSource is what a snapshot is made of where that is no sandbox of its namespace.
type SnapshotSource struct {
	// images are existing images, one for each container that is to start from one. At most 256.
	// +listType=map
	// +listMapKey=containerName
	Images []SnapshotSourceImage `json:"images"`
}

// SnapshotSourceImage is the image of one container.
type SnapshotSourceImage struct {
	// containerName is the container, as the template of a sandbox names it that starts from the
	// snapshot.
	ContainerName string `json:"containerName"`

	// image is the image by its digest, for example
	// registry.example.com/team/demo-main@sha256:9f86d0…: repository and digest as status.containers of a
	// snapshot has them. Whoever runs the Pod needs to be able to pull it; the server neither
	// reads nor deletes it.
	Image string `json:"image"`
}

// SandboxSnapshotPhase sums up a snapshot in one word.
// +enum
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
	// +optional
	Phase SandboxSnapshotPhase `json:"phase,omitempty"`

	// conditions are Ready, Failed and ImageAvailable.
	// +optional
	// +listType=map
	// +listMapKey=type
	// +patchStrategy=merge
	// +patchMergeKey=type
	Conditions []metav1.Condition `json:"conditions,omitempty" patchStrategy:"merge" patchMergeKey:"type"`

	// observedGeneration is the generation of the spec that the controller saw last.
	// +optional
	ObservedGeneration int64 `json:"observedGeneration,omitempty"`

	// sandboxUID is the UID of the sandbox that was committed.
	// +optional
	SandboxUID types.UID `json:"sandboxUID,omitempty"`

	// sourcePodName is the Pod that was committed.
	// +optional
	SourcePodName string `json:"sourcePodName,omitempty"`

	// sourcePodUID is the UID of that Pod.
	// +optional
	SourcePodUID types.UID `json:"sourcePodUID,omitempty"`

	// sourceNodeName is the node of that Pod, where the commit Job runs.
	// +optional
	SourceNodeName string `json:"sourceNodeName,omitempty"`

	// jobUID is the UID of the commit Job. A result counts only from the Pod of this Job.
	// +optional
	JobUID types.UID `json:"jobUID,omitempty"`

	// containers are the containers that are committed, with their images once they are pushed.
	// +optional
	// +listType=map
	// +listMapKey=containerName
	Containers []ContainerSnapshot `json:"containers,omitempty"`

	// template is the sandbox's template at the time of the commit.
	// +optional
	Template *corev1.PodTemplateSpec `json:"template,omitempty"`

	// startTime is when the commit Job was created.
	// +optional
	StartTime *metav1.Time `json:"startTime,omitempty"`

	// completionTime is when the phase became final.
	// +optional
	CompletionTime *metav1.Time `json:"completionTime,omitempty"`

	// frozenDuration is how long the commit kept the containers frozen: for a pause, until the
	// last byte was pushed (they stay frozen until the Pod is removed).
	// +optional
	FrozenDuration *metav1.Duration `json:"frozenDuration,omitempty"`

	// warnings are what this snapshot does not hold, and what could not be guaranteed of it. At most
	// 32; where there were more, the last one says how many were left out.
	// +optional
	// +listType=atomic
	Warnings []SnapshotWarning `json:"warnings,omitempty"`
}

// SnapshotWarning is something that a snapshot does not hold, or that could not be guaranteed of it.
type SnapshotWarning struct {
	// reason is the kind of the warning, in one CamelCase word.
	Reason string `json:"reason"`

	// containerName is the container that it is about; empty where it is about the whole Pod.
	// +optional
	ContainerName string `json:"containerName,omitempty"`

	// path is the file or directory in that container, of at most 1,024 bytes; a longer one is cut
	// and ends with an ellipsis.
	// +optional
	Path string `json:"path,omitempty"`

	// message is a sentence for a person, of at most 1,024 bytes.
	// +optional
	Message string `json:"message,omitempty"`
}

// ContainerSnapshot is one container's share of a snapshot.
type ContainerSnapshot struct {
	// containerName is the container's name in the Pod.
	ContainerName string `json:"containerName"`

	// containerID is the runtime's ID of the container that is committed, without a scheme.
	// +optional
	ContainerID string `json:"containerID,omitempty"`

	// imageUri is the image's repository and tag. Resume never uses the tag.
	// +optional
	ImageURI string `json:"imageUri,omitempty"`

	// imageDigest is the digest of the image's manifest, for example sha256:9f86d0….
	// +optional
	ImageDigest string `json:"imageDigest,omitempty"`

	// layerBytes is the compressed size in bytes of what this snapshot added to the image: one layer,
	// or the sum of two where most of the files were read before the freeze.
	// +optional
	LayerBytes int64 `json:"layerBytes,omitempty"`

	// layers is how many layers of this project lie above the layers of the base image: at most
	// eight, for older ones are merged. Where an image's layers could not be merged, the
	// commit's log says why.
	// +optional
	Layers int32 `json:"layers,omitempty"`

	// differ is what found the container's changes. Overlay reads the container's own layer and
	// keeps everything. Containerd, for snapshotters without one, compares the container's files
	// with its image's: that takes as long as the image is large, keeps times to the second only,
	// and of extended attributes only capabilities.
	// +optional
	Differ SnapshotDiffer `json:"differ,omitempty"`

	// resources are those limits and requests of the container that were others than its template's,
	// because it was resized in place. A resume of the same sandbox gives them to the container
	// again, unless its resources in the template have been changed since.
	// +optional
	Resources *corev1.ResourceRequirements `json:"resources,omitempty"`
}

// SnapshotDiffer is what finds the changes of a container.
// +enum
type SnapshotDiffer string

const (
	// DifferOverlay reads the upper directory of the container's overlay mount.
	DifferOverlay SnapshotDiffer = "Overlay"
	// DifferContainerd is containerd's own comparison.
	DifferContainerd SnapshotDiffer = "Containerd"
)
