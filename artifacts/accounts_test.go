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
	"strings"
	"testing"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apiserver/pkg/admission"
	"k8s.io/utils/ptr"

	"github.com/opensandbox-io/sandbox-apiserver/apis/lifecycle/v1alpha1"
)

// TestTheServersAccountIsKeptToSandboxes: whoever has its token has the Pods of sandboxes, and no others.
func TestTheServersAccountIsKeptToSandboxes(t *testing.T) {
	judge := newJudge(t, "policies", "sandbox-server-pods")
	of := func(namespace string, labels map[string]string) *corev1.Pod {
		return &corev1.Pod{
			ObjectMeta: metav1.ObjectMeta{Namespace: namespace, Name: "demo", Labels: labels},
			Spec:       corev1.PodSpec{Containers: []corev1.Container{{Name: "main", Image: "busybox"}}},
		}
	}
	sandboxs := map[string]string{v1alpha1.LabelSandbox: "demo", v1alpha1.LabelSandboxUID: "uid", "app": "demo"}
	commits := map[string]string{v1alpha1.LabelComponent: "commit", v1alpha1.LabelSnapshotUID: "uid"}
	adopted := of("team", sandboxs)
	adopted.OwnerReferences = []metav1.OwnerReference{{APIVersion: "apps/v1", Kind: "ReplicaSet", Name: "a", UID: "1", Controller: ptr.To(true)}}
	moved := of("team", sandboxs)
	moved.Spec.Containers[0].Image = "evil"
	for name, test := range map[string]struct {
		who         string
		operation   admission.Operation
		object, old *corev1.Pod
		says        string // empty: it is taken
	}{
		"makes a sandbox's":                   {operation: admission.Create, object: of("team", sandboxs)},
		"takes one back":                      {operation: admission.Update, object: of("team", sandboxs), old: adopted},
		"deletes one":                         {operation: admission.Delete, old: of("team", sandboxs)},
		"deletes one that ran in kube-system": {operation: admission.Delete, old: of("kube-system", sandboxs)},
		"deletes a commit's":                  {operation: admission.Delete, old: of("sandbox-system", commits)},

		"makes another":              {operation: admission.Create, object: of("team", nil), says: "Pods of sandboxes"},
		"makes another's":            {operation: admission.Create, object: of("team", map[string]string{"app": "demo"}), says: "Pods of sandboxes"},
		"makes one of no sandbox":    {operation: admission.Create, object: of("team", map[string]string{v1alpha1.LabelSandbox: "demo", v1alpha1.LabelSandboxUID: ""}), says: "Pods of sandboxes"},
		"makes one in kube-system":   {operation: admission.Create, object: of("kube-system", sandboxs), says: "of the cluster itself"},
		"makes one in kube-public":   {operation: admission.Create, object: of("kube-public", sandboxs), says: "of the cluster itself"},
		"makes one beside itself":    {operation: admission.Create, object: of("sandbox-system", sandboxs), says: "no Pods"},
		"makes a commit's":           {operation: admission.Create, object: of("sandbox-system", commits), says: "no Pods"},
		"changes a commit's":         {operation: admission.Update, object: of("sandbox-system", commits), old: of("sandbox-system", commits), says: "no Pods"},
		"deletes itself":             {operation: admission.Delete, old: of("sandbox-system", map[string]string{"app.kubernetes.io/name": "sandbox-apiserver"}), says: "no Pods"},
		"deletes another":            {operation: admission.Delete, old: of("team", nil), says: "Pods of sandboxes"},
		"deletes a system's":         {operation: admission.Delete, old: of("kube-system", map[string]string{"k8s-app": "kube-dns"}), says: "Pods of sandboxes"},
		"labels another":             {operation: admission.Update, object: of("team", sandboxs), old: of("team", nil), says: "the owner alone"},
		"gives one away":             {operation: admission.Update, object: of("team", map[string]string{"app": "demo"}), old: of("team", sandboxs), says: "Pods of sandboxes"},
		"has one run something else": {operation: admission.Update, object: moved, old: of("team", sandboxs), says: "the owner alone"},

		"somebody else makes a Pod":     {who: "system:serviceaccount:kube-system:replicaset-controller", operation: admission.Create, object: of("team", nil)},
		"somebody else in kube-system":  {who: "system:node:a", operation: admission.Create, object: of("kube-system", nil)},
		"an account of that name":       {who: "system:serviceaccount:team:sandbox-apiserver", operation: admission.Create, object: of("team", nil)},
		"somebody else labels a Pod so": {who: "admin", operation: admission.Update, object: of("team", sandboxs), old: of("team", nil)},
	} {
		t.Run(name, func(t *testing.T) {
			request := asked{who: theServer, operation: test.operation, resource: corev1.SchemeGroupVersion.WithResource("pods"), kind: corev1.SchemeGroupVersion.WithKind("Pod")}
			if test.who != "" {
				request.who = test.who
			}
			if test.object != nil {
				request.object, request.namespace = test.object, test.object.Namespace
			}
			if test.old != nil {
				request.old, request.namespace = test.old, test.old.Namespace
			}
			if said := judge.say(t, request); test.says == "" && said != "" || !strings.Contains(said, test.says) {
				t.Errorf("it says %q, want %q", said, test.says)
			}
		})
	}
}

// TestTheExamplePolicyOnTemplates: what a person may not use, a sandbox of theirs does not get.
func TestTheExamplePolicyOnTemplates(t *testing.T) {
	judge := newJudge(t, "examples", "sandbox-templates")
	with := func(change func(*corev1.PodTemplateSpec)) *v1alpha1.Sandbox {
		sandbox := &v1alpha1.Sandbox{
			ObjectMeta: metav1.ObjectMeta{Namespace: "team", Name: "demo"},
			Spec:       v1alpha1.SandboxSpec{Template: &corev1.PodTemplateSpec{Spec: corev1.PodSpec{Containers: []corev1.Container{{Name: "main", Image: "busybox"}}}}},
		}
		if change != nil {
			change(sandbox.Spec.Template)
		}
		return sandbox
	}
	plain := with(nil)
	onNode := with(func(p *corev1.PodTemplateSpec) { p.Spec.NodeName = "a" })
	labelled := onNode.DeepCopy()
	labelled.Labels = map[string]string{"team": "a"}
	paused := onNode.DeepCopy()
	paused.Spec.DesiredState = v1alpha1.DesiredStatePaused
	clone := &v1alpha1.Sandbox{ObjectMeta: plain.ObjectMeta, Spec: v1alpha1.SandboxSpec{RestoreFrom: &v1alpha1.SandboxRestoreSource{SnapshotName: "a"}}}
	taint := func(of corev1.Toleration) *v1alpha1.Sandbox {
		return with(func(p *corev1.PodTemplateSpec) { p.Spec.Tolerations = []corev1.Toleration{of} })
	}
	account := with(func(p *corev1.PodTemplateSpec) { p.Spec.ServiceAccountName = "deployer" })
	oldAccount := with(func(p *corev1.PodTemplateSpec) { p.Spec.DeprecatedServiceAccount = "deployer" })
	urgent := with(func(p *corev1.PodTemplateSpec) { p.Spec.PriorityClassName = "urgent" })
	for name, test := range map[string]struct {
		who         string
		may         []string
		object, old *v1alpha1.Sandbox
		says        string // empty: it is taken
	}{
		"a plain one":                        {object: plain},
		"the account of all Pods":            {object: with(func(p *corev1.PodTemplateSpec) { p.Spec.ServiceAccountName = "default" })},
		"an account":                         {object: account, says: "right to impersonate deployer"},
		"an account by its old name":         {object: oldAccount, says: "right to impersonate deployer"},
		"an account that one may be":         {object: account, may: []string{"impersonate serviceaccounts deployer"}},
		"an account that is not that one":    {object: account, may: []string{"impersonate serviceaccounts builder"}, says: "deployer"},
		"a node":                             {object: onNode, says: "spec.template.spec.nodeName"},
		"a node, later":                      {object: onNode, old: plain, says: "spec.template.spec.nodeName"},
		"a node, by an administrator":        {object: onNode, may: []string{"update nodes"}},
		"a label of one that was allowed to": {object: labelled, old: onNode},
		"a pause of one that was allowed to": {object: paused, old: onNode},
		"what every Pod tolerates":           {object: taint(corev1.Toleration{Key: "node.kubernetes.io/not-ready", Operator: "Exists", Effect: "NoExecute"})},
		"a taint":                            {object: taint(corev1.Toleration{Key: "node-role.kubernetes.io/control-plane", Operator: "Exists"}), says: "tolerations"},
		"every taint":                        {object: taint(corev1.Toleration{Operator: "Exists"}), says: "tolerations"},
		"a priority":                         {object: urgent, says: `"use" priorityclasses urgent`},
		"a priority that one may use":        {object: urgent, may: []string{"use priorityclasses urgent"}},
		"a path of the node": {object: with(func(p *corev1.PodTemplateSpec) {
			p.Spec.Volumes = []corev1.Volume{{Name: "a", VolumeSource: corev1.VolumeSource{HostPath: &corev1.HostPathVolumeSource{Path: "/"}}}}
		}), says: "path of the node"},
		"another volume": {object: with(func(p *corev1.PodTemplateSpec) {
			p.Spec.Volumes = []corev1.Volume{{Name: "a", VolumeSource: corev1.VolumeSource{EmptyDir: &corev1.EmptyDirVolumeSource{}}}}
		})},
		"a finalizer":                         {object: with(func(p *corev1.PodTemplateSpec) { p.Finalizers = []string{"example.com/mine"} }), says: "finalizers"},
		"the template of a snapshot":          {object: clone, says: "name the template yourself"},
		"the template of a snapshot, later":   {object: clone, old: plain, says: "name the template yourself"},
		"a label of one without its own":      {object: clone, old: clone},
		"what the server's controllers write": {who: "system:apiserver", object: onNode},
	} {
		t.Run(name, func(t *testing.T) {
			request := asked{
				who: "somebody", may: test.may, operation: admission.Create, namespace: "team", object: test.object,
				resource: v1alpha1.SchemeGroupVersion.WithResource("sandboxes"), kind: v1alpha1.SchemeGroupVersion.WithKind("Sandbox"),
			}
			if test.who != "" {
				request.who = test.who
			}
			if test.old != nil {
				request.operation, request.old = admission.Update, test.old
			}
			if said := judge.say(t, request); test.says == "" && said != "" || !strings.Contains(said, test.says) {
				t.Errorf("it says %q, want %q", said, test.says)
			}
		})
	}
}
