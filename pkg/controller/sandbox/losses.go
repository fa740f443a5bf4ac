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

package sandbox

import (
	"fmt"
	"time"

	"github.com/opensandbox-io/sandbox-apiserver/apis/lifecycle/v1alpha1"
)

// lost goes on after a Pod that went away by itself, with whatever is saved.
func (o *observed) lost() action {
	next := o.next()
	podName := next.PodName
	next.forgetPod()
	age := "there is no snapshot, all its files are gone"
	if o.from != nil && next.SnapshotName != "" && o.from.Status.CompletionTime != nil {
		age = fmt.Sprintf("it falls back on snapshot %s, made %s before", next.SnapshotName, o.now.Sub(o.from.Status.CompletionTime.Time).Round(time.Second))
	} else if next.SnapshotName != "" {
		age = fmt.Sprintf("it falls back on snapshot %s", next.SnapshotName)
	}
	event := next.loseData(v1alpha1.ReasonPodLost, "Pod %s was lost: %s", podName, age)
	switch {
	case o.wants(v1alpha1.DesiredStateRunning) && (next.SnapshotName != "" || o.sandbox.Spec.RestoreFrom != nil):
		// One that once started from a snapshot and has none now was resumed from its template: it
		// comes back from there, not from what it gave up.
		next.resuming()
	case o.wants(v1alpha1.DesiredStateRunning):
		next.Phase = v1alpha1.SandboxPending
		next.set(v1alpha1.ConditionReady, false, v1alpha1.ReasonPending, "the Pod was lost and is created anew")
		next.set(v1alpha1.ConditionPaused, false, v1alpha1.ReasonRunning, "the sandbox is not paused")
	case next.SnapshotName != "":
		next.FailedAttempts = 0
		next.pausedOn(next.SnapshotName)
	default:
		next.Phase = v1alpha1.SandboxFailed
		message := "the Pod was lost while it was being paused and there is no snapshot: resume with fromTemplate to start afresh, or delete the sandbox"
		next.set(v1alpha1.ConditionReady, false, v1alpha1.ReasonNoSnapshot, "%s", message)
		next.set(v1alpha1.ConditionPaused, false, v1alpha1.ReasonNoSnapshot, "%s", message)
	}
	return o.write(next, event)
}

// failed waits for a verb, unless what was missing has come back.
func (o *observed) failed() action {
	next := o.next()
	switch {
	case o.pod != nil && o.pod.DeletionTimestamp == nil && o.view().started:
		next.Phase = v1alpha1.SandboxRunning
		next.show(o.pod, o.view())
		next.set(v1alpha1.ConditionPaused, false, v1alpha1.ReasonRunning, "the sandbox is not paused")
	case o.wants(v1alpha1.DesiredStateRunning) && next.SnapshotName != "" && o.from != nil && o.from.Status.Phase == v1alpha1.SnapshotSucceed:
		next.resuming()
	}
	return o.write(next, nil)
}
