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

package sandboxes

import (
	"encoding/base64"
	"encoding/json"
	"strings"

	"github.com/distribution/reference"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/util/rand"

	"github.com/opensandbox-io/sandbox-apiserver/apis/lifecycle/v1alpha1"
)

// pullSecretSuffix ends the names of the Secrets that hold what callers say in image.auth.
const pullSecretSuffix = ".image-pull"

// newPullSecretName is another one each time: the Secret of a sandbox that was of the same id before may still be there, and who
// may create Secrets may not be one to read or delete them.
func newPullSecretName(id string) string { return id + "." + rand.String(8) + pullSecretSuffix }

func isPullSecret(name string) bool { return strings.HasSuffix(name, pullSecretSuffix) }

// pullSecretOf is the name that a sandbox's template has for it; empty where it has none.
func pullSecretOf(sandbox *v1alpha1.Sandbox) string {
	if sandbox.Spec.Template != nil {
		for _, secret := range sandbox.Spec.Template.Spec.ImagePullSecrets {
			if isPullSecret(secret.Name) {
				return secret.Name
			}
		}
	}
	return ""
}

// ownerOf has the garbage collector delete an object with its sandbox. It does not hold up the sandbox's own end.
func ownerOf(sandbox *v1alpha1.Sandbox) metav1.OwnerReference {
	return metav1.OwnerReference{APIVersion: v1alpha1.SchemeGroupVersion.String(), Kind: "Sandbox", Name: sandbox.Name, UID: sandbox.UID}
}

// dependents are the objects beside a sandbox that its Pod needs. They are written after the sandbox, which owns them, and
// before the answer: a Pod waits for both, so whatever is between has the sandbox wait, and the same request once more mends
// it. Before the sandbox, they would be left without an owner, with a password in one.
type dependents struct {
	secret *corev1.Secret
	claims []wantedClaim
}

// wantedClaim is a claim that is to be there; create is whether it is made where it is not.
type wantedClaim struct {
	at     int
	object *corev1.PersistentVolumeClaim
	create bool
}

func (c *creation) dependents(sandbox *v1alpha1.Sandbox) (dependents, error) {
	var wanted dependents
	owner := ownerOf(sandbox)
	if name := pullSecretOf(sandbox); name != "" && c.Image != nil && c.Image.Private {
		content, err := c.Image.dockerConfig()
		if err != nil {
			return dependents{}, err
		}
		wanted.secret = &corev1.Secret{
			ObjectMeta: metav1.ObjectMeta{Namespace: sandbox.Namespace, Name: name, OwnerReferences: []metav1.OwnerReference{owner}},
			Type:       corev1.SecretTypeDockerConfigJson,
			Data:       map[string][]byte{corev1.DockerConfigJsonKey: content},
		}
	}
	for i := range c.Volumes {
		if claim := c.Volumes[i].Claim; claim != nil {
			wanted.claims = append(wanted.claims, wantedClaim{at: i, object: claim.object(sandbox.Namespace, owner), create: claim.Create})
		}
	}
	return wanted, nil
}

// dockerConfig is what the kubelet reads. Docker Hub has a name of its own there.
// https://kubernetes.io/docs/concepts/containers/images/#config-json
func (i *image) dockerConfig() ([]byte, error) {
	named, err := reference.ParseNormalizedNamed(i.URI)
	if err != nil {
		return nil, err
	}
	registry := reference.Domain(named)
	if registry == "docker.io" {
		registry = "https://index.docker.io/v1/"
	}
	return json.Marshal(map[string]any{"auths": map[string]any{registry: map[string]string{
		"username": i.Username, "password": i.Password,
		"auth": base64.StdEncoding.EncodeToString([]byte(i.Username + ":" + i.Password)),
	}}})
}
