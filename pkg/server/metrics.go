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
	"fmt"
	"slices"
	"strings"

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
		return gatherAll(legacyregistry.DefaultGatherer, controllermetrics.Registry)
	})
	// The metrics of requests, watches and etcd are registered by the handler that would serve them
	// alone, and by nothing else.
	routes.DefaultMetrics{}.Install(mux.NewPathRecorderMux("not served"))
	metrics.Register()
	m.Handle("/metrics", promhttp.HandlerFor(gatherer, promhttp.HandlerOpts{ErrorHandling: promhttp.ContinueOnError}))
	slis.SLIMetrics{}.Install(m)
}

// gatherAll puts together what the gatherers have. Several may know a metric of the same name: each of their series is
// taken once, that of the Go runtime, say, which both count, and the queues of each.
func gatherAll(gatherers ...prometheus.Gatherer) ([]*dto.MetricFamily, error) {
	var families []*dto.MetricFamily
	known := map[string]*dto.MetricFamily{}
	for _, gatherer := range gatherers {
		more, err := gatherer.Gather()
		if err != nil {
			return families, err
		}
		for _, family := range more {
			before, is := known[family.GetName()]
			if !is {
				known[family.GetName()] = family
				families = append(families, family)
			} else if before.GetType() == family.GetType() {
				before.Metric = append(before.Metric, others(family.GetMetric(), before.GetMetric())...)
			}
		}
	}
	return families, nil
}

// others are the series that are not among those which are known.
func others(series, known []*dto.Metric) []*dto.Metric {
	seen := map[string]bool{}
	for _, metric := range known {
		seen[labelsOf(metric)] = true
	}
	return slices.DeleteFunc(slices.Clone(series), func(metric *dto.Metric) bool { return seen[labelsOf(metric)] })
}

// labelsOf are sorted by their names, as registries gather them.
func labelsOf(metric *dto.Metric) string {
	var b strings.Builder
	for _, label := range metric.GetLabel() {
		fmt.Fprintf(&b, "%q=%q,", label.GetName(), label.GetValue())
	}
	return b.String()
}
