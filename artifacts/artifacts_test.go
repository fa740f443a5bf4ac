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

// Package artifacts holds manifests. Its tests keep the promises that the manifests make.
package artifacts

import (
	"bufio"
	"bytes"
	"errors"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	rbacv1 "k8s.io/api/rbac/v1"
	schedulingv1 "k8s.io/api/scheduling/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	utilyaml "k8s.io/apimachinery/pkg/util/yaml"
	"sigs.k8s.io/yaml"

	"github.com/opensandbox-io/sandbox-apiserver/apis/lifecycle/v1alpha1"
)

// manifest is one object of a file.
type manifest struct {
	metav1.TypeMeta   `json:",inline"`
	metav1.ObjectMeta `json:"metadata"`

	file string
	text []byte
}

func TestRolesAreLeastPrivilege(t *testing.T) {
	roles := 0
	for _, m := range manifests(t, ".") {
		if m.Kind != "Role" && m.Kind != "ClusterRole" {
			continue
		}
		roles++
		var role rbacv1.ClusterRole // a Role has the same fields
		decode(t, m, &role)
		for _, rule := range role.Rules {
			if slices.Contains(slices.Concat(rule.APIGroups, rule.Resources, rule.Verbs), "*") {
				t.Errorf("%s: %s %s allows \"*\": %v", m.file, m.Kind, m.Name, rule)
			}
			if slices.ContainsFunc(rule.Resources, func(resource string) bool { return strings.HasSuffix(resource, "/status") }) && !countsQuota(m, rule) {
				t.Errorf("%s: %s %s allows a status: only the server writes those, and it asks nobody: %v", m.file, m.Kind, m.Name, rule)
			}
			if slices.Contains(rule.Verbs, "patch") && strings.HasPrefix(m.Name, "sandbox-apiserver") && !onlyOf(rule.Resources, "pods", "events", "jobs") {
				t.Errorf("%s: %s %s allows the server to patch what it updates: %v", m.file, m.Kind, m.Name, rule)
			}
			// Whoever lists or watches by a name asks for that name alone: RBAC lets nothing else through.
			byName := len(rule.ResourceNames) > 0
			onlyCreates := slices.Equal(rule.Verbs, []string{"create"}) && (m.Kind == "Role" || m.Name == "lifecycle-tenant")
			if slices.Contains(rule.Resources, "secrets") && !byName && !onlyCreates {
				t.Errorf("%s: %s %s reads Secrets other than by name: %v", m.file, m.Kind, m.Name, rule)
			}
		}
	}
	if roles < 5 {
		t.Errorf("found %d roles: are they still here?", roles)
	}
}

// onlyOf says whether all that there is may be.
func onlyOf(all []string, allowed ...string) bool {
	return !slices.ContainsFunc(all, func(one string) bool { return !slices.Contains(allowed, one) })
}

// countsQuota says whether a rule is the one that lets the server note what of a quota is used.
func countsQuota(m manifest, rule rbacv1.PolicyRule) bool {
	return m.Kind == "ClusterRole" && m.Name == "sandbox-apiserver" && slices.Equal(rule.APIGroups, []string{""}) &&
		slices.Equal(rule.Resources, []string{"resourcequotas/status"}) && slices.Equal(rule.Verbs, []string{"update"})
}

func TestCertificateIsVerified(t *testing.T) {
	for _, m := range manifests(t, ".") {
		if bytes.Contains(m.text, []byte("insecureSkipTLSVerify")) {
			t.Errorf("%s: %s %s speaks of insecureSkipTLSVerify", m.file, m.Kind, m.Name)
		}
	}
}

// TestTheServerStays: it is not restarted for an etcd that is away, nor ended for the Pods of others.
func TestTheServerStays(t *testing.T) {
	for _, m := range manifests(t, "base") {
		if m.Kind != "StatefulSet" {
			continue
		}
		var set appsv1.StatefulSet
		decode(t, m, &set)
		if set.Spec.Template.Spec.PriorityClassName != "system-cluster-critical" {
			t.Errorf("its priority is %q", set.Spec.Template.Spec.PriorityClassName)
		}
		server := set.Spec.Template.Spec.Containers[0]
		for name, probe := range map[string]*corev1.Probe{"liveness": server.LivenessProbe, "startup": server.StartupProbe} {
			if path := probe.HTTPGet.Path; path != "/livez?exclude=etcd" {
				t.Errorf("its %s probe asks %s", name, path)
			}
		}
		return
	}
	t.Error("there is no server")
}

// TestNobodyEndsForACommit: the class that the server is told to give its Pods is there, preempts nobody, is beneath all others,
// and is nobody's default.
func TestNobodyEndsForACommit(t *testing.T) {
	classes, named := map[string]bool{}, ""
	for _, m := range manifests(t, "base") {
		switch m.Kind {
		case "PriorityClass":
			var class schedulingv1.PriorityClass
			decode(t, m, &class)
			classes[class.Name] = true
			if class.PreemptionPolicy == nil || *class.PreemptionPolicy != corev1.PreemptNever || class.Value >= 0 || class.GlobalDefault {
				t.Errorf("%s: %+v", m.file, class)
			}
		case "StatefulSet":
			var set appsv1.StatefulSet
			decode(t, m, &set)
			for _, arg := range set.Spec.Template.Spec.Containers[0].Args {
				if class, is := strings.CutPrefix(arg, "--commit-priority-class="); is {
					named = class
				}
			}
		}
	}
	if !classes[named] {
		t.Errorf("the server is told to use the class %q, and there are %v", named, classes)
	}
}

func TestExamplesAreOfTheAPI(t *testing.T) {
	for _, m := range manifests(t, "examples") {
		if m.GroupVersionKind().GroupVersion() != v1alpha1.SchemeGroupVersion {
			continue
		}
		kinds := map[string]any{
			"Sandbox": &v1alpha1.Sandbox{}, "SandboxSnapshot": &v1alpha1.SandboxSnapshot{},
			"SandboxPause": &v1alpha1.SandboxPause{}, "SandboxResume": &v1alpha1.SandboxResume{},
		}
		object, known := kinds[m.Kind]
		if !known {
			t.Errorf("%s: no kind %q", m.file, m.Kind)
			continue
		}
		decode(t, m, object)
	}
}

// decode refuses fields that the type does not have.
func decode(t *testing.T, m manifest, into any) {
	t.Helper()
	if err := yaml.UnmarshalStrict(m.text, into); err != nil {
		t.Errorf("%s: %s %s: %v", m.file, m.Kind, m.Name, err)
	}
}

func manifests(t *testing.T, folder string) []manifest {
	t.Helper()
	var found []manifest
	err := filepath.WalkDir(folder, func(path string, entry fs.DirEntry, err error) error {
		if err != nil || entry.IsDir() || filepath.Ext(path) != ".yaml" && filepath.Ext(path) != ".json" {
			return err
		}
		content, err := os.ReadFile(path)
		if err != nil {
			return err
		}
		for documents := utilyaml.NewYAMLReader(bufio.NewReader(bytes.NewReader(content))); ; {
			text, err := documents.Read()
			if errors.Is(err, io.EOF) {
				return nil
			}
			if err != nil {
				return err
			}
			m := manifest{file: path, text: text}
			// A patch is a list: not an object, and nothing to look at here.
			if yaml.Unmarshal(text, &m) == nil && m.Kind != "" {
				found = append(found, m)
			}
		}
	})
	if err != nil {
		t.Fatal(err)
	}
	if len(found) == 0 {
		t.Fatalf("no manifests in %s", folder)
	}
	return found
}
