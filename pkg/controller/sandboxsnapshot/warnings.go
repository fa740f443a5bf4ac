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
	"fmt"
	"strings"

	corev1 "k8s.io/api/core/v1"

	"github.com/opensandbox-io/sandbox-apiserver/apis/lifecycle/contents"
	"github.com/opensandbox-io/sandbox-apiserver/apis/lifecycle/v1alpha1"
)

// notKept is what a commit of those containers of a Pod does not hold.
func notKept(pod *corev1.Pod, sandbox *v1alpha1.Sandbox, containers []v1alpha1.ContainerSnapshot) []v1alpha1.SnapshotWarning {
	if sandbox.Spec.Template == nil {
		return nil
	}
	template := &sandbox.Spec.Template.Spec
	var names []string
	for i := range containers {
		names = append(names, containers[i].ContainerName)
	}
	return bounded(append(contents.OfTemplate(template, names), contents.OfPod(pod, template, names)...))
}

// What the API takes of warnings: they never are what a status is refused for.
const (
	maxWarnings     = 32
	maxWarningBytes = 1024
)

// bounded are the first warnings, with one more that says how many were left out.
func bounded(warnings []v1alpha1.SnapshotWarning) []v1alpha1.SnapshotWarning {
	if omitted := len(warnings) - maxWarnings; omitted > 0 {
		warnings = append(warnings[:maxWarnings-1:maxWarnings-1], v1alpha1.SnapshotWarning{
			Reason:  v1alpha1.ReasonWarningsOmitted,
			Message: fmt.Sprintf("%d more warnings were left out", omitted+1),
		})
	}
	for i := range warnings {
		warnings[i].Path, warnings[i].Message = short(warnings[i].Path), short(warnings[i].Message)
	}
	return warnings
}

const ellipsis = "…"

// short cuts what is too long, at the border of a character.
func short(s string) string {
	if len(s) > maxWarningBytes {
		s = strings.ToValidUTF8(s[:maxWarningBytes-len(ellipsis)], "") + ellipsis
	}
	return s
}
