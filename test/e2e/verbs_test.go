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
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"

	"github.com/opensandbox-io/sandbox-apiserver/apis/lifecycle/v1alpha1"
)

// path is the URL path of a verb on a sandbox of the room.
func (r *room) path(sandbox, verb string) string {
	return "/apis/" + v1alpha1.GroupName + "/v1alpha1/namespaces/" + r.namespace + "/sandboxes/" + sandbox + "/" + verb
}

// run runs a program and returns what it printed; it must succeed.
func (r *room) run(stdin string, program string, args ...string) string {
	r.t.Helper()
	command := exec.CommandContext(r.t.Context(), program, args...)
	command.Stdin = strings.NewReader(stdin)
	command.Env = append(os.Environ(), "KUBECONFIG="+r.kubeconfig)
	var stdout, stderr bytes.Buffer
	command.Stdout, command.Stderr = &stdout, &stderr
	if err := command.Run(); err != nil {
		r.t.Fatalf("%s: %v\n%s%s", command, err, stdout.String(), stderr.String())
	}
	return stdout.String()
}

// curl sends a POST without a body, with the credentials of the kubeconfig, and returns status
// code and answer.
func (r *room) curl(path string) (code, answer string) {
	r.t.Helper()
	directory := r.t.TempDir()
	args := []string{"--silent", "--show-error", "-X", "POST", "--write-out", "\n%{http_code}"}
	for flag, content := range map[string][]byte{"--cacert": r.config.CAData, "--cert": r.config.CertData, "--key": r.config.KeyData} {
		file := filepath.Join(directory, strings.TrimLeft(flag, "-"))
		if err := os.WriteFile(file, content, 0o600); err != nil {
			r.t.Fatal(err)
		}
		args = append(args, flag, file)
	}
	output := r.run("", "curl", append(args, r.config.Host+path)...)
	at := strings.LastIndex(output, "\n")
	return output[at+1:], output[:at]
}

// A sandbox that has just been asked to pause or to resume says so in the answer.
func (r *room) mustAnswer(answer string, desired v1alpha1.SandboxDesiredState, phase v1alpha1.SandboxPhase) {
	r.t.Helper()
	sandbox := &v1alpha1.Sandbox{}
	if err := json.Unmarshal([]byte(answer), sandbox); err != nil {
		r.t.Fatalf("the answer is no JSON: %v\n%s", err, answer)
	}
	if sandbox.Kind != "Sandbox" || sandbox.Spec.DesiredState != desired || sandbox.Status.Phase != phase {
		r.t.Errorf("the answer is a %s: %s; want a Sandbox that is %s", sandbox.Kind, describe(sandbox), phase)
	}
}

func TestVerbsTakeAnEmptyObjectOrNoBodyAtAll(t *testing.T) {
	t.Parallel()
	r := newRoom(t)
	r.start("demo")

	for _, way := range []struct {
		name string
		post func(verb string) string
	}{
		{"kubectl create --raw with {}", func(verb string) string {
			return r.run("{}", r.kubectl, "create", "--raw", r.path("demo", verb), "-f", "-")
		}},
		{"kubectl create --raw with no body", func(verb string) string {
			return r.run("", r.kubectl, "create", "--raw", r.path("demo", verb), "-f", "/dev/null")
		}},
		{"curl -X POST with no body", func(verb string) string {
			code, answer := r.curl(r.path("demo", verb))
			if code != "201" {
				t.Errorf("curl: %s answers %s, want 201", verb, code)
			}
			return answer
		}},
	} {
		t.Log(way.name)
		r.mustAnswer(way.post("pause"), v1alpha1.DesiredStatePaused, v1alpha1.SandboxPausing)
		r.awaitPaused("demo")
		r.mustAnswer(way.post("resume"), v1alpha1.DesiredStateRunning, v1alpha1.SandboxResuming)
		r.awaitReady("demo")
	}
}

// holdPod holds a Pod, as its scheduling gate or its finalizer, for as long as a test needs.
const holdPod = "example.com/hold"

func TestVerbsOfTheTypedClientFollowTheStateTable(t *testing.T) {
	t.Parallel()
	r := newRoom(t)
	r.start("demo")

	// Running: a resume changes nothing.
	running := r.resume("demo")
	if running.Status.Phase != v1alpha1.SandboxRunning || running.Status.PodUID == "" {
		t.Errorf("resumed while it runs, the sandbox is %s", describe(running))
	}

	// Pausing: a second pause is the same pause.
	first := r.pause("demo")
	if first.Status.Phase != v1alpha1.SandboxPausing || first.Spec.DesiredState != v1alpha1.DesiredStatePaused {
		t.Errorf("the pause answers with %s", describe(first))
	}
	if read := r.get("demo"); read.Status.Phase == v1alpha1.SandboxRunning {
		t.Errorf("a read after the pause still shows %s", describe(read))
	}
	second := r.pause("demo")
	if second.Status.SnapshotAttempts != 1 {
		t.Errorf("paused twice, the sandbox is %s; want one attempt", describe(second))
	}
	paused, snapshot := r.awaitPaused("demo")
	if snapshot.Name != "demo-gen1" {
		t.Errorf("the snapshot is named %s, want demo-gen1", snapshot.Name)
	}

	// Paused: a pause changes nothing.
	if again := r.pause("demo"); again.ResourceVersion != paused.ResourceVersion {
		t.Errorf("paused while it is paused, the sandbox was written: %s", describe(again))
	}

	// Resuming: a second resume is the same resume, and a pause takes it back.
	r.edit("demo", func(s *v1alpha1.Sandbox) {
		s.Spec.Template.Spec.SchedulingGates = []corev1.PodSchedulingGate{{Name: holdPod}}
	})
	if resumed := r.resume("demo"); resumed.Status.Phase != v1alpha1.SandboxResuming {
		t.Errorf("the resume answers with %s", describe(resumed))
	}
	r.awaitReason("demo", v1alpha1.ConditionReady, v1alpha1.ReasonPodUnschedulable)
	if back := r.pause("demo"); back.Spec.DesiredState != v1alpha1.DesiredStatePaused {
		t.Errorf("the pause of what has not run answers with %s", describe(back))
	}
	if back, snapshot := r.awaitPaused("demo"); snapshot.Name != "demo-gen1" || back.Status.SnapshotAttempts != 1 || meta.FindStatusCondition(back.Status.Conditions, v1alpha1.ConditionDataLost) != nil {
		t.Errorf("taken back, the sandbox is %s", describe(back))
	}
	if resumed := r.resume("demo"); resumed.Status.Phase != v1alpha1.SandboxResuming {
		t.Errorf("the resume after that answers with %s", describe(resumed))
	}
	if resumed := r.resume("demo"); resumed.Status.Phase != v1alpha1.SandboxResuming {
		t.Errorf("the second resume answers with %s", describe(resumed))
	}
	eventually(t, "the Pod is let go", patience, func(ctx context.Context) (bool, string) {
		_, err := r.kube.CoreV1().Pods(r.namespace).Patch(ctx, "demo", types.MergePatchType, []byte(`{"spec":{"schedulingGates":null}}`), metav1.PatchOptions{})
		return err == nil, fmt.Sprint(err)
	})
	r.awaitReady("demo")
	if snapshots, err := r.snapshots().List(t.Context(), metav1.ListOptions{}); err != nil || len(snapshots.Items) != 1 {
		t.Errorf("there are %d snapshots (error %v), want 1", len(snapshots.Items), err)
	}

	// Pending: there is nothing to pause yet. Nothing has run, so the template can be mended, and it is not started meanwhile.
	r.create("homeless", nowhere)
	r.awaitReason("homeless", v1alpha1.ConditionReady, v1alpha1.ReasonPodUnschedulable)
	r.pause("homeless")
	r.await("homeless", "without a Pod", func(s *v1alpha1.Sandbox) bool {
		return s.Status.PodName == "" && reasonOf(s.Status.Conditions, v1alpha1.ConditionReady) == v1alpha1.ReasonNeverRan
	})
	r.resume("homeless")
	r.awaitReason("homeless", v1alpha1.ConditionReady, v1alpha1.ReasonPodUnschedulable)
	r.edit("homeless", func(s *v1alpha1.Sandbox) { s.Spec.Template.Spec.NodeSelector = nil })
	r.awaitReady("homeless")

	// Unknown.
	for verb, call := range map[string]func() error{
		"pause": func() error {
			_, err := r.sandboxes().Pause(t.Context(), "unknown", &v1alpha1.SandboxPause{}, metav1.CreateOptions{})
			return err
		},
		"resume": func() error {
			_, err := r.sandboxes().Resume(t.Context(), "unknown", &v1alpha1.SandboxResume{}, metav1.CreateOptions{})
			return err
		},
	} {
		if err := call(); !apierrors.IsNotFound(err) || !strings.Contains(err.Error(), `"unknown"`) {
			t.Errorf("%s of an unknown sandbox: %v, want NotFound with its name", verb, err)
		}
	}
}

// nowhere lets no node take the Pod.
func nowhere(s *v1alpha1.Sandbox) {
	s.Spec.Template.Spec.NodeSelector = map[string]string{"example.com/no-such": "node"}
}

// mustRefuse checks a refusal: 409, with a cause that says what to do.
func (r *room) mustRefuse(what string, err error) {
	r.t.Helper()
	if !apierrors.IsConflict(err) {
		r.t.Errorf("%s: %v, want 409 Conflict", what, err)
		return
	}
	var status apierrors.APIStatus
	if !errors.As(err, &status) || status.Status().Details == nil || len(status.Status().Details.Causes) == 0 || status.Status().Details.Causes[0].Message == "" {
		r.t.Errorf("%s: the refusal %v has no cause", what, err)
	}
}

func TestAPreconditionOfAPauseIsKept(t *testing.T) {
	t.Parallel()
	r := newRoom(t)
	sandbox := r.start("demo")
	_, err := r.sandboxes().Pause(t.Context(), "demo", &v1alpha1.SandboxPause{ObjectMeta: metav1.ObjectMeta{UID: "another"}}, metav1.CreateOptions{})
	if !apierrors.IsConflict(err) {
		t.Errorf("pause of another UID: %v, want 409 Conflict", err)
	}
	dry, err := r.sandboxes().Pause(t.Context(), "demo", &v1alpha1.SandboxPause{}, metav1.CreateOptions{DryRun: []string{metav1.DryRunAll}})
	if err != nil || dry.Status.Phase != v1alpha1.SandboxPausing {
		t.Errorf("dry run of a pause: %v, %v", dry, err)
	}
	if now := r.get("demo"); now.Status.Phase != v1alpha1.SandboxRunning || now.Status.PodUID != sandbox.Status.PodUID || now.Status.SnapshotAttempts != 0 {
		t.Errorf("after a refused pause and a dry run the sandbox is %s", describe(now))
	}
	pods, err := r.jobPods(t.Context())
	if err != nil || len(pods) != 0 {
		t.Errorf("after a refused pause and a dry run there are %d commit Pods (error %v)", len(pods), err)
	}
}

func TestAPodThatIsNotOursIsNeverAdopted(t *testing.T) {
	t.Parallel()
	r := newRoom(t)
	template := newSandbox("demo").Spec.Template
	if _, err := r.kube.CoreV1().Pods(r.namespace).Create(t.Context(), &corev1.Pod{ObjectMeta: metav1.ObjectMeta{Name: "demo"}, Spec: template.Spec}, metav1.CreateOptions{}); err != nil {
		t.Fatal(err)
	}
	r.create("demo")
	r.awaitReason("demo", v1alpha1.ConditionReady, v1alpha1.ReasonPodNameConflict)
	r.awaitEvent(corev1.EventTypeWarning, v1alpha1.ReasonPodNameConflict)
	r.deletePod("demo", metav1.DeleteOptions{})
	r.awaitReady("demo")
}
