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

package proxy

import (
	"context"
	"errors"
	"net"
	"net/http"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/opensandbox-io/sandbox-apiserver/apis/lifecycle/v1alpha1"
	"github.com/opensandbox-io/sandbox-apiserver/pkg/gateway/answer"
)

// What cannot be connected to is told in the gateway's words: https://github.com/opensandbox-group/OpenSandbox/issues/1665.
func TestNothingListens(t *testing.T) {
	w := newWorld(t)
	sandbox := w.sandbox("demo", nil)
	mustRefuse(t, w.request("GET", "/", ""), http.StatusBadGateway, answer.CodeBackendConnectionFailed, "nothing listens on port 8080")
	mustRefuse(t, w.request("POST", "/", "body"), http.StatusBadGateway, answer.CodeBackendConnectionFailed, "nothing listens on port 8080")
	w.speaks(func(connection *net.TCPConn) { _, _ = connection.Read(make([]byte, 1)) })
	mustRefuse(t, w.request("POST", "/", "body"), http.StatusBadGateway, answer.CodeBackendConnectionFailed, "without an HTTP answer")
	// It was paused while the request went out.
	w.speaks(func(connection *net.TCPConn) {
		w.set(sandbox, func(s *v1alpha1.SandboxStatus) { s.Phase = v1alpha1.SandboxPausing })
	})
	mustRefuse(t, w.request("GET", "/", ""), http.StatusServiceUnavailable, answer.CodePodIPNotAvailable, "Pausing")
}

func TestStates(t *testing.T) {
	w := newWorld(t)
	sandbox := w.sandbox("demo", nil)
	w.serves(echo)
	for _, phase := range []v1alpha1.SandboxPhase{v1alpha1.SandboxPaused, v1alpha1.SandboxPausing, v1alpha1.SandboxResuming, v1alpha1.SandboxPending} {
		w.set(sandbox, func(s *v1alpha1.SandboxStatus) { s.Phase = phase })
		mustRefuse(t, w.request("GET", "/ping", ""), http.StatusServiceUnavailable, answer.CodePodIPNotAvailable, string(phase))
	}
	w.set(sandbox, func(s *v1alpha1.SandboxStatus) { s.Phase = v1alpha1.SandboxRunning })
	if response, body := do(t, w.request("GET", "/ping", "")); response.StatusCode != http.StatusOK {
		t.Errorf("%s %s", response.Status, body)
	}
	// Back as another Pod, which is not in the cache yet.
	w.set(sandbox, func(s *v1alpha1.SandboxStatus) { s.PodUID = "the next" })
	mustRefuse(t, w.request("GET", "/ping", ""), http.StatusServiceUnavailable, answer.CodePodIPNotAvailable, "not been seen")
}

// Nobody gets anywhere but to programs of the sandbox's own Pod:
// https://github.com/kubernetes-sigs/agent-sandbox/pull/755 (the client named the address).
func TestOnlyThePodsOwnAddress(t *testing.T) {
	for name, c := range map[string]struct {
		change func(*v1alpha1.Sandbox, *corev1.Pod)
		status int
		code   string
	}{
		"host network":       {func(_ *v1alpha1.Sandbox, p *corev1.Pod) { p.Spec.HostNetwork = true }, 403, answer.CodeInvalidState},
		"the node's address": {func(_ *v1alpha1.Sandbox, p *corev1.Pod) { p.Status.PodIP = nodeIP }, 403, answer.CodeInvalidState},
		"a node's other": {func(_ *v1alpha1.Sandbox, p *corev1.Pod) {
			p.Status.HostIPs = append(p.Status.HostIPs, corev1.HostIP{IP: podIP})
		}, 403, answer.CodeInvalidState},
		"loopback":          {func(_ *v1alpha1.Sandbox, p *corev1.Pod) { p.Status.PodIP = "127.0.0.1" }, 403, answer.CodeInvalidState},
		"loopback, IPv6":    {func(_ *v1alpha1.Sandbox, p *corev1.Pod) { p.Status.PodIP = "::1" }, 403, answer.CodeInvalidState},
		"loopback, as IPv6": {func(_ *v1alpha1.Sandbox, p *corev1.Pod) { p.Status.PodIP = "::ffff:127.0.0.1" }, 403, answer.CodeInvalidState},
		"link-local":        {func(_ *v1alpha1.Sandbox, p *corev1.Pod) { p.Status.PodIP = "169.254.169.254" }, 403, answer.CodeInvalidState},
		"link-local, IPv6":  {func(_ *v1alpha1.Sandbox, p *corev1.Pod) { p.Status.PodIP = "fe80::1" }, 403, answer.CodeInvalidState},
		"unspecified":       {func(_ *v1alpha1.Sandbox, p *corev1.Pod) { p.Status.PodIP = "0.0.0.0" }, 403, answer.CodeInvalidState},
		"multicast":         {func(_ *v1alpha1.Sandbox, p *corev1.Pod) { p.Status.PodIP = "224.0.0.1" }, 403, answer.CodeInvalidState},
		"a name":            {func(_ *v1alpha1.Sandbox, p *corev1.Pod) { p.Status.PodIP = "kubernetes.default.svc" }, 502, answer.CodeBackendConnectionFailed},
		"no address":        {func(_ *v1alpha1.Sandbox, p *corev1.Pod) { p.Status.PodIP = "" }, 503, answer.CodePodIPNotAvailable},
		"ended":             {func(_ *v1alpha1.Sandbox, p *corev1.Pod) { p.Status.Phase = corev1.PodSucceeded }, 502, answer.CodeBackendConnectionFailed},
		"failed":            {func(_ *v1alpha1.Sandbox, p *corev1.Pod) { p.Status.Phase = corev1.PodFailed }, 502, answer.CodeBackendConnectionFailed},
		"ending": {func(_ *v1alpha1.Sandbox, p *corev1.Pod) {
			p.DeletionTimestamp = &metav1.Time{Time: time.Now()}
			p.Finalizers = []string{"x/y"}
		}, 503, answer.CodePodIPNotAvailable},
		"another sandbox's":    {func(_ *v1alpha1.Sandbox, p *corev1.Pod) { p.Labels[v1alpha1.LabelSandboxUID] = "another" }, 503, answer.CodePodIPNotAvailable},
		"another Pod, by name": {func(s *v1alpha1.Sandbox, _ *corev1.Pod) { s.Status.PodUID = "another" }, 503, answer.CodePodIPNotAvailable},
		"no Pod yet":           {func(s *v1alpha1.Sandbox, _ *corev1.Pod) { s.Status.PodUID = "" }, 503, answer.CodePodIPNotAvailable},
		"failed without a Pod": {func(s *v1alpha1.Sandbox, _ *corev1.Pod) {
			s.Status = v1alpha1.SandboxStatus{Phase: v1alpha1.SandboxFailed}
		}, 502, answer.CodeBackendConnectionFailed},
		"being deleted":     {func(s *v1alpha1.Sandbox, _ *corev1.Pod) { s.DeletionTimestamp = &metav1.Time{Time: time.Now()} }, 503, answer.CodePodIPNotAvailable},
		"its own":           {func(*v1alpha1.Sandbox, *corev1.Pod) {}, 0, ""},
		"its own, IPv6":     {func(_ *v1alpha1.Sandbox, p *corev1.Pod) { p.Status.PodIP = "fd00:10::5" }, 0, ""},
		"failed with a Pod": {func(s *v1alpha1.Sandbox, _ *corev1.Pod) { s.Status.Phase = v1alpha1.SandboxFailed }, 0, ""},
	} {
		sandbox := aSandbox("demo")
		pod := podFor(sandbox)
		c.change(sandbox, pod)
		slimmed, _ := slimPod(pod)
		slim, _ := slimSandbox(sandbox)
		got, err := target(slim.(*v1alpha1.Sandbox), slimmed.(*corev1.Pod))
		var refusal *answer.Error
		errors.As(err, &refusal)
		switch {
		case c.status == 0 && (err != nil || got == nil):
			t.Errorf("%s: %v", name, err)
		case c.status != 0 && (refusal == nil || refusal.Status != c.status || refusal.Code != c.code || got != nil):
			t.Errorf("%s: %v, %+v; want %d %s", name, got, refusal, c.status, c.code)
		}
	}
}

// The address is looked at again when it is dialled.
func TestTheDialledAddress(t *testing.T) {
	w := newWorld(t)
	w.sandbox("demo", nil)
	w.serves(echo)
	do(t, w.request("GET", "/", ""))
	if len(w.dialled) != 1 || w.dialled[0] != podIP+":8080" {
		t.Errorf("dialled %v", w.dialled)
	}
	for _, address := range []string{"uid-of-another:8080", "127.0.0.1:8080", podIP + ":8080"} {
		if connection, err := w.forwarder.connect(context.Background(), "tcp", address); err == nil {
			connection.Close()
			t.Errorf("%s was dialled", address)
		}
	}
}
