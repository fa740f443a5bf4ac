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

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apiserver/pkg/admission"
	"k8s.io/apiserver/pkg/admission/initializer"
	"k8s.io/apiserver/pkg/admission/plugin/resourcequota"
	quota "k8s.io/apiserver/pkg/quota/v1"
	"k8s.io/apiserver/pkg/quota/v1/generic"
	genericapiserver "k8s.io/apiserver/pkg/server"
	genericoptions "k8s.io/apiserver/pkg/server/options"
	"k8s.io/apiserver/pkg/util/feature"
	"k8s.io/client-go/informers"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/rest"
	"k8s.io/client-go/util/retry"

	"github.com/opensandbox-io/sandbox-apiserver/apis/lifecycle"
)

// addQuota adds the plugin that enforces ResourceQuotas of count/sandboxes.lifecycle.opensandbox.io
// and count/sandboxsnapshots.lifecycle.opensandbox.io. kube-apiserver enforces quotas on what it
// stores itself, and does not see our objects; kube-controller-manager does, and counts anew what
// is there whenever one is deleted.
//
// Nobody is exempt, and the controller is not: the snapshots of pauses count and can be refused,
// or a quota of snapshots would bound nothing.
func addQuota(options *genericoptions.RecommendedOptions) {
	resourcequota.Register(options.Admission.Plugins)
	// Last, as in kube-apiserver: what another plugin refuses is not counted.
	options.Admission.RecommendedPluginOrder = append(options.Admission.RecommendedPluginOrder, resourcequota.PluginName)
	// First, so that metrics count a request once, however often it is tried.
	options.Admission.Decorators = append(admission.Decorators{admission.DecoratorFunc(tryQuotaAgain)}, options.Admission.Decorators...)
	options.ExtraAdmissionInitializers = func(config *genericapiserver.RecommendedConfig) ([]admission.PluginInitializer, error) {
		if config.ClientConfig == nil {
			return nil, nil
		}
		// The plugin sends one request for all that wait in a namespace, five at a time: a limit
		// of our own would only make creates wait in namespaces that nobody else creates in.
		host := rest.AddUserAgent(rest.CopyConfig(config.ClientConfig), ServiceName)
		host.QPS = -1
		client, err := kubernetes.NewForConfig(host)
		if err != nil {
			return nil, fmt.Errorf("connecting to the kube-apiserver: %w", err)
		}
		return []admission.PluginInitializer{quotaInitializer{client}}, nil
	}
}

// quotaInitializer tells the plugin what to count, and whom to tell.
type quotaInitializer struct{ client kubernetes.Interface }

func (q quotaInitializer) Initialize(plugin admission.Interface) {
	counting, ok := plugin.(interface {
		initializer.WantsQuotaConfiguration
		initializer.WantsExternalKubeClientSet
	})
	if !ok {
		return
	}
	counting.SetExternalKubeClientSet(q.client)
	var evaluators []quota.Evaluator
	for _, resource := range []string{"sandboxes", "sandboxsnapshots"} {
		// Usage of what exists is kube-controller-manager's to know: nothing here lists.
		evaluators = append(evaluators, generic.NewObjectCountEvaluator(lifecycle.Resource(resource), nil, ""))
	}
	counting.SetQuotaConfiguration(generic.NewConfiguration(evaluators, nil))
}

// tryQuotaAgain spares clients a conflict that is not theirs. The plugin writes the used amount
// under the version that its cache holds; kube-apiserver (which may count our Pods in the same
// object), kube-controller-manager and our other replicas write it, too. The plugin's own tries
// follow each other at once, and the cache may be behind for as long as they last.
func tryQuotaAgain(plugin admission.Interface, name string) admission.Interface {
	if validating, ok := plugin.(admission.ValidationInterface); ok && name == resourcequota.PluginName {
		return patientQuota{validating}
	}
	return plugin
}

type patientQuota struct{ admission.ValidationInterface }

func (q patientQuota) Validate(ctx context.Context, a admission.Attributes, o admission.ObjectInterfaces) error {
	err := retry.RetryOnConflict(retry.DefaultBackoff, func() error { return q.ValidationInterface.Validate(ctx, a, o) })
	if apierrors.IsConflict(err) {
		// Clients repeat this one by themselves; a 409 to a create would speak of the object.
		return apierrors.NewTooManyRequests(fmt.Sprintf("the quotas of namespace %s are changing too fast; try again: %v", a.GetNamespace(), err), 1)
	}
	return err
}

// applyTo is what the recommended options do with admission where there is a cluster.
func (s *StandaloneAdmission) applyTo(config *genericapiserver.RecommendedConfig, host *hostCluster) error {
	config.SharedInformerFactory = newHostInformers(informers.NewSharedInformerFactory(s.Kube, 0), s.Kube, host)
	options := *s.options
	options.Decorators = append(admission.Decorators{leaveOutUnserved(host)}, options.Decorators...)
	return options.ApplyTo(&config.Config, config.SharedInformerFactory, s.Kube, s.Dynamic, feature.DefaultFeatureGate,
		config.EffectiveVersion, quotaInitializer{s.Kube})
}
