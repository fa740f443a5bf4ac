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
	"context"
	"fmt"
	"time"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/opensandbox-io/sandbox-apiserver/apis/lifecycle/v1alpha1"
	"github.com/opensandbox-io/sandbox-apiserver/pkg/controller/answer"
	"github.com/opensandbox-io/sandbox-apiserver/pkg/controller/naming"
)

// Attempt is the snapshot of the pause attempt that the sandbox's status tells of. Its spec.pause is all
// that says so, to both controllers and for good; the owner reference is for the garbage collector.
func Attempt(sandbox *v1alpha1.Sandbox) *v1alpha1.SandboxSnapshot {
	return &v1alpha1.SandboxSnapshot{
		ObjectMeta: metav1.ObjectMeta{
			Namespace:       sandbox.Namespace,
			Name:            naming.PauseSnapshot(sandbox.Name, sandbox.Status.SnapshotAttempts),
			Labels:          map[string]string{v1alpha1.LabelSandbox: sandbox.Name, v1alpha1.LabelSandboxUID: string(sandbox.UID)},
			OwnerReferences: []metav1.OwnerReference{*metav1.NewControllerRef(sandbox, v1alpha1.SchemeGroupVersion.WithKind("Sandbox"))},
		},
		Spec: v1alpha1.SandboxSnapshotSpec{
			SandboxName:    sandbox.Name,
			Containers:     sandbox.Spec.Snapshot.Containers,
			DeletionPolicy: sandbox.Spec.Snapshot.DeletionPolicy,
			Pause: &v1alpha1.SnapshotPause{
				SandboxUID: sandbox.UID, PodUID: sandbox.Status.PodUID, Attempt: sandbox.Status.SnapshotAttempts,
			},
		},
	}
}

// CreateAttempt creates it.
func CreateAttempt(ctx context.Context, own client.Client, sandbox *v1alpha1.Sandbox, options ...client.CreateOption) error {
	return create(ctx, own, Attempt(sandbox), options...)
}

func create(ctx context.Context, own client.Client, snapshot *v1alpha1.SandboxSnapshot, options ...client.CreateOption) error {
	if err := own.Create(ctx, snapshot, options...); err != nil {
		return fmt.Errorf("create snapshot %s/%s: %w", snapshot.Namespace, snapshot.Name, err)
	}
	return nil
}

// createSnapshot makes the snapshot of the attempt under way. One that exists is looked at in
// the next step: it is this attempt's, or its name is taken. Where the API refuses it nothing
// has been frozen yet, and the sandbox runs on, as after any attempt that failed.
func (r *Reconciler) createSnapshot(ctx context.Context, seen *observed) error {
	sandbox := seen.sandbox
	err := create(ctx, r.Client, seen.attemptToMake())
	seen.now = r.Clock.Now()
	if err == nil {
		r.attempts.hold(sandbox, Attempt(sandbox).Name, r.Clock.Now())
		r.tell(sandbox, seen.begins())
		r.tryPod(ctx, sandbox)
	}
	if err == nil || apierrors.IsAlreadyExists(err) {
		return nil
	}
	failed, told := seen.snapshotNotMade(err)
	if !told {
		return err
	}
	return r.write(ctx, sandbox, failed)
}

// begins tells of an attempt.
func (o *observed) begins() *note {
	told := &note{reason: v1alpha1.ReasonPausing, message: fmt.Sprintf("snapshot %s commits the root filesystems", Attempt(o.sandbox).Name)}
	if o.moves() {
		told.reason = v1alpha1.ReasonMoving
		told.message += fmt.Sprintf(", for Pod %s is to go (%s); the sandbox comes back from it", o.sandbox.Status.PodName, whyMoves(o.sandbox.Status.Move))
	}
	return told
}

// snapshotNotMade is what follows from an answer to the creation of the attempt's snapshot, and false where it is
// nobody's to know of.
func (o *observed) snapshotNotMade(err error) (action, bool) {
	next, again := o.next(), time.Duration(0)
	switch answer.OfCreate(err) {
	case answer.Final:
	case answer.Passing:
		again = answer.Wait(err, next.FailedAttempts+1)
	default:
		return action{}, false
	}
	return o.attemptFailedFor(next, metav1.Condition{Reason: v1alpha1.ReasonSnapshotRejected, Message: err.Error()}, again), true
}
