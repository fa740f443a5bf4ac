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
	"maps"
	"slices"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/utils/ptr"

	"github.com/opensandbox-io/sandbox-apiserver/apis/lifecycle/v1alpha1"
	"github.com/opensandbox-io/sandbox-apiserver/pkg/gateway/injection"
)

// defaultEntrypoint is that of a sandbox from a snapshot whose caller names none.
var defaultEntrypoint = []string{"tail", "-f", "/dev/null"}

// sandbox makes the object. from is the snapshot that the sandbox starts from, nil where that is an image.
func (c *creation) sandbox(identity identityOf, from *v1alpha1.SandboxSnapshot, settings *Settings) (*v1alpha1.Sandbox, error) {
	annotations, err := annotationsOf(c.Extensions)
	if err != nil {
		return nil, err
	}
	annotations = set(annotations, annotationRequest, identity.fingerprint)
	if c.SecureAccess {
		annotations[v1alpha1.AnnotationSecureAccess] = "true"
	}
	object := &v1alpha1.Sandbox{
		ObjectMeta: metav1.ObjectMeta{Namespace: identity.namespace, Name: identity.id, Labels: maps.Clone(c.Metadata), Annotations: annotations},
		Spec:       v1alpha1.SandboxSpec{ExpireTime: c.expires(settings.now())},
	}
	if object.Spec.ExpireTime != nil {
		object.Spec.ExpireAction = v1alpha1.ExpireActionDelete
	}

	container := injection.Container
	switch from {
	case nil:
		object.Spec.Template, err = c.templateOfImage(identity.secret)
		object.Spec.Snapshot.Containers = []string{injection.Container}
	default:
		object.Spec.RestoreFrom = &v1alpha1.SandboxRestoreSource{SnapshotName: from.Name}
		object.Spec.Template, container, err = c.templateOfSnapshot(from)
		for i := range from.Status.Containers {
			object.Spec.Snapshot.Containers = append(object.Spec.Snapshot.Containers, from.Status.Containers[i].ContainerName)
		}
	}
	if err != nil {
		return nil, err
	}
	entrypoint := c.Entrypoint
	if len(entrypoint) == 0 {
		entrypoint = defaultEntrypoint
	}
	if err := settings.Execd.Into(object.Spec.Template, container, entrypoint, identity.id); err != nil {
		if from == nil {
			return nil, err
		}
		return nil, conflict(codeSnapshotConfig, "snapshotId: the template of snapshot %q has no room for execd: %v", from.Name, err)
	}
	return object, nil
}

// templateOfImage is one container. What runs in it is the caller's, so nothing of the cluster is put into it: no token of a
// service account, no addresses of services.
func (c *creation) templateOfImage(secret string) (*corev1.PodTemplateSpec, error) {
	resources, err := c.resources()
	if err != nil {
		return nil, err
	}
	container := corev1.Container{Name: injection.Container, Image: c.Image.URI, Env: c.environment(nil), Resources: resources}
	template := &corev1.PodTemplateSpec{Spec: corev1.PodSpec{
		// One that is restarted in place would begin with fresh files.
		RestartPolicy:                corev1.RestartPolicyNever,
		AutomountServiceAccountToken: ptr.To(false),
		EnableServiceLinks:           ptr.To(false),
		NodeSelector:                 c.Platform.selector(nil),
	}}
	if c.Image.Private {
		template.Spec.ImagePullSecrets = []corev1.LocalObjectReference{{Name: secret}}
	}
	c.mountInto(template, &container)
	template.Spec.Containers = []corev1.Container{container}
	return template, nil
}

// templateOfSnapshot is the template of the sandbox that the snapshot was made of, with what the caller says of this one, and the
// name of the container that it is said of.
func (c *creation) templateOfSnapshot(from *v1alpha1.SandboxSnapshot) (*corev1.PodTemplateSpec, string, error) {
	if from.Status.Template == nil || len(from.Status.Template.Spec.Containers) == 0 {
		return nil, "", conflict(codeSnapshotConfig, "snapshotId: snapshot %q has no template that says what runs in its sandbox; make the sandbox with kubectl, with spec.restoreFrom and a template of its own", from.Name)
	}
	template := from.Status.Template.DeepCopy()
	pod := &template.Spec
	ours := injection.Injected(pod)
	injection.Remove(template)
	at := max(0, slices.IndexFunc(pod.Containers, func(c corev1.Container) bool { return c.Name == injection.Container }))
	container := &pod.Containers[at]
	if ours {
		// They are what the other sandbox's caller has mounted, and this one's has not.
		pod.Volumes, container.VolumeMounts = nil, nil
		// It goes with the other sandbox, and the snapshot's images are not there where it is for.
		pod.ImagePullSecrets = slices.DeleteFunc(pod.ImagePullSecrets, func(r corev1.LocalObjectReference) bool { return isPullSecret(r.Name) })
	}
	container.Env = c.environment(container.Env)
	if len(c.Limits) > 0 {
		resources, err := c.resources()
		if err != nil {
			return nil, "", err
		}
		container.Resources = resources
	}
	pod.NodeSelector = c.Platform.selector(pod.NodeSelector)
	for _, volume := range c.Volumes {
		if slices.ContainsFunc(pod.Volumes, func(v corev1.Volume) bool { return v.Name == volume.Name }) {
			return nil, "", badRequest(codeVolumeDuplicate, "volumes: the template of snapshot %q has a volume %q already; use another name", from.Name, volume.Name)
		}
	}
	c.mountInto(template, container)
	return template, container.Name, nil
}

// environment is what there is, with the caller's variables after it, or instead of those of the same name.
func (c *creation) environment(there []corev1.EnvVar) []corev1.EnvVar {
	env := slices.DeleteFunc(slices.Clone(there), func(v corev1.EnvVar) bool {
		_, said := c.Env[v.Name]
		return said
	})
	for _, name := range slices.Sorted(maps.Keys(c.Env)) {
		env = append(env, corev1.EnvVar{Name: name, Value: injection.Literal(c.Env[name])})
	}
	return env
}

func (c *creation) mountInto(template *corev1.PodTemplateSpec, container *corev1.Container) {
	for i := range c.Volumes {
		volume := &c.Volumes[i]
		template.Spec.Volumes = append(template.Spec.Volumes, corev1.Volume{Name: volume.Name, VolumeSource: volume.source()})
		container.VolumeMounts = append(container.VolumeMounts, volume.mount())
	}
}

// selector adds what is said of the platform to what is there.
func (p *platform) selector(there map[string]string) map[string]string {
	if p == nil {
		return there
	}
	return set(set(maps.Clone(there), corev1.LabelOSStable, p.OS), corev1.LabelArchStable, p.Arch)
}

// platformOf is the way back; nil where the template does not say both.
func platformOf(selector map[string]string) *platform {
	p := &platform{OS: selector[corev1.LabelOSStable], Arch: selector[corev1.LabelArchStable]}
	if p.OS == "" || p.Arch == "" {
		return nil
	}
	return p
}

func set(in map[string]string, key, value string) map[string]string {
	if in == nil {
		in = map[string]string{}
	}
	in[key] = value
	return in
}
