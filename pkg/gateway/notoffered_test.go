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
	"encoding/json"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
)

// TestWhatIsNotOffered: whatever such a request brings, its client learns that there is no such thing here, by the code that
// the reference has for it, and what to do instead.
func TestWhatIsNotOffered(t *testing.T) {
	server := newServer(t, http.NotFoundHandler(), nil)
	const pools, other = "KUBERNETES::POOL_NOT_SUPPORTED", "SANDBOX::API_NOT_SUPPORTED"
	capacity := `"capacitySpec":{"bufferMin":1,"bufferMax":2,"poolMin":0,"poolMax":3}`
	for _, c := range []struct {
		method, path, body string
		code, instead      string
	}{
		{"POST", "/pools", `{"name":"a","template":{"spec":{}},` + capacity + `}`, pools, "from an image or a snapshot"},
		{"GET", "/pools", "", pools, "from an image or a snapshot"},
		{"GET", "/pools/a", "", pools, ""},
		{"PUT", "/pools/a", `{` + capacity + `}`, pools, ""},
		{"DELETE", "/pools/a", "", pools, ""},
		{"GET", "/sandboxes/a/networkpolicy", "", other, "NetworkPolicy"},
		{"PATCH", "/sandboxes/a/networkpolicy", `[{"action":"allow","target":"example.com"}]`, other, "NetworkPolicy"},
		{"PATCH", "/sandboxes/a/networkpolicy", "", other, "NetworkPolicy"},
		{"DELETE", "/sandboxes/a/networkpolicy", `["example.com"]`, other, "NetworkPolicy"},
		{"DELETE", "/sandboxes/a/networkpolicy", "", other, "NetworkPolicy"},
		{"POST", "/templates", `{"anything":[1,2]}`, other, "from an image or a snapshot"},
		{"POST", "/templates", "", other, "from an image or a snapshot"},
		{"GET", "/templates", "", other, ""},
		{"GET", "/templates/a", "", other, ""},
		{"DELETE", "/templates/a", "", other, ""},
		{"POST", "/sandboxes/a/fork", `{"timeout":60}`, other, "snapshot"},
		{"POST", "/sandboxes/a/fork", "", other, "snapshot"},
		{"GET", "/forks/a", "", other, "snapshot"},
	} {
		for _, base := range []string{"", "/v1"} {
			request := httptest.NewRequestWithContext(t.Context(), c.method, base+c.path, strings.NewReader(c.body))
			if c.body != "" {
				request.Header.Set("Content-Type", "application/json")
			}
			recorder := httptest.NewRecorder()
			server.Handler().ServeHTTP(recorder, request)
			var got map[string]string
			if err := json.Unmarshal(recorder.Body.Bytes(), &got); err != nil || recorder.Code != http.StatusNotImplemented || len(got) != 2 ||
				got["code"] != c.code || !strings.Contains(got["message"], c.instead) {
				t.Errorf("%s %s%s %q: %d %s, want 501 %s and %q", c.method, base, c.path, c.body, recorder.Code, recorder.Body, c.code, c.instead)
			}
		}
	}
}
