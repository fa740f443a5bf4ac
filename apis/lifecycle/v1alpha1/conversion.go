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

package v1alpha1

import (
	"fmt"

	"k8s.io/apimachinery/pkg/runtime"
)

// Field selectors that the server understands, beside metadata.name and metadata.namespace.
const (
	// FieldStatusPhase selects by status.phase, of both kinds.
	FieldStatusPhase = "status.phase"
	// FieldStatusNodeName selects sandboxes by the node of their Pod.
	FieldStatusNodeName = "status.nodeName"
	// FieldSpecSandboxName selects snapshots by the sandbox that they were made of.
	FieldSpecSandboxName = "spec.sandboxName"
)

func addFieldLabelConversions(scheme *runtime.Scheme) error {
	if err := scheme.AddFieldLabelConversionFunc(SchemeGroupVersion.WithKind("Sandbox"),
		selectable(FieldStatusPhase, FieldStatusNodeName)); err != nil {
		return err
	}
	return scheme.AddFieldLabelConversionFunc(SchemeGroupVersion.WithKind("SandboxSnapshot"),
		selectable(FieldStatusPhase, FieldSpecSandboxName))
}

// selectable answers for the given field labels and the two that every namespaced object has.
func selectable(labels ...string) runtime.FieldLabelConversionFunc {
	known := map[string]bool{"metadata.name": true, "metadata.namespace": true}
	for _, label := range labels {
		known[label] = true
	}
	return func(label, value string) (string, string, error) {
		if !known[label] {
			return "", "", fmt.Errorf("%q is not a field that can be selected by; use metadata.name, metadata.namespace or one of %q", label, labels)
		}
		return label, value, nil
	}
}
