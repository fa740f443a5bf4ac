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

	"github.com/opensandbox-io/sandbox-apiserver/apis/lifecycle/contents"
	"github.com/opensandbox-io/sandbox-apiserver/apis/lifecycle/v1alpha1"
	"github.com/opensandbox-io/sandbox-apiserver/pkg/committer/registry"
	"github.com/opensandbox-io/sandbox-apiserver/pkg/committer/result"
	"github.com/opensandbox-io/sandbox-apiserver/pkg/controller/commitjob"
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

// copying is the machine of a user's snapshot of a paused sandbox: its files are in the registry already,
// so it gets manifests of its own over the same blobs, in a moment and without a Job. What it is about to
// push is told before, and each image when it is there: where it ends half-way, its deletion knows of them.
func (o *observed) copying() action {
	switch {
	case o.from == nil:
		return action{do: checkCopy}
	case o.from.refusal != nil:
		return o.refuse(o.from.refusal)
	}
	from, next := o.from.copied, o.next()
	if o.says() != v1alpha1.ReasonCopying {
		next.SandboxUID, next.Template = o.sandbox.UID, o.sandbox.Spec.Template
		next.SourcePodName, next.SourcePodUID, next.SourceNodeName = from.Status.SourcePodName, from.Status.SourcePodUID, from.Status.SourceNodeName
		next.Containers, next.StartTime = o.from.source.Containers, &metav1.Time{Time: o.now}
		next.Warnings = nil
		for _, warning := range from.Status.Warnings {
			if warning.ContainerName == "" || slices.ContainsFunc(next.Containers, func(c v1alpha1.ContainerSnapshot) bool { return c.ContainerName == warning.ContainerName }) {
				next.Warnings = append(next.Warnings, warning)
			}
		}
		next.set(v1alpha1.ConditionReady, false, v1alpha1.ReasonCopying, "%d images of snapshot %s get manifests of their own", len(next.Containers), from.Name)
		return o.write(next)
	}
	if next.SourcePodUID != from.Status.SourcePodUID {
		return o.refuse(refuse(v1alpha1.ReasonSourcePodReplaced, "sandbox %s was resumed and paused again while its images were being copied: create another snapshot", o.sandbox.Name))
	}
	if o.copied != nil {
		if o.copied.refusal != nil {
			return o.refuse(o.copied.refusal)
		}
		next.Containers[toCopy(next.Containers)].ImageDigest = o.copied.digest
	}
	switch {
	case toCopy(next.Containers) < 0:
		next.FrozenDuration = &metav1.Duration{}
		return o.succeed(next, "%d images are in the registry", imagesThere)
	case o.copied != nil:
		return o.write(next)
	}
	return action{do: copyImage}
}

// toCopy is the first container that has no image yet, or -1.
func toCopy(containers []v1alpha1.ContainerSnapshot) int {
	return slices.IndexFunc(containers, func(c v1alpha1.ContainerSnapshot) bool { return c.ImageDigest == "" })
}

// copiedImage is the image of one container, or why it could not be made.
type copiedImage struct {
	digest  string
	refusal *refusal
}

// copySource finds what a copy is made of, and what it would fail for.
func (r *Reconciler) copySource(ctx context.Context, snapshot *v1alpha1.SandboxSnapshot, sandbox *v1alpha1.Sandbox) (*foundSource, error) {
	from, chosen, err := r.saved(ctx, snapshot, sandbox)
	if why := (*refusal)(nil); errors.As(err, &why) {
		return &foundSource{refusal: why}, nil
	}
	if err != nil {
		return nil, err
	}
	for i := range chosen {
		chosen[i].ImageURI, chosen[i].ImageDigest = r.reference(snapshot, chosen[i].ContainerName), ""
	}
	return &foundSource{copied: from, source: &commitjob.Source{Containers: chosen}}, nil
}

func (r *Reconciler) saved(ctx context.Context, snapshot *v1alpha1.SandboxSnapshot, sandbox *v1alpha1.Sandbox) (*v1alpha1.SandboxSnapshot, []v1alpha1.ContainerSnapshot, error) {
	if !r.Images.Configured() {
		return nil, nil, refuse(v1alpha1.ReasonRegistryNotConfigured, "the server has no registry to push to: start it with --snapshot-registry")
	}
	from := &v1alpha1.SandboxSnapshot{}
	key := client.ObjectKey{Namespace: sandbox.Namespace, Name: sandbox.Status.SnapshotName}
	if err := r.Live.Get(ctx, key, from); err != nil {
		if apierrors.IsNotFound(err) {
			return nil, nil, refuse(v1alpha1.ReasonSourcePodNotFound, "sandbox %s is paused on snapshot %s, which does not exist", sandbox.Name, key.Name)
		}
		return nil, nil, fmt.Errorf("read snapshot %s: %w", key, err)
	}
	if from.Spec.Source != nil {
		// The server's account may read what the tenant may not: it copies only what it has made itself.
		return nil, nil, refuse(v1alpha1.ReasonSourcePodNotFound, "sandbox %s is paused on snapshot %s, which was made of existing images: "+
			"create another with the same spec.source, or resume and pause the sandbox first", sandbox.Name, from.Name)
	}
	chosen, err := chooseSaved(snapshot, from)
	if err != nil {
		return nil, nil, err
	}
	for i := range chosen {
		if sandbox.Spec.Template != nil && !contents.SameResources(sandbox.Spec.Template, from.Status.Template, chosen[i].ContainerName) {
			chosen[i].Resources = nil // somebody has written others into the template since, and those win
		}
		// A status is only as good as whoever could write it, and the server's account may read every tenant's images.
		if chosen[i].ImageURI != r.reference(from, chosen[i].ContainerName) {
			return nil, nil, refuse(v1alpha1.ReasonRegistryUnavailable, "container %s: its image %s in snapshot %s is not where this server would have pushed it: --snapshot-registry or "+
				"--snapshot-image-template has changed since; resume the sandbox and make the snapshot then", chosen[i].ContainerName, chosen[i].ImageURI, from.Name)
		}
	}
	if err := r.checks().checkPushSecret(ctx); err != nil {
		return nil, nil, err
	}
	return from, chosen, r.checks().checkNames(snapshot, chosen)
}

// copyImage gives the next container an image of its own.
func (r *Reconciler) copyImage(ctx context.Context, snapshot, from *v1alpha1.SandboxSnapshot) *copiedImage {
	next := snapshot.Status.Containers[toCopy(snapshot.Status.Containers)]
	at := slices.IndexFunc(from.Status.Containers, func(c v1alpha1.ContainerSnapshot) bool { return c.ContainerName == next.ContainerName })
	if at < 0 {
		return &copiedImage{refusal: refuse(v1alpha1.ReasonContainerNotFound, "snapshot %s has no container %s", from.Name, next.ContainerName)}
	}
	saved := &from.Status.Containers[at]
	digest, err := r.Registry.Duplicate(ctx, saved.ImageURI, saved.ImageDigest, next.ImageURI, map[string]string{snapshotUIDAnnotation: string(snapshot.UID)})
	switch {
	case errors.Is(err, registry.ErrOutOfReach):
		return &copiedImage{refusal: refuse(v1alpha1.ReasonRegistryUnavailable, "container %s: %v; resume the sandbox and make the snapshot then", next.ContainerName, err)}
	case err != nil:
		return &copiedImage{refusal: refuse(string(result.From(err).Reason), "container %s: %v", next.ContainerName, err)}
	}
	return &copiedImage{digest: digest}
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
