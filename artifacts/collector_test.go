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
	"time"

	admissionregistrationv1 "k8s.io/api/admissionregistration/v1"
	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/apiserver/pkg/admission"
	"k8s.io/utils/ptr"

	"github.com/opensandbox-io/sandbox-apiserver/apis/lifecycle/v1alpha1"
	"github.com/opensandbox-io/sandbox-apiserver/pkg/server/collector"
)

const (
	theCollector = "system:serviceaccount:kube-system:generic-garbage-collector"
	// manager is all controllers of a kube-controller-manager without --use-service-account-credentials.
	manager = "system:kube-controller-manager"

	deletedUID   = types.UID("3f1c7a52-8a0b-4b57-9d54-0d9a4a3f5a01")
	undeletedUID = types.UID("9b8e6d11-8a0b-4b57-9d54-0d9a4a3f5a02")
)

func ownedBy(kind string, uid types.UID) []metav1.OwnerReference {
	return []metav1.OwnerReference{{APIVersion: v1alpha1.SchemeGroupVersion.String(), Kind: kind, Name: "demo", UID: uid, Controller: ptr.To(true)}}
}

func ownedByReplicaSet() []metav1.OwnerReference {
	return []metav1.OwnerReference{{APIVersion: appsv1.SchemeGroupVersion.String(), Kind: "ReplicaSet", Name: "a", UID: "1", Controller: ptr.To(true)}}
}

// asCollector is how the collector deletes: of an object that it has read, by UID.
// https://github.com/kubernetes/kubernetes/blob/v1.37.2/pkg/controller/garbagecollector/operations.go (deleteObject)
func asCollector() *metav1.DeleteOptions {
	return &metav1.DeleteOptions{PropagationPolicy: ptr.To(metav1.DeletePropagationBackground), Preconditions: &metav1.Preconditions{UID: ptr.To(types.UID("pod-1")), ResourceVersion: ptr.To("7")}}
}

// TestTheCollectorDeletesNoSandboxsPod, and everybody else who ends Pods does as ever.
func TestTheCollectorDeletesNoSandboxsPod(t *testing.T) {
	judge := newJudge(t, "base", "sandbox-pods-not-collected")
	pod := func(uid string, owners []metav1.OwnerReference) *corev1.Pod {
		return &corev1.Pod{ObjectMeta: metav1.ObjectMeta{Namespace: "team", Name: "demo", OwnerReferences: owners, Labels: map[string]string{v1alpha1.LabelSandbox: "demo", v1alpha1.LabelSandboxUID: uid}}}
	}
	own := pod(string(undeletedUID), ownedBy("Sandbox", undeletedUID))
	helper := pod(string(undeletedUID), ownedBy("Sandbox", undeletedUID))
	helper.Labels = nil
	later := own.DeepCopy()
	later.OwnerReferences[0].APIVersion = "lifecycle.opensandbox.io/v1"
	beside := own.DeepCopy()
	beside.OwnerReferences = append(ownedByReplicaSet(), beside.OwnerReferences...)
	for name, test := range map[string]struct {
		who     string
		options *metav1.DeleteOptions
		pod     *corev1.Pod
		stays   bool
	}{
		"the collector":                            {theCollector, asCollector(), own, true},
		"the collector, by a later version":        {theCollector, asCollector(), later, true},
		"the collector, with another owner beside": {theCollector, asCollector(), beside, true},
		"the collector, once more, by UID alone":   {theCollector, &metav1.DeleteOptions{PropagationPolicy: ptr.To(metav1.DeletePropagationForeground), Preconditions: &metav1.Preconditions{UID: ptr.To(types.UID("pod-1"))}}, own, true},
		"the collector, without words":             {theCollector, nil, own, true},
		"the collector among all controllers":      {manager, asCollector(), own, true},

		"the collector, of a Deployment's":           {theCollector, asCollector(), pod("", ownedByReplicaSet()), false},
		"the collector, of somebody's helper":        {theCollector, asCollector(), helper, false},
		"the collector, of another sandbox's helper": {theCollector, asCollector(), pod(string(deletedUID), ownedBy("Sandbox", undeletedUID)), false},
		"the collector, of a commit's":               {theCollector, asCollector(), pod(string(undeletedUID), []metav1.OwnerReference{{APIVersion: "batch/v1", Kind: "Job", Name: "a", UID: "1"}}), false},
		"the collector, of what a snapshot owns":     {theCollector, asCollector(), pod(string(undeletedUID), ownedBy("SandboxSnapshot", undeletedUID)), false},
		"the end of a namespace":                     {"system:serviceaccount:kube-system:namespace-controller", &metav1.DeleteOptions{PropagationPolicy: ptr.To(metav1.DeletePropagationBackground)}, own, false},
		"the end of a namespace, among all":          {manager, &metav1.DeleteOptions{PropagationPolicy: ptr.To(metav1.DeletePropagationBackground)}, own, false},
		"a Pod of a node that is lost":               {"system:serviceaccount:kube-system:pod-garbage-collector", metav1.NewDeleteOptions(0), own, false},
		"a Pod of a node that is lost, among all":    {manager, metav1.NewDeleteOptions(0), own, false},
		"a taint":                     {manager, &metav1.DeleteOptions{}, own, false},
		"a taint of a device, by UID": {manager, &metav1.DeleteOptions{Preconditions: &metav1.Preconditions{UID: ptr.To(types.UID("pod-1"))}}, own, false},
		"a person":                    {"admin", &metav1.DeleteOptions{PropagationPolicy: ptr.To(metav1.DeletePropagationBackground)}, own, false},
		"a person who names the UID":  {"admin", asCollector(), own, false},
		"the server":                  {theServer, metav1.NewPreconditionDeleteOptions("pod-1"), own, false},
		"an account of that name in another namespace": {"system:serviceaccount:team:generic-garbage-collector", asCollector(), own, false},
	} {
		request := asked{who: test.who, operation: admission.Delete, old: test.pod, namespace: "team", resource: corev1.SchemeGroupVersion.WithResource("pods"), kind: corev1.SchemeGroupVersion.WithKind("Pod")}
		if test.options != nil {
			request.options = test.options
		}
		if said := judge.say(t, request); (said != "") != test.stays || test.stays && !strings.Contains(said, "is not garbage") {
			t.Errorf("%s: it says %q, want that the Pod stays: %v", name, said, test.stays)
		}
	}
}

// TestWhatBelongsToUnknownSandboxesStays: claims and Services of others, when the store that would know is another one.
func TestWhatBelongsToUnknownSandboxesStays(t *testing.T) {
	judge := newJudge(t, "base", "sandbox-dependents-not-collected")
	taken := time.Date(2026, 11, 30, 12, 0, 0, 0, time.UTC)
	claim := func(age time.Duration, owners ...[]metav1.OwnerReference) *corev1.PersistentVolumeClaim {
		c := &corev1.PersistentVolumeClaim{ObjectMeta: metav1.ObjectMeta{Namespace: "team", Name: "data", CreationTimestamp: metav1.NewTime(taken.Add(-age))}}
		for _, of := range owners {
			c.OwnerReferences = append(c.OwnerReferences, of...)
		}
		return c
	}
	const day = 24 * time.Hour
	store := map[string]string{"storeID": "a", "storeTaken": taken.Format(time.RFC3339), "storeReleased": "00000000-0000 " + string(deletedUID[:13])}
	for name, test := range map[string]struct {
		who   string
		store map[string]string // nil: as above
		claim *corev1.PersistentVolumeClaim
		says  string // empty: it goes
	}{
		"of a sandbox that nobody has deleted":          {claim: claim(day, ownedBy("Sandbox", undeletedUID)), says: "Sandbox demo (UID 9b8e6d11"},
		"of a snapshot that nobody has deleted":         {claim: claim(day, ownedBy("SandboxSnapshot", undeletedUID)), says: "SandboxSnapshot demo"},
		"of one that was deleted, and one that was not": {claim: claim(day, ownedBy("Sandbox", deletedUID), ownedBy("Sandbox", undeletedUID)), says: string(undeletedUID)},
		"of a UID that is none":                         {claim: claim(day, ownedBy("Sandbox", "x")), says: "(UID x)"},
		"nothing was deleted since":                     {store: map[string]string{"storeTaken": taken.Format(time.RFC3339)}, claim: claim(day, ownedBy("Sandbox", deletedUID)), says: string(deletedUID)},
		"all controllers are one user":                  {who: manager, claim: claim(day, ownedBy("Sandbox", undeletedUID)), says: "delete it by hand"},
		"of a sandbox that was deleted since":           {claim: claim(day, ownedBy("Sandbox", deletedUID))},
		"made since":                                    {claim: claim(-time.Minute, ownedBy("Sandbox", undeletedUID))},
		"of a store that nothing has happened to":       {store: map[string]string{"storeID": "a"}, claim: claim(day, ownedBy("Sandbox", undeletedUID))},
		"a ConfigMap without anything":                  {store: map[string]string{}, claim: claim(day, ownedBy("Sandbox", undeletedUID))},
		"of somebody else":                              {claim: claim(day, ownedByReplicaSet())},
		"of nobody":                                     {claim: claim(day)},
		"a person":                                      {who: "admin", claim: claim(day, ownedBy("Sandbox", undeletedUID))},
		"the end of its namespace":                      {who: "system:serviceaccount:kube-system:namespace-controller", claim: claim(day, ownedBy("Sandbox", undeletedUID))},
	} {
		judge.params = &corev1.ConfigMap{Data: store}
		if test.store != nil {
			judge.params = &corev1.ConfigMap{Data: test.store}
		}
		request := asked{who: theCollector, operation: admission.Delete, old: test.claim, options: asCollector(), namespace: "team",
			resource: corev1.SchemeGroupVersion.WithResource("persistentvolumeclaims"), kind: corev1.SchemeGroupVersion.WithKind("PersistentVolumeClaim")}
		if test.who != "" {
			request.who = test.who
		}
		if said := judge.say(t, request); test.says == "" && said != "" || !strings.Contains(said, test.says) {
			t.Errorf("%s: it says %q, want %q", name, said, test.says)
		}
	}
}

// TestTheServerFindsTheGuards: it looks for what is installed, by name.
func TestTheServerFindsTheGuards(t *testing.T) {
	var policies []*admissionregistrationv1.ValidatingAdmissionPolicy
	var bindings []*admissionregistrationv1.ValidatingAdmissionPolicyBinding
	for _, m := range manifests(t, "base") {
		switch m.Kind {
		case "ValidatingAdmissionPolicy":
			policies = append(policies, &admissionregistrationv1.ValidatingAdmissionPolicy{})
			decode(t, m, policies[len(policies)-1])
		case "ValidatingAdmissionPolicyBinding":
			bindings = append(bindings, &admissionregistrationv1.ValidatingAdmissionPolicyBinding{})
			decode(t, m, bindings[len(bindings)-1])
		}
	}
	if missing := collector.Missing(policies, bindings); len(missing) > 0 {
		t.Errorf("of what is installed the server misses %q", missing)
	}
	if missing := collector.Missing(policies[1:], bindings); len(missing) != 1 {
		t.Errorf("without one it misses %q", missing)
	}
}
