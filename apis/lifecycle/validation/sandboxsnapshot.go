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
	"regexp"

	apiequality "k8s.io/apimachinery/pkg/api/equality"
	apivalidation "k8s.io/apimachinery/pkg/api/validation"
	metav1validation "k8s.io/apimachinery/pkg/apis/meta/v1/validation"
	"k8s.io/apimachinery/pkg/util/sets"
	"k8s.io/apimachinery/pkg/util/validation/field"

	"github.com/opensandbox-io/sandbox-apiserver/apis/lifecycle"
)

var (
	// pauseSnapshotName is the form of the names that the controller gives to a pause's snapshots.
	pauseSnapshotName = regexp.MustCompile(`-gen[0-9]+$`)

	snapshotPhases = sets.New(lifecycle.SnapshotPending, lifecycle.SnapshotCommitting,
		lifecycle.SnapshotSucceed, lifecycle.SnapshotFailed)
	finalSnapshotPhases = sets.New(lifecycle.SnapshotSucceed, lifecycle.SnapshotFailed)
)

// ValidateSandboxSnapshot checks a snapshot that is to be created. forPause says that the
// server itself creates it, for a pause.
func ValidateSandboxSnapshot(snapshot *lifecycle.SandboxSnapshot, forPause bool) field.ErrorList {
	// <sandbox>-gen<N> can be longer than a label.
	errs := validateMetadata(&snapshot.ObjectMeta, apivalidation.NameIsDNSSubdomain)
	if !forPause && pauseSnapshotName.MatchString(snapshot.Name) {
		errs = append(errs, field.Forbidden(field.NewPath("metadata", "name"),
			"names that end in -gen<number> are kept for the snapshots of pauses; choose another name"))
	}

	spec := field.NewPath("spec")
	errs = append(errs, validateName(snapshot.Spec.SandboxName, apivalidation.NameIsDNSLabel, spec.Child("sandboxName"))...)
	errs = append(errs, validateContainerNames(snapshot.Spec.Containers, spec.Child("containers"))...)
	return append(errs, validateDeletionPolicy(snapshot.Spec.DeletionPolicy, spec.Child("deletionPolicy"))...)
}

// ValidateSandboxSnapshotUpdate checks a change of a snapshot's metadata.
func ValidateSandboxSnapshotUpdate(snapshot, old *lifecycle.SandboxSnapshot) field.ErrorList {
	errs := validateMetadataUpdate(&snapshot.ObjectMeta, &old.ObjectMeta)
	if !apiequality.Semantic.DeepEqual(snapshot.Spec, old.Spec) {
		errs = append(errs, field.Forbidden(field.NewPath("spec"), "is immutable; create another snapshot instead"))
	}
	return errs
}

// ValidateSandboxSnapshotStatusUpdate checks what the controller writes.
func ValidateSandboxSnapshotStatusUpdate(snapshot, old *lifecycle.SandboxSnapshot) field.ErrorList {
	status := field.NewPath("status")
	phase, before := snapshot.Status.Phase, old.Status.Phase
	errs := validateSameObject(&snapshot.ObjectMeta, &old.ObjectMeta)
	if phase != "" && !snapshotPhases.Has(phase) {
		errs = append(errs, field.NotSupported(status.Child("phase"), phase, sets.List(snapshotPhases)))
	}
	if finalSnapshotPhases.Has(before) && phase != before {
		errs = append(errs, field.Invalid(status.Child("phase"), phase, string(before)+" is final"))
	}
	errs = append(errs, metav1validation.ValidateConditions(snapshot.Status.Conditions, status.Child("conditions"))...)
	containers := status.Child("containers")
	if phase == lifecycle.SnapshotSucceed && len(snapshot.Status.Containers) == 0 {
		errs = append(errs, field.Required(containers, "a snapshot that has succeeded has containers"))
	}
	// The list is a map by name: a duplicate would be neither to apply nor to patch.
	seen := sets.New[string]()
	for i, container := range snapshot.Status.Containers {
		path := containers.Index(i)
		errs = append(errs, validateName(container.ContainerName, apivalidation.NameIsDNSLabel, path.Child("containerName"))...)
		if seen.Has(container.ContainerName) {
			errs = append(errs, field.Duplicate(path.Child("containerName"), container.ContainerName))
		}
		seen.Insert(container.ContainerName)
		if phase == lifecycle.SnapshotSucceed && container.ImageDigest == "" {
			errs = append(errs, field.Required(path.Child("imageDigest"), "a snapshot that has succeeded has an image of every container"))
		}
		if container.LayerBytes < 0 {
			errs = append(errs, field.Invalid(path.Child("layerBytes"), container.LayerBytes, "must not be negative"))
		}
		if container.Layers < 0 {
			errs = append(errs, field.Invalid(path.Child("layers"), container.Layers, "must not be negative"))
		}
	}
	return append(errs, validateWarnings(snapshot.Status.Warnings, status.Child("warnings"))...)
}

// What a snapshot may say of what it does not hold: its object has to stay small.
const (
	maxWarnings     = 32
	maxWarningBytes = 1024
)

// warningReason is the form of a condition's reason as well.
var warningReason = regexp.MustCompile(`^[A-Z][A-Za-z0-9]{0,62}$`)

func validateWarnings(warnings []lifecycle.SnapshotWarning, path *field.Path) field.ErrorList {
	var errs field.ErrorList
	if len(warnings) > maxWarnings {
		errs = append(errs, field.TooMany(path, len(warnings), maxWarnings))
	}
	for i, warning := range warnings {
		at := path.Index(i)
		if warning.Reason == "" {
			errs = append(errs, field.Required(at.Child("reason"), "a warning is of a kind"))
		} else if !warningReason.MatchString(warning.Reason) {
			errs = append(errs, field.Invalid(at.Child("reason"), warning.Reason, "must be one CamelCase word of at most 63 letters and digits"))
		}
		if warning.ContainerName != "" {
			errs = append(errs, validateName(warning.ContainerName, apivalidation.NameIsDNSLabel, at.Child("containerName"))...)
		}
		if len(warning.Path) > maxWarningBytes {
			errs = append(errs, field.TooLong(at.Child("path"), "", maxWarningBytes))
		}
		if len(warning.Message) > maxWarningBytes {
			errs = append(errs, field.TooLong(at.Child("message"), "", maxWarningBytes))
		}
	}
	return errs
}
