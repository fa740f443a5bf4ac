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

// Package snapshots serves the snapshots of the HTTP API: each is a SandboxSnapshot of the caller's namespace, and its id the name of
// that.
package snapshots

import (
	"context"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/util/uuid"

	"github.com/opensandbox-io/sandbox-apiserver/apis/lifecycle/v1alpha1"
	"github.com/opensandbox-io/sandbox-apiserver/pkg/gateway/httpapi"
	"github.com/opensandbox-io/sandbox-apiserver/pkg/gateway/identity"
	"github.com/opensandbox-io/sandbox-apiserver/pkg/gateway/inbound"
)

// Handler serves the routes of snapshots. All that it knows is in the Sandbox API, which it asks as the caller.
type Handler struct{}

// CreateSnapshot has a snapshot made of a sandbox, which goes on running. It does not wait for that.
func (Handler) CreateSnapshot(ctx context.Context, req httpapi.OptCreateSnapshotRequest, params httpapi.CreateSnapshotParams) (*httpapi.SnapshotHeaders, error) {
	caller := identity.From(ctx)
	sandbox, err := caller.Lifecycle.LifecycleV1alpha1().Sandboxes(caller.Namespace).Get(ctx, params.SandboxId, metav1.GetOptions{})
	if err != nil {
		return nil, err
	}
	if refusal := refuseSource(sandbox); refusal != nil {
		return nil, refusal
	}
	wanted := &v1alpha1.SandboxSnapshot{
		ObjectMeta: metav1.ObjectMeta{Name: string(uuid.NewUUID())},
		Spec:       v1alpha1.SandboxSnapshotSpec{SandboxName: sandbox.Name},
	}
	if name, given := req.Value.Name.Get(); given {
		wanted.Annotations = map[string]string{v1alpha1.AnnotationDisplayName: name}
	}
	created, err := caller.Lifecycle.LifecycleV1alpha1().SandboxSnapshots(caller.Namespace).Create(ctx, wanted, metav1.CreateOptions{})
	if err != nil {
		return nil, err
	}
	return &httpapi.SnapshotHeaders{Location: inbound.From(ctx).Base + "/snapshots/" + created.Name, Response: shown(created)}, nil
}

// GetSnapshot reads a snapshot, of whatever kind: a sandbox that was made from that of a pause names it.
func (Handler) GetSnapshot(ctx context.Context, params httpapi.GetSnapshotParams) (*httpapi.Snapshot, error) {
	snapshot, err := get(ctx, params.SnapshotId)
	if err != nil {
		return nil, err
	}
	answer := shown(snapshot)
	return &answer, nil
}

// DeleteSnapshot has a snapshot deleted, and its images. Until they are gone it is Deleting, and a repeat changes nothing.
func (Handler) DeleteSnapshot(ctx context.Context, params httpapi.DeleteSnapshotParams) error {
	caller := identity.From(ctx)
	snapshot, err := get(ctx, params.SnapshotId)
	if err != nil {
		return err
	}
	// What the snapshot says by itself needs no look at the sandboxes.
	if refusal := refuseDeletion(snapshot, nil); refusal != nil {
		return refusal
	}
	if snapshot.DeletionTimestamp != nil {
		return nil
	}
	var users []string
	if err := eachSandbox(ctx, func(sandbox *v1alpha1.Sandbox) {
		if needs(sandbox, snapshot.Name) {
			users = append(users, sandbox.Name)
		}
	}); err != nil {
		return err
	}
	if refusal := refuseDeletion(snapshot, users); refusal != nil {
		return refusal
	}
	// The one that was looked at, and none that was made under its name since.
	return caller.Lifecycle.LifecycleV1alpha1().SandboxSnapshots(caller.Namespace).Delete(ctx, snapshot.Name,
		metav1.DeleteOptions{Preconditions: &metav1.Preconditions{UID: &snapshot.UID}})
}

func get(ctx context.Context, id string) (*v1alpha1.SandboxSnapshot, error) {
	caller := identity.From(ctx)
	return caller.Lifecycle.LifecycleV1alpha1().SandboxSnapshots(caller.Namespace).Get(ctx, id, metav1.GetOptions{})
}
