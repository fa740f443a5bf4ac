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
	"fmt"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	admissionv1 "k8s.io/api/admission/v1"
	admissionregistrationv1 "k8s.io/api/admissionregistration/v1"
	authenticationv1 "k8s.io/api/authentication/v1"
	corev1 "k8s.io/api/core/v1"
	policyv1 "k8s.io/api/policy/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/utils/ptr"
	"sigs.k8s.io/yaml"

	"github.com/opensandbox-io/sandbox-apiserver/apis/lifecycle/v1alpha1"
)

// evictionHook is the webhook that is installed.
func (f *fixture) evictionHook() admissionregistrationv1.ValidatingWebhook {
	f.Helper()
	text, err := os.ReadFile(filepath.Join("..", "..", "artifacts", "base", "evictions.yaml"))
	f.must(err)
	var configuration admissionregistrationv1.ValidatingWebhookConfiguration
	f.must(yaml.UnmarshalStrict(text, &configuration))
	if len(configuration.Webhooks) != 1 {
		f.Fatalf("there are %d webhooks", len(configuration.Webhooks))
	}
	return configuration.Webhooks[0]
}

// review asks as kube-apiserver does where the webhook sends it.
func (f *fixture) review(as, pod string, change func(*admissionv1.AdmissionRequest, *policyv1.Eviction)) answer {
	f.Helper()
	eviction := &policyv1.Eviction{
		TypeMeta:   metav1.TypeMeta{APIVersion: "policy/v1", Kind: "Eviction"},
		ObjectMeta: metav1.ObjectMeta{Namespace: f.namespace, Name: pod},
	}
	request := &admissionv1.AdmissionRequest{
		UID: "question", Kind: metav1.GroupVersionKind{Group: "policy", Version: "v1", Kind: "Eviction"},
		Resource: metav1.GroupVersionResource{Version: "v1", Resource: "pods"}, SubResource: "eviction",
		Namespace: f.namespace, Name: pod, Operation: admissionv1.Create, DryRun: ptr.To(false),
		UserInfo: authenticationv1.UserInfo{Username: "drainer"},
	}
	if change != nil {
		change(request, eviction)
	}
	request.Object = runtime.RawExtension{Raw: []byte(f.encode(eviction))}
	body := f.encode(&admissionv1.AdmissionReview{TypeMeta: metav1.TypeMeta{APIVersion: "admission.k8s.io/v1", Kind: "AdmissionReview"}, Request: request})
	path := *f.evictionHook().ClientConfig.Service.Path + "?timeout=5s"
	return f.send(as, http.MethodPost, path, strings.NewReader(body), http.Header{"Content-Type": {asJSON}, "Accept": {"application/json, */*"}})
}

// response is what kube-apiserver makes of the answer.
// https://github.com/kubernetes/kubernetes/blob/v1.37.2/staging/src/k8s.io/apiserver/pkg/admission/plugin/webhook/request/admissionreview.go (VerifyAdmissionResponse)
func (a answer) response(f *fixture) *admissionv1.AdmissionResponse {
	f.Helper()
	var review admissionv1.AdmissionReview
	a.decode(f, &review)
	if a.code >= 300 || review.APIVersion != "admission.k8s.io/v1" || review.Kind != "AdmissionReview" || review.Response == nil || review.Response.UID != "question" || len(review.Response.Patch) != 0 {
		f.Fatalf("kube-apiserver would not take %d %s", a.code, a.body)
	}
	return review.Response
}

func TestTheEvictionWebhookFitsTheServer(t *testing.T) {
	f := newFixture(t)
	hook := f.evictionHook()
	service := hook.ClientConfig.Service
	// kube-apiserver calls itself for exactly this Service.
	// https://github.com/kubernetes/kubernetes/blob/v1.37.2/staging/src/k8s.io/apiserver/pkg/util/webhook/authentication.go
	if service.Namespace != "default" || service.Name != "kubernetes" || *service.Port != 443 || len(hook.ClientConfig.CABundle) != 0 {
		t.Errorf("it asks %+v", hook.ClientConfig)
	}
	// One that fails closed ends a drain for a moment in which it was not reached: https://github.com/deckhouse/deckhouse/pull/23007
	if *hook.FailurePolicy != admissionregistrationv1.Ignore || *hook.SideEffects != admissionregistrationv1.SideEffectClassNoneOnDryRun || *hook.TimeoutSeconds > 5 ||
		!slices.Equal(hook.AdmissionReviewVersions, []string{"v1"}) {
		t.Errorf("a server that is down is not to hold up a drain: %+v", hook)
	}
	if len(hook.Rules) != 1 || !slices.Equal(hook.Rules[0].Resources, []string{"pods/eviction"}) || !slices.Equal(hook.Rules[0].Operations, []admissionregistrationv1.OperationType{"CREATE"}) {
		t.Errorf("it is asked about %+v", hook.Rules)
	}
	if got := f.review(admin, "unknown", nil).response(f); !got.Allowed {
		t.Errorf("nobody's Pod: %+v", got)
	}
	if got := f.send(admin, http.MethodGet, *service.Path, nil, nil); got.code != http.StatusMethodNotAllowed {
		t.Errorf("there is something to list: %d %s", got.code, got.body)
	}
	// Whoever could ask could have sandboxes move.
	for _, who := range []string{editor, viewer, pauser} {
		if got := f.review(who, "unknown", nil); got.code != http.StatusForbidden {
			t.Errorf("%s may ask: %d %s", who, got.code, got.body)
		}
	}
	for _, document := range f.documents() {
		for path := range document.Paths {
			if strings.Contains(path, "evictionreviews") {
				t.Errorf("%s is described, with kinds that are not ours", path)
			}
		}
	}
}

// evicted is a sandbox that runs, with its Pod, on a server that knows a cluster.
func evicted(t *testing.T, policy v1alpha1.SandboxEvictionPolicy) (*fixture, *countingReader, *corev1.Pod) {
	f, _ := admittingFixture(t)
	served, err := admitting()
	f.must(err)
	demo := f.create(sandbox("demo", func(s *v1alpha1.Sandbox) { s.Spec.EvictionPolicy = policy }))
	f.writeStatus("demo", func(status *v1alpha1.SandboxStatus) {
		status.Phase, status.PodName, status.PodUID, status.NodeName = v1alpha1.SandboxRunning, "demo", "pod-uid", "node-a"
	})
	pod := &corev1.Pod{
		ObjectMeta: metav1.ObjectMeta{Namespace: f.namespace, Name: "demo", UID: "pod-uid", Labels: map[string]string{v1alpha1.LabelSandboxUID: string(demo.UID)}},
		Spec:       corev1.PodSpec{NodeName: "node-a"}, Status: corev1.PodStatus{Phase: corev1.PodRunning},
	}
	f.must(served.host.Create(t.Context(), pod))
	return f, served.host, pod
}

func TestAnEvictionBecomesAMove(t *testing.T) {
	f, host, pod := evicted(t, "")
	before := f.get("demo")

	// kubectl says so in the body alone, others in the query.
	for name, dry := range map[string]func(*admissionv1.AdmissionRequest, *policyv1.Eviction){
		"the body": func(_ *admissionv1.AdmissionRequest, e *policyv1.Eviction) {
			e.DeleteOptions = &metav1.DeleteOptions{DryRun: []string{metav1.DryRunAll}}
		},
		"the query": func(r *admissionv1.AdmissionRequest, _ *policyv1.Eviction) { r.DryRun = ptr.To(true) },
	} {
		got := f.review(admin, "demo", dry).response(f)
		if !got.Allowed || len(got.Warnings) != 1 || !strings.Contains(got.Warnings[0], "would be answered with 429") {
			t.Errorf("a dry run by %s: %+v", name, got)
		}
	}
	if now := f.get("demo"); now.ResourceVersion != before.ResourceVersion {
		t.Errorf("a dry run has written %+v", now.Status.Move)
	}

	// Any other code than 429 ends a drain, or an upgrade of the cluster, with an error: https://github.com/Azure/AKS/issues/4720
	began := time.Now().Add(-time.Second)
	got := f.review(admin, "demo", nil).response(f)
	if got.Allowed || got.Result.Code != 429 || got.Result.Reason != metav1.StatusReasonTooManyRequests || got.Result.Details != nil || !strings.Contains(got.Result.Message, "files are being saved") {
		t.Errorf("answered %+v", got)
	}
	noted := f.get("demo")
	move := noted.Status.Move
	if move == nil || move.PodUID != "pod-uid" || move.NodeName != "node-a" || move.Reason != v1alpha1.ReasonEvicted || !strings.Contains(move.Message, "drainer") || move.RequestTime.Time.Before(began) {
		t.Fatalf("noted %+v", move)
	}
	// The retries of a drain.
	for range 3 {
		if got := f.review(admin, "demo", nil).response(f); got.Allowed || got.Result.Code != 429 {
			t.Errorf("asked again: %+v", got)
		}
	}
	if now := f.get("demo"); now.ResourceVersion != noted.ResourceVersion {
		t.Error("a repeat wrote")
	}
	// Another replica answers the same.
	if got := replicaFixture(t).review(admin, "demo", nil).response(f); got.Allowed || got.Result.Code != 429 {
		t.Errorf("another replica: %+v", got)
	}
	// Another Pod's UID: kube-apiserver compares it itself.
	if got := f.review(admin, "demo", func(_ *admissionv1.AdmissionRequest, e *policyv1.Eviction) {
		e.DeleteOptions = &metav1.DeleteOptions{Preconditions: metav1.NewUIDPreconditions("another")}
	}).response(f); !got.Allowed {
		t.Errorf("another UID: %+v", got)
	}

	// It has come back elsewhere, and the drain asks for the name once more.
	next := pod.DeepCopy()
	f.must(host.Delete(t.Context(), pod))
	if got := f.review(admin, "demo", nil).response(f); !got.Allowed {
		t.Errorf("there is no Pod: %+v", got)
	}
	next.ResourceVersion, next.UID, next.Spec.NodeName = "", "next-uid", "node-b"
	next.Annotations = map[string]string{v1alpha1.AnnotationMovedFrom: "node-a"}
	next.Status.Phase = corev1.PodPending
	node := &corev1.Node{ObjectMeta: metav1.ObjectMeta{Name: "node-b"}}
	f.must(host.Create(t.Context(), next))
	f.must(host.Create(t.Context(), node))
	t.Cleanup(func() { _ = host.Delete(context.Background(), node) })
	f.writeStatus("demo", func(status *v1alpha1.SandboxStatus) {
		status.Phase, status.PodUID, status.NodeName = v1alpha1.SandboxResuming, "next-uid", "node-b"
	})
	if got := f.review(admin, "demo", nil).response(f); got.Allowed || got.Result.Code != 404 || got.Result.Reason != metav1.StatusReasonNotFound || got.Result.Details.Kind != "pods" {
		t.Errorf("after the move: %+v", got)
	}
	node.Spec.Unschedulable = true
	f.must(host.Update(t.Context(), node))
	if got := f.review(admin, "demo", nil).response(f); !got.Allowed {
		t.Errorf("the next node is emptied as well, and nothing has run: %+v", got)
	}
}

func TestAnEvictionThatTheOwnerLetsHappen(t *testing.T) {
	f, _, _ := evicted(t, v1alpha1.EvictionPolicyNone)
	if got := f.review(admin, "demo", nil).response(f); !got.Allowed {
		t.Errorf("answered %+v", got)
	}
	if move := f.get("demo").Status.Move; move != nil {
		t.Errorf("noted %+v", move)
	}
}

// TestStrangersAreNotLookedAt: the hook sees every eviction of the cluster.
func TestStrangersAreNotLookedAt(t *testing.T) {
	f, host, _ := evicted(t, "")
	reads := host.reads.Load()
	for range 20 {
		if got := f.review(admin, "a-stranger-7d9f", nil).response(f); !got.Allowed || len(got.Warnings) != 0 {
			t.Fatalf("answered %+v", got)
		}
	}
	if now := host.reads.Load(); now != reads {
		t.Errorf("the cluster was asked %d times", now-reads)
	}
}

// TestAWebhookForAllKindsIsNotAskedAboutReviews: its own Pod may be what is drained.
func TestAWebhookForAllKindsIsNotAskedAboutReviews(t *testing.T) {
	f, kube := admittingFixture(t)
	fail, none := admissionregistrationv1.Fail, admissionregistrationv1.SideEffectClassNone
	everything := func(group, resource string) []admissionregistrationv1.RuleWithOperations {
		return []admissionregistrationv1.RuleWithOperations{{
			Operations: []admissionregistrationv1.OperationType{admissionregistrationv1.OperationAll},
			Rule:       admissionregistrationv1.Rule{APIGroups: []string{group}, APIVersions: []string{"*"}, Resources: []string{resource}},
		}}
	}
	gone := admissionregistrationv1.WebhookClientConfig{URL: ptr.To("https://127.0.0.1:1/")}
	// Its selector keeps other tests out of it; what has no namespace is nevertheless asked about.
	hooks := kube.AdmissionregistrationV1().MutatingWebhookConfigurations()
	_, err := hooks.Create(t.Context(), &admissionregistrationv1.MutatingWebhookConfiguration{
		ObjectMeta: metav1.ObjectMeta{Name: "all-kinds"},
		Webhooks: []admissionregistrationv1.MutatingWebhook{{
			Name: "all.example.com", ClientConfig: gone, Rules: everything("*", "*/*"), FailurePolicy: &fail, SideEffects: &none,
			MatchPolicy: ptr.To(admissionregistrationv1.Equivalent), NamespaceSelector: f.here(), ObjectSelector: &metav1.LabelSelector{},
			ReinvocationPolicy: ptr.To(admissionregistrationv1.NeverReinvocationPolicy),
			TimeoutSeconds:     ptr.To[int32](1), AdmissionReviewVersions: []string{"v1"},
		}},
	}, metav1.CreateOptions{})
	f.must(err)
	t.Cleanup(func() { _ = hooks.Delete(context.Background(), "all-kinds", metav1.DeleteOptions{}) })
	body := f.encode(sandbox("demo"))
	f.eventually(func() error {
		if got := f.post(f.path("?dryRun=All"), body); got.code != http.StatusInternalServerError {
			return fmt.Errorf("the webhook is not asked yet: %d %s", got.code, got.body)
		}
		return nil
	})
	if got := f.review(admin, "demo", nil).response(f); !got.Allowed {
		t.Errorf("answered %+v", got)
	}
}

func TestQuestionsThatAreNone(t *testing.T) {
	f := newFixture(t)
	path := *f.evictionHook().ClientConfig.Service.Path
	for name, test := range map[string]struct {
		body string
		says string
	}{
		"no request":      {`{"apiVersion":"admission.k8s.io/v1","kind":"AdmissionReview"}`, "request: required"},
		"another kind":    {`{"apiVersion":"v1","kind":"Pod"}`, "Pod"},
		"another version": {`{"apiVersion":"admission.k8s.io/v1beta1","kind":"AdmissionReview","request":{"uid":"u"}}`, "v1beta1"},
		"of a Pod": {`{"apiVersion":"admission.k8s.io/v1","kind":"AdmissionReview","request":{"uid":"u","resource":{"version":"v1","resource":"pods"},"operation":"CREATE"}}`,
			"is not the creation of a pods/eviction"},
		"of nothing": {`{"apiVersion":"admission.k8s.io/v1","kind":"AdmissionReview","request":{"uid":"u","resource":{"version":"v1","resource":"pods"},"subResource":"eviction","operation":"CREATE","object":{}}}`,
			"names no Pod"},
		"of no eviction": {`{"apiVersion":"admission.k8s.io/v1","kind":"AdmissionReview","request":{"uid":"u","resource":{"version":"v1","resource":"pods"},"subResource":"eviction","operation":"CREATE","object":"x"}}`,
			"not an Eviction"},
		"no JSON": {`{`, ""},
	} {
		got := f.post(path, test.body)
		if status := got.status(f); got.code < 400 || got.code >= 500 || !strings.Contains(status.Message, test.says) {
			t.Errorf("%s: %d %s", name, got.code, got.body)
		}
	}
	// A newer kube-apiserver may say more.
	body := `{"apiVersion":"admission.k8s.io/v1","kind":"AdmissionReview","request":{"uid":"question","news":{"a":1},"resource":{"version":"v1","resource":"pods"},"subResource":"eviction","operation":"CREATE","namespace":"a","name":"b","object":{"more":true}}}`
	if got := f.post(path, body).response(f); !got.Allowed {
		t.Errorf("a question with more: %s", json.RawMessage(f.encode(got)))
	}
}
