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

package registry

import (
	"io"
	"net/http"
	"net/url"
	"strings"
	"sync"
)

// challenged is for registries that greet anybody and want a token for a push: the library
// goes by the greeting alone. What such a registry has asked for once is what its greeting
// is answered with from then on.
type challenged struct {
	inner http.RoundTripper

	mu sync.Mutex
	// origins are scheme and host of registries, and what each has asked for.
	origins map[string]string
}

// RoundTrip implements http.RoundTripper.
func (t *challenged) RoundTrip(r *http.Request) (*http.Response, error) {
	greeting := r.URL.Path == "/v2/"
	if challenge := t.of(r.URL); greeting && challenge != "" {
		return &http.Response{
			Status: "401 Unauthorized", StatusCode: http.StatusUnauthorized, Proto: "HTTP/1.1", ProtoMajor: 1, ProtoMinor: 1,
			Header: http.Header{"Www-Authenticate": {challenge}}, Body: io.NopCloser(strings.NewReader("")), Request: r,
		}, nil
	}
	answer, err := t.inner.RoundTrip(r)
	if err == nil && answer.StatusCode == http.StatusUnauthorized && !greeting && !hasToken(r) {
		if asked := answer.Header.Get("WWW-Authenticate"); strings.HasPrefix(strings.ToLower(asked), "bearer ") {
			t.mu.Lock()
			defer t.mu.Unlock()
			if t.origins == nil {
				t.origins = map[string]string{}
			}
			t.origins[origin(r.URL)] = asked
		}
	}
	return answer, err
}

func hasToken(r *http.Request) bool {
	return strings.HasPrefix(r.Header.Get("Authorization"), "Bearer ")
}

func origin(u *url.URL) string { return u.Scheme + "://" + u.Host }

func (t *challenged) of(u *url.URL) string {
	t.mu.Lock()
	defer t.mu.Unlock()
	return t.origins[origin(u)]
}

// known is how many registries have asked so.
func (t *challenged) known() int {
	t.mu.Lock()
	defer t.mu.Unlock()
	return len(t.origins)
}
