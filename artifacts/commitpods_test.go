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

package artifacts

import (
	"strings"
	"testing"
	"time"

	batchv1 "k8s.io/api/batch/v1"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"

	"github.com/opensandbox-io/sandbox-apiserver/apis/lifecycle/v1alpha1"
	"github.com/opensandbox-io/sandbox-apiserver/pkg/controller/commitjob"
)

const (
	committer = "registry.example.com/image-committer@sha256:e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855"
	// theServer is the account that base/serviceaccounts.yaml makes.
	theServer = "system:serviceaccount:sandbox-system:sandbox-apiserver"
)

// TestPoliciesTakeWhatTheServerMakes, with and without what a node keeps for a resume.
func TestPoliciesTakeWhatTheServerMakes(t *testing.T) {
	judge := newJudge(t, "policies", "sandbox-commit-pods")
	made := jobs(t)
	proxied := made["pause"].DeepCopy()
	proxied.Spec.Template.Spec.Containers[0].Env = []corev1.EnvVar{{Name: "HTTPS_PROXY", Value: "http://proxy:3128"}, {Name: "NO_PROXY", Value: ".svc"}}
	made["pause by a proxy"] = proxied
	for name, job := range made {
		pod := podOf(job)
		if said := judge.create(t, "pods", "Pod", pod); said != "" {
			t.Errorf("the Pod of %s is refused: %s", name, said)
		}
		if said := judge.create(t, "jobs", "Job", job); said != "" {
			t.Errorf("the Job of %s is refused: %s", name, said)
		}
	}
}

func TestPoliciesRefuse(t *testing.T) {
	judge := newJudge(t, "policies", "sandbox-commit-pods")
	for name, test := range map[string]struct {
		change func(pod *corev1.Pod)
		says   string
	}{
		"another image beside a commit": {func(p *corev1.Pod) { p.Spec.Containers[1].Image = "busybox" }, committer},
		"a third container":             {func(p *corev1.Pod) { p.Spec.Containers = append(p.Spec.Containers, p.Spec.Containers[1]) }, "one container"},
		"a first container":             {func(p *corev1.Pod) { p.Spec.InitContainers = p.Spec.Containers[:1] }, "one container"},
		"another program":               {func(p *corev1.Pod) { p.Spec.Containers[1].Args[0] = "kill" }, "one container"},
		"another name":                  {func(p *corev1.Pod) { p.Spec.Containers[1].Name = "other" }, "one container"},
		"another command":               {func(p *corev1.Pod) { p.Spec.Containers[1].Command = []string{"sh"} }, "arguments alone"},
		"a variable": {func(p *corev1.Pod) {
			p.Spec.Containers[1].Env = append(p.Spec.Containers[1].Env, corev1.EnvVar{Name: "GODEBUG", Value: "x"})
		}, "arguments alone"},
		"a proxy out of a Secret": {func(p *corev1.Pod) {
			p.Spec.Containers[0].Env = []corev1.EnvVar{{Name: "HTTPS_PROXY", ValueFrom: &corev1.EnvVarSource{SecretKeyRef: &corev1.SecretKeySelector{Key: "x"}}}}
		}, "arguments alone"},
		"the node's network": {func(p *corev1.Pod) { p.Spec.HostNetwork = true }, "host-network"},
		"the node's memory":  {func(p *corev1.Pod) { p.Spec.HostIPC = true }, "memory"},
		"another field":      {func(p *corev1.Pod) { p.Spec.Containers[1].Env[0].ValueFrom.FieldRef.FieldPath = "metadata.labels" }, "arguments alone"},
		"variables": {func(p *corev1.Pod) {
			p.Spec.Containers[0].EnvFrom = []corev1.EnvFromSource{{Prefix: "x"}}
		}, "arguments alone"},
		"writing": {func(p *corev1.Pod) { p.Spec.Containers[1].VolumeMounts[0].ReadOnly = false }, "read-only"},
		"another hook": {func(p *corev1.Pod) {
			p.Spec.Containers[1].Lifecycle.PostStart.Exec.Command = []string{"/image-committer", "commit"}
		}, "arguments alone"},
		"a hook that asks somebody": {func(p *corev1.Pod) {
			p.Spec.Containers[1].Lifecycle.PostStart = &corev1.LifecycleHandler{HTTPGet: &corev1.HTTPGetAction{Host: "example.com"}}
		}, "arguments alone"},
		"a hook at the end":    {func(p *corev1.Pod) { p.Spec.Containers[1].Lifecycle.PreStop = p.Spec.Containers[1].Lifecycle.PostStart }, "arguments alone"},
		"a hook of the commit": {func(p *corev1.Pod) { p.Spec.Containers[0].Lifecycle = p.Spec.Containers[1].Lifecycle }, "arguments alone"},
		"a kill by the commit": {func(p *corev1.Pod) {
			p.Spec.Containers[0].SecurityContext.Capabilities.Add = []corev1.Capability{"KILL"}
		}, "capabilities"},
		"the node's processes without being a commit": {func(p *corev1.Pod) {
			p.Spec.Volumes, p.Spec.ServiceAccountName = nil, ""
		}, "processes"},
		"writing elsewhere than to cgroups": {func(p *corev1.Pod) {
			for i, v := range p.Spec.Volumes {
				if v.Name == "cgroup" {
					p.Spec.Volumes[i].HostPath.Path = "/sys/fs"
				}
			}
		}, "read-only"},
	} {
		t.Run(name, func(t *testing.T) {
			pod := podOf(jobs(t)["pause"])
			test.change(pod)
			if said := judge.create(t, "pods", "Pod", pod); !strings.Contains(said, test.says) {
				t.Errorf("it says %q, and not %q", said, test.says)
			}
		})
	}
}

// TestTheNodesNetwork may be used by commits alone, and where the ConfigMap says so.
func TestTheNodesNetwork(t *testing.T) {
	judge := newJudge(t, "policies", "sandbox-commit-pods")
	commit := podOf(jobs(t)["pause"])
	commit.Spec.HostNetwork = true
	other := &corev1.Pod{Spec: corev1.PodSpec{HostNetwork: true, Containers: []corev1.Container{{Name: "a", Image: "busybox"}}}}
	if said := judge.create(t, "pods", "Pod", commit); !strings.Contains(said, "host-network") {
		t.Errorf("a commit on the node's network: %q", said)
	}
	judge.params.(*corev1.ConfigMap).Data["host-network"] = "true"
	if said := judge.create(t, "pods", "Pod", commit); said != "" {
		t.Errorf("a commit that may use the node's network: %q", said)
	}
	if said := judge.create(t, "pods", "Pod", other); !strings.Contains(said, "host-network") {
		t.Errorf("another Pod on the node's network: %q", said)
	}
}

// TestNobodyButTheServerExecs, and that only to kill.
func TestNobodyButTheServerExecs(t *testing.T) {
	judge := newJudge(t, "policies", "sandbox-no-exec")
	kill := corev1.PodExecOptions{Container: "kill", Command: []string{"/image-committer", "kill", "--pod-uid=pod-1"}, Stdout: true, Stderr: true}
	for name, test := range map[string]struct {
		who    string
		change func(*corev1.PodExecOptions)
		taken  bool
	}{
		"the server kills":             {who: theServer, taken: true},
		"the server claims":            {who: theServer, change: func(o *corev1.PodExecOptions) { o.Command = []string{"/image-committer", "claim"} }, taken: true},
		"the server thaws":             {who: theServer, change: func(o *corev1.PodExecOptions) { o.Command = []string{"/image-committer", "thaw"} }, taken: true},
		"another command":              {who: theServer, change: func(o *corev1.PodExecOptions) { o.Command = []string{"/image-committer", "uncache"} }},
		"an administrator":             {who: "admin"},
		"a server elsewhere":           {who: "system:serviceaccount:default:sandbox-apiserver"},
		"in the commit":                {who: theServer, change: func(o *corev1.PodExecOptions) { o.Container = "image-committer" }},
		"in whichever comes first":     {who: theServer, change: func(o *corev1.PodExecOptions) { o.Container = "" }},
		"a commit":                     {who: theServer, change: func(o *corev1.PodExecOptions) { o.Command = []string{"/image-committer", "commit"} }},
		"another program":              {who: theServer, change: func(o *corev1.PodExecOptions) { o.Command = []string{"sh", "kill"} }},
		"nothing in particular":        {who: theServer, change: func(o *corev1.PodExecOptions) { o.Command = nil }},
		"something that it is to read": {who: theServer, change: func(o *corev1.PodExecOptions) { o.Stdin = true }},
	} {
		t.Run(name, func(t *testing.T) {
			options := kill
			if test.change != nil {
				test.change(&options)
			}
			if said := judge.connect(t, test.who, "exec", "PodExecOptions", &options); (said == "") != test.taken {
				t.Errorf("it says %q", said)
			}
		})
	}
	for subresource, options := range map[string]runtime.Object{
		"attach":      &corev1.PodAttachOptions{Container: "kill"},
		"portforward": &corev1.PodPortForwardOptions{Ports: []int32{1}},
	} {
		kind := map[string]string{"attach": "PodAttachOptions", "portforward": "PodPortForwardOptions"}[subresource]
		if said := judge.connect(t, theServer, subresource, kind, options); !strings.Contains(said, "owns its node") {
			t.Errorf("%s: it says %q", subresource, said)
		}
	}
}

// jobs are those that the server makes.
func jobs(t *testing.T) map[string]*batchv1.Job {
	t.Helper()
	made := map[string]*batchv1.Job{}
	for _, cache := range []int64{0, 1000} {
		config := &commitjob.Config{
			Namespace: "sandbox-system", Image: committer, Timeout: time.Minute, PushSecret: "push", RegistryCA: "ca", ResumeCache: cache,
			ContainerdSocket: "/run/containerd/containerd.sock", ContainerdRoot: "/var/lib/containerd",
		}
		named := func(kind string) string {
			if cache > 0 {
				return kind + " for a resume cache"
			}
			return kind
		}
		snapshot := &v1alpha1.SandboxSnapshot{ObjectMeta: metav1.ObjectMeta{Namespace: "default", Name: "demo-gen1", UID: "1"}}
		for kind, leaveFrozen := range map[string]bool{"pause": true, "snapshot": false} {
			job := config.Commit(snapshot, &commitjob.Source{}, leaveFrozen)
			made[named(kind)] = job
		}
		made[named("unpause")], made[named("uncache")] = config.Unpause(snapshot, &commitjob.Source{}), config.Uncache(snapshot, &commitjob.Source{})
	}
	return made
}

func podOf(job *batchv1.Job) *corev1.Pod {
	return &corev1.Pod{Spec: *job.Spec.Template.Spec.DeepCopy()}
}
