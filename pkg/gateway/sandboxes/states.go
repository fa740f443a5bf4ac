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

package sandboxes

import (
	"time"

	apimeta "k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/opensandbox-io/sandbox-apiserver/apis/lifecycle/v1alpha1"
	"github.com/opensandbox-io/sandbox-apiserver/pkg/gateway/httpapi"
)

// Status is what callers are told of a sandbox's state.
type Status struct {
	State   httpapi.SandboxState
	Reason  string
	Message string
	// Since is when the state became what it is.
	Since time.Time
}

// StatusOf tells a sandbox's state. The state is its phase, but for one that is being deleted; reason and message are those of
// the condition that says most of it.
func StatusOf(sandbox *v1alpha1.Sandbox) Status {
	status := Status{State: StateOf(sandbox), Since: since(sandbox)}
	said := telling(sandbox, status.State)
	status.Reason, status.Message = said.Reason, said.Message
	if status.Reason == "" {
		status.Reason = string(status.State)
	}
	if status.State == httpapi.SandboxStateStopping && status.Reason != v1alpha1.ReasonTerminating {
		status.Reason, status.Message = v1alpha1.ReasonTerminating, "the sandbox is being deleted"
	}
	// What was lost is told whatever the state is: callers have no other place where they would see it.
	if lost := condition(sandbox, v1alpha1.ConditionDataLost); lost.Status == metav1.ConditionTrue {
		if status.Message != "" {
			status.Message += "; "
		}
		status.Message += v1alpha1.ConditionDataLost + " (" + lost.Reason + "): " + lost.Message
	}
	return status
}

// StateOf is the state alone.
func StateOf(sandbox *v1alpha1.Sandbox) httpapi.SandboxState {
	switch {
	case sandbox.DeletionTimestamp != nil:
		return httpapi.SandboxStateStopping
	case sandbox.Status.Phase == "":
		return httpapi.SandboxStatePending
	}
	return httpapi.SandboxState(sandbox.Status.Phase) // the same words
}

// telling is the condition that says most of a state.
func telling(sandbox *v1alpha1.Sandbox, state httpapi.SandboxState) metav1.Condition {
	ready, paused := condition(sandbox, v1alpha1.ConditionReady), condition(sandbox, v1alpha1.ConditionPaused)
	switch state {
	case httpapi.SandboxStatePausing, httpapi.SandboxStatePaused:
		return paused
	case httpapi.SandboxStateRunning:
		// Nothing else tells callers that a pause has failed: the state is what it was before.
		switch paused.Reason {
		case "", v1alpha1.ReasonPending, v1alpha1.ReasonResuming, v1alpha1.ReasonRunning:
		default:
			return paused
		}
	}
	return ready
}

// since is when the phase changed last. A server from before it was recorded leaves the conditions to tell.
func since(sandbox *v1alpha1.Sandbox) time.Time {
	if sandbox.DeletionTimestamp != nil {
		return sandbox.DeletionTimestamp.Time
	}
	if at := sandbox.Status.PhaseTransitionTime; at != nil {
		return at.Time
	}
	last := sandbox.CreationTimestamp.Time
	for _, name := range []string{v1alpha1.ConditionReady, v1alpha1.ConditionPaused} {
		if at := condition(sandbox, name).LastTransitionTime.Time; at.After(last) {
			last = at
		}
	}
	return last
}

func condition(sandbox *v1alpha1.Sandbox, name string) metav1.Condition {
	if found := apimeta.FindStatusCondition(sandbox.Status.Conditions, name); found != nil {
		return *found
	}
	return metav1.Condition{}
}
