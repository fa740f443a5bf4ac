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
	"strings"
	"testing"

	"github.com/prometheus/common/expfmt"
	"github.com/prometheus/common/model"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/opensandbox-io/sandbox-apiserver/apis/lifecycle/v1alpha1"
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

// TestMetricsOfSandboxes: what happens to sandboxes is counted where the store has taken it, whoever wrote it; a dry run, a
// repeated call and a write that changes nothing are not.
func TestMetricsOfSandboxes(t *testing.T) {
	f := newFixture(t)
	before := f.counts()
	f.create(sandbox("demo"))
	f.asRunning("demo")
	f.post(f.path("/demo/pause?dryRun=All"), "")
	f.post(f.path("/demo/pause"), "").object(f)
	f.post(f.path("/demo/pause"), "").object(f)
	failed := f.asRunning("demo")
	if failed.Status.LastRequestTime == nil {
		t.Fatal("no time of a request")
	}
	f.writeStatus("demo", func(status *v1alpha1.SandboxStatus) {
		setCondition(status, v1alpha1.ConditionPaused, metav1.ConditionFalse, v1alpha1.ReasonRegistryUnavailable)
	})
	f.post(f.path("/demo/pause"), "").object(f)
	dry := f.get("demo")
	dry.Status.Phase = v1alpha1.SandboxPaused
	_, err := f.controller.Sandboxes(f.namespace).UpdateStatus(t.Context(), dry, metav1.UpdateOptions{DryRun: []string{metav1.DryRunAll}})
	f.must(err)
	f.asPaused("demo", "demo-gen1")
	f.writeStatus("demo", func(status *v1alpha1.SandboxStatus) { status.NodeName = "node-b" })
	// By an update of desiredState, whose time counts as that of a verb.
	f.patch(f.path("/demo"), asMergePatch, `{"spec":{"desiredState":"Running"}}`).object(f)
	if updated := f.get("demo"); !updated.Status.LastRequestTime.After(failed.Status.LastRequestTime.Time) {
		t.Errorf("lastRequestTime is still %s", updated.Status.LastRequestTime)
	}
	f.writeStatus("demo", func(status *v1alpha1.SandboxStatus) { status.Phase = v1alpha1.SandboxResuming })
	f.asRunning("demo")
	f.succeeded("mine", f.get("demo"))

	after := f.counts()
	for name, want := range map[string]float64{
		`sandbox_pause_attempts_total{succeeded,}`:       1,
		`sandbox_pause_duration_seconds{}`:               1,
		`sandbox_resumes_total{succeeded,}`:              1,
		`sandbox_resume_duration_seconds{}`:              1,
		`sandbox_snapshots_ended_total{user,succeeded,}`: 1,
		`sandbox_pause_attempts_total{canceled,}`:        0,
		`sandbox_data_losses_total{PodLost}`:             0,
		`sandbox_commit_duration_seconds{user}`:          0,
	} {
		if got := after[name] - before[name]; got != want {
			t.Errorf("%s: %v, want %v; all: %v", name, got, want, after)
		}
	}
	if _, is := after["sandbox_snapshot_images_left_total{}"]; !is {
		t.Error("a counter that is zero is not there")
	}
}

// counts are the product's own counters and histograms, with the values of their labels.
func (f *fixture) counts() map[string]float64 {
	f.Helper()
	got := f.send(admin, http.MethodGet, "/metrics", nil, nil)
	parser := expfmt.NewTextParser(model.UTF8Validation)
	families, err := parser.TextToMetricFamilies(bytes.NewReader(got.body))
	f.must(err)
	counts := map[string]float64{}
	for name, family := range families {
		if !strings.HasPrefix(name, "sandbox_") {
			continue
		}
		for _, metric := range family.GetMetric() {
			values := map[string]string{}
			var labels []string
			for _, label := range metric.GetLabel() {
				values[label.GetName()] = label.GetValue()
			}
			for _, label := range []string{"purpose", "outcome", "reason"} {
				if value, is := values[label]; is {
					labels = append(labels, value)
				}
			}
			counts[name+"{"+strings.Join(labels, ",")+"}"] = metric.GetCounter().GetValue() + float64(metric.GetHistogram().GetSampleCount())
		}
	}
	return counts
}
