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

// Package contract is for tests: it checks that what the gateway answers is what the document of its API says.
package contract

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"regexp"
	"strconv"
	"strings"
	"sync"
	"testing"

	"github.com/getkin/kin-openapi/openapi3"
	"github.com/getkin/kin-openapi/openapi3filter"
	"github.com/getkin/kin-openapi/routers"
	"github.com/getkin/kin-openapi/routers/legacy"

	document "github.com/opensandbox-io/sandbox-apiserver/apis/http"
)

// Handler returns a handler of which every answer is checked.
func Handler(t testing.TB, next http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if proxied.MatchString(r.URL.Path) {
			next.ServeHTTP(w, r)
			return
		}
		recorder := httptest.NewRecorder()
		next.ServeHTTP(recorder, r)
		response := recorder.Result()
		body := recorder.Body.Bytes()
		check(t, r, response, body)
		for name, values := range response.Header {
			w.Header()[name] = values
		}
		w.WriteHeader(response.StatusCode)
		_, _ = w.Write(body)
	})
}

// Transport returns a way to a gateway of which every answer is checked. With nil it is http.DefaultTransport's.
func Transport(t testing.TB, through http.RoundTripper) http.RoundTripper {
	if through == nil {
		through = http.DefaultTransport
	}
	return transport{t, through}
}

type transport struct {
	t       testing.TB
	through http.RoundTripper
}

func (c transport) RoundTrip(r *http.Request) (*http.Response, error) {
	response, err := c.through.RoundTrip(r)
	if err != nil || proxied.MatchString(r.URL.Path) {
		return response, err
	}
	body, err := io.ReadAll(response.Body)
	response.Body.Close()
	if err != nil {
		return nil, fmt.Errorf("reading the answer to %s %s: %w", r.Method, r.URL, err)
	}
	response.Body = io.NopCloser(bytes.NewReader(body))
	check(c.t, r, response, body)
	if length := response.Header.Get("Content-Length"); len(body) == 0 && r.Method != http.MethodHead && (length == "0") == (response.StatusCode == http.StatusNoContent) {
		c.t.Errorf("%s %s: %s without a body has Content-Length %q; it is to be 0, and none for 204", r.Method, r.URL, response.Status, length)
	}
	return response, nil
}

// proxied is what a sandbox answers, and no document says how.
var proxied = regexp.MustCompile(`^(/v1)?/sandboxes/[^/]+/proxy(/|$)`)

func check(t testing.TB, r *http.Request, response *http.Response, body []byte) {
	t.Helper()
	if err := Check(r, response, body); err != nil {
		t.Errorf("%s %s: %s %q: %v", r.Method, r.URL, response.Status, body, err)
	}
}

// Check is what is wrong with an answer; nil: it is as the document says.
func Check(r *http.Request, response *http.Response, body []byte) error {
	if response.Header.Get("X-Request-ID") == "" {
		return errors.New("it has no X-Request-ID")
	}
	if again := response.Header.Get("Retry-After"); response.StatusCode == http.StatusServiceUnavailable && again == "" {
		return errors.New("it has no Retry-After")
	} else if seconds, err := strconv.Atoi(again); again != "" && (err != nil || seconds < 1) {
		return fmt.Errorf("its Retry-After is %q", again)
	}
	if response.StatusCode >= 300 && r.Method != http.MethodHead {
		if err := checkError(response, body); err != nil {
			return err
		}
	}
	route, err := find(r)
	var none *routers.RouteError
	switch {
	case errors.As(err, &none):
		if response.StatusCode < 300 {
			return fmt.Errorf("the document has no such route: %w", err)
		}
		return nil
	case err != nil:
		return err
	}
	input := &openapi3filter.ResponseValidationInput{
		RequestValidationInput: &openapi3filter.RequestValidationInput{Request: r, Route: route},
		Status:                 response.StatusCode,
		Header:                 response.Header,
		Body:                   io.NopCloser(bytes.NewReader(body)),
		Options:                &openapi3filter.Options{IncludeResponseStatus: true},
	}
	if response.StatusCode < 300 && route.Operation.Responses.Status(response.StatusCode) == nil {
		return errors.New("the document has no such status for this route")
	}
	return openapi3filter.ValidateResponse(r.Context(), input)
}

// checkError has no mercy with a third field, or an empty one.
func checkError(response *http.Response, body []byte) error {
	if media := response.Header.Get("Content-Type"); !strings.HasPrefix(media, "application/json") {
		return fmt.Errorf("an error is %q", media)
	}
	fields := map[string]string{}
	if err := json.Unmarshal(body, &fields); err != nil || len(fields) != 2 || fields["code"] == "" || fields["message"] == "" {
		return errors.New(`an error is not exactly {"code", "message"}`)
	}
	return nil
}

var router = sync.OnceValues(func() (routers.Router, error) {
	loaded, err := openapi3.NewLoader().LoadFromData(document.Document)
	if err != nil {
		return nil, fmt.Errorf("reading the document: %w", err)
	}
	return legacy.NewRouter(loaded)
})

// find is the document's operation that a request is for.
func find(r *http.Request) (*routers.Route, error) {
	all, err := router()
	if err != nil {
		return nil, err
	}
	// The document's servers are paths: a router compares them with those of URLs that have no host.
	bare := r.Clone(r.Context())
	bare.URL.Scheme, bare.URL.Host = "", ""
	route, _, err := all.FindRoute(bare)
	return route, err
}
