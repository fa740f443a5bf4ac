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
	"encoding/json"
	"fmt"
	"slices"
	"strings"

	batchv1 "k8s.io/api/batch/v1"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/opensandbox-io/sandbox-apiserver/apis/lifecycle/v1alpha1"
	"github.com/opensandbox-io/sandbox-apiserver/pkg/controller/commitjob"
)

// maxPullSecrets is the size of a Secret, which takes them all.
const maxPullSecrets = corev1.MaxSecretSize - 64<<10

// pullSecretsOf are the names of a Pod's pull secrets. Those of its service account are among
// them: admission has copied them. What a resumed Pod pulls its snapshot with is not: it is for
// the snapshot registry, where the push secret does.
func pullSecretsOf(pod *corev1.Pod, resumePullSecret string) []string {
	var names []string
	for _, reference := range pod.Spec.ImagePullSecrets {
		if reference.Name != "" && reference.Name != resumePullSecret && !slices.Contains(names, reference.Name) {
			names = append(names, reference.Name)
		}
	}
	return names
}

// pullSecrets reads pull secrets, for base images whose layers the node has not kept. One that
// cannot be read is no failure, for nearly always the layers are there.
func (r *Reconciler) pullSecrets(ctx context.Context, namespace string, names []string) (commitjob.PullSecrets, error) {
	var secrets commitjob.PullSecrets
	var missed []string
	size := 0
	for _, name := range names {
		secret := &corev1.Secret{}
		key := client.ObjectKey{Namespace: namespace, Name: name}
		switch err := r.HostLive.Get(ctx, key, secret); {
		case apierrors.IsForbidden(err):
			missed = append(missed, fmt.Sprintf("the server may not read the pull secret %s (artifacts/examples/pull-secret-reader.yaml is a role that lets it)", key))
			continue
		case apierrors.IsNotFound(err):
			missed = append(missed, fmt.Sprintf("the pull secret %s does not exist", key))
			continue
		case err != nil:
			return secrets, fmt.Errorf("read pull secret %s: %w", key, err)
		}
		config := dockerConfig(secret)
		if config == nil {
			missed = append(missed, fmt.Sprintf("the pull secret %s, of type %s, holds no registry credentials", key, secret.Type))
			continue
		}
		if size += len(config); size > maxPullSecrets {
			missed = append(missed, fmt.Sprintf("the pull secret %s is too large to be handed over with those before it", key))
			continue
		}
		if secrets.Files == nil {
			secrets.Files = map[string][]byte{}
		}
		// In the order in which the kubelet tries them.
		secrets.Files[fmt.Sprintf("%02d.json", len(secrets.Files))] = config
	}
	secrets.Hint = strings.Join(missed, "; ")
	return secrets, nil
}

// dockerConfig is a Secret's registry credentials in the form of today, nil where it has none.
func dockerConfig(secret *corev1.Secret) []byte {
	switch secret.Type {
	case corev1.SecretTypeDockerConfigJson:
		if config := secret.Data[corev1.DockerConfigJsonKey]; json.Valid(config) {
			return config
		}
	case corev1.SecretTypeDockercfg:
		if auths := secret.Data[corev1.DockerConfigKey]; json.Valid(auths) {
			return append(append([]byte(`{"auths":`), auths...), '}')
		}
	}
	return nil
}

// handOver gives a Job the pull secrets that it waits for.
func (r *Reconciler) handOver(ctx context.Context, snapshot *v1alpha1.SandboxSnapshot, job *batchv1.Job) error {
	if !commitjob.TakesPullSecrets(job) {
		return nil
	}
	source, err := commitjob.SourceOf(job)
	if err != nil {
		return err
	}
	secrets, err := r.pullSecrets(ctx, snapshot.Namespace, source.PullSecrets)
	if err != nil {
		return err
	}
	return r.Jobs.HandOver(ctx, job, secrets)
}
