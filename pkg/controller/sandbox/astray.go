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

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/types"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/opensandbox-io/sandbox-apiserver/apis/lifecycle/v1alpha1"
)

// astrayAgain is how soon a sandbox looks again that waits for a commit that nobody follows.
const astrayAgain = 5 * time.Second

// astray is a Job that commits a Pod for a snapshot that is gone: the controller of snapshots ends it and thaws what it
// has frozen, and only then has it gone for good.
func (r *Reconciler) astray(ctx context.Context, pod *corev1.Pod) (string, error) {
	jobs, err := r.Jobs.OfPod(ctx, pod.UID)
	if err != nil {
		return "", err
	}
	for i := range jobs {
		its := client.ObjectKey{Namespace: jobs[i].Annotations[v1alpha1.AnnotationNamespace], Name: jobs[i].Annotations[v1alpha1.AnnotationSnapshot]}
		snapshot := &v1alpha1.SandboxSnapshot{}
		err := r.Client.Get(ctx, its, snapshot)
		if client.IgnoreNotFound(err) != nil {
			return "", fmt.Errorf("read snapshot %s: %w", its, err)
		}
		if apierrors.IsNotFound(err) || snapshot.UID != types.UID(jobs[i].Labels[v1alpha1.LabelSnapshotUID]) {
			return jobs[i].Name, nil
		}
	}
	return "", nil
}

// awaitsStray says for what a cancelled pause waits whose snapshot somebody has taken away by force.
func (o *observed) awaitsStray(next *nextStatus) action {
	next.set(v1alpha1.ConditionPaused, false, v1alpha1.ReasonCanceling, "the pause is being cancelled: Job %s, whose snapshot is gone, is being ended, and what it froze thawed", o.astray)
	act := o.write(next, nil)
	act.after = astrayAgain
	return act
}
