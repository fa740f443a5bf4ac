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
	"time"

	"github.com/prometheus/client_golang/prometheus"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/controller-runtime/pkg/log"
	"sigs.k8s.io/controller-runtime/pkg/metrics"

	"github.com/opensandbox-io/sandbox-apiserver/apis/lifecycle/v1alpha1"
	"github.com/opensandbox-io/sandbox-apiserver/pkg/committer/registry"
	"github.com/opensandbox-io/sandbox-apiserver/pkg/committer/result"
	"github.com/opensandbox-io/sandbox-apiserver/pkg/controller/naming"
)

const (
	// imageDeletionLimit is how long a registry may hold up the deletion of a snapshot, and with
	// it of a namespace. What it has not deleted by then stays.
	imageDeletionLimit = 10 * time.Minute
	// registryTimeout bounds one exchange with the registry.
	registryTimeout = 30 * time.Second
	// snapshotUIDAnnotation makes manifests unique, as image-committer does: to delete one by
	// digest must never delete another's.
	snapshotUIDAnnotation = v1alpha1.LabelPrefix + "snapshot-uid"
)

// imagesLeft counts the images that outlived their snapshot though they should not have.
var imagesLeft = prometheus.NewCounter(prometheus.CounterOpts{
	Name: "sandbox_snapshot_images_left_total",
	Help: "Images of deleted snapshots that could not be deleted from the registry.",
})

func init() {
	metrics.Registry.MustRegister(imagesLeft)
}

// Images is what the controller asks of the registry itself; layers are the committer's business.
type Images interface {
	Delete(ctx context.Context, image, digest string) error
	Duplicate(ctx context.Context, image, digest, target string, annotations map[string]string) (string, error)
}

// connect reaches the registry with the push secret as it is now.
func (r *Reconciler) connect(ctx context.Context) (Images, error) {
	options := registry.Options{Insecure: r.Jobs.RegistryInsecure}
	if name := r.Jobs.PushSecret; name != "" {
		secret := &corev1.Secret{}
		if err := r.HostLive.Get(ctx, client.ObjectKey{Namespace: r.Jobs.Namespace, Name: name}, secret); err != nil {
			return nil, fmt.Errorf("read Secret %s/%s: %w", r.Jobs.Namespace, name, err)
		}
		options.Config = secret.Data[corev1.DockerConfigJsonKey]
	}
	if name := r.Jobs.RegistryCA; name != "" {
		bundle := &corev1.ConfigMap{}
		if err := r.HostLive.Get(ctx, client.ObjectKey{Namespace: r.Jobs.Namespace, Name: name}, bundle); err != nil {
			return nil, fmt.Errorf("read ConfigMap %s/%s: %w", r.Jobs.Namespace, name, err)
		}
		options.CA = []byte(bundle.Data["ca.crt"])
	}
	return registry.New(options)
}

// deleteImages deletes what the snapshot pushed, as its policy says, and says whether the
// snapshot may go. Nothing is deleted but manifests by digest in the repository that this
// server would push the snapshot to now: whatever a status says, no other can be reached.
func (r *Reconciler) deleteImages(ctx context.Context, snapshot *v1alpha1.SandboxSnapshot) (bool, error) {
	if snapshot.Spec.DeletionPolicy == v1alpha1.DeletionPolicyRetain || snapshot.Status.Phase != v1alpha1.SnapshotSucceed {
		return true, nil
	}
	for i := range snapshot.Status.Containers {
		saved := &snapshot.Status.Containers[i]
		if !r.Images.Configured() || saved.ImageURI != r.reference(snapshot, saved.ContainerName) {
			r.leave(ctx, snapshot, saved, "it was pushed to another registry, or under another --snapshot-image-template, than this server's")
			continue
		}
		switch err := r.deleteImage(ctx, saved); {
		case err == nil:
		case errors.Is(err, registry.ErrDeleteUnsupported):
			r.leave(ctx, snapshot, saved, err.Error())
		case r.Clock.Since(snapshot.DeletionTimestamp.Time) > imageDeletionLimit:
			r.leave(ctx, snapshot, saved, err.Error())
		default:
			return false, errors.Join(err, r.deletionFails(ctx, snapshot, err))
		}
	}
	return true, nil
}

func (r *Reconciler) deleteImage(ctx context.Context, saved *v1alpha1.ContainerSnapshot) error {
	ctx, cancel := context.WithTimeout(ctx, registryTimeout)
	defer cancel()
	images, err := r.Registry(ctx)
	if err != nil {
		return err
	}
	return images.Delete(ctx, saved.ImageURI, saved.ImageDigest)
}

// leave says that an image stays behind.
func (r *Reconciler) leave(ctx context.Context, snapshot *v1alpha1.SandboxSnapshot, saved *v1alpha1.ContainerSnapshot, why string) {
	imagesLeft.Inc()
	image := saved.ImageURI + "@" + saved.ImageDigest
	log.FromContext(ctx).Info("An image of a deleted snapshot stays in the registry", "image", image, "why", why)
	r.Recorder.Eventf(snapshot, nil, corev1.EventTypeWarning, v1alpha1.EventImageLeft, "Delete", "image %s stays in the registry: %s; delete it there", image, why)
}

// deletionFails tells why the snapshot is still there.
func (r *Reconciler) deletionFails(ctx context.Context, snapshot *v1alpha1.SandboxSnapshot, why error) error {
	if before := meta.FindStatusCondition(snapshot.Status.Conditions, v1alpha1.ConditionReady); before != nil && before.Reason == v1alpha1.ReasonImageDeletionFailed {
		return nil
	}
	setCondition(snapshot, v1alpha1.ConditionReady, metav1.ConditionFalse, v1alpha1.ReasonImageDeletionFailed,
		"the snapshot is being deleted and waits for its images, for at most %s: %v", imageDeletionLimit, why)
	return r.writeStatus(ctx, snapshot)
}

// reference is where the image of a container of the snapshot belongs.
func (r *Reconciler) reference(snapshot *v1alpha1.SandboxSnapshot, container string) string {
	return r.Images.Reference(naming.Image{
		Namespace: snapshot.Namespace, Sandbox: snapshot.Spec.SandboxName, Container: container,
		Attempt: naming.Attempt(snapshot.Name), SnapshotUID: snapshot.UID,
	})
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
	chosen, err := chooseSaved(snapshot, from)
	if err != nil {
		return err
	}
	ctx, cancel := context.WithTimeout(ctx, registryTimeout)
	defer cancel()
	images, err := r.Registry(ctx)
	if err != nil {
		return refuse(v1alpha1.ReasonPushSecretInvalid, "%v", err)
	}
	for i := range chosen {
		target := r.reference(snapshot, chosen[i].ContainerName)
		digest, err := images.Duplicate(ctx, chosen[i].ImageURI, chosen[i].ImageDigest, target, map[string]string{snapshotUIDAnnotation: string(snapshot.UID)})
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

