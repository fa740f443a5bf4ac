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

package sandbox

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/kubernetes/scheme"
	"k8s.io/client-go/tools/events"
	clocktesting "k8s.io/utils/clock/testing"
	ctrl "sigs.k8s.io/controller-runtime"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/controller-runtime/pkg/client/fake"
	"sigs.k8s.io/controller-runtime/pkg/client/interceptor"

	"github.com/opensandbox-io/sandbox-apiserver/apis/lifecycle/v1alpha1"
	"github.com/opensandbox-io/sandbox-apiserver/pkg/controller/commitjob"
	"github.com/opensandbox-io/sandbox-apiserver/pkg/controller/sandboxsnapshot"
)

// fixture is a Reconciler between two API servers in memory.
type fixture struct {
	*testing.T
	r         *Reconciler
	own, host client.Client
	clock     *clocktesting.FakePassiveClock
	// refusal is what the creation of a Pod answers.
	refusal error
	created int
	// takes is how long the creation of a Pod takes.
	takes time.Duration
	// admits is what webhooks make of a Pod that is created.
	admits func(*corev1.Pod)
	// registry is what it says about images; nil: it has them all.
	registry func(*v1alpha1.SandboxSnapshot)
	asked    int
	// snapshotRefusal is what the creation of a snapshot answers.
	snapshotRefusal error
	// kills carries how the kills end that are begun.
	kills chan killEnd
	// stop ends the process that kills.
	stop func()
}

// killEnd is what a kill has written, and how it has ended.
type killEnd struct {
	said string
	err  error
}

// Exec is a kill: it runs until the test ends it.
func (f *fixture) Exec(ctx context.Context, _ types.NamespacedName, _ string, _ []string) (string, string, error) {
	select {
	case end := <-f.kills:
		return end.said, "", end.err
	case <-ctx.Done():
		return "", "", context.Cause(ctx)
	}
}

// killEnds ends the kill that has begun, and returns when its sandbox is to be visited.
func (f *fixture) killEnds(said string, err error) {
	f.Helper()
	soon := time.After(10 * time.Second)
	select {
	case f.kills <- killEnd{said, err}:
	case <-soon:
		f.Fatal("no kill has begun")
	}
	select {
	case woken := <-f.r.kills.ended:
		if woken.Object.GetNamespace() != namespace || woken.Object.GetName() != name {
			f.Fatalf("woken is %s/%s", woken.Object.GetNamespace(), woken.Object.GetName())
		}
	case <-soon:
		f.Fatal("the end of the kill wakes nobody")
	}
}

// killsNobody checks that no kill has begun. It is right also where it is too early to see one.
func (f *fixture) killsNobody() {
	f.Helper()
	select {
	case f.kills <- killEnd{}:
		f.Error("a kill has begun")
	case <-time.After(20 * time.Millisecond):
	}
}

// restarts cuts off the kills under way, and forgets what a process keeps in memory of them.
func (f *fixture) restarts() {
	if f.stop != nil {
		f.stop()
	}
	killing, claiming := newKills(), newKills()
	ctx, cancel := context.WithCancel(f.Context())
	var running sync.WaitGroup
	for _, begun := range []*kills{killing, claiming} {
		running.Go(func() {
			if err := begun.Start(ctx); err != nil {
				f.Error(err)
			}
		})
	}
	f.r.kills, f.r.claims, f.stop = killing, claiming, func() { cancel(); running.Wait() }
}

// CheckForResume records what the registry says.
func (f *fixture) CheckForResume(ctx context.Context, snapshot *v1alpha1.SandboxSnapshot) {
	f.Helper()
	f.asked++
	said := inRegistry
	if f.registry != nil {
		said = f.registry
	}
	said(snapshot)
	if err := f.own.Status().Update(ctx, snapshot); err != nil {
		f.Fatal(err)
	}
}

type indexes struct{ *fake.ClientBuilder }

func (i *indexes) IndexField(_ context.Context, object client.Object, field string, values client.IndexerFunc) error {
	i.WithIndex(object, field, values)
	return nil
}

func newFixture(t *testing.T, objects ...client.Object) *fixture {
	t.Helper()
	known := runtime.NewScheme()
	if err := errors.Join(scheme.AddToScheme(known), v1alpha1.AddToScheme(known)); err != nil {
		t.Fatal(err)
	}
	ours := &indexes{fake.NewClientBuilder().WithScheme(known).WithStatusSubresource(&v1alpha1.Sandbox{}, &v1alpha1.SandboxSnapshot{})}
	if err := sandboxsnapshot.AddIndexes(t.Context(), ours); err != nil {
		t.Fatal(err)
	}
	theirs := &indexes{fake.NewClientBuilder().WithScheme(known)}
	if err := commitjob.AddIndexes(t.Context(), theirs); err != nil {
		t.Fatal(err)
	}
	for _, object := range objects {
		switch object.(type) {
		case *corev1.Pod, *corev1.Namespace:
			theirs.WithObjects(object)
		default:
			ours.WithObjects(object)
		}
	}
	f := &fixture{T: t, clock: clocktesting.NewFakePassiveClock(epoch), kills: make(chan killEnd)}
	f.own = ours.WithInterceptorFuncs(interceptor.Funcs{
		Create: func(ctx context.Context, c client.WithWatch, object client.Object, options ...client.CreateOption) error {
			if f.snapshotRefusal != nil {
				return f.snapshotRefusal
			}
			return c.Create(ctx, object, options...)
		},
	}).Build()
	f.host = theirs.WithInterceptorFuncs(interceptor.Funcs{
		Create: func(ctx context.Context, c client.WithWatch, object client.Object, options ...client.CreateOption) error {
			f.created++
			f.clock.SetTime(f.clock.Now().Add(f.takes))
			if f.refusal != nil {
				return f.refusal
			}
			object.SetUID(types.UID(fmt.Sprintf("made-%d", f.created)))
			if f.admits != nil {
				f.admits(object.(*corev1.Pod))
			}
			return c.Create(ctx, object, options...)
		},
	}).Build()
	f.r = &Reconciler{
		Client: f.own, Live: f.own, Host: f.host, HostLive: f.host, Images: f,
		Jobs:     &commitjob.Runner{Config: commitjob.Config{Namespace: "sandbox-system"}, Client: f.host, Live: f.host, Exec: f, Clock: f.clock},
		Recorder: events.NewFakeRecorder(100), Clock: f.clock, Rescues: true,
	}
	f.restarts()
	t.Cleanup(func() { f.stop() })
	// Commits that have begun just now, whatever their snapshots are.
	f.r.Jobs.(*commitjob.Runner).Note("", epoch)
	for _, object := range objects {
		f.r.Jobs.(*commitjob.Runner).Note(object.GetUID(), epoch)
	}
	return f
}

// visits reconciles the sandbox once, which must go well, and checks what has become of it.
func (f *fixture) visits(want string) ctrl.Result {
	f.Helper()
	key := client.ObjectKey{Namespace: namespace, Name: name}
	result, err := f.r.Reconcile(f.Context(), ctrl.Request{NamespacedName: key})
	if err != nil {
		f.Fatal(err)
	}
	sandbox := &v1alpha1.Sandbox{}
	line := "gone"
	if err := f.own.Get(f.Context(), key, sandbox); err == nil {
		line = summary(&sandbox.Status)
	} else if !apierrors.IsNotFound(err) {
		f.Fatal(err)
	}
	if line != want {
		f.Fatalf("the sandbox is\n     %s\nwant %s", line, want)
	}
	return result
}

// pod is the Pod, nil where there is none.
func (f *fixture) pod() *corev1.Pod {
	f.Helper()
	pod := &corev1.Pod{}
	if err := f.host.Get(f.Context(), client.ObjectKey{Namespace: namespace, Name: name}, pod); err != nil {
		return nil
	}
	return pod
}

func (f *fixture) snapshots() string {
	f.Helper()
	list := &v1alpha1.SandboxSnapshotList{}
	if err := f.own.List(f.Context(), list); err != nil {
		f.Fatal(err)
	}
	var names []string
	for i := range list.Items {
		if list.Items[i].DeletionTimestamp == nil {
			names = append(names, list.Items[i].Name)
		}
	}
	return strings.Join(names, " ")
}

func TestTheFirstPod(t *testing.T) {
	f := newFixture(t, sandboxIn(v1alpha1.SandboxPending))
	f.visits("Pending pod=demo")
	pod := f.pod()
	if pod == nil {
		t.Fatal("there is no Pod")
	}
	podOf().Status.DeepCopyInto(&pod.Status)
	if err := f.host.Status().Update(t.Context(), pod); err != nil {
		t.Fatal(err)
	}
	result := f.visits("Running Ready=True/PodReady Paused=False/Running pod=demo/made-1")
	if result.RequeueAfter != 0 {
		t.Errorf("a sandbox at rest is visited again after %s", result.RequeueAfter)
	}
}

func TestAPodThatIsRefused(t *testing.T) {
	resource := schema.GroupResource{Resource: "pods"}
	tests := map[string]struct {
		refusal error
		objects []client.Object
		reason  string
	}{
		"invalid":    {apierrors.NewInvalid(schema.GroupKind{Kind: "Pod"}, name, nil), nil, v1alpha1.ReasonPodRejected},
		"forbidden":  {apierrors.NewForbidden(resource, name, errors.New("exceeded quota")), nil, v1alpha1.ReasonPodRejected},
		"in the way": {nil, []client.Object{podOf(func(p *corev1.Pod) { p.Labels = nil })}, v1alpha1.ReasonPodNameConflict},
	}
	for name, test := range tests {
		t.Run(name, func(t *testing.T) {
			refused := "Pending Ready=False/" + test.reason
			f := newFixture(t, append(test.objects, sandboxIn(v1alpha1.SandboxPending))...)
			f.refusal = test.refusal
			f.visits(refused)

			if result := f.visits(refused); f.created != 1 || result.RequeueAfter != firstRetry {
				t.Errorf("tried %d times, and again after %s", f.created, result.RequeueAfter)
			}
			f.clock.SetTime(epoch.Add(firstRetry))
			refused += " failedPods=1"
			f.visits(refused)
			if result := f.visits(refused); f.created != 2 || result.RequeueAfter != 2*firstRetry {
				t.Errorf("tried %d times, and again after %s", f.created, result.RequeueAfter)
			}
			if pod := f.pod(); len(test.objects) > 0 && (pod == nil || pod.DeletionTimestamp != nil) {
				t.Error("somebody else's Pod was deleted")
			}
		})
	}
}

func TestAPause(t *testing.T) {
	f := newFixture(t, sandboxIn(v1alpha1.SandboxPausing, wantsPaused, onPod, attempts(1)), podOf())
	f.visits("Pausing pod=demo/pod-1 attempts=1")
	if got := f.snapshots(); got != "demo-gen1" {
		t.Fatalf("snapshots %q", got)
	}
	snapshot := &v1alpha1.SandboxSnapshot{}
	if err := f.own.Get(t.Context(), client.ObjectKey{Namespace: namespace, Name: "demo-gen1"}, snapshot); err != nil {
		t.Fatal(err)
	}
	if !metav1.IsControlledBy(snapshot, sandboxIn("")) || snapshot.Spec.SandboxName != name {
		t.Errorf("made %+v", snapshot)
	}
	snapshotIn(v1alpha1.SnapshotSucceed).Status.DeepCopyInto(&snapshot.Status)
	snapshot.Status.Warnings = []v1alpha1.SnapshotWarning{{Reason: v1alpha1.ReasonMountNotKept, Message: "the content of the emptyDir volume is not in the snapshot"}}
	if err := f.own.Status().Update(t.Context(), snapshot); err != nil {
		t.Fatal(err)
	}
	f.visits("Pausing Ready=False/Pausing Paused=False/RemovingPod pod=demo/pod-1 saved=demo-gen1 attempts=1")
	if f.pod() != nil {
		t.Fatal("the Pod is still there")
	}
	result := f.visits("Paused Ready=False/Paused Paused=True/Paused saved=demo-gen1 attempts=1")
	if result.RequeueAfter != 0 {
		t.Errorf("a sandbox at rest is visited again after %s", result.RequeueAfter)
	}
	f.tells("Normal Pausing snapshot demo-gen1 commits the root filesystems", "Normal Paused saved in snapshot demo-gen1; Pod demo is gone; what is not in it its status.warnings say (1)")
}

// TestWhoWaitsForItsTurnIsLeftAlone: thousands may, and each visit asks two API servers.
func TestWhoWaitsForItsTurnIsLeftAlone(t *testing.T) {
	f := newFixture(t, sandboxIn(v1alpha1.SandboxPausing, wantsPaused, onPod, attempts(1)), snapshotIn(v1alpha1.SnapshotPending, queuedSnapshot), podOf())
	result := f.visits("Pausing Paused=False/Queued pod=demo/pod-1 attempts=1")
	if result.RequeueAfter != queueBackstop {
		t.Errorf("is visited again after %s, want %s", result.RequeueAfter, queueBackstop)
	}
}

func TestAResume(t *testing.T) {
	f := newFixture(t, sandboxIn(v1alpha1.SandboxResuming, saved("demo-gen1"), attempts(1)), snapshotIn(v1alpha1.SnapshotSucceed))
	f.visits("Resuming pod=demo saved=demo-gen1 attempts=1")
	f.tells("Normal PodCreated created Pod demo from snapshot demo-gen1")
}

// tells checks all events since the last call.
func (f *fixture) tells(want ...string) {
	f.Helper()
	var got []string
	for told := f.r.Recorder.(*events.FakeRecorder).Events; len(told) > 0; {
		got = append(got, <-told)
	}
	if !slices.Equal(got, want) {
		f.Errorf("the events are %q, want %q", got, want)
	}
}

func TestAResumeWhoseImageIsGone(t *testing.T) {
	f := newFixture(t, sandboxIn(v1alpha1.SandboxResuming, saved("demo-gen1")), snapshotIn(v1alpha1.SnapshotSucceed, ofContainer("main", "registry.example.com/a/demo-main:t", "sha256:"+strings.Repeat("a", 64))))
	f.registry = notInRegistry
	const waits = "Resuming Ready=False/ImageUnavailable saved=demo-gen1"
	for visit := range 3 {
		result := f.visits(waits)
		if result.RequeueAfter != imageRetry || f.pod() != nil || f.asked != visit+1 {
			t.Fatalf("asked %d times, looks again after %s; the Pod: %v", f.asked, result.RequeueAfter, f.pod())
		}
	}
	f.registry = inRegistry
	f.visits("Resuming Ready=False/PodPending pod=demo saved=demo-gen1")
	if pod := f.pod(); pod == nil || pod.Annotations[v1alpha1.AnnotationRestoredFrom] != "demo-gen1" {
		t.Fatalf("the Pod: %v", pod)
	}
}

// The registry gave no answer before the Pod was made, and has lost the image, or has done so since.
func TestAPodWhoseImageIsGone(t *testing.T) {
	image := ofContainer("main", "registry.example.com/a/demo-main:t", "sha256:"+strings.Repeat("a", 64))
	f := newFixture(t, sandboxIn(v1alpha1.SandboxResuming, saved("demo-gen1")), snapshotIn(v1alpha1.SnapshotSucceed, image))
	f.registry = registryUnknown
	f.visits("Resuming pod=demo saved=demo-gen1")
	f.podIs(cannotPull)
	const hangs = "Resuming Ready=False/ImagePullFailed pod=demo/made-1 saved=demo-gen1"
	for range 5 {
		if result := f.visits(hangs); result.RequeueAfter != firstRetry {
			t.Errorf("looks again after %s", result.RequeueAfter)
		}
	}
	if f.asked != 2 {
		t.Errorf("the registry was asked %d times, want once before the Pod and once after", f.asked)
	}
	f.clock.SetTime(f.clock.Now().Add(firstRetry))
	f.registry = notInRegistry
	f.visits("Resuming Ready=False/ImageUnavailable pod=demo/made-1 saved=demo-gen1")
	if f.pod() != nil {
		t.Fatal("the Pod that can never pull its image is still there")
	}
	const waits = "Resuming Ready=False/ImageUnavailable saved=demo-gen1"
	f.visits(waits)
	f.clock.SetTime(f.clock.Now().Add(lastRetry))
	if result := f.visits(waits); result.RequeueAfter != imageRetry {
		t.Errorf("looks again after %s", result.RequeueAfter)
	}
	f.registry = inRegistry
	f.visits("Resuming Ready=False/PodPending pod=demo saved=demo-gen1 failedPods=1")
	if f.created != 2 {
		t.Errorf("%d Pods were made", f.created)
	}
}

// podIs gives the Pod the status of another one.
func (f *fixture) podIs(options ...func(*corev1.Pod)) {
	f.Helper()
	pod := f.pod()
	if pod == nil {
		f.Fatal("there is no Pod")
	}
	podOf(options...).Status.DeepCopyInto(&pod.Status)
	if err := f.host.Status().Update(f.Context(), pod); err != nil {
		f.Fatal(err)
	}
}

// What has changed since the Pod was read keeps it: a container that has started, for instance.
func TestAPodThatHasChangedIsNotRemovedUnrun(t *testing.T) {
	f := newFixture(t, sandboxIn(v1alpha1.SandboxResuming, onPod, saved("demo-gen1")), podOf(cannotPull, restored("demo-gen1")))
	before := f.pod()
	f.podIs(runs)
	if err := f.r.deletePod(t.Context(), before, action{do: deletePod, grace: shortGrace, asSeen: true}); err != nil {
		t.Fatal(err)
	}
	if f.pod() == nil {
		t.Error("a Pod that had begun to run was deleted")
	}
}

func TestAPausedSandboxShowsThatItsImageIsGone(t *testing.T) {
	f := newFixture(t, sandboxIn(v1alpha1.SandboxPaused, wantsPaused, saved("demo-gen1")), snapshotIn(v1alpha1.SnapshotSucceed, notInRegistry))
	f.visits("Paused Ready=False/ImageUnavailable Paused=True/Paused saved=demo-gen1")
	if f.asked != 0 {
		t.Error("the registry was asked")
	}
	if event := <-f.r.Recorder.(*events.FakeRecorder).Events; !strings.HasPrefix(event, "Warning "+v1alpha1.ReasonImageUnavailable) {
		t.Errorf("the event is %q", event)
	}
}

func TestANameThatIsTaken(t *testing.T) {
	f := newFixture(t, sandboxIn(v1alpha1.SandboxPausing, wantsPaused, onPod, attempts(1)), podOf(), snapshotIn(v1alpha1.SnapshotSucceed, notOurs))
	f.visits("Pausing pod=demo/pod-1 attempts=2")
	if got := f.snapshots(); got != "demo-gen1 demo-gen2" {
		t.Errorf("snapshots %q", got)
	}
}

// A snapshot that has failed is nobody's to wait for; another one of its name is seen all the same.
func TestASourceThatFailedAndIsMadeAnew(t *testing.T) {
	base := func(phase v1alpha1.SandboxSnapshotPhase) *v1alpha1.SandboxSnapshot {
		return snapshotIn(phase, func(s *v1alpha1.SandboxSnapshot) { s.Name, s.Spec.Pause = "base", nil })
	}
	f := newFixture(t, sandboxIn(v1alpha1.SandboxPending, restoresFrom("base")), base(v1alpha1.SnapshotFailed))
	if result := f.visits("Failed Ready=False/SnapshotNotReady Paused=False/SnapshotNotReady"); result.RequeueAfter != backstop {
		t.Errorf("is looked at again after %s", result.RequeueAfter)
	}
	if err := f.own.Delete(t.Context(), base("")); err != nil {
		t.Fatal(err)
	}
	f.visits("Pending Ready=False/SnapshotNotFound Paused=False/Pending")
	if err := f.own.Create(t.Context(), base(v1alpha1.SnapshotSucceed)); err != nil {
		t.Fatal(err)
	}
	f.visits("Pending Ready=False/Pending Paused=False/Pending pod=demo saved=base")
}

// Snapshots of an earlier sandbox of the name, orphaned or restored, may have any number of the names.
func TestManyNamesThatAreTaken(t *testing.T) {
	objects := []client.Object{sandboxIn(v1alpha1.SandboxPausing, wantsPaused, onPod, attempts(1)), podOf()}
	for n := range 30 {
		objects = append(objects, snapshotIn(v1alpha1.SnapshotSucceed, named(fmt.Sprintf("demo-gen%d", n+1)), notOurs))
	}
	f := newFixture(t, objects...)
	f.visits("Pausing pod=demo/pod-1 attempts=31")
	if got := f.snapshots(); !strings.HasSuffix(got, "demo-gen31") && !strings.Contains(got, "demo-gen31 ") {
		t.Errorf("snapshots %q", got)
	}
}

// Who pauses and thinks better of it, again and again, must not fill the store.
func TestPausesThatAreTakenBack(t *testing.T) {
	for name, how := range map[string]func(*v1alpha1.SandboxSnapshot){
		"cancelled before the commit has ended": func(s *v1alpha1.SandboxSnapshot) {
			snapshotIn(v1alpha1.SnapshotFailed, failedFor(v1alpha1.ReasonCanceled)).Status.DeepCopyInto(&s.Status)
		},
		"failed once each": func(s *v1alpha1.SandboxSnapshot) {
			snapshotIn(v1alpha1.SnapshotFailed).Status.DeepCopyInto(&s.Status)
		},
	} {
		t.Run(name, func(t *testing.T) {
			f := newFixture(t, sandboxIn(v1alpha1.SandboxRunning, onPod), podOf())
			key := client.ObjectKey{Namespace: namespace, Name: "demo"}
			for n := range 12 {
				sandbox := &v1alpha1.Sandbox{}
				if err := f.own.Get(t.Context(), key, sandbox); err != nil {
					t.Fatal(err)
				}
				sandbox.Status.Phase, sandbox.Status.SnapshotAttempts, sandbox.Status.FailedAttempts = v1alpha1.SandboxPausing, int64(n+1), 0
				if strings.HasPrefix(name, "cancelled") {
					canceling(sandbox)
				} else {
					removePaused(sandbox)
				}
				if err := f.own.Status().Update(t.Context(), sandbox); err != nil {
					t.Fatal(err)
				}
				attempt := Attempt(sandbox)
				if err := f.own.Create(t.Context(), attempt); err != nil {
					t.Fatal(err)
				}
				how(attempt)
				if err := f.own.Status().Update(t.Context(), attempt); err != nil {
					t.Fatal(err)
				}
				if _, err := f.r.Reconcile(t.Context(), ctrl.Request{NamespacedName: key}); err != nil {
					t.Fatal(err)
				}
			}
			if got := f.snapshots(); got != "demo-gen12" {
				t.Errorf("snapshots %q", got)
			}
		})
	}
}

func removePaused(s *v1alpha1.Sandbox) {
	says(v1alpha1.ConditionPaused, metav1.ConditionFalse, v1alpha1.ReasonPausing)(s)
}

func TestAPauseThatFailsForDays(t *testing.T) {
	objects := []client.Object{sandboxIn(v1alpha1.SandboxRunning, wantsPaused, onPod, failedPause, lostDataBy, attempts(4), failures(4), retries(80*time.Second)), podOf()}
	for n := range 4 {
		objects = append(objects, snapshotIn(v1alpha1.SnapshotFailed, named(fmt.Sprintf("demo-gen%d", n+1))))
	}
	f := newFixture(t, objects...)
	const waits = "Running Ready=True/PodReady Paused=False/RegistryUnavailable DataLost=True/PodLost pod=demo/pod-1 attempts=4 failed=4"
	f.visits(waits)
	if result := f.visits(waits); result.RequeueAfter != 80*time.Second {
		t.Errorf("tries again after %s", result.RequeueAfter)
	}
	if got := f.snapshots(); got != "demo-gen4" {
		t.Errorf("snapshots %q", got)
	}
}

func TestDeletion(t *testing.T) {
	leaves := func(s *v1alpha1.Sandbox) { s.DeletionTimestamp = &metav1.Time{Time: epoch} }
	orphans := func(s *v1alpha1.Sandbox) { s.Finalizers = append(s.Finalizers, metav1.FinalizerOrphanDependents) }
	held := func(s *v1alpha1.SandboxSnapshot) { s.Finalizers = []string{v1alpha1.SnapshotFinalizer} }
	nobodys := func(s *v1alpha1.SandboxSnapshot) { s.OwnerReferences = nil } // as the collector leaves it
	others := podOf(func(p *corev1.Pod) { p.Labels = nil })
	tests := map[string]struct {
		sandbox *v1alpha1.Sandbox
		objects []client.Object
		// first and second are the sandbox after each visit.
		first, second string
		snapshots     string
		podStays      bool
	}{
		"nothing is there":              {sandboxIn(v1alpha1.SandboxPaused, leaves), nil, "gone", "gone", "", false},
		"its Pod goes first":            {sandboxIn(v1alpha1.SandboxRunning, leaves), []client.Object{podOf()}, "Running Ready=False/Terminating", "gone", "", false},
		"somebody else's Pod stays":     {sandboxIn(v1alpha1.SandboxRunning, leaves), []client.Object{others}, "gone", "gone", "", true},
		"its snapshots go":              {sandboxIn(v1alpha1.SandboxPaused, leaves), []client.Object{snapshotIn(v1alpha1.SnapshotSucceed, held)}, "gone", "gone", "", false},
		"a user's snapshot stays":       {sandboxIn(v1alpha1.SandboxPaused, leaves), []client.Object{snapshotIn(v1alpha1.SnapshotSucceed, notOurs)}, "gone", "gone", "demo-gen1", false},
		"its snapshots stay as orphans": {sandboxIn(v1alpha1.SandboxPaused, leaves, orphans), []client.Object{snapshotIn(v1alpha1.SnapshotSucceed)}, "Paused", "Paused", "demo-gen1", false},
		"what was orphaned stays":       {sandboxIn(v1alpha1.SandboxPaused, leaves), []client.Object{snapshotIn(v1alpha1.SnapshotSucceed, nobodys)}, "gone", "gone", "demo-gen1", false},
		"a commit under way goes first": {sandboxIn(v1alpha1.SandboxPausing, leaves), []client.Object{podOf(), snapshotIn(v1alpha1.SnapshotCommitting, held)}, "Pausing Ready=False/Terminating", "Pausing Ready=False/Terminating", "", false},
	}
	for name, test := range tests {
		t.Run(name, func(t *testing.T) {
			f := newFixture(t, append(test.objects, test.sandbox)...)
			f.visits(test.first)
			f.visits(test.second)
			if got := f.snapshots(); got != test.snapshots {
				t.Errorf("snapshots %q, want %q", got, test.snapshots)
			}
			if stays := f.pod() != nil; stays != test.podStays {
				t.Errorf("the Pod stays: %t", stays)
			}
		})
	}
}

// All of a sandbox's snapshots go at one visit, and none of them holds it up.
func TestDeletionOfASandboxWithManySnapshots(t *testing.T) {
	objects := []client.Object{sandboxIn(v1alpha1.SandboxPaused, attempts(200), saved("demo-gen200"), func(s *v1alpha1.Sandbox) {
		s.DeletionTimestamp = &metav1.Time{Time: epoch}
	})}
	for n := range 200 {
		objects = append(objects, snapshotIn(v1alpha1.SnapshotSucceed, named(fmt.Sprintf("demo-gen%d", n+1)), func(s *v1alpha1.SandboxSnapshot) {
			s.Finalizers = []string{v1alpha1.SnapshotFinalizer}
		}))
	}
	f := newFixture(t, objects...)
	f.visits("gone")
	if left := f.snapshots(); left != "" {
		t.Errorf("not deleted: %s", left)
	}
}

// A clone without a snapshot of its own comes back from its template, not from what it gave up.
func TestACloneThatWasResumedFromItsTemplateAndIsLost(t *testing.T) {
	f := newFixture(t, sandboxIn(v1alpha1.SandboxRunning, onPod, restoresFrom("base")), snapshotIn(v1alpha1.SnapshotSucceed, named("base")))
	f.visits("Resuming Ready=False/Resuming Paused=False/Resuming DataLost=True/PodLost pod=demo")
	if pod := f.pod(); pod == nil || pod.Annotations[v1alpha1.AnnotationRestoredFrom] != "" {
		t.Errorf("the Pod: %v", pod)
	}
}

func TestAPodOfAnUnknownSandbox(t *testing.T) {
	stray := &corev1.Pod{ObjectMeta: metav1.ObjectMeta{Namespace: namespace, Name: name, UID: "stray", Labels: map[string]string{
		v1alpha1.LabelSandbox: name, v1alpha1.LabelSandboxUID: "lost-with-the-store",
	}}}
	f := newFixture(t, stray)
	f.visits("gone")
	if f.pod() == nil {
		t.Error("the Pod was deleted")
	}
	select {
	case event := <-f.r.Recorder.(*events.FakeRecorder).Events:
		if !strings.Contains(event, v1alpha1.EventSandboxUnknown) {
			t.Errorf("the event is %q", event)
		}
	default:
		t.Error("no event tells of the Pod")
	}
}
