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

// Package clientmetrics counts what SDKs measure themselves: how long it took, as their callers saw it, until a new sandbox could be
// used.
package clientmetrics

import (
	"context"

	"k8s.io/component-base/metrics"
	"k8s.io/component-base/metrics/legacyregistry"

	"github.com/opensandbox-io/sandbox-apiserver/pkg/gateway/httpapi"
)

// creates has no label that a client could fill: neither an image nor an id.
var creates = metrics.NewHistogramVec(&metrics.HistogramOpts{
	Namespace:      "lifecycle_gateway",
	Name:           "client_create_duration_seconds",
	Help:           "How long clients say that it took until a new sandbox could be used, or until they gave up, by result: success or failure.",
	Buckets:        []float64{0.1, 0.25, 0.5, 1, 2, 3, 5, 8, 13, 20, 30, 60, 120, 300},
	StabilityLevel: metrics.ALPHA,
}, []string{"result"})

func init() { legacyregistry.MustRegister(creates) }

// Handler serves metrics/events.
type Handler struct{}

// ReportMetricsEvent counts a client's measurement. Nothing is kept of it.
func (Handler) ReportMetricsEvent(_ context.Context, event *httpapi.MetricsEvent) error {
	result := "failure"
	if event.Success {
		result = "success"
	}
	creates.WithLabelValues(result).Observe(event.CreateDurationMs / 1000)
	return nil
}
