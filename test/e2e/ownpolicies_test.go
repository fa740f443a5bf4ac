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
	"os"
	"os/exec"
	"strings"
	"testing"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/kubernetes/scheme"
	"k8s.io/client-go/rest"
	"k8s.io/client-go/tools/remotecommand"
	"k8s.io/utils/ptr"

	"github.com/opensandbox-io/sandbox-apiserver/apis/lifecycle/v1alpha1"
)

// TestPoliciesOfTheServersNamespace installs artifacts/policies and runs a commit under them, of the image that they
// name and of another.
func TestPoliciesOfTheServersNamespace(t *testing.T) {
	c := theCluster(t)
	program, err := committerProgram()
	if err != nil {
		t.Fatal(err)
	}
	image := c.pushProgram(t, "image-committer", program, "policy").String()
	c.withServerArgs(t, "--image-committer-image="+image)
	c.kubectlOK(t, "apply", "-k", "../../artifacts/policies")
	t.Cleanup(func() {
		c.kubectlOK(t, "delete", "-k", "../../artifacts/policies")
		// Whoever comes next must not find them still at work.
		eventually(t, "the policies are no longer at work", patience, func(ctx context.Context) (bool, string) {
			err := c.tryPod(ctx, c.commitPod("other"))
			return err == nil, "another image is still refused"
		})
	})

	eventually(t, "a commit Pod is refused as long as no image is named", patience, func(ctx context.Context) (bool, string) {
		err := c.tryPod(ctx, c.commitPod(image))
		return apierrors.IsForbidden(err) || apierrors.IsInvalid(err), "it is not refused"
	})
	const settings = "sandbox-commit-policy"
	set := func(image string) {
		t.Helper()
		config := &corev1.ConfigMap{ObjectMeta: metav1.ObjectMeta{Name: settings}, Data: map[string]string{
			"image":             image,
			"containerd-socket": strings.TrimPrefix(os.Getenv("CONTAINERD_ADDRESS"), "unix://"), "containerd-root": os.Getenv("CONTAINERD_ROOT"),
		}}
		_, err := c.kube.CoreV1().ConfigMaps(systemNamespace).Update(t.Context(), config, metav1.UpdateOptions{})
		if apierrors.IsNotFound(err) {
			_, err = c.kube.CoreV1().ConfigMaps(systemNamespace).Create(t.Context(), config, metav1.CreateOptions{})
		}
		if err != nil {
			t.Fatal(err)
		}
	}
	t.Cleanup(func() {
		if err := c.kube.CoreV1().ConfigMaps(systemNamespace).Delete(context.Background(), settings, metav1.DeleteOptions{}); err != nil {
			t.Error(err)
		}
	})
	set(image)
	eventually(t, "a commit Pod of that image is taken", patience, func(ctx context.Context) (bool, string) {
		if err := c.tryPod(ctx, c.commitPod(image)); err != nil {
			return false, err.Error()
		}
		return true, ""
	})
	ofPause := c.commitPod(image)
	addStandby(ofPause)
	if err := c.tryPod(t.Context(), ofPause); err != nil {
		t.Errorf("a commit Pod of a pause is refused: %v", err)
	}

	t.Run("what is refused", func(t *testing.T) {
		for name, change := range map[string]struct {
			pod  func(*corev1.Pod)
			says string
		}{
			"another image":           {func(p *corev1.Pod) { p.Spec.Containers[0].Image = busybox }, image},
			"a tag of it":             {func(p *corev1.Pod) { p.Spec.Containers[0].Image, _, _ = strings.Cut(image, "@") }, image},
			"a second container":      {func(p *corev1.Pod) { p.Spec.Containers = append(p.Spec.Containers, sleeper("shell")) }, "one container"},
			"an init container":       {func(p *corev1.Pod) { p.Spec.InitContainers = []corev1.Container{sleeper("shell")} }, "one container"},
			"a shell beside a kill":   {func(p *corev1.Pod) { p.Spec.Containers = append(p.Spec.Containers, sleeper("shell")) }, "one container"},
			"a kill of another image": {func(p *corev1.Pod) { p.Spec.Containers[len(p.Spec.Containers)-1].Image = busybox }, image},
			"a kill by the commit": {func(p *corev1.Pod) {
				p.Spec.Containers[0].SecurityContext.Capabilities.Add = []corev1.Capability{"KILL"}
			}, "capabilities"},
			"another variable beside a kill": {func(p *corev1.Pod) {
				kill := &p.Spec.Containers[len(p.Spec.Containers)-1]
				kill.Env = append(kill.Env, corev1.EnvVar{Name: "GODEBUG", Value: "x"})
			}, "arguments alone"},
			"another program":    {func(p *corev1.Pod) { p.Spec.Containers[0].Command = []string{"sh"} }, "program"},
			"the node's root":    {func(p *corev1.Pod) { p.Spec.Volumes[0].HostPath.Path = "/" }, "paths"},
			"writing":            {func(p *corev1.Pod) { p.Spec.Containers[0].VolumeMounts[0].ReadOnly = false }, "read-only"},
			"a token":            {func(p *corev1.Pod) { p.Spec.AutomountServiceAccountToken = nil }, "token"},
			"the node's network": {func(p *corev1.Pod) { p.Spec.HostNetwork = true }, "network"},
			"privileged":         {func(p *corev1.Pod) { p.Spec.Containers[0].SecurityContext.Privileged = ptr.To(true) }, "privileged"},
			"one capability more": {func(p *corev1.Pod) {
				p.Spec.Containers[0].SecurityContext.Capabilities.Add = []corev1.Capability{"SYS_MODULE"}
			}, "capabilities"},
			"any Pod with the node": {func(p *corev1.Pod) { p.Spec = newSandbox("x").Spec.Template.Spec; p.Spec.HostPID = true }, "processes"},
		} {
			pod := c.commitPod(image)
			if strings.Contains(name, "kill") {
				addStandby(pod)
			}
			change.pod(pod)
			if err := c.tryPod(t.Context(), pod); err == nil || !strings.Contains(err.Error(), change.says) {
				t.Errorf("%s: got %v, want a refusal that speaks of %q", name, err, change.says)
			}
		}
		if err := c.tryPod(t.Context(), &corev1.Pod{ObjectMeta: metav1.ObjectMeta{GenerateName: "plain-"}, Spec: newSandbox("x").Spec.Template.Spec}); err != nil {
			t.Errorf("an ordinary Pod is refused: %v", err)
		}
		// That the one policy is at work says nothing of the other.
		eventually(t, "exec is refused", patience, func(ctx context.Context) (bool, string) {
			err := c.execIn(ctx, "", serverPod, &corev1.PodExecOptions{Container: "server", Command: []string{"/sandbox-apiserver", "--help"}, Stdout: true})
			return err != nil && strings.Contains(err.Error(), "owns its node"), fmt.Sprint(err)
		})
	})

	t.Run("what the server may run", func(t *testing.T) { podsOfTheServersAccount(t, c) })

	t.Run("who may run what", func(t *testing.T) {
		const server = "system:serviceaccount:" + systemNamespace + ":sandbox-apiserver"
		kill := []string{"/image-committer", "kill"}
		for name, asked := range map[string]struct {
			who, container string
			command        []string
			refused        bool
		}{
			"the server kills":             {who: server, container: "kill", command: kill},
			"an administrator kills":       {container: "kill", command: kill, refused: true},
			"the server in another":        {who: server, container: "server", command: kill, refused: true},
			"the server runs another":      {who: server, container: "kill", command: []string{"/image-committer", "commit"}, refused: true},
			"the server runs what it will": {who: server, container: "kill", command: []string{"sh"}, refused: true},
		} {
			// No Pod has such a container now: whoever is not refused is told that.
			err := c.execIn(t.Context(), asked.who, serverPod, &corev1.PodExecOptions{Container: asked.container, Command: asked.command, Stdout: true})
			if err == nil || strings.Contains(err.Error(), "owns its node") != asked.refused || strings.Contains(err.Error(), "is not valid for pod") == asked.refused {
				t.Errorf("%s: got %v, want it refused: %t", name, err, asked.refused)
			}
		}
	})
	t.Run("a commit of the image that is named", func(t *testing.T) {
		r := newRoom(t)
		r.start("demo")
		r.sh("demo", "echo kept > /root/file")
		r.takeSnapshot("copy", "demo")
		r.awaitSucceed("copy")
		r.pauseAndResume("demo")
		if got := r.sh("demo", "cat /root/file"); got != "kept\n" {
			t.Errorf("after resume the file holds %q", got)
		}
		if failed := r.killsThatFailed(); len(failed) > 0 {
			t.Errorf("the server may not kill: %q", failed)
		}
	})
	t.Run("a commit of another", func(t *testing.T) {
		r := newRoom(t)
		r.start("demo")
		other := image[:len(image)-64] + strings.Repeat("0", 64)
		set(other)
		eventually(t, "a commit Pod of the image that was named before is refused", patience, func(ctx context.Context) (bool, string) {
			err := c.tryPod(ctx, c.commitPod(image))
			return err != nil && strings.Contains(err.Error(), other), fmt.Sprint(err)
		})
		r.pause("demo")
		failed := r.awaitReason("demo", v1alpha1.ConditionPaused, v1alpha1.ReasonCommitPodRejected)
		if message := messageOf(failed.Status.Conditions, v1alpha1.ConditionPaused); !strings.Contains(message, "of the image") {
			t.Errorf("the condition does not say why: %s", message)
		}
		set(image)
	})
}

// commitPod is shaped as a commit's.
func (c *cluster) commitPod(image string) *corev1.Pod {
	return &corev1.Pod{
		ObjectMeta: metav1.ObjectMeta{GenerateName: "policy-"},
		Spec: corev1.PodSpec{
			ServiceAccountName: "image-committer", AutomountServiceAccountToken: ptr.To(false), RestartPolicy: corev1.RestartPolicyNever,
			Volumes: []corev1.Volume{{Name: "containerd-socket", VolumeSource: corev1.VolumeSource{
				HostPath: &corev1.HostPathVolumeSource{Path: strings.TrimPrefix(os.Getenv("CONTAINERD_ADDRESS"), "unix://")}}}},
			Containers: []corev1.Container{{
				Name: "image-committer", Image: image, Args: []string{"thaw"},
				VolumeMounts: []corev1.VolumeMount{{Name: "containerd-socket", MountPath: "/run/containerd/containerd.sock", ReadOnly: true}},
				SecurityContext: &corev1.SecurityContext{Capabilities: &corev1.Capabilities{
					Drop: []corev1.Capability{"ALL"}, Add: []corev1.Capability{"DAC_READ_SEARCH", "SYS_ADMIN"}}},
			}},
		},
	}
}

// addStandby makes it one of a pause's.
func addStandby(commit *corev1.Pod) {
	kill := *commit.Spec.Containers[0].DeepCopy()
	kill.Name, kill.Args = "kill", []string{"standby"}
	kill.Env = []corev1.EnvVar{{Name: "POD_UID", ValueFrom: &corev1.EnvVarSource{FieldRef: &corev1.ObjectFieldSelector{FieldPath: "metadata.uid"}}}}
	kill.SecurityContext.Capabilities.Add = []corev1.Capability{"KILL"}
	commit.Spec.Containers, commit.Spec.HostPID = append(commit.Spec.Containers, kill), true
}

// tryPod asks whether a Pod would be taken in the server's namespace.
func (c *cluster) tryPod(ctx context.Context, pod *corev1.Pod) error {
	_, err := c.kube.CoreV1().Pods(systemNamespace).Create(ctx, pod, metav1.CreateOptions{DryRun: []string{metav1.DryRunAll}})
	return err
}

// execIn runs a program in a Pod of the server's namespace, as an administrator or as somebody else.
func (c *cluster) execIn(ctx context.Context, user, pod string, options *corev1.PodExecOptions) error {
	request := c.kube.CoreV1().RESTClient().Post().Namespace(systemNamespace).Resource("pods").Name(pod).SubResource("exec").VersionedParams(options, scheme.ParameterCodec)
	config := rest.CopyConfig(c.config)
	config.Impersonate.UserName = user
	executor, err := remotecommand.NewWebSocketExecutor(config, "GET", request.URL().String())
	if err != nil {
		return err
	}
	return executor.StreamWithContext(ctx, remotecommand.StreamOptions{Stdout: io.Discard})
}

func (c *cluster) kubectlOK(t *testing.T, args ...string) {
	t.Helper()
	command := exec.Command(c.kubectl, args...)
	command.Env = append(os.Environ(), "KUBECONFIG="+c.kubeconfig)
	var output bytes.Buffer
	command.Stdout, command.Stderr = &output, &output
	if err := command.Run(); err != nil {
		t.Errorf("%s: %v\n%s", command, err, output.String())
	}
}
