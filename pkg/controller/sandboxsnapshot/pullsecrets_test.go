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

package sandboxsnapshot

import (
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	batchv1 "k8s.io/api/batch/v1"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"sigs.k8s.io/controller-runtime/pkg/client"
)

const base = `{"auths":{"base.example.com":{"auth":"czNjcmV0"}}}`

// pullSecret is a Secret of the sandbox's namespace.
func pullSecret(name string, kind corev1.SecretType, key, content string) *corev1.Secret {
	return &corev1.Secret{ObjectMeta: metav1.ObjectMeta{Namespace: namespace, Name: name}, Type: kind, Data: map[string][]byte{key: []byte(content)}}
}

func pullsWith(names ...string) func(*corev1.Pod) {
	return func(pod *corev1.Pod) {
		for _, name := range names {
			pod.Spec.ImagePullSecrets = append(pod.Spec.ImagePullSecrets, corev1.LocalObjectReference{Name: name})
		}
	}
}

// handedOver is the Secret that a Job has been given, nil without one.
func (f *fixture) handedOver(job *batchv1.Job) *corev1.Secret {
	f.Helper()
	secret := &corev1.Secret{}
	if err := f.host.Get(f.Context(), client.ObjectKeyFromObject(job), secret); apierrors.IsNotFound(err) {
		return nil
	} else if err != nil {
		f.Fatal(err)
	}
	return secret
}

func baseArgs(job *batchv1.Job) []string {
	return slices.DeleteFunc(slices.Clone(job.Spec.Template.Spec.Containers[0].Args), func(arg string) bool { return !strings.HasPrefix(arg, "--base-") })
}

func TestPullSecretsAreHandedOver(t *testing.T) {
	f := newFixture(t, pausing("demo"), attemptOf("demo"),
		podOf("demo", pullsWith("today", "old", "today", "resume", "broken", "missing", "forbidden")),
		pullSecret("today", corev1.SecretTypeDockerConfigJson, corev1.DockerConfigJsonKey, base),
		pullSecret("old", corev1.SecretTypeDockercfg, corev1.DockerConfigKey, `{"old.example.com":{"auth":"czNjcmV0"}}`),
		pullSecret("resume", corev1.SecretTypeDockerConfigJson, corev1.DockerConfigJsonKey, `{"auths":{"not":{}}}`),
		pullSecret("broken", corev1.SecretTypeDockerConfigJson, corev1.DockerConfigJsonKey, `s3cret`),
		pullSecret("forbidden", corev1.SecretTypeDockerConfigJson, corev1.DockerConfigJsonKey, base),
		pullSecret("not-asked-for", corev1.SecretTypeDockerConfigJson, corev1.DockerConfigJsonKey, base),
	)
	f.r.ResumePullSecret = "resume"
	f.unreadable = "forbidden"
	f.is(f.visits("demo-gen1"), committing)
	job := f.hasJobs(commit)

	secret := f.handedOver(job)
	if secret == nil {
		t.Fatal("there is no Secret for the Job")
	}
	want := map[string][]byte{"00.json": []byte(base), "01.json": []byte(`{"auths":{"old.example.com":{"auth":"czNjcmV0"}}}`)}
	if diff := cmp.Diff(want, secret.Data); diff != "" {
		t.Errorf("it holds (-want +got):\n%s", diff)
	}
	if owner := metav1.GetControllerOf(secret); owner == nil || owner.UID != job.UID || secret.Immutable == nil || !*secret.Immutable {
		t.Errorf("it does not go with its Job: %+v", secret.ObjectMeta)
	}
	args := baseArgs(job)
	if len(args) != 3 || args[1] != "--base-registry-config=/etc/image-committer/base-registries/00.json" || args[2] != "--base-registry-config=/etc/image-committer/base-registries/01.json" {
		t.Errorf("arguments %q", args)
	}
	for _, name := range []string{"default/broken", "default/missing does not exist", "may not read the pull secret default/forbidden"} {
		if !strings.Contains(args[0], name) {
			t.Errorf("the hint does not say %q: %s", name, args[0])
		}
	}
	for _, text := range append(job.Spec.Template.Spec.Containers[0].Args, job.String()) {
		if strings.Contains(text, "s3cret") || strings.Contains(text, "czNjcmV0") {
			t.Errorf("the Job tells a secret: %s", text)
		}
	}
	mounted := false
	for _, v := range job.Spec.Template.Spec.Volumes {
		mounted = mounted || v.Secret != nil && v.Secret.SecretName == secret.Name && (v.Secret.Optional == nil || !*v.Secret.Optional)
	}
	if !mounted {
		t.Error("the Job's Pod does not wait for the Secret")
	}
}

func TestAPodWithoutPullSecrets(t *testing.T) {
	f := newFixture(t, pausing("demo"), podOf("demo"), attemptOf("demo"))
	f.is(f.visits("demo-gen1"), committing)
	if job := f.hasJobs(commit); f.handedOver(job) != nil || len(baseArgs(job)) > 0 {
		t.Errorf("arguments %q, Secret %v", baseArgs(job), f.handedOver(job))
	}
}

// TestACrashBeforeTheHandOver leaves a Job whose Pod waits for its Secret.
func TestACrashBeforeTheHandOver(t *testing.T) {
	f := newFixture(t, pausing("demo"), podOf("demo", pullsWith("today")), attemptOf("demo"),
		pullSecret("today", corev1.SecretTypeDockerConfigJson, corev1.DockerConfigJsonKey, base))
	f.refuseSecrets = true
	f.is(f.visits("demo-gen1"), "Pending Ready=False/HeldUp")
	job := f.hasJobs(commit)
	if f.handedOver(job) != nil {
		t.Fatal("the Secret is there already")
	}
	f.restart()
	f.is(f.visits("demo-gen1"), committing)
	if secret := f.handedOver(job); secret == nil || string(secret.Data["00.json"]) != base {
		t.Errorf("the Job got %v", secret)
	}
}
