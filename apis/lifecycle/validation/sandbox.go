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
	"time"

	corev1 "k8s.io/api/core/v1"
	apiequality "k8s.io/apimachinery/pkg/api/equality"
	"k8s.io/apimachinery/pkg/api/meta"
	apivalidation "k8s.io/apimachinery/pkg/api/validation"
	metav1validation "k8s.io/apimachinery/pkg/apis/meta/v1/validation"
	"k8s.io/apimachinery/pkg/util/sets"
	"k8s.io/apimachinery/pkg/util/validation/field"

	"github.com/opensandbox-io/sandbox-apiserver/apis/lifecycle"
	"github.com/opensandbox-io/sandbox-apiserver/apis/lifecycle/contents"
	"github.com/opensandbox-io/sandbox-apiserver/apis/lifecycle/v1alpha1"
)

var (
	desiredStates    = sets.New(lifecycle.DesiredStateRunning, lifecycle.DesiredStatePaused)
	deletionPolicies = sets.New(lifecycle.DeletionPolicyDelete, lifecycle.DeletionPolicyRetain)
	evictionPolicies = sets.New(lifecycle.EvictionPolicySave, lifecycle.EvictionPolicyNone)
	exitPolicies     = sets.New(lifecycle.ExitPolicyRescue, lifecycle.ExitPolicyRestore, lifecycle.ExitPolicyNone)
	sandboxPhases    = sets.New(lifecycle.SandboxPending, lifecycle.SandboxRunning, lifecycle.SandboxPausing,
		lifecycle.SandboxPaused, lifecycle.SandboxResuming, lifecycle.SandboxFailed)
)

// ValidateSandbox checks a sandbox that is to be created now.
func ValidateSandbox(sandbox *lifecycle.Sandbox, now time.Time) field.ErrorList {
	// The Pod, its hostname and a label on it carry the name, so it is a label and not a subdomain.
	errs := validateMetadata(&sandbox.ObjectMeta, apivalidation.NameIsDNSLabel)
	spec := field.NewPath("spec")
	if sandbox.Spec.DesiredState == lifecycle.DesiredStatePaused && sandbox.Spec.RestoreFrom == nil {
		errs = append(errs, field.Invalid(spec.Child("desiredState"), sandbox.Spec.DesiredState,
			"a sandbox that starts out Paused needs spec.restoreFrom, the snapshot that it will resume from"))
	}
	errs = append(errs, validateExpireTime(sandbox.Spec.ExpireTime, spec.Child("expireTime"), now)...)
	return append(errs, validateSandboxSpec(&sandbox.Spec, spec)...)
}

// ValidateSandboxUpdate checks a change, now, of a sandbox's metadata and spec. What was valid once is no
// obstacle to a change of something else, whatever the rules are by now.
func ValidateSandboxUpdate(sandbox, old *lifecycle.Sandbox, now time.Time) field.ErrorList {
	errs := validateMetadataUpdate(&sandbox.ObjectMeta, &old.ObjectMeta)
	spec := field.NewPath("spec")
	templateChanges := !apiequality.Semantic.DeepEqual(sandbox.Spec.Template, old.Spec.Template)
	if templateChanges {
		errs = append(errs, validateTemplateUpdate(sandbox.Spec.Template, old.Spec.Template, spec.Child("template"))...)
	}
	errs = append(errs, newFaults(validateAroundTemplate(&sandbox.Spec, spec), func() field.ErrorList {
		return validateAroundTemplate(&old.Spec, spec)
	})...)
	errs = append(errs, validateExpiryUpdate(sandbox, old, spec, now)...)

	if hasStarted(&old.Status) && !apiequality.Semantic.DeepEqual(sandbox.Spec.RestoreFrom, old.Spec.RestoreFrom) {
		errs = append(errs, field.Invalid(spec.Child("restoreFrom", "snapshotName"), restoredFrom(&sandbox.Spec),
			"is immutable once a container of the sandbox has run; create another sandbox to start from another snapshot, or resume this one with snapshotName to go back to one of its own"))
	}
	if old.Status.PodName != "" && !awaitsFirstRun(&old.Status) && templateChanges && !sameButForLabels(sandbox.Spec.Template, old.Spec.Template) {
		errs = append(errs, field.Forbidden(spec.Child("template"), fmt.Sprintf(
			"only metadata.labels and metadata.annotations may change once a container of the sandbox's Pod (%s) has run; pause the sandbox, edit the template, then resume it",
			old.Status.PodName)))
	}
	return errs
}

// awaitsFirstRun says whether no container has run yet of the Pod that the sandbox has or is to get. The controller
// leaves these phases when it sees one run, and decides anew where an update came between: what is written under the
// same resourceVersion cannot miss that.
func awaitsFirstRun(status *lifecycle.SandboxStatus) bool {
	return status.Phase == "" || status.Phase == lifecycle.SandboxPending || status.Phase == lifecycle.SandboxResuming
}

// hasStarted says whether the sandbox has got beyond what it was to start from.
func hasStarted(status *lifecycle.SandboxStatus) bool {
	switch status.Phase {
	case "", lifecycle.SandboxPending:
		return false
	case lifecycle.SandboxFailed: // because of the snapshot that it was to start from
		ready := meta.FindStatusCondition(status.Conditions, v1alpha1.ConditionReady)
		return ready == nil || ready.Reason != v1alpha1.ReasonSnapshotNotReady || status.SnapshotName != ""
	}
	return true
}

// ValidateSandboxStatusUpdate checks what the controller writes. It goes on from whatever status an
// older server has left.
func ValidateSandboxStatusUpdate(sandbox, old *lifecycle.Sandbox) field.ErrorList {
	status := field.NewPath("status")
	errs := validateSameObject(&sandbox.ObjectMeta, &old.ObjectMeta)
	errs = append(errs, newFaults(validateSandboxStatus(&sandbox.Status, status), func() field.ErrorList {
		return validateSandboxStatus(&old.Status, status)
	})...)
	// The number names the snapshot of an attempt: counted down, two attempts would share a name.
	if sandbox.Status.SnapshotAttempts < old.Status.SnapshotAttempts {
		errs = append(errs, field.Invalid(status.Child("snapshotAttempts"), sandbox.Status.SnapshotAttempts,
			fmt.Sprintf("must not be less than before (%d)", old.Status.SnapshotAttempts)))
	}
	return errs
}

func validateSandboxStatus(status *lifecycle.SandboxStatus, path *field.Path) field.ErrorList {
	var errs field.ErrorList
	if phase := status.Phase; phase != "" && !sandboxPhases.Has(phase) {
		errs = append(errs, field.NotSupported(path.Child("phase"), phase, sets.List(sandboxPhases)))
	}
	errs = append(errs, metav1validation.ValidateConditions(status.Conditions, path.Child("conditions"))...)
	if status.FailedAttempts < 0 {
		errs = append(errs, field.Invalid(path.Child("failedAttempts"), status.FailedAttempts, "must not be negative"))
	}
	if status.FailedPods < 0 {
		errs = append(errs, field.Invalid(path.Child("failedPods"), status.FailedPods, "must not be negative"))
	}
	return append(errs, validateMove(status.Move, path.Child("move"))...)
}

// maxMoveBytes is what a move may say: as a snapshot's warning.
const maxMoveBytes = 1024

func validateMove(move *lifecycle.SandboxMove, path *field.Path) field.ErrorList {
	if move == nil {
		return nil
	}
	var errs field.ErrorList
	if move.PodUID == "" {
		errs = append(errs, field.Required(path.Child("podUID"), "a move is of one Pod"))
	}
	if move.Reason == "" {
		errs = append(errs, field.Required(path.Child("reason"), "why the Pod is to go"))
	} else if !oneWord.MatchString(move.Reason) {
		errs = append(errs, field.Invalid(path.Child("reason"), move.Reason, "must be one CamelCase word of at most 63 letters and digits"))
	}
	if len(move.Message) > maxMoveBytes {
		errs = append(errs, field.TooLong(path.Child("message"), "", maxMoveBytes))
	}
	return errs
}

// ValidateSandboxResume checks the body of a resume.
func ValidateSandboxResume(resume *lifecycle.SandboxResume) field.ErrorList {
	var errs field.ErrorList
	name := field.NewPath("snapshotName")
	if resume.SnapshotName != "" && resume.FromTemplate {
		errs = append(errs, field.Invalid(name, resume.SnapshotName,
			"cannot be set together with fromTemplate; name the snapshot to go back to, or ask for the template, not both"))
	}
	return append(errs, validateSnapshotName(resume.SnapshotName, name)...)
}

func validateSandboxSpec(spec *lifecycle.SandboxSpec, path *field.Path) field.ErrorList {
	var errs field.ErrorList
	if spec.Template != nil {
		errs = validateTemplate(spec.Template, path.Child("template"))
	}
	return append(errs, validateAroundTemplate(spec, path)...)
}

// validateAroundTemplate checks a spec but for what is in its template.
func validateAroundTemplate(spec *lifecycle.SandboxSpec, path *field.Path) field.ErrorList {
	var errs field.ErrorList
	if !desiredStates.Has(spec.DesiredState) {
		errs = append(errs, field.NotSupported(path.Child("desiredState"), spec.DesiredState, sets.List(desiredStates)))
	}
	if !evictionPolicies.Has(spec.EvictionPolicy) {
		errs = append(errs, field.NotSupported(path.Child("evictionPolicy"), spec.EvictionPolicy, sets.List(evictionPolicies)))
	}
	if spec.OnExit != "" && !exitPolicies.Has(spec.OnExit) {
		errs = append(errs, field.NotSupported(path.Child("onExit"), spec.OnExit, sets.List(exitPolicies)))
	}
	errs = append(errs, validateExpireAction(spec, path)...)
	if spec.Template == nil && spec.RestoreFrom == nil {
		errs = append(errs, field.Required(path.Child("template"), "the Pod of the sandbox; only a sandbox with spec.restoreFrom can do without"))
	}
	if spec.RestoreFrom != nil {
		name := path.Child("restoreFrom", "snapshotName")
		if spec.RestoreFrom.SnapshotName == "" {
			errs = append(errs, field.Required(name, "the SandboxSnapshot of this namespace to start from"))
		}
		errs = append(errs, validateSnapshotName(spec.RestoreFrom.SnapshotName, name)...)
	}
	return append(errs, validateSnapshotPolicy(spec, path.Child("snapshot"))...)
}

func restoredFrom(spec *lifecycle.SandboxSpec) string {
	if spec.RestoreFrom == nil {
		return ""
	}
	return spec.RestoreFrom.SnapshotName
}

func validateSnapshotPolicy(spec *lifecycle.SandboxSpec, path *field.Path) field.ErrorList {
	policy := &spec.Snapshot
	errs := validateContainerNames(policy.Containers, path.Child("containers"))
	if spec.Template != nil && len(policy.Containers) <= maxContainerNames {
		known := sets.New(contents.Names(&spec.Template.Spec)...)
		for i, name := range policy.Containers {
			if !known.Has(name) {
				errs = append(errs, field.NotSupported(path.Child("containers").Index(i), name, sets.List(known)))
			}
		}
	}
	if limit := policy.HistoryLimit; limit != nil && *limit < 1 {
		errs = append(errs, field.Invalid(path.Child("historyLimit"), *limit,
			"must be at least 1: the next resume needs the last snapshot"))
	}
	return append(errs, validateDeletionPolicy(policy.DeletionPolicy, path.Child("deletionPolicy"))...)
}

func validateDeletionPolicy(policy lifecycle.SnapshotDeletionPolicy, path *field.Path) field.ErrorList {
	if deletionPolicies.Has(policy) {
		return nil
	}
	return field.ErrorList{field.NotSupported(path, policy, sets.List(deletionPolicies))}
}

func validateSnapshotName(name string, path *field.Path) field.ErrorList {
	if name == "" {
		return nil
	}
	var errs field.ErrorList
	for _, message := range apivalidation.NameIsDNSSubdomain(name, false) {
		errs = append(errs, field.Invalid(path, name, message))
	}
	return errs
}

// sameButForLabels compares templates without what may change under a running Pod.
func sameButForLabels(a, b *corev1.PodTemplateSpec) bool {
	if a == nil || b == nil {
		return a == b
	}
	a, b = a.DeepCopy(), b.DeepCopy()
	for _, template := range []*corev1.PodTemplateSpec{a, b} {
		template.Labels, template.Annotations = nil, nil
	}
	return apiequality.Semantic.DeepEqual(a, b)
}
