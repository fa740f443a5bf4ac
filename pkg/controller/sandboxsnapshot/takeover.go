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
	"context"
	"strings"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/opensandbox-io/sandbox-apiserver/apis/lifecycle/v1alpha1"
)

// takeOver makes a snapshot of images that are there already. Nothing is read of them: the server's account
// may read what its tenants may not, and even whether an image exists is not theirs to ask by it. Who
// starts a sandbox from the snapshot pulls them as any Pod would.
func (r *Reconciler) takeOver(ctx context.Context, snapshot *v1alpha1.SandboxSnapshot) error {
	status := &snapshot.Status
	status.Containers = nil
	for _, image := range snapshot.Spec.Source.Images {
		uri, digest, _ := strings.Cut(image.Image, "@")
		status.Containers = append(status.Containers, v1alpha1.ContainerSnapshot{ContainerName: image.ContainerName, ImageURI: uri, ImageDigest: digest})
	}
	status.StartTime = r.now()
	return r.succeeded(ctx, snapshot, "%d existing images were named", metav1.Condition{
		Status: metav1.ConditionUnknown, Reason: v1alpha1.ReasonImageNotChecked,
		Message: "the images were not made by this snapshot, so the server does not ask for them: a Pod that starts from them pulls them with its own pull secrets",
	})
}
