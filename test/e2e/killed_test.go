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
	"bufio"
	"context"
	"fmt"
	"io"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"testing"

	admissionregistrationv1 "k8s.io/api/admissionregistration/v1"
	batchv1 "k8s.io/api/batch/v1"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/opensandbox-io/sandbox-apiserver/apis/lifecycle/v1alpha1"
)

// TestNobodyRunsBetweenTheFreezeAndTheEnd has many processes that write and tell of it as fast as they can, none of which
// is the container's first: told to kill a frozen container, the runtime signals that one alone, and thaws all.
func TestNobodyRunsBetweenTheFreezeAndTheEnd(t *testing.T) {
	t.Parallel()
	const writers = 8
	r := newRoom(t)
	r.start("demo")
	for cycle := range 3 {
		told := make([]atomic.Int64, writers)
		var ended sync.WaitGroup
		ctx, cancel := context.WithCancel(context.Background())
		t.Cleanup(cancel)
		for n := range writers {
			lines, output := io.Pipe()
			script := fmt.Sprintf(`n=0; while :; do n=$((n+1)); echo $n > /root/writer-%d; echo $n; done`, n)
			go func() {
				// However the stream ends, the Pod's end is behind it.
				_ = output.CloseWithError(r.exec(ctx, "demo", "main", output, io.Discard, "sh", "-c", script))
			}()
			ended.Go(func() {
				for scanner := bufio.NewScanner(lines); scanner.Scan(); {
					if count, err := strconv.ParseInt(scanner.Text(), 10, 64); err == nil {
						told[n].Store(count)
					}
				}
			})
		}
		eventually(t, "all write", patience, func(context.Context) (bool, string) {
			for n := range told {
				if told[n].Load() < 100 {
					return false, fmt.Sprintf("writer %d told of %d", n, told[n].Load())
				}
			}
			return true, ""
		})
		r.pauseAndResume("demo")
		ended.Wait()
		for n := range told {
			saved, err := strconv.ParseInt(strings.TrimSpace(r.sh("demo", fmt.Sprintf("cat /root/writer-%d", n))), 10, 64)
			// A file is empty between its truncation and the number.
			if last := told[n].Load(); err == nil && saved < last {
				t.Errorf("cycle %d: writer %d told of %d, and %d is what is there", cycle, n, last, saved)
			}
		}
	}
	events, err := r.kube.CoreV1().Events(r.namespace).List(t.Context(), metav1.ListOptions{FieldSelector: "reason=" + v1alpha1.EventKillFailed})
	if err != nil {
		t.Fatal(err)
	}
	for _, event := range events.Items {
		t.Errorf("not everything was killed while it was frozen: %s", event.Message)
	}
}

// TestAPauseEndsWithoutItsKillJob: where the Job is refused the kubelet ends the Pod, and the event says why.
func TestAPauseEndsWithoutItsKillJob(t *testing.T) {
	t.Parallel()
	r := newRoom(t)
	r.forbidKills()
	r.start("demo")
	r.sh("demo", "echo kept > /root/file")

	r.pause("demo")
	r.awaitPaused("demo")
	r.awaitEventOn("Sandbox", "demo", v1alpha1.EventKillFailed)
	r.resume("demo")
	r.awaitReady("demo")
	if got := r.sh("demo", "cat /root/file"); got != "kept\n" {
		t.Errorf("after resume the file holds %q", got)
	}
}

// forbidKills has the API refuse the kill Jobs of the room's sandboxes.
func (r *room) forbidKills() {
	r.t.Helper()
	r.deny(systemNamespace, admissionregistrationv1.Rule{APIGroups: []string{"batch"}, APIVersions: []string{"v1"}, Resources: []string{"jobs"}},
		admissionregistrationv1.Validation{
			Expression: fmt.Sprintf("object.metadata.?labels[?'%s'].orValue('') != 'kill' || object.metadata.?annotations[?'%s'].orValue('') != '%s'",
				v1alpha1.LabelComponent, v1alpha1.AnnotationNamespace, r.namespace),
			Message: "no kills here",
		}, "")
	job := &batchv1.Job{
		ObjectMeta: metav1.ObjectMeta{
			Namespace: systemNamespace, GenerateName: "policy-",
			Labels: map[string]string{v1alpha1.LabelComponent: "kill"}, Annotations: map[string]string{v1alpha1.AnnotationNamespace: r.namespace},
		},
		Spec: batchv1.JobSpec{Template: corev1.PodTemplateSpec{Spec: corev1.PodSpec{RestartPolicy: corev1.RestartPolicyNever, Containers: []corev1.Container{sleeper("main")}}}},
	}
	eventually(r.t, "a kill Job is refused", patience, func(ctx context.Context) (bool, string) {
		_, err := r.kube.BatchV1().Jobs(systemNamespace).Create(ctx, job, metav1.CreateOptions{DryRun: []string{metav1.DryRunAll}})
		return err != nil && strings.Contains(err.Error(), "no kills here"), fmt.Sprint(err)
	})
}
