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
	"sync/atomic"
	"testing"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"

	"github.com/opensandbox-io/sandbox-apiserver/apis/lifecycle/v1alpha1"
)

// writer is a process in a sandbox that appends numbered lines to a file for as long as it
// lives. Each line is acknowledged to the test after it was written.
type writer struct {
	acknowledged atomic.Int64
	ended        chan struct{}
}

const writeLoop = `n=0; while :; do n=$((n+1)); echo $n >> /root/lines; echo $n; usleep 1000; done`

// checkLines prints the last line, after a check that none is missing before it.
const checkLines = `awk '$0 != NR {print "line " NR " is " $0; exit 1} END {print NR}' /root/lines`

func (r *room) startWriter(sandbox string) *writer {
	r.t.Helper()
	w := &writer{ended: make(chan struct{})}
	r.writers[sandbox] = w
	lines, output := io.Pipe()
	ctx, cancel := context.WithCancel(context.Background())
	r.t.Cleanup(cancel)
	go func() {
		// However the stream ends, the Pod's end is behind it.
		_ = output.CloseWithError(r.exec(ctx, sandbox, "main", output, io.Discard, "sh", "-c", writeLoop))
	}()
	go func() {
		defer close(w.ended)
		for scanner := bufio.NewScanner(lines); scanner.Scan(); {
			if n, err := strconv.ParseInt(scanner.Text(), 10, 64); err == nil {
				w.acknowledged.Store(n)
			}
		}
	}()
	r.awaitWrites(w, 50)
	return w
}

// awaitWrites waits until so many more lines were acknowledged.
func (r *room) awaitWrites(w *writer, more int64) {
	r.t.Helper()
	target := w.acknowledged.Load() + more
	eventually(r.t, fmt.Sprintf("%d lines are acknowledged", target), patience, func(context.Context) (bool, string) {
		n := w.acknowledged.Load()
		return n >= target, fmt.Sprint(n)
	})
}

// lastLine is the number of the last line on disk.
func (r *room) lastLine(sandbox string) int64 {
	r.t.Helper()
	n, err := strconv.ParseInt(strings.TrimSpace(r.sh(sandbox, checkLines)), 10, 64)
	if err != nil {
		r.t.Fatal(err)
	}
	return n
}

func TestEveryWriteUntilTheFreezeIsThereAfterResume(t *testing.T) {
	t.Parallel()
	r := newRoom(t)
	r.start("demo")
	w := r.startWriter("demo")

	r.pauseAndResume("demo")

	<-w.ended
	acknowledged, onDisk := w.acknowledged.Load(), r.lastLine("demo")
	// The freeze may fall between a write and its acknowledgement: one line more, never one less.
	if onDisk != acknowledged && onDisk != acknowledged+1 {
		t.Errorf("the last line on disk is %d, the last one acknowledged was %d", onDisk, acknowledged)
	}
}

func TestAResumeBeforeThePodIsRemovedCancelsThePause(t *testing.T) {
	t.Parallel()
	r := newRoom(t)
	before := r.start("demo")
	r.sh("demo", bigFile)
	w := r.startWriter("demo")

	r.pause("demo")
	r.awaitFrozen("demo/main")
	release := r.holdCommit("demo-gen1")
	answer := r.resume("demo")
	if answer.Status.Phase != v1alpha1.SandboxPausing || reasonOf(answer.Status.Conditions, v1alpha1.ConditionPaused) != v1alpha1.ReasonCanceling {
		t.Errorf("the resume answers with %s, want it to be cancelling", describe(answer))
	}
	_, err := r.sandboxes().Pause(t.Context(), "demo", &v1alpha1.SandboxPause{}, metav1.CreateOptions{})
	r.mustRefuse("pause while cancelling", err)
	if again := r.resume("demo"); again.Status.Phase == v1alpha1.SandboxPaused {
		t.Errorf("the second resume answers with %s", describe(again))
	}
	release()

	after := r.awaitReady("demo")
	r.mustNotBeFrozen()
	if after.Status.PodUID != before.Status.PodUID {
		t.Errorf("the Pod is another one: %s", describe(after))
	}
	// The same process goes on where it was frozen.
	r.awaitWrites(w, 50)
	r.lastLine("demo")
	r.sh("demo", checkBigFile)
	if snapshot := r.snapshot("demo-gen1"); snapshot.Status.Phase != v1alpha1.SnapshotFailed || reasonOf(snapshot.Status.Conditions, v1alpha1.ConditionFailed) != v1alpha1.ReasonCanceled {
		t.Errorf("the snapshot is %s: %s", snapshot.Status.Phase, messageOf(snapshot.Status.Conditions, v1alpha1.ConditionFailed))
	}
}

func TestAResumeAfterThePodIsMarkedFinishesThePauseFirst(t *testing.T) {
	t.Parallel()
	r := newRoom(t)
	// A finalizer holds the Pod between its mark and its end for as long as the test needs.
	before := r.start("demo", func(s *v1alpha1.Sandbox) { s.Spec.Template.Finalizers = []string{holdPod} })
	r.sh("demo", "echo kept > /root/file")
	release := func() {
		t.Helper()
		_, err := r.kube.CoreV1().Pods(r.namespace).Patch(t.Context(), "demo", types.MergePatchType, []byte(`{"metadata":{"finalizers":null}}`), metav1.PatchOptions{})
		if err != nil {
			t.Fatalf("let the Pod go: %v", err)
		}
	}

	r.pause("demo")
	r.awaitReason("demo", v1alpha1.ConditionPaused, v1alpha1.ReasonRemovingPod)
	if as := r.pause("demo"); as.Status.SnapshotAttempts != 1 || as.Status.Phase != v1alpha1.SandboxPausing {
		t.Errorf("paused while its Pod is removed, the sandbox is %s", describe(as))
	}
	answer := r.resume("demo")
	if answer.Status.Phase != v1alpha1.SandboxPausing || answer.Spec.DesiredState != v1alpha1.DesiredStateRunning {
		t.Errorf("the resume answers with %s, want it to be accepted while pausing", describe(answer))
	}
	release()

	after := r.await("demo", "Running in another Pod", func(s *v1alpha1.Sandbox) bool {
		return s.Status.Phase == v1alpha1.SandboxRunning && s.Status.PodUID != before.Status.PodUID
	})
	if after.Status.SnapshotName != "demo-gen1" {
		t.Errorf("resumed, the sandbox is %s", describe(after))
	}
	if got := r.sh("demo", "cat /root/file"); got != "kept\n" {
		t.Errorf("after resume the file holds %q", got)
	}
	release()
}
