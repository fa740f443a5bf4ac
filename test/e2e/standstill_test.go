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
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"sync/atomic"
	"testing"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/utils/ptr"

	"github.com/opensandbox-io/sandbox-apiserver/apis/lifecycle/v1alpha1"
)

// told is a writer in a container that writes numbers into a file and tells each of them then.
type told struct {
	last  atomic.Int64
	ended chan struct{}
}

// tells starts a writer in a container of the sandbox demo: the script says what comes before the first number, and
// into which file they go. It returns when the first ones are told.
func (r *room) tells(container, before, file string) *told {
	r.t.Helper()
	w := &told{ended: make(chan struct{})}
	lines, output := io.Pipe()
	ctx, cancel := context.WithCancel(context.Background())
	r.t.Cleanup(cancel)
	script := fmt.Sprintf("%s\nn=0; while :; do n=$((n+1)); echo $n > %s; echo $n; done", before, file)
	go func() {
		// However the stream ends, the Pod's end is behind it.
		_ = output.CloseWithError(r.exec(ctx, "demo", container, output, output, "sh", "-c", script))
	}()
	said := atomic.Value{}
	go func() {
		defer close(w.ended)
		for scanner := bufio.NewScanner(lines); scanner.Scan(); {
			if n, err := strconv.ParseInt(scanner.Text(), 10, 64); err == nil {
				w.last.Store(n)
			} else {
				said.Store(scanner.Text())
			}
		}
	}()
	eventually(r.t, "the writer tells of what it writes", patience, func(context.Context) (bool, string) {
		return w.last.Load() > 100, fmt.Sprint(w.last.Load(), said.Load())
	})
	return w
}

// mustHave pauses and resumes the sandbox demo, and checks that what the writer told is there.
func (r *room) mustHave(w *told, file string) {
	r.t.Helper()
	r.pause("demo")
	r.awaitPaused("demo")
	<-w.ended
	r.resume("demo")
	r.awaitReady("demo")
	text := strings.TrimSpace(r.shIn("demo", "main", "cat "+file))
	saved, err := strconv.ParseInt(text, 10, 64)
	// A file is empty between its truncation and the number.
	if text != "" && (err != nil || saved < w.last.Load()) {
		r.t.Errorf("%d was told, and %q is what is there (%v)", w.last.Load(), text, err)
	}
	for _, message := range r.killsThatFailed() {
		r.t.Errorf("not everything was killed while it was frozen: %s", message)
	}
}

// TestWhoeverWritesStandsStill: what others than the committed container have written to its files, and told of, is kept.
func TestWhoeverWritesStandsStill(t *testing.T) {
	t.Parallel()
	t.Run("somebody who debugs", func(t *testing.T) {
		t.Parallel()
		r := newRoom(t)
		r.start("demo")
		r.debug("demo", corev1.EphemeralContainer{TargetContainerName: "main", EphemeralContainerCommon: corev1.EphemeralContainerCommon{
			Name: "debug", Image: busybox, ImagePullPolicy: corev1.PullIfNotPresent, Command: []string{"sleep", "infinity"}}})
		r.mustHave(r.tells("debug", "", "/proc/1/root/root/log"), "/root/log")
	})
	t.Run("a container that shares processes", func(t *testing.T) {
		t.Parallel()
		r := newRoom(t)
		r.start("demo", twoContainers, func(s *v1alpha1.Sandbox) {
			s.Spec.Snapshot.Containers = []string{"main"}
			s.Spec.Template.Spec.ShareProcessNamespace = ptr.To(true)
		})
		r.shIn("demo", "main", "echo 0 > /root/log")
		r.mustHave(r.tells("side", "for p in /proc/[0-9]*; do if [ -e $p/root/root/log ]; then main=$p; fi; done", "$main/root/root/log"), "/root/log")
	})
	t.Run("a process beside the containers", func(t *testing.T) {
		t.Parallel()
		r := newRoom(t)
		r.start("demo", privileged)
		r.mustHave(r.tells("main", moveTo("$(dirname $own)/beside"), "/root/log"), "/root/log")
	})
}

// TestAWriterOutOfReachIsARefusal, with nothing frozen, that names it; and once it is gone the pause goes on.
func TestAWriterOutOfReachIsARefusal(t *testing.T) {
	t.Parallel()
	r := newRoom(t)
	r.start("demo", privileged)
	elsewhere := "/elsewhere-" + r.namespace
	t.Cleanup(func() { // it is empty by then
		_ = os.Remove("/sys/fs/cgroup/freezer" + elsewhere)
		_ = os.Remove("/sys/fs/cgroup" + elsewhere)
	})
	r.tells("main", moveTo(elsewhere)+"; echo $$ > /root/pid", "/root/log")
	r.pause("demo")
	refused := r.await("demo", "the pause says who is in the way", func(s *v1alpha1.Sandbox) bool {
		return pausedReason(s) == v1alpha1.ReasonFreezeFailed
	})
	if message := pausedMessage(refused); !strings.Contains(message, "(sh, ") || !strings.Contains(message, elsewhere) {
		t.Errorf("it says %q", message)
	}
	r.mustNotBeFrozen()
	r.sh("demo", "kill -9 $(cat /root/pid)")
	r.pause("demo")
	r.awaitPaused("demo")
}

// privileged may move its processes to other cgroups.
func privileged(s *v1alpha1.Sandbox) {
	s.Spec.Template.Spec.Containers[0].SecurityContext = &corev1.SecurityContext{Privileged: ptr.To(true)}
}

// moveTo moves the shell that runs it to another cgroup of the node's freezer.
func moveTo(cgroup string) string {
	return `mkdir -p /freezer
if grep -q :freezer: /proc/self/cgroup
then mount -t cgroup -o freezer none /freezer && own=$(sed -n 's/.*:freezer://p' /proc/self/cgroup)
else mount -t cgroup2 none /freezer && own=$(sed -n 's/^0:://p' /proc/self/cgroup)
fi
mkdir -p /freezer` + cgroup + ` && echo $$ > /freezer` + cgroup + `/cgroup.procs`
}

func pausedMessage(s *v1alpha1.Sandbox) string {
	for _, condition := range s.Status.Conditions {
		if condition.Type == v1alpha1.ConditionPaused {
			return condition.Message
		}
	}
	return ""
}

func pausedReason(s *v1alpha1.Sandbox) string {
	for _, condition := range s.Status.Conditions {
		if condition.Type == v1alpha1.ConditionPaused {
			return condition.Reason
		}
	}
	return ""
}

// debug adds an ephemeral container, as kubectl debug does, and waits until it runs.
func (r *room) debug(pod string, container corev1.EphemeralContainer) {
	r.t.Helper()
	p, err := r.kube.CoreV1().Pods(r.namespace).Get(r.t.Context(), pod, metav1.GetOptions{})
	if err != nil {
		r.t.Fatal(err)
	}
	p.Spec.EphemeralContainers = append(p.Spec.EphemeralContainers, container)
	if _, err := r.kube.CoreV1().Pods(r.namespace).UpdateEphemeralContainers(r.t.Context(), pod, p, metav1.UpdateOptions{}); err != nil {
		r.t.Fatal(err)
	}
	eventually(r.t, "the debug container runs", patience, func(ctx context.Context) (bool, string) {
		p, err := r.kube.CoreV1().Pods(r.namespace).Get(ctx, pod, metav1.GetOptions{})
		if err != nil {
			return false, err.Error()
		}
		for _, status := range p.Status.EphemeralContainerStatuses {
			return status.State.Running != nil, fmt.Sprint(status.State)
		}
		return false, "there is no status of it"
	})
}

// TestWhoIsNotKeptHasItsTime: a container that a pause leaves out ends as in any deletion of its Pod, however long that takes.
func TestWhoIsNotKeptHasItsTime(t *testing.T) {
	t.Parallel()
	r := newRoom(t)
	dir, err := os.MkdirTemp("", "e2e-grace-")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = os.RemoveAll(dir) })
	r.start("demo", twoContainers, func(s *v1alpha1.Sandbox) {
		spec := &s.Spec.Template.Spec
		s.Spec.Snapshot.Containers = []string{"main"}
		spec.TerminationGracePeriodSeconds = ptr.To[int64](90)
		spec.Volumes = []corev1.Volume{{Name: "out", VolumeSource: corev1.VolumeSource{HostPath: &corev1.HostPathVolumeSource{Path: dir}}}}
		spec.Containers[1].VolumeMounts = []corev1.VolumeMount{{Name: "out", MountPath: "/out"}}
		// Longer than what a frozen Pod gets.
		spec.Containers[1].Command = []string{"sh", "-c", `trap 'for n in $(seq 35); do echo $n > /out/log; sleep 1; done; echo clean > /out/log; exit 0' TERM
			while :; do sleep 1; done`}
	})
	r.sh("demo", "echo kept > /root/file")
	r.pauseAndResume("demo")
	said, err := os.ReadFile(filepath.Join(dir, "log"))
	if err != nil || strings.TrimSpace(string(said)) != "clean" {
		t.Errorf("it got as far as %q (%v)", said, err)
	}
	if got := r.sh("demo", "cat /root/file"); got != "kept\n" {
		t.Errorf("the file holds %q", got)
	}
}
