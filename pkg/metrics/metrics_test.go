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

package metrics

import (
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus/testutil/promlint"
	dto "github.com/prometheus/client_model/go"
	"k8s.io/component-base/metrics/legacyregistry"

	"github.com/opensandbox-io/sandbox-apiserver/apis/lifecycle"
)

type family = dto.MetricFamily

// TestMetricsAreAsTheFieldWantsThem: names, units and help are those that Prometheus asks for, every metric says how
// stable it is, all are there before anything has happened, and no label can have more values than this code has words for.
func TestMetricsAreAsTheFieldWantsThem(t *testing.T) {
	Register()
	Register() // the controllers may begin anew in one process
	end := Lead(func() (World, bool) {
		return World{
			Sandboxes: map[string]int{"Running": 3}, Snapshots: map[string]int{"Succeed": 2}, Reasons: map[PhaseReason]int{{"Running", "PodReady"}: 3},
			Longest: map[string]time.Duration{"Pausing": time.Minute},
		}, true
	})
	defer end()

	families, err := legacyregistry.DefaultGatherer.Gather()
	if err != nil {
		t.Fatal(err)
	}
	var there []string
	for _, family := range families {
		name := family.GetName()
		if !strings.HasPrefix(name, "sandbox_") {
			continue
		}
		there = append(there, name)
		if !slices.Contains(Names(), name) {
			t.Errorf("%s is not among those that are described", name)
		}
		if !strings.HasPrefix(family.GetHelp(), "[ALPHA] ") {
			t.Errorf("%s does not say how stable it is: %q", name, family.GetHelp())
		}
		for _, metric := range family.GetMetric() {
			for _, label := range metric.GetLabel() {
				if !slices.Contains([]string{"phase", "reason", "outcome", "purpose", "operation", "result"}, label.GetName()) {
					t.Errorf("%s has the label %s: is it one of a bounded number?", name, label.GetName())
				}
			}
		}
	}
	for _, name := range Names() {
		if !slices.Contains(there, name) {
			t.Errorf("%s is described, and not served", name)
		}
	}
	problems, err := promlint.NewWithMetricFamilies(slices.DeleteFunc(families, func(f *family) bool { return !strings.HasPrefix(f.GetName(), "sandbox_") })).Lint()
	if err != nil {
		t.Fatal(err)
	}
	for _, problem := range problems {
		t.Errorf("%s: %s", problem.Metric, problem.Text)
	}
}

// TestOnlyWhoLeadsTellsOfTheWorld: of two replicas one alone counts sandboxes, so that a sum over both is right; who
// has led before tells no more.
func TestOnlyWhoLeadsTellsOfTheWorld(t *testing.T) {
	Register()
	told := func() bool {
		families, err := legacyregistry.DefaultGatherer.Gather()
		if err != nil {
			t.Fatal(err)
		}
		return slices.ContainsFunc(families, func(f *family) bool { return f.GetName() == "sandbox_commit_slots" })
	}
	if told() {
		t.Error("it tells of the world before it leads")
	}
	first := Lead(func() (World, bool) { return World{}, true })
	if !told() {
		t.Error("it leads, and does not tell")
	}
	second := Lead(func() (World, bool) { return World{}, true })
	first() // the one before ends late
	if !told() {
		t.Error("it leads again, and the end of the time before has silenced it")
	}
	second()
	if told() {
		t.Error("it tells of the world though it leads no more")
	}
	defer Lead(func() (World, bool) { return World{}, false })()
	if told() {
		t.Error("it does not know the world yet, and tells of one without sandboxes")
	}
}

// TestAWriteIsCountedOnce, by what it says and not by how often it is looked at.
func TestAWriteIsCountedOnce(t *testing.T) {
	Register()
	pauseAttempts.Reset()
	defer begin()
	before := state(lifecycle.SandboxPausing, lifecycle.DesiredStatePaused)
	after := state(lifecycle.SandboxPaused, lifecycle.DesiredStatePaused)
	SandboxWritten(before, after, later)
	SandboxWritten(after, after, later)
	families, err := legacyregistry.DefaultGatherer.Gather()
	if err != nil {
		t.Fatal(err)
	}
	at := slices.IndexFunc(families, func(f *family) bool { return f.GetName() == "sandbox_pause_attempts_total" })
	if at < 0 || len(families[at].GetMetric()) != 1 || families[at].GetMetric()[0].GetCounter().GetValue() != 1 {
		t.Errorf("got %v", families[max(at, 0)])
	}
}
