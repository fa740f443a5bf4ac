//go:build e2e

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

package e2e

import (
	"context"
	"encoding/json"
	"net/http"
	"strings"
	"testing"
	"time"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

// TestTheGatewayRefusesWhatNobodyCanMean: each is a 4xx in the one shape that errors have, which names what is wrong, and nothing is
// created or changed by any.
func TestTheGatewayRefusesWhatNobodyCanMean(t *testing.T) {
	t.Parallel()
	r := newRoom(t)
	r.start("demo")
	k := r.keyholder(tenantRole)
	before := r.get("demo").ResourceVersion
	create := func(change func(map[string]any)) string {
		request := map[string]any{
			"image": map[string]any{"uri": busybox}, "entrypoint": []string{"sleep", "infinity"},
			"resourceLimits": map[string]string{"cpu": "50m", "memory": "32Mi"},
		}
		change(request)
		body, err := json.Marshal(request)
		if err != nil {
			t.Fatal(err)
		}
		return string(body)
	}
	with := func(field string, value any) string {
		return create(func(request map[string]any) { request[field] = value })
	}
	past, soon := time.Now().Add(-time.Minute).Format(time.RFC3339), time.Now().Add(time.Hour).Format(time.RFC3339)
	for _, bad := range []struct {
		name, method, path, body string
		names                    string // what the message names; empty: whatever
	}{
		{"no JSON", "POST", "/v1/sandboxes", `{"image": `, ""},
		{"no body", "POST", "/v1/sandboxes", "", ""},
		{"another type", "POST", "/v1/sandboxes", with("timeout", "long"), "timeout"},
		{"an image that is a list", "POST", "/v1/sandboxes", with("image", []string{busybox}), "image"},
		{"no image", "POST", "/v1/sandboxes", create(func(request map[string]any) { delete(request, "image") }), "image"},
		{"an image and a snapshot", "POST", "/v1/sandboxes", with("snapshotId", "a"), "snapshotId"},
		{"an entrypoint of nothing", "POST", "/v1/sandboxes", with("entrypoint", []string{}), "entrypoint"},
		{"timeout 0", "POST", "/v1/sandboxes", with("timeout", 0), "timeout"},
		{"timeout 59", "POST", "/v1/sandboxes", with("timeout", 59), "timeout"},
		{"timeout of ages", "POST", "/v1/sandboxes", with("timeout", int64(1)<<62), "timeout"},
		{"metadata of another type", "POST", "/v1/sandboxes", with("metadata", map[string]any{"a": 1}), "metadata"},
		{"a reserved prefix", "POST", "/v1/sandboxes", with("metadata", map[string]string{"opensandbox.io/id": "a"}), "opensandbox.io/id"},
		{"a reserved prefix of ours", "POST", "/v1/sandboxes", with("metadata", map[string]string{"lifecycle.opensandbox.io/sandbox": "a"}), "lifecycle.opensandbox.io/sandbox"},
		{"a value of 64", "POST", "/v1/sandboxes", with("metadata", map[string]string{"long": strings.Repeat("a", 64)}), "long"},
		{"limits that are none", "POST", "/v1/sandboxes", with("resourceLimits", map[string]string{"cpu": "much"}), "cpu"},
		{"a snapshot that is not there", "POST", "/v1/sandboxes", create(func(request map[string]any) { delete(request, "image"); request["snapshotId"] = "nobodys" }), "nobodys"},
		{"an unknown state", "GET", "/v1/sandboxes?state=Asleep", "", "state"},
		{"pageSize 0", "GET", "/v1/sandboxes?pageSize=0", "", "pageSize"},
		{"pageSize 201", "GET", "/v1/sandboxes?pageSize=201", "", "pageSize"},
		{"page 0", "GET", "/v1/sandboxes?page=0", "", "page"},
		{"a page that is no number", "GET", "/v1/sandboxes?page=first", "", "page"},
		{"metadata that is no query", "GET", "/v1/sandboxes?metadata=%25zz", "", "metadata"},
		{"an id over 63", "GET", "/v1/sandboxes/" + strings.Repeat("a", 64), "", "sandboxId"},
		{"an id with dots", "GET", "/v1/sandboxes/..%2F..%2Fnamespaces", "", ""},
		{"port 0", "GET", "/v1/sandboxes/demo/endpoints/0", "", "port"},
		{"port 65536", "GET", "/v1/sandboxes/demo/endpoints/65536", "", "port"},
		{"a port that is none", "GET", "/v1/sandboxes/demo/endpoints/http", "", "port"},
		{"the proxy to port 0", "GET", "/v1/sandboxes/demo/proxy/0/", "", ""},
		{"the proxy to port 65536", "GET", "/v1/sandboxes/demo/proxy/65536/", "", ""},
		{"a route that has expired", "GET", "/v1/sandboxes/demo/endpoints/44772?expires=1", "", "expires"},
		{"an expiry of the past", "POST", "/v1/sandboxes/demo/renew-expiration", `{"expiresAt": "` + past + `"}`, "expiresAt"},
		{"a renewal of what never expires", "POST", "/v1/sandboxes/demo/renew-expiration", `{"expiresAt": "` + soon + `"}`, ""},
		{"an expiry that is no time", "POST", "/v1/sandboxes/demo/renew-expiration", `{"expiresAt": "tomorrow"}`, "expiresAt"},
		{"metadata that is a list", "PATCH", "/v1/sandboxes/demo/metadata", `["a"]`, ""},
		{"a label of ours", "PATCH", "/v1/sandboxes/demo/metadata", `{"opensandbox.io/id": "a"}`, "opensandbox.io/id"},
		{"a resume of what runs in another way", "POST", "/v1/sandboxes/nobodys/resume", "", ""},
		{"a snapshot without a name", "POST", "/v1/sandboxes/demo/snapshots", `{"name": ""}`, "name"},
		{"a body of 10 MB", "POST", "/v1/sandboxes", with("env", map[string]string{"A": strings.Repeat("a", 10<<20)}), ""},
		{"a path that is none", "GET", "/v1/nothing", "", ""},
		{"a method that is none", "PUT", "/v1/sandboxes", "{}", ""},
	} {
		got, err := k.try(t.Context(), bad.method, bad.path, bad.body)
		if err != nil {
			t.Errorf("%s: %v", bad.name, err)
			continue
		}
		var said problem
		if json.Unmarshal([]byte(got.body), &said) != nil || got.status < 400 || got.status > 499 {
			t.Errorf("%s: %d %s, want a 4xx of code and message", bad.name, got.status, got.body)
			continue
		}
		k.mustRefuse(bad.name, got, got.status, said.Code)
		if !strings.Contains(said.Message, bad.names) {
			t.Errorf("%s: %q does not name %s", bad.name, said.Message, bad.names)
		}
	}
	// The key of a tenant whose namespace is another's to say.
	request, err := http.NewRequestWithContext(t.Context(), http.MethodGet, k.url+"/v1/sandboxes", nil)
	if err != nil {
		t.Fatal(err)
	}
	request.Header.Set(keyHeader, k.key)
	request.Header.Set("OPEN-SANDBOX-NAMESPACE", "kube-system")
	if response, err := http.DefaultClient.Do(request); err != nil || response.StatusCode != http.StatusForbidden {
		t.Errorf("a key for another namespace: %v, %v", response, err)
	} else {
		response.Body.Close()
	}

	if left, err := r.sandboxes().List(context.Background(), metav1.ListOptions{}); err != nil || len(left.Items) != 1 {
		t.Errorf("there are %d sandboxes (%v), want the one", len(left.Items), err)
	}
	if snapshots, err := r.snapshots().List(context.Background(), metav1.ListOptions{}); err != nil || len(snapshots.Items) != 0 {
		t.Errorf("there are %d snapshots (%v), want none", len(snapshots.Items), err)
	}
	if after := r.get("demo"); after.ResourceVersion != before {
		t.Errorf("the sandbox has changed from version %s: %+v", before, after.ObjectMeta)
	}
}
