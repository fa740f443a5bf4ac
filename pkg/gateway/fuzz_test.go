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
	"bytes"
	"encoding/json"
	"io"
	"net/http"
	"net/http/httptest"
	"net/url"
	pathpkg "path"
	"strings"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/rest"

	"github.com/opensandbox-io/sandbox-apiserver/apis/lifecycle/v1alpha1"
	"github.com/opensandbox-io/sandbox-apiserver/pkg/gateway/contract"
)

// routes are the document's, with a body or without.
var routes = []string{
	"POST /v1/sandboxes", "PATCH /sandboxes/a/metadata", "POST /v1/sandboxes/a/renew-expiration", "POST /sandboxes/a/snapshots",
	"POST /v1/metrics/events", "POST /pools", "PUT /v1/pools/a", "PATCH /sandboxes/a/networkpolicy", "DELETE /v1/sandboxes/a/networkpolicy",
	"POST /templates", "POST /v1/sandboxes/a/fork", "POST /sandboxes/a/pause", "POST /v1/sandboxes/a/resume",
}

// FuzzBodies: whatever a body holds, the answer is the document's, and says nothing of a fault of the gateway's own.
func FuzzBodies(f *testing.F) {
	for _, body := range []string{
		`{"image":{"uri":"busybox","auth":{"username":"a","password":"b"}},"entrypoint":["sh"],"timeout":600,"resourceLimits":{"cpu":"1","memory":"2Gi"},` +
			`"env":{"A":"b"},"metadata":{"a":"b"},"extensions":{"a":"b"},"secureAccess":true,"platform":{"os":"linux","arch":"amd64"},` +
			`"volumes":[{"name":"v","mountPath":"/v","pvc":{"claimName":"c"}},{"name":"h","mountPath":"/h","host":{"path":"/h"}}]}`,
		`{"snapshotId":"s","resourceLimits":{"cpu":"1"}}`, `{"networkPolicy":{}}`, `{"image":null,"timeout":null}`,
		`{"a":null,"b":"c"}`, `{"expiresAt":"2030-01-02T15:04:05Z"}`, `{"name":"n"}`, `{}`, `[]`, `{`, ``, `{"timeout":1e400}`,
		`{"eventType":"sandbox.create","createDurationMs":1,"success":true}`,
		`{"name":"p","template":{},"capacitySpec":{"bufferMin":1,"bufferMax":2,"poolMin":1,"poolMax":3}}`,
	} {
		for i := range routes {
			f.Add(uint8(i), []byte(body))
		}
	}
	s, _ := fuzzed(f)
	f.Fuzz(func(t *testing.T, route uint8, body []byte) {
		method, target, _ := strings.Cut(routes[int(route)%len(routes)], " ")
		r := httptest.NewRequestWithContext(t.Context(), method, target, bytes.NewReader(body))
		r.Header.Set("Content-Type", "application/json")
		answered(t, s, r)
	})
}

// FuzzTargets: whatever the path, the query and the headers hold, the answer is the document's, and kube-apiserver is asked
// for nothing outside of the caller's namespace.
func FuzzTargets(f *testing.F) {
	for _, target := range []string{
		"/v1/sandboxes?state=Running&state=paused&metadata=a%3Db%26c%3Dd&page=1&pageSize=200", "/sandboxes?pageSize=0", "/sandboxes?state=Dreaming",
		"/sandboxes?metadata=%25", "/v1/sandboxes/a", "/sandboxes/..%2f..%2fsecrets", "/v1/sandboxes/../secrets", "/sandboxes/a/endpoints/44772?use_server_proxy=true",
		"/sandboxes/a/endpoints/65536", "/sandboxes/a/endpoints/80?expires=99999999999999999999", "/snapshots?sandboxId=a&name=b&state=Ready",
		"/snapshots/a%00", "/sandboxes/a/diagnostics/logs?scope=all&tail=5&since=10m", "/sandboxes/a/diagnostics/events?limit=501", "/sandboxes/a/diagnostics/summary",
		"/sandboxes/a/diagnostics/inspect", "/v1", "/", "//", "/v1//sandboxes", "/sandboxes/a?watch=true", "/health", "/openapi.json", "/pools/a", "/forks/a",
		"/snapshots?sandboxId=a,metadata.name=b", "/sandboxes?metadata=a%3Db,c%3Dd",
	} {
		for _, method := range []uint8{0, 1, 2} {
			f.Add(method, target, "a", "")
		}
	}
	s, asked := fuzzed(f)
	methods := []string{"GET", "DELETE", "POST", "HEAD", "OPTIONS", "PUT", "PATCH"}
	f.Fuzz(func(t *testing.T, method uint8, target, id, idempotency string) {
		u, err := url.ParseRequestURI(target)
		if err != nil || u.Host != "" || strings.Contains(u.Path, "/proxy") {
			t.Skip("no server sees it, or it is for a sandbox")
		}
		r := httptest.NewRequestWithContext(t.Context(), methods[int(method)%len(methods)], "/", http.NoBody)
		r.URL, r.RequestURI = u, target
		r.Header["X-Request-Id"] = []string{id}
		r.Header["Idempotency-Key"] = []string{idempotency}
		asked.outside = ""
		answered(t, s, r)
		if asked.outside != "" {
			t.Errorf("%s %q: kube-apiserver was asked for %s", r.Method, target, asked.outside)
		}
	})
}

func answered(t *testing.T, s *Server, r *http.Request) {
	t.Helper()
	shown := r.Clone(t.Context())
	w := httptest.NewRecorder()
	s.Handler().ServeHTTP(w, r)
	if w.Code == http.StatusInternalServerError || w.Code == http.StatusServiceUnavailable {
		t.Errorf("%s %s: %d %s", shown.Method, shown.RequestURI, w.Code, w.Body)
	}
	if shown.Method == http.MethodHead || shown.Method == http.MethodOptions && w.Code == http.StatusNoContent {
		return
	}
	if err := contract.Check(shown, w.Result(), w.Body.Bytes()); err != nil {
		t.Errorf("%s %s: %d %s: %v", shown.Method, shown.RequestURI, w.Code, w.Body, err)
	}
}

// fuzzed is a gateway whose kube-apiserver has whatever is asked for.
func fuzzed(f *testing.F) (*Server, *plenty) {
	f.Helper()
	asked := &plenty{}
	s, err := New(Config{
		Cluster: &rest.Config{Host: "http://cluster.invalid", Transport: asked}, Listen: ":0",
		DefaultNamespace: "default", OpenAs: "anyone", MaxBody: 1 << 20, RequestTimeout: 10 * time.Second,
	})
	if err != nil {
		f.Fatal(err)
	}
	return s, asked
}

// plenty is a kube-apiserver that has one of everything.
type plenty struct{ outside string }

func (p *plenty) RoundTrip(r *http.Request) (*http.Response, error) {
	parts := strings.Split(strings.Trim(r.URL.EscapedPath(), "/"), "/")
	i := 0
	for i < len(parts) && parts[i] != "namespaces" {
		i++
	}
	if i+2 >= len(parts) || parts[i+1] != "default" || pathpkg.Clean(r.URL.Path) != r.URL.Path || r.Header.Get("Impersonate-User") != "anyone" {
		p.outside = r.Method + " " + r.URL.String()
	}
	var body any
	named := len(parts) > i+3
	switch parts[min(i+2, len(parts)-1)] {
	case "sandboxes":
		one := v1alpha1.Sandbox{
			TypeMeta: metav1.TypeMeta{APIVersion: v1alpha1.SchemeGroupVersion.String(), Kind: "Sandbox"}, ObjectMeta: meta("a"),
			Spec: v1alpha1.SandboxSpec{Template: &corev1.PodTemplateSpec{Spec: corev1.PodSpec{Containers: []corev1.Container{{Name: "sandbox", Image: "busybox"}}}}},
		}
		one.Status.Phase = v1alpha1.SandboxRunning
		body = one
		if !named && r.Method == http.MethodGet {
			body = v1alpha1.SandboxList{TypeMeta: metav1.TypeMeta{APIVersion: v1alpha1.SchemeGroupVersion.String(), Kind: "SandboxList"}, Items: []v1alpha1.Sandbox{one}}
		}
	case "sandboxsnapshots":
		one := v1alpha1.SandboxSnapshot{
			TypeMeta: metav1.TypeMeta{APIVersion: v1alpha1.SchemeGroupVersion.String(), Kind: "SandboxSnapshot"}, ObjectMeta: meta("a"),
			Spec: v1alpha1.SandboxSnapshotSpec{SandboxName: "a"},
		}
		one.Status.Phase = v1alpha1.SnapshotSucceed
		body = one
		if !named && r.Method == http.MethodGet {
			body = v1alpha1.SandboxSnapshotList{TypeMeta: metav1.TypeMeta{APIVersion: v1alpha1.SchemeGroupVersion.String(), Kind: "SandboxSnapshotList"}, Items: []v1alpha1.SandboxSnapshot{one}}
		}
	case "events":
		body = corev1.EventList{TypeMeta: metav1.TypeMeta{APIVersion: "v1", Kind: "EventList"}, Items: []corev1.Event{}}
	default:
		body = metav1.Status{TypeMeta: metav1.TypeMeta{APIVersion: "v1", Kind: "Status"}, Status: metav1.StatusFailure, Code: 404, Reason: metav1.StatusReasonNotFound,
			Message: "not found", Details: &metav1.StatusDetails{Kind: "pods", Name: "a"}}
	}
	status := http.StatusOK
	if s, ok := body.(metav1.Status); ok {
		status = int(s.Code)
	}
	data, err := json.Marshal(body)
	if err != nil {
		return nil, err
	}
	return &http.Response{
		StatusCode: status, Proto: "HTTP/1.1", ProtoMajor: 1, ProtoMinor: 1, Request: r,
		Header: http.Header{"Content-Type": {"application/json"}}, Body: io.NopCloser(bytes.NewReader(data)),
	}, nil
}

func meta(name string) metav1.ObjectMeta {
	return metav1.ObjectMeta{Namespace: "default", Name: name, UID: "1", ResourceVersion: "1", CreationTimestamp: metav1.Unix(1_700_000_000, 0)}
}
