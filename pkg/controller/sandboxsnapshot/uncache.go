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
	"fmt"

	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/controller-runtime/pkg/log"

	"github.com/opensandbox-io/sandbox-apiserver/apis/lifecycle/v1alpha1"
)

// uncache has removed what the source node may keep of a snapshot that goes. It holds nothing up:
// the node may be away, and what stays there is bounded, and the kubelet's to remove.
func (r *Reconciler) uncache(ctx context.Context, snapshot *v1alpha1.SandboxSnapshot) {
	if r.Jobs.ResumeCache == 0 {
		return
	}
	kept, err := r.mayBeKept(ctx, snapshot)
	if err == nil && kept {
		err = r.Jobs.Uncache(ctx, snapshot)
	}
	if err != nil {
		log.FromContext(ctx).Error(err, "What a node keeps of a deleted snapshot stays there", "node", snapshot.Status.SourceNodeName)
	}
}

// mayBeKept is whether the source node may still have the snapshot's images: it had them when
// a pause committed them there, until a later pause of the sandbox did.
func (r *Reconciler) mayBeKept(ctx context.Context, snapshot *v1alpha1.SandboxSnapshot) (bool, error) {
	pause := PauseOf(snapshot)
	if pause == nil || snapshot.Status.Phase != v1alpha1.SnapshotSucceed {
		return false, nil
	}
	all := &v1alpha1.SandboxSnapshotList{}
	if err := r.Client.List(ctx, all, client.InNamespace(snapshot.Namespace), client.MatchingFields{IndexSandbox: snapshot.Spec.SandboxName}); err != nil {
		return false, fmt.Errorf("list the snapshots of sandbox %s/%s: %w", snapshot.Namespace, snapshot.Spec.SandboxName, err)
	}
	for i := range all.Items {
		other := &all.Items[i]
		of := PauseOf(other)
		if of != nil && of.SandboxUID == pause.SandboxUID && of.Attempt > pause.Attempt &&
			other.Status.Phase == v1alpha1.SnapshotSucceed && other.Status.SourceNodeName == snapshot.Status.SourceNodeName {
			return false, nil
		}
	}
	return true, nil
}
