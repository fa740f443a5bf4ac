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
// +genclient:method=Pause,verb=create,subresource=pause,input=SandboxPause,result=Sandbox
// +genclient:method=Resume,verb=create,subresource=resume,input=SandboxResume,result=Sandbox
// +k8s:deepcopy-gen:interfaces=k8s.io/apimachinery/pkg/runtime.Object

// Sandbox is a Pod with an identity that outlives it. Pausing a sandbox commits the root
// filesystems of its containers to OCI images in a registry and frees the Pod; resuming brings
// the Pod back from those images under the same name. Memory and processes are not kept, nor is
// what lies in emptyDir and ephemeral volumes; persistent volumes are left as they are.
type Sandbox struct {
	metav1.TypeMeta `json:",inline"`
	// Standard object metadata. The name is a DNS label of at most 63 characters, because the
	// Pod and its hostname carry it too.
	// +optional
	metav1.ObjectMeta `json:"metadata,omitempty"`

	// spec is what is wanted of the sandbox.
	// +optional
	Spec SandboxSpec `json:"spec,omitempty"`
	// status is what the server knows of the sandbox. Only the server writes it.
	// +optional
	Status SandboxStatus `json:"status,omitempty"`
}

// +k8s:deepcopy-gen:interfaces=k8s.io/apimachinery/pkg/runtime.Object

// SandboxList is a list of sandboxes.
type SandboxList struct {
	metav1.TypeMeta `json:",inline"`
	// Standard list metadata.
	// +optional
	metav1.ListMeta `json:"metadata,omitempty"`
	// items are the sandboxes.
	Items []Sandbox `json:"items"`
}

// SandboxDesiredState is what a sandbox shall be.
// +enum
type SandboxDesiredState string

const (
	// DesiredStateRunning asks for a running Pod.
	DesiredStateRunning SandboxDesiredState = "Running"
	// DesiredStatePaused asks for a snapshot and no Pod.
	DesiredStatePaused SandboxDesiredState = "Paused"
)

// SnapshotDeletionPolicy says what becomes of the images of a snapshot that is deleted.
// +enum
type SnapshotDeletionPolicy string

const (
	// DeletionPolicyDelete deletes the images from the registry.
	DeletionPolicyDelete SnapshotDeletionPolicy = "Delete"
	// DeletionPolicyRetain leaves the images in the registry.
	DeletionPolicyRetain SnapshotDeletionPolicy = "Retain"
)

// SandboxEvictionPolicy says what becomes of a sandbox's files when its Pod is to go.
type SandboxEvictionPolicy string

const (
	// EvictionPolicySave commits the files first, and brings the sandbox back from them.
	EvictionPolicySave SandboxEvictionPolicy = "Save"
	// EvictionPolicyNone lets the Pod go as any other.
	EvictionPolicyNone SandboxEvictionPolicy = "None"
)

// SandboxExitPolicy says what becomes of the files of a container that has ended.
type SandboxExitPolicy string

const (
	// ExitPolicyRescue commits them into a snapshot of their own.
	ExitPolicyRescue SandboxExitPolicy = "Rescue"
	// ExitPolicyRestore commits those of the whole Pod, and brings the sandbox back from them.
	ExitPolicyRestore SandboxExitPolicy = "Restore"
	// ExitPolicyNone leaves them to the node.
	ExitPolicyNone SandboxExitPolicy = "None"
)

// SandboxExpireAction says what happens to a sandbox at its expireTime.
type SandboxExpireAction string

const (
	// ExpireActionDelete deletes the sandbox, with its pause snapshots.
	ExpireActionDelete SandboxExpireAction = "Delete"
	// ExpireActionPause pauses the sandbox: its files are kept, its resources freed.
	ExpireActionPause SandboxExpireAction = "Pause"
)

// SandboxSpec is what is wanted of a sandbox.
type SandboxSpec struct {
	// desiredState is Running or Paused. The pause and resume subresources set it; whoever may
	// update the sandbox may set it too. Set to Running on create where it is empty; an update
	// that leaves it out keeps what is stored. A sandbox created as Paused needs restoreFrom.
	// +optional
	DesiredState SandboxDesiredState `json:"desiredState,omitempty"`

	// template is the Pod of the sandbox, at most 64 KiB. Required, unless restoreFrom brings
	// one. Once a container of it has run in the Pod of status.podName, only its labels and
	// annotations may change; until then, while the sandbox is Pending or Resuming, a change makes
	// the Pod anew. The image of a container that is committed is replaced by the image of its
	// snapshot on resume.
	// +optional
	Template *corev1.PodTemplateSpec `json:"template,omitempty"`

	// restoreFrom starts the sandbox from an existing snapshot. It may change until a container of
	// the sandbox has run; whoever changes it needs permission to get the snapshot. Immutable then.
	// +optional
	RestoreFrom *SandboxRestoreSource `json:"restoreFrom,omitempty"`

	// snapshot says what a pause commits and how long it is kept.
	// +optional
	Snapshot SnapshotPolicy `json:"snapshot,omitempty"`

	// evictionPolicy says what happens when the sandbox's Pod is to go: it is evicted (by kubectl drain, an
	// autoscaler, the descheduler), its node is drained, tainted, deleted or shut down, or somebody deletes it with
	// time to end. Save (the default) commits its files first and brings the sandbox back from them, on another
	// node if one takes it; None lets it go as any other Pod.
	// +optional
	EvictionPolicy SandboxEvictionPolicy `json:"evictionPolicy,omitempty"`

	// onExit says what becomes of the files of a container that ends or is restarted in place: what runs after that
	// begins with fresh ones, and the old ones are on the node until the kubelet removes them. Rescue commits them
	// into a snapshot of their own, which the condition DataLost names; Restore commits the whole Pod and brings
	// the sandbox back from that, each time after a longer wait; None leaves them. Empty: Rescue, where they can be
	// committed.
	// +optional
	OnExit SandboxExitPolicy `json:"onExit,omitempty"`

	// expireTime is when expireAction is taken, by the server's clock: a time in the future, to the second; a fraction
	// is rounded up. None: never. It may be set, moved and taken away in any phase, and that alone starts nothing
	// and stops nothing; only a sandbox that is being deleted takes no other. One with expireAction Pause counts
	// for what was asked before it: a sandbox that is resumed after it runs on until another time is set.
	// +optional
	ExpireTime *metav1.Time `json:"expireTime,omitempty"`

	// expireAction is what happens at expireTime. Delete (the default where there is an expireTime) deletes the sandbox, with
	// its pause snapshots, whether it runs or is paused. Pause pauses it, which keeps its files and frees its
	// resources; one that is paused already stays as it is.
	// +optional
	ExpireAction SandboxExpireAction `json:"expireAction,omitempty"`
}

// SandboxRestoreSource names what a new sandbox starts from.
type SandboxRestoreSource struct {
	// snapshotName is a SandboxSnapshot of this namespace that has succeeded. The caller that
	// names it needs permission to get it.
	SnapshotName string `json:"snapshotName"`
}

// SnapshotPolicy says what a pause commits and how long it is kept.
type SnapshotPolicy struct {
	// containers are the names of the containers whose root filesystem is committed. Empty: all
	// of template.spec.containers, and of its init containers those with restartPolicy Always
	// (native sidecars). Other init containers run to their end and are never committed. At most
	// 256 names.
	// +optional
	// +listType=set
	Containers []string `json:"containers,omitempty"`

	// historyLimit is how many successful pause snapshots are kept: at least 1, default 3.
	// +optional
	HistoryLimit *int32 `json:"historyLimit,omitempty"`

	// deletionPolicy says what becomes of the images in the registry when a pause snapshot is
	// deleted: Delete (the default) or Retain.
	// +optional
	DeletionPolicy SnapshotDeletionPolicy `json:"deletionPolicy,omitempty"`
}

// SandboxPhase sums up a sandbox in one word for people; the conditions are the contract.
// +enum
type SandboxPhase string

const (
	// SandboxPending: accepted, no container of its Pod has run yet.
	SandboxPending SandboxPhase = "Pending"
	// SandboxRunning: a container of its Pod has run.
	SandboxRunning SandboxPhase = "Running"
	// SandboxPausing: a commit is under way, or is being cancelled, or the Pod is on its way out.
	SandboxPausing SandboxPhase = "Pausing"
	// SandboxPaused: the snapshot is ready and the Pod is gone.
	SandboxPaused SandboxPhase = "Paused"
	// SandboxResuming: the Pod is coming back, and no container of it has run yet.
	SandboxResuming SandboxPhase = "Resuming"
	// SandboxFailed: cannot go on by itself; reason and message of the conditions say why.
	SandboxFailed SandboxPhase = "Failed"
)

// SandboxStatus is what the server knows of a sandbox.
type SandboxStatus struct {
	// phase sums up the sandbox in one word for people; the conditions are the contract.
	// +optional
	Phase SandboxPhase `json:"phase,omitempty"`

	// phaseTransitionTime is when the phase became what it is. The server sets it with every change of the phase,
	// whoever writes that.
	// +optional
	PhaseTransitionTime *metav1.Time `json:"phaseTransitionTime,omitempty"`

	// conditions are Ready, Paused and, once files were lost, DataLost.
	// +optional
	// +listType=map
	// +listMapKey=type
	// +patchStrategy=merge
	// +patchMergeKey=type
	Conditions []metav1.Condition `json:"conditions,omitempty" patchStrategy:"merge" patchMergeKey:"type"`

	// observedGeneration is the generation of the spec that the controller saw last.
	// +optional
	ObservedGeneration int64 `json:"observedGeneration,omitempty"`

	// podName is the name of the sandbox's Pod, written before the Pod is created and cleared
	// when it is gone. While it is set the template is locked, unless the sandbox is still Pending
	// or Resuming: it leaves these phases when a container of its template has run.
	// +optional
	PodName string `json:"podName,omitempty"`

	// podUID is the UID of the sandbox's Pod.
	// +optional
	PodUID types.UID `json:"podUID,omitempty"`

	// podIP is the address of the sandbox's Pod.
	// +optional
	PodIP string `json:"podIP,omitempty"`

	// nodeName is the node of the sandbox's Pod; while the sandbox is paused, the node that it
	// was paused on, which the next resume prefers.
	// +optional
	NodeName string `json:"nodeName,omitempty"`

	// snapshotName is the SandboxSnapshot that the next resume uses. Set by a successful pause,
	// by restoreFrom and by a rollback, and by nothing else.
	// +optional
	SnapshotName string `json:"snapshotName,omitempty"`

	// priorSnapshotName is what snapshotName was before a resume chose another source. It is so
	// again where that resume is taken back before a container has run, and cleared once one has.
	// +optional
	PriorSnapshotName string `json:"priorSnapshotName,omitempty"`

	// snapshotAttempts counts the sandbox's pause attempts. The snapshot of attempt N is named
	// <sandbox>-gen<N>; while the phase is Pausing, the attempt under way is the last one.
	// +optional
	SnapshotAttempts int64 `json:"snapshotAttempts,omitempty"`

	// failedAttempts counts the pause attempts that failed since the last one that succeeded or
	// was cancelled. The wait before the next one doubles with it, from 10 seconds to 5 minutes.
	// +optional
	FailedAttempts int32 `json:"failedAttempts,omitempty"`

	// failedPods counts the Pods in a row that were not taken by the API or by a node, or did not last
	// for ten minutes. The wait before the next one doubles with it, from 10 seconds to 5 minutes.
	// +optional
	FailedPods int32 `json:"failedPods,omitempty"`

	// retryTime is when the next Pod may be created at the earliest; while the Pod runs and a pause
	// of it has failed, when the next attempt may begin. Another pause or resume, and an edit of the
	// spec but of its lifetime, end the wait.
	// +optional
	RetryTime *metav1.MicroTime `json:"retryTime,omitempty"`

	// lastRequestTime is when a pause or resume, or an update of desiredState, last asked for work, to
	// the microsecond.
	// +optional
	LastRequestTime *metav1.MicroTime `json:"lastRequestTime,omitempty"`

	// move says that the sandbox's Pod is to be saved and brought back elsewhere, though desiredState is Running. It
	// stays until a container of the next Pod has run, or there is nothing left to move.
	// +optional
	Move *SandboxMove `json:"move,omitempty"`
}

// SandboxMove is why and since when a sandbox's Pod is to be saved and brought back.
type SandboxMove struct {
	// podUID is the UID of the Pod that is to be saved.
	PodUID types.UID `json:"podUID"`

	// nodeName is the node of that Pod, which the next one avoids where it can.
	// +optional
	NodeName string `json:"nodeName,omitempty"`

	// reason is why, in one CamelCase word: Evicted, NodeDraining, NodeTainted, NodeDeleted, NodeShutdown,
	// PodTerminating or ContainerEnded.
	Reason string `json:"reason"`

	// message is a sentence for a person, of at most 1,024 bytes.
	// +optional
	Message string `json:"message,omitempty"`

	// requestTime is since when.
	RequestTime metav1.MicroTime `json:"requestTime"`
}

// +k8s:deepcopy-gen:interfaces=k8s.io/apimachinery/pkg/runtime.Object

// SandboxPause is the body of a POST to sandboxes/pause. It may be left empty.
//
// With dryRun=All the server also looks for what the pause would fail for once it is accepted:
// the registry, the push secret, the Pod, its node, runtime and containers, and quotas and
// policies of the snapshot. It answers 409 (Conflict) with everything it finds as causes, whose
// reasons are those that the Paused condition would have.
type SandboxPause struct {
	metav1.TypeMeta `json:",inline"`
	// Standard object metadata. A name or namespace must be that of the path; uid and
	// resourceVersion are preconditions.
	// +optional
	metav1.ObjectMeta `json:"metadata,omitempty"`
}

// +k8s:deepcopy-gen:interfaces=k8s.io/apimachinery/pkg/runtime.Object

// SandboxResume is the body of a POST to sandboxes/resume. It may be left empty: the sandbox
// then comes back from status.snapshotName.
type SandboxResume struct {
	metav1.TypeMeta `json:",inline"`
	// Standard object metadata. A name or namespace must be that of the path; uid and
	// resourceVersion are preconditions.
	// +optional
	metav1.ObjectMeta `json:"metadata,omitempty"`

	// snapshotName resumes from an older pause snapshot of this sandbox instead: a rollback. The
	// caller needs the verb rollback on the sandbox, and permission to get the snapshot.
	// +optional
	SnapshotName string `json:"snapshotName,omitempty"`

	// fromTemplate resumes from the template's own images, giving up what was saved. The caller
	// needs the verb rollback on the sandbox.
	// +optional
	FromTemplate bool `json:"fromTemplate,omitempty"`
}
