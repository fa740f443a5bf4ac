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

package injection

import (
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/resource"
)

func templateOf(containers ...corev1.Container) *corev1.PodTemplateSpec {
	return &corev1.PodTemplateSpec{Spec: corev1.PodSpec{Containers: containers}}
}

func TestTheSandboxStartsByExecd(t *testing.T) {
	limits := corev1.ResourceList{"cpu": resource.MustParse("1"), "memory": resource.MustParse("64Mi"), "nvidia.com/gpu": resource.MustParse("1")}
	for name, test := range map[string]struct {
		execd     Execd
		installer []string
		command   []string
		env       map[string]string
	}{
		"of this project": {
			Execd{Image: "execd:dev", Flavor: Own},
			[]string{"/execd", "install", "/opt/opensandbox"},
			[]string{"/opt/opensandbox/execd", "run", "--", "python", "-m", "http.server"},
			map[string]string{"EXECD": "/opt/opensandbox/execd", "OPENSANDBOX_ID": "demo", "OWN": "x"},
		},
		"of OpenSandbox": {
			Execd{Image: "opensandbox/execd:v1.0.19", Flavor: OpenSandbox},
			[]string{"/bin/sh", "-c", "cp ./execd ./bootstrap.sh /opt/opensandbox/ && chmod 0755 /opt/opensandbox/execd /opt/opensandbox/bootstrap.sh"},
			[]string{"/opt/opensandbox/bootstrap.sh", "python", "-m", "http.server"},
			map[string]string{"EXECD": "/opt/opensandbox/execd", "OPENSANDBOX_ID": "demo", "OWN": "x", "EXECD_ENVS": "/tmp/.opensandbox.env"},
		},
	} {
		t.Run(name, func(t *testing.T) {
			template := templateOf(corev1.Container{
				Name: Container, Image: "python:3.12", Env: []corev1.EnvVar{{Name: "OWN", Value: "x"}},
				Resources: corev1.ResourceRequirements{Limits: limits, Requests: limits},
			})
			before := template.DeepCopy()
			if err := test.execd.Into(template, Container, []string{"python", "-m", "http.server"}, "demo"); err != nil {
				t.Fatal(err)
			}
			container, installer := template.Spec.Containers[0], template.Spec.InitContainers[0]
			if diff := cmp.Diff(test.command, container.Command); diff != "" {
				t.Errorf("command (-want +got):\n%s", diff)
			}
			if diff := cmp.Diff(test.installer, append(installer.Command, installer.Args...)); diff != "" {
				t.Errorf("installer (-want +got):\n%s", diff)
			}
			env := map[string]string{}
			for _, variable := range container.Env {
				env[variable.Name] = variable.Value
			}
			if diff := cmp.Diff(test.env, env); diff != "" {
				t.Errorf("environment (-want +got):\n%s", diff)
			}
			if mount := container.VolumeMounts[0]; !mount.ReadOnly || mount.MountPath != "/opt/opensandbox" {
				t.Errorf("execd is mounted as %+v: the volume counts as one with files to lose, unless it is read-only", mount)
			}
			if _, gpu := installer.Resources.Limits["nvidia.com/gpu"]; gpu || installer.Resources.Limits.Memory().String() != "64Mi" {
				t.Errorf("the installer asks for %v: the Pod would need more than its sandbox", installer.Resources.Limits)
			}
			if got := Entrypoint(&container); !cmp.Equal(got, []string{"python", "-m", "http.server"}) {
				t.Errorf("shown as %q", got)
			}
			if !Injected(&template.Spec) {
				t.Error("is not seen as injected")
			}
			again := template.DeepCopy()
			if err := test.execd.Into(again, Container, []string{"python", "-m", "http.server"}, "demo"); err != nil {
				t.Fatal(err)
			}
			if diff := cmp.Diff(template, again); diff != "" {
				t.Errorf("a second time makes another template (-first +second):\n%s", diff)
			}
			Remove(template)
			before.Spec.Containers[0].Command = []string{"python", "-m", "http.server"}
			if diff := cmp.Diff(before, template, cmpopts.EquateEmpty()); diff != "" {
				t.Errorf("taken out again (-want +got):\n%s", diff)
			}
		})
	}
}

func TestWhatIsInExecdsWay(t *testing.T) {
	mounted := func(at string) *corev1.PodTemplateSpec {
		return templateOf(corev1.Container{Name: Container, VolumeMounts: []corev1.VolumeMount{{Name: "data", MountPath: at}}})
	}
	taken := templateOf(corev1.Container{Name: Container})
	taken.Spec.Volumes = []corev1.Volume{{Name: Volume}}
	for name, test := range map[string]struct {
		template *corev1.PodTemplateSpec
		refused  bool
	}{
		"nothing":                        {templateOf(corev1.Container{Name: Container}), false},
		"another name":                   {templateOf(corev1.Container{Name: "main"}), true},
		"a volume of that name":          {taken, true},
		"a mount at its place":           {mounted("/opt/opensandbox"), true},
		"a mount below it":               {mounted("/opt/opensandbox/data"), true},
		"a mount above it":               {mounted("/opt/"), true},
		"a mount beside it":              {mounted("/opt/opensandbox-data"), false},
		"a way round to it":              {mounted("/opt/../opt/opensandbox"), true},
		"the root, which Kubernetes has": {mounted("/"), false},
	} {
		t.Run(name, func(t *testing.T) {
			err := Execd{Image: "execd", Flavor: Own}.Into(test.template, Container, []string{"sleep"}, "demo")
			if (err != nil) != test.refused {
				t.Errorf("answer: %v", err)
			}
		})
	}
}

// Whoever sets the file of OpenSandbox's execd keeps it.
func TestACallersOwnEnvironmentFile(t *testing.T) {
	template := templateOf(corev1.Container{Name: Container, Env: []corev1.EnvVar{{Name: EnvFile, Value: "/workspace/env.list"}}})
	if err := (Execd{Flavor: OpenSandbox}).Into(template, Container, []string{"sleep"}, "demo"); err != nil {
		t.Fatal(err)
	}
	count := 0
	for _, variable := range template.Spec.Containers[0].Env {
		if variable.Name == EnvFile {
			count++
			if variable.Value != "/workspace/env.list" {
				t.Errorf("is %s", variable.Value)
			}
		}
	}
	if count != 1 {
		t.Errorf("is there %d times", count)
	}
	Remove(template)
	if len(template.Spec.Containers[0].Env) != 1 {
		t.Errorf("after it is taken out: %v", template.Spec.Containers[0].Env)
	}
}

// A sandbox that somebody has made with kubectl is shown as it is.
func TestEntrypointOfOthers(t *testing.T) {
	got := Entrypoint(&corev1.Container{Command: []string{"sh", "-c"}, Args: []string{"echo $$(HOME)"}})
	if diff := cmp.Diff([]string{"sh", "-c", "echo $$(HOME)"}, got); diff != "" {
		t.Error(diff)
	}
	if got := Entrypoint(&corev1.Container{}); len(got) != 0 {
		t.Errorf("of the image's own: %q", got)
	}
}

func TestFlavorOf(t *testing.T) {
	for image, want := range map[string]Flavor{
		"opensandbox/execd:v1.0.19": OpenSandbox,
		"sandbox-registry.cn-zhangjiakou.cr.aliyuncs.com/opensandbox/execd:v1.0.19": OpenSandbox,
		"registry.example.com:5000/mirror/opensandbox/execd@sha256:" + digest:       OpenSandbox,
		"registry.example.com/execd":                         Own,
		"registry.example.com/not-opensandbox/execd":         Own,
		"registry.example.com/opensandbox/execd-static":      Own,
		"ghcr.io/opensandbox-io/sandbox-apiserver/execd:dev": Own,
	} {
		if got, err := FlavorOf(image); err != nil || got != want {
			t.Errorf("%s: %s (%v), want %s", image, got, err, want)
		}
	}
	if _, err := FlavorOf("Not An Image"); err == nil {
		t.Error("what is no image is taken for one")
	}
}

var digest = strings.Repeat("0123456789abcdef", 4)

// expand is what Kubernetes makes of a text, by its rules: $$ is $, $(NAME) is the variable, or itself where there is none.
// https://kubernetes.io/docs/tasks/inject-data-application/define-interdependent-environment-variables/
func expand(text string, variables map[string]string) string {
	var b strings.Builder
	for i := 0; i < len(text); i++ {
		if text[i] != '$' || i+1 == len(text) {
			b.WriteByte(text[i])
			continue
		}
		switch text[i+1] {
		case '$':
			b.WriteByte('$')
			i++
		case '(':
			end := strings.IndexByte(text[i:], ')')
			if end < 0 {
				b.WriteByte('$')
				continue
			}
			name := text[i+2 : i+end]
			if value, found := variables[name]; found {
				b.WriteString(value)
			} else {
				b.WriteString("$(" + name + ")")
			}
			i += end
		default:
			b.WriteByte('$')
		}
	}
	return b.String()
}

// A shell's own $$ and $(…) reach it. Kubernetes would make others of them.
// https://github.com/kubernetes/kubernetes/issues/101137.
func TestTextReachesTheContainerAsItIs(t *testing.T) {
	for _, text := range []string{
		"", "plain", "$", "$$", "$$$", "$$$$", "$(", "$(HOME)", "$$(HOME)", "$$$(HOME)", "echo $$", "echo $(date) $HOME ${HOME} $$(HOME)",
		"p4$$w0rd", "a$$", "$)", "$(HOME", "(HOME)$",
	} {
		if got := expand(Literal(text), map[string]string{"HOME": "/root"}); got != text {
			t.Errorf("%q arrives as %q (written as %q)", text, got, Literal(text))
		}
		if got := Unliteral(Literal(text)); got != text {
			t.Errorf("%q is shown as %q", text, got)
		}
	}
	entrypoint := []string{"sh", "-c", "echo $$ $(HOME)"}
	template := templateOf(corev1.Container{Name: Container})
	if err := (Execd{Flavor: Own}).Into(template, Container, entrypoint, "demo"); err != nil {
		t.Fatal(err)
	}
	if got := expand(template.Spec.Containers[0].Command[5], map[string]string{"HOME": "/root"}); got != entrypoint[2] {
		t.Errorf("the shell would get %q", got)
	}
	if got := Entrypoint(&template.Spec.Containers[0]); !cmp.Equal(got, entrypoint) {
		t.Errorf("shown as %q", got)
	}
}

func FuzzText(f *testing.F) {
	f.Add("$$(HOME)$")
	f.Fuzz(func(t *testing.T, text string) {
		if got := expand(Literal(text), map[string]string{"HOME": "/root", "": "empty"}); got != text {
			t.Errorf("%q arrives as %q", text, got)
		}
		if got := Unliteral(Literal(text)); got != text {
			t.Errorf("%q is shown as %q", text, got)
		}
	})
}
