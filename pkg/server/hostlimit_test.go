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
	"net/http"
	"net/http/httptest"
	"testing"
	"time"

	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/rest"
)

// TestOneLimitForAllKinds: what one client has used up is not there for another, but for events.
func TestOneLimitForAllKinds(t *testing.T) {
	answered := map[string]int{}
	host := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		answered[r.URL.Path]++
		w.Header().Set("Content-Type", "application/json")
		_, _ = w.Write([]byte(`{}`))
	}))
	defer host.Close()
	// Two at once, and none after them for a quarter of an hour.
	config := limited(&rest.Config{Host: host.URL, QPS: 0.001, Burst: 2})

	for _, step := range []struct {
		path     string
		answered bool
	}{
		{"/api/v1/pods", true},
		{"/apis/batch/v1/jobs", true},
		{"/api/v1/pods", false},
		{"/apis/batch/v1/jobs", false},
		{"/api/v1/nodes", false},
		{"/apis/events.k8s.io/v1/events", true},
		{"/apis/events.k8s.io/v1/events", true},
		{"/apis/events.k8s.io/v1/events", false},
	} {
		// A client of its own each time, as for each kind.
		client, err := kubernetes.NewForConfig(config)
		if err != nil {
			t.Fatal(err)
		}
		ctx, cancel := context.WithTimeout(t.Context(), 30*time.Second)
		before := answered[step.path]
		_, err = client.Discovery().RESTClient().Get().AbsPath(step.path).DoRaw(ctx)
		cancel()
		if (err == nil) != step.answered || (answered[step.path] > before) != step.answered {
			t.Errorf("GET %s: %v; want an answer: %t", step.path, err, step.answered)
		}
	}
}
