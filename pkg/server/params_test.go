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

package server

import (
	"context"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/fields"
	"k8s.io/apimachinery/pkg/util/wait"
	genericapiserver "k8s.io/apiserver/pkg/server"
	"k8s.io/client-go/informers"
	"k8s.io/client-go/kubernetes/fake"
	clienttesting "k8s.io/client-go/testing"

	"github.com/opensandbox-io/sandbox-apiserver/pkg/apiserver/scheme"
	"github.com/opensandbox-io/sandbox-apiserver/pkg/server/collector"
)

// TestParametersOfPoliciesAreNoneOfReadiness asks as the policy plugins do for the ConfigMaps of a policy. That the server
// stays ready with such a policy in its cluster shows on a node (test/e2e, TestPoliciesOfTheServersNamespace).
func TestParametersOfPoliciesAreNoneOfReadiness(t *testing.T) {
	config := genericapiserver.NewRecommendedConfig(scheme.Codecs)
	watchParamsApart(config) // standalone, there are none
	config.SharedInformerFactory = informers.NewSharedInformerFactory(fake.NewClientset(), 0)
	watchParamsApart(config)
	if _, err := config.SharedInformerFactory.ForResource(corev1.SchemeGroupVersion.WithResource("configmaps")); err == nil {
		t.Error("a plugin gets an informer that readiness waits for")
	}
	// What the server may read is asked for by type.
	config.SharedInformerFactory.Core().V1().Namespaces().Informer()
	config.SharedInformerFactory.Start(t.Context().Done())
	synced := config.SharedInformerFactory.WaitForCacheSync(t.Context().Done())
	if len(synced) != 1 {
		t.Errorf("readiness waits for %v, want namespaces", synced)
	}
}

// TestTheServerDoesNotWatchWhatItMayNotForItsOwnPolicy: of the base's two policies against the collector one has a ConfigMap
// of parameters, and is about everybody's objects but this API's.
func TestTheServerDoesNotWatchWhatItMayNotForItsOwnPolicy(t *testing.T) {
	kube := fake.NewClientset()
	host := newHostCluster(kube.Discovery(), mutatingPolicies, validatingPolicies)
	host.found(hostFacts{version: "v1.37.0", served: host.optional})
	factory := newHostInformers(informers.NewSharedInformerFactory(kube, 0), kube, host)
	factory.Admissionregistration().V1().ValidatingAdmissionPolicies().Informer()
	factory.Admissionregistration().V1().ValidatingAdmissionPolicyBindings().Informer()
	factory.Start(t.Context().Done())
	<-factory.started
	// The informers begin in goroutines of their own.
	asked := func() (restrictions []clienttesting.ListRestrictions, resources []string) {
		for _, action := range kube.Actions() {
			if list, is := action.(clienttesting.ListAction); is {
				restrictions, resources = append(restrictions, list.GetListRestrictions()), append(resources, action.GetResource().Resource)
			}
		}
		return restrictions, resources
	}
	if err := wait.PollUntilContextTimeout(t.Context(), 5*time.Millisecond, 30*time.Second, true, func(context.Context) (bool, error) {
		_, resources := asked()
		return len(resources) >= 2, nil
	}); err != nil {
		t.Fatalf("asked was %v", kube.Actions())
	}
	restrictions, resources := asked()
	for i := range restrictions {
		if names := restrictions[i].Fields; names.Matches(fields.Set{"metadata.name": collector.DependentsPolicy}) || !names.Matches(fields.Set{"metadata.name": "another"}) {
			t.Errorf("%s are asked for with %q", resources[i], names)
		}
	}
}
