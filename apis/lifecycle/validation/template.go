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

package validation

import (
	"encoding/json"
	"fmt"

	corev1 "k8s.io/api/core/v1"
	apivalidation "k8s.io/apimachinery/pkg/api/validation"
	metav1validation "k8s.io/apimachinery/pkg/apis/meta/v1/validation"
	"k8s.io/apimachinery/pkg/util/sets"
	"k8s.io/apimachinery/pkg/util/validation"
	"k8s.io/apimachinery/pkg/util/validation/field"
)

// maxTemplateBytes bounds a template in JSON. A snapshot's status repeats it, and every watcher
// of sandboxes receives it with each change.
const maxTemplateBytes = 64 << 10

// validateTemplate checks the shape of a Pod template. The rules that only the Pod API knows
// are left to it: a Pod that it refuses shows as the reason PodRejected.
func validateTemplate(template *corev1.PodTemplateSpec, path *field.Path) field.ErrorList {
	if errs := validateTemplateSize(template, maxTemplateBytes, path); errs != nil {
		return errs
	}
	return validateTemplateContent(template, path)
}

// validateTemplateUpdate checks a template that has changed, or come, or gone: what is wrong with it
// that was not wrong before. One that is too large already may have other things changed, as long
// as it does not grow.
func validateTemplateUpdate(template, old *corev1.PodTemplateSpec, path *field.Path) field.ErrorList {
	switch {
	case template == nil:
		return nil
	case old == nil:
		return validateTemplate(template, path)
	}
	if errs := validateTemplateSize(template, maxTemplateBytes, path); errs != nil {
		before, err := templateBytes(old)
		if err != nil || validateTemplateSize(template, max(before, maxTemplateBytes), path) != nil {
			return errs
		}
	}
	return newFaults(validateTemplateContent(template, path), func() field.ErrorList {
		return validateTemplateContent(old, path)
	})
}

// validateTemplateSize says nothing of the rest: the answer would repeat what is too long.
func validateTemplateSize(template *corev1.PodTemplateSpec, most int, path *field.Path) field.ErrorList {
	bytes, err := templateBytes(template)
	if err != nil {
		return field.ErrorList{field.InternalError(path, err)}
	}
	if bytes <= most {
		return nil
	}
	return field.ErrorList{field.Invalid(path, fmt.Sprintf("%d bytes of JSON", bytes),
		fmt.Sprintf("must have at most %d bytes of JSON; move large data into a ConfigMap or a volume", most))}
}

func templateBytes(template *corev1.PodTemplateSpec) (int, error) {
	encoded, err := json.Marshal(template)
	if err != nil {
		return 0, fmt.Errorf("encoding the template: %w", err)
	}
	return len(encoded), nil
}

func validateTemplateContent(template *corev1.PodTemplateSpec, path *field.Path) field.ErrorList {
	errs := metav1validation.ValidateLabels(template.Labels, path.Child("metadata", "labels"))
	errs = append(errs, apivalidation.ValidateAnnotations(template.Annotations, path.Child("metadata", "annotations"))...)

	spec := path.Child("spec")
	if len(template.Spec.Containers) == 0 {
		errs = append(errs, field.Required(spec.Child("containers"), "a sandbox needs at least one container"))
	}
	for i := range template.Spec.EphemeralContainers {
		errs = append(errs, field.Forbidden(spec.Child("ephemeralContainers").Index(i), "ephemeral containers can only be added to a running Pod"))
	}
	volumes, volumeErrs := validateVolumes(template.Spec.Volumes, spec.Child("volumes"))
	errs = append(errs, volumeErrs...)
	// Names are unique over both kinds: they share the names of the Pod's container statuses.
	names := sets.New[string]()
	errs = append(errs, validateContainers(template.Spec.InitContainers, names, volumes, spec.Child("initContainers"))...)
	errs = append(errs, validateContainers(template.Spec.Containers, names, volumes, spec.Child("containers"))...)
	for i, secret := range template.Spec.ImagePullSecrets {
		errs = append(errs, validateName(secret.Name, apivalidation.NameIsDNSSubdomain, spec.Child("imagePullSecrets").Index(i).Child("name"))...)
	}
	return errs
}

func validateVolumes(volumes []corev1.Volume, path *field.Path) (sets.Set[string], field.ErrorList) {
	var errs field.ErrorList
	names := sets.New[string]()
	for i, volume := range volumes {
		name := path.Index(i).Child("name")
		errs = append(errs, validateName(volume.Name, apivalidation.NameIsDNSLabel, name)...)
		if names.Has(volume.Name) {
			errs = append(errs, field.Duplicate(name, volume.Name))
		}
		names.Insert(volume.Name)
	}
	return names, errs
}

func validateContainers(containers []corev1.Container, names, volumes sets.Set[string], path *field.Path) field.ErrorList {
	var errs field.ErrorList
	for i, container := range containers {
		path := path.Index(i)
		errs = append(errs, validateName(container.Name, apivalidation.NameIsDNSLabel, path.Child("name"))...)
		if names.Has(container.Name) {
			errs = append(errs, field.Duplicate(path.Child("name"), container.Name))
		}
		names.Insert(container.Name)
		if container.Image == "" {
			errs = append(errs, field.Required(path.Child("image"), "the image that the container starts from before its first pause"))
		}
		for j, variable := range container.Env {
			if variable.Name == "" {
				errs = append(errs, field.Required(path.Child("env").Index(j).Child("name"), ""))
			}
		}
		for j, port := range container.Ports {
			for _, message := range validation.IsValidPortNum(int(port.ContainerPort)) {
				errs = append(errs, field.Invalid(path.Child("ports").Index(j).Child("containerPort"), port.ContainerPort, message))
			}
		}
		for j, mount := range container.VolumeMounts {
			if !volumes.Has(mount.Name) {
				errs = append(errs, field.NotFound(path.Child("volumeMounts").Index(j).Child("name"), mount.Name))
			}
			if mount.MountPath == "" {
				errs = append(errs, field.Required(path.Child("volumeMounts").Index(j).Child("mountPath"), ""))
			}
		}
	}
	return errs
}

// maxContainerNames is more than any Pod has containers.
const maxContainerNames = 256

// validateContainerNames checks a list that names containers of a template.
func validateContainerNames(names []string, path *field.Path) field.ErrorList {
	if len(names) > maxContainerNames {
		return field.ErrorList{field.TooMany(path, len(names), maxContainerNames)}
	}
	var errs field.ErrorList
	seen := sets.New[string]()
	for i, name := range names {
		errs = append(errs, validateName(name, apivalidation.NameIsDNSLabel, path.Index(i))...)
		if seen.Has(name) {
			errs = append(errs, field.Duplicate(path.Index(i), name))
		}
		seen.Insert(name)
	}
	return errs
}

func validateName(name string, valid apivalidation.ValidateNameFunc, path *field.Path) field.ErrorList {
	if name == "" {
		return field.ErrorList{field.Required(path, "")}
	}
	var errs field.ErrorList
	for _, message := range valid(name, false) {
		errs = append(errs, field.Invalid(path, name, message))
	}
	return errs
}
