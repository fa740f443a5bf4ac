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
	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/promhttp"
	dto "github.com/prometheus/client_model/go"
	"k8s.io/apiserver/pkg/server/mux"
	"k8s.io/apiserver/pkg/server/routes"
	"k8s.io/component-base/metrics/legacyregistry"
	"k8s.io/component-base/metrics/prometheus/slis"
	controllermetrics "sigs.k8s.io/controller-runtime/pkg/metrics"

	"github.com/opensandbox-io/sandbox-apiserver/pkg/metrics"
)

// installMetrics serves the metrics of the API server and of the controllers under one path.
// Both come with a registry of their own, and both count the Go runtime.
func installMetrics(m *mux.PathRecorderMux) {
	gatherer := prometheus.GathererFunc(func() ([]*dto.MetricFamily, error) {
		return gatherFirst(legacyregistry.DefaultGatherer, controllermetrics.Registry)
	})
	// The metrics of requests, watches and etcd are registered by the handler that would serve them
	// alone, and by nothing else.
	routes.DefaultMetrics{}.Install(mux.NewPathRecorderMux("not served"))
	metrics.Register()
	m.Handle("/metrics", promhttp.HandlerFor(gatherer, promhttp.HandlerOpts{ErrorHandling: promhttp.ContinueOnError}))
	slis.SLIMetrics{}.Install(m)
}

// gatherFirst takes each metric from the first gatherer that has it.
func gatherFirst(gatherers ...prometheus.Gatherer) ([]*dto.MetricFamily, error) {
	var families []*dto.MetricFamily
	seen := map[string]bool{}
	for _, gatherer := range gatherers {
		more, err := gatherer.Gather()
		if err != nil {
			return families, err
		}
		for _, family := range more {
			if !seen[family.GetName()] {
				seen[family.GetName()] = true
				families = append(families, family)
			}
		}
	}
	return families, nil
}
