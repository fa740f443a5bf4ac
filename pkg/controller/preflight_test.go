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

package controller

import (
	"context"
	"errors"
	"strings"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	nodev1 "k8s.io/api/node/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/client-go/kubernetes/scheme"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/controller-runtime/pkg/client/fake"
	"sigs.k8s.io/controller-runtime/pkg/client/interceptor"

	"github.com/opensandbox-io/sandbox-apiserver/apis/lifecycle/v1alpha1"
)

// scene is what a preflight looks at.
type scene struct {
	sandbox   *v1alpha1.Sandbox
	pod       *corev1.Pod
	node      *corev1.Node
	secret    *corev1.Secret
	class     *nodev1.RuntimeClass
	snapshots []client.Object
	options   Options
	// refuse is what the creation of the snapshot answers, break what the reading of Nodes does.
	refuse, broken error
	// refusePod is what the creation of a Pod answers.
	refusePod func(*corev1.Pod) error
}

func newScene() *scene {
	class := "plain"
	return &scene{
		sandbox: &v1alpha1.Sandbox{
			ObjectMeta: metav1.ObjectMeta{Namespace: "default", Name: "demo", UID: "sandbox-1"},
			Spec: v1alpha1.SandboxSpec{Template: &corev1.PodTemplateSpec{Spec: corev1.PodSpec{
				Containers: []corev1.Container{{Name: "main"}, {Name: "side"}},
			}}},
			Status: v1alpha1.SandboxStatus{Phase: v1alpha1.SandboxPausing, PodName: "demo", PodUID: "pod-1", SnapshotAttempts: 1},
		},
		pod: &corev1.Pod{
			ObjectMeta: metav1.ObjectMeta{Namespace: "default", Name: "demo", UID: "pod-1", Labels: map[string]string{v1alpha1.LabelSandboxUID: "sandbox-1"}},
			Spec:       corev1.PodSpec{NodeName: "node-1", RuntimeClassName: &class},
			Status: corev1.PodStatus{ContainerStatuses: []corev1.ContainerStatus{
				{Name: "main", ContainerID: "containerd://c1"}, {Name: "side", ContainerID: "containerd://c2"},
			}},
		},
		node: &corev1.Node{
			ObjectMeta: metav1.ObjectMeta{Name: "node-1"},
			Status:     corev1.NodeStatus{Conditions: []corev1.NodeCondition{{Type: corev1.NodeReady, Status: corev1.ConditionTrue}}},
		},
		secret: &corev1.Secret{
			ObjectMeta: metav1.ObjectMeta{Namespace: "sandbox-system", Name: "push"},
			Type:       corev1.SecretTypeDockerConfigJson, Data: map[string][]byte{corev1.DockerConfigJsonKey: []byte("{}")},
		},
		class:   &nodev1.RuntimeClass{ObjectMeta: metav1.ObjectMeta{Name: class}, Handler: "runc"},
		options: Options{SnapshotRegistry: "registry.example.com", CommitJobNamespace: "sandbox-system", SnapshotPushSecret: "push", CommitRuntimes: []string{"runc"}},
	}
}

func (s *scene) preflight(t *testing.T) (*Preflight, client.Client) {
	t.Helper()
	known := runtime.NewScheme()
	if err := errors.Join(scheme.AddToScheme(known), v1alpha1.AddToScheme(known)); err != nil {
		t.Fatal(err)
	}
	own := fake.NewClientBuilder().WithScheme(known).WithObjects(s.snapshots...).WithInterceptorFuncs(interceptor.Funcs{
		Create: func(ctx context.Context, c client.WithWatch, object client.Object, options ...client.CreateOption) error {
			if s.refuse != nil {
				return s.refuse
			}
			return c.Create(ctx, object, options...)
		},
	}).Build()
	host := fake.NewClientBuilder().WithScheme(known).WithObjects(s.pod, s.node, s.secret, s.class).WithInterceptorFuncs(interceptor.Funcs{
		Get: func(ctx context.Context, c client.WithWatch, key client.ObjectKey, object client.Object, options ...client.GetOption) error {
			if deadline, ok := ctx.Deadline(); !ok || time.Until(deadline) > preflightTimeout {
				t.Errorf("%T %s is read without a deadline", object, key)
			}
			if _, ok := object.(*corev1.Node); ok && s.broken != nil {
				return s.broken
			}
			return c.Get(ctx, key, object, options...)
		},
		Create: func(_ context.Context, _ client.WithWatch, object client.Object, options ...client.CreateOption) error {
			pod, ok := object.(*corev1.Pod)
			if chosen := (&client.CreateOptions{}).ApplyOptions(options); !ok || len(chosen.DryRun) != 1 {
				t.Errorf("%T %s is created with %+v", object, object.GetName(), chosen)
			}
			if s.refusePod != nil {
				if err := s.refusePod(pod); err != nil {
					return err
				}
			}
			return apierrors.NewAlreadyExists(corev1.Resource("pods"), object.GetName())
		},
	}).Build()
	preflight, err := NewPreflight(own, host, s.options)
	if err != nil {
		t.Fatal(err)
	}
	return preflight, own
}

func TestPreflight(t *testing.T) {
	forbidden := apierrors.NewForbidden(schema.GroupResource{Resource: "sandboxsnapshots"}, "demo-gen1", errors.New("exceeded quota: small"))
	tests := map[string]struct {
		change func(*scene)
		// reasons are those of the causes, unknown a word of what could not be found out.
		reasons, unknown string
	}{
		"all is well":                 {func(*scene) {}, "", ""},
		"anonymous pushes":            {func(s *scene) { s.options.SnapshotPushSecret = "" }, "", ""},
		"the attempt's name is taken": {func(s *scene) { s.snapshots = []client.Object{snapshotNamed("demo-gen1")} }, "", ""},
		"a template from a snapshot":  {fromSnapshot, "", ""},
		"a template that is gone":     {func(s *scene) { fromSnapshot(s); s.snapshots = nil }, "NoContainers", ""},
		"no registry":                 {func(s *scene) { s.options.SnapshotRegistry = "" }, "RegistryNotConfigured", ""},
		"names that do not fit": {func(s *scene) {
			s.options.SnapshotImageTemplate = "{registry}/all:" + strings.Repeat("{sandbox}-", 6) + "{namespace}-{container}-{uid}"
			s.sandbox.Name, s.pod.Name, s.sandbox.Status.PodName = strings.Repeat("x", 63), strings.Repeat("x", 63), strings.Repeat("x", 63)
		}, "ImageNameInvalid", ""},
		"no push secret":                {func(s *scene) { s.secret.Name = "other" }, "PushSecretNotFound", ""},
		"a push secret of another type": {func(s *scene) { s.secret.Type = corev1.SecretTypeOpaque }, "PushSecretInvalid", ""},
		"a quota is used up":            {func(s *scene) { s.refuse = forbidden }, "SnapshotRejected", ""},
		"no Pod":                        {func(s *scene) { s.pod.Name = "other" }, "SourcePodNotFound", ""},
		"a node that is not ready":      {func(s *scene) { s.node.Status.Conditions[0].Status = corev1.ConditionUnknown }, "SourceNodeLost", ""},
		"another runtime":               {func(s *scene) { s.class.Handler = "kata" }, "RuntimeNotSupported", ""},
		"no container has started":      {func(s *scene) { s.pod.Status.ContainerStatuses = nil }, "ContainerNotFound ContainerNotFound", ""},
		"an API that does not answer":   {func(s *scene) { s.broken = errors.New("connection refused") }, "", "connection refused"},
		"a store that does not answer":  {func(s *scene) { s.refuse = apierrors.NewServiceUnavailable("etcd is away") }, "", "etcd is away"},
		"everything at once": {func(s *scene) {
			s.options.SnapshotRegistry = ""
			s.secret.Type = corev1.SecretTypeOpaque
			s.class.Handler = "kata"
			s.node.Status.Conditions[0].Status = corev1.ConditionFalse
			s.pod.Status.ContainerStatuses[1].ContainerID = ""
			s.refuse = forbidden
		}, "RegistryNotConfigured PushSecretInvalid RuntimeNotSupported SourceNodeLost ContainerNotFound SnapshotRejected", ""},
		"much, and what cannot be found out": {func(s *scene) {
			s.options.SnapshotRegistry = ""
			s.broken = errors.New("connection refused")
			s.pod.Status.ContainerStatuses[1].ContainerID = ""
		}, "RegistryNotConfigured ContainerNotFound", "connection refused"},
	}
	for name, test := range tests {
		t.Run(name, func(t *testing.T) {
			s := newScene()
			test.change(s)
			preflight, own := s.preflight(t)
			before := s.sandbox.DeepCopy()
			causes, _, err := preflight.Pause(t.Context(), s.sandbox)
			var reasons []string
			for _, cause := range causes {
				reasons = append(reasons, string(cause.Type))
				if cause.Message == "" {
					t.Errorf("%s says nothing", cause.Type)
				}
			}
			if got := strings.Join(reasons, " "); got != test.reasons {
				t.Errorf("got %q, want %q: %v", got, test.reasons, causes)
			}
			if (err == nil) != (test.unknown == "") || err != nil && !strings.Contains(err.Error(), test.unknown) {
				t.Errorf("could not find out: %v, want %q", err, test.unknown)
			}
			list := &v1alpha1.SandboxSnapshotList{}
			if err := own.List(t.Context(), list); err != nil || len(list.Items) != len(s.snapshots) {
				t.Errorf("there are %d snapshots, error %v", len(list.Items), err)
			}
			if (before.Spec.Template == nil) != (s.sandbox.Spec.Template == nil) {
				t.Error("the sandbox was changed")
			}
		})
	}
}

// The Pod of the resume is tried as well, with the images that it will have.
func TestPreflightTriesThePodOfTheResume(t *testing.T) {
	forbidden := func(why string) error {
		return apierrors.NewForbidden(corev1.Resource("pods"), "demo", errors.New(why))
	}
	const alsoNow = "so would be the Pod of the template as it is"
	tests := map[string]struct {
		change func(*scene)
		says   []string
		not    string
	}{
		"nothing is refused": {func(*scene) {}, []string{nodeAlone}, "would be refused"},
		"images of this registry are": {func(s *scene) {
			s.refusePod = func(pod *corev1.Pod) error {
				if pod.Name != "demo" || len(pod.Spec.Containers) != 2 {
					return errors.New("another Pod is tried")
				}
				if strings.HasPrefix(pod.Spec.Containers[1].Image, "registry.example.com/default/demo-side@sha256:") {
					return forbidden("only images of docker.io/library may run")
				}
				return nil
			}
		}, []string{"would be refused now", "only images of docker.io/library may run", nodeAlone}, alsoNow},
		"images of containers that are not committed are not replaced": {func(s *scene) {
			s.sandbox.Spec.Snapshot.Containers = []string{"main"}
			s.refusePod = func(pod *corev1.Pod) error {
				if strings.HasPrefix(pod.Spec.Containers[1].Image, "registry.example.com/") {
					return forbidden("no")
				}
				return nil
			}
		}, []string{`the files of container "side" are not in the snapshot`, nodeAlone}, "would be refused"},
		"a quota is full of the Pod that runs": {func(s *scene) {
			s.refusePod = func(*corev1.Pod) error { return forbidden("exceeded quota: small") }
		}, []string{"exceeded quota: small", alsoNow, nodeAlone}, ""},
		"the API is away": {func(s *scene) {
			s.refusePod = func(*corev1.Pod) error { return apierrors.NewServiceUnavailable("away") }
		}, []string{nodeAlone}, "would be refused"},
		"the pause would fail": {func(s *scene) {
			s.node.Status.Conditions[0].Status = corev1.ConditionFalse
			s.refusePod = func(*corev1.Pod) error { return forbidden("no") }
		}, nil, "would be refused"},
	}
	for name, test := range tests {
		t.Run(name, func(t *testing.T) {
			s := newScene()
			test.change(s)
			preflight, _ := s.preflight(t)
			_, warnings, err := preflight.Pause(t.Context(), s.sandbox)
			if err != nil {
				t.Fatal(err)
			}
			said := strings.Join(warnings, "\n")
			for _, words := range test.says {
				if !strings.Contains(said, words) {
					t.Errorf("warned %q, want %q", said, words)
				}
			}
			if test.not != "" && strings.Contains(said, test.not) || test.says == nil && said != "" {
				t.Errorf("warned %q", said)
			}
		})
	}
}

// TestEveryDryRunSaysWhatIsToBeSaidOfTheCluster, whatever else there is.
func TestEveryDryRunSaysWhatIsToBeSaidOfTheCluster(t *testing.T) {
	for name, change := range map[string]func(*scene){
		"nothing in the way": func(*scene) {},
		"much in the way":    func(s *scene) { s.options.SnapshotRegistry = "" },
	} {
		s := newScene()
		change(s)
		preflight, _ := s.preflight(t)
		preflight.OfCluster = func() string { return "Kubernetes v1.29.0 is older than 1.35" }
		if _, warnings, err := preflight.Pause(t.Context(), s.sandbox); err != nil || len(warnings) == 0 || warnings[0] != preflight.OfCluster() {
			t.Errorf("%s: warned %q, %v", name, warnings, err)
		}
	}
}

func snapshotNamed(name string) *v1alpha1.SandboxSnapshot {
	return &v1alpha1.SandboxSnapshot{ObjectMeta: metav1.ObjectMeta{Namespace: "default", Name: name}}
}

func fromSnapshot(s *scene) {
	base := snapshotNamed("base")
	base.Status.Template = s.sandbox.Spec.Template
	s.snapshots = []client.Object{base}
	s.sandbox.Spec.Template, s.sandbox.Status.SnapshotName = nil, "base"
}
