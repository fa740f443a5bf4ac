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

package evictionreview

import (
	"errors"
	"net/http"
	"strings"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"

	"github.com/opensandbox-io/sandbox-apiserver/apis/lifecycle"
	"github.com/opensandbox-io/sandbox-apiserver/apis/lifecycle/v1alpha1"
)

var now = time.Date(2026, 11, 30, 12, 0, 0, 0, time.UTC)

// running is a sandbox whose Pod "p" runs on node-a.
func running(change func(*v1alpha1.Sandbox)) *v1alpha1.Sandbox {
	sandbox := &v1alpha1.Sandbox{
		ObjectMeta: metav1.ObjectMeta{Namespace: "team", Name: "demo", UID: "s"},
		Spec:       v1alpha1.SandboxSpec{DesiredState: v1alpha1.DesiredStateRunning, EvictionPolicy: v1alpha1.EvictionPolicySave},
		Status:     v1alpha1.SandboxStatus{Phase: v1alpha1.SandboxRunning, PodName: "demo", PodUID: "p", NodeName: "node-a"},
	}
	if change != nil {
		change(sandbox)
	}
	return sandbox
}

// runs is that Pod.
func runs(change func(*corev1.Pod)) *corev1.Pod {
	pod := &corev1.Pod{
		ObjectMeta: metav1.ObjectMeta{Namespace: "team", Name: "demo", UID: "p", ResourceVersion: "7", Labels: map[string]string{v1alpha1.LabelSandboxUID: "s"}},
		Spec:       corev1.PodSpec{NodeName: "node-a"},
		Status:     corev1.PodStatus{Phase: corev1.PodRunning, ContainerStatuses: []corev1.ContainerStatus{began(now.Add(-time.Hour))}},
	}
	if change != nil {
		change(pod)
	}
	return pod
}

func began(at time.Time) corev1.ContainerStatus {
	return corev1.ContainerStatus{Name: "main", State: corev1.ContainerState{Running: &corev1.ContainerStateRunning{StartedAt: metav1.NewTime(at)}}}
}

func starting(pod *corev1.Pod) {
	pod.Status = corev1.PodStatus{Phase: corev1.PodPending, ContainerStatuses: []corev1.ContainerStatus{{Name: "main"}}}
}

func phase(is v1alpha1.SandboxPhase) func(*v1alpha1.Sandbox) {
	return func(s *v1alpha1.Sandbox) { s.Status.Phase = is }
}

func moving(pod types.UID) func(*v1alpha1.Sandbox) {
	return func(s *v1alpha1.Sandbox) {
		s.Status.Move = &v1alpha1.SandboxMove{PodUID: pod, NodeName: "node-a", Reason: v1alpha1.ReasonNodeDraining}
	}
}

// moved is the Pod that a move has led to, on node-b, in which a container runs for so long.
func moved(ago time.Duration) func(*corev1.Pod) {
	return func(pod *corev1.Pod) {
		pod.UID, pod.Spec.NodeName = "q", "node-b"
		pod.Annotations = map[string]string{v1alpha1.AnnotationMovedFrom: "node-a"}
		pod.Status.ContainerStatuses = []corev1.ContainerStatus{began(now.Add(-ago))}
	}
}

func inPod(uid types.UID, node string) func(*v1alpha1.Sandbox) {
	return func(s *v1alpha1.Sandbox) { s.Status.PodUID, s.Status.NodeName = uid, node }
}

func TestDecide(t *testing.T) {
	both := func(changes ...func(*corev1.Pod)) func(*corev1.Pod) {
		return func(pod *corev1.Pod) {
			for _, change := range changes {
				change(pod)
			}
		}
	}
	const passes, waits, gone = 0, http.StatusTooManyRequests, http.StatusNotFound
	for name, test := range map[string]struct {
		sandbox  func(*v1alpha1.Sandbox)
		pod      func(*corev1.Pod)
		eviction eviction
		emptied  bool
		unread   error
		noPod    bool
		code     int32
		saves    bool
		says     string
	}{
		"runs":                             {code: waits, saves: true, says: `Eviction triggered evacuation of sandbox "team/demo"`},
		"named by its UID":                 {eviction: eviction{uid: "p"}, code: waits, saves: true},
		"of before the policy was":         {sandbox: func(s *v1alpha1.Sandbox) { s.Spec.EvictionPolicy = "" }, code: waits, saves: true},
		"is let go":                        {sandbox: func(s *v1alpha1.Sandbox) { s.Spec.EvictionPolicy = v1alpha1.EvictionPolicyNone }},
		"is let go, though it is not read": {sandbox: func(s *v1alpha1.Sandbox) { s.Spec.EvictionPolicy = v1alpha1.EvictionPolicyNone }, unread: errors.New("refused")},
		"is being deleted":                 {sandbox: func(s *v1alpha1.Sandbox) { s.DeletionTimestamp = &metav1.Time{Time: now} }},
		"its Pod is gone":                  {noPod: true},
		"its Pod is on its way out":        {pod: func(p *corev1.Pod) { p.DeletionTimestamp = &metav1.Time{Time: now} }},
		"another's Pod of the name":        {pod: func(p *corev1.Pod) { p.Labels = nil }},
		"a Pod of a sandbox before":        {pod: func(p *corev1.Pod) { p.Labels[v1alpha1.LabelSandboxUID] = "another" }},
		"another UID":                      {eviction: eviction{uid: "x"}},
		"another version":                  {eviction: eviction{resourceVersion: "6"}},
		"this version":                     {eviction: eviction{resourceVersion: "7"}, code: waits, saves: true},
		"its Pod could not be read":        {unread: errors.New("connection refused"), code: waits, says: "connection refused"},
		"is being moved":                   {sandbox: moving("p"), code: waits, says: "its files are being saved"},
		"is being moved, the commit runs":  {sandbox: func(s *v1alpha1.Sandbox) { moving("p")(s); phase(v1alpha1.SandboxPausing)(s) }, code: waits},
		"a move of a Pod before":           {sandbox: moving("o"), code: waits, saves: true},
		"is being paused": {sandbox: func(s *v1alpha1.Sandbox) {
			phase(v1alpha1.SandboxPausing)(s)
			s.Spec.DesiredState = v1alpha1.DesiredStatePaused
		}, code: waits, says: "it is being paused"},
		"a pause waits for its next try":      {sandbox: func(s *v1alpha1.Sandbox) { s.Spec.DesiredState = v1alpha1.DesiredStatePaused }, code: waits, says: "it is being paused"},
		"a pause is being cancelled":          {sandbox: phase(v1alpha1.SandboxPausing), code: waits, saves: true},
		"has ended":                           {pod: func(p *corev1.Pod) { p.Status.Phase = corev1.PodFailed }, code: waits, saves: true},
		"nothing has run":                     {sandbox: phase(v1alpha1.SandboxPending), pod: starting},
		"nothing has run since a resume":      {sandbox: phase(v1alpha1.SandboxResuming), pod: starting},
		"has just begun":                      {sandbox: phase(v1alpha1.SandboxPending), code: waits, says: "just begun"},
		"has just begun, nobody knows it yet": {sandbox: inPod("", ""), code: waits, says: "just begun"},
		"is paused, a Pod of before lingers":  {sandbox: func(s *v1alpha1.Sandbox) { phase(v1alpha1.SandboxPaused)(s); s.Status.PodUID = "" }},
		"has failed, and its Pod is there":    {sandbox: phase(v1alpha1.SandboxFailed), code: waits, saves: true},
		"fails to be saved": {sandbox: func(s *v1alpha1.Sandbox) {
			moving("p")(s)
			s.Status.FailedAttempts = 3
			s.Status.Conditions = []metav1.Condition{{Type: v1alpha1.ConditionPaused, Reason: "RegistryUnavailable", Message: "no route to host"}}
		}, code: waits, says: "failed 3 times, last with RegistryUnavailable: no route to host. Where its files may be lost, set spec.evictionPolicy to None"},

		// https://github.com/kubernetes/kubernetes/issues/138229: who drains asks for the name until it is gone.
		"the next Pod waits for a node": {sandbox: func(s *v1alpha1.Sandbox) { moving("p")(s); phase(v1alpha1.SandboxResuming)(s) },
			pod: both(moved(0), starting, func(p *corev1.Pod) { p.Spec.NodeName = "" }), code: gone, says: "a node that is not chosen yet"},
		"the next Pod starts elsewhere":                {sandbox: phase(v1alpha1.SandboxResuming), pod: both(moved(0), starting), code: gone, says: "node node-b"},
		"the next Pod runs elsewhere":                  {sandbox: inPod("q", "node-b"), pod: moved(10 * time.Second), code: gone, says: "name its UID"},
		"the next Pod runs there for long":             {sandbox: inPod("q", "node-b"), pod: moved(2 * time.Minute), code: waits, saves: true},
		"the next Pod's node is emptied, too":          {sandbox: inPod("q", "node-b"), pod: moved(10 * time.Second), emptied: true, code: waits, saves: true},
		"the next Pod starts where it is emptied, too": {sandbox: phase(v1alpha1.SandboxResuming), pod: both(moved(0), starting), emptied: true},
		"the next Pod is named by its UID":             {sandbox: inPod("q", "node-b"), pod: moved(10 * time.Second), eviction: eviction{uid: "q"}, code: waits, saves: true},
		"the last Pod is named by its UID":             {sandbox: inPod("q", "node-b"), pod: moved(10 * time.Second), eviction: eviction{uid: "p"}},
		"the next Pod runs where the last one has":     {sandbox: inPod("q", "node-a"), pod: both(moved(10*time.Second), func(p *corev1.Pod) { p.Spec.NodeName = "node-a" }), code: waits, saves: true},

		// kubectl drain --dry-run=server asks again for as long as it is told to.
		"a dry run":                      {eviction: eviction{dryRun: true}, says: "would be answered with 429"},
		"a dry run while it is moved":    {eviction: eviction{dryRun: true}, sandbox: moving("p"), says: "would be answered with 429"},
		"a dry run of what nobody reads": {eviction: eviction{dryRun: true}, unread: errors.New("refused"), says: "would be answered with 429"},
		"a dry run of what may go":       {eviction: eviction{dryRun: true}, pod: starting},
	} {
		t.Run(name, func(t *testing.T) {
			s := seen{eviction: test.eviction, sandbox: running(test.sandbox), pod: runs(test.pod), emptied: test.emptied, unread: test.unread, now: now}
			if test.noPod || test.unread != nil {
				s.pod = nil
			}
			got := decide(s)
			if got.code != test.code || got.saves != test.saves || !strings.Contains(got.message, test.says) || (got.message == "") != (test.code == passes && test.says == "") {
				t.Errorf("answered %d, saves %v: %q; want %d, %v and %q", got.code, got.saves, got.message, test.code, test.saves, test.says)
			}
		})
	}
}

func TestDecideOwn(t *testing.T) {
	server := func(change func(*ownSeen)) ownSeen {
		s := ownSeen{pod: runs(func(p *corev1.Pod) { p.Labels = nil }), self: true, emptied: true}
		if change != nil {
			change(&s)
		}
		return s
	}
	beside := func(changes ...func(*v1alpha1.Sandbox)) func(*ownSeen) {
		return func(s *ownSeen) {
			for _, change := range changes {
				sandbox := running(change)
				s.sandboxes = append(s.sandboxes, *internal(sandbox))
			}
		}
	}
	with := func(changes ...func(*ownSeen)) ownSeen {
		return server(func(s *ownSeen) {
			for _, change := range changes {
				change(s)
			}
		})
	}
	of := func(component string, phase corev1.PodPhase) ownSeen {
		return ownSeen{pod: runs(func(p *corev1.Pod) {
			p.Labels = map[string]string{v1alpha1.LabelComponent: component}
			p.Status.Phase = phase
		})}
	}
	let := func(s *v1alpha1.Sandbox) { s.Spec.EvictionPolicy = v1alpha1.EvictionPolicyNone }
	paused := func(s *v1alpha1.Sandbox) { s.Status.Phase, s.Status.PodUID = v1alpha1.SandboxPaused, "" }
	resuming := func(s *v1alpha1.Sandbox) {
		moving("p")(s)
		s.Status.Phase, s.Status.PodUID = v1alpha1.SandboxResuming, "q"
	}
	for name, test := range map[string]struct {
		seen  ownSeen
		waits bool
	}{
		"a commit that runs":                    {of("commit", corev1.PodRunning), true},
		"a thaw that runs":                      {of("unpause", corev1.PodRunning), true},
		"a commit that has not begun":           {of("commit", corev1.PodPending), false},
		"a commit that has ended":               {of("commit", corev1.PodSucceeded), false},
		"something else":                        {of("", corev1.PodRunning), false},
		"nothing":                               {ownSeen{}, false},
		"the server, alone on its node":         {with(), false},
		"the server, beside a sandbox":          {with(beside(nil)), true},
		"the server, beside one that moves":     {with(beside(moving("p")), asking(time.Hour)), true},
		"the server, beside one that is paused": {with(beside(phase(v1alpha1.SandboxPausing)), asking(time.Hour)), true},
		"the server, nobody evicts the sandbox": {with(beside(nil), asking(time.Minute)), false},
		"the server, the sandbox may go":        {with(beside(let)), false},
		"the server, it has gone":               {with(beside(paused, resuming)), false},
		"the server, the node stays":            {with(beside(nil), func(s *ownSeen) { s.emptied = false }), false},
		"another replica":                       {with(beside(nil), func(s *ownSeen) { s.self = false }), false},
		"the server, on its way out":            {with(beside(nil), func(s *ownSeen) { s.pod.DeletionTimestamp = &metav1.Time{Time: now} }), false},
	} {
		t.Run(name, func(t *testing.T) {
			if got := decideOwn(test.seen); (got.code == http.StatusTooManyRequests) != test.waits {
				t.Errorf("answered %d: %q", got.code, got.message)
			}
		})
	}
}

// internal is the sandbox as the store has it, as far as it is looked at.
func internal(s *v1alpha1.Sandbox) *lifecycle.Sandbox {
	made := &lifecycle.Sandbox{ObjectMeta: s.ObjectMeta, Spec: lifecycle.SandboxSpec{EvictionPolicy: lifecycle.SandboxEvictionPolicy(s.Spec.EvictionPolicy)}}
	made.Status.Phase, made.Status.PodUID = lifecycle.SandboxPhase(s.Status.Phase), s.Status.PodUID
	if move := s.Status.Move; move != nil {
		made.Status.Move = &lifecycle.SandboxMove{PodUID: move.PodUID}
	}
	return made
}

func asking(since time.Duration) func(*ownSeen) { return func(s *ownSeen) { s.asking = since } }

func TestSinceWhenItIsAskedFor(t *testing.T) {
	var asked firstAsked
	for _, test := range []struct{ at, since time.Duration }{
		{0, 0}, {5 * time.Second, 5 * time.Second}, {100 * time.Second, 100 * time.Second},
		{10 * time.Minute, 0}, {10*time.Minute + time.Second, time.Second},
	} {
		if got := asked.since(now.Add(test.at)); got != test.since {
			t.Errorf("after %s: asked for since %s, want %s", test.at, got, test.since)
		}
	}
}
