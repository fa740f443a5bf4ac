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
	"net/http"
	"strings"

	"k8s.io/apimachinery/pkg/api/meta"

	"github.com/opensandbox-io/sandbox-apiserver/apis/lifecycle/v1alpha1"
	"github.com/opensandbox-io/sandbox-apiserver/pkg/gateway/answer"
	"github.com/opensandbox-io/sandbox-apiserver/pkg/gateway/httpapi"
)

// Codes of this API's own, as the reference has them.
const (
	codeInvalidSourceState = "SNAPSHOT::INVALID_SOURCE_STATE"
	codeDeleteConflict     = "SNAPSHOT::DELETE_CONFLICT"
)

// refuseSource says why no snapshot can be made of a sandbox as it is; nil: one can. Of a Paused one the images are copied, and of
// one that is Pausing once it is.
func refuseSource(sandbox *v1alpha1.Sandbox) *answer.Error {
	const then = "create the snapshot once it is Running or Paused"
	refuse := func(format string, args ...any) *answer.Error {
		return answer.Errorf(http.StatusConflict, codeInvalidSourceState, "sandbox %s "+format, append([]any{sandbox.Name}, args...)...)
	}
	switch phase := sandbox.Status.Phase; {
	case sandbox.DeletionTimestamp != nil:
		return refuse("is being deleted: a snapshot cannot be made of it any more")
	case phase == v1alpha1.SandboxRunning, phase == v1alpha1.SandboxPaused, phase == v1alpha1.SandboxPausing:
		return nil
	case phase == v1alpha1.SandboxFailed:
		return refuse("is Failed%s: resume it first, and create the snapshot once it is Running", because(sandbox))
	case phase == "":
		return refuse("is Pending and has no files yet: %s", then)
	case phase == v1alpha1.SandboxPending:
		return refuse("is Pending and has no files yet%s: %s", because(sandbox), then)
	default:
		return refuse("is %s%s: %s", phase, because(sandbox), then)
	}
}

// because is what Ready says of a sandbox, in brackets.
func because(sandbox *v1alpha1.Sandbox) string {
	ready := meta.FindStatusCondition(sandbox.Status.Conditions, v1alpha1.ConditionReady)
	if ready == nil || ready.Reason == string(sandbox.Status.Phase) && ready.Message == "" {
		return ""
	}
	return fmt.Sprintf(" (%s)", strings.TrimSuffix(ready.Reason+": "+ready.Message, ": "))
}

// refuseDeletion says why a snapshot is not to be deleted as it is; nil: it is. users are the sandboxes that need it.
func refuseDeletion(snapshot *v1alpha1.SandboxSnapshot, users []string) *answer.Error {
	state := statusOf(snapshot).State
	switch {
	case state == httpapi.SnapshotStateDeleting:
		return nil
	case snapshot.Spec.Pause != nil:
		return answer.Errorf(http.StatusConflict, codeDeleteConflict,
			"snapshot %s is that of a pause: it goes with sandbox %s, or once newer ones are more than its spec.snapshot.historyLimit", snapshot.Name, snapshot.Spec.SandboxName)
	case state == httpapi.SnapshotStateCreating:
		return answer.Errorf(http.StatusConflict, answer.CodeSnapshotInvalidState,
			"snapshot %s is still being made: delete it once it is Ready or Failed", snapshot.Name)
	case len(users) > 0:
		return answer.Errorf(http.StatusConflict, codeDeleteConflict,
			"snapshot %s is what sandbox %s starts from the next time: pause that again so that it has a newer one, or delete it, and then delete the snapshot", snapshot.Name, few(users))
	}
	return nil
}

// few are the first of many names.
func few(names []string) string {
	const shown = 3
	if len(names) <= shown {
		return strings.Join(names, ", ")
	}
	return fmt.Sprintf("%s and %d more", strings.Join(names[:shown], ", "), len(names)-shown)
}

// needs says whether the next Pod of a sandbox starts from a snapshot. It is the server's own rule, which keeps what is needed
// whatever is decided here: a snapshot that is deleted is gone once nobody needs it.
func needs(sandbox *v1alpha1.Sandbox, name string) bool {
	status := &sandbox.Status
	if sandbox.DeletionTimestamp != nil {
		return false
	}
	if status.SnapshotName == name || status.PriorSnapshotName == name {
		return true
	}
	unfinished := status.SnapshotName == "" && (status.Phase == "" || status.Phase == v1alpha1.SandboxPending)
	return unfinished && sandbox.Spec.RestoreFrom != nil && sandbox.Spec.RestoreFrom.SnapshotName == name
}
