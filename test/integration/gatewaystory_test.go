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
	"net/http"
	"slices"
	"strings"
	"testing"
	"time"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/opensandbox-io/sandbox-apiserver/apis/lifecycle/v1alpha1"
)

// httpSandbox is a sandbox as an SDK reads it.
type httpSandbox struct {
	ID     string
	Status struct {
		State, Reason, Message string
		LastTransitionAt       *time.Time
	}
	Image      *struct{ URI string }
	SnapshotID string
	Entrypoint []string
	Metadata   map[string]string
	ExpiresAt  *time.Time
	CreatedAt  time.Time
}

func (g *gatewayFixture) sandboxIn(got answer) httpSandbox {
	g.Helper()
	var s httpSandbox
	got.decode(g.fixture, &s)
	return s
}

func (g *gatewayFixture) shows(id string) httpSandbox {
	g.Helper()
	return g.sandboxIn(g.is(g.asks(http.MethodGet, "/v1/sandboxes/"+id, ""), 200, ""))
}

// TestTheStoryOverHTTP is that of an SDK's caller, step by step; where the controllers would act, the test does.
func TestTheStoryOverHTTP(t *testing.T) {
	g := newGateway(t)
	began := time.Now().Add(-2 * time.Second)

	got := g.is(g.asks(http.MethodPost, "/v1/sandboxes",
		`{"image":{"uri":"python:3.12"},"entrypoint":["tail","-f","/dev/null"],"resourceLimits":{"cpu":"1","memory":"2Gi"},"timeout":600,`+
			`"secureAccess":false,"env":{"A":"b"},"metadata":{"project":"apollo"},"extensions":{}}`), 202, "")
	made := g.sandboxIn(got)
	if made.ID == "" || got.header.Get("Location") != "/v1/sandboxes/"+made.ID || made.Status.State != "Pending" || made.CreatedAt.Before(began) ||
		made.ExpiresAt == nil || made.ExpiresAt.Sub(made.CreatedAt)-600*time.Second > 3*time.Second || made.ExpiresAt.Sub(made.CreatedAt) < 598*time.Second ||
		!slices.Equal(made.Entrypoint, []string{"tail", "-f", "/dev/null"}) || made.Metadata["project"] != "apollo" {
		t.Fatalf("created: %s, Location %q", got.body, got.header.Get("Location"))
	}
	path := "/v1/sandboxes/" + made.ID
	stored := g.get(made.ID)
	if container := stored.Spec.Template.Spec.Containers[0]; container.Name != "sandbox" || container.Image != "python:3.12" ||
		!slices.Equal(stored.Spec.Snapshot.Containers, []string{"sandbox"}) || stored.Spec.ExpireAction != v1alpha1.ExpireActionDelete {
		t.Errorf("stored as %+v", stored.Spec)
	}
	// Nothing of it is the gateway's: it was made by the tenant, with the tenant's rights.
	if manager := stored.ManagedFields; len(manager) == 0 {
		t.Errorf("nobody has made it")
	}
	for _, asked := range g.host.requests() {
		if strings.HasPrefix(asked, "create sandboxes") && !strings.HasSuffix(asked, " by "+tenants+g.namespace) {
			t.Errorf("created by somebody else: %s", asked)
		}
	}

	// Both addresses are there before anything runs.
	for _, port := range []string{"44772", "18080"} {
		got := g.is(g.asks(http.MethodGet, path+"/endpoints/"+port+"?use_server_proxy=false", ""), 200, "")
		if want := strings.TrimPrefix(g.url, "http://") + path + "/proxy/" + port; !strings.Contains(string(got.body), `"`+want+`"`) {
			t.Errorf("endpoint %s: %s, want %s", port, got.body, want)
		}
	}

	g.asRunning(made.ID)
	if s := g.shows(made.ID); s.Status.State != "Running" || s.Image == nil || s.Image.URI != "python:3.12" || s.SnapshotID != "" || s.Status.LastTransitionAt == nil {
		t.Errorf("running: %+v", s)
	}
	if list := g.sandboxesIn("?state=running&metadata=project%3Dapollo&page=1&pageSize=20"); len(list.Items) != 1 || list.Items[0].ID != made.ID || list.Pagination.TotalItems != 1 {
		t.Errorf("listed: %+v", list)
	}

	for range 2 {
		g.empty(g.is(g.asks(http.MethodPost, path+"/pause", ""), 202, ""))
	}
	if s := g.shows(made.ID); s.Status.State != "Pausing" {
		t.Errorf("pausing: %+v", s.Status)
	}
	if s := g.get(made.ID); s.Spec.DesiredState != v1alpha1.DesiredStatePaused || s.Status.SnapshotAttempts != 1 {
		t.Errorf("two pauses are %d attempts, towards %s", s.Status.SnapshotAttempts, s.Spec.DesiredState)
	}
	g.asPaused(made.ID, made.ID+"-gen1")
	g.empty(g.is(g.asks(http.MethodPost, path+"/pause", ""), 202, ""))
	if s := g.shows(made.ID); s.Status.State != "Paused" || s.Image == nil || s.Image.URI != "python:3.12" {
		t.Errorf("paused: %+v", s)
	}

	// A renewal moves the one time, and nothing else.
	before := g.get(made.ID)
	at := time.Now().Add(time.Hour).UTC().Truncate(time.Second)
	var renewed struct{ ExpiresAt time.Time }
	g.is(g.asks(http.MethodPost, path+"/renew-expiration", `{"expiresAt":"`+at.Format(time.RFC3339)+`"}`), 200, "").decode(g.fixture, &renewed)
	if !renewed.ExpiresAt.Equal(at) {
		t.Errorf("renewed until %s, asked for %s", renewed.ExpiresAt, at)
	}
	if s := g.shows(made.ID); s.Status.State != "Paused" || !s.ExpiresAt.Equal(at) {
		t.Errorf("renewed: %+v", s)
	}
	if after := g.get(made.ID); after.Status.Phase != before.Status.Phase || after.Status.SnapshotAttempts != before.Status.SnapshotAttempts ||
		after.Spec.DesiredState != before.Spec.DesiredState || !after.Status.LastRequestTime.Equal(before.Status.LastRequestTime) {
		t.Errorf("the renewal has moved more than the time: %+v after %+v", after.Status, before.Status)
	}

	for range 2 {
		g.empty(g.is(g.asks(http.MethodPost, path+"/resume", ""), 202, ""))
	}
	if s := g.shows(made.ID); s.Status.State != "Resuming" {
		t.Errorf("resuming: %+v", s.Status)
	}
	g.asRunning(made.ID)
	g.empty(g.is(g.asks(http.MethodPost, path+"/resume", ""), 202, ""))
	if s := g.shows(made.ID); s.Status.State != "Running" || !slices.Equal(s.Entrypoint, []string{"tail", "-f", "/dev/null"}) {
		t.Errorf("resumed: %+v", s)
	}

	snapshot := g.snapshot(g.is(g.asks(http.MethodPost, path+"/snapshots", `{"name":"good"}`), 202, ""))
	from := `{"snapshotId":"` + snapshot.ID + `","resourceLimits":{"cpu":"1"}}`
	g.is(g.asks(http.MethodPost, "/v1/sandboxes", from), 409, "SNAPSHOT::NOT_READY", snapshot.ID)
	g.asCommitted(snapshot.ID, func(status *v1alpha1.SandboxSnapshotStatus) {
		succeed(status)
		status.SandboxUID, status.Template = stored.UID, stored.Spec.Template
	})
	clone := g.sandboxIn(g.is(g.asks(http.MethodPost, "/v1/sandboxes", from), 202, ""))
	if s := g.shows(clone.ID); s.SnapshotID != snapshot.ID || s.ExpiresAt != nil || len(s.Entrypoint) == 0 {
		t.Errorf("created from a snapshot: %+v", s)
	}
	g.is(g.asks(http.MethodDelete, "/v1/snapshots/"+snapshot.ID, ""), 409, "SNAPSHOT::DELETE_CONFLICT", clone.ID)

	for _, id := range []string{clone.ID, made.ID} {
		g.is(g.asks(http.MethodDelete, "/v1/sandboxes/"+id, ""), 204, "")
		if s := g.shows(id); s.Status.State != "Stopping" {
			t.Errorf("deleted: %+v", s.Status)
		}
	}
	g.is(g.asks(http.MethodPost, path+"/pause", ""), 409, "KUBERNETES::INVALID_STATE", "deleted")
	g.is(g.asks(http.MethodPost, path+"/resume", ""), 409, "KUBERNETES::INVALID_STATE", "deleted")
	g.is(g.asks(http.MethodDelete, "/v1/snapshots/"+snapshot.ID, ""), 204, "")
	g.isGone(made.ID)
	g.is(g.asks(http.MethodGet, path, ""), 404, "KUBERNETES::SANDBOX_NOT_FOUND", made.ID)
	g.is(g.asks(http.MethodDelete, path, ""), 404, "KUBERNETES::SANDBOX_NOT_FOUND", made.ID)
}

type httpSandboxes struct {
	Items      []httpSandbox
	Pagination struct {
		Page, PageSize, TotalItems, TotalPages int
		HasNextPage                            bool
	}
}

func (g *gatewayFixture) sandboxesIn(query string) httpSandboxes {
	g.Helper()
	var list httpSandboxes
	g.is(g.asks(http.MethodGet, "/v1/sandboxes"+query, ""), 200, "").decode(g.fixture, &list)
	return list
}

func (g *gatewayFixture) empty(got answer) {
	g.Helper()
	if len(got.body) != 0 || got.header.Get("Content-Length") != "0" {
		g.Errorf("%d %q with Content-Length %q", got.code, got.body, got.header.Get("Content-Length"))
	}
}

// isGone does what the controller does once nothing of a sandbox is left.
func (g *gatewayFixture) isGone(name string) {
	g.Helper()
	s, err := g.controller.Sandboxes(g.namespace).Get(g.Context(), name, metav1.GetOptions{})
	g.must(err)
	s.Finalizers = nil
	_, err = g.controller.Sandboxes(g.namespace).Update(g.Context(), s, metav1.UpdateOptions{})
	g.must(err)
}

// TestStatesAndCodesOverHTTP: what each state is called, and what becomes of a pause, a resume and a snapshot in it. A repeat is
// a success, and a contradiction says why.
func TestStatesAndCodesOverHTTP(t *testing.T) {
	g := newGateway(t)
	const invalid, source = "KUBERNETES::INVALID_STATE", "SNAPSHOT::INVALID_SOURCE_STATE"
	ready := func(value metav1.ConditionStatus, reason, message string) func(*v1alpha1.SandboxStatus) {
		return func(s *v1alpha1.SandboxStatus) {
			s.Conditions = []metav1.Condition{
				{Type: v1alpha1.ConditionReady, Status: value, Reason: reason, Message: message, LastTransitionTime: metav1.Now()},
				{Type: v1alpha1.ConditionPaused, Status: "False", Reason: v1alpha1.ReasonRunning, LastTransitionTime: metav1.Now()},
			}
		}
	}
	paused := func(value metav1.ConditionStatus, reason, message string) func(*v1alpha1.SandboxStatus) {
		return func(s *v1alpha1.SandboxStatus) {
			s.Conditions = []metav1.Condition{
				{Type: v1alpha1.ConditionReady, Status: "True", Reason: v1alpha1.ReasonPodReady, LastTransitionTime: metav1.Now()},
				{Type: v1alpha1.ConditionPaused, Status: value, Reason: reason, Message: message, LastTransitionTime: metav1.Now()},
			}
		}
	}
	// outcome is an answer: 202, or a code of a 409 and what it has to say.
	type outcome struct{ code, says string }
	accepted := outcome{}
	for _, test := range []struct {
		name    string
		desired v1alpha1.SandboxDesiredState
		status  []func(*v1alpha1.SandboxStatus)
		phase   v1alpha1.SandboxPhase
		pod     bool

		state, reason, message  string
		pause, resume, snapshot outcome
	}{
		{"pending", "Running", []func(*v1alpha1.SandboxStatus){ready("False", "PodUnschedulable", "0/3 nodes are available")}, "Pending", true,
			"Pending", "PodUnschedulable", "0/3 nodes are available", outcome{invalid, "Pending"}, accepted, outcome{source, "PodUnschedulable"}},
		{"running", "Running", []func(*v1alpha1.SandboxStatus){ready("True", "PodReady", "")}, "Running", true,
			"Running", "PodReady", "", accepted, accepted, accepted},
		{"running-after-a-failed-pause", "Paused", []func(*v1alpha1.SandboxStatus){paused("False", "RegistryDenied", "quota exceeded: free some")}, "Running", true,
			"Running", "RegistryDenied", "quota exceeded: free some", accepted, accepted, accepted},
		{"running-ended", "Running", []func(*v1alpha1.SandboxStatus){ready("False", "ContainersEnded", "all have ended")}, "Running", true,
			"Running", "ContainersEnded", "all have ended", accepted, outcome{invalid, "ended"}, accepted},
		{"pausing", "Paused", []func(*v1alpha1.SandboxStatus){paused("False", "Pausing", "the commit runs")}, "Pausing", true,
			"Pausing", "Pausing", "the commit runs", accepted, accepted, accepted},
		{"pausing-queued", "Paused", []func(*v1alpha1.SandboxStatus){paused("False", "Queued", "2 commits run")}, "Pausing", true,
			"Pausing", "Queued", "2 commits run", accepted, accepted, accepted},
		{"canceling", "Running", []func(*v1alpha1.SandboxStatus){paused("False", "Canceling", "")}, "Pausing", true,
			"Pausing", "Canceling", "", outcome{invalid, "cancel"}, accepted, accepted},
		{"removing-the-pod", "Paused", []func(*v1alpha1.SandboxStatus){paused("False", "RemovingPod", "")}, "Pausing", true,
			"Pausing", "RemovingPod", "", accepted, accepted, accepted},
		{"paused", "Paused", []func(*v1alpha1.SandboxStatus){paused("True", "Paused", "")}, "Paused", false,
			"Paused", "Paused", "", accepted, accepted, accepted},
		{"resuming", "Running", []func(*v1alpha1.SandboxStatus){ready("False", "ImagePullFailed", "401 from the registry")}, "Resuming", true,
			"Resuming", "ImagePullFailed", "401 from the registry", outcome{invalid, "Resuming"}, accepted, outcome{source, "Resuming"}},
		{"failed", "Running", []func(*v1alpha1.SandboxStatus){ready("False", "NoSnapshot", "its Pod was lost"), func(s *v1alpha1.SandboxStatus) { s.SnapshotName = "" }}, "Failed", false,
			"Failed", "NoSnapshot", "its Pod was lost", outcome{invalid, ""}, outcome{invalid, "snapshot"}, outcome{source, "NoSnapshot"}},
	} {
		t.Run(test.name, func(t *testing.T) {
			g := g.within(t)
			for verb, want := range map[string]outcome{"": accepted, "/pause": test.pause, "/resume": test.resume, "/snapshots": test.snapshot} {
				name := strings.Trim(test.name+"-"+strings.Trim(verb, "/"), "-")
				s := sandbox(name)
				g.create(s)
				set := func() *v1alpha1.Sandbox {
					return g.writeStatus(name, func(status *v1alpha1.SandboxStatus) {
						status.Phase = test.phase
						status.SnapshotName = name + "-gen1"
						if test.pod {
							status.PodName, status.PodUID, status.NodeName = name, "pod-uid", "node-a"
						}
						for _, change := range test.status {
							change(status)
						}
					})
				}
				now := set()
				if now.Spec.DesiredState != test.desired {
					// Whoever has asked for it, the state is what the controller has made of it.
					now.Spec.DesiredState = test.desired
					_, err := g.controller.Sandboxes(g.namespace).Update(t.Context(), now, metav1.UpdateOptions{})
					g.must(err)
					set()
				}
				if verb == "" {
					if got := g.shows(name).Status; got.State != test.state || got.Reason != test.reason || got.Message != test.message || got.LastTransitionAt == nil {
						t.Errorf("it is %+v, want %s %s %q", got, test.state, test.reason, test.message)
					}
					if list := g.sandboxesIn("?pageSize=200&state=" + strings.ToUpper(test.state)); !slices.ContainsFunc(list.Items, func(s httpSandbox) bool { return s.ID == name }) {
						t.Errorf("it is not among the %s ones", test.state)
					}
					continue
				}
				got := g.asks(http.MethodPost, "/v1/sandboxes/"+name+verb, "")
				if want == accepted {
					g.is(got, 202, "")
				} else {
					g.is(got, 409, want.code, name, want.says)
				}
			}
		})
	}
}
