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

package evictionreview

import (
	"encoding/json"
	"fmt"
	"slices"

	admissionv1 "k8s.io/api/admission/v1"
	corev1 "k8s.io/api/core/v1"
	policyv1 "k8s.io/api/policy/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
)

// eviction is what somebody asks of a Pod.
type eviction struct {
	namespace, pod string
	// uid and resourceVersion are preconditions; empty: there is none.
	uid             types.UID
	resourceVersion string
	dryRun          bool
	// by is who asks.
	by string
}

// pods is what the eviction is a subresource of.
var pods = metav1.GroupVersionResource{Version: "v1", Resource: "pods"}

// evictionOf reads the question. An error says what of it is none of an eviction.
func evictionOf(request *admissionv1.AdmissionRequest) (eviction, error) {
	if request.Resource != pods || request.SubResource != "eviction" || request.Operation != admissionv1.Create {
		return eviction{}, fmt.Errorf("%s of %s/%s is not the creation of a pods/eviction: mend the rules of the webhook", request.Operation, request.Resource.Resource, request.SubResource)
	}
	asked := eviction{namespace: request.Namespace, pod: request.Name, dryRun: request.DryRun != nil && *request.DryRun, by: request.UserInfo.Username}
	// v1beta1 has the same fields.
	var body policyv1.Eviction
	if err := json.Unmarshal(request.Object.Raw, &body); err != nil {
		return eviction{}, fmt.Errorf("request.object is not an Eviction: %w", err)
	}
	if asked.pod == "" {
		asked.pod = body.Name
	}
	if asked.namespace == "" || asked.pod == "" {
		return eviction{}, fmt.Errorf("the eviction names no Pod: namespace %q, name %q", asked.namespace, asked.pod)
	}
	options := body.DeleteOptions
	if options == nil {
		return asked, nil
	}
	// kubectl drain --dry-run=server says it here alone, and the API heeds it after admission.
	// https://github.com/kubernetes/kubernetes/blob/v1.37.2/pkg/registry/core/pod/storage/eviction.go (propagateDryRun)
	asked.dryRun = asked.dryRun || slices.Contains(options.DryRun, metav1.DryRunAll)
	if only := options.Preconditions; only != nil {
		if only.UID != nil {
			asked.uid = *only.UID
		}
		if only.ResourceVersion != nil {
			asked.resourceVersion = *only.ResourceVersion
		}
	}
	return asked, nil
}

// means says whether the preconditions allow it to be that Pod.
func (e *eviction) means(pod *corev1.Pod) bool {
	return (e.uid == "" || e.uid == pod.UID) && (e.resourceVersion == "" || e.resourceVersion == pod.ResourceVersion)
}
