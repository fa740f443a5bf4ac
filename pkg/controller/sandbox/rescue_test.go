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
	"errors"
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/tools/events"
	"k8s.io/utils/ptr"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/opensandbox-io/sandbox-apiserver/apis/lifecycle/v1alpha1"
)

// rescueIn is the rescue of that number, of the container main with that ID in the Pod podUID.
func rescueIn(number int64, id string, phase v1alpha1.SandboxSnapshotPhase, options ...func(*v1alpha1.SandboxSnapshot)) v1alpha1.SandboxSnapshot {
	return *snapshotIn(phase, append([]func(*v1alpha1.SandboxSnapshot){func(s *v1alpha1.SandboxSnapshot) {
		s.Name, s.Spec.Pause = fmt.Sprintf("demo-rescue%d", number), nil
		s.CreationTimestamp = metav1.Time{Time: epoch}
		s.Spec.Rescue = &v1alpha1.SnapshotRescue{SandboxUID: "sandbox-1", PodUID: podUID, Containers: []v1alpha1.RescuedContainer{{ContainerName: "main", ContainerID: id}}}
	}}, options...)...)
}

func completed(after time.Duration) func(*v1alpha1.SandboxSnapshot) {
	return func(s *v1alpha1.SandboxSnapshot) { s.Status.CompletionTime = &metav1.Time{Time: epoch.Add(after)} }
}

func restarts(policy corev1.RestartPolicy) func(*corev1.Pod) {
	return func(p *corev1.Pod) { p.Spec.RestartPolicy = policy }
}

// endsWith: the container has just ended with that code.
func endsWith(code int32) func(*corev1.Pod) {
	return func(p *corev1.Pod) {
		main := &p.Status.ContainerStatuses[0]
		main.State = corev1.ContainerState{Terminated: &corev1.ContainerStateTerminated{
			Reason: "Error", ExitCode: code, StartedAt: metav1.Time{Time: epoch}, FinishedAt: metav1.Time{Time: epoch.Add(time.Minute)}, ContainerID: main.ContainerID,
		}}
	}
}

// backsOff: the container has ended and waits to be run again.
func backsOff(p *corev1.Pod) {
	endsWith(1)(p)
	main := &p.Status.ContainerStatuses[0]
	main.LastTerminationState, main.State = main.State, corev1.ContainerState{Waiting: &corev1.ContainerStateWaiting{Reason: "CrashLoopBackOff"}}
}

// resetAll: RestartAllContainers has removed what was there.
func resetAll(p *corev1.Pod) {
	main := &p.Status.ContainerStatuses[0]
	main.RestartCount++
	main.ContainerID = "containerd://c1-1"
	main.LastTerminationState.Terminated = &corev1.ContainerStateTerminated{Reason: "RestartingAllContainers", ExitCode: 137}
}

func onExit(policy v1alpha1.SandboxExitPolicy) func(*v1alpha1.Sandbox) {
	return func(s *v1alpha1.Sandbox) { s.Spec.OnExit = policy }
}

// TestWhatIsRescued: at once, once, and one at a time.
func TestWhatIsRescued(t *testing.T) {
	const always, onFailure, never = corev1.RestartPolicyAlways, corev1.RestartPolicyOnFailure, corev1.RestartPolicyNever
	minute := epoch.Add(time.Minute) // when a container ends here
	for name, test := range map[string]struct {
		pod     []func(*corev1.Pod)
		rescued []v1alpha1.SandboxSnapshot
		onExit  v1alpha1.SandboxExitPolicy
		now     time.Time
		change  func(*observed)
		// ids is what is rescued, wait how long nothing is.
		ids  string
		wait time.Duration
	}{
		"nothing has ended":                       {},
		"it was restarted in place":               {pod: []func(*corev1.Pod){restartedPod}, ids: "c1"},
		"it has ended, and will be run again":     {pod: []func(*corev1.Pod){restarts(always), endsWith(0)}, ids: "c1"},
		"it waits to be run again":                {pod: []func(*corev1.Pod){restarts(always), backsOff}, ids: "c1"},
		"it was restarted, and has ended again":   {pod: []func(*corev1.Pod){restarts(always), restartedPod, endsWith(1)}, ids: "c1-1"},
		"it has failed, and is run again":         {pod: []func(*corev1.Pod){restarts(onFailure), endsWith(1)}, ids: "c1"},
		"it has ended well, and stays so":         {pod: []func(*corev1.Pod){restarts(onFailure), endsWith(0)}},
		"it has ended, and stays so":              {pod: []func(*corev1.Pod){restarts(never), endsWith(1)}},
		"the Pod has ended":                       {pod: []func(*corev1.Pod){restarts(never), endsWith(1), ended}},
		"it never ran":                            {pod: []func(*corev1.Pod){cannotStart}},
		"nothing is left of it":                   {pod: []func(*corev1.Pod){resetAll}},
		"nobody wants it":                         {pod: []func(*corev1.Pod){restartedPod}, onExit: v1alpha1.ExitPolicyNone},
		"it is asked for":                         {pod: []func(*corev1.Pod){restartedPod}, onExit: v1alpha1.ExitPolicyRescue, ids: "c1"},
		"there is no registry":                    {pod: []func(*corev1.Pod){restartedPod}, change: func(o *observed) { o.canRescue = false }},
		"the Pod is another":                      {pod: []func(*corev1.Pod){restartedPod, replaced}},
		"it was created a moment ago":             {pod: []func(*corev1.Pod){restartedPod}, change: func(o *observed) { o.rescueHeld = func(string) time.Duration { return time.Second } }, wait: time.Second},
		"it is under way":                         {pod: []func(*corev1.Pod){restartedPod}, rescued: []v1alpha1.SandboxSnapshot{rescueIn(1, "c1", v1alpha1.SnapshotCommitting)}},
		"it is done":                              {pod: []func(*corev1.Pod){restartedPod}, rescued: []v1alpha1.SandboxSnapshot{rescueIn(1, "c1", v1alpha1.SnapshotSucceed)}},
		"another is under way":                    {pod: []func(*corev1.Pod){restartedTwice}, rescued: []v1alpha1.SandboxSnapshot{rescueIn(1, "c1", v1alpha1.SnapshotCommitting)}},
		"it goes on failing, and the last is new": {pod: []func(*corev1.Pod){restartedTwice}, rescued: []v1alpha1.SandboxSnapshot{rescueIn(1, "c1", v1alpha1.SnapshotSucceed, completed(time.Minute))}, now: minute.Add(4 * time.Second), wait: 6 * time.Second},
		"it goes on failing, and the last is old": {pod: []func(*corev1.Pod){restartedTwice}, rescued: []v1alpha1.SandboxSnapshot{rescueIn(1, "c1", v1alpha1.SnapshotSucceed, completed(time.Minute))}, now: minute.Add(11 * time.Second), ids: "c1-1"},
		"it went on failing in another Pod":       {pod: []func(*corev1.Pod){restartedTwice}, rescued: []v1alpha1.SandboxSnapshot{rescueIn(1, "c1", v1alpha1.SnapshotSucceed, completed(time.Minute), func(s *v1alpha1.SandboxSnapshot) { s.Spec.Rescue.PodUID = "pod-0" })}, now: minute, ids: "c1-1"},
		"the registry was away":                   {pod: []func(*corev1.Pod){restartedPod}, rescued: []v1alpha1.SandboxSnapshot{rescueIn(1, "c1", v1alpha1.SnapshotFailed, completed(90*time.Second))}, now: epoch.Add(2 * time.Minute), ids: "c1"},
		"the registry was away just now":          {pod: []func(*corev1.Pod){restartedPod}, rescued: []v1alpha1.SandboxSnapshot{rescueIn(1, "c1", v1alpha1.SnapshotFailed, completed(90*time.Second))}, now: epoch.Add(100 * time.Second), wait: 20 * time.Second},
		"the registry was away for long":          {pod: []func(*corev1.Pod){restartedPod}, rescued: []v1alpha1.SandboxSnapshot{rescueIn(1, "c1", v1alpha1.SnapshotFailed, completed(time.Hour))}, now: epoch.Add(2 * time.Hour)},
		"the kubelet had collected it":            {pod: []func(*corev1.Pod){restartedPod}, rescued: []v1alpha1.SandboxSnapshot{rescueIn(1, "c1", v1alpha1.SnapshotFailed, failedFor(v1alpha1.ReasonContainerNotFound), completed(90*time.Second))}, now: epoch.Add(10 * time.Minute)},
	} {
		t.Run(name, func(t *testing.T) {
			o := observation(sandboxIn(v1alpha1.SandboxRunning, onPod, onExit(test.onExit)), sees(podOf(test.pod...)))
			o.canRescue, o.rescued = true, test.rescued
			if o.now = test.now; o.now.IsZero() {
				o.now = minute
			}
			if test.change != nil {
				test.change(&o)
			}
			containers, wait := o.toRescue()
			var ids []string
			for _, c := range containers {
				ids = append(ids, c.ContainerID)
			}
			if strings.Join(ids, " ") != test.ids || wait != test.wait {
				t.Errorf("rescued %v, or after %s; want %s, %s", ids, wait, test.ids, test.wait)
			}
			next := decide(o)
			if (next.do == createRescue) != (test.ids != "") || test.wait > 0 && next.after != test.wait {
				t.Errorf("it is to %s, and again after %s", next.do, next.after)
			}
		})
	}
}

// TestTheFateOfFiles: the condition and the event say what is known of them, first that they went, then where they are. That is
// no other loss: a pause goes on.
func TestTheFateOfFiles(t *testing.T) {
	sandbox := sandboxIn(v1alpha1.SandboxRunning, onPod, saved("demo-gen1"))
	pod := podOf(restartedPod)
	step := func(want, event string, rescued ...v1alpha1.SandboxSnapshot) {
		t.Helper()
		o := observation(sandbox, sees(pod))
		o.canRescue, o.rescued = true, rescued
		act := o.runsOn(o.next(), o.view(), nil)
		if act.do == writeStatus {
			sandbox = sandbox.DeepCopy()
			act.status.DeepCopyInto(&sandbox.Status)
		}
		lost := meta.FindStatusCondition(sandbox.Status.Conditions, v1alpha1.ConditionDataLost)
		if lost == nil || lost.Status != metav1.ConditionTrue || lost.Reason != v1alpha1.ReasonFilesystemReset || !strings.HasSuffix(lost.Message, want) || !strings.Contains(lost.Message, "main (restart 1, container c1-1:") {
			t.Fatalf("DataLost is %+v, want %q at its end", lost, want)
		}
		if told := act.event; (told != nil) != (event != "") || told != nil && (told.reason != event || !strings.HasSuffix(told.message, want)) {
			t.Errorf("event %+v, want %q", told, event)
		}
		if sandbox.Status.Phase != v1alpha1.SandboxRunning {
			t.Errorf("it is %s", sandbox.Status.Phase)
		}
	}
	step("; what was written there since snapshot demo-gen1 is to be saved from the container that has ended, where its node has that still", v1alpha1.ReasonFilesystemReset)
	step(" is being saved in snapshot demo-rescue1 from the container that has ended", "", rescueIn(1, "c1", v1alpha1.SnapshotCommitting))
	step(" is being saved in snapshot demo-rescue1 from the container that has ended", "", rescueIn(1, "c1", v1alpha1.SnapshotCommitting))
	saves := rescueIn(1, "c1", v1alpha1.SnapshotSucceed)
	step("since snapshot demo-gen1 is in snapshot demo-rescue1, as the container has ended: kubectl cp it from a sandbox with that name in spec.restoreFrom, or pause this one and resume it with that snapshotName", v1alpha1.EventRescued, saves)
	step("with that snapshotName", "", saves)
	// Somebody deletes it, and gets neither another nor another story.
	deleted := observation(sandbox, sees(pod))
	deleted.canRescue = true
	if again, _ := deleted.toRescue(); len(again) > 0 {
		t.Errorf("%v are rescued once more", again)
	}
	step("with that snapshotName", "")

	// Whoever has asked for a pause since goes on to pause.
	sandbox = sandbox.DeepCopy()
	wantsPaused(sandbox)
	o := observation(sandbox, sees(pod))
	o.canRescue, o.rescued = true, []v1alpha1.SandboxSnapshot{rescueIn(1, "c1", v1alpha1.SnapshotFailed, failedFor(v1alpha1.ReasonContainerNotFound))}
	if act := o.runsOn(o.next(), o.view(), nil); act.do != writeStatus || act.status.Phase != v1alpha1.SandboxPausing {
		t.Errorf("it is to %s %+v", act.do, act.status)
	}
}

func TestTheFateOfSeveral(t *testing.T) {
	o := observation(sandboxIn(v1alpha1.SandboxRunning, onPod), sees(podOf()))
	o.canRescue = true
	o.rescued = []v1alpha1.SandboxSnapshot{
		rescueIn(2, "a1", v1alpha1.SnapshotSucceed, func(s *v1alpha1.SandboxSnapshot) { s.Spec.Rescue.Containers[0].ContainerName = "a" }),
		rescueIn(1, "b1", v1alpha1.SnapshotFailed, failedFor(v1alpha1.ReasonContainerNotFound), func(s *v1alpha1.SandboxSnapshot) { s.Spec.Rescue.Containers[0].ContainerName = "b" }),
	}
	got := o.fateOf([]reset{{container: "a", before: "a1", id: "a2"}, {container: "b", before: "b1", id: "b2"}, {container: "c", before: "", id: "c2"}, {container: "d", id: "d2"}})
	want := " in a is in snapshot demo-rescue2, as the container has ended: kubectl cp it from a sandbox with that name in spec.restoreFrom, or pause this one and resume it with that snapshotName," +
		" in b is gone: snapshot demo-rescue1 could not save it (ContainerNotFound: it does not answer), in c and d is gone"
	if got != want {
		t.Errorf("%s\nwant %s", got, want)
	}
}

// TestWhichRescuesAreKept: a few, and the first of the loss that is told of, however often the container has failed since. What is
// left of containers that go on failing has filled others' disks: https://github.com/kubernetes/kubernetes/issues/5457
func TestWhichRescuesAreKept(t *testing.T) {
	many := func(count int, phase v1alpha1.SandboxSnapshotPhase) (all []v1alpha1.SandboxSnapshot) {
		for n := range count {
			all = append(all, rescueIn(int64(n+1), fmt.Sprint(n), phase, completed(time.Duration(n)*time.Minute)))
		}
		return all
	}
	lostSince := func(at time.Duration) func(*v1alpha1.Sandbox) {
		return func(s *v1alpha1.Sandbox) {
			s.Status.Conditions = append(s.Status.Conditions, metav1.Condition{Type: v1alpha1.ConditionDataLost, Status: metav1.ConditionTrue, LastTransitionTime: metav1.Time{Time: epoch.Add(at)}})
		}
	}
	for name, test := range map[string]struct {
		sandbox func(*v1alpha1.Sandbox)
		all     []v1alpha1.SandboxSnapshot
		gone    []string
	}{
		"few":                     {nil, many(3, v1alpha1.SnapshotSucceed), nil},
		"more":                    {nil, many(5, v1alpha1.SnapshotSucceed), []string{"demo-rescue2", "demo-rescue1"}},
		"of one loss":             {lostSince(0), many(6, v1alpha1.SnapshotSucceed), []string{"demo-rescue3", "demo-rescue2"}},
		"of a later loss":         {lostSince(90 * time.Second), many(6, v1alpha1.SnapshotSucceed), []string{"demo-rescue2", "demo-rescue1"}},
		"the sandbox is on one":   {saved("demo-rescue1"), many(5, v1alpha1.SnapshotSucceed), []string{"demo-rescue2"}},
		"it can go back to one":   {prior("demo-rescue1"), many(5, v1alpha1.SnapshotSucceed), []string{"demo-rescue2"}},
		"failed":                  {nil, many(5, v1alpha1.SnapshotFailed), []string{"demo-rescue2", "demo-rescue1"}},
		"under way":               {nil, many(9, v1alpha1.SnapshotCommitting), nil},
		"after the tenth as well": {nil, many(13, v1alpha1.SnapshotSucceed)[8:], []string{"demo-rescue10", "demo-rescue9"}},
	} {
		t.Run(name, func(t *testing.T) {
			var options []func(*v1alpha1.Sandbox)
			if test.sandbox != nil {
				options = append(options, test.sandbox)
			}
			var gone []string
			for _, old := range beyondRescues(test.all, sandboxIn(v1alpha1.SandboxRunning, options...)) {
				gone = append(gone, old.Name)
			}
			if !slices.Equal(gone, test.gone) {
				t.Errorf("%v go, want %v", gone, test.gone)
			}
		})
	}
}

// TestARescue is one from its beginning to its end, with a container that goes on failing.
func TestARescue(t *testing.T) {
	f := newFixture(t, sandboxIn(v1alpha1.SandboxRunning, onPod), podOf(restartedPod))
	f.visits("Running Ready=True/PodReady Paused=False/Running DataLost=True/FilesystemReset pod=demo/pod-1")
	tells := func(reasons ...string) {
		t.Helper()
		told := f.r.Recorder.(*events.FakeRecorder).Events
		for _, reason := range reasons {
			if len(told) == 0 {
				t.Fatalf("no event of %s", reason)
			}
			if event := <-told; !strings.Contains(event, " "+reason+" ") {
				t.Errorf("the event is %q, want one of %s", event, reason)
			}
		}
		f.tells()
	}
	tells("Rescuing", "FilesystemReset")
	if got := f.snapshots(); got != "demo-rescue1" {
		t.Fatalf("snapshots %q", got)
	}
	f.visits("Running Ready=True/PodReady Paused=False/Running DataLost=True/FilesystemReset pod=demo/pod-1")
	f.tells()
	ends := func(number int64, phase v1alpha1.SandboxSnapshotPhase) {
		t.Helper()
		made := &v1alpha1.SandboxSnapshot{}
		if err := f.own.Get(t.Context(), client.ObjectKey{Namespace: namespace, Name: fmt.Sprintf("demo-rescue%d", number)}, made); err != nil {
			t.Fatal(err)
		}
		made.Status.Phase, made.Status.CompletionTime = phase, &metav1.Time{Time: f.clock.Now()}
		if err := f.own.Status().Update(t.Context(), made); err != nil {
			t.Fatal(err)
		}
	}
	ends(1, v1alpha1.SnapshotSucceed)
	f.visits("Running Ready=True/PodReady Paused=False/Running DataLost=True/FilesystemReset pod=demo/pod-1")
	tells("Rescued")

	for number := int64(2); number < 9; number++ {
		f.podIs(slices.Repeat([]func(*corev1.Pod){restartedPod}, int(number))...)
		f.clock.SetTime(f.clock.Now().Add(10 * time.Minute))
		f.visits("Running Ready=True/PodReady Paused=False/Running DataLost=True/FilesystemReset pod=demo/pod-1")
		ends(number, v1alpha1.SnapshotSucceed)
	}
	// The first has what people miss; beyond the last three one more has ended since the last was created.
	if got := f.snapshots(); got != "demo-rescue1 demo-rescue5 demo-rescue6 demo-rescue7 demo-rescue8" {
		t.Errorf("snapshots %q", got)
	}
}

// TestARescueThatIsRefused is told of, and tried again after a while.
func TestARescueThatIsRefused(t *testing.T) {
	f := newFixture(t, sandboxIn(v1alpha1.SandboxRunning, onPod), podOf(restartedPod))
	f.snapshotRefusal = apierrors.NewForbidden(v1alpha1.Resource("sandboxsnapshots"), "demo-rescue1", errors.New("exceeded quota"))
	const lost = "Running Ready=True/PodReady Paused=False/Running DataLost=True/FilesystemReset pod=demo/pod-1"
	if again := f.visits(lost); again.RequeueAfter != 10*time.Second {
		t.Errorf("again after %s", again.RequeueAfter)
	}
	if told := <-f.r.Recorder.(*events.FakeRecorder).Events; !strings.HasPrefix(told, "Warning RescueFailed ") || !strings.Contains(told, "exceeded quota") {
		t.Errorf("told %q", told)
	}
	<-f.r.Recorder.(*events.FakeRecorder).Events
	f.visits(lost)
	f.tells()
	f.snapshotRefusal = nil
	f.clock.SetTime(f.clock.Now().Add(10 * time.Second))
	f.visits(lost)
	if got := f.snapshots(); got != "demo-rescue1" {
		t.Errorf("snapshots %q", got)
	}
}

// TestDeletionWithARescue: one under way is waited for, and goes first; the Pod gets its time to end all the same.
func TestDeletionWithARescue(t *testing.T) {
	leaves := func(s *v1alpha1.Sandbox) { s.DeletionTimestamp = &metav1.Time{Time: epoch} }
	for phase, second := range map[v1alpha1.SandboxSnapshotPhase]string{v1alpha1.SnapshotCommitting: "Running Ready=False/Terminating pod=demo/pod-1", v1alpha1.SnapshotSucceed: "gone"} {
		made := rescueIn(1, "c1", phase, func(s *v1alpha1.SandboxSnapshot) {
			s.Finalizers = []string{v1alpha1.SnapshotFinalizer}
		})
		f := newFixture(t, sandboxIn(v1alpha1.SandboxRunning, onPod, leaves), podOf(restartedPod), &made)
		f.visits("Running Ready=False/Terminating pod=demo/pod-1")
		f.visits(second)
		if got := f.snapshots(); got != "" {
			t.Errorf("%s: snapshots %q", phase, got)
		}
	}
}

// TestHistoryIsNotOfRescues: what a pause makes is pruned without them, and a rescue that has succeeded says nothing of what is
// frozen in the Pod.
func TestHistoryIsNotOfRescues(t *testing.T) {
	made := rescue(sandboxIn(v1alpha1.SandboxRunning, onPod), 7, []v1alpha1.RescuedContainer{{ContainerName: "main", ContainerID: "c1"}})
	if made.Name != "demo-rescue7" || !metav1.IsControlledBy(made, sandboxIn("")) || made.Spec.Pause != nil || made.Spec.Rescue.PodUID != podUID {
		t.Errorf("it is %+v", made)
	}
	if end := endOf(podOf(), nil); end.grace != nil {
		t.Errorf("the Pod gets %d s to end", ptr.Deref(end.grace, 0))
	}
}
