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

package contract

import (
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"

	"github.com/getkin/kin-openapi/openapi3"

	document "github.com/opensandbox-io/sandbox-apiserver/apis/http"
)

// TestCheck: what is as the document says passes, and nothing else.
func TestCheck(t *testing.T) {
	const (
		known   = `{"code":"A","message":"b"}`
		sandbox = `{"id":"a","status":{"state":"Running"},"createdAt":"2026-01-02T15:04:05Z","entrypoint":["a"]}`
	)
	for _, c := range []struct {
		name, method, path string
		status             int
		media, body, says  string
	}{
		{"a sandbox", "GET", "/v1/sandboxes/a", 200, "application/json", sandbox, ""},
		{"a sandbox at the root", "GET", "/sandboxes/a", 200, "application/json", sandbox, ""},
		{"a sandbox in no known state", "GET", "/v1/sandboxes/a", 200, "application/json", strings.Replace(sandbox, "Running", "Dreaming", 1), "state"},
		{"a sandbox without an id", "GET", "/v1/sandboxes/a", 200, "application/json", strings.Replace(sandbox, `"id":"a",`, "", 1), "id"},
		{"a time that is none", "GET", "/v1/sandboxes/a", 200, "application/json", strings.Replace(sandbox, "2026-01-02T", "", 1), "date-time"},
		{"a status that is not the route's", "GET", "/v1/sandboxes/a", 202, "application/json", sandbox, "status"},
		{"a route that is none", "GET", "/v1/other", 200, "application/json", "{}", "route"},
		{"an error", "GET", "/v1/sandboxes/a", 404, "application/json", known, ""},
		{"an error with a third field", "GET", "/v1/sandboxes/a", 404, "application/json", `{"code":"A","message":"b","detail":"c"}`, "exactly"},
		{"an error in plain text", "GET", "/v1/sandboxes/a", 404, "text/plain", "no", "text/plain"},
		{"an error of no route", "GET", "/nothing", 404, "application/json", known, ""},
		{"an error without a message", "GET", "/nothing", 404, "application/json", `{"code":"A"}`, "exactly"},
		{"no Retry-After", "GET", "/v1/sandboxes/a", 503, "application/json", known, "Retry-After"},
		{"no Location", "POST", "/v1/sandboxes", 202, "application/json", sandbox, "Location"},
		{"an empty answer", "POST", "/v1/sandboxes/a/pause", 202, "", "", ""},
		{"text", "GET", "/v1/sandboxes/a/diagnostics/logs", 200, "text/plain; charset=utf-8", "a line", ""},
	} {
		t.Run(c.name, func(t *testing.T) {
			r := httptest.NewRequestWithContext(t.Context(), c.method, c.path, http.NoBody)
			response := &http.Response{StatusCode: c.status, Header: http.Header{"X-Request-Id": {"a"}}}
			if c.media != "" {
				response.Header.Set("Content-Type", c.media)
			}
			err := Check(r, response, []byte(c.body))
			if (err == nil) != (c.says == "") || err != nil && !strings.Contains(err.Error(), c.says) {
				t.Errorf("got %v, want …%s…", err, c.says)
			}
		})
	}
	r := httptest.NewRequestWithContext(t.Context(), "GET", "/nothing", http.NoBody)
	if Check(r, &http.Response{StatusCode: http.StatusNotFound, Header: http.Header{"Content-Type": {"application/json"}}}, []byte(known)) == nil {
		t.Error("an answer without X-Request-ID passes")
	}
}

// TestTheDocumentIsOne: OpenAPI 3.1, and valid.
func TestTheDocumentIsOne(t *testing.T) {
	loaded, err := openapi3.NewLoader().LoadFromData(document.Document)
	if err != nil {
		t.Fatal(err)
	}
	if !loaded.IsOpenAPI31OrLater() || loaded.OpenAPI != "3.1.0" {
		t.Errorf("it is OpenAPI %s", loaded.OpenAPI)
	}
	if err := loaded.Validate(t.Context()); err != nil {
		t.Error(err)
	}
}
