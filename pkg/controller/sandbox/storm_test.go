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
	"github.com/opensandbox-io/sandbox-apiserver/pkg/controller/sandboxsnapshot"
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
