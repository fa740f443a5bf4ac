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
	"slices"
	"strings"
	"testing"
	"time"

	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	rbacv1 "k8s.io/api/rbac/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/util/retry"
	"k8s.io/utils/ptr"
)

// withServerArgs changes the server's flags for the rest of the test: flags of the same name
// are replaced, "--name=" alone removes one. At the test's end they are as they were.
func (c *cluster) withServerArgs(t *testing.T, flags ...string) (restore func()) {
	t.Helper()
	before := c.serverArgs(t)
	restored := false
	restore = func() {
		t.Helper()
		if !restored {
			restored = true
			c.startServer(t, before)
			c.awaitServer(t)
		}
	}
	t.Cleanup(restore)
	c.startServer(t, replaceFlags(before, flags))
	c.awaitServer(t)
	return restore
}

func (c *cluster) serverArgs(t *testing.T) []string {
	t.Helper()
	set, err := c.kube.AppsV1().StatefulSets(systemNamespace).Get(t.Context(), serverName, metav1.GetOptions{})
	if err != nil {
		t.Fatalf("read the server's StatefulSet: %v", err)
	}
	return set.Spec.Template.Spec.Containers[0].Args
}

func replaceFlags(args, flags []string) []string {
	args = slices.Clone(args)
	for _, flag := range flags {
		name, value, hasValue := strings.Cut(flag, "=")
		args = slices.DeleteFunc(args, func(arg string) bool { return arg == name || strings.HasPrefix(arg, name+"=") })
		if !hasValue || value != "" {
			args = append(args, flag)
		}
	}
	return args
}

// setServer changes the StatefulSet, again where a controller was faster.
func (c *cluster) setServer(change func(*appsv1.StatefulSet)) error {
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()
	return retry.RetryOnConflict(retry.DefaultBackoff, func() error {
		set, err := c.kube.AppsV1().StatefulSets(systemNamespace).Get(ctx, serverName, metav1.GetOptions{})
		if err != nil {
			return err
		}
		change(set)
		_, err = c.kube.AppsV1().StatefulSets(systemNamespace).Update(ctx, set, metav1.UpdateOptions{})
		return err
	})
}

// awaitServer waits until the StatefulSet is rolled out and the API answers through
// kube-apiserver.
func (c *cluster) awaitServer(t *testing.T) {
	t.Helper()
	eventually(t, "the server is rolled out and answers", patience, func(ctx context.Context) (bool, string) {
		problem := c.serverProblem(ctx)
		if problem != "" && c.serverIsStuck(ctx) {
			// A StatefulSet does not replace a Pod that never became ready.
			_ = c.kube.CoreV1().Pods(systemNamespace).Delete(ctx, serverPod, metav1.DeleteOptions{})
		}
		return problem == "", problem
	})
}

func (c *cluster) serverProblem(ctx context.Context) string {
	set, err := c.kube.AppsV1().StatefulSets(systemNamespace).Get(ctx, serverName, metav1.GetOptions{})
	if err != nil {
		return err.Error()
	}
	status := set.Status
	if status.ObservedGeneration < set.Generation || status.UpdatedReplicas != 1 || status.ReadyReplicas != 1 || status.CurrentRevision != status.UpdateRevision {
		return fmt.Sprintf("the StatefulSet has %d updated and %d ready replicas", status.UpdatedReplicas, status.ReadyReplicas)
	}
	if _, err := c.lifecycle.LifecycleV1alpha1().Sandboxes(systemNamespace).List(ctx, metav1.ListOptions{Limit: 1}); err != nil {
		return err.Error()
	}
	// kubectl believes what kube-apiserver has discovered of us, which it does anew after a start.
	if _, _, err := c.kube.Discovery().ServerGroupsAndResources(); err != nil {
		return err.Error()
	}
	return ""
}

// serverIsStuck says whether the Pod is of an older revision and not ready.
func (c *cluster) serverIsStuck(ctx context.Context) bool {
	set, err := c.kube.AppsV1().StatefulSets(systemNamespace).Get(ctx, serverName, metav1.GetOptions{})
	if err != nil {
		return false
	}
	pod, err := c.kube.CoreV1().Pods(systemNamespace).Get(ctx, serverPod, metav1.GetOptions{})
	if err != nil || pod.DeletionTimestamp != nil || set.Status.ObservedGeneration < set.Generation {
		return false
	}
	return pod.Labels[appsv1.ControllerRevisionHashLabelKey] != set.Status.UpdateRevision && !podReady(pod)
}

func podReady(pod *corev1.Pod) bool {
	return slices.ContainsFunc(pod.Status.Conditions, func(condition corev1.PodCondition) bool {
		return condition.Type == corev1.PodReady && condition.Status == corev1.ConditionTrue
	})
}

// startServer starts the server with these flags, or again with them. It does not wait.
func (c *cluster) startServer(t *testing.T, args []string) {
	t.Helper()
	if err := c.setServer(func(set *appsv1.StatefulSet) {
		set.Spec.Replicas = ptr.To[int32](1)
		set.Spec.Template.Spec.Containers[0].Args = args
	}); err != nil {
		t.Fatalf("start the server with the flags %q: %v", args, err)
	}
}

// stopServer ends the server and returns when it is gone.
func (c *cluster) stopServer(t *testing.T) {
	t.Helper()
	if err := c.setServer(func(set *appsv1.StatefulSet) { set.Spec.Replicas = ptr.To[int32](0) }); err != nil {
		t.Fatalf("end the server: %v", err)
	}
	eventually(t, "the server's Pod is gone", patience, func(ctx context.Context) (bool, string) {
		set, err := c.kube.AppsV1().StatefulSets(systemNamespace).Get(ctx, serverName, metav1.GetOptions{})
		if err != nil {
			return false, err.Error()
		}
		return set.Status.Replicas == 0, fmt.Sprintf("%d replicas", set.Status.Replicas)
	})
}

// storeDirectory is where the node keeps the server's data directory.
func (c *cluster) storeDirectory(t *testing.T) string {
	t.Helper()
	claim, err := c.kube.CoreV1().PersistentVolumeClaims(systemNamespace).Get(t.Context(), "data-"+serverPod, metav1.GetOptions{})
	if err != nil {
		t.Fatalf("find the server's volume: %v", err)
	}
	volume, err := c.kube.CoreV1().PersistentVolumes().Get(t.Context(), claim.Spec.VolumeName, metav1.GetOptions{})
	if err != nil {
		t.Fatalf("find the server's volume: %v", err)
	}
	if volume.Spec.HostPath == nil {
		t.Fatalf("the server's volume %s is no directory of this machine", volume.Name)
	}
	return volume.Spec.HostPath.Path
}

// allowServerToRead gives the server's Role what a deployment with --snapshot-push-secret or
// --snapshot-registry-ca gives it, for the rest of the test.
func (c *cluster) allowServerToRead(t *testing.T, resource, name string) {
	t.Helper()
	change := func(edit func([]rbacv1.PolicyRule) []rbacv1.PolicyRule) error {
		return retry.RetryOnConflict(retry.DefaultBackoff, func() error {
			role, err := c.kube.RbacV1().Roles(systemNamespace).Get(context.Background(), serverName, metav1.GetOptions{})
			if err != nil {
				return err
			}
			role.Rules = edit(role.Rules)
			_, err = c.kube.RbacV1().Roles(systemNamespace).Update(context.Background(), role, metav1.UpdateOptions{})
			return err
		})
	}
	rule := rbacv1.PolicyRule{APIGroups: []string{""}, Resources: []string{resource}, ResourceNames: []string{name}, Verbs: []string{"get"}}
	if err := change(func(rules []rbacv1.PolicyRule) []rbacv1.PolicyRule { return append(rules, rule) }); err != nil {
		t.Fatalf("allow the server to read %s %s: %v", resource, name, err)
	}
	c.awaitRights(t, serverUser, systemNamespace, rule)
	t.Cleanup(func() {
		err := change(func(rules []rbacv1.PolicyRule) []rbacv1.PolicyRule {
			return slices.DeleteFunc(rules, func(r rbacv1.PolicyRule) bool { return slices.Contains(r.ResourceNames, name) })
		})
		if err != nil {
			t.Errorf("forbid the server to read %s %s: %v", resource, name, err)
		}
	})
}
