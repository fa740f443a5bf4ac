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

package sandboxes

import (
	"encoding/json"
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/opensandbox-io/sandbox-apiserver/apis/lifecycle/v1alpha1"
	"github.com/opensandbox-io/sandbox-apiserver/pkg/gateway/injection"
)

var demo = identityOf{namespace: "default", id: "demo", fingerprint: "f", secret: "demo.x.image-pull"}

func made(t *testing.T, body string, from *v1alpha1.SandboxSnapshot) *v1alpha1.Sandbox {
	t.Helper()
	sandbox, err := asked(t, body).sandbox(demo, from, settings())
	if err != nil {
		t.Fatal(err)
	}
	// As kube-apiserver has it.
	encoded, err := json.Marshal(sandbox)
	if err != nil {
		t.Fatal(err)
	}
	stored := &v1alpha1.Sandbox{}
	if err := json.Unmarshal(encoded, stored); err != nil {
		t.Fatal(err)
	}
	return stored
}

func env(container *corev1.Container) map[string]string {
	values := map[string]string{}
	for _, variable := range container.Env {
		values[variable.Name] = variable.Value
	}
	return values
}

func TestASandboxOfAnImage(t *testing.T) {
	body := `{"image":{"uri":"registry.example.com/team/python:3.12","auth":{"username":"u","password":"hunter2"}},
		"entrypoint":["sh","-c","echo $$ $(HOME)"],"timeout":600,"resourceLimits":{"cpu":"500m","memory":"256Mi","gpu":"1"},"resourceRequests":{"cpu":"100m"},
		"env":{"B":"$(A)","A":"p4$$"},"metadata":{"team":"blue"},"platform":{"os":"linux","arch":"arm64"},
		"extensions":{"opensandbox.extensions.trace":"t1","storage.id":"x"},
		"volumes":[{"name":"data","mountPath":"/data","subPath":"a","pvc":{"claimName":"c"}},{"name":"ro","mountPath":"/ro","readOnly":true,"host":{"path":"/srv/shared/"}}]}`
	sandbox := made(t, body, nil)
	if sandbox.Name != "demo" || sandbox.Namespace != "default" {
		t.Errorf("is %s/%s", sandbox.Namespace, sandbox.Name)
	}
	if diff := cmp.Diff(map[string]string{"team": "blue"}, sandbox.Labels); diff != "" {
		t.Errorf("labels (-want +got):\n%s", diff)
	}
	if diff := cmp.Diff(map[string]string{
		"lifecycle.opensandbox.io/extensions":   `{"opensandbox.extensions.trace":"t1","storage.id":"x"}`,
		"lifecycle.opensandbox.io/request-hash": "f",
		"opensandbox.io/extensions.trace":       "t1",
	}, sandbox.Annotations); diff != "" {
		t.Errorf("annotations (-want +got):\n%s", diff)
	}
	spec := sandbox.Spec
	if !spec.ExpireTime.Time.Equal(dawn.Add(10*time.Minute)) || spec.ExpireAction != v1alpha1.ExpireActionDelete {
		t.Errorf("expires at %v by %s", spec.ExpireTime, spec.ExpireAction)
	}
	if diff := cmp.Diff([]string{"sandbox"}, spec.Snapshot.Containers); diff != "" {
		t.Errorf("is kept of it (-want +got):\n%s", diff)
	}
	pod := spec.Template.Spec
	if pod.RestartPolicy != corev1.RestartPolicyNever || *pod.AutomountServiceAccountToken || *pod.EnableServiceLinks {
		t.Errorf("restarts %s, token %v, addresses of services %v", pod.RestartPolicy, *pod.AutomountServiceAccountToken, *pod.EnableServiceLinks)
	}
	if diff := cmp.Diff(map[string]string{"kubernetes.io/os": "linux", "kubernetes.io/arch": "arm64"}, pod.NodeSelector); diff != "" {
		t.Errorf("nodes (-want +got):\n%s", diff)
	}
	container := pod.Containers[0]
	if diff := cmp.Diff(map[string]string{"A": "p4$$$", "B": "$$(A)", "EXECD": "/opt/opensandbox/execd", "OPENSANDBOX_ID": "demo"}, env(&container)); diff != "" {
		t.Errorf("environment (-want +got):\n%s", diff)
	}
	list := func(cpu, memory string) corev1.ResourceList {
		return corev1.ResourceList{"cpu": resource.MustParse(cpu), "memory": resource.MustParse(memory), "nvidia.com/gpu": resource.MustParse("1")}
	}
	if diff := cmp.Diff(corev1.ResourceRequirements{Limits: list("500m", "256Mi"), Requests: list("100m", "256Mi")}, container.Resources); diff != "" {
		t.Errorf("resources (-want +got):\n%s", diff)
	}
	if diff := cmp.Diff([]corev1.VolumeMount{
		{Name: "data", MountPath: "/data", SubPath: "a"}, {Name: "ro", MountPath: "/ro", ReadOnly: true},
		{Name: "opensandbox-bin", MountPath: "/opt/opensandbox", ReadOnly: true},
	}, container.VolumeMounts); diff != "" {
		t.Errorf("mounts (-want +got):\n%s", diff)
	}
	if pod.Volumes[1].HostPath.Path != "/srv/shared" || pod.Volumes[0].PersistentVolumeClaim.ClaimName != "c" {
		t.Errorf("volumes: %v", pod.Volumes)
	}
	if encoded, _ := json.Marshal(sandbox); strings.Contains(string(encoded), "hunter2") {
		t.Errorf("the password is in the sandbox: %s", encoded)
	}

	shown := show(sandbox)
	if diff := cmp.Diff([]string{"sh", "-c", "echo $$ $(HOME)"}, shown.Entrypoint); diff != "" {
		t.Errorf("entrypoint as it is shown (-want +got):\n%s", diff)
	}
	if shown.Image.Value.URI != "registry.example.com/team/python:3.12" || shown.Image.Value.Auth.Set {
		t.Errorf("image as it is shown: %+v", shown.Image)
	}
	if diff := cmp.Diff(map[string]string{"opensandbox.extensions.trace": "t1", "storage.id": "x"}, map[string]string(shown.Extensions.Value)); diff != "" {
		t.Errorf("extensions as they are shown (-want +got):\n%s", diff)
	}
	if shown.Platform.Value.Arch != "arm64" || shown.Metadata.Value["team"] != "blue" || !shown.ExpiresAt.Value.Equal(dawn.Add(10*time.Minute)) {
		t.Errorf("shown: %+v", shown)
	}
}

func TestASandboxThatNeverExpires(t *testing.T) {
	sandbox := made(t, with(""), nil)
	if sandbox.Spec.ExpireTime != nil || sandbox.Spec.ExpireAction != "" {
		t.Errorf("expires at %v by %q", sandbox.Spec.ExpireTime, sandbox.Spec.ExpireAction)
	}
	if show(sandbox).ExpiresAt.Set {
		t.Error("is shown to expire")
	}
}

// snapshotOf is a snapshot that has succeeded of a sandbox with this template.
func snapshotOf(template *corev1.PodTemplateSpec, containers ...string) *v1alpha1.SandboxSnapshot {
	snapshot := &v1alpha1.SandboxSnapshot{
		ObjectMeta: metav1.ObjectMeta{Namespace: "default", Name: "snap", UID: "snap-uid"},
		Status:     v1alpha1.SandboxSnapshotStatus{Phase: v1alpha1.SnapshotSucceed, Template: template},
	}
	for _, name := range containers {
		snapshot.Status.Containers = append(snapshot.Status.Containers, v1alpha1.ContainerSnapshot{ContainerName: name})
	}
	return snapshot
}

func TestASandboxOfASnapshotOfOurs(t *testing.T) {
	source := made(t, `{"image":{"uri":"python:3.12","auth":{"username":"u","password":"p"}},"entrypoint":["python","serve.py"],
		"resourceLimits":{"cpu":"1","memory":"1Gi"},"env":{"KEPT":"1","CHANGED":"1"},"metadata":{"team":"red"},
		"volumes":[{"name":"data","mountPath":"/data","pvc":{"claimName":"theirs"}}]}`, nil)
	from := snapshotOf(source.Spec.Template, "sandbox")

	clone := made(t, `{"snapshotId":"snap","env":{"CHANGED":"2","NEW":"3"},"metadata":{"team":"blue"},"resourceLimits":{"cpu":"2"}}`, from)
	pod, container := clone.Spec.Template.Spec, clone.Spec.Template.Spec.Containers[0]
	if clone.Spec.RestoreFrom.SnapshotName != "snap" || !cmp.Equal(clone.Spec.Snapshot.Containers, []string{"sandbox"}) {
		t.Errorf("starts from %v, keeps %v", clone.Spec.RestoreFrom, clone.Spec.Snapshot.Containers)
	}
	if diff := cmp.Diff(map[string]string{"KEPT": "1", "CHANGED": "2", "NEW": "3", "EXECD": "/opt/opensandbox/execd", "OPENSANDBOX_ID": "demo"}, env(&container)); diff != "" {
		t.Errorf("environment (-want +got):\n%s", diff)
	}
	if len(container.Env) != 5 {
		t.Errorf("variables are there twice: %v", container.Env)
	}
	if container.Resources.Limits.Cpu().String() != "2" || len(container.Resources.Limits) != 1 {
		t.Errorf("resources: %v", container.Resources)
	}
	if container.Image != "python:3.12" || container.Command[3] != "tail" {
		t.Errorf("image %s, command %v", container.Image, container.Command)
	}
	if len(pod.ImagePullSecrets) != 0 {
		t.Errorf("uses the other sandbox's Secret, which goes with that: %v", pod.ImagePullSecrets)
	}
	if len(pod.Volumes) != 1 || pod.Volumes[0].Name != injection.Volume || len(container.VolumeMounts) != 1 {
		t.Errorf("mounts what nobody has asked for: %v", pod.Volumes)
	}
	if len(pod.InitContainers) != 1 {
		t.Errorf("execd comes in %d times", len(pod.InitContainers))
	}
	shown := show(clone)
	if shown.SnapshotId.Value != "snap" || shown.Image.Set || !cmp.Equal(shown.Entrypoint, []string{"tail", "-f", "/dev/null"}) {
		t.Errorf("shown: %+v", shown)
	}

	again := made(t, `{"snapshotId":"snap","entrypoint":["python","other.py"]}`, snapshotOf(clone.Spec.Template, "sandbox"))
	if got := show(again).Entrypoint; !cmp.Equal(got, []string{"python", "other.py"}) {
		t.Errorf("a clone of a clone runs %v", got)
	}
	if got := again.Spec.Template.Spec.Containers[0].Resources.Limits.Cpu().String(); got != "2" {
		t.Errorf("what nothing is said of is not the source's: %s processors", got)
	}
}

// What somebody has made with kubectl brings along what it needs to run.
func TestASandboxOfASnapshotOfAnothers(t *testing.T) {
	template := &corev1.PodTemplateSpec{
		ObjectMeta: metav1.ObjectMeta{Labels: map[string]string{"app": "shop"}},
		Spec: corev1.PodSpec{
			Volumes:          []corev1.Volume{{Name: "config", VolumeSource: corev1.VolumeSource{ConfigMap: &corev1.ConfigMapVolumeSource{}}}},
			ImagePullSecrets: []corev1.LocalObjectReference{{Name: "team-registry"}},
			Containers: []corev1.Container{
				{Name: "main", Image: "shop:1", Args: []string{"--port=80"}, VolumeMounts: []corev1.VolumeMount{{Name: "config", MountPath: "/etc/shop"}}},
				{Name: "proxy", Image: "proxy:1"},
			},
		},
	}
	clone := made(t, `{"snapshotId":"snap","entrypoint":["shop"],"volumes":[{"name":"data","mountPath":"/data","pvc":{"claimName":"c"}}]}`, snapshotOf(template, "main", "proxy"))
	pod := clone.Spec.Template.Spec
	if diff := cmp.Diff([]string{"/opt/opensandbox/execd", "run", "--", "shop"}, pod.Containers[0].Command); diff != "" || len(pod.Containers[0].Args) != 0 {
		t.Errorf("the first container runs (-want +got):\n%s with %v", diff, pod.Containers[0].Args)
	}
	if diff := cmp.Diff(template.Spec.Containers[1], pod.Containers[1]); diff != "" {
		t.Errorf("the second one has changed:\n%s", diff)
	}
	if !cmp.Equal(clone.Spec.Snapshot.Containers, []string{"main", "proxy"}) || pod.ImagePullSecrets[0].Name != "team-registry" || len(pod.Volumes) != 3 {
		t.Errorf("keeps %v, pulls by %v, mounts %v", clone.Spec.Snapshot.Containers, pod.ImagePullSecrets, pod.Volumes)
	}

	_, err := asked(t, `{"snapshotId":"snap","volumes":[{"name":"config","mountPath":"/x","pvc":{"claimName":"c"}}]}`).sandbox(demo, snapshotOf(template, "main"), settings())
	refusal(t, err, http.StatusBadRequest, "VOLUME::DUPLICATE_NAME", `"config"`)
	_, err = asked(t, `{"snapshotId":"snap"}`).sandbox(demo, snapshotOf(nil, "main"), settings())
	refusal(t, err, http.StatusConflict, "SNAPSHOT::INVALID_RESTORE_CONFIG", `"snap"`)
	inTheWay := template.DeepCopy()
	inTheWay.Spec.Containers[0].VolumeMounts[0].MountPath = "/opt/opensandbox/x"
	_, err = asked(t, `{"snapshotId":"snap"}`).sandbox(demo, snapshotOf(inTheWay, "main"), settings())
	refusal(t, err, http.StatusConflict, "SNAPSHOT::INVALID_RESTORE_CONFIG", "/opt/opensandbox/x")
}

// Sandboxes that somebody has made with kubectl show up as they are.
func TestShowsSandboxesOfOthers(t *testing.T) {
	sandbox := stands("Running", "PodReady", "", "Running", "")
	sandbox.Labels = map[string]string{"team": "blue", "app.kubernetes.io/name": "shop", "lifecycle.opensandbox.io/x": "y"}
	sandbox.Annotations = map[string]string{annotationExtensions: "no JSON"}
	sandbox.Spec.Template = &corev1.PodTemplateSpec{Spec: corev1.PodSpec{Containers: []corev1.Container{
		{Name: "main", Image: "busybox", Command: []string{"sh", "-c"}, Args: []string{"sleep $$((60))"}}, {Name: "proxy", Image: "proxy"},
	}}}
	shown := show(sandbox)
	if shown.Image.Value.URI != "busybox" || !cmp.Equal(shown.Entrypoint, []string{"sh", "-c", "sleep $$((60))"}) {
		t.Errorf("image %v, entrypoint %q", shown.Image, shown.Entrypoint)
	}
	if diff := cmp.Diff(map[string]string{"team": "blue"}, map[string]string(shown.Metadata.Value)); diff != "" {
		t.Errorf("metadata (-want +got):\n%s", diff)
	}
	if shown.Extensions.Set || shown.Platform.Set || shown.ExpiresAt.Set {
		t.Errorf("shown: %+v", shown)
	}

	sandbox.Spec.Template, sandbox.Spec.RestoreFrom = nil, &v1alpha1.SandboxRestoreSource{SnapshotName: "snap"}
	shown = show(sandbox)
	if shown.SnapshotId.Value != "snap" || shown.Entrypoint == nil || shown.Image.Set {
		t.Errorf("without a template: %+v", shown)
	}
}

func TestDockerConfig(t *testing.T) {
	for uri, registry := range map[string]string{
		"python:3.12": "https://index.docker.io/v1/", "docker.io/team/x": "https://index.docker.io/v1/",
		"registry.example.com:5000/x@sha256:" + strings.Repeat("a", 64): "registry.example.com:5000", "ghcr.io/team/x:1": "ghcr.io", "localhost/x": "localhost",
	} {
		content, err := (&image{URI: uri, Username: "u", Password: "p:w"}).dockerConfig()
		if err != nil {
			t.Fatal(err)
		}
		want := `{"auths":{"` + registry + `":{"auth":"dTpwOnc=","password":"p:w","username":"u"}}}`
		if string(content) != want {
			t.Errorf("%s: %s, want %s", uri, content, want)
		}
	}
}

// A claim ends with the sandbox where that is asked for, and a claim's size and class are the caller's.
func TestClaims(t *testing.T) {
	sandbox := &v1alpha1.Sandbox{ObjectMeta: metav1.ObjectMeta{Namespace: "default", Name: "demo", UID: "uid"}}
	dependents := func(claim string) *corev1.PersistentVolumeClaim {
		t.Helper()
		wanted, err := asked(t, mounted(`{"name":"v","mountPath":"/v","pvc":`+claim+`}`)).dependents(sandbox)
		if err != nil {
			t.Fatal(err)
		}
		return wanted.claims[0].object
	}
	plain := dependents(`{"claimName":"c"}`)
	if plain.Spec.Resources.Requests.Storage().String() != "1Gi" || plain.Spec.AccessModes[0] != corev1.ReadWriteOnce || plain.Spec.StorageClassName != nil || plain.OwnerReferences != nil {
		t.Errorf("a claim that nothing is said of: %+v", plain)
	}
	full := dependents(`{"claimName":"c","deleteOnSandboxTermination":true,"storageClass":"","storage":"10Gi","accessModes":["ReadWriteMany"]}`)
	if full.Spec.Resources.Requests.Storage().String() != "10Gi" || full.Spec.AccessModes[0] != corev1.ReadWriteMany || *full.Spec.StorageClassName != "" {
		t.Errorf("a claim that all is said of: %+v", full)
	}
	if diff := cmp.Diff([]metav1.OwnerReference{{APIVersion: "lifecycle.opensandbox.io/v1alpha1", Kind: "Sandbox", Name: "demo", UID: "uid"}}, full.OwnerReferences); diff != "" {
		t.Errorf("its owner (-want +got):\n%s", diff)
	}
}
