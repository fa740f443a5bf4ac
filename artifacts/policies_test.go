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

package artifacts

import (
	"maps"
	"slices"
	"strings"
	"testing"
	"time"

	admissionregistrationv1 "k8s.io/api/admissionregistration/v1"
	networkingv1 "k8s.io/api/networking/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/labels"

	"github.com/opensandbox-io/sandbox-apiserver/apis/lifecycle/v1alpha1"
	"github.com/opensandbox-io/sandbox-apiserver/pkg/controller/commitjob"
)

// TestPoliciesMeetWhatTheyAreFor decodes the policies, and checks that they select Pods that there are. What they refuse
// is in TestPoliciesRefuse, and shown on a cluster (test/e2e, TestPoliciesOfTheServersNamespace).
func TestPoliciesMeetWhatTheyAreFor(t *testing.T) {
	jobs := &commitjob.Config{Namespace: "sandbox-system", Image: "image", Timeout: time.Minute}
	snapshot := &v1alpha1.SandboxSnapshot{ObjectMeta: metav1.ObjectMeta{Namespace: "default", Name: "demo-gen1", UID: "1"}}
	commit := jobs.Commit(snapshot, &commitjob.Source{}, true)
	pods := map[string]map[string]string{
		"commit":  commit.Spec.Template.Labels,
		"unpause": jobs.Unpause(snapshot, &commitjob.Source{}).Spec.Template.Labels,
		"uncache": jobs.Uncache(snapshot, &commitjob.Source{}).Spec.Template.Labels,
		"server":  {"app.kubernetes.io/name": "sandbox-apiserver"},
	}
	selected := map[string]int{}
	policies, bindings := map[string]bool{}, map[string]bool{}
	for _, m := range manifests(t, "policies") {
		switch m.Kind {
		case "NetworkPolicy":
			var policy networkingv1.NetworkPolicy
			decode(t, m, &policy)
			selector, err := metav1.LabelSelectorAsSelector(&policy.Spec.PodSelector)
			if err != nil {
				t.Fatal(err)
			}
			for name, of := range pods {
				if selector.Matches(labels.Set(of)) {
					selected[name]++
				}
			}
		case "ValidatingAdmissionPolicy":
			var policy admissionregistrationv1.ValidatingAdmissionPolicy
			decode(t, m, &policy)
			policies[policy.Name] = true
			if *policy.Spec.FailurePolicy != admissionregistrationv1.Fail {
				t.Errorf("%s lets through what it cannot judge", policy.Name)
			}
		case "ValidatingAdmissionPolicyBinding":
			var binding admissionregistrationv1.ValidatingAdmissionPolicyBinding
			decode(t, m, &binding)
			bindings[binding.Spec.PolicyName] = true
			if !slices.Equal(binding.Spec.ValidationActions, []admissionregistrationv1.ValidationAction{admissionregistrationv1.Deny}) {
				t.Errorf("%s does not deny", binding.Name)
			}
		}
		if strings.Contains(string(m.text), "serviceAccountName") && !strings.Contains(string(m.text), "'"+commitjob.ServiceAccount+"'") {
			t.Errorf("%s %s names another account than the Jobs have", m.Kind, m.Name)
		}
	}
	for name := range pods {
		if selected[name] != 1 {
			t.Errorf("%d NetworkPolicies select the Pods of %s, want 1", selected[name], name)
		}
	}
	if len(policies) < 2 || !maps.Equal(policies, bindings) {
		t.Errorf("there are the policies %v, and bindings of %v", policies, bindings)
	}
}
