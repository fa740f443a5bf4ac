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

package diagnostics

import (
	"fmt"
	"math"
	"strings"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/opensandbox-io/sandbox-apiserver/apis/lifecycle/v1alpha1"
	"github.com/opensandbox-io/sandbox-apiserver/pkg/gateway/answer"
	"github.com/opensandbox-io/sandbox-apiserver/pkg/gateway/httpapi"
)

var began = metav1.Date(2026, time.December, 1, 8, 0, 0, 0, time.UTC)

func TestSince(t *testing.T) {
	for given, want := range map[string]int64{
		"10m": 600, "1h30m": 5400, "45s": 45, "2d": 172800, "1ms": 1, "1.5s": 2, "36500d": int64(maxSince / time.Second), "99999999d": int64(maxSince / time.Second),
	} {
		got, err := seconds(httpapi.NewOptString(given))
		if err != nil || *got != want {
			t.Errorf("%s: %v, %v, want %d", given, got, err, want)
		}
	}
	for _, given := range []string{"", "0s", "-5m", "10", "yesterday", "d", "-1d", "0d", "1.5d", "1w", "10 m", "999999999h", "\x00"} {
		if got, err := seconds(httpapi.NewOptString(given)); err == nil || answer.Of(err).Status != 400 || !strings.Contains(err.Error(), "since: ") {
			t.Errorf("%q: %v, %v", given, got, err)
		}
	}
	if got, err := seconds(httpapi.OptString{}); got != nil || err != nil {
		t.Errorf("nothing: %v, %v", got, err)
	}
}

func TestScopes(t *testing.T) {
	for _, test := range []struct {
		scope   string
		given   bool
		offered []string
		status  int
		code    string
	}{
		{"", false, logScopes, 0, ""},
		{"container", true, logScopes, 0, ""},
		{"all", true, logScopes, 0, ""},
		{"lifecycle", true, eventScopes, 0, ""},
		{"runtime", true, eventScopes, 0, ""},
		{"runtime", true, logScopes, 501, "DIAGNOSTICS_NOT_IMPLEMENTED"},
		{"container", true, eventScopes, 501, "DIAGNOSTICS_NOT_IMPLEMENTED"},
		{"network", true, logScopes, 501, "DIAGNOSTICS_NOT_IMPLEMENTED"},
		{"process", true, eventScopes, 501, "DIAGNOSTICS_NOT_IMPLEMENTED"},
		{"everything", true, logScopes, 400, "SANDBOX::INVALID_PARAMETER"},
		{"ALL", true, logScopes, 400, "SANDBOX::INVALID_PARAMETER"},
		{"", true, logScopes, 400, "SANDBOX::INVALID_PARAMETER"},
	} {
		err := checkScope(test.scope, test.given, test.offered)
		if test.status == 0 {
			if err != nil {
				t.Errorf("%q: %v", test.scope, err)
			}
			continue
		}
		if got := answer.Of(err); got.Status != test.status || got.Code != test.code || !strings.Contains(got.Message, "scope: ") || !strings.Contains(got.Message, "all") {
			t.Errorf("%q of %v: %v", test.scope, test.offered, err)
		}
	}
}

func TestLastLines(t *testing.T) {
	for _, test := range []struct {
		content string
		n       int64
		want    string
		cut     bool
	}{
		{"", 3, "", false},
		{"a\n", 3, "a\n", false},
		{"a\nb\nc\n", 3, "a\nb\nc\n", false},
		{"a\nb\nc\n", 2, "b\nc\n", true},
		{"a\nb\nc", 2, "b\nc", true},
		{"\n\n\n", 1, "\n", true},
		{"a\nb", 1, "b", true},
	} {
		if got, cut := lastLines([]byte(test.content), test.n); got != test.want || cut != test.cut {
			t.Errorf("the last %d of %q: %q, %t", test.n, test.content, got, cut)
		}
	}
}

// TestTheEndOfALog: of whatever length it is, memory holds the end of it alone, and no half of a line.
func TestTheEndOfALog(t *testing.T) {
	kept := &end{limit: 1000}
	for i := range 10_000 {
		if _, err := fmt.Fprintf(kept, "line %d\n", i); err != nil {
			t.Fatal(err)
		}
		if cap(kept.kept) > 8*kept.limit {
			t.Fatalf("%d bytes are held", cap(kept.kept))
		}
	}
	got := string(kept.bytes())
	if !kept.cut || len(got) > kept.limit || !strings.HasPrefix(got, "line ") || !strings.HasSuffix(got, "line 9999\n") {
		t.Errorf("%d bytes: %.20q … %q", len(got), got, got[max(0, len(got)-20):])
	}
	// One line without an end is better than nothing.
	kept = &end{limit: 10}
	_, _ = kept.Write([]byte(strings.Repeat("x", 100)))
	if got := kept.bytes(); string(got) != strings.Repeat("x", 10) || !kept.cut {
		t.Errorf("%q", got)
	}
	kept = &end{limit: 10}
	_, _ = kept.Write([]byte("short\n"))
	if got := kept.bytes(); string(got) != "short\n" || kept.cut {
		t.Errorf("%q, %t", got, kept.cut)
	}
}

func TestWhoseLogs(t *testing.T) {
	pod := &corev1.Pod{Spec: corev1.PodSpec{
		InitContainers: []corev1.Container{{Name: "execd-installer"}},
		Containers:     []corev1.Container{{Name: "sandbox"}, {Name: "istio-proxy"}},
	}}
	for _, test := range []struct {
		committed []string
		all       bool
		want      string
	}{
		{[]string{"sandbox"}, false, "[sandbox]"},
		{nil, false, "[sandbox istio-proxy]"},
		{[]string{"sandbox"}, true, "[execd-installer sandbox istio-proxy]"},
	} {
		if got := fmt.Sprint(containersOf(test.committed, pod, test.all)); got != test.want {
			t.Errorf("%v, all %t: %s", test.committed, test.all, got)
		}
	}
}

func TestNewestEvents(t *testing.T) {
	at := func(seconds int) metav1.Time { return metav1.NewTime(began.Add(time.Duration(seconds) * time.Second)) }
	about := func(name string, change func(*corev1.Event)) corev1.Event {
		event := corev1.Event{ObjectMeta: metav1.ObjectMeta{Name: name}, Type: "Normal", Reason: "Because", Message: "of " + name,
			InvolvedObject: corev1.ObjectReference{Kind: "Pod", Name: "demo"}}
		change(&event)
		return event
	}
	// Events of both APIs, and from before there were either's fields.
	events := []corev1.Event{
		about("new", func(e *corev1.Event) { e.EventTime = metav1.NewMicroTime(at(3).Time) }),
		about("series", func(e *corev1.Event) {
			e.EventTime = metav1.NewMicroTime(at(0).Time)
			e.Series = &corev1.EventSeries{Count: 7, LastObservedTime: metav1.NewMicroTime(at(5).Time)}
		}),
		about("old", func(e *corev1.Event) { e.FirstTimestamp, e.LastTimestamp, e.Count = at(1), at(4), 2 }),
		about("bare", func(e *corev1.Event) {
			e.CreationTimestamp, e.Type, e.Message = at(2), "Warning", "two\nlines"
		}),
	}
	const want = "2026-12-01T08:00:02Z Warning Because Pod/demo: two lines\n" +
		"2026-12-01T08:00:03Z Normal  Because Pod/demo: of new\n" +
		"2026-12-01T08:00:04Z Normal  Because Pod/demo: of old (2 times)\n" +
		"2026-12-01T08:00:05Z Normal  Because Pod/demo: of series (7 times)\n"
	if got, more := newest(events, 4); got != want || more {
		t.Errorf("got\n%swant\n%s", got, want)
	}
	if got, more := newest(events, 1); got != want[strings.LastIndex(want[:len(want)-1], "\n")+1:] || !more {
		t.Errorf("the newest: %q, %t", got, more)
	}
	if got, more := newest(nil, math.MaxInt32); got != "" || more {
		t.Errorf("none: %q, %t", got, more)
	}
}

// TestInspect: all that one asks first, and neither the command nor the environment.
func TestInspect(t *testing.T) {
	seen := &scene{
		sandbox: &v1alpha1.Sandbox{
			ObjectMeta: metav1.ObjectMeta{Namespace: "ns", Name: "demo", CreationTimestamp: began},
			Spec:       v1alpha1.SandboxSpec{DesiredState: v1alpha1.DesiredStateRunning, ExpireTime: &began},
			Status: v1alpha1.SandboxStatus{Phase: v1alpha1.SandboxRunning, SnapshotName: "demo-gen1", Conditions: []metav1.Condition{
				{Type: v1alpha1.ConditionPaused, Status: "False", Reason: v1alpha1.ReasonRegistryDenied, Message: "quota exceeded", LastTransitionTime: began},
			}},
		},
		pod: &corev1.Pod{
			ObjectMeta: metav1.ObjectMeta{Name: "demo"},
			Spec: corev1.PodSpec{NodeName: "node-a", Containers: []corev1.Container{{
				Name: "sandbox", Command: []string{"sh", "-c", "SECRET"}, Env: []corev1.EnvVar{{Name: "TOKEN", Value: "SECRET"}},
				Resources: corev1.ResourceRequirements{Limits: corev1.ResourceList{"memory": resource.MustParse("1Gi"), "cpu": resource.MustParse("500m")}},
			}}},
			Status: corev1.PodStatus{Phase: corev1.PodRunning, PodIP: "10.0.0.1", StartTime: &began, ContainerStatuses: []corev1.ContainerStatus{{
				Name: "sandbox", Image: "python:3", RestartCount: 2,
				State:                corev1.ContainerState{Waiting: &corev1.ContainerStateWaiting{Reason: "CrashLoopBackOff", Message: "back-off"}},
				LastTerminationState: corev1.ContainerState{Terminated: &corev1.ContainerStateTerminated{ExitCode: 137, Reason: "OOMKilled", FinishedAt: began}},
			}}},
		},
	}
	const want = `Sandbox: ns/demo
Created: 2026-12-01T08:00:00Z
Phase: Running
Wanted: Running
Expires: 2026-12-01T08:00:00Z
Next start from: demo-gen1
Condition Paused: False (RegistryDenied: quota exceeded), since 2026-12-01T08:00:00Z
Pod: demo
  Phase: Running
  Node: node-a
  Address: 10.0.0.1
  Started: 2026-12-01T08:00:00Z
  Container sandbox: waiting (CrashLoopBackOff: back-off)
    Image: python:3
    Ready: false
    Restarts: 2
    Before: ended with 137 at 2026-12-01T08:00:00Z (OOMKilled)
    Limits: cpu 500m, memory 1Gi
`
	if got := seen.inspect(); got != want {
		t.Errorf("got\n%s\nwant\n%s", got, want)
	}
	seen.pod, seen.absent = nil, "the sandbox is Paused and has no Pod"
	if got := seen.inspect(); !strings.HasSuffix(got, "Pod: none: the sandbox is Paused and has no Pod\n") {
		t.Errorf("without a Pod: %s", got)
	}
}
