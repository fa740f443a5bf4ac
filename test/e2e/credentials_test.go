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
	"context"
	"encoding/base64"
	"encoding/json"
	"fmt"
	"maps"
	"slices"
	"strings"
	"sync"
	"testing"

	"github.com/google/go-containerregistry/pkg/authn"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/watch"
	"k8s.io/utils/ptr"

	"github.com/opensandbox-io/sandbox-apiserver/apis/lifecycle/v1alpha1"
)

const (
	pushSecret = "e2e-push"
	pullSecret = "e2e-pull"
)

// One server with the registry that wants credentials serves all of these: each start of it
// takes seconds.
func TestARegistryThatWantsCredentials(t *testing.T) {
	c := theCluster(t)
	c.allowServerToRead(t, "secrets", pushSecret)
	t.Cleanup(func() { c.deleteSecret(t, systemNamespace, pushSecret) })
	c.withServerArgs(t, "--snapshot-registry="+c.auth.host+"/sandboxes", "--snapshot-push-secret="+pushSecret, "--resume-pull-secret="+pullSecret)

	t.Run("a pause fails for as long as the push secret is no good, and the sandbox runs on", pushSecretIsRepaired)
	t.Run("pause and resume work with the push and the pull secret", secretsAreUsed)
	t.Run("a tenant's namespace may be restricted and have a quota of no Jobs, and never holds the push secret", tenantIsRestricted)
}

func pushSecretIsRepaired(t *testing.T) {
	r := newRoom(t)
	r.createSecret(r.namespace, pullSecret, corev1.SecretTypeDockerConfigJson, r.credentials(r.auth.password))
	r.deleteSecret(t, systemNamespace, pushSecret)
	before := r.start("demo")
	w := r.startWriter("demo")

	// The controller tries again by itself in the meantime, so attempts are not counted one by one.
	attempts := int64(0)
	const wrongPassword = "not-the-password"
	for _, trouble := range []struct {
		name   string
		make   func()
		reason string
	}{
		{"missing", func() {}, v1alpha1.ReasonPushSecretNotFound},
		{"of the wrong type", func() {
			r.createSecret(systemNamespace, pushSecret, corev1.SecretTypeOpaque, r.credentials(r.auth.password))
		}, v1alpha1.ReasonPushSecretInvalid},
		{"with a wrong password", func() {
			r.createSecret(systemNamespace, pushSecret, corev1.SecretTypeDockerConfigJson, r.credentials(wrongPassword))
		}, v1alpha1.ReasonPushSecretInvalid},
	} {
		r.deleteSecret(t, systemNamespace, pushSecret)
		trouble.make()
		r.pause("demo")
		failed := r.await("demo", "running on after an attempt with a secret "+trouble.name, func(s *v1alpha1.Sandbox) bool {
			return s.Status.Phase == v1alpha1.SandboxRunning && s.Status.SnapshotAttempts > attempts &&
				reasonOf(s.Status.Conditions, v1alpha1.ConditionPaused) == trouble.reason
		})
		if failed.Status.PodUID != before.Status.PodUID || failed.Spec.DesiredState != v1alpha1.DesiredStatePaused {
			t.Errorf("with a secret %s the sandbox is %s", trouble.name, describe(failed))
		}
		attempts = failed.Status.SnapshotAttempts
		name := fmt.Sprintf("demo-gen%d", attempts)
		snapshot := r.snapshot(name)
		if snapshot.Status.Phase != v1alpha1.SnapshotFailed || reasonOf(snapshot.Status.Conditions, v1alpha1.ConditionFailed) != trouble.reason {
			t.Errorf("with a secret %s snapshot %s is %s: %v", trouble.name, name, snapshot.Status.Phase, snapshot.Status.Conditions)
		}
		message := messageOf(failed.Status.Conditions, v1alpha1.ConditionPaused)
		if strings.Contains(message, wrongPassword) || strings.Contains(message, r.auth.password) {
			t.Errorf("with a secret %s the condition tells the password: %s", trouble.name, message)
		}
		t.Logf("with a secret %s: %s", trouble.name, message)
		r.mustNotBeFrozen()
		r.awaitWrites(w, 20)
	}

	r.deleteSecret(t, systemNamespace, pushSecret)
	r.createSecret(systemNamespace, pushSecret, corev1.SecretTypeDockerConfigJson, r.credentials(r.auth.password))
	r.pauseAndResume("demo")
	<-w.ended
	if acknowledged, onDisk := w.acknowledged.Load(), r.lastLine("demo"); onDisk < acknowledged {
		t.Errorf("the last line on disk is %d, the last one acknowledged was %d", onDisk, acknowledged)
	}
}

func secretsAreUsed(t *testing.T) {
	r := newRoom(t)
	r.deleteSecret(t, systemNamespace, pushSecret)
	r.createSecret(systemNamespace, pushSecret, corev1.SecretTypeDockerConfigJson, r.credentials(r.auth.password))
	r.start("demo")
	r.sh("demo", "echo kept > /root/file")

	r.pause("demo")
	_, snapshot := r.awaitPaused("demo")
	saved := snapshot.Status.Containers[0]
	if !strings.HasPrefix(saved.ImageURI, r.auth.host+"/") {
		t.Errorf("the image is %s, want it in %s", saved.ImageURI, r.auth.host)
	}
	r.mustBeInRegistry(saved, authn.FromConfig(authn.AuthConfig{Username: r.auth.username, Password: r.auth.password}))
	r.noCredentialIsTold("demo")

	// Without the pull secret the resume says what is wrong, and goes on once it is there.
	r.resume("demo")
	r.awaitReason("demo", v1alpha1.ConditionReady, v1alpha1.ReasonImagePullFailed)
	r.createSecret(r.namespace, pullSecret, corev1.SecretTypeDockerConfigJson, r.credentials(r.auth.password))
	r.awaitReady("demo")
	if got := r.sh("demo", "cat /root/file"); got != "kept\n" {
		t.Errorf("after resume the file holds %q", got)
	}
}

func tenantIsRestricted(t *testing.T) {
	r := newRoom(t, map[string]string{"pod-security.kubernetes.io/enforce": "restricted"})
	if _, err := r.kube.CoreV1().ResourceQuotas(r.namespace).Create(t.Context(), &corev1.ResourceQuota{
		ObjectMeta: metav1.ObjectMeta{Name: "no-jobs"},
		Spec:       corev1.ResourceQuotaSpec{Hard: corev1.ResourceList{"count/jobs.batch": resource.MustParse("0")}},
	}, metav1.CreateOptions{}); err != nil {
		t.Fatal(err)
	}
	r.deleteSecret(t, systemNamespace, pushSecret)
	r.createSecret(systemNamespace, pushSecret, corev1.SecretTypeDockerConfigJson, r.credentials(r.auth.password))
	r.createSecret(r.namespace, pullSecret, corev1.SecretTypeDockerConfigJson, r.credentials(r.auth.password))
	seen := r.record()

	r.start("demo", func(s *v1alpha1.Sandbox) {
		s.Spec.Template.Spec.SecurityContext = &corev1.PodSecurityContext{
			RunAsNonRoot: ptr.To(true), RunAsUser: ptr.To[int64](1000),
			SeccompProfile: &corev1.SeccompProfile{Type: corev1.SeccompProfileTypeRuntimeDefault},
		}
		s.Spec.Template.Spec.Containers[0].SecurityContext = &corev1.SecurityContext{
			AllowPrivilegeEscalation: ptr.To(false), Capabilities: &corev1.Capabilities{Drop: []corev1.Capability{"ALL"}},
		}
	})
	r.sh("demo", "echo kept > /home/sandbox/file && chmod 600 /home/sandbox/file")
	r.pauseAndResume("demo")
	if got := r.sh("demo", "cat /home/sandbox/file; stat -c '%u %a' /home/sandbox/file"); got != "kept\n1000 600\n" {
		t.Errorf("after resume there is %q", got)
	}

	if got, want := seen.names(), "Pod demo, Secret "+pullSecret; got != want {
		t.Errorf("the namespace has seen %s; want %s", got, want)
	}
	pods, err := r.jobPods(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	var components []string
	for i := range pods {
		components = append(components, pods[i].Labels[v1alpha1.LabelComponent])
	}
	slices.Sort(components)
	components = slices.Compact(components) // an attempt may fail, and another follow
	if want := []string{"commit"}; !slices.Equal(components, want) {
		t.Errorf("the namespace of the Jobs has Pods of this one for %q, want %q", components, want)
	}
}

// credentials is the content of a Secret for the registry that wants them.
func (c *cluster) credentials(password string) map[string][]byte {
	token := base64.StdEncoding.EncodeToString([]byte(c.auth.username + ":" + password))
	config, err := json.Marshal(map[string]any{"auths": map[string]any{c.auth.host: map[string]string{"auth": token}}})
	if err != nil {
		panic(err)
	}
	return map[string][]byte{corev1.DockerConfigJsonKey: config}
}

func (r *room) createSecret(namespace, name string, kind corev1.SecretType, data map[string][]byte) {
	r.t.Helper()
	secret := &corev1.Secret{ObjectMeta: metav1.ObjectMeta{Name: name}, Type: kind, Data: data}
	if _, err := r.kube.CoreV1().Secrets(namespace).Create(r.t.Context(), secret, metav1.CreateOptions{}); err != nil {
		r.t.Fatalf("create Secret %s/%s: %v", namespace, name, err)
	}
}

func (c *cluster) deleteSecret(t *testing.T, namespace, name string) {
	t.Helper()
	if err := c.kube.CoreV1().Secrets(namespace).Delete(context.Background(), name, metav1.DeleteOptions{}); err != nil && !apierrors.IsNotFound(err) {
		t.Errorf("delete Secret %s/%s: %v", namespace, name, err)
	}
}

// record notes every Pod, Job and Secret that is ever in the room, from now to the test's end.
func (r *room) record() *recording {
	r.t.Helper()
	seen := &recording{objects: map[string]bool{}}
	all := metav1.ListOptions{ResourceVersion: ""}
	for kind, start := range map[string]func() (watch.Interface, error){
		"Pod":    func() (watch.Interface, error) { return r.kube.CoreV1().Pods(r.namespace).Watch(r.t.Context(), all) },
		"Job":    func() (watch.Interface, error) { return r.kube.BatchV1().Jobs(r.namespace).Watch(r.t.Context(), all) },
		"Secret": func() (watch.Interface, error) { return r.kube.CoreV1().Secrets(r.namespace).Watch(r.t.Context(), all) },
	} {
		stream, err := start()
		if err != nil {
			r.t.Fatalf("watch %ss: %v", kind, err)
		}
		r.t.Cleanup(stream.Stop)
		go seen.follow(kind, stream)
	}
	return seen
}

type recording struct {
	mutex   sync.Mutex
	objects map[string]bool
}

func (s *recording) follow(kind string, stream watch.Interface) {
	for event := range stream.ResultChan() {
		name := "(" + string(event.Type) + ")"
		if object, ok := event.Object.(metav1.Object); ok {
			name = object.GetName()
		}
		s.mutex.Lock()
		s.objects[kind+" "+name] = true
		s.mutex.Unlock()
	}
}

func (s *recording) names() string {
	s.mutex.Lock()
	defer s.mutex.Unlock()
	return strings.Join(slices.Sorted(maps.Keys(s.objects)), ", ")
}
