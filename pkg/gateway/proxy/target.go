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
	"fmt"
	"net"
	"net/http"
	"net/netip"
	"syscall"
	"time"

	corev1 "k8s.io/api/core/v1"

	"github.com/opensandbox-io/sandbox-apiserver/apis/lifecycle/v1alpha1"
	"github.com/opensandbox-io/sandbox-apiserver/pkg/gateway/answer"
)

// target is the Pod that a request for a sandbox goes to, or why there is none.
func target(sandbox *v1alpha1.Sandbox, pod *corev1.Pod) (*corev1.Pod, error) {
	if err := answersNow(sandbox); err != nil {
		return nil, err
	}
	switch {
	case pod == nil || pod.UID != sandbox.Status.PodUID || pod.Labels[v1alpha1.LabelSandboxUID] != string(sandbox.UID):
		return nil, later(sandbox.Name, string(sandbox.Status.Phase), "its Pod has not been seen yet", 1)
	case pod.DeletionTimestamp != nil:
		return nil, later(sandbox.Name, string(sandbox.Status.Phase), "its Pod is about to end", 1)
	}
	if _, err := addressOf(pod); err != nil {
		return nil, err
	}
	return pod, nil
}

// addressOf is where a Pod's programs listen. It is refused where others listen than those of the Pod: its node, where it
// shares the node's network; and a Pod that has ended no longer has its address, which may be another's by now.
func addressOf(pod *corev1.Pod) (netip.Addr, error) {
	name := pod.Labels[v1alpha1.LabelSandbox]
	if name == "" {
		name = pod.Name
	}
	switch {
	case pod.Spec.HostNetwork:
		return netip.Addr{}, refuse(name, "its template has hostNetwork, so its ports are those of a node, which are never handed on")
	case pod.Status.Phase == corev1.PodSucceeded || pod.Status.Phase == corev1.PodFailed:
		return netip.Addr{}, unreachable(name, "all containers of its Pod have ended")
	case pod.Status.PodIP == "":
		return netip.Addr{}, later(name, string(v1alpha1.SandboxRunning), "its Pod has no address yet", 1)
	}
	address, err := netip.ParseAddr(pod.Status.PodIP)
	if err != nil {
		return netip.Addr{}, unreachable(name, fmt.Sprintf("the address of its Pod is %q, which is none", pod.Status.PodIP))
	}
	address = address.Unmap()
	if !address.IsGlobalUnicast() || address.Zone() != "" { // loopback, link-local, multicast, unspecified
		return netip.Addr{}, refuse(name, fmt.Sprintf("the address of its Pod, %s, is not one of a Pod's", address))
	}
	for _, host := range append([]corev1.HostIP{{IP: pod.Status.HostIP}}, pod.Status.HostIPs...) {
		if node, err := netip.ParseAddr(host.IP); err == nil && node.Unmap() == address {
			return netip.Addr{}, refuse(name, "its Pod has the address of its node, whose ports are never handed on")
		}
	}
	return address, nil
}

// answersNow is why a sandbox cannot be reached in the phase that it is in.
func answersNow(sandbox *v1alpha1.Sandbox) error {
	name, phase := sandbox.Name, sandbox.Status.Phase
	if sandbox.DeletionTimestamp != nil {
		return later(name, "Stopping", "it is being deleted", 1)
	}
	switch phase {
	case v1alpha1.SandboxRunning:
		return nil
	case v1alpha1.SandboxPaused:
		return later(name, string(phase), "resume it first", 5)
	case v1alpha1.SandboxPausing:
		return later(name, string(phase), "its processes are frozen while its files are saved; resume it to take the pause back", 5)
	case v1alpha1.SandboxResuming:
		return later(name, string(phase), "it is coming back", 1)
	case v1alpha1.SandboxFailed:
		if sandbox.Status.PodUID != "" {
			return nil
		}
		return unreachable(name, "it is Failed"+because(sandbox))
	}
	return later(name, string(v1alpha1.SandboxPending), "it has not started yet"+because(sandbox), 1)
}

// because is the reason and message of a sandbox's condition Ready.
func because(sandbox *v1alpha1.Sandbox) string {
	for _, condition := range sandbox.Status.Conditions {
		if condition.Type == v1alpha1.ConditionReady && condition.Reason != "" {
			return fmt.Sprintf(" (%s: %s)", condition.Reason, condition.Message)
		}
	}
	return ""
}

// couldNotConnect says in a caller's words why a port does not answer.
func couldNotConnect(name string, port uint16, err error) *answer.Error {
	var timeout net.Error
	switch {
	case errors.Is(err, syscall.ECONNREFUSED):
		return unreachable(name, fmt.Sprintf("connection refused: nothing listens on port %d of its Pod's address. A program that listens on 127.0.0.1 alone must listen on 0.0.0.0", port))
	case errors.Is(err, context.DeadlineExceeded), errors.As(err, &timeout) && timeout.Timeout():
		return unreachable(name, fmt.Sprintf("connecting to port %d of its Pod took longer than %s: is a NetworkPolicy or a firewall in the way?", port, connectTimeout))
	case errors.Is(err, syscall.EHOSTUNREACH), errors.Is(err, syscall.ENETUNREACH):
		return unreachable(name, fmt.Sprintf("there is no way to port %d of its Pod: is its node there?", port))
	}
	return unreachable(name, fmt.Sprintf("port %d of its Pod ended the connection without an HTTP answer", port))
}

func later(name, state, why string, seconds int) *answer.Error {
	err := answer.Errorf(http.StatusServiceUnavailable, answer.CodePodIPNotAvailable, "sandbox %q cannot be reached, it is %s: %s", name, state, why)
	err.RetryAfter = time.Duration(seconds) * time.Second
	return err
}

func unreachable(name, why string) *answer.Error {
	return answer.Errorf(http.StatusBadGateway, answer.CodeBackendConnectionFailed, "could not connect to sandbox %q: %s", name, why)
}

func refuse(name, why string) *answer.Error {
	return answer.Errorf(http.StatusForbidden, answer.CodeInvalidState, "the ports of sandbox %q cannot be opened: %s", name, why)
}
