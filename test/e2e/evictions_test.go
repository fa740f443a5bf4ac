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
	"strings"
	"testing"

	policyv1 "k8s.io/api/policy/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"

	"github.com/opensandbox-io/sandbox-apiserver/apis/lifecycle/v1alpha1"
)

// evict asks for an eviction, as kubectl drain does.
func (c *cluster) evict(t *testing.T, namespace, pod string, options *metav1.DeleteOptions) error {
	t.Helper()
	return c.kube.PolicyV1().Evictions(namespace).Evict(t.Context(), &policyv1.Eviction{
		ObjectMeta: metav1.ObjectMeta{Namespace: namespace, Name: pod}, DeleteOptions: options,
	})
}

// cordon keeps new Pods from the node, for the rest of the test.
func (c *cluster) cordon(t *testing.T, node string) (uncordon func()) {
	t.Helper()
	set := func(unschedulable bool) error {
		patch := fmt.Sprintf(`{"spec":{"unschedulable":%v}}`, unschedulable)
		_, err := c.kube.CoreV1().Nodes().Patch(context.Background(), node, types.StrategicMergePatchType, []byte(patch), metav1.PatchOptions{})
		return err
	}
	uncordon = func() {
		if err := set(false); err != nil {
			t.Errorf("uncordon node %s: %v", node, err)
		}
	}
	if err := set(true); err != nil {
		t.Fatalf("cordon node %s: %v", node, err)
	}
	t.Cleanup(uncordon)
	return uncordon
}

func TestAnEvictionMovesASandbox(t *testing.T) {
	t.Parallel()
	r := newRoom(t)
	before := r.start("demo")
	r.sh("demo", "echo kept > /root/file")
	dry := &metav1.DeleteOptions{DryRun: []string{metav1.DryRunAll}}
	if err := r.evict(t, r.namespace, "demo", dry); err != nil {
		t.Errorf("a dry run: %v", err)
	}
	if now := r.get("demo"); now.ResourceVersion != before.ResourceVersion {
		t.Errorf("a dry run has changed the sandbox: %s", describe(now))
	}

	err := r.evict(t, r.namespace, "demo", nil)
	if !apierrors.IsTooManyRequests(err) || !strings.Contains(err.Error(), "evictions.lifecycle.opensandbox.io") || !strings.Contains(err.Error(), "its files are being saved") {
		t.Fatalf("evicted: %v", err)
	}
	if move := r.get("demo").Status.Move; move == nil || move.PodUID != before.Status.PodUID || move.Reason != v1alpha1.ReasonEvicted {
		t.Errorf("noted: %+v", move)
	}
	// As who drains does: until the Pod is gone, or another.
	quickly(t, "the Pod that was evicted is gone", patience, func(ctx context.Context) (bool, string) {
		err := r.evict(t, r.namespace, "demo", &metav1.DeleteOptions{Preconditions: metav1.NewUIDPreconditions(string(before.Status.PodUID))})
		return apierrors.IsNotFound(err) || apierrors.IsConflict(err), fmt.Sprint(err)
	})
	after := r.await("demo", "back from what was saved", func(s *v1alpha1.Sandbox) bool {
		return s.Status.Phase == v1alpha1.SandboxRunning && s.Status.PodUID != before.Status.PodUID && s.Status.Move == nil
	})
	if after.Status.SnapshotName != "demo-gen1" || after.Spec.DesiredState != v1alpha1.DesiredStateRunning {
		t.Errorf("it is back as %s", describe(after))
	}
	if got := r.sh("demo", "cat /root/file"); got != "kept\n" {
		t.Errorf("the file holds %q", got)
	}

	r.start("let-go", func(s *v1alpha1.Sandbox) { s.Spec.EvictionPolicy = v1alpha1.EvictionPolicyNone })
	if err := r.evict(t, r.namespace, "let-go", nil); err != nil {
		t.Errorf("with the policy None: %v", err)
	}
}

// TestADrainOfTheServersOwnNode: on the only node the server's Pod is drained as well. It is not parallel, for nothing can start meanwhile.
func TestADrainOfTheServersOwnNode(t *testing.T) {
	k := newKubectl(t)
	if k.secondNode(t) != "" {
		t.Skip("there is another node to go to: TestTwoNodesTheServersOwnIsDrained")
	}
	before := k.start("demo")
	k.sh("demo", "echo kept > /root/file")
	uncordon := k.cordon(t, before.Status.NodeName)
	if err := k.evict(t, systemNamespace, serverPod, nil); !apierrors.IsTooManyRequests(err) || !strings.Contains(err.Error(), "goes last") {
		t.Fatalf("the server beside a sandbox: %v", err)
	}
	if now := k.get("demo"); now.Status.Move != nil {
		t.Errorf("a cordon alone moves it: %+v", now.Status.Move)
	}

	drain := []string{"drain", before.Status.NodeName, "--force", "--ignore-daemonsets", "--delete-emptydir-data", "--timeout=150s",
		"--pod-selector=" + v1alpha1.LabelSandboxUID + "=" + string(before.UID)}
	if said := k.do(append(drain, "--dry-run=server")...); !strings.Contains(said, "demo") {
		t.Errorf("kubectl drain --dry-run=server says %q", said)
	}
	if now := k.get("demo"); now.Status.Move != nil || now.Status.PodUID != before.Status.PodUID {
		t.Errorf("a dry run of a drain has changed the sandbox: %s", describe(now))
	}
	said := k.do(drain...)
	if !strings.Contains(said, "drained") {
		t.Errorf("kubectl drain says %q", said)
	}

	// It has nowhere to go, and whoever asks for the Pod that was there hears that it is gone.
	waiting := k.awaitReason("demo", v1alpha1.ConditionReady, v1alpha1.ReasonPodUnschedulable)
	if waiting.Status.SnapshotName != "demo-gen1" || waiting.Status.PodUID == before.Status.PodUID {
		t.Errorf("after the drain it is %s", describe(waiting))
	}
	if err := k.evict(t, k.namespace, "demo", nil); !apierrors.IsNotFound(err) {
		t.Errorf("asked once more: %v", err)
	}
	uncordon()
	k.awaitReady("demo")
	if got := k.sh("demo", "cat /root/file"); got != "kept\n" {
		t.Errorf("the file holds %q", got)
	}
}

// TestAnEvictionPassesWhileTheServerIsAway is not parallel: it takes the server away.
func TestAnEvictionPassesWhileTheServerIsAway(t *testing.T) {
	r := newRoom(t)
	args := r.serverArgs(t)
	before := r.start("demo")
	r.stopServer(t)
	if err := r.evict(t, r.namespace, "demo", nil); err != nil {
		t.Errorf("evicted while the server is away: %v", err)
	}
	eventually(t, "the Pod is gone", patience, func(ctx context.Context) (bool, string) {
		pod, err := r.kube.CoreV1().Pods(r.namespace).Get(ctx, "demo", metav1.GetOptions{})
		return apierrors.IsNotFound(err), fmt.Sprint(err, inYAML(pod))
	})
	r.startServer(t, args)
	r.awaitServer(t)
	r.await("demo", "back, with the loss said", func(s *v1alpha1.Sandbox) bool {
		return s.Status.Phase == v1alpha1.SandboxRunning && s.Status.PodUID != before.Status.PodUID &&
			reasonOf(s.Status.Conditions, v1alpha1.ConditionDataLost) == v1alpha1.ReasonPodLost
	})
}
