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
	"fmt"
	"strings"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/opensandbox-io/sandbox-apiserver/apis/lifecycle/v1alpha1"
)

// A sandbox that is set its time with kubectl is paused then, with its files, runs on once it is resumed, and is deleted at
// another time, with its Pod and its snapshots.
func TestALifetimeEnds(t *testing.T) {
	t.Parallel()
	k := newKubectl(t)
	k.start("demo")
	k.sh("demo", "echo mine > /root/mine")
	expires := func(in time.Duration, action v1alpha1.SandboxExpireAction) {
		t.Helper()
		k.do("patch", "sbx", "demo", "--type=merge", fmt.Sprintf(`--patch={"spec":{"expireTime":%q,"expireAction":%q}}`, time.Now().Add(in).UTC().Format(time.RFC3339Nano), action))
	}
	expires(time.Hour, v1alpha1.ExpireActionDelete)
	if table := k.do("get", "sbx", "demo"); !strings.Contains(table, "EXPIRES") || !strings.Contains(table, "Delete in ") {
		t.Errorf("kubectl get says of a sandbox that is deleted in an hour:\n%s", table)
	}
	expires(15*time.Second, v1alpha1.ExpireActionPause)
	k.awaitEvent(corev1.EventTypeNormal, v1alpha1.EventExpiring)
	k.awaitPaused("demo")
	k.awaitEvent(corev1.EventTypeNormal, v1alpha1.EventExpired)

	k.resume("demo")
	k.awaitReady("demo")
	if got := k.sh("demo", "cat /root/mine"); got != "mine\n" {
		t.Errorf("paused at its time and resumed, it has %q", got)
	}
	if s := k.get("demo"); s.Spec.DesiredState != v1alpha1.DesiredStateRunning || s.Status.SnapshotAttempts != 1 {
		t.Errorf("resumed after its time, it is %s", describe(s))
	}
	expires(15*time.Second, v1alpha1.ExpireActionDelete)
	k.awaitSandboxGone("demo")
	k.awaitSnapshotGone("demo-gen1")
	if _, err := k.kube.CoreV1().Pods(k.namespace).Get(t.Context(), "demo", metav1.GetOptions{}); !apierrors.IsNotFound(err) {
		t.Errorf("its Pod is there: %v", err)
	}
}
