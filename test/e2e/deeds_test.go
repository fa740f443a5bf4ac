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
	"strings"
	"syscall"
	"time"

	"github.com/containerd/containerd/api/types/task"
	corev1 "k8s.io/api/core/v1"
	policyv1 "k8s.io/api/policy/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/utils/ptr"

	"github.com/opensandbox-io/sandbox-apiserver/apis/lifecycle/v1alpha1"
)

// deed is what somebody does in a walk, with what comes of it. how is a number to choose by.
type deed struct {
	name   string
	weight int
	do     func(ctx context.Context, w *walk, of *walker, how uint64) string
}

var allDeeds = func() (sum int) {
	for _, deed := range deeds {
		sum += deed.weight
	}
	return sum
}()

// deeds are what people do, and what is done to them. None of them fails the walk: what must hold is looked at when it rests.
var deeds = []deed{
	{"pause", 8, func(ctx context.Context, w *walk, of *walker, _ uint64) string {
		_, err := w.sandboxes().Pause(ctx, of.name, &v1alpha1.SandboxPause{}, metav1.CreateOptions{})
		return came(err)
	}},
	{"resume", 8, func(ctx context.Context, w *walk, of *walker, _ uint64) string {
		_, err := w.sandboxes().Resume(ctx, of.name, &v1alpha1.SandboxResume{}, metav1.CreateOptions{})
		return came(err)
	}},
	{"roll back", 1, rollBack},
	{"edit the desired state", 2, func(ctx context.Context, w *walk, of *walker, how uint64) string {
		states := []v1alpha1.SandboxDesiredState{v1alpha1.DesiredStateRunning, v1alpha1.DesiredStatePaused}
		return w.patch(ctx, of, fmt.Sprintf(`{"spec":{"desiredState":%q}}`, states[how%2]))
	}},
	{"edit a label", 1, func(ctx context.Context, w *walk, of *walker, how uint64) string {
		return w.patch(ctx, of, fmt.Sprintf(`{"metadata":{"labels":{"walk":"%d"}},"spec":{"template":{"metadata":{"labels":{"walk":"%d"}}}}}`, how, how))
	}},
	{"edit the history's limit", 1, func(ctx context.Context, w *walk, of *walker, how uint64) string {
		return w.patch(ctx, of, fmt.Sprintf(`{"spec":{"snapshot":{"historyLimit":%d}}}`, how%3+1))
	}},
	{"edit the template", 1, func(ctx context.Context, w *walk, of *walker, how uint64) string {
		return w.patch(ctx, of, fmt.Sprintf(`{"spec":{"template":{"spec":{"terminationGracePeriodSeconds":%d}}}}`, how%5+1))
	}},
	{"take a snapshot of", 2, func(ctx context.Context, w *walk, of *walker, how uint64) string {
		_, err := w.snapshots().Create(ctx, &v1alpha1.SandboxSnapshot{
			ObjectMeta: metav1.ObjectMeta{Name: fmt.Sprintf("mine-%x", how)}, Spec: v1alpha1.SandboxSnapshotSpec{SandboxName: of.name},
		}, metav1.CreateOptions{})
		return came(err)
	}},
	{"delete a snapshot of", 2, deleteASnapshot},
	{"delete", 1, func(ctx context.Context, w *walk, of *walker, _ uint64) string {
		err := w.sandboxes().Delete(ctx, of.name, metav1.DeleteOptions{})
		if err == nil {
			for _, problem := range of.tally.end(w.t) {
				w.t.Error(problem)
			}
			w.gone, of.name = append(w.gone, of.name), ""
		}
		return came(err)
	}},

	{"delete the Pod of", 2, func(ctx context.Context, w *walk, of *walker, _ uint64) string {
		return came(w.kube.CoreV1().Pods(w.namespace).Delete(ctx, of.name, metav1.DeleteOptions{}))
	}},
	{"delete by force the Pod of", 1, func(ctx context.Context, w *walk, of *walker, _ uint64) string {
		return came(w.kube.CoreV1().Pods(w.namespace).Delete(ctx, of.name, metav1.DeleteOptions{GracePeriodSeconds: ptr.To[int64](0)}))
	}},
	{"evict the Pod of", 1, func(ctx context.Context, w *walk, of *walker, _ uint64) string {
		return came(w.kube.CoreV1().Pods(w.namespace).EvictV1(ctx, &policyv1.Eviction{ObjectMeta: metav1.ObjectMeta{Name: of.name, Namespace: w.namespace}}))
	}},
	{"kill the container of", 1, func(ctx context.Context, w *walk, of *walker, _ uint64) string {
		return w.killOne(ctx, w.namespace, of.name+"/main")
	}},

	{"delete a Job of", 2, func(ctx context.Context, w *walk, of *walker, _ uint64) string {
		jobs, err := w.jobs(ctx)
		for i := range jobs {
			if jobs[i].Labels[v1alpha1.LabelSandbox] == of.name && jobs[i].Status.Active > 0 {
				err = w.kube.BatchV1().Jobs(systemNamespace).Delete(ctx, jobs[i].Name, metav1.DeleteOptions{PropagationPolicy: ptr.To(metav1.DeletePropagationBackground)})
				return jobs[i].Name + " " + came(err)
			}
		}
		return "there is none, " + came(err)
	}},
	{"delete a commit Pod of", 1, func(ctx context.Context, w *walk, of *walker, _ uint64) string {
		for _, pod := range w.commitPodsOf(ctx, of) {
			return pod.Name + " " + came(w.kube.CoreV1().Pods(systemNamespace).Delete(ctx, pod.Name, metav1.DeleteOptions{}))
		}
		return "there is none"
	}},
	{"kill the committer of", 3, func(ctx context.Context, w *walk, of *walker, how uint64) string {
		for _, pod := range w.commitPodsOf(ctx, of) {
			return w.killOne(ctx, systemNamespace, pod.Name+"/"+[]string{"image-committer", "image-committer", "kill"}[how%3])
		}
		return "there is none"
	}},

	{"kill the server, and not", 2, func(_ context.Context, w *walk, _ *walker, _ uint64) string {
		w.killServerAnew()
		return "it answers again"
	}},
	{"a registry in trouble, for", 5, func(_ context.Context, w *walk, _ *walker, how uint64) string {
		trouble := registryTrouble(how % uint64(registryTroubles))
		w.registry.is(trouble)
		return "it is " + trouble.String()
	}},
	{"mend all, for", 3, func(_ context.Context, w *walk, _ *walker, _ uint64) string { w.mend(); return "done" }},
	{"a kubelet that stands still, for", 1, func(_ context.Context, w *walk, _ *walker, _ uint64) string {
		pid := componentPID(w.t, "kubelet")
		if err := syscall.Kill(pid, syscall.SIGSTOP); err != nil {
			return err.Error()
		}
		// Less than it takes until the node is not Ready: then all its Pods would be evicted.
		timer := time.AfterFunc(8*time.Second, func() { _ = syscall.Kill(pid, syscall.SIGCONT) })
		w.kubelet = func() {
			timer.Stop()
			_ = syscall.Kill(pid, syscall.SIGCONT)
			w.kubelet = func() {}
		}
		return fmt.Sprintf("process %d is stopped", pid)
	}},
	{"restart containerd under", 1, func(_ context.Context, w *walk, _ *walker, _ uint64) string {
		w.restartContainerd(w.t)
		return "it answers again"
	}},
}

// came says what came of it, in a few words.
func came(err error) string {
	switch {
	case err == nil:
		return "done"
	case apierrors.IsNotFound(err):
		return "there is none"
	}
	return fmt.Sprintf("refused, %.200s", err)
}

// rollBack resumes from the oldest snapshot, or from the template.
func rollBack(ctx context.Context, w *walk, of *walker, how uint64) string {
	request := &v1alpha1.SandboxResume{FromTemplate: true}
	if all, err := w.snapshots().List(ctx, metav1.ListOptions{FieldSelector: "spec.sandboxName=" + of.name}); err == nil && how%3 > 0 {
		for i := range all.Items {
			if all.Items[i].Status.Phase == v1alpha1.SnapshotSucceed && all.Items[i].DeletionTimestamp == nil {
				request = &v1alpha1.SandboxResume{SnapshotName: all.Items[i].Name}
				break
			}
		}
	}
	_, err := w.sandboxes().Resume(ctx, of.name, request, metav1.CreateOptions{})
	if err == nil {
		of.tally.wants()
	}
	return fmt.Sprintf("to %q %s", request.SnapshotName, came(err))
}

func deleteASnapshot(ctx context.Context, w *walk, of *walker, how uint64) string {
	all, err := w.snapshots().List(ctx, metav1.ListOptions{FieldSelector: "spec.sandboxName=" + of.name})
	if err != nil || len(all.Items) == 0 {
		return "there is none, " + came(err)
	}
	name := all.Items[how%uint64(len(all.Items))].Name
	return name + " " + came(w.snapshots().Delete(ctx, name, metav1.DeleteOptions{}))
}

func (w *walk) patch(ctx context.Context, of *walker, patch string) string {
	_, err := w.sandboxes().Patch(ctx, of.name, types.MergePatchType, []byte(patch), metav1.PatchOptions{})
	return patch + " " + came(err)
}

// commitPodsOf are the Pods that commit a walker and have not ended.
func (w *walk) commitPodsOf(ctx context.Context, of *walker) (pods []corev1.Pod) {
	all, err := w.jobPods(ctx)
	if err != nil {
		return nil
	}
	for i := range all {
		if all[i].Labels[v1alpha1.LabelSandbox] == of.name && (all[i].Status.Phase == corev1.PodRunning || all[i].Status.Phase == corev1.PodPending) {
			pods = append(pods, all[i])
		}
	}
	return pods
}

// killOne kills the first process of a container, where there is one.
func (w *walk) killOne(ctx context.Context, namespace, name string) string {
	all, err := w.containers(ctx, namespace)
	if err != nil {
		return err.Error()
	}
	for _, c := range all {
		if c.name != name || c.pid < 2 || c.status == task.Status_STOPPED {
			continue
		}
		process, err := os.FindProcess(c.pid)
		if err == nil {
			err = process.Signal(syscall.SIGKILL)
		}
		return fmt.Sprintf("process %d, %s, %s", c.pid, strings.ToLower(c.status.String()), came(err))
	}
	return "there is none"
}
