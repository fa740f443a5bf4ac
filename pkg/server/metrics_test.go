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
	"slices"
	"testing"

	"github.com/prometheus/client_golang/prometheus"
)

// TestTheQueuesOfTheControllersAreAmongTheMetrics: their library has a registry of its own, where the metric of their queues has the name of
// that of the API server's, and other labels. What both count is there once.
func TestTheQueuesOfTheControllersAreAmongTheMetrics(t *testing.T) {
	gauge := func(name string, labels ...string) *prometheus.GaugeVec {
		return prometheus.NewGaugeVec(prometheus.GaugeOpts{Name: name, Help: "help"}, labels)
	}
	apis, controllers := prometheus.NewRegistry(), prometheus.NewRegistry()
	for _, registry := range []*prometheus.Registry{apis, controllers} {
		threads := gauge("go_threads")
		threads.WithLabelValues().Set(7)
		registry.MustRegister(threads)
	}
	queues := gauge("workqueue_depth", "name")
	queues.WithLabelValues("admission_quota_controller").Set(1)
	apis.MustRegister(queues)
	queues = gauge("workqueue_depth", "name", "controller")
	queues.WithLabelValues("sandbox", "sandbox").Set(2)
	queues.WithLabelValues("sandboxsnapshot", "sandboxsnapshot").Set(3)
	controllers.MustRegister(queues)

	families, err := gatherAll(apis, controllers)
	if err != nil {
		t.Fatal(err)
	}
	got := map[string][]float64{}
	for _, family := range families {
		for _, metric := range family.GetMetric() {
			got[family.GetName()] = append(got[family.GetName()], metric.GetGauge().GetValue())
		}
	}
	if len(families) != 2 || !slices.Equal(got["go_threads"], []float64{7}) || !slices.Equal(got["workqueue_depth"], []float64{1, 2, 3}) {
		t.Errorf("%d families: %v", len(families), got)
	}
}
