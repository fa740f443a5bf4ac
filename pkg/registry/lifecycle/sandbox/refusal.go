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
	"errors"
	"fmt"
	"strings"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/opensandbox-io/sandbox-apiserver/apis/lifecycle"
)

// Causes of the refusal of a verb, for programs: details.causes[].reason of the Status.
const (
	// CauseDeleting: the sandbox is being deleted.
	CauseDeleting metav1.CauseType = "SandboxDeleting"
	// CausePhase: the sandbox is in a phase that does not allow it.
	CausePhase metav1.CauseType = "UnexpectedPhase"
	// CauseCanceling: a pause is being cancelled.
	CauseCanceling metav1.CauseType = "PauseCanceling"
	// CauseContainersEnded: a resume would lose what the ended containers wrote.
	CauseContainersEnded metav1.CauseType = "ContainersEnded"
	// CauseNoSnapshot: there is no snapshot to resume from.
	CauseNoSnapshot metav1.CauseType = "NoSnapshot"
	// CauseNoTemplate: there is no template to resume from.
	CauseNoTemplate metav1.CauseType = "NoTemplate"
	// CauseSnapshotNotFound: the named snapshot does not exist, or not for long.
	CauseSnapshotNotFound metav1.CauseType = "SnapshotNotFound"
	// CauseSnapshotNotReady: the named snapshot has not succeeded.
	CauseSnapshotNotReady metav1.CauseType = "SnapshotNotReady"
	// CauseSnapshotOfAnother: the named snapshot was made of another sandbox.
	CauseSnapshotOfAnother metav1.CauseType = "SnapshotOfAnotherSandbox"
	// CauseUnknown: a dry run found other causes, and could not look at everything.
	CauseUnknown metav1.CauseType = "Unknown"
)

// Refusal is why a verb does not do what it was asked, and what to do about it.
type Refusal struct {
	Cause metav1.StatusCause
}

// AsError makes the 409 that answers the request.
func (r *Refusal) AsError(name string) error {
	err := apierrors.NewConflict(lifecycle.Resource("sandboxes"), name, errors.New(r.Cause.Message))
	err.ErrStatus.Details.Causes = []metav1.StatusCause{r.Cause}
	return err
}

// WouldFail makes the 409 that answers a dry run of a pause which would be accepted and then
// fail. It is a conflict like every refusal of a verb: with the state of things, not with what
// was asked (422), and it may be over by the next time.
func WouldFail(name string, causes []metav1.StatusCause) error {
	var messages []string
	for _, cause := range causes {
		messages = append(messages, cause.Message)
	}
	err := apierrors.NewConflict(lifecycle.Resource("sandboxes"), name, fmt.Errorf("the pause would fail: %s", strings.Join(messages, "; ")))
	err.ErrStatus.Details.Causes = causes
	return err
}

// refuse blames the state of the sandbox.
func refuse(cause metav1.CauseType, message string) *Refusal {
	return refuseAt("status.phase", cause, message)
}

// refuseAt blames a field.
func refuseAt(field string, cause metav1.CauseType, message string) *Refusal {
	return &Refusal{Cause: metav1.StatusCause{Type: cause, Field: field, Message: message}}
}
