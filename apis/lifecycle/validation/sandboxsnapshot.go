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
	"fmt"
	"regexp"
	"slices"
	"strings"

	apiequality "k8s.io/apimachinery/pkg/api/equality"
	apivalidation "k8s.io/apimachinery/pkg/api/validation"
	metav1validation "k8s.io/apimachinery/pkg/apis/meta/v1/validation"
	"k8s.io/apimachinery/pkg/util/sets"
	"k8s.io/apimachinery/pkg/util/validation/field"

	"github.com/opensandbox-io/sandbox-apiserver/apis/lifecycle"
)

var (
	// pauseSnapshotName is the form of the names that the controller gives to a pause's snapshots, rescueSnapshotName
	// of those that it gives to what ended containers left.
	pauseSnapshotName  = regexp.MustCompile(`-gen[0-9]+$`)
	rescueSnapshotName = regexp.MustCompile(`-rescue[0-9]+$`)

	snapshotPhases = sets.New(lifecycle.SnapshotPending, lifecycle.SnapshotCommitting,
		lifecycle.SnapshotSucceed, lifecycle.SnapshotFailed)
	finalSnapshotPhases = sets.New(lifecycle.SnapshotSucceed, lifecycle.SnapshotFailed)
)

// ValidateSandboxSnapshot checks a snapshot that is to be created. byServer says that the
// server itself creates it, for a pause or a rescue.
func ValidateSandboxSnapshot(snapshot *lifecycle.SandboxSnapshot, byServer bool) field.ErrorList {
	// <sandbox>-gen<N> can be longer than a label.
	errs := validateMetadata(&snapshot.ObjectMeta, apivalidation.NameIsDNSSubdomain)
	if !byServer && (pauseSnapshotName.MatchString(snapshot.Name) || rescueSnapshotName.MatchString(snapshot.Name)) {
		errs = append(errs, field.Forbidden(field.NewPath("metadata", "name"),
			"names that end in -gen<number> or -rescue<number> are kept for the snapshots that the server makes; choose another name"))
	}

	spec := field.NewPath("spec")
	errs = append(errs, validatePause(snapshot, spec.Child("pause"), byServer)...)
	errs = append(errs, validateRescue(snapshot, spec.Child("rescue"), byServer)...)
	if snapshot.Spec.Source != nil {
		return append(errs, validateSource(&snapshot.Spec, spec)...)
	}
	errs = append(errs, validateName(snapshot.Spec.SandboxName, apivalidation.NameIsDNSLabel, spec.Child("sandboxName"))...)
	errs = append(errs, validateContainerNames(snapshot.Spec.Containers, spec.Child("containers"))...)
	return append(errs, validateDeletionPolicy(snapshot.Spec.DeletionPolicy, spec.Child("deletionPolicy"))...)
}

// validatePause checks that only the server makes a snapshot the attempt of a pause. What is copied from such
// a one, with kubectl or by a backup, brings the field with it.
func validatePause(snapshot *lifecycle.SandboxSnapshot, path *field.Path, byServer bool) field.ErrorList {
	pause := snapshot.Spec.Pause
	switch {
	case pause == nil:
		return nil
	case !byServer:
		return field.ErrorList{field.Forbidden(path, "only the server sets it, when it pauses a sandbox: leave it out (a snapshot without it commits without a pause), or POST to sandboxes/pause")}
	case snapshot.Spec.Source != nil:
		return field.ErrorList{field.Forbidden(path, "a pause makes its snapshot of a sandbox, not of spec.source")}
	}
	var errs field.ErrorList
	if pause.SandboxUID == "" {
		errs = append(errs, field.Required(path.Child("sandboxUID"), "an attempt is of one sandbox"))
	}
	if pause.Attempt < 1 {
		errs = append(errs, field.Invalid(path.Child("attempt"), pause.Attempt, "attempts are counted from 1"))
	}
	if name := fmt.Sprintf("%s-gen%d", snapshot.Spec.SandboxName, pause.Attempt); snapshot.Name != name {
		errs = append(errs, field.Invalid(field.NewPath("metadata", "name"), snapshot.Name, "this attempt's snapshot is named "+name))
	}
	return errs
}

// validateRescue checks that only the server has the files of ended containers saved: whoever names a container's ID
// reads its files.
func validateRescue(snapshot *lifecycle.SandboxSnapshot, path *field.Path, byServer bool) field.ErrorList {
	rescue := snapshot.Spec.Rescue
	switch {
	case rescue == nil:
		return nil
	case !byServer:
		return field.ErrorList{field.Forbidden(path, "only the server sets it, when it saves what a container left that has ended: leave it out (a snapshot without it commits what is there)")}
	case snapshot.Spec.Source != nil:
		return field.ErrorList{field.Forbidden(path, "what ended containers left is not of spec.source")}
	}
	var errs field.ErrorList
	if rescue.SandboxUID == "" {
		errs = append(errs, field.Required(path.Child("sandboxUID"), "the containers are of one sandbox"))
	}
	if rescue.PodUID == "" {
		errs = append(errs, field.Required(path.Child("podUID"), "the containers are of one Pod"))
	}
	// An attempt saves the others as they are, and is named as one.
	if pause := snapshot.Spec.Pause; pause != nil && (pause.SandboxUID != rescue.SandboxUID || pause.PodUID != rescue.PodUID) {
		errs = append(errs, field.Invalid(path.Child("podUID"), rescue.PodUID, "is to be the sandbox and the Pod of spec.pause"))
	} else if sandbox := rescueSnapshotName.ReplaceAllString(snapshot.Name, ""); pause == nil && (sandbox == snapshot.Name || sandbox != snapshot.Spec.SandboxName) {
		errs = append(errs, field.Invalid(field.NewPath("metadata", "name"), snapshot.Name, "such a snapshot is named "+snapshot.Spec.SandboxName+"-rescue<number>"))
	}
	return append(errs, validateRescuedContainers(rescue.Containers, path.Child("containers"))...)
}

// runtimeID is the form of a container's ID, which names directories on the node.
// https://github.com/containerd/containerd/blob/v2.4.0/pkg/identifiers/validate.go
var runtimeID = regexp.MustCompile(`^[A-Za-z0-9]+(?:[._-][A-Za-z0-9]+)*$`)

const maxRuntimeIDBytes = 76

func validateRescuedContainers(containers []lifecycle.RescuedContainer, path *field.Path) field.ErrorList {
	switch {
	case len(containers) == 0:
		return field.ErrorList{field.Required(path, "name at least one container that has ended")}
	case len(containers) > maxContainerNames:
		return field.ErrorList{field.TooMany(path, len(containers), maxContainerNames)}
	}
	var errs field.ErrorList
	seen := sets.New[string]()
	for i, container := range containers {
		at := path.Index(i)
		errs = append(errs, validateName(container.ContainerName, apivalidation.NameIsDNSLabel, at.Child("containerName"))...)
		if seen.Has(container.ContainerName) {
			errs = append(errs, field.Duplicate(at.Child("containerName"), container.ContainerName))
		}
		seen.Insert(container.ContainerName)
		if len(container.ContainerID) > maxRuntimeIDBytes || !runtimeID.MatchString(container.ContainerID) {
			errs = append(errs, field.Invalid(at.Child("containerID"), container.ContainerID, "is not an ID of the container runtime, without a scheme"))
		}
	}
	return errs
}

const (
	maxSourceImages = 256
	// maxImageBytes has room for the longest host, repository, tag and digest.
	maxImageBytes = 1024
)

// validateSource checks a snapshot that is made of existing images.
func validateSource(spec *lifecycle.SandboxSnapshotSpec, path *field.Path) field.ErrorList {
	var errs field.ErrorList
	if spec.SandboxName != "" {
		errs = append(errs, field.Forbidden(path.Child("sandboxName"), "a snapshot is made either of a sandbox or of spec.source; leave one out"))
	}
	if len(spec.Containers) > 0 {
		errs = append(errs, field.Forbidden(path.Child("containers"), "spec.source.images names the containers; leave this out"))
	}
	if spec.DeletionPolicy != lifecycle.DeletionPolicyRetain {
		errs = append(errs, field.Invalid(path.Child("deletionPolicy"), string(spec.DeletionPolicy), "images that a snapshot did not make are never deleted; leave it out, or set Retain"))
	}
	images := path.Child("source", "images")
	switch {
	case len(spec.Source.Images) == 0:
		errs = append(errs, field.Required(images, "name the image of at least one container"))
	case len(spec.Source.Images) > maxSourceImages:
		return append(errs, field.TooMany(images, len(spec.Source.Images), maxSourceImages))
	}
	seen := sets.New[string]()
	for i, image := range spec.Source.Images {
		at := images.Index(i)
		errs = append(errs, validateName(image.ContainerName, apivalidation.NameIsDNSLabel, at.Child("containerName"))...)
		if seen.Has(image.ContainerName) {
			errs = append(errs, field.Duplicate(at.Child("containerName"), image.ContainerName))
		}
		seen.Insert(image.ContainerName)
		errs = append(errs, validateSourceImage(image.Image, at.Child("image"))...)
	}
	return errs
}

// imageByDigest is a repository, a tag that nobody asks for, and a digest, as containerd's reference parser and
// ours both take them: a host with a port where there is one, and lower-case parts.
// https://github.com/distribution/reference/blob/v0.6.0/reference.go
var imageByDigest = regexp.MustCompile(`^(?:(?:[a-zA-Z0-9](?:[a-zA-Z0-9.-]*[a-zA-Z0-9])?|\[[0-9a-fA-F:]+\])(?::[0-9]+)?/)?` +
	`[a-z0-9]+(?:(?:\.|_|__|-+)[a-z0-9]+)*(?:/[a-z0-9]+(?:(?:\.|_|__|-+)[a-z0-9]+)*)*` +
	`(?::[a-zA-Z0-9_][a-zA-Z0-9._-]{0,127})?@sha256:[0-9a-f]{64}$`)

func validateSourceImage(image string, path *field.Path) field.ErrorList {
	switch {
	case image == "":
		return field.ErrorList{field.Required(path, "name it as repository@sha256:…")}
	case len(image) > maxImageBytes:
		return field.ErrorList{field.TooLong(path, "", maxImageBytes)}
	case !strings.Contains(image, "@"):
		return field.ErrorList{field.Invalid(path, image, "needs a digest, as in registry.example.com/team/demo-main@sha256:…: a tag may be moved")}
	case !imageByDigest.MatchString(image):
		return field.ErrorList{field.Invalid(path, image, "is not of the form repository@sha256:<64 lower-case hex digits>")}
	}
	return nil
}

// ValidateSandboxSnapshotUpdate checks a change of a snapshot's metadata.
func ValidateSandboxSnapshotUpdate(snapshot, old *lifecycle.SandboxSnapshot) field.ErrorList {
	errs := validateMetadataUpdate(&snapshot.ObjectMeta, &old.ObjectMeta)
	switch {
	case !apiequality.Semantic.DeepEqual(snapshot.Spec.Pause, old.Spec.Pause):
		errs = append(errs, field.Forbidden(field.NewPath("spec", "pause"), "only the server sets it, when it creates the snapshot of a pause; leave it as it is"))
	case !apiequality.Semantic.DeepEqual(snapshot.Spec.Rescue, old.Spec.Rescue):
		errs = append(errs, field.Forbidden(field.NewPath("spec", "rescue"), "only the server sets it, when it creates the snapshot of what a container left; leave it as it is"))
	case !apiequality.Semantic.DeepEqual(snapshot.Spec, old.Spec):
		errs = append(errs, field.Forbidden(field.NewPath("spec"), "is immutable; create another snapshot instead"))
	}
	return errs
}

// snapshotFinalizer is the server's (v1alpha1.SnapshotFinalizer, which internal types do not know).
const snapshotFinalizer = lifecycle.GroupName + "/snapshot"

// ValidateSnapshotFinalizer checks an update that is not the server's: nobody else takes its finalizer from a snapshot
// whose commit may run, or may have left containers frozen for a pause. Nobody would know what to thaw.
func ValidateSnapshotFinalizer(snapshot, old *lifecycle.SandboxSnapshot) field.ErrorList {
	if !slices.Contains(old.Finalizers, snapshotFinalizer) || slices.Contains(snapshot.Finalizers, snapshotFinalizer) {
		return nil
	}
	pause := old.Spec.Pause != nil || old.Spec.Source == nil && pauseSnapshotName.MatchString(old.Name)
	if old.Status.Phase != lifecycle.SnapshotCommitting && (!pause || old.Status.Phase == lifecycle.SnapshotFailed) {
		return nil
	}
	return field.ErrorList{field.Forbidden(field.NewPath("metadata", "finalizers"), "the server takes "+snapshotFinalizer+
		" away once no commit of the snapshot runs and nothing that one froze is frozen; what it waits for the Ready condition says. Leave it in")}
}

// ValidateSandboxSnapshotStatusUpdate checks what the controller writes. It goes on from whatever
// status an older server has left.
func ValidateSandboxSnapshotStatusUpdate(snapshot, old *lifecycle.SandboxSnapshot) field.ErrorList {
	status := field.NewPath("status")
	phase, before := snapshot.Status.Phase, old.Status.Phase
	errs := validateSameObject(&snapshot.ObjectMeta, &old.ObjectMeta)
	if finalSnapshotPhases.Has(before) && phase != before {
		errs = append(errs, field.Invalid(status.Child("phase"), phase, string(before)+" is final"))
	}
	return append(errs, newFaults(validateSnapshotStatus(&snapshot.Status, status), func() field.ErrorList {
		return validateSnapshotStatus(&old.Status, status)
	})...)
}

func validateSnapshotStatus(status *lifecycle.SandboxSnapshotStatus, path *field.Path) field.ErrorList {
	var errs field.ErrorList
	phase := status.Phase
	if phase != "" && !snapshotPhases.Has(phase) {
		errs = append(errs, field.NotSupported(path.Child("phase"), phase, sets.List(snapshotPhases)))
	}
	errs = append(errs, metav1validation.ValidateConditions(status.Conditions, path.Child("conditions"))...)
	containers := path.Child("containers")
	if phase == lifecycle.SnapshotSucceed && len(status.Containers) == 0 {
		errs = append(errs, field.Required(containers, "a snapshot that has succeeded has containers"))
	}
	// The list is a map by name: a duplicate would be neither to apply nor to patch.
	seen := sets.New[string]()
	for i, container := range status.Containers {
		at := containers.Index(i)
		errs = append(errs, validateName(container.ContainerName, apivalidation.NameIsDNSLabel, at.Child("containerName"))...)
		if seen.Has(container.ContainerName) {
			errs = append(errs, field.Duplicate(at.Child("containerName"), container.ContainerName))
		}
		seen.Insert(container.ContainerName)
		if phase == lifecycle.SnapshotSucceed && container.ImageDigest == "" {
			errs = append(errs, field.Required(at.Child("imageDigest"), "a snapshot that has succeeded has an image of every container"))
		}
		if container.LayerBytes < 0 {
			errs = append(errs, field.Invalid(at.Child("layerBytes"), container.LayerBytes, "must not be negative"))
		}
		if container.Layers < 0 {
			errs = append(errs, field.Invalid(at.Child("layers"), container.Layers, "must not be negative"))
		}
	}
	return append(errs, validateWarnings(status.Warnings, path.Child("warnings"))...)
}

// What a snapshot may say of what it does not hold: its object has to stay small.
const (
	maxWarnings     = 32
	maxWarningBytes = 1024
)

// oneWord is the form of a condition's reason as well.
var oneWord = regexp.MustCompile(`^[A-Z][A-Za-z0-9]{0,62}$`)

func validateWarnings(warnings []lifecycle.SnapshotWarning, path *field.Path) field.ErrorList {
	var errs field.ErrorList
	if len(warnings) > maxWarnings {
		errs = append(errs, field.TooMany(path, len(warnings), maxWarnings))
	}
	for i, warning := range warnings {
		at := path.Index(i)
		if warning.Reason == "" {
			errs = append(errs, field.Required(at.Child("reason"), "a warning is of a kind"))
		} else if !oneWord.MatchString(warning.Reason) {
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
