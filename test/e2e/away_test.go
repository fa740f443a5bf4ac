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
	"encoding/json"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/rest"
	aggregator "k8s.io/kube-aggregator/pkg/client/clientset_generated/clientset"

	"github.com/opensandbox-io/sandbox-apiserver/apis/lifecycle/v1alpha1"
	lifecycle "github.com/opensandbox-io/sandbox-apiserver/generated/clientset/versioned"
)

// leaseLost is what the server logs when its controllers end.
const leaseLost = "The lease of the controllers is lost"

// TestAPauseOutlivesTheKubeApiserver ends kube-apiserver while a commit runs, for longer than the lease of the controllers.
// It is not parallel: nobody else can do anything meanwhile.
func TestAPauseOutlivesTheKubeApiserver(t *testing.T) {
	r := newRoom(t)
	r.withServerArgs(t, "--leader-elect-lease-duration=12s", "--leader-elect-renew-deadline=8s", "--leader-elect-retry-period=2s")
	r.start("demo")
	r.sh("demo", bigFile)
	before := r.serverContainer(t)
	direct := r.directly(t)
	watcher, err := direct.LifecycleV1alpha1().Sandboxes(r.namespace).Watch(t.Context(), metav1.ListOptions{})
	if err != nil {
		t.Fatal(err)
	}
	defer watcher.Stop()

	r.pause("demo")
	r.awaitFrozen("demo/main")
	giveBack := r.endComponent(t, "kube-apiserver")
	eventually(t, "the controllers end for want of a lease", patience, func(context.Context) (bool, string) {
		log := r.serverLogOnNode(t)
		return strings.Contains(log, leaseLost), log[max(0, len(log)-2000):]
	})
	if _, err := direct.Discovery().RESTClient().Get().AbsPath("/livez").DoRaw(t.Context()); err != nil {
		t.Errorf("without kube-apiserver the server does not answer: %v", err)
	}
	giveBack()

	paused, _ := r.awaitPaused("demo")
	if paused.Status.SnapshotAttempts != 1 {
		t.Errorf("after kube-apiserver was away the sandbox is %s, want the first attempt to have been taken up", describe(paused))
	}
	after := r.serverContainer(t)
	if after.ContainerID != before.ContainerID || after.RestartCount != before.RestartCount {
		t.Errorf("the server's process is another one: container %s, %d restarts; before %s, %d", after.ContainerID, after.RestartCount, before.ContainerID, before.RestartCount)
	}
	timeout := time.After(patience)
	for told := false; !told; {
		select {
		case event, open := <-watcher.ResultChan():
			if !open {
				t.Fatal("a watch that goes directly to the server has been cut")
			}
			sandbox, ok := event.Object.(*v1alpha1.Sandbox)
			told = ok && sandbox.Name == "demo" && sandbox.Status.Phase == v1alpha1.SandboxPaused
		case <-timeout:
			t.Fatal("a watch from before has not told that the sandbox is paused")
		}
	}
	r.resume("demo")
	r.awaitReady("demo")
	r.sh("demo", checkBigFile)
}

// serverContainer is the server's, as the kubelet tells.
func (c *cluster) serverContainer(t *testing.T) corev1.ContainerStatus {
	t.Helper()
	pod, err := c.kube.CoreV1().Pods(systemNamespace).Get(t.Context(), serverPod, metav1.GetOptions{})
	if err != nil || len(pod.Status.ContainerStatuses) == 0 {
		t.Fatalf("look at the server's container: %v, %s", err, inYAML(pod))
	}
	return pod.Status.ContainerStatuses[0]
}

// directly is a client that passes kube-apiserver by.
func (c *cluster) directly(t *testing.T) lifecycle.Interface {
	t.Helper()
	pod, err := c.kube.CoreV1().Pods(systemNamespace).Get(t.Context(), serverPod, metav1.GetOptions{})
	if err != nil {
		t.Fatal(err)
	}
	config := rest.CopyConfig(c.config)
	config.Host = "https://" + pod.Status.PodIP + ":8443"
	config.Insecure, config.CAData, config.CAFile = true, nil, "" // the certificate is not for the Pod's address
	client, err := lifecycle.NewForConfig(config)
	if err != nil {
		t.Fatal(err)
	}
	return client
}

// endComponent kills a program of the local cluster. It is started again at the end of the test at the latest.
func (c *cluster) endComponent(t *testing.T, name string) (giveBack func()) {
	t.Helper()
	pid := componentPID(t, name)
	done := false
	giveBack = func() {
		if done {
			return
		}
		done = true
		up := exec.CommandContext(context.Background(), filepath.Join(clusterDir(), "bin", "cluster"), "up", "--dir", clusterDir(), "--source", "../../hack/cluster")
		if out, err := up.CombinedOutput(); err != nil {
			t.Fatalf("start %s again: %v\n%s", name, err, out)
		}
	}
	t.Cleanup(giveBack)
	if err := syscall.Kill(pid, syscall.SIGKILL); err != nil {
		t.Fatalf("end %s: %v", name, err)
	}
	return giveBack
}

// componentPID is that of a program of the local cluster.
func componentPID(t *testing.T, name string) int {
	t.Helper()
	record, err := os.ReadFile(filepath.Join(clusterDir(), "run", name+".pid.json"))
	var process struct{ PID int }
	if err == nil {
		err = json.Unmarshal(record, &process)
	}
	if err == nil && process.PID < 2 {
		err = fmt.Errorf("it names process %d", process.PID)
	}
	if err != nil {
		t.Fatalf("find the process of %s: %v", name, err)
	}
	return process.PID
}

func clusterDir() string { return os.Getenv("CLUSTER_DIR") }

// serverLogOnNode is the server's log as the kubelet keeps it.
func (c *cluster) serverLogOnNode(t *testing.T) string {
	t.Helper()
	files, err := filepath.Glob(filepath.Join(clusterDir(), "logs", "pods", systemNamespace+"_"+serverPod+"_*", "server", "*.log"))
	if err != nil || len(files) == 0 {
		t.Fatalf("find the server's log on the node: %v", err)
	}
	newest, at := "", time.Time{}
	for _, file := range files {
		if info, err := os.Stat(file); err == nil && info.ModTime().After(at) {
			newest, at = file, info.ModTime()
		}
	}
	log, err := os.ReadFile(newest)
	if err != nil {
		t.Fatal(err)
	}
	return string(log)
}

// TestANamespaceGoesOnceTheRegistrationOfAnAbsentServerIsDeleted does what docs/install.md tells an administrator whose
// server is away for long. It is not parallel: no namespace can be deleted meanwhile.
func TestANamespaceGoesOnceTheRegistrationOfAnAbsentServerIsDeleted(t *testing.T) {
	r := newRoom(t)
	running := r.start("demo")
	registrations := aggregator.NewForConfigOrDie(r.config).ApiregistrationV1().APIServices()
	registration, err := registrations.Get(t.Context(), apiServiceName, metav1.GetOptions{})
	if err != nil {
		t.Fatal(err)
	}
	registration.ObjectMeta = metav1.ObjectMeta{Name: registration.Name, Labels: registration.Labels, Annotations: registration.Annotations}
	args := r.serverArgs(t)
	restored := false
	restore := func() {
		if restored {
			return
		}
		restored = true
		if _, err := registrations.Create(context.Background(), registration, metav1.CreateOptions{}); err != nil && !apierrors.IsAlreadyExists(err) {
			t.Errorf("register the API again: %v", err)
		}
		r.startServer(t, args)
		r.awaitServer(t)
	}
	t.Cleanup(restore)

	r.stopServer(t)
	namespaces := r.kube.CoreV1().Namespaces()
	other := r.namespace + "-other"
	if _, err := namespaces.Create(t.Context(), &corev1.Namespace{ObjectMeta: metav1.ObjectMeta{Name: other}}, metav1.CreateOptions{}); err != nil {
		t.Fatal(err)
	}
	if err := namespaces.Delete(t.Context(), other, metav1.DeleteOptions{}); err != nil {
		t.Fatal(err)
	}
	eventually(t, "the namespace says what keeps it", patience, func(ctx context.Context) (bool, string) {
		namespace, err := namespaces.Get(ctx, other, metav1.GetOptions{})
		if err != nil {
			return false, err.Error()
		}
		return slices.ContainsFunc(namespace.Status.Conditions, func(condition corev1.NamespaceCondition) bool {
			return condition.Type == corev1.NamespaceDeletionDiscoveryFailure && condition.Status == corev1.ConditionTrue
		}), inYAML(namespace.Status)
	})
	if err := registrations.Delete(t.Context(), apiServiceName, metav1.DeleteOptions{}); err != nil {
		t.Fatal(err)
	}
	eventually(t, "the namespace goes", patience, func(ctx context.Context) (bool, string) {
		_, err := namespaces.Get(ctx, other, metav1.GetOptions{})
		return apierrors.IsNotFound(err), fmt.Sprint(err)
	})
	restore()
	if now := r.get("demo"); now.UID != running.UID || now.Status.PodUID != running.Status.PodUID || now.Status.Phase != v1alpha1.SandboxRunning {
		t.Errorf("with its registration back the sandbox is %s", describe(now))
	}
}

// apiServiceName is the registration of the API.
const apiServiceName = "v1alpha1.lifecycle.opensandbox.io"
