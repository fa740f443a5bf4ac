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
	"bytes"
	"context"
	"fmt"
	"io"
	"testing"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/kubernetes/scheme"
	"k8s.io/client-go/tools/remotecommand"
	"k8s.io/utils/ptr"

	"github.com/opensandbox-io/sandbox-apiserver/apis/lifecycle/v1alpha1"
	client "github.com/opensandbox-io/sandbox-apiserver/generated/clientset/versioned/typed/lifecycle/v1alpha1"
)

// room is the namespace of one test.
type room struct {
	*cluster
	t         *testing.T
	namespace string
	// writers are those that write to the file /root/lines of a sandbox.
	writers map[string]*writer
	// killedCommitter: what it had begun to upload is not taken back.
	killedCommitter bool
}

// newRoom makes a namespace for the test. At the test's end everything in it is deleted, and it
// must be gone.
func newRoom(t *testing.T, labels ...map[string]string) *room {
	t.Helper()
	c := theCluster(t)
	namespace := &corev1.Namespace{ObjectMeta: metav1.ObjectMeta{GenerateName: "e2e-"}}
	for _, set := range labels {
		namespace.Labels = set
	}
	namespace, err := c.kube.CoreV1().Namespaces().Create(t.Context(), namespace, metav1.CreateOptions{})
	if err != nil {
		t.Fatalf("create a namespace: %v", err)
	}
	r := &room{cluster: c, t: t, namespace: namespace.Name, writers: map[string]*writer{}}
	t.Cleanup(r.leave)
	// A Pod needs the default service account.
	eventually(t, "the default service account is there", patience, func(ctx context.Context) (bool, string) {
		_, err := c.kube.CoreV1().ServiceAccounts(r.namespace).Get(ctx, "default", metav1.GetOptions{})
		return err == nil, fmt.Sprint(err)
	})
	return r
}

func (r *room) sandboxes() client.SandboxInterface {
	return r.lifecycle.LifecycleV1alpha1().Sandboxes(r.namespace)
}

func (r *room) snapshots() client.SandboxSnapshotInterface {
	return r.lifecycle.LifecycleV1alpha1().SandboxSnapshots(r.namespace)
}

// newSandbox is a sandbox of one container that sleeps.
func newSandbox(name string, changes ...func(*v1alpha1.Sandbox)) *v1alpha1.Sandbox {
	sandbox := &v1alpha1.Sandbox{
		ObjectMeta: metav1.ObjectMeta{Name: name},
		Spec: v1alpha1.SandboxSpec{Template: &corev1.PodTemplateSpec{Spec: corev1.PodSpec{
			// sleep does not answer SIGTERM as the first process of its namespace.
			TerminationGracePeriodSeconds: ptr.To[int64](1),
			Containers:                    []corev1.Container{sleeper("main")},
		}}},
	}
	for _, change := range changes {
		change(sandbox)
	}
	return sandbox
}

func sleeper(name string) corev1.Container {
	return corev1.Container{Name: name, Image: busybox, ImagePullPolicy: corev1.PullIfNotPresent, Command: []string{"sleep", "infinity"}}
}

// create creates a sandbox.
func (r *room) create(name string, changes ...func(*v1alpha1.Sandbox)) *v1alpha1.Sandbox {
	r.t.Helper()
	created, err := r.sandboxes().Create(r.t.Context(), newSandbox(name, changes...), metav1.CreateOptions{})
	if err != nil {
		r.t.Fatalf("create sandbox %s: %v", name, err)
	}
	return created
}

// start creates a sandbox and waits until it is ready.
func (r *room) start(name string, changes ...func(*v1alpha1.Sandbox)) *v1alpha1.Sandbox {
	r.t.Helper()
	r.create(name, changes...)
	return r.awaitReady(name)
}

// edit updates a sandbox, again where somebody else was faster.
func (r *room) edit(name string, change func(*v1alpha1.Sandbox)) {
	r.t.Helper()
	for {
		sandbox := r.get(name)
		change(sandbox)
		_, err := r.sandboxes().Update(r.t.Context(), sandbox, metav1.UpdateOptions{})
		if err == nil {
			return
		}
		if !apierrors.IsConflict(err) {
			r.t.Fatalf("update sandbox %s: %v", name, err)
		}
	}
}

func (r *room) get(name string) *v1alpha1.Sandbox {
	r.t.Helper()
	sandbox, err := r.sandboxes().Get(r.t.Context(), name, metav1.GetOptions{})
	if err != nil {
		r.t.Fatalf("get sandbox %s: %v", name, err)
	}
	return sandbox
}

func (r *room) snapshot(name string) *v1alpha1.SandboxSnapshot {
	r.t.Helper()
	snapshot, err := r.snapshots().Get(r.t.Context(), name, metav1.GetOptions{})
	if err != nil {
		r.t.Fatalf("get snapshot %q: %v", name, err)
	}
	return snapshot
}

// pause and resume call the verbs through the typed client.
func (r *room) pause(name string) *v1alpha1.Sandbox {
	r.t.Helper()
	answer, err := r.sandboxes().Pause(r.t.Context(), name, &v1alpha1.SandboxPause{}, metav1.CreateOptions{})
	if err != nil {
		r.t.Fatalf("pause sandbox %s: %v", name, err)
	}
	return answer
}

func (r *room) resume(name string) *v1alpha1.Sandbox {
	r.t.Helper()
	answer, err := r.sandboxes().Resume(r.t.Context(), name, &v1alpha1.SandboxResume{}, metav1.CreateOptions{})
	if err != nil {
		r.t.Fatalf("resume sandbox %s: %v", name, err)
	}
	return answer
}

// pauseAndResume takes a sandbox once around.
func (r *room) pauseAndResume(name string) (*v1alpha1.Sandbox, *v1alpha1.SandboxSnapshot) {
	r.t.Helper()
	r.pause(name)
	_, snapshot := r.awaitPaused(name)
	r.resume(name)
	return r.awaitReady(name), snapshot
}

// deletePod deletes the Pod of a sandbox behind the server's back.
func (r *room) deletePod(sandbox string, options metav1.DeleteOptions) {
	r.t.Helper()
	if err := r.kube.CoreV1().Pods(r.namespace).Delete(r.t.Context(), sandbox, options); err != nil {
		r.t.Fatalf("delete the Pod of sandbox %s: %v", sandbox, err)
	}
}

// sh runs a script in the sandbox's container main and returns what it printed.
func (r *room) sh(sandbox, script string) string {
	r.t.Helper()
	return r.shIn(sandbox, "main", script)
}

func (r *room) shIn(sandbox, container, script string) string {
	r.t.Helper()
	var stdout, stderr bytes.Buffer
	ctx, cancel := context.WithTimeout(r.t.Context(), patience)
	defer cancel()
	if err := r.exec(ctx, sandbox, container, &stdout, &stderr, "sh", "-euc", script); err != nil {
		r.t.Fatalf("in %s/%s: %s: %v\n%s%s", sandbox, container, script, err, stdout.String(), stderr.String())
	}
	return stdout.String()
}

func (r *room) exec(ctx context.Context, pod, container string, stdout, stderr io.Writer, command ...string) error {
	request := r.kube.CoreV1().RESTClient().Post().Namespace(r.namespace).Resource("pods").Name(pod).SubResource("exec").
		VersionedParams(&corev1.PodExecOptions{Container: container, Command: command, Stdout: true, Stderr: true}, scheme.ParameterCodec)
	executor, err := remotecommand.NewWebSocketExecutor(r.config, "GET", request.URL().String())
	if err != nil {
		return err
	}
	return executor.StreamWithContext(ctx, remotecommand.StreamOptions{Stdout: stdout, Stderr: stderr})
}

// bigFile is what makes a commit last for seconds: random bytes, so that nothing is saved by
// compressing them, and a change of the file all the time, so that it is not enough to have read
// it before the freeze.
const bigFile = quietFile + `
(while :; do chmod 600 /root/big; usleep 50000; done) </dev/null >/dev/null 2>&1 &`

// quietFile is as large, and does not change any more.
const quietFile = "dd if=/dev/urandom of=/root/big bs=1M count=300 2>/dev/null && md5sum /root/big > /root/big.md5"

const checkBigFile = "md5sum -c /root/big.md5"

// leave checks what holds whatever has happened, deletes everything in the room and checks that it is gone. Where the test has
// failed it tells what there is instead.
func (r *room) leave() {
	if !r.t.Failed() {
		r.mustHold()
	}
	if r.t.Failed() {
		r.report()
	}
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	if err := r.sandboxes().DeleteCollection(ctx, metav1.DeleteOptions{}, metav1.ListOptions{}); err != nil {
		r.t.Errorf("delete the sandboxes of namespace %s: %v", r.namespace, err)
	}
	if err := r.snapshots().DeleteCollection(ctx, metav1.DeleteOptions{}, metav1.ListOptions{}); err != nil {
		r.t.Errorf("delete the snapshots of namespace %s: %v", r.namespace, err)
	}
	left := r.left(ctx)
	for left != "" && pauseBriefly(ctx) == nil {
		if now := r.left(ctx); ctx.Err() == nil {
			left = now
		}
	}
	if left != "" {
		r.t.Errorf("after everything in namespace %s was deleted there is still: %s", r.namespace, left)
		r.report()
	}
	r.freeVolumes()
	if err := r.kube.CoreV1().Namespaces().Delete(context.Background(), r.namespace, metav1.DeleteOptions{}); err != nil && !apierrors.IsNotFound(err) {
		r.t.Errorf("delete namespace %s: %v", r.namespace, err)
	}
}

// left is what there still is of the room's sandboxes, empty where there is nothing.
func (r *room) left(ctx context.Context) string {
	left := ""
	note := func(format string, args ...any) { left += fmt.Sprintf(format, args...) + "; " }
	problem := func(err error) {
		if err != nil {
			note("unknown: %v", err)
		}
	}
	if sandboxes, err := r.sandboxes().List(ctx, metav1.ListOptions{}); err != nil {
		problem(err)
	} else {
		for i := range sandboxes.Items {
			note("sandbox %s (%s)", sandboxes.Items[i].Name, describe(&sandboxes.Items[i]))
		}
	}
	if snapshots, err := r.snapshots().List(ctx, metav1.ListOptions{}); err != nil {
		problem(err)
	} else {
		for _, snapshot := range snapshots.Items {
			note("snapshot %s (%s, finalizers %q)", snapshot.Name, snapshot.Status.Phase, snapshot.Finalizers)
		}
	}
	if pods, err := r.kube.CoreV1().Pods(r.namespace).List(ctx, metav1.ListOptions{}); err != nil {
		problem(err)
	} else {
		for _, pod := range pods.Items {
			note("Pod %s", pod.Name)
		}
	}
	jobs, err := r.jobs(ctx)
	problem(err)
	for _, job := range jobs {
		note("Job %s/%s", job.Namespace, job.Name)
	}
	containers, err := r.containers(ctx, r.namespace)
	problem(err)
	for _, container := range containers {
		note("container %s (%s)", container.name, container.status)
	}
	return left
}
