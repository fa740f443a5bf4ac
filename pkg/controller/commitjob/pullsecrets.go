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

package commitjob

import (
	"context"
	"fmt"
	"maps"
	"path"
	"slices"

	batchv1 "k8s.io/api/batch/v1"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/utils/ptr"
)

const (
	pullSecretsVolume = "pull-secrets"
	pullSecretsDir    = "/etc/image-committer/base-registries"
)

// PullSecrets are the credentials for the registries that a Pod's images come from.
type PullSecrets struct {
	// Files are configurations as .dockerconfigjson has them, by names of files.
	Files map[string][]byte
	// Hint says which of the Pod's pull secrets are not among them and what to do, for when
	// one is missed. Empty: all are.
	Hint string
}

// Take makes the Job take credentials that HandOver gives it.
func (p PullSecrets) Take(job *batchv1.Job) {
	pod := &job.Spec.Template.Spec
	container := &pod.Containers[0]
	if p.Hint != "" {
		container.Args = append(container.Args, "--base-registry-hint="+p.Hint)
	}
	if len(p.Files) == 0 {
		return
	}
	// The Secret is named as the Job: its Pod waits until it is there.
	mount(pod, pullSecretsVolume, pullSecretsDir, corev1.VolumeSource{Secret: &corev1.SecretVolumeSource{
		SecretName: job.Name, DefaultMode: ptr.To[int32](0o400),
	}})
	for _, name := range slices.Sorted(maps.Keys(p.Files)) {
		container.Args = append(container.Args, "--base-registry-config="+path.Join(pullSecretsDir, name))
	}
}

// TakesPullSecrets is whether a Job waits for what HandOver creates.
func TakesPullSecrets(job *batchv1.Job) bool {
	return slices.ContainsFunc(job.Spec.Template.Spec.Volumes, func(v corev1.Volume) bool { return v.Name == pullSecretsVolume })
}

// HandOver creates the Secret that the Job waits for. It belongs to the Job and goes with it.
func (r *Runner) HandOver(ctx context.Context, job *batchv1.Job, secrets PullSecrets) error {
	secret := &corev1.Secret{
		ObjectMeta: metav1.ObjectMeta{
			Namespace: job.Namespace, Name: job.Name, Labels: job.Labels,
			OwnerReferences: []metav1.OwnerReference{*metav1.NewControllerRef(job, batchv1.SchemeGroupVersion.WithKind("Job"))},
		},
		Immutable: ptr.To(true),
		Type:      corev1.SecretTypeOpaque,
		Data:      secrets.Files,
	}
	// The one that exists is of an earlier visit: the name is that of this Job alone.
	if err := r.Client.Create(ctx, secret); err != nil && !apierrors.IsAlreadyExists(err) {
		return fmt.Errorf("create Secret %s/%s, which hands the Pod's pull secrets to the commit Job: %w", secret.Namespace, secret.Name, err)
	}
	return nil
}
