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
	for _, message := range r.killsThatFailed() {
		t.Errorf("not everything was killed while it was frozen: %s", message)
	}
}

// killsThatFailed are what the events about the room's sandboxes say of them.
func (r *room) killsThatFailed() (messages []string) {
	r.t.Helper()
	events, err := r.kube.CoreV1().Events(r.namespace).List(r.t.Context(), metav1.ListOptions{FieldSelector: "reason=" + v1alpha1.EventKillFailed})
	if err != nil {
		r.t.Fatal(err)
	}
	for i := range events.Items {
		messages = append(messages, events.Items[i].Message)
	}
	return messages
}

// TestAPauseEndsWithoutItsKill: where nothing is killed while it is frozen the kubelet ends the Pod, and the event says why.
func TestAPauseEndsWithoutItsKill(t *testing.T) {
	t.Parallel()
	for name, prevent := range map[string]struct {
		before, whileFrozen func(*room)
		write, check        string
		says                string
	}{
		"the API refuses it": {before: (*room).forbidKill, write: "echo kept > /root/file", check: "grep kept /root/file", says: "no kills here"},
		"its container is gone": {whileFrozen: func(r *room) {
			r.kill(r.t, systemNamespace, r.commitPod("demo-gen1"), "kill")
		}, write: bigFile, check: checkBigFile, says: "ended with exit code 137"},
	} {
		t.Run(name, func(t *testing.T) {
			r := newRoom(t)
			r.start("demo")
			if prevent.before != nil {
				prevent.before(r)
			}
			r.sh("demo", prevent.write)

			r.pause("demo")
			if prevent.whileFrozen != nil {
				r.awaitFrozen("demo/main")
				prevent.whileFrozen(r)
			}
			r.awaitPaused("demo")
			if told := r.awaitEventOn("Sandbox", "demo", v1alpha1.EventKillFailed); !strings.Contains(told, prevent.says) {
				t.Errorf("the event says %q, and not %q", told, prevent.says)
			}
			r.resume("demo")
			r.awaitReady("demo")
			r.sh("demo", prevent.check)
		})
	}
}

// forbidKill has the API refuse to run the kill of what will be frozen in the Pod of the sandbox demo.
func (r *room) forbidKill() {
	r.t.Helper()
	whom := "--pod-uid=" + string(r.get("demo").Status.PodUID)
	r.deny(systemNamespace, admissionregistrationv1.Rule{APIGroups: []string{""}, APIVersions: []string{"v1"}, Resources: []string{"pods/exec"}},
		admissionregistrationv1.Validation{
			Expression: fmt.Sprintf("object.command == null || !('%s' in object.command)", whom), Message: "no kills here",
		}, "", admissionregistrationv1.Connect)
	eventually(r.t, "a kill is refused", patience, func(ctx context.Context) (bool, string) {
		err := r.execIn(ctx, "", serverPod, &corev1.PodExecOptions{Container: "server", Command: []string{"/sandbox-apiserver", "--help", whom}, Stdout: true})
		return err != nil && strings.Contains(err.Error(), "no kills here"), fmt.Sprint(err)
	})
}
