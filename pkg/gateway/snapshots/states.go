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

package snapshots

import (
	"fmt"
	"strings"

	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/opensandbox-io/sandbox-apiserver/apis/lifecycle/v1alpha1"
	"github.com/opensandbox-io/sandbox-apiserver/pkg/gateway/httpapi"
)

// shown is a snapshot as the HTTP API has it.
func shown(snapshot *v1alpha1.SandboxSnapshot) httpapi.Snapshot {
	answer := httpapi.Snapshot{
		ID:        snapshot.Name,
		SandboxId: snapshot.Spec.SandboxName,
		Status:    statusOf(snapshot),
		CreatedAt: snapshot.CreationTimestamp.UTC(),
	}
	if name := snapshot.Annotations[v1alpha1.AnnotationDisplayName]; name != "" {
		answer.Name = httpapi.NewOptString(name)
	}
	return answer
}

// statusOf says in which of the API's states a snapshot is, with our reason for it, and since when.
func statusOf(snapshot *v1alpha1.SandboxSnapshot) httpapi.SnapshotStatus {
	ready := meta.FindStatusCondition(snapshot.Status.Conditions, v1alpha1.ConditionReady)
	switch {
	case snapshot.DeletionTimestamp != nil:
		deleting := &metav1.Condition{Reason: v1alpha1.ReasonTerminating, Message: "the snapshot is being deleted, and its images with it unless they are to be kept"}
		if ready != nil && saysOfDeletion[ready.Reason] {
			deleting = ready
		}
		return status(httpapi.SnapshotStateDeleting, deleting, *snapshot.DeletionTimestamp)
	case snapshot.Status.Phase == v1alpha1.SnapshotFailed:
		failed := meta.FindStatusCondition(snapshot.Status.Conditions, v1alpha1.ConditionFailed)
		return status(httpapi.SnapshotStateFailed, failed, ended(snapshot, failed))
	case snapshot.Status.Phase == v1alpha1.SnapshotSucceed:
		says := ready
		if images := meta.FindStatusCondition(snapshot.Status.Conditions, v1alpha1.ConditionImageAvailable); images != nil && images.Status == metav1.ConditionFalse {
			// It is the snapshot that it was, and starts nothing until the registry has its images again.
			says = images
		}
		answer := status(httpapi.SnapshotStateReady, says, ended(snapshot, ready))
		if without := warnings(snapshot); without != "" {
			answer.Message = httpapi.NewOptString(strings.TrimPrefix(answer.Message.Value+"; ", "; ") + without)
		}
		return answer
	}
	// It has been Creating from the first moment, whatever its commit waits for now.
	return status(httpapi.SnapshotStateCreating, ready, snapshot.CreationTimestamp)
}

// saysOfDeletion are the reasons of Ready that tell what a deletion waits for.
var saysOfDeletion = map[string]bool{
	v1alpha1.ReasonInUse:               true,
	v1alpha1.ReasonImageDeletionFailed: true,
	v1alpha1.ReasonThawing:             true,
}

// status puts a state and what a condition says of it together.
func status(state httpapi.SnapshotState, says *metav1.Condition, since metav1.Time) httpapi.SnapshotStatus {
	answer := httpapi.SnapshotStatus{State: state}
	if says != nil {
		answer.Reason = httpapi.NewOptString(says.Reason)
		if says.Message != "" {
			answer.Message = httpapi.NewOptString(says.Message)
		}
	}
	if !since.IsZero() {
		answer.LastTransitionAt = httpapi.NewOptDateTime(since.UTC())
	}
	return answer
}

// ended is when the phase became final.
func ended(snapshot *v1alpha1.SandboxSnapshot, condition *metav1.Condition) metav1.Time {
	switch {
	case snapshot.Status.CompletionTime != nil:
		return *snapshot.Status.CompletionTime
	case condition != nil:
		return condition.LastTransitionTime
	}
	return metav1.Time{}
}

// maxWarnings is how many of a snapshot's warnings its message repeats.
const maxWarnings = 3

// warnings say what the snapshot does not hold: nothing else of this API does.
func warnings(snapshot *v1alpha1.SandboxSnapshot) string {
	all := snapshot.Status.Warnings
	var messages []string
	for _, warning := range all[:min(len(all), maxWarnings)] {
		messages = append(messages, fmt.Sprintf("%s: %s", warning.Reason, warning.Message))
	}
	if left := len(all) - maxWarnings; left > 0 {
		messages = append(messages, fmt.Sprintf("and %d more: kubectl get sbxsnap %s -o yaml has them in status.warnings", left, snapshot.Name))
	}
	return strings.Join(messages, "; ")
}
