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

// Package move records that a sandbox's Pod is to be saved and brought back, though nobody has asked for a pause: an
// eviction, a node that is to go. The sandbox's controller does the work, whoever writes the record.
package move

import (
	"context"
	"errors"
	"fmt"
	"time"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/util/retry"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/opensandbox-io/sandbox-apiserver/apis/lifecycle/v1alpha1"
)

// Request is what a move is to be of, and why.
type Request struct {
	PodUID   types.UID
	NodeName string
	// Reason is one of status.move's.
	Reason string
	// Message is a sentence for a person; what is too long of it is cut.
	Message string
}

// Answer is what a request comes to.
type Answer string

const (
	// Moves: the Pod is to be saved and brought back, which is recorded.
	Moves Answer = "Moves"
	// Pauses: it is being saved already, by a pause, or one is wanted and tried again and again.
	Pauses Answer = "Pauses"
	// NotWanted: the sandbox's owner lets such a Pod go (spec.evictionPolicy, spec.onExit).
	NotWanted Answer = "NotWanted"
	// NothingToSave: no container has run in it.
	NothingToSave Answer = "NothingToSave"
	// OtherPod: the sandbox does not run in that Pod any more.
	OtherPod Answer = "OtherPod"
	// Deleting: the sandbox is being deleted, or there is none.
	Deleting Answer = "Deleting"
)

// Decide is what a request comes to for a sandbox as it stands. It changes nothing.
func Decide(sandbox *v1alpha1.Sandbox, request Request) Answer {
	status := &sandbox.Status
	paused := meta.FindStatusCondition(status.Conditions, v1alpha1.ConditionPaused)
	switch {
	case sandbox.DeletionTimestamp != nil:
		return Deleting
	case status.PodUID == "" || status.PodUID != request.PodUID:
		return OtherPod
	case nothingHasRun[status.Phase]:
		return NothingToSave
	case status.Phase == v1alpha1.SandboxPausing && paused != nil && paused.Reason == v1alpha1.ReasonRemovingPod:
		if IsOf(sandbox, request.PodUID) {
			return Moves
		}
		return Pauses // all is saved, and the Pod goes
	case !Wanted(sandbox, request.Reason):
		return NotWanted
	case sandbox.Spec.DesiredState != v1alpha1.DesiredStatePaused, IsOf(sandbox, request.PodUID):
		return Moves
	case paused != nil && paused.Reason == v1alpha1.ReasonFilesLost:
		return Moves // it waits for a person, and the Pod cannot
	}
	return Pauses
}

// nothingHasRun are the phases of a sandbox of whose Pod no container is known to have run.
var nothingHasRun = map[v1alpha1.SandboxPhase]bool{
	"": true, v1alpha1.SandboxPending: true, v1alpha1.SandboxResuming: true, v1alpha1.SandboxPaused: true,
}

// Wanted says whether the sandbox's owner wants its Pod saved and brought back where it is to go for that reason.
func Wanted(sandbox *v1alpha1.Sandbox, reason string) bool {
	if reason == v1alpha1.ReasonContainerEnded {
		return sandbox.Spec.OnExit == v1alpha1.ExitPolicyRestore
	}
	return sandbox.Spec.EvictionPolicy != v1alpha1.EvictionPolicyNone
}

// IsOf says whether the sandbox has a record of a move of that Pod.
func IsOf(sandbox *v1alpha1.Sandbox, pod types.UID) bool {
	return sandbox.Status.Move != nil && sandbox.Status.Move.PodUID == pod
}

// Next is the record that a request leaves on a sandbox, for which Decide says Moves, and whether that is another one
// than it has. The first one stays: since when its Pod is to go is known by it. But who leaves a node does not wait
// for what a container that has ended waits for.
func Next(sandbox *v1alpha1.Sandbox, request Request, now time.Time) (*v1alpha1.SandboxMove, bool) {
	if before := sandbox.Status.Move; IsOf(sandbox, request.PodUID) &&
		(before.Reason != v1alpha1.ReasonContainerEnded || request.Reason == v1alpha1.ReasonContainerEnded) {
		return before, false
	}
	return &v1alpha1.SandboxMove{
		PodUID: request.PodUID, NodeName: request.NodeName, Reason: request.Reason, Message: bounded(request.Message),
		RequestTime: metav1.NewMicroTime(now),
	}, true
}

// maxMessage is what the API takes of a message, in bytes.
const maxMessage = 1024

func bounded(message string) string {
	if len(message) <= maxMessage {
		return message
	}
	const end = "…"
	cut := maxMessage - len(end)
	for cut > 0 && message[cut]&0xC0 == 0x80 {
		cut-- // not within a character
	}
	return message[:cut] + end
}

// Record writes a request down, where Decide says Moves, and returns that answer. It may be called as often as one likes,
// and side by side with any other writer: it decides on the sandbox as it is stored. The reader has to read past caches.
func Record(ctx context.Context, reader client.Reader, writer client.StatusClient, sandbox client.ObjectKey, request Request, now time.Time) (Answer, error) {
	answer := Deleting
	err := retry.RetryOnConflict(retry.DefaultBackoff, func() error {
		stored := &v1alpha1.Sandbox{}
		if err := reader.Get(ctx, sandbox, stored); err != nil {
			return err
		}
		if answer = Decide(stored, request); answer != Moves {
			return nil
		}
		next, is := Next(stored, request, now)
		if !is {
			return nil
		}
		stored.Status.Move = next
		return writer.Status().Update(ctx, stored)
	})
	switch {
	case apierrors.IsNotFound(err):
		return Deleting, nil
	case err != nil && ctx.Err() != nil:
		return "", fmt.Errorf("record the move of sandbox %s (%s): %w", sandbox, request.Reason, errors.Join(err, context.Cause(ctx)))
	case err != nil:
		return "", fmt.Errorf("record the move of sandbox %s (%s): %w", sandbox, request.Reason, err)
	}
	return answer, nil
}
