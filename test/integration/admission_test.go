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

package integration

import (
	"context"
	"encoding/json"
	"encoding/pem"
	"fmt"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync/atomic"
	"testing"

	admissionv1 "k8s.io/api/admission/v1"
	admissionregistrationv1 "k8s.io/api/admissionregistration/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/utils/ptr"

	"github.com/opensandbox-io/sandbox-apiserver/apis/lifecycle/v1alpha1"
)

// onPause are the requests to sandboxes/pause.
var onPause = admissionregistrationv1.RuleWithOperations{
	Operations: []admissionregistrationv1.OperationType{admissionregistrationv1.Create},
	Rule: admissionregistrationv1.Rule{
		APIGroups: []string{v1alpha1.GroupName}, APIVersions: []string{"v1alpha1"}, Resources: []string{"sandboxes/pause"},
	},
}

func TestAPolicyOnThePauseVerb(t *testing.T) {
	f, kube := admittingFixture(t)
	fail := admissionregistrationv1.Fail
	_, err := kube.AdmissionregistrationV1().ValidatingAdmissionPolicies().Create(t.Context(), &admissionregistrationv1.ValidatingAdmissionPolicy{
		ObjectMeta: metav1.ObjectMeta{Name: "keep-awake"},
		Spec: admissionregistrationv1.ValidatingAdmissionPolicySpec{
			FailurePolicy: &fail,
			MatchConstraints: &admissionregistrationv1.MatchResources{
				NamespaceSelector: f.here(), ObjectSelector: &metav1.LabelSelector{},
				MatchPolicy:   ptr.To(admissionregistrationv1.Equivalent),
				ResourceRules: []admissionregistrationv1.NamedRuleWithOperations{{RuleWithOperations: onPause}},
			},
			Validations: []admissionregistrationv1.Validation{{
				Expression: "!object.metadata.name.startsWith('precious')", Message: "precious sandboxes stay awake",
			}},
		},
	}, metav1.CreateOptions{})
	f.must(err)
	_, err = kube.AdmissionregistrationV1().ValidatingAdmissionPolicyBindings().Create(t.Context(), &admissionregistrationv1.ValidatingAdmissionPolicyBinding{
		ObjectMeta: metav1.ObjectMeta{Name: "keep-awake"},
		Spec: admissionregistrationv1.ValidatingAdmissionPolicyBindingSpec{
			PolicyName: "keep-awake", ValidationActions: []admissionregistrationv1.ValidationAction{admissionregistrationv1.Deny},
		},
	}, metav1.CreateOptions{})
	f.must(err)

	f.create(sandbox("precious"))
	f.create(sandbox("other"))
	f.asRunning("precious")
	f.asRunning("other")
	// The policy is compiled a moment after it is there; until then a dry run harms nobody.
	dry := metav1.CreateOptions{DryRun: []string{metav1.DryRunAll}}
	f.eventually(func() error {
		_, err := f.sandboxes.Pause(context.Background(), "precious", &v1alpha1.SandboxPause{}, dry)
		if !apierrors.IsForbidden(err) && !apierrors.IsInvalid(err) || !strings.Contains(err.Error(), "precious sandboxes stay awake") {
			return fmt.Errorf("not refused by the policy: %w", err)
		}
		return nil
	})
	if _, err := f.sandboxes.Pause(context.Background(), "precious", &v1alpha1.SandboxPause{}, metav1.CreateOptions{}); err == nil || !strings.Contains(err.Error(), "precious sandboxes stay awake") {
		t.Errorf("a pause that the policy forbids: %v", err)
	}
	if phase := f.get("precious").Status.Phase; phase != v1alpha1.SandboxRunning {
		t.Errorf("after a pause that was refused it is %s", phase)
	}
	_, err = f.sandboxes.Pause(context.Background(), "other", &v1alpha1.SandboxPause{}, metav1.CreateOptions{})
	f.must(err)
	// Another verb is another resource.
	_, err = f.sandboxes.Resume(context.Background(), "precious", &v1alpha1.SandboxResume{}, metav1.CreateOptions{})
	f.must(err)
}

func TestAWebhookOnThePauseVerb(t *testing.T) {
	f, kube := admittingFixture(t)
	var asked atomic.Pointer[admissionv1.AdmissionRequest]
	hook := httptest.NewTLSServer(http.HandlerFunc(func(w http.ResponseWriter, req *http.Request) {
		review := admissionv1.AdmissionReview{}
		if err := json.NewDecoder(req.Body).Decode(&review); err != nil {
			http.Error(w, err.Error(), http.StatusBadRequest)
			return
		}
		asked.Store(review.Request)
		review.Response = &admissionv1.AdmissionResponse{UID: review.Request.UID, Allowed: review.Request.Name != "precious", Result: &metav1.Status{Code: http.StatusForbidden, Reason: metav1.StatusReasonForbidden, Message: "it is needed"}}
		review.Request = nil
		w.Header().Set("Content-Type", "application/json")
		_ = json.NewEncoder(w).Encode(review)
	}))
	t.Cleanup(hook.Close)
	none, fail := admissionregistrationv1.SideEffectClassNone, admissionregistrationv1.Fail
	_, err := kube.AdmissionregistrationV1().ValidatingWebhookConfigurations().Create(t.Context(), &admissionregistrationv1.ValidatingWebhookConfiguration{
		ObjectMeta: metav1.ObjectMeta{Name: "ask"},
		Webhooks: []admissionregistrationv1.ValidatingWebhook{{
			Name: "ask.example.com",
			ClientConfig: admissionregistrationv1.WebhookClientConfig{
				URL:      ptr.To(hook.URL),
				CABundle: pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: hook.Certificate().Raw}),
			},
			Rules: []admissionregistrationv1.RuleWithOperations{onPause}, FailurePolicy: &fail, SideEffects: &none,
			MatchPolicy: ptr.To(admissionregistrationv1.Equivalent), TimeoutSeconds: ptr.To[int32](10),
			NamespaceSelector: f.here(), ObjectSelector: &metav1.LabelSelector{},
			AdmissionReviewVersions: []string{"v1"},
		}},
	}, metav1.CreateOptions{})
	f.must(err)

	f.create(sandbox("precious"))
	f.asRunning("precious")
	f.eventually(func() error {
		_, err := f.sandboxes.Pause(context.Background(), "precious", &v1alpha1.SandboxPause{}, metav1.CreateOptions{DryRun: []string{metav1.DryRunAll}})
		if err == nil || !strings.Contains(err.Error(), "it is needed") {
			return fmt.Errorf("not refused by the webhook: %w", err)
		}
		return nil
	})
	request := asked.Load()
	body := v1alpha1.SandboxPause{}
	f.must(json.Unmarshal(request.Object.Raw, &body))
	if request.Operation != admissionv1.Create || request.Kind.Kind != "SandboxPause" || request.Resource.Resource != "sandboxes" || request.SubResource != "pause" ||
		request.Namespace != f.namespace || request.UserInfo.Username != admin || !*request.DryRun || body.Name != "precious" || body.Kind != "SandboxPause" {
		t.Errorf("the webhook was asked about %+v", request)
	}
	if _, err := f.sandboxes.Pause(context.Background(), "precious", &v1alpha1.SandboxPause{}, metav1.CreateOptions{}); !apierrors.IsForbidden(err) {
		t.Errorf("a pause that the webhook forbids: %v", err)
	}
	if phase := f.get("precious").Status.Phase; phase != v1alpha1.SandboxRunning {
		t.Errorf("after a pause that was refused it is %s", phase)
	}
	if *asked.Load().DryRun {
		t.Error("the webhook was told of a dry run that is none")
	}
}
