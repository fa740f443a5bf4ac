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

package integration

import (
	"context"
	"encoding/json"
	"io"
	"net/http"
	"regexp"
	"strings"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	apimeta "k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/client-go/rest"

	"github.com/opensandbox-io/sandbox-apiserver/apis/lifecycle/v1alpha1"
	"github.com/opensandbox-io/sandbox-apiserver/generated/clientset/versioned"
	typed "github.com/opensandbox-io/sandbox-apiserver/generated/clientset/versioned/typed/lifecycle/v1alpha1"
)

// fixture is a test's own namespace on a server, and its clients.
type fixture struct {
	*testing.T
	running   *running
	namespace string
	// sandboxes and snapshots are the admin's; the controller's have all rights and write status.
	sandboxes  typed.SandboxInterface
	snapshots  typed.SandboxSnapshotInterface
	controller typed.LifecycleV1alpha1Interface
}

func newFixture(t *testing.T) *fixture {
	t.Helper()
	return fixtureOn(t, shared)
}

func fixtureOn(t *testing.T, r *running) *fixture {
	t.Helper()
	namespace := namespaceOf(t)
	f := &fixture{T: t, running: r, namespace: namespace}
	f.sandboxes = f.client(admin).LifecycleV1alpha1().Sandboxes(namespace)
	f.snapshots = f.client(admin).LifecycleV1alpha1().SandboxSnapshots(namespace)
	loopback := r.server.Loopback()
	loopback.QPS, loopback.Burst = 1000, 1000
	f.controller = versioned.NewForConfigOrDie(loopback).LifecycleV1alpha1()
	return f
}

// within is the fixture of a subtest.
func (f *fixture) within(t *testing.T) *fixture {
	inner := *f
	inner.T = t
	return &inner
}

// namespaceOf is the test's own namespace.
func namespaceOf(t *testing.T) string {
	return strings.ToLower(strings.NewReplacer("/", "-", "_", "-").Replace(t.Name()))
}

func (f *fixture) client(name string) versioned.Interface {
	f.Helper()
	client, err := versioned.NewForConfig(f.running.as(name))
	f.must(err)
	return client
}

func (f *fixture) must(err error) {
	f.Helper()
	if err != nil {
		f.Fatalf("%v", err)
	}
}

// sandbox makes an object with one container; options change it.
func sandbox(name string, options ...func(*v1alpha1.Sandbox)) *v1alpha1.Sandbox {
	s := &v1alpha1.Sandbox{
		ObjectMeta: metav1.ObjectMeta{Name: name},
		Spec: v1alpha1.SandboxSpec{Template: &corev1.PodTemplateSpec{Spec: corev1.PodSpec{
			Containers: []corev1.Container{{Name: "main", Image: "busybox"}},
		}}},
	}
	for _, option := range options {
		option(s)
	}
	return s
}

func withEmptyDir(s *v1alpha1.Sandbox) {
	s.Spec.Template.Spec.Volumes = []corev1.Volume{{Name: "scratch", VolumeSource: corev1.VolumeSource{EmptyDir: &corev1.EmptyDirVolumeSource{}}}}
}

func (f *fixture) create(s *v1alpha1.Sandbox) *v1alpha1.Sandbox {
	f.Helper()
	created, err := f.sandboxes.Create(context.Background(), s, metav1.CreateOptions{})
	f.must(err)
	return created
}

func (f *fixture) get(name string) *v1alpha1.Sandbox {
	f.Helper()
	s, err := f.sandboxes.Get(context.Background(), name, metav1.GetOptions{})
	f.must(err)
	return s
}

// asRunning does what the controller does once the Pod runs.
func (f *fixture) asRunning(name string) *v1alpha1.Sandbox {
	f.Helper()
	return f.writeStatus(name, func(status *v1alpha1.SandboxStatus) {
		status.Phase = v1alpha1.SandboxRunning
		status.PodName, status.PodUID, status.PodIP, status.NodeName = name, "pod-uid", "10.0.0.1", "node-a"
		setCondition(status, v1alpha1.ConditionReady, metav1.ConditionTrue, v1alpha1.ReasonPodReady)
		setCondition(status, v1alpha1.ConditionPaused, metav1.ConditionFalse, v1alpha1.ReasonRunning)
	})
}

// asPaused does what the controller does once the Pod is gone.
func (f *fixture) asPaused(name, snapshot string) *v1alpha1.Sandbox {
	f.Helper()
	return f.writeStatus(name, func(status *v1alpha1.SandboxStatus) {
		status.Phase = v1alpha1.SandboxPaused
		status.PodName, status.PodUID, status.PodIP = "", "", ""
		status.SnapshotName = snapshot
		setCondition(status, v1alpha1.ConditionReady, metav1.ConditionFalse, v1alpha1.ReasonPaused)
		setCondition(status, v1alpha1.ConditionPaused, metav1.ConditionTrue, v1alpha1.ReasonPaused)
	})
}

func (f *fixture) writeStatus(name string, change func(*v1alpha1.SandboxStatus)) *v1alpha1.Sandbox {
	f.Helper()
	sandboxes := f.controller.Sandboxes(f.namespace)
	s, err := sandboxes.Get(context.Background(), name, metav1.GetOptions{})
	f.must(err)
	change(&s.Status)
	s, err = sandboxes.UpdateStatus(context.Background(), s, metav1.UpdateOptions{})
	f.must(err)
	return s
}

func setCondition(status *v1alpha1.SandboxStatus, condition string, value metav1.ConditionStatus, reason string) {
	apimeta.SetStatusCondition(&status.Conditions, metav1.Condition{Type: condition, Status: value, Reason: reason, ObservedGeneration: 1})
}

func reasonOf(s *v1alpha1.Sandbox, condition string) string {
	if found := apimeta.FindStatusCondition(s.Status.Conditions, condition); found != nil {
		return found.Reason
	}
	return ""
}

// succeeded makes a snapshot of the sandbox that can be resumed from.
func (f *fixture) succeeded(name string, of *v1alpha1.Sandbox) *v1alpha1.SandboxSnapshot {
	f.Helper()
	snapshots := f.controller.SandboxSnapshots(f.namespace)
	s, err := snapshots.Create(context.Background(), &v1alpha1.SandboxSnapshot{
		ObjectMeta: metav1.ObjectMeta{Name: name},
		Spec:       v1alpha1.SandboxSnapshotSpec{SandboxName: of.Name},
	}, metav1.CreateOptions{})
	f.must(err)
	s.Status.Phase = v1alpha1.SnapshotSucceed
	s.Status.SandboxUID = of.UID
	s.Status.SourceNodeName = "node-a"
	s.Status.Containers = []v1alpha1.ContainerSnapshot{{
		ContainerName: "main", ImageURI: "registry:5000/ns/demo-main:snap-gen1", ImageDigest: "sha256:" + strings.Repeat("a", 64), LayerBytes: 3000, Layers: 1,
	}}
	s, err = snapshots.UpdateStatus(context.Background(), s, metav1.UpdateOptions{})
	f.must(err)
	return s
}

// answer is what came back over HTTP.
type answer struct {
	code   int
	header http.Header
	body   []byte
}

// send sends a request as a user, with exactly this body and these headers.
func (f *fixture) send(as, method, path string, body io.Reader, header http.Header) answer {
	f.Helper()
	config := f.running.as(as)
	client, err := rest.HTTPClientFor(config)
	f.must(err)
	ctx, cancel := context.WithTimeout(context.Background(), deadline)
	defer cancel()
	request, err := http.NewRequestWithContext(ctx, method, config.Host+path, body)
	f.must(err)
	for key, values := range header {
		request.Header[key] = values
	}
	response, err := client.Do(request)
	f.must(err)
	defer func() { _ = response.Body.Close() }()
	content, err := io.ReadAll(response.Body)
	f.must(err)
	return answer{code: response.StatusCode, header: response.Header, body: content}
}

// post sends JSON.
func (f *fixture) post(path, body string) answer {
	f.Helper()
	return f.request(http.MethodPost, path, asJSON, body)
}

// Content types of request bodies.
const (
	asJSON           = "application/json"
	asYAML           = "application/yaml"
	asMergePatch     = "application/merge-patch+json"
	asJSONPatch      = "application/json-patch+json"
	asStrategicPatch = "application/strategic-merge-patch+json"
	asApply          = "application/apply-patch+yaml"
)

// request sends a body of a content type as the admin.
func (f *fixture) request(method, path, contentType, body string) answer {
	f.Helper()
	return f.send(admin, method, path, strings.NewReader(body), http.Header{"Content-Type": {contentType}})
}

// patch sends a patch, or an apply, as the admin.
func (f *fixture) patch(path, contentType, body string) answer {
	f.Helper()
	return f.request(http.MethodPatch, path, contentType, body)
}

// read sends a GET as the admin.
func (f *fixture) read(path string) answer {
	f.Helper()
	return f.send(admin, http.MethodGet, path, nil, nil)
}

// group is where the API is.
const group = "/apis/lifecycle.opensandbox.io/v1alpha1"

// path is where the namespace's sandboxes are, and below.
func (f *fixture) path(below string) string {
	return f.pathOf("sandboxes", below)
}

// pathOf is where the namespace's objects of a resource are, and below.
func (f *fixture) pathOf(resource, below string) string {
	return group + "/namespaces/" + f.namespace + "/" + resource + below
}

func (a answer) decode(f *fixture, into any) {
	f.Helper()
	if err := json.Unmarshal(a.body, into); err != nil {
		f.Fatalf("%d %s: %v", a.code, a.body, err)
	}
}

// object decodes an object of either kind.
func (a answer) object(f *fixture) *unstructured.Unstructured {
	f.Helper()
	if a.code >= 300 {
		f.Fatalf("got %d %s", a.code, a.body)
	}
	var object unstructured.Unstructured
	f.must(object.UnmarshalJSON(a.body))
	return &object
}

// fieldOf returns a field of an object by its path, nil where it is not set.
func fieldOf(object *unstructured.Unstructured, path string) any {
	value, _, _ := unstructured.NestedFieldNoCopy(object.Object, strings.Split(path, ".")...)
	return value
}

// warnings are all that the answer warns of.
func (a answer) warnings() string { return strings.Join(a.header["Warning"], "\n") }

// causes are the fields that a refusal names.
func causes(status metav1.Status) []string {
	if status.Details == nil {
		return nil
	}
	var fields []string
	for _, cause := range status.Details.Causes {
		fields = append(fields, cause.Field)
	}
	return fields
}

func (a answer) status(f *fixture) metav1.Status {
	f.Helper()
	var status metav1.Status
	a.decode(f, &status)
	if status.Kind != "Status" {
		f.Fatalf("got no Status but %d %s", a.code, a.body)
	}
	if ofGo.MatchString(status.Message) {
		f.Errorf("the answer names fields as the server's code does, not as the API: %.1000s", status.Message)
	}
	return status
}

// ofGo is how a struct without JSON names is printed.
var ofGo = regexp.MustCompile(`\{\\?"[A-Z]\w*\\?":`)

// eventually polls until check returns nil.
func (f *fixture) eventually(check func() error) {
	f.Helper()
	var err error
	for end := time.Now().Add(deadline); time.Now().Before(end); time.Sleep(20 * time.Millisecond) {
		if err = check(); err == nil {
			return
		}
	}
	f.Fatalf("after %s: %v", deadline, err)
}
