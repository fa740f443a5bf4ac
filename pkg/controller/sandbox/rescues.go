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
	"slices"
	"strings"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/opensandbox-io/sandbox-apiserver/apis/lifecycle/v1alpha1"
	"github.com/opensandbox-io/sandbox-apiserver/pkg/controller/answer"
	"github.com/opensandbox-io/sandbox-apiserver/pkg/controller/naming"
	"github.com/opensandbox-io/sandbox-apiserver/pkg/controller/sandboxsnapshot"
)

// rescue is the snapshot of that number of what containers of the sandbox's Pod have left.
func rescue(sandbox *v1alpha1.Sandbox, number int64, containers []v1alpha1.RescuedContainer) *v1alpha1.SandboxSnapshot {
	return &v1alpha1.SandboxSnapshot{
		ObjectMeta: metav1.ObjectMeta{
			Namespace:       sandbox.Namespace,
			Name:            naming.RescueSnapshot(sandbox.Name, number),
			Labels:          map[string]string{v1alpha1.LabelSandbox: sandbox.Name, v1alpha1.LabelSandboxUID: string(sandbox.UID)},
			OwnerReferences: []metav1.OwnerReference{*metav1.NewControllerRef(sandbox, v1alpha1.SchemeGroupVersion.WithKind("Sandbox"))},
		},
		Spec: v1alpha1.SandboxSnapshotSpec{
			SandboxName:    sandbox.Name,
			DeletionPolicy: sandbox.Spec.Snapshot.DeletionPolicy,
			Rescue:         &v1alpha1.SnapshotRescue{SandboxUID: sandbox.UID, PodUID: sandbox.Status.PodUID, Containers: containers},
		},
	}
}

// createRescue has saved what containers have left that have ended, and deletes the rescues that are kept no longer. Of
// a cache that is behind no second one comes: those that there are, are read live.
func (r *Reconciler) createRescue(ctx context.Context, seen *observed, containers []v1alpha1.RescuedContainer) error {
	sandbox := seen.sandbox
	all, tried, err := r.rescuesOf(ctx, r.Live, sandbox)
	if err != nil {
		return err
	}
	seen.rescued, seen.tried = all, tried
	still, _ := seen.toRescue()
	r.rescueHolds.hold(sandbox, containersOf(containers), r.Clock.Now()) // the cache may be behind; somebody may refuse it, or delete each
	if !slices.Equal(still, containers) {
		return nil // there is one already, or one under way
	}
	number := int64(1)
	if len(all) > 0 {
		number = naming.Rescue(all[0].Name) + 1
	}
	made := rescue(sandbox, number, containers)
	if err := r.Client.Create(ctx, made); err != nil {
		if apierrors.IsAlreadyExists(err) {
			return nil // another sandbox of the name had it
		}
		if kind := answer.OfCreate(err); kind != answer.Final && kind != answer.Passing {
			return fmt.Errorf("create snapshot %s/%s: %w", made.Namespace, made.Name, err)
		}
		r.tell(sandbox, &note{warning: true, reason: v1alpha1.EventRescueFailed,
			message: fmt.Sprintf("snapshot %s, of what was written in %s before it ended, cannot be created, which is tried again: %v", made.Name, containersOf(containers), err)})
		return nil
	}
	r.tell(sandbox, &note{reason: v1alpha1.EventRescuing, message: fmt.Sprintf("snapshot %s saves what was written in %s before it ended", made.Name, containersOf(containers))})
	for _, old := range beyondRescues(slices.Clone(all), sandbox) {
		if err := r.deleteSnapshot(ctx, old); err != nil {
			return err
		}
	}
	return nil
}

func containersOf(rescued []v1alpha1.RescuedContainer) string {
	var all []string
	for _, c := range rescued {
		all = append(all, fmt.Sprintf("container %s (%.12s)", c.ContainerName, c.ContainerID))
	}
	return strings.Join(all, " and ")
}

// rescuesOf are the rescues of this sandbox, the latest first, and those attempts of pauses that have ended containers.
func (r *Reconciler) rescuesOf(ctx context.Context, reader client.Reader, sandbox *v1alpha1.Sandbox) (rescues, attempts []v1alpha1.SandboxSnapshot, err error) {
	list := &v1alpha1.SandboxSnapshotList{}
	if err := reader.List(ctx, list, client.InNamespace(sandbox.Namespace), client.MatchingFields{sandboxsnapshot.IndexSandbox: sandbox.Name}); err != nil {
		return nil, nil, fmt.Errorf("list the snapshots of sandbox %s/%s: %w", sandbox.Namespace, sandbox.Name, err)
	}
	for _, s := range list.Items {
		switch of := s.Spec.Rescue; {
		case of == nil || of.SandboxUID != sandbox.UID:
		case sandboxsnapshot.RescueOf(&s) != nil:
			rescues = append(rescues, s)
		default:
			attempts = append(attempts, s)
		}
	}
	byNumber(rescues)
	slices.SortFunc(attempts, func(a, b v1alpha1.SandboxSnapshot) int { return int(naming.Attempt(b.Name) - naming.Attempt(a.Name)) })
	return rescues, attempts, nil
}
