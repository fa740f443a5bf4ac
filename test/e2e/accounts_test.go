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

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/rest"

	"github.com/opensandbox-io/sandbox-apiserver/apis/lifecycle/v1alpha1"
)

// TestTheExamplePolicyJudgesThePerson: the Pods are created by the server's account, the sandboxes by people.
func TestTheExamplePolicyJudgesThePerson(t *testing.T) {
	t.Parallel()
	r := newRoom(t, map[string]string{"sandbox-templates": "restricted"})
	r.bind("user-edit", "edit")
	r.kubectlOK(t, "apply", "-f", "../../artifacts/examples/template-policy.yaml")
	t.Cleanup(func() { r.kubectlOK(t, "delete", "-f", "../../artifacts/examples/template-policy.yaml") })

	editor := r.as(t, "user-edit").LifecycleV1alpha1().Sandboxes(r.namespace)
	try := func(change func(*corev1.PodTemplateSpec)) error {
		sandbox := newSandbox("demo", fromNothing)
		change(sandbox.Spec.Template)
		_, err := editor.Create(t.Context(), sandbox, metav1.CreateOptions{DryRun: []string{metav1.DryRunAll}})
		return err
	}
	onNode := func(p *corev1.PodTemplateSpec) { p.Spec.NodeName = "some-node" }
	eventually(t, "the policy is at work", patience, func(context.Context) (bool, string) {
		err := try(onNode)
		return apierrors.IsForbidden(err) && strings.Contains(err.Error(), "spec.template.spec.nodeName"), fmt.Sprint(err)
	})
	for name, test := range map[string]struct {
		change func(*corev1.PodTemplateSpec)
		says   string
	}{
		"a plain one":            {func(*corev1.PodTemplateSpec) {}, ""},
		"an account that one is": {func(p *corev1.PodTemplateSpec) { p.Spec.ServiceAccountName = "deployer" }, ""},
		"a priority":             {func(p *corev1.PodTemplateSpec) { p.Spec.PriorityClassName = "system-cluster-critical" }, "priorityclasses system-cluster-critical"},
		"every taint": {func(p *corev1.PodTemplateSpec) {
			p.Spec.Tolerations = []corev1.Toleration{{Operator: corev1.TolerationOpExists}}
		}, "tolerations"},
		"a finalizer": {func(p *corev1.PodTemplateSpec) { p.Finalizers = []string{"example.com/mine"} }, "finalizers"},
	} {
		if err := try(test.change); (err == nil) != (test.says == "") || err != nil && !strings.Contains(err.Error(), test.says) {
			t.Errorf("%s: got %v, want a refusal of %q", name, err, test.says)
		}
	}

	// Administrators may; and who labels what they have made answers for nothing.
	r.create("theirs", fromNothing, func(s *v1alpha1.Sandbox) { onNode(s.Spec.Template) })
	if _, err := editor.Patch(t.Context(), "theirs", types.MergePatchType, []byte(`{"metadata":{"labels":{"team":"a"}}}`), metav1.PatchOptions{}); err != nil {
		t.Errorf("a label of what an administrator has made: %v", err)
	}
}

// podsOfTheServersAccount tries the policy on the server's account, as whoever has its token.
func podsOfTheServersAccount(t *testing.T, c *cluster) {
	config := rest.CopyConfig(c.config)
	config.Impersonate = rest.ImpersonationConfig{UserName: "system:serviceaccount:" + systemNamespace + ":sandbox-apiserver"}
	server, err := kubernetes.NewForConfig(config)
	if err != nil {
		t.Fatal(err)
	}
	try := func(ctx context.Context, namespace string, labels map[string]string) error {
		pod := &corev1.Pod{ObjectMeta: metav1.ObjectMeta{GenerateName: "policy-", Labels: labels}, Spec: newSandbox("x").Spec.Template.Spec}
		_, err := server.CoreV1().Pods(namespace).Create(ctx, pod, metav1.CreateOptions{DryRun: []string{metav1.DryRunAll}})
		return err
	}
	sandboxs := map[string]string{v1alpha1.LabelSandbox: "x", v1alpha1.LabelSandboxUID: "y"}
	eventually(t, "the server's account makes no Pods but those of sandboxes", patience, func(ctx context.Context) (bool, string) {
		err := try(ctx, "default", nil)
		return err != nil && strings.Contains(err.Error(), "Pods of sandboxes alone"), fmt.Sprint(err)
	})
	for namespace, says := range map[string]string{"default": "", "kube-system": "of the cluster itself", systemNamespace: "no Pods"} {
		if err := try(t.Context(), namespace, sandboxs); (err == nil) != (says == "") || err != nil && !strings.Contains(err.Error(), says) {
			t.Errorf("a sandbox's Pod in %s: got %v, want a refusal of %q", namespace, err, says)
		}
	}
	err = server.CoreV1().Pods(systemNamespace).Delete(t.Context(), serverPod, metav1.DeleteOptions{DryRun: []string{metav1.DryRunAll}})
	if err == nil || !strings.Contains(err.Error(), "no Pods") {
		t.Errorf("the server deletes its own Pod: %v", err)
	}
}
