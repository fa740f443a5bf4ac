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
	"encoding/base64"
	"encoding/json"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"

	"github.com/containerd/containerd/api/types/task"
	"github.com/google/go-containerregistry/pkg/authn"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

// TestTheCommitPodMayDoNoMoreThanItNeeds looks at a commit at work: its Pod, and its processes as the kernel sees them.
func TestTheCommitPodMayDoNoMoreThanItNeeds(t *testing.T) {
	t.Parallel()
	r := newRoom(t)
	r.start("demo")
	r.sh("demo", bigFile)
	source, err := r.kube.CoreV1().Pods(r.namespace).Get(t.Context(), "demo", metav1.GetOptions{})
	if err != nil {
		t.Fatal(err)
	}
	r.pause("demo")

	var pod corev1.Pod
	quickly(t, "there is a commit Pod", patience, func(ctx context.Context) (bool, string) {
		pods, err := r.jobPods(ctx)
		if len(pods) == 1 {
			pod = pods[0]
		}
		return len(pods) == 1, fmt.Sprintf("%d Pods (error %v)", len(pods), err)
	})
	// CAP_DAC_READ_SEARCH is 2, CAP_SYS_PTRACE 19, CAP_SYS_ADMIN 21.
	args := r.mayDoNoMoreThan(pod.Name+"/image-committer", "0000000000280004")
	if !slices.Contains(args, "--pod-uid="+string(source.UID)) {
		t.Errorf("the commit runs as %q", args)
	}
	id := strings.TrimPrefix(source.Status.ContainerStatuses[0].ContainerID, "containerd://")
	if !slices.ContainsFunc(args, func(arg string) bool { return strings.HasPrefix(arg, "--container=name=main,id="+id+",image=") }) {
		t.Errorf("the commit runs as %q, want the container %s by its ID", args, id)
	}

	// CAP_KILL is 5.
	if args := r.mayDoNoMoreThan(pod.Name+"/kill", "0000000000000020"); len(args) < 2 || args[1] != "standby" ||
		!slices.Contains(args, "--pod-uid="+string(source.UID)) {
		t.Errorf("beside it runs %q", args)
	}

	if pod.Namespace != systemNamespace || pod.Spec.HostNetwork || !pod.Spec.HostPID || pod.Spec.HostIPC {
		t.Errorf("Pod %s/%s shares more than it needs: %+v", pod.Namespace, pod.Name, pod.Spec)
	}
	for _, volume := range pod.Spec.Volumes {
		if volume.Projected != nil {
			t.Errorf("volume %s may hold a token", volume.Name)
		}
	}
	if resources := pod.Spec.Containers[0].Resources; resources.Limits.Memory().IsZero() || !resources.Requests.Cpu().IsZero() || !resources.Requests.Memory().IsZero() {
		t.Errorf("resources %+v", resources)
	}
	// Whatever the cluster's default class is, nobody ends for it.
	if policy := pod.Spec.PreemptionPolicy; policy == nil || *policy != corev1.PreemptNever || pod.Spec.Priority == nil || *pod.Spec.Priority >= 0 {
		t.Errorf("class %q, priority %v, preemption %v", pod.Spec.PriorityClassName, pod.Spec.Priority, policy)
	}
	r.awaitPaused("demo")
	events, err := r.kube.CoreV1().Events(systemNamespace).List(t.Context(), metav1.ListOptions{FieldSelector: "reason=FailedPostStartHook,involvedObject.name=" + pod.Name})
	if err != nil {
		t.Fatal(err)
	}
	for _, event := range events.Items {
		t.Errorf("%s: %s", event.InvolvedObject.Name, event.Message)
	}
}

// mayDoNoMoreThan checks what the kernel lets the first process of a container do, and returns its arguments.
func (r *room) mayDoNoMoreThan(container, capabilities string) (args []string) {
	r.t.Helper()
	process := r.process(r.t, systemNamespace, container)
	// For an instant it is still the runtime, which has not given up yet what the container may not do.
	quickly(r.t, container+" is the committer", patience, func(context.Context) (bool, string) {
		cmdline := r.procFile(r.t, process, "cmdline")
		return strings.HasPrefix(cmdline, "/image-committer\x00"), cmdline
	})
	release := r.holdProcess(process)
	status, mounts, cmdline := r.procFile(r.t, process, "status"), r.procFile(r.t, process, "mountinfo"), r.procFile(r.t, process, "cmdline")
	release()
	for field, want := range map[string]string{"CapEff": capabilities, "CapPrm": capabilities, "CapBnd": capabilities, "NoNewPrivs": "1", "Seccomp": "2"} {
		if got := field + ":\t" + want + "\n"; !strings.Contains(status, got) {
			r.t.Errorf("%s does not have %q:\n%s", container, got, status)
		}
	}
	for _, line := range strings.Split(strings.TrimSpace(mounts), "\n") {
		fields := strings.Fields(line)
		// What the runtime mounts by itself, in memory; where the kubelet reads the result; and the node's cgroups.
		own := regexp.MustCompile(`^/(proc|dev|sys|host/sys/fs/cgroup)(/|$)`).MatchString(fields[4])
		if !own && !strings.HasPrefix(fields[5], "ro") && fields[4] != "/etc/hosts" && fields[4] != "/etc/hostname" && fields[4] != "/etc/resolv.conf" {
			r.t.Errorf("%s can write to %s: %s", container, fields[4], line)
		}
		if strings.Contains(fields[4], "serviceaccount") {
			r.t.Errorf("%s has a service account's token: %s", container, line)
		}
	}
	return strings.Split(strings.Trim(cmdline, "\x00"), "\x00")
}

// TestACommitRefusesAnotherPodsContainer runs the committer as somebody would who mixes up two sandboxes.
func TestACommitRefusesAnotherPodsContainer(t *testing.T) {
	t.Parallel()
	r := newRoom(t)
	r.start("mine")
	r.start("other")
	pod, err := r.kube.CoreV1().Pods(r.namespace).Get(t.Context(), "other", metav1.GetOptions{})
	if err != nil {
		t.Fatal(err)
	}
	id := strings.TrimPrefix(pod.Status.ContainerStatuses[0].ContainerID, "containerd://")
	program, err := committerProgram()
	if err != nil {
		t.Fatal(err)
	}
	path := filepath.Join(t.TempDir(), "image-committer")
	if err := os.WriteFile(path, program, 0o755); err != nil {
		t.Fatal(err)
	}
	commit := exec.CommandContext(t.Context(), path, "commit", "--containerd-address="+strings.TrimPrefix(os.Getenv("CONTAINERD_ADDRESS"), "unix://"),
		"--termination-log=-", "--snapshot-uid=e2e", "--registry-insecure", "--pod-uid="+string(r.get("mine").Status.PodUID),
		"--container=name=main,id="+id+",image="+r.registry+"/e2e/stolen:latest")
	var stdout, stderr bytes.Buffer
	commit.Stdout, commit.Stderr = &stdout, &stderr
	if err := commit.Run(); err == nil || commit.ProcessState.ExitCode() != 1 {
		t.Errorf("it ended with %v", err)
	}
	if text := stdout.String(); !strings.Contains(text, "ContainerNotFound") || !strings.Contains(text, "is not container") {
		t.Errorf("it reports %s, and logs\n%s", text, stderr.String())
	}
	r.mustNotBeFrozen()
}

// noCredentialIsTold checks that the password of the registry is nowhere that somebody without access to the Secret can
// read: objects, events, logs, arguments of processes, the image.
func (r *room) noCredentialIsTold(sandbox string) {
	r.t.Helper()
	_, snapshot := r.get(sandbox), r.snapshot(r.get(sandbox).Status.SnapshotName)
	places := map[string]string{}
	note := func(where string, what any, err error) {
		r.t.Helper()
		if err != nil {
			r.t.Fatalf("%s: %v", where, err)
		}
		text, err := json.Marshal(what)
		if err != nil {
			r.t.Fatal(err)
		}
		places[where] = string(text)
	}
	ctx := r.t.Context()
	note("the sandbox", r.get(sandbox), nil)
	note("the snapshot", snapshot, nil)
	jobs, err := r.jobs(ctx)
	note("the Jobs", jobs, err)
	pods, err := r.jobPods(ctx)
	note("their Pods", pods, err)
	if len(jobs) == 0 || len(pods) == 0 {
		r.t.Errorf("%d Jobs and %d Pods to look at", len(jobs), len(pods))
	}
	for _, namespace := range []string{r.namespace, systemNamespace} {
		events, err := r.kube.CoreV1().Events(namespace).List(ctx, metav1.ListOptions{})
		note("the events of "+namespace, events, err)
	}
	server, err := r.kube.CoreV1().Pods(systemNamespace).Get(ctx, serverPod, metav1.GetOptions{})
	if err != nil {
		r.t.Fatal(err)
	}
	for _, pod := range append(pods, *server) {
		if pod.Status.Phase == corev1.PodPending {
			continue // it has no log yet
		}
		for _, container := range pod.Spec.Containers {
			log, err := r.kube.CoreV1().Pods(systemNamespace).GetLogs(pod.Name, &corev1.PodLogOptions{Container: container.Name}).DoRaw(ctx)
			note("the log of "+pod.Name+"/"+container.Name, string(log), err)
		}
	}
	image := r.image(snapshot.Status.Containers[0], authn.FromConfig(authn.AuthConfig{Username: r.auth.username, Password: r.auth.password}))
	config, err := image.RawConfigFile()
	note("the image's config", string(config), err)
	manifest, err := image.RawManifest()
	note("the image's manifest", string(manifest), err)

	for where, text := range places {
		for _, credential := range []string{r.auth.password, base64.StdEncoding.EncodeToString([]byte(r.auth.username + ":" + r.auth.password))} {
			if strings.Contains(text, credential) {
				r.t.Errorf("%s tells the registry's password", where)
			}
		}
	}
}

// process is the first process of a container, named as containers does.
func (r *room) process(t *testing.T, namespace, container string) int {
	t.Helper()
	var found int
	quickly(t, "container "+container+" runs", patience, func(ctx context.Context) (bool, string) {
		containers, err := r.containers(ctx, namespace)
		if err != nil {
			return false, err.Error()
		}
		for _, c := range containers {
			if c.name == container && c.status == task.Status_RUNNING {
				found = c.pid
				return true, ""
			}
		}
		return false, fmt.Sprint(containers)
	})
	return found
}

func (r *room) procFile(t *testing.T, process int, name string) string {
	t.Helper()
	content, err := os.ReadFile(fmt.Sprintf("/proc/%d/%s", process, name))
	if err != nil {
		t.Fatalf("the commit has ended too soon to be looked at: %v", err)
	}
	return string(content)
}
