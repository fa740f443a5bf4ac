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

// Labels and annotations on the Pods and Jobs that serve sandboxes.
const (
	// LabelPrefix begins every label and annotation of this project.
	LabelPrefix = GroupName + "/"

	// LabelSandbox is the name of the sandbox that a Pod or Job serves.
	LabelSandbox = LabelPrefix + "sandbox"
	// LabelSandboxUID is the UID of the sandbox that a Pod or Job serves. A Pod belongs to a
	// sandbox by this label alone: it carries no owner reference, so that the loss of the
	// server's store can never delete a Pod.
	LabelSandboxUID = LabelPrefix + "sandbox-uid"
	// LabelSnapshot is the name of the snapshot that a Job makes.
	LabelSnapshot = LabelPrefix + "snapshot"
	// LabelSnapshotUID is the UID of the snapshot that a Job makes; Jobs are found by it.
	LabelSnapshotUID = LabelPrefix + "snapshot-uid"
	// LabelPodUID is the UID of the Pod that a Job commits or thaws.
	LabelPodUID = LabelPrefix + "pod-uid"
	// LabelComponent tells Jobs apart: "commit", "unpause", "uncache".
	LabelComponent = LabelPrefix + "component"

	// AnnotationNamespace is the namespace of the sandbox that a Job serves: Jobs live in the
	// controller's own namespace.
	AnnotationNamespace = LabelPrefix + "namespace"
	// AnnotationSnapshot is the name of the snapshot that a Job makes: a label may hold less.
	AnnotationSnapshot = LabelPrefix + "snapshot-name"
	// AnnotationSource is the JSON form of what a commit Job commits, and an unpause Job thaws.
	AnnotationSource = LabelPrefix + "source"
	// AnnotationMovedFrom is the node that a Pod's sandbox was moved from: an eviction by name may mean the Pod there.
	AnnotationMovedFrom = LabelPrefix + "moved-from"
	// AnnotationRestoredFrom is the name of the snapshot that a Pod was made from.
	AnnotationRestoredFrom = LabelPrefix + "restored-from"
	// AnnotationTemplate is a hash of the template that a Pod was made of.
	AnnotationTemplate = LabelPrefix + "template-hash"
	// AnnotationContainers are the names of the template's containers that a Pod was made of, with commas between them:
	// others were put into the Pod by something else.
	AnnotationContainers = LabelPrefix + "containers"
	// AnnotationDisplayName is what people call a snapshot that was made over OpenSandbox's HTTP API. Its own name is its id.
	AnnotationDisplayName = LabelPrefix + "display-name"
	// AnnotationSecureAccess, on a Sandbox: "true" where its caller has asked over HTTP that a token be in the headers of its endpoints.
	AnnotationSecureAccess = LabelPrefix + "secure-access"

	// SandboxFinalizer keeps a sandbox until its Pod is gone and its commits have ended. Its snapshots go by themselves.
	SandboxFinalizer = LabelPrefix + "sandbox"
	// SnapshotFinalizer keeps a snapshot until its Jobs are gone and nothing that they froze is frozen.
	SnapshotFinalizer = LabelPrefix + "snapshot"
)
