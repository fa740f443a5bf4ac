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

package integration

import (
	"bytes"
	"net/http"
	"testing"

	"github.com/prometheus/common/expfmt"
	"github.com/prometheus/common/model"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

// TestMetrics: what an operator asks of an API server with a store is there, and counts.
func TestMetrics(t *testing.T) {
	f := newFixture(t)
	f.create(sandbox("demo"))
	watching, err := f.sandboxes.Watch(t.Context(), metav1.ListOptions{})
	f.must(err)
	<-watching.ResultChan()
	watching.Stop()

	got := f.send(admin, http.MethodGet, "/metrics", nil, nil)
	parser := expfmt.NewTextParser(model.UTF8Validation)
	families, err := parser.TextToMetricFamilies(bytes.NewReader(got.body))
	f.must(err)
	for _, name := range []string{
		"apiserver_request_total", "apiserver_request_duration_seconds", "apiserver_watch_events_total",
		"etcd_request_duration_seconds", "process_cpu_seconds_total", "process_resident_memory_bytes",
	} {
		if len(families[name].GetMetric()) == 0 {
			t.Errorf("/metrics says nothing of %s", name)
		}
	}
}
