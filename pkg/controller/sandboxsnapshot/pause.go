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

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"

	"github.com/opensandbox-io/sandbox-apiserver/apis/lifecycle/v1alpha1"
	"github.com/opensandbox-io/sandbox-apiserver/pkg/controller/naming"
)

// PauseOf is the attempt of a pause that a snapshot is, nil where it is none: its spec.pause, which the server
// alone sets and nobody changes.
//
// A server from before that field made snapshots without it, and one that still runs beside this one, in an
// upgrade, drops it from what it writes. Those are known by their name, which only the server may give
// (<sandbox>-gen<N>), and by what only the server writes: the status. A commit records there whose it is
// and of which Pod before anything is frozen. What has not come to that has frozen nothing: whose such a one
// is its owner reference or its label says, and which Pod it means nobody knows.
func PauseOf(snapshot *v1alpha1.SandboxSnapshot) *v1alpha1.SnapshotPause {
	if snapshot.Spec.Pause != nil {
		return snapshot.Spec.Pause
	}
	attempt := naming.Attempt(snapshot.Name)
	if snapshot.Spec.Source != nil || attempt < 1 || snapshot.Name != naming.PauseSnapshot(snapshot.Spec.SandboxName, attempt) {
		return nil
	}
	owner := types.UID("")
	if reference := metav1.GetControllerOf(snapshot); reference != nil && reference.Kind == "Sandbox" && reference.APIVersion == v1alpha1.SchemeGroupVersion.String() {
		owner = reference.UID
	}
	return &v1alpha1.SnapshotPause{
		SandboxUID: cmp.Or(snapshot.Status.SandboxUID, owner, types.UID(snapshot.Labels[v1alpha1.LabelSandboxUID])),
		PodUID:     snapshot.Status.SourcePodUID,
		Attempt:    attempt,
	}
}

// IsAttemptOf says whether the snapshot is the attempt to pause the sandbox that its status tells of.
func IsAttemptOf(snapshot *v1alpha1.SandboxSnapshot, sandbox *v1alpha1.Sandbox) bool {
	pause := PauseOf(snapshot)
	return pause != nil && pause.SandboxUID == sandbox.UID && pause.Attempt == sandbox.Status.SnapshotAttempts &&
		snapshot.Spec.SandboxName == sandbox.Name
}
