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
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/opensandbox-io/sandbox-apiserver/apis/lifecycle/v1alpha1"
)

var (
	dawn  = time.Date(2026, 1, 2, 6, 0, 0, 0, time.UTC)
	noon  = dawn.Add(6 * time.Hour)
	night = dawn.Add(16 * time.Hour)
)

// stands is a sandbox made at dawn, in a phase since noon, with reasons and messages of Ready and Paused.
func stands(phase v1alpha1.SandboxPhase, ready, readyMessage, paused, pausedMessage string, options ...func(*v1alpha1.Sandbox)) *v1alpha1.Sandbox {
	since := metav1.NewTime(noon)
	sandbox := &v1alpha1.Sandbox{
		ObjectMeta: metav1.ObjectMeta{Namespace: "default", Name: "demo", UID: "uid", ResourceVersion: "7", CreationTimestamp: metav1.NewTime(dawn)},
		Status: v1alpha1.SandboxStatus{Phase: phase, PhaseTransitionTime: &since, Conditions: []metav1.Condition{
			{Type: v1alpha1.ConditionReady, Status: metav1.ConditionFalse, Reason: ready, Message: readyMessage, LastTransitionTime: since},
			{Type: v1alpha1.ConditionPaused, Status: metav1.ConditionFalse, Reason: paused, Message: pausedMessage, LastTransitionTime: since},
		}},
	}
	for _, option := range options {
		option(sandbox)
	}
	return sandbox
}

func beingDeleted(sandbox *v1alpha1.Sandbox) {
	at := metav1.NewTime(night)
	sandbox.DeletionTimestamp = &at
}

func wantsPaused(sandbox *v1alpha1.Sandbox) {
	sandbox.Spec.DesiredState = v1alpha1.DesiredStatePaused
}

func lost(sandbox *v1alpha1.Sandbox) {
	sandbox.Status.Conditions = append(sandbox.Status.Conditions, metav1.Condition{
		Type: v1alpha1.ConditionDataLost, Status: metav1.ConditionTrue, Reason: v1alpha1.ReasonPodLost, Message: "the node is gone"})
}

func TestStatusOf(t *testing.T) {
	const p, r = v1alpha1.ReasonPending, v1alpha1.ReasonRunning
	for name, test := range map[string]struct {
		sandbox *v1alpha1.Sandbox
		want    Status
	}{
		"just made":         {stands("", "", "", "", ""), Status{"Pending", "Pending", "", noon}},
		"waits for its Pod": {stands("Pending", "PodPending", "pulling", p, ""), Status{"Pending", "PodPending", "pulling", noon}},
		"finds no node":     {stands("Pending", "PodUnschedulable", "0/3 nodes", p, ""), Status{"Pending", "PodUnschedulable", "0/3 nodes", noon}},
		"runs":              {stands("Running", "PodReady", "", r, ""), Status{"Running", "PodReady", "", noon}},
		"runs, not ready":   {stands("Running", "PodNotReady", "probe", r, ""), Status{"Running", "PodNotReady", "probe", noon}},
		"runs no more":      {stands("Running", "ContainersEnded", "exit code 1", r, ""), Status{"Running", "ContainersEnded", "exit code 1", noon}},
		"runs since a pause that failed": {stands("Running", "PodReady", "", "RegistryUnavailable", "no route to host", wantsPaused),
			Status{"Running", "RegistryUnavailable", "no route to host", noon}},
		"runs since a pause lost files": {stands("Running", "PodReady", "", "FilesLost", "a container was restarted", wantsPaused),
			Status{"Running", "FilesLost", "a container was restarted", noon}},
		"runs since its move failed": {stands("Running", "PodReady", "", "Moving", "tries again"), Status{"Running", "Moving", "tries again", noon}},
		"is being paused":            {stands("Pausing", "PodReady", "", "Pausing", "committing", wantsPaused), Status{"Pausing", "Pausing", "committing", noon}},
		"waits to be paused":         {stands("Pausing", "PodReady", "", "Queued", "3 before it", wantsPaused), Status{"Pausing", "Queued", "3 before it", noon}},
		"is not to be paused any more": {stands("Pausing", "Canceling", "thawing", "Canceling", "thawing"),
			Status{"Pausing", "Canceling", "thawing", noon}},
		"is moved":          {stands("Pausing", "PodReady", "", "Moving", "its node is drained"), Status{"Pausing", "Moving", "its node is drained", noon}},
		"is paused":         {stands("Paused", "Paused", "", "Paused", "on demo-gen1", wantsPaused), Status{"Paused", "Paused", "on demo-gen1", noon}},
		"comes back":        {stands("Resuming", "Resuming", "asked for", "Resuming", "asked for"), Status{"Resuming", "Resuming", "asked for", noon}},
		"cannot come back":  {stands("Resuming", "ImagePullFailed", "401", "Resuming", ""), Status{"Resuming", "ImagePullFailed", "401", noon}},
		"has failed":        {stands("Failed", "NoSnapshot", "resume it from its template", "NoSnapshot", "x"), Status{"Failed", "NoSnapshot", "resume it from its template", noon}},
		"is being deleted":  {stands("Paused", "Paused", "", "Paused", "", beingDeleted), Status{"Stopping", "Terminating", "the sandbox is being deleted", night}},
		"waits to be gone":  {stands("Running", "Terminating", "waits for its Pod", r, "", beingDeleted), Status{"Stopping", "Terminating", "waits for its Pod", night}},
		"runs, lost files":  {stands("Running", "PodReady", "", r, "", lost), Status{"Running", "PodReady", "DataLost (PodLost): the node is gone", noon}},
		"waits, lost files": {stands("Pending", "PodPending", "pulling", r, "", lost), Status{"Pending", "PodPending", "pulling; DataLost (PodLost): the node is gone", noon}},
		"of a later server": {stands("Hibernating", "Hibernating", "asleep", r, ""), Status{"Hibernating", "Hibernating", "asleep", noon}},
		"of an earlier server": {stands("Running", "PodReady", "", r, "", func(s *v1alpha1.Sandbox) {
			s.Status.PhaseTransitionTime = nil
			s.Status.Conditions[0].LastTransitionTime = metav1.NewTime(night)
		}), Status{"Running", "PodReady", "", night}},
		"of an earlier server, with nothing": {stands("", "", "", "", "", func(s *v1alpha1.Sandbox) { s.Status = v1alpha1.SandboxStatus{} }),
			Status{"Pending", "Pending", "", dawn}},
	} {
		t.Run(name, func(t *testing.T) {
			if diff := cmp.Diff(test.want, StatusOf(test.sandbox)); diff != "" {
				t.Errorf("(-want +got):\n%s", diff)
			}
		})
	}
}
