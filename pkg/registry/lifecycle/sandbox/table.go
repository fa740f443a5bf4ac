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
	"time"

	apimeta "k8s.io/apimachinery/pkg/api/meta"
	"k8s.io/apimachinery/pkg/api/meta/table"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/util/duration"
	"k8s.io/apiserver/pkg/registry/rest"
	"k8s.io/utils/clock"

	"github.com/opensandbox-io/sandbox-apiserver/apis/lifecycle"
	"github.com/opensandbox-io/sandbox-apiserver/apis/lifecycle/v1alpha1"
)

// TableConvertor shows sandboxes as kubectl get prints them.
type TableConvertor struct {
	Clock clock.PassiveClock
}

var _ rest.TableConvertor = TableConvertor{}

var columns = []metav1.TableColumnDefinition{
	{Name: "Name", Type: "string", Format: "name", Description: "Name of the sandbox and of its Pod."},
	{Name: "Phase", Type: "string", Description: "Where the sandbox stands, in one word; Terminating while it is being deleted."},
	{Name: "Ready", Type: "string", Description: "Status of the condition Ready."},
	{Name: "Reason", Type: "string", Description: "Why the sandbox is, or is not, what it should be."},
	{Name: "Snapshot", Type: "string", Description: "The snapshot that the next resume uses."},
	{Name: "Expires", Type: "string", Description: "What becomes of the sandbox, and when; Never where spec.expireTime is not set."},
	{Name: "Age", Type: "string", Description: "Time since the sandbox was created."},
	{Name: "Node", Type: "string", Priority: 1, Description: "The node of the Pod, or the one that it was paused on."},
	{Name: "IP", Type: "string", Priority: 1, Description: "Address of the Pod."},
}

// ConvertToTable makes a table of a sandbox or a list of them.
func (c TableConvertor) ConvertToTable(_ context.Context, obj, options runtime.Object) (*metav1.Table, error) {
	result := &metav1.Table{}
	if opt, ok := options.(*metav1.TableOptions); !ok || !opt.NoHeaders {
		result.ColumnDefinitions = columns
	}
	if accessor, err := apimeta.ListAccessor(obj); err == nil {
		result.ResourceVersion = accessor.GetResourceVersion()
		result.Continue = accessor.GetContinue()
		result.RemainingItemCount = accessor.GetRemainingItemCount()
	} else if accessor, err := apimeta.CommonAccessor(obj); err == nil {
		result.ResourceVersion = accessor.GetResourceVersion()
	}
	var err error
	result.Rows, err = table.MetaToTableRow(obj, func(obj runtime.Object, _ metav1.Object, name, age string) ([]any, error) {
		sandbox := obj.(*lifecycle.Sandbox)
		ready, reason := readiness(sandbox)
		return []any{
			name, phase(sandbox), ready, reason, sandbox.Status.SnapshotName, expires(sandbox, c.Clock.Now()), age,
			sandbox.Status.NodeName, sandbox.Status.PodIP,
		}, nil
	})
	return result, err
}

// terminating is the phase that is shown of what is being deleted, as kubectl shows it of Pods.
const terminating = "Terminating"

func phase(sandbox *lifecycle.Sandbox) string {
	if sandbox.DeletionTimestamp != nil {
		return terminating
	}
	return string(sandbox.Status.Phase)
}

// readiness returns the status of the condition Ready and the reason that people look for:
// that of Ready, unless the sandbox runs although it should be paused. Then it is why not.
func readiness(sandbox *lifecycle.Sandbox) (status, reason string) {
	ready := apimeta.FindStatusCondition(sandbox.Status.Conditions, v1alpha1.ConditionReady)
	if ready == nil {
		return string(metav1.ConditionUnknown), ""
	}
	status, reason = string(ready.Status), ready.Reason
	if sandbox.DeletionTimestamp == nil && sandbox.Status.Phase == lifecycle.SandboxRunning && (sandbox.Spec.DesiredState == lifecycle.DesiredStatePaused || leaves(sandbox)) {
		if paused := apimeta.FindStatusCondition(sandbox.Status.Conditions, v1alpha1.ConditionPaused); paused != nil {
			reason = paused.Reason
		}
	}
	return status, reason
}

// expires is what becomes of the sandbox at its expireTime, and when that is.
func expires(sandbox *lifecycle.Sandbox, now time.Time) string {
	if sandbox.Spec.ExpireTime == nil {
		return "Never"
	}
	if left := sandbox.Spec.ExpireTime.Sub(now); left > 0 {
		return string(sandbox.Spec.ExpireAction) + " in " + duration.HumanDuration(left)
	}
	return string(sandbox.Spec.ExpireAction) + " " + duration.HumanDuration(now.Sub(sandbox.Spec.ExpireTime.Time)) + " ago"
}
