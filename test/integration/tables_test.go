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
	"encoding/json"
	"net/http"
	"slices"
	"strings"
	"testing"
	"time"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/opensandbox-io/sandbox-apiserver/apis/lifecycle/v1alpha1"
)

// asTable is how kubectl get asks.
var asTable = http.Header{"Accept": {"application/json;as=Table;v=v1;g=meta.k8s.io,application/json"}}

func (f *fixture) table(path string) *metav1.Table {
	f.Helper()
	got := f.send(admin, http.MethodGet, path, nil, asTable)
	if got.code != 200 {
		f.Fatalf("%d %s", got.code, got.body)
	}
	var table metav1.Table
	got.decode(f, &table)
	if table.Kind != "Table" {
		f.Fatalf("got no Table but %s", got.body)
	}
	return &table
}

// columns are the names of a table's columns, split as kubectl does into narrow and wide.
func columns(table *metav1.Table) (narrow, wide []string) {
	for _, column := range table.ColumnDefinitions {
		if column.Priority == 0 {
			narrow = append(narrow, strings.ToUpper(column.Name))
		} else {
			wide = append(wide, strings.ToUpper(column.Name))
		}
	}
	return narrow, wide
}

func TestTables(t *testing.T) {
	f := newFixture(t)
	f.create(sandbox("demo"))
	f.asRunning("demo")
	f.post(f.path("/demo/pause"), "").object(f)
	f.asPaused("demo", "demo-gen1")
	f.create(sandbox("fresh"))
	f.succeeded("demo-gen1", f.get("demo"))
	start := metav1.Now()
	snapshots := f.controller.SandboxSnapshots(f.namespace)
	snapshot, err := snapshots.Get(t.Context(), "demo-gen1", metav1.GetOptions{})
	f.must(err)
	snapshot.Status.StartTime, snapshot.Status.CompletionTime = &start, &metav1.Time{Time: start.Add(12 * time.Second)}
	snapshot.Status.FrozenDuration = &metav1.Duration{Duration: 1234567 * time.Microsecond}
	_, err = snapshots.UpdateStatus(t.Context(), snapshot, metav1.UpdateOptions{})
	f.must(err)

	for _, test := range []struct {
		resource     string
		narrow, wide []string
		// rows are the cells but for the age.
		rows [][]any
	}{
		{"sandboxes", []string{"NAME", "PHASE", "READY", "REASON", "SNAPSHOT", "EXPIRES", "AGE"}, []string{"NODE", "IP"}, [][]any{
			{"demo", "Paused", "False", "Paused", "demo-gen1", "Never", "node-a", ""},
			{"fresh", "Pending", "False", "Pending", "", "Never", "", ""},
		}},
		{"sandboxsnapshots", []string{"NAME", "PHASE", "SANDBOX", "PURPOSE", "AGE"}, []string{"NODE", "SIZE", "FROZEN", "DURATION", "IMAGE"}, [][]any{
			{"demo-gen1", "Succeed", "demo", "Pause", "node-a", "2.9KiB", "1.235s", "12s", "registry:5000/ns/demo-main@sha256:" + strings.Repeat("a", 64)},
		}},
	} {
		table := f.table(f.pathOf(test.resource, ""))
		narrow, wide := columns(table)
		if !slices.Equal(narrow, test.narrow) || !slices.Equal(wide, test.wide) {
			t.Errorf("%s: columns %q, wide %q", test.resource, narrow, wide)
		}
		age := slices.Index(narrow, "AGE")
		for i, column := range table.ColumnDefinitions {
			if column.Description == "" || column.Type == "" || (column.Format == "name") != (i == 0) {
				t.Errorf("%s: column %+v", test.resource, column)
			}
		}
		if len(table.Rows) != len(test.rows) || table.ResourceVersion == "" {
			t.Fatalf("%s: %d rows at resourceVersion %q", test.resource, len(table.Rows), table.ResourceVersion)
		}
		for i, row := range table.Rows {
			if cells := slices.Delete(slices.Clone(row.Cells), age, age+1); !slices.Equal(cells, test.rows[i]) {
				t.Errorf("%s: row %q, want %q", test.resource, cells, test.rows[i])
			}
			if !strings.HasSuffix(row.Cells[age].(string), "s") {
				t.Errorf("%s: age %q", test.resource, row.Cells[age])
			}
		}
		// One object is a table of one row, under each of its endpoints that can be read.
		for _, below := range []string{"/" + test.rows[0][0].(string), "/" + test.rows[0][0].(string) + "/status"} {
			if one := f.table(f.pathOf(test.resource, below)); len(one.Rows) != 1 || one.Rows[0].Cells[0] != test.rows[0][0] {
				t.Errorf("%s%s: %+v", test.resource, below, one.Rows)
			}
		}
	}
}

// A pause that has failed shows why where one looks first, although the Pod is ready.
func TestTheReasonOfAFailedPauseIsShown(t *testing.T) {
	f := newFixture(t)
	f.create(sandbox("demo"))
	f.asRunning("demo")
	f.post(f.path("/demo/pause"), "").object(f)
	f.asRunning("demo")
	f.writeStatus("demo", func(status *v1alpha1.SandboxStatus) {
		setCondition(status, v1alpha1.ConditionPaused, metav1.ConditionFalse, v1alpha1.ReasonRegistryUnavailable)
	})
	row := f.table(f.path("")).Rows[0].Cells
	if !slices.Equal(row[:4], []any{"demo", "Running", "True", "RegistryUnavailable"}) {
		t.Errorf("the row is %q", row)
	}
}

// What is being deleted is shown to be so, as Pods are, whatever it was before.
func TestWhatIsBeingDeletedIsShownAsTerminating(t *testing.T) {
	f := newFixture(t)
	f.create(sandbox("demo"))
	f.asRunning("demo")
	f.succeeded("mine", f.get("demo"))
	f.must(f.sandboxes.Delete(t.Context(), "demo", metav1.DeleteOptions{}))
	f.must(f.snapshots.Delete(t.Context(), "mine", metav1.DeleteOptions{}))
	for resource, name := range map[string]string{"sandboxes": "demo", "sandboxsnapshots": "mine"} {
		if row := f.table(f.pathOf(resource, "")).Rows[0].Cells; row[0] != name || row[1] != "Terminating" {
			t.Errorf("%s: the row is %q", resource, row)
		}
	}
}

func TestWhatATableIncludes(t *testing.T) {
	f := newFixture(t)
	f.create(sandbox("demo"))
	for include, want := range map[string]string{"": "PartialObjectMetadata", "Metadata": "PartialObjectMetadata", "Object": "Sandbox", "None": ""} {
		row := f.table(f.path("?includeObject=" + include)).Rows[0]
		var object metav1.PartialObjectMetadata
		if len(row.Object.Raw) > 0 && string(row.Object.Raw) != "null" {
			f.must(json.Unmarshal(row.Object.Raw, &object))
		}
		if object.Kind != want || (want != "") != (object.Name == "demo") {
			t.Errorf("includeObject=%s: %s", include, row.Object.Raw)
		}
	}
	got := f.send(admin, http.MethodGet, f.path("?includeObject=Everything"), nil, asTable)
	if got.code != 400 || !strings.Contains(got.status(f).Message, "includeObject") {
		t.Errorf("includeObject=Everything: %d %s", got.code, got.body)
	}
	if got := f.send(admin, http.MethodGet, f.path(""), nil, http.Header{"Accept": {"application/json;as=Table;v=v9;g=meta.k8s.io"}}); got.code != 406 {
		t.Errorf("a table of another version: %d %s", got.code, got.body)
	}
}

// The first table of a watch has headers, the others do without.
func TestWatchingTables(t *testing.T) {
	t.Parallel()
	f := newFixture(t)
	f.create(sandbox("demo"))
	events := f.watchAs("sandboxes", "watch=true", asTable)
	headers := 0
	for i := range 3 {
		var table metav1.Table
		event := events.next(f)
		f.must(json.Unmarshal(event.Object, &table))
		if narrow, _ := columns(&table); len(narrow) > 0 {
			headers++
		}
		if len(table.Rows) != 1 || table.Rows[0].Cells[0] != "demo" || (i == 0) != (event.Type == "ADDED") {
			t.Errorf("event %d: %s %+v", i, event.Type, table.Rows)
		}
		f.patch(f.path("/demo"), asMergePatch, `{"metadata":{"labels":{"turn":"`+string(rune('a'+i))+`"}}}`).object(f)
	}
	if headers != 1 {
		t.Errorf("%d tables had headers", headers)
	}
}
