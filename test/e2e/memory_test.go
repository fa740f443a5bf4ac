//go:build e2e

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

package e2e

import (
	"context"
	"fmt"
	"net"
	"regexp"
	"strconv"
	"testing"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/rest"
)

// TestTheServerHeedsItsLimitOfMemory: without a limit of its own the garbage collector lets the heap
// grow to twice of what is in use, and the kernel ends a server that did not need that much.
func TestTheServerHeedsItsLimitOfMemory(t *testing.T) {
	t.Parallel()
	c := theCluster(t)
	heeded := regexp.MustCompile(`(?m)^go_gc_gomemlimit_bytes (\S+)$`)
	eventually(t, "the server heeds nine tenths of its Pod's limit", patience, func(ctx context.Context) (bool, string) {
		pod, err := c.kube.CoreV1().Pods(systemNamespace).Get(ctx, serverPod, metav1.GetOptions{})
		if err != nil {
			return false, err.Error()
		}
		// kube-apiserver does not pass its metrics on, and its certificate is not for the Pod's address.
		config := rest.CopyConfig(c.config)
		config.Host = "https://" + net.JoinHostPort(pod.Status.PodIP, "8443")
		config.Insecure, config.CAFile, config.CAData = true, "", nil
		server, err := kubernetes.NewForConfig(config)
		if err != nil {
			return false, err.Error()
		}
		metrics, err := server.RESTClient().Get().AbsPath("/metrics").DoRaw(ctx)
		if err != nil {
			return false, err.Error()
		}
		found := heeded.FindSubmatch(metrics)
		if found == nil {
			return false, "no go_gc_gomemlimit_bytes in its metrics"
		}
		bytes, err := strconv.ParseFloat(string(found[1]), 64)
		if err != nil {
			return false, err.Error()
		}
		limit := pod.Spec.Containers[0].Resources.Limits.Memory().Value()
		return int64(bytes) == int64(float64(limit)*0.9), fmt.Sprintf("%.0f bytes of %d", bytes, limit)
	})
}
