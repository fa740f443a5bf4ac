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
	"errors"
	"slices"
	"strings"
	"testing"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/utils/ptr"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/opensandbox-io/sandbox-apiserver/apis/lifecycle/v1alpha1"
	"github.com/opensandbox-io/sandbox-apiserver/pkg/committer/result"
	"github.com/opensandbox-io/sandbox-apiserver/pkg/controller/naming"
)

func inClass(class string) func(*corev1.Pod) {
	return func(p *corev1.Pod) { p.Spec.RuntimeClassName = &class }
}

const longName = "a-name-of-sixty-characters-that-is-longer-than-the-usual-one"

func inOneRepository(r *Reconciler) {
	var err error
	if r.Images, err = naming.ParseImageTemplate("registry.example.com", "{registry}/all:{namespace}-{sandbox}-{sandbox}-{container}-{uid}"); err != nil {
		panic(err)
	}
}

// onItsWayOut: somebody deletes the Pod.
func onItsWayOut(p *corev1.Pod) {
	p.DeletionTimestamp, p.Finalizers = &metav1.Time{Time: epoch}, []string{"example.com/x"}
}

// TestRefusals lets a snapshot start in a world where one thing is wrong.
func TestRefusals(t *testing.T) {
	ready := podOf("demo")
	tests := map[string]struct {
		sandbox  *v1alpha1.Sandbox
		snapshot *v1alpha1.SandboxSnapshot
		host     []client.Object
		change   func(*Reconciler)
		reason   string
		message  string
	}{
		"no sandbox": {pausing("other"), attemptOf("demo"), nil, nil, v1alpha1.ReasonSandboxNotFound, "sandbox demo does not exist"},
		"no registry": {pausing("demo"), attemptOf("demo"), []client.Object{ready}, func(r *Reconciler) {
			r.Images, _ = naming.ParseImageTemplate("", "")
		}, v1alpha1.ReasonRegistryNotConfigured, "--snapshot-registry"},
		"names that do not fit into a tag": {pausing(longName), attemptOf(longName), []client.Object{podOf(longName)}, inOneRepository,
			v1alpha1.ReasonImageNameInvalid, "its tag has 1"},
		"no push secret": {pausing("demo"), attemptOf("demo"), []client.Object{ready}, func(r *Reconciler) {
			r.Jobs.PushSecret = "another"
		}, v1alpha1.ReasonPushSecretNotFound, "Secret sandbox-system/another"},
		"a push secret of another type": {
			pausing("demo"), attemptOf("demo"), []client.Object{ready, pushSecret(corev1.SecretTypeOpaque, "{}")}, nil,
			v1alpha1.ReasonPushSecretInvalid, `is of type "Opaque"`},
		"a push secret of nonsense": {
			pausing("demo"), attemptOf("demo"), []client.Object{ready, pushSecret(corev1.SecretTypeDockerConfigJson, "hunter2")}, nil,
			v1alpha1.ReasonPushSecretInvalid, "holds no JSON"},
		"no Pod in the status": {
			pausing("demo", func(s *v1alpha1.Sandbox) { s.Status.PodUID = "" }), attemptOf("demo"), []client.Object{ready}, nil,
			v1alpha1.ReasonSourcePodNotFound, "has no Pod"},
		"no Pod": {pausing("demo"), attemptOf("demo"), nil, nil, v1alpha1.ReasonSourcePodNotFound, "does not exist any more"},
		"another Pod": {
			pausing("demo"), attemptOf("demo"), []client.Object{podOf("demo", func(p *corev1.Pod) { p.UID = "another" })}, nil,
			v1alpha1.ReasonSourcePodReplaced, "UID another"},
		"somebody else's Pod": {
			pausing("demo"), attemptOf("demo"), []client.Object{podOf("demo", func(p *corev1.Pod) { p.Labels[v1alpha1.LabelSandboxUID] = "another" })}, nil,
			v1alpha1.ReasonSourcePodReplaced, "the sandbox ran in"},
		"a Pod on its way out, for a user": {
			pausing("demo", running), snapshotOf("demo", "mine"), []client.Object{podOf("demo", onItsWayOut)}, nil,
			v1alpha1.ReasonSourcePodNotFound, "is being deleted"},
		"a Pod on its way out, which is to go anyway": {
			pausing("demo"), attemptOf("demo"), []client.Object{podOf("demo", onItsWayOut)}, nil, "", ""},
		"a Pod on no node": {
			pausing("demo"), attemptOf("demo"), []client.Object{podOf("demo", func(p *corev1.Pod) { p.Spec.NodeName = "" })}, nil,
			v1alpha1.ReasonSourcePodNotFound, "has not been scheduled"},
		"a runtime that hides files": {
			pausing("demo"), attemptOf("demo"), []client.Object{podOf("demo", inClass("kata")), runtimeClass("kata", "kata-qemu")}, nil,
			v1alpha1.ReasonRuntimeNotSupported, `"kata-qemu"`},
		"a runtime class that is gone": {
			pausing("demo"), attemptOf("demo"), []client.Object{podOf("demo", inClass("kata"))}, nil,
			v1alpha1.ReasonRuntimeNotSupported, "RuntimeClass kata"},
		"a runtime that is allowed": {
			pausing("demo"), attemptOf("demo"), []client.Object{podOf("demo", inClass("plain")), runtimeClass("plain", "runc")}, nil, "", ""},
		"a node that is not ready": {
			pausing("demo"), attemptOf("demo"), []client.Object{ready, node("node-1", corev1.ConditionUnknown)}, nil,
			v1alpha1.ReasonSourceNodeLost, "KubeletStopped"},
		"a node that lacks disk": {
			pausing("demo"), attemptOf("demo"), []client.Object{ready, lacking(corev1.NodeDiskPressure)}, nil,
			v1alpha1.ReasonNodeUnderPressure, "takes no Pod, and so none that commits, while it has DiskPressure: only 5% are left"},
		"a node that lacks process IDs": {
			pausing("demo"), attemptOf("demo"), []client.Object{ready, lacking(corev1.NodePIDPressure)}, nil,
			v1alpha1.ReasonNodeUnderPressure, "PIDPressure"},
		"a node that lacks memory": { // takes what is not BestEffort
			pausing("demo"), attemptOf("demo"), []client.Object{ready, lacking(corev1.NodeMemoryPressure)}, nil, "", ""},
		"a node that is gone": {
			pausing("demo"), attemptOf("demo"), []client.Object{podOf("demo", func(p *corev1.Pod) { p.Spec.NodeName = "node-2" })}, nil,
			v1alpha1.ReasonSourceNodeLost, "node node-2 does not exist"},
		"a container that is not there": {
			pausing("demo"), attemptOf("demo", func(s *v1alpha1.SandboxSnapshot) { s.Spec.Containers = []string{"other"} }), []client.Object{ready}, nil,
			v1alpha1.ReasonContainerNotFound, "container other"},
		"no template, and no snapshot to bring one": {
			pausing("demo", func(s *v1alpha1.Sandbox) { s.Spec.Template = nil }), attemptOf("demo"), []client.Object{ready}, nil,
			v1alpha1.ReasonNoContainers, "there is no container to commit"},
		"no template, and its snapshot is gone": {
			pausing("demo", func(s *v1alpha1.Sandbox) { s.Spec.Template, s.Status.SnapshotName = nil, "base" }), attemptOf("demo"), []client.Object{ready}, nil,
			v1alpha1.ReasonNoContainers, "there is no container to commit"},
		"all is well": {pausing("demo"), attemptOf("demo"), []client.Object{ready}, nil, "", ""},
	}
	for name, test := range tests {
		t.Run(name, func(t *testing.T) {
			f := newFixture(t, append(test.host, test.sandbox, test.snapshot)...)
			if test.change != nil {
				test.change(f.r)
			}
			snapshot := f.visits(test.snapshot.Name)
			if test.reason == "" {
				f.is(snapshot, committing)
				return
			}
			f.is(snapshot, "Failed Ready=False/"+test.reason+" Failed=True/"+test.reason)
			f.hasJobs()
			message := snapshot.Status.Conditions[0].Message
			if !strings.Contains(message, test.message) {
				t.Errorf("it says %q, want %q", message, test.message)
			}
			if strings.Contains(message, "hunter2") {
				t.Errorf("the secret is told: %q", message)
			}
			if told := <-f.recorder.Events; !strings.HasPrefix(told, "Warning "+test.reason) || strings.Contains(told, "hunter2") {
				t.Errorf("the event is %q", told)
			}
		})
	}
}

func TestAnonymousPushes(t *testing.T) {
	f := newFixture(t, pausing("demo"), podOf("demo"), attemptOf("demo"), pushSecret(corev1.SecretTypeOpaque, ""))
	f.r.Jobs.PushSecret = ""
	f.is(f.visits("demo-gen1"), committing)
}

func TestATemplateFromASnapshot(t *testing.T) {
	base := snapshotOf("demo", "base", committed, func(s *v1alpha1.SandboxSnapshot) { s.Status.Template = pausing("demo").Spec.Template })
	f := newFixture(t, pausing("demo", func(s *v1alpha1.Sandbox) { s.Spec.Template, s.Status.SnapshotName = nil, "base" }), podOf("demo"), attemptOf("demo"), base)
	snapshot := f.visits("demo-gen1")
	f.is(snapshot, committing)
	if snapshot.Status.Template == nil || snapshot.Status.Template.Spec.Containers[0].Name != "main" {
		t.Errorf("the template is not handed on: %v", snapshot.Status.Template)
	}
}

func sidecar(name string) corev1.Container {
	return corev1.Container{Name: name, RestartPolicy: ptr.To(corev1.ContainerRestartPolicyAlways)}
}

func TestChooseContainers(t *testing.T) {
	pod := podOf("demo", func(p *corev1.Pod) {
		p.Status.ContainerStatuses = []corev1.ContainerStatus{
			{Name: "main", ContainerID: "containerd://c1"}, {Name: "side", ContainerID: "containerd://c2"}, {Name: "injected", ContainerID: "containerd://c3"},
			{Name: "waiting"}, {Name: "crio", ContainerID: "cri-o://c4"}, {Name: "bare", ContainerID: "c5"},
		}
		p.Spec.InitContainers = []corev1.Container{{Name: "init"}, sidecar("ide"), sidecar("proxy")}
		p.Status.InitContainerStatuses = []corev1.ContainerStatus{
			{Name: "init", ContainerID: "containerd://i1"}, {Name: "ide", ContainerID: "containerd://i2"}, {Name: "proxy", ContainerID: "containerd://i3"},
		}
	})
	tests := map[string]struct {
		snapshot, sandbox, template []string
		want                        []string
		reason                      string
	}{
		"all of the template's, none that was injected": {nil, nil, []string{"main", "side"}, []string{"main=c1", "side=c2"}, ""},
		"a native sidecar of the template's, no other":  {nil, nil, []string{"init", "ide+", "main"}, []string{"ide=i2", "main=c1"}, ""},
		"a native sidecar that is named":                {[]string{"ide"}, nil, []string{"ide+", "main"}, []string{"ide=i2"}, ""},
		"one that was injected and is named":            {[]string{"proxy"}, nil, []string{"main"}, []string{"proxy=i3"}, ""},
		"an init container that is named":               {[]string{"init"}, nil, []string{"init", "main"}, nil, v1alpha1.ReasonContainerNotFound},
		"those that the sandbox names":                  {nil, []string{"side"}, []string{"main", "side"}, []string{"side=c2"}, ""},
		"those that the snapshot names":                 {[]string{"main"}, []string{"side"}, []string{"main", "side"}, []string{"main=c1"}, ""},
		"in the order that they are named in":           {[]string{"side", "main"}, nil, nil, []string{"side=c2", "main=c1"}, ""},
		"none":                                          {nil, nil, nil, nil, v1alpha1.ReasonNoContainers},
		"one that the Pod has not":                      {[]string{"main", "other"}, nil, nil, nil, v1alpha1.ReasonContainerNotFound},
		"one that was never started":                    {[]string{"waiting"}, nil, nil, nil, v1alpha1.ReasonContainerNotFound},
		"one of another runtime":                        {[]string{"crio"}, nil, nil, nil, v1alpha1.ReasonRuntimeNotSupported},
		"one of no runtime":                             {[]string{"bare"}, nil, nil, nil, v1alpha1.ReasonRuntimeNotSupported},
	}
	for name, test := range tests {
		t.Run(name, func(t *testing.T) {
			snapshot := attemptOf("demo", func(s *v1alpha1.SandboxSnapshot) { s.Spec.Containers = test.snapshot })
			sandbox := pausing("demo", func(s *v1alpha1.Sandbox) {
				s.Spec.Snapshot.Containers = test.sandbox
				s.Spec.Template.Spec.Containers = nil
				for _, name := range test.template {
					spec := &s.Spec.Template.Spec
					switch name, native := strings.CutSuffix(name, "+"); {
					case native:
						spec.InitContainers = append(spec.InitContainers, sidecar(name))
					case name == "init":
						spec.InitContainers = append(spec.InitContainers, corev1.Container{Name: name})
					default:
						spec.Containers = append(spec.Containers, corev1.Container{Name: name})
					}
				}
			})
			chosen, problems := chooseContainers(snapshot, sandbox, pod)
			err := errors.Join(problems...)
			if why := (*refusal)(nil); test.reason != "" && (!errors.As(err, &why) || why.reason != test.reason) || test.reason == "" && err != nil {
				t.Fatalf("error %v, want %q", err, test.reason)
			}
			var got []string
			for _, container := range chosen {
				got = append(got, container.ContainerName+"="+container.ContainerID)
			}
			if !slices.Equal(got, test.want) {
				t.Errorf("chosen %v, want %v", got, test.want)
			}
		})
	}
}

func TestCanceled(t *testing.T) {
	tests := map[string]struct {
		snapshot *v1alpha1.SandboxSnapshot
		sandbox  *v1alpha1.Sandbox
		want     string
	}{
		"the attempt under way": {attemptOf("demo"), pausing("demo"), ""},
		"a sandbox made anew":   {attemptOf("demo"), pausing("demo", func(s *v1alpha1.Sandbox) { s.UID = "another" }), "was deleted and created anew"},
		"a sandbox on its way out": {
			attemptOf("demo"), pausing("demo", func(s *v1alpha1.Sandbox) { s.DeletionTimestamp = &metav1.Time{Time: epoch} }), "is being deleted"},
		"a sandbox that runs":        {attemptOf("demo"), pausing("demo", running), "does not wait for this attempt"},
		"a later attempt":            {attemptOf("demo"), pausing("demo", func(s *v1alpha1.Sandbox) { s.Status.SnapshotAttempts = 2 }), "does not wait for this attempt"},
		"a pause that is cancelled":  {attemptOf("demo"), pausing("demo", canceling), "a resume of sandbox demo"},
		"a user's, of a running one": {snapshotOf("demo", "mine"), pausing("demo", running), ""},
		"a user's, of one that is cancelled": {
			snapshotOf("demo", "mine"), pausing("demo", canceling), ""},
		"a user's, owned by the sandbox": {
			snapshotOf("demo", "mine", func(s *v1alpha1.SandboxSnapshot) { s.OwnerReferences = attemptOf("demo").OwnerReferences }), pausing("demo", running), ""},
		"an attempt whose owner somebody has taken away": {
			attemptOf("demo", func(s *v1alpha1.SandboxSnapshot) { s.OwnerReferences = nil }), pausing("demo", running), "does not wait for this attempt"},
	}
	for name, test := range tests {
		t.Run(name, func(t *testing.T) {
			if why := canceled(test.snapshot, test.sandbox); (why == "") != (test.want == "") || !strings.Contains(why, test.want) {
				t.Errorf("cancelled because of %q, want %q", why, test.want)
			}
		})
	}
}

func TestAdopt(t *testing.T) {
	status := v1alpha1.SandboxSnapshotStatus{Containers: []v1alpha1.ContainerSnapshot{
		{ContainerName: "main", ContainerID: "c1", ImageURI: "r/main:t"}, {ContainerName: "side", ContainerID: "c2", ImageURI: "r/side:t"},
	}}
	main := result.Container{Name: "main", Image: "r/main:t", Digest: "sha256:1", LayerBytes: 1, Layers: 1}
	side := result.Container{Name: "side", Image: "r/side:t", Digest: "sha256:2", LayerBytes: 2, Layers: 2, Differ: result.DifferContainerd}
	elsewhere := result.Container{Name: "side", Image: "r/other:t", Digest: "sha256:2"}
	undigested := result.Container{Name: "side", Image: "r/side:t"}
	tests := map[string]struct {
		report []result.Container
		want   string
	}{
		"all":                {[]result.Container{main, side}, ""},
		"in another order":   {[]result.Container{side, main}, ""},
		"none":               {nil, "0 containers, 2 were to be committed"},
		"one too few":        {[]result.Container{main}, "1 containers, 2"},
		"one too many":       {[]result.Container{main, side, main}, "3 containers, 2"},
		"one twice":          {[]result.Container{main, main}, "container side"},
		"another image":      {[]result.Container{main, elsewhere}, "container side in r/side:t"},
		"one with no digest": {[]result.Container{main, undigested}, "container side"},
	}
	for name, test := range tests {
		t.Run(name, func(t *testing.T) {
			got := status.DeepCopy()
			err := adopt(got, result.Result{Containers: test.report, FrozenMillis: 1500})
			if test.want != "" {
				if err == nil || !strings.Contains(err.Error(), test.want) {
					t.Fatalf("error %v, want %q", err, test.want)
				}
				if !slices.Equal(got.Containers, status.Containers) || got.FrozenDuration != nil {
					t.Errorf("half of it was adopted: %+v", got)
				}
				return
			}
			if err != nil {
				t.Fatal(err)
			}
			want := []v1alpha1.ContainerSnapshot{
				{ContainerName: "main", ContainerID: "c1", ImageURI: "r/main:t", ImageDigest: "sha256:1", LayerBytes: 1, Layers: 1, Differ: v1alpha1.DifferOverlay},
				{ContainerName: "side", ContainerID: "c2", ImageURI: "r/side:t", ImageDigest: "sha256:2", LayerBytes: 2, Layers: 2, Differ: v1alpha1.DifferContainerd},
			}
			if !slices.Equal(got.Containers, want) || got.FrozenDuration.Seconds() != 1.5 {
				t.Errorf("adopted %+v", got)
			}
		})
	}
}

// lacking is a node that is ready and lacks something.
func lacking(what corev1.NodeConditionType) *corev1.Node {
	n := node("node-1", corev1.ConditionTrue)
	n.Status.Conditions = append(n.Status.Conditions, corev1.NodeCondition{Type: what, Status: corev1.ConditionTrue, Message: "only 5% are left"})
	return n
}
