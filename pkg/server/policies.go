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
	"fmt"
	"maps"
	"net/http"
	"reflect"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/fields"
	"k8s.io/apiserver/pkg/admission"
	"k8s.io/apiserver/pkg/admission/initializer"
	mutatingpolicy "k8s.io/apiserver/pkg/admission/plugin/policy/mutating"
	validatingpolicy "k8s.io/apiserver/pkg/admission/plugin/policy/validating"
	"k8s.io/client-go/informers"
	"k8s.io/client-go/informers/admissionregistration"
	admissionv1 "k8s.io/client-go/informers/admissionregistration/v1"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/rest"

	"github.com/opensandbox-io/sandbox-apiserver/pkg/server/collector"
)

// The plugins of admission policies watch resources that not every supported Kubernetes serves. Such a watch never
// succeeds: the server would never be ready, and answer every write with 403. A cluster that has no such resource has no
// such policies of v1 either, so the plugin is left out for as long as that is so.

// Resources of the plugins: of policies, and of what binds them.
const (
	mutatingPolicies   = "mutatingadmissionpolicies"   // since Kubernetes 1.36
	validatingPolicies = "validatingadmissionpolicies" // since Kubernetes 1.30
)

// policyResources are what the plugins of a name watch.
var policyResources = map[string]string{
	mutatingpolicy.PluginName:   mutatingPolicies,
	validatingpolicy.PluginName: validatingPolicies,
}

// leaveOutUnserved skips a plugin while the cluster is known not to have what it watches. While nothing is known yet it
// refuses: a policy must not be passed by because it has not been heard of.
func leaveOutUnserved(host *hostCluster) admission.DecoratorFunc {
	return func(plugin admission.Interface, name string) admission.Interface {
		resource, optional := policyResources[name]
		if !optional {
			return plugin
		}
		switch plugin := plugin.(type) {
		case admission.MutationInterface:
			return mutatingIfServed{plugin, ifServed{host, resource}}
		case admission.ValidationInterface:
			return validatingIfServed{plugin, ifServed{host, resource}}
		}
		return plugin
	}
}

type ifServed struct {
	host     *hostCluster
	resource string
}

func (s ifServed) skips() (bool, error) {
	if !s.host.isReached() {
		return false, apierrors.NewServiceUnavailable(fmt.Sprintf("it is not known yet whether the cluster has %s; try again", s.resource))
	}
	return s.host.lacks(s.resource), nil
}

// explained is the answer of a plugin. One that has not read its policies forbids everything, as if somebody had
// decided so, and names neither what is missing nor who can mend it.
func (s ifServed) explained(err error) error {
	if synced := s.host.synced[s.resource]; err == nil || synced == nil || synced() {
		return err
	}
	return apierrors.NewServiceUnavailable(fmt.Sprintf(
		"the server has not read the %s of the cluster yet; if that lasts, it may not: its ClusterRole needs list and watch on them, and on their bindings (%v)", s.resource, err))
}

type mutatingIfServed struct {
	admission.MutationInterface
	ifServed
}

// Admit implements admission.MutationInterface.
func (p mutatingIfServed) Admit(ctx context.Context, a admission.Attributes, o admission.ObjectInterfaces) error {
	if skip, err := p.skips(); skip || err != nil {
		return err
	}
	return p.explained(p.MutationInterface.Admit(ctx, a, o))
}

type validatingIfServed struct {
	admission.ValidationInterface
	ifServed
}

// Validate implements admission.ValidationInterface.
func (p validatingIfServed) Validate(ctx context.Context, a admission.Attributes, o admission.ObjectInterfaces) error {
	if skip, err := p.skips(); skip || err != nil {
		return err
	}
	return p.explained(p.ValidationInterface.Validate(ctx, a, o))
}

// hostInformers are the informers of the server's own plugins: started when the kube-apiserver answers, those of
// policies when it serves them. Readiness waits for those that are started.
type hostInformers struct {
	informers.SharedInformerFactory
	host     *hostCluster
	policies map[string]informers.SharedInformerFactory
	// started is closed when all are started but those of policies.
	started chan struct{}
}

func newHostInformers(all informers.SharedInformerFactory, client kubernetes.Interface, host *hostCluster) hostInformers {
	policies := map[string]informers.SharedInformerFactory{}
	for _, resource := range policyResources {
		factory := informers.NewSharedInformerFactoryWithOptions(client, 0, informers.WithTweakListOptions(withoutDependentsPolicy))
		policies[resource] = factory
		host.synced[resource] = func() bool {
			over := make(chan struct{})
			close(over)
			for _, synced := range factory.WaitForCacheSync(over) {
				if !synced {
					return false
				}
			}
			return true
		}
	}
	return hostInformers{all, host, policies, make(chan struct{})}
}

// withoutDependentsPolicy leaves out the one policy of the base that is never about this API and has parameters: the plugin
// would watch those of all policies, ConfigMaps here, which the server may not, and log that for as long as it runs.
func withoutDependentsPolicy(options *metav1.ListOptions) {
	options.FieldSelector = fields.OneTermNotEqualSelector(metav1.ObjectNameField, collector.DependentsPolicy).String()
}

// Start implements informers.SharedInformerFactory.
func (f hostInformers) Start(stop <-chan struct{}) {
	go func() {
		if f.host.await(stop) {
			f.SharedInformerFactory.Start(stop)
			close(f.started)
		}
	}()
	for resource, factory := range f.policies {
		go func() {
			if f.host.awaitServed(resource, stop) {
				factory.Start(stop)
			}
		}()
	}
}

// WaitForCacheSync implements informers.SharedInformerFactory: readiness asks it. What has not been started has not synced.
func (f hostInformers) WaitForCacheSync(stop <-chan struct{}) map[reflect.Type]bool {
	if !closed(f.started) {
		return map[reflect.Type]bool{reflect.TypeFor[hostInformers](): false}
	}
	synced := f.SharedInformerFactory.WaitForCacheSync(stop)
	for _, factory := range f.policies {
		maps.Copy(synced, factory.WaitForCacheSync(stop))
	}
	return synced
}

// Admissionregistration implements informers.SharedInformerFactory.
func (f hostInformers) Admissionregistration() admissionregistration.Interface {
	return policiesApart{f.SharedInformerFactory.Admissionregistration(), f.policies}
}

// patientClient gives the plugins a connection whose requests wait until the kube-apiserver has answered once: one of them
// would ask for its OpenAPI document every 5 seconds, and log each time that nobody is there.
type patientClient struct{ client kubernetes.Interface }

func newPatientClient(connection *rest.Config, host *hostCluster) (patientClient, error) {
	connection = rest.CopyConfig(connection)
	connection.Wrap(func(next http.RoundTripper) http.RoundTripper {
		return roundTripper(func(request *http.Request) (*http.Response, error) {
			if !host.await(request.Context().Done()) {
				return nil, context.Cause(request.Context())
			}
			return next.RoundTrip(request)
		})
	})
	client, err := kubernetes.NewForConfig(connection)
	if err != nil {
		return patientClient{}, fmt.Errorf("connecting to the kube-apiserver: %w", err)
	}
	return patientClient{client}, nil
}

// Initialize implements admission.PluginInitializer.
func (p patientClient) Initialize(plugin admission.Interface) {
	if asking, ok := plugin.(initializer.WantsExternalKubeClientSet); ok {
		asking.SetExternalKubeClientSet(p.client)
	}
}

type policiesApart struct {
	admissionregistration.Interface
	policies map[string]informers.SharedInformerFactory
}

// V1 implements admissionregistration.Interface.
func (p policiesApart) V1() admissionv1.Interface {
	return policiesApartV1{p.Interface.V1(), p.policies[mutatingPolicies].Admissionregistration().V1(), p.policies[validatingPolicies].Admissionregistration().V1()}
}

type policiesApartV1 struct {
	admissionv1.Interface
	mutating, validating admissionv1.Interface
}

func (p policiesApartV1) MutatingAdmissionPolicies() admissionv1.TypedMutatingAdmissionPolicyInformer {
	return p.mutating.MutatingAdmissionPolicies()
}

func (p policiesApartV1) MutatingAdmissionPolicyBindings() admissionv1.TypedMutatingAdmissionPolicyBindingInformer {
	return p.mutating.MutatingAdmissionPolicyBindings()
}

func (p policiesApartV1) ValidatingAdmissionPolicies() admissionv1.TypedValidatingAdmissionPolicyInformer {
	return p.validating.ValidatingAdmissionPolicies()
}

func (p policiesApartV1) ValidatingAdmissionPolicyBindings() admissionv1.TypedValidatingAdmissionPolicyBindingInformer {
	return p.validating.ValidatingAdmissionPolicyBindings()
}
