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
	"context"
	"errors"
	"fmt"
	"testing"
	"time"

	batchv1 "k8s.io/api/batch/v1"
	corev1 "k8s.io/api/core/v1"
	nodev1 "k8s.io/api/node/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/kubernetes/scheme"
	"k8s.io/client-go/tools/events"
	clocktesting "k8s.io/utils/clock/testing"
	ctrl "sigs.k8s.io/controller-runtime"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/controller-runtime/pkg/client/fake"
	"sigs.k8s.io/controller-runtime/pkg/client/interceptor"
	"sigs.k8s.io/controller-runtime/pkg/event"

	"github.com/opensandbox-io/sandbox-apiserver/apis/lifecycle/v1alpha1"
	"github.com/opensandbox-io/sandbox-apiserver/pkg/controller/commitjob"
	"github.com/opensandbox-io/sandbox-apiserver/pkg/controller/naming"
)

const (
	namespace = "default"
	jobs      = "sandbox-system"
	secret    = "push"
)

var epoch = time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC)

// pausing is the sandbox of a name whose first pause attempt is under way, changed by the options.
func pausing(name string, options ...func(*v1alpha1.Sandbox)) *v1alpha1.Sandbox {
	sandbox := &v1alpha1.Sandbox{
		ObjectMeta: metav1.ObjectMeta{Namespace: namespace, Name: name, UID: types.UID(name + "-uid"), Generation: 2},
		Spec: v1alpha1.SandboxSpec{
			DesiredState: v1alpha1.DesiredStatePaused,
			Template:     &corev1.PodTemplateSpec{Spec: corev1.PodSpec{Containers: []corev1.Container{{Name: "main", Image: "busybox"}}}},
		},
		Status: v1alpha1.SandboxStatus{
			Phase: v1alpha1.SandboxPausing, PodName: name, PodUID: types.UID(name + "-pod"), NodeName: "node-1", SnapshotAttempts: 1,
			Conditions: []metav1.Condition{{Type: v1alpha1.ConditionPaused, Status: metav1.ConditionFalse, Reason: v1alpha1.ReasonPausing}},
		},
	}
	for _, option := range options {
		option(sandbox)
	}
	return sandbox
}

func running(s *v1alpha1.Sandbox) { s.Status.Phase = v1alpha1.SandboxRunning }

func canceling(s *v1alpha1.Sandbox) { s.Status.Conditions[0].Reason = v1alpha1.ReasonCanceling }

// podOf is the Pod that the sandbox of a name runs in, changed by the options.
func podOf(name string, options ...func(*corev1.Pod)) *corev1.Pod {
	pod := &corev1.Pod{
		ObjectMeta: metav1.ObjectMeta{
			Namespace: namespace, Name: name, UID: types.UID(name + "-pod"),
			Labels: map[string]string{v1alpha1.LabelSandbox: name, v1alpha1.LabelSandboxUID: name + "-uid"},
		},
		Spec: corev1.PodSpec{NodeName: "node-1"},
		Status: corev1.PodStatus{
			Phase:             corev1.PodRunning,
			ContainerStatuses: []corev1.ContainerStatus{{Name: "main", ContainerID: "containerd://c1"}, {Name: "injected", ContainerID: "containerd://c2"}},
		},
	}
	for _, option := range options {
		option(pod)
	}
	return pod
}

// attemptOf is the snapshot of the first pause attempt of the sandbox of a name.
func attemptOf(name string, options ...func(*v1alpha1.SandboxSnapshot)) *v1alpha1.SandboxSnapshot {
	return snapshotOf(name, naming.PauseSnapshot(name, 1), append([]func(*v1alpha1.SandboxSnapshot){func(s *v1alpha1.SandboxSnapshot) {
		s.OwnerReferences = []metav1.OwnerReference{*metav1.NewControllerRef(pausing(name), v1alpha1.SchemeGroupVersion.WithKind("Sandbox"))}
		s.Spec.Pause = &v1alpha1.SnapshotPause{SandboxUID: types.UID(name + "-uid"), PodUID: types.UID(name + "-pod"), Attempt: 1}
	}}, options...)...)
}

// snapshotOf is a snapshot that a user asked for.
func snapshotOf(sandbox, name string, options ...func(*v1alpha1.SandboxSnapshot)) *v1alpha1.SandboxSnapshot {
	snapshot := &v1alpha1.SandboxSnapshot{
		ObjectMeta: metav1.ObjectMeta{
			Namespace: namespace, Name: name, UID: types.UID(name + "-uid"), Generation: 1, Finalizers: []string{v1alpha1.SnapshotFinalizer},
		},
		Spec:   v1alpha1.SandboxSnapshotSpec{SandboxName: sandbox},
		Status: v1alpha1.SandboxSnapshotStatus{Phase: v1alpha1.SnapshotPending},
	}
	for _, option := range options {
		option(snapshot)
	}
	return snapshot
}

// committed: the snapshot succeeded, of the Pod that the sandbox demo runs in.
func committed(s *v1alpha1.SandboxSnapshot) {
	s.Status.Phase = v1alpha1.SnapshotSucceed
	s.Status.SourcePodName, s.Status.SourcePodUID, s.Status.SourceNodeName = "demo", "demo-pod", "node-1"
	s.Status.Containers = []v1alpha1.ContainerSnapshot{{ContainerName: "main", ContainerID: "c1"}}
}

func node(name string, ready corev1.ConditionStatus) *corev1.Node {
	return &corev1.Node{
		ObjectMeta: metav1.ObjectMeta{Name: name},
		Status:     corev1.NodeStatus{Conditions: []corev1.NodeCondition{{Type: corev1.NodeReady, Status: ready, Reason: "KubeletStopped"}}},
	}
}

func pushSecret(kind corev1.SecretType, content string) *corev1.Secret {
	return &corev1.Secret{
		ObjectMeta: metav1.ObjectMeta{Namespace: jobs, Name: secret},
		Type:       kind,
		Data:       map[string][]byte{corev1.DockerConfigJsonKey: []byte(content)},
	}
}

func runtimeClass(name, handler string) *nodev1.RuntimeClass {
	return &nodev1.RuntimeClass{ObjectMeta: metav1.ObjectMeta{Name: name}, Handler: handler}
}

// fixture is a Reconciler between two API servers in memory.
type fixture struct {
	*testing.T
	r         *Reconciler
	own, host client.Client
	recorder  *events.FakeRecorder
	// refuseStatus makes the next write of a status fail.
	refuseStatus bool
	// refuseJob is what the next creation of a Job answers, hostAnswers what every request for such an object does
	// (by the kind's name), and lateJob one that is created though the answer was an error.
	refuseJob   error
	hostAnswers map[string]error
	lateJob     *batchv1.Job
	created     int
	// refuseSecrets makes the next creation of a Secret fail; unreadable is one that may not be read.
	refuseSecrets bool
	unreadable    string
	uids          int
}

// newFixture starts with the objects, to which it adds the node and the push secret where the
// objects bring none of that name.
func newFixture(t *testing.T, objects ...client.Object) *fixture {
	t.Helper()
	f := &fixture{T: t, recorder: events.NewFakeRecorder(100)}
	own := []client.Object{}
	host := map[string]client.Object{}
	for _, object := range append([]client.Object{node("node-1", corev1.ConditionTrue), pushSecret(corev1.SecretTypeDockerConfigJson, "{}")}, objects...) {
		switch object.(type) {
		case *v1alpha1.Sandbox, *v1alpha1.SandboxSnapshot:
			own = append(own, object)
		default:
			host[fmt.Sprintf("%T %s", object, client.ObjectKeyFromObject(object))] = object
		}
	}
	known := runtime.NewScheme()
	if err := errors.Join(scheme.AddToScheme(known), v1alpha1.AddToScheme(known)); err != nil {
		t.Fatal(err)
	}
	ours := &indexes{fake.NewClientBuilder().WithScheme(known).WithObjects(own...).WithStatusSubresource(&v1alpha1.Sandbox{}, &v1alpha1.SandboxSnapshot{})}
	if err := AddIndexes(t.Context(), ours); err != nil {
		t.Fatal(err)
	}
	// The API selects by it.
	ours.WithIndex(&v1alpha1.SandboxSnapshot{}, v1alpha1.FieldStatusPhase, func(o client.Object) []string {
		return []string{string(o.(*v1alpha1.SandboxSnapshot).Status.Phase)}
	})
	f.own = ours.WithInterceptorFuncs(interceptor.Funcs{
		SubResourceUpdate: func(ctx context.Context, c client.Client, subresource string, object client.Object, options ...client.SubResourceUpdateOption) error {
			if f.refuseStatus {
				f.refuseStatus = false
				return apierrors.NewServiceUnavailable("etcd is away")
			}
			return c.SubResource(subresource).Update(ctx, object, options...)
		},
	}).Build()

	theirs := &indexes{fake.NewClientBuilder().WithScheme(known)}
	if err := commitjob.AddIndexes(t.Context(), theirs); err != nil {
		t.Fatal(err)
	}
	for _, object := range host {
		theirs.WithObjects(object)
	}
	f.host = theirs.WithInterceptorFuncs(interceptor.Funcs{
		Get: func(ctx context.Context, c client.WithWatch, key client.ObjectKey, object client.Object, options ...client.GetOption) error {
			if err := f.hostAnswers[fmt.Sprintf("get %T", object)]; err != nil {
				return err
			}
			if _, ok := object.(*corev1.Secret); ok && f.unreadable == key.Name {
				return apierrors.NewForbidden(corev1.Resource("secrets"), key.Name, nil)
			}
			return c.Get(ctx, key, object, options...)
		},
		Create: func(ctx context.Context, c client.WithWatch, object client.Object, options ...client.CreateOption) error {
			if job, ok := object.(*batchv1.Job); ok {
				f.created++
				if err := f.hostAnswers["create Job"]; err != nil {
					f.lateJob = job.DeepCopy()
					return err
				}
				if f.refuseJob != nil {
					err := f.refuseJob
					f.refuseJob = nil
					return err
				}
			}
			if _, ok := object.(*corev1.Secret); ok && f.refuseSecrets {
				f.refuseSecrets = false
				return apierrors.NewServiceUnavailable("etcd is away")
			}
			f.uids++
			object.SetUID(types.UID(fmt.Sprintf("uid-%d", f.uids)))
			object.SetCreationTimestamp(metav1.NewTime(epoch))
			return c.Create(ctx, object, options...)
		},
	}).Build()

	f.restart()
	return f
}

// indexes lets AddIndexes register with the builder of a client.
type indexes struct{ *fake.ClientBuilder }

func (i *indexes) IndexField(_ context.Context, object client.Object, field string, values client.IndexerFunc) error {
	i.WithIndex(object, field, values)
	return nil
}

// restart begins with a controller that remembers nothing.
func (f *fixture) restart() {
	f.Helper()
	images, err := naming.ParseImageTemplate("registry.example.com", "")
	if err != nil {
		f.Fatal(err)
	}
	f.r = &Reconciler{
		Client: f.own, Live: f.own, HostLive: f.host,
		Jobs: &commitjob.Runner{
			Config: commitjob.Config{Namespace: jobs, Image: "image-committer", Timeout: time.Minute, PushSecret: secret},
			Client: f.host, Live: f.host, Clock: clocktesting.NewFakePassiveClock(epoch),
		},
		Images: images, Registry: &album{}, Runtimes: []string{"runc"}, MaxPerNode: 1, MaxTotal: 2,
		Recorder: f.recorder, Clock: clocktesting.NewFakePassiveClock(epoch),
		wake: make(chan event.GenericEvent, 10),
	}
}

// visit reconciles the snapshot once.
func (f *fixture) visit(name string) error {
	_, err := f.r.Reconcile(f.Context(), ctrl.Request{NamespacedName: client.ObjectKey{Namespace: namespace, Name: name}})
	return err
}

// visits reconciles the snapshot once, which must go well, and returns it, nil if it is gone.
func (f *fixture) visits(name string) *v1alpha1.SandboxSnapshot {
	f.Helper()
	if err := f.visit(name); err != nil {
		f.Fatal(err)
	}
	snapshot := &v1alpha1.SandboxSnapshot{}
	if err := f.own.Get(f.Context(), client.ObjectKey{Namespace: namespace, Name: name}, snapshot); err != nil {
		if apierrors.IsNotFound(err) {
			return nil
		}
		f.Fatal(err)
	}
	return snapshot
}

// hasJobs checks which Jobs there are, by component, and returns the last one.
func (f *fixture) hasJobs(components ...string) *batchv1.Job {
	f.Helper()
	list := &batchv1.JobList{}
	if err := f.host.List(f.Context(), list, client.InNamespace(jobs)); err != nil {
		f.Fatal(err)
	}
	got, want := map[string]int{}, map[string]int{}
	for i := range list.Items {
		got[list.Items[i].Labels[v1alpha1.LabelComponent]]++
	}
	for _, component := range components {
		want[component]++
	}
	if fmt.Sprint(got) != fmt.Sprint(want) {
		f.Fatalf("Jobs %v, want %v", got, want)
	}
	for i := range list.Items {
		if len(components) > 0 && list.Items[i].Labels[v1alpha1.LabelComponent] == components[len(components)-1] {
			return &list.Items[i]
		}
	}
	return nil
}

// runs is the Pod of a Job, whose container runs.
func (f *fixture) runs(job *batchv1.Job) *corev1.Pod {
	f.Helper()
	pod := &corev1.Pod{
		ObjectMeta: metav1.ObjectMeta{
			Namespace: job.Namespace, Name: job.Name + "-x", Labels: job.Spec.Template.Labels,
			OwnerReferences: []metav1.OwnerReference{*metav1.NewControllerRef(job, batchv1.SchemeGroupVersion.WithKind("Job"))},
		},
		Spec: corev1.PodSpec{NodeName: "node-1"},
		Status: corev1.PodStatus{Phase: corev1.PodRunning, ContainerStatuses: []corev1.ContainerStatus{{
			Name: "image-committer", State: corev1.ContainerState{Running: &corev1.ContainerStateRunning{}},
		}}},
	}
	status := pod.Status
	if err := f.host.Create(f.Context(), pod); err != nil {
		f.Fatal(err)
	}
	pod.Status = status
	f.shows(pod)
	return pod
}

// shows writes the status of a Job's Pod.
func (f *fixture) shows(pod *corev1.Pod) {
	f.Helper()
	if err := f.host.Status().Update(f.Context(), pod); err != nil {
		f.Fatal(err)
	}
}

// ends lets the container of a Job's Pod end with a report.
func (f *fixture) ends(pod *corev1.Pod, exitCode int32, report string) {
	f.Helper()
	pod.Status.Phase = corev1.PodSucceeded
	if exitCode != 0 {
		pod.Status.Phase = corev1.PodFailed
	}
	pod.Status.ContainerStatuses[0].State = corev1.ContainerState{Terminated: &corev1.ContainerStateTerminated{ExitCode: exitCode, Message: report}}
	f.shows(pod)
}

// change edits a sandbox.
func (f *fixture) change(name string, edit func(*v1alpha1.Sandbox)) {
	f.Helper()
	sandbox := &v1alpha1.Sandbox{}
	if err := f.own.Get(f.Context(), client.ObjectKey{Namespace: namespace, Name: name}, sandbox); err != nil {
		f.Fatal(err)
	}
	edit(sandbox)
	if err := f.own.Status().Update(f.Context(), sandbox); err != nil {
		f.Fatal(err)
	}
}

// later lets time pass.
func (f *fixture) later(by time.Duration) {
	f.r.Clock = clocktesting.NewFakePassiveClock(f.r.Clock.Now().Add(by))
}

// edits is somebody's edit of a snapshot.
func (f *fixture) edits(name string, edit func(*v1alpha1.SandboxSnapshot)) {
	f.Helper()
	snapshot := &v1alpha1.SandboxSnapshot{}
	if err := f.own.Get(f.Context(), client.ObjectKey{Namespace: namespace, Name: name}, snapshot); err != nil {
		f.Fatal(err)
	}
	edit(snapshot)
	if err := f.own.Update(f.Context(), snapshot); err != nil {
		f.Fatal(err)
	}
}

func (f *fixture) deletes(object client.Object) {
	f.Helper()
	if err := f.own.Delete(f.Context(), object); err != nil {
		f.Fatal(err)
	}
}

// summary is a snapshot's status on one line.
func summary(snapshot *v1alpha1.SandboxSnapshot) string {
	if snapshot == nil {
		return "gone"
	}
	line := string(snapshot.Status.Phase)
	for _, kind := range []string{v1alpha1.ConditionReady, v1alpha1.ConditionFailed} {
		if condition := meta.FindStatusCondition(snapshot.Status.Conditions, kind); condition != nil {
			line += fmt.Sprintf(" %s=%s/%s", kind, condition.Status, condition.Reason)
		}
	}
	return line
}

// is checks what a snapshot has come to.
func (f *fixture) is(snapshot *v1alpha1.SandboxSnapshot, want string) {
	f.Helper()
	if got := summary(snapshot); got != want {
		f.Fatalf("the snapshot is\n     %s\nwant %s", got, want)
	}
}
