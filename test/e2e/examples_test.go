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
	"errors"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"k8s.io/apimachinery/pkg/api/meta"

	"github.com/opensandbox-io/sandbox-apiserver/apis/lifecycle/v1alpha1"
)

func TestTheExampleProgramsPauseAndResume(t *testing.T) {
	t.Parallel()
	r := newRoom(t)
	r.start("demo")
	r.create("elsewhere", nowhere)
	r.awaitReason("elsewhere", v1alpha1.ConditionReady, v1alpha1.ReasonPodUnschedulable)
	for _, name := range []string{"clientset", "controller-runtime"} {
		program := filepath.Join(t.TempDir(), name)
		r.run("", "go", "build", "-o", program, filepath.Join("..", "..", "artifacts", "examples", name))
		// call runs the program and returns how it ended and what it printed.
		call := func(args ...string) (code int, printed string) {
			t.Helper()
			command := exec.CommandContext(t.Context(), program, append([]string{"--kubeconfig", r.kubeconfig, "--namespace", r.namespace}, args...)...)
			stdout, stderr, err := output(command)
			var exit *exec.ExitError
			if err != nil && !errors.As(err, &exit) {
				t.Fatalf("%s %q: %v", name, args, err)
			}
			return command.ProcessState.ExitCode(), stdout + stderr
		}

		before := r.get("demo")
		if code, printed := call("pause", "demo"); code != 0 || !strings.Contains(printed, "Pausing (") || !strings.Contains(printed, "Paused (Paused)") {
			t.Errorf("%s pause ends with %d: %s", name, code, printed)
		}
		if now := r.get("demo"); now.Status.Phase != v1alpha1.SandboxPaused || now.Status.SnapshotAttempts != before.Status.SnapshotAttempts+1 {
			t.Errorf("when %s has ended the sandbox is %s", name, describe(now))
		}
		if code, printed := call("resume", "demo"); code != 0 || !strings.Contains(printed, "Running (PodReady)") {
			t.Errorf("%s resume ends with %d: %s", name, code, printed)
		}
		if now := r.get("demo"); !meta.IsStatusConditionTrue(now.Status.Conditions, v1alpha1.ConditionReady) {
			t.Errorf("when %s has ended the sandbox is %s", name, describe(now))
		}

		begin := time.Now()
		for _, wrong := range []struct {
			args []string
			code int
			says string
		}{
			{[]string{"--help"}, 0, "usage: " + name},
			{nil, 2, "usage: " + name},
			{[]string{"stop", "demo"}, 2, "usage: " + name},
			{[]string{"pause", "unknown"}, 1, `"unknown" not found`},
			{[]string{"pause", "elsewhere"}, 1, "Pending (NeverRan): "},
			{[]string{"--timeout=10s", "resume", "elsewhere"}, 1, "not done within 10s; it is Pending (PodUnschedulable): "},
		} {
			if code, printed := call(wrong.args...); code != wrong.code || !strings.Contains(printed, wrong.says) {
				t.Errorf("%s %q ends with %d, want %d and %q: %s", name, wrong.args, code, wrong.code, wrong.says, printed)
			}
		}
		if took := time.Since(begin); took > time.Minute {
			t.Errorf("%s took %s to fail: does it keep its deadline?", name, took)
		}
	}
}
