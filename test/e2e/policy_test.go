//go:build e2e

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

package e2e

import (
	"context"
	"fmt"
	"strings"
	"testing"

	admissionregistrationv1 "k8s.io/api/admissionregistration/v1"
	corev1 "k8s.io/api/core/v1"
	rbacv1 "k8s.io/api/rbac/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/utils/ptr"

	"github.com/opensandbox-io/sandbox-apiserver/apis/lifecycle/v1alpha1"
)

// deny has the API refuse to create what is of a resource and in a namespace, unless the expression of a validation is true of
// it, or to do more with it where more operations are named. With parameters, `params` is the ConfigMap of that name in the room. It ends with the room, or when allow is called.
func (r *room) deny(namespace string, of admissionregistrationv1.Rule, unless admissionregistrationv1.Validation, parameters string, more ...admissionregistrationv1.OperationType) (allow func()) {
	r.t.Helper()
	name := r.namespace + "-" + strings.ReplaceAll(of.Resources[0], "/", "-")
	policy := &admissionregistrationv1.ValidatingAdmissionPolicy{
		ObjectMeta: metav1.ObjectMeta{Name: name},
		Spec: admissionregistrationv1.ValidatingAdmissionPolicySpec{
			MatchConstraints: &admissionregistrationv1.MatchResources{
				NamespaceSelector: &metav1.LabelSelector{MatchLabels: map[string]string{corev1.LabelMetadataName: namespace}},
				ResourceRules: []admissionregistrationv1.NamedRuleWithOperations{{RuleWithOperations: admissionregistrationv1.RuleWithOperations{
					Operations: append(more, admissionregistrationv1.Create), Rule: of,
				}}},
			},
			Validations: []admissionregistrationv1.Validation{unless},
		},
	}
	binding := &admissionregistrationv1.ValidatingAdmissionPolicyBinding{
		ObjectMeta: metav1.ObjectMeta{Name: name},
		Spec: admissionregistrationv1.ValidatingAdmissionPolicyBindingSpec{
			PolicyName: name, ValidationActions: []admissionregistrationv1.ValidationAction{admissionregistrationv1.Deny},
		},
	}
	if parameters != "" {
		policy.Spec.ParamKind = &admissionregistrationv1.ParamKind{APIVersion: "v1", Kind: "ConfigMap"}
		binding.Spec.ParamRef = &admissionregistrationv1.ParamRef{
			Name: parameters, Namespace: r.namespace, ParameterNotFoundAction: ptr.To(admissionregistrationv1.DenyAction),
		}
	}
	policies, bindings := r.kube.AdmissionregistrationV1().ValidatingAdmissionPolicies(), r.kube.AdmissionregistrationV1().ValidatingAdmissionPolicyBindings()
	if _, err := policies.Create(r.t.Context(), policy, metav1.CreateOptions{}); err != nil {
		r.t.Fatal(err)
	}
	r.t.Cleanup(func() { _ = policies.Delete(context.Background(), name, metav1.DeleteOptions{}) })
	if _, err := bindings.Create(r.t.Context(), binding, metav1.CreateOptions{}); err != nil {
		r.t.Fatal(err)
	}
	allow = func() { _ = bindings.Delete(context.Background(), name, metav1.DeleteOptions{}) }
	r.t.Cleanup(allow)
	return allow
}

// forbidPause binds a policy on sandboxes/pause to the room. rule has to be true for a pause.
func (r *room) forbidPause(rule, message, parameters string) {
	r.t.Helper()
	r.deny(r.namespace, admissionregistrationv1.Rule{APIGroups: []string{v1alpha1.GroupName}, APIVersions: []string{"*"}, Resources: []string{"sandboxes/pause"}},
		admissionregistrationv1.Validation{Expression: rule, Message: message}, parameters)
}

// awaitForbidden waits until a pause is refused with the message. It asks with dry runs, of a
// sandbox that is not running: one that the policy lets pass is a conflict.
func (r *room) awaitForbidden(name, message string) {
	r.t.Helper()
	eventually(r.t, "a pause is refused: "+message, patience, func(ctx context.Context) (bool, string) {
		_, err := r.sandboxes().Pause(ctx, name, &v1alpha1.SandboxPause{}, metav1.CreateOptions{DryRun: []string{metav1.DryRunAll}})
		return err != nil && strings.Contains(err.Error(), message), fmt.Sprint(err)
	})
}

// mustPassPolicies checks that a pause gets as far as the sandbox, which is not running.
func (r *room) mustPassPolicies(name string) {
	r.t.Helper()
	_, err := r.sandboxes().Pause(r.t.Context(), name, &v1alpha1.SandboxPause{}, metav1.CreateOptions{})
	if err != nil {
		r.t.Errorf("a pause that the policy does not speak of: %v", err)
	}
}

func TestAPolicyForbidsPausesByNameAndByTheLabelOfTheNamespace(t *testing.T) {
	t.Parallel()
	r := newRoom(t, map[string]string{"tier": "gold"})
	r.create("precious", fromNothing)
	r.create("other", fromNothing)
	r.forbidPause("!(object.metadata.name == 'precious' && namespaceObject.metadata.labels['tier'] == 'gold')", "gold is never paused", "")
	r.awaitForbidden("precious", "gold is never paused")
	r.mustPassPolicies("other")
	if _, err := r.sandboxes().Resume(t.Context(), "precious", &v1alpha1.SandboxResume{}, metav1.CreateOptions{}); err != nil {
		t.Errorf("a resume, of which the policy does not speak: %v", err)
	}
}

func TestAPolicyWithParametersForbidsPauses(t *testing.T) {
	t.Parallel()
	r := newRoom(t)
	// What the documentation asks for: the server has to be able to read the parameters.
	role := &rbacv1.ClusterRole{
		ObjectMeta: metav1.ObjectMeta{Name: r.namespace + "-parameters"},
		Rules:      []rbacv1.PolicyRule{{APIGroups: []string{""}, Resources: []string{"configmaps"}, Verbs: []string{"list", "watch"}}},
	}
	if _, err := r.kube.RbacV1().ClusterRoles().Create(t.Context(), role, metav1.CreateOptions{}); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		_ = r.kube.RbacV1().ClusterRoles().Delete(context.Background(), role.Name, metav1.DeleteOptions{})
	})
	if _, err := r.kube.RbacV1().ClusterRoleBindings().Create(t.Context(), &rbacv1.ClusterRoleBinding{
		ObjectMeta: metav1.ObjectMeta{Name: role.Name},
		RoleRef:    rbacv1.RoleRef{APIGroup: rbacv1.GroupName, Kind: "ClusterRole", Name: role.Name},
		Subjects:   []rbacv1.Subject{serverSubject},
	}, metav1.CreateOptions{}); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		_ = r.kube.RbacV1().ClusterRoleBindings().Delete(context.Background(), role.Name, metav1.DeleteOptions{})
	})
	if _, err := r.kube.CoreV1().ConfigMaps(r.namespace).Create(t.Context(), &corev1.ConfigMap{
		ObjectMeta: metav1.ObjectMeta{Name: "awake"}, Data: map[string]string{"names": "precious,dear"},
	}, metav1.CreateOptions{}); err != nil {
		t.Fatal(err)
	}
	r.create("dear", fromNothing)
	r.create("other", fromNothing)
	r.forbidPause("!(object.metadata.name in params.data.names.split(','))", "it is on the list", "awake")
	r.awaitForbidden("dear", "it is on the list")
	r.mustPassPolicies("other")
}
