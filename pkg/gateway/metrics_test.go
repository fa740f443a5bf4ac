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

package gateway

import (
	"io"
	"net/http"
	"net/http/httptest"
	"strconv"
	"strings"
	"testing"
)

// TestWhatClientsMeasureIsCounted: once each, whatever else they send with it; and what is no measurement is not.
func TestWhatClientsMeasureIsCounted(t *testing.T) {
	server := newServer(t, http.NotFoundHandler(), nil)
	at, end, err := serveMetrics(t.Context(), "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer end()
	// count is the sum and the number of what was counted, by result.
	count := func(result string) (counted [2]float64) {
		t.Helper()
		request, err := http.NewRequestWithContext(t.Context(), http.MethodGet, "http://"+at+"/metrics", nil)
		if err != nil {
			t.Fatal(err)
		}
		response, err := http.DefaultClient.Do(request)
		if err != nil {
			t.Fatal(err)
		}
		defer response.Body.Close()
		all, err := io.ReadAll(response.Body)
		if err != nil {
			t.Fatal(err)
		}
		for line := range strings.Lines(string(all)) {
			for i, what := range []string{"sum", "count"} {
				if number, is := strings.CutPrefix(line, "lifecycle_gateway_client_create_duration_seconds_"+what+`{result="`+result+`"} `); is {
					counted[i], _ = strconv.ParseFloat(strings.TrimSpace(number), 64)
				}
			}
			if strings.Contains(line, "sb-1") || strings.Contains(line, "python") {
				t.Errorf("a label that clients fill: %s", line)
			}
		}
		return counted
	}
	before, failedBefore := count("success"), count("failure")
	for _, c := range []struct {
		body               string
		status             int
		names              string
		sum, count, failed float64
	}{
		{`{"eventType":"sandbox.create","sandboxId":"sb-1","image":"python:3","createDurationMs":1500,"success":true}`, 204, "", 1.5, 1, 0},
		{`{"eventType":"sandbox.create","createDurationMs":500,"success":true,"sdk":"of tomorrow"}`, 204, "", 2, 2, 0},
		{`{"eventType":"sandbox.create","sandboxId":null,"image":null,"createDurationMs":0,"success":false}`, 204, "", 2, 2, 1},
		{`{"eventType":"sandbox.delete","createDurationMs":1,"success":true}`, 400, "eventType", 2, 2, 1},
		{`{"eventType":"sandbox.create","createDurationMs":-1,"success":true}`, 400, "createDurationMs", 2, 2, 1},
		{`{"eventType":"sandbox.create","createDurationMs":1e999,"success":true}`, 400, "createDurationMs", 2, 2, 1},
		{`{"eventType":"sandbox.create","createDurationMs":"1","success":true}`, 400, "createDurationMs", 2, 2, 1},
		{`{"eventType":"sandbox.create","createDurationMs":1}`, 400, "success", 2, 2, 1},
		{``, 400, "empty", 2, 2, 1},
	} {
		request := httptest.NewRequestWithContext(t.Context(), http.MethodPost, "/v1/metrics/events", strings.NewReader(c.body))
		request.Header.Set("Content-Type", "application/json")
		recorder := httptest.NewRecorder()
		server.Handler().ServeHTTP(recorder, request)
		if recorder.Code != c.status || !strings.Contains(recorder.Body.String(), c.names) {
			t.Errorf("%s: %d %s, want %d and %q", c.body, recorder.Code, recorder.Body, c.status, c.names)
		}
		now, failedNow := count("success"), count("failure")
		if now[0]-before[0] != c.sum || now[1]-before[1] != c.count || failedNow[1]-failedBefore[1] != c.failed {
			t.Errorf("after %s: successes %v after %v, failures %v after %v", c.body, now, before, failedNow, failedBefore)
		}
	}
}
