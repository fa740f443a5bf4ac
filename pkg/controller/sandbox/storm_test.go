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
	"fmt"
	"math/rand/v2"
	"strings"
	"testing"
	"time"

	batchv1 "k8s.io/api/batch/v1"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/tools/events"
	clocktesting "k8s.io/utils/clock/testing"
	ctrl "sigs.k8s.io/controller-runtime"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/controller-runtime/pkg/event"

	"github.com/opensandbox-io/sandbox-apiserver/apis/lifecycle"
	"github.com/opensandbox-io/sandbox-apiserver/apis/lifecycle/v1alpha1"
	"github.com/opensandbox-io/sandbox-apiserver/apis/lifecycle/validation"
	"github.com/opensandbox-io/sandbox-apiserver/pkg/controller/commitjob"
	"github.com/opensandbox-io/sandbox-apiserver/pkg/controller/expiry"
	"github.com/opensandbox-io/sandbox-apiserver/pkg/controller/sandboxsnapshot"
	"github.com/opensandbox-io/sandbox-apiserver/pkg/move"
	registry "github.com/opensandbox-io/sandbox-apiserver/pkg/registry/lifecycle/sandbox"
)

// stormSteps is how many things happen in a storm, before it calms down.
const stormSteps = 50

// FuzzStorm lets the real Reconciler work between two API servers that answer as they do on a bad day, while people call
// the API's own verbs and edit what its own validation lets them, nodes do what nodes do, and the process ends at any call.
// An input is the seed of a storm: 20,000 of them are a million steps.
func FuzzStorm(f *testing.F) {
	seeds := uint64(300)
	if testing.Short() {
		seeds = 60
	}
	for seed := range seeds {
		f.Add(seed)
	}
	f.Fuzz(func(t *testing.T, seed uint64) {
		s := newStorm(t, seed)
		for range stormSteps {
			s.step()
			if t.Failed() {
				return
			}
		}
		s.settle()
	})
}

// objects are a sandbox, its Pod and its snapshots.
type objects struct {
	sandbox   *v1alpha1.Sandbox
	pod       *corev1.Pod
	snapshots map[string]*v1alpha1.SandboxSnapshot
}

// storm is one sandbox with its Pod and its snapshots, in two API servers, and those who act on them.
type storm struct {
	t     *testing.T
	seed  uint64
	rand  *rand.Rand
	now   time.Time
	clock *clocktesting.FakePassiveClock
	past  []string
	count int

	r *Reconciler
	// visiting: the controller is at work, crashed: its process has ended under it. calm: all goes well.
	visiting, crashed, calm bool
	// stored is what the API servers hold, shown what the informers show.
	stored, shown objects

	// runs: a container of the Pod runs or has run, whatever its status says; known: the watch of this process has shown that.
	runs, known, frozen, killed bool
	// claimed: the process knows that what is frozen stays so.
	claimed bool
	// files counts the writes in the Pod's root filesystem, base those that it started with, content those of snapshots.
	files, base int
	content     map[string]int
	// dead is the container that ended last and that its node still has, deadFiles what it had written.
	dead      string
	deadFiles int
	// owed is how many writes the next Pod has to have, unless DataLost says otherwise; gaveUp: a person wants it otherwise.
	owed   int
	gaveUp bool
	// losses counts what may have cost files, told the losses that DataLost has told of.
	losses, told int
	// resumed is when a person has last asked for a resume that was taken.
	resumed time.Time
	// made is when the last Pod was made, asked that somebody has asked for something since.
	made  time.Time
	asked bool
}

func newStorm(t *testing.T, seed uint64) *storm {
	s := &storm{
		t: t, seed: seed, rand: rand.New(rand.NewPCG(seed, 1)), now: epoch,
		clock: clocktesting.NewFakePassiveClock(epoch), content: map[string]int{},
	}
	s.stored = objects{sandbox: sandboxIn(v1alpha1.SandboxPending), snapshots: map[string]*v1alpha1.SandboxSnapshot{}}
	s.stored.sandbox.ResourceVersion = s.version()
	s.stored.sandbox.Spec.OnExit = exits[seed%uint64(len(exits))]
	if s.rand.IntN(4) == 0 {
		restoresFrom("base")(s.stored.sandbox)
		s.makeBase()
	}
	s.fate()
	s.start()
	s.inform()
	return s
}

// start is a new process: it knows nothing.
func (s *storm) start() {
	s.crashed, s.known, s.claimed = false, false, false
	live := &api{s: s}
	s.r = &Reconciler{
		Client: &api{s: s, cached: true}, Live: live, Host: &api{s: s, cached: true}, HostLive: live,
		Images: s, Jobs: s, Recorder: events.NewFakeRecorder(10_000), Clock: s.clock, Rescues: true,
		kills: waitingKills(), claims: waitingKills(),
	}
	s.r.Client = writer{s.r.Client, live}
	s.r.Host = writer{s.r.Host, live}
}

// waitingKills wait for the storm to have them done.
func waitingKills() *kills {
	return &kills{last: map[client.ObjectKey]aKill{}, begun: make(chan func(context.Context), 10), ended: make(chan event.GenericEvent, 10)}
}

// writer reads from a cache and writes past it.
type writer struct {
	client.Client
	past client.Client
}

func (w writer) Create(ctx context.Context, o client.Object, options ...client.CreateOption) error {
	return w.past.Create(ctx, o, options...)
}
func (w writer) Update(ctx context.Context, o client.Object, options ...client.UpdateOption) error {
	return w.past.Update(ctx, o, options...)
}
func (w writer) Patch(ctx context.Context, o client.Object, patch client.Patch, options ...client.PatchOption) error {
	return w.past.Patch(ctx, o, patch, options...)
}
func (w writer) Delete(ctx context.Context, o client.Object, options ...client.DeleteOption) error {
	return w.past.Delete(ctx, o, options...)
}
func (w writer) Status() client.SubResourceWriter { return w.past.Status() }

// inform brings the caches up to date.
func (s *storm) inform() {
	s.shown = objects{sandbox: s.stored.sandbox, pod: s.stored.pod, snapshots: map[string]*v1alpha1.SandboxSnapshot{}}
	for name, snapshot := range s.stored.snapshots {
		s.shown.snapshots[name] = snapshot
	}
}

// step is one thing that happens.
func (s *storm) step() {
	s.now = s.now.Add(time.Duration(s.rand.IntN(20)) * time.Second)
	s.clock.SetTime(s.now)
	happenings := []func(){
		s.visit, s.visit, s.visit, s.visit, s.visit, s.visit, s.inform, s.inform, s.inform,
		s.node, s.node, s.node, s.node, s.commit, s.commit, s.commit, s.write, s.write,
		s.pause, s.pause, s.resume, s.resumeElsewhere, s.update, s.edit, s.editSource, s.makeBase,
		s.deletePod, s.losePod, s.evict, s.move, s.move, s.editPolicy, s.restart, s.adopt, s.deleteSnapshot, s.sweep,
		s.renew, s.expire, s.expire,
	}
	happenings[s.rand.IntN(len(happenings))]()
	s.check()
}

// visit is the controller's.
func (s *storm) visit() {
	s.note("visit")
	s.visiting = true
	_, err := s.r.Reconcile(context.Background(), ctrl.Request{NamespacedName: client.ObjectKey{Namespace: namespace, Name: name}})
	s.visiting = false
	if err != nil {
		s.note("  %.80s", err)
		if strings.Contains(err.Error(), "does not settle") {
			s.fail("%v", err)
		}
	}
	for _, begun := range []*kills{s.r.kills, s.r.claims} {
		for range len(begun.begun) {
			if kill := <-begun.begun; !s.crashed {
				kill(context.Background())
			}
		}
		for range len(begun.ended) {
			<-begun.ended
		}
	}
	if s.crashed {
		s.start()
	}
}

// settle ends the storm. What is wrong with the template or the source stays so, and then a person does what the messages say.
func (s *storm) settle() {
	s.calm = true
	s.rests()
	for _, out := range []struct {
		what string
		does func()
	}{
		{"as it is", func() {}},
		{"resume", s.resume},
		{"another source", func() { restoreFrom(s, "base") }},
		{"another template", func() { s.setFate("good") }},
		{"resume again", s.resume},
		{"resume from the template", func() { s.resumeFrom(&lifecycle.SandboxResume{FromTemplate: true}) }},
	} {
		if s.t.Failed() || s.arrived() {
			return
		}
		s.note("a person: %s", out.what)
		out.does()
		s.rests()
	}
	if !s.arrived() && !s.t.Failed() {
		s.fail("nothing leads out")
	}
}

// rests lets all go on until nothing moves, or, where a node takes no Pod, for an hour.
func (s *storm) rests() {
	for range 12 {
		before := s.state()
		s.now = s.now.Add(lastRetry)
		s.clock.SetTime(s.now)
		for range 3 {
			s.node()
			s.commit()
			s.sweep()
			s.inform()
			s.expire()
			s.inform()
			s.visit()
		}
		s.check()
		if s.t.Failed() || s.state() == before {
			return
		}
	}
	if pod := s.stored.pod; pod == nil || pod.Labels["fate"] != "full" {
		s.fail("does not come to rest")
	}
}

// arrived says whether the sandbox is what it is wanted to be.
func (s *storm) arrived() bool {
	status := &s.stored.sandbox.Status
	switch {
	case s.frozen:
		s.fail("rests with frozen containers")
	case status.Move != nil && status.Phase == v1alpha1.SandboxRunning:
		s.fail("rests, and its Pod is to go")
	}
	if s.stored.sandbox.Spec.DesiredState == v1alpha1.DesiredStatePaused {
		return status.Phase == v1alpha1.SandboxPaused || status.Phase == v1alpha1.SandboxRunning && s.reason(v1alpha1.ConditionPaused) == v1alpha1.ReasonFilesLost
	}
	return status.Phase == v1alpha1.SandboxRunning
}

// check is what holds at any time.
func (s *storm) check() {
	status := &s.stored.sandbox.Status
	ready := meta.IsStatusConditionTrue(status.Conditions, v1alpha1.ConditionReady)
	paused := meta.IsStatusConditionTrue(status.Conditions, v1alpha1.ConditionPaused)
	lost := meta.IsStatusConditionTrue(status.Conditions, v1alpha1.ConditionDataLost)
	switch {
	case s.frozen && s.stored.pod != nil && status.Phase != v1alpha1.SandboxPausing:
		s.fail("containers are frozen, and nothing is being committed")
	case paused && status.Phase != v1alpha1.SandboxPaused, !paused && status.Phase == v1alpha1.SandboxPaused && s.reason(v1alpha1.ConditionPaused) != v1alpha1.ReasonFilesLost:
		s.fail("the condition Paused and the phase disagree")
	case paused && status.PodName != "":
		s.fail("Paused, and has a Pod")
	case ready && status.Phase != v1alpha1.SandboxRunning && (status.Phase != v1alpha1.SandboxPausing || status.Move == nil):
		s.fail("Ready, and not Running")
	case ready && s.reason(v1alpha1.ConditionPaused) == v1alpha1.ReasonRemovingPod:
		s.fail("Ready, and its Pod is being removed")
	case status.Move != nil && (status.Phase == v1alpha1.SandboxPaused || status.Phase == v1alpha1.SandboxFailed):
		s.fail("is moved, and does not come back")
	case status.Phase == v1alpha1.SandboxRunning && status.PodUID == "":
		s.fail("Running without a Pod")
	case lost && s.told == 0 && s.losses == 0:
		s.fail("says that files are lost which nobody ever had")
	}
	if lost {
		s.told = s.losses
	}
	s.checkRescues()
}

// checkRescues: one at a time, a few in all, and what is told of one is true.
func (s *storm) checkRescues() {
	underWay, kept := 0, 0
	for name, snapshot := range s.stored.snapshots {
		if sandboxsnapshot.RescueOf(snapshot) == nil || snapshot.DeletionTimestamp != nil {
			continue
		}
		if !finished(snapshot) {
			underWay++
		} else if name != s.stored.sandbox.Status.SnapshotName && name != s.stored.sandbox.Status.PriorSnapshotName {
			kept++
		}
	}
	switch {
	case underWay > 1:
		s.fail("has %d rescues under way", underWay)
	case kept > keptRescues+keptFailedRescues+3: // the first, and one of each kind that ended since the last was created
		s.fail("keeps %d rescues", kept)
	}
	lost := meta.FindStatusCondition(s.stored.sandbox.Status.Conditions, v1alpha1.ConditionDataLost)
	if lost == nil || lost.Status != metav1.ConditionTrue {
		return
	}
	if _, told, is := strings.Cut(lost.Message, " is in snapshot "); is {
		if _, holds := s.content[strings.Split(told, ",")[0]]; !holds {
			s.fail("tells that files are in a snapshot that never had them: %s", lost.Message)
		}
	}
}

// What the controller does.

// makePod is the creation of the Pod.
func (s *storm) makePod(pod *corev1.Pod) {
	status := &s.stored.sandbox.Status
	switch {
	case status.PodName == "":
		s.fail("creates a Pod before its name is written")
	case s.now.Sub(s.made) < firstRetry && !s.asked:
		s.fail("makes a Pod %s after the last one", s.now.Sub(s.made))
	}
	from := pod.Annotations[v1alpha1.AnnotationRestoredFrom]
	s.base = s.content[from]
	if s.base < s.owed && !s.gaveUp && !meta.IsStatusConditionTrue(status.Conditions, v1alpha1.ConditionDataLost) {
		s.fail("the Pod comes back with %d of %d writes, and DataLost does not say so", s.base, s.owed)
	}
	s.made, s.asked, s.gaveUp, s.owed = s.now, false, false, s.base
	s.files, s.runs, s.known, s.frozen, s.killed = s.base, false, false, false, false
	pod.UID, pod.ResourceVersion = s.uid("pod"), s.version()
	pod.Status = corev1.PodStatus{Phase: corev1.PodPending}
	s.stored.pod = pod.DeepCopy()
	s.sees()
	s.note("  made of %q, %s", from, pod.Labels["fate"])
}

// controllerDeletes checks the deletion of a Pod by the controller.
func (s *storm) controllerDeletes(pod *corev1.Pod) {
	status := &s.stored.sandbox.Status
	shown := len(pod.Status.ContainerStatuses) > 0 && pod.Status.ContainerStatuses[0].State.Running != nil
	attempt := s.attempt()
	saved := attempt != nil && attempt.Status.Phase == v1alpha1.SnapshotSucceed && attempt.Status.SourcePodUID == pod.UID
	switch {
	case status.Phase == v1alpha1.SandboxPausing && !saved:
		s.fail("deletes a Pod that is not saved")
	case status.Phase == v1alpha1.SandboxPausing && s.reason(v1alpha1.ConditionPaused) != v1alpha1.ReasonRemovingPod:
		s.fail("deletes a Pod before it says so")
	case status.Phase == v1alpha1.SandboxPausing, pod.Status.Phase == corev1.PodFailed, s.gaveUp:
	case shown:
		s.fail("deletes a Pod with files")
	}
}

// CheckForResume asks the registry.
func (s *storm) CheckForResume(_ context.Context, snapshot *v1alpha1.SandboxSnapshot) {
	s.askRegistry(snapshot.Name)
}

func (s *storm) askRegistry(name string) {
	if s.stored.snapshots[name] == nil {
		return
	}
	says := inRegistry
	switch {
	case s.chance(4):
		says = notInRegistry
	case s.chance(3):
		says = registryUnknown
	}
	s.changeSnapshot(name, says)
}

// Thaw is the unpause Job.
func (s *storm) Thaw(_ context.Context, attempt *v1alpha1.SandboxSnapshot) (bool, string, error) {
	switch {
	case s.crashed:
		return false, "", errCrash
	case s.chance(3):
		return false, "its Job runs", nil
	}
	s.thaw(attempt)
	return true, "", nil
}

// Standby is there until it has killed.
func (s *storm) OfPod(context.Context, types.UID) ([]batchv1.Job, error) { return nil, nil }

func (s *storm) Standby(context.Context, *v1alpha1.SandboxSnapshot) (commitjob.Outcome, error) {
	switch {
	case s.crashed:
		return commitjob.Outcome{}, errCrash
	case s.chance(6):
		return commitjob.Outcome{State: commitjob.Failed, Message: "it is gone"}, nil
	case s.killed:
		return commitjob.Outcome{State: commitjob.Succeeded}, nil
	}
	return commitjob.Outcome{State: commitjob.Active}, nil
}

// Kill is the exec.
func (s *storm) Kill(context.Context, *v1alpha1.SandboxSnapshot) commitjob.Outcome {
	if s.stored.pod != nil && s.stored.pod.DeletionTimestamp == nil {
		s.fail("has the containers of a Pod killed that stays")
	}
	if s.chance(4) {
		return commitjob.Outcome{State: commitjob.Failed, Message: "no answer"}
	}
	s.killed = true
	return commitjob.Outcome{State: commitjob.Succeeded}
}

// StaysFrozen: who has begun the commit, or has claimed it, knows.
func (s *storm) StaysFrozen(*v1alpha1.SandboxSnapshot) bool { return s.claimed }

// Claim is an exec, too.
func (s *storm) Claim(context.Context, *v1alpha1.SandboxSnapshot) commitjob.Outcome {
	if s.chance(4) {
		return commitjob.Outcome{State: commitjob.Failed, Message: "no answer"}
	}
	s.claimed = true
	return commitjob.Outcome{State: commitjob.Succeeded}
}

// What nodes do.

func (s *storm) node() {
	pod := s.stored.pod
	if pod == nil {
		return
	}
	if pod.DeletionTimestamp != nil {
		switch grace := *pod.DeletionGracePeriodSeconds; {
		case s.frozen && !s.killed && grace > removalGrace && !s.chance(10) && !s.calm:
		case s.runs && pod.Status.Phase != corev1.PodFailed && pod.Status.Phase != corev1.PodSucceeded:
			// What it says last: its containers have ended.
			s.changePod(func(p *corev1.Pod) {
				p.Status.Phase, p.Status.Conditions = corev1.PodFailed, nil
				s.mainStatus(p).State = corev1.ContainerState{Terminated: &corev1.ContainerStateTerminated{
					Reason: "Error", ExitCode: 137, StartedAt: metav1.Time{Time: s.made}, FinishedAt: metav1.Time{Time: s.now}, ContainerID: "containerd://" + string(p.UID),
				}}
			})
		default:
			s.removePod()
		}
		return
	}
	if s.runs {
		if pod.Status.Phase == corev1.PodPending {
			s.tellRuns()
		}
		return
	}
	waits := func(reason string) func(*corev1.Pod) {
		return func(p *corev1.Pod) {
			p.Spec.NodeName = "node-1"
			s.mainStatus(p).State = corev1.ContainerState{Waiting: &corev1.ContainerStateWaiting{Reason: reason}}
		}
	}
	switch pod.Labels["fate"] {
	case "huge":
		s.changePod(func(p *corev1.Pod) {
			p.Status.Conditions = []corev1.PodCondition{{Type: corev1.PodScheduled, Status: corev1.ConditionFalse, Message: "0/1 nodes"}}
		})
	case "typo":
		s.changePod(waits("ImagePullBackOff"))
	case "stuck":
		s.changePod(waits("ContainerCreating"))
	case "command":
		s.changePod(func(p *corev1.Pod) {
			p.Spec.NodeName, p.Status.Phase = "node-1", corev1.PodRunning
			s.mainStatus(p)
			cannotStart(p)
		})
	case "full":
		s.changePod(func(p *corev1.Pod) {
			p.Spec.NodeName, p.Status = "node-1", corev1.PodStatus{Phase: corev1.PodFailed, Reason: "OutOfcpu", Message: "no room"}
		})
	default:
		if from := s.stored.snapshots[pod.Annotations[v1alpha1.AnnotationRestoredFrom]]; from != nil && imagesMissing(from) && !s.calm {
			s.changePod(waits("ImagePullBackOff"))
			return
		}
		s.runs = true
		s.note("node: Pod %s runs", pod.UID)
		if !s.chance(3) {
			s.tellRuns()
		}
	}
}

// tellRuns is the status of a Pod that runs.
func (s *storm) tellRuns() {
	s.changePod(func(p *corev1.Pod) {
		p.Spec.NodeName, p.Status.Phase = "node-1", corev1.PodRunning
		p.Status.Conditions = []corev1.PodCondition{{Type: corev1.PodReady, Status: corev1.ConditionTrue}}
		main := s.mainStatus(p)
		main.ContainerID = "containerd://" + string(p.UID)
		main.State = corev1.ContainerState{Running: &corev1.ContainerStateRunning{}}
	})
}

func (s *storm) mainStatus(p *corev1.Pod) *corev1.ContainerStatus {
	if len(p.Status.ContainerStatuses) == 0 {
		p.Status.ContainerStatuses = []corev1.ContainerStatus{{Name: "main"}}
	}
	return &p.Status.ContainerStatuses[0]
}

func (s *storm) write() {
	if s.mayWrite() {
		s.files++
	}
}

// mayWrite says whether processes run in the Pod.
func (s *storm) mayWrite() bool {
	return s.stored.pod != nil && s.runs && !s.frozen && !s.killed && s.stored.pod.Status.Phase != corev1.PodFailed
}

func (s *storm) removePod() {
	pod := s.stored.pod
	attempt := s.attempt()
	saved := attempt != nil && attempt.Status.Phase == v1alpha1.SnapshotSucceed && attempt.Status.SourcePodUID == pod.UID && s.content[attempt.Name] == s.files
	if s.runs && !saved || s.mayWrite() {
		s.losses++ // what was thawed after its commit may have written since, for all that anybody knows
	}
	s.owed = max(s.owed, s.files)
	if attempt != nil && attempt.Spec.Rescue != nil && attempt.Status.Phase == v1alpha1.SnapshotSucceed && s.reason(v1alpha1.ConditionPaused) == v1alpha1.ReasonRemovingPod {
		s.owed = s.content[attempt.Name] // what was written after the container had ended is given up
	}
	if !s.known && s.runs {
		s.owed = s.base // its node never told of it, or told nobody
	}
	s.stored.pod, s.frozen, s.dead = nil, false, ""
	s.note("node: Pod %s is gone, saved: %t", pod.UID, saved)
}

// commit is the snapshot controller's work, and the committer's.
func (s *storm) commit() {
	for name, snapshot := range s.stored.snapshots {
		if snapshot.DeletionTimestamp != nil && s.stored.sandbox.Status.SnapshotName != name && s.stored.sandbox.Status.PriorSnapshotName != name {
			s.letGo(name)
		}
	}
	s.commitRescue()
	attempt := s.attempt()
	if attempt == nil || attempt.DeletionTimestamp != nil || finished(attempt) {
		return
	}
	pod, status := s.stored.pod, &s.stored.sandbox.Status
	there := pod != nil && pod.UID == attempt.Spec.Pause.PodUID
	switch {
	case status.Phase != v1alpha1.SandboxPausing || s.reason(v1alpha1.ConditionPaused) == v1alpha1.ReasonCanceling:
		s.endCommit(attempt.Name, v1alpha1.ReasonCanceled)
	case !there || s.chance(5):
		s.endCommit(attempt.Name, v1alpha1.ReasonCommitJobFailed)
	case attempt.Status.Phase != v1alpha1.SnapshotCommitting:
		s.changeSnapshot(attempt.Name, func(a *v1alpha1.SandboxSnapshot) {
			a.Status.Phase, a.Status.SandboxUID, a.Status.SourcePodUID = v1alpha1.SnapshotCommitting, s.stored.sandbox.UID, pod.UID
		})
	case !s.runs, attempt.Spec.Rescue != nil && attempt.Spec.Rescue.Containers[0].ContainerID != s.dead:
		s.endCommit(attempt.Name, v1alpha1.ReasonContainerNotFound)
	case attempt.Spec.Rescue != nil:
		s.content[attempt.Name] = s.deadFiles
		s.changeSnapshot(attempt.Name, func(a *v1alpha1.SandboxSnapshot) {
			a.Status.Phase, a.Status.CompletionTime = v1alpha1.SnapshotSucceed, &metav1.Time{Time: s.now}
			a.Status.Containers = []v1alpha1.ContainerSnapshot{{ContainerName: "main", ContainerID: s.dead, ImageURI: "r/a:t", ImageDigest: "sha256:" + strings.Repeat("a", 64)}}
		})
		s.note("snapshot: %s holds %d writes of %s, which has ended", attempt.Name, s.deadFiles, s.dead)
	case pod.Status.Phase == corev1.PodRunning && !s.frozen:
		s.frozen, s.killed, s.claimed = true, false, true
	default:
		s.content[attempt.Name] = s.files
		s.changeSnapshot(attempt.Name, func(a *v1alpha1.SandboxSnapshot) {
			a.Status.Phase, a.Status.CompletionTime = v1alpha1.SnapshotSucceed, &metav1.Time{Time: s.now}
			a.Status.Containers = []v1alpha1.ContainerSnapshot{{ContainerName: "main", ContainerID: bareID(s.mainStatus(pod.DeepCopy()).ContainerID), ImageURI: "r/a:t", ImageDigest: "sha256:" + strings.Repeat("a", 64)}}
		})
		s.note("snapshot: %s holds %d writes", attempt.Name, s.files)
	}
}

// commitRescue commits what a container has left that has ended, where it is still there.
func (s *storm) commitRescue() {
	for name, snapshot := range s.stored.snapshots {
		of := sandboxsnapshot.RescueOf(snapshot)
		if of == nil || finished(snapshot) || snapshot.DeletionTimestamp != nil {
			continue
		}
		switch {
		case s.stored.pod == nil || s.stored.pod.UID != of.PodUID || of.Containers[0].ContainerID != s.dead:
			s.endCommit(name, v1alpha1.ReasonContainerNotFound)
		case s.chance(3):
			s.endCommit(name, v1alpha1.ReasonRegistryUnavailable)
		case snapshot.Status.Phase != v1alpha1.SnapshotCommitting:
			s.changeSnapshot(name, func(r *v1alpha1.SandboxSnapshot) { r.Status.Phase = v1alpha1.SnapshotCommitting })
		default:
			s.content[name] = s.deadFiles
			s.changeSnapshot(name, func(r *v1alpha1.SandboxSnapshot) {
				r.Status.Phase, r.Status.CompletionTime = v1alpha1.SnapshotSucceed, &metav1.Time{Time: s.now}
				r.Status.SandboxUID, r.Status.SourcePodUID = of.SandboxUID, of.PodUID
				r.Status.Containers = []v1alpha1.ContainerSnapshot{{ContainerName: "main", ContainerID: s.dead, ImageURI: "r/a:t", ImageDigest: "sha256:" + strings.Repeat("a", 64)}}
			})
			s.note("snapshot: %s holds %d writes of %s", name, s.deadFiles, s.dead)
		}
	}
}

func (s *storm) endCommit(name, reason string) {
	if sandboxsnapshot.RescueOf(s.stored.snapshots[name]) == nil {
		s.thaw(s.stored.snapshots[name])
	}
	s.changeSnapshot(name, func(a *v1alpha1.SandboxSnapshot) {
		a.Status.Phase, a.Status.CompletionTime = v1alpha1.SnapshotFailed, &metav1.Time{Time: s.now}
		meta.SetStatusCondition(&a.Status.Conditions, metav1.Condition{Type: v1alpha1.ConditionFailed, Status: metav1.ConditionTrue, Reason: reason, Message: "it failed"})
	})
	s.note("snapshot: %s failed: %s", name, reason)
}

func (s *storm) letGo(name string) {
	snapshot := s.stored.snapshots[name]
	if !finished(snapshot) {
		s.endCommit(name, v1alpha1.ReasonCanceled)
		return
	}
	if s.stored.sandbox.Status.Phase == v1alpha1.SandboxPausing && sandboxsnapshot.IsAttemptOf(snapshot, s.stored.sandbox) {
		s.thaw(snapshot)
	}
	delete(s.stored.snapshots, name)
	s.note("snapshot: %s is gone", name)
}

func (s *storm) thaw(snapshot *v1alpha1.SandboxSnapshot) {
	if s.stored.pod != nil && s.stored.pod.UID == snapshot.Status.SourcePodUID && !s.killed {
		s.frozen = false
	}
}

func (s *storm) sweep() { s.askRegistry(s.stored.sandbox.Status.SnapshotName) }

// What people do.

func (s *storm) verb(what string, do func(*lifecycle.Sandbox) (*lifecycle.Sandbox, *registry.Refusal)) bool {
	before := &lifecycle.Sandbox{}
	s.convert(s.stored.sandbox, before)
	after, refusal := do(before)
	if refusal != nil {
		s.note("%s: refused: %s", what, refusal.Cause.Message)
		return false
	}
	next := &v1alpha1.Sandbox{}
	s.convert(after, next)
	s.store(next)
	s.asked = true
	s.note("%s: %s", what, summary(&next.Status))
	return true
}

func (s *storm) pause() {
	s.verb("pause", func(b *lifecycle.Sandbox) (*lifecycle.Sandbox, *registry.Refusal) { return registry.Pause(b, s.now) })
}

func (s *storm) resume() { s.resumeFrom(&lifecycle.SandboxResume{}) }

func (s *storm) resumeElsewhere() {
	request := &lifecycle.SandboxResume{FromTemplate: true}
	for name, snapshot := range s.stored.snapshots {
		if snapshot.Status.SandboxUID == s.stored.sandbox.UID && finished(snapshot) && s.chance(2) {
			request = &lifecycle.SandboxResume{SnapshotName: name}
			break
		}
	}
	s.resumeFrom(request)
}

func (s *storm) resumeFrom(request *lifecycle.SandboxResume) {
	var snapshot *lifecycle.SandboxSnapshot
	if found := s.stored.snapshots[request.SnapshotName]; found != nil {
		snapshot = &lifecycle.SandboxSnapshot{}
		s.convert(found, snapshot)
	}
	chooses := request.FromTemplate || request.SnapshotName != ""
	took := s.verb(fmt.Sprintf("resume %+v", *request), func(b *lifecycle.Sandbox) (*lifecycle.Sandbox, *registry.Refusal) {
		return registry.Resume(b, request, snapshot, s.now)
	})
	s.gaveUp = s.gaveUp || took && chooses
	if took {
		s.resumed = s.now
	}
}

// renew sets another lifetime, which moves nothing else: the generation stays.
func (s *storm) renew() {
	edited := s.stored.sandbox.DeepCopy()
	edited.Spec.ExpireTime, edited.Spec.ExpireAction = v1alpha1.ExpireAt(s.now.Add(time.Duration(1+s.rand.IntN(90))*time.Second)), v1alpha1.ExpireActionPause
	before, after := &lifecycle.Sandbox{}, &lifecycle.Sandbox{}
	s.convert(s.stored.sandbox, before)
	s.convert(edited, after)
	if errs := validation.ValidateSandboxUpdate(after, before, s.now); len(errs) > 0 {
		s.fail("a renewal is refused: %v", errs)
	}
	s.store(edited)
	s.note("renewed for %s", edited.Spec.ExpireTime.Sub(s.now))
}

// expire is the controller of lifetimes: it decides on what the informers show, and what it does holds for that alone.
func (s *storm) expire() {
	if deed, _ := expiry.Decide(s.shown.sandbox, s.now); deed != expiry.Pause {
		return
	}
	if s.shown.sandbox.ResourceVersion != s.stored.sandbox.ResourceVersion {
		s.note("it has expired, as it was before")
		return
	}
	expire := s.stored.sandbox.Spec.ExpireTime
	if !s.resumed.Before(expire.Time) {
		s.fail("is paused for %s, and somebody wants it to run since %s", expire, s.resumed)
	}
	s.note("it has expired %s ago", s.now.Sub(expire.Time))
	s.pause()
}

func (s *storm) update() {
	s.editSpec("desiredState", func(spec *v1alpha1.SandboxSpec) {
		spec.DesiredState = []v1alpha1.SandboxDesiredState{v1alpha1.DesiredStateRunning, v1alpha1.DesiredStatePaused}[s.rand.IntN(2)]
	})
}

var fates = []string{"good", "good", "good", "typo", "huge", "stuck", "command", "full"}

func (s *storm) edit() { s.setFate(fates[s.rand.IntN(len(fates))]) }

func (s *storm) setFate(fate string) {
	s.editSpec("template: "+fate, func(spec *v1alpha1.SandboxSpec) {
		spec.Template.Labels = map[string]string{"fate": fate}
		spec.Template.Spec.Containers[0].Image = fate
	})
}

// fate is that of the first template.
func (s *storm) fate() {
	fate := fates[s.rand.IntN(len(fates))]
	s.stored.sandbox.Spec.Template.Labels = map[string]string{"fate": fate}
	s.stored.sandbox.Spec.Template.Spec.Containers[0].Image = fate
}

var exits = []v1alpha1.SandboxExitPolicy{"", v1alpha1.ExitPolicyRescue, v1alpha1.ExitPolicyRestore, v1alpha1.ExitPolicyRestore, v1alpha1.ExitPolicyNone}

func (s *storm) editSource() { restoreFrom(s, []string{"base", "typo", ""}[s.rand.IntN(3)]) }

func restoreFrom(s *storm, name string) {
	s.editSpec("restoreFrom "+name, func(spec *v1alpha1.SandboxSpec) {
		spec.RestoreFrom = nil
		if name != "" {
			spec.RestoreFrom = &v1alpha1.SandboxRestoreSource{SnapshotName: name}
		}
	})
}

// editSpec is an update, where the API takes it.
func (s *storm) editSpec(what string, change func(*v1alpha1.SandboxSpec)) {
	edited := s.stored.sandbox.DeepCopy()
	change(&edited.Spec)
	before, after := &lifecycle.Sandbox{}, &lifecycle.Sandbox{}
	s.convert(s.stored.sandbox, before)
	s.convert(edited, after)
	if errs := validation.ValidateSandboxUpdate(after, before, s.now); len(errs) > 0 {
		s.note("edit %s: %.100s", what, errs.ToAggregate())
		return
	}
	edited.Generation++
	s.store(edited)
	s.asked = true
	s.note("edit %s", what)
}

// makeBase is another sandbox's snapshot, which may have failed.
func (s *storm) makeBase() {
	if s.stored.snapshots["base"] != nil {
		return
	}
	phase := v1alpha1.SnapshotSucceed
	if s.chance(3) {
		phase = v1alpha1.SnapshotFailed
	}
	base := snapshotIn(phase, func(b *v1alpha1.SandboxSnapshot) {
		b.Name, b.UID, b.ResourceVersion = "base", s.uid("snapshot"), s.version()
		b.Spec = v1alpha1.SandboxSnapshotSpec{SandboxName: "other"}
		b.Status.SandboxUID, b.OwnerReferences = "other-uid", nil
		ofContainer("main", "r/b:t", "sha256:"+strings.Repeat("b", 64))(b)
	})
	s.stored.snapshots["base"] = base
	s.note("base is %s", phase)
}

func (s *storm) deletePod() {
	if s.stored.pod != nil && s.chance(3) {
		s.note("somebody deletes the Pod")
		s.terminate(nil)
	}
}

func (s *storm) losePod() {
	if s.stored.pod != nil && s.chance(6) {
		s.note("the node is lost")
		s.removePod()
	}
}

func (s *storm) evict() {
	if s.stored.pod != nil && s.runs && !s.killed && s.chance(4) {
		s.frozen = false
		s.changePod(func(p *corev1.Pod) { s.mainStatus(p); evictedPod(p) })
		s.note("evicted")
	}
}

// move is somebody who has heard that the Pod is to go.
func (s *storm) move() {
	pod := s.stored.pod
	if pod == nil {
		return
	}
	request := move.Request{PodUID: pod.UID, NodeName: "node-1", Reason: []string{v1alpha1.ReasonEvicted, v1alpha1.ReasonNodeDraining, v1alpha1.ReasonContainerEnded}[s.rand.IntN(3)]}
	answer := move.Decide(s.stored.sandbox, request)
	s.note("move for %s: %s", request.Reason, answer)
	if record, is := move.Next(s.stored.sandbox, request, s.now); is && answer == move.Moves {
		next := s.stored.sandbox.DeepCopy()
		next.Status.Move = record
		s.store(next)
	}
}

func (s *storm) editPolicy() {
	s.editSpec("policies", func(spec *v1alpha1.SandboxSpec) {
		spec.EvictionPolicy = []v1alpha1.SandboxEvictionPolicy{v1alpha1.EvictionPolicySave, v1alpha1.EvictionPolicySave, v1alpha1.EvictionPolicyNone}[s.rand.IntN(3)]
		spec.OnExit = []v1alpha1.SandboxExitPolicy{"", v1alpha1.ExitPolicyRestore, v1alpha1.ExitPolicyNone}[s.rand.IntN(3)]
	})
}

func (s *storm) restart() {
	if s.stored.pod == nil || s.stored.pod.Status.Phase != corev1.PodRunning || !s.runs || s.frozen || s.killed {
		return
	}
	s.losses++
	s.dead, s.deadFiles = bareID(s.mainStatus(s.stored.pod.DeepCopy()).ContainerID), s.files
	s.owed, s.files = max(s.owed, s.files), s.base
	s.changePod(restartedPod)
	s.note("restarted in place")
	if attempt := s.attempt(); attempt != nil && attempt.Status.Phase == v1alpha1.SnapshotCommitting {
		s.endCommit(attempt.Name, v1alpha1.ReasonContainerRestarted)
	}
}

func (s *storm) adopt() {
	if s.stored.pod != nil && adopter(s.stored.pod) == "" && s.chance(4) {
		s.changePod(takenBy("ReplicaSet", "web")) // it had lost its owner
		s.note("adopted")
	}
}

func (s *storm) deleteSnapshot() {
	for name, snapshot := range s.stored.snapshots {
		if snapshot.DeletionTimestamp == nil && s.chance(3) {
			s.changeSnapshot(name, func(a *v1alpha1.SandboxSnapshot) { a.DeletionTimestamp = &metav1.Time{Time: s.now} })
			s.note("somebody deletes %s", name)
			return
		}
	}
}

// What is stored.

func (s *storm) attempt() *v1alpha1.SandboxSnapshot {
	for _, snapshot := range s.stored.snapshots {
		if sandboxsnapshot.IsAttemptOf(snapshot, s.stored.sandbox) {
			return snapshot
		}
	}
	return nil
}

func (s *storm) store(sandbox *v1alpha1.Sandbox) {
	sandbox.ResourceVersion = s.version()
	s.stored.sandbox = sandbox.DeepCopy()
}

func (s *storm) changePod(change func(*corev1.Pod)) {
	s.stored.pod = s.stored.pod.DeepCopy()
	change(s.stored.pod)
	s.stored.pod.ResourceVersion = s.version()
	s.sees()
}

// sees is the watch of the process, where there is one.
func (s *storm) sees() {
	if !s.crashed {
		s.r.ran.see(s.stored.pod)
		s.known = s.known || s.runs && len(s.stored.pod.Status.ContainerStatuses) > 0
	}
}

func (s *storm) changeSnapshot(name string, change func(*v1alpha1.SandboxSnapshot)) {
	changed := s.stored.snapshots[name].DeepCopy()
	change(changed)
	changed.ResourceVersion = s.version()
	s.stored.snapshots[name] = changed
}

func (s *storm) terminate(grace *int64) {
	seconds := int64(30)
	if grace != nil {
		seconds = *grace
	}
	if before := s.stored.pod.DeletionGracePeriodSeconds; before != nil {
		seconds = min(seconds, *before)
	}
	s.changePod(func(p *corev1.Pod) {
		p.DeletionTimestamp, p.DeletionGracePeriodSeconds = &metav1.Time{Time: s.now}, &seconds
	})
}

func (s *storm) reason(kind string) string {
	if condition := meta.FindStatusCondition(s.stored.sandbox.Status.Conditions, kind); condition != nil {
		return condition.Reason
	}
	return ""
}

func (s *storm) convert(in, out any) {
	if err := legacy.Convert(in, out, nil); err != nil {
		s.t.Fatal(err)
	}
}

// chance is true once in n times, and never when the storm is over.
func (s *storm) chance(n int) bool { return !s.calm && s.rand.IntN(n) == 0 }

func (s *storm) uid(kind string) types.UID {
	s.count++
	return types.UID(fmt.Sprintf("%s-%d", kind, s.count))
}

func (s *storm) version() string {
	s.count++
	return fmt.Sprint(s.count)
}

// state is everything that moves.
func (s *storm) state() string {
	line := summary(&s.stored.sandbox.Status)
	if pod := s.stored.pod; pod != nil {
		line += fmt.Sprintf(" | Pod %s %s runs=%t frozen=%t terminating=%t", pod.UID, pod.Status.Phase, s.runs, s.frozen, pod.DeletionTimestamp != nil)
	}
	for attempt := range s.stored.sandbox.Status.SnapshotAttempts {
		if snapshot := s.stored.snapshots[fmt.Sprintf("demo-gen%d", attempt+1)]; snapshot != nil {
			line += fmt.Sprintf(" | %s %s deleted=%t", snapshot.Name, snapshot.Status.Phase, snapshot.DeletionTimestamp != nil)
		}
	}
	return line
}

func (s *storm) note(format string, args ...any) {
	s.past = append(s.past, fmt.Sprintf(format, args...))
}

func (s *storm) fail(format string, args ...any) {
	s.t.Helper()
	if !s.t.Failed() {
		s.t.Errorf("seed %d: %s\nwanted: %s from %v\nstate:  %s\npast:\n  %s", s.seed, fmt.Sprintf(format, args...), s.stored.sandbox.Spec.DesiredState,
			s.stored.sandbox.Spec.RestoreFrom, s.state(), strings.Join(s.past[max(0, len(s.past)-60):], "\n  "))
	}
}
