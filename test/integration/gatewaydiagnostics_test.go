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
	"fmt"
	"net/http"
	"strings"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/opensandbox-io/sandbox-apiserver/apis/lifecycle/v1alpha1"
)

// httpDiagnostic is a descriptor as an SDK reads it.
type httpDiagnostic struct {
	SandboxID, Kind, Scope, Delivery, ContentType, Content string
	ContentLength                                          int
	Truncated                                              bool
	Warnings                                               []string
}

func (g *gatewayFixture) diagnosed(path string) httpDiagnostic {
	g.Helper()
	var d httpDiagnostic
	g.is(g.asks(http.MethodGet, path, ""), 200, "").decode(g.fixture, &d)
	if d.Delivery != "inline" || d.ContentType != "text/plain; charset=utf-8" || d.ContentLength != len(d.Content) {
		g.Errorf("%s: %+v", path, d)
	}
	return d
}

func (g *gatewayFixture) text(path string) string {
	g.Helper()
	got := g.is(g.asks(http.MethodGet, path, ""), 200, "")
	if media := got.header.Get("Content-Type"); !strings.HasPrefix(media, "text/plain") {
		g.Errorf("%s is %q", path, media)
	}
	return string(got.body)
}

// podOf stores the Pod that a controller would have made, with a log.
func (g *gatewayFixture) podOf(s *v1alpha1.Sandbox, log string) {
	g.Helper()
	g.host.put(g.T, "pods", &corev1.Pod{
		ObjectMeta: metav1.ObjectMeta{Namespace: g.namespace, Name: s.Status.PodName, Labels: map[string]string{v1alpha1.LabelSandboxUID: string(s.UID)}},
		Spec:       *s.Spec.Template.Spec.DeepCopy(),
		Status:     corev1.PodStatus{Phase: corev1.PodRunning},
	})
	g.host.writes(g.namespace, s.Status.PodName, log)
}

func (g *gatewayFixture) event(kind, name string, uid any, reason string, at time.Time) {
	g.Helper()
	event := &corev1.Event{
		ObjectMeta: metav1.ObjectMeta{Namespace: g.namespace, Name: strings.ToLower(kind + "-" + name + "-" + reason)},
		Type:       "Normal", Reason: reason, Message: "as it happens", LastTimestamp: metav1.NewTime(at),
		InvolvedObject: corev1.ObjectReference{Kind: kind, Namespace: g.namespace, Name: name},
	}
	switch uid := uid.(type) {
	case *v1alpha1.Sandbox:
		event.InvolvedObject.UID = uid.UID
	case *v1alpha1.SandboxSnapshot:
		event.InvolvedObject.UID = uid.UID
	}
	g.host.put(g.T, "events", event)
}

// TestDiagnosticsOverHTTP: among others that a log of bytes that are no text is told all the same, where others' whole answers could not
// be read (https://github.com/VictoriaMetrics/VictoriaLogs/issues/1780).
func TestDiagnosticsOverHTTP(t *testing.T) {
	g := newGateway(t)
	const path = "/v1/sandboxes/demo/diagnostics/"
	g.create(sandbox("demo"))
	for _, which := range []string{"logs", "events", "inspect", "summary", "logs?scope=all"} {
		g.is(g.asks(http.MethodGet, "/v1/sandboxes/other/diagnostics/"+which, ""), 404, "KUBERNETES::SANDBOX_NOT_FOUND", "other")
	}
	// Before there is a Pod nothing is wrong, and nobody has written anything.
	if got := g.text(path + "logs"); !strings.HasPrefix(got, "(no logs)") || !strings.Contains(got, "has no Pod") {
		t.Errorf("%q", got)
	}
	if got := g.diagnosed(path + "logs?scope=container"); got.Content != "" || len(got.Warnings) != 1 || got.Kind != "logs" || got.Scope != "container" || got.SandboxID != "demo" {
		t.Errorf("%+v", got)
	}

	demo := g.asRunning("demo")
	var log strings.Builder
	for i := range 300 {
		fmt.Fprintf(&log, "line %d\n", i)
	}
	g.podOf(demo, log.String()+"\xff is no text\n")
	for query, want := range map[string]int{"": 100, "?tail=1": 1, "?tail=10000": 301, "?since=10m&tail=5": 5} {
		if got := g.text(path + "logs" + query); strings.Count(got, "\n") != want || !strings.HasSuffix(got, "\uFFFD is no text\n") {
			t.Errorf("%s: %d lines, want %d: … %q", query, strings.Count(got, "\n"), want, got[max(0, len(got)-40):])
		}
	}
	if got := g.diagnosed(path + "logs?scope=container&tail=10"); strings.Count(got.Content, "\n") != 10 || !got.Truncated {
		t.Errorf("%+v", got)
	}
	if got := g.diagnosed(path + "logs?scope=all&tail=301"); strings.Count(got.Content, "\n") != 301 || got.Truncated {
		t.Errorf("truncated %t: %d lines", got.Truncated, strings.Count(got.Content, "\n"))
	}

	now := time.Now()
	snapshot := g.succeeded("mine", demo)
	other := g.create(sandbox("other"))
	g.event("Sandbox", "demo", demo, "PodCreated", now)
	g.event("SandboxSnapshot", "mine", snapshot, "Succeeded", now.Add(2*time.Second))
	g.event("Pod", "demo", nil, "Scheduled", now.Add(time.Second))
	g.event("Pod", "demo", nil, "FromAnEarlierLife", now.Add(-time.Hour))
	g.event("Sandbox", "other", other, "NotOurs", now)
	g.event("SandboxSnapshot", "another", g.succeeded("another", other), "NotOursEither", now)
	for scope, want := range map[string][]string{
		"lifecycle": {"PodCreated", "Succeeded"}, "runtime": {"Scheduled"}, "all": {"PodCreated", "Scheduled", "Succeeded"},
	} {
		if got := reasonsIn(g.diagnosed(path + "events?scope=" + scope).Content); fmt.Sprint(got) != fmt.Sprint(want) {
			t.Errorf("scope %s: %v, want %v", scope, got, want)
		}
	}
	if got := reasonsIn(g.text(path + "events?limit=2")); fmt.Sprint(got) != "[Scheduled Succeeded]" {
		t.Errorf("the newest two: %v", got)
	}
	if got := g.text(path + "inspect"); !strings.Contains(got, "Phase: Running\n") || !strings.Contains(got, "Pod: demo\n") {
		t.Errorf("%s", got)
	}
	summary := g.text(path + "summary?tail=2&event_limit=1")
	for _, part := range []string{"== sandbox demo ==", "Phase: Running", "== events ==", "Succeeded SandboxSnapshot/mine", "== log, the last 2 lines ==", "line 299\n"} {
		if !strings.Contains(summary, part) {
			t.Errorf("the summary has no %q:\n%s", part, summary)
		}
	}
	if strings.Contains(summary, "line 298") || strings.Contains(summary, "Scheduled") {
		t.Errorf("more than was asked for:\n%s", summary)
	}

	// A Pod of the name that is somebody else's is not read.
	g.host.put(t, "pods", &corev1.Pod{ObjectMeta: metav1.ObjectMeta{Namespace: g.namespace, Name: "demo", Labels: map[string]string{v1alpha1.LabelSandboxUID: "another"}}})
	g.host.requests()
	if got := g.text(path + "logs"); !strings.Contains(got, "is not the sandbox's") || strings.Contains(got, "line") {
		t.Errorf("of another's Pod: %s", got)
	}
	for _, asked := range g.host.requests() {
		if strings.Contains(asked, "pods/log") {
			t.Errorf("asked for the log of another's Pod: %s", asked)
		}
	}
}

func reasonsIn(events string) []string {
	var reasons []string
	for line := range strings.Lines(events) {
		if fields := strings.Fields(line); len(fields) > 2 {
			reasons = append(reasons, fields[2])
		}
	}
	return reasons
}

// TestDiagnosticsAreTheCallers: the rights are those of the key's user, and of nobody else.
func TestDiagnosticsAreTheCallers(t *testing.T) {
	g := newGateway(t)
	g.create(sandbox("demo"))
	g.podOf(g.asRunning("demo"), "a secret\n")
	g.setKeys(map[string]string{"viewer": keyOf("v", viewer, g.namespace), "tenant": keyOf(g.key, tenants+g.namespace, g.namespace)})
	const path = "/v1/sandboxes/demo/diagnostics/"
	g.eventually(func() error {
		if got := g.call(http.MethodGet, "/v1/sandboxes/demo/diagnostics/inspect", "v", ""); got.code == http.StatusUnauthorized {
			return fmt.Errorf("the new key does not work yet: %s", got.body)
		}
		return nil
	})
	// Who may see sandboxes and no Pods is told of sandboxes, and why of no Pods.
	got := g.is(g.call(http.MethodGet, path+"inspect", "v", ""), 200, "")
	if !strings.Contains(string(got.body), "Phase: Running") || !strings.Contains(string(got.body), `User "viewer" cannot get resource "pods"`) {
		t.Errorf("%s", got.body)
	}
	if got = g.is(g.call(http.MethodGet, path+"summary", "v", ""), 200, ""); strings.Contains(string(got.body), "a secret") || !strings.Contains(string(got.body), `cannot list resource "events"`) {
		t.Errorf("%s", got.body)
	}
	for _, which := range []string{"logs", "logs?scope=all"} {
		g.is(g.call(http.MethodGet, path+which, "v", ""), 403, "INSUFFICIENT_ROLE", `cannot get resource "pods"`)
	}
	g.is(g.call(http.MethodGet, path+"events", "v", ""), 403, "INSUFFICIENT_ROLE", `cannot list resource "events"`)
	for _, asked := range g.host.requests() {
		if strings.HasSuffix(asked, " by "+gateway) && (strings.Contains(asked, "pods/log") || strings.Contains(asked, "events")) {
			t.Errorf("the gateway has read for itself what is the caller's: %s", asked)
		}
	}
}
