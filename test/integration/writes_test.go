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
	"errors"
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	batchv1 "k8s.io/api/batch/v1"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/apimachinery/pkg/watch"
	"k8s.io/client-go/kubernetes/scheme"
	"k8s.io/client-go/rest"
	"k8s.io/client-go/tools/events"
	"k8s.io/utils/clock"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/controller-runtime/pkg/client/fake"
	"sigs.k8s.io/controller-runtime/pkg/client/interceptor"
	"sigs.k8s.io/controller-runtime/pkg/reconcile"

	"github.com/opensandbox-io/sandbox-apiserver/apis/lifecycle/v1alpha1"
	"github.com/opensandbox-io/sandbox-apiserver/pkg/committer/registry"
	"github.com/opensandbox-io/sandbox-apiserver/pkg/controller/commitjob"
	imagecontroller "github.com/opensandbox-io/sandbox-apiserver/pkg/controller/images"
	"github.com/opensandbox-io/sandbox-apiserver/pkg/controller/naming"
	sandboxcontroller "github.com/opensandbox-io/sandbox-apiserver/pkg/controller/sandbox"
	snapshotcontroller "github.com/opensandbox-io/sandbox-apiserver/pkg/controller/sandboxsnapshot"
)

// What is promised. Each write of our own objects is an event for everybody who watches them, so
// their number is most of what a verb costs.
const (
	maxWrites = 6
	// A pause that waits for its commit says so, in its sandbox and in its snapshot.
	maxWritesQueued = maxWrites + 2
)

// TestWritesOfAVerb counts how often our own objects are written for a pause and for a resume: by
// the verb and by both controllers, on the real store. A slow node shows every state of a Pod.
func TestWritesOfAVerb(t *testing.T) {
	w := newWorkshop(newFixture(t))
	w.start("demo")

	for round := range 2 {
		counted := w.count("demo")
		w.pause("demo")
		w.committer("demo")
		w.is("demo", v1alpha1.SandboxPaused)
		counted("a pause", maxWrites)

		counted = w.count("demo")
		_, err := w.sandboxes.Resume(t.Context(), "demo", &v1alpha1.SandboxResume{}, metav1.CreateOptions{})
		w.must(err)
		w.settle()
		w.kubelet("demo")
		w.is("demo", v1alpha1.SandboxRunning)
		counted(fmt.Sprintf("resume %d", round+1), maxWrites)
	}
}

func TestWritesOfAPauseThatQueues(t *testing.T) {
	w := newWorkshop(newFixture(t))
	w.start("first")
	w.start("demo")

	w.pause("first")
	counted := w.count("demo")
	w.pause("demo")
	if reason := reasonOf(w.get("demo"), v1alpha1.ConditionPaused); reason != v1alpha1.ReasonQueued {
		t.Errorf("the sandbox says %s while its commit waits", reason)
	}
	waits, err := w.snapshots.Get(t.Context(), "demo-gen1", metav1.GetOptions{})
	w.must(err)
	if ready := meta.FindStatusCondition(waits.Status.Conditions, v1alpha1.ConditionReady); ready == nil || ready.Reason != v1alpha1.ReasonQueued {
		t.Errorf("the snapshot says %+v while its commit waits", waits.Status.Conditions)
	}
	w.committer("first")
	w.committer("demo")
	w.is("demo", v1alpha1.SandboxPaused)
	counted("a pause that queues", maxWritesQueued)
}

// workshop runs both controllers between the real server and a host cluster in memory, whenever
// the test says so.
type workshop struct {
	*fixture
	own, host   client.WithWatch
	ofSandboxes reconcile.Reconciler
	ofSnapshots reconcile.Reconciler
	jobs        *commitjob.Runner
	clock       clock.PassiveClock
	commits     int // at a time
	// life is that of the process that both run in; nil: it does not end.
	life *life
}

func newWorkshop(f *fixture) *workshop {
	f.Helper()
	known := runtime.NewScheme()
	f.must(errors.Join(scheme.AddToScheme(known), v1alpha1.AddToScheme(known)))
	loopback := rest.CopyConfig(f.running.server.Loopback())
	loopback.QPS = -1
	own, err := client.NewWithWatch(loopback, client.Options{Scheme: known})
	f.must(err)

	w := &workshop{fixture: f, own: own, clock: clock.RealClock{}, commits: 1}
	theirs := &hostIndexes{fake.NewClientBuilder().WithScheme(known).WithStatusSubresource(&corev1.Pod{}, &batchv1.Job{}).WithObjects(&corev1.Node{
		ObjectMeta: metav1.ObjectMeta{Name: "node-a"},
		Status:     corev1.NodeStatus{Conditions: []corev1.NodeCondition{{Type: corev1.NodeReady, Status: corev1.ConditionTrue}}},
	})}
	f.must(commitjob.AddIndexes(f.Context(), theirs))
	made := 0
	w.host = theirs.WithInterceptorFuncs(interceptor.Funcs{
		Create: func(ctx context.Context, c client.WithWatch, object client.Object, options ...client.CreateOption) error {
			made++
			object.SetUID(types.UID(fmt.Sprintf("%s-%d", f.namespace, made)))
			object.SetCreationTimestamp(metav1.Now())
			return c.Create(ctx, object, options...)
		},
	}).Build()
	w.begin(own, w.host)
	return w
}

// begin is a new process, which knows nothing of the one before.
func (w *workshop) begin(own, host client.Client) {
	w.Helper()
	images, err := naming.ParseImageTemplate("registry.example.com", "")
	w.must(err)
	w.jobs = &commitjob.Runner{
		Config: commitjob.Config{Namespace: "sandbox-system", Image: "image-committer", Timeout: time.Minute},
		Client: host, Live: host, Clock: w.clock,
	}
	w.ofSnapshots = &snapshotcontroller.Reconciler{
		Client: own, Live: own, HostLive: host, Jobs: w.jobs, Images: images,
		MaxPerNode: w.commits, MaxTotal: w.commits, Recorder: &events.FakeRecorder{}, Clock: w.clock,
	}
	w.ofSandboxes = &sandboxcontroller.Reconciler{
		Client: own, Live: own, Host: host, HostLive: host, Jobs: w.jobs, Recorder: &events.FakeRecorder{}, Clock: w.clock,
		Images: &imagecontroller.Checker{
			Client: own, Live: own, Registry: everyImage{}, Pace: imagecontroller.NewPace(), Recorder: &events.FakeRecorder{}, Clock: w.clock,
		},
	}
}

// everyImage is a registry that has what it is asked for.
type everyImage struct{}

func (everyImage) Look(context.Context, string, string) (registry.Found, error) {
	return registry.Found{Manifest: true}, nil
}

// hostIndexes lets AddIndexes register with the builder of a client.
type hostIndexes struct{ *fake.ClientBuilder }

func (i *hostIndexes) IndexField(_ context.Context, object client.Object, field string, values client.IndexerFunc) error {
	i.WithIndex(object, field, values)
	return nil
}

// settle lets both controllers look at everything, as often as one of them may have something to
// do.
func (w *workshop) settle() {
	w.Helper()
	for range 4 {
		list, err := w.snapshots.List(w.Context(), metav1.ListOptions{})
		w.must(err)
		for i := range list.Items {
			w.visit(w.ofSnapshots, &list.Items[i])
		}
		sandboxes, err := w.sandboxes.List(w.Context(), metav1.ListOptions{})
		w.must(err)
		for i := range sandboxes.Items {
			w.visit(w.ofSandboxes, &sandboxes.Items[i])
		}
	}
}

// visit has a controller look at an object. Where the process ends with that, the next one begins.
func (w *workshop) visit(controller reconcile.Reconciler, object client.Object) {
	w.Helper()
	_, err := controller.Reconcile(w.Context(), reconcile.Request{NamespacedName: client.ObjectKeyFromObject(object)})
	if w.life != nil && w.life.over {
		w.life.later, w.life = 20*time.Second, nil // what was begun and has come to nothing is not done again at once
		w.begin(w.own, w.host)
		// Its nodes are told that somebody is there again, as by an exec in the Pods of their commits.
		list, err := w.snapshots.List(w.Context(), metav1.ListOptions{})
		w.must(err)
		for i := range list.Items {
			w.jobs.Note(list.Items[i].UID, w.clock.Now())
		}
		w.settle()
		return
	}
	w.must(err)
}

func (w *workshop) is(name string, phase v1alpha1.SandboxPhase) {
	w.Helper()
	if now := w.get(name).Status; now.Phase != phase {
		w.Fatalf("sandbox %s is %s, want %s: %+v", name, now.Phase, phase, now.Conditions)
	}
}

// start creates a sandbox and brings it up.
func (w *workshop) start(name string) {
	w.Helper()
	w.create(sandbox(name))
	w.settle()
	w.kubelet(name)
	w.is(name, v1alpha1.SandboxRunning)
}

func (w *workshop) pause(name string) {
	w.Helper()
	_, err := w.sandboxes.Pause(w.Context(), name, &v1alpha1.SandboxPause{}, metav1.CreateOptions{})
	w.must(err)
	w.settle()
}

// kubelet brings a sandbox's Pod up in as many steps as a real one takes.
func (w *workshop) kubelet(sandbox string) {
	w.Helper()
	pod := &corev1.Pod{}
	steps := []func(){
		func() { pod.Spec.NodeName = "node-a" },
		func() {
			pod.Status.Conditions = []corev1.PodCondition{{Type: corev1.PodScheduled, Status: corev1.ConditionTrue}}
		},
		func() {
			pod.Status.ContainerStatuses = []corev1.ContainerStatus{{Name: "main", State: corev1.ContainerState{Waiting: &corev1.ContainerStateWaiting{Reason: "ContainerCreating"}}}}
		},
		func() {
			pod.Status.Phase, pod.Status.PodIP = corev1.PodRunning, "10.0.0.1"
			pod.Status.ContainerStatuses = []corev1.ContainerStatus{{Name: "main", ContainerID: "containerd://c1"}}
		},
		func() {
			pod.Status.Conditions = append(pod.Status.Conditions, corev1.PodCondition{Type: corev1.PodReady, Status: corev1.ConditionTrue})
		},
	}
	for _, step := range steps {
		w.must(w.host.Get(w.Context(), client.ObjectKey{Namespace: w.namespace, Name: sandbox}, pod))
		step()
		// One write for both: a client in memory keeps the status apart.
		status := pod.Status.DeepCopy()
		w.must(w.host.Update(w.Context(), pod))
		pod.Status = *status
		w.must(w.host.Status().Update(w.Context(), pod))
		w.settle()
	}
}

// committer runs the commit of a sandbox's last Job in the steps in which its Pod is seen.
func (w *workshop) committer(sandbox string) {
	w.Helper()
	jobs := &batchv1.JobList{}
	w.must(w.host.List(w.Context(), jobs, client.InNamespace("sandbox-system"), client.MatchingLabels{v1alpha1.LabelSandbox: sandbox}))
	if len(jobs.Items) == 0 {
		w.Fatalf("there is no commit Job of sandbox %s: %+v", sandbox, w.get(sandbox).Status)
	}
	job := &jobs.Items[len(jobs.Items)-1]
	pod := &corev1.Pod{
		ObjectMeta: metav1.ObjectMeta{
			Namespace: job.Namespace, Name: job.Name + "-x", Labels: job.Spec.Template.Labels,
			OwnerReferences: []metav1.OwnerReference{*metav1.NewControllerRef(job, batchv1.SchemeGroupVersion.WithKind("Job"))},
		},
	}
	w.must(w.host.Create(w.Context(), pod))
	w.settle()
	report := fmt.Sprintf(`{"containers":[{"name":"main","image":%q,"digest":"sha256:%s","layerBytes":1,"layers":1}],"frozenMillis":5}`,
		imageOf(w.fixture, job), strings.Repeat("a", 64))
	for _, state := range []corev1.ContainerState{
		{Waiting: &corev1.ContainerStateWaiting{Reason: "ContainerCreating"}},
		{Running: &corev1.ContainerStateRunning{}},
		{Terminated: &corev1.ContainerStateTerminated{Message: report}},
	} {
		pod.Status.Phase = corev1.PodRunning
		pod.Status.ContainerStatuses = []corev1.ContainerStatus{{Name: "image-committer", State: state}}
		w.must(w.host.Status().Update(w.Context(), pod))
		w.settle()
	}
}

func imageOf(f *fixture, job *batchv1.Job) string {
	f.Helper()
	source, err := commitjob.SourceOf(job)
	f.must(err)
	return source.Containers[0].ImageURI
}

// count watches a sandbox and its snapshots from now on. The function that it returns ends that,
// and fails if there were more writes than promised.
func (w *workshop) count(sandbox string) func(what string, promised int) {
	w.Helper()
	sandboxes, err := w.sandboxes.List(w.Context(), metav1.ListOptions{})
	w.must(err)
	var watches []watch.Interface
	for _, of := range []struct {
		field string
		begin func(context.Context, metav1.ListOptions) (watch.Interface, error)
	}{{"metadata.name", w.sandboxes.Watch}, {"spec.sandboxName", w.snapshots.Watch}} {
		watching, err := of.begin(w.Context(), metav1.ListOptions{ResourceVersion: sandboxes.ResourceVersion, FieldSelector: of.field + "=" + sandbox})
		w.must(err)
		watches = append(watches, watching)
	}
	return func(what string, promised int) {
		w.Helper()
		var writes []string
		for i, watching := range watches {
			// A last write of each kind, which is not counted, tells that all before it were seen.
			writes = append(writes, w.until(watching, w.mark(sandbox, i == 0))...)
			watching.Stop()
		}
		w.Logf("%s takes %d writes:\n%s", what, len(writes), strings.Join(writes, "\n"))
		if len(writes) > promised {
			w.Errorf("%s takes %d writes of our own objects, at most %d are promised", what, len(writes), promised)
		}
		if len(writes) < 3 {
			w.Errorf("only %d writes were seen of %s", len(writes), what)
		}
	}
}

// mark writes a label on a sandbox, or else on a snapshot of it, and returns the resourceVersion
// that it has then.
func (w *workshop) mark(name string, sandbox bool) string {
	w.Helper()
	patch := []byte(fmt.Sprintf(`{"metadata":{"labels":{"mark":"%d"}}}`, time.Now().UnixNano()))
	if sandbox {
		marked, err := w.sandboxes.Patch(w.Context(), name, types.MergePatchType, patch, metav1.PatchOptions{})
		w.must(err)
		return marked.ResourceVersion
	}
	list, err := w.snapshots.List(w.Context(), metav1.ListOptions{FieldSelector: "spec.sandboxName=" + name})
	w.must(err)
	marked, err := w.snapshots.Patch(w.Context(), list.Items[0].Name, types.MergePatchType, patch, metav1.PatchOptions{})
	w.must(err)
	return marked.ResourceVersion
}

// until returns what a watch tells of before a resourceVersion.
func (w *workshop) until(watching watch.Interface, last string) []string {
	w.Helper()
	var seen []string
	timeout := time.After(deadline)
	for {
		select {
		case event := <-watching.ResultChan():
			switch object := event.Object.(type) {
			case *v1alpha1.Sandbox:
				if object.ResourceVersion == last {
					return seen
				}
				seen = append(seen, fmt.Sprintf("  %s sandbox %s: Ready %s, Paused %s", event.Type, object.Status.Phase,
					reasonOf(object, v1alpha1.ConditionReady), reasonOf(object, v1alpha1.ConditionPaused)))
			case *v1alpha1.SandboxSnapshot:
				if object.ResourceVersion == last {
					return seen
				}
				seen = append(seen, fmt.Sprintf("  %s snapshot %s: %s", event.Type, object.Name, object.Status.Phase))
			default:
				w.Fatalf("the watch says %s: %v", event.Type, event.Object)
			}
		case <-timeout:
			w.Fatalf("the watch does not come to %s; seen: %s", last, slices.Clip(seen))
		}
	}
}
