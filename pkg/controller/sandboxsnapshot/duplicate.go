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
	"errors"
	"fmt"
	"slices"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/opensandbox-io/sandbox-apiserver/apis/lifecycle/v1alpha1"
	"github.com/opensandbox-io/sandbox-apiserver/pkg/committer/registry"
	"github.com/opensandbox-io/sandbox-apiserver/pkg/committer/result"
	"github.com/opensandbox-io/sandbox-apiserver/pkg/controller/naming"
)

// snapshotUIDAnnotation makes manifests unique, as image-committer does: to delete one by digest
// must never delete another's.
const snapshotUIDAnnotation = v1alpha1.LabelPrefix + "snapshot-uid"

// reference is where the image of a container of the snapshot belongs.
func (r *Reconciler) reference(snapshot *v1alpha1.SandboxSnapshot, container string) string {
	return r.Images.Reference(imageOf(snapshot, container))
}

func imageOf(snapshot *v1alpha1.SandboxSnapshot, container string) naming.Image {
	return naming.Image{
		Namespace: snapshot.Namespace, Sandbox: snapshot.Spec.SandboxName, Container: container,
		Attempt: naming.Attempt(snapshot.Name), SnapshotUID: snapshot.UID,
	}
}

// duplicate makes a user's snapshot of a paused sandbox: its files are in the registry already,
// so it gets manifests of its own over the same blobs, in a moment and without a Job.
func (r *Reconciler) duplicate(ctx context.Context, snapshot *v1alpha1.SandboxSnapshot, sandbox *v1alpha1.Sandbox) error {
	if !r.Images.Configured() {
		return refuse(v1alpha1.ReasonRegistryNotConfigured, "the server has no registry to push to: start it with --snapshot-registry")
	}
	from := &v1alpha1.SandboxSnapshot{}
	key := client.ObjectKey{Namespace: sandbox.Namespace, Name: sandbox.Status.SnapshotName}
	if err := r.Live.Get(ctx, key, from); err != nil {
		if apierrors.IsNotFound(err) {
			return refuse(v1alpha1.ReasonSourcePodNotFound, "sandbox %s is paused on snapshot %s, which does not exist", sandbox.Name, key.Name)
		}
		return fmt.Errorf("read snapshot %s: %w", key, err)
	}
	if from.Spec.Source != nil {
		// The server's account may read what the tenant may not: it copies only what it has made itself.
		return refuse(v1alpha1.ReasonSourcePodNotFound, "sandbox %s is paused on snapshot %s, which was made of existing images: "+
			"create another with the same spec.source, or resume and pause the sandbox first", sandbox.Name, from.Name)
	}
	chosen, err := chooseSaved(snapshot, from)
	if err != nil {
		return err
	}
	for i := range chosen {
		// A status is only as good as whoever could write it, and the server's account may read every tenant's images.
		if chosen[i].ImageURI != r.reference(from, chosen[i].ContainerName) {
			return refuse(v1alpha1.ReasonRegistryUnavailable, "container %s: its image %s in snapshot %s is not where this server would have pushed it: --snapshot-registry or "+
				"--snapshot-image-template has changed since; resume the sandbox and make the snapshot then", chosen[i].ContainerName, chosen[i].ImageURI, from.Name)
		}
	}
	if err := r.checks().checkPushSecret(ctx); err != nil {
		return err
	}
	if err := r.checks().checkNames(snapshot, chosen); err != nil {
		return err
	}
	for i := range chosen {
		target := r.reference(snapshot, chosen[i].ContainerName)
		digest, err := r.Registry.Duplicate(ctx, chosen[i].ImageURI, chosen[i].ImageDigest, target, map[string]string{snapshotUIDAnnotation: string(snapshot.UID)})
		if errors.Is(err, registry.ErrOutOfReach) {
			return refuse(v1alpha1.ReasonRegistryUnavailable, "container %s: %v; resume the sandbox and make the snapshot then", chosen[i].ContainerName, err)
		}
		if err != nil {
			return refuse(string(result.From(err).Reason), "container %s: %v", chosen[i].ContainerName, err)
		}
		chosen[i].ImageURI, chosen[i].ImageDigest = target, digest
	}
	now := r.now()
	status := &snapshot.Status
	status.SandboxUID, status.Template = sandbox.UID, sandbox.Spec.Template
	status.SourcePodName, status.SourcePodUID, status.SourceNodeName = from.Status.SourcePodName, from.Status.SourcePodUID, from.Status.SourceNodeName
	status.Containers, status.StartTime = chosen, now
	for _, warning := range from.Status.Warnings {
		if warning.ContainerName == "" || slices.ContainsFunc(chosen, func(c v1alpha1.ContainerSnapshot) bool { return c.ContainerName == warning.ContainerName }) {
			status.Warnings = append(status.Warnings, warning)
		}
	}
	status.FrozenDuration = &metav1.Duration{}
	return r.succeed(ctx, snapshot)
}

// chooseSaved are the containers that a snapshot of a paused sandbox takes over.
func chooseSaved(snapshot, from *v1alpha1.SandboxSnapshot) ([]v1alpha1.ContainerSnapshot, error) {
	if len(snapshot.Spec.Containers) == 0 {
		return slices.Clone(from.Status.Containers), nil
	}
	var chosen []v1alpha1.ContainerSnapshot
	for _, name := range snapshot.Spec.Containers {
		at := slices.IndexFunc(from.Status.Containers, func(c v1alpha1.ContainerSnapshot) bool { return c.ContainerName == name })
		if at < 0 {
			return nil, refuse(v1alpha1.ReasonContainerNotFound, "snapshot %s, on which the sandbox is paused, has no container %s", from.Name, name)
		}
		chosen = append(chosen, from.Status.Containers[at])
	}
	return chosen, nil
}
