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
	"encoding/json"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"

	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	networkingv1 "k8s.io/api/networking/v1"
	policyv1 "k8s.io/api/policy/v1"
	rbacv1 "k8s.io/api/rbac/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/labels"
	"sigs.k8s.io/yaml"
)

// found decodes the one object of a kind.
func found[T any](t *testing.T, folder, kind string) *T {
	t.Helper()
	var all []*T
	for _, m := range manifests(t, folder) {
		if m.Kind == kind {
			object := new(T)
			decode(t, m, object)
			all = append(all, object)
		}
	}
	if len(all) != 1 {
		t.Fatalf("%s has %d of kind %s", folder, len(all), kind)
	}
	return all[0]
}

// TestTheGatewayStays: what ends one replica leaves the other, and neither is ended for what is away behind it.
func TestTheGatewayStays(t *testing.T) {
	gateway := found[appsv1.Deployment](t, "gateway", "Deployment")
	if replicas := gateway.Spec.Replicas; replicas == nil || *replicas < 2 {
		t.Errorf("it has %v replicas", replicas)
	}
	if rolling := gateway.Spec.Strategy.RollingUpdate; rolling == nil || rolling.MaxUnavailable == nil || rolling.MaxUnavailable.IntValue() != 0 {
		t.Errorf("its update takes one away before another serves: %+v", rolling)
	}
	budget := found[policyv1.PodDisruptionBudget](t, "gateway", "PodDisruptionBudget")
	if least := budget.Spec.MinAvailable; least == nil || least.IntValue() < 1 {
		t.Errorf("its budget is %v", least)
	}
	container := gateway.Spec.Template.Spec.Containers[0]
	for name, want := range map[string]struct {
		probe *corev1.Probe
		path  string
	}{
		"startup": {container.StartupProbe, "/health"}, "liveness": {container.LivenessProbe, "/health"}, "readiness": {container.ReadinessProbe, "/readyz"},
	} {
		if want.probe == nil || want.probe.HTTPGet == nil || want.probe.HTTPGet.Path != want.path {
			t.Errorf("its %s probe is %+v, want one of %s", name, want.probe, want.path)
		}
	}
}

// TestTheGatewaysPartsAreOfOnePiece: everything that selects its Pods selects them, on the port that they have.
func TestTheGatewaysPartsAreOfOnePiece(t *testing.T) {
	gateway := found[appsv1.Deployment](t, "gateway", "Deployment")
	service := found[corev1.Service](t, "gateway", "Service")
	policy := found[networkingv1.NetworkPolicy](t, "gateway", "NetworkPolicy")
	budget := found[policyv1.PodDisruptionBudget](t, "gateway", "PodDisruptionBudget")
	account := found[corev1.ServiceAccount](t, "gateway", "ServiceAccount")
	pods := labels.Set(gateway.Spec.Template.Labels)
	for what, selector := range map[string]*metav1.LabelSelector{
		"Deployment": gateway.Spec.Selector, "Service": {MatchLabels: service.Spec.Selector}, "NetworkPolicy": &policy.Spec.PodSelector, "PodDisruptionBudget": budget.Spec.Selector,
	} {
		if s, err := metav1.LabelSelectorAsSelector(selector); err != nil || s.Empty() || !s.Matches(pods) {
			t.Errorf("the %s selects %v (%v), and its Pods are %v", what, selector, err, pods)
		}
	}
	port := gateway.Spec.Template.Spec.Containers[0].Ports[0]
	if got := service.Spec.Ports[0]; got.Port != 80 || got.TargetPort.String() != port.Name {
		t.Errorf("the Service has port %d for %s, want 80 for %s", got.Port, got.TargetPort.String(), port.Name)
	}
	if got := policy.Spec.Ingress[0].Ports[0].Port.IntValue(); got != int(port.ContainerPort) {
		t.Errorf("the NetworkPolicy lets in to port %d, and it listens on %d", got, port.ContainerPort)
	}
	if got := gateway.Spec.Template.Spec.ServiceAccountName; got != account.Name {
		t.Errorf("it has the account %q, and there is %q", got, account.Name)
	}
	listed := struct{ Resources []string }{}
	text, err := yaml.YAMLToJSON(manifests(t, "gateway/kustomization.yaml")[0].text)
	if err == nil {
		err = json.Unmarshal(text, &listed)
	}
	files, _ := filepath.Glob("gateway/*.yaml")
	for _, file := range files {
		if name := filepath.Base(file); name != "kustomization.yaml" && !slices.Contains(listed.Resources, name) {
			t.Errorf("the kustomization (%v) leaves %s out", err, name)
		}
	}
}

// TestTheGatewayIsKept: nothing in its Pod can be written, nothing more can be become.
func TestTheGatewayIsKept(t *testing.T) {
	spec := found[appsv1.Deployment](t, "gateway", "Deployment").Spec.Template.Spec
	if pod := spec.SecurityContext; pod == nil || pod.RunAsNonRoot == nil || !*pod.RunAsNonRoot || pod.SeccompProfile == nil {
		t.Errorf("the Pod: %+v", pod)
	}
	of := spec.Containers[0].SecurityContext
	if of == nil || of.ReadOnlyRootFilesystem == nil || !*of.ReadOnlyRootFilesystem || of.AllowPrivilegeEscalation == nil || *of.AllowPrivilegeEscalation ||
		of.Capabilities == nil || !slices.Equal(of.Capabilities.Drop, []corev1.Capability{"ALL"}) {
		t.Errorf("the container: %+v", of)
	}
	for _, block := range found[networkingv1.NetworkPolicy](t, "gateway", "NetworkPolicy").Spec.Egress {
		for _, to := range block.To {
			if to.IPBlock == nil || len(to.IPBlock.Except) == 0 {
				t.Errorf("it may reach what is link-local: %+v", to)
			}
		}
	}
}

// TestTheGatewayActsAsNobodyByItself: whom it may act as each tenant says by name; what it may do by itself writes nothing, but
// the key of its route tokens.
func TestTheGatewayActsAsNobodyByItself(t *testing.T) {
	for _, m := range manifests(t, "gateway") {
		if m.Kind != "Role" && m.Kind != "ClusterRole" || m.Name != "lifecycle-gateway" {
			continue
		}
		var role rbacv1.ClusterRole
		decode(t, m, &role)
		for _, rule := range role.Rules {
			reads := onlyOf(rule.Verbs, "get", "list", "watch")
			asks := slices.Equal(rule.Verbs, []string{"create"}) && onlyOf(rule.Resources, "tokenreviews", "subjectaccessreviews")
			key := m.Kind == "Role" && slices.Equal(rule.Verbs, []string{"create"}) && onlyOf(rule.Resources, "secrets")
			if !reads && !asks && !key {
				t.Errorf("%s: %s %s allows %v", m.file, m.Kind, m.Name, rule)
			}
		}
	}
	named := 0
	for _, m := range manifests(t, ".") {
		if m.Kind != "Role" && m.Kind != "ClusterRole" {
			continue
		}
		var role rbacv1.ClusterRole
		decode(t, m, &role)
		for _, rule := range role.Rules {
			if !slices.Contains(rule.Verbs, "impersonate") {
				continue
			}
			if named++; len(rule.ResourceNames) == 0 || slices.ContainsFunc(rule.ResourceNames, func(name string) bool { return strings.HasPrefix(name, "system:") }) {
				t.Errorf("%s: %s %s may act as anybody, or as one of Kubernetes' own: %v", m.file, m.Kind, m.Name, rule)
			}
		}
	}
	if named == 0 {
		t.Error("no example says whom it may act as")
	}
}

// TestTheExampleOfATenantIsWhole: the user of the key is the one who is bound in the key's namespace, and whom the gateway may
// act as.
func TestTheExampleOfATenantIsWhole(t *testing.T) {
	var key struct{ SHA256, User, Namespace string }
	var binding rbacv1.RoleBinding
	var as rbacv1.ClusterRole
	var namespace string
	for _, m := range manifests(t, "examples/lifecycle-tenant.yaml") {
		switch m.Kind {
		case "Namespace":
			namespace = m.Name
		case "RoleBinding":
			decode(t, m, &binding)
		case "ClusterRole":
			decode(t, m, &as)
		case "Secret":
			var secret corev1.Secret
			decode(t, m, &secret)
			for name, entry := range secret.StringData {
				if err := json.Unmarshal([]byte(entry), &key); err != nil {
					t.Errorf("entry %s: %v", name, err)
				}
			}
			if !strings.Contains(deployed(t), "--keys-secret="+m.Namespace+"/"+m.Name) {
				t.Errorf("the gateway does not look at Secret %s/%s", m.Namespace, m.Name)
			}
		}
	}
	if !regexp.MustCompile(`^[0-9a-f]{64}$`).MatchString(key.SHA256) {
		t.Errorf("the key's sha256 is %q", key.SHA256)
	}
	if key.Namespace != namespace || binding.Namespace != namespace || len(binding.Subjects) != 1 || binding.Subjects[0].Name != key.User ||
		len(as.Rules) != 1 || !slices.Equal(as.Rules[0].ResourceNames, []string{key.User}) {
		t.Errorf("namespace %q, key %+v, bound %+v in %q, acted as by %+v", namespace, key, binding.Subjects, binding.Namespace, as.Rules)
	}
	if role := binding.RoleRef.Name; !slices.ContainsFunc(manifests(t, "gateway"), func(m manifest) bool { return m.Kind == binding.RoleRef.Kind && m.Name == role }) {
		t.Errorf("there is no %s %s", binding.RoleRef.Kind, role)
	}
}

// deployed is the gateway's arguments, a line each.
func deployed(t *testing.T) string {
	t.Helper()
	return strings.Join(found[appsv1.Deployment](t, "gateway", "Deployment").Spec.Template.Spec.Containers[0].Args, "\n")
}
