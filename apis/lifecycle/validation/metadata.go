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

	apivalidation "k8s.io/apimachinery/pkg/api/validation"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/util/validation/field"
)

// maxMetadataBytes bounds what the Kubernetes rules leave open: how many labels, finalizers and
// owners an object has. It is their bound for annotations. etcd takes no more than 1.5 MiB for an
// object, and the generic server would answer 500 to one that is larger.
const maxMetadataBytes = apivalidation.TotalAnnotationSizeLimitB

// validateMetadata checks the metadata of an object that is to be created.
func validateMetadata(meta *metav1.ObjectMeta, valid apivalidation.ValidateNameFunc) field.ErrorList {
	path := field.NewPath("metadata")
	if errs := validateMetadataSize(meta, path); errs != nil {
		return errs
	}
	errs := apivalidation.ValidateObjectMeta(meta, true, valid, path)
	if meta.ResourceVersion != "" {
		errs = append(errs, field.Forbidden(path.Child("resourceVersion"), "an object that is to be created has none yet; leave it out"))
	}
	return errs
}

// validateMetadataUpdate checks a change of the metadata.
func validateMetadataUpdate(meta, old *metav1.ObjectMeta) field.ErrorList {
	path := field.NewPath("metadata")
	// One that is too large already, from a server before this rule, can still lose its finalizers.
	if metadataBytes(meta) > metadataBytes(old) {
		if errs := validateMetadataSize(meta, path); errs != nil {
			return errs
		}
	}
	return apivalidation.ValidateObjectMetaUpdate(meta, old, path)
}

// validateSameObject checks that a change of the status, which changes no metadata, means the object
// that is stored.
func validateSameObject(meta, old *metav1.ObjectMeta) field.ErrorList {
	return apivalidation.ValidateImmutableField(meta.UID, old.UID, field.NewPath("metadata", "uid"))
}

// validateMetadataSize says nothing of the rest: the answer would repeat what is too long.
func validateMetadataSize(meta *metav1.ObjectMeta, path *field.Path) field.ErrorList {
	bytes := metadataBytes(meta)
	if bytes <= maxMetadataBytes {
		return nil
	}
	return field.ErrorList{field.Invalid(path, fmt.Sprintf("%d bytes", bytes),
		fmt.Sprintf("labels, finalizers and ownerReferences may have at most %d bytes together; move large data into a ConfigMap", maxMetadataBytes))}
}

func metadataBytes(meta *metav1.ObjectMeta) int {
	bytes := 0
	for key, value := range meta.Labels {
		bytes += len(key) + len(value)
	}
	for _, finalizer := range meta.Finalizers {
		bytes += len(finalizer)
	}
	for _, owner := range meta.OwnerReferences {
		bytes += len(owner.APIVersion) + len(owner.Kind) + len(owner.Name) + len(owner.UID)
	}
	return bytes
}
