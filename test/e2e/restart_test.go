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
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/utils/ptr"

	"github.com/opensandbox-io/sandbox-apiserver/apis/lifecycle/v1alpha1"
)

func TestAServerThatIsKilledInTheMiddleOfAPauseGoesOnAfterwards(t *testing.T) {
	r := newRoom(t)
	r.start("demo")
	r.sh("demo", bigFile)

	r.pause("demo")
	r.awaitFrozen("demo/main")
	r.killServer()

	paused, _ := r.awaitPaused("demo")
	if paused.Status.SnapshotAttempts != 1 {
		t.Errorf("after the server was killed the sandbox is %s, want the first attempt to have been taken up", describe(paused))
	}
	r.resume("demo")
	r.awaitReady("demo")
	r.sh("demo", checkBigFile)
}

// A server that is away when a commit ends leaves no Pod frozen, and when it is back nothing that was
// written meanwhile is lost with the Pod.
func TestAServerThatIsAwayLeavesNoPodFrozen(t *testing.T) {
	const thawAfter = 20 * time.Second
	r := newRoom(t)
	r.withServerArgs(t, "--thaw-after="+thawAfter.String())
	args := r.serverArgs(t)
	r.start("demo")
	r.sh("demo", bigFile)
	r.pause("demo")
	r.awaitFrozen("demo/main")
	release := r.holdCommit("demo-gen1")
	r.stopServer(t)
	release()
	quickly(t, "its node has thawed the Pod", thawAfter+patience, func(ctx context.Context) (bool, string) {
		names, err := r.frozen(ctx, r.namespace)
		return err == nil && len(names) == 0, fmt.Sprintf("frozen: %q, error: %v", names, err)
	})
	r.sh("demo", "echo later > /root/later")

	r.startServer(t, args)
	r.awaitServer(t)
	paused, _ := r.awaitPaused("demo")
	if paused.Status.SnapshotAttempts != 2 || paused.Status.SnapshotName != "demo-gen2" {
		t.Errorf("the sandbox is %s, want a second attempt", describe(paused))
	}
	r.resume("demo")
	r.awaitReady("demo")
	r.sh("demo", checkBigFile+" && grep later /root/later")
}

// killServer returns when the server is there again, and everybody has heard of it: kube-apiserver may
// learn that the old one was gone when the new one answers already.
func (r *room) killServer() {
	r.t.Helper()
	pods := r.kube.CoreV1().Pods(systemNamespace)
	restarts := func(pod *corev1.Pod) int32 {
		if len(pod.Status.ContainerStatuses) == 0 {
			return 0
		}
		return pod.Status.ContainerStatuses[0].RestartCount
	}
	before, err := pods.Get(r.t.Context(), serverPod, metav1.GetOptions{})
	if err != nil {
		r.t.Fatal(err)
	}
	r.kill(r.t, systemNamespace, serverPod, "server")
	eventually(r.t, "the kubelet has started the server again", patience, func(ctx context.Context) (bool, string) {
		pod, err := pods.Get(ctx, serverPod, metav1.GetOptions{})
		if err != nil {
			return false, err.Error()
		}
		return restarts(pod) > restarts(before) && podReady(pod), inYAML(pod.Status)
	})
	r.awaitServer(r.t)
}

// The store of this test is put aside, not deleted: whoever works on the same cluster keeps what
// is in it. That the old store comes back makes it the foreign one in its turn.
func TestAServerThatFindsAnotherStoreAnswers503AndNoPodDies(t *testing.T) {
	r := newRoom(t)
	running := r.start("demo")
	r.sh("demo", "echo kept > /root/file")
	podLives := func() {
		t.Helper()
		pod, err := r.kube.CoreV1().Pods(r.namespace).Get(t.Context(), "demo", metav1.GetOptions{})
		if err != nil || pod.UID != running.Status.PodUID || pod.DeletionTimestamp != nil {
			t.Fatalf("the sandbox's Pod has not been left alone: %v, %v", pod, err)
		}
		if got := r.sh("demo", "cat /root/file"); got != "kept\n" {
			t.Fatalf("in the sandbox the file holds %q", got)
		}
	}
	// What people have given to a sandbox: the collector knows both since before.
	claims, services := r.kube.CoreV1().PersistentVolumeClaims(r.namespace), r.kube.CoreV1().Services(r.namespace)
	others := metav1.ObjectMeta{Name: "data", OwnerReferences: []metav1.OwnerReference{{APIVersion: v1alpha1.SchemeGroupVersion.String(), Kind: "Sandbox", Name: "demo", UID: running.UID}}}
	if _, err := claims.Create(t.Context(), &corev1.PersistentVolumeClaim{ObjectMeta: others, Spec: corev1.PersistentVolumeClaimSpec{
		AccessModes: []corev1.PersistentVolumeAccessMode{corev1.ReadWriteOnce}, StorageClassName: ptr.To(""),
		Resources: corev1.VolumeResourceRequirements{Requests: corev1.ResourceList{corev1.ResourceStorage: resource.MustParse("1Gi")}},
	}}, metav1.CreateOptions{}); err != nil {
		t.Fatal(err)
	}
	if _, err := services.Create(t.Context(), &corev1.Service{ObjectMeta: others, Spec: corev1.ServiceSpec{ClusterIP: corev1.ClusterIPNone}}, metav1.CreateOptions{}); err != nil {
		t.Fatal(err)
	}
	othersLive := func() {
		t.Helper()
		if claim, err := claims.Get(t.Context(), "data", metav1.GetOptions{}); err != nil || claim.DeletionTimestamp != nil {
			t.Errorf("the claim that names the sandbox as its owner is gone, or goes: %v", err)
		}
		if _, err := services.Get(t.Context(), "data", metav1.GetOptions{}); err != nil {
			t.Errorf("the Service that names the sandbox as its owner is gone: %v", err)
		}
	}
	store := r.storeDirectory(t)
	args := r.serverArgs(t)
	accepting := append(slices.Clone(args), "--accept-new-storage")

	r.stopServer(t)
	aside := putAside(t, store)
	t.Cleanup(func() { r.returnStore(t, store, aside, args) })
	r.startServer(t, args)
	r.awaitRefusal(t)
	podLives()

	// Without its controllers first: it serves, and nothing comes of what it is asked for.
	r.startServer(t, append(slices.Clone(accepting), "--controllers=false"))
	r.awaitServer(t)
	r.create("idle")
	began := time.Now()
	eventually(t, "five seconds have passed", patience, func(ctx context.Context) (bool, string) {
		if pod, err := r.kube.CoreV1().Pods(r.namespace).Get(ctx, "idle", metav1.GetOptions{}); err == nil || r.get("idle").Status.PodName != "" {
			t.Fatalf("the sandbox has a Pod though no controller runs: %v", pod.Status)
		}
		return time.Since(began) > 5*time.Second, "too early"
	})
	if err := r.sandboxes().Delete(t.Context(), "idle", metav1.DeleteOptions{}); err != nil {
		t.Fatal(err)
	}
	podLives()

	r.startServer(t, accepting)
	r.awaitServer(t)
	eventually(t, "what was deleted meanwhile is gone", patience, func(ctx context.Context) (bool, string) {
		_, err := r.sandboxes().Get(ctx, "idle", metav1.GetOptions{})
		return apierrors.IsNotFound(err), fmt.Sprint(err)
	})
	if list, err := r.sandboxes().List(t.Context(), metav1.ListOptions{}); err != nil || len(list.Items) != 0 {
		t.Errorf("the new store has %d sandboxes (error %v), want none", len(list.Items), err)
	}
	// The controllers have started when a sandbox runs; the Pod that the store does not know stays. The collector has tried.
	r.start("other")
	r.awaitRefusedCollector("data", "nobody has deleted its owner")
	r.awaitRefusedCollector("demo", "denied request") // by either policy
	podLives()
	othersLive()
	if err := r.sandboxes().Delete(t.Context(), "other", metav1.DeleteOptions{}); err != nil {
		t.Fatal(err)
	}
	eventually(t, "sandbox other is gone", patience, func(ctx context.Context) (bool, string) {
		_, err := r.sandboxes().Get(ctx, "other", metav1.GetOptions{})
		return apierrors.IsNotFound(err), fmt.Sprint(err)
	})

	r.returnStore(t, store, aside, args)
	if now := r.get("demo"); now.UID != running.UID || now.Status.PodUID != running.Status.PodUID || now.Status.Phase != v1alpha1.SandboxRunning {
		t.Errorf("with its own store back the sandbox is %s", describe(now))
	}
	podLives()
	// To the collector the sandbox stays gone.
	othersLive()
	if err := r.sandboxes().Delete(t.Context(), "demo", metav1.DeleteOptions{}); err != nil {
		t.Fatal(err)
	}
	eventually(t, "that the sandbox goes is noted", patience, func(ctx context.Context) (bool, string) {
		known, err := r.kube.CoreV1().ConfigMaps(systemNamespace).Get(ctx, "sandbox-apiserver-store", metav1.GetOptions{})
		if err != nil {
			return false, err.Error()
		}
		return strings.Contains(known.Data["storeReleased"], string(running.UID[:13])), fmt.Sprint(known.Data)
	})
	if os.Getenv("NIGHTLY") == "true" { // it tries again after minutes
		r.awaitGone("the claim", func(ctx context.Context) error {
			_, err := claims.Get(ctx, "data", metav1.GetOptions{})
			return err
		})
	}
}

// awaitRefusal waits until the API answers 503 and says what to do.
func (c *cluster) awaitRefusal(t *testing.T) {
	t.Helper()
	eventually(t, "503 with --accept-new-storage in its message", patience, func(ctx context.Context) (bool, string) {
		_, err := c.lifecycle.LifecycleV1alpha1().Sandboxes(systemNamespace).List(ctx, metav1.ListOptions{})
		return apierrors.IsServiceUnavailable(err) && strings.Contains(err.Error(), "--accept-new-storage"), fmt.Sprint(err)
	})
}

// putAside empties the store and returns the directory that has its content now: beside it, on
// the same filesystem.
func putAside(t *testing.T, store string) string {
	t.Helper()
	aside, err := os.MkdirTemp(filepath.Dir(store), "e2e-store-")
	if err != nil {
		t.Fatal(err)
	}
	move(t, store, aside)
	return aside
}

// returnStore puts the server's own store back and starts the server on it, if that has not been
// done yet. The identity that was accepted last is the other store's, so it refuses this one too.
func (c *cluster) returnStore(t *testing.T, store, aside string, args []string) {
	t.Helper()
	if _, err := os.Stat(aside); os.IsNotExist(err) {
		return
	}
	c.stopServer(t)
	for _, entry := range entries(t, store) {
		if err := os.RemoveAll(filepath.Join(store, entry)); err != nil {
			t.Fatal(err)
		}
	}
	move(t, aside, store)
	if err := os.Remove(aside); err != nil {
		t.Fatal(err)
	}
	if !t.Failed() {
		c.startServer(t, args)
		c.awaitRefusal(t)
	}
	c.startServer(t, append(slices.Clone(args), "--accept-new-storage"))
	c.awaitServer(t)
	c.startServer(t, args)
	c.awaitServer(t)
}

// move moves what is in one directory into another.
func move(t *testing.T, from, to string) {
	t.Helper()
	for _, entry := range entries(t, from) {
		if err := os.Rename(filepath.Join(from, entry), filepath.Join(to, entry)); err != nil {
			t.Fatal(err)
		}
	}
}

func entries(t *testing.T, directory string) []string {
	t.Helper()
	found, err := os.ReadDir(directory)
	if err != nil {
		t.Fatal(err)
	}
	names := make([]string, 0, len(found))
	for _, entry := range found {
		names = append(names, entry.Name())
	}
	return names
}
